"""What a checkpoint says of a tensor, and a tensor that is still on disk."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from bnexport.checkpoint.dtypes import numpy_dtype
from bnexport.checkpoint.wire import MalformedError
from bnexport.errors import CheckpointError
from bnexport.program import Read
from bnexport.protos import tensorflow_pb2 as pb

MOST_DIMENSIONS = 32
"""What every NumPy can hold (from 2.0 on it is 64); a variable of more is not to be met."""

FORMAT_VERSION = 1
"""The newest version of both formats, V1 files and V2 bundles, and the only one that TensorFlow ever wrote beside 0."""


class TensorInfo(NamedTuple):
    """A tensor's description.

    `dtype` is the NumPy dtype that reading gives: `object` for strings (the elements are `bytes`) and for variants and resources (which cannot be
    read), one of ml_dtypes for bfloat16 and smaller types. `nbytes` is the size of the values, of strings as stored (0 where a V1 file does not say).
    """

    name: str
    shape: tuple[int, ...]
    dtype: "np.dtype[Any]"
    nbytes: int


class Stored:
    """A tensor on disk: a `bnexport.program.Array` that is read and checked each time that `readers` are asked for.

    Where the checksum does not match, `CorruptCheckpoint` is raised when the last of its elements are read.
    """

    __slots__ = ("dtype", "name", "readers", "shape")

    def __init__(self, info: TensorInfo, readers: Callable[[int], list[Read]]) -> None:
        self.name = info.name
        self.shape = info.shape
        self.dtype = info.dtype
        self.readers = readers

    def __repr__(self) -> str:
        return f"Stored({self.name!r}, {self.shape}, {self.dtype})"


def array_shape(message: pb.TensorShapeProto, dtype: "np.dtype[Any]") -> tuple[int, ...]:
    """The shape of a tensor; raises `MalformedError` for one that no array of `dtype` can have."""
    shape = tuple(dimension.size for dimension in message.dim)
    if message.unknown_rank or any(size < 0 for size in shape):
        raise MalformedError(f"its shape {list(shape)} is not known")
    # NumPy addresses an empty array as if its dimensions of 0 were 1.
    extent = dtype.itemsize
    for size in shape:
        extent *= max(1, size)
    if len(shape) > MOST_DIMENSIONS or extent >= 1 << 63:
        raise MalformedError(f"no array can have its shape {list(shape)}")
    return shape


def described(name: str, shape: pb.TensorShapeProto, type_code: int, stored_bytes: int) -> TensorInfo:
    """The description of a tensor; raises `MalformedError` for an impossible shape or an unknown type."""
    dtype = numpy_dtype(type_code)
    dimensions = array_shape(shape, dtype)
    nbytes = stored_bytes if dtype.hasobject else math.prod(dimensions) * dtype.itemsize
    return TensorInfo(name, dimensions, dtype, nbytes)


def require_version(versions: pb.VersionDef, path: object) -> None:
    """Raise `CheckpointError` for a file that says that readers of this version cannot understand it."""
    if versions.min_consumer > FORMAT_VERSION or FORMAT_VERSION in versions.bad_consumers:
        raise CheckpointError(
            f"{path} needs a reader of version {versions.min_consumer} of the checkpoint format, and this is one of version {FORMAT_VERSION}: "
            "look for a newer bnexport, or save the checkpoint again with an older TensorFlow"
        )
