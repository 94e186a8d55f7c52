"""Special functions of statistics, element by element in double precision."""

import math
from collections.abc import Callable
from statistics import NormalDist
from typing import Any

import numpy as np

from bnexport.kernels.rules import elementwise
from bnexport.kernels.table import Attrs, Compute, NDArray, op

_NORMAL = NormalDist()
_COEFFICIENTS = (1 / 12, -1 / 120, 1 / 252, -1 / 240, 1 / 132, -691 / 32760, 1 / 12)
"""Of the asymptotic series of the digamma function (Abramowitz and Stegun 6.3.18)."""
_LARGE = 10.0
"""From here on its terms give all digits."""


def _lgamma(x: float) -> float:
    if math.isinf(x) or (x <= 0 and x == math.floor(x)):
        return math.inf
    return math.lgamma(x)


def _digamma(x: float) -> float:
    if math.isnan(x) or x == -math.inf or (x <= 0 and x == math.floor(x)):
        return math.nan
    if x <= 0:  # reflected: ψ(1 - x) - ψ(x) = π / tan πx
        return _digamma(1 - x) - math.pi / math.tan(math.pi * x)
    shift = 0.0
    while x < _LARGE:  # ψ(x) = ψ(x + 1) - 1 / x
        shift -= 1 / x
        x += 1
    square = 1 / (x * x)
    series = 0.0
    for coefficient in reversed(_COEFFICIENTS):
        series = (series + coefficient) * square
    return shift + math.log(x) - 0.5 / x - series


def _ndtri(p: float) -> float:
    if p in (0.0, 1.0):
        return math.inf if p else -math.inf
    return _NORMAL.inv_cdf(p) if 0 < p < 1 else math.nan


def _erfinv(x: float) -> float:
    """By Newton's method from the quantile of the normal distribution; near ±1 from the complement, in which no digits are lost."""
    if abs(x) >= 1 or math.isnan(x):
        return math.copysign(math.inf, x) if abs(x) == 1 else math.nan
    if abs(x) < 0.5:
        y = _NORMAL.inv_cdf((x + 1) / 2) / math.sqrt(2)
        return y - (math.erf(y) - x) * math.sqrt(math.pi) / 2 * math.exp(y * y)
    y = -_NORMAL.inv_cdf((1 - abs(x)) / 2) / math.sqrt(2)
    return math.copysign(y + (math.erfc(y) - (1 - abs(x))) * math.sqrt(math.pi) / 2 * math.exp(y * y), x)


def _each(function: Callable[[float], float]) -> Compute:
    def compute(attrs: Attrs, x: NDArray) -> Any:
        return np.array([function(value) for value in x.reshape(-1).astype(np.float64).tolist()], np.float64).reshape(x.shape).astype(x.dtype)

    return compute


op("Digamma", infer=elementwise)(_each(_digamma))
op("Erfinv", infer=elementwise)(_each(_erfinv))
op("Lgamma", infer=elementwise)(_each(_lgamma))
op("Ndtri", infer=elementwise)(_each(_ndtri))
