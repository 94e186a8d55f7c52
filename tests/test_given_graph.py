"""A graph that does not lie beside the checkpoint under its name: savers write it once for many steps, Estimators leave it as text."""

import shutil

import pytest
from click.testing import CliRunner
from google.protobuf import text_format
from test_convert_fixtures import DATA, assert_close, feeds, stored

from bnexport.cli import main
from bnexport.conversion import convert, to_program
from bnexport.errors import AmbiguousNetwork, CheckpointError, CheckpointNotFound, ContradictoryGraph, GraphError, TensorNotFound, UsageError
from bnexport.options import Options
from bnexport.protos import tensorflow_pb2 as pb
from bnexport.runner import load

KINDS = ["model.ckpt-0.meta", "graph.pbtxt", "meta.pbtxt", "graph.pb"]


@pytest.fixture(params=["seed", "conv_fused"])
def name(request):
    return request.param


@pytest.fixture
def folder(tmp_path, name):
    """A checkpoint of step 1000, and its graph in every form under other names."""
    own = DATA / name
    for file in own.glob("model.ckpt.[di]*"):
        shutil.copy(file, tmp_path / file.name.replace("model.ckpt", "model.ckpt-1000"))
    meta = pb.MetaGraphDef.FromString((own / "model.ckpt.meta").read_bytes())
    (tmp_path / "model.ckpt-0.meta").write_bytes((own / "model.ckpt.meta").read_bytes())
    (tmp_path / "graph.pbtxt").write_text(text_format.MessageToString(meta.graph_def))
    (tmp_path / "meta.pbtxt").write_text(text_format.MessageToString(meta))
    (tmp_path / "graph.pb").write_bytes(meta.graph_def.SerializeToString())
    return tmp_path


@pytest.mark.parametrize("kind", KINDS)
def test_the_network_is_that_of_the_graph(folder, name, kind):
    convert(folder / "model.ckpt-1000", folder / "out.npz", Options(graph=str(folder / kind)))
    model = load(folder / "out.npz")
    (port,) = model.outputs
    assert_close(name, model.predict(feeds(name, model)), stored(name)[port.name])
    own = to_program(DATA / name / "model.ckpt")
    assert [(layer.name, layer.provenance) for layer in model.layers] == [(layer.name, layer.provenance) for layer in own.layers]


@pytest.mark.tensorflow
@pytest.mark.parametrize("kind", KINDS)
def test_it_is_verified_with_that_graph(tf, folder, kind):
    convert(folder / "model.ckpt-1000", folder / "out.npz", Options(graph=str(folder / kind)))
    result = CliRunner().invoke(main, ["verify", str(folder / "model.ckpt-1000"), str(folder / "out.npz")])
    assert result.exit_code == 0, result.output
    assert "TensorFlow: not compared" not in result.output


def test_text_with_fields_that_are_not_known_is_read(folder, name):
    text = (folder / "graph.pbtxt").read_text()
    (folder / "graph.pbtxt").write_text(text + 'debug_info {\n  files: "train.py"\n}\n')
    with_more = to_program(folder / "model.ckpt-1000", Options(graph=folder / "graph.pbtxt"))
    assert [layer.name for layer in with_more.layers] == [layer.name for layer in to_program(DATA / name / "model.ckpt").layers]


def test_names_alone_say_which_file_may_be_the_graph(tmp_path):
    for file in (DATA / "seed").glob("model.ckpt.[di]*"):
        shutil.copy(file, tmp_path / file.name.replace("model.ckpt", "model.ckpt-1000"))
    shutil.copy(DATA / "seed" / "model.ckpt.meta", tmp_path / "model.ckpt-7.meta")
    shutil.copy(DATA / "seed" / "model.ckpt.meta", tmp_path / "other.meta")
    warnings = to_program(tmp_path / "model.ckpt-1000").conversion["warnings"]
    assert any(f"{tmp_path / 'model.ckpt-7.meta'} may be its graph: convert with --graph" in warning for warning in warnings)
    assert not any("other.meta" in warning for warning in warnings)
    assert not any("may be its graph" in warning for warning in to_program(DATA / "no_meta" / "model.ckpt").conversion["warnings"])
    with pytest.raises(CheckpointNotFound, match=r"or give .*model\.ckpt-1000 with --graph .*model\.ckpt-7\.meta"):
        to_program(tmp_path / "model.ckpt-7.meta")


def test_what_cannot_be_meant_is_refused(tmp_path):
    seed, frozen = DATA / "seed" / "model.ckpt", DATA / "frozen" / "model.pb"
    meta = f"{seed}.meta"
    with pytest.raises(UsageError, match="--no-graph leaves out"):
        to_program(seed, Options(graph=meta, use_graph=False))
    with pytest.raises(CheckpointNotFound, match=r"there is no file nowhere\.meta"):
        to_program(seed, Options(graph="nowhere.meta"))
    with pytest.raises(CheckpointError, match="is a frozen graph, which is all that is needed"):
        to_program(frozen, Options(graph=meta))
    with pytest.raises(AmbiguousNetwork, match=r"has no variables: if it is a frozen graph, its weights are in it, and it is converted by itself"):
        to_program(seed, Options(graph=frozen))
    with pytest.raises((ContradictoryGraph, TensorNotFound, AmbiguousNetwork)):
        to_program(DATA / "conv_seed" / "model.ckpt", Options(graph=meta))
    text = tmp_path / "graph.pbtxt"
    text.write_text("node {\n  name: 'x'\n  op:\n")
    with pytest.raises(GraphError, match="no graph in protobuf's text format"):
        to_program(seed, Options(graph=text))
    text.write_text("node {\n  name: 'x'\n  op: 'Placeholder'\n}\n")
    result = CliRunner().invoke(main, ["convert", str(text), str(tmp_path / "out.npz")])
    assert result.exit_code != 0
    assert "is a graph without values: give the checkpoint, and this file with --graph" in result.output


def test_the_bundle_remembers_the_graph(folder):
    convert(folder / "model.ckpt-1000", folder / "out.npz", Options(graph=folder / "graph.pb"))
    conversion = load(folder / "out.npz").conversion
    assert conversion["options"] == {"graph": str(folder / "graph.pb")}
    assert conversion["source"] == ["model.ckpt-1000", "graph.pb"]


def test_options_are_of_their_own_kind(tmp_path):
    with pytest.raises(UsageError, match=r"the options are a dict: give bnexport\.Options"):
        convert(DATA / "seed" / "model.ckpt", tmp_path / "out.npz", {"outputs": ["y"]})
