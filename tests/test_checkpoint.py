"""Checkpoints that a live TensorFlow writes, compared with what it reads back, bit for bit."""

import itertools
import os
import warnings

import numpy as np
import pytest
from checkpoint_forge import write_bundle

from bnexport.checkpoint import Checkpoint, open_checkpoint
from bnexport.errors import CheckpointError, TensorNotFound
from bnexport.program import PIECE_BYTES, Array, materialize, parts, pieces

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    tf = pytest.importorskip("tensorflow", reason="compares with a live TensorFlow")

pytestmark = [pytest.mark.tensorflow, pytest.mark.filterwarnings("ignore::DeprecationWarning")]
v1 = tf.compat.v1

RNG = np.random.default_rng(0)
NUMERIC = [
    "float16",
    "float32",
    "float64",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "bool",
    "complex64",
    "complex128",
]
SMALL = [
    "bfloat16",
    "float8_e5m2",
    "float8_e4m3fn",
    "float8_e4m3fnuz",
    "float8_e4m3b11fnuz",
    "float8_e5m2fnuz",
    "int4",
    "uint4",
    "int2",
    "uint2",
    "float4_e2m1fn",
]
QUANTISED = {"qint8": "int8", "quint8": "uint8", "qint16": "int16", "quint16": "uint16", "qint32": "int32"}


def save(prefix, tensors, slices=None):
    names = list(tensors)
    tf.raw_ops.SaveV2(
        prefix=str(prefix),
        tensor_names=tf.constant(names, tf.string),
        shape_and_slices=tf.constant(slices or [""] * len(names)),
        tensors=[tf.convert_to_tensor(value) for value in tensors.values()],
    )
    return prefix


def same_bits(ours, theirs):
    theirs = np.asarray(theirs, object if isinstance(theirs, bytes) else None)
    assert ours.dtype == theirs.dtype
    assert ours.shape == theirs.shape
    if ours.dtype == object:
        assert ours.tolist() == theirs.tolist()
        assert all(type(value) is bytes for value in ours.flat)
    else:
        assert ours.tobytes() == theirs.tobytes()
    return True


def same_checkpoint(path, expected_names=None):
    """Every tensor of a checkpoint in every way of reading it; returns the names."""
    theirs = tf.train.load_checkpoint(str(path))
    with open_checkpoint(path) as ours:
        names = [name for name, _ in tf.train.list_variables(str(path))]
        assert ours.names() == names
        assert len(ours) == len(names)
        for name in names:
            expected = theirs.get_tensor(name)
            info = ours.info(name)
            array = ours.read(name)
            assert same_bits(array, expected)
            assert (info.name, info.shape, info.dtype) == (name, array.shape, array.dtype)
            assert array.flags.writeable
            stored = ours.stored(name)
            assert isinstance(stored, Array)
            assert (stored.shape, stored.dtype) == (info.shape, info.dtype)
            assert same_bits(materialize(stored), expected)
            if array.dtype != object:
                assert info.nbytes == array.nbytes
    return names


def any_bits(dtype, shape):
    """All bit patterns, signalling NaNs among them."""
    dtype = np.dtype(dtype)
    if dtype.kind == "b":
        return RNG.integers(0, 2, shape).astype(bool)
    return np.frombuffer(RNG.bytes(int(np.prod(shape)) * dtype.itemsize), dtype).reshape(shape)


def test_numeric_types(tmp_path):
    tensors = {
        f"{dtype}/{rank}": any_bits(dtype, (3, 0, 2, 5)[:rank] if rank == 2 else (4, 3, 2, 5)[:rank]) for dtype in NUMERIC for rank in range(5)
    }
    assert len(same_checkpoint(save(tmp_path / "model.ckpt", tensors))) == 70


@pytest.mark.parametrize("name", SMALL)
def test_types_that_numpy_does_not_have(tmp_path, name):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    dtype = np.dtype(getattr(ml_dtypes, name))
    values = np.arange(8).astype(dtype) if dtype.itemsize == 1 and "float8" not in name else any_bits(dtype, (64,))
    if name == "bfloat16":
        values = np.arange(1 << 16, dtype=np.uint16).view(dtype)
    same_checkpoint(save(tmp_path / "m", {"x": values, "scalar": values[3]}))


@pytest.mark.parametrize(("name", "stored"), QUANTISED.items())
def test_quantised_types(tmp_path, name, stored):
    same_checkpoint(save(tmp_path / "m", {"x": tf.bitcast(any_bits(stored, (5, 7)), getattr(tf, name))}))


def test_strings(tmp_path):
    long = [b"x" * 127, b"y" * 128, bytes(range(256)) * 80, b""]
    tensors = {"scalar": tf.constant(b"\xff\x00"), "empty": tf.constant([], tf.string), "grid": tf.constant([["a", "ü"], ["", "ab"]])}
    same_checkpoint(save(tmp_path / "m", tensors | {"long": tf.constant(long), "many": tf.constant([str(n) for n in range(1000)]), "after": 1.0}))


def test_names(tmp_path):
    names = ["a", "a/b", "a/b/c" * 50, "é/ß", "A", "_x", "ab", "a b", "x" * 300]
    assert same_checkpoint(save(tmp_path / "m", {name: np.float32(len(name)) for name in names})) == sorted(names)


def test_every_block_of_a_large_index(tmp_path):
    tensors = {f"some/scope/layer_{n}/weights_{n % 7}": np.float32(n) for n in range(9000)}
    save(tmp_path / "model.ckpt", tensors)
    assert (tmp_path / "model.ckpt.index").stat().st_size > 1 << 18
    theirs = tf.train.load_checkpoint(str(tmp_path / "model.ckpt"))
    with open_checkpoint(tmp_path) as ours:
        assert ours.names() == sorted(tensors) == sorted(theirs.get_variable_to_shape_map())
        assert all(ours.read(name) == value for name, value in tensors.items())


def test_arrays_of_many_pieces(tmp_path):
    tensors = {"odd": any_bits("float32", (PIECE_BYTES // 4 * 3 + 17,)), "even": any_bits("complex128", (PIECE_BYTES // 8,)), "after": np.int8(1)}
    same_checkpoint(save(tmp_path / "m", tensors))
    with open_checkpoint(tmp_path / "m") as ours:
        for name in tensors:
            stored = ours.stored(name)
            ranges, sizes = parts(stored), [piece.nbytes for piece in pieces(stored)]
            assert sizes == [len(part) * stored.dtype.itemsize for part in ranges]
            assert max(sizes) <= PIECE_BYTES
            assert np.concatenate([piece.copy() for piece in pieces(stored)]).tobytes() == tensors[name].tobytes()
            # Several readers, each of which takes what the others left, in any order.
            readers = itertools.cycle(stored.readers(3))
            read = {part.start: next(readers)(part, np.empty(len(part), stored.dtype)) for part in reversed(ranges)}
            assert np.concatenate([read[part.start] for part in ranges]).tobytes() == tensors[name].tobytes()
        # Two streams of one array at different places do not disturb each other.
        first, second = pieces(ours.stored("even")), pieces(ours.stored("even"))
        ahead = next(first).copy()
        next(first)
        assert ahead.tobytes() == next(second).tobytes()


def in_shards(folder, prefixes, **shards):
    """One checkpoint of a shard for each dict of tensors, as a sharded Saver writes it."""
    for prefix, (tensors, slices) in zip(prefixes, shards.values(), strict=True):
        save(prefix, tensors, slices)
    tf.raw_ops.MergeV2Checkpoints(checkpoint_prefixes=[str(prefix) for prefix in prefixes], destination_prefix=str(folder / "model.ckpt-7"))
    return folder / "model.ckpt-7"


def test_two_shards(tmp_path):
    one = {f"a{n}": any_bits("float32", (n, 3)) for n in range(5)}
    two = {f"b{n}": any_bits("int64", (n,)) for n in range(5)}
    prefix = in_shards(tmp_path, [tmp_path / "p0", tmp_path / "p1"], one=(one, None), two=(two, None))
    assert (tmp_path / "model.ckpt-7.data-00001-of-00002").exists()
    assert same_checkpoint(prefix) == sorted([*one, *two])


def test_slices_in_any_order_and_in_several_shards(tmp_path):
    whole = any_bits("float32", (200, 9000))
    # Starts and lengths of one, two and three bytes of OrderedCode; `-` for all of a dimension.
    boxes = [(slice(70, 200), slice(0, 9000)), (slice(0, 70), slice(8500, 9000)), (slice(0, 70), slice(0, 8500))]
    specs = ["70,130:-", "0,70:8500,500", "0,70:0,8500"]
    for number, (box, spec) in enumerate(zip(boxes, specs, strict=True)):
        save(tmp_path / f"p{number}", {"w": whole[box], f"other{number}": np.float32(number)}, [f"200 9000 {spec}", ""])
    tf.raw_ops.MergeV2Checkpoints(checkpoint_prefixes=[str(tmp_path / f"p{n}") for n in (1, 0, 2)], destination_prefix=str(tmp_path / "m"))
    assert same_checkpoint(tmp_path / "m") == ["other0", "other1", "other2", "w"]
    with open_checkpoint(tmp_path / "m") as ours:
        assert same_bits(ours.read("w"), whole)
        assert ours.info("w").nbytes == whole.nbytes


def test_slices_of_types_that_tensorflow_itself_cannot_put_together(tmp_path):
    for number, half in enumerate(np.split(any_bits("float16", (6, 2)), 2)):
        save(tmp_path / f"p{number}", {"w": half, "s": np.array([b"%d" % number])}, [f"6 2 {3 * number},3:-", f"2 {number},1"])
    tf.raw_ops.MergeV2Checkpoints(checkpoint_prefixes=[str(tmp_path / "p0"), str(tmp_path / "p1")], destination_prefix=str(tmp_path / "m"))
    with open_checkpoint(tmp_path / "m") as ours:
        assert ours.info("w").shape == (6, 2)
        assert ours.read("s").tolist() == [b"0", b"1"]
        assert ours.read("w").dtype == np.float16


def test_slices_that_leave_a_hole(tmp_path):
    save(tmp_path / "m", {"w": np.zeros((3, 2), np.float32)}, ["5 2 0,3:-"])
    with (
        open_checkpoint(tmp_path / "m") as ours,
        pytest.raises(CheckpointError, match=r"'w': the slices hold 6 of the elements of a variable of shape \[5, 2\]"),
    ):
        ours.read("w")


def saver_checkpoint(folder, version, build, **options):
    with tf.Graph().as_default(), v1.Session() as session:
        build()
        session.run(v1.global_variables_initializer())
        return v1.train.Saver(write_version=version, **options).save(session, str(folder / "model.ckpt"), global_step=3)


def partitioned():
    for use_resource in (False, True):
        for axis in (0, 1):
            with v1.variable_scope(f"scope_{use_resource}_{axis}", use_resource=use_resource):
                partitioner = v1.fixed_size_partitioner(3, axis)
                v1.get_variable("w", [10, 7], partitioner=partitioner, initializer=v1.random_normal_initializer(seed=1))
    v1.get_variable("plain", [4], initializer=v1.random_normal_initializer(seed=2))
    v1.get_variable("step", dtype=tf.int64, initializer=np.int64(-5))
    v1.get_variable("flag", dtype=tf.bool, initializer=True)


def test_saver(tmp_path):
    prefix = saver_checkpoint(tmp_path, v1.train.SaverDef.V2, partitioned)
    assert same_checkpoint(prefix) == ["flag", "plain", "scope_False_0/w", "scope_False_1/w", "scope_True_0/w", "scope_True_1/w", "step"]
    with open_checkpoint(tmp_path) as ours:
        assert str(ours.prefix) == prefix
        assert ours.location.meta == tmp_path / "model.ckpt-3.meta"
        assert ours.object_graph() is None
        assert ours.variable_keys() == {}


def test_version_1(tmp_path):
    values = {dtype: any_bits(dtype, (3, 5)) for dtype in ["float32", "float64", "int8", "int16", "int32", "int64", "uint8", "bool"]}
    values |= {
        "scalar": np.float32(2.5),
        "none": np.zeros((0, 4), np.float32),
        "big": any_bits("float32", (300, 400)),
        "text": np.array([b"a", b"", b"\xff"]),
    }
    v1_save(tmp_path / "old.ckpt", values)
    same_checkpoint(tmp_path / "old.ckpt")


def v1_save(path, values):
    tf.raw_ops.Save(filename=str(path), tensor_names=list(values), data=list(values.values()))


@pytest.mark.parametrize("dtype", ["float16", "uint16", "complex64", "complex128"])
def test_version_1_types_that_tensorflow_writes_and_does_not_read(tmp_path, dtype):
    value = any_bits(dtype, (3, 5))
    v1_save(tmp_path / "old", {"x": value})
    with open_checkpoint(tmp_path / "old") as ours:
        assert same_bits(ours.read("x"), value)


@pytest.mark.parametrize("dtype", ["qint8", "quint8", "qint32"])
def test_version_1_quantised(tmp_path, dtype):
    value = any_bits(QUANTISED[dtype], (9,))
    v1_save(tmp_path / "old", {"x": tf.bitcast(value, getattr(tf, dtype))})
    with open_checkpoint(tmp_path / "old") as ours:
        assert same_bits(ours.read("x"), value)


def test_version_1_partitioned(tmp_path):
    """TensorFlow's reader refuses slices in version 1, so the same network in version 2 is what it should be."""
    names = same_checkpoint(saver_checkpoint(tmp_path, v1.train.SaverDef.V2, partitioned))
    (tmp_path / "old").mkdir()
    prefix = saver_checkpoint(tmp_path / "old", v1.train.SaverDef.V1, partitioned)
    with open_checkpoint(prefix) as old, open_checkpoint(tmp_path) as new:
        assert old.location.version == 1
        assert old.names() == new.names() == names
        for name in names:
            assert old.info(name).shape == new.info(name).shape
            assert old.read(name).tobytes() == new.read(name).tobytes()


def test_version_1_in_shards(tmp_path):
    def on_two_devices():
        for device in (0, 1):
            with tf.device(f"/job:localhost/replica:0/task:0/cpu:{device}"):
                v1.get_variable(f"w{device}", [3, 2], initializer=v1.random_normal_initializer(seed=device))

    with tf.Graph().as_default(), v1.Session(config=v1.ConfigProto(device_count={"CPU": 2})) as session:
        on_two_devices()
        session.run(v1.global_variables_initializer())
        saver = v1.train.Saver(write_version=v1.train.SaverDef.V1, sharded=True)
        pattern = saver.save(session, str(tmp_path / "model.ckpt"), global_step=3)
    shards = sorted(tmp_path.glob("model.ckpt-3-*"))
    assert [shard.name for shard in shards] == ["model.ckpt-3-00000-of-00002", "model.ckpt-3-00001-of-00002"]
    theirs = tf.train.load_checkpoint(pattern)
    for path in (tmp_path, tmp_path / "model.ckpt-3", *shards, pattern):
        with open_checkpoint(path) as ours:
            assert ours.location.files == tuple(shards)
            assert ours.names() == ["w0", "w1"]
            assert all(same_bits(ours.read(name), theirs.get_tensor(name)) for name in ours)
    shards[1].unlink()
    with pytest.raises(CheckpointError, match=r"model\.ckpt-3-00000-of-00002 is one of several files"):
        open_checkpoint(shards[0])


def test_object_based(tmp_path):
    class Layer(tf.Module):
        def __init__(self):
            super().__init__()
            self.kernel = tf.Variable(any_bits("int32", (3, 2)), name="dense/kernel")
            self.parts = {"a/b": tf.Variable(1.0, name="same"), ".": tf.Variable(2.0, name="same")}

    path = tf.train.Checkpoint(layer=Layer()).save(tmp_path / "ckpt")
    same_checkpoint(path)
    with open_checkpoint(tmp_path) as ours:
        keys = ours.variable_keys()
        assert keys["layer/kernel"] == keys["dense/kernel"] == "layer/kernel/.ATTRIBUTES/VARIABLE_VALUE"
        assert keys["layer/parts/a/b"] == "layer/parts/a.Sb/.ATTRIBUTES/VARIABLE_VALUE"
        assert keys["layer/parts/."] == "layer/parts/../.ATTRIBUTES/VARIABLE_VALUE"
        assert "same" not in keys
        assert [child.local_name for child in ours.object_graph().nodes[0].children] == ["layer", "save_counter"]


def test_saved_model(tmp_path):
    module = tf.Module()
    module.w = tf.Variable(any_bits("int32", (3, 2)))
    tf.saved_model.save(module, str(tmp_path / "export"))
    same_checkpoint(tmp_path / "export" / "variables" / "variables")
    for path in ("", "saved_model.pb", "variables", "variables/variables.index", "variables/variables"):
        with open_checkpoint(tmp_path / "export" / path) as ours:
            assert ours.location.saved_model == tmp_path / "export" / "saved_model.pb"
            assert "w/.ATTRIBUTES/VARIABLE_VALUE" in ours


@pytest.mark.parametrize("snappy", [False, True])
@pytest.mark.parametrize("big_endian", [False, True])
def test_what_todays_writers_do_not_write(tmp_path, big_endian, snappy):
    """Compressed blocks, and the byte order of another machine; TensorFlow reads both."""
    numbers = {dtype: tf.as_dtype(dtype).as_datatype_enum for dtype in [*NUMERIC, "bfloat16"] if dtype not in ("uint32", "uint64")}
    arrays = {f"x/{dtype}": (code, any_bits(tf.as_dtype(dtype).as_numpy_dtype, (4, 3))) for dtype, code in numbers.items()}
    arrays |= {f"y/{n}": (1, any_bits("float32", (n,))) for n in range(60)} | {"big": (1, any_bits("float32", (PIECE_BYTES,)))}
    arrays["text"] = (7, np.array([b"a", b"", b"xyz" * 100], object))
    if big_endian:
        # NumPy cannot write it in another byte order, and its bits can.
        arrays["x/bfloat16"] = (14, arrays["x/bfloat16"][1].view(np.uint16))
    write_bundle(tmp_path / "m", arrays, big_endian, snappy=snappy)
    assert len(same_checkpoint(tmp_path / "m")) == len(arrays)
    with open_checkpoint(tmp_path) as ours:
        assert ours.read("big").tobytes() == arrays["big"][1].tobytes()
        assert ours.read("text").tolist() == [b"a", b"", b"xyz" * 100]


def test_variants_are_listed_and_not_read(tmp_path):
    handle = tf.raw_ops.EmptyTensorList(element_shape=tf.constant([], tf.int32), max_num_elements=3, element_dtype=tf.float32)
    save(tmp_path / "m", {"list": handle, "x": np.float32(1)})
    with open_checkpoint(tmp_path) as ours:
        assert ours.names() == ["list", "x"]
        assert ours.info("list").dtype == object
        with pytest.raises(CheckpointError, match=r"'list' in .*m\.index is a DT_VARIANT, which has no values to read"):
            ours.read("list")


def test_a_name_that_is_not_there(tmp_path):
    save(tmp_path / "m", {"layer/kernel": np.float32(1), "other": np.float32(1)})
    with open_checkpoint(tmp_path) as ours:
        assert isinstance(ours, Checkpoint)
        assert "layer/kernel" in ours
        assert "layer/kernels" not in ours
        for method in (ours.read, ours.info, ours.stored):
            with pytest.raises(TensorNotFound, match="has no tensor 'layer/kernels': did you mean 'layer/kernel'"):
                method("layer/kernels")
        with pytest.raises(TensorNotFound, match="has no tensor 'zzz': it holds 2 others"):
            ours.read("zzz")
