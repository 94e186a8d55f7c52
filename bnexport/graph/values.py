"""Attribute values of graphs as Python and NumPy values."""

from typing import Any

from bnexport.checkpoint.tensor_protos import decode_shape, decode_tensor, dtype_name


def decode_attribute(message: Any) -> Any:
    """An AttrValue: int, float, bool, str, dtype name, shape, array, function (its message), or a list of these."""
    kind = message.WhichOneof("value")
    if kind is None:
        return None
    value = getattr(message, kind)
    if kind == "s":
        return value.decode("utf-8", "backslashreplace")
    if kind == "type":
        return dtype_name(value)
    if kind == "shape":
        return decode_shape(value)
    if kind == "tensor":
        return decode_tensor(value)
    if kind == "list":
        for part, decode in (
            ("s", lambda s: s.decode("utf-8", "backslashreplace")),
            ("type", dtype_name),
            ("shape", decode_shape),
            ("tensor", decode_tensor),
        ):
            if len(getattr(value, part)):
                return [decode(v) for v in getattr(value, part)]
        return list(value.i) or list(value.f) or list(value.b) or list(value.func)
    return value
