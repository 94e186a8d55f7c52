"""Shape rules, and readings of operands, that several operators share.

A rule is given concrete shapes. It gives the shape and dtype of every output without computing on data, and raises `GraphError` for operands that do
not fit together or for a result whose shape depends on the data.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from bnexport.errors import DependsOnData, GraphError, InputError
from bnexport.kernels.table import Abstract, Attrs, Compute, Infer, NDArray, Shape, op, shapes_differ


def dtype_named(name: str) -> "np.dtype[Any]":
    """The dtype of NumPy's name, or of `bfloat16`, which NumPy leaves to ml_dtypes."""
    if name == "bfloat16":
        import ml_dtypes

        dtype: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
        return dtype
    return np.dtype(name)


def is_half(dtype: "np.dtype[Any]") -> bool:
    """Whether a dtype is float16 or bfloat16, in which products and sums are accumulated in float32."""
    return dtype == np.float16 or dtype.name == "bfloat16"


def is_integer(dtype: "np.dtype[Any]") -> bool:
    """Whether a dtype is a signed or unsigned integer (not bool)."""
    return dtype.kind in "iu"


def known(operand: Abstract, what: str) -> NDArray:
    """The value of an operand that a shape depends on.

    Raises:
        DependsOnData: it is only known once the network is computed.
    """
    if operand.value is None:
        raise DependsOnData(f"the {what} depends on the data, so the shape of the result cannot be known before it is computed")
    return operand.value


def integers(values: Any) -> list[int]:
    """A scalar or vector of integers, such as axes or a shape, as a list of Python's."""
    return [int(v) for v in np.asarray(values).reshape(-1)]


def axis_of(axis: int, rank: int) -> int:
    """A possibly negative axis of a tensor of the given rank, from 0.

    Raises:
        GraphError: there is no such axis.
    """
    if not -rank <= axis < rank:
        raise GraphError(f"there is no axis {axis} in a tensor of {rank} dimensions")
    return axis % rank


def broadcast(*shapes: Shape) -> Shape:
    """The shape that shapes broadcast to by NumPy's (and TensorFlow's) rule.

    Raises:
        GraphError: they do not.
    """
    try:
        return np.broadcast_shapes(*shapes)
    except ValueError as cause:
        raise shapes_differ("broadcasting", *shapes) from cause


def elementwise(attrs: Attrs, operands: Sequence[Abstract]) -> Sequence[Abstract]:
    """The operands broadcast; the dtype is the first one's."""
    shape = operands[0].shape if len(operands) == 1 else broadcast(*(o.shape for o in operands))
    return [Abstract(shape, operands[0].dtype)]


def predicate(attrs: Attrs, operands: Sequence[Abstract]) -> Sequence[Abstract]:
    """The operands broadcast; the dtype is bool."""
    return [Abstract(elementwise(attrs, operands)[0].shape, np.dtype(bool))]


def same_as_first(attrs: Attrs, operands: Sequence[Abstract]) -> Sequence[Abstract]:
    """The shape and dtype of the first operand."""
    return [Abstract(operands[0].shape, operands[0].dtype)]


def same_as_all(attrs: Attrs, operands: Sequence[Abstract]) -> Sequence[Abstract]:
    """All operands have one shape and dtype, which is the result's."""
    if any(o.shape != operands[0].shape for o in operands):
        raise shapes_differ("operands of one shape", *(o.shape for o in operands))
    return [Abstract(operands[0].shape, operands[0].dtype)]


def passes_through(attrs: Attrs, operands: Sequence[Abstract]) -> Sequence[Abstract]:
    """Each operand is an output."""
    return operands


def same_rank(rank: int, *operands: Abstract) -> None:
    """Raises GraphError unless all operands have the given rank."""
    for operand in operands:
        if len(operand.shape) != rank:
            raise shapes_differ(f"a tensor of {rank} dimensions is needed", operand.shape)


def by_running(compute: Compute, data: Sequence[int] = (0,)) -> Infer:
    """The rule of a kernel that only makes views: the kernel itself, on arrays that have a shape and a dtype but no memory.

    `data` are the positions of the operands that may be unknown; all others have to be known by value. `range(n)` for an op of many operands.
    """

    def infer(attrs: Attrs, operands: Sequence[Abstract]) -> Sequence[Abstract]:
        arrays = [np.broadcast_to(np.empty((), o.dtype), o.shape) if i in data else known(o, f"operand {i + 1}") for i, o in enumerate(operands)]
        try:
            result = compute(attrs, *arrays)
        except (ValueError, IndexError, InputError) as cause:
            raise shapes_differ(str(cause), *(o.shape for o in operands)) from cause
        return [Abstract(r.shape, r.dtype) for r in (result if isinstance(result, tuple) else (result,))]

    return infer


def view_op(*names: str, data: Sequence[int] = (0,)) -> Callable[[Compute], Compute]:
    """Registers a kernel that only makes views of its operands; its shape rule is `by_running`."""

    def register(compute: Compute) -> Compute:
        return op(*names, infer=by_running(compute, data), view=True)(compute)

    return register


def resolved(shape: Sequence[int], size: int) -> Shape:
    """A target shape with its -1, if any, worked out for `size` elements.

    Raises:
        GraphError: no such shape holds `size` elements.
    """
    free = [i for i, s in enumerate(shape) if s == -1]
    rest = math.prod(s for s in shape if s != -1)
    if len(free) > 1 or (free and (rest == 0 or size % rest)) or (not free and rest != size):
        raise GraphError(f"{size} elements cannot be reshaped to {list(shape)}")
    return tuple(size // rest if s == -1 else s for s in shape)
