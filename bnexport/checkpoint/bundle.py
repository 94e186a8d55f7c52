"""Tensor bundles, the checkpoint format since TensorFlow 1.0 (SaverDef.V2): PREFIX.index and PREFIX.data-SSSSS-of-NNNNN.

The index is a table of BundleEntryProto by the tensor's name, and the data files hold the values, row-major. Source:
tensorflow/core/util/tensor_bundle/tensor_bundle.cc
"""

import math
import sys
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from google.protobuf.message import DecodeError

from bnexport.checkpoint.dtypes import STRING, swap_bytes, type_name
from bnexport.checkpoint.files import DataFile, crc32c, impostor, mask_crc32c
from bnexport.checkpoint.slices import Slice, partition
from bnexport.checkpoint.table import Table
from bnexport.checkpoint.tensors import Stored, TensorInfo, described, require_version
from bnexport.checkpoint.wire import MalformedError, read_varint
from bnexport.checksums import CRC32C, Checksum
from bnexport.errors import CheckpointError, CorruptCheckpoint
from bnexport.program import InMemory, Read, materialize
from bnexport.protos import tensorflow_pb2 as pb


class Bundle:
    """A bundle, whose index is read at once and whose values are read when asked for.

    Names that are asked for must be ones of `entries`. Raises what `Table` raises, and `CorruptCheckpoint` for an index that contradicts itself.
    """

    def __init__(self, prefix: Path, index: Path) -> None:
        self._prefix = prefix
        self._index = index
        self._files: dict[int, DataFile] = {}
        table = Table(index)
        try:
            raw = dict(table)
        finally:
            table.close()
        try:
            header = pb.BundleHeaderProto.FromString(bytes(raw.pop(b"", b"")))
            entries = {key: pb.BundleEntryProto.FromString(bytes(value)) for key, value in raw.items()}
        except DecodeError as error:
            raise self._corrupt("an entry is not a BundleEntryProto") from error
        require_version(header.version, index)
        if header.num_shards < 1:
            raise self._corrupt(f"its header says that there are {header.num_shards} data files")
        self._shards = header.num_shards
        self._byteorder: Literal["little", "big"] = "big" if header.endianness == pb.BundleHeaderProto.BIG else "little"
        # The entries of slices are reached through the variable that they belong to.
        self._slices = {
            key: entries[key] for name, entry in entries.items() for part in entry.slices if (key := Slice.from_proto(part).key(name)) in entries
        }
        self.entries = {key.decode(errors="surrogateescape"): entry for key, entry in entries.items() if key not in self._slices}

    def close(self) -> None:
        """Close the data files."""
        for file in self._files.values():
            file.close()
        self._files.clear()

    def info(self, name: str) -> TensorInfo:
        """The tensor's description; raises `CorruptCheckpoint` for a shape or type that no tensor has."""
        return self._describe(name, self.entries[name])

    def read(self, name: str) -> "np.ndarray[Any, Any]":
        """The tensor, in memory.

        Raises `CheckpointNotFound` where its data file is missing, and `CorruptCheckpoint` where the data are not what the index says.
        """
        entry = self.entries[name]
        info = self._describe(name, entry)
        if not entry.slices:
            return self._read_entry(info, entry)
        parts = self._parts(info, entry)
        values = np.empty(info.shape, info.dtype)
        for box, piece, stored in parts:
            values[box] = self._read_entry(piece, stored)
        return values

    def stored(self, name: str) -> Stored:
        """The tensor, still on disk, where its file is known to hold as much; a partitioned variable and a string tensor are read whole on demand.

        Raises as `read` does, but for the checksum, which is compared when the pieces are read.
        """
        entry = self.entries[name]
        info = self._describe(name, entry)
        if entry.slices:
            self._parts(info, entry)
        elif not info.dtype.hasobject:
            return self._stored_entry(info, entry)
        else:
            self._open(info, entry)
        return Stored(info, lambda count: InMemory(self.read(name)).readers(count))

    def _parts(self, info: TensorInfo, entry: pb.BundleEntryProto) -> list[tuple[tuple[slice, ...], TensorInfo, pb.BundleEntryProto]]:
        """Where each slice of a partitioned variable lies in it, with the slice's own entry; the files are known to hold all of them."""
        key = info.name.encode(errors="surrogateescape")
        slices = [Slice.from_proto(part) for part in entry.slices]
        try:
            boxes = partition(info.shape, slices)
        except MalformedError as error:
            raise self._corrupt(f"{info.name!r}: {error}") from error
        parts = []
        for part, box in zip(slices, boxes, strict=True):
            stored = self._slices.get(part.key(key))
            if stored is None or stored.slices:
                raise self._corrupt(f"{info.name!r}: a slice has no entry of its own")
            piece = self._describe(info.name, stored)
            shape = tuple(extent.stop - extent.start for extent in box)
            if (piece.shape, piece.dtype) != (shape, info.dtype):
                raise self._corrupt(
                    f"{info.name!r}: a slice of shape {list(shape)} and type {info.dtype} has an entry of {list(piece.shape)} and {piece.dtype}"
                )
            self._open(piece, stored)
            parts.append((box, piece, stored))
        return parts

    def _describe(self, name: str, entry: pb.BundleEntryProto) -> TensorInfo:
        try:
            return described(name, entry.shape, entry.dtype, entry.size)
        except MalformedError as error:
            raise self._corrupt(f"{name!r}: {error}") from error

    def _read_entry(self, info: TensorInfo, entry: pb.BundleEntryProto) -> "np.ndarray[Any, Any]":
        if info.dtype.hasobject:
            return self._read_strings(info, entry)
        return materialize(self._stored_entry(info, entry))

    def _stored_entry(self, info: TensorInfo, entry: pb.BundleEntryProto) -> Stored:
        return Stored(info, partial(self._readers, info, entry, self._open(info, entry)))

    def _readers(self, info: TensorInfo, entry: pb.BundleEntryProto, file: DataFile, count: int) -> list[Read]:
        """The readers of the tensor of an entry. Each seeks in a file of its own."""
        checksum = Checksum(info.nbytes, CRC32C)
        files = [file, *(DataFile(file.path) for _ in range(1, count))]
        return [partial(self._read_part, info, entry, checksum, file) for file in files]

    def _read_part(
        self,
        info: TensorInfo,
        entry: pb.BundleEntryProto,
        checksum: Checksum,
        file: DataFile,
        part: range,
        buffer: "np.ndarray[Any, Any]",
    ) -> "np.ndarray[Any, Any]":
        raw = buffer.view(np.uint8)
        start = part.start * info.dtype.itemsize
        file.read_into(raw, entry.offset + start)
        if checksum.add(start, raw.size, crc32c(raw)):  # of the bytes as the file has them
            self._require_checksum(info, entry, file, checksum.value())
        if self._byteorder != sys.byteorder:
            swap_bytes(raw, info.dtype)
        return buffer

    def _read_strings(self, info: TensorInfo, entry: pb.BundleEntryProto) -> "np.ndarray[Any, Any]":
        """Strings are stored as the varints of their lengths, the masked checksum of those, and their bytes.

        What is checksummed in place of the varints is each length in four bytes, or in eight where it does not fit into four.
        """
        if entry.dtype % 100 != STRING:
            raise CheckpointError(f"{info.name!r} in {self._index} is a {type_name(entry.dtype)}, which has no values to read: leave it out")
        file = self._open(info, entry)
        count = math.prod(info.shape)
        data = file.read(entry.offset, entry.size, repr(info.name))
        lengths = []
        position = 0
        try:
            for _ in range(count):
                length, position = read_varint(data, position)
                lengths.append(length)
        except MalformedError as error:
            raise self._corrupt(f"{info.name!r}: {error}") from error
        start = position + 4
        if start + sum(lengths) != len(data):
            raise self._corrupt(f"{info.name!r}: its strings do not have the size of the entry")
        crc = crc32c(b"".join(length.to_bytes(4 if length < 1 << 32 else 8, self._byteorder) for length in lengths))
        if int.from_bytes(data[position:start], self._byteorder) != mask_crc32c(crc):
            raise CorruptCheckpoint(
                f"{file.path} is damaged (the checksum of the string lengths of {info.name!r} does not match): copy it again from where it came"
            )
        self._require_checksum(info, entry, file, crc32c(data[position:], crc))
        values = np.empty(count, object)
        for index, length in enumerate(lengths):
            values[index] = data[start : start + length]
            start += length
        return values.reshape(info.shape)

    def _open(self, info: TensorInfo, entry: pb.BundleEntryProto) -> DataFile:
        """The data file of an entry, which is known to be long enough; nothing has been allocated before."""
        shard = entry.shard_id
        if not 0 <= shard < self._shards:
            raise self._corrupt(f"{info.name!r} lies in data file {shard} of {self._shards}")
        if info.dtype.hasobject and entry.size < math.prod(info.shape):
            raise self._corrupt(f"{info.name!r}: {entry.size} bytes cannot hold the {math.prod(info.shape)} elements of shape {list(info.shape)}")
        if not info.dtype.hasobject and entry.size != info.nbytes:
            raise self._corrupt(f"{info.name!r}: {entry.size} bytes are not the size of shape {list(info.shape)} and type {info.dtype}")
        if shard not in self._files:
            path = self._prefix.with_name(f"{self._prefix.name}.data-{shard:05d}-of-{self._shards:05d}")
            self._files[shard] = DataFile(
                path, missing=f"{self._index.name} says that the values of {info.name!r} are in it; copy it to the same folder"
            )
        file = self._files[shard]
        file.require(entry.offset, entry.size, repr(info.name))
        return file

    def _require_checksum(self, info: TensorInfo, entry: pb.BundleEntryProto, file: DataFile, crc: int) -> None:
        if mask_crc32c(crc) != entry.crc32c:
            raise CorruptCheckpoint(
                impostor(file.path)
                or f"{file.path} is damaged, or belongs to another checkpoint (the checksum of {info.name!r} does not match): "
                "copy it again with its .index file"
            )

    def _corrupt(self, found: str) -> CorruptCheckpoint:
        return CorruptCheckpoint(f"{self._index} is not an index that TensorFlow can have written ({found}): copy it again from where it came")
