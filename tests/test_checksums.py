"""Checksums of data in parts, beside those of all of it by zlib and Google's library."""

import zlib

import google_crc32c
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bnexport.checksums import CRC32, CRC32C, combined

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
