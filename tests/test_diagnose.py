"""The whole of diagnose: what is matched to what, how far numbers may differ, several mistakes, the words of the report, and the command."""

import json

import h5py
import numpy as np
import pytest
from click.testing import CliRunner
from diagnose_oracle import DATA, dense, norm, on_input, relu, rows, softmax
from live_graph import Net

from bnexport import cli
from bnexport.conversion import convert
from bnexport.diagnose import diagnose
from bnexport.diagnose.compare import difference
from bnexport.diagnose.matching import Reading
from bnexport.diagnose.mine import fineness_of_text, read_mine
from bnexport.diagnose.numbers import diagnose_numbers, parse
from bnexport.diagnose.patterns import pattern
from bnexport.diagnose.report import with_numbers
from bnexport.errors import IncompleteBundle, InputError, UsageError
from bnexport.options import Options
from bnexport.runner import load

SEED = DATA / "seed"
SIX = "x=-0.077417567,mean=-0.089603029,var=0.000436493,offset=-0.016652612,scale=1.0055743,eps=1e-3"


def outside(x, m, v, b, g, e):
    return g * (x - m) / (np.sqrt(v) + np.float32(e)) + b


def saved(tmp_path, **arrays):
    np.savez(tmp_path / "mine.npz", **arrays)
    return tmp_path / "mine.npz"


def asked(tmp_path, fixture="seed", options=None, layer=None, **arrays):
    return diagnose(DATA / fixture, DATA / fixture / "input.csv", saved(tmp_path, **arrays), options, layer=layer)


def written(tmp_path, values, form, name="mine.csv", delimiter=","):
    np.savetxt(tmp_path / name, values, fmt=form, delimiter=delimiter)
    return tmp_path / name


def names(result):
    return [[e.hypothesis.name for e in f.explanations] for f in result.findings]


def command(*arguments):
    return CliRunner().invoke(cli.main, ["diagnose", *map(str, arguments)], catch_exceptions=False)


# ---- agreement

WITH_GRAPHS = sorted(p.parent.name for p in DATA.glob("*/model.ckpt.meta") if (p.parent / "input.csv").exists())


@pytest.mark.parametrize("fixture", WITH_GRAPHS)
def test_what_tensorflow_computed_agrees(fixture):
    result = diagnose(DATA / fixture, DATA / fixture / "input.csv", DATA / fixture / "expected.npz")
    assert result.agrees
    assert result.unmatched == ()
    assert max(c.difference.excess for c in result.compared) < 0.5


def test_several_inputs_and_outputs_agree():
    assert diagnose(DATA / "multi_io", DATA / "multi_io" / "input.npz", DATA / "multi_io" / "expected.npz").agrees


@pytest.mark.parametrize("fixture", ["savedmodel_v1", "savedmodel_v2"])
def test_a_saved_model_agrees(fixture):
    assert diagnose(DATA / fixture / "saved_model", DATA / fixture / "input.csv", DATA / fixture / "expected.npz").agrees


@pytest.mark.parametrize("fixture", ["no_meta", "tf2_weights"])
def test_a_network_read_from_names_agrees(fixture, tmp_path):
    with pytest.raises(IncompleteBundle, match="--activation"):
        diagnose(DATA / fixture, DATA / fixture / "input.csv", DATA / fixture / "expected.npz")
    options = Options(activation="relu:softmax", epsilon=1e-3)
    assert diagnose(DATA / fixture, DATA / fixture / "input.csv", DATA / fixture / "expected.npz", options).agrees


def test_a_network_read_from_names_is_diagnosed(tmp_path):
    options = Options(activation="relu:softmax", epsilon=1e-3)
    wrong = dense("no_meta", norm=outside, bias=lambda b: b)
    assert names(asked(tmp_path, "no_meta", options, y=wrong["y"])) == [["epsilon outside the square root"]]
    wrong = dense("no_meta", bias=lambda b: 0 * b)
    assert names(asked(tmp_path, "no_meta", options, y=wrong["y"])) == [["bias forgotten"]]


def test_text_of_few_digits_agrees_as_far_as_it_goes(tmp_path):
    with np.load(SEED / "expected.npz") as expected:
        y = expected["y"]
    for form in ("%.2f", "%.4f", "%.6e", "%.3g"):
        assert diagnose(SEED, SEED / "input.csv", written(tmp_path, y, form)).agrees
    assert not diagnose(SEED, SEED / "input.csv", written(tmp_path, y + 2e-4, "%.4f")).agrees


def test_numbers_stored_in_float16_agree(tmp_path):
    with np.load(SEED / "expected.npz") as expected:
        assert asked(tmp_path, y=expected["y"].astype(np.float16)).agrees


def test_a_difference_counts_what_is_not_finite():
    def reading(*values):
        array = np.array(values)
        return Reading("t", array, 0 * np.nan_to_num(array, posinf=0, neginf=0), "")

    right = {"t": np.array([1.0, np.nan, np.inf])}
    assert difference(reading(1.0, np.nan, np.inf), right, 0.0).agrees
    assert difference(reading(1.0, np.nan, -np.inf), right, 1e9).largest == np.inf
    assert difference(reading(np.nan, np.nan, np.inf), right, 1e9).index == (0,)
    assert difference(reading(1.001, np.nan, np.inf), right, 1e-2).digits == 3


# ---- matching


@pytest.mark.parametrize(
    ("name", "tensor", "key"),
    [
        ("bn", "bn/batchnorm/add_1", "n0"),
        ("bn_1", "bn_1/batchnorm/add_1", "n1"),
        ("bn/batchnorm/add_1:0", "bn/batchnorm/add_1", "n0"),
        ("bn_1/output", "bn_1/batchnorm/add_1", "n1"),
        ("RELU_1", "Relu_1", "h1"),
        ("W1", "Relu", "h0"),
        ("W1", "before_bn", "z0"),
        ("b2", "add", "z1"),
        ("bn/beta", "bn/batchnorm/add_1", "n0"),
        ("first", "Relu", "h0"),
        ("anything", "logits", "z2"),
    ],
)
def test_an_array_finds_its_tensor(tmp_path, name, tensor, key):
    result = asked(tmp_path, **{name: dense("seed")[key]})
    assert result.agrees
    assert [c.reading.tensor for c in result.compared] == [tensor]


def test_a_layer_inside_a_scope_is_known_by_its_own_name(tf, live, tmp_path):
    """And so is what stands behind its bias. An array without a name of the network is compared with truth values of its shape, too."""

    def build():
        x = tf.placeholder(tf.float32, [None, 5], "x")
        hidden = [tf.matmul(x, tf.get_variable(f"net/fc{i}/kernel", [5, 4]), name=f"net/fc{i}") + tf.get_variable(f"net/b{i}", [4]) for i in range(2)]
        passed = tf.cast(hidden[0] > 0.1, tf.float32)
        return Net({x: np.random.default_rng(3).normal(size=(6, 5))}, [tf.add(hidden[0] * passed, hidden[1], name="out"), *hidden])

    model = live(build)
    first, second, third = model.expected.values()
    (x,) = model.inputs.values()
    np.save(tmp_path / "x.npy", x.astype(np.float32))
    options = Options(outputs=("out",))
    result = diagnose(model.prefix, tmp_path / "x.npy", saved(tmp_path, fc0=second, fc1=third, whatever=first), options)
    assert result.agrees
    assert sorted(compared.match.given.name for compared in result.compared) == ["fc0", "fc1", "whatever"]


def test_names_of_dots_are_read_as_paths(tmp_path):
    result = asked(tmp_path, "seed_named", **{"layer2.bn": dense("seed_named")["n1"]})
    assert [(c.reading.tensor, c.difference.agrees) for c in result.compared] == [("layer2/bn/batchnorm/add_1", True)]


def test_arrays_come_in_other_layouts(tmp_path):
    with np.load(DATA / "conv_seed" / "expected.npz") as expected:
        pooled = expected["MaxPool"]
    for values, note in (
        (pooled.transpose(0, 3, 1, 2), "channels first"),
        (pooled.reshape(8, -1), "flattened"),
        (pooled.transpose(0, 3, 1, 2).reshape(8, -1), "flattened, channels first"),
        (pooled[:3], "the first 3 of 8 rows"),
    ):
        result = asked(tmp_path, "conv_seed", MaxPool=values)
        assert result.agrees
        assert result.compared[0].reading.note == note


def test_one_row_and_transposed_tables(tmp_path):
    y = dense("seed")["y"]
    assert diagnose(SEED, SEED / "input.csv", written(tmp_path, y[0], "%.9g")).compared[0].reading.note == "the first 1 of 8 rows"
    assert diagnose(SEED, SEED / "input.csv", written(tmp_path, y.T, "%.9g")).compared[0].reading.note == "transposed"


def test_a_layer_may_be_named(tmp_path):
    path = tmp_path / "mine.npy"
    np.save(path, dense("seed", norm=outside)["n1"])
    result = diagnose(SEED, SEED / "input.csv", path, layer="bn_1")
    assert names(result) == [["epsilon outside the square root"]]
    assert result.compared[0].reading.tensor == "bn_1/batchnorm/add_1"
    with pytest.raises(UsageError, match=r"--layer nothing: the network has no layer of this name; it has W1, W2, W3, bn, bn_1, y"):
        diagnose(SEED, SEED / "input.csv", path, layer="nothing")
    with pytest.raises(InputError, match=r"your values have the shape \[8, 12\], and logits is logits \[8, 10\]"):
        diagnose(SEED, SEED / "input.csv", path, layer="logits")
    with pytest.raises(UsageError, match="--layer bn says which layer a file of one array holds; this one holds 2"):
        asked(tmp_path, layer="bn", a=np.zeros(3), b=np.zeros(3))


def test_what_fits_nothing_is_said(tmp_path):
    result = asked(tmp_path, y=dense("seed")["y"], other=np.zeros((3, 3)))
    assert result.unmatched == ("other [3, 3] fits no layer by name or shape",)
    with pytest.raises(InputError, match=r"nothing can be compared: other \[3, 3\] fits no layer .*; the output is y \[8, 10\]"):
        asked(tmp_path, other=np.zeros((3, 3)))


def test_classes_are_no_scores(tmp_path):
    with pytest.raises(
        InputError, match=r"your array \[8, 1\] fits no layer by name or shape \(if these are classes, give the scores of y that they are"
    ):
        diagnose(SEED, SEED / "input.csv", written(tmp_path, dense("seed")["y"].argmax(1), "%d"))


# ---- reading


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("1,2\n3,4\n", [[1, 2], [3, 4]]),
        ("\ufeffa,b\n1.5,-2e-3\n", [[1.5, -0.002]]),
        ("1 2\t3\n", [[1, 2, 3]]),
        ("# made by me\n[[1.0 2.0]\n [3.0 4.0]]\n", [[1, 2], [3, 4]]),
        ("1;2\n\n3;nan\n", [[1, 2], [3, np.nan]]),
    ],
)
def test_text_is_read_as_people_write_it(tmp_path, text, values):
    (tmp_path / "mine.txt").write_text(text, encoding="utf-8")
    (given,) = read_mine(tmp_path / "mine.txt")
    assert np.array_equal(given.values, values, equal_nan=True)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("mine.csv", b"1,2\n3,x\n", r"mine.csv, row 2, column 2: 'x' is not a number"),
        ("mine.csv", b"1,2\n3\n", r"row 2 has 1 numbers and the rows before it have 2"),
        ("mine.csv", b"a,b\n", "holds no numbers"),
        ("mine.csv", b"1,\xff\n", "is not UTF-8"),
        ("mine.npy", b"nonsense", "is no .npy file$"),
        ("mine.npz", b"nonsense", "is no .npz file$"),
        ("mine.h5", b"nonsense", "cannot be read"),
        ("mine.mat", b"", r"has the suffix .mat; your own values are read from .npz, .npy"),
    ],
)
def test_files_that_cannot_be_read(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_mine(tmp_path / name)


def test_missing_and_empty_files(tmp_path):
    with pytest.raises(InputError, match="cannot be read: No such file"):
        read_mine(tmp_path / "mine.csv")
    np.savez(tmp_path / "mine.npz", a=np.array(["text"]))
    with pytest.raises(InputError, match=r"mine.npz: a is of dtype <U4; give numbers"):
        read_mine(tmp_path / "mine.npz")


@pytest.mark.parametrize("name", ["out.npz", "out.h5"])
def test_a_bundle_holds_no_results(tmp_path, name):
    convert(SEED, tmp_path / name)
    with pytest.raises(InputError, match="is a bundle, which holds weights and no results; `bnexport trace"):
        read_mine(tmp_path / name)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match=r"mine\.h5 cannot be read: No such file or directory$"):
        read_mine(tmp_path / "mine.h5")
    np.savez(tmp_path / "mine.npz", a=np.zeros((0, 3)))
    with pytest.raises(InputError, match="holds no numbers"):
        read_mine(tmp_path / "mine.npz")


def test_hdf5_is_read_by_path(tmp_path):
    with h5py.File(tmp_path / "mine.h5", "w") as file:
        file["layer1/bn"] = np.ones((2, 3))
    (given,) = read_mine(tmp_path / "mine.h5")
    assert (given.name, given.values.tolist()) == ("layer1/bn", [[1, 1, 1]] * 2)


def test_how_finely_text_is_written():
    fixed = fineness_of_text(["0.12", "12.30", "-0.05"])
    assert (fixed.decimals, fixed.digits) == (2, 4)
    assert fixed.steps(np.array([0.12, 12.3])) == pytest.approx([0.005, 0.005])
    general = fineness_of_text(["123.456", "0.00012346", "1e-09"])
    assert (general.decimals, general.digits) == (9, 6)
    assert general.steps(np.array([123.456, 0.0])) == pytest.approx([5e-4, 5e-10])


# ---- several mistakes, and none


def test_one_mistake_behind_another(tmp_path):
    wrong = dense("seed", norm=outside, bias=lambda b: 0 * b if len(b) == 10 else b)
    result = asked(tmp_path, bn=wrong["n0"], Relu_1=wrong["h1"], logits=wrong["z2"], y=wrong["y"])
    assert names(result) == [["epsilon outside the square root"], ["bias forgotten"]]
    first, second = (f.explanations[0] for f in result.findings)
    assert (first.sites, first.explained) == (("bn", "bn_1"), 2)
    assert (second.sites, second.explained) == (("logits",), 2)


def test_a_mistake_in_one_layer_alone(tmp_path):
    def second(x, m, v, b, g, e):
        return (outside if len(m) == 12 else norm)(x, m, v, b, g, e)

    for arrays in (("y",), ("n0", "h0", "y")):
        wrong = dense("seed", norm=second)
        keys = {"n0": "bn", "h0": "Relu", "y": "y"}
        result = asked(tmp_path, **{keys[a]: wrong[a] for a in arrays})
        assert names(result) == [["epsilon outside the square root"]]
        assert result.findings[0].explanations[0].sites == ("bn_1",)


@pytest.mark.parametrize("fixture", ["seed", "bn_after_activation"])
def test_batch_norm_and_activation_under_their_own_names(tmp_path, fixture):
    """Someone who takes them in the wrong order still calls what comes out of each by its own name."""
    order = "after_activation" if fixture == "seed" else "before_activation"
    wrong = dense(fixture, order=order)
    layers = ("bn", "Relu", "bn_1", "Relu_1") if fixture == "seed" else ("fc1/bn", "fc1/Relu", "fc2/bn", "fc2/Tanh")
    result = asked(tmp_path, fixture, **dict(zip(layers, (wrong["n0"], wrong["h0"], wrong["n1"], wrong["h1"]), strict=True)), y=wrong["y"])
    sides = ("after", "before") if fixture == "seed" else ("before", "after")
    assert names(result) == [["batch norm {} the activation instead of {}".format(*sides)]]
    assert result.findings[0].explanations[0].explained == 5


@pytest.mark.parametrize("eps", [1e-5, 1e-4, 1e-2, 1e-6, 1e-7, 1e-8, 1e-9, 1e-12])
def test_which_epsilon(tmp_path, eps):
    result = asked(tmp_path, "bn_on_input", input_bn=on_input(eps))
    assert names(result) == [["another epsilon"]]
    assert result.findings[0].explanations[0].detail == f"{eps:g}"


@pytest.mark.parametrize("keep", [0.5, 0.8, 0.3])
@pytest.mark.parametrize("divided", [False, True])
def test_which_keep_probability(tmp_path, keep, divided):
    factor = np.float32(1 / keep if divided else keep)
    wrong = dense("seed", hidden=lambda h, i: h * factor if i == 1 else h)
    explanation = asked(tmp_path, y=wrong["y"]).findings[0].explanations[0]
    assert explanation.hypothesis.name == "dropout scaled at inference"
    assert explanation.detail == f"x {'/' if divided else '*'} keep, keep = {keep:g}"
    assert explanation.sites == ("Relu_1",)
    assert explanation.example.right_value * factor == pytest.approx(explanation.example.wrong_value, rel=1e-6)


@pytest.mark.parametrize("layout", ["(in, out) read as (out, in)", "(out, in) read as (in, out)"])
def test_kernels_that_are_not_square(tmp_path, layout):
    def mixed(k, i):
        if i:
            return k
        return k.reshape(k.shape[1], k.shape[0]).T if layout.startswith("(in") else k.T.reshape(k.shape)

    explanation = asked(tmp_path, y=dense("seed", kernel=mixed)["y"]).findings[0].explanations[0]
    assert (explanation.hypothesis.name, explanation.detail, explanation.sites) == ("kernel transposed", layout, ("W1",))


@pytest.mark.parametrize(
    ("detail", "rounded"),
    [
        ("weights in float16", lambda v: v.astype(np.float16).astype(np.float32)),
        ("weights in bfloat16", lambda v: to_bits(v, 16)),
    ],
)
def test_weights_of_low_precision(tmp_path, detail, rounded):
    def bn(x, m, v, b, g, e):
        a = g / np.sqrt(v + np.float32(e))
        return rounded(a) * x + rounded(b - m * a)  # as ScaleShift layers hold it

    wrong = dense("seed", kernel=lambda k, i: rounded(k), bias=rounded, norm=bn)
    result = asked(tmp_path, W1=wrong["z0"], y=wrong["y"])
    explanation = result.findings[0].explanations[0]
    assert (explanation.hypothesis.name, explanation.detail) == ("low precision", detail)


def to_bits(values, dropped):
    """float32 without the last bits of its mantissa, rounded to even."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32).astype(np.uint64)
    half = np.uint64(1 << (dropped - 1))
    odd = (bits >> np.uint64(dropped)) & np.uint64(1)
    kept = (bits + half - np.uint64(1) + odd) >> np.uint64(dropped) << np.uint64(dropped)
    return kept.astype(np.uint32).view(np.float32)


def test_products_in_tf32(tmp_path):
    v = dense("seed")  # the shapes
    assert v["z0"].shape == (8, 16)
    wrong = dense("seed", x=to_bits(rows("seed"), 13), kernel=lambda k, i: to_bits(k, 13), hidden=lambda h, i: to_bits(h, 13) if i < 2 else h)
    explanation = asked(tmp_path, W1=wrong["z0"], y=wrong["y"]).findings[0].explanations[0]
    assert (explanation.hypothesis.name, explanation.detail) == ("low precision", "products in TF32 (10 bits of mantissa)")


def test_a_moving_variance_of_n_less_one(tmp_path):
    wrong = dense("seed", norm=lambda x, m, v, b, g, e: norm(x, m, v * np.float32(32 / 31), b, g, e))
    explanation = asked(tmp_path, y=wrong["y"]).findings[0].explanations[0]
    assert explanation.hypothesis.name == "n - 1 instead of n in the variance"
    assert explanation.detail == "moving variance * n / (n - 1), n = 32"


def test_equally_good_explanations_are_ranked(tmp_path):
    wrong = dense("seed", norm=lambda x, m, v, b, g, e: norm(x, m, v, b, g, 1e-12))
    result = asked(tmp_path, y=wrong["y"])
    assert names(result) == [["no epsilon", "another epsilon"]]
    other = result.findings[0].explanations[1]
    assert "1e-12" in (other.detail, *other.also)


def test_what_was_assumed_without_a_graph_is_said(tmp_path):
    convert(DATA / "no_meta", tmp_path / "out.npz", Options(activation="relu:softmax", epsilon=1e-5))
    np.save(tmp_path / "mine.npy", load(tmp_path / "out.npz").predict(np.loadtxt(DATA / "no_meta" / "input.csv", delimiter=",", dtype=np.float32)))
    result = command(DATA / "no_meta", DATA / "no_meta" / "input.csv", tmp_path / "mine.npy", "--activation", "relu:softmax")
    assert result.exit_code == 3
    assert "Warning: names carry no epsilon: 0.001 was taken for every batch norm; say another with --epsilon\n" in result.stderr


def test_numbers_that_nothing_explains(tmp_path):
    rng = np.random.default_rng(0)
    right = dense("seed")
    result = asked(tmp_path, bn=right["n0"], Relu_1=right["h1"] + rng.normal(size=right["h1"].shape), y=right["y"])
    (finding,) = result.findings
    assert (finding.first.name, finding.explanations, finding.pattern) == ("Relu_1", (), "")
    assert not result.agrees


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda y: y[::-1], "with the rows in another order: 7, 6, 5, 4, 3, 2, 1, 0"),
        (lambda y: y[:, [1, 0, *range(2, y.shape[1])]], "with the units in another order: 1, 0, 2, 3"),
        (lambda y: y[1:], "your row 0 is row 1 of the input, your row 1 is row 2, …: was what comes before taken for a header?"),
        (lambda y: y[[2, 0, 5]], "with the rows in another order: 2, 0, 5"),
        (lambda y: np.round(y, 3), "the right ones rounded to 3 decimals: save them with 9 digits"),
        (lambda y: y * 1.7, "times 1.7"),
        (lambda y: y + 3, "plus 3"),
        (lambda y: y * np.arange(2, 2 + y.shape[1]), "times one factor in each unit"),
        (lambda y: y + np.arange(2, 2 + y.shape[1]), "plus one number in each unit"),
        (lambda y: y**3, ""),
        (lambda y: y * np.nan, ""),
    ],
)
def test_patterns(change, words):
    right = np.random.default_rng(1).normal(size=(8, 5))
    said = pattern(change(right), right)
    assert words in said
    assert bool(words) == bool(said)


# ---- padding, for which no fixture has a stride


@pytest.mark.tensorflow
@pytest.mark.parametrize(("pads", "detail"), [((1, 1), "as much on both sides"), ((1, 0), "the odd one in front")])
def test_padding_on_the_wrong_side(tf, live, tmp_path, pads, detail):
    from live_graph import Net, rows

    def build():
        x = tf.placeholder(tf.float32, [None, 8, 8, 2], name="x")
        y = tf.nn.conv2d(x, tf.get_variable("w", [3, 3, 2, 4]), strides=[1, 2, 2, 1], padding="SAME")
        return Net({x: rows(5, 8, 8, 2)}, [tf.nn.relu(y, name="y")])

    found = live(build)
    x, kernel = found.inputs["x"], found.variables["w"]
    np.save(tmp_path / "x.npy", x)
    wide = np.pad(x, ((0, 0), pads, pads, (0, 0)))
    wrong = sum(wide[:, a : a + 7 : 2, b : b + 7 : 2] @ kernel[a, b] for a in range(3) for b in range(3))
    right = sum(np.pad(x, ((0, 0), (0, 1), (0, 1), (0, 0)))[:, a : a + 7 : 2, b : b + 7 : 2] @ kernel[a, b] for a in range(3) for b in range(3))
    assert np.abs(relu(right) - found.expected["y"]).max() < 1e-5
    result = diagnose(found.prefix, tmp_path / "x.npy", saved(tmp_path, y=relu(wrong)))
    assert names(result) == [["SAME padding on the wrong side"]]
    explanation = result.findings[0].explanations[0]
    assert detail in (explanation.detail, *explanation.also)


def test_the_pattern_of_logarithms():
    right = np.random.default_rng(1).uniform(0.1, 1, size=(8, 5))
    assert pattern(np.log(right), right) == "your numbers are the logarithms of the right ones"


# ---- images of three colours, which no fixture has


@pytest.mark.tensorflow
@pytest.mark.parametrize(
    ("turn", "name", "detail"),
    [
        (lambda x: x[..., ::-1], "red and blue swapped", ""),
        (lambda x: x[:, ::-1], "images mirrored", "upside down"),
        (lambda x: x[:, :, ::-1], "images mirrored", "left and right"),
        (lambda x: x.transpose(0, 3, 1, 2).reshape(x.shape), "images in another layout", "channels first"),
        (lambda x: x.transpose(0, 3, 2, 1).reshape(x.shape), "images in another layout", "column-major"),
        (lambda x: x.reshape(-1, 3, 5, 4).transpose(0, 3, 2, 1), "rows and columns of the image swapped", "column-major"),
    ],
)
@pytest.mark.parametrize("flat", [False, True])
def test_images_that_are_laid_out_otherwise(tf, live, tmp_path, flat, turn, name, detail):
    from live_graph import Net, rows

    def build():
        x = tf.placeholder(tf.float32, [None, 60] if flat else [None, 4, 5, 3], name="x")
        image = tf.reshape(x, [-1, 4, 5, 3]) if flat else x
        y = tf.nn.conv2d(image, tf.get_variable("w", [2, 2, 3, 4]), strides=[1, 1, 1, 1], padding="VALID")
        return Net({x: rows(5, 60) if flat else rows(5, 4, 5, 3)}, [tf.nn.relu(y, name="y")])

    found = live(build)
    x, kernel = found.inputs["x"].reshape(-1, 4, 5, 3), found.variables["w"]

    def network(x):
        return relu(sum(x[:, a : a + 3, b : b + 4] @ kernel[a, b] for a in range(2) for b in range(2)))

    assert np.abs(network(x) - found.expected["y"]).max() < 1e-5
    np.save(tmp_path / "x.npy", found.inputs["x"])
    result = diagnose(found.prefix, tmp_path / "x.npy", saved(tmp_path, y=network(turn(x))))
    assert names(result) == [[name]]
    assert result.findings[0].explanations[0].detail == detail


# ---- six numbers


def test_the_seeds_numbers():
    result = diagnose_numbers(parse(SIX), "0.543057")
    assert result.right == pytest.approx(0.30664642, abs=5e-9)
    assert [fit.name for fit in result.fits] == ["epsilon outside the square root"]
    assert result.fits[0].value == pytest.approx(0.543057, abs=5e-7)
    assert diagnose_numbers(parse(SIX), "0.30664611").agrees  # TensorFlow's own, in single precision
    assert diagnose_numbers(parse(SIX), "0.30664642").agrees
    assert diagnose_numbers(parse(SIX), "0.25").fits == ()


def test_the_command_on_the_seeds_numbers():
    result = command("--numbers", SIX, "0.543057")
    assert result.exit_code == 3
    assert result.stdout == (
        "Epsilon outside the square root: 0.543057 against 0.306646\n"
        "    right  scale * (x - mean) / sqrt(var + eps) + offset\n"
        "           = 1.0055743 * ((-0.077417567) - (-0.089603029)) / sqrt(0.000436493 + 0.001) + (-0.016652612)\n"
        "           = 0.30664642\n"
        "    yours  scale * (x - mean) / (sqrt(var) + eps) + offset\n"
        "           = 1.0055743 * ((-0.077417567) - (-0.089603029)) / (sqrt(0.000436493) + 0.001) + (-0.016652612)\n"
        "           = 0.54305665\n"
        "  Add epsilon to the variance before you take the square root: TensorFlow computes scale * (x - mean) / sqrt(var + eps) + offset.\n"
    )
    assert command("--numbers", SIX, "0.30664611").exit_code == 0
    assert "none of the mistakes that were tried; the right number is 0.306646" in command("--numbers", SIX, "--", "-0.25").stdout
    record = json.loads(command("--numbers", SIX, "0.543057", "--json").stdout)
    assert (record["agrees"], record["explanations"][0]["mistake"]) == (False, "epsilon outside the square root")


@pytest.mark.parametrize(
    ("numbers", "mine", "message"),
    [
        ("x=1,mean=2,var=3", "4", "--numbers leaves out eps; give x=NUMBER,mean=NUMBER"),
        ("x=1,mean=2,var=-3,eps=1e-3", "4", "var: -3 is negative, which no variance is"),
        ("x=1,y=2", "4", "--numbers: 'y=2' is none of x=NUMBER"),
        ("x=1,x=2", "4", "--numbers gives x twice"),
        ("x=1,mean=a,var=3,eps=1e-3", "4", "mean: 'a' is not a number"),
        ("x=1,mean=0,var=3,eps=1e-3", "b", "your result: 'b' is not a number"),
    ],
)
def test_numbers_that_cannot_be_read(numbers, mine, message):
    with pytest.raises(UsageError, match=message):
        diagnose_numbers(parse(numbers), mine)


@pytest.mark.parametrize("mine", ["-0.5", "-.5", "-5e-1"])
def test_a_negative_result_is_no_option(mine):
    result = command("--numbers", "x=-1,mean=0,var=3,eps=1,offset=0,scale=1", mine)
    assert (result.exit_code, result.stderr) == (0, "")
    assert command("--numbers", "x=-1,mean=0,var=3,eps=1", "-x").exit_code == 2
    result = command("--numbers", "x=-1,mean=0,var=3,eps=1,offset=0,scale=1", mine, "--json")
    assert (result.exit_code, json.loads(result.stdout)["agrees"]) == (0, True)
    assert command(mine, "--numbers", "x=-1,mean=0,var=3,eps=1,offset=0,scale=1", "--epsilon", "-1").exit_code == 0


def test_numbers_go_by_other_names():
    assert parse("before=1, mu=2; variance=3,gamma=4,beta=5,epsilon=6") == {
        "x": "1",
        "mean": "2",
        "var": "3",
        "scale": "4",
        "offset": "5",
        "eps": "6",
    }
    assert diagnose_numbers(parse("x=2,mean=1,var=3,eps=1"), "0.5").agrees


def test_negative_numbers_stand_in_parentheses():
    assert with_numbers("scale * (x - mean) / sqrt(var)", {"scale": -1.5, "x": 2.0, "mean": -3.0, "var": 4.0}) == "(-1.5) * (2 - (-3)) / sqrt(4)"


# ---- the command


def test_the_command_agrees():
    result = command(SEED, SEED / "input.csv", SEED / "expected.npz")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.startswith("Your numbers against the network's in float64 (8 rows)\n  before_bn ")
    assert "dropout/SelectV2 = Relu_1 (by its shape)  agrees to 6 digits" in result.stdout
    assert "They agree: what is left is the rounding of float32." in result.stdout


def test_the_command_shows_the_formula_with_the_users_numbers(tmp_path):
    wrong = dense("seed", norm=outside)
    result = command(SEED, SEED / "input.csv", saved(tmp_path, bn=wrong["n0"], y=wrong["y"]))
    assert (result.exit_code, result.stderr) == (3, "")
    lines = result.stdout.splitlines()
    assert "The first difference: bn = bn/batchnorm/add_1" in lines
    assert "Epsilon outside the square root" in lines
    assert "  made in bn, bn_1, it gives your numbers to 6 digits: all of bn, y" in lines
    place = lines.index("  at bn/batchnorm/add_1, row 0, unit 0:")
    formula = lines[place + 4 : place + 7]
    assert formula[0] == "    yours  scale * (x - mean) / (sqrt(var) + eps) + offset"
    computed = eval(formula[1].partition("= ")[2], {"sqrt": np.sqrt})
    assert float(formula[2].partition("= ")[2]) == pytest.approx(computed, abs=1e-7)
    assert computed == pytest.approx(float(wrong["n0"][0, 0]), abs=1e-6)
    right = lines[place + 2].partition("= ")[2]
    with np.load(SEED / "expected.npz") as expected:
        assert max(0, eval(right, {"sqrt": np.sqrt})) == pytest.approx(float(expected["Relu"][0, 0]), abs=1e-6)


def test_the_command_says_where_nothing_fits(tmp_path):
    y = dense("seed")["y"]
    result = command(SEED, SEED / "input.csv", written(tmp_path, softmax(3 * y), "%.9g"))
    assert result.exit_code == 3
    assert "The first difference: y (the output)\n  row 0, unit 0: yours " in result.stdout
    assert " mistakes that were tried gives your numbers\n" in result.stdout


def test_the_command_says_everything_in_json(tmp_path):
    wrong = dense("seed", norm=outside)
    result = command(SEED, SEED / "input.csv", saved(tmp_path, bn=wrong["n0"], other=np.zeros((3, 3))), "--json")
    record = json.loads(result.stdout)
    assert (result.exit_code, record["agrees"], record["rows"]) == (3, False, 8)
    assert record["unmatched"] == ["other [3, 3] fits no layer by name or shape"]
    (explanation,) = record["findings"][0]["explanations"]
    assert (explanation["mistake"], explanation["sites"], explanation["exact"]) == ("epsilon outside the square root", ["bn"], True)
    assert explanation["example"]["yours"]["value"] == pytest.approx(float(wrong["n0"][0, 0]), abs=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([SEED, SEED / "input.csv"], "diagnose takes CKPT INPUT MINE, or --numbers and your result; 2 arguments were given"),
        (["--numbers", SIX], "--numbers takes one argument, your own result; 0 were given"),
        ([SEED, SEED / "input.csv", "nothing.npz"], "nothing.npz cannot be read: No such file or directory"),
    ],
)
def test_errors_of_the_command(arguments, message):
    result = command(*arguments)
    assert (result.exit_code, result.stdout, result.stderr) == (1, "", f"Error: {message}\n")


def test_a_bundle_is_refused(tmp_path):
    CliRunner().invoke(cli.main, ["convert", str(SEED), str(tmp_path / "out.npz"), "--quiet"], catch_exceptions=False)
    result = command(tmp_path / "out.npz", SEED / "input.csv", SEED / "expected.npz")
    assert result.exit_code == 1
    assert "is a bundle, into which the batch norms have been folded; give the checkpoint that it was made from" in result.stderr
