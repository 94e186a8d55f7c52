"""Evaluating a bundle with NumPy.

    model = bnexport.load("out.npz")
    scores = model.predict(rows)

A program is compiled once into a list of steps over numbered slots. Large batches go through it in tiles of rows, so that memory stays bounded and
what one layer writes is still in the cache when the next one reads it. Nothing here imports anything but NumPy, and h5py for a bundle that is HDF5.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from bnexport import chain, text
from bnexport.errors import BundleError, GraphError, IncompleteBundle, InputError, UnsupportedOps
from bnexport.formats import read_bundle
from bnexport.kernels import OPS
from bnexport.kernels.table import NDArray, ieee
from bnexport.program import LINEAR, Layer, Port, Program, in_short
from bnexport.steps import Step, compile_layer, makes_new_memory

TILE_BYTES = 32 << 20
"""What the widest tensor of a tile may take: matrix products gain from more rows up to some thousands, and memory stays bounded."""
MIN_TILE_ROWS = 256
"""A matrix product of fewer rows is slower per row than one of more."""

_IMPOSSIBLE = (GraphError, ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError)
"""What a kernel raises for operands and attributes that no network of TensorFlow's has."""


def load(path: str | Path) -> "Model":
    """Reads a bundle and makes it ready to run.

    Raises:
        CorruptBundle: the file is not what was written.
        BundleError: there is no such file, or it is not a bundle.
    """
    return Model(read_bundle(path), str(path))


class Model:
    """A network that can be evaluated.

    Attributes:
        inputs, outputs: its ports (name, shape with None for any size, dtype).
        layers: its layers, with their arrays: `np.asarray(model.layers[0].arrays["kernel"])`.
        conversion: how it was made.
        row_by_row: whether each row of a batch is surely computed by itself, so that a batch may be given in parts.
    """

    def __init__(self, program: Program, source: str = "the network"):
        self.source = source
        self.inputs: tuple[Port, ...] = tuple(program.inputs)
        self.outputs: tuple[Port, ...] = tuple(program.outputs)
        self.layers: tuple[Layer, ...] = tuple(program.layers)
        self.conversion: Mapping[str, Any] = program.conversion
        self._incomplete = program.conversion.get("incomplete")
        self._batch: int | None = program.conversion.get("batch")
        self._steps: list[tuple[Step, Layer]] = []
        self._slots: dict[str, int] = {}
        self._chain: chain.Chain | None = None
        self._dtypes = [text.dtype_of(port.dtype) for port in self.inputs]
        if not self._incomplete:
            self._compile()
            self._chain = chain.build(self.layers, self.inputs, self.outputs) if self._batch is None else None
        self._rows_alone = program.conversion.get("rows_alone") is True
        self.row_by_row = self._batch is None and self._rows_alone
        new = {layer.name for layer in self.layers if makes_new_memory(layer)}
        self._own = [port.tensor in new for port in self.outputs]  # others may be views of an input or of a constant
        self._row_bytes = 0

    def __repr__(self) -> str:
        return f"<bnexport.Model {self.source}: {in_short(self.inputs, self.layers, self.outputs)}>"

    def __reduce__(self) -> tuple[Any, ...]:
        """What is compiled holds functions and memory of threads: a copy, also one in another process, compiles anew."""
        return Model, (Program(list(self.inputs), list(self.layers), list(self.outputs), dict(self.conversion)), self.source)

    # ---- predicting

    def predict(self, data: "NDArray | Mapping[str, NDArray] | Sequence[Any]") -> "NDArray | dict[str, NDArray]":
        """The network's outputs.

        Args:
            data: an array for a network of one input, or a mapping from the names of inputs (with or without `:0`) to arrays; of the shapes and
                dtypes of `inputs`, where other numbers that fit without loss are taken too. Text is lists or arrays of `str`, or of `bytes`.

        Returns:
            An array, or a dict by name where there are several outputs.

        Raises:
            InputError: an input is missing, or of another shape or dtype.
            IncompleteBundle: the bundle does not say how to evaluate it.
        """
        if self._incomplete:
            raise IncompleteBundle(f"{self.source}: {self._incomplete}")
        if self._chain is not None:
            if type(data) is np.ndarray and data.dtype == self._dtypes[0] and data.ndim == 2 and data.shape[1] == self.inputs[0].shape[1]:
                return self._chain.run(data)
            return self._chain.run(self._checked(data)[0])
        feeds = self._checked(data)
        with ieee(), self._explained(feeds):
            results = self._run_rows(feeds)
        results = [value if own else value.copy() for own, value in zip(self._own, results, strict=True)]
        if len(self.outputs) == 1:
            return results[0]
        return {port.name: value for port, value in zip(self.outputs, results, strict=True)}

    def trace(self, data: "NDArray | Mapping[str, NDArray] | Sequence[Any]") -> dict[str, NDArray]:
        """Every tensor of the network by name, layer after layer, for the given data.

        Raises:
            InputError, IncompleteBundle: as `predict` does.
        """
        if self._incomplete:
            raise IncompleteBundle(f"{self.source}: {self._incomplete}")
        values: list[Any] = [None] * len(self._slots)
        feeds = self._checked(data)
        for port, value in zip(self.inputs, feeds, strict=True):
            values[self._slots[port.tensor]] = value
        with ieee(), self._explained(feeds):
            self._take(self._compiled(keep=True), values)
        return {name: values[slot] for name, slot in self._slots.items()}

    def _checked(self, data: Any) -> list[NDArray]:
        if not isinstance(data, Mapping):
            if len(self.inputs) != 1:
                raise InputError(
                    f"{self.source} has {len(self.inputs)} inputs ({', '.join(p.name for p in self.inputs)}): "
                    "give a mapping from their names to arrays"
                )
            data = {self.inputs[0].name: data}
        known = {p.name for p in self.inputs}
        given: dict[str, Any] = {}
        for key, value in data.items():
            name = str(key).removesuffix(":0")
            if name not in known:
                raise InputError(f"{self.source} has no input {name!r}; its inputs are {', '.join(sorted(known))}")
            if name in given:
                raise InputError(f"{self.source}: the input {name!r} is given twice, as {name} and as {name}:0")
            given[name] = value
        feeds = []
        for port in self.inputs:
            if port.name not in given:
                raise InputError(f"{self.source}: the input {port.name!r} is missing; {_expected(port)}")
            feeds.append(_fitted(self.source, port, given[port.name]))
        if (self.row_by_row or self._batch is not None) and (rows := self._different_rows(feeds)):
            raise InputError(f"{self.source}: the inputs have different numbers of rows: {rows}")
        return feeds

    def _different_rows(self, feeds: list[NDArray]) -> str:
        """The inputs' numbers of rows where they differ: of a graph's nodes and of its edges, they may."""
        rows = {port.name: value.shape[0] for port, value in zip(self.inputs, feeds, strict=True) if port.shape and port.shape[0] is None}
        return ", ".join(f"{name} has {count}" for name, count in rows.items()) if len(set(rows.values())) > 1 else ""

    @contextmanager
    def _explained(self, feeds: list[NDArray]) -> Iterator[None]:
        """Says of arrays that do not fit together, of inputs with different numbers of rows, that this is why.

        Raises:
            InputError: NumPy refused to combine arrays.
        """
        try:
            yield
        except BundleError as cause:
            if not (rows := self._different_rows(feeds)):
                raise
            raise InputError(f"{self.source}: the inputs have different numbers of rows: {rows}; {cause}") from cause

    def _run_rows(self, feeds: list[NDArray]) -> list[NDArray]:
        batched = [bool(p.shape) and p.shape[0] is None for p in self.inputs]
        rows = next((f.shape[0] for f, b in zip(feeds, batched, strict=True) if b), 0)
        if self._batch is not None and any(batched):
            return self._run_fixed(feeds, batched, rows, self._batch)
        if not self.row_by_row or not any(batched):
            return self._run(feeds)
        tile = self._tile_rows(feeds, batched)
        if rows <= tile:
            return self._run(feeds)
        results: list[NDArray] = []
        for start in range(0, rows, tile):
            stop = min(rows, start + tile)
            part = self._run([f[start:stop] if b else f for f, b in zip(feeds, batched, strict=True)])
            if not results:
                results = [np.empty((rows * p.shape[0] // (stop - start), *p.shape[1:]), p.dtype) for p in part]
            for whole, piece in zip(results, part, strict=True):
                ratio = len(piece) // (stop - start)
                whole[start * ratio : stop * ratio] = piece
        return results

    def _run_fixed(self, feeds: list[NDArray], batched: list[bool], rows: int, batch: int) -> list[NDArray]:
        """A network that was built for one batch size: the last batch is filled up with copies of its last row, whose results are dropped."""
        if rows == 0:
            raise InputError(f"{self.source} was built for batches of {batch} rows and has none to run on")
        if rows % batch and not self._rows_alone:
            raise InputError(
                f"{self.source} was built for batches of {batch} rows, whose scores may depend on each other: give {batch} rows, not {rows}"
            )
        parts = []
        for start in range(0, rows, batch):
            short = max(0, start + batch - rows)
            filled = [
                np.concatenate([f[start : start + batch], np.repeat(f[-1:], short, axis=0)]) if b else f for f, b in zip(feeds, batched, strict=True)
            ]
            # Where rows were added, each of the batch's has so many of a result: one, or the steps of a sequence.
            parts.append([r[: len(r) // batch * (batch - short)] if short and r.ndim else r for r in self._run(filled)])
        return [np.concatenate(column) if column[0].ndim else column[-1] for column in zip(*parts, strict=True)]

    def _tile_rows(self, feeds: list[NDArray], batched: list[bool]) -> int:
        """How many rows go through the network at a time: measured on a few of them, once."""
        if not self._row_bytes:
            few = min(4, *(f.shape[0] for f, b in zip(feeds, batched, strict=True) if b))
            if few == 0:
                return 1
            values: list[Any] = [None] * len(self._slots)
            for port, value, b in zip(self.inputs, feeds, batched, strict=True):
                values[self._slots[port.tensor]] = value[:few] if b else value
            widest = 0
            self._take(self._compiled(keep=True), values)
            widest = max(v.nbytes for v in values if v is not None)
            self._row_bytes = max(1, widest // few)
        return max(MIN_TILE_ROWS if self._row_bytes < TILE_BYTES // MIN_TILE_ROWS * 8 else 1, TILE_BYTES // self._row_bytes)

    def _run(self, feeds: list[NDArray]) -> list[NDArray]:
        values: list[Any] = [None] * len(self._slots)
        for number, value in enumerate(feeds):
            values[number] = value
        self._take(self._steps, values)
        return [values[self._slots[port.tensor]] for port in self.outputs]

    def _take(self, steps: "list[tuple[Step, Layer]]", values: list[Any]) -> None:
        layer = None
        try:
            for step, layer in steps:  # noqa: B007  (told where one fails)
                step(values)
        except _IMPOSSIBLE as error:
            assert layer is not None
            raise self._cannot(layer, error) from error

    def _cannot(self, layer: Layer, error: Exception) -> BundleError:
        """Kernels rely on what TensorFlow has checked: a bundle by other hands, or data of a size that the graph leaves open, may still not fit."""
        said = str(error) if isinstance(error, GraphError) else f"{type(error).__name__}: {error}".splitlines()[0]
        return BundleError(f"{self.source}: the layer {layer.name!r} ({layer.op}) cannot be computed: {said}")

    # ---- compiling

    def _compile(self) -> None:
        for port in self.inputs:
            self._slots[port.tensor] = len(self._slots)
        needed = {layer.op for layer in self.layers if layer.op != "ScaleShift" and layer.op not in LINEAR}
        needed.update(layer.activation for layer in self.layers if layer.activation is not None)
        missing = sorted(name for name in needed if name not in OPS)
        if missing:
            raise UnsupportedOps(
                f"{self.source} uses operators that this version of bnexport does not have: {', '.join(missing)}; install a newer one"
            )
        for layer in self.layers:
            for tensor in layer.makes:
                self._slots[tensor] = len(self._slots)
        self._steps = self._compiled(keep=False)

    def _compiled(self, *, keep: bool) -> list[tuple[Step, Layer]]:
        """The steps. Unless all tensors are to be kept, results are written over operands that nobody needs any more, and dead ones are dropped."""
        last: dict[str, int] = {}
        for number, layer in enumerate(self.layers):
            last.update(dict.fromkeys(layer.takes, number))
        for port in self.outputs:
            last[port.tensor] = len(self.layers)
        fresh: set[str] = set()  # tensors in memory of their own, which may be written over after their last use
        steps: list[tuple[Step, Layer]] = []
        for number, layer in enumerate(self.layers):
            dying = [] if keep else [t for t in dict.fromkeys(layer.takes) if last[t] == number]
            first = layer.inputs[0] if layer.inputs else None
            over = isinstance(first, str) and first in dying and first in fresh and layer.inputs.count(first) == 1
            try:
                steps.append((compile_layer(layer, self._slots, over), layer))
            except _IMPOSSIBLE as error:
                raise self._cannot(layer, error) from error
            if makes_new_memory(layer):
                fresh.add(layer.name)
            else:
                fresh.difference_update(layer.takes)  # a view: neither may be written over while the other lives
            if dying:
                steps.append((_dropping([self._slots[t] for t in dying]), layer))
        return steps


def _expected(port: Port) -> str:
    sizes = ", ".join("any" if s is None else str(s) for s in port.shape)
    return f"it is {port.dtype} of shape ({sizes})"


def _fits(port: Port, array: NDArray) -> bool:
    """Whether an array is just what an input takes."""
    if array.dtype != text.dtype_of(port.dtype) or array.ndim != len(port.shape):
        return False
    return all(wanted is None or wanted == size for wanted, size in zip(port.shape, array.shape, strict=True))


def _fitted(source: str, port: Port, value: Any) -> NDArray:
    """An input as an array of the port's dtype and shape."""
    where = f"{source}: the input {port.name!r}"
    try:
        array = np.asarray(value, object if port.dtype == text.TEXT and not isinstance(value, np.ndarray) else None)
    except (ValueError, TypeError, RuntimeError) as error:  # the latter are a tensor's that is on a GPU, or that has gradients
        uneven = "inhomogeneous" in str(error)
        why = "was given as rows of different lengths" if uneven else f"cannot be made an array ({' '.join(str(error).split())})"
        raise InputError(f"{where} {why}; {_expected(port)}") from error
    if isinstance(value, np.ndarray) and type(value) is not np.ndarray and np.ma.is_masked(value):
        raise InputError(f"{where} has masked elements; say what stands in their places, as with array.filled(0)")
    wanted = text.dtype_of(port.dtype)
    if wanted.kind == "O":
        array = _texts(where, port, array)
    elif array.dtype != wanted:
        if array.dtype.kind not in "fiub" or (wanted.kind in "iu" and array.dtype.kind == "f") or (wanted.kind == "b" and array.dtype.kind != "b"):
            raise InputError(f"{where} was given as {array.dtype}{_object_of(array)}; {_expected(port)}")
        given = array
        with np.errstate(over="ignore"):
            array = given.astype(wanted)
        lost = array != given if wanted.kind in "iu" else np.isinf(array) & np.isfinite(given) if wanted.kind == "f" else None
        if lost is not None and lost.any():
            raise InputError(f"{where} was given {given[lost].flat[0]}, which is no {wanted}; {_expected(port)}")
    if not _fits(port, array):
        one = "; a single row is given as array[None]" if _fits(port, array[None]) else ""
        raise InputError(f"{where} was given the shape {array.shape}; {_expected(port)}{one}")
    return array


def _texts(where: str, port: Port, given: NDArray) -> NDArray:
    array, bad = text.encoded(given)
    if bad is not None:
        element = given.reshape(-1)[bad]
        at = f" at {[int(i) for i in np.unravel_index(bad, given.shape)]}" if given.ndim else ""
        raise InputError(f"{where} was given {element!r:.40} of type {type(element).__name__}{at}, which is no text; {_expected(port)}")
    return array


def _object_of(array: NDArray) -> str:
    """Of an array of objects, the first that is no number, or that all are; for a message."""
    if array.dtype != object:
        return ""
    for index, value in np.ndenumerate(array):
        if not isinstance(value, (bool, int, float, np.number, np.bool_)):
            at = f" at {list(index)}" if index else ""
            return f", because it has {value!r:.40} of type {type(value).__name__}{at}"
    return ", though all of it is numbers: give array.astype(float)"


def _dropping(numbers: list[int]) -> Step:
    """Lets go of tensors that nobody needs any more."""

    def drop(values: list[Any]) -> None:
        for number in numbers:
            values[number] = None

    return drop
