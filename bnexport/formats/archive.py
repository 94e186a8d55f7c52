"""Zip archives of uncompressed members, and the .npy files in them.

Python's zipfile would do, but its import alone costs a tenth of a whole small run, and it cannot align what it writes. The records are those of
PKWARE's APPNOTE 6.3; every reader of zip files opens the result.
"""

import math
import os
import struct
import zlib
from typing import IO, Any, NamedTuple

import numpy as np

from bnexport.checksums import CRC32, combined
from bnexport.errors import BundleError, CorruptBundle
from bnexport.formats.writing import Written, copy_array, unheard
from bnexport.program import Array

ALIGNMENT = 64
ZIP64_FROM = 0xFFFFFFFF
"""A size or an offset from here on stands in a 64-bit field of its own."""
ZIP64_MEMBERS_FROM = 0xFFFF

_LOCAL = struct.Struct("<4s5H3L2H")
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_END = struct.Struct("<4s4H2LH")
_END64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR = struct.Struct("<4sLQL")
_VERSION, _VERSION64 = 20, 45
_UNIX = 3 << 8
_MODE = 0o100644 << 16
_TIME, _DATE = 0, 0x21  # the first of January 1980, the earliest that a zip file can say
_PADDING = 0xD935  # an extra field that only pads (Android's zipalign made it known)


def npy_header(dtype: np.dtype[Any], shape: tuple[int, ...], room_for_rows: bool = False) -> bytes:
    """The header of a .npy file, version 1.0, as long as a multiple of 64 bytes so that the data behind it stays aligned.

    With `room_for_rows` its length does not depend on the first dimension, which can then be put in when it is known.
    """
    text = f"{{'descr': {np.lib.format.dtype_to_descr(dtype)!r}, 'fortran_order': False, 'shape': {shape}, }}"
    spare = 20 - len(str(shape[0])) if room_for_rows else 0
    length = 10 + len(text) + max(spare, 0) + 1
    padded = text + " " * (-(-length // ALIGNMENT) * ALIGNMENT - 11 - len(text)) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(padded)) + padded.encode("ascii")


class ZipWriter:
    """Writes members one behind the other into a file that can seek; the same members give the same bytes.

    The data of an array begins at a multiple of 64 bytes, so that a reader may map it into memory and use it where it lies.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._directory: list[bytes] = []

    def add_array(self, name: str, array: Array, written: Written = unheard) -> int:
        """Writes an array as the member `name`.npy and gives the CRC-32 of its data alone (row-major, little-endian, without the .npy header)."""
        dtype = array.dtype.newbyteorder("<")
        header = npy_header(dtype, array.shape)
        size = math.prod(array.shape) * dtype.itemsize
        patch = self._begin(f"{name}.npy", len(header) + size)
        self._file.write(header)
        crc = copy_array(name, array, self._file, written)
        self._end(patch, combined(zlib.crc32(header), crc, size, CRC32))
        return crc

    def add_bytes(self, name: str, data: bytes) -> None:
        """Writes a member whole."""
        patch = self._begin(name, len(data))
        self._file.write(data)
        self._end(patch, zlib.crc32(data))

    def _begin(self, name: str, size: int) -> int:
        """Writes a member's header, whose checksum is not known yet; gives where it goes."""
        encoded = name.encode("utf-8")
        flags = 0 if name.isascii() else 1 << 11
        if len(encoded) > 0xFFFF:
            raise BundleError(f"the name {name[:40]}… has {len(encoded)} bytes; a zip file has room for 65535")
        offset = self._file.tell()
        large = size >= ZIP64_FROM
        sizes = struct.pack("<2H2Q", 1, 16, size, size) if large else b""
        start = offset + _LOCAL.size + len(encoded) + len(sizes)
        pad = -(start + 6) % ALIGNMENT
        extra = sizes + struct.pack("<3H", _PADDING, 2 + pad, ALIGNMENT) + bytes(pad)
        short = 0xFFFFFFFF if large else size
        version = _VERSION64 if large else _VERSION
        self._file.write(_LOCAL.pack(b"PK\3\4", version, flags, 0, _TIME, _DATE, 0, short, short, len(encoded), len(extra)) + encoded + extra)

        far = offset >= ZIP64_FROM
        wide = ([size, size] if large else []) + ([offset] if far else [])
        sizes = struct.pack(f"<2H{len(wide)}Q", 1, 8 * len(wide), *wide) if wide else b""
        version = _VERSION64 if wide else _VERSION
        entry = _CENTRAL.pack(
            *(b"PK\1\2", _UNIX | version, version, flags, 0, _TIME, _DATE, 0, short, short),
            *(len(encoded), len(sizes), 0, 0, 0, _MODE, 0xFFFFFFFF if far else offset),
        )
        self._directory.append(entry + encoded + sizes)
        return offset + 14

    def _end(self, patch: int, crc: int) -> None:
        checksum = struct.pack("<L", crc)
        end = self._file.tell()
        self._file.seek(patch)
        self._file.write(checksum)
        self._file.seek(end)
        entry = self._directory[-1]
        self._directory[-1] = entry[:16] + checksum + entry[20:]

    def close(self) -> None:
        """Writes the directory; the file itself stays open."""
        offset = self._file.tell()
        directory = b"".join(self._directory)
        count, size = len(self._directory), len(directory)
        self._file.write(directory)
        if count >= ZIP64_MEMBERS_FROM or size >= ZIP64_FROM or offset >= ZIP64_FROM:
            self._file.write(_END64.pack(b"PK\6\6", 44, _UNIX | _VERSION64, _VERSION64, 0, 0, count, count, size, offset))
            self._file.write(_LOCATOR.pack(b"PK\6\7", 0, offset + size, 1))
            count, size, offset = min(count, 0xFFFF), min(size, 0xFFFFFFFF), 0xFFFFFFFF
        self._file.write(_END.pack(b"PK\5\6", 0, 0, count, count, size, offset, 0))


class Member(NamedTuple):
    """Where a member's data lies in the archive."""

    start: int
    size: int
    crc: int


def read_directory(file: IO[bytes]) -> dict[str, Member]:
    """The members of a zip archive, by name.

    Raises:
        CorruptBundle: it is not a zip archive, a name stands in it twice, or a member is compressed, encrypted or reaches out of the file.
    """
    length = file.seek(0, os.SEEK_END)
    tail_start = max(0, length - _END.size - 0xFFFF)
    file.seek(tail_start)
    tail = file.read()
    at = tail.rfind(b"PK\5\6")
    try:
        if at < 0:
            raise CorruptBundle("the file is cut short, or no .npz file: it has no zip directory")
        *_, count, size, offset, _ = _END.unpack_from(tail, at)
        before = at - _LOCATOR.size
        if before >= 0 and tail[before : before + 4] == b"PK\6\7":
            file.seek(_LOCATOR.unpack_from(tail, before)[2])
            *_, count, size, offset = _END64.unpack(file.read(_END64.size))
        if offset + size > length:
            raise CorruptBundle("the zip directory reaches beyond the end of the file")
        file.seek(offset)
        return _members(file, file.read(size), count, length)
    except struct.error as error:
        raise CorruptBundle("the zip directory is damaged, or cut short") from error
    except (UnicodeDecodeError, OverflowError) as error:
        raise CorruptBundle(f"the zip directory is damaged ({error})") from error


def _members(file: IO[bytes], directory: bytes, count: int, length: int) -> dict[str, Member]:
    members: dict[str, Member] = {}
    at = 0
    for _ in range(count):
        magic, _, _, flags, method, _, _, crc, packed, size, name_length, extra_length, comment_length, *_, offset = _CENTRAL.unpack_from(
            directory, at
        )
        if magic != b"PK\1\2":
            raise CorruptBundle("the zip directory is damaged (an entry does not begin as one)")
        at += _CENTRAL.size
        name = directory[at : at + name_length].decode("utf-8")
        extra = directory[at + name_length : at + name_length + extra_length]
        at += name_length + extra_length + comment_length
        size, packed, offset = _wide(extra, [size, packed, offset])
        if method != 0 or flags & 1 or packed != size:
            raise CorruptBundle(f"the member {name} is compressed or encrypted; the members of a bundle are stored as they are")
        if name in members:
            raise CorruptBundle(f"the member {name} stands in the file twice")
        file.seek(offset)
        magic, *_, name_length, extra_length = _LOCAL.unpack(file.read(_LOCAL.size))
        start = offset + _LOCAL.size + name_length + extra_length
        if magic != b"PK\3\4" or start + size > length:
            raise CorruptBundle(f"the member {name} does not lie where the zip directory says")
        members[name] = Member(start, size, crc)
    return members


def _wide(extra: bytes, values: list[int]) -> list[int]:
    """Sizes and offset, those that are too large for 32 bits taken from the zip64 extra field, where they stand in the same order."""
    at = 0
    while at + 4 <= len(extra):
        kind, size = struct.unpack_from("<2H", extra, at)
        if kind == 1:
            wide = iter(struct.unpack_from(f"<{size // 8}Q", extra, at + 4))
            return [next(wide, value) if value == 0xFFFFFFFF else value for value in values]
        at += 4 + size
    return values
