"""Slices, gathers, and padding."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from bnexport.errors import GraphError, InputError
from bnexport.kernels.rules import axis_of, integers, known, view_op
from bnexport.kernels.table import Abstract, Attrs, Compute, NDArray, op, shapes_differ


@view_op("Slice")
def slice_(attrs: Attrs, x: NDArray, begin: NDArray, size: NDArray) -> NDArray:
    """`size` elements from `begin` on along each dimension; a size of -1 takes all that are left."""
    parts = []
    for n, b, s in zip(x.shape, integers(begin), integers(size), strict=True):
        end = n if s == -1 else b + s
        if not 0 <= b <= end <= n:
            raise GraphError(f"a slice of {s} elements from {b} on does not lie inside {n}")
        parts.append(slice(b, end))
    return x[tuple(parts)]


@view_op("StridedSlice")
def strided_slice(attrs: Attrs, x: NDArray, begin: NDArray, end: NDArray, strides: NDArray) -> NDArray:
    """NumPy's basic indexing, spelled as TensorFlow spells it: three vectors, and bit masks that say for each of their entries whether it is an
    ellipsis, a new axis, a single index that drops its axis, or a slice whose begin or end is left open.
    """
    begins, ends, steps = integers(begin), integers(end), integers(strides)

    def marked(mask: str, i: int) -> bool:
        return bool(attrs.get(mask, 0) >> i & 1)

    index: list[Any] = []
    for i, (b, e, s) in enumerate(zip(begins, ends, steps, strict=True)):
        if marked("ellipsis_mask", i):
            index.append(Ellipsis)
        elif marked("new_axis_mask", i):
            index.append(np.newaxis)
        elif marked("shrink_axis_mask", i):
            index.append(b)
        else:
            index.append(slice(None if marked("begin_mask", i) else b, None if marked("end_mask", i) else e, s))
    return x[(*index, Ellipsis)] if Ellipsis not in index else x[tuple(index)]


def _in_range(indices: NDArray, size: int) -> NDArray:
    """Indices that all lie in 0 … size - 1.

    Raises:
        InputError: one does not; TensorFlow refuses it too.
    """
    if indices.size and (indices.min() < 0 or indices.max() >= size):
        wrong = indices.min() if indices.min() < 0 else indices.max()
        raise InputError(f"the index {wrong} lies outside of the {size} elements it chooses from")
    return indices


def _gathered(attrs: Attrs, operands: Sequence[Abstract]) -> Sequence[Abstract]:
    x, indices = operands[:2]
    axis = axis_of(integers(known(operands[2], "axis"))[0] if len(operands) > 2 else 0, len(x.shape))
    batch = attrs.get("batch_dims", 0)
    batch = axis_of(batch, len(indices.shape)) if batch < 0 else batch
    if batch > axis or x.shape[:batch] != indices.shape[:batch]:
        raise shapes_differ(f"gathering with {batch} batch dimensions", x.shape, indices.shape)
    return [Abstract((*x.shape[:axis], *indices.shape[batch:], *x.shape[axis + 1 :]), x.dtype)]


@op("Gather", "GatherV2", infer=_gathered)
def gather(attrs: Attrs, x: NDArray, indices: NDArray, *axis: NDArray) -> NDArray:
    """The slices of x along an axis (0 by default) that `indices` choose; the first `batch_dims` dimensions are common to both."""
    at = axis_of(integers(axis[0])[0], x.ndim) if axis else 0
    _in_range(indices, x.shape[at])
    batch = attrs.get("batch_dims", 0)
    batch = batch + indices.ndim if batch < 0 else batch
    if batch == 0:
        return np.asarray(np.take(x, indices, axis=at))
    lead = x.shape[:batch]
    result = np.empty((*x.shape[:at], *indices.shape[batch:], *x.shape[at + 1 :]), x.dtype)
    for i in np.ndindex(*lead):
        result[i] = np.take(x[i], indices[i], axis=at - batch)
    return result


def _gathered_nd(attrs: Attrs, operands: Sequence[Abstract]) -> Sequence[Abstract]:
    x, indices = operands
    if not indices.shape or indices.shape[-1] > len(x.shape):
        raise shapes_differ("GatherNd", x.shape, indices.shape)
    return [Abstract((*indices.shape[:-1], *x.shape[indices.shape[-1] :]), x.dtype)]


@op("GatherNd", infer=_gathered_nd)
def gather_nd(attrs: Attrs, x: NDArray, indices: NDArray) -> NDArray:
    """The elements or slices of x at the positions in the last dimension of `indices`."""
    index = _places(indices, x.shape)
    return np.array(x[index]) if index else np.array(np.broadcast_to(x, (*indices.shape[:-1], *x.shape)))


def _one_hot_shape(attrs: Attrs, operands: Sequence[Abstract]) -> Sequence[Abstract]:
    indices, depth, on, _ = operands
    rank = len(indices.shape)
    axis = rank if attrs.get("axis", -1) == -1 else axis_of(attrs["axis"], rank + 1)
    return [Abstract((*indices.shape[:axis], integers(known(depth, "depth"))[0], *indices.shape[axis:]), on.dtype)]


@op("OneHot", infer=_one_hot_shape)
def one_hot(attrs: Attrs, indices: NDArray, depth: NDArray, on: NDArray, off: NDArray) -> NDArray:
    """`on` where the new dimension's position is the index, else `off`; an index outside of the depth is `off` everywhere."""
    axis = indices.ndim if attrs.get("axis", -1) == -1 else attrs["axis"]
    positions = np.arange(int(depth)).reshape(-1, *[1] * (indices.ndim - axis))
    return np.where(np.expand_dims(indices, axis) == positions, on, off)


def _widths(paddings: NDArray) -> list[tuple[int, int]]:
    return [(int(before), int(after)) for before, after in paddings]


def _padded(attrs: Attrs, operands: Sequence[Abstract]) -> Sequence[Abstract]:
    x, paddings = operands[:2]
    widths = _widths(known(paddings, "padding").reshape(-1, 2))
    if len(widths) != len(x.shape) or any(w < 0 for pair in widths for w in pair):
        raise shapes_differ("padding", x.shape, tuple(paddings.shape))
    return [Abstract(tuple(b + n + a for n, (b, a) in zip(x.shape, widths, strict=True)), x.dtype)]


@op("Pad", "PadV2", infer=_padded)
def pad(attrs: Attrs, x: NDArray, paddings: NDArray, *value: NDArray) -> NDArray:
    """x inside of a frame of zeros, or of the third operand."""
    widths = _widths(paddings)
    result = np.full(tuple(b + n + a for n, (b, a) in zip(x.shape, widths, strict=True)), value[0] if value else 0, x.dtype)
    result[tuple(slice(b, b + n) for n, (b, _) in zip(x.shape, widths, strict=True))] = x
    return result


@op("MirrorPad", infer=_padded)
def mirror_pad(attrs: Attrs, x: NDArray, paddings: NDArray) -> NDArray:
    """x inside of a frame of its own mirror image, which begins with the edge (mode SYMMETRIC) or behind it (mode REFLECT)."""
    return np.pad(x, _widths(paddings), mode="symmetric" if attrs["mode"] == "SYMMETRIC" else "reflect")


def _rolled(attrs: Attrs, operands: Sequence[Abstract]) -> Sequence[Abstract]:
    return [Abstract(operands[0].shape, operands[0].dtype)]


@op("Roll", infer=_rolled)
def roll(attrs: Attrs, x: NDArray, shift: NDArray, axis: NDArray) -> NDArray:
    """The elements moved along some axes, those that fall out at the end put in at the beginning."""
    return np.roll(x, integers(shift), integers(axis))


def _scattered(attrs: Attrs, operands: Sequence[Abstract]) -> Sequence[Abstract]:
    indices, updates, shape = operands
    target = tuple(integers(known(shape, "shape")))
    depth = indices.shape[-1] if indices.shape else math.inf
    if depth > len(target) or updates.shape != (*indices.shape[:-1], *target[indices.shape[-1] :]):
        raise shapes_differ("ScatterNd", indices.shape, updates.shape, target)
    return [Abstract(target, updates.dtype)]


@op("ScatterNd", infer=_scattered)
def scatter_nd(attrs: Attrs, indices: NDArray, updates: NDArray, shape: NDArray) -> NDArray:
    """Zeros with `updates` added at the positions in the last dimension of `indices`."""
    result = np.zeros(integers(shape), updates.dtype)
    np.add.at(result, _places(indices, result.shape), updates)
    return result


def _updated(attrs: Attrs, operands: Sequence[Abstract]) -> Sequence[Abstract]:
    x, indices, updates = operands
    depth = indices.shape[-1] if indices.shape else math.inf
    if depth > len(x.shape) or updates.shape != (*indices.shape[:-1], *x.shape[indices.shape[-1] :]):
        raise shapes_differ("an update of a tensor", x.shape, indices.shape, updates.shape)
    return [Abstract(x.shape, x.dtype)]


def _places(indices: NDArray, shape: Sequence[int]) -> tuple[NDArray, ...]:
    return tuple(_in_range(indices[..., i], shape[i]) for i in range(indices.shape[-1]))


@op("TensorScatterUpdate", infer=_updated)
def tensor_scatter_update(attrs: Attrs, x: NDArray, indices: NDArray, updates: NDArray) -> NDArray:
    """x with `updates` put at the positions in the last dimension of `indices`."""
    result = x.copy()
    result[_places(indices, x.shape)] = updates
    return result


def _joined_at(join: "np.ufunc") -> Compute:
    def compute(attrs: Attrs, x: NDArray, indices: NDArray, updates: NDArray) -> NDArray:
        result = x.copy()
        join.at(result, _places(indices, x.shape), updates)
        return result

    return compute


op("TensorScatterAdd", "ScatterNdNonAliasingAdd", infer=_updated)(_joined_at(np.add))
op("TensorScatterSub", infer=_updated)(_joined_at(np.subtract))
op("TensorScatterMax", infer=_updated)(_joined_at(np.maximum))
op("TensorScatterMin", infer=_updated)(_joined_at(np.minimum))


def _unravelled(attrs: Attrs, operands: Sequence[Abstract]) -> Sequence[Abstract]:
    indices, sizes = operands
    return [Abstract((*sizes.shape, *indices.shape), indices.dtype)]


@op("UnravelIndex", infer=_unravelled)
def unravel_index(attrs: Attrs, indices: NDArray, sizes: NDArray) -> NDArray:
    """Row-major positions in a tensor of the given sizes, as one row of indices for each of its dimensions."""
    _in_range(indices, int(np.prod(sizes)))
    return np.stack(np.unravel_index(indices, integers(sizes))).astype(indices.dtype)


def _counts(attrs: Attrs, operands: Sequence[Abstract]) -> Sequence[Abstract]:
    x, size, weights = operands
    if len(x.shape) not in (1, 2) or weights.shape not in (x.shape, (0,)):
        raise shapes_differ("DenseBincount", x.shape, weights.shape)
    return [Abstract((*x.shape[:-1], integers(known(size, "number of bins"))[0]), weights.dtype)]


@op("DenseBincount", infer=_counts)
def dense_bincount(attrs: Attrs, x: NDArray, size: NDArray, weights: NDArray) -> NDArray:
    """How often each number below `size` stands in x, or in each row of it, or the sums of their weights; with `binary_output`, whether it does.

    Larger numbers are left out.
    """
    if x.size and x.min() < 0:
        raise InputError(f"{x.min()} is negative, and cannot be counted")
    count = int(size)
    rows = x.reshape(-1, x.shape[-1])
    result = np.zeros((len(rows), count), weights.dtype)
    inside = rows < count
    places = (np.nonzero(inside)[0], rows[inside])
    if attrs.get("binary_output", False):
        result[places] = 1
    else:
        np.add.at(result, places, weights.reshape(rows.shape)[inside] if weights.size else result.dtype.type(1))
    return result.reshape(*x.shape[:-1], count)


def _stitched(attrs: Attrs, operands: Sequence[Abstract]) -> Sequence[Abstract]:
    half = len(operands) // 2
    indices, slices = [known(o, "order of what is put together") for o in operands[:half]], operands[half:]
    rest = slices[0].shape[indices[0].ndim :]
    if any(s.shape != (*i.shape, *rest) for i, s in zip(indices, slices, strict=True)):
        raise shapes_differ("DynamicStitch", *(o.shape for o in operands))
    return [Abstract((1 + max((int(i.max()) for i in indices if i.size), default=-1), *rest), slices[0].dtype)]


@op("DynamicStitch", "ParallelDynamicStitch", infer=_stitched)
def dynamic_stitch(attrs: Attrs, *operands: NDArray) -> NDArray:
    """The slices of the second half of the operands, each at the index that the first half gives it; of those at one index the last."""
    half = len(operands) // 2
    rank = operands[0].ndim
    rest = operands[half].shape[rank:]
    places = np.concatenate([i.reshape(-1) for i in operands[:half]])
    result = np.zeros((1 + int(places.max(initial=-1)), *rest), operands[half].dtype)
    result[_in_range(places, len(result))] = np.concatenate([s.reshape(-1, *rest) for s in operands[half:]])
    return result


def _reversed_shape(attrs: Attrs, operands: Sequence[Abstract]) -> Sequence[Abstract]:
    x, lengths = operands
    batch = axis_of(attrs.get("batch_dim", 0), len(x.shape))
    axis_of(attrs["seq_dim"], len(x.shape))
    if lengths.shape != (x.shape[batch],):
        raise shapes_differ("ReverseSequence", x.shape, lengths.shape)
    return [Abstract(x.shape, x.dtype)]


@op("ReverseSequence", infer=_reversed_shape)
def reverse_sequence(attrs: Attrs, x: NDArray, lengths: NDArray) -> NDArray:
    """The first `lengths` elements of each sequence turned round: sequences along `seq_dim`, one for each element of `batch_dim`."""
    ahead = np.moveaxis(x, (attrs.get("batch_dim", 0), attrs["seq_dim"]), (0, 1))
    position = np.arange(ahead.shape[1])
    length = lengths.reshape(-1, 1)
    order = np.where(position < length, length - 1 - position, position)
    turned = ahead[np.arange(len(ahead))[:, None], order]
    return np.ascontiguousarray(np.moveaxis(turned, (0, 1), (attrs.get("batch_dim", 0), attrs["seq_dim"])))
