"""Text as numbers of buckets, by FarmHash's 64-bit fingerprint (farmhash.cc, namespace farmhashna), which TensorFlow promises never to change."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from bnexport.errors import GraphError
from bnexport.kernels.rules import broadcast
from bnexport.kernels.table import Abstract, Attrs, NDArray, op

_ALL = (1 << 64) - 1
_K0, _K1, _K2 = 0xC3A5C85C97CB3127, 0xB492B66FBE98F273, 0x9AE16A3B2F90404F
_SEED = 81
_CAT = 0xC6A4A7935BD1E995
_BLOCK = 64


def _words(text: bytes, *at: int) -> list[int]:
    """The numbers of eight bytes at some places, counted from the end where negative."""
    return [int.from_bytes(text[start : start + 8 or None], "little") for start in at]


def _turned(x: int, bits: int) -> int:
    x &= _ALL
    return (x >> bits | x << (64 - bits)) & _ALL


def _mixed(x: int) -> int:
    x &= _ALL
    return x ^ x >> 47


def _pair(u: int, v: int, factor: int) -> int:
    """One number of two."""
    return _mixed((v ^ _mixed(((u ^ v) & _ALL) * factor)) * factor) * factor & _ALL


def fingerprint(text: bytes) -> int:
    """The fingerprint of a text, from 0 to 2^64 - 1."""
    size = len(text)
    if size > _BLOCK:
        return _of_long(text)
    factor = _K2 + 2 * size
    if size > 32:
        return _of_up_to_64(text, factor)
    if size > 16:
        return _pair(*_of_four(_words(text, 0, 8, -8, -16), _K1, factor), factor)
    if size >= 8:
        first, last = _words(text, 0, -8)
        first += _K2
        return _pair(_turned(last, 37) * factor + first, (_turned(first, 25) + last) * factor, factor)
    if size >= 4:
        first, last = (int.from_bytes(part, "little") for part in (text[:4], text[-4:]))
        return _pair(size + (first << 3), last, factor)
    if size:
        return _mixed((text[0] + (text[size >> 1] << 8)) * _K2 ^ (size + (text[-1] << 2)) * _K0) * _K2 & _ALL
    return _K2


def _of_four(words: list[int], k: int, factor: int) -> tuple[int, int]:
    """Two numbers of the first two words, the last, and that before it."""
    first, second, last, before_last = words
    a, c = first * k & _ALL, last * factor
    return _turned(a + second, 43) + _turned(c, 30) + before_last * _K2, a + _turned(second + _K2, 18) + c


def _of_up_to_64(text: bytes, factor: int) -> int:
    words = _words(text, 0, 8, -8, -16)
    y, rest = _of_four(words, _K2, factor)
    z = _pair(y, rest, factor)
    third, fourth, before, after = _words(text, 16, 24, -32, -24)
    e, g = third * factor, (y + before) * factor
    last = (z + after) * factor
    return _pair(_turned(e + fourth, 43) + _turned(g, 30) + last, e + _turned(fourth + words[0] * _K2, 18) + g, factor)


def _of_long(text: bytes) -> int:
    x, y = _SEED, _SEED * _K1 + 113
    z = _mixed(y * _K2 + 113) * _K2
    x = x * _K2 + _words(text, 0)[0]
    v, w = (0, 0), (0, 0)
    rest = (len(text) - 1) % _BLOCK
    for start in range(0, len(text) - 1 - rest, _BLOCK):
        x, y, z, v, w = _block(text[start : start + _BLOCK], x, y, z, v, w, _K1, 1)
    factor = _K1 + ((z & 0xFF) << 1)
    w = (w[0] + rest, w[1])
    v = (v[0] + w[0], v[1])
    w = (w[0] + v[0], w[1])
    x, y, z, v, w = _block(text[-_BLOCK:], x, y, z, v, w, factor, 9)
    return _pair(_pair(v[0], w[0], factor) + _mixed(y) * _K0 + z, _pair(v[1], w[1], factor) + x, factor)


_Two = tuple[int, int]


def _block(text: bytes, x: int, y: int, z: int, v: _Two, w: _Two, factor: int, weight: int) -> tuple[int, int, int, _Two, _Two]:
    """What becomes of the state with 64 bytes more."""
    words = _words(text, *range(0, _BLOCK, 8))
    x = _turned(x + y + v[0] + words[1], 37) * factor & _ALL
    y = _turned(y + v[1] + words[6], 42) * factor
    x ^= w[1] * weight & _ALL
    y = (y + v[0] * weight + words[5]) & _ALL
    z = _turned(z + w[0], 33) * factor & _ALL
    v = _half(words[:4], v[1] * factor, x + w[0])
    w = _half(words[4:], z + w[1], y + words[2])
    return z, y, x, v, w


def _half(words: list[int], a: int, b: int) -> _Two:
    """What 32 bytes and two seeds give."""
    a += words[0]
    b = _turned(b + a + words[3], 21)
    c = a + words[1] + words[2]
    return (c + words[3]) & _ALL, (b + _turned(c, 44) + a) & _ALL


def _numbers(attrs: Attrs, operands: Sequence[Abstract]) -> Sequence[Abstract]:
    return [Abstract(operands[0].shape, np.dtype(np.int64))]


@op("StringToHashBucketFast", infer=_numbers)
def string_to_hash_bucket_fast(attrs: Attrs, x: NDArray) -> NDArray:
    """The fingerprint of each text modulo `num_buckets`: int64."""
    return _buckets(attrs, x, fingerprint)


def _buckets(attrs: Attrs, x: NDArray, number: Callable[[bytes], int]) -> NDArray:
    count = int(attrs["num_buckets"])
    return np.array([number(text) % count for text in x.reshape(-1).tolist()], np.int64).reshape(x.shape)


def _murmur(text: bytes) -> int:
    """MurmurHash64A with the seed that TensorFlow takes (tsl/platform/hash.cc)."""
    value = 0xDECAFCAFFE ^ len(text) * _CAT & _ALL
    for start in range(0, len(text) - 7, 8):
        value = (value ^ _mixed(int.from_bytes(text[start : start + 8], "little") * _CAT) * _CAT & _ALL) * _CAT & _ALL
    if rest := text[len(text) & ~7 :]:
        value = (value ^ int.from_bytes(rest, "little")) * _CAT & _ALL
    return _mixed(_mixed(value) * _CAT)


def siphash(text: bytes, key: Sequence[int]) -> int:
    """SipHash-2-4 (Aumasson and Bernstein 2012) with a key of two numbers of 64 bits."""
    first, second = (number & _ALL for number in key)
    a, b, c, d = first ^ 0x736F6D6570736575, second ^ 0x646F72616E646F6D, first ^ 0x6C7967656E657261, second ^ 0x7465646279746573
    padded = text + bytes(7 - len(text) % 8) + bytes([len(text) % 256])
    words = [int.from_bytes(padded[start : start + 8], "little") for start in range(0, len(padded), 8)]
    for word in (*words, None):
        if word is None:
            c ^= 0xFF
        else:
            d ^= word
        for _ in range(4 if word is None else 2):
            a, c = a + b & _ALL, c + d & _ALL
            b, d = _turned(b, 51) ^ a, _turned(d, 48) ^ c
            a, c = _turned(a, 32) + d & _ALL, c + b & _ALL
            b, d = _turned(b, 47) ^ c, _turned(d, 43) ^ a
            c = _turned(c, 32)
        if word is not None:
            a ^= word
    return a ^ b ^ c ^ d


@op("StringToHashBucket", infer=_numbers)
def string_to_hash_bucket(attrs: Attrs, x: NDArray) -> NDArray:
    """The hash of each text that TensorFlow's first versions took, modulo `num_buckets`: int64."""
    return _buckets(attrs, x, _murmur)


@op("StringToHashBucketStrong", infer=_numbers)
def string_to_hash_bucket_strong(attrs: Attrs, x: NDArray) -> NDArray:
    """The hash of each text by `key`, two numbers, modulo `num_buckets`: int64."""
    return _buckets(attrs, x, lambda text: siphash(text, attrs["key"]))


def _crossed(attrs: Attrs, operands: Sequence[Abstract]) -> Sequence[Abstract]:
    return [Abstract(broadcast(*(o.shape for o in operands)), np.dtype(np.int64))]


@op("HashedCross", infer=_crossed)
def hashed_cross(attrs: Attrs, *features: NDArray) -> Any:
    """One number for an element of each feature, which broadcast; int64, modulo `num_buckets` where that is not 0.

    It is FingerprintCat64 (tensorflow/core/platform/fingerprint.h) of `hash_key` and one feature after the other: of text its fingerprint, or else
    the number itself. SparseCross makes it of each combination of the elements of a row.
    """
    total = np.array(int(attrs["hash_key"]) & _ALL, np.uint64)
    factor = np.uint64(_CAT)
    for feature in features:
        if feature.dtype.kind == "O":
            number = np.array([fingerprint(text) for text in feature.reshape(-1).tolist()], np.uint64).reshape(feature.shape)
        else:
            number = feature.astype(np.int64).view(np.uint64)
        total = (total ^ factor ^ _shifted(number * factor) * factor) * factor
        total = _shifted(_shifted(total) * factor)
    return (total % np.uint64(int(attrs["num_buckets"]) or (1 << 63) - 1)).astype(np.int64)


def _shifted(x: NDArray) -> Any:
    return x ^ x >> np.uint64(47)


def _decimals(attrs: Attrs, operands: Sequence[Abstract]) -> Sequence[Abstract]:
    if operands[0].dtype.kind not in "biu" or attrs.get("width", -1) != -1 or attrs.get("fill", ""):
        raise GraphError("AsString is for integers without a width or a fill; name the first numbers after it with --input")
    return [Abstract(operands[0].shape, np.dtype(object))]


@op("AsString", infer=_decimals)
def as_string(attrs: Attrs, x: NDArray) -> Any:
    """Integers as decimals, `true` and `false`."""
    texts = [str(value).lower().encode() for value in x.reshape(-1).tolist()]
    out = np.empty(x.shape, object)
    out.reshape(-1)[:] = texts
    return out
