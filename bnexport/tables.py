"""From files to a network's inputs, and from its outputs to files: CSV, .npy and .npz, in blocks of rows."""

import math
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

from bnexport.csvrows import BLOCK_ROWS, Block, NDArray, complete, converted, kind_of_file, read_csv, shown
from bnexport.errors import InputError, UsageError
from bnexport.program import InMemory, Port
from bnexport.text import TEXT, dtype_of


def read_inputs(path: str | Path, ports: Sequence[Port], *, header: bool | None = None, block_rows: int | None = BLOCK_ROWS) -> Iterator[Block]:
    """The rows of a file as blocks, each a dict from an input's name to an array of shape (rows, *port.shape[1:]) and of the port's dtype.

    `.npy` is for a network of one input, and mapped into memory; `.npz` has an array under each input's name; every other suffix, and `-` for
    standard input, is read as CSV (with tabs where it is `.tsv`). The first dimension is the batch. In CSV an example is a row, and its further
    dimensions are flattened row-major. The columns of several inputs follow each other in the order of the inputs, unless a header names the input
    of each: `x` or `x[0]`, `x[1]`, … Where one dimension is unknown it follows from the number of columns.

    Args:
        path: the file, or `-`.
        ports: the network's inputs.
        header: whether the first row of a CSV file names the columns. By default it does when none of its cells is a number; where some inputs are
            text, when it names inputs or has no number where numbers belong.
        block_rows: the most rows in a block; None for a single block (a network that computes statistics over the batch needs it whole).

    Cells are decimal numbers; `nan` and `inf` are taken where they are spelled out, an empty cell is not. Text becomes float64 first and then
    float32 or float16, each correctly rounded, as everywhere in NumPy (rounding twice is off by one unit in about one of 10**9 cells).
    Integers are exact. A cell of an input that is text is taken as it stands, spaces too, and may be empty; it is quoted where it holds a
    separator, a quote or a new line.

    Raises:
        InputError: in one line the file, the row (the line of the file, from 1) and the column (from 1, and its name), and what is wrong there.
    """
    name = "standard input" if str(path) == "-" else str(path)
    suffix = Path(path).suffix.lower()
    for port in ports:
        if not port.shape and suffix != ".npz":
            raise InputError(f"the input {port.name} is a single number, which a table cannot give; give a .npz file by input name")
    try:
        if suffix in (".npy", ".npz"):
            blocks = _from_arrays(Path(path), name, ports, block_rows)
        else:
            blocks = read_csv(path, name, ports, header, block_rows, "\t" if suffix == ".tsv" else ",")
        yield from blocks if block_rows else [_joined(list(blocks))]
    except OSError as error:
        raise InputError(f"{name} cannot be read: {error.strerror or error}") from error


def _joined(blocks: Sequence[Block]) -> Block:
    return blocks[0] if len(blocks) == 1 else {key: np.concatenate([block[key] for block in blocks]) for key in blocks[0]}


# .npy and .npz


def _from_arrays(path: Path, name: str, ports: Sequence[Port], block_rows: int | None) -> Iterator[Block]:
    arrays = {port.name: _fitted(array, port, where) for port, array, where in _loaded(path, name, ports)}
    # An input of fixed size beside others with a free batch dimension is no table of examples: it goes whole with every block.
    free = [port.name for port in ports if port.shape and port.shape[0] is None]
    split = free or [port.name for port in ports if port.shape]
    rows = {key: len(arrays[key]) for key in split}
    if len(set(rows.values())) > 1:
        if free:
            raise InputError(f"{name}: the inputs differ in their number of rows ({', '.join(f'{key} has {n}' for key, n in rows.items())})")
        split = []
    total = rows[split[0]] if split else 1
    step = block_rows or max(total, 1)
    if total == 0:
        raise InputError(f"{name} holds no rows")
    types = {port.name: dtype_of(port.dtype) for port in ports}
    for start in range(0, total, step):
        block: Block = {}
        for key, array in arrays.items():
            part = array[start : start + step] if key in split else array
            values, bad = converted(np.asarray(part), types[key])
            if bad is not None:
                index = [int(i) for i in np.unravel_index(bad, part.shape)]
                if key in split:
                    index[0] += start
                element = f", element {index}" if index else ""
                raise InputError(f"{name}: the input {key}{element} is {part.flat[bad]}, which is no {types[key]}")
            block[key] = values
        yield block


def _loaded(path: Path, name: str, ports: Sequence[Port]) -> Iterator[tuple[Port, NDArray, str]]:
    """The array of each port as the file has it, and what to call it in a message."""
    suffix = path.suffix.lower()
    with path.open("rb") as file, reading_arrays(file, name, suffix):
        if suffix == ".npy":
            if len(ports) != 1:
                names = ", ".join(port.name for port in ports)
                raise InputError(f"{name} holds one array and the network has {len(ports)} inputs ({names}); give a .npz file by input name")
            yield ports[0], np.load(path, mmap_mode="r", allow_pickle=False), name
            return
        with np.load(file, allow_pickle=False) as archive:
            if "manifest.json" in archive.files:
                raise InputError(f"{name} is a bundle, which holds weights and no rows; the bundle comes first, and then the rows")
            for port in ports:
                key = next((key for key in (port.name, f"{port.name}:0") if key in archive.files), None)
                if key is None:
                    raise InputError(f"{name} has no array {port.name} for the input of that name; it holds {', '.join(archive.files) or 'none'}")
                array = archive[key]
                if not isinstance(array, np.ndarray):
                    raise InputError(f"{name}: {key} is no array in NumPy's format")
                yield port, array, f"{name}: {key}"


@contextmanager
def reading_arrays(file: IO[bytes], name: str, suffix: str) -> Iterator[None]:
    """Says in an `InputError` why NumPy cannot read a .npy or .npz file, which is at its beginning and stays there.

    NumPy tells files by their contents, and takes what begins as neither for a pickle.
    """
    from zipfile import BadZipFile

    start = file.read(8)
    file.seek(0)
    if not start:
        raise InputError(f"{name} is empty")
    if not start.startswith(b"\x93NUMPY" if suffix == ".npy" else b"PK"):
        raise InputError(f"{name} is no {suffix} file{f' but {kind}' if (kind := kind_of_file(start)) else ''}")
    try:
        yield
    except (ValueError, EOFError, TypeError, BadZipFile) as error:
        raise InputError(f"{name} cannot be read as {suffix} of numbers: {_why_no_numbers(error)}") from error


def _why_no_numbers(error: Exception) -> str:
    """What NumPy says of a file, less its advice to read pickles."""
    said = str(error).splitlines()[0] if str(error) else type(error).__name__
    if "pickle" in said or "Python objects" in said:
        return "it holds pickled Python objects; save an array of numbers, or of text as np.array(words, str), with np.save"
    short = any(words in said for words in ("greater than file size", "EOF", "Failed to read all data", "not a zip file"))
    return "the file is cut short" if short else said


def _fitted(array: NDArray, port: Port, where: str) -> NDArray:
    """The array in the port's shape: as it is, or with its further dimensions flattened."""
    if array.dtype.kind not in ("SUT" if port.dtype == TEXT else "biuf"):
        raise InputError(f"{where} is of dtype {array.dtype}, and the input {port.name} takes {port.dtype}")
    if not port.shape:
        if array.size != 1:
            raise InputError(f"{where} has the shape {list(array.shape)}, and the input {port.name} is a single number")
        return array.reshape(())
    tail = port.shape[1:]
    if array.ndim == len(port.shape) and all(want in (None, got) for want, got in zip(tail, array.shape[1:], strict=True)):
        return array
    if array.ndim == 2 and len(port.shape) != 2 and (full := complete(tail, array.shape[1])) is not None:
        return array.reshape(array.shape[0], *full)
    row = list(tail) == list(array.shape) or (None in tail and len(tail) == array.ndim)
    one = f"; a single row has the shape {[1, *array.shape]}" if row else ""
    raise InputError(f"{where} has the shape {list(array.shape)}, and the input {port.name} takes {shown(port)}{one}")


# Outputs


def write_outputs(path: str | Path | None, ports: Sequence[Port], blocks: Iterable[Mapping[str, NDArray]], *, header: bool | None = None) -> None:
    """Writes a network's outputs, which come in blocks of rows: dicts from an output's name to an array whose first dimension is the rows.

    The suffix of `path` says how: `.csv` (`.tsv` with tabs), `.npy` for one output, or `.npz` with an array under each output's name, which alone
    are kept in memory until the end. None and `-` are standard output, as CSV. A file appears when it is complete and replaces one of its name.

    In CSV a row is an example, further dimensions are flattened row-major, and several outputs stand side by side. Floats are the shortest
    decimals that read back as the same number; bools are 0 and 1. With `header`, by default where there are several outputs, the first row
    names the columns `y`, or `y[0]`, `y[1]`, …; `read_inputs` understands such names.

    Raises:
        UsageError: an unknown suffix, an output that is text, several outputs for .npy, outputs of different numbers of rows for CSV, or a place
            that cannot be written.
        InputError: there are no rows.
    """
    if words := [port.name for port in ports if port.dtype == TEXT]:
        raise UsageError(f"the output {words[0]} is text, which is not written to files: model.predict gives it")
    if path is None or str(path) == "-":
        _to_stdout(_csv(ports, blocks, header, ","))
        return
    from bnexport.formats.writing import replacing

    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in (".csv", ".tsv", ".npy", ".npz"):
        raise UsageError(f"{path} has the suffix {suffix or '(none)'}; outputs are written as .csv, .tsv, .npy or .npz")
    if suffix == ".npy" and len(ports) != 1:
        raise UsageError(f"{path} would hold one array and the network has {len(ports)} outputs; write .npz or .csv")
    with replacing(path, UsageError) as temporary, temporary.open("r+b") as file:
        if suffix == ".npy":
            _npy(ports[0], blocks, file)
        elif suffix == ".npz":
            _npz(ports, blocks, file)
        else:
            for text in _csv(ports, blocks, header, "\t" if suffix == ".tsv" else ","):
                file.write(text)


def _to_stdout(texts: Iterator[bytes]) -> None:
    out = sys.stdout.buffer
    for text in texts:
        out.write(text)
    out.flush()


def _npy(port: Port, blocks: Iterable[Mapping[str, NDArray]], file: IO[bytes]) -> None:
    """The number of rows is only known at the end: a header of the same length takes the place of the first one."""
    from bnexport.formats.archive import npy_header

    rows, scalar = 0, False
    dtype: np.dtype[Any] = np.dtype(port.dtype)
    tail: tuple[int, ...] = ()
    for block in blocks:
        values = np.asarray(block[port.name])
        if rows and values.ndim == 0:
            raise UsageError(f"the output {port.name} is a single number for each block of rows, not one for each row")
        if not rows:
            dtype, tail = values.dtype.newbyteorder("<"), values.shape[1:]
            scalar = values.ndim == 0
            file.write(npy_header(dtype, values.shape, room_for_rows=not scalar))
        file.write(np.ascontiguousarray(values, dtype).reshape(-1).view(np.uint8).data)
        rows += len(values) if values.ndim else 1
    if not rows:
        raise InputError("there are no rows to write")
    if not scalar:
        file.seek(0)
        file.write(npy_header(dtype, (rows, *tail), room_for_rows=True))


def _npz(ports: Sequence[Port], blocks: Iterable[Mapping[str, NDArray]], file: IO[bytes]) -> None:
    from bnexport.formats.archive import ZipWriter

    kept = [{port.name: np.asarray(block[port.name]) for port in ports} for block in blocks]
    if not kept:
        raise InputError("there are no rows to write")
    archive = ZipWriter(file)
    for port in ports:
        values = [block[port.name] for block in kept]
        if len(values) > 1 and values[0].ndim == 0:
            raise UsageError(f"the output {port.name} is a single number for each block of rows, not one for each row")
        archive.add_array(port.name, InMemory(values[0] if len(values) == 1 else np.concatenate(values)))
    archive.close()


def _csv(ports: Sequence[Port], blocks: Iterable[Mapping[str, NDArray]], header: bool | None, delimiter: str) -> Iterator[bytes]:
    """The text of the outputs, a block at a time."""
    named = len(ports) > 1 if header is None else header
    rows = 0
    for block in blocks:
        tables = {}
        for port in ports:
            values = np.asarray(block[port.name])
            if rows and values.ndim == 0:
                raise UsageError(f"the output {port.name} is a single number for each block of rows, not one for each row")
            tables[port.name] = values.reshape(len(values), math.prod(values.shape[1:])) if values.ndim else values.reshape(1, 1)
        counts = {len(table) for table in tables.values()}
        if len(counts) > 1:
            sizes = ", ".join(f"{key} has {len(table)}" for key, table in tables.items())
            raise UsageError(f"the outputs differ in their number of rows ({sizes}) and cannot stand side by side; write .npz")
        if named and not rows:
            yield (delimiter.join(_quoted(name, delimiter) for name in _column_names(tables)) + "\n").encode("utf-8")
        rows += counts.pop()
        columns = [_texts(table) for table in tables.values()]
        yield "".join([delimiter.join([cell for row in parts for cell in row]) + "\n" for parts in zip(*columns, strict=True)]).encode("ascii")
    if not rows:
        raise InputError("there are no rows to write")


def _column_names(tables: Mapping[str, NDArray]) -> Iterator[str]:
    for name, table in tables.items():
        width = table.shape[1]
        yield from (f"{name}[{k}]" for k in range(width)) if width > 1 else [name]


def _quoted(name: str, delimiter: str) -> str:
    return '"' + name.replace('"', '""') + '"' if any(c in name for c in (delimiter, '"', "\n", "\r")) else name


def _texts(table: NDArray) -> Iterator[Iterator[str]]:
    """The cells of each row as text."""
    if table.dtype.kind == "b":
        table = table.astype(np.uint8)
    elif table.dtype.kind == "f" and table.dtype.itemsize < 8:
        table = shortest(table)
    return (map(repr, row) for row in table.tolist())


_DIGITS = {2: range(3, 6), 4: range(6, 10)}
"""Decimal digits by bytes of a float: from those that any decimal keeps to those that any float needs."""


def shortest(values: NDArray) -> NDArray:
    """For float32 or float16 the float64 whose `repr` is the shortest decimal that reads back as the given number, and of these the nearest.

    `repr` of a NumPy scalar gives this text for one number at a time; this finds the decimals of a whole array by rounding to more and more digits.
    A decimal of so few digits is digits / 10**k with both parts exact in float64 while k is at most 22, so that the quotient is the float64 nearest
    to the decimal, and `repr` gives the decimal back. Numbers beyond these powers of ten take the slow way.
    """
    digits = _DIGITS[values.dtype.itemsize]
    flat = values.reshape(-1)
    with np.errstate(invalid="ignore"):  # a signalling NaN
        wide = flat.astype(np.float64)
    out = wide.copy()
    size = np.abs(wide)
    plain = (size > 0) & np.isfinite(size)
    exponent = np.floor(np.log10(size, out=np.zeros_like(size), where=plain)).astype(np.int64)
    # Below the normal numbers fewer digits than digits[0] can do.
    inside = (exponent >= digits[-1] - 23) & (exponent <= digits[0] + 21) & (size >= np.finfo(values.dtype).smallest_normal)
    slow = [np.flatnonzero(plain & ~inside)]
    left = np.flatnonzero(plain & inside)
    powers = np.array([float(10**k) for k in range(23)])
    for count in digits:
        x, shift = wide[left], count - 1 - exponent[left]
        up, down = powers[np.maximum(shift, 0)], powers[np.maximum(-shift, 0)]
        decimal = np.rint(x * up / down) / up * down
        out[left] = decimal
        left = left[decimal.astype(values.dtype) != flat[left]]
        # The numbers that round to a power of two reach further above it than below: a decimal may do that is not the nearest of its length.
        lopsided = np.abs(np.frexp(wide[left])[0]) == 0.5
        slow.append(left[lopsided])
        left = left[~lopsided]
    for index in np.concatenate([*slow, left]).tolist():
        out[index] = float(str(flat[index]))
    return out.reshape(values.shape)
