"""Cyclic redundancy checks of data that are read or written in parts."""

from functools import lru_cache
from threading import Lock

CRC32, CRC32C = 0xEDB88320, 0x82F63B78
"""The polynomials of zip files and of TensorFlow's (that one Castagnoli's), the highest power in the lowest bit."""


def combined(first: int, second: int, length: int, polynomial: int) -> int:
    """The checksum of two pieces of data one behind the other, from the checksum of each and the length in bytes of the second.

    A CRC is the remainder of a polynomial over GF(2), so the first is multiplied by x to the power of the bits that follow it: zlib's crc32_combine.
    """
    for bit, product in _products(length, polynomial) if first else ():
        if first & bit:
            second ^= product
    return second


class Checksum:
    """The checksum of data that are read or written in parts, by several threads and in any order."""

    def __init__(self, size: int, polynomial: int) -> None:
        self._left, self._polynomial = size, polynomial
        self._parts: dict[int, tuple[int, int]] = {}
        self._lock = Lock()

    def add(self, start: int, length: int, crc: int) -> bool:
        """Takes the checksum of `length` bytes from `start`; whether they were the last that were missing."""
        with self._lock:
            self._parts[start] = length, crc
            self._left -= length
            return self._left == 0

    def value(self) -> int:
        """The checksum of all parts, one behind the other."""
        whole = 0
        for _, (length, crc) in sorted(self._parts.items()):
            whole = combined(whole, crc, length, self._polynomial)
        return whole


@lru_cache(maxsize=1024)
def _products(length: int, polynomial: int) -> tuple[tuple[int, int], ...]:
    """Each power of x in a checksum, and it times x to the power of the bits in `length` bytes. The parts of large data have few lengths."""
    product, products = _power(length, polynomial), []
    for bit in range(31, -1, -1):
        products.append((1 << bit, product))
        product = _shifted(product, polynomial)
    return tuple(products)


def _power(length: int, polynomial: int) -> int:
    """x to the power of the bits in `length` bytes."""
    power = 1 << 31
    for digit in f"{length:b}":
        power = _times(power, power, polynomial)
        if digit == "1":
            power = _times(power, 1 << 23, polynomial)
    return power


def _times(a: int, b: int, polynomial: int) -> int:
    """The product of two polynomials modulo a third."""
    product = 0
    for bit in range(31, -1, -1):
        if a >> bit & 1:
            product ^= b
        b = _shifted(b, polynomial)
    return product


def _shifted(a: int, polynomial: int) -> int:
    """A polynomial times x."""
    return a >> 1 ^ (polynomial if a & 1 else 0)
