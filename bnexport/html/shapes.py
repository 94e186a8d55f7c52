"""The shapes of a program's tensors, followed through its layers without computing them."""

from collections.abc import Sequence

import numpy as np

from bnexport import text
from bnexport.errors import GraphError
from bnexport.kernels import OPS
from bnexport.kernels.rules import broadcast
from bnexport.kernels.table import Abstract, infer
from bnexport.program import LINEAR, Layer, Literal, Port, Program

Shape = tuple[int | None, ...]

_PROBES = ((11, 96), (13, 128))
"""Two batch sizes, and two sizes for other dimensions that are left open: what comes out the same both times does not depend on them."""


def followed(program: Program) -> dict[str, Shape]:
    """The shape of each tensor, None for a size that varies; a tensor whose shape cannot be followed is not among them."""
    batch = program.conversion.get("batch")
    first, second = (_follow(program, batch or rows, size) for rows, size in _PROBES)
    return {
        tensor: tuple(a if a == b else None for a, b in zip(shape, second[tensor].shape, strict=True))
        for tensor, shape in ((tensor, known.shape) for tensor, known in first.items())
        if tensor in second and len(second[tensor].shape) == len(shape)
    } | {port.tensor: port.shape for port in program.inputs}


def _follow(program: Program, rows: int, size: int) -> dict[str, Abstract]:
    found = {port.tensor: _port(port, rows, size) for port in program.inputs}
    for layer in program.layers:
        operands = [_operand(layer, operand, found) for operand in layer.inputs]
        if any(operand is None for operand in operands):
            continue
        try:
            results = _results(layer, [operand for operand in operands if operand is not None])
        except GraphError:  # the data decide, or an open size that was tried fits nowhere: the drawing goes without
            continue
        for number, result in enumerate(results[: layer.outputs]):
            found[layer.name if number == 0 else f"{layer.name}:{number}"] = result
    return found


def _port(port: Port, rows: int, size: int) -> Abstract:
    shape = tuple(known if known is not None else (rows if axis == 0 else size) for axis, known in enumerate(port.shape))
    return Abstract(shape, text.dtype_of(port.dtype))


def _operand(layer: Layer, operand: str | Literal, found: dict[str, Abstract]) -> Abstract | None:
    if isinstance(operand, Literal):
        value = text.constant(operand.value, operand.dtype)
        return Abstract(value.shape, value.dtype, value)
    if operand.startswith("@"):
        array = layer.arrays[operand[1:]]
        return Abstract(array.shape, array.dtype)
    return found.get(operand)


def _results(layer: Layer, operands: Sequence[Abstract]) -> Sequence[Abstract]:
    x = operands[0] if operands else None
    if layer.op == "ScaleShift" and x is not None:
        return [Abstract(broadcast(x.shape, *(array.shape for array in layer.arrays.values())), x.dtype)]
    if layer.op == "Dense" and x is not None:
        return [Abstract((*x.shape[:-1], layer.arrays["kernel"].shape[-1]), x.dtype)]
    if layer.op in LINEAR and x is not None:
        if "padding" not in layer.attrs:
            raise GraphError(f"{layer.name}: variable names do not tell how a convolution is padded")
        array = layer.arrays["kernel"]
        kernel = Abstract(array.shape, array.dtype)
        return infer(OPS[LINEAR[layer.op]], layer.attrs, [x, kernel] if len(operands) == 1 else [_sizes(x, operands[1]), kernel, x])
    if layer.op not in OPS:
        raise GraphError(f"{layer.name}: there is no operator {layer.op}")
    return infer(OPS[layer.op], layer.attrs, operands)


def _sizes(x: Abstract, sizes: Abstract) -> Abstract:
    """The size of a transposed convolution's result, in which a negative first number stands for the batch (as the runner takes it)."""
    if sizes.value is None or sizes.value[0] >= 0:
        return sizes
    value = np.array(sizes.value)
    value[0] = x.shape[0]
    return Abstract(value.shape, value.dtype, value)
