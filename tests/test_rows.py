"""Which networks may be given a batch in parts."""

import numpy as np
import pytest

from bnexport import runner
from bnexport.program import InMemory, Layer, Literal, Port, Program
from bnexport.runner import Model

X = np.random.default_rng(5).normal(size=(40, 6)).astype(np.float32)


def integers(*values):
    return Literal(list(values), "int32")


def softmax(x):
    powers = np.exp(x - x.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


MIXING = {
    "softmax over the batch": (
        [Layer("max", "Max", ["x", integers(1)]), Layer("y", "Softmax", ["max"])],
        lambda x: softmax(x.max(1)),
    ),
    "softmax over the batch as an activation": (
        [
            Layer("max", "Max", ["x", integers(-1)]),
            Layer("y", "ScaleShift", ["max"], {}, {"scale": InMemory(np.float32(2)), "shift": InMemory(np.float32(1))}, "Softmax"),
        ],
        lambda x: softmax(2 * x.max(1)),
    ),
    "an axis from the end": (
        [Layer("tanh", "Tanh", ["x"]), Layer("y", "ConcatV2", ["x", "tanh", Literal(-2, "int32")])],
        lambda x: np.concatenate([x, np.tanh(x)]),
    ),
    "every row with every other": (
        [
            Layer("a", "Reshape", ["x", integers(1, -1, 6)]),
            Layer("b", "Reshape", ["x", integers(-1, 1, 6)]),
            Layer("difference", "Sub", ["a", "b"]),
            Layer("square", "Square", ["difference"]),
            Layer("y", "Sum", ["square", integers(2)]),
        ],
        lambda x: np.square(x[None] - x[:, None]).sum(2),
    ),
    "a column and a vector": (
        [
            Layer("max", "Max", ["x", integers(1)]),
            Layer("column", "Reshape", ["max", integers(-1, 1)]),
            Layer("y", "Sub", ["column", "max"]),
        ],
        lambda x: x.max(1)[:, None] - x.max(1),
    ),
    "rows that are regrouped": (
        [Layer("a", "Reshape", ["x", integers(6, -1)]), Layer("b", "Softmax", ["a"]), Layer("y", "Reshape", ["b", integers(-1, 6)])],
        lambda x: softmax(x.reshape(6, -1)).reshape(-1, 6),
    ),
    "a table of rows of the batch": (
        [
            Layer("max", "Max", ["x", integers(1)]),
            Layer("sign", "Greater", ["max", Literal(1.0, "float32")]),
            Layer("index", "Cast", ["sign"], {"SrcT": "bool", "DstT": "int32"}),
            Layer("y", "GatherV2", ["x", "index", Literal(0, "int32")]),
        ],
        lambda x: x[(x.max(1) > 1).astype(int)],
    ),
    "categories in front of the batch": (
        [
            Layer("index", "ArgMax", ["x", Literal(1, "int32")], {"output_type": "int64"}),
            Layer("y", "OneHot", ["index", Literal(6, "int32"), Literal(1.0, "float32"), Literal(0.0, "float32")], {"axis": 0}),
        ],
        lambda x: np.eye(6)[:, x.argmax(1)],
    ),
}
CODES = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], np.float32)
ALONE = {
    "lookups in tables": (
        [
            Layer("sign", "Greater", ["x", Literal(0.0, "float32")]),
            Layer("number", "Cast", ["sign"], {"SrcT": "bool", "DstT": "int32"}),
            Layer("text", "AsString", ["number"]),
            Layer(
                "index",
                "Lookup",
                ["text", "@keys", "@values", Literal(1, "int32")],
                arrays={"keys": InMemory(np.array([b"1"])), "values": InMemory(np.array([2], np.int32))},
            ),
            Layer("code", "GatherV2", ["@codes", "index", Literal(0, "int32")], arrays={"codes": InMemory(CODES)}),
            Layer("one", "OneHot", ["index", Literal(3, "int32"), Literal(1.0, "float32"), Literal(0.0, "float32")]),
            Layer("both", "ConcatV2", ["code", "one", Literal(2, "int32")]),
            Layer("y", "Sum", ["both", integers(1)]),
        ],
        lambda x: np.concatenate([CODES[1 + (x > 0)], np.eye(3)[1 + (x > 0)]], 2).sum(1),
    ),
    "axes from the end": (
        [
            Layer("tanh", "Tanh", ["x"]),
            Layer("both", "ConcatV2", ["x", "tanh", Literal(-1, "int32")]),
            Layer("mean", "Mean", ["both", integers(-1)], {"keep_dims": True}),
            Layer("y", "Sub", ["both", "mean"]),
        ],
        lambda x: np.hstack([x, np.tanh(x)]) - np.hstack([x, np.tanh(x)]).mean(1, keepdims=True),
    ),
    "several rows for each": (
        [Layer("a", "Reshape", ["x", integers(-1, 2)]), Layer("b", "Softmax", ["a"]), Layer("y", "Reshape", ["b", integers(-1)])],
        lambda x: softmax(x.reshape(-1, 2)).reshape(-1),
    ),
}


@pytest.mark.parametrize("name", [*MIXING, *ALONE])
def test_parts_are_only_taken_where_they_change_nothing(monkeypatch, name):
    layers, expected = {**MIXING, **ALONE}[name]
    want = expected(X)
    ports = [Port("x", "x", (None, 6), "float32")], [Port("y", "y", (None,) * want.ndim, "float32")]
    model = Model(Program(ports[0], layers, ports[1]))
    assert model.row_by_row == (name in ALONE)
    monkeypatch.setattr(runner, "TILE_BYTES", 1 << 6)
    monkeypatch.setattr(runner, "MIN_TILE_ROWS", 4)
    np.testing.assert_allclose(model.predict(X), want, atol=1e-6)
