"""Varints and the protocol-buffer wire format, as far as checkpoint files need them outside whole messages.

A tensor of a V1 checkpoint lies in the packed `*_val` fields of a TensorProto. Taken from the wire it is a NumPy array at once and keeps every bit;
through the message class each element would become a Python float, and a signalling NaN would be changed on the way.
https://protobuf.dev/programming-guides/encoding/
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

VARINT, FIXED64, LENGTH_DELIMITED, FIXED32 = 0, 1, 2, 5
"""The wire types that TensorFlow's messages use."""

_FIXED_WIDTH = {FIXED64: 8, FIXED32: 4}
_LONGEST_VARINT = 10


class MalformedError(ValueError):
    """Bytes that no writer of the format can have produced; whoever knows the file turns this into an error that names it."""


def read_varint(data: "bytes | memoryview", position: int) -> tuple[int, int]:
    """The unsigned 64-bit varint at `position`, and where the next byte lies.

    Raises `MalformedError` where the data end inside the varint, or it has more than 64 bits.
    """
    value = shift = 0
    for index in range(position, position + _LONGEST_VARINT):
        if index >= len(data):
            raise MalformedError("the data end inside a varint")
        byte = data[index]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if value >> 64:
                break
            return value, index + 1
        shift += 7
    raise MalformedError("a varint has more than 64 bits")


def fields(message: "bytes | memoryview") -> Iterator[tuple[int, int, memoryview]]:
    """The fields of a serialised message in the order of the file: number, wire type, and the bytes of the value (of a varint, its encoding)."""
    data = memoryview(message)
    position = 0
    while position < len(data):
        tag, position = read_varint(data, position)
        number, wire_type = tag >> 3, tag & 7
        if wire_type == VARINT:
            _, end = read_varint(data, position)
        elif wire_type == LENGTH_DELIMITED:
            length, position = read_varint(data, position)
            end = position + length
        elif wire_type in _FIXED_WIDTH:
            end = position + _FIXED_WIDTH[wire_type]
        else:
            raise MalformedError(f"field {number} has wire type {wire_type}")
        if number == 0 or end > len(data):
            raise MalformedError(f"field {number} reaches beyond its message")
        yield number, wire_type, data[position:end]
        position = end


def submessage(message: "bytes | memoryview", number: int) -> memoryview | None:
    """The bytes of the last message in field `number`; None where the field is absent."""
    found = None
    for field, wire_type, value in fields(message):
        if field == number and wire_type == LENGTH_DELIMITED:
            found = value
    return found


def repeated(message: "bytes | memoryview", number: int) -> list[memoryview]:
    """The values of a repeated field, one after the other: packed runs as they are, unpacked elements one by one."""
    return [value for field, _, value in fields(message) if field == number]


def unpack_varints(packed: bytes) -> "np.ndarray[Any, np.dtype[np.uint64]]":
    """A run of varints as unsigned 64-bit integers (a negative int32 or int64 is the two's complement of 64 bits).

    Raises `MalformedError` where the last varint is not whole, or one has more than ten bytes.
    """
    data = np.frombuffer(packed, np.uint8)
    ends = np.flatnonzero(data < 0x80)
    if data.size and (not ends.size or ends[-1] != data.size - 1):
        raise MalformedError("the data end inside a varint")
    starts = np.concatenate(([0], ends[:-1] + 1)) if ends.size else ends
    lengths = ends - starts + 1
    longest = int(lengths.max(initial=0))
    if longest > _LONGEST_VARINT:
        raise MalformedError("a varint has more than 64 bits")
    values = np.zeros(ends.size, np.uint64)
    for place in range(longest):
        reaching = np.flatnonzero(lengths > place)
        digits = (data[starts[reaching] + place] & 0x7F).astype(np.uint64)
        values[reaching] |= digits << np.uint64(7 * place)
    return values
