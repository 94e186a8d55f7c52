"""Where numbers lie among others."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from bnexport.errors import DependsOnData
from bnexport.kernels.rules import known
from bnexport.kernels.table import Abstract, Attrs, Compute, NDArray, op, shapes_differ


def _bounds(attrs: Attrs, operands: Sequence[Abstract]) -> Sequence[Abstract]:
    rows, values = operands
    if len(rows.shape) != 2 or len(values.shape) != 2 or rows.shape[0] != values.shape[0]:
        raise shapes_differ("searching in sorted rows", rows.shape, values.shape)
    return [Abstract(values.shape, np.dtype(attrs.get("out_type", "int32")))]


def _searched(side: Any) -> Compute:
    def compute(attrs: Attrs, rows: NDArray, values: NDArray) -> NDArray:
        found = [np.searchsorted(row, wanted, side) for row, wanted in zip(rows, values, strict=True)]
        return np.array(found, attrs.get("out_type", "int32")).reshape(values.shape)

    return compute


op("LowerBound", infer=_bounds)(_searched("left"))
op("UpperBound", infer=_bounds)(_searched("right"))


def _counted(attrs: Attrs, operands: Sequence[Abstract]) -> Sequence[Abstract]:
    return [Abstract((int(known(operands[1], "number of counts")),), operands[2].dtype)]


@op("Bincount", infer=_counted)
def bincount(attrs: Attrs, x: NDArray, size: NDArray, weights: NDArray) -> NDArray:
    """How often each number below `size` is among x, or the sum of its weights; what is not below is not counted."""
    counted = (x < size) & (x >= 0)
    total = np.bincount(x[counted], weights[counted] if weights.size else None, minlength=int(size))
    return np.asarray(total, weights.dtype)


def _difference(attrs: Attrs, operands: Sequence[Abstract]) -> Sequence[Abstract]:
    raise DependsOnData("how many numbers are not among others depends on the data, so the shape of the result cannot be known before it is computed")


@op("ListDiff", infer=_difference)
def list_diff(attrs: Attrs, x: NDArray, without: NDArray) -> tuple[NDArray, NDArray]:
    """The elements of a vector that are not in another, and their positions."""
    (positions,) = np.nonzero(~np.isin(x, without))
    return x[positions], positions.astype(attrs.get("out_idx", "int32"))
