"""What can be said of numbers that no known mistake explains: how they hang together with the right ones."""

import numpy as np

from bnexport.kernels.table import NDArray

_CLOSE = 1e-4
"""How well a pattern must hold, relative to the largest number."""
_MOST = 2048
"""Rows and units up to which another order is looked for."""


def pattern(mine: NDArray, right: NDArray) -> str:
    """In words how `mine` comes from `right` (both of one shape, rows first and units last), where that is simple; else nothing."""
    if not mine.ndim or not mine.size or not np.isfinite(mine).all() or not np.isfinite(right).all():
        return ""
    scale = float(np.abs(right).max()) or 1.0
    near = _CLOSE * scale
    if mine.ndim == 2 and max(mine.shape) <= _MOST and len(mine) > 1:
        for axis, what in ((0, "rows"), (1, "units")):
            order = _order(mine, right, axis, near)
            if order is not None:
                return f"your numbers are the right ones with the {what} in another order: {_listed(order)}"
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
