import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kernel_oracle import bounded, check, check_values, compares

from bnexport.errors import GraphError
from bnexport.kernels import OPS, Abstract, evaluate

FLOATS = ["float32", "float64", "float16"]
small = st.integers(1, 5)


def normal(seed, shape, dtype="float32"):
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def of(*shape):
    return Abstract(shape, np.dtype("float32"))


@compares("MatMul")
@given(small, small, small, st.booleans(), st.booleans(), st.sampled_from([*FLOATS, "int32", "int64"]))
@bounded(30)
def test_matrix_product(n, k, m, turn_a, turn_b, dtype):
    a, b = 3 * normal(1, (k, n) if turn_a else (n, k)), 3 * normal(2, (m, k) if turn_b else (k, m))
    check("MatMul", {"transpose_a": turn_a, "transpose_b": turn_b}, a.astype(dtype), b.astype(dtype), unknown=(0, 1))


@compares("BatchMatMul", "BatchMatMulV2", "BatchMatMulV3")
@given(st.lists(st.integers(1, 3), max_size=2), small, small, small, st.booleans(), st.booleans(), st.data())
@bounded(30)
def test_matrix_products_of_batches(batch, n, k, m, turn_a, turn_b, data):
    attrs = {"adj_x": turn_a, "adj_y": turn_b}
    shape_a, shape_b = ((k, n) if turn_a else (n, k)), ((m, k) if turn_b else (k, m))
    check("BatchMatMul", attrs, normal(1, (*batch, *shape_a)), normal(2, (*batch, *shape_b)), unknown=(0, 1))
    fewer = [1 if data.draw(st.booleans()) else b for b in batch][data.draw(st.integers(0, len(batch))) :]
    a, b = normal(1, (*fewer, *shape_a)), normal(2, (*batch, *shape_b))
    check("BatchMatMulV2", attrs, a, b, unknown=(0, 1))
    check("BatchMatMulV3", {**attrs, "Tout": "float32"}, a, b, unknown=(0, 1))


@compares("BiasAdd", "BiasAddV1")
@pytest.mark.parametrize("shape", [(2, 3), (2, 4, 3), (2, 4, 5, 3), (2, 2, 4, 5, 3)])
@pytest.mark.parametrize("dtype", FLOATS)
def test_bias(shape, dtype):
    bias = normal(3, 3, dtype)
    check("BiasAdd", {}, normal(1, shape, dtype), bias)
    check("BiasAddV1", {}, normal(1, shape, dtype), bias)
    if len(shape) > 3:
        check("BiasAdd", {"data_format": "NCHW"}, np.moveaxis(normal(1, shape, dtype), -1, 1), bias)


EQUATIONS = [
    ("ij,jk->ik", (2, 3), (3, 4)),
    ("bij,bjk->bik", (2, 3, 4), (2, 4, 5)),
    ("...ij,jk->...ik", (2, 3, 4), (4, 5)),
    ("bqhd,bkhd->bhqk", (2, 3, 2, 4), (2, 5, 2, 4)),
    ("...a,...a->...", (2, 3), (3,)),
    ("ab->ba", (2, 3)),
    ("ab->a", (2, 3)),
    ("aa->a", (3, 3)),
    ("i,j->ij", (2,), (3,)),
]


@compares("Einsum")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("equation", EQUATIONS, ids=lambda e: e[0])
def test_einsum(equation, dtype):
    operands = [normal(i, shape, dtype) for i, shape in enumerate(equation[1:])]
    check("Einsum", {"equation": equation[0]}, *operands, unknown=(0, 1))


@compares("Softmax", "LogSoftmax")
@given(st.lists(st.integers(1, 4), min_size=2, max_size=4), st.sampled_from([*FLOATS, "bfloat16"]), st.sampled_from([1, 1e3]))
@bounded(30)
def test_softmax(shape, dtype, spread):
    if dtype == "bfloat16":
        dtype = pytest.importorskip("ml_dtypes").bfloat16
    x = (normal(1, shape) * spread).astype(dtype)
    check("Softmax", {}, x)
    check("LogSoftmax", {}, x)


@compares("Softmax", "LogSoftmax")
def test_softmax_of_no_rows():
    check("Softmax", {}, np.zeros((0, 3), np.float32))
    check("LogSoftmax", {}, np.zeros((0, 3), np.float32))


@compares("MatrixInverse", "MatrixBandPart", "MatrixDiag", "MatrixDiagPart")
def test_matrices():
    x = normal(1, (2, 4, 4), "float64") + 4 * np.eye(4)
    check("MatrixInverse", {}, x)
    check("MatrixInverse", {"adjoint": True}, x)
    for lower, upper in ((0, 0), (-1, 0), (0, -1), (1, 2), (-1, -1)):
        check("MatrixBandPart", {}, normal(2, (2, 3, 5)), np.int32(lower), np.int32(upper))
    check("MatrixDiag", {}, normal(2, (2, 3)))
    check("MatrixDiagPart", {}, normal(2, (2, 3, 5)))


@compares("MatrixDiagV2", "MatrixDiagV3", "MatrixDiagPartV2", "MatrixDiagPartV3", "MatrixSetDiagV2", "MatrixSetDiagV3")
def test_later_versions_with_their_defaults():
    zero, minus_one, padding = np.int32(0), np.int32(-1), np.float32(0)
    for version in ("V2", "V3"):
        check("MatrixDiag" + version, {}, normal(2, (2, 3)), zero, minus_one, minus_one, padding)
        check("MatrixDiagPart" + version, {}, normal(2, (2, 3, 5)), zero, padding)
        check("MatrixSetDiag" + version, {}, normal(1, (2, 3, 5)), normal(2, (2, 3)), zero)


@compares("MatrixDiagV2", "MatrixDiagV3", "MatrixDiagPartV2", "MatrixDiagPartV3", "MatrixSetDiagV2", "MatrixSetDiagV3")
@pytest.mark.parametrize("align", [None, "LEFT_RIGHT", "RIGHT_LEFT", "LEFT_LEFT", "RIGHT_RIGHT"])
@pytest.mark.parametrize("band", [[1], [-1], [0, 1], [-1, 1], [-2, 0], [-2, 2], [1, 2], [-2, -1]])
def test_bands_of_matrices(align, band):
    """Diagonals of several lengths lie in rows of one length, at its left or right end."""
    which, padding = np.array(band if len(band) > 1 else band[0], np.int32), np.float32(7)
    for version, attrs in (("V2", {}), ("V3", {"align": align} if align else {})):
        for shape in ((2, 3, 5), (4, 3), (3, 3)):
            (held,) = check("MatrixDiagPart" + version, attrs, normal(2, shape), which, padding)
            check("MatrixSetDiag" + version, attrs, normal(1, shape), held, which, unknown=(0, 1))
            for rows, columns in ((-1, -1), (shape[-2], shape[-1])):
                check("MatrixDiag" + version, attrs, held, which, np.int32(rows), np.int32(columns), padding)


def test_diagonals_that_a_matrix_does_not_have():
    with pytest.raises(GraphError, match="a matrix of 3 rows and 5 columns has no diagonals from 5 to 5"):
        evaluate(OPS["MatrixDiagPartV3"], {}, [normal(2, (2, 3, 5)), np.int32(5), np.float32(0)])


@compares("LogMatrixDeterminant", "MatrixSolve", "MatrixTriangularSolve", "DiagPart")
def test_determinants_equations_and_diagonals():
    a, b = normal(1, (2, 4, 4), "float64"), normal(2, (2, 4, 3), "float64")
    check("LogMatrixDeterminant", {}, a)
    for adjoint in (False, True):
        check("MatrixSolve", {"adjoint": adjoint}, a, b, unknown=(0, 1))
        for lower in (False, True):
            check("MatrixTriangularSolve", {"adjoint": adjoint, "lower": lower}, a, b, unknown=(0, 1))
    check("DiagPart", {}, normal(1, (2, 3, 2, 3)))
    check("DiagPart", {}, normal(1, (4, 4)))
    with pytest.raises(GraphError, match="singular"):
        evaluate(OPS["MatrixSolve"], {}, [np.zeros((2, 2)), np.ones((2, 1))])


@compares("InTopK", "InTopKV2")
@pytest.mark.parametrize("k", [1, 3, 9])
def test_targets_among_the_largest(k):
    scores = np.rint(normal(1, (40, 6)))  # with ties
    scores[3, 2], scores[4, 1] = np.nan, np.inf
    targets = np.random.default_rng(2).integers(-1, 7, 40).astype(np.int32)
    check("InTopK", {"k": k}, scores, targets, unknown=(0, 1))
    check("InTopKV2", {}, scores, targets, np.int32(k), unknown=(0, 1))


@compares("Cholesky", "MatrixDeterminant", "Cross", "MatrixSetDiag", "Diag")
def test_more_matrices():
    x = normal(1, (2, 4, 4), "float64")
    check("MatrixDeterminant", {}, x)
    check("Cholesky", {}, x @ x.swapaxes(1, 2) + np.eye(4))
    check("Cross", {}, normal(1, (2, 4, 3)), normal(2, (2, 4, 3)))
    check("DiagPart", {}, normal(3, (4, 4)))
    check("DiagPart", {}, normal(3, (2, 3, 2, 3)))
    check("MatrixSetDiag", {}, normal(1, (2, 3, 5)), normal(2, (2, 3)))
    check("Diag", {}, normal(1, (2, 3)))


def test_singular_matrices_are_refused():
    with pytest.raises(GraphError, match="singular"):
        evaluate(OPS["MatrixInverse"], {}, [np.zeros((2, 2))])


@compares("L2Loss")
@pytest.mark.parametrize("dtype", FLOATS)
def test_l2_loss(dtype):
    check("L2Loss", {}, normal(1, (3, 4), dtype))


REDUCTIONS = ["Sum", "Mean", "Max", "Min", "Prod", "EuclideanNorm"]


@compares(*REDUCTIONS)
@pytest.mark.parametrize("name", REDUCTIONS)
@given(st.lists(st.integers(0, 4), max_size=4), st.data(), st.booleans(), st.sampled_from([*FLOATS, "int32", "int64"]))
@bounded(30)
def test_reductions(name, shape, data, keep, dtype):
    axes = data.draw(st.lists(st.integers(0, len(shape) - 1), unique=True)) if shape else []
    axes = [a - len(shape) if data.draw(st.booleans()) else a for a in axes]
    x = (3 * normal(1, shape)).astype(dtype)
    axes = np.int32(axes[0]) if len(axes) == 1 and data.draw(st.booleans()) else np.array(axes, data.draw(st.sampled_from(["int32", "int64"])))
    check(name, {"keep_dims": keep}, x, axes, tolerance=4e-3 if dtype == "float16" else None)


@compares("Mean")
@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16", "int32", "int64"])
def test_means_of_integers_whose_sum_is_large(dtype):
    most = np.iinfo(dtype).max
    check("Mean", {}, np.array([[most, most, most - 1], [most, 1, 0], [-7 if dtype[0] == "i" else 7, 0, 1]], dtype), np.int32(1))
    check("Mean", {}, np.full((300, 2), 1, dtype), np.int32(0))


@compares("All", "Any")
@pytest.mark.parametrize("axes", [0, -1, [0, 2], []])
def test_logical_reductions(axes):
    x = np.random.default_rng(0).random((3, 2, 4)) < 0.7
    check("All", {}, x, np.array(axes, np.int32))
    check("Any", {"keep_dims": True}, x, np.array(axes, np.int32))


@pytest.mark.parametrize("axes", [(0,), (0, 1), (1,)])
def test_long_float_sums_are_as_good_as_their_dtype(axes):
    x = (1 + np.random.default_rng(0).random((100_000, 3))).astype(np.float32)
    (mean,) = evaluate(OPS["Mean"], {}, [x, np.array(axes)])
    np.testing.assert_allclose(mean, x.mean(axis=axes, dtype=np.float64), rtol=3e-7)


@compares("ArgMax", "ArgMin", "Max", "Min")
@pytest.mark.parametrize("name", ["ArgMax", "ArgMin", "Max", "Min"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_extremes_with_NaN_and_infinities(name, dtype):
    nan, inf = np.nan, np.inf
    x = np.array([[nan, 1, 2, -inf], [-inf, -inf, nan, -inf], [nan] * 4, [1, nan, -5, nan], [inf, nan, inf, 3], [nan, inf, -inf, inf]], dtype)
    check(name, {}, x, np.int32(1))


@compares("ArgMax", "ArgMin", "TopK", "TopKV2")
@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), st.data(), st.sampled_from(["float32", "float64", "int32"]))
@bounded(30)
def test_positions_of_extremes(shape, data, dtype):
    x = np.rint(normal(1, shape)).astype(dtype)  # with ties
    axis = np.int32(data.draw(st.integers(-len(shape), len(shape) - 1)))
    out = data.draw(st.sampled_from(["int32", "int64"]))
    check("ArgMax", {"output_type": out}, x, axis)
    check("ArgMin", {"output_type": out}, x, axis)
    k = data.draw(st.integers(0, shape[-1]))
    wanted = check("TopKV2", {"sorted": True}, x, np.int32(k))
    check("TopK", {"k": k}, x, expected=[np.array(w) for w in wanted])


@compares("Cumsum", "Cumprod")
@given(st.lists(st.integers(1, 4), min_size=1, max_size=3), st.data(), st.booleans(), st.booleans(), st.sampled_from(["float32", "int32"]))
@bounded(20)
def test_cumulative(shape, data, exclusive, reverse, dtype):
    x = (3 * normal(1, shape)).astype(dtype)
    axis = np.int32(data.draw(st.integers(-len(shape), len(shape) - 1)))
    check("Cumsum", {"exclusive": exclusive, "reverse": reverse}, x, axis)
    check("Cumprod", {"exclusive": exclusive, "reverse": reverse}, x, axis)


COMPARISONS = ["Equal", "NotEqual", "Less", "LessEqual", "Greater", "GreaterEqual"]


@compares(*COMPARISONS)
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "int32", "int64"])
@pytest.mark.parametrize("name", COMPARISONS)
def test_comparisons(name, dtype):
    x = np.array([[1, 2, 3], [3, 2, 1]], dtype)
    check(name, {}, x, np.array([2], dtype))
    check(name, {}, x, x[::-1])
    if dtype.startswith("float"):
        check(name, {}, np.array([np.nan, np.inf, -0.0], dtype), np.array([np.nan, np.inf, 0.0], dtype))


@compares("Equal", "NotEqual")
def test_equality_of_shapes_that_do_not_fit():
    for name in ("Equal", "NotEqual"):
        check(name, {"incompatible_shape_error": False}, normal(1, (2,)), normal(1, (3,)), unknown=(0, 1))
        check(name, {"incompatible_shape_error": False}, normal(1, (2, 1)), normal(1, (3,)), unknown=(0, 1))


@compares("LogicalAnd", "LogicalOr", "LogicalNot", "IsNan", "IsInf", "IsFinite")
def test_logic():
    x, y = np.array([[True], [False]]), np.array([True, False])
    check("LogicalAnd", {}, x, y)
    check("LogicalOr", {}, x, y)
    check("LogicalNot", {}, x)
    for name in ("IsNan", "IsInf", "IsFinite"):
        check(name, {}, np.array([1, np.inf, -np.inf, np.nan], np.float32))


@compares("Bucketize")
@pytest.mark.parametrize("dtype", ["float32", "float64", "int32", "int64"])
def test_buckets(dtype):
    """Numbers on a boundary, beside it by less than a float32, and integers that a float32 does not hold."""
    boundaries = [-3.0, 0.1, 0.1, 2.0, 2.0**24 + 2]
    x = [-4, -3, 0.1, np.float32(0.1), 0, 2, 3, 2**24 + 1, 2**24 + 2, 2**24 + 3, *([np.nan, np.inf, -np.inf] if dtype.startswith("f") else [])]
    check("Bucketize", {"boundaries": boundaries}, np.array(x).astype(dtype).reshape(-1, 1))


@compares("Select", "SelectV2", "Where")
@pytest.mark.parametrize("dtype", ["float32", "int32", "bool"])
def test_choice(dtype):
    x, y = normal(1, (3, 2, 2)).astype(dtype), normal(2, (3, 2, 2)).astype(dtype)
    each = normal(3, (3, 2, 2)) > 0
    for condition in (each, each[:, 0, 0], np.True_):
        check("Select", {}, condition, x, y, unknown=(0, 1, 2))
    for condition in (each, each[0], each[:, :1], np.False_):
        check("SelectV2", {}, condition, x, y[0], unknown=(0, 1, 2))
    check_values("Where", {}, x)


MISFITS = [
    ("MatMul", {}, [of(2, 3), of(2, 3)]),
    ("MatMul", {}, [of(2, 3, 4), of(4, 3)]),
    ("BatchMatMulV2", {}, [of(2, 3, 4), of(3, 4, 3)]),
    ("BatchMatMulV2", {}, [of(2, 3, 4), of(2, 3, 4)]),
    ("BiasAdd", {}, [of(2, 3), of(2)]),
    ("BiasAdd", {"data_format": "NCHW"}, [of(2, 3, 4, 4), of(4)]),
    ("Einsum", {"equation": "ij,jk->ik"}, [of(2, 3), of(4, 3)]),
    ("Einsum", {"equation": "ij,jk->ik"}, [of(2, 3)]),
    ("Einsum", {"equation": "ij->ik"}, [of(2, 3)]),
    ("Select", {}, [Abstract((2,), np.dtype(bool)), of(3, 2), of(3, 2)]),
    ("Sum", {}, [of(2, 3), Abstract((), np.dtype("int32"), np.array(2))]),
    ("Sum", {}, [of(2, 3), Abstract((), np.dtype("int32"))]),
    ("ArgMax", {}, [of(2, 0), Abstract((), np.dtype("int32"), np.array(1))]),
    ("TopKV2", {}, [of(2, 3), Abstract((), np.dtype("int32"), np.array(4))]),
]


@pytest.mark.parametrize(("name", "attrs", "operands"), MISFITS, ids=lambda v: v if isinstance(v, str) else "")
def test_what_does_not_fit_is_refused(name, attrs, operands):
    with pytest.raises(GraphError):
        OPS[name].infer(attrs, operands)
