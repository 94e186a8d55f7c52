"""Moving elements between space, depth and batch."""

from collections.abc import Sequence

import numpy as np

from bnexport.errors import GraphError
from bnexport.kernels.rules import integers, known, same_rank
from bnexport.kernels.table import Abstract, Attrs, NDArray, Shape, op, shapes_differ
from bnexport.kernels.window import channels_first, first_to_last, last_to_first, nhwc_shape, own_shape


def _pairs(values: NDArray) -> list[tuple[int, int]]:
    return [(int(before), int(after)) for before, after in values.reshape(-1, 2)]


def _to_batch(shape: Shape, block: Sequence[int], paddings: Sequence[tuple[int, int]]) -> Shape:
    m = len(block)
    padded = [b + n + a for n, (b, a) in zip(shape[1 : 1 + m], paddings, strict=True)]
    if len(shape) < 1 + m or any(n % b for n, b in zip(padded, block, strict=True)):
        raise shapes_differ(f"SpaceToBatchND with blocks of {list(block)}", shape, tuple(padded))
    batch = shape[0]
    for b in block:
        batch *= b
    return (batch, *(n // b for n, b in zip(padded, block, strict=True)), *shape[1 + m :])


def _space_to_batch(x: NDArray, block: Sequence[int], paddings: Sequence[tuple[int, int]]) -> NDArray:
    m = len(block)
    shape = _to_batch(x.shape, block, paddings)
    padded = np.pad(x, [(0, 0), *paddings, *[(0, 0)] * (x.ndim - 1 - m)])
    inner = [size for n, b in zip(shape[1 : 1 + m], block, strict=True) for size in (n, b)]
    split = padded.reshape(x.shape[0], *inner, *x.shape[1 + m :])
    order = [*range(2, 2 * m + 1, 2), 0, *range(1, 2 * m, 2), *range(2 * m + 1, split.ndim)]
    return np.array(split.transpose(order).reshape(shape))


def _from_batch(shape: Shape, block: Sequence[int], crops: Sequence[tuple[int, int]]) -> Shape:
    m = len(block)
    parts = 1
    for b in block:
        parts *= b
    if len(shape) < 1 + m or shape[0] % parts:
        raise shapes_differ(f"BatchToSpaceND with blocks of {list(block)}", shape)
    spatial = [n * b - c - d for n, b, (c, d) in zip(shape[1 : 1 + m], block, crops, strict=True)]
    if any(n < 0 for n in spatial):
        raise GraphError(f"BatchToSpaceND crops {[list(c) for c in crops]}, which is more than there is in {list(shape)}")
    return (shape[0] // parts, *spatial, *shape[1 + m :])


def _batch_to_space(x: NDArray, block: Sequence[int], crops: Sequence[tuple[int, int]]) -> NDArray:
    m = len(block)
    shape = _from_batch(x.shape, block, crops)
    split = x.reshape(*block, shape[0], *x.shape[1:])
    order = [m, *(axis for i in range(m) for axis in (m + 1 + i, i)), *range(2 * m + 1, split.ndim)]
    whole = split.transpose(order).reshape(shape[0], *(n * b for n, b in zip(x.shape[1 : 1 + m], block, strict=True)), *x.shape[1 + m :])
    return np.array(whole[(slice(None), *(slice(c, c + n) for (c, _), n in zip(crops, shape[1 : 1 + m], strict=True)))])


def _space_to_batch_nd_shape(attrs: Attrs, operands: Sequence[Abstract]) -> Sequence[Abstract]:
    x, block, paddings = operands
    return [Abstract(_to_batch(x.shape, integers(known(block, "block shape")), _pairs(known(paddings, "padding"))), x.dtype)]


@op("SpaceToBatchND", infer=_space_to_batch_nd_shape)
def space_to_batch_nd(attrs: Attrs, x: NDArray, block: NDArray, paddings: NDArray) -> NDArray:
    """Every block-th element of the padded spatial dimensions makes an image of its own, the images one behind the other in the batch."""
    return _space_to_batch(x, integers(block), _pairs(paddings))


def _batch_to_space_nd_shape(attrs: Attrs, operands: Sequence[Abstract]) -> Sequence[Abstract]:
    x, block, crops = operands
    return [Abstract(_from_batch(x.shape, integers(known(block, "block shape")), _pairs(known(crops, "crops"))), x.dtype)]


@op("BatchToSpaceND", infer=_batch_to_space_nd_shape)
def batch_to_space_nd(attrs: Attrs, x: NDArray, block: NDArray, crops: NDArray) -> NDArray:
    """What undoes SpaceToBatchND; `crops` are cut off the spatial dimensions afterwards."""
    return _batch_to_space(x, integers(block), _pairs(crops))


def _space_to_batch_shape(attrs: Attrs, operands: Sequence[Abstract]) -> Sequence[Abstract]:
    x, paddings = operands
    return [Abstract(_to_batch(x.shape, [attrs["block_size"]] * 2, _pairs(known(paddings, "padding"))), x.dtype)]


@op("SpaceToBatch", infer=_space_to_batch_shape)
def space_to_batch(attrs: Attrs, x: NDArray, paddings: NDArray) -> NDArray:
    """SpaceToBatchND of NHWC images with one `block_size` for height and width."""
    return _space_to_batch(x, [attrs["block_size"]] * 2, _pairs(paddings))


def _batch_to_space_shape(attrs: Attrs, operands: Sequence[Abstract]) -> Sequence[Abstract]:
    x, crops = operands
    return [Abstract(_from_batch(x.shape, [attrs["block_size"]] * 2, _pairs(known(crops, "crops"))), x.dtype)]


@op("BatchToSpace", infer=_batch_to_space_shape)
def batch_to_space(attrs: Attrs, x: NDArray, crops: NDArray) -> NDArray:
    """BatchToSpaceND of NHWC images with one `block_size` for height and width."""
    return _batch_to_space(x, [attrs["block_size"]] * 2, _pairs(crops))


def _to_depth(attrs: Attrs, operands: Sequence[Abstract]) -> Sequence[Abstract]:
    same_rank(4, operands[0])
    n, h, w, c = nhwc_shape(operands[0].shape, attrs)
    b = attrs["block_size"]
    if h % b or w % b:
        raise shapes_differ(f"SpaceToDepth with blocks of {b}", operands[0].shape)
    return [Abstract(own_shape((n, h // b, w // b, c * b * b), attrs), operands[0].dtype)]


@op("SpaceToDepth", infer=_to_depth)
def space_to_depth(attrs: Attrs, x: NDArray) -> NDArray:
    """Blocks of `block_size` by `block_size` pixels become one pixel of so many times the channels."""
    n, h, w, c = nhwc_shape(x.shape, attrs)
    b = attrs["block_size"]
    blocks = (first_to_last(x) if channels_first(attrs) else x).reshape(n, h // b, b, w // b, b, c)
    deep = blocks.transpose(0, 1, 3, 2, 4, 5).reshape(n, h // b, w // b, b * b * c)
    return np.array(last_to_first(deep) if channels_first(attrs) else deep)


def _from_depth(attrs: Attrs, operands: Sequence[Abstract]) -> Sequence[Abstract]:
    same_rank(4, operands[0])
    n, h, w, c = nhwc_shape(operands[0].shape, attrs)
    b = attrs["block_size"]
    if c % (b * b):
        raise shapes_differ(f"DepthToSpace with blocks of {b}", operands[0].shape)
    return [Abstract(own_shape((n, h * b, w * b, c // (b * b)), attrs), operands[0].dtype)]


@op("DepthToSpace", infer=_from_depth)
def depth_to_space(attrs: Attrs, x: NDArray) -> NDArray:
    """What undoes SpaceToDepth."""
    n, h, w, c = nhwc_shape(x.shape, attrs)
    b = attrs["block_size"]
    blocks = (first_to_last(x) if channels_first(attrs) else x).reshape(n, h, w, b, b, c // (b * b))
    flat = blocks.transpose(0, 1, 3, 2, 4, 5).reshape(n, h * b, w * b, c // (b * b))
    return np.array(last_to_first(flat) if channels_first(attrs) else flat)
