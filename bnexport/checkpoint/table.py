"""The sorted string table of TensorFlow's checkpoints: `.index` files of version 2, and whole files of version 1.

The format is LevelDB's with another magic number. Blocks of entries with increasing keys, then a block whose entries say where those lie, then a
footer of 48 bytes that says where that one lies. Sources: format.cc, block.cc and table.cc in tsl/lib/io (formerly tensorflow/core/lib/io), and
https://github.com/google/leveldb/blob/main/doc/table_format.md
"""

import struct
from bisect import bisect_left
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np

from bnexport.checkpoint.files import DataFile, crc32c, impostor, mask_crc32c
from bnexport.checkpoint.wire import MalformedError, read_varint
from bnexport.errors import CorruptCheckpoint

MAGIC = struct.pack("<Q", 0xDB4775248B80FB57)
FOOTER_SIZE = 48
TRAILER_SIZE = 5

_RAW, _SNAPPY = 0, 1
_SMALL_BLOCK = 1 << 20
"""A block of more bytes holds a single value, or few: TensorFlow closes a block that has reached 256 KiB."""
_LARGEST_SNAPPY_RATIO = 64 / 3
"""A Snappy copy of 64 bytes takes three, and nothing expands more."""


class Table:
    """A table, of which the index is read at once and an entry's block when the entry is asked for.

    Every block that is read is checked against its checksum, and its keys must increase from block to block.
    Raises `CheckpointNotFound` where there is no such file, and `CorruptCheckpoint` for one that is no table or contradicts itself.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = DataFile(path)
        self._recent: tuple[int, dict[bytes, memoryview]] = (-1, {})
        try:
            self._last_keys, self._handles = self._read_index()
        except CorruptCheckpoint:
            self.close()
            raise

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    @property
    def capacity(self) -> float:
        """More bytes than all values together can have, compressed as well as Snappy can."""
        return self._file.size * _LARGEST_SNAPPY_RATIO

    def __iter__(self) -> Iterator[tuple[bytes, memoryview]]:
        """All entries of all blocks, in the order of their keys."""
        previous = None
        for offset, size in self._handles:
            for key, value in self._read_block(offset, size):
                if previous is not None and key <= previous:
                    raise self._corrupt("its keys are out of order")
                previous = key
                yield key, value

    def get(self, key: bytes) -> memoryview | None:
        """The value of `key`, or None; one block is read, unless it is a small one and the one that was read last: it may hold thousands of keys."""
        block = bisect_left(self._last_keys, key)
        if block == len(self._handles):
            return None
        if block != self._recent[0]:
            offset, size = self._handles[block]
            entries = dict(self._read_block(offset, size))
            if size > _SMALL_BLOCK:
                return entries.get(key)
            self._recent = (block, entries)
        return self._recent[1].get(key)

    def _read_index(self) -> tuple[list[bytes], list[tuple[int, int]]]:
        """For each block a key that is not below its keys and below those of the next block, and where it lies."""
        if self._file.size < FOOTER_SIZE:
            raise self._no_table()
        footer = self._file.read(self._file.size - FOOTER_SIZE, FOOTER_SIZE, "the footer")
        if not footer.endswith(MAGIC):
            raise self._no_table()
        try:
            # The first handle is that of the metaindex block, in which TensorFlow keeps nothing.
            position = read_varint(footer, read_varint(footer, 0)[1])[1]
            handle = _read_handle(footer, position)
            index = self._read_block(*handle)
            handles = [_read_handle(value, 0) for _, value in index]
        except MalformedError as error:
            raise self._corrupt(str(error)) from error
        last_keys = [key for key, _ in index]
        if any(key <= previous for previous, key in pairwise(last_keys)):
            raise self._corrupt("the keys of its index are out of order")
        return last_keys, handles

    def _read_block(self, offset: int, size: int) -> list[tuple[bytes, memoryview]]:
        stored = self._file.read(offset, size + TRAILER_SIZE, "a block")
        checksum = int.from_bytes(stored[-4:], "little")
        if mask_crc32c(crc32c(np.frombuffer(stored, np.uint8, size + 1))) != checksum:
            raise self._corrupt(f"the checksum of the block at {offset} does not match")
        # In version 1 a block may hold a value of any size: nothing from here on copies it.
        compression, contents = stored[size], memoryview(stored)[:size]
        try:
            if compression == _SNAPPY:
                contents = _decompress(contents)
            elif compression != _RAW:
                raise MalformedError(f"the block at {offset} has the unknown compression {compression}")
            return _entries(contents)
        except MalformedError as error:
            raise self._corrupt(str(error)) from error

    def _corrupt(self, found: str) -> CorruptCheckpoint:
        return CorruptCheckpoint(f"{self.path} is damaged ({found}): copy it again from where it came")

    def _no_table(self) -> CorruptCheckpoint:
        return CorruptCheckpoint(
            impostor(self.path)
            or f"{self.path} is not a checkpoint's index (its {self._file.size} bytes do not end in the footer of one): "
            "it was cut short, or is another kind of file; copy it again"
        )


def _read_handle(data: "bytes | memoryview", position: int) -> tuple[int, int]:
    """A block's place in the file: offset and size, the latter without the trailer."""
    offset, position = read_varint(data, position)
    size, _ = read_varint(data, position)
    return offset, size


def _entries(block: memoryview) -> list[tuple[bytes, memoryview]]:
    """The entries of an uncompressed block.

    Each is three varints (bytes of the key that it shares with the one before, further bytes of the key, bytes of the value) and the bytes
    themselves. Behind them lie the offsets of the entries that share nothing, for binary search, and their number; reading all in order does
    without them.
    """
    restarts = int.from_bytes(block[-4:], "little") if len(block) >= 4 else 0
    end = len(block) - 4 * (restarts + 1)
    if end < 0:
        raise MalformedError("a block is shorter than its own list of restarts")
    entries = []
    key = b""
    position = 0
    while position < end:
        shared, position = read_varint(block, position)
        unshared, position = read_varint(block, position)
        length, position = read_varint(block, position)
        value = position + unshared
        if shared > len(key) or value + length > end:
            raise MalformedError("an entry reaches beyond its block")
        key = key[:shared] + bytes(block[position:value])
        position = value + length
        entries.append((key, block[value:position]))
    return entries


def _decompress(block: memoryview) -> memoryview:
    """A block out of Snappy's raw format, whose first varint is the size; a size that the bytes cannot expand to takes no memory."""
    import cramjam

    size, _ = read_varint(block, 0)
    if size > len(block) * _LARGEST_SNAPPY_RATIO:
        raise MalformedError(f"a compressed block of {len(block)} bytes says that it holds {size}")
    try:
        return memoryview(bytes(cramjam.snappy.decompress_raw(block)))
    except cramjam.DecompressionError as error:
        raise MalformedError(f"a block cannot be decompressed: {error}") from error
