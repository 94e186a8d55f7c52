"""Resizing and cropping of NHWC images, by the sampling positions of TensorFlow's CPU kernels (computed in float32, as there)."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from bnexport.errors import InputError
from bnexport.kernels.rules import integers, known, same_rank
from bnexport.kernels.table import Abstract, Attrs, Infer, NDArray, op, shapes_differ

BICUBIC_TABLE = 1024
"""TensorFlow rounds the position between two pixels to 1/1024 before it looks up the weights of a bicubic resize."""


def _resized(to_float: bool) -> Infer:
    def infer(attrs: Attrs, operands: Sequence[Abstract]) -> Sequence[Abstract]:
        x, size = operands[:2]
        same_rank(4, x)
        height, width = integers(known(size, "size of an image"))
        if height <= 0 or width <= 0 or 0 in x.shape[1:3]:
            raise shapes_differ("resizing", x.shape, (height, width))
        return [Abstract((x.shape[0], height, width, x.shape[3]), np.dtype(np.float32) if to_float else x.dtype)]

    return infer


def _scale(attrs: Attrs, size: int, to: int) -> np.float32:
    if attrs.get("align_corners", False) and to > 1:
        return np.float32((size - 1) / np.float32(to - 1))
    return np.float32(size / np.float32(to))


def _positions(attrs: Attrs, size: int, to: int) -> NDArray:
    """Where in the input each output pixel lies, in float32."""
    at = np.arange(to, dtype=np.float32)
    scale = _scale(attrs, size, to)
    if attrs.get("half_pixel_centers", False):
        return np.asarray((at + np.float32(0.5)) * scale - np.float32(0.5))
    return np.asarray(at * scale)


def _between(x: NDArray, axis: int, low: NDArray, high: NDArray, weight: NDArray) -> NDArray:
    """Linear interpolation along one axis."""
    below, above = x.take(low, axis), x.take(high, axis)
    above -= below
    above *= weight.reshape(-1, *[1] * (x.ndim - axis - 1))
    above += below
    return above


def bilinear_positions(attrs: Attrs, size: int, to: int) -> tuple[NDArray, NDArray, NDArray]:
    """For each output pixel along a dimension of `size`: the input pixels below and above it, and the weight of the upper one."""
    position = _positions(attrs, size, to)
    floor = np.floor(position)
    return np.maximum(floor, 0).astype(np.intp), np.minimum(np.ceil(position), size - 1).astype(np.intp), position - floor


@op("ResizeBilinear", infer=_resized(to_float=True))
def resize_bilinear(attrs: Attrs, x: NDArray, size: NDArray) -> NDArray:
    """Linear interpolation between the four nearest pixels (`align_corners`, `half_pixel_centers`); the result is float32."""
    result: NDArray = x.astype(np.float32, copy=False)
    for axis, to in reversed(list(enumerate(integers(size), start=1))):
        result = _between(result, axis, *bilinear_positions(attrs, x.shape[axis], to))
    return result


def nearest_positions(attrs: Attrs, size: int, to: int) -> NDArray:
    """The input pixel along a dimension of `size` that each output pixel repeats."""
    position = np.arange(to, dtype=np.float32)
    if attrs.get("half_pixel_centers", False):
        position += np.float32(0.5)
    position *= _scale(attrs, size, to)
    # halves away from zero, as roundf has it
    whole = np.floor(position + np.float32(0.5)) if attrs.get("align_corners", False) else np.floor(position)
    return np.clip(whole, 0, size - 1).astype(np.intp)


@op("ResizeNearestNeighbor", infer=_resized(to_float=False))
def resize_nearest_neighbor(attrs: Attrs, x: NDArray, size: NDArray) -> NDArray:
    """The nearest pixel, in TensorFlow's sense: rounded down, or to the nearest one with `align_corners`."""
    result = x
    for axis, to in enumerate(integers(size), start=1):
        result = result.take(nearest_positions(attrs, x.shape[axis], to), axis)
    return result


def _cubic(fraction: NDArray, a: float) -> tuple[NDArray, NDArray]:
    """Keys' cubic convolution kernel at distances `fraction` and 1 + `fraction`, in float32 as TensorFlow tabulates it."""
    near = ((a + 2) * fraction - (a + 3)) * fraction * fraction + 1
    x = fraction + 1
    far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    return near.astype(np.float32), far.astype(np.float32)


def _cubic_weights(attrs: Attrs, size: int, to: int) -> tuple[NDArray, NDArray]:
    """For each output pixel, four input pixels and their weights: (to, 4) each."""
    keys = attrs.get("half_pixel_centers", False)
    position = _positions(attrs, size, to)
    floor = np.floor(position)
    step = np.rint((position - floor) * np.float32(BICUBIC_TABLE))
    a = -0.5 if keys else -0.75
    near, far = _cubic(step / BICUBIC_TABLE, a)
    next_near, next_far = _cubic(1 - step / BICUBIC_TABLE, a)
    wanted = floor.astype(np.intp)[:, None] + np.arange(-1, 3)
    inside = np.clip(wanted, 0, size - 1)
    weights = np.stack([far, near, next_near, next_far], axis=1)
    if keys:
        weights = np.where(inside == wanted, weights, np.float32(0))
        weights = weights / weights.sum(axis=1, keepdims=True)
    return inside, weights


@op("ResizeBicubic", infer=_resized(to_float=True))
def resize_bicubic(attrs: Attrs, x: NDArray, size: NDArray) -> NDArray:
    """Cubic convolution over 16 pixels: Keys' a = -0.5, nothing beyond the edge, with `half_pixel_centers`; else a = -0.75 and repeated edges."""
    result: NDArray = x.astype(np.float32, copy=False)
    for axis, to in reversed(list(enumerate(integers(size), start=1))):
        pixels, weights = _cubic_weights(attrs, x.shape[axis], to)
        tail = [1] * (x.ndim - axis - 1)
        parts = [result.take(pixels[:, i], axis) * weights[:, i].reshape(-1, *tail) for i in range(4)]
        result = parts[0] + parts[1] + parts[2] + parts[3]
    return result


@op("ResizeArea", infer=_resized(to_float=True))
def resize_area(attrs: Attrs, x: NDArray, size: NDArray) -> NDArray:
    """The mean over the area that each output pixel covers; pixels count by the part of them that is covered."""
    result: NDArray = x.astype(np.float32, copy=False)
    for axis, to in enumerate(integers(size), start=1):
        n = x.shape[axis]
        scale = _scale(attrs, n, to) or np.float32(n / np.float32(to))  # corners that are one pixel are not aligned
        start = np.arange(to, dtype=np.float32) * scale
        stop = np.arange(1, to + 1, dtype=np.float32) * scale
        weights = np.zeros((to, n), np.float32)
        for i in range(to):
            for pixel in range(int(np.floor(start[i])), int(np.ceil(stop[i]))):
                # what lies beyond the edge counts as the edge
                weights[i, min(pixel, n - 1)] += min(pixel + 1, stop[i]) - max(pixel, start[i])
        result = np.moveaxis(np.tensordot(np.true_divide(weights, scale, dtype=np.float32), result, (1, axis)), 0, axis)
    return np.ascontiguousarray(result)


def _contrasted(attrs: Attrs, operands: Sequence[Abstract]) -> Sequence[Abstract]:
    x, factor = operands
    if len(x.shape) < 3 or factor.shape:
        raise shapes_differ("adjusting the contrast", x.shape, factor.shape)
    return [Abstract(x.shape, x.dtype)]


@op("AdjustContrastv2", infer=_contrasted)
def adjust_contrast(attrs: Attrs, x: NDArray, factor: NDArray) -> NDArray:
    """(x - mean) · factor + mean, with the mean of each channel of each image (..., H, W, C)."""
    mean = x.mean(axis=(-3, -2), keepdims=True, dtype=np.float64 if x.dtype == np.float64 else np.float32)
    return np.asarray((x - mean) * factor + mean).astype(x.dtype)


def _cropped(attrs: Attrs, operands: Sequence[Abstract]) -> Sequence[Abstract]:
    x, boxes, of, size = operands
    same_rank(4, x)
    height, width = integers(known(size, "size of a crop"))
    if len(boxes.shape) != 2 or boxes.shape[1] != 4 or of.shape != boxes.shape[:1]:
        raise shapes_differ("CropAndResize", boxes.shape, of.shape)
    return [Abstract((boxes.shape[0], height, width, x.shape[3]), np.dtype(np.float32))]


def _box_positions(low: Any, high: Any, size: int, to: int) -> tuple[NDArray, NDArray]:
    """Where the pixels of a crop lie along one dimension, and which of them lie inside the image."""
    last = np.float32(size - 1)
    if to > 1:
        at = low * last + np.arange(to, dtype=np.float32) * ((high - low) * last / np.float32(to - 1))
    else:
        at = np.array([np.float32(0.5) * (low + high) * last], np.float32)
    return at, (at >= 0) & (at <= last)


@op("CropAndResize", infer=_cropped)
def crop_and_resize(attrs: Attrs, x: NDArray, boxes: NDArray, of: NDArray, size: NDArray) -> NDArray:
    """Crops (y1, x1, y2, x2 in units of the image) of the images `of`, resized by `method` bilinear or nearest.

    What lies outside of the image has the `extrapolation_value`.

    Raises:
        InputError: there is no such image among those given.
    """
    height, width = integers(size)
    if of.size and (of.min() < 0 or of.max() >= len(x)):
        raise InputError(f"CropAndResize is asked for an image that is not among the {len(x)} given")
    out = np.empty((len(boxes), height, width, x.shape[3]), np.float32)
    for box, index, crop in zip(boxes, of, out, strict=True):
        image = x[index].astype(np.float32, copy=False)
        ys, ys_inside = _box_positions(box[0], box[2], x.shape[1], height)
        xs, xs_inside = _box_positions(box[1], box[3], x.shape[2], width)
        crop[...] = np.float32(attrs.get("extrapolation_value", 0.0))
        ys, xs = ys[ys_inside], xs[xs_inside]
        if attrs.get("method", "bilinear") == "nearest":
            values = image[np.floor(ys + np.float32(0.5)).astype(np.intp)][:, np.floor(xs + np.float32(0.5)).astype(np.intp)]
        else:
            across = _between(image, 1, np.floor(xs).astype(np.intp), np.ceil(xs).astype(np.intp), xs - np.floor(xs))
            values = _between(across, 0, np.floor(ys).astype(np.intp), np.ceil(ys).astype(np.intp), ys - np.floor(ys))
        crop[np.ix_(ys_inside, xs_inside)] = values
    return out


def _lanczos(radius: float) -> Callable[[NDArray], NDArray]:
    return lambda x: np.asarray(np.where(x > radius, 0, np.sinc(x) * np.sinc(x / radius)))


def _keys(x: NDArray) -> NDArray:
    near, far = (1.5 * x - 2.5) * x * x + 1, ((-0.5 * x + 2.5) * x - 4) * x + 2
    return np.asarray(np.where(x >= 2, 0, np.where(x >= 1, far, near)))


def _mitchell(x: NDArray) -> NDArray:
    near, far = (7 / 6 * x - 2) * x * x + 8 / 9, ((-7 / 18 * x + 2) * x - 10 / 3) * x + 16 / 9
    return np.asarray(np.where(x >= 2, 0, np.where(x >= 1, far, near)))


_KERNELS: dict[str, tuple[float, Callable[[NDArray], NDArray]]] = {
    "lanczos1": (1.0, _lanczos(1)),
    "lanczos3": (3.0, _lanczos(3)),
    "lanczos5": (5.0, _lanczos(5)),
    "gaussian": (1.5, lambda x: np.where(x >= 1.5, 0, np.exp(-2 * x * x))),
    "box": (1.0, lambda x: np.where(x < 0.5, 1.0, np.where(x == 0.5, 0.5, 0.0))),
    "triangle": (1.0, lambda x: np.maximum(1 - x, 0)),
    "keyscubic": (2.0, _keys),
    "mitchellcubic": (2.0, _mitchell),
}
"""The radius of each kernel to resample with, and its value at distances from its centre (sampling_kernels.h)."""


def _resampling(attrs: Attrs, size: int, to: int, scale: Any, shift: Any) -> NDArray:
    """How much of each input pixel along a dimension each output pixel has: (to, size)."""
    radius, kernel = _KERNELS[attrs.get("kernel_type", "lanczos3")]
    step = np.float32(1) / scale
    wide = max(step, np.float32(1)) if attrs.get("antialias", True) else np.float32(1)
    at = (np.arange(to, dtype=np.float32) + np.float32(0.5)) * step - step * shift
    low = np.clip(np.ceil(at - radius * wide - 0.5), 0, size - 1)
    high = np.clip(np.floor(at + radius * wide - 0.5), 0, size - 1)
    pixel = np.arange(size, dtype=np.float32)
    weights = kernel(np.abs(pixel + np.float32(0.5) - at[:, None]) / wide)
    seen = (pixel >= low[:, None]) & (pixel <= high[:, None]) & (at >= 0)[:, None] & (at <= size)[:, None]
    weights = np.where(seen, weights, 0)
    total = weights.sum(axis=1, keepdims=True)
    return np.where(total == 0, weights, weights / np.where(total == 0, 1, total)).astype(np.float32)


@op("ScaleAndTranslate", infer=_resized(to_float=True))
def scale_and_translate(attrs: Attrs, x: NDArray, size: NDArray, scale: NDArray, shift: NDArray) -> NDArray:
    """x scaled and moved, resampled by `kernel_type`, which is as wide as a pixel of the result with `antialias`; zero beyond the edge."""
    result: NDArray = x.astype(np.float32, copy=False)
    for axis, to in enumerate(integers(size), start=1):
        weights = _resampling(attrs, x.shape[axis], to, scale[axis - 1], shift[axis - 1])
        result = np.moveaxis(np.tensordot(weights, result, (1, axis)), 0, axis)
    return np.ascontiguousarray(result)
