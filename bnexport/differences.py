"""How far numbers are from the truth."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np

NDArray = np.ndarray[Any, Any]


@dataclass(slots=True)
class Difference:
    """How far a tensor is from the truth, over all rows that were seen.

    Attributes:
        most: the largest absolute difference.
        total: the sum of the absolute differences.
        count: of how many numbers.
        scale: the largest absolute number of the truth.
        exact: how many of them do not differ at all.
        powers: how many differ by at least 2^(p-1) and less than 2^p, by p.
    """

    most: float = 0.0
    total: float = 0.0
    count: int = 0
    scale: float = 0.0
    exact: int = 0
    powers: Counter[int] = field(default_factory=Counter)

    def add(self, values: NDArray, truth: NDArray) -> None:
        """Takes in some rows. Where one is infinite or NaN the other has to be the same, and so it has where they are text."""
        if truth.dtype.kind == "O":
            values, truth = np.where(values == truth, 0.0, np.inf), np.zeros(truth.shape)
        values, truth = (np.asarray(array, np.float64) for array in (values, truth))
        finite = np.isfinite(truth)
        with np.errstate(invalid="ignore", over="ignore"):
            apart = np.where(finite, np.abs(values - truth), np.where((values == truth) | (np.isnan(values) & np.isnan(truth)), 0.0, np.inf))
        apart = np.where(np.isnan(apart), np.inf, apart)
        self.count += apart.size
        if apart.size:
            self.most = max(self.most, float(apart.max()))
            self.total += float(apart.sum())
            self.scale = max(self.scale, float(np.abs(truth).max(initial=0.0, where=finite)))
            differs = (apart > 0) & np.isfinite(apart)
            self.exact += int((apart == 0).sum())
            powers, counts = np.unique(np.frexp(apart[differs])[1], return_counts=True)
            self.powers.update(dict(zip(powers.tolist(), counts.tolist(), strict=True)))

    @property
    def relative(self) -> float:
        """The largest difference in units of the scale."""
        return self._in_units(self.most)

    @property
    def relative_mean(self) -> float:
        """The mean difference in units of the scale."""
        return self._in_units(self.total / max(self.count, 1))

    def _in_units(self, size: float) -> float:
        return size / self.scale if self.scale else (0.0 if size == 0 else np.inf)

    def ulps(self, dtype: str) -> tuple[float, float]:
        """The largest and the mean difference in units in the last place of a number as large as the scale."""
        unit = float(np.spacing(np.asarray(self.scale, dtype))) if self.scale else 1.0
        return self.most / unit, self.total / max(self.count, 1) / unit
