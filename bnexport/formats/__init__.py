"""Bundles: the files that hold a converted network. A format is one module, with `write` and `read`, and one line in `FORMATS`."""

from importlib import import_module
from pathlib import Path
from typing import NamedTuple

from bnexport.errors import BundleError, CorruptBundle, UsageError
from bnexport.formats.writing import Written, unheard
from bnexport.program import Program


class Format(NamedTuple):
    """A file format: its module here, the suffixes it is written for, and the bytes that its files begin with."""

    module: str
    suffixes: tuple[str, ...]
    magic: bytes


FORMATS = (
    Format("npz", (".npz",), b"PK"),
    Format("hdf5", (".h5", ".hdf5"), b"\x89HDF\r\n\x1a\n"),
)


def write_bundle(path: str | Path, program: Program, written: Written = unheard) -> None:
    """Writes a program as a bundle, in the format that the suffix names; a file that is there is replaced once the new one is complete.

    Arrays are read in pieces as they are written, so the memory taken does not grow with them. The same program gives the same bytes.

    Args:
        written: is told the number of bytes of each piece of an array once it is written, perhaps in another thread, but one at a time.

    Raises:
        UsageError: no format has the suffix.
        BundleError: the program contradicts itself, or the file cannot be written.
    """
    path = Path(path)
    for form in FORMATS:
        if path.suffix.lower() in form.suffixes:
            import_module(f"{__name__}.{form.module}").write(path, program, written)
            return
    known = ", ".join(suffix for form in FORMATS for suffix in form.suffixes)
    raise UsageError(f"{path} has the suffix {path.suffix or '(none)'}; a bundle is written as one of {known}")


def is_bundle(path: str | Path) -> bool:
    """Whether a file begins as a bundle does; False where there is no file."""
    return _format(Path(path)) is not None


def read_bundle(path: str | Path) -> Program:
    """Reads a bundle, whatever its suffix, and verifies all of it; its arrays are in memory and read-only.

    Raises:
        CorruptBundle: a checksum, a shape, a dtype or the manifest is not as it was written; the message says which.
        BundleError: there is no such file, or it is not a bundle.
    """
    path = Path(path)
    if path.is_dir():
        raise BundleError(f"{path} is a folder; name a bundle")
    try:
        form = _format(path)
        if form is None:
            if not path.exists():
                prefix = any(path.with_name(path.name + suffix).exists() for suffix in (".index", ".meta"))
                raise BundleError(f"there is no file {path}" + ("; it is a checkpoint's prefix: convert that first" if prefix else ""))
            raise CorruptBundle("the file begins neither as .npz nor as HDF5")
        program: Program = import_module(f"{__name__}.{form.module}").read(path)
        return program
    except CorruptBundle as error:
        raise CorruptBundle(f"{path}: {error}") from error
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error.strerror or error}") from error


def _format(path: Path) -> Format | None:
    if not path.is_file():
        return None
    with path.open("rb") as file:
        start = file.read(8)
    return next((form for form in FORMATS if start.startswith(form.magic)), None)
