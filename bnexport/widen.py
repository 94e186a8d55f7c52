"""A program in float64: arrays, literals, ports and the dtypes that operators are told."""

from dataclasses import replace
from typing import Any

import numpy as np

from bnexport.arrays import Deferred
from bnexport.program import Array, Layer, Literal, Port, Program, materialize

_NARROW = frozenset({"float32", "float16", "bfloat16"})


def widened(program: Program) -> Program:
    """The same program, every floating-point number of which is float64."""
    return Program(
        [_port(p) for p in program.inputs], [_layer(layer) for layer in program.layers], [_port(p) for p in program.outputs], program.conversion
    )


def _name(dtype: str) -> str:
    return "float64" if dtype in _NARROW else dtype


def _port(port: Port) -> Port:
    return replace(port, dtype=_name(port.dtype))


def _layer(layer: Layer) -> Layer:
    inputs = [Literal(o.value, _name(o.dtype)) if isinstance(o, Literal) else o for o in layer.inputs]
    attrs: dict[str, Any] = {k: _name(v) if isinstance(v, str) else v for k, v in layer.attrs.items()}
    arrays = {role: _array(array) for role, array in layer.arrays.items()}
    return replace(layer, inputs=inputs, attrs=attrs, arrays=arrays)


def _array(array: Array) -> Array:
    if array.dtype.name not in _NARROW:
        return array
    return Deferred(array.shape, np.dtype(np.float64), lambda: materialize(array).astype(np.float64))
