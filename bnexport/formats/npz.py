"""Bundles as .npz: a zip archive of .npy files and the manifest. NumPy and the standard library suffice to read them."""

import zlib
from ast import literal_eval
from io import BufferedReader
from pathlib import Path
from typing import Any

import numpy as np

from bnexport.errors import BundleError, CorruptBundle
from bnexport.formats.archive import Member, ZipWriter, read_directory
from bnexport.formats.manifest import MEMBER, Stored, decode, encode, named_arrays
from bnexport.formats.writing import Written, replacing
from bnexport.program import PIECE_BYTES, Program


def write(path: Path, program: Program, written: Written) -> None:
    """Writes a program; the manifest comes last because it holds the checksums."""
    arrays = named_arrays(program)
    with replacing(path, BundleError) as temporary, temporary.open("r+b") as file:
        archive = ZipWriter(file)
        checksums = {name: archive.add_array(name, array, written) for name, array in arrays.items()}
        archive.add_bytes(MEMBER, encode(program, checksums))
        archive.close()


def read(path: Path) -> Program:
    """Reads a program with all its arrays.

    Raises:
        CorruptBundle: saying which array, or what of the manifest, is not as it was written.
    """
    with path.open("rb") as file:
        members = read_directory(file)
        if MEMBER not in members:
            raise CorruptBundle(f"the file is not a bundle: it has no member {MEMBER}")
        manifest = decode(_manifest(file, members.pop(MEMBER)))
        for name in manifest.arrays:
            if f"{name}.npy" not in members:
                raise CorruptBundle(f"the array {name} is missing")
        for member in members.keys() - {f"{name}.npy" for name in manifest.arrays}:
            raise CorruptBundle(f"the member {member} is unknown to the manifest")
        return manifest.with_arrays({name: _array(file, name, members[f"{name}.npy"], stored) for name, stored in manifest.arrays.items()})


def _manifest(file: BufferedReader, member: Member) -> bytes:
    file.seek(member.start)
    data = file.read(member.size)
    if zlib.crc32(data) != member.crc:
        raise CorruptBundle("the manifest does not fit its checksum")
    return data


def _array(file: BufferedReader, name: str, member: Member, stored: Stored) -> np.ndarray[Any, Any]:
    file.seek(member.start)
    dtype = stored.dtype.newbyteorder("<")
    header = _npy_header(file, name)
    if header != {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": stored.shape}:
        order = " in column-major order" if header.get("fortran_order") else ""
        kind = str(header.get("descr")).removeprefix("<").removeprefix("|")
        raise CorruptBundle(f"the array {name} is {header.get('shape')} {kind}{order}, and the manifest says {stored.shape} {dtype.str[1:]}")
    if file.tell() + stored.nbytes != member.start + member.size:
        raise CorruptBundle(f"the array {name} has {member.start + member.size - file.tell()} bytes instead of {stored.nbytes}")
    array = np.empty(stored.shape, dtype)
    raw = array.reshape(-1).view(np.uint8)
    crc = 0
    for start in range(0, raw.size, PIECE_BYTES):
        piece = raw[start : start + PIECE_BYTES].data
        if file.readinto(piece) != piece.nbytes:
            raise CorruptBundle(f"the array {name} ends too soon")
        crc = zlib.crc32(piece, crc)
    if f"{crc:08x}" != stored.crc32:
        raise CorruptBundle(f"the array {name} does not fit its checksum: it has {crc:08x} and the manifest says {stored.crc32}")
    return array


def _npy_header(file: BufferedReader, name: str) -> dict[str, Any]:
    """What a .npy file says of itself. NumPy's own reader fails in ways of its own on what is damaged."""
    start = file.read(8)
    wide = start[6:7] > b"\x01"
    length = int.from_bytes(file.read(4 if wide else 2), "little")
    try:
        header = literal_eval(file.read(min(length, 1 << 16)).decode("utf-8"))
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
        raise CorruptBundle(f"the array {name} does not begin as a .npy file") from error
    if not start.startswith(b"\x93NUMPY") or not isinstance(header, dict):
        raise CorruptBundle(f"the array {name} does not begin as a .npy file")
    return header
