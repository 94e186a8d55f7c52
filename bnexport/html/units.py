"""Units that do nothing: which results of a layer are always the same, by its weights and by what its inputs can be.

The range of each tensor is followed from layer to layer: the input may be any number, what comes out of a Relu is not negative, what comes out of a
Sigmoid lies between 0 and 1, and so on. The result z = Σ wᵢxᵢ + b of a unit whose inputs lie in [p, q] is then at most

    Σ max(wᵢ·p, wᵢ·q) + b

and a Relu over a unit for which that is not positive always gives 0: the unit is dead, for every input there is. (More units may be silent on the
data that a network really sees; weights alone cannot tell.)
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from bnexport.errors import BadStatistics
from bnexport.html.values import Columns, columns
from bnexport.kernels import OPS
from bnexport.kernels.table import ieee
from bnexport.program import Array, Layer, Literal, Program, materialize

NDArray = np.ndarray[Any, Any]
Range = tuple[float, float]

ANY: Range = (-math.inf, math.inf)
_RECTIFIERS = frozenset({"Relu", "Relu6"})
_INCREASING = frozenset({"Relu", "Relu6", "LeakyRelu", "Elu", "Selu", "Sigmoid", "Tanh", "Softplus", "Erf", "Exp"})
_FIXED: dict[str, Range] = {"Softmax": (0, 1), "LogSoftmax": (-math.inf, 0), "Softsign": (-1, 1), "Abs": (0, math.inf), "Square": (0, math.inf)}
_OF_THE_FIRST = frozenset(
    {"Identity", "MaxPool", "MaxPoolV2", "MaxPool3D", "AvgPool", "AvgPool3D", "Mean", "Max", "Min", "Reshape", "Squeeze", "ExpandDims",
     "Transpose", "StridedSlice", "Slice", "Gather", "GatherV2", "GatherNd", "Tile", "MirrorPad", "SpaceToDepth", "DepthToSpace",
     "BatchToSpaceND", "ResizeBilinear", "ResizeNearestNeighbor", "ResizeArea", "Roll", "Split", "SplitV", "Unpack"}
)  # fmt: skip
"""Operators whose results are elements of their tensor operand, or means of them."""
_OF_ALL = frozenset({"Concat", "ConcatV2", "Pack", "Maximum", "Minimum"})
_AND_ZERO = frozenset({"Pad", "SpaceToBatchND", "SpaceToBatch"})
_PAIRS: dict[str, Callable[[float, float], float]] = {
    "Add": lambda a, b: a + b,
    "AddV2": lambda a, b: a + b,
    "Sub": lambda a, b: a - b,
    "Mul": lambda a, b: 0.0 if a == 0 or b == 0 else a * b,
}


@dataclass(frozen=True, slots=True)
class Units:
    """What is known of the units of a layer that holds arrays.

    Attributes:
        count: how many units there are.
        constant: units whose weights are all zero, so that the result is the bias alone.
        dead: units, not among those, that a Relu stands behind and whose result before it is never positive.
        inputs: the range that the layer's inputs were found to be in.
    """

    count: int
    constant: tuple[int, ...]
    dead: tuple[int, ...]
    inputs: Range


def trailing(op: str) -> int:
    """How many of a kernel's last dimensions tell its units apart: two for (channel, multiplier) of a depthwise, (out, in) of a transposed one."""
    return 2 if op in ("DepthwiseConv2D", "Conv2DTranspose", "Conv3DTranspose") else 1


def unit_weights(op: str, kernel: Array) -> Columns:
    """What each unit's weights in a linear layer's kernel come to.

    Raises:
        BnexportError: the kernel cannot be read.
    """
    found = columns(kernel, trailing(op))
    if not op.endswith("Transpose"):
        return found
    shape = kernel.shape[-2:]
    return Columns(found.positive.reshape(shape).sum(axis=1), found.negative.reshape(shape).sum(axis=1))


def indices(mask: NDArray) -> tuple[int, ...]:
    """Where a mask is true, by position in row-major order."""
    return tuple(np.flatnonzero(mask).tolist())


def examined(program: Program) -> dict[str, Units | None]:
    """The units of each layer that holds weights, by the layer's name; None where these are NaN or infinite, which no bundle may hold.

    Raises:
        CheckpointError, BundleError: an array cannot be read.
    """
    ranges: dict[str, Range] = {port.tensor: ANY for port in program.inputs}
    found: dict[str, Units | None] = {}
    for layer in program.layers:
        operands = [_range(layer, operand, ranges) for operand in layer.inputs]
        try:
            bounds = _bounds(layer, operands)
        except BadStatistics:
            found[layer.name], ranges[layer.name] = None, ANY
            continue
        if bounds is None:
            result = _operated(layer, operands)
        else:
            low, high, constant = bounds
            silent = high <= 0 if layer.activation in _RECTIFIERS else np.zeros(high.shape, np.bool_)
            found[layer.name] = Units(high.size, indices(constant), indices(silent & ~constant), _taken(layer, operands))
            result = _sound(low.min(initial=math.inf), high.max(initial=-math.inf))
        if layer.activation is not None:
            result = _activated(layer.activation, layer.activation_attrs, result)
        ranges.update(dict.fromkeys(layer.makes, result))
    return found


def _range(layer: Layer, operand: str | Literal, ranges: Mapping[str, Range]) -> Range | None:
    """An operand's range; None for one that says what to do rather than what with (axes, shapes)."""
    if isinstance(operand, Literal):
        value = np.asarray(operand.value)
        return (float(value.min()), float(value.max())) if value.size and value.dtype.kind == "f" else None
    return ANY if operand.startswith("@") else ranges.get(operand, ANY)


def _sound(low: float, high: float) -> Range:
    return (float(low), float(high)) if low <= high else ANY  # NaN compares as false


def _joined(*ranges: Range) -> Range:
    return _sound(min(low for low, _ in ranges), max(high for _, high in ranges))


def _taken(layer: Layer, operands: list[Range | None]) -> Range:
    """The range of what a linear layer's kernel is multiplied by: its input, and zeros where it is padded."""
    source = operands[-1] if layer.op.endswith("Transpose") else operands[0]
    source = source or ANY
    padded = layer.op.endswith("Transpose") or ("Conv" in layer.op and layer.attrs.get("padding") != "VALID")
    return _joined(source, (0.0, 0.0)) if padded else source


def _bounds(layer: Layer, operands: list[Range | None]) -> tuple[NDArray, NDArray, NDArray] | None:
    """The least and the greatest result of each unit before the activation, and which of them are constant; None for a layer without units."""
    if "kernel" in layer.arrays:
        weights = unit_weights(layer.op, layer.arrays["kernel"])
        low, high = _taken(layer, operands)
        bias = materialize(layer.arrays["bias"]).astype(np.float64).reshape(-1) if "bias" in layer.arrays else np.zeros(1)
        least = _times(weights.positive, low) + _times(weights.negative, high) + bias
        greatest = _times(weights.positive, high) + _times(weights.negative, low) + bias
        return least, greatest, (weights.positive == 0) & (weights.negative == 0)
    if layer.op == "ScaleShift" and operands:
        scale, shift = np.broadcast_arrays(*(materialize(layer.arrays[role]).astype(np.float64) for role in ("scale", "shift")))
        low, high = operands[0] or ANY
        ends = [_times(scale, end) for end in (low, high)]
        return (np.minimum(*ends) + shift).reshape(-1), (np.maximum(*ends) + shift).reshape(-1), (scale == 0).reshape(-1)
    return None


def _times(weights: NDArray, end: float) -> NDArray:
    """Products in which nothing is what no weight is given to: 0 · ∞ = 0."""
    with ieee():
        return np.where(weights == 0, 0.0, weights * end)


def _activated(op: str, attrs: Mapping[str, Any], before: Range) -> Range:
    if op in _INCREASING and float(attrs.get("alpha", 0)) >= 0:
        with ieee():
            low, high = OPS[op].compute(attrs, np.array(before, np.float64)).tolist()
        return _sound(low, high)
    return _FIXED.get(op, ANY)


def _operated(layer: Layer, operands: list[Range | None]) -> Range:
    known = [operand for operand in operands if operand is not None]
    if not known:
        return ANY
    if layer.op in _OF_THE_FIRST:
        return known[0]
    if layer.op in _OF_ALL:
        return _joined(*known)
    if layer.op in _AND_ZERO:
        return _joined(known[0], (0.0, 0.0))
    if layer.op in _PAIRS and len(known) == 2:
        combine = _PAIRS[layer.op]
        ends = [combine(a, b) for a in known[0] for b in known[1]]
        return ANY if any(map(math.isnan, ends)) else _sound(min(ends), max(ends))
    if layer.op in ("AddN", "Sum"):
        low, high = min(low for low, _ in known), max(high for _, high in known)
        return (0.0 if low >= 0 else -math.inf, 0.0 if high <= 0 else math.inf)
    return _activated(layer.op, layer.attrs, known[0])
