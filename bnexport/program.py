"""The dataclasses that everything meets at: a program is what a network computes, layer by layer.

The converter builds a `Program`, a format writes it, and the runner reads it back. Nothing here computes. Arrays may still be on disk: whatever
has a shape, a dtype and `readers()` can stand where an array is expected, so that a model larger than memory can be converted.
"""

import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Protocol, runtime_checkable

import numpy as np

PIECE_BYTES = 3 << 19
"""How much of an array is read, folded and written at a time: what a core's cache holds, and enough for Python's own time not to count. Where a file
takes twice as much at once, Linux looks for huge pages to keep it in, which can take as long as everything else."""

Read = Callable[[range, "np.ndarray[Any, Any]"], "np.ndarray[Any, Any]"]
"""Gives a range of an array's elements, row-major, as a one-dimensional array in the array's dtype.

The second argument is memory for that many elements, which the result may lie in. Until that memory is lent again, whoever asked may write over the
result, unless it is read-only.
"""


@runtime_checkable
class Array(Protocol):
    """An array that may not be in memory."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> "np.dtype[Any]": ...

    def readers(self, count: int) -> list[Read]:
        """A function for each of `count` threads. Together they are asked for every element, once, in ranges of any size and in any order.

        What can only be told of the whole, such as a checksum, is told when the last range is read.
        """
        ...


def parts(array: Array, first: int = 0) -> list[range]:
    """The elements of an array as consecutive ranges of about `PIECE_BYTES`, none of which is empty; `first` of them in one of their own."""
    size, step = math.prod(array.shape), max(1, PIECE_BYTES // max(1, array.dtype.itemsize))
    ends = sorted({0, *range(first, size, step), size})
    return [range(start, end) for start, end in pairwise(ends)]


def pieces(array: Array) -> Iterator["np.ndarray[Any, Any]"]:
    """The elements of an array in row-major order, in one-dimensional arrays of about `PIECE_BYTES`; each is valid until the next is asked for."""
    (read,) = array.readers(1)
    ranges = parts(array)
    buffer = np.empty(max(map(len, ranges), default=0), array.dtype)
    for part in ranges:
        yield read(part, buffer[: len(part)])


@dataclass(slots=True)
class InMemory:
    """An `Array` that is already there."""

    values: "np.ndarray[Any, Any]"

    def __repr__(self) -> str:
        return f"InMemory({self.dtype} {list(self.shape)})"

    @property
    def shape(self) -> tuple[int, ...]:
        shape: tuple[int, ...] = self.values.shape
        return shape

    @property
    def dtype(self) -> "np.dtype[Any]":
        dtype: np.dtype[Any] = self.values.dtype
        return dtype

    def __array__(self, dtype: "np.dtype[Any] | None" = None, copy: bool | None = None) -> "np.ndarray[Any, Any]":
        """The values, for `np.asarray`, which would make an array of one object otherwise."""
        return self.values.astype(self.dtype if dtype is None else dtype, copy=bool(copy))

    def readers(self, count: int) -> list[Read]:
        flat = np.ascontiguousarray(self.values).reshape(-1).view()
        flat.flags.writeable = False
        return [lambda part, _: flat[part.start : part.stop]] * count


def materialize(array: Array) -> "np.ndarray[Any, Any]":
    """All of an array, in memory, in its own dtype."""
    if isinstance(array, InMemory):
        return array.values
    out = np.empty(array.shape, array.dtype)
    flat = out.reshape(-1)
    (read,) = array.readers(1)
    for part in parts(array):
        into = flat[part.start : part.stop]
        if (piece := read(part, into)) is not into:
            into[...] = piece
    return out


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def take_name(taken: set[str], wanted: str) -> str:
    """The wanted name, or that with the first free number behind it; it is taken from then on."""
    name, number = wanted, 0
    while name in taken:
        number += 1
        name = f"{wanted}_{number}"
    taken.add(name)
    return name


@dataclass(slots=True)
class Port:
    """An input or an output of a network.

    `name` is the TensorFlow tensor's name without `:0`. `tensor` is the program's own name of it. `shape` has None where any size will do;
    a first dimension of None is the batch. `dtype` is NumPy's name, or `string` for text.
    """

    name: str
    tensor: str
    shape: tuple[int | None, ...]
    dtype: str


@dataclass(slots=True)
class Literal:
    """A small constant operand (an axis, a permutation, a target shape) that is kept in the manifest itself."""

    value: Any
    dtype: str


LINEAR = {
    "Dense": "MatMul",
    "Conv2D": "Conv2D",
    "Conv3D": "Conv3D",
    "DepthwiseConv2D": "DepthwiseConv2dNative",
    "Conv2DTranspose": "Conv2DBackpropInput",
    "Conv3DTranspose": "Conv3DBackpropInputV2",
}
"""The operations that own a kernel, and perhaps a bias, and the operator of TensorFlow that each of them is."""


@dataclass(slots=True)
class Layer:
    """One step of a program.

    `op` is `Dense`, `Conv2D`, `DepthwiseConv2D`, `Conv2DTranspose`, `Conv3D`, `Conv3DTranspose` or `ScaleShift`, which own their arrays `kernel`,
    `bias`, `scale` and `shift`, or the name of a TensorFlow operator, whose operands are then `inputs` in TensorFlow's order. An operand is the name
    of a tensor, a `Literal`, or the name of one of `arrays` behind `@`.
    A layer's first output is a tensor named as the layer, its further ones `name:1`, `name:2`, …
    """

    name: str
    op: str
    inputs: list[str | Literal]
    attrs: dict[str, Any] = field(default_factory=dict)
    arrays: dict[str, Array] = field(default_factory=dict)
    activation: str | None = None
    activation_attrs: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    outputs: int = 1

    @property
    def takes(self) -> list[str]:
        """The operands that are tensors, in their order."""
        return [operand for operand in self.inputs if isinstance(operand, str) and not operand.startswith("@")]

    @property
    def makes(self) -> list[str]:
        """The tensors that are its outputs."""
        return [self.name, *(f"{self.name}:{number}" for number in range(1, self.outputs))]


@dataclass(slots=True, repr=False)
class Program:
    """A network: inputs, layers in topological order, outputs, and the record of how they came about (JSON values only)."""

    inputs: list[Port]
    layers: list[Layer]
    outputs: list[Port]
    conversion: dict[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"<bnexport Program: {in_short(self.inputs, self.layers, self.outputs)}>"


def in_short(inputs: Sequence[Port], layers: Sequence[Layer], outputs: Sequence[Port]) -> str:
    """What a network is, in one line."""
    taken, made = (", ".join(map(described, ports)) for ports in (inputs, outputs))
    return f"{taken} -> {made}, {len(layers)} layer{'s' * (len(layers) != 1)}"


def described(port: Port) -> str:
    """An input or output in a few words: `x [?, 64] float32`."""
    return f"{port.name} {shape_text(port.shape)} {port.dtype}"


def shape_text(shape: Iterable[int | None]) -> str:
    """`[?, 64]`."""
    return f"[{', '.join('?' if size is None else str(size) for size in shape)}]"
