"""Every value on the way, against TensorFlow's intermediate tensors and the formula in float64."""

import csv
import json
from pathlib import Path

import h5py
import numpy as np
import pytest
from click.testing import CliRunner

from bnexport import cli
from bnexport.checkpoint import open_checkpoint
from bnexport.commands import output
from bnexport.errors import InputError, UsageError
from bnexport.options import Options
from bnexport.runner import load
from bnexport.tracing import evaluate, norm_values, open_network, safe_names, write_trace

DATA = Path(__file__).parents[1] / "fixtures" / "data"
SEED = DATA / "seed"
CSV = SEED / "input.csv"
X = np.loadtxt(CSV, delimiter=",", dtype=np.float32)


def bnexport(*arguments):
    return CliRunner().invoke(cli.main, [str(argument) for argument in arguments], catch_exceptions=False)


def failed(result, code=1):
    assert (result.exit_code, result.stdout) == (code, "")
    return result.stderr


def expected(name):
    with np.load(DATA / name / "expected.npz") as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    path = tmp_path_factory.mktemp("bundle") / "seed.npz"
    assert bnexport("convert", SEED, path, "--quiet").exit_code == 0
    return path


@pytest.fixture(scope="module")
def seed():
    network = open_network(SEED)
    return network, evaluate(network.model, {"x": X})


# ---- the values


def test_tensors_on_the_way_are_tensorflows(seed):
    _, values = seed
    compared = [name for name in expected("seed") if name in values]
    assert {"before_bn", "y"} <= set(compared)
    for name in compared:
        np.testing.assert_allclose(values[name], expected("seed")[name], rtol=0, atol=2e-6)
        assert values[name].dtype == np.float64


def test_the_seeds_batch_norm_in_float64(seed):
    """Matrix product, bias and scale * (x - mean) / sqrt(var + epsilon) + offset, from the checkpoint's own variables."""
    network, values = seed
    with open_checkpoint(SEED) as checkpoint:
        v = {name: checkpoint.read(name).astype(np.float64) for name in checkpoint.names() if checkpoint.read(name).dtype.kind == "f"}
    before = X.astype(np.float64) @ v["W1"] + v["b1"]
    mean, var = v["bn/bn/moments/Squeeze/ExponentialMovingAverage"], v["bn/bn/moments/Squeeze_1/ExponentialMovingAverage"]
    after = v["bn/gamma"] * (before - mean) / np.sqrt(var + float(np.float32(1e-3))) + v["bn/beta"]
    for shown in norm_values(network, values, rows=[0, 3, 7], units=[0, 5, 15])[:9]:
        row, unit = shown.row, shown.unit
        assert shown.name == "bn"
        assert (shown.mean, shown.variance, shown.offset, shown.scale) == (mean[unit], var[unit], v["bn/beta"][unit], v["bn/gamma"][unit])
        assert shown.epsilon == 1e-3
        assert shown.before == pytest.approx(before[row, unit], rel=1e-12)
        assert shown.after == pytest.approx(after[row, unit], rel=1e-12)


def test_a_unit_that_only_some_batch_norms_have(seed):
    network, values = seed  # of 16 and 12 units
    assert [value.name for value in norm_values(network, values, [0], [13])] == ["bn"]


def test_a_place_where_there_are_none(seed):
    network, values = seed
    with pytest.raises(UsageError, match=r"--place 3: no batch norm of .*seed stands on images or sequences; leave it out"):
        norm_values(network, values, [0], [0], [3])


def test_convolutions_show_one_place():
    """Channel 2 at row 1, place (3, 4) of the image, against TensorFlow's formula in NumPy."""
    name = "conv_seed"
    network = open_network(DATA / name)
    x = np.loadtxt(DATA / name / "input.csv", delimiter=",", dtype=np.float32)
    values = evaluate(network.model, {"x": x})
    (shown,) = norm_values(network, values, [1], [2], (3, 4))
    norm = network.norms[0]
    assert shown.before == values[norm.before][1, 3, 4, 2]
    assert shown.after == values[norm.after][1, 3, 4, 2]
    with pytest.raises(UsageError, match=r"--place 3: the batch norm conv1/bn has places of 8, 8"):
        norm_values(network, values, [0], [2], [3])
    with pytest.raises(UsageError, match=r"--place 8,0: the batch norm conv1/bn has places of 8, 8"):
        norm_values(network, values, [1], [2], (8, 0))


def test_a_bundle_has_its_folded_layers(bundle):
    network = open_network(bundle)
    values = evaluate(network.model, {"x": X})
    assert not network.norms
    assert list(values) == ["x", "W1", "W2", "W3"]
    np.testing.assert_array_equal(values["W3"], load(bundle).trace(X)["W3"])
    np.testing.assert_allclose(values["W3"], expected("seed")["y"], rtol=0, atol=1e-5)


def test_a_checkpoint_without_its_graph_by_options():
    network = open_network(DATA / "no_meta_seed", Options(activation="relu:softmax", epsilon=1e-3))
    values = evaluate(network.model, {"input": np.loadtxt(DATA / "no_meta_seed" / "input.csv", delimiter=",")})
    want = expected("no_meta_seed")["y"]
    np.testing.assert_allclose(values[network.model.outputs[0].tensor], want, rtol=0, atol=2e-6)
    assert [norm.name for norm in network.norms] == ["bn", "bn_1"]


# ---- the command


def table(text):
    return list(csv.DictReader(text.splitlines(), delimiter="\t"))


def test_what_is_piped_is_separated_by_tabs_and_has_all_digits(seed):
    network, values = seed
    result = bnexport("trace", SEED, CSV, "--row", 2, "--row", 5, "--unit", 7)
    assert (result.exit_code, result.stderr) == (0, "")
    rows = table(result.stdout)
    assert list(rows[0]) == ["batch norm", "row", "unit", "before bn", "mean", "var", "offset", "scale", "epsilon", "after bn"]
    assert [(row["batch norm"], row["row"], row["unit"]) for row in rows] == [
        ("bn", "2", "7"),
        ("bn", "5", "7"),
        ("bn_1", "2", "7"),
        ("bn_1", "5", "7"),
    ]
    for row, value in zip(rows, norm_values(network, values, [2, 5], [7]), strict=True):
        assert float(row["before bn"]) == pytest.approx(value.before, rel=1e-13)
        assert float(row["var"]) == value.variance
        assert float(row["epsilon"]) == 1e-3
        formula = float(row["scale"]) * (float(row["before bn"]) - float(row["mean"])) / np.sqrt(float(row["var"]) + 1e-3) + float(row["offset"])
        assert float(row["after bn"]) == pytest.approx(formula, rel=1e-6)


def test_a_terminal_is_shown_an_aligned_table(monkeypatch):
    monkeypatch.setattr(output, "in_terminal", lambda: True)
    lines = bnexport("trace", SEED, CSV, "--unit", 3).stdout.splitlines()
    assert len(lines) == 3
    assert "\t" not in "".join(lines)
    assert [line.index("0.001") for line in lines[1:]] == [lines[0].index("epsilon") + 2] * 2
    assert len({len(line) for line in lines}) == 1


def test_layers_of_a_bundle(bundle):
    rows = table(bnexport("trace", bundle, CSV).stdout)
    assert [(row["layer"], row["operation"], row["shape"]) for row in rows] == [
        ("W1", "Dense, Relu", "[16]"),
        ("W2", "Dense, Relu", "[12]"),
        ("W3", "Dense, Softmax", "[10]"),
    ]
    y = expected("seed")["y"][0]
    assert float(rows[2]["most"]) == pytest.approx(y.max(), abs=1e-5)
    assert float(rows[2]["mean"]) == pytest.approx(0.1, abs=1e-6)


def test_json(seed):
    network, values = seed
    record = json.loads(bnexport("trace", SEED, CSV, "--row", 1, "--unit", 4, "--json").stdout)
    assert (record["kind"], [layer["name"] for layer in record["layers"]]) == ("checkpoint", [layer.name for layer in network.model.layers])
    first = record["batch_norms"][0]
    assert (first["name"], first["layer"], first["before"], first["after"]) == ("bn", "W1", "before_bn", "bn/batchnorm/add_1")
    assert first["variables"]["variance"] == "bn/bn/moments/Squeeze_1/ExponentialMovingAverage"
    assert first["values"][0]["row"] == 1
    assert first["values"][0]["before"] == pytest.approx(values["before_bn"][1, 4], rel=1e-13)


@pytest.mark.parametrize("suffix", [".npz", ".h5"])
def test_whole_activations_in_a_file(tmp_path, seed, suffix):
    out = tmp_path / f"trace{suffix}"
    result = bnexport("trace", SEED, CSV, "-o", out)
    assert (result.exit_code, result.stderr) == (0, f"wrote {out} (14 tensors)\n")
    _, values = seed
    if suffix == ".npz":
        with np.load(out) as arrays:
            found = dict(arrays)
    else:
        with h5py.File(out) as file:
            names = []
            file.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
            found = {name: file[name][()] for name in names}
    assert set(found) == set(values)
    for name, value in values.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-13)


def test_names_that_are_scopes_of_others(tmp_path):
    """fc1 is a layer and the scope of another: in HDF5 one of them cannot be a path."""
    values = {"fc1": np.ones(2), "fc1/Relu": np.zeros(3), "a b:1": np.arange(4), "../up": np.ones(1)}
    write_trace(tmp_path / "t.npz", values)
    with np.load(tmp_path / "t.npz") as arrays:
        assert arrays.files == ["fc1", "fc1/Relu", "a%20b%3A1", "%2E%2E%2Fup"]
    write_trace(tmp_path / "t.h5", values)
    with h5py.File(tmp_path / "t.h5") as file:
        assert sorted(file) == ["%2E%2E%2Fup", "a%20b%3A1", "fc1", "fc1%2FRelu"]
        np.testing.assert_array_equal(file["fc1%2FRelu"], np.zeros(3))
    assert safe_names(["bn/add", "bn"], nested=False) == {"bn/add": "bn/add", "bn": "bn"}


@pytest.mark.tensorflow
def test_a_network_for_one_batch_size_takes_other_numbers_of_rows(live, tf):
    """Five rows through a network built for two at a time, each of them as it would be in a batch of its own kind."""
    from live_graph import Net, rows

    def build():
        x = tf.placeholder(tf.float32, [2, 3], "x")
        weights = tf.get_variable("w", [2, 3, 4], tf.float32)
        return Net({x: rows(2, 3)}, [tf.squeeze(tf.matmul(tf.expand_dims(x, 1), weights), 1, name="y")])

    network = open_network(live(build).prefix)
    data = np.random.default_rng(1).normal(size=(5, 3))
    assert network.model.conversion["batch"] == 2
    values = evaluate(network.model, {"x": data})
    assert values["y"].shape == (5, 4)
    np.testing.assert_allclose(values["y"][2:4], evaluate(network.model, {"x": data[2:4]})["y"])


# ---- errors


def test_errors_say_what_there_is():
    assert failed(bnexport("trace", SEED, CSV, "--row", 8)) == "Error: --row 8: the input has the rows 0 to 7\n"
    assert "--unit 16: no batch norm of" in failed(bnexport("trace", SEED, CSV, "--unit", 16))
    assert "the widest has the units 0 to 15" in failed(bnexport("trace", SEED, CSV, "--unit", 16))
    assert "a trace is written as .npz or .h5" in failed(bnexport("trace", SEED, CSV, "-o", "trace.csv"))
    assert "'a' is no place" in failed(bnexport("trace", SEED, CSV, "--place", "a"), 2)
    assert "tell the activation" in failed(bnexport("trace", DATA / "no_meta_seed", DATA / "no_meta_seed" / "input.csv"))


def test_a_bundle_takes_no_options_of_the_conversion(bundle):
    assert "options of the conversion are for a checkpoint" in failed(bnexport("trace", bundle, CSV, "--ema"))


def test_rows_that_are_not_there(seed):
    network, values = seed
    with pytest.raises(InputError, match="--row 8: the input has the rows 0 to 7"):
        norm_values(network, values, [8], [0])


def test_what_was_assumed_without_a_graph_is_said():
    result = bnexport("trace", DATA / "no_meta", DATA / "no_meta" / "input.csv", "--activation", "relu:softmax")
    assert result.exit_code == 0
    assert "\nWarning: names carry no epsilon: 0.001 was taken for every batch norm; say another with --epsilon\n" in result.stderr
    assert result.stderr.startswith("assumed:       the order of the layers is the only one that their shapes allow: ")
    assert "assumed" not in result.stdout
