"""The keys of the parts of a partitioned variable: OrderedCode, an encoding whose byte order is the order of what it encodes.

The format is that of tensorflow/core/lib/strings/ordered_code.cc, and its use that of EncodeTensorNameSlice in
tensorflow/core/util/saved_tensor_slice_util.cc.
"""

import re
from collections.abc import Sequence

FULL_EXTENT = -1
"""The length that stands for all of a dimension; its start is 0."""

_ESCAPED = {b"\x00": b"\x00\xff", b"\xff": b"\xff\x00"}


def slice_key(name: bytes, extents: Sequence[tuple[int, int]]) -> bytes:
    """The key of one slice of the variable `name`: 0, the name, the rank, then start and length of each dimension."""
    key = encode_unsigned(0) + encode_string(name) + encode_unsigned(len(extents))
    for start, length in extents:
        key += encode_signed(start) + encode_signed(length)
    return key


def encode_string(text: bytes) -> bytes:
    """`text` with 0x00 and 0xff escaped, so that no text contains its terminator."""
    return re.sub(rb"[\x00\xff]", lambda byte: _ESCAPED[byte.group()], text) + b"\x00\x01"


def encode_unsigned(value: int) -> bytes:
    """A byte that counts the bytes of the number, then those, the highest first; 0 has none."""
    digits = value.to_bytes((value.bit_length() + 7) // 8, "big")
    return bytes([len(digits)]) + digits


def encode_signed(value: int) -> bytes:
    """A 64-bit number in as few bytes as it needs, the highest first.

    n bytes carry n leading bits that say so, and 7n - 1 bits of the number with its sign. A negative number has all bits inverted, which is what
    two's complement and an exclusive or with the leading bits give.
    """
    magnitude = ~value if value < 0 else value
    width = magnitude.bit_length() // 7 + 1
    leading_ones = ((1 << width) - 1) << (7 * width)
    return ((value & ((1 << 8 * width) - 1)) ^ leading_ones).to_bytes(width, "big")
