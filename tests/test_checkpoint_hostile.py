"""Damaged and forged checkpoints: an error of the checkpoint's own, or exactly the values that were saved."""

import itertools
import struct
import tempfile
from pathlib import Path

import numpy as np
import pytest
from checkpoint_forge import crc32c, entry, fixed32, header, masked, message, number, shape, strings, table, varint
from checkpoint_golden import DATA, INDEX, VALUES, VERSION_1, same
from hypothesis import given, settings
from hypothesis import strategies as st

from bnexport.checkpoint import Stored, open_checkpoint
from bnexport.checkpoint.ordered_code import slice_key
from bnexport.errors import CheckpointError, CorruptCheckpoint
from bnexport.program import PIECE_BYTES, materialize, parts, pieces


def laid_out(folder, files):
    for name, content in files.items():
        (Path(folder) / name).write_bytes(content)
    return Path(folder) / "m"


VERSION_2 = {"m.index": INDEX, "m.data-00000-of-00001": DATA}
FILES = [VERSION_2, {"m": VERSION_1}]


@pytest.mark.parametrize("files", FILES)
def test_golden(tmp_path, files):
    with open_checkpoint(laid_out(tmp_path, files)) as checkpoint:
        assert set(VALUES) - set(checkpoint) == (set() if "m.index" in files else {"half", "none"})
        for name in checkpoint:
            assert same(name, checkpoint.read(name))
            assert same(name, materialize(checkpoint.stored(name)))


def read_all(files):
    """Every tensor of a checkpoint in both ways of reading it, and the errors in place of those that cannot be read."""
    with tempfile.TemporaryDirectory() as folder, open_checkpoint(laid_out(folder, files)) as checkpoint:
        ways = {"read": checkpoint.read, "stored": lambda name: materialize(checkpoint.stored(name))}
        return {(name, way): values_or_error(read, name) for name in checkpoint for way, read in ways.items()}


def values_or_error(read, name):
    try:
        return read(name)
    except CheckpointError as error:
        assert "\n" not in str(error)
        return error


@st.composite
def damage(draw):
    """A checkpoint in which one file has bytes changed, put in, cut out, or its end cut off."""
    files = dict(draw(st.sampled_from(FILES)))
    name = draw(st.sampled_from(sorted(files)))
    content = bytearray(files[name])
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(content) - 1))
        kind = draw(st.sampled_from(["change", "flip", "cut", "insert", "truncate"]))
        if kind == "change":
            content[at] = draw(st.integers(0, 255))
        elif kind == "flip":
            content[at] ^= 1 << draw(st.integers(0, 7))
        elif kind == "cut":
            del content[at : at + draw(st.integers(1, 20))]
        elif kind == "insert":
            content[at:at] = draw(st.binary(min_size=1, max_size=20))
        else:
            del content[at:]
        if not content:
            break
    return files | {name: bytes(content)}


@given(damage())
@settings(max_examples=600, deadline=None)
def test_damage_gives_an_error_or_the_values_that_were_saved(files):
    try:
        found = read_all(files)
    except CheckpointError as error:
        assert "\n" not in str(error)
        return
    assert {name for name, _ in found} <= set(VALUES)
    for (name, _), values in found.items():
        assert isinstance(values, CheckpointError) or same(name, values)


@pytest.mark.parametrize("files", FILES)
def test_every_length_of_every_file(files):
    for name, content in files.items():
        for length in range(0, len(content), 7):
            try:
                found = read_all(files | {name: content[:length]})
            except CheckpointError:
                continue
            assert all(isinstance(values, CheckpointError) or same(one, values) for (one, _), values in found.items())


SIZES = st.one_of(st.integers(-2, 9), st.sampled_from([2**31, 2**62, 2**63 - 1, -(2**63)]))
EXTENT = st.tuples(SIZES, st.one_of(st.just(-1), SIZES))


def extents(box):
    return [message(1, number(1, start), *([] if length == -1 else [number(2, length)])) for start, length in box]


@st.composite
def forged_bundle(draw):
    """An index whose checksums are right and whose entries say anything at all."""
    data = draw(st.binary(max_size=40))
    entries = {b"": header(draw(st.sampled_from([1, 1, 1, 0, -1, 2, 2**31 - 1])), draw(st.booleans()))}
    for name in draw(st.lists(st.sampled_from([b"a", b"b", b"\xff", b"_CHECKPOINTABLE_OBJECT_GRAPH"]), max_size=3)):
        sizes = draw(st.lists(SIZES, max_size=4) | st.just([1] * 40))
        offset = draw(SIZES)
        size = draw(st.sampled_from([None, int(abs(np.prod(sizes, dtype=object)))]) | SIZES)
        dtype = draw(st.sampled_from([1, 2, 3, 7, 9, 10, 14, 20, 21, 26, 29]) | st.integers(-3, 140))
        boxes = draw(st.lists(st.lists(EXTENT, max_size=3), max_size=3)) if draw(st.booleans()) else []
        crc = masked(data[max(0, offset) :][: len(data) if size is None else max(0, size)])
        entries[name] = entry(dtype, sizes, data, offset, draw(st.sampled_from([0, 0, 0, 1, -1])), size, crc)
        entries[name] += b"".join(message(7, *extents(box)) for box in boxes)
        for box in boxes:
            entries[slice_key(name, box)] = entry(dtype, [length for _, length in box], data, offset, 0, size, crc)
    return {"m.index": table(entries, per_block=draw(st.integers(1, 9))), "m.data-00000-of-00001": data}


@given(forged_bundle())
@settings(max_examples=300, deadline=None)
def test_forged_bundles(files):
    try:
        found = read_all(files)
    except CheckpointError:
        return
    for values in found.values():
        if isinstance(values, np.ndarray) and values.dtype != object:
            # What was read was there to be read.
            assert values.nbytes <= 3 * len(files["m.data-00000-of-00001"])


@st.composite
def forged_version_1(draw):
    entries, meta = {}, b""
    for name in draw(st.lists(st.sampled_from([b"a", b"b"]), max_size=3)):
        boxes = draw(st.lists(st.lists(EXTENT, max_size=2), min_size=1, max_size=2))
        dtype = draw(st.sampled_from([1, 3, 7, 9, 14, 19]) | st.integers(-1, 140))
        sizes = draw(st.lists(SIZES, max_size=3))
        meta += message(1, message(1, name), message(2, shape(*sizes)), number(3, dtype), *[message(4, *extents(box)) for box in boxes])
        for box in boxes:
            values = draw(st.binary(max_size=24))
            tensor = message(draw(st.sampled_from([5, 7, 8, 13, 3, 5])), values) + draw(st.binary(max_size=2))
            entries[slice_key(name, box)] = message(2, message(1, name), message(3, tensor)) + draw(st.binary(max_size=2))
    return {"m": table({b"": message(1, meta)} | entries)}


@given(forged_version_1())
@settings(max_examples=300, deadline=None)
def test_forged_version_1(files):
    try:
        found = read_all(files)
    except CheckpointError:
        return
    for values in found.values():
        if isinstance(values, np.ndarray) and values.dtype != object:
            assert values.size <= 2 * len(files["m"])


def forged(tmp_path, entries, data=b"", head=None):
    return laid_out(tmp_path, {"m.index": table({b"": head or header()} | entries), "m.data-00000-of-00001": data})


FOUR = struct.pack("<f", 1)


@pytest.mark.parametrize(
    ("entries", "message_"),
    [
        ({b"x": entry(1, [2**40, 2**20], b"", size=2**62)}, r"data-00000-of-00001 has 4 bytes where at least 4611686018427387904 were expected"),
        ({b"x": entry(1, [2**62, 2**62], b"")}, r"'x': no array can have its shape"),
        ({b"x": entry(1, [0, 2**62], b"")}, r"'x': no array can have its shape"),
        ({b"x": entry(1, [1] * 33, FOUR)}, r"'x': no array can have its shape"),
        ({b"x": entry(1, [-1], FOUR)}, r"'x': its shape \[-1\] is not known"),
        ({b"x": entry(1, [], FOUR) + message(2, number(3, 1))}, r"'x': its shape \[\] is not known"),
        ({b"x": entry(1, [2], FOUR)}, r"'x': 4 bytes are not the size of shape \[2\] and type float32"),
        ({b"x": entry(1, [1], FOUR, offset=-1)}, r"'x' is said to lie at -1 with 4 bytes"),
        ({b"x": entry(1, [1], FOUR, offset=2**63 - 1)}, r"where at least 9223372036854775811 were expected"),
        ({b"x": entry(1, [1], FOUR, shard=3)}, r"'x' lies in data file 3 of 1"),
        ({b"x": entry(99, [1], FOUR)}, r"'x': 99 is not the number of a type that TensorFlow has"),
        ({b"x": entry(7, [2**50], FOUR)}, r"'x': 4 bytes cannot hold the 1125899906842624 elements"),
        ({b"x": entry(7, [1], FOUR)}, r"'x': its strings do not have the size of the entry"),
        ({b"x": b"\xff\xff"}, r"an entry is not a BundleEntryProto"),
        ({b"x": entry(1, [1], b"", size=0) + message(7, *extents([(0, 1)]))}, r"'x': a slice has no entry of its own"),
        (
            {b"x": entry(1, [2], b"", size=0) + message(7, *extents([(0, 1)])), slice_key(b"x", [(0, 1)]): entry(1, [1], FOUR)},
            r"'x': the slices hold 1 of the elements",
        ),
        (
            {b"x": entry(1, [2**40], b"", size=0) + message(7, *extents([(0, 2**40)])), slice_key(b"x", [(0, 2**40)]): entry(1, [2**40], FOUR)},
            r"'x': 4 bytes are not the size of shape \[1099511627776\]",
        ),
        (
            {b"x": entry(1, [1], b"", size=0) + message(7, *extents([(0, 1)])), slice_key(b"x", [(0, 1)]): entry(3, [1], FOUR)},
            r"'x': a slice of shape \[1\] and type float32 has an entry of \[1\] and int32",
        ),
        (
            {b"x": entry(1, [1], b"", size=0) + message(7, *extents([(0, 2)])), slice_key(b"x", [(0, 2)]): entry(1, [1], FOUR)},
            r"'x': a slice takes 0 to 2 of a dimension of 1",
        ),
        (
            {b"x": entry(1, [1], b"", size=0) + message(7, *extents([(0, 1)] * 2)), slice_key(b"x", [(0, 1)] * 2): entry(1, [1, 1], FOUR)},
            r"'x': a slice has 2 dimensions where the variable has 1",
        ),
    ],
)
def test_contradictions_of_an_index(tmp_path, entries, message_):
    path = forged(tmp_path, entries, FOUR)
    with pytest.raises(CorruptCheckpoint, match=message_) as raised, open_checkpoint(path) as checkpoint:
        checkpoint.read("x")
    with pytest.raises(CorruptCheckpoint, match=message_), open_checkpoint(path) as checkpoint:
        materialize(checkpoint.stored("x"))
    assert "copy it again" in str(raised.value) or "wrote" in str(raised.value)


def test_overlapping_slices(tmp_path):
    boxes = [[(0, 2)], [(1, 2)], [(3, 1)]]
    entries = {slice_key(b"x", box): entry(1, [box[0][1]], FOUR * box[0][1]) for box in boxes}
    entries[b"x"] = entry(1, [4], b"", size=0) + b"".join(message(7, *extents(box)) for box in boxes)
    with open_checkpoint(forged(tmp_path, entries, FOUR * 4)) as checkpoint, pytest.raises(CorruptCheckpoint, match="'x': two slices overlap"):
        checkpoint.read("x")


@pytest.mark.parametrize(
    ("values", "at", "what"), [([b"ab", b"c"], 2, "string lengths of 'x'"), ([b"ab", b"c"], 7, "checksum of 'x'"), ([b"ab", b"c"], 1, "size")]
)
def test_damaged_strings(tmp_path, values, at, what):
    data, crc = strings(values)
    damaged = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
    path = forged(tmp_path, {b"x": entry(7, [2], data, crc=crc)}, damaged)
    with open_checkpoint(path) as checkpoint, pytest.raises(CorruptCheckpoint, match=what):
        checkpoint.read("x")


def test_strings_whose_lengths_do_not_end(tmp_path):
    data = b"\x80" * 4
    with (
        open_checkpoint(forged(tmp_path, {b"x": entry(7, [1], data)}, data)) as checkpoint,
        pytest.raises(CorruptCheckpoint, match="end inside a varint"),
    ):
        checkpoint.read("x")


def test_strings_that_nobody_wrote_the_checksum_of(tmp_path):
    """An empty string tensor that takes no bytes at all, which TensorFlow's reader allows, has no checksum of its lengths to compare."""
    with open_checkpoint(forged(tmp_path, {b"x": entry(7, [0], b"")})) as checkpoint, pytest.raises(CorruptCheckpoint, match="size of the entry"):
        checkpoint.read("x")


def test_a_damaged_array_is_not_given_out_whole(tmp_path):
    """The last piece does not arrive, so nobody who waits for all of them works with wrong values."""
    data = bytes(3 * PIECE_BYTES)
    path = forged(tmp_path, {b"x": entry(1, [3 * PIECE_BYTES // 4], data, crc=1)}, data)
    with open_checkpoint(path) as checkpoint:
        stored = checkpoint.stored("x")
        assert isinstance(stored, Stored)
        given = pieces(stored)
        assert next(given).size == next(given).size == PIECE_BYTES // 4
        with pytest.raises(CorruptCheckpoint, match="the checksum of 'x' does not match"):
            next(given)


@pytest.mark.parametrize("last", [0, 1, 2])
def test_a_damaged_array_that_is_shared_is_not_given_out_whole(tmp_path, last):
    """Whichever piece is read last, by whichever reader, does not arrive."""
    data = bytes(3 * PIECE_BYTES + 12)
    path = forged(tmp_path, {b"x": entry(1, [len(data) // 4], data, crc=1)}, data)
    with open_checkpoint(path) as checkpoint:
        stored = checkpoint.stored("x")
        assert isinstance(stored, Stored)
        ranges, readers = parts(stored), itertools.cycle(stored.readers(2))
        late = ranges.pop(last)
        for part in ranges:
            next(readers)(part, np.empty(len(part), np.float32))
        with pytest.raises(CorruptCheckpoint, match="the checksum of 'x' does not match"):
            next(readers)(late, np.empty(len(late), np.float32))


@pytest.mark.parametrize("streamed", [False, True])
def test_a_file_that_becomes_shorter_while_it_is_read(tmp_path, streamed):
    data = bytes(3 * PIECE_BYTES)
    path = forged(tmp_path, {b"x": entry(1, [3 * PIECE_BYTES // 4], data, crc=1)}, data)
    with open_checkpoint(path) as checkpoint:
        given = pieces(checkpoint.stored("x"))
        next(given)
        (tmp_path / "m.data-00000-of-00001").write_bytes(b"")
        with pytest.raises(CorruptCheckpoint, match="data-00000-of-00001 became shorter while it was read"):
            list(given) if streamed else checkpoint.read("x")


def test_a_folder_in_place_of_the_data(tmp_path):
    path = forged(tmp_path, {b"x": entry(1, [1], FOUR)})
    (tmp_path / "m.data-00000-of-00001").unlink()
    (tmp_path / "m.data-00000-of-00001").mkdir()
    with open_checkpoint(path) as checkpoint, pytest.raises(CheckpointError, match=r"data-00000-of-00001 cannot be read \(Is a directory\)"):
        checkpoint.read("x")


def test_a_type_that_is_newer_than_the_installed_ml_dtypes(tmp_path, monkeypatch):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    monkeypatch.delattr(ml_dtypes, "float8_e5m2")
    path = forged(tmp_path, {b"x": entry(24, [4], FOUR)}, FOUR)
    with open_checkpoint(path) as checkpoint, pytest.raises(CheckpointError, match="the type float8_e5m2 needs a newer ml_dtypes than"):
        checkpoint.read("x")


def test_an_object_graph_that_is_none(tmp_path):
    value = b"\xff\xff\xff"
    data, crc = strings([value])
    path = forged(tmp_path, {b"_CHECKPOINTABLE_OBJECT_GRAPH": entry(7, [], data, crc=crc)}, data)
    with open_checkpoint(path) as checkpoint, pytest.raises(CorruptCheckpoint, match="is not a TrackableObjectGraph"):
        checkpoint.object_graph()


def test_a_header_without_shards(tmp_path):
    with pytest.raises(CorruptCheckpoint, match="says that there are 0 data files"):
        open_checkpoint(forged(tmp_path, {b"x": entry(1, [1], FOUR)}, head=number(2, 0)))


def version_1(tmp_path, tensor, sizes=(4,), dtype=1):
    meta = message(1, message(1, message(1, b"x"), message(2, shape(*sizes)), number(3, dtype), message(4, message(1))))
    path = tmp_path / "old"
    path.write_bytes(table({b"": meta, slice_key(b"x", [(0, -1)]): message(2, message(1, b"x"), message(3, tensor))}))
    return open_checkpoint(path)


@pytest.mark.parametrize(
    ("tensor", "sizes", "dtype", "found"),
    [
        # A TensorProto elsewhere repeats its last value; TensorFlow's reader of version 1 takes it for damage, too.
        (message(5, FOUR), (4,), 1, r"a slice has 1 values where its shape \[4\] takes 4"),
        (message(5, FOUR * 5), (4,), 1, "a slice has 5 values"),
        (b"", (4,), 1, "a slice has 0 values"),
        (message(5, FOUR[:3]), (4,), 1, "the values end inside a number"),
        (message(7, b"\x80"), (1,), 3, "the data end inside a varint"),
        (message(5, FOUR), (2**45,), 1, "no file of this size can hold its shape"),
        (message(5, FOUR), (1, 1), 1, "a slice has 1 dimensions where the variable has 2"),
        (b"\x2b", (4,), 1, "field 5 has wire type 3"),
        (b"\x2a\x7f", (4,), 1, "field 5 reaches beyond its message"),
    ],
)
def test_contradictions_of_version_1(tmp_path, tensor, sizes, dtype, found):
    with version_1(tmp_path, tensor, sizes, dtype) as checkpoint, pytest.raises(CorruptCheckpoint, match=found):
        checkpoint.read("x")


@pytest.mark.parametrize(
    ("meta", "found"),
    [
        (b"\xff", "does not begin with a SavedTensorSlices message"),
        (message(1, *[message(1, message(1, b"x"), message(2, shape(size)), number(3, 1)) for size in (1, 2)]), "'x' has another shape or type here"),
        (message(1, message(2, number(2, 9))), "needs a reader of version 9"),
    ],
)
def test_metadata_of_version_1(tmp_path, meta, found):
    (tmp_path / "old").write_bytes(table({b"": meta}))
    with pytest.raises(CheckpointError, match=found):
        open_checkpoint(tmp_path / "old")


def test_a_slice_of_version_1_without_an_entry(tmp_path):
    meta = message(1, message(1, message(1, b"x"), message(2, shape(1)), number(3, 1), message(4, message(1))))
    (tmp_path / "old").write_bytes(table({b"": meta}))
    with open_checkpoint(tmp_path / "old") as checkpoint, pytest.raises(CorruptCheckpoint, match="a slice has no entry of its own"):
        checkpoint.read("x")


@pytest.mark.parametrize("dtype", [20, 21, 24])
def test_version_1_types_that_no_file_has(tmp_path, dtype):
    with version_1(tmp_path, b"", dtype=dtype) as checkpoint, pytest.raises(CheckpointError, match="which a version 1 file cannot hold"):
        checkpoint.read("x")


@pytest.mark.parametrize("packed", [True, False])
def test_version_1_packed_or_not(tmp_path, packed):
    """A parser must take both; early writers of other languages did not pack."""
    values = [1.0, -2.5, 3.0, float("inf")]
    stored = [struct.pack("<f", value) for value in values]
    tensor = message(5, *stored) if packed else b"".join(b"\x2d" + one for one in stored)
    with version_1(tmp_path, tensor) as checkpoint:
        assert checkpoint.read("x").tolist() == values
    numbers = [1, -1, 2**31 - 1, -(2**31)]
    tensor = message(7, *map(varint, numbers)) if packed else b"".join(number(7, one) for one in numbers)
    with version_1(tmp_path, tensor, dtype=3) as checkpoint:
        assert checkpoint.read("x").tolist() == numbers


def test_an_index_is_not_a_version_1_file(tmp_path):
    (tmp_path / "renamed.bin").write_bytes(INDEX)
    with pytest.raises(CorruptCheckpoint, match=r"renamed\.bin is a table without .*: if it is the index of one of version 2, name it PREFIX\.index"):
        open_checkpoint(tmp_path / "renamed.bin")
    (tmp_path / "empty").write_bytes(table({b"x": b""}))
    with pytest.raises(CorruptCheckpoint, match="empty is a table without the metadata of a version 1 checkpoint"):
        open_checkpoint(tmp_path / "empty")


def test_the_golden_bytes_have_the_checksums_of_the_forge():
    """The forge's table of checksums against one that TensorFlow wrote: the first data block of the version 1 file."""
    size = 0x1CD
    block = VERSION_1[: size + 1]
    assert VERSION_1[size + 1 : size + 5] == struct.pack("<I", masked(block))
    assert fixed32(6, crc32c(b""))[1:] == bytes(4)
