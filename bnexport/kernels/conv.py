"""Convolutions. Inside, images are NHWC and kernels HWIO; other layouts are views turned on the way in and out."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

from bnexport.kernels.rules import integers, is_half, known, same_rank
from bnexport.kernels.table import Abstract, Attrs, NDArray, op, shapes_differ
from bnexport.kernels.window import (
    Slide,
    channels_first,
    first_to_last,
    last_to_first,
    nhwc_shape,
    own_shape,
    per_dimension,
    scratch,
    slides,
)

BLOCK_BYTES = 4 << 20
"""How much of a convolution's windows is laid out at a time: it should still be in the cache when the matrix product reads it."""
STRIP_BYTES = 512 << 10
"""How much of a depthwise or transposed convolution's result is worked on at a time; every tap passes over it."""
BLOCK_ROWS = 256
"""A matrix product of fewer rows spends too much of its time on packing the kernel, so blocks have at least so many where there are."""


def convolve(x: NDArray, kernel: NDArray, rows: Slide, columns: Slide) -> NDArray:
    """The cross-correlation that is called convolution: x (N, H, W, C) with kernel (KH, KW, C/groups, K) gives (N, OH, OW, K).

    There are C / kernel.shape[2] groups. A window of one element is one matrix product on the data as it lies; any other is laid out row by row
    (im2col) in a block of `BLOCK_BYTES`, which is multiplied straight into its place in the result.
    """
    n, _, _, c = x.shape
    k = kernel.shape[3]
    groups = c // kernel.shape[2]
    out = np.empty((n, rows.count, columns.count, k), x.dtype)
    if out.size == 0:
        return out
    padded = rows.before or rows.after or columns.before or columns.after
    if groups == 1 and not padded and rows.size == columns.size == 1:
        points = x[:, : rows.count * rows.stride : rows.stride, : columns.count * columns.stride : columns.stride]
        np.matmul(points.reshape(-1, c), kernel.reshape(c, k), out=out.reshape(-1, k))
        return out
    if groups == 1:
        matrix = kernel.reshape(-1, k)
    else:
        matrix = np.ascontiguousarray(kernel.reshape(-1, groups, k // groups).transpose(1, 0, 2))
    window_bytes = rows.size * columns.size * c * x.itemsize
    windows_per_block = max(BLOCK_ROWS, BLOCK_BYTES // window_bytes)
    high = min(rows.count, max(1, windows_per_block // columns.count))
    deep = max(1, windows_per_block // (columns.count * rows.count))
    for first in range(0, n, deep):
        images = x[first : first + deep]
        for top in range(0, rows.count, high):
            bottom = min(rows.count, top + high)
            windows = _windows(images, rows, columns, top, bottom, groups)
            laid_out = scratch("windows", windows.shape, x.dtype)
            np.copyto(laid_out, windows)
            into = out[first : first + deep, top:bottom].reshape(-1, k)
            if groups == 1:
                np.matmul(laid_out.reshape(len(into), -1), matrix, out=into)
            else:
                by_group = scratch("products", (groups, len(into), k // groups), x.dtype)
                np.matmul(laid_out.reshape(groups, len(into), -1), matrix, out=by_group)
                into.reshape(-1, groups, k // groups)[...] = by_group.transpose(1, 0, 2)
    return out


def _windows(images: NDArray, rows: Slide, columns: Slide, top: int, bottom: int, groups: int) -> NDArray:
    """The windows of output rows top … bottom as a view (groups, N, rows, OW, KH, KW, C/groups)."""
    strip = padded_rows(images, rows, columns, top, bottom)
    n, _, _, c = strip.shape
    along_n, along_y, along_x, along_c = strip.strides
    return as_strided(
        strip,
        (groups, n, bottom - top, columns.count, rows.size, columns.size, c // groups),
        (
            along_c * (c // groups),
            along_n,
            along_y * rows.stride,
            along_x * columns.stride,
            along_y * rows.dilation,
            along_x * columns.dilation,
            along_c,
        ),
        writeable=False,
    )


def padded_rows(images: NDArray, rows: Slide, columns: Slide, top: int, bottom: int) -> NDArray:
    """The rows of images that the windows of output rows top … bottom touch, with the padding around: a view where there is none."""
    n, height, width, c = images.shape
    start = top * rows.stride - rows.before
    stop = (bottom - 1) * rows.stride - rows.before + (rows.size - 1) * rows.dilation + 1
    right = max(0, (columns.count - 1) * columns.stride + (columns.size - 1) * columns.dilation + 1 - columns.before - width)
    real_start, real_stop = max(0, start), max(min(height, stop), max(0, start))
    if start >= 0 and stop <= height and columns.before == 0 and right == 0:
        return images[:, start:stop]
    strip = scratch("padded", (n, stop - start, columns.before + width + right, c), images.dtype)
    strip[:, : real_start - start] = 0
    strip[:, real_stop - start :] = 0
    real = strip[:, real_start - start : real_stop - start]
    real[:, :, : columns.before] = 0
    real[:, :, columns.before + width :] = 0
    real[:, :, columns.before : columns.before + width] = images[:, real_start:real_stop]
    return strip


def depthwise(x: NDArray, kernel: NDArray, rows: Slide, columns: Slide) -> NDArray:
    """Each channel convolved by itself: x (N, H, W, C) with kernel (KH, KW, C, M) gives (N, OH, OW, C·M)."""
    n, _, _, c = x.shape
    m = kernel.shape[3]
    out = np.empty((n, rows.count, columns.count, c * m), x.dtype)
    if out.size == 0:
        return out
    # one tap's weights for a whole output row, so that NumPy's innermost loop runs over the row and not over its few channels
    weights = np.broadcast_to(kernel[:, :, None], (rows.size, columns.size, columns.count, c, m)).reshape(
        rows.size, columns.size, columns.count, c * m
    )
    high = min(rows.count, max(1, STRIP_BYTES // (columns.count * c * m * x.itemsize)))
    for image, result in zip(x, out, strict=True):
        for top in range(0, rows.count, high):
            bottom = min(rows.count, top + high)
            strip = padded_rows(image[None], rows, columns, top, bottom)[0]
            total = result[top:bottom]
            term = scratch("products", total.shape, x.dtype)
            for dy in range(rows.size):
                for dx in range(columns.size):
                    down = slice(dy * rows.dilation, dy * rows.dilation + (bottom - top - 1) * rows.stride + 1, rows.stride)
                    across = slice(dx * columns.dilation, dx * columns.dilation + (columns.count - 1) * columns.stride + 1, columns.stride)
                    seen = strip[down, across]
                    if m > 1:
                        seen = np.repeat(seen, m, axis=-1)
                    if dy == dx == 0:
                        np.multiply(seen, weights[dy, dx], out=total)
                    else:
                        np.multiply(seen, weights[dy, dx], out=term)
                        total += term
    return out


def spread(y: NDArray, kernel: NDArray, shape: Sequence[int], rows: Slide, columns: Slide) -> NDArray:
    """The transpose of `convolve`: y (N, OH, OW, K) with kernel (KH, KW, C, K) gives x of `shape` (N, H, W, C).

    Every y spreads kernel·y over the window it would have come from; what falls on the padding is lost.
    """
    n, height, width, c = shape
    out = np.zeros((n, height, width, c), y.dtype)
    deep = max(1, STRIP_BYTES // max(1, rows.count * columns.count * c * y.itemsize))
    for first in range(0, n, deep):
        block = y[first : first + deep]
        points = block.reshape(-1, y.shape[3])
        term = scratch("products", (len(points), c), y.dtype)
        for dy in range(rows.size):
            top, bottom, at_y = rows.reach(dy, height)
            for dx in range(columns.size):
                left, right, at_x = columns.reach(dx, width)
                if top >= bottom or left >= right:
                    continue
                np.matmul(points, kernel[dy, dx].T, out=term)
                to = out[
                    first : first + deep,
                    at_y : at_y + (bottom - top - 1) * rows.stride + 1 : rows.stride,
                    at_x : at_x + (right - left - 1) * columns.stride + 1 : columns.stride,
                ]
                to += term.reshape(len(block), rows.count, columns.count, c)[:, top:bottom, left:right]
    return out


def _slides(attrs: Attrs, lengths: Sequence[int], sizes: Sequence[int]) -> list[Slide]:
    """The slides along the spatial dimensions of (N, …, C) data of a kernel of the given spatial sizes."""
    rank = len(lengths)
    every = slides(attrs, lengths, (1, *sizes, 1), per_dimension(attrs, "strides", rank), per_dimension(attrs, "dilations", rank))
    return every[1:-1]


def _convolved(attrs: Attrs, operands: Sequence[Abstract]) -> Sequence[Abstract]:
    x, kernel = operands
    rank = len(x.shape)
    same_rank(len(kernel.shape), x)
    shape = nhwc_shape(x.shape, attrs)
    inner, outer = kernel.shape[-2:]
    if inner == 0 or shape[-1] % inner or outer % (shape[-1] // inner) or (rank == 5 and shape[-1] != inner):
        raise shapes_differ("the channels of a convolution", x.shape, kernel.shape)
    spatial = [s.count for s in _slides(attrs, shape, kernel.shape[:-2])]
    return [Abstract(own_shape((shape[0], *spatial, outer), attrs), x.dtype)]


def _wide(*arrays: NDArray) -> list[NDArray]:
    """Half floats in float32, in which their products are summed; anything else as it is."""
    return [a.astype(np.float32) if is_half(a.dtype) else a for a in arrays]


def _finished(result: NDArray, attrs: Attrs, dtype: "np.dtype[Any]") -> NDArray:
    return np.ascontiguousarray(last_to_first(result) if channels_first(attrs) else result, dtype)


@op("Conv2D", "DynamicConv2D", infer=_convolved)
def conv2d(attrs: Attrs, x: NDArray, kernel: NDArray) -> NDArray:
    """2-D convolution (`convolve`) with `strides`, `padding`, `explicit_paddings`, `data_format` and `dilations`."""
    images, weights = _wide(first_to_last(x) if channels_first(attrs) else x, kernel)
    return _finished(convolve(images, weights, *_slides(attrs, images.shape, weights.shape[:2])), attrs, x.dtype)


@op("Conv3D", "DynamicConv3D", infer=_convolved)
def conv3d(attrs: Attrs, x: NDArray, kernel: NDArray) -> NDArray:
    """3-D convolution: for every output plane, the sum of the 2-D convolutions of the planes it sees."""
    volumes, weights = _wide(first_to_last(x) if channels_first(attrs) else x, kernel)
    planes, rows, columns = _slides(attrs, volumes.shape, weights.shape[:3])
    out = np.zeros((len(volumes), planes.count, rows.count, columns.count, weights.shape[-1]), volumes.dtype)
    for tap in range(planes.size):
        first, last, at = planes.reach(tap, volumes.shape[1])
        for position in range(first, last):
            out[:, position] += convolve(volumes[:, at + (position - first) * planes.stride], weights[tap], rows, columns)
    return _finished(out, attrs, x.dtype)


def _depthwise_shape(attrs: Attrs, operands: Sequence[Abstract]) -> Sequence[Abstract]:
    x, kernel = operands
    same_rank(4, x, kernel)
    shape = nhwc_shape(x.shape, attrs)
    if kernel.shape[2] != shape[3]:
        raise shapes_differ("the channels of a depthwise convolution", x.shape, kernel.shape)
    rows, columns = _slides(attrs, shape, kernel.shape[:2])
    return [Abstract(own_shape((shape[0], rows.count, columns.count, math.prod(kernel.shape[2:])), attrs), x.dtype)]


@op("DepthwiseConv2dNative", infer=_depthwise_shape)
def depthwise_conv2d(attrs: Attrs, x: NDArray, kernel: NDArray) -> NDArray:
    """2-D convolution of each channel by itself (`depthwise`), with the attributes of Conv2D."""
    images, weights = _wide(first_to_last(x) if channels_first(attrs) else x, kernel)
    return _finished(depthwise(images, weights, *_slides(attrs, images.shape, weights.shape[:2])), attrs, x.dtype)


def _input_shape(attrs: Attrs, sizes: NDArray, kernel: Sequence[int], y: Sequence[int]) -> tuple[int, ...]:
    """The NHWC shape that the first operand of a transposed convolution asks for: all sizes, or only the height and the width.

    TensorFlow demands that the number of images there is y's, so that y's is what counts: the other may be what a graph was built for.
    """
    wanted = integers(sizes)
    if len(wanted) == 2:
        return (y[0], wanted[0], wanted[1], kernel[2])
    return (y[0], *nhwc_shape(tuple(wanted), attrs)[1:])


def _spread_shape(attrs: Attrs, operands: Sequence[Abstract]) -> Sequence[Abstract]:
    sizes, kernel, y = operands
    same_rank(4, kernel, y)
    back = nhwc_shape(y.shape, attrs)
    shape = _input_shape(attrs, known(sizes, "size of a transposed convolution"), kernel.shape, back)
    rows, columns = _slides(attrs, shape, kernel.shape[:2])
    if (shape[0], rows.count, columns.count, kernel.shape[3]) != back or shape[3] != kernel.shape[2]:
        raise shapes_differ("a transposed convolution", own_shape(shape, attrs), kernel.shape, y.shape)
    return [Abstract(own_shape(shape, attrs), y.dtype)]


@op("Conv2DBackpropInput", infer=_spread_shape)
def conv2d_backprop_input(attrs: Attrs, sizes: NDArray, kernel: NDArray, y: NDArray) -> NDArray:
    """Transposed 2-D convolution (`spread`) to an input of the given sizes, with the attributes of Conv2D."""
    back, weights = _wide(first_to_last(y) if channels_first(attrs) else y, kernel)
    shape = _input_shape(attrs, sizes, kernel.shape, back.shape)
    return _finished(spread(back, weights, shape, *_slides(attrs, shape, kernel.shape[:2])), attrs, y.dtype)


def _one_channel_each(kernel: NDArray) -> NDArray:
    """The kernel of the convolution that does what a depthwise one does: a channel's taps for its own results, and zeros for all others."""
    rows, columns, channels, times = kernel.shape
    whole = np.zeros((rows, columns, channels, channels, times), kernel.dtype)
    at = np.arange(channels)
    whole[:, :, at, at] = kernel
    return whole.reshape(rows, columns, channels, channels * times)


def _spread_by_channel(attrs: Attrs, operands: Sequence[Abstract]) -> Sequence[Abstract]:
    sizes, kernel, y = operands
    same_rank(4, kernel, y)
    rows, columns, channels, times = kernel.shape
    return _spread_shape(attrs, [sizes, Abstract((rows, columns, channels, channels * times), kernel.dtype), y])


@op("DepthwiseConv2dNativeBackpropInput", infer=_spread_by_channel)
def depthwise_conv2d_backprop_input(attrs: Attrs, sizes: NDArray, kernel: NDArray, y: NDArray) -> NDArray:
    """Transposed depthwise convolution, and the gradient of a depthwise one."""
    spread_out: NDArray = conv2d_backprop_input(attrs, sizes, _one_channel_each(kernel), y)
    return spread_out


def _volume_shape(attrs: Attrs, operands: Sequence[Abstract]) -> Sequence[Abstract]:
    sizes, kernel, y = operands
    same_rank(5, kernel, y)
    shape = _input_shape(attrs, known(sizes, "size of a transposed convolution"), kernel.shape, nhwc_shape(y.shape, attrs))
    counts = [s.count for s in _slides(attrs, shape, kernel.shape[:3])]
    if (shape[0], *counts, kernel.shape[4]) != nhwc_shape(y.shape, attrs) or shape[4] != kernel.shape[3]:
        raise shapes_differ("a transposed convolution", own_shape(shape, attrs), kernel.shape, y.shape)
    return [Abstract(own_shape(shape, attrs), y.dtype)]


@op("Conv3DBackpropInputV2", infer=_volume_shape)
def conv3d_backprop_input(attrs: Attrs, sizes: NDArray, kernel: NDArray, y: NDArray) -> NDArray:
    """Transposed 3-D convolution: every plane spreads (`spread`) over the planes it would have come from."""
    back, weights = _wide(first_to_last(y) if channels_first(attrs) else y, kernel)
    shape = _input_shape(attrs, sizes, kernel.shape, back.shape)
    planes, rows, columns = _slides(attrs, shape, kernel.shape[:3])
    out = np.zeros(shape, back.dtype)
    for tap in range(planes.size):
        first, last, at = planes.reach(tap, shape[1])
        for position in range(first, last):
            plane = at + (position - first) * planes.stride
            out[:, plane] += spread(back[:, position], weights[tap], (shape[0], *shape[2:]), rows, columns)
    return _finished(out, attrs, y.dtype)


def _patch_slides(attrs: Attrs, shape: Sequence[int]) -> tuple[Slide, Slide]:
    rows, columns = slides(attrs, shape, attrs["ksizes"], attrs["strides"], attrs["rates"])[1:3]
    return rows, columns


def _patches(attrs: Attrs, operands: Sequence[Abstract]) -> Sequence[Abstract]:
    x = operands[0]
    same_rank(4, x)
    rows, columns = _patch_slides(attrs, x.shape)
    return [Abstract((x.shape[0], rows.count, columns.count, rows.size * columns.size * x.shape[3]), x.dtype)]


@op("ExtractImagePatches", infer=_patches)
def extract_image_patches(attrs: Attrs, x: NDArray) -> NDArray:
    """The windows of a convolution (`ksizes`, `strides`, `rates`, `padding`), each laid out along the channels."""
    rows, columns = _patch_slides(attrs, x.shape)
    return np.array(_windows(x, rows, columns, 0, rows.count, 1)).reshape(len(x), rows.count, columns.count, -1)
