"""Which layers a scale and shift passes, forward or backward, and what it is on their other side.

A layer f passes a scale/shift a where f(a(x)) = b(f(x)) for every x: b is then what stands behind f in place of a before it.

- What only moves elements about (reshapes, transposes, tiles) always passes it, as long as all elements that are moved together share their values.
- A mean whose weights add up to one (average pooling, whose padding does not count, means over axes, interpolation) passes scale and shift.
- A maximum (or minimum) passes what increases: where every scale is positive or zero.
- What fills up with zeros passes a scale, but no shift.
- A concatenation passes what each of its parts has; a part without any has scale 1 and shift 0.
- A sum passes a scale that all terms share and the sum of their shifts.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from bnexport.fold.affine import Affine, NDArray, affine, regrouped, transposed, varies_along, with_axes, without_axes
from bnexport.fold.network import Network, Shape
from bnexport.program import Layer, Literal

RESHAPES = frozenset({"Reshape", "Squeeze", "ExpandDims"})
CONCATENATIONS = frozenset({"ConcatV2", "Concat"})
SUMS = frozenset({"Add", "AddV2", "AddN"})
_POOLS = frozenset({"AvgPool", "AvgPool3D", "MaxPool", "MaxPoolV2", "MaxPool3D"})
_EXTREMES = frozenset({"MaxPool", "MaxPoolV2", "MaxPool3D", "Max", "Min"})
_REDUCTIONS = frozenset({"Mean", "Max", "Min"})
_RESIZES = frozenset({"ResizeBilinear", "ResizeNearestNeighbor"})
_BLOCKS = frozenset({"SpaceToBatchND", "BatchToSpaceND", "SpaceToBatch", "BatchToSpace"})
_PADS = frozenset({"Pad", "PadV2", "MirrorPad"})

Map = Callable[[NDArray], "NDArray | None"]


class Refusal(NamedTuple):
    """Why a scale and shift stays where it is, as the end of a sentence about it."""

    why: str


def named(layer: Layer) -> str:
    """A layer as messages call it."""
    return f"{layer.name} ({layer.op})"


def channel_axis(layer: Layer, rank: int) -> int:
    """The axis of a layer's channels, counted from the end."""
    return 1 - rank if str(layer.attrs.get("data_format", "NHWC")).startswith("NC") else -1


def forward(network: Network, layer: Layer, tensor: str, before: Affine) -> Affine | Refusal:
    """What `before`, on the operand `tensor` of a layer, is on the layer's result."""
    if layer.op in CONCATENATIONS:
        return _joined(network, layer, tensor, before)
    if layer.op in SUMS:
        return _added(network, layer, tensor, before)
    if layer.outputs != 1 or not layer.inputs or layer.inputs[0] != tensor or layer.takes.count(tensor) != 1:
        return Refusal(f"its result goes into {named(layer)}")
    source, result = network.shapes[tensor], network.shapes[layer.name]
    return _mapped(layer, before, source, _forward_map(layer, source, result), f"its result goes into {named(layer)}")


def backward(network: Network, layer: Layer, behind: Affine) -> list[tuple[str, Affine]] | Refusal:
    """What has to be done to a layer's operands so that `behind` is done to its result."""
    if layer.op in CONCATENATIONS:
        return _parted(network, layer, behind)
    if layer.op in SUMS:
        return _terms(network, layer, behind)
    if layer.outputs != 1 or not layer.inputs or not layer.takes or layer.inputs[0] != layer.takes[0]:
        return Refusal(f"it follows {named(layer)}")
    tensor = layer.takes[0]
    source, result = network.shapes[tensor], network.shapes[layer.name]
    moved = _mapped(layer, behind, source, _backward_map(layer, source, result), f"it follows {named(layer)}")
    return moved if isinstance(moved, Refusal) else [(tensor, moved)]


def _mapped(layer: Layer, what: Affine, source: Shape, move: Map | None, where: str) -> Affine | Refusal:
    if move is None:
        return Refusal(where)
    scale, shift = move(what.scale), move(what.shift)
    if scale is None or shift is None:
        return Refusal(f"{where}, which mixes numbers of different scales or shifts")
    if layer.op in _EXTREMES and not what.increases:
        return Refusal(f"{where}, and it has negative scales, which turn a maximum into a minimum")
    if what.shifts and _fills_with_zeros(layer, len(source)):
        return Refusal(f"{where}, which fills up with zeros that its shift must not reach")
    return affine(scale, shift)


def _forward_map(layer: Layer, source: Shape, result: Shape) -> Map | None:
    if layer.op in RESHAPES:
        return lambda values: regrouped(values, source, result)
    if layer.op == "Transpose":
        turned = _integers(layer, 1)
        return None if turned is None else lambda values: transposed(values, turned)
    axes = _mixed_axes(layer, len(source))
    if axes is None:
        return None
    if layer.op in _REDUCTIONS and len(result) != len(source):
        return lambda values: None if varies_along(values, axes) else without_axes(values, _positions(axes, len(source)), len(source))
    return lambda values: None if varies_along(values, axes) else values


def _backward_map(layer: Layer, source: Shape, result: Shape) -> Map | None:
    if layer.op in RESHAPES:
        return lambda values: regrouped(values, result, source)
    if layer.op == "Transpose":
        turned = _integers(layer, 1)
        return None if turned is None else lambda values: transposed(values, tuple(int(i) for i in np.argsort(turned)))
    axes = _mixed_axes(layer, len(source))
    if axes is None:
        return None
    if layer.op in _REDUCTIONS and len(result) != len(source):
        return lambda values: with_axes(values, _positions(axes, len(source)), len(source))
    return lambda values: None if varies_along(values, axes) else values


def _positions(axes: tuple[int, ...], rank: int) -> tuple[int, ...]:
    return tuple(axis % rank for axis in axes)


def _integers(layer: Layer, position: int) -> tuple[int, ...] | None:
    """An operand of whole numbers that stands in the layer itself."""
    operand = layer.inputs[position] if position < len(layer.inputs) else None
    return tuple(int(i) for i in np.asarray(operand.value).reshape(-1)) if isinstance(operand, Literal) else None


def _mixed_axes(layer: Layer, rank: int) -> tuple[int, ...] | None:
    """The axes, counted from the end, along which a layer mixes or repeats elements; None where it does more than that."""
    if layer.op in _POOLS:
        sizes = _integers(layer, 1) if layer.op == "MaxPoolV2" else layer.attrs["ksize"]
        channels = channel_axis(layer, rank)
        return None if sizes is None else tuple(axis for axis in range(1 - rank, 0) if axis != channels or sizes[axis] != 1)
    if layer.op in _RESIZES:
        return tuple(range(1 - rank, -1))
    if layer.op in _BLOCKS:
        blocks = _integers(layer, 1) if layer.op.endswith("ND") else (2, 2)
        return None if blocks is None else tuple(range(1 - rank, len(blocks) + 1 - rank))
    if layer.op in _REDUCTIONS:
        reduced = _integers(layer, 1)
        return None if reduced is None else tuple(axis % rank - rank for axis in reduced)
    if layer.op == "Tile":
        times = _integers(layer, 1)
        return tuple(range(-rank, 0)) if times is None else tuple(axis - rank for axis, n in enumerate(times) if n != 1)
    if layer.op in _PADS:
        if layer.op == "PadV2" and not (isinstance(filler := layer.inputs[2], Literal) and filler.value == 0):
            return None
        sizes = _integers(layer, 1)
        return tuple(range(-rank, 0)) if sizes is None else tuple(axis - rank for axis in range(rank) if any(sizes[2 * axis : 2 * axis + 2]))
    return None


def _fills_with_zeros(layer: Layer, rank: int) -> bool:
    """Whether elements that are no data may come out of a layer. (A pool's padding does not count.)"""
    if layer.op in ("SpaceToBatchND", "SpaceToBatch"):
        sizes = _integers(layer, 2 if layer.op == "SpaceToBatchND" else 1)
        return sizes is None or any(sizes)
    return layer.op in ("Pad", "PadV2") and bool(_mixed_axes(layer, rank))


# ---- concatenations


def _concat_axis(network: Network, layer: Layer) -> int | None:
    """The axis that is concatenated, counted from the end."""
    axis = _integers(layer, len(layer.inputs) - 1 if layer.op == "ConcatV2" else 0)
    rank = len(network.shapes[layer.name])
    return None if axis is None else axis[0] % rank - rank


def _parts(layer: Layer) -> list[str | Literal]:
    return layer.inputs[:-1] if layer.op == "ConcatV2" else layer.inputs[1:]


def _size(network: Network, layer: Layer, part: str | Literal, axis: int) -> int | None:
    if isinstance(part, Literal):
        return int(np.asarray(part.value).shape[axis])
    return layer.arrays[part[1:]].shape[axis] if part.startswith("@") else network.shapes[part][axis]


def _joined(network: Network, layer: Layer, tensor: str, before: Affine) -> Affine | Refusal:
    """One part's scale and shift, and 1 and 0 for the others."""
    refusal = Refusal(f"its result goes into {named(layer)}")
    axis, parts = _concat_axis(network, layer), _parts(layer)
    if axis is None or -axis == len(network.shapes[layer.name]):
        return refusal
    sizes = [_size(network, layer, part, axis) for part in parts]

    def joined(values: NDArray, nothing: float) -> NDArray:
        padded = values.reshape((1,) * (-axis - values.ndim) + values.shape)
        others = list(padded.shape)
        pieces = []
        for part, size in zip(parts, sizes, strict=True):
            others[axis] = size or 0
            pieces.append(np.broadcast_to(padded, others) if part == tensor else np.full(others, nothing))
        return np.concatenate(pieces, axis)

    return refusal if None in sizes else affine(joined(before.scale, 1.0), joined(before.shift, 0.0))


def _parted(network: Network, layer: Layer, behind: Affine) -> list[tuple[str, Affine]] | Refusal:
    refusal = Refusal(f"it follows {named(layer)}")
    axis, parts = _concat_axis(network, layer), _parts(layer)
    if axis is None or len(set(layer.takes)) != len(parts):
        return refusal
    ends: list[tuple[str, Affine]] = []
    start = 0
    for part in parts:
        size = _size(network, layer, part, axis)
        varies = [varies_along(values, (axis,)) for values in (behind.scale, behind.shift)]
        if size is None and any(varies):
            return refusal
        span = np.arange(start, start + (size or 0))
        scale, shift = (values.take(span, axis) if v else values for values, v in zip((behind.scale, behind.shift), varies, strict=True))
        ends.append((str(part), affine(scale, shift)))
        start += size or 0
    return ends


# ---- sums


def _added(network: Network, layer: Layer, tensor: str, before: Affine) -> Affine | Refusal:
    """A shift of one term is a shift of the sum; a scale of one term is none."""
    alike = {network.shapes[t] for t in layer.takes} == {network.shapes[layer.name]}
    if before.scales or not alike or layer.inputs.count(tensor) != 1:
        return Refusal(f"its result goes into {named(layer)}")
    return before


def _terms(network: Network, layer: Layer, behind: Affine) -> list[tuple[str, Affine]] | Refusal:
    """s·(x + y) + t = (s·x + t) + s·y."""
    terms = layer.takes
    if len(set(terms)) != len(layer.inputs) or {network.shapes[t] for t in terms} != {network.shapes[layer.name]}:
        return Refusal(f"it follows {named(layer)}")
    return [(term, behind if number == 0 else affine(behind.scale, np.zeros(()))) for number, term in enumerate(terms)]
