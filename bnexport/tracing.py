"""Every value of a network on the way from its input to its output: unfolded and in float64 from a checkpoint, as it was folded from a bundle.

This is what shows where someone's own numbers part from the network's.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bnexport.batchnorms import BatchNorm, batch_norms
from bnexport.errors import InputError, UsageError
from bnexport.options import Options
from bnexport.program import InMemory
from bnexport.runner import Model

NDArray = np.ndarray[Any, Any]

SUFFIXES = (".npz", ".h5", ".hdf5")


@dataclass(frozen=True, slots=True)
class Network:
    """A network that can be traced.

    Attributes:
        path: the file it came from.
        model: which evaluates it; of a checkpoint in float64 and with nothing folded.
        norms: the batch norms, none of which a bundle has any more as such.
        unfolded: whether it was read from a checkpoint.
    """

    path: str
    model: Model
    norms: tuple[BatchNorm, ...]
    unfolded: bool


def open_network(path: str | Path, options: Options | None = None) -> Network:
    """The network of a bundle, or of a checkpoint by any of its files.

    Raises:
        BnexportError: it cannot be read, or not be evaluated.
        UsageError: options for a bundle, about which everything has been decided.
    """
    from bnexport.formats import is_bundle, read_bundle

    if is_bundle(path):
        if options is not None and options != Options():
            raise UsageError(f"{path} is a bundle, in which everything is decided; options of the conversion are for a checkpoint")
        return Network(str(path), Model(read_bundle(path), str(path)), (), False)
    from bnexport.checkpoint import Checkpoint, locate
    from bnexport.conversion import to_unfolded

    program = to_unfolded(path, options)
    with Checkpoint(locate(path)) as checkpoint:
        return Network(str(path), Model(program, str(path)), tuple(batch_norms(program, checkpoint)), True)


def evaluate(model: Model, feeds: Mapping[str, NDArray]) -> dict[str, NDArray]:
    """Every tensor of a network by its name, as `Model.trace` gives it, also for another number of rows than the network was built for.

    Raises:
        InputError, IncompleteBundle: as `Model.trace` does.
    """
    batch = model.conversion.get("batch")
    rows = {len(value) for value in feeds.values() if value.ndim}
    if batch is None or rows == {batch} or len(rows) != 1:
        return _traced(model, feeds)
    (count,) = rows
    parts = []
    for start in range(0, count, batch):
        short = max(0, start + batch - count)
        filled = {name: np.concatenate([value[start : start + batch], np.repeat(value[-1:], short, axis=0)]) for name, value in feeds.items()}
        parts.append(
            {name: value[: batch - short] if short and _is_by_row(value, batch) else value for name, value in _traced(model, filled).items()}
        )
    return {name: np.concatenate([part[name] for part in parts]) if value.ndim else value for name, value in parts[0].items()}


def _traced(model: Model, feeds: Mapping[str, NDArray]) -> dict[str, NDArray]:
    """Without the further results of a FusedBatchNorm, which has none at inference."""
    return {name: value for name, value in model.trace(feeds).items() if value is not None}


def _is_by_row(value: NDArray, batch: int) -> bool:
    return bool(value.ndim) and len(value) == batch


# ---- the values of batch norms


@dataclass(frozen=True, slots=True)
class NormValues:
    """One batch norm at one row and one unit, in the words that people ask in: after = scale·(before − mean)/√(var + epsilon) + offset."""

    name: str
    row: int
    unit: int
    before: float
    mean: float
    variance: float
    offset: float
    scale: float
    epsilon: float
    after: float


def norm_values(
    network: Network, values: Mapping[str, NDArray], rows: Sequence[int], units: Sequence[int], place: Sequence[int] = ()
) -> list[NormValues]:
    """What goes into each batch norm and what comes out, for each of `rows` and `units`; a batch norm without one of the units is left out for it.

    Args:
        values: of `evaluate`.
        rows: the examples.
        units: the channels.
        place: where in an image or a sequence, one number for each of its dimensions; the first place by default.

    Raises:
        UsageError: a unit that no batch norm has, or a place that is not in an image.
        InputError: a row that is not there.
    """
    for unit in units:
        if network.norms and all(unit >= norm.units for norm in network.norms):
            widest = max(norm.units for norm in network.norms)
            raise UsageError(f"--unit {unit}: no batch norm of {network.path} has it; the widest has the units 0 to {widest - 1}")
    if place and network.norms and not any(_places(norm, values[norm.before].shape) for norm in network.norms):
        raise UsageError(f"--place {','.join(map(str, place))}: no batch norm of {network.path} stands on images or sequences; leave it out")
    return [_norm_values(norm, values, row, unit, place) for norm in network.norms for row in rows for unit in units if unit < norm.units]


def _norm_values(norm: BatchNorm, values: Mapping[str, NDArray], row: int, unit: int, place: Sequence[int]) -> NormValues:
    before, after = values[norm.before], values[norm.after]
    index = _index(norm, before.shape, row, unit, place)
    flat = unit if norm.units > 1 else 0
    mean, variance, beta, gamma = (float(numbers.reshape(-1)[flat]) for numbers in (norm.mean, norm.variance, norm.beta, norm.gamma))
    return NormValues(norm.name, row, unit, float(before[index]), mean, variance, beta, gamma, norm.epsilon, float(after[index]))


def _index(norm: BatchNorm, shape: tuple[int, ...], row: int, unit: int, place: Sequence[int]) -> tuple[int, ...]:
    check_row(row, shape[0])
    if norm.axis is None:  # numbers for each place: a unit is one of them, row-major
        tail = shape[len(shape) - norm.mean.ndim :]
        inner = np.unravel_index(unit, tail)
        return (row, *(0,) * (len(shape) - 1 - len(tail)), *map(int, inner))
    sizes = _places(norm, shape)
    where = place or [0] * len(sizes)
    if sizes and (len(where) != len(sizes) or any(not 0 <= at < size for at, size in zip(where, sizes, strict=True))):
        raise UsageError(f"--place {','.join(map(str, place))}: the batch norm {norm.name} has places of {', '.join(map(str, sizes))}")
    index = [row, *where[: len(sizes)]]
    index.insert(len(shape) + norm.axis, unit)
    return tuple(index)


def _places(norm: BatchNorm, shape: tuple[int, ...]) -> list[int]:
    """The sizes of the image or sequence that a batch norm stands on: of all dimensions but the rows and the channels."""
    return [] if norm.axis is None else [size for axis, size in enumerate(shape) if axis not in (0, len(shape) + norm.axis)]


def check_row(row: int, count: int) -> None:
    """
    Raises:
        InputError: there is no such row.
    """
    if not 0 <= row < count:
        raise InputError(f"--row {row}: the input has the rows 0 to {count - 1}")


# ---- the layers


@dataclass(frozen=True, slots=True)
class LayerValues:
    """What one layer gives for one row: its first numbers (row-major), and the range of all of them."""

    name: str
    op: str
    activation: str | None
    shape: tuple[int, ...]
    row: int
    first: tuple[float, ...]
    least: float
    mean: float
    most: float


def layer_values(model: Model, values: Mapping[str, NDArray], rows: Sequence[int], count: int = 4) -> list[LayerValues]:
    """The results of each layer for each of `rows`; of a layer whose result does not depend on the row, once; of one whose result is text, none.

    Raises:
        InputError: a row that is not there.
    """
    batch = max((len(values[port.tensor]) for port in model.inputs if values[port.tensor].ndim), default=1)
    found = []
    for row in rows:
        check_row(row, batch)
        for layer in model.layers:
            value = values[layer.name]
            if value.dtype.kind == "O":
                continue
            by_row = value.ndim > 0 and len(value) == batch
            part = np.asarray(value[row] if by_row else value, np.float64).reshape(-1)
            least, mean, most = (float(f(part)) for f in (np.min, np.mean, np.max)) if part.size else (math.nan,) * 3
            shape = value.shape[1:] if by_row else value.shape
            found.append(LayerValues(layer.name, layer.op, layer.activation, shape, row, tuple(part[:count].tolist()), least, mean, most))
    return found


# ---- files


def write_trace(path: str | Path, values: Mapping[str, NDArray]) -> None:
    """Writes tensors whole, each an array under its name, as .npz or .h5 by the suffix; `safe_names` says what becomes of a name that no path can be.

    Raises:
        UsageError: another suffix, or a place that cannot be written.
    """
    from bnexport.formats.writing import replacing

    path = Path(path)
    check_suffix(path)
    values = {name: value.astype("S") if value.dtype.kind == "O" else value for name, value in values.items()}
    names = safe_names(values, nested=path.suffix.lower() != ".npz")
    with replacing(path, UsageError) as temporary:
        if path.suffix.lower() == ".npz":
            from bnexport.formats.archive import ZipWriter

            with temporary.open("r+b") as file:
                archive = ZipWriter(file)
                for name, value in values.items():
                    archive.add_array(names[name], InMemory(value))
                archive.close()
        else:
            from bnexport.formats.hdf5 import written_file

            with written_file(temporary, "w") as datasets:
                for name, value in values.items():
                    datasets[names[name]] = value


def check_suffix(path: str | Path) -> None:
    """
    Raises:
        UsageError: a trace is not written to files of this suffix.
    """
    suffix = Path(path).suffix
    if suffix.lower() not in SUFFIXES:
        raise UsageError(f"{path} has the suffix {suffix or '(none)'}; a trace is written as .npz or .h5")


def safe_names(names: Iterable[str], *, nested: bool) -> dict[str, str]:
    """For each tensor the name of its array in a file: itself, with what a path cannot have written as in a URL.

    Args:
        nested: whether names are paths through groups, as in HDF5. A tensor may be called as the scope of another (`fc1` and `fc1/Relu`), and would
            have to be a dataset and a group at once: the slashes of the other are escaped then, `fc1%2FRelu`.
    """
    from urllib.parse import quote

    names = list(names)
    known = set(names)
    safe = {}
    for name in names:
        parts = name.split("/")
        inside = nested and any("/".join(parts[:length]) in known for length in range(1, len(parts)))
        odd = any(part in ("", ".", "..") for part in parts)
        safe[name] = quote(name, safe="" if inside or odd else "/").replace(".", "%2E" if odd else ".")
    return safe
