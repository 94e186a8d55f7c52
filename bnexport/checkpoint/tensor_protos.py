"""Types, shapes and tensors as graphs hold them, as Python and NumPy values."""

from typing import Any

import numpy as np

from bnexport.errors import GraphError

_DTYPES = {
    1: "float32", 2: "float64", 3: "int32", 4: "uint8", 5: "int16", 6: "int8", 7: "object", 8: "complex64", 9: "int64", 10: "bool",
    11: "int8", 12: "uint8", 13: "int32", 14: "bfloat16", 15: "int16", 16: "uint16", 17: "uint16", 18: "complex128", 19: "float16",
    20: "resource", 21: "variant", 22: "uint32", 23: "uint64",
}  # fmt: skip

_VALUES = {
    "float32": "float_val", "float64": "double_val", "int32": "int_val", "uint8": "int_val", "int16": "int_val", "int8": "int_val", "uint16":
    "int_val", "object": "string_val", "int64": "int64_val", "bool": "bool_val", "uint32": "uint32_val", "uint64": "uint64_val",
}  # fmt: skip
_WITH_BYTES = frozenset(_VALUES) - {"object"} | {"float16", "complex64", "complex128"}


def dtype_name(enum: int) -> str:
    """NumPy's name of a TensorFlow DataType, references included; `resource` and `variant` have no arrays."""
    return _DTYPES.get(enum % 100, f"DataType {enum}")


def decode_shape(message: Any) -> list[int | None] | None:
    """A TensorShapeProto; None for an unknown rank, None within it for an unknown size."""
    if message.unknown_rank:
        return None
    return [None if d.size < 0 else d.size for d in message.dim]


def decode_tensor(message: Any) -> "np.ndarray[Any, Any]":
    """A TensorProto as an array of its own dtype (bfloat16 widened to float32, which is exact).

    Fewer values than elements mean that the last is repeated (tensor.proto); none at all mean zeros.

    Raises:
        GraphError: its type has no arrays, or the file is damaged.
    """
    name = dtype_name(message.dtype)
    shape = tuple(d.size for d in message.tensor_shape.dim)
    if any(size < 0 for size in shape):
        raise GraphError(f"a constant has the shape {list(shape)}: the file is damaged")
    if name == "object":
        strings = list(message.string_val) or [b""]
        out = np.empty(shape, object)
        out.reshape(-1)[:] = (strings + [strings[-1]] * (out.size - len(strings)))[: out.size]
        return out
    if name == "bfloat16":
        raw = _numbers(message.tensor_content, "uint16") if message.tensor_content else np.array(message.half_val, np.uint16)
        flat = (raw.astype(np.uint32) << 16).view(np.float32)
    elif message.tensor_content and name in _WITH_BYTES:
        flat = _numbers(message.tensor_content, name)
    elif name == "float16":
        flat = np.array(message.half_val, np.uint16).view(np.float16)
    elif name in ("complex64", "complex128"):
        pairs = message.scomplex_val if name == "complex64" else message.dcomplex_val
        flat = np.array(pairs, "f4" if name == "complex64" else "f8").view(name)
    elif name in _VALUES:
        flat = np.array(getattr(message, _VALUES[name])).astype(name)
    else:
        raise GraphError(f"a constant of the type {name} cannot be read")
    size = int(np.prod(shape, dtype=np.int64))
    if flat.size < size:
        last = flat[-1] if flat.size else np.zeros((), flat.dtype)
        flat = np.concatenate([flat, np.full(size - flat.size, last, flat.dtype)])
    return flat[:size].reshape(shape)


def _numbers(content: bytes, name: str) -> "np.ndarray[Any, Any]":
    dtype = np.dtype(name).newbyteorder("<")
    if len(content) % dtype.itemsize:
        raise GraphError(f"a constant of the type {name} has {len(content)} bytes, which is no whole number of elements: the file is damaged")
    return np.frombuffer(content, dtype)
