"""Frozen graphs: every fixture's, frozen by TensorFlow, and what TensorFlow's tools make of them."""

import shutil
import subprocess
import sys

import numpy as np
import pytest
from click.testing import CliRunner
from test_convert_fixtures import DATA, FACTS, WITH_META, assert_close, feeds, outputs, path, stored

from bnexport.checkpoint import locate, open_checkpoint
from bnexport.cli import main
from bnexport.conversion import convert, to_program
from bnexport.errors import AmbiguousNetwork, CheckpointError, CheckpointNotFound, CorruptCheckpoint, GraphError
from bnexport.inspection import examine
from bnexport.reference import compare_variables
from bnexport.runner import load

PLAIN = DATA / "frozen" / "model.pb"
CANNOT = {"phase_variable": "TensorFlow cannot freeze a predicate that is a variable", "slim_training": "a test of its own"}


def frozen(tf, name, folder, change=lambda graph: graph):
    """A fixture's graph as TensorFlow freezes it, in a file; `change` is what some tool then makes of it."""
    with tf.Graph().as_default(), tf.Session() as session:
        tf.train.import_meta_graph(f"{path(name)}.meta", clear_devices=True).restore(session, str(path(name)))
        graph = tf.graph_util.convert_variables_to_constants(session, session.graph.as_graph_def(), FACTS[name]["outputs"])
    file = folder / f"{name}.pb"
    file.write_bytes(change(graph).SerializeToString())
    return file


def assert_converts(name, file, out):
    convert(file, out)
    model = load(out)
    got, want = outputs(model, feeds(name, model)), stored(name)
    assert set(got) == set(FACTS[name]["outputs"])
    for end, value in got.items():
        assert_close(name, value, want[end])


@pytest.mark.tensorflow
@pytest.mark.parametrize("name", [n for n in WITH_META if n not in CANNOT])
def test_a_frozen_graph_gives_what_its_checkpoint_gives(tf, tmp_path, name):
    """Even where TensorFlow itself refuses to load what it froze, as it does where a tf.cond writes variables of version 1."""
    file = frozen(tf, name, tmp_path)
    assert_converts(name, file, tmp_path / "out.npz")
    with open_checkpoint(file) as constants, open_checkpoint(path(name)) as variables:
        common = [key for key in constants if key in variables]
        assert common
        for key in common:
            assert constants.info(key)[:3] == variables.info(key)[:3]
            assert constants.read(key).tobytes() == variables.read(key).tobytes()
    assert_same_story(to_program(file), to_program(path(name)))


def assert_same_story(program, wanted):
    """Names, provenance and numbers are those of the checkpoint; a partitioned variable has become its parts."""
    assert [(layer.name, layer.op, layer.activation) for layer in program.layers] == [(w.name, w.op, w.activation) for w in wanted.layers]
    for layer, want in zip(program.layers, wanted.layers, strict=True):
        if "part" not in str(layer.provenance):
            assert layer.provenance == want.provenance


@pytest.mark.tensorflow
@pytest.mark.parametrize("name", ["seed", "conv_fused", "conv_preact", "dropout_old", "phase_with_default", "multi_io"])
def test_a_graph_that_was_optimised_for_inference_gives_the_same(tf, tmp_path, name):
    from tensorflow.python.tools.optimize_for_inference_lib import optimize_for_inference

    def optimised(graph):
        return optimize_for_inference(graph, FACTS[name]["inputs"], FACTS[name]["outputs"], [1] * len(FACTS[name]["inputs"]))

    assert_converts(name, frozen(tf, name, tmp_path, optimised), tmp_path / "out.npz")


@pytest.mark.tensorflow
def test_frozen_in_training_mode_it_takes_the_statistics_of_the_batch_as_tensorflow_does(tf, tmp_path):
    """What wrote the moving averages is no part of a frozen graph; dropout is left out of both sides by its own switch."""
    file = frozen(tf, "slim_training", tmp_path, without_dropout)
    program = convert(file, tmp_path / "out.npz")
    assert any("depend on the batch" in warning for warning in program.conversion["warnings"])
    model = load(tmp_path / "out.npz")
    data = feeds("slim_training", model)
    with tf.Graph().as_default(), tf.Session() as session:
        tf.import_graph_def(tf.GraphDef.FromString(file.read_bytes()), name="")
        want = session.run("y:0", {"x:0": data["x"]})
    assert_close("slim_training", model.predict(data), want)


def without_dropout(graph):
    for node in graph.node:
        if node.op == "SelectV2":
            node.op, node.input[:] = "Identity", [node.input[1]]
            node.attr.pop("Tidx", None)
            for mul in graph.node:
                if mul.name == node.input[0]:
                    mul.op, mul.input[:] = "Identity", [mul.input[0]]
    return graph


@pytest.mark.tensorflow
def test_a_saved_model_of_constants(tf, tmp_path):
    """What exporters for serving make of a frozen graph: a SavedModel without variables."""
    with tf.Graph().as_default() as graph, tf.Session() as session:
        tf.import_graph_def(tf.GraphDef.FromString(PLAIN.read_bytes()), name="")
        x, y = (graph.get_tensor_by_name(name) for name in ("x:0", "y:0"))
        tf.saved_model.simple_save(session, str(tmp_path / "saved"), {"pixels": x}, {"scores": y})
    shutil.rmtree(tmp_path / "saved" / "variables", ignore_errors=True)
    convert(tmp_path / "saved", tmp_path / "out.npz")
    model = load(tmp_path / "out.npz")
    assert (model.inputs[0].name, model.outputs[0].name) == ("pixels", "scores")
    assert_close("frozen", model.predict(feeds("frozen", model)["pixels"]), stored("frozen")["y"])
    result = CliRunner().invoke(main, ["verify", str(tmp_path / "saved"), str(tmp_path / "out.npz")])
    assert result.exit_code == 0, result.output
    assert "bit for bit what TensorFlow reads" in result.output
    assert "TensorFlow: not compared" not in result.output


@pytest.mark.tensorflow
def test_a_function_of_tensorflow_2_frozen(tmp_path):
    tensorflow = pytest.importorskip("tensorflow")
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    code = f"""
import numpy as np, tensorflow as tf
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2
tf.keras.utils.set_random_seed(3)
model = tf.keras.Sequential([tf.keras.Input([6]), tf.keras.layers.Dense(5, activation="relu"), tf.keras.layers.BatchNormalization(),
                             tf.keras.layers.Dense(3, activation="softmax")])
model.set_weights([np.random.default_rng(i).uniform(0.5, 1.5, w.shape).astype("f") for i, w in enumerate(model.get_weights())])
function = tf.function(lambda x: model(x, training=False)).get_concrete_function(tf.TensorSpec([None, 6], tf.float32, name="x"))
frozen = convert_variables_to_constants_v2(function)
open({str(tmp_path / "model.pb")!r}, "wb").write(frozen.graph.as_graph_def().SerializeToString())
x = np.random.default_rng(9).standard_normal([4, 6]).astype("f")
np.savez({str(tmp_path / "expected.npz")!r}, x=x, y=model(x))
"""
    assert tensorflow
    assert convert_variables_to_constants_v2
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    program = convert(tmp_path / "model.pb", tmp_path / "out.npz")
    assert [layer.name.rpartition("/")[2].rstrip("_0123456789") for layer in program.layers] == ["dense", "dense"]
    with np.load(tmp_path / "expected.npz") as expected:
        np.testing.assert_allclose(load(tmp_path / "out.npz").predict(expected["x"]), expected["y"], rtol=0, atol=1e-6)


def test_what_inspect_says():
    record = examine(str(PLAIN))
    roles = {variable["name"]: variable["role"] for variable in record["variables"]}
    for layer in FACTS["frozen"]["layers"]:
        assert roles[layer["kernel"]] == "kernel"
        if layer["bn"]:
            assert roles[layer["bn"]["variance"]] == "moving variance"
    assert (record["version"], record["graph"]) == (0, "model.pb")
    shown = CliRunner().invoke(main, ["inspect", str(PLAIN)]).stdout
    assert shown.startswith(f"{PLAIN}: frozen graph, ")


def test_it_is_verified_against_tensorflow(tmp_path):
    out = tmp_path / "out.npz"
    convert(PLAIN, out)
    result = CliRunner().invoke(main, ["verify", str(PLAIN), str(out)])
    assert result.exit_code == 0, result.output
    assert "bit for bit what TensorFlow reads" in result.output
    assert "TensorFlow: not compared" not in result.output


def test_a_folder_with_a_frozen_graph_names_it(tmp_path):
    shutil.copy(PLAIN, tmp_path / "frozen_inference_graph.pb")
    with pytest.raises(CheckpointNotFound, match=r"give .*frozen_inference_graph\.pb"):
        locate(tmp_path)


@pytest.mark.parametrize("kept", [0, 1, 100, 5000, 9000])
def test_a_file_that_is_cut_short_is_refused(tmp_path, kept):
    file = tmp_path / "model.pb"
    file.write_bytes(PLAIN.read_bytes()[:kept])
    with pytest.raises((CorruptCheckpoint, AmbiguousNetwork), match=r"model\.pb"):
        to_program(file)


def test_a_saved_model_under_another_name_is_known(tmp_path):
    file = tmp_path / "graph.pb"
    shutil.copy(DATA / "savedmodel_v1" / "saved_model" / "saved_model.pb", file)
    with pytest.raises(CorruptCheckpoint, match="graph of a SavedModel under another name"):
        to_program(file)


def test_a_meta_graph_under_another_name_is_known(tmp_path):
    file = tmp_path / "graph.pb"
    shutil.copy(f"{path('seed')}.meta", file)
    with pytest.raises(CorruptCheckpoint, match=r"if it is a MetaGraphDef, call it PREFIX\.meta"):
        to_program(file)


@pytest.mark.parametrize("name", ["saved_model.pb", "model.meta"])
def test_a_frozen_graph_under_another_name(tmp_path, name):
    (tmp_path / name).write_bytes(PLAIN.read_bytes())
    for given in (tmp_path, tmp_path / name):
        with pytest.raises(CheckpointError, match=rf"{name} is a graph by itself, as frozen graphs are: .* call it frozen\.pb, and give that"):
            to_program(given)


def test_a_frozen_graph_as_text(tmp_path):
    """tf.train.write_graph has as_text=True by default."""
    from google.protobuf import text_format

    from bnexport.protos import tensorflow_pb2 as pb

    file = tmp_path / "model.pbtxt"
    file.write_text(text_format.MessageToString(pb.GraphDef.FromString(PLAIN.read_bytes())))
    assert_converts("frozen", file, tmp_path / "out.npz")


@pytest.mark.tensorflow
@pytest.mark.parametrize("text", [False, True])
def test_a_graph_that_was_not_frozen_is_told(tf, tmp_path, text):
    with tf.Graph().as_default() as graph:
        tf.train.import_meta_graph(f"{path('seed')}.meta", clear_devices=True)
        file = tf.train.write_graph(graph, str(tmp_path), f"graph.pb{'txt' if text else ''}", as_text=text)
    with pytest.raises(
        GraphError, match=r"does not hold the graph's variables W1, W2, W3, .*: it is a graph without values; give the checkpoint, and this"
    ):
        to_program(file)


def test_text_is_known(tmp_path):
    file = tmp_path / "graph.pb"
    file.write_text('node {\n  name: "x"\n  op: "Placeholder"\n}\n')
    with pytest.raises(CorruptCheckpoint, match="no graph"):
        to_program(file)


def test_a_constant_whose_values_are_damaged_is_named(tmp_path):
    from bnexport.protos import tensorflow_pb2 as pb

    graph = pb.GraphDef.FromString(PLAIN.read_bytes())
    constants = {node.name: node.attr["value"].tensor for node in graph.node if node.op == "Const"}
    constants["model/W1"].tensor_content = constants["model/W1"].tensor_content[:-3]
    file = tmp_path / "model.pb"
    file.write_bytes(graph.SerializeToString())
    with pytest.raises(CorruptCheckpoint, match="the constant 'model/W1' is damaged"):
        convert(file, tmp_path / "out.npz")
    assert not (tmp_path / "out.npz").exists()


@pytest.mark.parametrize("damage", [{"dtype": 65}, {"dtype": 1, "tensor_content": b"abc"}, {"dtype": 14, "tensor_content": b"abc"}, {"dtype": 20}])
def test_a_number_that_is_damaged_is_named(tmp_path, damage):
    from bnexport.protos import tensorflow_pb2 as pb

    graph = pb.GraphDef.FromString(PLAIN.read_bytes())
    epsilon = next(node for node in graph.node if node.op == "Const" and node.name.endswith("batchnorm/add/y"))
    epsilon.attr["value"].tensor.ClearField("float_val")
    for field, value in damage.items():
        setattr(epsilon.attr["value"].tensor, field, value)
    file = tmp_path / "model.pb"
    file.write_bytes(graph.SerializeToString())
    with pytest.raises(GraphError, match=f"the node '{epsilon.name}': a constant"):
        to_program(file)


def stored_as_bytes(tf, graph, least):
    """A graph as quantize_weights of the Graph Transform Tool leaves it: large weights as bytes, and the range that they stand for."""
    out = tf.GraphDef(versions=graph.versions)
    for node in graph.node:
        weight = tf.make_ndarray(node.attr["value"].tensor) if node.op == "Const" and node.attr["dtype"].type == tf.float32.as_datatype_enum else None
        if weight is None or weight.size < least or not weight.ndim:
            out.node.add().CopyFrom(node)
            continue
        low, high = min(weight.min(), 0), max(weight.max(), 0)
        levels = np.clip(np.rint((weight - low) / ((high - low) or 1) * 255), 0, 255).astype(np.uint8)
        stored = out.node.add(name=f"{node.name}_quantized_const", op="Const")
        stored.attr["dtype"].type = tensor_type = tf.quint8.as_datatype_enum
        stored.attr["value"].tensor.dtype, stored.attr["value"].tensor.tensor_content = tensor_type, levels.tobytes()
        stored.attr["value"].tensor.tensor_shape.CopyFrom(node.attr["value"].tensor.tensor_shape)
        for word, value in (("min", low), ("max", high)):
            bound = out.node.add(name=f"{node.name}_quantized_{word}", op="Const")
            bound.attr["dtype"].type = tf.float32.as_datatype_enum
            bound.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(np.float32(value)))
        inputs = [f"{node.name}_quantized_{word}" for word in ("const", "min", "max")]
        read = out.node.add(name=node.name, op="Dequantize", input=inputs)
        read.attr["T"].type, read.attr["mode"].s = tensor_type, b"MIN_FIRST"
    return out


@pytest.mark.tensorflow
@pytest.mark.parametrize("least", [1, 100])
def test_weights_that_were_stored_as_bytes(tf, tmp_path, least):
    file = frozen(tf, "conv_fused", tmp_path, lambda graph: stored_as_bytes(tf, graph, least))
    names = [layer.name for layer in to_program(path("conv_fused")).layers]
    assert [layer.name for layer in convert(file, tmp_path / "out.npz").layers] == names
    model = load(tmp_path / "out.npz")
    given = feeds("conv_fused", model)
    with tf.Graph().as_default(), tf.Session() as session:
        tf.import_graph_def(tf.GraphDef.FromString(file.read_bytes()), name="")
        fed = {f"{port.name}:0": given[port.name] if isinstance(given, dict) else given for port in model.inputs}
        fed["training:0"] = False
        expected = {name: session.run(f"{name}:0", fed) for name in FACTS["conv_fused"]["outputs"]}
    for name, value in outputs(model, given).items():
        assert np.abs(value - expected[name]).max() <= 1e-5 * max(1, np.abs(expected[name]).max())
    with open_checkpoint(file) as checkpoint:
        assert compare_variables(checkpoint).different == []
