"""Files that appear whole or not at all, and arrays that go into them in one pass."""

import errno
import math
import os
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from bnexport.errors import BnexportError, BundleError, UsageError
from bnexport.program import PIECE_BYTES, PIECES_HELD, Array, Mapped, cores

if TYPE_CHECKING:
    from queue import SimpleQueue

Written = Callable[[int], object]
Compute = Callable[[np.ndarray[Any, Any], int, np.ndarray[Any, Any]], None]


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

    Args:
        written: is told the number of bytes after each piece, perhaps in another thread, but one at a time.

    Raises:
        BundleError: the array yields more or fewer elements than its shape says.
        OSError: the file cannot take it.
    """
    size = math.prod(array.shape)
    nbytes = size * array.dtype.itemsize
    relay = _Relay(array, file, written)
    if nbytes <= PIECE_BYTES:
        relay.run()
    else:
        _take_space(file, nbytes)
        relay.run_in_threads()
    if relay.seen != size:
        seen = "more" if relay.seen > size else relay.seen
        raise BundleError(f"the array {name} of shape {list(array.shape)} has {size} elements but yields {seen}")
    return relay.crc


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


class _Relay:
    """Copies an array to a file. Every thread that runs it takes the next piece, works on it, and writes it when those before are written.

    So a piece stays in the cache of one core all the way, and while one thread reads or writes, which only one at a time may do, others compute:
    checksums, NumPy and the file all let go of the interpreter lock.
    """

    def __init__(self, array: Array, file: IO[bytes], written: Written) -> None:
        self._dtype = array.dtype.newbyteorder("<")
        self._size = math.prod(array.shape)
        self._compute: Compute | None = None
        source = array
        if isinstance(array, Mapped):
            source, self._compute = array.source, array.compute
        self._pieces = enumerate(source.pieces())
        self._file, self._written = file, written
        self._reading, self._turns = threading.Lock(), threading.Condition()
        self._turn = 0
        self._failed = False
        self._crc32 = zlib.crc32
        self.seen = 0
        self.crc = 0

    def run_in_threads(self) -> None:
        """Runs it in as many threads as there may be pieces at a time, and cores.

        This thread only waits: an interrupt, which reaches no other, may come between any two steps, even when a lock has just been taken.
        """
        from queue import SimpleQueue

        from zlib_ng.zlib_ng import crc32  # fourteen times as fast as zlib's here, where a checksum would take as long as the writing

        self._crc32 = crc32
        ended: SimpleQueue[Exception | None] = SimpleQueue()
        threads = [threading.Thread(target=self._work, args=(ended,), name="bnexport-copy", daemon=True) for _ in range(min(PIECES_HELD, cores()))]
        try:
            for thread in threads:
                thread.start()
            failures = [ended.get() for _ in threads]
        finally:
            self._stop()  # one that has yet to begin will write nothing
            for thread in threads:
                if thread.is_alive():
                    thread.join()
        for failure in failures:
            if failure is not None:
                raise failure

    def _work(self, ended: "SimpleQueue[Exception | None]") -> None:
        """A thread's work; what goes wrong in it is for the one that waits."""
        try:
            self.run()
        except Exception as error:  # noqa: BLE001  (raised again where it is waited for)
            self._stop()
            ended.put(error)
        else:
            ended.put(None)

    def run(self) -> None:
        """One thread's work, until there is nothing left, or another has failed."""
        buffer: np.ndarray[Any, Any] | None = None
        while (task := self._take()) is not None:
            index, start, piece = task
            if self._compute is not None:
                result = piece  # half the memory, so that more of it stays in the cache
                if not piece.flags.writeable or piece.dtype != self._dtype:
                    if buffer is None or buffer.size < piece.size:
                        buffer = np.empty(piece.size, self._dtype)
                    result = buffer[: piece.size]
                self._compute(piece, start, result)
                piece = result
            if not self._write(index, np.ascontiguousarray(piece, self._dtype).view(np.uint8).data):
                return

    def _take(self) -> tuple[int, int, np.ndarray[Any, Any]] | None:
        with self._reading:
            task = next(self._pieces, None) if self.seen <= self._size else None
            if task is None:
                return None
            index, piece = task
            start = self.seen
            self.seen += piece.size
            return (index, start, piece) if self.seen <= self._size else None

    def _write(self, index: int, raw: memoryview) -> bool:
        with self._turns:
            self._turns.wait_for(lambda: self._turn == index or self._failed)
            if self._failed:
                return False
            self.crc = self._crc32(raw, self.crc)
            self._file.write(raw)
            self._turn += 1
            self._written(len(raw))
            self._turns.notify_all()
        return True

    def _stop(self) -> None:
        with self._turns:
            self._failed = True
            self._turns.notify_all()
