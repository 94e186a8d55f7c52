"""Every fixture that has a graph: converted without flags, and compared with what TensorFlow stored beside it."""

import json
from pathlib import Path

import numpy as np
import pytest

from bnexport.conversion import convert, to_program
from bnexport.options import Options
from bnexport.runner import load

DATA = Path(__file__).parents[1] / "fixtures" / "data"
FACTS = {p.parent.name: json.loads(p.read_text()) for p in sorted(DATA.glob("*/fixture.json"))}
SAVED_MODELS = [n for n in FACTS if (DATA / n / "saved_model").is_dir()]
WITH_META = [n for n in FACTS if any((DATA / n).glob("*.meta"))]
FROZEN = [n for n in FACTS if any((DATA / n).glob("*.pb"))]
NAMES = WITH_META + SAVED_MODELS + FROZEN

TOLERANCE = {"half": 2e-3, "float64": 1e-12}
"""Of the largest output; 1e-5 for all others."""

DROPOUT = {
    "dropout_old": [(None, "keep_prob")],
    "dropout_new": [(None, "dropout_rate")],
    "dropout_baked": [(0.7, None)],
    "dropout_old_baked": [(0.6, None)],
    "training_baked": [(0.5, None)],
    "slim_training": [(0.5, None)],
    "seed": [(None, "keep_prob")],
}


def path(name):
    return DATA / name / FACTS[name]["prefix"]


def feeds(name, model):
    if (DATA / name / "input.npz").exists():
        with np.load(DATA / name / "input.npz") as arrays:
            return dict(arrays)
    (port,) = model.inputs
    flat = np.loadtxt(DATA / name / "input.csv", delimiter=",", ndmin=2)
    return {port.name: flat.reshape(len(flat), *port.shape[1:]).astype(port.dtype)}


def stored(name, file="expected.npz"):
    with np.load(DATA / name / file) as arrays:
        return dict(arrays)


def outputs(model, data):
    got = model.predict(data)
    return got if isinstance(got, dict) else {model.outputs[0].name: got}


def assert_close(name, got, want):
    assert got.shape == want.shape
    assert np.abs(got.astype(np.float64) - want.astype(np.float64)).max() <= TOLERANCE.get(name, 1e-5) * max(1.0, np.abs(want).max())


def names_of(name):
    """(inputs, {output: the tensor's name}) as the user sees them: a SavedModel's are its signature's."""
    signature = FACTS[name].get("signature")
    if signature is None:
        return FACTS[name]["inputs"], {o: o for o in FACTS[name]["outputs"]}
    return list(signature["inputs"]), dict(signature["outputs"])


@pytest.mark.parametrize("suffix", [".npz", ".h5"])
@pytest.mark.parametrize("name", NAMES)
def test_the_outputs_are_tensorflows(tmp_path, name, suffix):
    out = tmp_path / f"out{suffix}"
    convert(path(name), out)
    model = load(out)
    inputs, ends = names_of(name)
    assert [p.name for p in model.inputs] == sorted(inputs, key=[p.name for p in model.inputs].index)
    assert {p.name for p in model.outputs} == set(ends)
    got, want = outputs(model, feeds(name, model)), stored(name)
    for end, tensor in ends.items():
        assert_close(name, got[end], want[tensor])


@pytest.mark.parametrize("name", [n for n in WITH_META if len(stored(n)) > len(FACTS[n]["outputs"])])
def test_tensors_on_the_way_can_be_asked_for(tmp_path, name):
    want = stored(name)
    convert(path(name), tmp_path / "out.npz", Options(outputs=list(want)))
    model = load(tmp_path / "out.npz")
    got = outputs(model, feeds(name, model))
    assert set(got) == set(want)
    for key, value in want.items():
        assert_close(name, got[key], value)


@pytest.mark.parametrize("name", [n for n in NAMES if FACTS[n].get("feeds")])
def test_what_was_fed_for_inference_is_what_was_found(name):
    """A flag's value is recorded with its reason; what feeds a dropout needs none, and is recorded with it."""
    conversion = to_program(path(name)).conversion
    found = {f["node"]: f["value"] for f in conversion["set"]}
    fed = {d["fed_by"] for d in conversion["dropped"]}
    for feed, value in FACTS[name]["feeds"].items():
        flag = feed.removesuffix("/read")
        assert flag in fed or found[flag] == value
    assert all(f["why"] for f in conversion["set"])


@pytest.mark.parametrize("name", DROPOUT)
def test_dropout_that_was_removed_is_recorded(name):
    dropped = [(d["keep"], d["fed_by"]) for d in to_program(path(name)).conversion["dropped"]]
    assert dropped
    for keep, fed_by in dropped:
        (want,) = DROPOUT[name]
        assert fed_by == want[1]
        assert keep is want[0] or keep == pytest.approx(want[0], abs=1e-6)


@pytest.mark.parametrize("name", ["training_baked", "training_baked_ema", "slim_training"])
def test_moving_statistics_of_training_graphs_are_recorded(name):
    program = to_program(path(name))
    used = {s["variable"] for s in program.conversion["statistics"]}
    assert used == {layer["bn"][role] for layer in FACTS[name]["layers"] if layer["bn"] for role in ("mean", "variance")}


@pytest.mark.parametrize("name", [n for n in WITH_META if any(layer["bn"] for layer in FACTS[n]["layers"])])
def test_each_batch_norm_is_traced_to_its_variables_and_epsilon(name):
    found = [part for layer in to_program(path(name)).layers for part in layer.provenance.get("parts", ()) if "variance" in part]
    for norm in [layer["bn"] for layer in FACTS[name]["layers"] if layer["bn"]]:
        mine = [part for part in found if part["variance"] == norm["variance"]]
        assert mine, norm["variance"]
        for part in mine:  # the half precision network's is 0.001 rounded to eleven bits
            assert part["epsilon"] == pytest.approx(norm["epsilon"], rel=1e-3 if name == "half" else 1e-12)
        assert {part["epsilon_from"] for part in mine} == {"the graph"}
        assert {part["mean"] for part in mine if "mean" in part} == {norm["mean"]}
        roles = {value for part in mine for value in part.values()}
        assert {norm[role] for role in ("gamma", "beta") if norm[role]} <= roles


@pytest.mark.parametrize("name", [n for n in WITH_META if not n.startswith("conv_preact")])
def test_nothing_stays_unfolded(name):
    program = to_program(path(name))
    assert program.conversion["unfolded"] == []
    assert [layer.name for layer in program.layers if layer.op == "ScaleShift" and layer.provenance.get("parts")] == []


def test_the_averaged_weights(tmp_path):
    convert(path("polyak"), tmp_path / "out.npz", Options(averages=True))
    model = load(tmp_path / "out.npz")
    got = outputs(model, feeds("polyak", model))
    assert_close("polyak", got["y"], stored("polyak", "expected_ema.npz")["y"])


def test_the_same_input_gives_the_same_bytes(tmp_path):
    for name in ("a.npz", "b.npz"):
        convert(path("seed"), tmp_path / name)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


@pytest.mark.tensorflow
@pytest.mark.parametrize(
    "name", ["seed", "seed_cond_v2", "phase_int", "no_gamma", "dropout_old", "partitioned", "conv_seed", "conv_fused", "conv_preact"]
)
def test_fresh_rows_in_a_live_session(tf, tmp_path, name):
    convert(path(name), tmp_path / "out.npz")
    model = load(tmp_path / "out.npz")
    (port,) = model.inputs
    x = np.random.default_rng(17).uniform(0, 1, (33, *port.shape[1:])).astype(port.dtype)
    with tf.Graph().as_default() as graph, tf.Session() as session:
        tf.train.import_meta_graph(f"{path(name)}.meta").restore(session, str(path(name)))
        feed = {graph.get_tensor_by_name(f"{key}:0"): value for key, value in {port.name: x, **FACTS[name]["feeds"]}.items()}
        want = session.run([graph.get_tensor_by_name(f"{p.name}:0") for p in model.outputs], feed)
    for got, expected in zip(outputs(model, {port.name: x}).values(), want, strict=True):
        assert_close(name, got, expected)
