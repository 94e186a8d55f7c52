"""What people point at: every file of a checkpoint, folders, `checkpoint` files of other machines, and files that are something else."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from checkpoint_forge import crc32c, entry, header, masked, table, write_bundle

from bnexport.checkpoint import impostor, locate, open_checkpoint
from bnexport.errors import CheckpointError, CheckpointNotFound, CorruptCheckpoint

PREFIXES = ["model.ckpt", "model.ckpt-1000", "model.tflearn", "best_validation", "actor-network-20", "variables", "my model", "a.index", ".hidden"]
VALUE = np.arange(3, dtype=np.float32)


def make(prefix, meta=True):
    prefix.parent.mkdir(parents=True, exist_ok=True)
    write_bundle(prefix, {"x": (1, VALUE)})
    if meta:
        Path(f"{prefix}.meta").write_bytes(b"graph")
    return prefix


def opens(path, prefix):
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.prefix == prefix
        assert checkpoint.location.index == Path(f"{prefix}.index")
        assert checkpoint.read("x").tobytes() == VALUE.tobytes()
    return True


@pytest.mark.parametrize("name", PREFIXES)
def test_every_file_and_the_folder(tmp_path, name):
    prefix = make(tmp_path / name)
    for path in [prefix, str(prefix), *(f"{prefix}{suffix}" for suffix in (".index", ".meta", ".data-00000-of-00001")), tmp_path, f"{tmp_path}/"]:
        assert opens(path, prefix)
    assert locate(prefix).meta == Path(f"{prefix}.meta")
    assert locate(prefix).version == 2
    assert locate(prefix).saved_model is None


def test_relative_paths(tmp_path, monkeypatch):
    make(tmp_path / "model.ckpt")
    monkeypatch.chdir(tmp_path)
    assert opens("model.ckpt", Path("model.ckpt"))
    assert opens(".", Path("model.ckpt"))
    assert opens("", Path("model.ckpt"))


@pytest.mark.parametrize(
    "line",
    [
        'model_checkpoint_path: "model.ckpt-2"',
        "model_checkpoint_path: 'model.ckpt-2'",
        '  model_checkpoint_path:"model.ckpt-2"  ',
        'model_checkpoint_path: "/home/somebody/else/model.ckpt-2"',
        'model_checkpoint_path: "runs/7/model.ckpt-2"',
        'model_checkpoint_path: "C:\\\\Users\\\\me\\\\new\\\\model.ckpt-2"',
        # Edited by hand: \\U, \\m and \\n are not escapes that anybody meant.
        'model_checkpoint_path: "C:\\Users\\me\\new\\model.ckpt-2"',
        'model_checkpoint_path: "\\\\\\\\server\\\\share\\\\model.ckpt-2"',
        'model_checkpoint_path: "..\\\\other\\\\model.ckpt-2"',
        'model_checkpoint_path: "model.ckpt\\0552"',
        'model_checkpoint_path: "model.ckpt\\x2d2"',
        '# latest\nmodel_checkpoint_path: "model.ckpt-1"\nmodel_checkpoint_path: "model.ckpt-2"',
        'all_model_checkpoint_paths: "model.ckpt-1"\r\nmodel_checkpoint_path: "model.ckpt-2"\r\nall_model_checkpoint_paths: "model.ckpt-2"\r\n',
    ],
)
def test_the_checkpoint_file(tmp_path, line):
    make(tmp_path / "model.ckpt-1")
    prefix = make(tmp_path / "model.ckpt-2")
    (tmp_path / "checkpoint").write_bytes(line.encode())
    assert opens(tmp_path, prefix)
    assert opens(tmp_path / "checkpoint", prefix)


def test_a_relative_path_of_the_checkpoint_file_is_followed(tmp_path):
    prefix = make(tmp_path / "runs" / "7" / "model.ckpt")
    for path in ("runs/7/model.ckpt", "runs\\\\7\\\\model.ckpt"):
        (tmp_path / "checkpoint").write_text(f'model_checkpoint_path: "{path}"\n')
        assert opens(tmp_path, prefix)


def test_an_absolute_path_is_followed_where_the_folder_has_no_such_checkpoint(tmp_path):
    prefix = make(tmp_path / "original" / "model.ckpt")
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "checkpoint").write_text(f'model_checkpoint_path: "{prefix}"\n')
    assert opens(tmp_path / "state", prefix)
    copy = make(tmp_path / "state" / "model.ckpt")
    assert opens(tmp_path / "state", copy)


def test_names_that_are_not_ascii(tmp_path):
    prefix = make(tmp_path / "modèle-ü")
    escaped = "".join(f"\\{byte:03o}" if byte > 127 else chr(byte) for byte in "modèle-ü".encode())
    for spelling in ("modèle-ü", escaped):
        (tmp_path / "checkpoint").write_text(f'model_checkpoint_path: "{spelling}"\n', encoding="utf-8")
        assert opens(tmp_path, prefix)


def test_a_prefix_comes_before_a_folder_of_its_name(tmp_path):
    make(tmp_path / "model" / "other")
    assert opens(tmp_path / "model", make(tmp_path / "model"))


def test_a_checkpoint_that_is_called_checkpoint(tmp_path):
    prefix = make(tmp_path / "checkpoint")
    assert opens(prefix, prefix)
    assert opens(tmp_path, prefix)


def test_the_graph_alone_can_be_located(tmp_path):
    (tmp_path / "model.ckpt.meta").write_bytes(b"graph")
    for path in (tmp_path, tmp_path / "model.ckpt", tmp_path / "model.ckpt.meta"):
        location = locate(path)
        assert (location.meta, location.index, location.files) == (tmp_path / "model.ckpt.meta", None, ())
        with pytest.raises(CheckpointNotFound, match=r"model\.ckpt\.meta has no variables beside it: there are no weights to read"):
            open_checkpoint(path)


def test_a_saved_model_without_variables(tmp_path):
    saved_model = Path(__file__).parents[1] / "fixtures" / "data" / "savedmodel_v1" / "saved_model" / "saved_model.pb"
    shutil.copy(saved_model, tmp_path)
    assert locate(tmp_path).saved_model == tmp_path / "saved_model.pb"
    with pytest.raises(CheckpointNotFound, match=r"saved_model\.pb has no variables beside it"):
        open_checkpoint(tmp_path)


def refused(path, kind, message):
    with pytest.raises(kind, match=message) as raised, open_checkpoint(path) as checkpoint:
        checkpoint.read("x")
    assert "\n" not in str(raised.value)
    return True


def test_several_checkpoints_and_nothing_to_choose_by(tmp_path):
    for number in (1, 2):
        make(tmp_path / f"model.ckpt-{number}")
    assert refused(
        tmp_path, CheckpointNotFound, r"holds 2 checkpoints and no `checkpoint` file that chooses one: give .*model\.ckpt-1 or .*model\.ckpt-2"
    )
    for number in range(3, 30):
        make(tmp_path / f"model.ckpt-{number}")
    assert refused(tmp_path, CheckpointNotFound, r"holds 29 checkpoints .*, or one of 19 more")
    assert refused(tmp_path / "model.ckpt", CheckpointNotFound, r"there is no checkpoint .*model\.ckpt: give .*model\.ckpt-1 or ")


def test_a_checkpoint_file_that_names_what_is_not_there(tmp_path):
    (tmp_path / "checkpoint").write_text('model_checkpoint_path: "/elsewhere/gone"\n')
    assert refused(
        tmp_path, CheckpointNotFound, r"checkpoint names '/elsewhere/gone', which is not in that folder: copy its \.index and \.data files there"
    )
    make(tmp_path / "model.ckpt-1")
    assert refused(tmp_path, CheckpointNotFound, r"names '/elsewhere/gone', which is not in that folder: give .*model\.ckpt-1$")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("nonsense here", r"names no checkpoint \(it has no model_checkpoint_path\)"),
        ('model_checkpoint_path: "unfinished', "names no checkpoint"),
        ("model_checkpoint_path: 3", "names no checkpoint"),
        ("version https://git-lfs.github.com/spec/v1\n", "is a pointer that Git LFS left"),
    ],
)
def test_a_checkpoint_file_that_names_nothing(tmp_path, text, message):
    (tmp_path / "checkpoint").write_text(text)
    assert refused(tmp_path, CorruptCheckpoint, message)


@pytest.mark.parametrize("path", ["", "/", ".", "..", "a" * 5000, "\\0", "\\377", "C:", "C:\\\\", "x/../..", "a/" * 3000, "\\\\\\\\"])
def test_a_checkpoint_file_that_names_nonsense(tmp_path, path):
    (tmp_path / "checkpoint").write_text(f'model_checkpoint_path: "{path}"\n')
    with pytest.raises(CheckpointError):
        open_checkpoint(tmp_path)


def test_nothing_there(tmp_path):
    assert refused(tmp_path, CheckpointNotFound, "holds no checkpoint: give a folder with a .index file or a saved_model.pb")
    assert refused(tmp_path / "model.ckpt", CheckpointNotFound, r"there is no checkpoint .*model\.ckpt: give the checkpoint's prefix")
    assert refused(tmp_path / "no" / "model.ckpt", CheckpointNotFound, "does not exist, nor does its folder")
    assert refused(tmp_path / ("x" * 5000), CheckpointNotFound, "there is no checkpoint")


@pytest.mark.parametrize(
    ("head", "message"),
    [
        (b"\x0a\x10", r"model\.x is neither a checkpoint nor one of its files"),
        (b"\x89HDF\r\n\x1a\n", "is an HDF5 file, as Keras writes them: save the model again as a checkpoint"),
        (b"PK\x03\x04", "is a zip archive .*: if a checkpoint or SavedModel is in it, unpack it and give that"),
        (b"\x1f\x8b\x08", "is compressed by gzip: if a checkpoint"),
        (b"BZh91AY&SY", "is compressed by bzip2: if a checkpoint"),
        (b"\xfd7zXZ\x00", "is compressed by xz: if a checkpoint"),
        (b"7z\xbc\xaf\x27\x1c", "is a 7z archive: if a checkpoint"),
        (b"Rar!\x1a\x07\x00", "is a rar archive: if a checkpoint"),
        (b"export/".ljust(257, b"\0") + b"ustar", "is a tar archive: if a checkpoint"),
        (b"\x93NUMPY", "is an array of NumPy, and no checkpoint"),
        (b"\x1c\0\0\0TFL3", "is a TensorFlow Lite model, which has no checkpoint in it"),
    ],
)
def test_another_kind_of_file(tmp_path, head, message):
    (tmp_path / "model.x").write_bytes(head + bytes(100))
    assert refused(tmp_path / "model.x", CorruptCheckpoint, message)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("model.onnx", r"model\.onnx is an ONNX model, which has no checkpoint in it"),
        ("events.out.tfevents.1500000000.host", "is a log for TensorBoard, which holds no weights"),
    ],
)
def test_another_kind_of_file_by_its_name(tmp_path, name, message):
    (tmp_path / name).write_bytes(b"\x0a\x10" + bytes(100))
    assert refused(tmp_path / name, CorruptCheckpoint, message)
    assert refused(tmp_path, CheckpointNotFound, f"holds no checkpoint: .*{message}")


def test_a_folder_of_another_kind_of_model(tmp_path):
    np.savez(tmp_path / "data.npz", x=VALUE)
    assert refused(tmp_path, CheckpointNotFound, "holds no checkpoint: give a folder")
    (tmp_path / "model.h5").write_bytes(b"\x89HDF\r\n\x1a\n")
    assert refused(tmp_path, CheckpointNotFound, r"holds no checkpoint: .*model\.h5 is an HDF5 file, as Keras writes them")


def test_a_pointer_is_told_from_damage_where_the_values_are_as_short(tmp_path):
    prefix = make(tmp_path / "model.ckpt")
    Path(f"{prefix}.data-00000-of-00001").write_bytes(IMPOSTORS[1][0])
    assert refused(prefix, CorruptCheckpoint, IMPOSTORS[1][1])


def test_patterns_of_data_files(tmp_path):
    prefix = make(tmp_path / "model.ckpt")
    assert open_checkpoint(f"{prefix}.data-?????-of-00001").prefix == prefix
    assert refused(f"{prefix}.data", CheckpointNotFound, r"there is no checkpoint .*model\.ckpt\.data: give .*model\.ckpt$")


@pytest.mark.parametrize(
    "content",
    [
        '\ufeffmodel_checkpoint_path: "model.ckpt"\r\n',
        'model_checkpoint_path: "model.ckpt.index"',
    ],
)
def test_a_checkpoint_file_that_was_edited(tmp_path, content):
    prefix = make(tmp_path / "model.ckpt")
    (tmp_path / "checkpoint").write_bytes(content.encode())
    assert open_checkpoint(tmp_path).prefix == prefix


def test_the_index_is_missing(tmp_path):
    prefix = make(tmp_path / "model.ckpt")
    Path(f"{prefix}.index").unlink()
    for path in (tmp_path, prefix, f"{prefix}.data-00000-of-00001", f"{prefix}.index", f"{prefix}.meta"):
        assert refused(path, CheckpointNotFound, r"model\.ckpt\.data-00000-of-00001 has no model\.ckpt\.index beside it, which says")


def test_the_data_file_is_missing(tmp_path):
    prefix = make(tmp_path / "model.ckpt")
    Path(f"{prefix}.data-00000-of-00001").unlink()
    with open_checkpoint(prefix) as checkpoint:
        assert checkpoint.names() == ["x"]
        assert checkpoint.info("x").nbytes == 12
        message = r"model\.ckpt\.data-00000-of-00001 does not exist: model\.ckpt\.index says that the values of 'x' are in it"
        for read in (lambda: checkpoint.read("x"), lambda: checkpoint.stored("x")):
            with pytest.raises(CheckpointNotFound, match=message):
                read()


def test_the_data_file_was_cut_short(tmp_path):
    prefix = make(tmp_path / "model.ckpt")
    Path(f"{prefix}.data-00000-of-00001").write_bytes(VALUE.tobytes()[:-1])
    assert refused(prefix, CorruptCheckpoint, r"data-00000-of-00001 has 11 bytes where at least 12 were expected \('x' lies at 0 with 12 bytes\)")


def test_the_data_file_is_of_another_checkpoint(tmp_path):
    prefix = make(tmp_path / "model.ckpt")
    Path(f"{prefix}.data-00000-of-00001").write_bytes(bytes(12))
    assert refused(prefix, CorruptCheckpoint, r"damaged, or belongs to another checkpoint \(the checksum of 'x' does not match\)")


IMPOSTORS = [
    (b"", "is empty"),
    (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
        "is a pointer that Git LFS left in place of the file: run `git lfs pull`",
    ),
    (b"model.ckpt-100000.index", r"is a symbolic link that was stored as text, and says only 'model\.ckpt-100000\.index'"),
    (b"../best/model\n", r"is a symbolic link that was stored as text, and says only '\.\./best/model'"),
    (b"\n<!DOCTYPE html><html>" + b" " * 5000, "is a web page: download the file itself"),
]


@pytest.mark.parametrize(("content", "message"), IMPOSTORS)
@pytest.mark.parametrize("suffix", [".index", ".data-00000-of-00001"])
def test_a_file_that_is_something_else(tmp_path, content, message, suffix):
    prefix = tmp_path / "model.ckpt"
    write_bundle(prefix, {"x": (1, np.zeros(10000, np.float32))})
    Path(f"{prefix}{suffix}").write_bytes(content)
    assert refused(prefix, CorruptCheckpoint, message)
    assert prefix.name in (impostor(Path(f"{prefix}{suffix}")) or "")


def test_what_is_no_impostor(tmp_path):
    for number, content in enumerate([b"\0" * 50, b"two words.", bytes(range(256)), table({}), b"x" * 2000 + b"."]):
        (tmp_path / str(number)).write_bytes(content)
        assert impostor(tmp_path / str(number)) is None
    assert impostor(tmp_path / "nowhere") is None
    assert impostor(tmp_path) is None


def test_a_version_that_is_to_come(tmp_path):
    data = VALUE.tobytes()
    prefix = make(tmp_path / "model.ckpt")
    Path(f"{prefix}.index").write_bytes(table({b"": header(min_consumer=2), b"x": entry(1, [3], data)}))
    assert refused(prefix, CheckpointError, r"needs a reader of version 2 of the checkpoint format")


def test_the_forge_has_the_right_checksum():
    assert crc32c(b"123456789") == 0xE3069283
    assert masked(b"") == 0xA282EAD8
