import numpy as np
import pytest
from kernel_oracle import assert_close, check, compares, from_tensorflow

from bnexport.errors import GraphError, InputError
from bnexport.kernels import OPS, Abstract, evaluate

ROWS, INPUTS, UNITS, STEPS = 3, 4, 5, 6


def numbers(*shape, seed=1, dtype="float32", size=1.0):
    return (size * np.random.default_rng(seed).normal(size=shape)).astype(dtype)


def lstm(seed=0, size=1.0, rows=ROWS):
    shapes = [(rows, UNITS), (rows, UNITS), (INPUTS + UNITS, 4 * UNITS), (UNITS,), (UNITS,), (UNITS,), (4 * UNITS,)]
    return [numbers(*shape, seed=seed + i, size=size) for i, shape in enumerate(shapes)]


LSTM_ATTRS = [{}, {"forget_bias": 0.3}, {"cell_clip": -1.0}, {"cell_clip": 0.2}, {"use_peephole": True}, {"use_peephole": True, "cell_clip": 0.5}]


@compares("LSTMBlockCell")
@pytest.mark.parametrize("attrs", LSTM_ATTRS)
@pytest.mark.parametrize("size", [1.0, 9.0])
def test_a_step_of_an_lstm(attrs, size):
    check("LSTMBlockCell", attrs, numbers(ROWS, INPUTS, seed=20, size=size), *lstm(size=size), unknown=range(8), tolerance=4e-6)


@compares("BlockLSTM", "BlockLSTMV2")
@pytest.mark.parametrize("name", ["BlockLSTM", "BlockLSTMV2"])
@pytest.mark.parametrize("attrs", LSTM_ATTRS)
@pytest.mark.parametrize("longest", [STEPS, 4, 0])
def test_sequences(name, attrs, longest):
    """TensorFlow leaves most results of steps that no sequence has to chance, but not the second and the last."""
    attrs = {key: value for key, value in attrs.items() if name == "BlockLSTM" or key != "forget_bias"}
    operands = [np.int64(longest), numbers(STEPS, ROWS, INPUTS, seed=20), *lstm()]
    truth = from_tensorflow(name, attrs, operands)
    results = check(name, attrs, *operands, expected=truth, unknown=range(9), outputs=0)
    for output in range(7):
        taken = slice(None) if output in (1, 6) else slice(longest)
        assert_close(results[output][taken], truth[output][taken], 1e-5)


def gru(rows):
    shapes = [(rows, UNITS), (INPUTS + UNITS, 2 * UNITS), (INPUTS + UNITS, UNITS), (2 * UNITS,), (UNITS,)]
    return [numbers(*shape, seed=i) for i, shape in enumerate(shapes)]


@compares("GRUBlockCell")
def test_a_step_of_a_gru():
    check("GRUBlockCell", {}, numbers(ROWS, INPUTS, seed=20), *gru(ROWS), unknown=range(6), tolerance=4e-6)


def test_what_does_not_fit_is_refused():
    wrong = [Abstract(o.shape, o.dtype) for o in (numbers(ROWS, INPUTS + 1), *lstm())]
    longest = Abstract((), np.dtype("int64"))
    for name, operands in (("LSTMBlockCell", wrong), ("BlockLSTM", [longest, Abstract((STEPS, *wrong[0].shape), wrong[0].dtype), *wrong[1:]])):
        with pytest.raises(GraphError, match="do not fit together"):
            OPS[name].infer({}, operands)
        with pytest.raises(GraphError, match="do not fit together"):
            OPS[name].infer({}, [*operands[: name == "BlockLSTM"], longest, *operands[1 + (name == "BlockLSTM") :]])
    with pytest.raises(GraphError, match="do not fit together"):
        OPS["GRUBlockCell"].infer({}, [Abstract(o.shape, o.dtype) for o in (numbers(ROWS, INPUTS + 1), *gru(ROWS))])
    with pytest.raises(InputError, match="the longest sequence has 7 steps, but the data have 6"):
        evaluate(OPS["BlockLSTM"], {}, [np.int64(7), numbers(STEPS, ROWS, INPUTS), *lstm()])
