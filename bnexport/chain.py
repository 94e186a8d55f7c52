"""Small dense networks, evaluated column by column.

For a network such as 8-16-12-3 the time goes into calling NumPy, not into arithmetic. Here a chain of small dense layers runs with two calls a
layer: biases are a last column of the kernels, against a row of ones that is always there. Rows of the batch are columns of the matrices, so that
everything after a product runs over long contiguous memory. Memory is reused from call to call, each thread having its own. Many rows go through
in groups of tiles, and a second thread takes half of very many. (Of fewer it would wait for the interpreter as long as it worked.)
"""

import math
import os
import threading
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from bnexport.kernels import OPS
from bnexport.kernels.table import ieee
from bnexport.program import Layer, Port, cores, materialize
from bnexport.text import dtype_of

if TYPE_CHECKING:
    from concurrent.futures import Executor

NDArray = np.ndarray[Any, Any]

LARGEST_KERNEL = 4096
"""Elements of a kernel; in larger ones arithmetic outweighs the calls."""
TILE_PRODUCT = 260_000
"""Multiplications in a tile's largest product: OpenBLAS shares larger ones among threads of its own, which costs more than it gives here."""
TILES = 8
"""Tiles that go through the network together, in three-dimensional arrays, to share the cost of the calls."""
SHARED_GROUPS = 4
"""A second thread takes its half where that is at least so many groups of tiles; with fewer nothing is gained."""
_ALIASED = 256  # rows of a multiple of so many numbers begin at the same places of the cache, which then holds few of them:
_PADDING = 16  # such matrices get so many columns more, which nobody looks at
_MODEST = 80.0  # neither the exponential of a number that is not beyond this nor a sum of them over- or underflows
_NARROW = 8  # outputs up to which turning them into rows one by one takes a third of the time that it takes at once
_FEW = 24  # scores of which Python computes a softmax sooner than NumPy's five calls do


def build(layers: Sequence[Layer], inputs: Sequence[Port], outputs: Sequence[Port]) -> "Chain | None":
    """The chain that these layers are, or None where they are no chain of small dense layers of one dtype."""
    if len(inputs) != 1 or len(outputs) != 1 or not layers or outputs[0].tensor != layers[-1].name or len(inputs[0].shape) != 2:
        return None
    before, width = inputs[0].tensor, inputs[0].shape[1]
    for position, layer in enumerate(layers):
        softmax = layer.activation in ("Softmax", "LogSoftmax")
        elementwise = layer.activation is None or OPS[layer.activation].inplace
        if layer.op != "Dense" or layer.inputs != [before] or "bias" not in layer.arrays:
            return None
        if not (elementwise or softmax) or (softmax and position + 1 < len(layers)):
            return None
        kernel = layer.arrays["kernel"]
        if (
            kernel.dtype != dtype_of(inputs[0].dtype)
            or kernel.dtype.name not in ("float32", "float64")
            or kernel.shape[0] * kernel.shape[1] > LARGEST_KERNEL
            or kernel.shape[0] != width
            or layer.arrays["bias"].shape != kernel.shape[1:]
        ):
            return None
        before, width = layer.name, kernel.shape[1]
    return Chain(layers, dtype_of(inputs[0].dtype))


class Chain:
    """A compiled chain; `run` may be called from several threads at once."""

    def __init__(self, layers: Sequence[Layer], dtype: "np.dtype[Any]"):
        self._dtype = dtype
        self._kernels: list[NDArray] = []
        self._activations: list[Callable[[NDArray], Any] | None] = []
        for layer in layers:
            kernel, bias = materialize(layer.arrays["kernel"]), materialize(layer.arrays["bias"])
            self._kernels.append(np.ascontiguousarray(np.vstack([kernel, bias]).T))
            self._activations.append(_in_place(layer))
        self._relus = [layer.activation == "Relu" for layer in layers]
        self._final = self._activations[-1]
        # Silencing floating-point warnings takes as long as a layer of a few rows, and none of these raises any on modest numbers.
        self._quiet = all(layer.activation in (None, "Relu", "Softmax", "LogSoftmax") for layer in layers)
        self._last = np.ascontiguousarray(self._kernels[-1].T)
        largest = max(k.size for k in self._kernels)
        self.tile = max(64, min(1024, TILE_PRODUCT // largest))
        self._local = threading.local()
        self.width = self._kernels[-1].shape[0]

    def run(self, x: NDArray) -> NDArray:
        """The scores (rows, outputs) of `x` (rows, inputs), a new array."""
        rows = x.shape[0]
        if rows <= self.tile:
            return self._quietly(x, None)
        out = np.empty((rows, self.width), self._dtype)
        group = self.tile * TILES
        half = rows // 2 // group * group  # in whole groups, so that the scores are the same whoever computes them
        if half < SHARED_GROUPS * group or cores() == 1:
            self._run_groups(x, out)
            return out
        other = _helper(os.getpid()).submit(self._run_groups, x[:half], out[:half])
        self._run_groups(x[half:], out[half:])
        other.result()
        return out

    def _run_groups(self, x: NDArray, out: NDArray) -> None:
        rows = x.shape[0]
        group = self.tile * TILES
        for start in range(0, rows, group):
            stop = min(rows, start + group)
            whole = start + (stop - start) // self.tile * self.tile
            if whole > start:
                shape = (-1, self.tile)
                self._quietly(x[start:whole].reshape(*shape, x.shape[1]), out[start:whole].reshape(*shape, self.width))
            if stop > whole:
                self._quietly(x[whole:stop], out[whole:stop])

    def _quietly(self, x: NDArray, out: NDArray | None) -> NDArray:
        if self._quiet:
            return self._compute(x, out)
        with ieee():
            return self._compute(x, out)

    def _compute(self, x: NDArray, out: NDArray | None) -> NDArray:
        """The scores of one tile (rows, inputs), or of several (tiles, rows, inputs), in `out` or a new array."""
        try:
            memory: _Memory = self._local.memory
        except AttributeError:
            memory = self._reserve(x.shape)
        if memory.shape != x.shape:
            memory = self._reserve(x.shape)
        np.copyto(memory.data, x.T if x.ndim == 2 else x.swapaxes(-1, -2))
        source = memory.source
        for multiply, whole, result, activation in memory.hidden:
            multiply(source, result)
            if activation is not None:
                activation(result)
            source = whole
        if out is None and self._final is None:
            scores: NDArray = source.T[: len(x)].dot(self._last)
            return scores
        if out is None and self._final is _softmax and 0 < len(x) * self.width <= _FEW:
            return np.array([_softmax_of(row) for row in source.T.dot(self._last).tolist()], self._dtype)
        columns: NDArray = memory.last(source, memory.columns)
        if self._final is not None:
            self._final(columns)
        if out is None:
            if len(x) < _ALIASED:
                return columns[:, : len(x)].T.copy()
            out = np.empty((len(x), self.width), self._dtype)
        rows = x.shape[-2]
        if self.width <= _NARROW:
            for place in range(self.width):
                out[..., place] = columns[..., place, :rows]
        else:
            out[...] = columns[..., :rows].swapaxes(-1, -2)
        return out

    def _reserve(self, shape: tuple[int, ...]) -> "_Memory":
        """This thread's matrices for data of a shape, each with its row of ones."""
        *tiles, rows, _ = shape
        columns = rows + _PADDING if rows >= _ALIASED and rows % _ALIASED == 0 else rows
        source = np.ones((*tiles, self._kernels[0].shape[1], columns), self._dtype)
        wholes = [np.ones((*tiles, k.shape[0] + 1, columns), self._dtype) for k in self._kernels[:-1]]
        results = [whole[..., :-1, :] for whole in wholes]
        products = [_product(kernel, len(shape)) for kernel in self._kernels]
        activations = [
            _relu(result) if relu else activation for result, relu, activation in zip(results, self._relus, self._activations, strict=False)
        ]
        hidden = list(zip(products, wholes, results, activations, strict=False))
        scores = np.zeros((*tiles, self.width, columns), self._dtype)
        memory = self._local.memory = _Memory(shape, source, source[..., :-1, :rows], hidden, products[-1], scores)
        return memory


@cache
def _helper(process: int) -> "Executor":
    """The thread that takes half of the rows; a process that was forked, which has no other thread, makes one of its own."""
    from concurrent.futures import ThreadPoolExecutor

    return ThreadPoolExecutor(1, "bnexport-rows")


class _Memory(NamedTuple):
    """A thread's matrices for data of `shape`: `data` is the part of `source` that the data go into, transposed."""

    shape: tuple[int, ...]
    source: NDArray
    data: NDArray
    hidden: "list[tuple[Callable[..., Any], NDArray, NDArray, Callable[[NDArray], Any] | None]]"
    last: Callable[..., Any]
    columns: NDArray


def _product(kernel: NDArray, dimensions: int) -> Callable[..., Any]:
    """What multiplies a kernel with one matrix, for which `dot` is the shortest way, or with several."""
    return kernel.dot if dimensions == 2 else partial(np.matmul, kernel)


def _relu(result: NDArray) -> Callable[[NDArray], Any]:
    """Relu in place on matrices of the shape of `result`: NumPy has no vector instructions for the maximum with a scalar."""
    zeros = np.zeros(result.shape[-2:], result.dtype)
    return lambda y: np.maximum(y, zeros, out=y)


def _in_place(layer: Layer) -> Callable[[NDArray], Any] | None:
    """The activation of a layer on a matrix whose columns are rows of the batch."""
    if layer.activation is None:
        return None
    if layer.activation == "Softmax":
        return _softmax
    if layer.activation == "LogSoftmax":
        return _log_softmax
    compute, attrs = OPS[layer.activation].compute, dict(layer.activation_attrs)
    return lambda y: compute(attrs, y, out=y)


def _softmax_of(row: list[float]) -> list[float]:
    highest = max(row)
    powers = [math.exp(value - highest) for value in row]
    total = sum(powers)
    return [power / total for power in powers]


def _less_highest(y: NDArray) -> None:
    highest = np.maximum.reduce(y, 0) if y.ndim == 2 else np.maximum.reduce(y, axis=-2, keepdims=True)
    np.subtract(y, highest, y)


def _totals(y: NDArray) -> NDArray:
    """The sum of each column, in every row: by a product, which is the shortest way for matrices of a few rows."""
    ones = _ones(y.shape[-2], y.dtype)
    totals: NDArray = ones.dot(y) if y.ndim == 2 else np.matmul(ones, y)
    return totals


@cache
def _ones(rows: int, dtype: "np.dtype[Any]") -> NDArray:
    return np.ones((rows, rows), dtype)


def _is_modest(y: NDArray, *, few: bool) -> bool:
    """Whether all numbers are modest. Of a few that is so if their squares add up to little, which takes a single call."""
    if few:
        return bool(np.dot(y, y) <= _MODEST**2)
    return bool(np.minimum.reduce(y) >= -_MODEST and np.maximum.reduce(y) <= _MODEST)


def _softmax(y: NDArray) -> None:
    if not _is_modest(y.reshape(-1), few=y.ndim == 2):
        _less_highest(y)
    np.exp(y, y)
    np.divide(y, _totals(y), y)


def _log_softmax(y: NDArray) -> None:
    _less_highest(y)
    np.subtract(y, np.log(_totals(np.exp(y))), y)
