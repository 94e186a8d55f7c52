"""What can be said of numbers that no known mistake explains: how they hang together with the right ones."""

import numpy as np

from bnexport.kernels.table import NDArray

_CLOSE = 1e-4
"""How well a pattern must hold, relative to the largest number."""
_MOST = 2048
"""Rows and units up to which another order is looked for."""
_MOST_DECIMALS = 6
"""Numbers of more decimals are as fine as float32 near 1."""


def pattern(mine: NDArray, right: NDArray) -> str:
    """In words how `mine` comes from `right`, where that is simple; else nothing.

    Args:
        mine, right: rows first and units last; `mine` may have fewer rows.
    """
    if not mine.ndim or not mine.size or not np.isfinite(mine).all() or not np.isfinite(right).all():
        return ""
    scale = float(np.abs(right).max()) or 1.0
    near = _CLOSE * scale
    if mine.ndim == 2 and max(right.shape) <= _MOST and len(mine) > 1 and (rows := _order(mine, right, 0, near)) is not None:
        first = rows[0]
        if rows == list(range(first, first + len(rows))):
            return f"your row 0 is row {first} of the input, your row 1 is row {first + 1}, …: was what comes before taken for a header?"
        return f"your numbers are the right ones with the rows in another order: {_listed(rows)}"
    right = right[: len(mine)]
    if mine.ndim == 2 and max(mine.shape) <= _MOST and len(mine) > 1 and (units := _order(mine, right, 1, near)) is not None:
        return f"your numbers are the right ones with the units in another order: {_listed(units)}"
    if (decimals := _rounded_to(mine, right)) is not None:
        return f"your numbers are the right ones rounded to {decimals} decimal{'s' * (decimals != 1)}: save them with 9 digits (%.9g)"
    if right.min() > 0 and np.abs(mine - np.log(right)).max() <= _CLOSE * np.abs(np.log(right)).max():
        return "your numbers are the logarithms of the right ones"
    over = tuple(range(mine.ndim - 1)) if mine.ndim > 1 and len(mine) > 1 else None
    for axes, each in ((None, ""), (over, " in each unit")):
        if axes is None and each:
            continue
        factor = _ratio(mine, right, axes)
        if np.abs(mine - factor * right).max() <= near:
            return f"your numbers are the right ones times {_one(factor)}" if not each else f"your numbers are the right ones times one factor{each}"
        shift = (mine - right).mean(axes, keepdims=True)
        if np.abs(mine - right - shift).max() <= near:
            return f"your numbers are the right ones plus {_one(shift)}" if not each else f"your numbers are the right ones plus one number{each}"
    return ""


def _rounded_to(mine: NDArray, right: NDArray) -> int | None:
    """To how many decimals numbers were rounded, where that is all that was done to them."""
    for decimals in range(_MOST_DECIMALS + 1):
        half = 0.5 * 10.0**-decimals
        if np.abs(mine - right).max() <= half * (1 + _CLOSE) and np.abs(np.round(mine, decimals) - mine).max() <= _CLOSE * half:
            return decimals
    return None


def _ratio(mine: NDArray, right: NDArray, axes: tuple[int, ...] | None) -> NDArray:
    """The factor that fits best, by least squares."""
    power = np.square(right).sum(axes, keepdims=True)
    return np.asarray((mine * right).sum(axes, keepdims=True) / np.where(power == 0, 1.0, power))


def _order(mine: NDArray, right: NDArray, axis: int, near: float) -> list[int] | None:
    """Which row (or unit) of `right` each of `mine` is, where each is exactly one other and not all are their own."""
    one, other = (a if axis == 0 else a.T for a in (mine, right))
    found = []
    for line in one:
        places = np.flatnonzero(np.abs(other - line).max(1) <= near)
        if len(places) != 1:
            return None
        found.append(int(places[0]))
    return found if len(set(found)) == len(found) and found != list(range(len(found))) else None


def _one(value: NDArray) -> str:
    return f"{float(value.reshape(-1)[0]):.5g}"


def _listed(order: list[int]) -> str:
    return ", ".join(map(str, order[:12])) + (", …" if len(order) > 12 else "")
