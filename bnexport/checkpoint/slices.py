"""Slices of partitioned variables: where each lies, and whether they make up the whole."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from bnexport.checkpoint.ordered_code import FULL_EXTENT, slice_key
from bnexport.checkpoint.wire import MalformedError
from bnexport.protos import tensorflow_pb2 as pb


class Slice(NamedTuple):
    """A box inside a variable: (start, length) for each dimension, as stored, so that (0, -1) takes all of it."""

    extents: tuple[tuple[int, int], ...]

    @classmethod
    def from_proto(cls, message: pb.TensorSliceProto) -> "Slice":
        """The slice of a TensorSliceProto, in which an extent without a length takes all of its dimension."""
        return cls(tuple((extent.start, extent.length if extent.HasField("length") else FULL_EXTENT) for extent in message.extent))

    def key(self, name: bytes) -> bytes:
        """The key of this slice of the variable `name` in the table."""
        return slice_key(name, self.extents)

    def bounds(self, shape: tuple[int, ...]) -> tuple[slice, ...]:
        """Where the slice lies in a variable of `shape`; raises `MalformedError` where it does not lie inside."""
        if len(self.extents) != len(shape):
            raise MalformedError(f"a slice has {len(self.extents)} dimensions where the variable has {len(shape)}")
        box = []
        for (start, length), size in zip(self.extents, shape, strict=True):
            stop = size if length == FULL_EXTENT else start + length
            if not 0 <= start <= stop <= size:
                raise MalformedError(f"a slice takes {start} to {stop} of a dimension of {size}")
            box.append(slice(start, stop))
        return tuple(box)


def partition(shape: tuple[int, ...], slices: Sequence[Slice]) -> list[tuple[slice, ...]]:
    """Where each of `slices`, in whatever order, lies in the variable of `shape` that they make up together.

    Raises `MalformedError` where they overlap, reach outside, or leave a part of the variable out.
    """
    boxes = [part.bounds(shape) for part in slices]
    starts = np.array([[extent.start for extent in box] for box in boxes], np.int64).reshape(len(boxes), len(shape))
    stops = np.array([[extent.stop for extent in box] for box in boxes], np.int64).reshape(len(boxes), len(shape))
    filled = (starts < stops).all(axis=1)
    starts, stops = starts[filled], stops[filled]
    for index in range(1, len(starts)):
        if ((starts[:index] < stops[index]) & (starts[index] < stops[:index])).all(axis=1).any():
            raise MalformedError("two slices overlap")
    covered = sum(math.prod(lengths) for lengths in (stops - starts).tolist())
    if covered != math.prod(shape):
        raise MalformedError(f"the slices hold {covered} of the elements of a variable of shape {list(shape)}")
    return boxes
