"""A writer of checkpoint files for tests, independent of the reader: it makes what today's TensorFlow does not write, and what nobody should.

Only `struct`, a checksum table of its own and, for compressed blocks, cramjam. Sources: the LevelDB table format, and TensorFlow's .proto files.
"""

import struct
from collections.abc import Iterable
from pathlib import Path

import cramjam
import numpy as np

MAGIC = bytes.fromhex("57fb808b247547db")


def _crc_table():
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
        yield byte


_TABLE = list(_crc_table())


def crc32c(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _TABLE[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


def masked(data: bytes) -> int:
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17 & 0xFFFFFFFF) + 0xA282EAD8) % 2**32


def varint(value: int) -> bytes:
    value %= 2**64
    out = bytearray()
    while value > 127:
        out.append(value % 128 + 128)
        value //= 128
    return bytes([*out, value])


def number(field: int, value: int) -> bytes:
    return varint(field * 8) + varint(value)


def fixed32(field: int, value: int) -> bytes:
    return varint(field * 8 + 5) + struct.pack("<I", value)


def message(field: int, *parts: bytes) -> bytes:
    body = b"".join(parts)
    return varint(field * 8 + 2) + varint(len(body)) + body


def block(entries: Iterable[tuple[bytes, bytes]], restart_interval: int = 16) -> bytes:
    out, restarts, previous = bytearray(), [], b""
    for count, (key, value) in enumerate(entries):
        shared = 0
        if count % restart_interval == 0:
            restarts.append(len(out))
        else:
            while shared < min(len(key), len(previous)) and key[shared] == previous[shared]:
                shared += 1
        out += varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:] + value
        previous = key
    restarts = restarts or [0]
    return bytes(out) + struct.pack(f"<{len(restarts) + 1}I", *restarts, len(restarts))


def trailed(contents: bytes, compression: int) -> bytes:
    return contents + bytes([compression]) + struct.pack("<I", masked(contents + bytes([compression])))


def table_of_blocks(blocks: list[tuple[bytes, bytes]], compression: int = 0) -> bytes:
    """A table of (last key, block contents) pairs, which are stored as they are."""
    file, handles = b"", []
    for last_key, contents in blocks:
        handles.append((last_key, varint(len(file)) + varint(len(contents))))
        file += trailed(contents, compression)
    places = b""
    for contents in (block([]), block(handles, 1)):
        places += varint(len(file)) + varint(len(contents))
        file += trailed(contents, 0)
    return file + places.ljust(40, b"\0") + MAGIC


def table(entries: dict[bytes, bytes], per_block: int = 16, restart_interval: int = 16, snappy: bool = False) -> bytes:
    items = sorted(entries.items())
    blocks = []
    for start in range(0, len(items), per_block):
        chunk = items[start : start + per_block]
        contents = block(chunk, restart_interval)
        blocks.append((chunk[-1][0], bytes(cramjam.snappy.compress_raw(contents)) if snappy else contents))
    return table_of_blocks(blocks, int(snappy))


def header(shards: int = 1, big_endian: bool = False, min_consumer: int = 0) -> bytes:
    return number(1, shards) + number(2, int(big_endian)) + message(3, number(1, 1), number(2, min_consumer))


def shape(*sizes: int) -> bytes:
    return b"".join(message(2, number(1, size)) for size in sizes)


def entry(dtype: int, sizes: Iterable[int], data: bytes, offset: int = 0, shard: int = 0, size: int | None = None, crc: int | None = None) -> bytes:
    """A BundleEntryProto; `size` and `crc` are those of `data` unless they are given."""
    return (
        number(1, dtype)
        + message(2, shape(*sizes))
        + number(3, shard)
        + number(4, offset)
        + number(5, len(data) if size is None else size)
        + fixed32(6, masked(data) if crc is None else crc)
    )


def strings(values: list[bytes], byteorder: str = "little") -> tuple[bytes, int]:
    """The bytes of a string tensor and its masked checksum."""
    lengths = b"".join(len(value).to_bytes(4, byteorder) for value in values)
    checksum = masked(lengths).to_bytes(4, byteorder)
    body = b"".join(values)
    return b"".join(varint(len(value)) for value in values) + checksum + body, masked(lengths + checksum + body)


def write_bundle(prefix: Path, arrays: dict[str, tuple[int, np.ndarray]], big_endian: bool = False, **options) -> None:
    """A bundle of one shard; `arrays` has TensorFlow's type number and the values for each name."""
    data, entries = b"", {b"": header(1, big_endian)}
    for name, (dtype, array) in arrays.items():
        if array.dtype == object:
            stored, crc = strings(list(array.ravel()), "big" if big_endian else "little")
        else:
            stored = array.astype(array.dtype.newbyteorder(">" if big_endian else "<")).tobytes()
            crc = masked(stored)
        entries[name.encode()] = entry(dtype, array.shape, stored, len(data), crc=crc)
        data += stored
    prefix.with_name(prefix.name + ".index").write_bytes(table(entries, **options))
    prefix.with_name(prefix.name + ".data-00000-of-00001").write_bytes(data)
