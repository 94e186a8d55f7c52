"""The shape of tensors: reading it, changing it, and moving elements about without choosing among them."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from bnexport.errors import GraphError, InputError
from bnexport.kernels.rules import (
    axis_of,
    by_running,
    elementwise,
    integers,
    known,
    passes_through,
    resolved,
    same_as_first,
    view_op,
)  # fmt: skip
from bnexport.kernels.table import Abstract, Attrs, NDArray, op, shapes_differ


@op(
    "CheckNumerics", "EnsureShape", "GuaranteeConst", "Identity", "IdentityN", "PlaceholderWithDefault", "PreventGradient", "Snapshot",
    "StopGradient",
    infer=passes_through, view=True,
)  # fmt: skip
def identity(attrs: Attrs, *x: NDArray) -> NDArray | tuple[NDArray, ...]:
    """The operands as they are. CheckNumerics and EnsureShape only guard a training run."""
    return x if len(x) > 1 else x[0]


def _out_type(attrs: Attrs) -> "np.dtype[Any]":
    return np.dtype(attrs.get("out_type", "int32"))


def _shapes_alone(attrs: Attrs, operands: Sequence[Abstract]) -> Sequence[Abstract]:
    values = [np.array(o.shape, _out_type(attrs)) for o in operands]
    return [Abstract(v.shape, v.dtype, v) for v in values]


@op("Shape", infer=_shapes_alone)
def shape(attrs: Attrs, x: NDArray) -> NDArray:
    """The shape, in `out_type` (int32 by default)."""
    return np.array(x.shape, _out_type(attrs))


@op("ShapeN", infer=_shapes_alone)
def shape_n(attrs: Attrs, *x: NDArray) -> tuple[NDArray, ...]:
    """The shape of each operand."""
    return tuple(np.array(t.shape, _out_type(attrs)) for t in x)


def _size_alone(attrs: Attrs, operands: Sequence[Abstract]) -> Sequence[Abstract]:
    value = np.array(math.prod(operands[0].shape), _out_type(attrs))
    return [Abstract((), value.dtype, value)]


@op("Size", infer=_size_alone)
def size(attrs: Attrs, x: NDArray) -> NDArray:
    """The number of elements."""
    return np.array(x.size, _out_type(attrs))


def _rank_alone(attrs: Attrs, operands: Sequence[Abstract]) -> Sequence[Abstract]:
    value = np.array(len(operands[0].shape), np.int32)
    return [Abstract((), value.dtype, value)]


@op("Rank", infer=_rank_alone)
def rank(attrs: Attrs, x: NDArray) -> NDArray:
    """The number of dimensions, int32."""
    return np.array(x.ndim, np.int32)


def _reshaped(attrs: Attrs, operands: Sequence[Abstract]) -> Sequence[Abstract]:
    x, target = operands
    return [Abstract(resolved(integers(known(target, "shape")), math.prod(x.shape)), x.dtype)]


@op("Reshape", infer=_reshaped, view=True)
def reshape(attrs: Attrs, x: NDArray, target: NDArray) -> NDArray:
    """The elements in row-major order, in another shape."""
    return x.reshape(resolved(integers(target), x.size))


@view_op("Transpose")
def transpose(attrs: Attrs, x: NDArray, permutation: NDArray) -> NDArray:
    """The dimensions in another order."""
    return x.transpose(integers(permutation))


@view_op("ExpandDims")
def expand_dims(attrs: Attrs, x: NDArray, axis: NDArray) -> NDArray:
    """A dimension of 1 put in before `axis`."""
    return np.expand_dims(x, axis_of(integers(axis)[0], x.ndim + 1))


@view_op("Squeeze")
def squeeze(attrs: Attrs, x: NDArray) -> NDArray:
    """Without the dimensions of 1, or without those that `squeeze_dims` names."""
    axes = attrs.get("squeeze_dims", attrs.get("axis")) or [i for i, n in enumerate(x.shape) if n == 1]
    return x.squeeze(tuple(axes))


@view_op("BroadcastTo")
def broadcast_to(attrs: Attrs, x: NDArray, target: NDArray) -> NDArray:
    """x repeated along dimensions of 1, and along new ones in front."""
    return np.broadcast_to(x, integers(target))


@view_op("ReverseV2")
def reverse(attrs: Attrs, x: NDArray, axes: NDArray) -> NDArray:
    """The order of the elements turned round along some axes."""
    return np.flip(x, tuple(integers(axes)))


@view_op("Reverse")
def reverse_marked(attrs: Attrs, x: NDArray, marked: NDArray) -> NDArray:
    """ReverseV2 as it was until TensorFlow 1.0: with a truth value for each axis."""
    return np.flip(x, tuple(np.flatnonzero(marked)))


@op("ConjugateTranspose", infer=by_running(lambda attrs, x, permutation: x.transpose(integers(permutation))))
def conjugate_transpose(attrs: Attrs, x: NDArray, permutation: NDArray) -> NDArray:
    """The complex conjugates, their dimensions in another order."""
    return np.array(x.transpose(integers(permutation)).conj())


@op("ZerosLike", infer=same_as_first)
def zeros_like(attrs: Attrs, x: NDArray) -> NDArray:
    """Zeros of x's shape and dtype."""
    return np.zeros(x.shape, x.dtype)


@op("OnesLike", infer=same_as_first)
def ones_like(attrs: Attrs, x: NDArray) -> NDArray:
    """Ones of x's shape and dtype."""
    return np.ones(x.shape, x.dtype)


def _filled(attrs: Attrs, operands: Sequence[Abstract]) -> Sequence[Abstract]:
    return [Abstract(tuple(integers(known(operands[0], "shape"))), operands[1].dtype)]


@op("Fill", infer=_filled)
def fill(attrs: Attrs, dims: NDArray, value: NDArray) -> NDArray:
    """One value in every element."""
    return np.full(integers(dims), value, value.dtype)


def _counted(attrs: Attrs, operands: Sequence[Abstract]) -> Sequence[Abstract]:
    start, limit, delta = (known(o, w) for o, w in zip(operands, ("start", "limit", "delta"), strict=True))
    return [Abstract((_count(start, limit, delta),), operands[0].dtype)]


def _count(start: NDArray, limit: NDArray, delta: NDArray) -> int:
    if delta == 0 or (limit - start) * delta < 0:
        raise GraphError(f"there is no range from {start} to {limit} by {delta}")
    if start.dtype.kind != "f":
        return -(-abs(int(limit) - int(start)) // abs(int(delta)))
    return math.ceil(abs((limit - start) / delta))  # in the numbers' own dtype, where 0.9 goes into 3.6 four times


@op("Range", infer=_counted)
def range_(attrs: Attrs, start: NDArray, limit: NDArray, delta: NDArray) -> NDArray:
    """start, start + delta, … up to but without the limit."""
    count = _count(start, limit, delta)
    return np.asarray(start + np.arange(count).astype(start.dtype) * delta)


def _spaced(attrs: Attrs, operands: Sequence[Abstract]) -> Sequence[Abstract]:
    return [Abstract((integers(known(operands[2], "number of points"))[0],), operands[0].dtype)]


@op("LinSpace", infer=_spaced)
def lin_space(attrs: Attrs, start: NDArray, stop: NDArray, count: NDArray) -> NDArray:
    """`count` numbers from start to stop, both included."""
    return np.linspace(float(start), float(stop), int(count)).astype(start.dtype)


def _joined(axis: int, parts: Sequence[Abstract]) -> Sequence[Abstract]:
    first = parts[0].shape
    axis = axis_of(axis, len(first))
    for part in parts:
        if len(part.shape) != len(first) or any(i != axis and n != m for i, (n, m) in enumerate(zip(part.shape, first, strict=True))):
            raise shapes_differ(f"concatenation along axis {axis}", *(p.shape for p in parts))
    return [Abstract((*first[:axis], sum(p.shape[axis] for p in parts), *first[axis + 1 :]), parts[0].dtype)]


def _concat_v2_shape(attrs: Attrs, operands: Sequence[Abstract]) -> Sequence[Abstract]:
    return _joined(integers(known(operands[-1], "axis"))[0], operands[:-1])


@op("ConcatV2", infer=_concat_v2_shape)
def concat_v2(attrs: Attrs, *operands: NDArray) -> NDArray:
    """Tensors one behind the other; the axis is the last operand."""
    return np.concatenate(operands[:-1], axis=integers(operands[-1])[0])


def _concat_shape(attrs: Attrs, operands: Sequence[Abstract]) -> Sequence[Abstract]:
    return _joined(integers(known(operands[0], "axis"))[0], operands[1:])


@op("Concat", infer=_concat_shape)
def concat(attrs: Attrs, *operands: NDArray) -> NDArray:
    """Tensors one behind the other; the axis is the first operand."""
    return np.concatenate(operands[1:], axis=integers(operands[0])[0])


def _concat_offsets(attrs: Attrs, operands: Sequence[Abstract]) -> Sequence[Abstract]:
    return [Abstract(o.shape, o.dtype) for o in operands[1:]]


@op("ConcatOffset", infer=_concat_offsets)
def concat_offset(attrs: Attrs, axis: NDArray, *shapes: NDArray) -> tuple[NDArray, ...]:
    """Where each of several tensors of the given shapes begins in their concatenation."""
    offsets = np.zeros((len(shapes), shapes[0].size), shapes[0].dtype)
    at = int(axis)
    offsets[1:, at] = np.cumsum([s[at] for s in shapes[:-1]])
    return tuple(offsets)


def _packed(attrs: Attrs, operands: Sequence[Abstract]) -> Sequence[Abstract]:
    first = operands[0].shape
    if any(o.shape != first for o in operands):
        raise shapes_differ("packing", *(o.shape for o in operands))
    axis = axis_of(attrs.get("axis", 0), len(first) + 1)
    return [Abstract((*first[:axis], len(operands), *first[axis:]), operands[0].dtype)]


@op("Pack", infer=_packed)
def pack(attrs: Attrs, *operands: NDArray) -> NDArray:
    """Tensors of one shape stacked along a new axis (0 by default)."""
    return np.stack(operands, axis=attrs.get("axis", 0))


@view_op("Unpack")
def unpack(attrs: Attrs, x: NDArray) -> tuple[NDArray, ...]:
    """The tensors that lie along an axis (0 by default)."""
    axis = axis_of(attrs.get("axis", 0), x.ndim)
    if attrs.get("num", x.shape[axis]) != x.shape[axis]:
        raise InputError(f"{x.shape[axis]} tensors lie along axis {axis} of {list(x.shape)}, not {attrs['num']}")
    return tuple(np.moveaxis(x, axis, 0))


@view_op("Split", data=(1,))
def split(attrs: Attrs, axis: NDArray, x: NDArray) -> tuple[NDArray, ...]:
    """`num_split` parts of one size along an axis.

    Raises:
        InputError: it has no such parts, as a batch that is shared out to several devices may have none.
    """
    at, parts = axis_of(integers(axis)[0], x.ndim), attrs["num_split"]
    if x.shape[at] % parts:
        raise InputError(f"{x.shape[at]} cannot be divided into {parts} equal parts, and TensorFlow refuses it too; give a multiple of {parts}")
    return tuple(np.split(x, parts, axis=at))


@view_op("SplitV")
def split_v(attrs: Attrs, x: NDArray, sizes: NDArray, axis: NDArray) -> tuple[NDArray, ...]:
    """Parts of given sizes along an axis; one of them may be -1, for what is left."""
    at = axis_of(integers(axis)[0], x.ndim)
    return tuple(np.split(x, np.cumsum(_with_rest(integers(sizes), x.shape[at]))[:-1].astype(int), axis=at))


def _with_rest(sizes: list[int], total: int) -> list[int]:
    rest = total - sum(s for s in sizes if s != -1)
    whole = [rest if s == -1 else s for s in sizes]
    if min(whole) < 0 or sum(whole) != total:
        raise GraphError(f"{total} elements cannot be split into {sizes}")
    return whole


def _tiled(attrs: Attrs, operands: Sequence[Abstract]) -> Sequence[Abstract]:
    x, multiples = operands
    times = integers(known(multiples, "number of repetitions"))
    if len(times) != len(x.shape):
        raise shapes_differ("Tile", x.shape, tuple(times))
    return [Abstract(tuple(n * t for n, t in zip(x.shape, times, strict=True)), x.dtype)]


@op("Tile", infer=_tiled)
def tile(attrs: Attrs, x: NDArray, multiples: NDArray) -> NDArray:
    """x repeated as a whole along each dimension."""
    return np.tile(x, integers(multiples))


def _broadcast_args(attrs: Attrs, operands: Sequence[Abstract]) -> Sequence[Abstract]:
    return [Abstract((max(o.shape[0] for o in operands),), operands[0].dtype)]


@op("BroadcastArgs", infer=_broadcast_args)
def broadcast_args(attrs: Attrs, s0: NDArray, s1: NDArray) -> NDArray:
    """The shape that two shapes broadcast to."""
    dummies = [Abstract(tuple(integers(s)), np.dtype(bool)) for s in (s0, s1)]
    return np.array(elementwise(attrs, dummies)[0].shape, s0.dtype)


@op("InvertPermutation", infer=same_as_first)
def invert_permutation(attrs: Attrs, x: NDArray) -> NDArray:
    """The permutation that undoes x."""
    return np.argsort(x).astype(x.dtype)
