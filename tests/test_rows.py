"""Which networks may be given a batch in parts."""

import math

import numpy as np
import pytest

from bnexport import runner
from bnexport.program import InMemory, Layer, Literal, Port, Program
from bnexport.rows import rows_alone
from bnexport.runner import Model

X = np.random.default_rng(5).normal(size=(42, 6)).astype(np.float32)
WEIGHTS = np.random.default_rng(7).normal(size=(6, 1)).astype(np.float32)
SCORE = Layer("h", "Dense", ["x"], arrays={"kernel": InMemory(WEIGHTS)})


def integers(*values):
    return Literal(list(values), "int32")


def sliced(source, name="y", begin=(0, 0), end=(0, 0), strides=(1, 1), **masks):
    """As TensorFlow writes x[…], of so many dimensions as `strides` has."""
    count = len(strides)
    ends = [integers(*begin[:count]), integers(*[*end, 0][:count]), integers(*strides)]
    return Layer(name, "StridedSlice", [source, *ends], masks)


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
    "a softmax of all rows' scores": (
        [
            SCORE,
            Layer("flat", "Reshape", ["h", integers(-1)]),
            Layer("soft", "Softmax", ["flat"]),
            Layer("y", "Reshape", ["soft", integers(-1, 1)]),
        ],
        lambda x: softmax((x @ WEIGHTS).T).T,
    ),
    "a column minus a row": (
        [
            SCORE,
            Layer("flat", "Reshape", ["h", integers(-1)]),
            Layer("each", "Sub", ["h", "flat"]),
            Layer("far", "Abs", ["each"]),
            Layer("y", "Mean", ["far", integers(1)], {"keep_dims": True}),
        ],
        lambda x: np.abs(x @ WEIGHTS - (x @ WEIGHTS).T).mean(1, keepdims=True),
    ),
    "rows that are one image": (
        [
            SCORE,
            Layer("image", "Reshape", ["h", integers(1, -1, 1, 1)]),
            Layer("pool", "MaxPool", ["image"], {"ksize": [1, 5, 1, 1], "strides": [1, 1, 1, 1], "padding": "SAME"}),
            Layer("y", "Reshape", ["pool", integers(-1, 1)]),
        ],
        lambda x: np.stack([(x @ WEIGHTS)[max(0, i - 2) : i + 3].max(0) for i in range(len(x))]),
    ),
    "three rows that are one": (
        [Layer("clips", "Reshape", ["x", integers(-1, 3, 6)]), Layer("y", "Max", ["clips", integers(1)])],
        lambda x: x[: len(x) // 3 * 3].reshape(-1, 3, 6).max(1),
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
CUBES = Layer("cubes", "Reshape", ["x", integers(-1, 2, 3)])
MIXING |= {
    "an axis in front of the rows": (
        [CUBES, Layer("y", "Transpose", ["cubes", integers(1, 0, 2)])],
        lambda x: x.reshape(-1, 2, 3).transpose(1, 0, 2),
    ),
    "all but the first rows": ([sliced("x", begin=(1, 0), end_mask=3)], lambda x: x[1:]),
    "every other row": ([sliced("x", strides=(2, 1), begin_mask=3, end_mask=3)], lambda x: x[::2]),
    "one row": (
        [
            sliced("x", "first", end=(1, 0), begin_mask=2, end_mask=2, shrink_axis_mask=1),
            Layer("y", "Sub", ["x", "first"]),
        ],
        lambda x: x - x[0],
    ),
    "a new axis in front": ([sliced("x", strides=(1,), new_axis_mask=1)], lambda x: x[None]),
    "dots that stand for nothing": ([sliced("x", strides=(1, 1, 2), begin=(0, 1, 0), ellipsis_mask=1, end_mask=6)], lambda x: x[..., 1:, ::2]),
    "rows cut off": ([Layer("y", "Slice", ["x", integers(1, 0), integers(-1, 2)])], lambda x: x[1:, :2]),
    "rows put around": ([Layer("y", "Pad", ["x", Literal([[1, 0], [0, 2]], "int32")])], lambda x: np.pad(x, [(1, 0), (0, 2)])),
    "rows that are repeated": ([Layer("y", "Tile", ["x", integers(2, 1)])], lambda x: np.tile(x, (2, 1))),
    "sums over the rows so far": ([Layer("y", "Cumsum", ["x", Literal(0, "int32")])], lambda x: x.cumsum(0)),
    "the rows backwards": ([Layer("y", "ReverseV2", ["x", integers(0)])], lambda x: x[::-1]),
    "the largest numbers of the batch": (
        [Layer("max", "Max", ["x", integers(1)]), Layer("y", "TopKV2", ["max", Literal(3, "int32")], outputs=2)],
        lambda x: np.sort(x.max(1))[:-4:-1],
    ),
    "where the batch is largest": ([Layer("y", "ArgMax", ["x", Literal(0, "int32")])], lambda x: x.argmax(0)),
    "stacked in front": ([Layer("tanh", "Tanh", ["x"]), Layer("y", "Pack", ["x", "tanh"], {"axis": 0})], lambda x: np.stack([x, np.tanh(x)])),
    "half of the rows": (
        [Layer("parts", "Split", [Literal(0, "int32"), "x"], {"num_split": 2}, outputs=2), Layer("y", "Identity", ["parts:1"])],
        lambda x: x[21:],
    ),
    "rows against rows": (
        [Layer("turned", "Transpose", ["x", integers(1, 0)]), Layer("y", "MatMul", ["x", "turned"])],
        lambda x: x @ x.T,
    ),
    "rows against rows, transposed by the product": ([Layer("y", "MatMul", ["x", "x"], {"transpose_a": True})], lambda x: x.T @ x),
    "the rows as a matrix": ([Layer("y", "BatchMatMulV2", ["x", "x"], {"adj_y": True})], lambda x: x @ x.T),
    "rows against rows by letters": ([Layer("y", "Einsum", ["x", "x"], {"equation": "ac,bc->ab"})], lambda x: x @ x.T),
    "the rows' letter not in front": ([Layer("y", "Einsum", ["x"], {"equation": "ab->ba"})], lambda x: x.T),
    "the same rows for all": ([Layer("y", "GatherV2", ["x", integers(3, 1), Literal(0, "int32")])], lambda x: x[[3, 1]]),
    "an axis put in front": ([Layer("y", "ExpandDims", ["x", Literal(-3, "int32")])], lambda x: x[None]),
}
MATRIX = np.random.default_rng(6).normal(size=(3, 4)).astype(np.float32)
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
    "axes behind the rows": (
        [
            CUBES,
            Layer("turned", "Transpose", ["cubes", integers(0, 2, 1)]),
            Layer("padded", "Pad", ["turned", Literal([[0, 0], [1, 0], [0, 2]], "int32")]),
            Layer("tiled", "Tile", ["padded", integers(1, 2, 1)]),
            Layer("sums", "Cumsum", ["tiled", Literal(1, "int32")]),
            Layer("back", "ReverseV2", ["sums", integers(-1)]),
            Layer("cut", "Slice", ["back", integers(0, 1, 0), integers(-1, 5, 3)]),
            sliced("cut", "part", strides=(1, 1, 2), begin=(0, 1, 0), begin_mask=1, end_mask=7),
            Layer("y", "ExpandDims", ["part", Literal(1, "int32")]),
        ],
        lambda x: np.tile(np.pad(x.reshape(-1, 2, 3).transpose(0, 2, 1), [(0, 0), (1, 0), (0, 2)]), (1, 2, 1)).cumsum(1)[:, :, ::-1][
            :, None, 1:6, :3
        ][:, :, 1:, ::2],
    ),
    "dots and new axes behind the rows": (
        [sliced("x", strides=(1, 1, 1), begin=(0, 0, 2), ellipsis_mask=1, new_axis_mask=2, shrink_axis_mask=4)],
        lambda x: x[..., None, 2],
    ),
    "parts of rows": (
        [
            Layer("parts", "Split", [Literal(1, "int32"), "x"], {"num_split": 3}, outputs=3),
            Layer("stacked", "Pack", ["parts:2", "parts"], {"axis": 1}),
            Layer("lists", "Unpack", ["stacked"], {"axis": -1, "num": 2}, outputs=2),
            Layer("best", "TopKV2", ["lists:1", Literal(1, "int32")], outputs=2),
            Layer("index", "Cast", ["best:1"], {"SrcT": "int32", "DstT": "float32"}),
            Layer("y", "Add", ["best", "index"]),
        ],
        lambda x: x[:, [5, 1]].max(1, keepdims=True) + x[:, [5, 1]].argmax(1)[:, None],
    ),
    "products of each row": (
        [
            CUBES,
            Layer("square", "BatchMatMulV2", ["cubes", "cubes"], {"adj_x": True}),
            Layer("wide", "BatchMatMulV2", ["square", "@matrix"], arrays={"matrix": InMemory(MATRIX)}),
            Layer("y", "Einsum", ["wide", "cubes", "@matrix"], {"equation": "nac,nba,dc->nbd"}, {"matrix": InMemory(MATRIX)}),
        ],
        lambda x: np.stack([c @ (c.T @ c @ MATRIX) @ MATRIX.T for c in x.reshape(-1, 2, 3)]),
    ),
    "the same places of each row": (
        [
            Layer("places", "GatherV2", ["x", integers(4, 0), Literal(1, "int32")]),
            Layer("ones", "OnesLike", ["places"]),
            Layer("erf", "Erf", ["places"]),
            Layer("y", "AddN", ["ones", "places", "erf"]),
        ],
        lambda x: 1 + x[:, [4, 0]] + np.vectorize(math.erf)(x[:, [4, 0]]),
    ),
    "steps of sequences": (
        [
            CUBES,
            Layer("steps", "Reshape", ["cubes", integers(-1, 3)]),
            Layer("dense", "Dense", ["steps"], arrays={"kernel": InMemory(MATRIX)}),
            Layer("back", "Reshape", ["dense", integers(-1, 2, 4)]),
            Layer("y", "Sum", ["back", integers(1)]),
        ],
        lambda x: (x.reshape(-1, 2, 3) @ MATRIX).sum(1),
    ),
    "several rows for each": (
        [Layer("a", "Reshape", ["x", integers(-1, 2)]), Layer("b", "Softmax", ["a"]), Layer("y", "Reshape", ["b", integers(-1)])],
        lambda x: softmax(x.reshape(-1, 2)).reshape(-1),
    ),
}


def noted(inputs, layers, outputs, few, many):
    """The network, with what the converter would record of its rows; the shapes are those of `few` and `many` rows."""
    model = Model(Program(inputs, layers, outputs))
    small, large = (model.trace(feeds) for feeds in (few, many))
    shapes = {name: tuple(a if a == b else None for a, b in zip(small[name].shape, large[name].shape, strict=True)) for name in small}
    return Model(Program(inputs, layers, outputs, {"rows_alone": rows_alone(inputs, layers, outputs, shapes)}))


@pytest.mark.parametrize("name", [*MIXING, *ALONE])
def test_parts_are_only_taken_where_they_change_nothing(monkeypatch, name):
    layers, expected = {**MIXING, **ALONE}[name]
    want = expected(X)
    outputs = [Port("y", "y", (None,) * want.ndim, "int64" if want.dtype == np.int64 else "float32")]
    model = noted([Port("x", "x", (None, 6), "float32")], layers, outputs, X[:12], X[:18])
    assert model.row_by_row == (name in ALONE)
    monkeypatch.setattr(runner, "TILE_BYTES", 1 << 6)
    monkeypatch.setattr(runner, "MIN_TILE_ROWS", 4)
    np.testing.assert_allclose(model.predict(X), want, atol=1e-5)


def test_what_treats_rows_by_themselves():
    """Blocks with a shortcut, squeeze and excitation, a mask, and a second input that all rows share."""
    same = {"ksize": [1, 3, 3, 1], "strides": [1, 1, 1, 1], "padding": "SAME"}
    layers = [
        Layer("pool", "MaxPool", ["x"], same),
        Layer("squeezed", "Mean", ["pool", Literal([1, 2], "int32")]),
        Layer("excited", "Sigmoid", ["squeezed"]),
        Layer("gate", "Reshape", ["excited", Literal([-1, 1, 1, 2], "int32")]),
        Layer("gated", "Mul", ["pool", "gate"]),
        Layer("sum", "AddV2", ["gated", "x"]),
        Layer("scaled", "Mul", ["sum", "temperature"]),
        Layer("masked", "Mul", ["scaled", "@operand_1"], arrays={"operand_1": InMemory(np.ones((4, 4, 2), np.float32))}),
        Layer("both", "ConcatV2", ["masked", "x", Literal(3, "int32")]),
        Layer("flat", "Reshape", ["both", Literal([-1, 64], "int32")]),
        Layer("y", "Softmax", ["flat"]),
    ]
    inputs = [Port("x", "x", (None, 4, 4, 2), "float32"), Port("temperature", "temperature", (), "float32")]
    few, many = ({"x": np.ones((rows, 4, 4, 2), np.float32), "temperature": np.float32(2)} for rows in (2, 3))
    assert noted(inputs, layers, [Port("y", "y", (None, 64), "float32")], few, many).row_by_row


def test_a_reshape_of_images_of_any_size():
    """How many numbers an image has is not known, so that nothing can be shown."""
    layers = [Layer("y", "Reshape", ["x", integers(-1, 6)])]
    inputs, outputs = [Port("x", "x", (None, None, 6), "float32")], [Port("y", "y", (None, 6), "float32")]
    assert not rows_alone(inputs, layers, outputs, {"y": (None, 6)})
    assert rows_alone([Port("x", "x", (None, 2, 6), "float32")], layers, outputs, {"y": (None, 6)})


@pytest.mark.parametrize(("sizes", "alone"), [((4, 2, 3), True), ((8, 3), True), ((2, 12), False), ((-1, 6), True)])
def test_a_network_of_a_fixed_batch(sizes, alone):
    layers = [Layer("y", "Reshape", ["x", integers(*sizes)])]
    inputs, outputs = [Port("x", "x", (None, 6), "float32")], [Port("y", "y", (None, *sizes[1:]), "float32")]
    assert rows_alone(inputs, layers, outputs, {"y": sizes}, batch=4) == alone


@pytest.mark.parametrize(("op", "weights"), [("LSTMBlockCell", [(8, 8), (2,), (2,), (2,), (8,)]), ("GRUBlockCell", [(8, 4), (8, 2), (4,), (2,)])])
def test_fused_cells(monkeypatch, op, weights):
    """The states of each row go with the input of that row; what they are in one batch, they are in parts."""
    rng = np.random.default_rng(8)
    arrays = {f"w{i}": InMemory(rng.normal(size=shape).astype(np.float32)) for i, shape in enumerate(weights)}
    states = [f"state:{number}" if number else "state" for number in range(3)][: 2 if op == "LSTMBlockCell" else 1]
    layers = [
        Layer("state", "Split", [Literal(1, "int32"), "x"], {"num_split": 3}, outputs=3),
        Layer("cell", op, ["x", *states, *(f"@{name}" for name in arrays)], {}, arrays, outputs=7 if op == "LSTMBlockCell" else 4),
    ]
    last = f"cell:{layers[1].outputs - 1}"
    ports = [Port("x", "x", (None, 6), "float32")], [Port("y", last, (None, 2), "float32")]
    whole = Model(Program(ports[0], layers, ports[1])).predict(X)
    monkeypatch.setattr(runner, "TILE_BYTES", 1 << 6)
    monkeypatch.setattr(runner, "MIN_TILE_ROWS", 4)
    model = noted(ports[0], layers, ports[1], X[:2], X[:3])
    assert model.row_by_row
    np.testing.assert_allclose(model.predict(X), whole, atol=1e-6)
