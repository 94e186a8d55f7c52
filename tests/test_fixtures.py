import json
import os
from pathlib import Path

import numpy as np
import pytest

DATA = Path(__file__).parents[1] / "fixtures" / "data"
NAMES = sorted(p.name for p in DATA.iterdir() if (p / "fixture.json").exists())
SAVED_MODELS = [n for n in NAMES if (DATA / n / "saved_model").is_dir()]
WITH_META = [n for n in NAMES if any((DATA / n).glob("*.meta"))]
FROZEN = [n for n in NAMES if any((DATA / n).glob("*.pb"))]
WITH_CHECKPOINT = [n for n in NAMES if n not in SAVED_MODELS + FROZEN]

TOLERANCE = {"float16": 2e-3, "float32": 1e-6, "float64": 1e-12}
"""How far a session may be from the stored outputs, relative to the largest of them: another machine adds up in another order."""


def read(name):
    return json.loads((DATA / name / "fixture.json").read_text())


def feeds(name):
    """The held-out rows by input name; CSV rows still flat."""
    facts = read(name)
    if (DATA / name / "input.npz").exists():
        with np.load(DATA / name / "input.npz") as arrays:
            return dict(arrays)
    (only,) = facts["inputs"]
    return {only: np.loadtxt(DATA / name / "input.csv", delimiter=",", dtype=np.float32)}


def expected(name, file="expected.npz"):
    with np.load(DATA / name / file) as arrays:
        return dict(arrays)


def assert_same(got, want):
    assert got.dtype == want.dtype
    assert got.shape == want.shape
    difference = np.abs(got.astype(np.float64) - want.astype(np.float64)).max()
    assert difference <= TOLERANCE[want.dtype.name] * np.abs(want).max()


def test_the_readme_says_what_each_fixture_is():
    rows = [line for line in (DATA.parent / "README.md").read_text().splitlines() if line.startswith("| `")]
    assert sorted(rows) == sorted(f"| `{name}` | {read(name)['about']} |" for name in NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_fixture_is_complete_and_small(name):
    facts = read(name)
    files = [f for f in (DATA / name).rglob("*") if f.is_file()]
    assert max(f.stat().st_size for f in files) < 1_000_000
    assert facts["name"] == name
    assert facts["about"]
    assert len(facts["inputs"]) >= 1
    assert set(facts["outputs"]) <= set(expected(name))
    assert set(feeds(name)) == set(facts["inputs"])
    assert {len(v) for v in feeds(name).values()} == {8}
    prefix = DATA / name / facts["prefix"]
    if name in SAVED_MODELS:
        assert (prefix / "saved_model.pb").exists()
        assert (prefix / "variables" / "variables.index").exists()
    elif name in FROZEN:
        assert prefix.is_file()
    else:
        assert (DATA / name / "checkpoint").exists()
        assert prefix.exists() or prefix.with_name(prefix.name + ".index").exists()


def test_all_together_they_stay_small():
    assert sum(f.stat().st_size for f in DATA.rglob("*") if f.is_file()) < 3_500_000


@pytest.mark.parametrize("name", NAMES)
def test_the_outputs_are_a_trained_networks(name):
    """Ten classes, told apart with confidence: an untrained network would say about 0.1 of each."""
    y = expected(name)[read(name)["outputs"][0]].astype(np.float64)
    y = np.exp(y) if y.max() <= 0 else y
    np.testing.assert_allclose(y.sum(1), 1, atol=5e-3)
    assert y.max(1).mean() > 0.6


def test_names_without_a_graph_tell_the_same_story_with_and_without_the_meta():
    assert not any((DATA / "no_meta").glob("*.meta"))
    assert [layer["bn"] for layer in read("no_meta")["layers"]] == [layer["bn"] for layer in read("seed_named")["layers"]]
    assert [layer["bn"] for layer in read("no_meta_seed")["layers"]] == [layer["bn"] for layer in read("seed")["layers"]]


@pytest.fixture(scope="module")
def tf():
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    module = pytest.importorskip("tensorflow")
    module.compat.v1.logging.set_verbosity(module.compat.v1.logging.ERROR)
    return module


def session(tf):
    # two_shards asks for a second CPU by name
    return tf.compat.v1.Session(
        config=tf.compat.v1.ConfigProto(device_count={"CPU": 2}, intra_op_parallelism_threads=1, inter_op_parallelism_threads=1)
    )


def tensor(sess, name):
    return sess.graph.get_tensor_by_name(f"{name}:0" if ":" not in name else name)


def run(sess, name, wanted):
    facts = read(name)
    fed = {tensor(sess, k): v for k, v in facts["feeds"].items()}
    for input_name, rows in feeds(name).items():
        placeholder = tensor(sess, input_name)
        fed[placeholder] = rows.reshape([len(rows), *placeholder.shape.as_list()[1:]]).astype(placeholder.dtype.as_numpy_dtype)
    return sess.run({k: tensor(sess, k) for k in wanted}, fed)


@pytest.mark.tensorflow
@pytest.mark.parametrize("name", WITH_META)
def test_the_saved_graph_gives_the_stored_outputs(tf, name):
    prefix = str(DATA / name / read(name)["prefix"])
    want = expected(name)
    with tf.Graph().as_default(), session(tf) as sess:
        saver = tf.compat.v1.train.import_meta_graph(prefix + ".meta")
        saver.restore(sess, prefix)
        for wanted in [*read(name)["inputs"], *want]:
            assert tensor(sess, wanted) is not None
        if "reference" in read(name):
            # The graph can only train: its outputs are another batch's, and drawn anew by dropout.
            got = run(sess, name, read(name)["outputs"])
            assert any(np.abs(got[k] - want[k]).max() > 1e-3 for k in got)
            return
        for key, value in run(sess, name, want).items():
            assert_same(value, want[key])


@pytest.mark.tensorflow
def test_the_averaged_weights_give_the_other_outputs(tf):
    prefix = str(DATA / "polyak" / "model.ckpt")
    with tf.Graph().as_default(), session(tf) as sess:
        tf.compat.v1.train.import_meta_graph(prefix + ".meta").restore(sess, prefix)
        reader = tf.train.load_checkpoint(prefix)
        variables = {v.op.name: v for v in tf.compat.v1.global_variables()}
        for name, average in read("polyak")["averages"].items():
            variables[name].load(reader.get_tensor(average), sess)
        want = expected("polyak", "expected_ema.npz")
        for key, value in run(sess, "polyak", want).items():
            assert_same(value, want[key])
        assert np.abs(want["y"] - expected("polyak")["y"]).max() > 1e-3


@pytest.mark.tensorflow
def test_the_saved_model_of_tensorflow_1_gives_the_stored_outputs(tf):
    with tf.Graph().as_default(), session(tf) as sess:
        tf.compat.v1.saved_model.load(sess, ["serve"], str(DATA / "savedmodel_v1" / "saved_model"))
        want = expected("savedmodel_v1")
        for key, value in run(sess, "savedmodel_v1", want).items():
            assert_same(value, want[key])


@pytest.mark.tensorflow
@pytest.mark.parametrize("name", FROZEN)
def test_the_frozen_graph_gives_the_stored_outputs(tf, name):
    graph = tf.compat.v1.GraphDef.FromString((DATA / name / read(name)["prefix"]).read_bytes())
    with tf.Graph().as_default(), session(tf) as sess:
        tf.import_graph_def(graph, name="")
        want = expected(name)
        for key, value in run(sess, name, want).items():
            assert_same(value, want[key])


@pytest.mark.tensorflow
def test_the_saved_model_of_tensorflow_2_gives_the_stored_outputs(tf):
    signature = read("savedmodel_v2")["signature"]
    loaded = tf.saved_model.load(str(DATA / "savedmodel_v2" / "saved_model"))
    ((argument, _),) = signature["inputs"].items()
    (result,) = loaded.signatures[signature["name"]](**{argument: feeds("savedmodel_v2")["x"]}).values()
    assert_same(result.numpy(), expected("savedmodel_v2")["y"])


def batch_norm(reader, norm, x):
    mean, variance = (reader.get_tensor(norm[k]).astype(np.float64) for k in ("mean", "variance"))
    gamma = reader.get_tensor(norm["gamma"]).astype(np.float64) if norm["gamma"] else 1.0
    beta = reader.get_tensor(norm["beta"]).astype(np.float64) if norm["beta"] else 0.0
    return gamma * (x - mean) / np.sqrt(variance + norm["epsilon"]) + beta


ACTIVATIONS = {
    None: lambda x: x,
    "relu": lambda x: np.maximum(x, 0),
    "tanh": np.tanh,
    "softmax": lambda x: np.exp(x - x.max(1, keepdims=True)) / np.exp(x - x.max(1, keepdims=True)).sum(1, keepdims=True),
}

CHAINS = [n for n in WITH_CHECKPOINT if not n.startswith(("conv", "multi", "activations"))]


@pytest.mark.tensorflow
@pytest.mark.parametrize("name", CHAINS)
def test_the_layers_of_fixture_json_are_the_network(tf, name):
    """The names, epsilons and placements that fixture.json calls the truth, multiplied out in float64."""
    facts = read(name)
    reader = tf.train.load_checkpoint(str(DATA / name / facts["prefix"]))
    (x,) = feeds(name).values()
    x = x.astype(np.float64)
    for layer in facts["layers"]:
        norm = layer["bn"]
        if norm and layer["order"] == "before_kernel":
            x = batch_norm(reader, norm, x)
        if layer["kernel"]:
            x = x @ reader.get_tensor(layer["kernel"]).astype(np.float64)
        if layer["bias"]:
            x = x + reader.get_tensor(layer["bias"]).astype(np.float64)
        if norm and layer["order"] == "before_activation":
            x = batch_norm(reader, norm, x)
        x = ACTIVATIONS[layer["activation"]](x)
        if norm and layer["order"] == "after_activation":
            x = batch_norm(reader, norm, x)
    want = expected(name)[facts["outputs"][0]]
    assert np.abs(x - want).max() < (2e-2 if want.dtype == np.float16 else 2e-6)


@pytest.mark.tensorflow
@pytest.mark.parametrize("name", WITH_CHECKPOINT)
def test_the_batch_norms_are_trained_and_their_statistics_moved(tf, name):
    facts = read(name)
    reader = tf.train.load_checkpoint(str(DATA / name / facts["prefix"]))
    for norm in [layer["bn"] for layer in facts["layers"] if layer["bn"]]:
        values = {role: reader.get_tensor(norm[role]).astype(np.float64) for role in ("beta", "gamma", "mean", "variance") if norm[role]}
        for role, start in {"beta": 0, "gamma": 1, "mean": 0, "variance": 1}.items():
            assert role not in values or np.abs(values[role] - start).max() > 1e-2
        assert values["variance"].min() >= 0
