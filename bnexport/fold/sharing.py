"""One array for what several layers compute with: the steps of a recurrent network that was written out use the same kernel, or table."""

from collections.abc import Sequence
from typing import Any

from bnexport.arrays import Folded
from bnexport.program import LINEAR, Array, InMemory, Layer

_COMPARED_BYTES = 1 << 20  # arrays in memory up to this size are compared by their values


def share_arrays(layers: Sequence[Layer]) -> None:
    """Puts one array in place of equal ones in layers that share their kernel, or are one operator, so that it is written once."""
    first: dict[tuple[Any, ...], dict[tuple[Any, ...], Array]] = {}
    for layer in layers:
        if layer.op not in ("ScaleShift", "Lookup"):  # (of which each has its own, under its own name)
            known = first.setdefault(_key(layer.arrays["kernel"]) if layer.op in LINEAR else (layer.op,), {})
            for role, array in layer.arrays.items():
                layer.arrays[role] = known.setdefault((role, *_key(array)), array)


def _key(array: Array) -> tuple[Any, ...]:
    """Equal for two arrays that surely hold the same."""
    if isinstance(array, Folded):
        factor = None if array.factor is None else (array.factor.shape, array.factor.tobytes())
        return (*_key(array.source), factor, array.dtype)
    if isinstance(array, InMemory) and array.values.nbytes <= _COMPARED_BYTES:
        return (array.shape, array.dtype, array.values.tobytes())
    return (id(array),)
