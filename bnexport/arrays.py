"""Arrays that are computed while they are written: a stored kernel times factors, rounded once."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from bnexport.errors import BadStatistics
from bnexport.program import Array, InMemory, Read, materialize, pieces

NDArray = np.ndarray[Any, Any]

CAST_ELEMENTS = 1024
"""How many elements NumPy converts to float64 and back at a time: few enough to stay in the first cache, which takes a third off the time."""


@dataclass(slots=True)
class Deferred:
    """An array that is computed when it is read, and forgotten after."""

    shape: tuple[int, ...]
    dtype: "np.dtype[Any]"
    compute: Callable[[], NDArray]

    def readers(self, count: int) -> list[Read]:
        return InMemory(np.asarray(self.compute())).readers(count)


@dataclass(slots=True)
class Folded:
    """`source * factor`, multiplied in float64 and rounded once to `dtype`.

    Attributes:
        source: any shape.
        factor: float64, of the source's rank, each dimension the source's or 1; None to leave the values as they are.
        dtype: the dtype of the result.
        label: what the values are, for the error when they are not finite.
    """

    source: Array
    factor: NDArray | None
    dtype: "np.dtype[Any]"
    label: str

    @property
    def shape(self) -> tuple[int, ...]:
        return self.source.shape

    def readers(self, count: int) -> list[Read]:
        """
        Raises:
            BadStatistics: when it is read: a value is NaN or infinite.
        """
        return [partial(self._read, read) for read in self.source.readers(count)]

    def _read(self, read: Read, part: range, buffer: NDArray) -> NDArray:
        """The product, in the memory of the source's values where that may be written to, so that more of it stays in the cache."""
        piece = read(part, buffer if self.source.dtype == self.dtype else np.empty(len(part), self.source.dtype))
        result = piece if piece.flags.writeable and piece.dtype == self.dtype else buffer
        self._compute(piece, part.start, result)
        return result

    def _compute(self, piece: NDArray, start: int, out: NDArray) -> None:
        # Overflow shows as infinity, which is refused below with its name.
        with np.errstate(over="ignore", invalid="ignore"):
            if self.factor is None:
                np.copyto(out, piece, casting="unsafe")
            else:
                _scale(piece, self.factor, self.shape, start, out)
            # The sum of squares, which BLAS makes, is finite if all values are; it may overflow where they are.
            suspect = out.dtype.kind == "f" and not np.isfinite(np.dot(out, out))
        if suspect and not np.isfinite(out).all():
            raise BadStatistics(f"{self.label} holds values that are NaN or infinite: the checkpoint was saved from a training that had diverged")


def _scale(piece: NDArray, factor: NDArray, shape: tuple[int, ...], start: int, out: NDArray) -> None:
    """out = piece * factor for the flat range of an array of `shape` that begins at `start`."""
    before = np.setbufsize(CAST_ELEMENTS)
    try:
        _multiply(piece, factor, shape, start, out)
    finally:
        np.setbufsize(before)


def _multiply(piece: NDArray, factor: NDArray, shape: tuple[int, ...], start: int, out: NDArray) -> None:
    columns = shape[-1] if shape else 1
    if factor.size == 1:
        np.multiply(piece, factor.reshape(-1)[0], out=out, casting="same_kind", dtype=np.float64)
        return
    if factor.size == factor.shape[-1] == columns:  # a factor for each column: whole rows at once, and the torn rows at both ends
        row = factor.reshape(-1)
        head = min(-start % columns, piece.size)
        body = (piece.size - head) // columns * columns
        tail = piece.size - head - body
        if head:
            first = start % columns
            np.multiply(piece[:head], row[first : first + head], out=out[:head], casting="same_kind")
        if body:
            np.multiply(piece[head : head + body].reshape(-1, columns), row, out=out[head : head + body].reshape(-1, columns), casting="same_kind")
        if tail:
            np.multiply(piece[head + body :], row[:tail], out=out[head + body :], casting="same_kind")
        return
    spread = np.broadcast_to(factor, shape).flat[start : start + piece.size]
    np.multiply(piece, spread, out=out, casting="same_kind")


def weighted_row_sum(kernel: Array, weights: NDArray) -> NDArray:
    """`sum_i weights[i] * kernel[..., i, o]` over all but the last axis, in float64, reading the kernel in pieces.

    Args:
        weights: float64, of the kernel's shape without its last axis (or broadcasting to it).

    Returns:
        float64, of the size of the last axis.
    """
    columns = kernel.shape[-1]
    rows = np.broadcast_to(weights, kernel.shape[:-1]).reshape(-1)
    if columns == 0 or rows.size == 0:
        return np.zeros(columns)
    total = np.zeros(columns)
    row = 0
    held = np.empty(0)
    for piece in pieces(kernel):
        values = np.concatenate([held, piece.astype(np.float64)]) if held.size else piece.astype(np.float64)
        whole = values.size // columns
        total += rows[row : row + whole] @ values[: whole * columns].reshape(whole, columns)
        row += whole
        held = values[whole * columns :].copy()
    return total


def transposed(source: Array) -> Array:
    """A matrix transposed; it is read whole, once, when it is written."""
    return Deferred((source.shape[1], source.shape[0]), source.dtype, lambda: materialize(source).T)
