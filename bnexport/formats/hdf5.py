"""Bundles as HDF5: a dataset for each array, the manifest as an attribute of the root."""

import io
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import h5py  # type: ignore[import-untyped]  # it ships no types
import numpy as np

from bnexport.errors import BundleError, CorruptBundle
from bnexport.formats.manifest import Stored, decode, encode, named_arrays
from bnexport.formats.writing import Written, copy_array, replacing
from bnexport.program import PIECE_BYTES, Program

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

MANIFEST = "manifest"
CHECKSUM = "manifest_crc32"
PAGE_BYTES = 1 << 16


def write(path: Path, program: Program, written: Written) -> None:
    """Writes a program: HDF5 lays out the datasets, and their bytes then go straight to where they belong, in pieces that know no hyperslabs."""
    arrays = named_arrays(program)
    with replacing(path, BundleError) as temporary:
        with written_file(temporary, "w") as file:
            places = {name: _place(file, name, array.shape, array.dtype) for name, array in arrays.items()}
        checksums: dict[str, int] = {}
        with temporary.open("r+b") as raw:
            for name, array in arrays.items():
                raw.seek(places[name])
                checksums[name] = copy_array(name, array, raw, written)
        manifest = encode(program, checksums)
        with written_file(temporary, "r+") as file:
            # A string of variable length is not bound to the 64 kB of an object header.
            file.attrs[MANIFEST] = manifest.decode("ascii")
            file.attrs[CHECKSUM] = f"{zlib.crc32(manifest):08x}"


@contextmanager
def written_file(path: Path, mode: str) -> Iterator[h5py.File]:
    """An HDF5 file to write to, whose bytes come to the disk when the block ends.

    HDF5 does not bear a write that fails: where the disk is full it complains on standard error and may take the process with it. So it writes to
    memory, which holds what it writes itself and not the space of datasets that it only lays out.

    Raises:
        OSError: the file cannot take it.
    """
    with path.open("r+b") as raw:
        pages = _Pages(raw)
        with h5py.File(pages, mode, libver=("earliest", "v108")) as file:
            yield file
        pages.save()


class _Pages(io.RawIOBase):
    """A file with what is written to it kept in memory, in pages, until it is saved."""

    def __init__(self, raw: IO[bytes]) -> None:
        self._raw = raw
        self._pages: dict[int, bytearray] = {}
        self._at = 0
        self._end = raw.seek(0, os.SEEK_END)

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._end}[whence]
        return self._at

    def truncate(self, size: int | None = None) -> int:
        self._end = self._at if size is None else size
        return self._end

    def readinto(self, buffer: "WriteableBuffer") -> int:
        view = memoryview(buffer).cast("B")
        taken = min(len(view), max(0, self._end - self._at))
        for page, start, piece in self._parts(view[:taken]):
            piece[:] = page[start : start + len(piece)]
        self._at += taken
        return taken

    def write(self, data: "ReadableBuffer") -> int:
        view = memoryview(data).cast("B")
        for page, start, piece in self._parts(view):
            page[start : start + len(piece)] = piece
        self._at += len(view)
        self._end = max(self._end, self._at)
        return len(view)

    def _parts(self, view: memoryview) -> Iterator[tuple[bytearray, int, memoryview]]:
        """The pages that bytes from here on lie in: for each where they begin in it, and which of them they are."""
        done = 0
        while done < len(view):
            number, start = divmod(self._at + done, PAGE_BYTES)
            if number not in self._pages:
                self._raw.seek(number * PAGE_BYTES)
                self._pages[number] = bytearray(self._raw.read(PAGE_BYTES).ljust(PAGE_BYTES, b"\0"))
            piece = view[done : done + PAGE_BYTES - start]
            yield self._pages[number], start, piece
            done += len(piece)

    def save(self) -> None:
        """Writes the pages."""
        for number in sorted(self._pages):
            self._raw.seek(number * PAGE_BYTES)
            self._raw.write(self._pages[number][: max(0, self._end - number * PAGE_BYTES)])
        self._raw.truncate(self._end)


def _place(file: h5py.File, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> int:
    """Makes a contiguous dataset, its space taken but not filled, and gives its offset in the file."""
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_layout(h5py.h5d.CONTIGUOUS)
    properties.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    properties.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    properties.set_obj_track_times(False)
    links = h5py.h5p.create(h5py.h5p.LINK_CREATE)
    links.set_create_intermediate_group(True)
    kind = h5py.h5t.py_create(dtype.newbyteorder("<"), logical=True)
    dataset = h5py.h5d.create(
        file.id, name.encode("ascii"), kind, h5py.h5s.create_simple(shape) if shape else h5py.h5s.create(h5py.h5s.SCALAR), properties, links
    )
    return dataset.get_offset() or 0


def read(path: Path) -> Program:
    """Reads a program with all its arrays.

    Raises:
        CorruptBundle: saying which array, or what of the manifest, is not as it was written.
    """
    try:
        with h5py.File(path, "r") as file:
            return _read(file)
    except (OSError, RuntimeError, KeyError, ValueError, UnicodeError) as error:
        said = " ".join(str(error).split())
        raise CorruptBundle("the file is cut short" if "truncated file" in said else f"HDF5 cannot read the file ({said})") from error


def _read(file: h5py.File) -> Program:
    text, checksum = file.attrs.get(MANIFEST), file.attrs.get(CHECKSUM)
    if not isinstance(text, str) or not isinstance(checksum, str):
        raise CorruptBundle(f"the file is not a bundle: its root has no attributes {MANIFEST} and {CHECKSUM}")
    data = text.encode("utf-8", "surrogateescape")
    if f"{zlib.crc32(data):08x}" != checksum:
        raise CorruptBundle("the manifest does not fit its checksum")
    manifest = decode(data)
    datasets: dict[str, h5py.Dataset] = {}
    file.visititems(lambda name, item: datasets.update({name: item}) if isinstance(item, h5py.Dataset) else None)
    for name in manifest.arrays:
        if name not in datasets:
            raise CorruptBundle(f"the array {name} is missing")
    for name in datasets.keys() - manifest.arrays.keys():
        raise CorruptBundle(f"the dataset {name} is unknown to the manifest")
    return manifest.with_arrays({name: _array(datasets[name], name, stored) for name, stored in manifest.arrays.items()})


def _array(dataset: h5py.Dataset, name: str, stored: Stored) -> np.ndarray[Any, Any]:
    if dataset.shape != stored.shape or dataset.dtype != stored.dtype:
        raise CorruptBundle(
            f"the array {name} is {list(dataset.shape or ())} {dataset.dtype}, and the manifest says {list(stored.shape)} {stored.dtype}"
        )
    if dataset.external or dataset.is_virtual:
        raise CorruptBundle(f"the array {name} lies in another file")
    array = np.empty(stored.shape, stored.dtype.newbyteorder("<"))
    if array.size:
        dataset.read_direct(array)
    raw = array.reshape(-1).view(np.uint8)
    crc = 0
    for start in range(0, raw.size, PIECE_BYTES):
        crc = zlib.crc32(raw[start : start + PIECE_BYTES].data, crc)
    if f"{crc:08x}" != stored.crc32:
        raise CorruptBundle(f"the array {name} does not fit its checksum: it has {crc:08x} and the manifest says {stored.crc32}")
    return array
