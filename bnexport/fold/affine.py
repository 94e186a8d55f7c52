"""Scales and shifts as values: how they are composed, and what becomes of them when the axes that they vary along are regrouped."""

from typing import Any, NamedTuple

import numpy as np

NDArray = np.ndarray[Any, Any]
Shape = tuple[int | None, ...]


class Affine(NamedTuple):
    """The function x → x · scale + shift.

    Attributes:
        scale, shift: float64, broadcast against x from its last dimension on. Each is as small as it can be: an axis along which its values are all
            the same has the size 1, and there are no such axes in front. One value per channel is of shape (C,) where channels are last and of
            (C, 1, 1) for NCHW.
    """

    scale: NDArray
    shift: NDArray

    def after(self, first: "Affine") -> "Affine":
        """This function of `first`'s result: s₂·(s₁·x + t₁) + t₂ = (s₂·s₁)·x + (s₂·t₁ + t₂)."""
        return affine(self.scale * first.scale, self.scale * first.shift + self.shift)

    @property
    def is_identity(self) -> bool:
        return not self.scales and not self.shifts

    @property
    def scales(self) -> bool:
        """Whether any scale is not 1."""
        return bool((self.scale != 1.0).any())

    @property
    def shifts(self) -> bool:
        """Whether any shift is not 0."""
        return bool(self.shift.any())

    @property
    def increases(self) -> bool:
        """Whether a larger x never gives a smaller result, so that the maximum of the results is the result of the maximum."""
        return bool((self.scale >= 0).all())


def affine(scale: NDArray, shift: NDArray) -> Affine:
    """An `Affine` of arrays that broadcast."""
    return Affine(collapsed(np.asarray(scale, np.float64)), collapsed(np.asarray(shift, np.float64)))


def collapsed(values: NDArray) -> NDArray:
    """An array without the axes along which it does not vary: of size 1 in the middle, gone in front."""
    for axis, size in enumerate(values.shape):
        if size > 1:
            first = values.take([0], axis)
            if (values == first).all():
                values = first
    keep = next((axis for axis, size in enumerate(values.shape) if size != 1), values.ndim)
    return values.reshape(values.shape[keep:])


def varies_along(values: NDArray, axes: tuple[int, ...]) -> bool:
    """Whether collapsed values vary along one of some axes, which are counted from the end (-1 is the last)."""
    return any(values.ndim >= -axis and values.shape[axis] != 1 for axis in axes)


def per_channel(values: NDArray, axis: int, channels: int) -> NDArray | None:
    """Collapsed values as one per channel, where they vary along the channel axis (counted from the end) alone; else None."""
    if values.size != 1 and (values.ndim < -axis or values.shape[axis] != values.size or values.size != channels):
        return None
    return np.broadcast_to(values.reshape(-1), (channels,))


def regrouped(values: NDArray, source: Shape, result: Shape) -> NDArray | None:
    """Values that broadcast against a tensor of the shape `source`, for the tensor reshaped (row-major) to `result`.

    The last dimensions of both shapes are taken until they hold equally many elements; what depends on those of one depends in the same order on
    those of the other. None where a dimension of unknown size would be among them.
    """
    if values.ndim == 0:
        return values
    taken, given = 0, 0  # how many of the last dimensions of source and result are together so far
    size, other = 1, 1
    while taken < values.ndim or size != other:
        if taken < values.ndim or size < other:
            taken += 1
            step = source[-taken] if taken <= len(source) else None
            size *= step or 0
        else:
            given += 1
            step = result[-given] if given <= len(result) else None
            other *= step or 0
        if not step:
            return None
    whole = tuple(n for n in source[len(source) - taken :] if n is not None)
    new = tuple(n for n in result[len(result) - given :] if n is not None)
    return collapsed(np.broadcast_to(values, whole).reshape(new))


def with_axes(values: NDArray, axes: tuple[int, ...], rank: int) -> NDArray:
    """Values for a tensor of `rank` dimensions that had none at `axes` (positions in the result) before."""
    kept = [axis for axis in range(rank) if axis not in axes]
    padded = values.reshape((1,) * (len(kept) - values.ndim) + values.shape)
    shape = [1] * rank
    for axis, size in zip(kept, padded.shape, strict=True):
        shape[axis] = size
    return collapsed(padded.reshape(shape))


def without_axes(values: NDArray, axes: tuple[int, ...], rank: int) -> NDArray:
    """Values for a tensor of `rank` dimensions once `axes`, along which they do not vary, are gone."""
    padded = values.reshape((1,) * (rank - values.ndim) + values.shape)
    return collapsed(padded.reshape([size for axis, size in enumerate(padded.shape) if axis not in axes]))


def transposed(values: NDArray, permutation: tuple[int, ...]) -> NDArray:
    """Values for a tensor whose axes are permuted as tf.transpose does: axis i of the result is axis permutation[i]."""
    padded = values.reshape((1,) * (len(permutation) - values.ndim) + values.shape)
    return collapsed(padded.transpose(permutation))
