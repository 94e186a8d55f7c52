"""Activation functions and the error function. Each computes in place where it is given `out=`."""

from typing import Any

import numpy as np

from bnexport.kernels.erf import erf, erfc
from bnexport.kernels.rules import elementwise, is_half
from bnexport.kernels.spread import constant
from bnexport.kernels.table import Attrs, NDArray, op

SELU_ALPHA = 1.6732632423543772
"""Klambauer et al., Self-Normalizing Neural Networks, 2017, equation 14."""
SELU_SCALE = 1.0507009873554805
"""Klambauer et al., Self-Normalizing Neural Networks, 2017, equation 14."""


def _room(x: NDArray, out: NDArray | None) -> NDArray:
    """Where a result is put: several steps need an array even for 0-d operands, which ufuncs would turn into scalars."""
    return np.empty_like(x) if out is None else out


def _above_zero(x: NDArray, out: NDArray | None) -> NDArray:
    """max(x, 0)."""
    return constant(0, x.dtype).apply(np.maximum, x, _room(x, out))


def _below_zero(x: NDArray) -> NDArray:
    """min(x, 0), in new memory."""
    return constant(0, x.dtype).apply(np.minimum, x, np.empty_like(x))


@op("Relu", infer=elementwise, inplace=True)
def relu(attrs: Attrs, x: NDArray, *, out: NDArray | None = None) -> Any:
    """max(x, 0)."""
    return _above_zero(x, out)


@op("Relu6", infer=elementwise, inplace=True)
def relu6(attrs: Attrs, x: NDArray, *, out: NDArray | None = None) -> Any:
    """min(max(x, 0), 6)."""
    out = _above_zero(x, out)
    return constant(6, x.dtype).apply(np.minimum, out, out)


@op("LeakyRelu", infer=elementwise, inplace=True)
def leaky_relu(attrs: Attrs, x: NDArray, *, out: NDArray | None = None) -> Any:
    """x where it is positive, else alpha · x (alpha is 0.2 by default)."""
    # the attribute is a float32, whatever the dtype of x
    alpha = x.dtype.type(np.float32(attrs.get("alpha", 0.2)))
    if 0 < alpha <= 1:
        return np.maximum(x, np.multiply(x, alpha), out=_room(x, out))
    below = _below_zero(x)
    below *= alpha
    out = _above_zero(x, out)
    return np.add(out, below, out=out)


@op("Elu", infer=elementwise, inplace=True)
def elu(attrs: Attrs, x: NDArray, *, out: NDArray | None = None) -> Any:
    """x where it is positive, else eˣ - 1."""
    below = _below_zero(x)
    np.expm1(below, out=below)
    out = _above_zero(x, out)
    return np.add(out, below, out=out)


@op("Selu", infer=elementwise, inplace=True)
def selu(attrs: Attrs, x: NDArray, *, out: NDArray | None = None) -> Any:
    """λx where x is positive, else λα(eˣ - 1)."""
    below = _below_zero(x)
    np.expm1(below, out=below)
    below *= x.dtype.type(SELU_SCALE * SELU_ALPHA)
    out = _above_zero(x, out)
    np.multiply(out, x.dtype.type(SELU_SCALE), out=out)
    return np.add(out, below, out=out)


@op("Sigmoid", infer=elementwise, inplace=True)
def sigmoid(attrs: Attrs, x: NDArray, *, out: NDArray | None = None) -> Any:
    """1 / (1 + e⁻ˣ). Far below zero e⁻ˣ is infinite and its reciprocal 0, which is the limit; no digits are lost on either side."""
    out = np.negative(x, out=_room(x, out))
    np.exp(out, out=out)
    np.add(out, 1, out=out)
    return np.reciprocal(out, out=out)


@op("Softplus", infer=elementwise, inplace=True)
def softplus(attrs: Attrs, x: NDArray, *, out: NDArray | None = None) -> Any:
    """log(1 + eˣ), as max(x, 0) + log(1 + e^-|x|), which cannot overflow."""
    rest = np.asarray(np.absolute(x))
    np.negative(rest, out=rest)
    np.exp(rest, out=rest)
    np.log1p(rest, out=rest)
    out = _above_zero(x, out)
    return np.add(out, rest, out=out)


@op("Softsign", infer=elementwise, inplace=True)
def softsign(attrs: Attrs, x: NDArray, *, out: NDArray | None = None) -> Any:
    """x / (1 + |x|)."""
    below = np.asarray(np.absolute(x))
    below += x.dtype.type(1)
    return np.true_divide(x, below, out=_room(x, out))


@op("Erf", infer=elementwise)
def erf_op(attrs: Attrs, x: NDArray) -> NDArray:
    """The error function, 2/√π ∫₀ˣ e^(-t²) dt."""
    return erf(x)


@op("Erfc", infer=elementwise)
def erfc_op(attrs: Attrs, x: NDArray) -> NDArray:
    """1 - erf(x), without losing the digits of its tail."""
    return erfc(x)


def _shifted(x: NDArray) -> NDArray:
    """x less its largest element of each row, in a dtype that sums can be taken in: e to the power of it cannot overflow."""
    wide = x.astype(np.float32) if is_half(x.dtype) else x
    return np.asarray(np.subtract(wide, np.max(wide, axis=-1, keepdims=True, initial=-np.inf)))


@op("Softmax", infer=elementwise, inplace=True)
def softmax(attrs: Attrs, x: NDArray, *, out: NDArray | None = None) -> Any:
    """eˣ / Σ eˣ over the last axis."""
    if is_half(x.dtype):
        powers = np.exp(_shifted(x))
        result = (powers / powers.sum(axis=-1, keepdims=True)).astype(x.dtype)
        return result if out is None else np.positive(result, out=out)
    out = np.subtract(x, np.max(x, axis=-1, keepdims=True, initial=-np.inf), out=_room(x, out))
    np.exp(out, out=out)
    return np.true_divide(out, np.sum(out, axis=-1, keepdims=True), out=out)


@op("LogSoftmax", infer=elementwise)
def log_softmax(attrs: Attrs, x: NDArray) -> NDArray:
    """x - log Σ eˣ over the last axis."""
    shifted = _shifted(x)
    shifted -= np.log(np.sum(np.exp(shifted), axis=-1, keepdims=True))
    return shifted.astype(x.dtype, copy=False)
