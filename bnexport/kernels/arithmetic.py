"""Elementwise arithmetic."""

from typing import Any

import numpy as np

from bnexport.errors import InputError
from bnexport.kernels.rules import broadcast, dtype_named, elementwise, is_integer, same_as_all, same_as_first
from bnexport.kernels.table import Abstract, Attrs, Compute, NDArray, op


def _unary(function: "np.ufunc") -> Compute:
    def compute(attrs: Attrs, x: NDArray, *, out: NDArray | None = None) -> Any:
        return function(x, out=out)

    return compute


def _binary(function: "np.ufunc") -> Compute:
    def compute(attrs: Attrs, x: NDArray, y: NDArray, *, out: NDArray | None = None) -> Any:
        return function(x, y, out=out)

    return compute


_UNARY = {
    "Abs": np.absolute,
    "Acos": np.arccos,
    "Acosh": np.arccosh,
    "Asin": np.arcsin,
    "Asinh": np.arcsinh,
    "Atan": np.arctan,
    "Atanh": np.arctanh,
    "Ceil": np.ceil,
    "Cos": np.cos,
    "Cosh": np.cosh,
    "Exp": np.exp,
    "Expm1": np.expm1,
    "Floor": np.floor,
    "Inv": np.reciprocal,
    "Invert": np.invert,
    "Log": np.log,
    "Log1p": np.log1p,
    "Neg": np.negative,
    "Reciprocal": np.reciprocal,
    "Rint": np.rint,
    "Sign": np.sign,
    "Sin": np.sin,
    "Sinh": np.sinh,
    "Sqrt": np.sqrt,
    "Square": np.square,
    "Tan": np.tan,
    "Tanh": np.tanh,
}
_BINARY = {
    "Add": np.add,
    "AddV2": np.add,
    "Atan2": np.arctan2,
    "BitwiseAnd": np.bitwise_and,
    "BitwiseOr": np.bitwise_or,
    "BitwiseXor": np.bitwise_xor,
    "Maximum": np.maximum,
    "Minimum": np.minimum,
    "Mul": np.multiply,
    "RealDiv": np.true_divide,
    "Sub": np.subtract,
}
for _name in _UNARY:
    op(_name, infer=elementwise, inplace=True)(_unary(_UNARY[_name]))
for _name in _BINARY:
    op(_name, infer=elementwise, inplace=True)(_binary(_BINARY[_name]))


def _shifted(ufunc: "np.ufunc") -> Compute:
    """By as many bits as there are, but one, at most, and none at least."""

    def compute(attrs: Attrs, x: NDArray, bits: NDArray, *, out: NDArray | None = None) -> Any:
        return ufunc(x, np.clip(bits, 0, 8 * x.itemsize - 1), out=out)

    return compute


op("LeftShift", infer=elementwise, inplace=True)(_shifted(np.left_shift))
op("RightShift", infer=elementwise, inplace=True)(_shifted(np.right_shift))


@op("AddN", "AccumulateNV2", infer=same_as_all, inplace=True)
def add_n(attrs: Attrs, x: NDArray, *more: NDArray, out: NDArray | None = None) -> Any:
    """The sum of tensors of one shape."""
    if not more:
        return np.positive(x, out=out)
    total = np.add(x, more[0], out=out)
    for term in more[1:]:
        total += term
    return total


@op("Rsqrt", infer=elementwise, inplace=True)
def rsqrt(attrs: Attrs, x: NDArray, *, out: NDArray | None = None) -> Any:
    """1/√x."""
    return np.reciprocal(np.sqrt(x, out=out), out=out)


@op("Round", infer=elementwise, inplace=True)
def round_half_to_even(attrs: Attrs, x: NDArray, *, out: NDArray | None = None) -> Any:
    """The nearest whole number, halves to the even one. An integer stays what it is, as `tf.round` has it."""
    return np.positive(x, out=out) if is_integer(x.dtype) else np.rint(x, out=out)


@op("SquaredDifference", infer=elementwise, inplace=True)
def squared_difference(attrs: Attrs, x: NDArray, y: NDArray, *, out: NDArray | None = None) -> Any:
    """(x - y)², of complex numbers |x - y|²."""
    difference = np.subtract(x, y, out=out)
    return np.multiply(difference, np.conj(difference), out=out) if difference.dtype.kind == "c" else np.square(difference, out=out)


def _divisor(y: NDArray) -> NDArray:
    """An integer divisor, which TensorFlow refuses when it is zero.

    Raises:
        InputError: some element of it is 0.
    """
    if is_integer(y.dtype) and not np.all(y):
        raise InputError("an integer is divided by zero, which TensorFlow refuses too")
    return y


def truncated_quotient(x: NDArray, y: NDArray) -> Any:
    """x / y rounded towards zero, in an integer dtype, as C divides."""
    floor = np.floor_divide(x, _divisor(y))
    inexact_negative = (np.remainder(x, y) != 0) & ((x < 0) != (y < 0))
    return floor + inexact_negative.astype(x.dtype)


@op("Div", infer=elementwise)
def div(attrs: Attrs, x: NDArray, y: NDArray) -> Any:
    """x / y; between integers rounded towards zero."""
    return truncated_quotient(x, y) if is_integer(x.dtype) else np.true_divide(x, y)


@op("TruncateDiv", infer=elementwise)
def truncate_div(attrs: Attrs, x: NDArray, y: NDArray) -> Any:
    """x / y rounded towards zero."""
    return truncated_quotient(x, y) if is_integer(x.dtype) else np.trunc(np.true_divide(x, y))


@op("FloorDiv", infer=elementwise)
def floor_div(attrs: Attrs, x: NDArray, y: NDArray) -> Any:
    """⌊x / y⌋. Between floats the quotient is rounded first, so 1 // 0.1 is 10, where np.floor_divide says 9."""
    return np.floor_divide(x, _divisor(y)) if is_integer(x.dtype) else np.floor(np.true_divide(x, y))


@op("FloorMod", infer=elementwise)
def floor_mod(attrs: Attrs, x: NDArray, y: NDArray) -> Any:
    """The remainder that has the divisor's sign."""
    return np.remainder(x, _divisor(y))


@op("Mod", "TruncateMod", infer=elementwise)
def truncate_mod(attrs: Attrs, x: NDArray, y: NDArray) -> Any:
    """The remainder that has the dividend's sign, as C has it."""
    return np.fmod(x, _divisor(y))


def _zero_where(zero: Any, values: Any, shape_of: tuple[NDArray, NDArray]) -> NDArray:
    shape = broadcast(*(a.shape for a in shape_of))
    return np.where(np.broadcast_to(zero, shape), np.zeros((), values.dtype), values)


@op("DivNoNan", infer=elementwise)
def div_no_nan(attrs: Attrs, x: NDArray, y: NDArray) -> NDArray:
    """x / y, and 0 where y is 0."""
    return _zero_where(y == 0, np.true_divide(x, y), (x, y))


@op("MulNoNan", infer=elementwise)
def mul_no_nan(attrs: Attrs, x: NDArray, y: NDArray) -> NDArray:
    """x · y, and 0 where y is 0 even if x is infinite or NaN."""
    return _zero_where(y == 0, np.multiply(x, y), (x, y))


@op("Xdivy", infer=elementwise)
def xdivy(attrs: Attrs, x: NDArray, y: NDArray) -> NDArray:
    """x / y, and 0 where x is 0."""
    return _zero_where(x == 0, np.true_divide(x, y), (x, y))


@op("Xlogy", infer=elementwise)
def xlogy(attrs: Attrs, x: NDArray, y: NDArray) -> NDArray:
    """x · log y, and 0 where x is 0."""
    return _zero_where(x == 0, np.multiply(x, np.log(y)), (x, y))


@op("Xlog1py", infer=elementwise)
def xlog1py(attrs: Attrs, x: NDArray, y: NDArray) -> NDArray:
    """x · log(1 + y), and 0 where x is 0."""
    return _zero_where(x == 0, np.multiply(x, np.log1p(y)), (x, y))


@op("Pow", infer=elementwise, inplace=True)
def power(attrs: Attrs, x: NDArray, y: NDArray, *, out: NDArray | None = None) -> Any:
    """x to the power of y.

    Raises:
        InputError: the power of an integer is negative.
    """
    if y.dtype.kind == "i" and np.any(y < 0):
        raise InputError("an integer is raised to a negative power, which TensorFlow refuses too")
    return np.power(x, y, out=out)


@op("ClipByValue", infer=same_as_first, inplace=True)
def clip_by_value(attrs: Attrs, x: NDArray, low: NDArray, high: NDArray, *, out: NDArray | None = None) -> Any:
    """max(min(x, high), low)."""
    return np.maximum(np.minimum(x, high, out=out), low, out=out)


def _cast_dtype(attrs: Attrs, operands: Any) -> Any:
    return [Abstract(operands[0].shape, dtype_named(attrs["DstT"]))]


_MANTISSA_BITS = {"float64": 52, "float32": 23, "float16": 10, "bfloat16": 7}
_TRUNCATED = {("float64", "float32"), ("float64", "float16"), ("float32", "float16"), ("float32", "bfloat16")}


@op("Cast", infer=_cast_dtype)
def cast(attrs: Attrs, x: NDArray) -> NDArray:
    """x in the dtype `DstT`: floats become integers by truncation, and whatever is not 0 becomes True.

    With the attribute `Truncate` a float loses the low bits of its mantissa, instead of being rounded, on its way to a narrower float
    (but float64 is rounded to bfloat16 all the same, as TensorFlow does).
    """
    to = dtype_named(attrs["DstT"])
    if attrs.get("Truncate", False) and (x.dtype.name, to.name) in _TRUNCATED:
        lost = _MANTISSA_BITS[x.dtype.name] - _MANTISSA_BITS[to.name]
        bits = np.dtype(f"uint{8 * x.itemsize}")
        kept = bits.type(np.iinfo(bits).max >> lost << lost)
        x = (np.ascontiguousarray(x).view(bits) & kept).view(x.dtype).reshape(x.shape)
    return x.astype(to)
