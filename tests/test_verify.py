"""Bundles compared with their checkpoints: pairs that agree, and pairs that do not."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner
from live_graph import Net, dense, rows

from bnexport import cli
from bnexport.batchnorms import batch_norms
from bnexport.checkpoint import locate, open_checkpoint
from bnexport.conversion import convert, to_program, to_unfolded
from bnexport.differences import Difference
from bnexport.draws import draw
from bnexport.errors import UsageError
from bnexport.formats import read_bundle, write_bundle
from bnexport.options import Options
from bnexport.program import InMemory, Layer, Literal, Port, Program, materialize
from bnexport.reference import Session, Unavailable
from bnexport.runner import Model
from bnexport.verification import verify

DATA = Path(__file__).parents[1] / "fixtures" / "data"
FACTS = {path.parent.name: json.loads(path.read_text()) for path in sorted(DATA.glob("*/fixture.json"))}
NO_GRAPH = ("no_meta", "no_meta_seed", "tf2_objects", "tf2_weights")
SEED = DATA / "seed"


def bnexport(*arguments):
    return CliRunner().invoke(cli.main, [str(argument) for argument in arguments], catch_exceptions=False)


def failed(result, code=1):
    assert (result.exit_code, result.stdout) == (code, "")
    return result.stderr


def prefix(name):
    return DATA / name / FACTS[name]["prefix"]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    path = tmp_path_factory.mktemp("bundle") / "seed.npz"
    convert(SEED, path)
    return path


@pytest.fixture
def no_tensorflow(monkeypatch):
    def missing():
        raise Unavailable("TensorFlow is not installed")

    monkeypatch.setattr("bnexport.reference.tensorflow", missing)


def spoiled(bundle, tmp_path, layer, role="kernel", change=lambda values: values):
    """The bundle with one array changed, and written as a whole bundle again."""
    program = read_bundle(bundle)
    one = next(each for each in program.layers if each.name == layer)
    one.arrays[role] = InMemory(change(materialize(one.arrays[role]).copy()))
    path = tmp_path / "spoiled.npz"
    write_bundle(path, program)
    return path


def one_weight(values):
    values[3, 5] += np.float32(0.02)
    return values


def variables_of(tf, location):
    """How many variables TensorFlow sees."""
    if not location.is_frozen:
        return len(tf.train.load_checkpoint(str(location.prefix)).get_variable_to_shape_map())
    nodes = tf.GraphDef.FromString(location.prefix.read_bytes()).node
    constants = [tf.make_ndarray(node.attr["value"].tensor) for node in nodes if node.op == "Const"]
    return sum(constant.ndim > 0 and constant.dtype.kind == "f" for constant in constants)


# ---- pairs that agree


@pytest.mark.tensorflow
@pytest.mark.parametrize("name", [name for name in FACTS if name not in NO_GRAPH])
def test_fixtures_agree_with_the_truth_and_with_tensorflow(tf, tmp_path, name):
    convert(prefix(name), tmp_path / "out.npz")
    found = verify(prefix(name), tmp_path / "out.npz", rows=16)
    assert found.passed
    assert found.unavailable is None
    assert found.variables.different == []
    assert found.variables.compared == variables_of(tf, locate(prefix(name)))
    limit = {"float16": 1e-2, "float32": 5e-6, "float64": 1e-14}
    for output in found.outputs:
        kind = next(p.dtype for p in read_bundle(tmp_path / "out.npz").outputs if p.name == output.name)
        assert output.bundle.relative <= limit[kind]
        assert output.tensorflow.relative <= (1e-2 if name == "half" else limit[kind])  # were it fed the wrong phase, it would be 0.1 and more
    assert all(layer.bundle is not None for layer in found.layers if layer.equals)
    if not name.startswith("savedmodel_v2"):  # whose layers are inside functions
        assert sum(layer.tensorflow is not None for layer in found.layers) >= len([layer for layer in found.layers if layer.equals]) // 2


@pytest.mark.tensorflow
@pytest.mark.parametrize("name", [name for name in FACTS if name not in NO_GRAPH])
def test_tensorflows_side_gives_the_stored_outputs(tf, name):
    """For the fixture's own rows the session gives what TensorFlow gave when the fixture was made, also where the graph can only train."""
    program = to_program(prefix(name))
    if (DATA / name / "input.npz").exists():
        with np.load(DATA / name / "input.npz") as arrays:
            rows = dict(arrays)
    else:
        rows = {program.inputs[0].name: np.loadtxt(DATA / name / "input.csv", delimiter=",", dtype=np.float32)}
    feeds = {p.name: rows[p.name].reshape(-1, *p.shape[1:]) for p in program.inputs}
    with Session(locate(prefix(name)), Options(), program.conversion) as session:
        values = session.evaluate(feeds)
    with np.load(DATA / name / "expected.npz") as stored:
        signature = FACTS[name].get("signature") or {}
        names = {key: tensor.removesuffix(":0") for key, tensor in (signature.get("outputs") or {}).items()}
        for port in program.outputs:
            want = stored[
                port.name if port.name in stored.files else names.get(port.name) if names.get(port.name) in stored.files else stored.files[0]
            ]
            np.testing.assert_allclose(values[f"output:{port.name}"], want, rtol=0, atol=3e-3 if want.dtype == np.float16 else 2e-6)


@pytest.mark.tensorflow
def test_averages_of_weights_are_tensorflows_too(tf, tmp_path):
    convert(prefix("polyak"), tmp_path / "out.npz", Options(averages=True))
    found = verify(prefix("polyak"), tmp_path / "out.npz")
    assert found.passed
    assert found.outputs[0].tensorflow.relative < 5e-6
    assert read_bundle(tmp_path / "out.npz").conversion["options"] == {"averages": True}


def test_without_tensorflow_it_is_said(no_tensorflow, bundle):
    found = verify(SEED, bundle)
    assert found.passed
    assert (found.tensorflow, found.unavailable, found.variables) == (None, "TensorFlow is not installed", None)
    assert "TensorFlow: not compared (TensorFlow is not installed)" in bnexport("verify", SEED, bundle).stdout


@pytest.mark.parametrize("name", NO_GRAPH)
def test_a_checkpoint_without_its_graph_by_the_options_of_its_bundle(no_tensorflow, tmp_path, name):
    convert(prefix(name), tmp_path / "out.npz", Options(activation="relu:softmax", epsilon=1e-3))
    found = verify(prefix(name), tmp_path / "out.npz")
    assert found.passed
    assert found.outputs[0].bundle.relative < 5e-6


def test_rows_of_a_file(no_tensorflow, bundle):
    found = verify(SEED, bundle, input_file=SEED / "input.csv")
    assert (found.rows, found.inputs) == (8, {"x": f"the rows of {SEED / 'input.csv'}"})
    assert found.passed


def test_rows_in_parts_are_as_all_together(no_tensorflow, bundle, monkeypatch):
    whole = verify(SEED, bundle, rows=40)
    monkeypatch.setattr("bnexport.verification.PART_BYTES", 20_000)
    parts = verify(SEED, bundle, rows=40)
    for one, other in zip(whole.outputs, parts.outputs, strict=True):
        assert (one.bundle.count, one.bundle.scale) == (other.bundle.count, pytest.approx(other.bundle.scale, rel=1e-12))
        assert other.bundle.relative < 2e-6


# ---- pairs that do not


def test_one_weight_that_was_changed_is_found_and_its_layer_named(no_tensorflow, bundle, tmp_path):
    bad = spoiled(bundle, tmp_path, "W2", change=one_weight)
    found = verify(SEED, bad)
    assert not found.passed
    assert [layer.name for layer in found.beyond] == ["W2", "W3"]
    assert found.adds_most.name == "W2"
    result = bnexport("verify", SEED, bad)
    assert result.exit_code == 3
    assert "the bundle differs: the layer W2 is the first beyond the tolerance, by " in result.stdout
    assert "the layer that adds most to the difference: W2" in result.stdout


def test_a_bias_of_the_last_layer_too(no_tensorflow, bundle, tmp_path):
    found = verify(SEED, spoiled(bundle, tmp_path, "W3", "bias", lambda values: values + np.float32(0.01) * np.arange(len(values), dtype=np.float32)))
    assert [layer.name for layer in found.beyond] == ["W3"]


def test_another_epsilon_is_found(no_tensorflow, tmp_path):
    """1e-5 for 1e-3: the mistake that 1e-5 of the scale must not let through."""
    name = "no_meta_seed"
    convert(prefix(name), tmp_path / "right.npz", Options(activation="relu:softmax", epsilon=1e-3))
    convert(prefix(name), tmp_path / "wrong.npz", Options(activation="relu:softmax", epsilon=1e-5))
    right, wrong = read_bundle(tmp_path / "right.npz"), read_bundle(tmp_path / "wrong.npz")
    wrong.conversion["options"] = right.conversion["options"]
    write_bundle(tmp_path / "wrong.npz", wrong)
    assert next(layer.name for layer in verify(prefix(name), tmp_path / "wrong.npz").beyond) == "W1"


def test_the_tolerance_is_the_users(no_tensorflow, bundle, tmp_path):
    bad = spoiled(bundle, tmp_path, "W2", change=one_weight)
    assert bnexport("verify", SEED, bad, "--tolerance", "1").exit_code == 0
    assert bnexport("verify", SEED, bundle, "--tolerance", "1e-9").exit_code == 3
    assert failed(bnexport("verify", SEED, bundle, "--tolerance", "-1")) == "Error: --tolerance -1.0: a tolerance is a number that is not negative\n"


@pytest.mark.tensorflow
def test_a_variable_that_reads_otherwise_is_a_failure(tf, bundle, monkeypatch):
    from bnexport.checkpoint import Checkpoint

    read = Checkpoint.read
    monkeypatch.setattr(Checkpoint, "read", lambda self, name: np.nextafter(read(self, name), np.float32(9)) if name == "b3" else read(self, name))
    found = verify(SEED, bundle, rows=2)
    assert found.variables.different == ["b3"]
    assert not found.passed


def test_bundles_of_other_networks_are_refused(no_tensorflow, bundle, tmp_path):
    with pytest.raises(UsageError, match="its layer W1 gives the tensor Relu, which the checkpoint's network does not have"):
        verify(prefix("seed_named"), bundle)
    with pytest.raises(UsageError, match=r"the bundle's inputs are x \[\?, 64\], the checkpoint's network has image \[\?, 8, 8, 1\]"):
        verify(prefix("conv_fused"), bundle)
    with pytest.raises(UsageError, match=r"the bundle's outputs are y \[\?, 10\], the checkpoint's network has probabilities \[\?, 10\]"):
        verify(prefix("no_beta"), bundle)
    assert "was not made from" in failed(bnexport("verify", prefix("no_beta"), bundle))
    assert "say one of the two" in failed(bnexport("verify", SEED, bundle, "--random", 3, "--input-file", SEED / "input.csv"))


# ---- what is printed


@pytest.mark.tensorflow
def test_json(tf, bundle):
    record = json.loads(bnexport("verify", SEED, bundle, "--random", 8, "--json").stdout)
    assert (record["passed"], record["rows"], record["tolerance"], record["dtype"]) == (True, 8, 1e-5, "float32")
    assert [(layer["name"], layer["equals"]) for layer in record["layers"]] == [("W1", "Relu"), ("W2", "Relu_1"), ("W3", "y")]
    assert record["variables"] == {"compared": 36, "different": []}
    (output,) = record["outputs"]
    assert output["bundle"]["max_of_scale"] == pytest.approx(output["bundle"]["max"] / output["bundle"]["scale"])
    assert output["ratio"] == pytest.approx(output["bundle"]["max"] / output["tensorflow"]["max"])
    assert output["nearer"] == (output["ratio"] <= 1)


@pytest.mark.tensorflow
def test_the_report_names_what_a_person_asks(tf, bundle):
    text = bnexport("verify", SEED, bundle).stdout
    assert text.splitlines()[0].split("\t") == ["", "operation", "max / scale", "mean / scale", "max ULP", "mean ULP", "TensorFlow's max", "added"]
    for part in (
        "layer W1\tDense, Relu\t",
        "output y\t",
        "input x: 32 rows, normal, mean ",
        "variables: all 36 are bit for bit what TensorFlow reads",
        "tolerance: 1e-05 of each tensor's largest number (rounding to float32 makes",
        "the bundle agrees with the checkpoint",
    ):
        assert part in text
    assert ("nearer" in text) or ("as near" in text) or ("further" in text)


@pytest.mark.parametrize(
    ("nearer", "said"),
    [
        ([True], "the output is at least as near to the truth as TensorFlow's in"),
        ([False], "the output is further from the truth than TensorFlow's in"),
        ([True, False], "1 of 2 outputs are at least as near to the truth as TensorFlow's in"),
        ([False, False], "0 of 2 outputs are at least as near to the truth as TensorFlow's in"),
    ],
)
def test_how_many_outputs_are_nearer_is_said(nearer, said):
    from bnexport.commands.verify import _conclusions

    outputs = [SimpleNamespace(nearer=near, ratio=0.5 if near else 2.0) for near in nearer]
    found = SimpleNamespace(tensorflow="2.21.0", outputs=outputs, dtype="float32", variables=None, adds_most=None)
    assert said in _conclusions(found)[0]


# ---- differences


def test_differences_by_hand():
    difference = Difference()
    difference.add(np.array([1.0, -4.0 + 2**-20]), np.array([1.0, -4.0]))
    difference.add(np.array([2.5]), np.array([2.0]))
    assert (difference.most, difference.scale, difference.count) == (0.5, 4.0, 3)
    assert difference.relative == 0.125
    assert difference.relative_mean == pytest.approx((0.5 + 2**-20) / 3 / 4)
    assert difference.ulps("float32")[0] == 0.5 / 2**-21  # numbers from 4 to 8 are 2**-21 apart


def test_numbers_that_are_not_finite_must_be_the_same():
    same = Difference()
    same.add(np.array([np.nan, np.inf, 1.0]), np.array([np.nan, np.inf, 1.0]))
    assert same.relative == 0
    other = Difference()
    other.add(np.array([np.inf, 1.0]), np.array([-np.inf, 1.0]))
    assert other.relative == np.inf


# ---- random rows


def drawn(name, rows=400):
    program = to_unfolded(prefix(name))
    with open_checkpoint(prefix(name)) as checkpoint:
        norms = batch_norms(program, checkpoint)
    ports = to_program(prefix(name)).inputs
    return norms, *draw(program, norms, ports, rows, 7)


def test_a_batch_norm_on_the_input_gives_the_range():
    (norm,), feeds, ranges = drawn("bn_on_input", 4000)
    assert feeds["x"].dtype == np.float32
    live = norm.variance > 1e-4
    np.testing.assert_allclose(feeds["x"].mean(0)[live], norm.mean[live], atol=0.05)
    np.testing.assert_allclose(feeds["x"].var(0)[live], norm.variance[live], rtol=0.15)
    assert ranges == {"x": "normal, with the moving mean and variance of the batch norm input_bn that stands on it"}


@pytest.mark.parametrize("name", ["seed", "conv_fused", "tf_layers", "no_gamma"])
def test_what_the_first_linear_layer_gives_is_in_the_range_of_its_batch_norm(name):
    """The spread of the results is within a factor of two of the moving variance, where inputs drawn blindly can be ten times as wide."""
    from bnexport.tracing import open_network

    norms, feeds, _ = drawn(name)
    network = open_network(prefix(name))
    before = network.model.trace({k: v.astype(np.float64) for k, v in feeds.items()})[norms[0].before]
    spread = before.reshape(-1, before.shape[-1]).var(0)
    assert 0.5 < np.median(spread / norms[0].variance) < 2


def test_digits_are_drawn_like_digits():
    """The seed was trained on pixels from 0 to 1, of mean 0.31 and standard deviation 0.38; the moving statistics tell of them."""
    _, feeds, ranges = drawn("seed")
    assert 0.2 < feeds["x"].std() < 0.5
    assert -0.1 < feeds["x"].mean() < 0.5
    assert ranges["x"].startswith("normal, mean ")
    assert ranges["x"].endswith("what gives the moving statistics of bn behind W1")


def test_the_same_seed_gives_the_same_rows():
    assert all((drawn("multi_io", 5)[1][name] == values).all() for name, values in drawn("multi_io", 5)[1].items())


def looked_up(table_rows):
    layers = [
        Layer("words", "Reshape", ["ids", Literal([-1], "int32")]),
        Layer("found", "GatherV2", ["@operand_0", "words", Literal(0, "int32")], arrays={"operand_0": InMemory(np.zeros((table_rows, 3)))}),
    ]
    return Program([Port("ids", "ids", (None, 4), "int64")], layers, [Port("y", "found", (None, 3), "float64")])


def test_integers_stay_within_the_table_that_they_look_up():
    program = looked_up(5)
    feeds, ranges = draw(program, [], program.inputs, 200, 0)
    assert feeds["ids"].dtype == np.int64
    assert set(np.unique(feeds["ids"])) == set(range(5))
    assert ranges["ids"] == "integers from 0 to 4, the rows of the table that found looks up"


def test_sizes_that_are_open_are_said():
    port = Port("image", "image", (None, None, None, 3), "float32")
    program = Program([port], [Layer("r", "Relu", ["image"])], [Port("y", "r", (None, None, None, 3), "float32")])
    feeds, ranges = draw(program, [], [port], 2, 0)
    assert feeds["image"].shape == (2, 32, 32, 3)
    assert ranges["image"] == "standard normal: no batch norm tells its range; 32 was taken for each size that is open"


@pytest.mark.tensorflow
def test_a_graph_that_tensorflow_cannot_load_is_said(tf, tmp_path):
    """The .meta holds an operator that TensorFlow does not have any more, off the way to the output."""
    for file in SEED.glob("model.ckpt*"):
        shutil.copy(file, tmp_path)
    meta = tf.MetaGraphDef()
    meta.ParseFromString((SEED / "model.ckpt.meta").read_bytes())
    meta.graph_def.node.add(name="gone", op="NcclAllReduceOfOld")
    (tmp_path / "model.ckpt.meta").write_bytes(meta.SerializeToString())
    convert(tmp_path / "model.ckpt", tmp_path / "out.npz")
    found = verify(tmp_path / "model.ckpt", tmp_path / "out.npz", rows=2)
    assert found.passed
    assert found.tensorflow is None
    assert "cannot load the graph: Op type not registered 'NcclAllReduceOfOld'" in found.unavailable


def test_a_long_sum_of_a_small_product_loses_no_more_digits_than_its_parts():
    """BLAS may add 1440 products one after the other, at two to four times the error; parts of 256 are within 1e-7 of the scale on average."""
    rng = np.random.default_rng(0)
    x, kernel = rng.random((32, 1440), np.float32), rng.normal(size=(1440, 10)).astype(np.float32)
    layers = [Layer("d", "Dense", ["x"], arrays={"kernel": InMemory(kernel)}), Layer("r", "Sqrt", ["d"])]
    model = Model(Program([Port("x", "x", (None, 1440), "float32")], layers, [Port("y", "d", (None, 10), "float32")]))
    exact = x.astype(np.float64) @ kernel.astype(np.float64)
    assert np.abs(model.predict(x) - exact).mean() < 1.2e-7 * np.abs(exact).max()


def rows_of_a_batch(tf):
    x = tf.placeholder(tf.float32, [3, 4, 6], name="x")
    steps = dense(tf, tf.reshape(x, [12, 6]), 4, "a")
    return Net({x: rows(3, 4, 6)}, [tf.identity(dense(tf, steps, 2, "b"), name="y")])


def rows_that_depend_on_each_other(tf):
    x = tf.placeholder(tf.float32, [3, 6], name="x")
    h = dense(tf, x, 4, "a")
    return Net({x: rows(3, 6)}, [tf.identity(dense(tf, h - tf.reduce_mean(h, 0), 2, "b"), name="y")])


def keep_probabilities_for_each_layer(tf):
    x, keep = tf.placeholder(tf.float32, [None, 6], name="x"), tf.placeholder(tf.float32, [None], name="keep")
    h = tf.nn.dropout(dense(tf, x, 4, "a"), keep_prob=keep[0])
    return Net({x: rows(3, 6)}, [tf.nn.dropout(dense(tf, h, 2, "b"), keep_prob=keep[1], name="y")], {keep: [1.0, 1.0]})


def rate_of_the_side_that_is_not_taken(tf):
    x, training = tf.placeholder(tf.float32, [None, 6], name="x"), tf.placeholder(tf.bool, [], name="training")
    rate = tf.placeholder(tf.float32, name="rate")
    h = dense(tf, x, 4, "a")
    h = tf.cond(training, lambda: tf.nn.dropout(h, rate=rate), lambda: tf.identity(h))
    return Net({x: rows(3, 6)}, [tf.identity(dense(tf, h, 2, "b"), name="y")], {training: False, rate: 0.0})


@pytest.mark.parametrize(
    "network", [rows_of_a_batch, rows_that_depend_on_each_other, keep_probabilities_for_each_layer, rate_of_the_side_that_is_not_taken]
)
def test_tensorflow_is_fed_what_its_graph_asks_for(tf, live, network):
    saved = live(lambda: network(tf))
    saved.convert()
    found = verify(saved.prefix, saved.prefix.with_name("out.npz"))
    assert found.passed
    assert found.unavailable is None
    assert found.tensorflow is not None


# ---- networks that lose digits, whoever computes them


@pytest.fixture
def masked(tf, live, tmp_path):
    """A checkpoint, its bundle and rows of an attention that adds -10000 to the scores of what is masked, with everything masked in each row."""

    def build():
        x, mask = tf.placeholder(tf.float32, [None, 6, 4], name="x"), tf.placeholder(tf.int32, [None, 6], name="mask")
        keys = tf.reshape(dense(tf, tf.reshape(x, [-1, 4]), 4, "keys"), [-1, 6, 4])
        adder = (1.0 - tf.cast(mask[:, None, :], tf.float32)) * -10000.0
        attention = tf.nn.softmax(tf.matmul(x, keys, transpose_b=True) + adder)
        y = dense(tf, tf.reshape(tf.matmul(attention, x), [-1, 24]), 3, "y")
        return Net({x: rows(8, 6, 4), mask: np.zeros((8, 6), np.int32)}, [y])

    saved = live(build)
    saved.convert()
    np.savez(tmp_path / "rows.npz", **saved.inputs)
    return saved.prefix, saved.prefix.with_name("out.npz"), tmp_path / "rows.npz"


@pytest.mark.tensorflow
def test_what_tensorflow_loses_as_well_is_no_difference(masked):
    checkpoint, bundle, file = masked
    found = verify(checkpoint, bundle, input_file=file)
    assert found.outputs[0].bundle.relative > 1e-5
    assert found.passed
    assert found.outputs[0] in found.strained
    assert all(check.unfolded is None for check in found.strained if check.tensorflow is not None)
    result = bnexport("verify", checkpoint, bundle, "--input-file", file)
    assert result.exit_code == 0
    assert "\nbeyond it, but at most 2 times as far as TensorFlow's own result is: " in result.stdout
    assert bnexport("verify", checkpoint, bundle, "--input-file", file, "--tolerance", "1e-5").exit_code == 3
    page = bundle.with_name("page.html")
    assert bnexport("verify", checkpoint, bundle, "--input-file", file, "--html", page).exit_code == 0
    assert "Beyond the tolerance, and no further than the network" in page.read_text(encoding="utf-8")
    assert "counts as rounding, and what is at most 2 times TensorFlow" in page.read_text(encoding="utf-8")


@pytest.mark.tensorflow
def test_without_tensorflow_the_network_with_nothing_folded_tells(masked, no_tensorflow):
    checkpoint, bundle, file = masked
    found = verify(checkpoint, bundle, input_file=file)
    assert found.passed
    assert found.outputs[0].unfolded.relative > 1e-5
    stdout = bnexport("verify", checkpoint, bundle, "--input-file", file).stdout
    assert "\nbeyond it, but at most 2 times as far as the network with nothing folded is, computed in its own dtypes: " in stdout


@pytest.mark.tensorflow
@pytest.mark.parametrize("there", [True, False])
def test_a_wrong_weight_is_found_all_the_same(masked, request, tmp_path, there):
    if not there:
        request.getfixturevalue("no_tensorflow")
    checkpoint, bundle, file = masked
    found = verify(checkpoint, spoiled(bundle, tmp_path, "y", change=lambda values: values * np.float32(1.01)), input_file=file)
    assert not found.passed
    assert [layer.name for layer in found.beyond] == ["y"]
