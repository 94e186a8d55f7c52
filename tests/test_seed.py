"""The numbers that began it: a batch norm computed by hand gave 0.543057 where TensorFlow gave 0.30664611."""

import math

import numpy as np
import pytest
from checkpoint_forge import write_bundle

from bnexport.conversion import convert
from bnexport.options import Options
from bnexport.runner import load

X, MEAN, VARIANCE, BETA, GAMMA, EPSILON = -0.077417567, -0.089603029, 0.000436493, -0.016652612, 1.0055743, 1e-3
RIGHT, WRONG, TENSORFLOW = 0.30664642, 0.543057, 0.30664611
DOUBLE, SINGLE = 2, 1


def test_the_formula():
    """Epsilon belongs under the root (Ioffe and Szegedy 2015, algorithm 1); beside it comes what the question showed."""
    assert pytest.approx(RIGHT, abs=5e-9) == GAMMA * (X - MEAN) / math.sqrt(VARIANCE + EPSILON) + BETA
    assert pytest.approx(WRONG, abs=5e-7) == GAMMA * (X - MEAN) / (math.sqrt(VARIANCE) + EPSILON) + BETA


def stored(folder, dtype, number):
    """A checkpoint in the spelling of the question: one unit, whose kernel is 1."""
    values = {
        "W": [[1.0]],
        "bn/beta": [BETA],
        "bn/gamma": [GAMMA],
        "bn/bn/moments/Squeeze/ExponentialMovingAverage": [MEAN],
        "bn/bn/moments/Squeeze_1/ExponentialMovingAverage": [VARIANCE],
    }
    write_bundle(folder / "model.ckpt", {name: (number, np.array(value, dtype)) for name, value in values.items()})
    return folder / "model.ckpt"


@pytest.mark.parametrize(("dtype", "number", "tolerance"), [(np.float64, DOUBLE, 5e-9), (np.float32, SINGLE, 1e-6)])
@pytest.mark.parametrize("suffix", [".npz", ".h5"])
def test_folded_from_the_names(tmp_path, dtype, number, tolerance, suffix):
    out = tmp_path / f"out{suffix}"
    program = convert(stored(tmp_path, dtype, number), out, Options(activation="none", epsilon=EPSILON))
    (layer,) = program.layers
    assert layer.op == "Dense"
    value = load(out).predict(np.array([[X]], dtype)).item()
    assert value == pytest.approx(RIGHT, abs=tolerance)
    assert abs(value - WRONG) > 0.2


@pytest.mark.tensorflow
@pytest.mark.parametrize(("dtype", "want", "tolerance"), [("float64", RIGHT, 5e-9), ("float32", TENSORFLOW, 5e-7)])
def test_folded_from_the_graph(tf, live, dtype, want, tolerance):
    from live_graph import Net

    def build():
        x = tf.placeholder(dtype, [None, 1], name="x")
        h = tf.matmul(x, tf.get_variable("W", [1, 1], dtype))
        names = ("bn/bn/moments/Squeeze/ExponentialMovingAverage", "bn/bn/moments/Squeeze_1/ExponentialMovingAverage", "bn/beta", "bn/gamma")
        mean, variance, beta, gamma = (tf.get_variable(name, [1], dtype) for name in names)
        y = tf.nn.batch_normalization(h, mean, variance, beta, gamma, EPSILON, name="y")
        return Net({x: np.array([[X]], dtype)}, [y])

    values = {
        "W": [[1.0]],
        "bn/bn/moments/Squeeze/ExponentialMovingAverage": [MEAN],
        "bn/bn/moments/Squeeze_1/ExponentialMovingAverage": [VARIANCE],
        "bn/beta": [BETA],
        "bn/gamma": [GAMMA],
    }
    saved = live(build, {name: np.array(value, dtype) for name, value in values.items()})
    (expected,) = saved.expected.values()
    assert expected.item() == pytest.approx(want, abs=tolerance)
    program = saved.matches(tolerance=tolerance)
    (layer,) = program.layers
    assert layer.op == "Dense"
    roles = {role: name for part in layer.provenance["parts"] for role, name in part.items()}
    assert {role: roles[role] for role in ("mean", "variance", "gamma", "epsilon")} == {
        "mean": "bn/bn/moments/Squeeze/ExponentialMovingAverage",
        "variance": "bn/bn/moments/Squeeze_1/ExponentialMovingAverage",
        "gamma": "bn/gamma",
        "epsilon": EPSILON,
    }
