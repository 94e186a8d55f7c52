"""Diagonals and bands of the matrices in the last two dimensions."""

from collections.abc import Sequence

import numpy as np

from bnexport.errors import GraphError
from bnexport.kernels.rules import same_as_first, view_op
from bnexport.kernels.table import Abstract, Attrs, NDArray, op, shapes_differ


def _banded(attrs: Attrs, operands: Sequence[Abstract]) -> Sequence[Abstract]:
    if len(operands[0].shape) < 2:
        raise shapes_differ("MatrixBandPart needs matrices", operands[0].shape)
    return same_as_first(attrs, operands)


@op("MatrixBandPart", infer=_banded)
def matrix_band_part(attrs: Attrs, x: NDArray, lower: NDArray, upper: NDArray) -> NDArray:
    """x with zeros outside of a band: so many diagonals below and above the main one are kept, all for a negative number."""
    below = np.arange(x.shape[-2])[:, None] - np.arange(x.shape[-1])
    kept = ((lower < 0) | (below <= lower)) & ((upper < 0) | (-below <= upper))
    return np.where(kept, x, np.zeros((), x.dtype))


def _defaults(options: Sequence[NDArray], defaults: Sequence[int]) -> None:
    """Raises GraphError unless the operands that the later versions of an op add have their default values: the main diagonal alone."""
    if any(np.any(o != d) for o, d in zip(options, defaults, strict=False)):
        raise GraphError("of the diagonals of a matrix only the main one can be read and written, and only of a square result")


def _diagonal_shape(attrs: Attrs, operands: Sequence[Abstract]) -> Sequence[Abstract]:
    shape = operands[0].shape
    if not shape:
        raise shapes_differ("MatrixDiag needs vectors", shape)
    return [Abstract((*shape, shape[-1]), operands[0].dtype)]


@op("MatrixDiag", "MatrixDiagV2", "MatrixDiagV3", infer=_diagonal_shape)
def matrix_diag(attrs: Attrs, x: NDArray, *options: NDArray) -> NDArray:
    """Square matrices with the last dimension on their diagonals. The options of the later versions have to be the defaults."""
    _defaults(options, (0, -1, -1, 0))
    result = np.zeros((*x.shape, x.shape[-1]), x.dtype)
    at = np.arange(x.shape[-1])
    result[..., at, at] = x
    return result


@view_op("MatrixDiagPart", "MatrixDiagPartV2", "MatrixDiagPartV3")
def matrix_diag_part(attrs: Attrs, x: NDArray, *options: NDArray) -> NDArray:
    """The diagonals of matrices. Of the options of the later versions the first has to be the default; the padding is then without effect."""
    _defaults(options, (0,))
    return np.diagonal(x, axis1=-2, axis2=-1)


def _with_diagonal(attrs: Attrs, operands: Sequence[Abstract]) -> Sequence[Abstract]:
    x, diagonal = operands[:2]
    if len(x.shape) < 2 or diagonal.shape != (*x.shape[:-2], min(x.shape[-2:])):
        raise shapes_differ("MatrixSetDiag", x.shape, diagonal.shape)
    return same_as_first(attrs, operands)


@op("MatrixSetDiag", "MatrixSetDiagV2", "MatrixSetDiagV3", infer=_with_diagonal)
def matrix_set_diag(attrs: Attrs, x: NDArray, diagonal: NDArray, *options: NDArray) -> NDArray:
    """x with other diagonals in its matrices. The option of the later versions has to be the default."""
    _defaults(options, (0,))
    result = x.copy()
    at = np.arange(diagonal.shape[-1])
    result[..., at, at] = diagonal
    return result


@op("Diag", infer=lambda attrs, operands: [Abstract(operands[0].shape * 2, operands[0].dtype)])
def diag(attrs: Attrs, x: NDArray) -> NDArray:
    """A tensor of twice the rank whose generalised diagonal is x."""
    return np.diag(x.reshape(-1)).reshape(x.shape * 2)


def _halved(attrs: Attrs, operands: Sequence[Abstract]) -> Sequence[Abstract]:
    shape = operands[0].shape
    half = len(shape) // 2
    if not shape or shape[:half] != shape[half:]:
        raise shapes_differ("DiagPart", shape)
    return [Abstract(shape[:half], operands[0].dtype)]


@op("DiagPart", infer=_halved)
def diag_part(attrs: Attrs, x: NDArray) -> NDArray:
    """The generalised diagonal of a tensor whose shape repeats after half of its dimensions."""
    half = x.shape[: x.ndim // 2]
    size = int(np.prod(half))
    return np.diagonal(x.reshape(size, size)).reshape(half).copy()
