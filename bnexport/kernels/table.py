"""The one table of operators.

A kernel is a plain NumPy function registered once under its TensorFlow op name. The converter uses it to evaluate what is constant, and the runner
to evaluate what is not. Beside it stands a shape rule, so that shapes can be followed through a network without computing it.

    @op("Relu", infer=elementwise)
    def relu(attrs, x, *, out=None): ...

A kernel takes the node's attributes (a mapping; ints, floats, bools, strings, lists, dtypes as NumPy's names) and its operands in TensorFlow's order,
and gives an array, or a tuple of arrays for an op of several outputs. It computes in the dtype TensorFlow would, keeps it, and never changes an
operand. One registered with `inplace=True` also takes `out=`, of the result's shape and dtype, which may be its first operand where no other operand
shares its memory. Only one registered with `view=True` may give arrays that share memory with its operands (a transposed view, a slice, the operand
itself).

Kernels follow IEEE 754 as TensorFlow does: what overflows is infinite, 0/0 is NaN, and neither is an error. NumPy would warn of both, so kernels run
inside `ieee()`: `evaluate` enters it by itself, and the runner enters it once for a whole network.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np

from bnexport.errors import GraphError, InputError

NDArray = np.ndarray[Any, Any]
Attrs = Mapping[str, Any]
Shape = tuple[int, ...]


class Abstract(NamedTuple):
    """What is known of a tensor without computing the network: its shape and dtype, and its value where it depends on shapes and constants only."""

    shape: Shape
    dtype: "np.dtype[Any]"
    value: NDArray | None = None


Compute = Callable[..., Any]
Infer = Callable[[Attrs, Sequence[Abstract]], Sequence[Abstract]]


class Op(NamedTuple):
    """An operator: its TensorFlow name, its kernel and its shape rule.

    `inplace`: the kernel can write over its first operand. `view`: its results may share memory with its operands.
    """

    name: str
    compute: Compute
    infer: Infer
    inplace: bool = False
    view: bool = False


class Table(dict[str, Op]):
    """Operators by name.

    Dense networks need two modules of kernels, and importing all of them takes as long as evaluating such a network a thousand times: the others are
    imported one after another when something asks for a name that is not there yet, and all when something asks for all names.
    """

    others: list[str]
    """The modules that have not been imported yet, those that more networks need first."""

    def __init__(self) -> None:
        super().__init__()
        self.others = []

    def holds(self, name: object) -> bool:
        """Whether a name is there already."""
        return super().__contains__(name)

    def complete(self) -> "Table":
        """Imports the other modules, which fill the table."""
        while self.others:
            import_module(self.others.pop(0))
        return self

    def __contains__(self, name: object) -> bool:
        while not self.holds(name) and self.others:
            import_module(self.others.pop(0))
        return self.holds(name)

    def __missing__(self, name: str) -> Op:
        if name in self:
            return self[name]
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        return super(Table, self.complete()).__iter__()

    def __len__(self) -> int:
        return super(Table, self.complete()).__len__()


OPS = Table()


def op(*names: str, infer: Infer, inplace: bool = False, view: bool = False) -> Callable[[Compute], Compute]:
    """Registers a kernel under one or more TensorFlow op names.

    Raises:
        ValueError: a name is registered already.
    """

    def register(compute: Compute) -> Compute:
        for name in names:
            if OPS.holds(name):
                raise ValueError(f"the operator {name} is registered twice")
            OPS[name] = Op(name, compute, infer, inplace, view)
        return compute

    return register


def ieee() -> "np.errstate":
    """The context that kernels run in: no warning of overflow, division by zero or invalid operations."""
    return np.errstate(all="ignore")


def evaluate(operator: Op, attrs: Attrs, operands: Sequence[NDArray]) -> tuple[NDArray, ...]:
    """All outputs of an operator, as arrays (never NumPy scalars)."""
    with ieee():
        result = operator.compute(attrs, *operands)
    return tuple(np.asarray(r) for r in result) if isinstance(result, tuple) else (np.asarray(result),)


def infer(operator: Op, attrs: Attrs, operands: Sequence[Abstract]) -> Sequence[Abstract]:
    """What is known of an operator's outputs. Where all operands are known by value, the outputs are too.

    Raises:
        GraphError: the operands' shapes do not fit together.
    """
    if operands and all(o.value is not None for o in operands):
        try:
            values = evaluate(operator, attrs, [o.value for o in operands if o.value is not None])
        except InputError:  # sizes that stand for unknown ones may choose more elements than there are
            return operator.infer(attrs, operands)
        return [Abstract(v.shape, v.dtype, v) for v in values]
    return operator.infer(attrs, operands)


def shapes_differ(what: str, *shapes: Shape) -> GraphError:
    """The error of a shape rule whose operands do not fit together."""
    return GraphError(f"{what}: the shapes {' and '.join(str(list(s)) for s in shapes)} do not fit together")
