"""The dataclasses that everything meets at: a program is what a network computes, layer by layer.

The converter builds a `Program`, a format writes it, and the runner reads it back. Nothing here computes. Arrays may still be on disk: whatever
has a shape, a dtype and `pieces()` can stand where an array is expected, so that a model larger than memory can be converted.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np

PIECE_BYTES = 3 << 19
"""How much of an array is read, folded and written at a time: what a core's cache holds, and enough for Python's own time not to count. Where a file
takes twice as much at once, Linux looks for huge pages to keep it in, which can take as long as everything else."""


@runtime_checkable
class Array(Protocol):
    """An array that may not be in memory."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> "np.dtype[Any]": ...

    def pieces(self) -> Iterator["np.ndarray[Any, Any]"]:
        """The elements in row-major order, as consecutive one-dimensional arrays of about `PIECE_BYTES`.

        A piece is valid until the next is asked for; its memory is then used again. Until then whoever asked for it may write over it, unless it is
        read-only.
        """
        ...


@runtime_checkable
class Shared(Array, Protocol):
    """An array that several threads can read at a time."""

    def shares(self, count: int) -> list[Iterator["np.ndarray[Any, Any]"]]:
        """What `pieces` gives, in at most `count` iterators, each for a thread of its own and for the range of elements that `ranges` gives it."""
        ...


def shares(array: Array, count: int) -> list[Iterator["np.ndarray[Any, Any]"]]:
    """The shares of an array, where it has any, or all of it as the only one."""
    return array.shares(count) if isinstance(array, Shared) else [array.pieces()]


def ranges(size: int, count: int) -> list[range]:
    """The elements 0 to `size` as at most `count` consecutive ranges of about one length, of which none is empty unless there are no elements."""
    count = max(1, min(size, count))
    return [range(size * k // count, size * (k + 1) // count) for k in range(count)]


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

    def pieces(self) -> Iterator["np.ndarray[Any, Any]"]:
        return self.shares(1)[0]

    def shares(self, count: int) -> list[Iterator["np.ndarray[Any, Any]"]]:
        flat = np.ascontiguousarray(self.values).reshape(-1).view()
        flat.flags.writeable = False
        step = max(1, PIECE_BYTES // max(1, flat.itemsize))

        def share(part: range) -> Iterator[np.ndarray[Any, Any]]:
            for start in range(part.start, part.stop, step):
                yield flat[start : min(start + step, part.stop)]

        return [share(part) for part in ranges(flat.size, count)]


def materialize(array: Array) -> "np.ndarray[Any, Any]":
    """All of an array, in memory, in its own dtype."""
    if isinstance(array, InMemory):
        return array.values
    out = np.empty(array.shape, array.dtype)
    flat = out.reshape(-1)
    start = 0
    for piece in array.pieces():
        flat[start : start + piece.size] = piece
        start += piece.size
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
