"""Rows of numbers and text out of CSV: which columns are whose, and which cell is wrong."""

import itertools
import math
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from bnexport.errors import InputError
from bnexport.program import Port
from bnexport.text import TEXT, dtype_of, encoded

NDArray = np.ndarray[Any, Any]
Block = dict[str, NDArray]

BLOCK_ROWS = 4096
_BLOCK_BYTES = 1 << 21
"""How much text is parsed at a time."""
_BOM = b"\xef\xbb\xbf"
_KINDS = (
    (b"\x93NUMPY", "one in NumPy's .npy format"),
    (b"PK\x03\x04", "a zip archive, as .npz and .xlsx are"),
    (b"\x1f\x8b", "compressed with gzip"),
    (b"\x89HDF", "one in the HDF5 format"),
    (b"PAR1\x15", "one in the Parquet format"),
    (b"\x89PNG", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"\x80", "a pickle"),
)
"""What files begin with that are given in mistake."""
COUNTED = 4
"""From so many columns on, a first row of 0, 1, 2, … is taken for the names that pandas writes, and has to be declared."""
_EXACT = 2**53
"""Integers below this are exact in float64."""


@dataclass(frozen=True, slots=True)
class _Columns:
    """Where the inputs stand among the columns: for each port its shape behind the batch and the columns' numbers."""

    names: list[str] | None
    width: int
    places: dict[str, tuple[tuple[int, ...], slice | list[int]]]

    def called(self, column: int) -> str:
        """A column for a message; its number is from 0 here and from 1 there."""
        known = self.names is not None and column < len(self.names) and self.names[column].strip()
        return f"column {column + 1} ({self.names[column].strip()!r})" if known and self.names else f"column {column + 1}"


def read_csv(path: str | Path, name: str, ports: Sequence[Port], header: bool | None, block_rows: int | None, delimiter: str) -> Iterator[Block]:
    """The blocks of a CSV file (see `bnexport.tables.read_inputs`); `name` is what messages call it."""
    with ExitStack() as stack:
        file = sys.stdin.buffer if str(path) == "-" else stack.enter_context(Path(path).open("rb"))
        first = file.readline()
        if first.startswith((b"\xff\xfe", b"\xfe\xff")):
            raise InputError(f"{name} is not UTF-8 but UTF-16; save it as UTF-8")
        if kind := kind_of_file(first):
            raise InputError(f"{name} is no CSV but {kind}; give CSV, or .npy or .npz under its own suffix")
        if b"\0" in first:
            raise InputError(f"{name}, row 1 is no text, or not UTF-8 (it holds a byte 0); save it as UTF-8")
        first = first.removeprefix(_BOM)
        if b"\r" in first.rstrip(b"\r\n"):
            raise InputError(f"{name}, row 1: its lines end in a carriage return alone; save it with line feeds")
        if not first.strip():
            raise InputError(f"{name} is empty" if not first and not file.read(1) else f"{name}, row 1 is blank")
        cells, lines = _first_record(first, file, name, delimiter)
        hint = _other_separator(first, delimiter)
        named = header
        if named is None:
            named = (
                _names_columns(cells, ports, name, hint)
                if any(port.dtype == TEXT for port in ports)
                else _is_header(cells, ports, name, range(len(cells)))
            )
        columns = _columns(cells if named else None, len(cells), ports, name, hint)
        reader = _Reader(name, columns, ports, delimiter)
        row, lines = (len(lines) + 1, []) if named else (1, lines)
        size = min(block_rows or BLOCK_ROWS, max(1, _BLOCK_BYTES // max(1, len(first))))
        while lines := lines + list(itertools.islice(file, max(0, size - len(lines)))):
            block = reader.block(lines, row, file)
            if block is not None:
                yield block
            row, lines = row + len(lines), []
        if not reader.rows:
            raise InputError(f"{name} has a header and no rows")


def kind_of_file(start: bytes) -> str:
    """What a file is whose first bytes are these, where that is well known; else nothing."""
    return next((kind for magic, kind in _KINDS if start.startswith(magic)), "")


def _first_record(first: bytes, file: IO[bytes], name: str, delimiter: str) -> tuple[list[str], list[bytes]]:
    """The cells of the first record, and its lines, of which there may be several where names or text are quoted."""
    import csv

    lines: list[bytes] = []

    def texts() -> Iterator[str]:
        for line in itertools.chain([first], file):
            lines.append(line)
            yield _decoded(line, name, len(lines))

    try:
        return next(csv.reader(texts(), delimiter=delimiter, strict=True)), lines
    except csv.Error as error:
        raise InputError(f"{name}, row 1: {_quoting(error)}") from error


def _quoting(error: Exception) -> str:
    """What the csv module found wrong with quotes, in other words than a programmer's."""
    return "a quote is opened and not closed" if "end of data" in str(error) else str(error)


def _decoded(line: bytes, name: str, row: int) -> str:
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{name}, row {row} is not UTF-8 (byte {error.start + 1} of the line is 0x{line[error.start]:02x}); save it as UTF-8"
        ) from error


def _other_separator(line: bytes, delimiter: str) -> str:
    """What a line seems to be separated by where that is not the delimiter, as a hint for a message."""
    if line.lstrip().startswith(b"#"):
        return "; it begins with # as a comment does: take comments out"
    signs = ((b";", "semicolon"), (b"\t", "tab"), (b"|", "bar"), (b" ", "space"), (b",", "comma"))
    name, count = max(((name, line.strip().count(sign)) for sign, name in signs), key=lambda found: found[1])
    ruled = "tabs separate the columns of .tsv" if delimiter == "\t" else "commas separate the columns (and tabs those of .tsv)"
    point = ", and decimals have a point" if name != "comma" and re.search(rb"\d,\d", line) else ""
    return f"; it has {count} {name}{'s' * (count != 1)}, but {ruled}{point}" if count > line.count(delimiter.encode()) or point else ""


def _no_number(cell: str, last: bool) -> str:
    """What is wrong with a cell that is not a number.

    Args:
        last: whether it is the last of its row.
    """
    if not cell:
        return f"the cell is blank{' (the row ends in a separator)' if last else ''}"
    decimal = "; decimals have a point, and thousands no separator" if re.fullmatch(r"[+-]?\d+,\d+(e[+-]?\d+)?", cell, re.IGNORECASE) else ""
    if ";" in cell:
        decimal = "; commas separate the columns, and decimals have a point"
    minus = f"; its minus sign is U+{ord(cell[0]):04X}, not that of ASCII" if cell[0] in "\N{MINUS SIGN}\N{EN DASH}\N{EM DASH}" else ""
    return f"{cell!r} is not a number{decimal}{minus}"


def _is_header(cells: Sequence[str], ports: Sequence[Port], name: str, columns: Sequence[int]) -> bool:
    """Whether the first row names the columns: none of its cells is a number. Some of each is an error, for one of the two is not meant.

    Args:
        ports: the inputs of numbers.
        columns: where they stand.
    """
    logical = all(port.dtype == "bool" for port in ports)
    numeric = [_number(cells[column]) is not None or (logical and cells[column].strip().lower() in _LOGICAL) for column in columns]
    if not any(numeric):
        if not any(cell.strip() for cell in cells):
            raise InputError(f"{name}, row 1, column 1: the cell is blank")
        return True
    if len(cells) >= COUNTED and [cell.strip() for cell in cells] == [str(number) for number in range(len(cells))]:
        raise InputError(f"{name}, row 1 counts its columns, 0 to {len(cells) - 1}; say --header if these are names, or --no-header if they are data")
    if not all(numeric):
        column = columns[numeric.index(False)]
        what = _no_number(cells[column].strip(), column == len(cells) - 1)
        raise InputError(f"{name}, row 1, column {column + 1}: {what} (where row 1 names the columns, say --header)")
    return False


def _names_columns(cells: Sequence[str], ports: Sequence[Port], name: str, hint: str) -> bool:
    """Whether the first row names the columns, some of which are text: where it names inputs, or has no number where numbers belong."""
    if _named_columns(cells, ports, name) is not None:
        return True
    places = _columns(None, len(cells), ports, name, hint).places
    numbers = [port for port in ports if port.dtype != TEXT]
    if not numbers:
        raise InputError(f"{name}, row 1 is all text, and names no input: say --header if it names the columns, or --no-header if it is data")
    return _is_header(cells, numbers, name, sorted(column for port in numbers for column in np.arange(len(cells))[places[port.name][1]].tolist()))


def _columns(names: list[str] | None, width: int, ports: Sequence[Port], name: str, hint: str = "") -> _Columns:
    """Which columns belong to which input.

    Args:
        hint: what to add to the message where the columns are too few.

    Raises:
        InputError: the columns are too few, too many, or named after inputs only in part.
    """
    by_name = _named_columns(names, ports, name) if names else None
    if by_name is not None:
        places: dict[str, tuple[tuple[int, ...], slice | list[int]]] = {}
        for port in ports:
            tail = complete(port.shape[1:], len(by_name[port.name]))
            if tail is None:
                raise InputError(f"{name}, row 1 names {len(by_name[port.name])} columns for the input {port.name}, which takes {shown(port)}")
            places[port.name] = tail, by_name[port.name]
        return _Columns(names, width, places)
    sizes = {port.name: math.prod(n for n in port.shape[1:] if n is not None) for port in ports}
    open_ports = [port for port in ports if None in port.shape[1:]]
    known = sum(sizes[port.name] for port in ports if port not in open_ports)
    if len(open_ports) > 1:
        raise InputError(f"{name}: which columns belong to {' and to '.join(p.name for p in open_ports)} is open; give a header or a .npz file")
    places, start = {}, 0
    for port in ports:
        own = width - known if port in open_ports else sizes[port.name]
        tail = complete(port.shape[1:], own)
        if tail is None:
            break
        places[port.name] = tail, slice(start, start + own)
        start += own
    if len(places) < len(ports) or start != width:
        wanted = " and ".join(f"the input {port.name} takes {shown(port)}" for port in ports)
        total = f", that is {known} columns" if not open_ports else ""
        hint = hint or ("; is one of them an index or a label?" if not open_ports and width == known + 1 and known > 1 else "")
        raise InputError(f"{name}, row 1 has {width} column{'s' * (width != 1)}, and {wanted}{total}{hint}")
    return _Columns(names, width, places)


def _named_columns(names: Sequence[str], ports: Sequence[Port], file: str) -> dict[str, list[int]] | None:
    """The columns of each input where the header names inputs (`x`, or `x[3]` for its fourth number), else None."""
    found: dict[str, list[tuple[int, int]]] = {port.name: [] for port in ports}
    foreign = []
    for column, text in enumerate(names):
        match = re.fullmatch(r"(.*?)(?:\[(\d+)\])?", text.strip(), re.DOTALL)
        base, index = (match[1], match[2]) if match else (text, None)
        if base in found:
            found[base].append((len(found[base]) if index is None else int(index), column))
        else:
            foreign.append(column)
    named = [key for key, places in found.items() if places]
    if not named or (len(ports) == 1 and foreign):
        return None
    if foreign:
        column = foreign[0]
        raise InputError(f"{file}, row 1, column {column + 1}: {names[column].strip()!r} names no input, as other columns do ({', '.join(named)})")
    if len(named) < len(ports):
        raise InputError(f"{file}, row 1 has no column for the input {next(port.name for port in ports if port.name not in named)}")
    for key, places in found.items():
        places.sort()
        if [index for index, _ in places] != list(range(len(places))):
            raise InputError(f"{file}, row 1: the columns of the input {key} are not numbered {key}[0] to {key}[{len(places) - 1}]")
    return {key: [column for _, column in places] for key, places in found.items()}


class _Reader:
    """Parses blocks of lines: all at once in C, and cell by cell only to find out which one is bad or to keep what float64 would round."""

    def __init__(self, name: str, columns: _Columns, ports: Sequence[Port], delimiter: str) -> None:
        self.rows = 0
        self._name = name
        self._columns = columns
        self._types = {port.name: dtype_of(port.dtype) for port in ports}
        self._holds_text = any(dtype.kind == "O" for dtype in self._types.values())
        self._delimiter = delimiter

    def block(self, lines: list[bytes], row: int, rest: Iterator[bytes]) -> Block | None:
        """The arrays of some lines, the first of which is line `row` of the file; None when all of them are blank and nothing follows.

        Where quoted text goes over the last of them, lines are added from `rest`.
        """
        table = None if self._holds_text else self._fast(lines)
        block = None if table is None else self._cast(table)
        if block is None:
            block = self._slow(lines, row, rest)
        if block is not None:
            self.rows += len(next(iter(block.values())))
        return block

    def _fast(self, lines: Sequence[bytes]) -> NDArray | None:
        data = b"".join(lines)
        # A carriage return within a line, and any letter beyond ASCII, has no place in a number.
        if not data.isascii() or data.count(b"\r") != data.count(b"\r\n") or not all(map(bytes.strip, lines)):
            return None
        try:
            table = np.loadtxt(data.decode("ascii").splitlines(), delimiter=self._delimiter, comments=None, quotechar='"', ndmin=2)
        except ValueError:
            return None
        # What overflows is infinite too: the slow way tells it from what was called so.
        return table if table.shape == (len(lines), self._columns.width) and not np.isinf(table).any() else None

    def _cast(self, table: NDArray) -> Block | None:
        block: Block = {}
        for key, (tail, place) in self._columns.places.items():
            part = table[:, place]
            if self._types[key].kind in "iu" and (np.abs(part) >= _EXACT).any():
                return None
            values, bad = converted(part, self._types[key])
            if bad is not None:
                return None
            block[key] = np.ascontiguousarray(values).reshape(len(table), *tail)
        return block

    def _slow(self, lines: list[bytes], row: int, rest: Iterator[bytes]) -> Block | None:
        columns = self._columns
        while lines and not lines[-1].strip() and not any(line.strip() for line in rest):
            lines.pop()
        if not lines:
            return None
        records = list(self._records(lines, row, rest))
        out = {key: np.empty((len(records), math.prod(tail)), self._types[key]) for key, (tail, _) in columns.places.items()}
        types = [np.dtype(np.float64)] * columns.width
        for key, (_, place) in columns.places.items():
            for column in np.arange(columns.width)[place].tolist():
                types[column] = self._types[key]
        for index, (line, cells) in enumerate(records):
            values = [self._parse(cell, types[column], line, column) for column, cell in enumerate(cells)]
            for key, (_, place) in columns.places.items():
                out[key][index] = values[place] if isinstance(place, slice) else [values[column] for column in place]
        return {key: array.reshape(len(records), *columns.places[key][0]) for key, array in out.items()}

    def _records(self, lines: list[bytes], row: int, rest: Iterator[bytes]) -> Iterator[tuple[int, list[str]]]:
        """The cells of each record, and the row that it begins in. Only text may go over several lines."""
        taken = 0

        def texts() -> Iterator[str]:
            nonlocal taken
            while True:
                if taken == len(lines):
                    lines.extend(itertools.islice(rest, 1))
                if taken == len(lines):
                    return
                taken += 1
                yield _decoded(lines[taken - 1], self._name, row + taken - 1)

        text = texts()
        while taken < len(lines):
            start = row + taken
            yield start, self._cells(next(text), text if self._holds_text else iter(()), start)

    def _cells(self, line: str, further: Iterator[str], row: int) -> list[str]:
        text = line.rstrip("\r\n")
        width = self._columns.width
        if not text.strip():
            raise InputError(f"{self._name}, row {row} is blank")
        cells = text.split(self._delimiter)
        if '"' in text:
            import csv

            try:
                cells = next(csv.reader(itertools.chain([line], further), delimiter=self._delimiter, strict=True))
            except csv.Error as error:
                raise InputError(f"{self._name}, row {row}: {_quoting(error)}") from error
        if len(cells) != width and text.lstrip().startswith("#"):
            raise InputError(f"{self._name}, row {row} begins with # as a comment does; take comments out")
        if len(cells) < width:
            raise InputError(f"{self._name}, row {row} is short: {self._columns.called(len(cells))} is missing, of {width}")
        if len(cells) > width:
            raise InputError(f"{self._name}, row {row} is long: it has {len(cells)} columns instead of {width}")
        return cells

    def _parse(self, cell: str, dtype: np.dtype[Any], row: int, column: int) -> Any:
        if dtype.kind == "O":
            return cell.encode("utf-8")
        text = cell.strip()
        value: Any = _number(text)
        if value is None and dtype.kind == "b":
            value = _LOGICAL.get(text.lower())
        why = None
        if value is None:
            why = _no_number(text, column == self._columns.width - 1)
        elif dtype.kind == "f":
            value = float(text)
            with np.errstate(over="ignore"):
                if np.isinf(np.float64(value).astype(dtype)) and text.lstrip("+-").lower() not in ("inf", "infinity"):
                    why = f"{text} is too large for {dtype}"
        elif dtype.kind in "iu":
            limits = np.iinfo(dtype)
            if isinstance(value, float) and not value.is_integer():
                why = f"{text} is not an integer, and {dtype} is what the input takes"
            elif not limits.min <= value <= limits.max:
                why = f"{text} does not fit {dtype}"
            else:
                value = int(value)
        elif dtype.kind == "b" and value not in (0, 1):
            why = f"{text} is neither 0 nor 1, and the input takes bool"
        if why is not None:
            raise InputError(f"{self._name}, row {row}, {self._columns.called(column)}: {why}")
        return value


_LOGICAL: Mapping[str, bool] = {"true": True, "false": False}


def _number(text: str) -> int | float | None:
    """An int where the text is one (of any size), else a float, or None where it is no number. Python's `1_000` and non-Latin digits are none."""
    if not text.isascii() or "_" in text:
        return None
    with suppress(ValueError):
        return int(text)
    with suppress(ValueError):
        return float(text)
    return None


def converted(values: NDArray, dtype: np.dtype[Any]) -> tuple[NDArray, int | None]:
    """The values in another dtype, and the flat index of the first that has no such value, or None.

    Rounding to a narrower float is fine; becoming infinite by it, losing a fraction or leaving an integer's range is not.
    """
    if dtype.kind == "O":
        return encoded(values)
    if values.dtype == dtype:
        return np.asarray(values, dtype, order="C"), None
    if dtype.kind == "f" and values.dtype.kind != "f":
        return values.astype(dtype, order="C"), None
    with np.errstate(over="ignore", invalid="ignore"):
        out = values.astype(dtype, order="C")
        if dtype.kind == "f":
            bad = np.isinf(out) & ~np.isinf(values)
        elif dtype.kind == "b":
            bad = (values != 0) & (values != 1)
        else:
            low, high = (0, 1) if values.dtype.kind == "b" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
            if values.dtype.kind == "f":
                # The largest integers are no floats: the bounds are a power of two, exact, and excluded above.
                wide = values.astype(np.float64)
                bad = ~((wide >= float(low)) & (wide < float(high + 1)) & (np.floor(wide) == wide))
            else:
                own = np.iinfo(values.dtype) if values.dtype.kind != "b" else None
                bad = np.zeros(values.shape, bool)
                if own is not None and own.min < low:
                    bad |= values < low
                if own is not None and own.max > high:
                    bad |= values > high
    return out, int(np.argmax(bad)) if bad.any() else None


def complete(shape: Sequence[int | None], size: int) -> tuple[int, ...] | None:
    """A shape of so many elements, its one unknown dimension filled in; None where that cannot be."""
    unknown = [axis for axis, n in enumerate(shape) if n is None]
    known = math.prod(n for n in shape if n is not None)
    if len(unknown) > 1 or (unknown and (size == 0 or known == 0 or size % known)) or (not unknown and size != known):
        return None
    return tuple(size // known if n is None else n for n in shape)


def shown(port: Port) -> str:
    """A port's shape for a message."""
    return f"[{', '.join('any' if n is None else str(n) for n in port.shape)}]"
