"""Checkpoints of version 1, TensorFlow's only format before 0.12 and an option of the Saver since: one file for all, or several shards.

A file is a table. Under the empty key lies a SavedTensorSlices message with the names, shapes, types and slices, and under the key of each slice
another one with the values in a `*_val` field of a TensorProto.
Sources: saved_tensor_slice_util.cc and tensor_slice_{writer,reader}.cc in tensorflow/core/util
"""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from google.protobuf.message import DecodeError

from bnexport.checkpoint.dtypes import type_name
from bnexport.checkpoint.slices import Slice, partition
from bnexport.checkpoint.table import Table
from bnexport.checkpoint.tensors import Stored, TensorInfo, described, require_version
from bnexport.checkpoint.wire import MalformedError, repeated, submessage, unpack_varints
from bnexport.errors import CheckpointError, CorruptCheckpoint
from bnexport.program import InMemory
from bnexport.protos import tensorflow_pb2 as pb

_Values = Callable[[list[memoryview]], "np.ndarray[Any, Any]"]


def _fixed(dtype: str) -> _Values:
    """Numbers of a fixed width, little-endian."""

    def values(runs: list[memoryview]) -> "np.ndarray[Any, Any]":
        data = b"".join(runs) if len(runs) != 1 else runs[0]
        stored = np.dtype(dtype).newbyteorder("<")
        if len(data) % stored.itemsize:
            raise MalformedError("the values end inside a number")
        return np.frombuffer(data, stored)

    return values


def _varints(dtype: str) -> _Values:
    """Varints, whose low bits are the number."""
    return lambda runs: unpack_varints(b"".join(runs)).astype(dtype)


def _strings(runs: list[memoryview]) -> "np.ndarray[Any, Any]":
    values = np.empty(len(runs), object)
    values[:] = [bytes(run) for run in runs]
    return values


_FIELDS: dict[int, tuple[int, _Values]] = {
    pb.DT_FLOAT: (5, _fixed("float32")),
    pb.DT_DOUBLE: (6, _fixed("float64")),
    pb.DT_INT32: (7, _varints("int32")),
    pb.DT_INT16: (7, _varints("int16")),
    pb.DT_INT8: (7, _varints("int8")),
    pb.DT_UINT8: (7, _varints("uint8")),
    pb.DT_UINT16: (7, _varints("uint16")),
    pb.DT_QINT8: (7, _varints("int8")),
    pb.DT_QUINT8: (7, _varints("uint8")),
    pb.DT_QINT16: (7, _varints("int16")),
    pb.DT_QUINT16: (7, _varints("uint16")),
    pb.DT_QINT32: (7, _varints("int32")),
    pb.DT_STRING: (8, _strings),
    pb.DT_COMPLEX64: (9, _fixed("complex64")),
    pb.DT_INT64: (10, _varints("int64")),
    pb.DT_BOOL: (11, _varints("bool")),
    pb.DT_COMPLEX128: (12, _fixed("complex128")),
    pb.DT_HALF: (13, _varints("uint16")),
    pb.DT_BFLOAT16: (13, _varints("uint16")),
    pb.DT_UINT32: (16, _varints("uint32")),
    pb.DT_UINT64: (17, _varints("uint64")),
}
"""For each type the field of TensorProto that holds its values, and how to get them out. The two 16-bit floats are stored as their bits."""

_DATA_OF_SLICES = 2  # SavedTensorSlices.data
_TENSOR_OF_SLICE = 3  # SavedSlice.data


class _Variable(NamedTuple):
    """A variable's metadata, and its slices with the file that each lies in."""

    shape: pb.TensorShapeProto
    dtype: int
    slices: list[tuple[Slice, Table]]


class SavedSlices:
    """A version 1 checkpoint of one or more files, whose metadata are read at once and whose values are read when asked for.

    Names that are asked for must be ones of `entries`. Raises what `Table` raises, and `CorruptCheckpoint` for metadata that contradict themselves.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self._tables: list[Table] = []
        self.entries: dict[str, _Variable] = {}
        try:
            for path in files:
                self._tables.append(Table(path))
                self._add(self._tables[-1])
        except CheckpointError:
            self.close()
            raise

    def close(self) -> None:
        """Close the files."""
        for table in self._tables:
            table.close()

    def info(self, name: str) -> TensorInfo:
        """The tensor's description; raises `CorruptCheckpoint` for a shape or type that no tensor has."""
        entry = self.entries[name]
        try:
            return described(name, entry.shape, entry.dtype, 0)
        except MalformedError as error:
            raise self._corrupt(name, error) from error

    def read(self, name: str) -> "np.ndarray[Any, Any]":
        """The tensor, in memory. Raises `CorruptCheckpoint` where the values are not what the metadata say."""
        entry = self.entries[name]
        info = self.info(name)
        key = name.encode(errors="surrogateescape")
        parts = self._parts(info, entry)
        values = np.empty(info.shape, info.dtype)
        try:
            for box, part, table in parts:
                shape = tuple(extent.stop - extent.start for extent in box)
                values[box] = _slice_values(table, part.key(key), entry.dtype, info.dtype, shape)
        except MalformedError as error:
            raise self._corrupt(name, error) from error
        return values

    def stored(self, name: str) -> Stored:
        """The tensor, still on disk; it is read whole when it is asked for. Raises as `read` does, but for the values."""
        info = self.info(name)
        self._parts(info, self.entries[name])
        return Stored(info, lambda count: InMemory(self.read(name)).readers(count))

    def _parts(self, info: TensorInfo, entry: _Variable) -> list[tuple[tuple[slice, ...], Slice, Table]]:
        """Where each slice of a variable lies in it, and in which file; the files are known to be large enough for all of them."""
        tables = dict(entry.slices)
        if entry.dtype not in _FIELDS:
            raise CheckpointError(
                f"{info.name!r} in {self._tables[0].path} is a {type_name(entry.dtype)}, which a version 1 file cannot hold: leave it out"
            )
        # Each element takes a byte or more.
        if math.prod(info.shape) > sum(table.capacity for table in set(tables.values())):
            raise self._corrupt(info.name, MalformedError(f"no file of this size can hold its shape {list(info.shape)}"))
        try:
            boxes = partition(info.shape, list(tables))
        except MalformedError as error:
            raise self._corrupt(info.name, error) from error
        return [(box, part, table) for box, (part, table) in zip(boxes, tables.items(), strict=True)]

    def _add(self, table: Table) -> None:
        """Take in the metadata of one file; slices of one variable may lie in several."""
        value = table.get(b"")
        try:
            saved = pb.SavedTensorSlices.FromString(bytes(value or b""))
        except DecodeError as error:
            raise CorruptCheckpoint(f"{table.path} does not begin with a SavedTensorSlices message: it is not a version 1 checkpoint") from error
        if not saved.HasField("meta"):
            raise CorruptCheckpoint(
                f"{table.path} is a table without the metadata of a version 1 checkpoint: "
                "if it is the index of one of version 2, name it PREFIX.index"
            )
        require_version(saved.meta.versions, table.path)
        for tensor in saved.meta.tensor:
            variable = self.entries.setdefault(tensor.name, _Variable(tensor.shape, tensor.type, []))
            if (variable.shape, variable.dtype) != (tensor.shape, tensor.type):
                raise CorruptCheckpoint(
                    f"{table.path}: {tensor.name!r} has another shape or type here than in another file of the checkpoint: copy all again"
                )
            variable.slices.extend((Slice.from_proto(part), table) for part in tensor.slice)

    def _corrupt(self, name: str, error: MalformedError) -> CorruptCheckpoint:
        files = self._tables[0].path if len(self._tables) == 1 else f"{self._tables[0].path} and its other files"
        return CorruptCheckpoint(f"{files}: {name!r} is damaged ({error}): copy the checkpoint again from where it came")


def _slice_values(table: Table, key: bytes, type_code: int, dtype: "np.dtype[Any]", shape: tuple[int, ...]) -> "np.ndarray[Any, Any]":
    """The values of one slice. A file must hold each of them, as TensorFlow's reader has it: the last one is not repeated here."""
    saved = table.get(key)
    if saved is None:
        raise MalformedError("a slice has no entry of its own")
    piece = submessage(saved, _DATA_OF_SLICES)
    tensor = submessage(piece, _TENSOR_OF_SLICE) if piece is not None else None
    number, values_of = _FIELDS[type_code]
    values = values_of(repeated(tensor, number) if tensor is not None else [])
    if values.size != math.prod(shape):
        raise MalformedError(f"a slice has {values.size} values where its shape {list(shape)} takes {math.prod(shape)}")
    if values.dtype != dtype and values.dtype.kind == "u" and values.itemsize == dtype.itemsize:
        values = values.view(dtype)
    return values.reshape(shape)
