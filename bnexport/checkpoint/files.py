"""Reading checkpoint files piece by piece, and recognising what is no checkpoint file at all."""

import weakref
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from bnexport.errors import CheckpointError, CheckpointNotFound, CorruptCheckpoint

Bytes = np.ndarray[Any, np.dtype[np.uint8]]

_CRC_MASK = 0xA282EAD8

_UNPACK = "if a checkpoint or SavedModel is in it, unpack it and give that"
_OTHER_KINDS = {
    b"PK\x03\x04": f"a zip archive (as .npz, .keras and .pth files are too): {_UNPACK}",
    b"\x1f\x8b\x08": f"compressed by gzip: {_UNPACK}",
    b"BZh": f"compressed by bzip2: {_UNPACK}",
    b"\xfd7zXZ\x00": f"compressed by xz: {_UNPACK}",
    b"7z\xbc\xaf\x27\x1c": f"a 7z archive: {_UNPACK}",
    b"Rar!\x1a\x07": f"a rar archive: {_UNPACK}",
    b"\x89HDF\r\n\x1a\n": "an HDF5 file, as Keras writes them: save the model again as a checkpoint (tf.train.Saver) or as a SavedModel",
    b"\x93NUMPY": "an array of NumPy, and no checkpoint: give the checkpoint that it was taken from",
}
"""How files begin that people take for checkpoints, and what to do."""

_OTHER_NAMES = {
    ".onnx": "an ONNX model, which has no checkpoint in it: convert the checkpoint that it was made from",
    ".tfevents.": "a log for TensorBoard, which holds no weights: give the checkpoint",
}
"""Parts of the names of files that begin as others may."""


def crc32c(data: "bytes | Bytes", crc: int = 0) -> int:
    """The CRC-32C of `data` behind bytes whose CRC-32C is `crc`."""
    if isinstance(data, np.ndarray) and (extend := _crc32c_extend()) is not None:
        return int(extend(crc, data.ctypes.data, data.size))
    import google_crc32c

    # Its C code takes any read-only buffer and, unlike bytearray and memoryview, a NumPy array of bytes, without a copy.
    return int(google_crc32c.extend(crc, data))


@cache
def _crc32c_extend() -> Callable[[int, int, int], int] | None:
    """The C function that google_crc32c calls with the interpreter held, which ctypes leaves to other threads; None where it is not found."""
    import ctypes

    try:
        from google_crc32c import _crc32c

        extend = ctypes.CDLL(_crc32c.__file__).crc32c_extend
    except (ImportError, OSError, AttributeError):  # its version in Python; a system that looks up functions in one library alone
        return None
    extend.restype, extend.argtypes = ctypes.c_uint32, (ctypes.c_uint32, ctypes.c_void_p, ctypes.c_size_t)
    return extend


def mask_crc32c(crc: int) -> int:
    """The checksum as it is stored: rotated by 15 bits and offset, so that a checksum of data that hold checksums stays strong (LevelDB)."""
    return ((crc >> 15 | crc << 17) + _CRC_MASK) & 0xFFFFFFFF


class DataFile:
    """A file that is read at given places, unbuffered and without a memory map, so that memory holds nothing but what was asked for.

    Not for use by several threads at once. Raises `CheckpointNotFound` where there is no such file.
    """

    def __init__(self, path: Path, missing: str = "give the checkpoint's prefix, one of its files, or its folder") -> None:
        self.path = path
        try:
            self._file = path.open("rb", buffering=0)
        except FileNotFoundError as error:
            raise CheckpointNotFound(f"{path} does not exist: {missing}") from error
        except OSError as error:
            raise CheckpointError(f"{path} cannot be read ({error.strerror}): give a file that you may read") from error
        # A program's arrays are read when they are written, so that nobody but the last of them knows when the file is done with.
        weakref.finalize(self, self._file.close)
        self.size = self._file.seek(0, 2)

    def close(self) -> None:
        """Close the file; it may be closed already."""
        self._file.close()

    def require(self, offset: int, size: int, what: str) -> None:
        """Raise `CorruptCheckpoint` unless the file holds `size` bytes at `offset`, which are `what`."""
        if offset < 0 or size < 0:
            raise CorruptCheckpoint(f"{self.path}: {what} is said to lie at {offset} with {size} bytes: the index is not one that TensorFlow wrote")
        if offset + size > self.size:
            other = impostor(self.path)
            if other:
                raise CorruptCheckpoint(other)
            raise CorruptCheckpoint(
                f"{self.path} has {self.size} bytes where at least {offset + size} were expected ({what} lies at {offset} with {size} bytes): "
                "it was cut short, or belongs to another checkpoint; copy it again"
            )

    def read(self, offset: int, size: int, what: str) -> bytes:
        """`size` bytes from `offset`, which are `what`; the size is checked against the file before memory is taken."""
        self.require(offset, size, what)
        runs = []
        try:
            self._file.seek(offset)
            while size > 0:
                # One call may return fewer bytes than asked for: Linux stops at 2 GiB.
                run = self._file.read(size)
                if not run:
                    raise self._shrunk()
                runs.append(run)
                size -= len(run)
        except OSError as error:
            raise self._unreadable(error) from error
        return runs[0] if len(runs) == 1 else b"".join(runs)

    def read_into(self, buffer: Bytes, offset: int) -> None:
        """Fill `buffer` with the file's bytes from `offset`."""
        view = buffer.data
        done = 0
        try:
            self._file.seek(offset)
            while done < len(view):
                count = self._file.readinto(view[done:])
                if not count:
                    raise self._shrunk()
                done += count
        except OSError as error:
            raise self._unreadable(error) from error

    def _shrunk(self) -> CorruptCheckpoint:
        return CorruptCheckpoint(f"{self.path} became shorter while it was read: read it again when its writer is done")

    def _unreadable(self, error: OSError) -> CheckpointError:
        return CheckpointError(f"{self.path} cannot be read ({error.strerror}): copy it again from where it came")


def impostor(path: Path) -> str | None:
    """What a file that should be binary is instead, as a message with what to do; None where it is none of the usual mistakes.

    Repositories are where most checkpoints come from, and their tools leave text behind under the names of the large files.
    """
    try:
        with path.open("rb") as file:
            head = file.read(1024)
        size = path.stat().st_size
    except OSError:
        return None
    if not size:
        return f"{path} is empty: the save was interrupted, or the file was not copied; copy it again"
    if (kind := _kind(head)) is not None:
        return f"{path} is {kind}"
    if head.startswith(b"version https://git-lfs"):
        return f"{path} is a pointer that Git LFS left in place of the file: run `git lfs pull` in the repository that it came from"
    if head.lstrip().lower().startswith((b"<!doctype html", b"<html")):
        return f"{path} is a web page: download the file itself (on a code hosting site, its raw form)"
    if size < len(head) + 1 and _looks_like_path(head):
        target = head.decode().strip()
        return f"{path} is a symbolic link that was stored as text, and says only {target!r}: get that file and give its name instead"
    return None


def other_kind(path: Path) -> str | None:
    """What a file is that holds a model or an archive of another kind than a checkpoint, with what to do; None for any other file."""
    try:
        with path.open("rb") as file:
            kind = _kind(file.read(1024))
    except OSError:
        return None
    kind = kind or next((what for part, what in _OTHER_NAMES.items() if part in path.name.lower()), None)
    return None if kind is None else f"{path} is {kind}"


def _kind(head: bytes) -> str | None:
    if head[4:8] == b"TFL3":
        return "a TensorFlow Lite model, which has no checkpoint in it: convert the checkpoint that it was made from"
    if head[257:262] == b"ustar":
        return f"a tar archive: {_UNPACK}"
    return next((what for magic, what in _OTHER_KINDS.items() if head.startswith(magic)), None)


def _looks_like_path(text: bytes) -> bool:
    """One line of printable text without spaces, with a separator or a suffix in it: what Git writes for a link where links are not supported."""
    try:
        line = text.decode().strip()
    except UnicodeDecodeError:
        return False
    return line.isprintable() and not any(map(str.isspace, line)) and any(sign in line for sign in "/\\.")
