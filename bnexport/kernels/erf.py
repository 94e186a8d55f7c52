"""The error function in NumPy.

The rational Chebyshev approximations of W. J. Cody, "Rational Chebyshev Approximations for the Error Function", Mathematics of Computation 23 (1969),
pages 631 to 637: one for erf near zero, two for erfc beyond 15/32 and beyond 4. Their relative error is below 1e-16.
"""

import math
from typing import Any

import numpy as np

from bnexport.kernels.table import NDArray

NEAR, FAR = 0.46875, 4.0
PIECE = 1 << 14
"""How many elements of a float32 array are computed at a time."""

# erf(x) = x P(x²)/Q(x²) for |x| ≤ 0.46875; powers in descending order here and below
_NEAR_P = (1.85777706184603153e-1, 3.16112374387056560e0, 1.13864154151050156e2, 3.77485237685302021e2, 3.20937758913846947e3)
_NEAR_Q = (1.0, 2.36012909523441209e1, 2.44024637934444173e2, 1.28261652607737228e3, 2.84423683343917062e3)
# erfc(x) = e^(-x²) P(x)/Q(x) for 0.46875 ≤ x ≤ 4
_MIDDLE_P = (
    2.15311535474403846e-8, 5.64188496988670089e-1, 8.88314979438837594e0, 6.61191906371416295e1, 2.98635138197400131e2,
    8.81952221241769090e2, 1.71204761263407058e3, 2.05107837782607147e3, 1.23033935479799725e3,
)  # fmt: skip
_MIDDLE_Q = (
    1.0, 1.57449261107098347e1, 1.17693950891312499e2, 5.37181101862009858e2, 1.62138957456669019e3,
    3.29079923573345963e3, 4.36261909014324716e3, 3.43936767414372164e3, 1.23033935480374942e3,
)  # fmt: skip
# erfc(x) = e^(-x²)/x (1/√π + x⁻² P(x⁻²)/Q(x⁻²)) for x ≥ 4, P carrying the minus sign
_FAR_P = (
    -1.63153871373020978e-2, -3.05326634961232344e-1, -3.60344899949804439e-1, -1.25781726111229246e-1, -1.60837851487422766e-2,
    -6.58749161529837803e-4,
)  # fmt: skip
_FAR_Q = (
    1.0, 2.56852019228982242e0, 1.87295284992346047e0, 5.27905102951428412e-1, 6.05183413124413191e-2, 2.33520497626869185e-3,
)  # fmt: skip


def _polynomial(coefficients: tuple[float, ...], x: Any) -> Any:
    value = x * coefficients[0] + coefficients[1]
    for c in coefficients[2:]:
        value *= x
        value += c
    return value


def _gaussian(x: Any) -> Any:
    """e^(-x²), with x² split (Cody's way) so that the rounding of a large square does not reach the exponent."""
    head = np.trunc(x * 16) / 16
    return np.exp(-head * head) * np.exp(-(x - head) * (x + head))


def _erfc_beyond_near(x: Any) -> Any:
    """erfc for x ≥ 0.46875."""
    result = np.empty_like(x)
    far = x > FAR
    middle = ~far
    m = x[middle]
    result[middle] = _gaussian(m) * (_polynomial(_MIDDLE_P, m) / _polynomial(_MIDDLE_Q, m))
    f = np.minimum(x[far], 1e8)  # erfc is 0 from 27 on; this keeps infinity out of the quotients
    s = 1 / (f * f)
    result[far] = _gaussian(f) / f * (1 / math.sqrt(math.pi) + s * (_polynomial(_FAR_P, s) / _polynomial(_FAR_Q, s)))
    return result


def _parts(x: NDArray) -> tuple[Any, Any, Any, Any]:
    """|x| in float64 and flat, where it is beyond `NEAR`, erfc there, and erf(|x|) elsewhere."""
    a = np.abs(x.reshape(-1).astype(np.float64))
    beyond = a > NEAR
    near = a[~beyond]
    square = near * near
    return a, beyond, _erfc_beyond_near(a[beyond]), near * (_polynomial(_NEAR_P, square) / _polynomial(_NEAR_Q, square))


def _erf_of_narrow(x: NDArray) -> NDArray:
    """erf of float32 or half floats: both branches everywhere, which is faster than picking elements out, in pieces that stay in the cache.

    Beyond 4 erf is nearer to 1 than float32 can tell.
    """
    flat = np.ascontiguousarray(x).reshape(-1)
    result = np.empty_like(flat)
    for start in range(0, flat.size, PIECE):
        piece = flat[start : start + PIECE]
        a = np.abs(piece.astype(np.float64))
        near = np.minimum(a, NEAR)
        square = near * near
        below = near * (_polynomial(_NEAR_P, square) / _polynomial(_NEAR_Q, square))
        middle = np.clip(a, NEAR, FAR)
        above = 1 - np.exp(-middle * middle) * (_polynomial(_MIDDLE_P, middle) / _polynomial(_MIDDLE_Q, middle))
        result[start : start + PIECE] = np.copysign(np.where(a <= NEAR, below, above), piece)
    return result.reshape(x.shape)


def erf(x: NDArray) -> NDArray:
    """The error function, in x's dtype (computed in float64)."""
    if x.dtype != np.float64:
        return _erf_of_narrow(x)
    result, beyond, tail, near = _parts(x)
    result[beyond] = 1 - tail
    result[~beyond] = near
    return np.asarray(np.copysign(result.reshape(x.shape), x), x.dtype)


def erfc(x: NDArray) -> NDArray:
    """The complementary error function, in x's dtype (computed in float64)."""
    result, beyond, tail, near = _parts(x)
    negative = (x < 0).reshape(-1)
    result[beyond] = np.where(negative[beyond], 2 - tail, tail)
    result[~beyond] = np.where(negative[~beyond], 1 + near, 1 - near)
    return np.asarray(result.reshape(x.shape), x.dtype)
