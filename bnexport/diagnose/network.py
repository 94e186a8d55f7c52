"""A network whose tensors can be computed with a mistake made on the way.

A network is a definition for each tensor. A mistake is a handful of other definitions (`Edits`): a layer with another kernel, a formula in a layer's
place. To see what a mistake would give, only what lies behind the edited tensors is computed again.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from bnexport.batchnorms import BatchNorm
from bnexport.kernels.table import NDArray, ieee
from bnexport.program import LINEAR, InMemory, Layer, Literal, Program, materialize
from bnexport.steps import compile_layer

Values = dict[str, NDArray]


@dataclass(frozen=True, slots=True)
class Formula:
    """A tensor that a function gives, of the values of other tensors; it computes in their dtype."""

    inputs: tuple[str, ...]
    compute: Callable[..., NDArray]


Definition = Layer | Formula
AS_FED = " as fed"
"""Behind an input's name: what was fed, for a formula that stands in the input's place."""
Edits = Mapping[str, Definition]
"""What stands in the place of a tensor's own definition, by the tensor's name."""


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """How a network is computed: in which dtype, and to what each result and each constant is rounded then."""

    dtype: "np.dtype[Any]"
    rounded: Callable[[NDArray], NDArray] | None = None


def to_mantissa(bits: int) -> Callable[[NDArray], NDArray]:
    """Rounds to numbers of so many significant bits, ties to even, of any exponent: 8 for bfloat16, 11 for float16's range and for NVIDIA's TF32."""

    def rounded(x: NDArray) -> NDArray:
        mantissa, exponent = np.frexp(x)
        return np.asarray(np.ldexp(np.rint(np.ldexp(mantissa, bits)), exponent - bits))

    return rounded


def to_half(x: NDArray) -> NDArray:
    """Rounds to float16, and keeps the dtype."""
    return x.astype(np.float16).astype(x.dtype)


DOUBLE = Arithmetic(np.dtype(np.float64))
SINGLE = Arithmetic(np.dtype(np.float32))
HALF = Arithmetic(np.dtype(np.float32), to_half)
BFLOAT16 = Arithmetic(np.dtype(np.float32), to_mantissa(8))


class Network:
    """An unfolded program, with its batch norms.

    All arrays are kept in memory, in float64.

    Attributes:
        definitions: by tensor, in topological order; the inputs are not among them.
        norms: its batch norms in order.
        linear: its dense and convolutional layers in order.
        inputs, outputs: the names of tensors.
    """

    def __init__(self, program: Program, norms: Sequence[BatchNorm]) -> None:
        layers = [_in_memory(layer) for layer in program.layers]
        self.definitions: dict[str, Definition] = {layer.name: layer for layer in layers}
        self.norms = tuple(norms)
        self.linear = [layer for layer in layers if layer.op in LINEAR]
        self.inputs = {port.tensor: port for port in program.inputs}
        self.outputs = {port.tensor: port for port in program.outputs}
        self.order: dict[str, int] = {}
        for tensor in (*self.inputs, *(t for layer in layers for t in _results(layer))):
            self.order[tensor] = len(self.order)
        self._index()

    def _index(self) -> None:
        self.users: dict[str, list[str]] = {tensor: [] for tensor in self.order}
        for name, definition in self.definitions.items():
            for tensor in operands(definition):
                self.users.setdefault(tensor, []).append(name)
        self._compiled: dict[tuple[str, int], Callable[..., Sequence[NDArray]]] = {}

    def edited(self, edits: "Edits") -> "Network":
        """The network with mistakes made in it, to look for another one; what is edited is no longer a batch norm or a layer of its own."""
        other = copy(self)
        other.definitions = {**self.definitions, **edits}
        other.norms = tuple(norm for norm in self.norms if norm.after not in edits)
        other.linear = [layer for layer in self.linear if layer.name not in edits]
        other._index()
        return other

    def layers(self, *ops: str) -> list[Layer]:
        """The layers of some operators, in order."""
        return [d for d in self.definitions.values() if isinstance(d, Layer) and d.op in ops]

    def layer(self, tensor: str) -> Layer | None:
        """The layer whose only output a tensor is; None for inputs, formulas and layers of several outputs."""
        definition = self.definitions.get(tensor)
        return definition if isinstance(definition, Layer) and len(_results(definition)) == 1 else None

    def sole_user(self, tensor: str) -> Layer | None:
        """The one layer that takes a tensor, where nothing else does and it is no output."""
        users = self.users[tensor]
        return self.layer(users[0]) if len(users) == 1 and tensor not in self.outputs else None

    def behind(self, tensors: Iterable[str], edits: Edits | None = None) -> set[str]:
        """The tensors themselves and all that are computed from them."""

        def users(tensor: str) -> Iterator[str]:
            for user in self.users.get(tensor, ()):
                definition = self.definitions[user]
                yield from _results(definition) if isinstance(definition, Layer) else [user]
            yield from (name for name, definition in (edits or {}).items() if tensor in operands(definition))

        return _reached(tensors, users)

    def ahead(self, tensors: Iterable[str], edits: Edits | None = None) -> set[str]:
        """The tensors themselves and all that they are computed from."""

        def made_of(tensor: str) -> Iterable[str]:
            definition = self._definition(tensor, edits or {})
            return operands(definition) if definition is not None else ()

        return _reached(tensors, made_of)

    def work(self, values: Values, base: Values) -> int:
        """How many numbers were computed for `values`, besides what was taken from `base`."""
        return sum(value.size for tensor, value in values.items() if base.get(tensor) is not value)

    def _definition(self, tensor: str, edits: Edits) -> Definition | None:
        return edits.get(tensor) or self.definitions.get(tensor) or self.definitions.get(_maker(tensor))

    def run(
        self, feeds: Mapping[str, NDArray], wanted: Iterable[str], edits: Edits | None = None, base: Values | None = None, how: Arithmetic = DOUBLE
    ) -> Values:
        """The values of some tensors and of all that they are computed from.

        Args:
            feeds: the inputs, by tensor.
            wanted: names of tensors.
            edits: the mistakes.
            base: the values without `edits`, computed in the same arithmetic; what no edit touches is taken from there.
        """
        edits = edits or {}
        stale = self.behind(edits, edits)
        values: Values = {}
        left = list(wanted)
        with ieee():
            while left:
                tensor = left[-1]
                if tensor in values:
                    left.pop()
                    continue
                if base is not None and tensor not in stale and tensor in base:
                    values[tensor] = base[tensor]
                    continue
                definition = self._definition(tensor, edits)
                if definition is None:
                    values[tensor] = _rounded(np.asarray(feeds[tensor.removesuffix(AS_FED)]), how)
                    continue
                missing = [t for t in operands(definition) if t not in values]
                if missing:
                    left.extend(missing)
                    continue
                results = self._computed(tensor, definition, edits, [values[t] for t in operands(definition)], how)
                values.update((name, _rounded(np.asarray(result), how)) for name, result in results.items())
        return values

    def _computed(self, tensor: str, definition: Definition, edits: Edits, taken: list[NDArray], how: Arithmetic) -> Values:
        if isinstance(definition, Formula):
            return {tensor: definition.compute(*taken)}
        key = (definition.name, id(how))
        compute = self._compiled.get(key) if tensor not in edits else None
        if compute is None:
            compute = compiled(_narrowed(definition, how))
            if tensor not in edits:
                self._compiled[key] = compute
        names = _results(definition) if tensor not in edits else [tensor]
        return dict(zip(names, compute(*taken), strict=False))


def operands(definition: Definition) -> list[str]:
    """The tensors that a definition takes, each once."""
    return list(dict.fromkeys(definition.takes if isinstance(definition, Layer) else definition.inputs))


def compiled(layer: Layer) -> Callable[..., Sequence[NDArray]]:
    """A layer as a function of its operands (each tensor once) that gives all its outputs."""
    taken = operands(layer)
    name = layer.name
    step = compile_layer(layer, {**{tensor: i for i, tensor in enumerate(taken)}, name: len(taken)}, over=False)

    def compute(*values: NDArray) -> Sequence[NDArray]:
        slots: list[Any] = [*values, *[None] * layer.outputs]
        step(slots)
        return slots[len(taken) :]

    return compute


def around(layer: Layer, function: Callable[[NDArray], NDArray]) -> Formula:
    """A function of a layer's result, in the layer's place."""
    compute = compiled(layer)
    return Formula(tuple(operands(layer)), lambda *values: function(compute(*values)[0]))


def with_arrays(layer: Layer, arrays: Mapping[str, NDArray]) -> Layer:
    """A layer with some of its arrays replaced."""
    return replace(layer, arrays={**layer.arrays, **{role: InMemory(np.ascontiguousarray(values)) for role, values in arrays.items()}})


def _results(layer: Layer) -> list[str]:
    """The tensors that a layer gives. A scale/shift layer that was a FusedBatchNorm has no further ones at inference."""
    return layer.makes[:1] if layer.op == "ScaleShift" else layer.makes


def _maker(tensor: str) -> str:
    name, _, number = tensor.rpartition(":")
    return name if number.isdecimal() and name else tensor


def _in_memory(layer: Layer) -> Layer:
    return replace(layer, arrays={role: InMemory(materialize(array)) for role, array in layer.arrays.items()})


def _rounded(values: NDArray, how: Arithmetic) -> NDArray:
    if values.dtype.kind != "f":
        return values
    values = values.astype(how.dtype, copy=False)
    return values if how.rounded is None else how.rounded(values)


def _narrowed(layer: Layer, how: Arithmetic) -> Layer:
    """A layer of float64 in another arithmetic."""
    if how.dtype == np.float64:
        return layer
    name = how.dtype.name

    def told(value: Any) -> Any:
        return name if value == "float64" else value

    def literals() -> Iterator[str | Literal]:
        for operand in layer.inputs:
            yield Literal(operand.value, told(operand.dtype)) if isinstance(operand, Literal) else operand

    arrays: dict[str, Any] = {role: InMemory(_rounded(materialize(array), how)) for role, array in layer.arrays.items()}
    return replace(layer, inputs=list(literals()), attrs={k: told(v) for k, v in layer.attrs.items()}, arrays=arrays)


def _reached(start: Iterable[str], following: Callable[[str], Iterable[str]]) -> set[str]:
    """Some tensors and all that follow them, step by step."""
    found: set[str] = set()
    left = list(start)
    while left:
        tensor = left.pop()
        if tensor not in found:
            found.add(tensor)
            left.extend(following(tensor))
    return found
