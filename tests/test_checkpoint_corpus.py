"""Every tensor of every checkpoint of the corpus, compared bit for bit with what TensorFlow reads."""

import json
import os
import warnings
from pathlib import Path

import numpy as np
import pytest

from bnexport.checkpoint import open_checkpoint
from bnexport.errors import CheckpointNotFound, CorruptCheckpoint
from bnexport.program import materialize

CORPUS = os.environ.get("BNEXPORT_CORPUS")
pytestmark = [pytest.mark.corpus, pytest.mark.skipif(not CORPUS, reason="BNEXPORT_CORPUS does not say where the corpus of real checkpoints is")]

FOLDERS = [Path(CORPUS) / record["slug"] for record in json.loads((Path(CORPUS) / "catalog.json").read_text())] if CORPUS else []
BROKEN = {"gywjedi-deepmd--symlink-text", "ryanchen1204-ecg_cnn"}


@pytest.fixture(scope="module")
def tf():
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("tensorflow", reason="compares with a live TensorFlow")


@pytest.mark.tensorflow
@pytest.mark.parametrize("folder", [folder for folder in FOLDERS if folder.name not in BROKEN], ids=lambda folder: folder.name)
def test_bit_for_bit(tf, folder):
    with open_checkpoint(folder) as ours:
        theirs = tf.train.load_checkpoint(str(ours.prefix))
        assert ours.names() == sorted(theirs.get_variable_to_shape_map())
        for name in ours:
            values, expected = ours.read(name), theirs.get_tensor(name)
            streamed = materialize(ours.stored(name))
            assert list(values.shape) == theirs.get_variable_to_shape_map()[name]
            if values.dtype == object:
                assert values.tolist() == streamed.tolist() == (expected if isinstance(expected, bytes) else expected.tolist())
            else:
                assert values.dtype == np.asarray(expected).dtype
                assert values.tobytes() == streamed.tobytes() == expected.tobytes()


@pytest.mark.parametrize("folder", [folder for folder in FOLDERS if folder.name not in BROKEN], ids=lambda folder: folder.name)
def test_every_file_leads_to_the_checkpoint(folder):
    with open_checkpoint(folder) as expected:
        prefix, names = expected.prefix, expected.names()
        own = (
            p
            for p in prefix.parent.iterdir()
            if p.name == prefix.name or p.name.startswith((f"{prefix.name}.index", f"{prefix.name}.meta", f"{prefix.name}.data-"))
        )
    for path in [prefix, *own]:
        with open_checkpoint(path) as found:
            assert (found.prefix, found.names()) == (prefix, names)


@pytest.mark.parametrize(
    "folder", [folder for folder in FOLDERS if "tf2obj" in folder.name or "wirelesschannelai" in folder.name], ids=lambda folder: folder.name
)
def test_object_based(folder):
    with open_checkpoint(folder) as checkpoint:
        keys = checkpoint.variable_keys()
        assert keys
        assert all(key in checkpoint for key in keys.values())
        assert keys["trad_fc/dense/kernel"].endswith("/.ATTRIBUTES/VARIABLE_VALUE")


def named(slug):
    return next((folder for folder in FOLDERS if folder.name == slug), Path())


def test_a_symbolic_link_that_was_stored_as_text():
    with pytest.raises(
        CorruptCheckpoint, match=r"model\.ckpt\.index is a symbolic link that was stored as text, and says only 'model\.ckpt-\d+\.index'"
    ):
        open_checkpoint(named("gywjedi-deepmd--symlink-text"))


def test_the_data_file_is_missing():
    with open_checkpoint(named("ryanchen1204-ecg_cnn")) as checkpoint:
        assert len(checkpoint) == 36
        assert checkpoint.location.meta is not None
        with pytest.raises(CheckpointNotFound, match=r"model\.ckpt\.data-00000-of-00001 does not exist: model\.ckpt\.index says"):
            checkpoint.read(checkpoint.names()[0])
