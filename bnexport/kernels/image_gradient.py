"""Gradients of pooling, resizing and batch normalisation with respect to the images, as maps of what a network looked at are made of."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from bnexport.errors import GraphError
from bnexport.kernels.image import bilinear_positions, nearest_positions
from bnexport.kernels.pool import max_pool_with_argmax, pool_slides
from bnexport.kernels.rules import integers, known, same_rank
from bnexport.kernels.table import Abstract, Attrs, NDArray, op, shapes_differ
from bnexport.kernels.window import channels_first, first_to_last, last_to_first, nhwc_shape


def _same_as_images(attrs: Attrs, operands: Sequence[Abstract]) -> Sequence[Abstract]:
    x, y, dy = operands
    same_rank(4, x, y, dy)
    if y.shape != dy.shape:
        raise shapes_differ("the gradient of a pool", y.shape, dy.shape)
    return [Abstract(x.shape, dy.dtype)]


@op("MaxPoolGrad", infer=_same_as_images)
def max_pool_grad(attrs: Attrs, x: NDArray, y: NDArray, dy: NDArray) -> NDArray:
    """dy at the place of each window's largest element, the first of equal ones; a place of several windows has the sum."""
    if channels_first(attrs):
        last = {**attrs, "data_format": "NHWC"}
        for name in ("ksize", "strides"):
            batch, channels, *space = attrs[name]
            last[name] = [batch, *space, channels]
        turned = max_pool_grad(last, first_to_last(x), first_to_last(y), first_to_last(dy))
        return np.ascontiguousarray(last_to_first(turned))
    _, places = max_pool_with_argmax({**attrs, "include_batch_in_index": True, "Targmax": "int64"}, x)
    total = np.bincount(places.reshape(-1), dy.reshape(-1), minlength=x.size)
    return total.astype(dy.dtype).reshape(x.shape)


def _as_large_as_said(attrs: Attrs, operands: Sequence[Abstract]) -> Sequence[Abstract]:
    shape, dy = operands
    same_rank(4, dy)
    return [Abstract(tuple(integers(known(shape, "shape of the images"))), dy.dtype)]


@op("AvgPoolGrad", infer=_as_large_as_said)
def avg_pool_grad(attrs: Attrs, shape: NDArray, dy: NDArray) -> NDArray:
    """dy shared out evenly among the real elements of each window."""
    size = nhwc_shape(tuple(integers(shape)), attrs)
    result = first_to_last(dy) if channels_first(attrs) else dy
    for axis, window in list(enumerate(pool_slides(attrs, size)))[1:3]:
        shares = np.zeros((window.count, size[axis]), np.float64)
        for tap in range(window.size):
            first, last, element = window.reach(tap, size[axis])
            shares[np.arange(first, last), element + window.stride * np.arange(last - first)] = 1
        result = _spread_out(result, shares / shares.sum(axis=1, keepdims=True), axis)
    return np.ascontiguousarray(last_to_first(result) if channels_first(attrs) else result, dy.dtype)


def _spread_out(x: NDArray, shares: NDArray, axis: int) -> NDArray:
    """Each element of an axis shared out among those of a new one, as the rows of `shares` say."""
    return np.moveaxis(np.tensordot(x, shares.astype(x.dtype), (axis, 0)), -1, axis)


def _normalised(attrs: Attrs, operands: Sequence[Abstract]) -> Sequence[Abstract]:
    dy, x, scale = operands[:3]
    if attrs.get("is_training", True):
        raise GraphError(
            "the gradient of a batch norm that normalises with the batch's statistics is that of training; "
            "build the graph with is_training=False where the gradient is a result"
        )
    if dy.shape != x.shape:
        raise shapes_differ("the gradient of a batch norm", dy.shape, x.shape)
    return [Abstract(x.shape, x.dtype), Abstract(scale.shape, scale.dtype), Abstract(scale.shape, scale.dtype), *[Abstract((0,), scale.dtype)] * 2]


@op("FusedBatchNormGrad", "FusedBatchNormGradV2", "FusedBatchNormGradV3", infer=_normalised)
def fused_batch_norm_grad(
    attrs: Attrs, dy: NDArray, x: NDArray, scale: NDArray, mean: NDArray, variance: NDArray, *_: NDArray
) -> tuple[NDArray, ...]:
    """With moving statistics: the gradients with respect to x, to the scale and to the offset, and two results of nothing."""
    axis = 1 if channels_first(attrs) else x.ndim - 1
    others = tuple(i for i in range(x.ndim) if i != axis)
    per_channel = [-1 if i == axis else 1 for i in range(x.ndim)]
    factor = 1 / np.sqrt(variance + scale.dtype.type(attrs.get("epsilon", 1e-4)))
    wide = dy.astype(np.float64)
    of_scale = (wide * (x - mean.reshape(per_channel))).sum(axis=others) * factor
    nothing = np.zeros(0, scale.dtype)
    return (
        (dy * (scale * factor).reshape(per_channel)).astype(x.dtype),
        of_scale.astype(scale.dtype),
        wide.sum(axis=others).astype(scale.dtype),
        nothing,
        nothing,
    )


def _original_size(attrs: Attrs, operands: Sequence[Abstract]) -> Sequence[Abstract]:
    dy, of = operands
    same_rank(4, dy)
    height, width = of.shape[1:3] if len(of.shape) == 4 else integers(known(of, "size of an image"))
    return [Abstract((dy.shape[0], height, width, dy.shape[3]), of.dtype if len(of.shape) == 4 else dy.dtype)]


@op("ResizeBilinearGrad", infer=_original_size)
def resize_bilinear_grad(attrs: Attrs, dy: NDArray, x: NDArray) -> NDArray:
    """dy brought back to the pixels of x that each of its own was interpolated between."""
    result: Any = dy
    for axis in (1, 2):
        to, size = dy.shape[axis], x.shape[axis]
        low, high, weight = bilinear_positions(attrs, size, to)
        shares = np.zeros((to, size), np.float32)
        shares[np.arange(to), low] += 1 - weight
        shares[np.arange(to), high] += weight
        result = _spread_out(result, shares, axis)
    return np.ascontiguousarray(result, x.dtype)


@op("ResizeNearestNeighborGrad", infer=_original_size)
def resize_nearest_neighbor_grad(attrs: Attrs, dy: NDArray, size: NDArray) -> NDArray:
    """The sums of dy over the pixels that each of the original ones was repeated to."""
    result: Any = dy
    for axis, original in enumerate(integers(size), start=1):
        shares = np.zeros((dy.shape[axis], original), dy.dtype)
        shares[np.arange(dy.shape[axis]), nearest_positions(attrs, original, dy.shape[axis])] = 1
        result = _spread_out(result, shares, axis)
    return np.ascontiguousarray(result)


def _unpadded(attrs: Attrs, operands: Sequence[Abstract]) -> Sequence[Abstract]:
    dy, paddings = operands
    sides = known(paddings, "padding").reshape(-1, 2).sum(axis=1)
    if len(sides) != len(dy.shape):
        raise shapes_differ("the gradient of padding", dy.shape, paddings.shape)
    return [Abstract(tuple(int(n - side) for n, side in zip(dy.shape, sides, strict=True)), dy.dtype)]


@op("MirrorPadGrad", infer=_unpadded)
def mirror_pad_grad(attrs: Attrs, dy: NDArray, paddings: NDArray) -> NDArray:
    """dy with its frame folded back onto what was mirrored."""
    result: Any = dy
    for axis, (before, after) in enumerate(paddings):
        size = dy.shape[axis] - int(before) - int(after)
        origin = np.pad(np.arange(size), (int(before), int(after)), mode="symmetric" if attrs["mode"] == "SYMMETRIC" else "reflect")
        result = _spread_out(result, (origin[:, None] == np.arange(size)).astype(dy.dtype), axis)
    return np.ascontiguousarray(result)
