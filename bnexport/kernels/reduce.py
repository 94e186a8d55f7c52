"""Reductions, cumulative sums, and positions of extremes."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from bnexport.kernels.arithmetic import truncated_quotient
from bnexport.kernels.rules import axis_of, integers, is_half, is_integer, known, same_as_first
from bnexport.kernels.table import Abstract, Attrs, NDArray, Shape, op, shapes_differ

FLOAT32_TERMS = 256
"""Up to so many terms a float32 sum is taken in float32; beyond it in float64. NumPy's pairwise summation covers the innermost axis only."""


def _axes(axes: NDArray, rank: int) -> tuple[int, ...]:
    return tuple(sorted({axis_of(a, rank) for a in integers(axes)}))


def _reduced(shape: Shape, axes: tuple[int, ...], keep: bool) -> Shape:
    return tuple(1 if i in axes else n for i, n in enumerate(shape) if keep or i not in axes)


def _reduction(attrs: Attrs, operands: Sequence[Abstract]) -> Sequence[Abstract]:
    x, axes = operands
    at = _axes(known(axes, "axes of a reduction"), len(x.shape))
    return [Abstract(_reduced(x.shape, at, attrs.get("keep_dims", False)), x.dtype)]


def _terms(x: NDArray, axes: tuple[int, ...]) -> int:
    count = 1
    for axis in axes:
        count *= x.shape[axis]
    return count


def _accumulator(x: NDArray, axes: tuple[int, ...]) -> "np.dtype[Any]":
    """The dtype that a sum is taken in. Integers wrap round in their own, as TensorFlow's do."""
    if is_half(x.dtype):
        return np.dtype(np.float32)
    if x.dtype == np.float32 and axes != (x.ndim - 1,) and _terms(x, axes) > FLOAT32_TERMS:
        return np.dtype(np.float64)
    return np.dtype(x.dtype)


@op("Sum", infer=_reduction)
def sum_(attrs: Attrs, x: NDArray, axes: NDArray) -> Any:
    """The sum over some axes."""
    at = _axes(axes, x.ndim)
    total = np.add.reduce(x, axis=at, dtype=_accumulator(x, at), keepdims=attrs.get("keep_dims", False))
    return total.astype(x.dtype, copy=False)


@op("Mean", infer=_reduction)
def mean(attrs: Attrs, x: NDArray, axes: NDArray) -> Any:
    """The mean over some axes; of integers, rounded towards zero, and 0 where there are none. Their sum is taken in 64 bits."""
    at = _axes(axes, x.ndim)
    wide = np.dtype(np.uint64 if x.dtype.kind == "u" else np.int64) if is_integer(x.dtype) else _accumulator(x, at)
    total = np.add.reduce(x, axis=at, dtype=wide, keepdims=attrs.get("keep_dims", False))
    count = _terms(x, at)
    if is_integer(x.dtype):
        return truncated_quotient(total, total.dtype.type(max(count, 1))).astype(x.dtype)
    return np.true_divide(total, total.dtype.type(count)).astype(x.dtype, copy=False)


@op("EuclideanNorm", infer=_reduction)
def euclidean_norm(attrs: Attrs, x: NDArray, axes: NDArray) -> Any:
    """The root of the sum of squares over some axes."""
    at = _axes(axes, x.ndim)
    wide = x.astype(np.float32) if is_half(x.dtype) else x
    total = np.add.reduce(np.square(wide), axis=at, dtype=_accumulator(wide, at), keepdims=attrs.get("keep_dims", False))
    return np.sqrt(total).astype(x.dtype, copy=False)


@op("Prod", infer=_reduction)
def prod(attrs: Attrs, x: NDArray, axes: NDArray) -> Any:
    """The product over some axes."""
    at = _axes(axes, x.ndim)
    return np.multiply.reduce(x, axis=at, dtype=_accumulator(x, ()), keepdims=attrs.get("keep_dims", False)).astype(x.dtype, copy=False)


def _extreme(of_ufunc: "np.ufunc", of_nothing: Callable[["np.dtype[Any]"], Any]) -> Callable[[Attrs, NDArray, NDArray], Any]:
    def compute(attrs: Attrs, x: NDArray, axes: NDArray) -> Any:
        at, keep = _axes(axes, x.ndim), attrs.get("keep_dims", False)
        if _terms(x, at) == 0:
            return np.full(_reduced(x.shape, at, keep), of_nothing(x.dtype), x.dtype)
        return of_ufunc.reduce(x, axis=at, keepdims=keep)

    return compute


op("Max", infer=_reduction)(_extreme(np.maximum, lambda d: np.iinfo(d).min if is_integer(d) else -np.inf))
op("Min", infer=_reduction)(_extreme(np.minimum, lambda d: np.iinfo(d).max if is_integer(d) else np.inf))


@op("All", infer=_reduction)
def all_(attrs: Attrs, x: NDArray, axes: NDArray) -> Any:
    """Whether all elements along some axes are true."""
    return np.logical_and.reduce(x, axis=_axes(axes, x.ndim), keepdims=attrs.get("keep_dims", False))


@op("Any", infer=_reduction)
def any_(attrs: Attrs, x: NDArray, axes: NDArray) -> Any:
    """Whether any element along some axes is true."""
    return np.logical_or.reduce(x, axis=_axes(axes, x.ndim), keepdims=attrs.get("keep_dims", False))


def _position(attrs: Attrs, operands: Sequence[Abstract]) -> Sequence[Abstract]:
    x = operands[0]
    axis = axis_of(integers(known(operands[1], "axis"))[0] if len(operands) > 1 else 0, len(x.shape))
    if x.shape[axis] == 0:
        raise shapes_differ("there is no largest or smallest of no elements", x.shape)
    return [Abstract(_reduced(x.shape, (axis,), False), np.dtype(attrs.get("output_type", "int64")))]


@op("ArgMax", infer=_position)
def arg_max(attrs: Attrs, x: NDArray, *axis: NDArray) -> Any:
    """The position of the first largest element along an axis, in `output_type` (int64 by default)."""
    return np.argmax(_without_nan(x, -np.inf), axis=integers(axis[0])[0] if axis else 0).astype(attrs.get("output_type", "int64"), copy=False)


@op("ArgMin", infer=_position)
def arg_min(attrs: Attrs, x: NDArray, *axis: NDArray) -> Any:
    """The position of the first smallest element along an axis, in `output_type` (int64 by default)."""
    return np.argmin(_without_nan(x, np.inf), axis=integers(axis[0])[0] if axis else 0).astype(attrs.get("output_type", "int64"), copy=False)


def _without_nan(x: NDArray, instead: float) -> NDArray:
    """NaN is no extreme; where there is nothing else, the first element is."""
    return np.where(np.isnan(x), x.dtype.type(instead), x) if x.dtype.kind == "f" and np.isnan(x).any() else x


def _cumulative(accumulate: "np.ufunc", neutral: int) -> Callable[[Attrs, NDArray, NDArray], Any]:
    def compute(attrs: Attrs, x: NDArray, axis: NDArray) -> Any:
        at = axis_of(integers(axis)[0], x.ndim)
        turned = np.flip(x, at) if attrs.get("reverse", False) else x
        result = np.asarray(accumulate.accumulate(turned, axis=at, dtype=x.dtype))
        if attrs.get("exclusive", False):
            result = np.concatenate([np.full_like(result.take([], at), neutral, shape=_reduced(x.shape, (at,), True)), result], axis=at)
            result = result[tuple(slice(0, n) for n in x.shape)]
        return np.ascontiguousarray(np.flip(result, at) if attrs.get("reverse", False) else result)

    return compute


op("Cumsum", infer=same_as_first)(_cumulative(np.add, 0))
op("Cumprod", infer=same_as_first)(_cumulative(np.multiply, 1))


@op("L2Loss", infer=lambda attrs, operands: [Abstract((), operands[0].dtype)])
def l2_loss(attrs: Attrs, x: NDArray) -> Any:
    """Half the sum of squares."""
    flat = x.reshape(-1).astype(np.float32) if is_half(x.dtype) else x.reshape(-1)
    return (np.add.reduce(np.square(flat)) / flat.dtype.type(2)).astype(x.dtype)


def _top(attrs: Attrs, operands: Sequence[Abstract]) -> Sequence[Abstract]:
    x = operands[0]
    k = integers(known(operands[1], "number of largest elements"))[0] if len(operands) > 1 else attrs["k"]
    if not x.shape or k > x.shape[-1]:
        raise shapes_differ(f"the {k} largest elements of each row", x.shape)
    index_type = np.dtype(attrs.get("index_type", "int32"))
    return [Abstract((*x.shape[:-1], k), x.dtype), Abstract((*x.shape[:-1], k), index_type)]


@op("TopK", "TopKV2", infer=_top)
def top_k(attrs: Attrs, x: NDArray, *k: NDArray) -> tuple[NDArray, NDArray]:
    """The k largest elements of each row in descending order, and their positions; of equal ones the first comes first."""
    count = int(k[0]) if k else attrs["k"]
    # a stable ascending sort of the row read backwards is, read backwards, a descending sort that keeps the order of equals
    order = x.shape[-1] - 1 - np.argsort(x[..., ::-1], axis=-1, kind="stable")[..., ::-1][..., :count]
    return np.take_along_axis(x, order, axis=-1), order.astype(attrs.get("index_type", "int32"))


def _hits(attrs: Attrs, operands: Sequence[Abstract]) -> Sequence[Abstract]:
    scores, targets = operands[:2]
    if len(scores.shape) != 2 or targets.shape != scores.shape[:1]:
        raise shapes_differ("InTopK", scores.shape, targets.shape)
    return [Abstract(targets.shape, np.dtype(bool))]


@op("InTopK", "InTopKV2", infer=_hits)
def in_top_k(attrs: Attrs, scores: NDArray, targets: NDArray, *k: NDArray) -> NDArray:
    """Whether fewer than k scores of a row are higher than that of its target.

    No, where the target is no column of the scores, or a score that decides it is not finite (in_topk_op.h).
    """
    count = int(k[0]) if k else attrs["k"]
    inside = (targets >= 0) & (targets < scores.shape[1])
    own = np.take_along_axis(scores, np.where(inside, targets, 0)[:, None].astype(np.intp), axis=1)
    return np.asarray(inside & np.isfinite(scores).all(axis=1) & ((scores > own).sum(axis=1) < count))
