"""The table format: against golden bytes that TensorFlow wrote, and against a second writer."""

import struct

import cramjam
import pytest
from checkpoint_forge import block, masked, table, table_of_blocks, varint
from hypothesis import given
from hypothesis import strategies as st

from bnexport.checkpoint.files import crc32c, mask_crc32c
from bnexport.checkpoint.ordered_code import encode_signed, encode_string, encode_unsigned, slice_key
from bnexport.checkpoint.table import Table
from bnexport.checkpoint.wire import MalformedError, fields, read_varint, submessage, unpack_varints
from bnexport.errors import CheckpointNotFound, CorruptCheckpoint
from bnexport.protos import tensorflow_pb2 as pb

GOLDEN = bytes.fromhex(
    # TensorFlow 2.21: tf.raw_ops.SaveV2(prefix=…, tensor_names=["ab", "abc"], shape_and_slices=["", ""], tensors=[1.5, [1, 2, 3]])
    "00000608011a02080100020b6162080112002804355e2fe1a70201116308031204120208032004280c356ebfb8c6000000000100000000069f897b0000000001"
    "00000000c0f2a1b0000102620036000000000100000000407e29e03b08480e000000000000000000000000000000000000000000000000000000000000000000"
    "00000057fb808b247547db"
)


@pytest.fixture
def opened(tmp_path):
    tables = []

    def open_bytes(content):
        path = tmp_path / "t.index"
        path.write_bytes(content)
        tables.append(Table(path))
        return tables[-1]

    yield open_bytes
    for one in tables:
        one.close()


def test_golden_bytes(opened):
    entries = {key: pb.BundleEntryProto.FromString(bytes(value)) for key, value in opened(GOLDEN) if key}
    assert list(entries) == [b"ab", b"abc"]
    assert (entries[b"ab"].dtype, entries[b"ab"].size, list(entries[b"ab"].shape.dim)) == (pb.DT_FLOAT, 4, [])
    assert (entries[b"abc"].dtype, entries[b"abc"].offset, entries[b"abc"].size, entries[b"abc"].shape.dim[0].size) == (pb.DT_INT32, 4, 12, 3)


def test_the_second_writer_agrees_with_the_golden_bytes(opened):
    assert table({key: bytes(value) for key, value in opened(GOLDEN)})[-8:] == GOLDEN[-8:]
    assert dict(opened(table({key: bytes(value) for key, value in opened(GOLDEN)}))) == dict(opened(GOLDEN))


@pytest.mark.parametrize("snappy", [False, True])
@pytest.mark.parametrize("per_block", [1, 7, 16, 1000])
@pytest.mark.parametrize("restart_interval", [1, 3, 16])
def test_every_entry_of_every_block(opened, snappy, per_block, restart_interval):
    entries = {b"layer/%d/kernel" % n: b"%d" % n * n for n in range(150)} | {b"": b"header", b"\x00\xff": b"", b"\xff\xff": b"last"}
    read = opened(table(entries, per_block, restart_interval, snappy))
    assert [(key, bytes(value)) for key, value in read] == sorted(entries.items())
    for key, value in entries.items():
        assert read.get(key) == value
    for key in (b"a", b"layer/1", b"layer/10/kernel ", b"\xff\xff\xff"):
        assert read.get(key) is None


def test_an_empty_table(opened):
    read = opened(table({}))
    assert list(read) == []
    assert read.get(b"") is None


def test_no_such_file(tmp_path):
    with pytest.raises(CheckpointNotFound, match=r"nowhere\.index does not exist: give the checkpoint's prefix"):
        Table(tmp_path / "nowhere.index")


ENTRIES = {b"a": b"1", b"b": b"2", b"c": b"3"}


def _replaced_handle(*handles):
    """A table whose index holds these values in place of the handle of its only block."""
    contents = block(sorted(ENTRIES.items()))
    one = table_of_blocks([(b"c", contents)])
    data = one[: len(contents) + 5]
    index = block([(b"c%d" % number, handle) for number, handle in enumerate(handles)], 1)
    at = len(data)
    data += index + b"\0" + struct.pack("<I", masked(index + b"\0"))
    return data + (varint(0) * 2 + varint(at) + varint(len(index))).ljust(40, b"\0") + one[-8:]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (table(ENTRIES)[:30], "is not a checkpoint's index"),
        (table(ENTRIES)[:-1], "is not a checkpoint's index"),
        (b"\0" * 100, "its 100 bytes do not end in the footer"),
        (table(ENTRIES)[:3] + b"?" + table(ENTRIES)[4:], "the checksum of the block at 0 does not match"),
        (table_of_blocks([(b"c", block(ENTRIES.items()))], compression=7), "unknown compression 7"),
        (
            table_of_blocks([(b"c", b"\xff\xff\xff\xff\x0f" + b"x" * 40)], compression=1),
            "a compressed block of 45 bytes says that it holds 4294967295",
        ),
        (table_of_blocks([(b"c", b"\x28" + b"\xff" * 40)], compression=1), "cannot be decompressed"),
        (table_of_blocks([(b"c", block([(b"b", b""), (b"a", b"")]))]), "keys are out of order"),
        (table_of_blocks([(b"b", block([(b"b", b"")])), (b"a", block([(b"a", b"")]))]), "keys of its index are out of order"),
        (table_of_blocks([(b"b", block([(b"b", b"")])), (b"c", block([(b"a", b"")]))]), "keys are out of order"),
        (table_of_blocks([(b"c", struct.pack("<I", 1 << 31))]), "shorter than its own list of restarts"),
        (table_of_blocks([(b"c", b"")]), "shorter than its own list of restarts"),
        (table_of_blocks([(b"c", b"\x05\x01\x00a" + struct.pack("<II", 0, 1))]), "an entry reaches beyond its block"),
        (table_of_blocks([(b"c", b"\x00\x01\x7fa" + struct.pack("<II", 0, 1))]), "an entry reaches beyond its block"),
        (table_of_blocks([(b"c", b"\xff" * 20 + struct.pack("<II", 0, 1))]), "a varint has more than 64 bits"),
        (_replaced_handle(varint(1 << 40) + varint(10)), "bytes where at least"),
        (_replaced_handle(varint(0) + varint(1 << 62)), "bytes where at least"),
        (_replaced_handle(b"\x80"), "the data end inside a varint"),
        (_replaced_handle(b""), "the data end inside a varint"),
        # The same block twice, as a loop in the index would have it.
        (_replaced_handle(*[varint(0) + varint(len(block(ENTRIES.items())))] * 2), "keys are out of order"),
    ],
)
def test_damage_is_named(opened, content, message):
    with pytest.raises(CorruptCheckpoint, match=message) as raised:
        list(opened(content))
    assert "t.index" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_snappy_at_its_best_ratio_is_no_bomb(opened):
    contents = block([(b"a", bytes(1 << 20))])
    compressed = bytes(cramjam.snappy.compress_raw(contents))
    assert len(contents) / len(compressed) > 20
    assert opened(table_of_blocks([(b"a", compressed)], compression=1)).get(b"a") == bytes(1 << 20)


@pytest.mark.parametrize(
    ("data", "crc"),
    # RFC 3720, B.4
    [(bytes(32), 0x8A9136AA), (b"\xff" * 32, 0x62A8AB43), (bytes(range(32)), 0x46DD794E), (bytes(range(31, -1, -1)), 0x113FDB5C)],
)
def test_crc32c(data, crc):
    assert crc32c(data) == crc
    assert crc32c(data[10:], crc32c(data[:10])) == crc
    assert mask_crc32c(crc) == masked(data)


@pytest.mark.parametrize(
    ("value", "code"),
    [
        (0, "80"),
        (-1, "7f"),
        (63, "bf"),
        (64, "c040"),
        (-64, "40"),
        (-65, "3fbf"),
        (8191, "dfff"),
        (8192, "e02000"),
        (-8192, "2000"),
        (-8193, "1fdfff"),
        (2**63 - 1, "ffc07fffffffffffffff"),
        (-(2**63), "003f8000000000000000"),
    ],
)
def test_signed_ordered_code(value, code):
    assert encode_signed(value).hex() == code


@given(st.integers(-(2**63), 2**63 - 1), st.integers(-(2**63), 2**63 - 1))
def test_the_order_of_codes_is_that_of_the_numbers(a, b):
    assert (encode_signed(a) < encode_signed(b)) == (a < b)
    assert (encode_unsigned(abs(a)) < encode_unsigned(abs(b))) == (abs(a) < abs(b))


@given(st.binary(), st.binary())
def test_the_order_of_codes_is_that_of_the_texts(a, b):
    assert (encode_string(a) < encode_string(b)) == (a < b)


def test_slice_key():
    # From a version 1 file of TensorFlow 2.21: variable `x` of shape [1, 3], all of it.
    assert slice_key(b"x", [(0, -1), (0, -1)]).hex() == "007800010102807f807f"
    assert slice_key(b"\x00a\xff", []).hex() == "0000ff61ff00000100"


@given(st.lists(st.integers(-(2**63), 2**63 - 1)))
def test_varints_are_those_of_protobuf(values):
    serialised = pb.TensorProto(int64_val=values).SerializeToString()
    packed = bytes(submessage(serialised, 10) or b"")
    assert unpack_varints(packed).view("int64").tolist() == values
    position, one_by_one = 0, []
    while position < len(packed):
        value, position = read_varint(packed, position)
        one_by_one.append(value)
    assert one_by_one == [value % 2**64 for value in values]


@given(st.binary(max_size=40))
def test_bytes_that_are_no_message_are_refused_or_read(data):
    try:
        found = list(fields(data))
    except MalformedError:
        return
    assert sum(len(value) for _, _, value in found) <= len(data)


@pytest.mark.parametrize("data", [b"\x80", b"\xff" * 11, b"\x01\x80", b"\xff" * 10 + b"\x01"])
def test_varints_that_are_not_whole(data):
    with pytest.raises(MalformedError, match="varint"):
        unpack_varints(data)


def test_a_varint_of_more_than_64_bits():
    with pytest.raises(MalformedError, match="more than 64 bits"):
        read_varint(b"\xff" * 9 + b"\x7f", 0)
