import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kernel_oracle import bounded, check, compares, from_tensorflow

from bnexport.errors import GraphError, InputError
from bnexport.kernels import OPS, Abstract, evaluate

SPECIAL = [0.0, -0.0, 1.0, -1.0, 0.5, -0.5, 1.5, 2.5, -2.5, 1e-8, 20.0, -20.0, 88.0, -88.0, 89.0, -104.0, 1000.0, -1000.0, np.inf, -np.inf, np.nan]
FLOAT_UNARY = [
    "Abs", "Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "Ceil", "Cos", "Cosh", "Elu", "Erf", "Erfc", "Exp", "Expm1", "Floor", "Inv",
    "LeakyRelu", "Log", "Log1p", "Neg", "Reciprocal", "Relu", "Relu6", "Rint", "Round", "Rsqrt", "Selu", "Sigmoid", "Sign", "Sin", "Sinh", "Softplus",
    "Softsign", "Sqrt", "Square", "Tan", "Tanh",
]  # fmt: skip
HALF_UNARY = [name for name in FLOAT_UNARY if name != "Rint"]
INT_UNARY = ["Abs", "Neg", "Relu", "Relu6", "Sign", "Square", "Invert"]
ARITHMETIC = ["Add", "AddV2", "Sub", "Mul", "Div", "Maximum", "Minimum", "SquaredDifference", "FloorDiv", "FloorMod"]
FLOAT_BINARY = [*ARITHMETIC, *["RealDiv", "DivNoNan", "MulNoNan", "Mod", "Pow", "Atan2", "Xdivy", "Xlogy", "Xlog1py"]]
INT_BINARY = [*ARITHMETIC, "TruncateDiv", "TruncateMod", "Mod", "Pow"]
# TensorFlow's Erf of an infinite double is NaN as well, though that of a float is 1
INFINITY_IS_NAN = {"Cos", "Sin", "Tan", "Erf"}
shapes = st.lists(st.integers(0, 4), max_size=3)


@st.composite
def two_shapes(draw):
    shape = draw(shapes)
    other = [n if draw(st.booleans()) else 1 for n in shape][draw(st.integers(0, len(shape))) :]
    return (shape, other) if draw(st.booleans()) else (other, shape)


def drawn(seed, shape, dtype, low=-4, high=4):
    values = np.random.default_rng(seed).uniform(low, high, shape)
    return (np.rint(values) if np.dtype(dtype).kind in "iu" else values).astype(dtype)


@compares(*FLOAT_UNARY)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", FLOAT_UNARY)
def test_float_functions(name, dtype):
    special = [x for x in SPECIAL if name not in INFINITY_IS_NAN or not np.isinf(x)]
    x = np.concatenate([special, np.linspace(-10, 10, 79), np.random.default_rng(0).normal(size=20)]).astype(dtype)
    truth = from_tensorflow(name, {}, [x.astype(np.float64)])[0]
    with np.errstate(all="ignore"):
        expected = truth.astype(dtype)
    # a few units in the last place of what TensorFlow computes in double precision; smaller than the smallest normal number, that unit is fixed
    result = evaluate(OPS[name], {}, [x])[0]
    normal = np.abs(expected) >= np.finfo(dtype).tiny
    np.testing.assert_allclose(result[normal], expected[normal], rtol=5 * np.finfo(dtype).eps)
    np.testing.assert_allclose(result[~normal], expected[~normal], atol=np.finfo(dtype).tiny)
    check(name, {}, x.reshape(2, -1)[:, ::3], expected=[expected.reshape(2, -1)[:, ::3]])
    check(name, {}, x[3], tolerance=1e-5)


@compares(*HALF_UNARY)
@pytest.mark.parametrize("name", HALF_UNARY)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_functions(name, dtype):
    x = np.linspace(-3, 3, 13).astype(np.float32)
    if dtype == "bfloat16":
        x = x.astype(pytest.importorskip("ml_dtypes").bfloat16)
    check(name, {}, x.astype(dtype) if dtype == "float16" else x, tolerance=4e-3 if dtype == "float16" else 4e-2)


@compares(*INT_UNARY)
@pytest.mark.parametrize("name", INT_UNARY)
@pytest.mark.parametrize("dtype", ["int32", "int64"])
def test_integer_functions(name, dtype):
    check(name, {}, np.array([[-7, 0, 3], [9, -1, 2]], dtype))


@compares("LeakyRelu")
@pytest.mark.parametrize("alpha", [0.01, 0.3, 0.0, 1.0, 1.7, -0.4])
def test_leaky_relu_of_any_slope(alpha):
    check("LeakyRelu", {"alpha": alpha}, np.array(SPECIAL, np.float32))


def test_error_function_is_the_C_library_s():
    x = np.concatenate([np.linspace(-6, 6, 4001), np.linspace(-26, 26, 501)])
    erf, erfc = (evaluate(OPS[name], {}, [x])[0] for name in ("Erf", "Erfc"))
    np.testing.assert_allclose(erf, [math.erf(v) for v in x], rtol=1e-15)
    np.testing.assert_allclose(erfc, [math.erfc(v) for v in x], rtol=2e-15)


@compares(*FLOAT_BINARY)
@pytest.mark.parametrize("name", FLOAT_BINARY)
@given(two_shapes(), st.integers(0, 99), st.sampled_from(["float32", "float64", "float16"]))
@bounded(12)
def test_float_binary(name, both, seed, dtype):
    x, y = drawn(seed, both[0], dtype), drawn(seed + 1, both[1], dtype)
    if dtype == "float16" and name in ("Atan2", "Mod"):
        dtype = "float32"
        x, y = x.astype(dtype), y.astype(dtype)
    check(name, {}, x, y, tolerance=1e-15 * 4 if dtype == "float64" and name != "Pow" else None)


@compares(*FLOAT_BINARY)
@pytest.mark.parametrize("name", FLOAT_BINARY)
def test_float_binary_of_special_values(name):
    special = np.array([0.0, 1.0, -1.0, 3.0, -0.1, 0.1, np.inf, -np.inf, np.nan], np.float32)
    check(name, {}, special[:, None], special)


@compares(*INT_BINARY)
@pytest.mark.parametrize("name", INT_BINARY)
@given(two_shapes(), st.integers(0, 99), st.sampled_from(["int32", "int64"]))
@bounded(10)
def test_integer_binary(name, both, seed, dtype):
    x, y = drawn(seed, both[0], dtype, -9, 9), drawn(seed + 1, both[1], dtype, 0 if name == "Pow" else -5, 5)
    if name != "Pow":
        y = np.where(y == 0, y.dtype.type(3), y)
    check(name, {}, x, y)


@compares("LeftShift", "RightShift")
def test_shifts():
    x = np.array([-9, -1, 0, 1, 77], np.int32)
    for name in ("LeftShift", "RightShift"):
        check(name, {}, x, np.array([1, 3, 5, 0, 2], np.int32))
        check(name, {}, x, np.int32(2))
        check(name, {}, x, np.array([-1, 40, 31, -40, 32], np.int32))


@compares("BitwiseAnd", "BitwiseOr", "BitwiseXor")
def test_bitwise():
    for name in ("BitwiseAnd", "BitwiseOr", "BitwiseXor"):
        check(name, {}, np.array([5, 6, -1], np.int32), np.array([3], np.int32))


@pytest.mark.parametrize("name", ["Div", "FloorDiv", "TruncateDiv", "FloorMod", "Mod", "TruncateMod"])
def test_integers_are_not_divided_by_zero(name):
    with pytest.raises(InputError, match="divided by zero"):
        evaluate(OPS[name], {}, [np.array([1, 2]), np.array([1, 0])])


def test_integers_are_not_raised_to_negative_powers():
    with pytest.raises(InputError, match="negative power"):
        evaluate(OPS["Pow"], {}, [np.array([2]), np.array([-1])])


@compares("TruncateDiv")
def test_float_truncated_division():
    x = np.array([7.5, -7.5], np.float32)
    check("TruncateDiv", {}, x, np.array(2, np.float32), expected=[np.array([3, -3], np.float32)])


@compares("AddN", "AccumulateNV2", "ClipByValue", "SquaredDifference")
def test_sums_and_clips():
    x = drawn(1, (3, 4), np.float32)
    check("AddN", {}, x)
    check("AddN", {}, x, x + 1, x * 2, unknown=(0, 1, 2))
    check("AccumulateNV2", {}, x, x + 1, x * 2, unknown=(0, 1, 2), expected=from_tensorflow("AddN", {}, [x, x + 1, x * 2]))
    check("AddN", {}, np.float32(1), np.float32(2), np.float32(3))
    for low, high in ((-1, 1), (0, 6)):
        check("ClipByValue", {}, x, np.float32(low), np.float32(high))
    check("ClipByValue", {}, x, x - 1, x + 1)
    check("ClipByValue", {}, x, np.float32(2), np.float32(-2))
    z = np.array([1 + 2j, -3 + 0.5j], np.complex64)
    check("SquaredDifference", {}, z, z[::-1])


CASTS = ["float32", "float64", "float16", "int32", "int64", "int8", "uint8", "bool"]


@compares("Cast")
@pytest.mark.parametrize("to", CASTS)
@pytest.mark.parametrize("of", CASTS)
def test_casts(of, to):
    values = np.array([0, 1, 2.9, 100.5, 0.2] if of.startswith("u") or to.startswith("u") else [0, 1, 2.9, -2.9, 100.5, -0.2])
    check("Cast", {"SrcT": of, "DstT": to}, values.astype(of))


@compares("Cast")
@pytest.mark.parametrize("truncate", [False, True])
@pytest.mark.parametrize(("of", "to"), [("float32", "bfloat16"), ("float32", "float16"), ("float64", "float32"), ("float64", "bfloat16")])
def test_casts_to_narrower_floats(of, to, truncate):
    x = np.random.default_rng(3).normal(size=64).astype(of)
    check("Cast", {"SrcT": of, "DstT": to, "Truncate": truncate}, x, tolerance=1e-9)


def test_shapes_that_do_not_broadcast_are_refused():
    with pytest.raises(GraphError, match=r"\[2, 3\] and \[2\] do not fit together"):
        OPS["Add"].infer({}, [Abstract((2, 3), np.dtype("float32")), Abstract((2,), np.dtype("float32"))])
    with pytest.raises(GraphError, match="do not fit together"):
        OPS["AddN"].infer({}, [Abstract((2, 3), np.dtype("float32")), Abstract((3,), np.dtype("float32"))])
