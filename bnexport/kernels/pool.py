"""Pooling. Windows are separable: a running maximum or sum along one dimension after the other."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from bnexport.errors import GraphError
from bnexport.kernels.rules import integers, is_half, is_integer, known, same_rank
from bnexport.kernels.table import Abstract, Attrs, NDArray, op, shapes_differ
from bnexport.kernels.window import Slide, channels_first, first_to_last, last_to_first, nhwc_shape, own_shape, per_dimension, slide, slides


def pool_slides(attrs: Attrs, shape: Sequence[int]) -> list[Slide]:
    """The slides along all dimensions of data whose shape is given with channels last."""
    rank = len(shape)
    sizes = per_dimension(attrs, "ksize", rank)
    if len(sizes) != rank:
        raise shapes_differ("pooling", tuple(shape), tuple(sizes))
    return slides(attrs, shape, sizes, per_dimension(attrs, "strides", rank), [1] * rank)


def _along(x: NDArray, axis: int, window: Slide, ufunc: "np.ufunc", nothing: Any) -> NDArray:
    """The running maximum or sum along one axis; padding counts as `nothing`."""

    def at(start: int, stop: int, step: int = 1) -> tuple[slice, ...]:
        return (*[slice(None)] * axis, slice(start, stop, step))

    def seen(tap: int) -> tuple[int, int, NDArray]:
        first, last, element = window.reach(tap, x.shape[axis])
        return first, last, x[at(element, element + (last - first - 1) * window.stride + 1, window.stride)]

    taps = list(range(window.size))
    whole = next((t for t in taps if window.reach(t, x.shape[axis])[:2] == (0, window.count)), None)
    if whole is None:
        result = np.full((*x.shape[:axis], window.count, *x.shape[axis + 1 :]), nothing, x.dtype)
    else:
        # a tap that never falls on the padding spares filling the result first
        taps.remove(whole)
        other = next((t for t in taps if window.reach(t, x.shape[axis])[:2] == (0, window.count)), None)
        if other is None:
            result = seen(whole)[2].copy()
        else:
            taps.remove(other)
            result = ufunc(seen(whole)[2], seen(other)[2])
    for tap in taps:
        first, last, values = seen(tap)
        if first < last:
            into = result[at(first, last)]
            ufunc(into, values, out=into)
    return result


def _running(x: NDArray, windows: Sequence[Slide], ufunc: "np.ufunc", nothing: Any) -> NDArray:
    out = np.empty(tuple(w.count for w in windows), x.dtype)
    moving = [(axis, w) for axis, w in enumerate(windows) if axis > 0 and w.moves]
    # image by image, so that what one pass writes is still in the cache for the next
    for image, result in zip(x, out, strict=True):
        for axis, window in moving:
            image = _along(image, axis - 1, window, ufunc, nothing)
        result[...] = image
    return out


def _pooled(attrs: Attrs, operands: Sequence[Abstract]) -> Sequence[Abstract]:
    x = operands[0]
    windows = pool_slides(attrs, nhwc_shape(x.shape, attrs))
    if windows[0].moves:
        raise GraphError("pooling over the batch has no meaning in TensorFlow either")
    return [Abstract(own_shape(tuple(w.count for w in windows), attrs), x.dtype)]


def _v2(attrs: Attrs, ksize: NDArray, strides: NDArray) -> dict[str, Any]:
    return {**attrs, "ksize": integers(ksize), "strides": integers(strides)}


def _pooled_v2(attrs: Attrs, operands: Sequence[Abstract]) -> Sequence[Abstract]:
    return _pooled(_v2(attrs, known(operands[1], "window"), known(operands[2], "strides of a window")), operands)


def _lowest(dtype: "np.dtype[Any]") -> Any:
    return np.iinfo(dtype).min if is_integer(dtype) else -np.inf


@op("MaxPool", "MaxPool3D", infer=_pooled)
def max_pool(attrs: Attrs, x: NDArray) -> NDArray:
    """The largest element of each window (`ksize`, `strides`, `padding`, `explicit_paddings`, `data_format`)."""
    return _largest(attrs, x)


def _largest(attrs: Attrs, x: NDArray) -> NDArray:
    images = first_to_last(x) if channels_first(attrs) else x
    windows = pool_slides(attrs, images.shape)
    result = _running(images, windows, np.maximum, _lowest(x.dtype))
    if x.dtype in (np.float32, np.float64) and not np.min(result, initial=0) >= np.finfo(x.dtype).min:
        # TensorFlow begins with the lowest number that there is, which -inf is below and NaN not above
        result = np.fmax(_running(images, windows, np.fmax, np.nan), np.finfo(x.dtype).min)
    return np.ascontiguousarray(last_to_first(result)) if channels_first(attrs) else result


@op("MaxPoolV2", infer=_pooled_v2)
def max_pool_v2(attrs: Attrs, x: NDArray, ksize: NDArray, strides: NDArray) -> NDArray:
    """MaxPool with window and strides as operands."""
    return _largest(_v2(attrs, ksize, strides), x)


def _pooled_with_positions(attrs: Attrs, operands: Sequence[Abstract]) -> Sequence[Abstract]:
    same_rank(4, operands[0])
    if per_dimension(attrs, "ksize", 4)[3] != 1:
        raise GraphError("MaxPoolWithArgmax does not pool over channels in TensorFlow either")
    (pooled,) = _pooled(attrs, operands)
    return [pooled, Abstract(pooled.shape, np.dtype(attrs.get("Targmax", "int64")))]


@op("MaxPoolWithArgmax", infer=_pooled_with_positions)
def max_pool_with_argmax(attrs: Attrs, x: NDArray) -> tuple[NDArray, NDArray]:
    """The largest element of each window, and where it lies: (row · W + column) · C + channel, the first of equal ones.

    With `include_batch_in_index` that is counted over all images, ((image · H + row) · W + column) · C + channel.
    """
    images, height, width, channels = x.shape
    _, rows, columns, _ = pool_slides(attrs, x.shape)
    out = np.full((images, rows.count, columns.count, channels), _lowest(x.dtype), x.dtype)
    found = np.full(out.shape, -1, np.int64)
    index = np.arange(height * width * channels, dtype=np.int64).reshape(1, height, width, channels)
    for dy in range(rows.size):
        top, bottom, y = rows.reach(dy, height)
        for dx in range(columns.size):
            left, right, at = columns.reach(dx, width)
            if top < bottom and left < right:
                down = slice(y, y + (bottom - top - 1) * rows.stride + 1, rows.stride)
                across = slice(at, at + (right - left - 1) * columns.stride + 1, columns.stride)
                into = (slice(None), slice(top, bottom), slice(left, right))
                seen = x[:, down, across]
                better = (seen > out[into]) | (found[into] < 0)
                out[into] = np.where(better, seen, out[into])
                found[into] = np.where(better, index[:, down, across], found[into])
    if attrs.get("include_batch_in_index", False):
        found += np.arange(images, dtype=np.int64).reshape(-1, 1, 1, 1) * index.size
    return out, found.astype(attrs.get("Targmax", "int64"))


@op("AvgPool", "AvgPool3D", infer=_pooled)
def avg_pool(attrs: Attrs, x: NDArray) -> NDArray:
    """The mean of each window's real elements: padding is not counted."""
    images = first_to_last(x) if channels_first(attrs) else x
    windows = pool_slides(attrs, images.shape)
    result = _running(images.astype(np.float32) if is_half(x.dtype) else images, windows, np.add, 0)
    for axis, window in enumerate(windows):
        if window.moves:
            reaches = [window.reach(t, images.shape[axis]) for t in range(window.size)]
            counts = np.array([sum(first <= i < last for first, last, _ in reaches) for i in range(window.count)], result.dtype)
            result /= counts.reshape(-1, *[1] * (result.ndim - axis - 1))
    return np.ascontiguousarray(last_to_first(result) if channels_first(attrs) else result, x.dtype)


def _dilated(attrs: Attrs, operands: Sequence[Abstract]) -> Sequence[Abstract]:
    x, structure = operands
    if len(x.shape) != 4 or len(structure.shape) != 3 or x.shape[3] != structure.shape[2]:
        raise shapes_differ("Dilation2D", x.shape, structure.shape)
    rows, columns = _dilation_slides(attrs, x.shape, structure.shape)
    return [Abstract((x.shape[0], rows.count, columns.count, x.shape[3]), x.dtype)]


def _dilation_slides(attrs: Attrs, shape: Sequence[int], structure: Sequence[int]) -> tuple[Slide, Slide]:
    rows, columns = (slide(attrs["padding"], (), shape[i], structure[i - 1], attrs["strides"][i], attrs["rates"][i]) for i in (1, 2))
    return rows, columns


@op("Dilation2D", infer=_dilated)
def dilation2d(attrs: Attrs, x: NDArray, structure: NDArray) -> NDArray:
    """The largest of x + structure in each window (grey-scale morphology): x (N, H, W, C), structure (KH, KW, C)."""
    rows, columns = _dilation_slides(attrs, x.shape, structure.shape)
    out = np.full((len(x), rows.count, columns.count, x.shape[3]), _lowest(x.dtype), x.dtype)
    for dy in range(rows.size):
        top, bottom, y = rows.reach(dy, x.shape[1])
        for dx in range(columns.size):
            left, right, at = columns.reach(dx, x.shape[2])
            if top < bottom and left < right:
                seen = x[
                    :, y : y + (bottom - top - 1) * rows.stride + 1 : rows.stride, at : at + (right - left - 1) * columns.stride + 1 : columns.stride
                ]
                into = out[:, top:bottom, left:right]
                np.maximum(into, seen + structure[dy, dx], out=into)
    return out
