"""Layers compiled to steps: each takes its operands from numbered slots and puts its result into one.

A step may write over its first operand where the runner says that nobody needs it any more.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from bnexport import text
from bnexport.kernels import OPS
from bnexport.kernels.spread import Row
from bnexport.kernels.table import NDArray, evaluate
from bnexport.program import LINEAR, Layer, Literal, materialize

Step = Callable[[list[Any]], None]
Activation = Callable[[NDArray], Any]
Operand = int | NDArray
"""A slot's number, or a constant."""

BLOCK_BYTES = 1 << 19
"""How much of a product gets its bias and activation at a time: it is still in the cache for the second of them."""


def compile_layer(layer: Layer, slots: dict[str, int], over: bool) -> Step:
    """The step of a layer.

    Args:
        slots: the slot of each tensor.
        over: whether the result may be written over the first operand.
    """
    out = slots[layer.name]
    operands = [_operand(layer, position, slots) for position in range(len(layer.inputs))]
    if layer.op == "Dense":
        return _dense(operands[0], out, layer)
    if layer.op == "ScaleShift":
        return _scale_shift(operands[0], out, layer, over)
    if layer.op in LINEAR:
        return _convolution(operands, out, layer)
    if layer.op == "Lookup":
        return _lookup(operands, out, layer)
    return _operator(operands, out, layer, over)


def makes_new_memory(layer: Layer) -> bool:
    """Whether a layer's result certainly shares no memory with its operands or with a constant."""
    return layer.op in LINEAR or layer.op == "ScaleShift" or not OPS[layer.op].view


def _operand(layer: Layer, position: int, slots: dict[str, int]) -> Operand:
    operand = layer.inputs[position]
    if isinstance(operand, Literal):
        return text.constant(operand.value, operand.dtype)
    if operand.startswith("@"):
        return text.in_memory(materialize(layer.arrays[operand[1:]]))
    return slots[operand]


def _value(operand: Operand, values: list[Any]) -> Any:
    return values[operand] if isinstance(operand, int) else operand


def _activation(layer: Layer) -> Activation | None:
    """Applies a layer's activation in place."""
    if layer.activation is None:
        return None
    operator, attrs = OPS[layer.activation], dict(layer.activation_attrs)
    if not operator.inplace:
        return lambda y: np.copyto(y, operator.compute(attrs, y))
    return lambda y: operator.compute(attrs, y, out=y)


def _blocks(x: NDArray, y: NDArray) -> Iterator[tuple[NDArray, NDArray]]:
    """Two arrays of one shape, or one and the same, in blocks of rows that the cache holds; in one where they are not contiguous."""
    if y.nbytes <= 2 * BLOCK_BYTES or y.ndim < 2 or not (x.flags.c_contiguous and y.flags.c_contiguous):
        yield x, y
        return
    columns = y.shape[-1]
    step = max(1, BLOCK_BYTES // (columns * y.itemsize))
    source, target = x.reshape(-1, columns), y.reshape(-1, columns)
    for start in range(0, len(target), step):
        yield source[start : start + step], target[start : start + step]


def _finish(layer: Layer, bias: NDArray | None) -> Activation | None:
    """Adds the bias and applies the activation, in place, block by block."""
    activation = _activation(layer)
    if bias is None:
        return activation
    by_row, add = bias.ndim == 1, _constant(bias)

    def finish(y: NDArray) -> None:
        for block, _ in _blocks(y, y) if by_row else [(y, y)]:
            add(np.add, block, block)
            if activation is not None:
                activation(block)

    return finish


def _constant(values: NDArray) -> Callable[[np.ufunc, NDArray, NDArray], Any]:
    """What applies a ufunc to an array and these constants, which broadcast to its shape."""
    if values.ndim <= 1:
        return Row(values).apply
    return lambda ufunc, x, out: ufunc(x, values, out=out)


def _bias(layer: Layer) -> NDArray | None:
    return materialize(layer.arrays["bias"]) if "bias" in layer.arrays else None


LONG_SUM, PART_SUM = 512, 256
SMALL_PRODUCT = 1_000_000
"""OpenBLAS adds up the products of a matrix product of at most so many one after the other, and those of a larger one in parts. Its error grows with
the length of the sum: at 784 terms it is twice that of parts of 256, and so of TensorFlow's, at 1440 two to four times."""


def _product(x: NDArray, kernel: NDArray) -> NDArray:
    """x @ kernel, a long sum of a small product in parts."""
    terms = len(kernel)
    if terms < LONG_SUM or x.ndim != 2 or len(x) == 1 or len(x) * kernel.size > SMALL_PRODUCT or x.dtype != np.float32:
        return np.asarray(np.matmul(x, kernel))
    y = np.asarray(np.matmul(x[:, :PART_SUM], kernel[:PART_SUM]))
    for start in range(PART_SUM, terms, PART_SUM):
        y += np.matmul(x[:, start : start + PART_SUM], kernel[start : start + PART_SUM])
    return y


def _dense(source: Operand, out: int, layer: Layer) -> Step:
    kernel = materialize(layer.arrays["kernel"])
    finish = _finish(layer, _bias(layer))

    def dense(values: list[Any]) -> None:
        y = _product(_value(source, values), kernel)
        if finish is not None:
            finish(y)
        values[out] = y

    return dense


def _scale_shift(source: Operand, out: int, layer: Layer, over: bool) -> Step:
    scale, shift = materialize(layer.arrays["scale"]), materialize(layer.arrays["shift"])
    scales, shifts = bool(np.any(scale != 1)), bool(np.any(shift != 0))
    activation = _activation(layer)
    by_row = scale.ndim <= 1 and shift.ndim <= 1
    multiply, add = _constant(scale), _constant(shift)

    def scale_shift(values: list[Any]) -> None:
        x = _value(source, values)
        y = x if over else np.empty_like(x)
        for taken, given in _blocks(x, y) if by_row else [(x, y)]:
            if scales:
                multiply(np.multiply, taken, given)
                if shifts:
                    add(np.add, given, given)
            else:
                add(np.add, taken, given)
            if activation is not None:
                activation(given)
        values[out] = y

    return scale_shift


def _convolution(operands: list[Operand], out: int, layer: Layer) -> Step:
    kernel, bias = materialize(layer.arrays["kernel"]), _bias(layer)
    if bias is not None and str(layer.attrs.get("data_format", "NHWC")).startswith("NC"):
        bias = bias.reshape(-1, *(1,) * (kernel.ndim - 2))
    finish = _finish(layer, bias)
    compute, attrs = OPS[LINEAR[layer.op]].compute, dict(layer.attrs)

    def convolution(values: list[Any]) -> None:
        x = _value(operands[0], values)
        if len(operands) == 1:
            y = compute(attrs, x, kernel)
        else:
            sizes = np.array(_value(operands[1], values))
            if sizes[0] < 0:
                sizes[0] = x.shape[0]
            y = compute(attrs, sizes, kernel, x)
        if finish is not None:
            finish(y)
        values[out] = y

    return convolution


def _lookup(operands: list[Operand], out: int, layer: Layer) -> Step:
    """A lookup in a table that is made once."""
    from bnexport.kernels.lookup import finder

    source, keys, results, default = operands
    if isinstance(keys, int) or isinstance(results, int):
        return _operator(operands, out, layer, over=False)
    find = finder(keys, results)

    def lookup(values: list[Any]) -> None:
        values[out] = find(_value(source, values), _value(default, values))

    return lookup


def _operator(operands: list[Operand], out: int, layer: Layer, over: bool) -> Step:
    operator, attrs = OPS[layer.op], dict(layer.attrs)
    if operator.inplace and over:

        def in_place(values: list[Any]) -> None:
            taken = [_value(o, values) for o in operands]
            fits = taken[0].shape == np.broadcast_shapes(*(t.shape for t in taken)) and all(t.dtype == taken[0].dtype for t in taken)
            values[out] = np.asarray(operator.compute(attrs, *taken, out=taken[0] if fits else None))

        return in_place

    def general(values: list[Any]) -> None:
        results = evaluate(operator, attrs, [_value(o, values) for o in operands])
        for i in range(layer.outputs):
            values[out + i] = results[i]

    return general
