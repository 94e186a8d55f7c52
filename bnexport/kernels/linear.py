"""Matrix products and the bias."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from bnexport.errors import GraphError
from bnexport.kernels.rules import broadcast, is_half, same_as_first
from bnexport.kernels.table import Abstract, Attrs, Infer, NDArray, op, shapes_differ


def product(a: NDArray, b: NDArray) -> NDArray:
    """The matrix product. Half floats are multiplied in float32 and rounded once, which is also where BLAS is."""
    if is_half(a.dtype):
        return np.asarray(np.matmul(a.astype(np.float32), b.astype(np.float32)), a.dtype)
    return np.asarray(np.matmul(a, b))


def _turned(shape: Sequence[int], turn: bool) -> tuple[int, int]:
    return (shape[-1], shape[-2]) if turn else (shape[-2], shape[-1])


def _mat_mul_shape(attrs: Attrs, operands: Sequence[Abstract]) -> Sequence[Abstract]:
    a, b = operands
    if len(a.shape) != 2 or len(b.shape) != 2:
        raise shapes_differ("MatMul multiplies matrices", a.shape, b.shape)
    n, k = _turned(a.shape, attrs.get("transpose_a", False))
    k_too, m = _turned(b.shape, attrs.get("transpose_b", False))
    if k != k_too:
        raise shapes_differ("MatMul", a.shape, b.shape)
    return [Abstract((n, m), a.dtype)]


@op("MatMul", infer=_mat_mul_shape)
def mat_mul(attrs: Attrs, a: NDArray, b: NDArray) -> NDArray:
    """The product of two matrices, each transposed first where `transpose_a` or `transpose_b` says so."""
    return product(a.T if attrs.get("transpose_a", False) else a, b.T if attrs.get("transpose_b", False) else b)


def _batch_mat_mul_shape(attrs: Attrs, operands: Sequence[Abstract]) -> Sequence[Abstract]:
    a, b = operands
    if len(a.shape) < 2 or len(b.shape) < 2:
        raise shapes_differ("BatchMatMul multiplies matrices", a.shape, b.shape)
    n, k = _turned(a.shape, attrs.get("adj_x", False))
    k_too, m = _turned(b.shape, attrs.get("adj_y", False))
    if k != k_too:
        raise shapes_differ("BatchMatMul", a.shape, b.shape)
    return [Abstract((*broadcast(a.shape[:-2], b.shape[:-2]), n, m), a.dtype)]


@op("BatchMatMul", "BatchMatMulV2", "BatchMatMulV3", infer=_batch_mat_mul_shape)
def batch_mat_mul(attrs: Attrs, a: NDArray, b: NDArray) -> NDArray:
    """The products of the matrices in the last two dimensions; the others broadcast. `adj_x` and `adj_y` take the conjugate transpose."""
    a = a.swapaxes(-1, -2).conj() if attrs.get("adj_x", False) else a
    b = b.swapaxes(-1, -2).conj() if attrs.get("adj_y", False) else b
    return product(a, b)


def _bias_shape(attrs: Attrs, operands: Sequence[Abstract]) -> Sequence[Abstract]:
    x, bias = operands
    channels = 1 if attrs.get("data_format", "NHWC").startswith("NC") else -1
    if len(x.shape) < 2 or bias.shape != (x.shape[channels],):
        raise shapes_differ("BiasAdd", x.shape, bias.shape)
    return same_as_first(attrs, operands)


@op("BiasAdd", "BiasAddV1", infer=_bias_shape, inplace=True)
def bias_add(attrs: Attrs, x: NDArray, bias: NDArray, *, out: NDArray | None = None) -> Any:
    """A bias for each channel: the last dimension, or with `data_format` NCHW the second."""
    if attrs.get("data_format", "NHWC").startswith("NC"):
        bias = bias.reshape(-1, *[1] * (x.ndim - 2))
    return np.add(x, bias, out=out)


def _einsum_shape(attrs: Attrs, operands: Sequence[Abstract]) -> Sequence[Abstract]:
    equation = attrs["equation"].replace(" ", "")
    sides = equation.split("->")
    terms = sides[0].split(",")
    if len(sides) != 2 or len(terms) != len(operands):
        raise GraphError(f"the equation {equation} does not fit {len(operands)} operands")
    sizes: dict[str, int] = {}
    ellipsis: list[tuple[int, ...]] = [()]
    for term, operand in zip(terms, operands, strict=True):
        before, dots, after = term.partition("...")
        extra = len(operand.shape) - len(before) - len(after)
        if extra < 0 or (extra and not dots):
            raise shapes_differ(f"the equation {equation}", *(o.shape for o in operands))
        named = (*operand.shape[: len(before)], *operand.shape[len(before) + extra :])
        for label, n in zip(before + after, named, strict=True):
            if sizes.setdefault(label, n) != n:
                raise shapes_differ(f"the equation {equation}", *(o.shape for o in operands))
        ellipsis.append(operand.shape[len(before) : len(before) + extra])
    before, dots, after = sides[1].partition("...")
    if unknown := set(before + after) - set(sizes):
        raise GraphError(f"the equation {equation} has {', '.join(sorted(unknown))} on its right side only")
    free = broadcast(*ellipsis) if dots else ()
    return [Abstract((*(sizes[c] for c in before), *free, *(sizes[c] for c in after)), operands[0].dtype)]


@op("Einsum", infer=_einsum_shape)
def einsum(attrs: Attrs, *operands: NDArray) -> NDArray:
    """Einstein's summation by the attribute `equation`."""
    wide = [x.astype(np.float32) if is_half(x.dtype) else x for x in operands]
    result = np.einsum(attrs["equation"], *wide, optimize=len(operands) > 1)
    # a bare permutation of the axes would be a view of the operand
    return np.array(result, operands[0].dtype, copy=len(operands) == 1 or None)


@op("MatrixInverse", infer=same_as_first)
def matrix_inverse(attrs: Attrs, x: NDArray) -> NDArray:
    """The inverses of the matrices in the last two dimensions; with `adjoint`, of their conjugate transposes."""
    try:
        return np.linalg.inv(x.swapaxes(-1, -2).conj() if attrs.get("adjoint", False) else x)
    except np.linalg.LinAlgError as cause:
        raise GraphError("a matrix to be inverted is singular or not square") from cause


def _square(attrs: Attrs, operands: Sequence[Abstract]) -> Sequence[Abstract]:
    shape = operands[0].shape
    if len(shape) < 2 or shape[-1] != shape[-2]:
        raise shapes_differ("square matrices are needed", shape)
    return same_as_first(attrs, operands)


@op("Cholesky", infer=_square)
def cholesky(attrs: Attrs, x: NDArray) -> NDArray:
    """The lower triangular factors of symmetric positive definite matrices in the last two dimensions."""
    try:
        return np.linalg.cholesky(x)
    except np.linalg.LinAlgError as cause:
        raise GraphError("a matrix to be factorised is not positive definite") from cause


@op("MatrixDeterminant", infer=lambda attrs, operands: [Abstract(_square(attrs, operands)[0].shape[:-2], operands[0].dtype)])
def matrix_determinant(attrs: Attrs, x: NDArray) -> Any:
    """The determinants of the matrices in the last two dimensions."""
    return np.linalg.det(x)


@op("LogMatrixDeterminant", infer=lambda attrs, operands: [Abstract(_square(attrs, operands)[0].shape[:-2], operands[0].dtype)] * 2)
def log_matrix_determinant(attrs: Attrs, x: NDArray) -> Any:
    """The signs of the determinants of the matrices in the last two dimensions, and the logarithms of their absolute values."""
    sign, logarithm = np.linalg.slogdet(x)
    return sign, logarithm


def _solved(attrs: Attrs, operands: Sequence[Abstract]) -> Sequence[Abstract]:
    a, b = operands
    _square(attrs, operands)
    if len(a.shape) != len(b.shape) or a.shape[:-1] != b.shape[:-1]:
        raise shapes_differ("linear equations", a.shape, b.shape)
    return [Abstract(b.shape, b.dtype)]


@op("MatrixSolve", infer=_solved)
def matrix_solve(attrs: Attrs, a: NDArray, b: NDArray) -> NDArray:
    """x with a · x = b, or adjoint(a) · x = b, for the matrices in the last two dimensions."""
    return _solution(attrs, a, b)


def _solution(attrs: Attrs, a: NDArray, b: NDArray) -> NDArray:
    try:
        return np.linalg.solve(a.swapaxes(-1, -2).conj() if attrs.get("adjoint", False) else a, b)
    except np.linalg.LinAlgError as cause:
        raise GraphError("linear equations have a singular matrix") from cause


@op("MatrixTriangularSolve", infer=_solved)
def matrix_triangular_solve(attrs: Attrs, a: NDArray, b: NDArray) -> NDArray:
    """MatrixSolve, of which only the lower triangle of a is looked at, or the upper one."""
    return _solution(attrs, np.tril(a) if attrs.get("lower", True) else np.triu(a), b)


def _values_alone(of_many: str, flag: str) -> Infer:
    """The shapes of what factorises matrices, where only the numbers are asked for, and not the vectors.

    Vectors have no sign of their own, and another library's are others.
    """

    def infer(attrs: Attrs, operands: Sequence[Abstract]) -> Sequence[Abstract]:
        shape = operands[0].shape
        if attrs.get(flag, True):
            raise GraphError(
                f"{of_many} are known up to their signs only, which bnexport would choose otherwise than TensorFlow; name an --output before"
            )
        if len(shape) < 2 or (flag == "compute_v" and shape[-1] != shape[-2]):
            raise shapes_differ("matrices are needed", shape)
        empty = Abstract((0,), operands[0].dtype)
        values = Abstract((*shape[:-2], min(shape[-2:])), operands[0].dtype)
        return [values, empty] if flag == "compute_v" else [values, empty, empty]

    return infer


@op("SelfAdjointEigV2", infer=_values_alone("eigenvectors", "compute_v"))
def self_adjoint_eig(attrs: Attrs, x: NDArray) -> tuple[NDArray, NDArray]:
    """The eigenvalues of symmetric matrices in ascending order; `compute_v` has to be false."""
    return np.linalg.eigvalsh(x).astype(x.dtype), np.zeros(0, x.dtype)


@op("Svd", infer=_values_alone("singular vectors", "compute_uv"))
def svd(attrs: Attrs, x: NDArray) -> tuple[NDArray, NDArray, NDArray]:
    """The singular values of matrices in descending order; `compute_uv` has to be false."""
    empty = np.zeros(0, x.dtype)
    return np.linalg.svd(x, compute_uv=False).astype(x.dtype), empty, empty.copy()


def _triples(attrs: Attrs, operands: Sequence[Abstract]) -> Sequence[Abstract]:
    a, b = operands
    if a.shape != b.shape or a.shape[-1:] != (3,):
        raise shapes_differ("Cross", a.shape, b.shape)
    return same_as_first(attrs, operands)


@op("Cross", infer=_triples)
def cross(attrs: Attrs, a: NDArray, b: NDArray) -> NDArray:
    """The vector products of the triples in the last dimension."""
    return np.cross(a, b)
