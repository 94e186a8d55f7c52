"""The recurrent cells that TensorFlow computes in one operator: LSTMBlockCell, BlockLSTM and GRUBlockCell.

Operands and results are those of tf.raw_ops.LSTMBlockCell, BlockLSTM, BlockLSTMV2 and GRUBlockCell (tensorflow/core/kernels/rnn). A kernel multiplies
[x, h], the step's data with the result before it; the columns of an LSTM's are four gates.
"""

from collections.abc import Sequence

import numpy as np

from bnexport.errors import InputError
from bnexport.kernels.activation import sigmoid
from bnexport.kernels.linear import product
from bnexport.kernels.table import Abstract, Attrs, NDArray, op, shapes_differ


def _sigmoid(x: NDArray) -> NDArray:
    return np.asarray(sigmoid({}, x))


def _lstm_step(
    attrs: Attrs, order: str, x: NDArray, state: NDArray, h: NDArray, kernel: NDArray, peepholes: Sequence[NDArray], bias: NDArray
) -> tuple[NDArray, ...]:
    """One step of an LSTM (Sak et al. 2014, with peepholes): input gate, state, forget gate, output gate, new input, tanh of the state, and result.

    Args:
        order: the order of the gates in the kernel's columns, `i`nput, `c` for the new input, `f`orget and `o`utput.
    """
    real = x.dtype.type
    gates = dict(zip(order, np.split(product(np.concatenate([x, h], axis=1), kernel) + bias, 4, axis=1), strict=True))
    to_input, to_forget, to_output = peepholes if attrs.get("use_peephole", False) else (None, None, None)
    of_input = _sigmoid(gates["i"] if to_input is None else gates["i"] + state * to_input)
    new = np.tanh(gates["c"])
    forget = gates["f"] + real(attrs["forget_bias"])
    forget = _sigmoid(forget if to_forget is None else forget + state * to_forget)
    state = new * of_input + state * forget
    clip = attrs["cell_clip"]
    if clip > 0:
        state = np.clip(state, real(-clip), real(clip))
    of_output = _sigmoid(gates["o"] if to_output is None else gates["o"] + state * to_output)
    shown = np.tanh(state)
    return of_input, state, forget, of_output, new, shown, of_output * shown


def _lstm_fits(name: str, x: Abstract, rest: Sequence[Abstract]) -> tuple[int, int]:
    """The number of rows and of units.

    Raises:
        GraphError: the shapes do not fit together.
    """
    state, h, kernel, *peepholes, bias = (o.shape for o in rest)
    rows, width = x.shape[-2:] if len(x.shape) > 1 else (0, 0)
    units = state[-1] if state else 0
    fits = state == h == (rows, units) and kernel == (width + units, 4 * units) and bias == (4 * units,)
    if not fits or any(p != (units,) for p in peepholes):
        raise shapes_differ(name, x.shape, state, h, kernel, *peepholes, bias)
    return rows, units


def _lstm_cell_shape(attrs: Attrs, operands: Sequence[Abstract]) -> Sequence[Abstract]:
    if len(operands[0].shape) != 2:
        raise shapes_differ("LSTMBlockCell", operands[0].shape)
    return [Abstract(_lstm_fits("LSTMBlockCell", operands[0], operands[1:]), operands[0].dtype)] * 7


@op("LSTMBlockCell", infer=_lstm_cell_shape)
def lstm_block_cell(
    attrs: Attrs, x: NDArray, state: NDArray, h: NDArray, kernel: NDArray, wci: NDArray, wcf: NDArray, wco: NDArray, bias: NDArray
) -> tuple[NDArray, ...]:
    """One step of an LSTM for data x (N, inputs) and state and h (N, units): seven results (N, units), of which the second and last are the new ones.

    The gates are in the order i, c, f, o. The state is clipped where `cell_clip` is positive: it is 3 by default, and `forget_bias` is 1.
    """
    defaults = {"forget_bias": 1.0, "cell_clip": 3.0}
    return _lstm_step({**defaults, **attrs}, "icfo", x, state, h, kernel, (wci, wcf, wco), bias)


def _lstm_shape(attrs: Attrs, operands: Sequence[Abstract]) -> Sequence[Abstract]:
    x = operands[1]
    if len(x.shape) != 3 or operands[0].shape != ():
        raise shapes_differ("BlockLSTM", operands[0].shape, x.shape)
    return [Abstract((x.shape[0], *_lstm_fits("BlockLSTM", x, operands[2:])), x.dtype)] * 7


def _block_lstm(attrs: Attrs, order: str, longest: NDArray, x: NDArray, state: NDArray, h: NDArray, rest: Sequence[NDArray]) -> tuple[NDArray, ...]:
    """A step for each of the first `longest` slices of x. All results are zero after them. (TensorFlow leaves all but the state and h to chance.)

    Raises:
        InputError: x has not so many.
    """
    kernel, *peepholes, bias = rest
    steps = int(longest)
    if not 0 <= steps <= len(x):
        raise InputError(f"the longest sequence has {steps} steps, but the data have {len(x)}")
    results = tuple(np.zeros((len(x), *state.shape), x.dtype) for _ in range(7))
    for step in range(steps):
        made = _lstm_step(attrs, order, x[step], state, h, kernel, peepholes, bias)
        for result, value in zip(results, made, strict=True):
            result[step] = value
        state, h = made[1], made[6]
    return results


@op("BlockLSTM", infer=_lstm_shape)
def block_lstm(attrs: Attrs, longest: NDArray, x: NDArray, state: NDArray, h: NDArray, *rest: NDArray) -> tuple[NDArray, ...]:
    """LSTMBlockCell over the first dimension of x (steps, N, inputs): seven results (steps, N, units)."""
    return _block_lstm({"forget_bias": 1.0, "cell_clip": 3.0, **attrs}, "icfo", longest, x, state, h, rest)


@op("BlockLSTMV2", infer=_lstm_shape)
def block_lstm_v2(attrs: Attrs, longest: NDArray, x: NDArray, state: NDArray, h: NDArray, *rest: NDArray) -> tuple[NDArray, ...]:
    """BlockLSTM with the gates in the order i, f, c, o, no forget bias, and no clipping by default."""
    return _block_lstm({"cell_clip": 0.0, **attrs, "forget_bias": 0.0}, "ifco", longest, x, state, h, rest)


def _gru_shape(attrs: Attrs, operands: Sequence[Abstract]) -> Sequence[Abstract]:
    x, h, gates, kernel, gate_bias, bias = (o.shape for o in operands)
    units = h[-1] if h else 0
    wide = (x[-1] + units,) if len(x) == 2 else ()
    if x[:1] != h[:1] or len(h) != 2 or gates != (*wide, 2 * units) or kernel != (*wide, units) or gate_bias != (2 * units,) or bias != (units,):
        raise shapes_differ("GRUBlockCell", x, h, gates, kernel, gate_bias, bias)
    return [Abstract(h, operands[0].dtype)] * 4


@op("GRUBlockCell", infer=_gru_shape)
def gru_block_cell(
    attrs: Attrs, x: NDArray, h: NDArray, gates: NDArray, kernel: NDArray, gate_bias: NDArray, bias: NDArray
) -> tuple[NDArray, NDArray, NDArray, NDArray]:
    """One step of a GRU for data x (N, inputs) and h (N, units): reset gate, update gate, new input and result, each (N, units).

    With [r, u] the sigmoid of [x, h] @ gates + gate_bias and c the tanh of [x, r · h] @ kernel + bias, it is u · h + (1 - u) · c.
    """
    reset, update = np.split(_sigmoid(product(np.concatenate([x, h], axis=1), gates) + gate_bias), 2, axis=1)
    new = np.tanh(product(np.concatenate([x, h * reset], axis=1), kernel) + bias)
    return reset, update, new, update * h + (1 - update) * new
