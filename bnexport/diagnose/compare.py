"""When two results are the same: up to the rounding of float32, measured on the network itself, and up to how finely they are written."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from bnexport.diagnose.matching import Reading
from bnexport.kernels.table import NDArray

SLACK = 16.0
"""How often the rounding that one float32 evaluation makes another may make: sums in another order, batch norm folded or not, naive loops."""
UNIT = 2.0**-24
"""Half a unit in the last place of a float32 between 1 and 2."""
EXPLANATION = (
    f"a tensor may differ by {SLACK:g} times what float32 rounding does to it (measured: this network in float32 against float64, and at least one "
    "rounding of its largest number), and by half a unit of the last digit that your file has"
)


@dataclass(frozen=True, slots=True)
class Difference:
    """How far a user's array is from a tensor.

    Attributes:
        largest: the largest difference; infinite where one is not finite and the other is.
        scale: the largest finite number of the tensor.
        excess: the largest difference in units of what is tolerated there: up to 1 they agree.
        index: of the first element, row by row, that differs by more than is tolerated; of the worst where none does.
        tolerance: what is tolerated at `index`.
    """

    largest: float
    scale: float
    excess: float
    index: tuple[int, ...]
    tolerance: float

    @property
    def agrees(self) -> bool:
        """Whether the difference is rounding."""
        return self.excess <= 1

    @property
    def digits(self) -> int:
        """How many significant digits of the tensor's largest numbers agree, at most 16."""
        if not math.isfinite(self.largest):
            return 0
        if self.largest == 0 or self.scale == 0:
            return 16 if self.largest == 0 else 0
        return max(0, min(16, math.floor(-math.log10(self.largest / self.scale) + 1e-9)))


def rounding(exact: NDArray, single: NDArray) -> float:
    """What another float32 evaluation of a tensor may differ from the exact one by; nothing for truth values that are the same in both."""
    exact, single = exact.astype(np.float64, copy=False), single.astype(np.float64, copy=False)
    finite = np.isfinite(exact) & np.isfinite(single)
    if not finite.any():
        return 0.0
    return SLACK * max(float(np.abs(exact - single)[finite].max()), UNIT * float(np.abs(exact)[finite].max()))


def difference(reading: Reading, values: Mapping[str, NDArray], tolerance: float) -> Difference:
    """A user's array against the values of the tensor that it may be.

    Args:
        values: by tensor.
        tolerance: for the tensor, besides how finely the array is written.
    """
    mine = reading.values
    right = values[reading.tensor][: len(mine)] if mine.ndim else values[reading.tensor]
    with np.errstate(invalid="ignore", over="ignore"):
        apart = np.abs(mine - right)
    same = (mine == right) | (np.isnan(mine) & np.isnan(right))
    apart = np.where(same, 0.0, np.where(np.isnan(apart), np.inf, apart))
    allowed = tolerance + reading.steps
    with np.errstate(divide="ignore", invalid="ignore"):
        excess = np.where(apart == 0, 0.0, np.where(allowed == 0, np.inf, apart / allowed))
    beyond = np.flatnonzero(excess > 1)
    flat = int(beyond[0]) if beyond.size else int(excess.argmax())
    finite = np.abs(right[np.isfinite(right)]) if right.ndim else np.abs(right)
    index = tuple(int(i) for i in np.unravel_index(flat, mine.shape))
    scale = float(finite.max()) if finite.size else 0.0
    return Difference(float(apart.max()), scale, float(excess.max()), index, float(np.broadcast_to(allowed, mine.shape)[index]))
