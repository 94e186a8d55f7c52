"""Cyclic redundancy checks of data that are read or written in parts."""

from functools import cache

CRC32, CRC32C = 0xEDB88320, 0x82F63B78
"""The polynomials of zip files and of TensorFlow's (that one Castagnoli's), the highest power in the lowest bit."""


def combined(first: int, second: int, length: int, polynomial: int) -> int:
    """The checksum of two pieces of data one behind the other, from the checksum of each and the length in bytes of the second.

    A CRC is the remainder of a polynomial over GF(2), so the first is multiplied by x to the power of the bits that follow it: zlib's crc32_combine.
    """
    for bit in range(length.bit_length()):
        if length >> bit & 1:
            first = _times(_shift(bit, polynomial), first, polynomial)
    return first ^ second


@cache
def _shift(bit: int, polynomial: int) -> int:
    """x to the power of the bits in 2**bit bytes."""
    return _times(_shift(bit - 1, polynomial), _shift(bit - 1, polynomial), polynomial) if bit else 1 << 23


def _times(a: int, b: int, polynomial: int) -> int:
    """The product of two polynomials modulo a third."""
    product = 0
    for bit in range(31, -1, -1):
        if a >> bit & 1:
            product ^= b
        b = b >> 1 ^ (polynomial if b & 1 else 0)
    return product
