"""Bundles as HDF5: a dataset for each array, the manifest as an attribute of the root."""

import zlib
from pathlib import Path
from typing import Any

import h5py  # type: ignore[import-untyped]  # it ships no types
import numpy as np

from bnexport.errors import BundleError, CorruptBundle
from bnexport.formats.manifest import Stored, decode, encode, named_arrays
from bnexport.formats.writing import Written, copy_array, replacing
from bnexport.program import PIECE_BYTES, Program

MANIFEST = "manifest"
CHECKSUM = "manifest_crc32"


def write(path: Path, program: Program, written: Written) -> None:
    """Writes a program: HDF5 lays out the datasets, and their bytes then go straight to where they belong, in pieces that know no hyperslabs."""
    arrays = named_arrays(program)
    with replacing(path, BundleError) as temporary:
        with h5py.File(temporary, "w", libver=("earliest", "v108")) as file:
            places = {name: _place(file, name, array.shape, array.dtype) for name, array in arrays.items()}
        checksums: dict[str, int] = {}
        with temporary.open("r+b") as raw:
            for name, array in arrays.items():
                raw.seek(places[name])
                checksums[name] = copy_array(name, array, raw, written)
        manifest = encode(program, checksums)
        with h5py.File(temporary, "r+", libver=("earliest", "v108")) as file:
            # A string of variable length is not bound to the 64 kB of an object header.
            file.attrs[MANIFEST] = manifest.decode("ascii")
            file.attrs[CHECKSUM] = f"{zlib.crc32(manifest):08x}"


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
        raise CorruptBundle(f"HDF5 cannot read the file ({error})") from error


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
