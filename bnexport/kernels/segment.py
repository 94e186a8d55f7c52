"""Sums, means and extremes of the slices that share a segment."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from bnexport.errors import InputError
from bnexport.kernels.arithmetic import truncated_quotient
from bnexport.kernels.rules import integers, is_integer, known
from bnexport.kernels.table import Abstract, Attrs, Infer, NDArray, op, shapes_differ


def _lowest(dtype: "np.dtype[Any]") -> Any:
    return np.iinfo(dtype).min if is_integer(dtype) else np.finfo(dtype).min


def _highest(dtype: "np.dtype[Any]") -> Any:
    return np.iinfo(dtype).max if is_integer(dtype) else np.finfo(dtype).max


_KINDS: dict[str, tuple["np.ufunc", Callable[["np.dtype[Any]"], Any]]] = {
    "Sum": (np.add, lambda dtype: 0),
    "Prod": (np.multiply, lambda dtype: 1),
    "Max": (np.maximum, _lowest),
    "Min": (np.minimum, _highest),
}
"""What joins slices, and what a segment of none is where segments are not sorted."""


def _inside(segments: NDArray, count: int) -> NDArray:
    """Segments that all lie below `count`.

    Raises:
        InputError: one does not; TensorFlow refuses it too.
    """
    if segments.size and segments.max() >= count:
        raise InputError(f"the segment {segments.max()} is not one of the {count} there are")
    return segments


def _joined(kind: str, x: NDArray, segments: NDArray, count: int, least: float | None = None) -> NDArray:
    """The slices of each segment joined, beginning with what a segment of none is, or with `least`."""
    flat = segments.reshape(-1)
    values = x.reshape(flat.size, *x.shape[segments.ndim :])
    ufunc, of_none = _KINDS[kind]
    result = np.full((count, *values.shape[1:]), of_none(x.dtype) if least is None else least, x.dtype)
    kept = flat >= 0
    ufunc.at(result, _inside(flat[kept], count), values[kept])
    return result


def _unsorted(name: str) -> Infer:
    def infer(attrs: Attrs, operands: Sequence[Abstract]) -> Sequence[Abstract]:
        x, segments, count = operands
        rank = len(segments.shape)
        if x.shape[:rank] != segments.shape:
            raise shapes_differ(name, x.shape, segments.shape)
        return [Abstract((integers(known(count, "number of segments"))[0], *x.shape[rank:]), x.dtype)]

    return infer


def _register_unsorted(kind: str) -> None:
    def compute(attrs: Attrs, x: NDArray, segments: NDArray, count: NDArray) -> NDArray:
        return _joined(kind, x, segments, int(count))

    op(f"UnsortedSegment{kind}", infer=_unsorted(f"UnsortedSegment{kind}"))(compute)


def _sorted(attrs: Attrs, operands: Sequence[Abstract]) -> Sequence[Abstract]:
    x, segments = operands
    if len(segments.shape) != 1 or x.shape[:1] != segments.shape:
        raise shapes_differ("segments", x.shape, segments.shape)
    last = integers(known(segments, "number of segments"))[-1:]
    return [Abstract((last[0] + 1 if last else 0, *x.shape[1:]), x.dtype)]


def _of_sorted(x: NDArray, segments: NDArray, kind: str) -> tuple[NDArray, NDArray]:
    """The joined slices, and how many there are in each segment; a product of none is 1, and all else of none is 0."""
    if np.any(np.diff(segments) < 0) or np.any(segments[:1] < 0):
        raise InputError("the segments are not sorted, or one is negative")
    count = int(segments[-1]) + 1 if segments.size else 0
    number = np.bincount(segments, minlength=count)
    infinite = {"Max": -np.inf, "Min": np.inf}.get(kind) if x.dtype.kind == "f" else None
    joined = _joined(kind, x, segments, count, infinite)
    if kind != "Prod":
        joined[number == 0] = 0
    return joined, number


def _register_sorted(kind: str) -> None:
    def compute(attrs: Attrs, x: NDArray, segments: NDArray) -> NDArray:
        return _of_sorted(x, segments, kind)[0]

    op(f"Segment{kind}", infer=_sorted)(compute)


for _kind in _KINDS:
    _register_unsorted(_kind)
    _register_sorted(_kind)


@op("SegmentMean", infer=_sorted)
def segment_mean(attrs: Attrs, x: NDArray, segments: NDArray) -> NDArray:
    """The means of the slices of x that share a segment; segments are sorted, and the mean of none is 0.

    Of integers it is rounded towards zero.
    """
    total, number = _of_sorted(x, segments, "Sum")
    each = np.maximum(number, 1).reshape(-1, *[1] * (x.ndim - 1))
    return np.asarray(truncated_quotient(total, each) if is_integer(x.dtype) else total / each).astype(x.dtype)
