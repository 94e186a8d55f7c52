"""Files that appear whole or not at all, and arrays that go into them in one pass."""

import errno
import math
import os
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import reduce
from pathlib import Path
from typing import IO, Any

import numpy as np

from bnexport.checksums import CRC32, combined
from bnexport.errors import BnexportError, BundleError, UsageError
from bnexport.program import PIECE_BYTES, Array, cores, ranges, shares

Written = Callable[[int], object]
Pieces = Iterator[np.ndarray[Any, Any]]

THREADS = 2
"""How many threads copy an array. Writing is a third of the work, and only one thread at a time writes to a file: a third thread would wait."""
SHARES = 8
"""In how many parts they do it, so that none of them waits long for another at the end."""


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

    Of a large array that can be shared, several threads read, compute and write a part each: while one of them waits for the file's turn or for the
    interpreter, another works, and a piece of the array stays in the cache of one core all the way.

    Args:
        written: is told the number of bytes after each piece, perhaps in another thread, but one at a time.

    Raises:
        BundleError: the array yields more or fewer elements than its shape says.
        OSError: the file cannot take it.
    """
    size, dtype = math.prod(array.shape), array.dtype.newbyteorder("<")
    nbytes = size * dtype.itemsize
    if nbytes <= PIECE_BYTES:
        copies = [_Copy(array.pieces(), range(size), dtype, file, written)]
        copies[0].run()
    else:
        _take_space(file, nbytes)
        copies = _in_threads(shares(array, min(SHARES, nbytes // PIECE_BYTES)), size, dtype, file, written)
    if any(copy.seen != len(copy.part) for copy in copies):
        seen = "more" if any(copy.seen > len(copy.part) for copy in copies) else sum(copy.seen for copy in copies)
        raise BundleError(f"the array {name} of shape {list(array.shape)} has {size} elements but yields {seen}")
    return reduce(lambda crc, copy: combined(crc, copy.crc, copy.seen * dtype.itemsize, CRC32), copies[1:], copies[0].crc)


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
    """Copies a range of an array's elements to where the file stands, or, where others copy to it too, to where the range begins in it."""

    def __init__(self, pieces: Pieces, part: range, dtype: np.dtype[Any], file: IO[bytes], written: Written) -> None:
        self._pieces, self.part, self._dtype, self._file, self._written = pieces, part, dtype, file, written
        self._crc32 = zlib.crc32
        self.seen = self.crc = 0

    def run(self) -> None:
        for raw in self._raw():
            self._file.write(raw)
            self._written(len(raw))

    def run_beside(self, place: int, turn: threading.Lock, stop: threading.Event) -> None:
        """Runs while others do, until the end or until one of them says to stop; `place` is where the array begins in the file."""
        from zlib_ng.zlib_ng import crc32  # fourteen times as fast as zlib's here, where a checksum would take as long as the writing

        self._crc32 = crc32
        at = place + self.part.start * self._dtype.itemsize
        for raw in self._raw():
            with turn:
                if stop.is_set():
                    return
                self._file.seek(at)
                self._file.write(raw)
                self._written(len(raw))
            at += len(raw)

    def _raw(self) -> Iterator[memoryview]:
        """The bytes of each piece, as long as there are not more of them than the range has."""
        for piece in self._pieces:
            self.seen += piece.size
            if self.seen > len(self.part):
                return
            raw = np.ascontiguousarray(piece, self._dtype).view(np.uint8).data
            self.crc = self._crc32(raw, self.crc)
            yield raw


def _in_threads(sources: list[Pieces], size: int, dtype: np.dtype[Any], file: IO[bytes], written: Written) -> list[_Copy]:
    """Copies `sources`, which make up `size` elements; each thread takes the next when it is done with one. The file stands behind them after.

    This thread only waits: an interrupt, which reaches no other, may come between any two steps, even when a lock has just been taken.
    """
    from queue import SimpleQueue

    place, turn, stop = file.tell(), threading.Lock(), threading.Event()
    copies = [_Copy(pieces, part, dtype, file, written) for pieces, part in zip(sources, ranges(size, len(sources)), strict=True)]
    todo, ended = iter(copies), SimpleQueue[Exception | None]()

    def work() -> None:
        try:
            for copy in todo:
                copy.run_beside(place, turn, stop)
        except Exception as error:  # noqa: BLE001  (raised again where it is waited for)
            stop.set()
            ended.put(error)
        else:
            ended.put(None)

    count = min(THREADS, cores(), len(copies))
    threads = [threading.Thread(target=work, name="bnexport-copy", daemon=True) for _ in range(count)]
    try:
        for thread in threads:
            thread.start()
        failures = [failure for _ in threads if (failure := ended.get()) is not None]
    finally:
        stop.set()  # one that has yet to begin will write nothing
        for thread in threads:
            if thread.is_alive():
                thread.join()
    if failures:
        raise failures[0]
    file.seek(place + size * dtype.itemsize)
    return copies
