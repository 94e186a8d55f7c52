"""An array with a row of constants, in the form that NumPy computes fastest.

NumPy copies an operand that repeats into a buffer of 8192 elements (`numpy.getbufsize`), again and again, unless what repeats is that long itself;
and for maximum and minimum with a scalar it has no vector instructions. A row that is written out until it is as long takes a half to a quarter of
the time.
"""

from functools import cache, cached_property
from typing import Any

import numpy as np

NDArray = np.ndarray[Any, Any]

ELEMENTS = 8192
FEW = 4096
"""Up to so many elements the time goes into the call, and the shortest way there is the best."""


class Row:
    """Constants for the last axis of arrays, one for each place along it, or a single one."""

    def __init__(self, row: NDArray) -> None:
        self._row = row

    @cached_property
    def _spread(self) -> NDArray:
        return np.tile(self._row.reshape(-1), -(-ELEMENTS // max(1, self._row.size)))

    def apply(self, ufunc: np.ufunc, x: NDArray, out: NDArray) -> NDArray:
        """`ufunc(x, row)` in `out`, of the shape of `x`; raises NumPy's ValueError for a row of another length than that axis."""
        if x.size <= FEW or self._row.size not in (1, x.shape[-1]) or not (x.flags.c_contiguous and out.flags.c_contiguous):
            return np.asarray(ufunc(x, self._row, out=out))
        source, target, row = x.reshape(-1), out.reshape(-1), self._spread
        whole = x.size // row.size * row.size
        if whole:
            ufunc(source[:whole].reshape(-1, row.size), row, out=target[:whole].reshape(-1, row.size))
        if whole < x.size:
            ufunc(source[whole:], row[: x.size - whole], out=target[whole:])
        return out


@cache
def constant(value: float, dtype: "np.dtype[Any]") -> Row:
    """The same number for every element of an array of `dtype`."""
    return Row(np.full((), value, dtype))
