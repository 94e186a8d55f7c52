"""Chains of small dense layers against the same layers computed one by one in float64."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bnexport import chain
from bnexport.conversion import convert
from bnexport.program import InMemory, Layer, Port, Program
from bnexport.runner import Model

ACTIVATIONS = {
    None: lambda z: z,
    "Relu": lambda z: np.maximum(z, 0),
    "Tanh": np.tanh,
    "Sigmoid": lambda z: 1 / (1 + np.exp(-z)),
    "Softmax": lambda z: np.exp(z - z.max(1, keepdims=True)) / np.exp(z - z.max(1, keepdims=True)).sum(1, keepdims=True),
    "LogSoftmax": lambda z: z - z.max(1, keepdims=True) - np.log(np.exp(z - z.max(1, keepdims=True)).sum(1, keepdims=True)),
}


def network(widths, activations, dtype, seed):
    """A model, and the function that it should be."""
    random = np.random.default_rng(seed)
    layers, steps, tensor = [], [], "x"
    for number, (taken, given_, activation) in enumerate(zip(widths[:-1], widths[1:], activations, strict=True)):
        kernel = random.normal(size=(taken, given_)).astype(dtype)
        bias = random.normal(size=given_).astype(dtype)
        layers.append(Layer(f"d{number}", "Dense", [tensor], {}, {"kernel": InMemory(kernel), "bias": InMemory(bias)}, activation))
        steps.append((kernel.astype(np.float64), bias.astype(np.float64), ACTIVATIONS[activation]))
        tensor = f"d{number}"

    def truth(x):
        for kernel, bias, function in steps:
            x = function(x @ kernel + bias)
        return x

    ports = [Port("x", "x", (None, widths[0]), dtype)], [Port("y", tensor, (None, widths[-1]), dtype)]
    return Model(Program(ports[0], layers, ports[1])), truth


@settings(derandomize=True, deadline=None, max_examples=60)
@given(
    st.lists(st.integers(1, 20), min_size=2, max_size=5),
    st.sampled_from([None, "Relu", "Tanh", "Sigmoid"]),
    st.sampled_from([None, "Relu", "Softmax", "LogSoftmax"]),
    st.sampled_from(["float32", "float64"]),
    st.integers(0, 300),
)
def test_a_chain_is_its_layers(widths, hidden, last, dtype, rows):
    model, truth = network(widths, [hidden] * (len(widths) - 2) + [last], dtype, len(widths))
    assert model._chain is not None
    x = np.random.default_rng(rows).normal(size=(rows, widths[0])).astype(dtype)
    scores = model.predict(x)
    assert scores.shape == (rows, widths[-1]) and scores.dtype == dtype and scores.flags.c_contiguous
    np.testing.assert_allclose(scores, truth(x.astype(np.float64)), rtol=0, atol=1e-4 if dtype == "float32" else 1e-12)


@pytest.mark.parametrize("last", ["Softmax", None])
@pytest.mark.parametrize("rows", [255, 256, 1023, 1024, 1025, 2048, 8191, 8192, 8193, 20_001])
def test_tiles_and_what_is_left_of_them(rows, last):
    model, truth = network([8, 16, 12, 3], ["Relu", "Relu", last], "float32", 1)
    x = np.random.default_rng(rows).normal(size=(rows, 8)).astype(np.float32)
    before = x.copy()
    first, second = model.predict(x), model.predict(x[::-1])
    np.testing.assert_allclose(first, truth(x.astype(np.float64)), rtol=0, atol=1e-4)
    np.testing.assert_allclose(second, first[::-1], rtol=0, atol=1e-4)
    assert not np.shares_memory(first, second)
    np.testing.assert_array_equal(x, before)


def test_softmax_of_huge_scores_is_finite():
    model, _ = network([2, 3], ["Softmax"], "float32", 0)
    for rows in (1, 40):
        scores = model.predict(np.full((rows, 2), 1e6, np.float32))
        assert np.isfinite(scores).all()
        np.testing.assert_allclose(scores.sum(1), 1, rtol=1e-6)


@pytest.mark.parametrize("scale", [0.0, 1.0, 25.0, 79.0, 81.0, 90.0, 110.0, 1e4])
@pytest.mark.parametrize("rows", [1, 30, 1100])
def test_softmax_of_scores_of_any_size(scale, rows):
    """Large scores and modest ones are computed in different ways: neither loses a digit, at the border between them either."""
    identity = {"kernel": InMemory(np.eye(3, dtype="f4")), "bias": InMemory(np.zeros(3, "f4"))}
    ports = [Port("x", "x", (None, 3), "float32")], [Port("y", "d", (None, 3), "float32")]
    model = Model(Program(ports[0], [Layer("d", "Dense", ["x"], {}, identity, "Softmax")], ports[1]))
    x = np.zeros((rows, 3), "f4")
    x[rows // 2] = scale * np.array([-1, 0.25, 1])
    truth = ACTIVATIONS["Softmax"](x.astype(np.float64))
    np.testing.assert_allclose(model.predict(x), truth, rtol=1e-6, atol=1e-38)


def test_a_score_that_is_not_a_number_stays_in_its_row():
    model, truth = network([2, 8, 3], ["Relu", "Softmax"], "float32", 3)
    x = np.random.default_rng(2).normal(size=(40, 2)).astype("f4")
    x[7] = np.nan
    scores = model.predict(x)
    np.testing.assert_allclose(scores, truth(x.astype(np.float64)), rtol=0, atol=1e-6)
    assert np.isnan(scores[7]).all() and np.isfinite(np.delete(scores, 7, axis=0)).all()


def test_large_layers_are_no_chain():
    assert network([100, 100, 3], ["Relu", None], "float32", 0)[0]._chain is None


MANY = 2 * chain.SHARED_GROUPS * chain.TILES * 1024 + 777
"""Rows that a second thread takes half of, and that fill no tile."""


@pytest.mark.parametrize("last", ["Softmax", "Tanh"])
def test_a_second_thread_gives_the_same_scores(monkeypatch, last):
    model, truth = network([6, 5, 3], ["Relu", last], "float32", 1)
    x = np.random.default_rng(0).standard_normal((MANY, 6), np.float32)
    scores = {}
    for count in (1, 2):
        monkeypatch.setattr(chain, "cores", lambda count=count: count)
        scores[count] = model.predict(x)
    np.testing.assert_array_equal(scores[2], scores[1])
    np.testing.assert_allclose(scores[2], truth(x.astype(np.float64)), rtol=0, atol=1e-4)
    assert any(thread.name.startswith("bnexport-rows") for thread in threading.enumerate())


FORKED = """
import os, signal, sys
import numpy as np
import bnexport, bnexport.chain

bnexport.chain.cores = lambda: 2
model = bnexport.load(sys.argv[1])
x = np.random.default_rng(0).random((int(sys.argv[2]), 64), np.float32)
before = model.predict(x)
child = os.fork()
signal.alarm(60)
same = np.array_equal(model.predict(x), before)
if child == 0:
    os._exit(0 if same else 1)
sys.exit(0 if same and os.waitpid(child, 0)[1] == 0 else 1)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes cannot be forked here")
def test_a_process_that_was_forked_has_a_second_thread_of_its_own(tmp_path):
    convert(Path(__file__).parents[1] / "fixtures" / "data" / "seed" / "model.ckpt", tmp_path / "out.npz")
    subprocess.run([sys.executable, "-W", "ignore", "-c", FORKED, tmp_path / "out.npz", str(MANY)], check=True, timeout=120)
