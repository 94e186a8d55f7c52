"""Files that appear whole or not at all, and arrays that go into them in one pass."""

import math
import os
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from bnexport.errors import BnexportError, BundleError
from bnexport.program import PIECE_BYTES, Array

Buffer = np.ndarray[Any, np.dtype[np.uint8]]
Write = Callable[[memoryview], object]


@contextmanager
def replacing(path: Path, error: type[BnexportError]) -> Iterator[Path]:
    """An empty temporary file beside `path`, which takes its place when the block ends and is removed when the block raises.

    The permission bits are those that the umask gives to any new file. A symbolic link is followed, as opening it for writing would.

    Raises:
        error: `path` is a folder or a device, its folder does not exist, or the operating system refuses to write there.
    """
    target = Path(os.path.realpath(path))
    if target.is_dir():
        raise error(f"{path} is a folder; name the file to write")
    if not target.parent.is_dir():
        raise error(f"{path} cannot be written: there is no folder {target.parent}")
    if target.exists() and not target.is_file():
        raise error(f"{path} is not a regular file; name another to write")
    temporary = target.with_name(f".bnexport-{os.urandom(6).hex()}.tmp")
    try:
        temporary.touch(exist_ok=False)
        try:
            yield temporary
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as failure:
        raise error(f"{path} cannot be written: {failure.strerror or failure}") from failure


def copy_array(name: str, array: Array, write: Write) -> int:
    """Hands the bytes of an array to `write`, row-major and little-endian, in pieces of at most `PIECE_BYTES`, and gives their CRC-32.

    The checksum and the write of one piece run in a second thread while the next is read and computed; zlib, NumPy and the file all let go
    of the interpreter lock. What `write` gets is only valid during the call.

    Raises:
        BundleError: the array yields more or fewer elements than its shape says.
        OSError: from `write`.
    """
    dtype = array.dtype.newbyteorder("<")
    size = math.prod(array.shape)
    copier = _Inline(write) if size * dtype.itemsize <= PIECE_BYTES else _Threaded(write)
    step = max(1, PIECE_BYTES // dtype.itemsize)
    seen = 0
    with copier:
        for piece in array.pieces():
            seen += piece.size
            if seen > size or not copier.working:
                break
            for start in range(0, piece.size, step):
                copier.put(piece[start : start + step], dtype)
    if seen != size:
        raise BundleError(f"the array {name} of shape {list(array.shape)} has {size} elements but yields {'more' if seen > size else seen}")
    return copier.crc


class _Inline:
    """Checksum and write where they are asked for: an array of one piece does not pay for a thread."""

    working = True

    def __init__(self, write: Write) -> None:
        self._write = write
        self.crc = 0

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        pass

    def put(self, piece: np.ndarray[Any, Any], dtype: np.dtype[Any]) -> None:
        raw = np.ascontiguousarray(piece, dtype).view(np.uint8).data
        self.crc = zlib.crc32(raw, self.crc)
        self._write(raw)


class _Threaded:
    """The same in a second thread, through two buffers in turn, because a piece is only valid until the next is asked for."""

    def __init__(self, write: Write) -> None:
        from queue import SimpleQueue

        from zlib_ng.zlib_ng import crc32  # fourteen times as fast as zlib's here, where a checksum would take as long as the writing

        self._crc32 = crc32
        self._write = write
        self._free: SimpleQueue[Buffer | None] = SimpleQueue()
        self._full: SimpleQueue[Buffer | None] = SimpleQueue()
        self._failure: OSError | None = None
        self._thread = threading.Thread(target=self._work, name="bnexport-copy", daemon=True)
        self.working = True
        self.crc = 0

    def __enter__(self) -> None:
        for _ in range(2):
            self._free.put(np.empty(PIECE_BYTES, np.uint8))
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._full.put(None)
        self._thread.join()
        if self._failure is not None:
            raise self._failure

    def put(self, piece: np.ndarray[Any, Any], dtype: np.dtype[Any]) -> None:
        buffer = self._free.get() if self.working else None
        if buffer is None:
            self.working = False
            return
        raw = buffer[: piece.size * dtype.itemsize]
        np.copyto(raw.view(dtype), piece)
        self._full.put(raw)

    def _work(self) -> None:
        try:
            while (raw := self._full.get()) is not None:
                self.crc = self._crc32(raw.data, self.crc)
                self._write(raw.data)
                self._free.put(raw.base)
        except OSError as failure:
            self._failure = failure
        finally:
            # Whatever ended the work, the reading thread must not wait for a buffer that never comes.
            self._free.put(None)
