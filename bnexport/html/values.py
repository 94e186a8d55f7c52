"""Arrays looked at piece by piece: how their values are spread, and what each unit's weights come to.

An array is never in memory whole unless it is already: it is gone through twice, first for its extent and then for the bins between.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from bnexport.program import Array, pieces

NDArray = np.ndarray[Any, Any]

BINS = 48
"""Bars of a histogram at most."""
_SPREAD = 5.0
"""Values further than this many standard deviations from the mean are counted beside the bars, so that one outlier does not hide the rest."""


@dataclass(frozen=True, slots=True)
class Spread:
    """How the values of an array are spread.

    Attributes:
        size: how many values there are; `bad` of them are NaN or infinite and count in nothing else.
        low, high, mean, deviation: extent, mean and standard deviation.
        start, stop: where the bars begin and end: the extent, or five standard deviations on either side of the mean where that is less.
        counts: how many values lie in each of the equal bars between them, the last of which includes its upper end.
        below, above: how many values lie outside of the bars.
    """

    size: int
    bad: int
    low: float
    high: float
    mean: float
    deviation: float
    start: float
    stop: float
    counts: tuple[int, ...]
    below: int
    above: int


@dataclass(frozen=True, slots=True)
class Columns:
    """What the weights of each unit come to, float64 of shape (units,).

    Attributes:
        positive: the sum of the positive weights.
        negative: the sum of the negative weights.
    """

    positive: NDArray
    negative: NDArray


def spread(array: Array, bins: int | None = None) -> Spread:
    """The spread of an array's values.

    Args:
        bins: how many bars; by default about two for each doubling of the number of values (Sturges 1926 takes one), between 8 and `BINS`.

    Raises:
        BnexportError: the array cannot be read.
    """
    size = math.prod(array.shape)
    finite, total, squares, low, high = 0, 0.0, 0.0, math.inf, -math.inf
    origin = None
    for values in _finite(array):
        if values.size == 0:
            continue
        if origin is None:  # squares of distances from a value among them do not cancel as squares from zero do
            origin = float(values[0])
        finite += values.size
        low, high = min(low, float(values.min())), max(high, float(values.max()))
        away = values - origin
        total += float(away.sum())
        squares += float(np.dot(away, away))
    if origin is None:
        return Spread(size, size, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, (), 0, 0)
    mean = origin + total / finite
    deviation = math.sqrt(max(0.0, squares / finite - (total / finite) ** 2))
    start, stop = max(low, mean - _SPREAD * deviation), min(high, mean + _SPREAD * deviation)
    if not start < stop:
        return Spread(size, size - finite, low, high, mean, deviation, low, high, (finite,), 0, 0)
    bars = bins or min(BINS, max(8, 2 * math.ceil(math.log2(finite)) + 1))
    counts, below, above = _binned(array, start, stop, bars)
    return Spread(size, size - finite, low, high, mean, deviation, start, stop, counts, below, above)


def _binned(array: Array, start: float, stop: float, bars: int) -> tuple[tuple[int, ...], int, int]:
    counts = np.zeros(bars, np.int64)
    below = above = 0
    scale = bars / (stop - start)
    for values in _finite(array):
        under, over = values < start, values > stop
        below, above = below + int(under.sum()), above + int(over.sum())
        inside = values[~(under | over)]
        places = np.minimum(((inside - start) * scale).astype(np.intp), bars - 1)
        counts += np.bincount(places, minlength=bars)
    return tuple(counts.tolist()), below, above


def _finite(array: Array) -> Iterator[NDArray]:
    for piece in pieces(array):
        values = piece.astype(np.float64)
        good = np.isfinite(values)
        yield values if good.all() else values[good]


def columns(array: Array, axes: int) -> Columns:
    """What the weights come to along all but the last `axes` dimensions, which are taken together.

    Raises:
        BnexportError: the array cannot be read.
    """
    width = math.prod(array.shape[len(array.shape) - axes :])
    positive, negative = np.zeros(width), np.zeros(width)
    for block in _rows(array, width):
        positive += np.maximum(block, 0).sum(axis=0)
        negative += np.minimum(block, 0).sum(axis=0)
    return Columns(positive, negative)


def _rows(array: Array, width: int) -> Iterator[NDArray]:
    """The array as blocks of whole rows, float64 of shape (rows, width)."""
    rest = np.empty(0)
    for piece in pieces(array):
        values = np.concatenate([rest, piece.astype(np.float64)]) if rest.size else piece.astype(np.float64)
        whole = values.size // width * width if width else 0
        yield values[:whole].reshape(-1, width)
        rest = values[whole:].copy()
