"""What `inspect` says of the fixtures, against what their fixture.json knows of them."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from bnexport.cli import main
from bnexport.conversion import convert
from bnexport.inspection import ROLES, examine, listing

DATA = Path(__file__).parents[1] / "fixtures" / "data"
BN_ROLES = {"beta": "beta", "gamma": "gamma", "mean": "moving mean", "variance": "moving variance"}


def truth(fixture):
    return json.loads((DATA / fixture / "fixture.json").read_text())


def true_roles(fixture):
    """The role of each of the network's variables, as the script that made the fixture wrote it down."""
    roles = {}
    for layer in truth(fixture)["layers"]:
        roles |= {layer[key]: key for key in ("kernel", "bias") if layer[key]}
        roles |= {layer["bn"][key]: role for key, role in BN_ROLES.items() if layer["bn"] and layer["bn"].get(key)}
    return roles


def found_roles(record):
    return {variable["name"]: variable["role"] for variable in record["variables"] if variable["layer"] is not None}


CHAINS = [
    "seed",
    "seed_named",
    "seed_cond_v2",
    "seed_zero_debias",
    "bn_after_activation",
    "bn_on_input",
    "no_gamma",
    "no_beta",
    "phase_int",
    "training_baked",
    "two_shards",
    "tf_layers",
    "contrib",
    "v1",
    "polyak",
    "conv_fused",
]


@pytest.mark.parametrize("fixture", CHAINS)
def test_roles_and_epsilon_from_the_graph(fixture):
    record = examine(DATA / fixture)
    assert record["unconverted"] is None
    assert found_roles(record) == true_roles(fixture)
    epsilons = sorted(layer["bn"]["epsilon"] for layer in truth(fixture)["layers"] if layer["bn"])
    norms = [norm for layer in record["layers"] for norm in layer["batch_norms"]]
    assert sorted(norm["epsilon"] for norm in norms) == pytest.approx(epsilons, rel=1e-6)
    assert {norm["epsilon_from"] for norm in norms} == {"the graph"}
    for norm in norms:  # the four of one batch norm are those of one batch norm in truth as well
        real = next(layer["bn"] for layer in truth(fixture)["layers"] if layer["bn"] and layer["bn"]["variance"] == norm["variance"])
        assert {key: norm[key] for key in BN_ROLES} == {key: real.get(key) for key in BN_ROLES}


def test_the_record_of_a_checkpoint():
    record = examine(DATA / "seed" / "model.ckpt.data-00000-of-00001")
    assert list(record) == [
        *("kind", "path", "version", "graph", "tensorflow", "unconverted", "inputs", "outputs", "parameters", "layers", "variables", "warnings"),
    ]
    assert (record["kind"], record["path"], record["version"]) == ("checkpoint", str(DATA / "seed" / "model.ckpt"), 2)
    assert (record["graph"], record["tensorflow"]) == ("model.ckpt.meta", truth("seed")["tensorflow"])
    assert record["inputs"] == [{"name": "x", "shape": [None, 64], "dtype": "float32"}]
    assert record["outputs"] == [{"name": "y", "shape": [None, 10], "dtype": "float32"}]
    assert record["parameters"] == 64 * 16 + 5 * 16 + 16 * 12 + 5 * 12 + 12 * 10 + 10
    assert [(layer["op"], layer["activation"]) for layer in record["layers"]] == [("Dense", "Relu"), ("Dense", "Relu"), ("Dense", "Softmax")]
    kernel = next(variable for variable in record["variables"] if variable["name"] == "W1")
    layer = record["layers"][0]["name"]
    assert kernel == {"name": "W1", "shape": [64, 16], "dtype": "float32", "parameters": 1024, "role": "kernel", "layer": layer, "belongs_to": None}
    slots = {variable["name"]: variable for variable in record["variables"] if variable["role"] == "optimiser slot"}
    assert {"W1/Adam", "bn_1/gamma/Adam_1", "beta1_power"} <= slots.keys()
    assert all(variable["layer"] is None for variable in slots.values())
    assert slots["bn_1/gamma/Adam_1"]["belongs_to"] == "bn_1/gamma"
    assert [variable["name"] for variable in record["variables"]] == sorted(variable["name"] for variable in record["variables"])


@pytest.mark.parametrize("fixture", ["no_meta", "no_meta_seed"])
def test_roles_from_names(fixture):
    record = examine(DATA / fixture)
    assert (record["graph"], record["unconverted"], record["warnings"]) == (None, None, [])
    assert found_roles(record) == true_roles(fixture)
    assert all(norm["epsilon"] is None for layer in record["layers"] for norm in layer["batch_norms"])
    lines = list(listing(record))
    assert "  graph:           none: roles are read off the names" in lines
    assert "  epsilon          not known: only the graph says it" in lines


def test_names_of_object_based_checkpoints_are_keys():
    record = examine(DATA / "savedmodel_v2" / "saved_model")
    assert record["graph"] == "saved_model.pb"
    assert all(variable["name"].endswith("/.ATTRIBUTES/VARIABLE_VALUE") for variable in record["variables"] if variable["layer"])
    assert sorted(found_roles(record).values()) == sorted(["kernel", "bias"] * 3 + list(BN_ROLES.values()) * 2)


def test_partitioned_variables_are_one():
    record = examine(DATA / "partitioned")
    assert {name: role for name, role in found_roles(record).items() if role == "kernel"} == {"hidden/kernel": "kernel", "out/kernel": "kernel"}


def test_a_graph_that_cannot_be_converted(tmp_path):
    # seed's variables beside the graph of another network
    for file in (DATA / "seed").glob("model.ckpt.*"):
        shutil.copy(file, tmp_path)
    shutil.copy(DATA / "conv_seed" / "model.ckpt.meta", tmp_path / "model.ckpt.meta")
    record = examine(tmp_path)
    assert record["unconverted"]
    assert (record["inputs"], record["outputs"]) == (None, None)
    assert found_roles(record) == true_roles("seed")
    line = next(line for line in listing(record) if line.startswith("  not converted:"))
    assert line == f"  not converted:   {' '.join(record['unconverted'].split())}"


def test_the_listing_of_a_checkpoint():
    lines = list(listing(examine(DATA / "seed")))
    start = lines.index("W1  Dense, Relu")
    assert lines[start : start + 9] == [
        "W1  Dense, Relu",
        "  kernel           [64, 16]  float32   W1",
        "  bias             [16]      float32   b1",
        "  beta             [16]      float32   bn/beta",
        "  gamma            [16]      float32   bn/gamma",
        "  moving mean      [16]      float32   bn/bn/moments/Squeeze/ExponentialMovingAverage",
        "  moving variance  [16]      float32   bn/bn/moments/Squeeze_1/ExponentialMovingAverage",
        "  epsilon          0.001 from the graph",
        "",
    ]
    assert "optimiser slots (22)" in lines
    assert [role for role in ROLES if role != "scale"] == [line.split("  ")[1].strip() for line in lines[start + 1 : start + 7]]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    path = tmp_path_factory.mktemp("bundle") / "preact.npz"
    CliRunner().invoke(main, ["convert", str(DATA / "conv_preact"), str(path), "--quiet"], catch_exceptions=False)
    return path


def test_the_record_of_a_bundle(bundle):
    record = examine(bundle)
    assert list(record) == ["kind", "path", "tensorflow", "incomplete", "inputs", "outputs", "parameters", "layers", "warnings", "conversion"]
    assert (record["kind"], record["path"], record["incomplete"]) == ("bundle", str(bundle), None)
    with np.load(bundle) as arrays:
        stored = {name: arrays[name] for name in arrays.files if name != "manifest.json"}
    assert record["parameters"] == sum(array.size for array in stored.values())
    shapes = [array["shape"] for layer in record["layers"] for array in layer["arrays"].values()]
    assert sorted(shapes) == sorted(list(array.shape) for array in stored.values())
    stem, left = record["layers"][:2]
    assert (stem["op"], stem["inputs"], stem["batch_norms"]) == ("Conv2D", ["image"], [])
    assert (left["op"], left["activation"]) == ("ScaleShift", "Relu")
    assert left["batch_norms"] == [
        {
            "gamma": "bn1/gamma",
            "beta": "bn1/beta",
            "mean": "bn1/pop_mean",
            "variance": "bn1/pop_var",
            "epsilon": 0.001,
            "epsilon_from": "the graph",
            "before": False,
        }
    ]


def test_the_listing_of_a_bundle(bundle):
    lines = list(listing(examine(bundle)))
    assert "  made from:       model.ckpt, model.ckpt.meta" in lines
    assert "  input:           image [?, 8, 8, 1] float32" in lines
    assert "  output:          y [?, 10] float32" in lines
    assert "stem  Conv2D of image" in lines
    assert "  batch norm       gamma bn1/gamma, beta bn1/beta, mean bn1/pop_mean, variance bn1/pop_var, epsilon 0.001 from the graph" in lines
    assert any(line.startswith("  not folded       ") for line in lines)


def test_what_stood_before_a_layer(tmp_path):
    """The batch norm of fc1 stands behind its activation, and went into fc2; that of fc2 into the output's layer."""
    convert(DATA / "bn_after_activation", tmp_path / "out.npz")
    for path in (DATA / "bn_after_activation", tmp_path / "out.npz"):
        record = examine(path)
        assert [[norm["before"] for norm in layer["batch_norms"]] for layer in record["layers"]] == [[], [True], [True]]
        assert sum(line.endswith("epsilon 0.001 from the graph; the batch norm stands before the layer") for line in listing(record)) == 2 * (
            record["kind"] == "bundle"
        )
    assert not any("before" in line for line in listing(examine(DATA / "seed")))


@pytest.mark.tensorflow
def test_numbers_of_the_graphs_own(tf, live, tmp_path):
    from live_graph import Net, rows

    def build():
        x = tf.placeholder(tf.float32, [None, 3], name="x")
        y = tf.matmul(x / 255.0, tf.get_variable("w", [3, 2])) * 0.5
        return Net({x: rows(2, 3)}, [tf.nn.relu(y, name="y")])

    convert(live(build).prefix, tmp_path / "out.npz")
    record = examine(tmp_path / "out.npz")
    second, first = record["layers"][0]["provenance"]["numbers"]
    assert (first["node"], first["scale"], first["shift"], first["before"]) == ("truediv", pytest.approx(1 / 255, rel=1e-7), 0, True)
    assert (second["node"], second["scale"], second["shift"]) == ("mul", 0.5, 0)
    lines = list(listing(record))
    assert "  numbers          truediv: * 0.003921569, before the layer" in lines
    assert "  numbers          mul: * 0.5, behind the layer" in lines


@pytest.mark.parametrize("what", ["checkpoint", "bundle"])
def test_the_command(bundle, what):
    path = DATA / "seed" if what == "checkpoint" else bundle
    text = CliRunner().invoke(main, ["inspect", str(path)], catch_exceptions=False)
    assert (text.exit_code, text.stderr) == (0, "")
    assert text.stdout.splitlines() == list(listing(examine(path)))
    assert "\x1b[" not in text.stdout
    styled = CliRunner().invoke(main, ["inspect", str(path)], color=True, catch_exceptions=False)
    assert "\x1b[1m" in styled.stdout
    as_json = CliRunner().invoke(main, ["inspect", str(path), "--json"], catch_exceptions=False)
    assert json.loads(as_json.stdout) == examine(path)
