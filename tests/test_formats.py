"""Bundles: what is written is read back bit for bit, by NumPy, zipfile and h5py too, and what was damaged is refused by name."""

import errno
import json
import os
import signal
import stat
import subprocess
import sys
import threading
import zipfile
import zlib
from pathlib import Path

import h5py
import numpy as np
import pytest

from bnexport.arrays import Folded
from bnexport.errors import BadStatistics, BundleError, CorruptBundle, UsageError
from bnexport.formats import archive, read_bundle, write_bundle, writing
from bnexport.formats.manifest import DTYPES
from bnexport.program import PIECE_BYTES, InMemory, Layer, Literal, Port, Program, materialize

SUFFIXES = [".npz", ".h5"]


def dense(name, source, kernel, bias, **more):
    return Layer(name, "Dense", [source], arrays={"kernel": InMemory(kernel), "bias": InMemory(bias)}, **more)


def network():
    rng = np.random.default_rng(0)
    first = dense(
        "hidden/dense", "x", rng.standard_normal((3, 4)).astype("f4"), np.zeros(4, "f4"), activation="LeakyRelu", activation_attrs={"alpha": 0.2}
    )
    first.provenance = {"gamma": "bn/gamma", "epsilon": 1e-3, "epsilon_from": "graph", "clip": float("inf")}
    table = Layer("table", "Gather", ["@operand_0", "hidden/dense"], {"axis": 0}, {"operand_0": InMemory(np.arange(6, dtype="i8").reshape(2, 3))})
    split = Layer("split", "Split", [Literal(1, "int32"), "hidden/dense"], {"num_split": 2}, outputs=2)
    pad = Layer(
        "pad", "PadV2", ["split:1", Literal([[0, 0], [1, 1]], "int32"), Literal(float("-inf"), "float32")], {"T": "float32", "list": [1, 2.5, "é"]}
    )
    return Program(
        [Port("x", "x", (None, 3), "float32")],
        [first, table, split, pad],
        [Port("out", "pad", (None, 4), "float32"), Port("half", "split", (None, 2), "float32")],
        {"set": {"phase": False}, "dropped": ["Adam"], "learning_rate": float("nan")},
    )


def same(a, b):
    """Whether two programs are the same, NaN and the bits of the arrays included."""

    def shown(program):
        layers = [
            (k.name, k.op, k.inputs, k.attrs, k.activation, k.activation_attrs, k.provenance, k.outputs, list(k.arrays)) for k in program.layers
        ]
        return repr((program.inputs, program.outputs, program.conversion, layers))

    arrays = [[[materialize(v) for v in layer.arrays.values()] for layer in program.layers] for program in (a, b)]
    flat = [[array for layer in layers for array in layer] for layers in arrays]
    return shown(a) == shown(b) and all(p.shape == q.shape and p.dtype == q.dtype and p.tobytes() == q.tobytes() for p, q in zip(*flat, strict=True))


def order_free(program):
    for layer in program.layers:
        layer.arrays = dict(sorted(layer.arrays.items()))
        layer.provenance = dict(sorted(layer.provenance.items()))
        layer.attrs = dict(sorted(layer.attrs.items()))
    program.conversion = dict(sorted(program.conversion.items()))
    return program


def of_arrays(**arrays):
    """A program whose only purpose is to hold arrays."""
    layers = [Layer(name, "Const", ["@value"], arrays={"value": array}) for name, array in arrays.items()]
    return Program([], layers, [Port(name, name, tuple(array.shape), array.dtype.name) for name, array in arrays.items()])


class Streamed:
    """Values that come in the memory that is lent, which is used again as soon as the format allows it."""

    def __init__(self, values):
        self.values, self.shape, self.dtype = values, values.shape, values.dtype

    def readers(self, count):
        return [self.read] * count

    def read(self, part, buffer):
        buffer[:] = self.values.reshape(-1)[part.start : part.stop]
        return buffer


class StreamedInItsOwn(Streamed):
    """Values that come in memory of their own."""

    def read(self, part, buffer):
        buffer[:] = 0
        return super().read(part, np.empty_like(buffer))


@pytest.fixture(params=SUFFIXES)
def path(request, tmp_path):
    return tmp_path / f"out{request.param}"


def test_round_trip(path):
    write_bundle(path, network())
    got = read_bundle(path)
    assert same(order_free(got), order_free(network()))
    with pytest.raises(ValueError, match="read-only"):
        got.layers[0].arrays["kernel"].values[0, 0] = 1


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_and_shape(path, dtype):
    rng = np.random.default_rng(3)
    arrays = {
        f"a{len(shape)}_{k}": rng.integers(0, 2, shape).astype(dtype) for k, shape in enumerate([(), (0,), (1,), (7,), (2, 0, 3), (2, 3, 4, 5)])
    }
    write_bundle(path, of_arrays(**{k: InMemory(v) for k, v in arrays.items()}))
    got = {layer.name: layer.arrays["value"] for layer in read_bundle(path).layers}
    for name, values in arrays.items():
        assert got[name].dtype == values.dtype and got[name].shape == values.shape and (got[name].values == values).all()


def test_text(path):
    """Words stand in one width; h5py and NumPy read them as they are."""
    words = np.array([b"red", "grün".encode(), b"", b"a\0b", b"\xff"], "S")
    table = Layer(
        "table", "Lookup", ["x", "@keys", "@values", Literal("grün", "string")], arrays={"keys": InMemory(words), "values": InMemory(words)}
    )
    write_bundle(path, Program([Port("x", "x", (None,), "string")], [table], [Port("y", "table", (None,), "string")]))
    got = read_bundle(path)
    assert got.inputs[0].dtype == "string"
    assert got.layers[0].inputs[3] == Literal("grün", "string")
    keys = got.layers[0].arrays["keys"].values
    assert keys.dtype == words.dtype == np.dtype("S5")
    assert keys.tolist() == words.tolist()
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as file:
            assert file["table/keys"].tolist() == words.tolist()
            assert json.loads(file["manifest.json"])["arrays"]["table/keys"]["dtype"] == "S5"
    else:
        with h5py.File(path) as file:
            assert file["table/keys"][:].tolist() == words.tolist()


@pytest.mark.parametrize("dtype", ["S0", "S", "S05", "S5000000000", "U5", "string"])
def test_texts_of_no_width(tmp_path, dtype):
    path = tmp_path / "out.npz"
    write_bundle(path, network())
    edit(path, lambda manifest, members: manifest["arrays"][KERNEL].update(dtype=dtype))
    with pytest.raises(CorruptBundle, match=f"the array {KERNEL} is of dtype {dtype}, which a bundle does not hold"):
        read_bundle(path)


def test_bits_survive(path):
    bits = np.array([0x7F800001, 0xFFC12345, 0x80000000, 1], "u4").view("f4")
    write_bundle(path, of_arrays(bits=InMemory(bits)))
    assert read_bundle(path).layers[0].arrays["value"].values.tobytes() == bits.tobytes()


@pytest.mark.parametrize("size", [PIECE_BYTES // 4 + extra for extra in (-1, 0, 1, PIECE_BYTES // 4)])
def test_arrays_of_one_piece_and_a_little_more(path, size):
    values = np.random.default_rng(4).standard_normal(size).astype("f4")
    write_bundle(path, of_arrays(big=Streamed(values), small=InMemory(np.ones(3, "f4"))))
    big, small = (layer.arrays["value"].values for layer in read_bundle(path).layers)
    assert (big == values).all() and (small == 1).all()


def test_words_of_a_size_that_no_page_is_a_multiple_of(path):
    words = np.array([b"a\0b", b"words!!"] * (PIECE_BYTES // 7), "S7")
    program = of_arrays(words=InMemory(words))
    write_bundle(path, Program([], program.layers, [Port("words", "words", words.shape, "string")]))
    assert (read_bundle(path).layers[0].arrays["value"].values == words).all()


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("kind", [Streamed, StreamedInItsOwn, InMemory])
def test_what_threads_compute(path, monkeypatch, threads, kind):
    """Each piece is scaled by the factors of its own columns, whichever thread does it, and the bytes come in their order."""
    monkeypatch.setattr(writing, "cores", lambda: threads)
    monkeypatch.setattr(writing, "THREADS", threads)
    rng = np.random.default_rng(5)
    values, factor = rng.standard_normal((1900, 1013)).astype("f4"), rng.standard_normal((1, 1013))
    heard = []
    write_bundle(path, of_arrays(big=Folded(kind(values), factor, np.dtype("f4"), "big")), heard.append)
    assert sum(heard) == values.nbytes
    assert (read_bundle(path).layers[0].arrays["value"].values == (values * factor).astype("f4")).all()


def test_what_fails_in_a_thread(path):
    values = np.ones((1900, 1013), "f4")
    values[1234, 567] = np.inf
    with pytest.raises(BadStatistics, match="the kernel of dense holds values that are NaN or infinite"):
        write_bundle(path, of_arrays(big=Folded(InMemory(values), np.float64([[2.0]]), np.dtype("f4"), "the kernel of dense")))
    assert list(path.parent.iterdir()) == []


def test_large_finite_values_are_not_taken_for_infinite_ones(path):
    """The sum of their squares overflows."""
    values = np.full((3, 5), 3e38, "f4")
    write_bundle(path, of_arrays(big=Folded(InMemory(values), np.float64([[1.0]]), np.dtype("f4"), "big")))
    assert (read_bundle(path).layers[0].arrays["value"].values == values).all()


def test_other_byte_orders_and_strides(path):
    values = np.arange(12, dtype=">f8").reshape(3, 4)
    write_bundle(path, of_arrays(big_endian=InMemory(values), transposed=InMemory(values.T), wide=InMemory(np.arange(1 << 18, dtype=">f8"))))
    got = [layer.arrays["value"].values for layer in read_bundle(path).layers]
    assert (got[0] == values).all() and (got[1] == values.T).all() and got[1].shape == (4, 3) and (got[2] == np.arange(1 << 18)).all()


@pytest.mark.parametrize("yielded", [0, 99, 101])
@pytest.mark.parametrize("size", [100, PIECE_BYTES])
def test_an_array_that_yields_another_size(path, size, yielded):
    class Wrong(Streamed):
        def read(self, part, buffer):
            return np.zeros(len(part) * yielded // 100, buffer.dtype)

    with pytest.raises(BundleError, match=r"the array a/value yields \d+ elements where \d+ are asked for"):
        write_bundle(path, of_arrays(a=Wrong(np.zeros(size, "f4"))))
    assert list(path.parent.iterdir()) == []


def test_same_program_same_bytes(path):
    write_bundle(path, network())
    first = path.read_bytes()
    os.utime(path, (0, 0))
    script = "import sys; sys.path.insert(0, sys.argv[2]); from test_formats import *; write_bundle(sys.argv[1], network())"
    folder = str(Path(__file__).parent)
    subprocess.run([sys.executable, "-c", script, str(path), folder], check=True, env=os.environ | {"PYTHONHASHSEED": "7", "TZ": "Asia/Tokyo"})
    assert path.read_bytes() == first


def test_numpy_and_zipfile_read_it(tmp_path):
    path = tmp_path / "out.npz"
    write_bundle(path, network())
    with zipfile.ZipFile(path) as file:
        assert file.testzip() is None
        assert file.namelist() == ["hidden/dense/kernel.npy", "hidden/dense/bias.npy", "table/operand_0.npy", "manifest.json"]
        manifest = json.loads(file.read("manifest.json"))
        for info in file.infolist():
            assert info.compress_type == zipfile.ZIP_STORED and info.date_time == (1980, 1, 1, 0, 0, 0) and info.external_attr >> 16 == 0o100644
    with np.load(path, allow_pickle=False) as got:
        for layer in network().layers:
            for role, array in layer.arrays.items():
                assert (got[f"{layer.name}/{role}"] == array.values).all()
                assert manifest["arrays"][f"{layer.name}/{role}"]["crc32"] == f"{zlib.crc32(array.values.tobytes()):08x}"
    data = path.read_bytes()
    kernel = network().layers[0].arrays["kernel"].values.tobytes()
    assert data.index(kernel) % 64 == 0


def test_h5py_reads_it(tmp_path):
    for suffix in (".h5", ".hdf5"):
        write_bundle(tmp_path / f"out{suffix}", network())
        with h5py.File(tmp_path / f"out{suffix}") as file:
            assert (file["hidden/dense/kernel"][:] == network().layers[0].arrays["kernel"].values).all()
            assert json.loads(file.attrs["manifest"])["format"] == "bnexport"
            file["table/operand_0"][...]


def test_a_manifest_of_a_megabyte(path):
    program = network()
    program.conversion["notes"] = ["n" * 100] * 11_000
    write_bundle(path, program)
    assert read_bundle(path).conversion["notes"] == program.conversion["notes"]


def test_zip64(tmp_path, monkeypatch):
    """The limit from which 64-bit fields are written is lowered, so that a small file has them all."""
    monkeypatch.setattr(archive, "ZIP64_FROM", 500)
    monkeypatch.setattr(archive, "ZIP64_MEMBERS_FROM", 2)
    path = tmp_path / "out.npz"
    values = np.arange(1000, dtype="f4")
    write_bundle(path, of_arrays(a=InMemory(values), b=InMemory(values[:2]), c=InMemory(values[::-1])))
    assert b"PK\6\6" in path.read_bytes()
    with zipfile.ZipFile(path) as file:
        assert file.testzip() is None and len(file.namelist()) == 4
    with np.load(path) as got:
        assert (got["c/value"] == values[::-1]).all()
    assert (read_bundle(path).layers[2].arrays["value"].values == values[::-1]).all()


NAMES = [
    "..",
    "../up",
    "a//b",
    "/abs",
    "a b",
    "a\\b",
    "C:x",
    "%2e",
    "ünï",
    ".",
    "a/./b",
    "con",
    "a",
    "a/value",
    "a/value/value",
    "manifest.json",
    "x>y",
]


def test_names_that_no_path_can_have(path):
    write_bundle(path, of_arrays(**{name: InMemory(np.full(2, k)) for k, name in enumerate(NAMES)}))
    got = read_bundle(path)
    assert [(layer.name, layer.arrays["value"].values[0]) for layer in got.layers] == [(name, k) for k, name in enumerate(NAMES)]
    if path.suffix == ".npz":
        with zipfile.ZipFile(path) as file:
            assert len({name.lower() for name in file.namelist()}) == len(NAMES) + 1
            file.extractall(path.parent / "all")
        assert sum(len(files) for _, _, files in os.walk(path.parent)) == len(NAMES) + 2
        assert [p.name for p in path.parent.iterdir() if p.name not in ("all", path.name)] == []


# Refusals when writing


def changed(change):
    program = network()
    change(program)
    return program


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: p.layers.append(p.layers[0]), "two layers or inputs make the tensor hidden/dense"),
        (lambda p: p.layers.append(Layer("split:1", "Relu", ["x"])), "two layers or inputs make the tensor split:1"),
        (lambda p: p.layers.append(Layer("x", "Relu", ["x"])), "two layers or inputs make the tensor x"),
        (lambda p: p.layers.reverse(), "the layer pad uses the tensor split:1, which no input and no layer before it makes"),
        (lambda p: p.layers[1].arrays.clear(), "the layer table uses its array operand_0, which it does not have"),
        (lambda p: p.outputs.append(Port("o", "nowhere", (), "float32")), "the output o is the tensor nowhere, which no input and no layer makes"),
        (lambda p: p.outputs.append(p.outputs[0]), "two outputs are called out"),
        (lambda p: p.inputs.append(Port("z", "z", (), "complex64")), "the input z is of dtype complex64, which a bundle does not hold"),
        (lambda p: p.layers[0].attrs.update(f=print), "an attribute of the layer hidden/dense holds a value of type builtin_function_or_method"),
        (lambda p: p.layers[0].attrs.update(b=b"x"), "an attribute of the layer hidden/dense holds a value of type bytes"),
        (lambda p: p.layers[3].inputs.append(Literal(np.zeros((0, 2)), "int32")), "is empty in a shape that JSON cannot say"),
        (lambda p: p.layers[0].arrays.update(bias=InMemory(np.zeros(2, complex))), "the array hidden/dense/bias is of dtype complex128"),
    ],
)
def test_a_program_that_contradicts_itself_is_not_written(path, change, message):
    with pytest.raises(BundleError) as caught:
        write_bundle(path, changed(change))
    assert message in str(caught.value)
    assert list(path.parent.iterdir()) == []


def test_places_that_cannot_be_written(tmp_path):
    with pytest.raises(UsageError, match=r"suffix \.onnx; a bundle is written as one of \.npz, \.h5, \.hdf5$"):
        write_bundle(tmp_path / "out.onnx", network())
    with pytest.raises(BundleError, match="cannot be written: there is no folder"):
        write_bundle(tmp_path / "no" / "out.npz", network())
    (tmp_path / "folder.npz").mkdir()
    with pytest.raises(BundleError, match="is a folder; name the file to write"):
        write_bundle(tmp_path / "folder.npz", network())


@pytest.mark.parametrize(("size", "room"), [(10, 5), (20 * PIECE_BYTES, PIECE_BYTES), (20 * PIECE_BYTES, 7 * PIECE_BYTES + 1000)])
def test_a_disk_that_takes_a_part(path, size, room):
    """A failing write reaches the caller from another thread too, and ends the reading."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
    try:
        with pytest.raises(BundleError, match="cannot be written: File too large"):
            write_bundle(path, of_arrays(a=InMemory(np.zeros(size, "u1"))))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(path.parent.iterdir()) == []


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="the space is not taken beforehand here")
def test_space_that_cannot_be_taken(path, monkeypatch):
    values = np.arange(PIECE_BYTES)

    def refuse(code):
        def posix_fallocate(*_):
            raise OSError(code, os.strerror(code))

        monkeypatch.setattr(os, "posix_fallocate", posix_fallocate)

    refuse(errno.EOPNOTSUPP)
    write_bundle(path, of_arrays(a=InMemory(values)))
    assert (read_bundle(path).layers[0].arrays["value"].values == values).all()
    path.unlink()
    refuse(errno.ENOSPC)
    with pytest.raises(BundleError, match="cannot be written: No space left on device"):
        write_bundle(path, of_arrays(a=InMemory(values)))
    assert list(path.parent.iterdir()) == []


def test_what_was_there_stays_until_the_new_one_is_complete(path):
    class Failing(Streamed):
        def read(self, part, buffer):
            if part.stop == self.values.size:
                raise BundleError("the checkpoint is cut short")
            return super().read(part, buffer)

    path.write_text("before")
    with pytest.raises(BundleError, match="cut short"):
        write_bundle(path, of_arrays(a=Failing(np.zeros(PIECE_BYTES, "f4"))))
    assert path.read_text() == "before" and [p.name for p in path.parent.iterdir()] == [path.name]
    write_bundle(path, network())
    assert same(order_free(read_bundle(path)), order_free(network()))


@pytest.mark.skipif(os.name != "posix", reason="permission bits and links as POSIX has them")
def test_permissions_and_links(path):
    old = os.umask(0o027)
    try:
        write_bundle(path, network())
    finally:
        os.umask(old)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    link = path.with_stem("link")
    link.symlink_to(path)
    path.write_bytes(b"")
    write_bundle(link, network())
    assert link.is_symlink() and path.stat().st_size > 0


# Refusals when reading


def edit(path, change):
    """Rewrites a .npz bundle with a changed manifest or changed members, by zipfile, checksums of the archive included."""
    with zipfile.ZipFile(path) as file:
        members = {name: file.read(name) for name in file.namelist()}
    manifest = json.loads(members["manifest.json"])
    change(manifest, members)
    if "manifest.json" in members and members["manifest.json"] is not None:
        members["manifest.json"] = json.dumps(manifest).encode()
    with zipfile.ZipFile(path, "w") as file:
        for name, data in members.items():
            file.writestr(name, data)


KERNEL = "hidden/dense/kernel"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m, z: m.update(version=2), "the bundle is of version 2, and this bnexport reads version 1"),
        (lambda m, z: m.update(format="other"), 'its "format" is not "bnexport"'),
        (lambda m, z: m.pop("layers"), 'the manifest has no "layers"'),
        (lambda m, z: m.update(layers=3), '"layers" of the manifest is 3 in the manifest, not of type list'),
        (lambda m, z: m["layers"][0].pop("op"), 'the layer hidden/dense has no "op"'),
        (lambda m, z: m["layers"].reverse(), "the layer pad uses the tensor split:1"),
        (lambda m, z: m["layers"][1]["inputs"].append({"array": KERNEL}), "the layer table has an operand that is no tensor"),
        (lambda m, z: m["layers"][1]["inputs"].append("@x"), "the layer table has an operand that is no tensor"),
        (lambda m, z: m["layers"][0]["arrays"].update(extra="no/where"), "names the array no/where as its extra"),
        (lambda m, z: m["layers"][0]["arrays"].pop("bias"), "no layer uses the array hidden/dense/bias"),
        (
            lambda m, z: m["layers"][0]["arrays"].update(shift=m["layers"][0]["arrays"].pop("bias")),
            "has an array of the role shift, which it does not",
        ),
        (lambda m, z: m["layers"][0].update(op="ScaleShift"), "the layer hidden/dense (ScaleShift) has no scale"),
        (lambda m, z: m.update(outputs=[]), "the network has no outputs"),
        (lambda m, z: m["conversion"].update(batch="a"), """"batch" of "conversion" is 'a' in the manifest, not of type int"""),
        (lambda m, z: m["conversion"].update(batch=0), '"batch" of "conversion" is 0 in the manifest, which is no number of rows'),
        (lambda m, z: m["conversion"].update(rows_alone=1), '"rows_alone" of "conversion" is 1 in the manifest, not of type bool'),
        (lambda m, z: m["conversion"].update(incomplete=5), '"incomplete" of "conversion" is 5 in the manifest, not of type str'),
        (lambda m, z: m["outputs"][0].update(tensor="gone"), "the output out is the tensor gone"),
        (lambda m, z: m["inputs"][0].update(shape=[-1, 3]), "the input x has the shape [-1, 3]"),
        (lambda m, z: m["inputs"][0].update(shape=[True, 3]), "the input x has the shape [True, 3]"),
        (lambda m, z: m["inputs"][0].update(dtype="object"), "the input x is of dtype object"),
        (lambda m, z: m["arrays"][KERNEL].update(crc32="00000000"), f"the array {KERNEL} does not fit its checksum"),
        (lambda m, z: m["arrays"][KERNEL].update(crc32="xyz"), f"the array {KERNEL} has the checksum 'xyz'"),
        (lambda m, z: m["arrays"][KERNEL].update(shape=[4, 3]), f"the array {KERNEL} is (3, 4) f4, and the manifest says (4, 3) f4"),
        (lambda m, z: m["arrays"][KERNEL].update(shape=[10**15, 10**15]), f"the array {KERNEL} is (3, 4) f4"),
        (lambda m, z: m["arrays"][KERNEL].update(dtype="int32"), f"the array {KERNEL} is (3, 4) f4, and the manifest says (3, 4) i4"),
        (lambda m, z: m["arrays"][KERNEL].update(dtype="O"), f"the array {KERNEL} is of dtype O"),
        (lambda m, z: z.pop(f"{KERNEL}.npy"), f"the array {KERNEL} is missing"),
        (lambda m, z: z.update({"readme.txt": b"hello"}), "the member readme.txt is unknown to the manifest"),
        (lambda m, z: z.pop("manifest.json"), "it has no member manifest.json"),
        (lambda m, z: z.update({f"{KERNEL}.npy": b"\x80\x04K\x01."}), f"the array {KERNEL} does not begin as a .npy file"),
        (lambda m, z: z.update({f"{KERNEL}.npy": z[f"{KERNEL}.npy"][:-1]}), f"the array {KERNEL} has 47 bytes instead of 48"),
        (lambda m, z: z.update({f"{KERNEL}.npy": z[f"{KERNEL}.npy"] + b"x"}), f"the array {KERNEL} has 49 bytes instead of 48"),
        (lambda m, z: z.update({f"{KERNEL}.npy": z[f"{KERNEL}.npy"].replace(b"False,", b"True, ")}), "in column-major order"),
    ],
)
def test_every_contradiction_is_named(tmp_path, change, message):
    path = tmp_path / "out.npz"
    write_bundle(path, network())
    edit(path, change)
    with pytest.raises(CorruptBundle) as caught:
        read_bundle(path)
    assert message in str(caught.value) and str(caught.value).startswith(f"{path}: ")


def test_an_edit_that_changes_nothing_is_read(tmp_path):
    path = tmp_path / "out.npz"
    write_bundle(path, network())
    edit(path, lambda manifest, members: manifest.update(future="a key that a later writer adds"))
    assert same(order_free(read_bundle(path)), order_free(network()))


@pytest.mark.parametrize(
    "text", ["{", "[]", "NaN", '{"format": "bnexport", "format": "bnexport"}', "[" * 100_000, '{"format": "bnexport", "version": NaN}', "\xff"]
)
def test_a_manifest_that_is_no_json(tmp_path, text):
    path = tmp_path / "out.npz"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("manifest.json", text.encode("latin-1"))
    with pytest.raises(CorruptBundle, match="the manifest is not"):
        read_bundle(path)


def test_a_compressed_member(tmp_path):
    path = tmp_path / "out.npz"
    np.savez_compressed(path, a=np.zeros(100))
    with pytest.raises(CorruptBundle, match=r"the member a\.npy is compressed"):
        read_bundle(path)


def test_a_plain_npz_and_a_plain_h5(tmp_path):
    np.savez(tmp_path / "a.npz", a=np.zeros(3))
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["a"] = 1
    for name in ("a.npz", "a.h5"):
        with pytest.raises(CorruptBundle, match="is not a bundle"):
            read_bundle(tmp_path / name)


def test_files_that_are_no_bundle(tmp_path):
    (tmp_path / "text.npz").write_text("hello")
    for name, message in (("no.npz", "there is no file"), (".", "is a folder"), ("text.npz", "begins neither as .npz nor as HDF5")):
        with pytest.raises(BundleError, match=message):
            read_bundle(tmp_path / name)


def test_every_flipped_bit_and_every_cut_is_noticed_or_harmless(path):
    """Never another network, never another exception."""
    write_bundle(path, network())
    whole = path.read_bytes()
    expected = order_free(network())
    rng = np.random.default_rng(5)
    damaged = [whole[:n] for n in rng.integers(1, len(whole), 60).tolist()]
    flips = rng.integers(0, len(whole), 300).tolist()
    damaged += [whole[:at] + bytes([whole[at] ^ 1 << at % 8]) + whole[at + 1 :] for at in flips]
    refused = 0
    for data in damaged:
        path.write_bytes(data)
        try:
            assert same(order_free(read_bundle(path)), expected)
        except CorruptBundle:
            refused += 1
    assert refused > 60


def test_a_file_that_is_cut_short(path):
    write_bundle(path, network())
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CorruptBundle, match="cut short"):
        read_bundle(path)


def test_hdf5_contradictions(tmp_path):
    path = tmp_path / "out.h5"

    def refuse(change, message):
        write_bundle(path, network())
        with h5py.File(path, "r+") as file:
            change(file)
        with pytest.raises(CorruptBundle, match=message):
            read_bundle(path)

    def change_manifest(file):
        file.attrs["manifest"] = file.attrs["manifest"].replace("LeakyRelu", "Relu")

    def external(file):
        values = file[KERNEL][:]
        del file[KERNEL]
        (tmp_path / "raw").write_bytes(values.tobytes())
        file.create_dataset(KERNEL, (3, 4), "f4", external=[(str(tmp_path / "raw"), 0, 48)])

    refuse(change_manifest, "the manifest does not fit its checksum")
    refuse(external, f"the array {KERNEL} lies in another file")
    refuse(lambda f: f[KERNEL].write_direct(np.zeros((3, 4), "f4")), f"the array {KERNEL} does not fit its checksum")
    refuse(lambda f: f.pop(KERNEL), f"the array {KERNEL} is missing")
    refuse(lambda f: f.create_dataset("more", data=1), "the dataset more is unknown to the manifest")
    refuse(lambda f: f.attrs.pop("manifest"), "the file is not a bundle")


def test_reading_npz_imports_little(tmp_path):
    write_bundle(tmp_path / "out.npz", network())
    script = (
        "import sys, numpy; before = set(sys.modules)\n"
        "from bnexport.formats import read_bundle; read_bundle(sys.argv[1])\n"
        "new = {name.split('.')[0] for name in set(sys.modules) - before}\n"
        "assert not new & {'click', 'h5py', 'google', 'tensorflow', 'zipfile', 'tempfile'}, new"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "out.npz")], check=True)


@pytest.mark.skipif(sys.platform == "win32", reason="a process cannot send itself an interrupt there")
def test_an_interrupt_ends_the_threads_that_copy(tmp_path):
    array = InMemory(np.zeros(5 * PIECE_BYTES, np.uint8))

    def interrupted():
        once = iter([signal.SIGINT])

        def interrupt(_):
            for number in once:
                os.kill(os.getpid(), number)

        try:
            with (tmp_path / "out").open("wb") as file:
                writing.copy_array("kernel", array, file, interrupt)
        except KeyboardInterrupt:
            return True
        return False

    # Python loses an interrupt that comes while it lets go of an object with a weak reference.
    assert any(interrupted() for _ in range(3))
    assert not [thread for thread in threading.enumerate() if thread.name == "bnexport-copy" and thread.is_alive()]
