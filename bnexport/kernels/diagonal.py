"""Diagonals and bands of the matrices in the last two dimensions."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from bnexport.errors import GraphError
from bnexport.kernels.rules import integers, known, same_as_first
from bnexport.kernels.table import Abstract, Attrs, NDArray, Shape, op, shapes_differ


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


class _Diagonal(NamedTuple):
    """One diagonal of a band: where it lies in a matrix, and in what holds the band."""

    rows: NDArray
    columns: NDArray
    place: tuple[int, slice]


def _band(offsets: Sequence[NDArray]) -> tuple[int, int]:
    """The lowest and the highest diagonal, 0 being the main one and the ones above it positive; the main one where nothing is said."""
    chosen = integers(offsets[0]) if offsets else [0]
    return chosen[0], chosen[-1]


def _longest(band: tuple[int, int], rows: int, columns: int) -> int:
    return max(min(rows + min(band[1], 0), columns - max(band[0], 0)), 0)


def _diagonals(attrs: Attrs, band: tuple[int, int], rows: int, columns: int) -> Iterator[_Diagonal]:
    """The diagonals of a band from the highest on. Short ones lie at one end of what holds them: `align` says at which, for those above and below.

    Raises:
        GraphError: there are no such diagonals.
    """
    low, high = band
    if low > high or high >= max(columns, 1) or -low >= max(rows, 1):
        raise GraphError(f"a matrix of {rows} rows and {columns} columns has no diagonals from {low} to {high}")
    above, below = attrs.get("align", "LEFT_LEFT").split("_")
    for number, diagonal in enumerate(range(high, low - 1, -1)):
        length = min(rows + min(diagonal, 0), columns - max(diagonal, 0))
        right = (above == "RIGHT" and diagonal >= 0) or (below == "RIGHT" and diagonal <= 0)
        start = _longest(band, rows, columns) - length if right else 0
        at = np.arange(length)
        yield _Diagonal(at - min(diagonal, 0), at + max(diagonal, 0), (number, slice(start, start + length)))


def _held(lead: Shape, band: tuple[int, int], longest: int) -> Shape:
    return (*lead, longest) if band[0] == band[1] else (*lead, band[1] - band[0] + 1, longest)


def _part_shape(attrs: Attrs, operands: Sequence[Abstract]) -> Sequence[Abstract]:
    x, *options = operands
    if len(x.shape) < 2:
        raise shapes_differ("diagonals are those of matrices", x.shape)
    band = _band([known(o, "diagonals") for o in options[:1]])
    return [Abstract(_held(x.shape[:-2], band, _longest(band, *x.shape[-2:])), x.dtype)]


@op("MatrixDiagPart", "MatrixDiagPartV2", infer=_part_shape)
def matrix_diag_part(attrs: Attrs, x: NDArray, *options: NDArray) -> NDArray:
    """Diagonals of matrices: which, and what fills up those that are shorter than the longest, are options of the later versions."""
    band, lead = _band(options), x.shape[:-2]
    longest = _longest(band, *x.shape[-2:])
    result = np.full((*lead, band[1] - band[0] + 1, longest), options[1] if len(options) > 1 else 0, x.dtype)
    for diagonal in _diagonals(attrs, band, *x.shape[-2:]):
        result[(..., *diagonal.place)] = x[..., diagonal.rows, diagonal.columns]
    return result.reshape(_held(lead, band, longest))


@op("MatrixDiagPartV3", infer=_part_shape)
def matrix_diag_part_v3(attrs: Attrs, x: NDArray, *options: NDArray) -> Any:
    """MatrixDiagPartV2, which says where short diagonals lie: those above at the right by default."""
    return matrix_diag_part({"align": "RIGHT_LEFT", **attrs}, x, *options)


def _set_shape(attrs: Attrs, operands: Sequence[Abstract]) -> Sequence[Abstract]:
    x, diagonals, *options = operands
    band = _band([known(o, "diagonals") for o in options[:1]])
    if len(x.shape) < 2 or diagonals.shape != _held(x.shape[:-2], band, _longest(band, *x.shape[-2:])):
        raise shapes_differ("MatrixSetDiag", x.shape, diagonals.shape)
    return same_as_first(attrs, operands)


@op("MatrixSetDiag", "MatrixSetDiagV2", infer=_set_shape)
def matrix_set_diag(attrs: Attrs, x: NDArray, diagonals: NDArray, *options: NDArray) -> NDArray:
    """x with other diagonals in its matrices."""
    band, result = _band(options), x.copy()
    held = diagonals.reshape(*x.shape[:-2], band[1] - band[0] + 1, diagonals.shape[-1])
    for diagonal in _diagonals(attrs, band, *x.shape[-2:]):
        result[..., diagonal.rows, diagonal.columns] = held[(..., *diagonal.place)]
    return result


@op("MatrixSetDiagV3", infer=_set_shape)
def matrix_set_diag_v3(attrs: Attrs, x: NDArray, diagonals: NDArray, *options: NDArray) -> Any:
    """MatrixSetDiagV2 with MatrixDiagPartV3's places."""
    return matrix_set_diag({"align": "RIGHT_LEFT", **attrs}, x, diagonals, *options)


def _whole(x: Shape, options: Sequence[NDArray]) -> tuple[Shape, tuple[int, int]]:
    """The shape of the matrices that vectors are the diagonals of, the smallest that hold them unless a side is given, and the band.

    They are square where no side is given.
    """
    band = _band(options)
    count = band[1] - band[0] + 1
    if not x or (count > 1 and x[-2:-1] != (count,)):
        raise shapes_differ("MatrixDiag", x)
    rows, columns = (integers(o)[0] for o in options[1:3]) if len(options) > 2 else (-1, -1)
    least = x[-1] - min(band[1], 0), x[-1] + max(band[0], 0)
    if rows == columns == -1:
        rows = columns = max(least)
    size = least[0] if rows == -1 else rows, least[1] if columns == -1 else columns
    return (*x[: -2 if count > 1 else -1], *size), band


def _whole_shape(attrs: Attrs, operands: Sequence[Abstract]) -> Sequence[Abstract]:
    x, *options = operands
    return [Abstract(_whole(x.shape, [known(o, "diagonals") for o in options[:3]])[0], x.dtype)]


@op("MatrixDiag", "MatrixDiagV2", infer=_whole_shape)
def matrix_diag(attrs: Attrs, x: NDArray, *options: NDArray) -> NDArray:
    """Matrices with these diagonals: which, how many rows and columns there are, and what is everywhere else, are options of the later versions."""
    shape, band = _whole(x.shape, options)
    result = np.full(shape, options[3] if len(options) > 3 else 0, x.dtype)
    held = x.reshape(*shape[:-2], band[1] - band[0] + 1, x.shape[-1])
    for diagonal in _diagonals(attrs, band, *shape[-2:]):
        result[..., diagonal.rows, diagonal.columns] = held[(..., *diagonal.place)]
    return result


@op("MatrixDiagV3", infer=_whole_shape)
def matrix_diag_v3(attrs: Attrs, x: NDArray, *options: NDArray) -> Any:
    """MatrixDiagV2 with MatrixDiagPartV3's places."""
    return matrix_diag({"align": "RIGHT_LEFT", **attrs}, x, *options)


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
