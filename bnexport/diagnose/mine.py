"""The numbers that a user computed, as their file has them, and how finely it has them."""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bnexport.errors import InputError
from bnexport.kernels.table import NDArray
from bnexport.tables import reading_arrays

_SEPARATORS = re.compile(r"[,;\t ]+")
_NUMBER = re.compile(r"[+-]?(?:\d+\.?(\d*)|\.(\d+))(?:[eE]([+-]?\d+))?\Z")
SUFFIXES = (".npz", ".npy", ".h5", ".hdf5", ".csv", ".tsv", ".txt")


@dataclass(frozen=True, slots=True)
class Fineness:
    """How far a number may be from the one that was written.

    Attributes:
        decimals, digits: the most decimals and the most significant digits that any number in the text has; None where it is not text.
        relative: of the dtype that the numbers are stored in.
    """

    decimals: int | None = None
    digits: int | None = None
    relative: float = 0.0

    def steps(self, values: NDArray) -> NDArray:
        """Half a unit of the last place of each value, of the shape of `values`.

        Text of a fixed number of decimals and text of a fixed number of digits look alike in part of their numbers: each gets the coarser of both.
        """
        size = np.abs(values)
        out = size * self.relative
        if self.decimals is not None and self.digits is not None:
            with np.errstate(divide="ignore", invalid="ignore"):
                exponent = np.where(size > 0, np.floor(np.log10(size)), -300.0)
            by_digits = 0.5 * 10.0 ** (np.maximum(exponent, -300.0) - self.digits + 1)
            out = out + np.maximum(by_digits, 0.5 * 10.0 ** -min(self.decimals, 300))
        return np.asarray(out)


@dataclass(frozen=True, slots=True)
class Given:
    """An array of the user's own numbers.

    Attributes:
        name: the key in the file; nothing for a file of one array.
        values: float64, of any shape.
        fineness: of how the file writes them.
    """

    name: str
    values: NDArray
    fineness: Fineness


def fineness_of_text(cells: list[str]) -> Fineness:
    """How finely numbers are written."""
    decimals, digits = 0, 1
    for cell in cells:
        match = _NUMBER.match(cell)
        if match is None:
            continue
        after = match[1] or match[2] or ""
        whole = cell.lstrip("+-").split("e")[0].split("E")[0]
        decimals = max(decimals, len(after) - int(match[3] or 0))
        digits = max(digits, len(whole.replace(".", "").lstrip("0")))
    return Fineness(decimals, digits)


def read_mine(path: str | Path) -> list[Given]:
    """The arrays of an .npz or .h5 by name, or the one array of an .npy, .csv, .tsv or .txt file (separated by commas, semicolons, tabs or spaces).

    Raises:
        InputError: the file cannot be read, or holds no numbers: in text with row and column.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise InputError(f"{path} has the suffix {suffix or '(none)'}; your own values are read from {', '.join(SUFFIXES)}")
    try:
        path.stat()  # HDF5's own message of a file that is not there is long
        if suffix in (".csv", ".tsv", ".txt"):
            return [_text(path)]
        arrays = dict(_hdf5(path) if suffix in (".h5", ".hdf5") else _numpy(path, suffix))
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    found = []
    for name, array in arrays.items():
        if array.dtype.kind not in "biuf" and array.dtype.name != "bfloat16":
            raise InputError(f"{path}{f': {name}' if name else ''} is of dtype {array.dtype}; give numbers")
        relative = 2.0**-11 if array.dtype == np.float16 else 0.0
        found.append(Given(name, array.astype(np.float64), Fineness(relative=relative)))
    if not any(given.values.size for given in found):
        raise InputError(f"{path} holds no numbers")
    return found


def _numpy(path: Path, suffix: str) -> Iterator[tuple[str, NDArray]]:
    with path.open("rb") as file, reading_arrays(file, str(path), suffix):
        if suffix == ".npy":
            yield "", np.load(file, allow_pickle=False)
            return
        with np.load(file, allow_pickle=False) as archive:
            _refuse_bundle(path, "manifest.json" in archive.files)
            for name in archive.files:
                if not isinstance(archive[name], np.ndarray):
                    raise InputError(f"{path}: {name} is no array in NumPy's format")
                yield name, archive[name]


def _refuse_bundle(path: Path, bundle: bool) -> None:
    if bundle:
        raise InputError(f"{path} is a bundle, which holds weights and no results; `bnexport trace {path} INPUT -o mine.npz` writes what it computes")


def _hdf5(path: Path) -> Iterator[tuple[str, NDArray]]:
    import h5py  # type: ignore[import-untyped,unused-ignore]  # ships no types

    with h5py.File(path, "r") as file:
        _refuse_bundle(path, "manifest" in file.attrs)
        names: list[str] = []
        file.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
        for name in names:
            yield name, np.asarray(file[name])


def _text(path: Path) -> Given:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 (byte {error.start + 1}); save it as UTF-8") from error
    rows: list[list[float]] = []
    cells: list[str] = []
    for number, line in enumerate(lines, 1):
        texts = [text.strip("\"'[]()") for text in _SEPARATORS.split(line.split("#")[0].strip().strip("[](),;")) if text]
        if not texts:
            continue
        try:
            row = [float(text) for text in texts]
        except ValueError:
            if not rows and not any(_is_number(text) for text in texts):
                continue  # a header
            column = next(i for i, text in enumerate(texts, 1) if not _is_number(text))
            raise InputError(f"{path}, row {number}, column {column}: {texts[column - 1]!r} is not a number") from None
        if rows and len(row) != len(rows[0]):
            raise InputError(f"{path}, row {number} has {len(row)} numbers and the rows before it have {len(rows[0])}")
        rows.append(row)
        cells.extend(texts)
    if not rows:
        raise InputError(f"{path} holds no numbers")
    return Given("", np.array(rows), fineness_of_text(cells))


def _is_number(text: str) -> bool:
    try:
        return not math.isnan(float(text)) or text.strip("+-").lower() == "nan"
    except ValueError:
        return False
