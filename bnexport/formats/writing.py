"""Files that appear whole or not at all, and arrays that go into them in one pass."""

import errno
import math
import os
import threading
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np

from bnexport.checksums import CRC32, Checksum
from bnexport.errors import BnexportError, BundleError, UsageError
from bnexport.program import PIECE_BYTES, Array, Read, cores, parts

Written = Callable[[int], object]

THREADS = 2
"""How many threads copy an array. Writing is a third of the work, and only one thread at a time writes to a file: a third thread would wait."""
PAGE_BYTES = 4096
"""What the operating system keeps of a file in memory at once, on most machines."""


def unheard(_: int) -> None:
    """For those who do not care how much has been written."""


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
        try:
            temporary.touch(exist_ok=False)
            yield temporary
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as failure:
        raise error(f"{path} cannot be written: {failure.strerror or failure}") from failure


def refuse_own_input(out: str, *read: str) -> None:
    """Refuses to write over a file that the same command reads: a bundle or somebody's rows would be gone.

    Raises:
        UsageError: `out` is one of these files.
    """
    path = Path(out)
    for source in map(Path, read):
        if path.exists() and source.exists() and path.samefile(source):
            raise UsageError(f"{out} is the file that is read; name another to write")


def copy_array(name: str, array: Array, file: IO[bytes], written: Written) -> int:
    """Writes the bytes of an array, row-major and little-endian, where `file` stands, and gives their CRC-32.

    Of a large array, threads read, compute and write a piece each: while one of them waits for the file or for the interpreter, another works,
    and a piece stays in the cache of one core all the way.

    Args:
        file: has the name that it was opened by.
        written: is told the number of bytes after each piece, perhaps in another thread, but one at a time.

    Raises:
        BundleError: the array yields more or fewer elements than it is asked for.
        OSError: the file cannot take it.
    """
    copy = _Copy(name, array, file.tell(), written)
    if copy.nbytes <= PIECE_BYTES:
        copy.run(array.readers(1)[0], file)
    else:
        _take_space(file, copy.nbytes)
        _in_threads(copy, array, file)
    return copy.checksum.value()


def _take_space(file: IO[bytes], size: int) -> None:
    """Takes the space for `size` bytes on the disk: a third off the time of writing them, and a full disk shows before the work is done."""
    if not hasattr(os, "posix_fallocate"):  # macOS, Windows
        return
    file.flush()
    try:
        os.posix_fallocate(file.fileno(), file.tell(), size)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise
        # Some file systems cannot; writing will tell all else that is wrong.


class _Copy:
    """An array on its way into a file, where it begins at `place`: which of its elements are still to be copied, and the checksum of those that were.

    The pieces begin at pages of the file, so that no two threads write to one.
    """

    def __init__(self, name: str, array: Array, place: int, written: Written) -> None:
        self._name, self._place, self._written = name, place, written
        self._dtype, self._little = array.dtype, array.dtype.newbyteorder("<")
        self.nbytes = math.prod(array.shape) * self._dtype.itemsize
        self.checksum = Checksum(self.nbytes, CRC32)
        self._crc32, first = zlib.crc32, 0
        if self.nbytes > PIECE_BYTES:
            first = -place % PAGE_BYTES // self._dtype.itemsize
            from zlib_ng.zlib_ng import crc32  # fourteen times as fast as zlib's here, where a checksum would take as long as the writing

            self._crc32 = crc32
        self._todo = deque(parts(array, first))
        self._longest = max(map(len, self._todo), default=0)
        self._turn = threading.Lock()

    def run(self, read: Read, file: IO[bytes]) -> None:
        """Copies piece after piece until none is left."""
        buffer = np.empty(self._longest, self._dtype)
        while (part := self._next()) is not None:
            piece = read(part, buffer[: len(part)])
            if piece.size != len(part):
                raise BundleError(f"the array {self._name} yields {piece.size} elements where {len(part)} are asked for")
            raw = np.ascontiguousarray(piece, self._little).view(np.uint8).data
            start = part.start * self._dtype.itemsize
            self.checksum.add(start, len(raw), self._crc32(raw))
            file.seek(self._place + start)
            left = raw
            while left:  # an unbuffered file may take less than it is given
                left = left[file.write(left) :]
            with self._turn:
                self._written(len(raw))

    def stop(self) -> None:
        """Leaves the rest; pieces that are under way are still written."""
        with self._turn:
            self._todo.clear()

    def _next(self) -> range | None:
        with self._turn:
            return self._todo.popleft() if self._todo else None


def _in_threads(copy: _Copy, array: Array, file: IO[bytes]) -> None:
    """Runs a copy in several threads. The file stands behind it after.

    This thread only waits: an interrupt, which reaches no other, may come between any two steps, even when a lock has just been taken.
    """
    from queue import SimpleQueue

    end, ended = file.tell() + copy.nbytes, SimpleQueue[Exception | None]()
    file.flush()

    def work(read: Read) -> None:
        try:
            with Path(file.name).open("r+b", buffering=0) as own:
                copy.run(read, own)
        except Exception as error:  # noqa: BLE001  (raised again where it is waited for)
            copy.stop()
            ended.put(error)
        else:
            ended.put(None)

    threads = [threading.Thread(target=work, args=(read,), name="bnexport-copy", daemon=True) for read in array.readers(min(THREADS, cores()))]
    try:
        for thread in threads:
            thread.start()
        failures = [failure for _ in threads if (failure := ended.get()) is not None]
    finally:
        copy.stop()
        for thread in threads:
            if thread.is_alive():
                thread.join()
    if failures:
        raise failures[0]
    file.seek(end)
