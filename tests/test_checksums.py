"""Checksums of data in parts, beside those of all of it by zlib and Google's library."""

import zlib
from itertools import pairwise

import google_crc32c
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bnexport.checksums import CRC32, CRC32C, Checksum, combined

WHOLE = {CRC32: zlib.crc32, CRC32C: google_crc32c.value}


@pytest.mark.parametrize("polynomial", WHOLE)
@given(first=st.binary(max_size=300), second=st.binary(max_size=300))
def test_two_parts(polynomial, first, second):
    crc = WHOLE[polynomial]
    assert combined(crc(first), crc(second), len(second), polynomial) == crc(first + second)


@pytest.mark.parametrize("polynomial", WHOLE)
def test_a_long_part(polynomial):
    crc = WHOLE[polynomial]
    long = bytes(range(256)) * 20_011
    assert combined(crc(b"before"), crc(long), len(long), polynomial) == crc(b"before" + long)


@pytest.mark.parametrize("polynomial", WHOLE)
@given(data=st.binary(max_size=200), cuts=st.lists(st.integers(0, 200), max_size=8), order=st.randoms())
def test_parts_in_any_order(polynomial, data, cuts, order):
    crc = WHOLE[polynomial]
    places = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    parts = list(pairwise(places))
    order.shuffle(parts)
    checksum = Checksum(len(data), polynomial)
    last = [checksum.add(start, end - start, crc(data[start:end])) for start, end in parts]
    assert last == [False] * (len(parts) - 1) + [True] * bool(parts)
    assert checksum.value() == crc(data)
