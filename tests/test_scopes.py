"""Networks by name: of the fixtures, whose outputs TensorFlow gave, and of small checkpoints that are made here."""

import json
from pathlib import Path

import numpy as np
import pytest
from checkpoint_forge import write_bundle
from hypothesis import given, settings
from hypothesis import strategies as st

from bnexport.checkpoint import open_checkpoint
from bnexport.conversion import to_program, to_unfolded
from bnexport.errors import BadStatistics, BnexportError, IncompleteBundle, ScopeError, UsageError
from bnexport.formats import read_bundle
from bnexport.formats import write_bundle as write_out
from bnexport.options import Options
from bnexport.program import materialize
from bnexport.runner import Model
from bnexport.scopes import program_from_names

DATA = Path(__file__).parents[1] / "fixtures" / "data"
FACTS = {p.parent.name: json.loads(p.read_text()) for p in sorted(DATA.glob("*/fixture.json"))}
BRANCHING = {"activations", "multi_io"}
CONVOLUTIONAL = {"conv_fused", "conv_preact", "conv_seed"}
SEVERAL_EPSILONS = {n for n, f in FACTS.items() if len({layer["bn"]["epsilon"] for layer in f["layers"] if layer["bn"]}) > 1}
DENSE = sorted(FACTS.keys() - BRANCHING - CONVOLUTIONAL - SEVERAL_EPSILONS)
TOLERANCE = {"float16": 4e-3, "float32": 2e-6, "float64": 1e-12}
"""Relative to the largest output. A float16 network is computed in float32 here."""


def rows(name):
    return np.loadtxt(DATA / name / "input.csv", delimiter=",", dtype=np.float32)


def said(name, **more):
    """What a person who knows the network would say."""
    facts = FACTS[name]
    activations = [layer["activation"] or "none" for layer in facts["layers"] if layer["kernel"]]
    epsilons = {layer["bn"]["epsilon"] for layer in facts["layers"] if layer["bn"]}
    after = any(layer["order"] == "after_activation" for layer in facts["layers"])
    return Options(
        use_graph=False, activation=",".join(activations) or "relu:softmax", epsilon=next(iter(epsilons), None), bn_after_activation=after, **more
    )


def forged(folder, arrays):
    codes = {"float32": 1, "float64": 2, "int32": 3, "bool": 10, "int64": 9}
    write_bundle(folder / "model", {name: (codes[np.asarray(a).dtype.name], np.asarray(a)) for name, a in arrays.items()})
    return folder / "model"


def kernel(ins, outs, seed=0):
    return np.random.default_rng(seed + 31 * ins + outs).standard_normal((ins, outs)).astype(np.float32)


def norm(width, seed=0):
    """beta, gamma, mean, variance"""
    random = np.random.default_rng(seed + width)
    return [*random.standard_normal((3, width)).astype(np.float32), random.uniform(0.5, 2, width).astype(np.float32)]


def seed_norm(scope, width, seed=0, outer=None):
    beta, gamma, mean, variance = norm(width, seed)
    moments = f"{outer or scope}/{scope}/moments"
    return {
        f"{scope}/beta": beta,
        f"{scope}/gamma": gamma,
        f"{moments}/Squeeze/ExponentialMovingAverage": mean,
        f"{moments}/Squeeze_1/ExponentialMovingAverage": variance,
    }


def normalised(x, values, epsilon=1e-3):
    beta, gamma, mean, variance = (v.astype(np.float64) for v in values)
    return gamma * (x - mean) / np.sqrt(variance + epsilon) + beta


def predict(program, x):
    return Model(program).predict(x)


def names(program):
    return [layer.name for layer in program.layers]


# ---- fixtures


@pytest.mark.parametrize("name", DENSE)
def test_names_give_what_tensorflow_gave(name):
    facts = FACTS[name]
    want = np.load(DATA / name / "expected.npz")[facts["outputs"][0]]
    got = predict(to_program(DATA / name / facts["prefix"], said(name)), rows(name))
    assert np.abs(got.astype(np.float64) - want).max() <= TOLERANCE[want.dtype.name] * np.abs(want).max()


@pytest.mark.parametrize("name", [name for name in DENSE if FACTS[name]["layers"]])
def test_variables_are_found_in_the_roles_that_the_training_script_gave_them(name):
    program = to_program(DATA / name / FACTS[name]["prefix"], said(name))
    truth = [layer for layer in FACTS[name]["layers"] if layer["kernel"]]
    assert [layer.provenance["kernel"] for layer in program.layers] == [layer["kernel"] for layer in truth]
    parts = [part for layer in program.layers for part in layer.provenance["parts"]]
    biases = [part["shift"] for part in parts if "shift" in part]
    assert sorted(biases) == sorted(layer["bias"] for layer in truth if layer["bias"])
    found = [{role: part.get(role) for role in ("beta", "gamma", "mean", "variance", "epsilon")} for part in parts if "variance" in part]
    assert found == [layer["bn"] for layer in FACTS[name]["layers"] if layer["bn"]]
    assert {part["epsilon_from"] for part in parts if "variance" in part} <= {"--epsilon"}


@pytest.mark.parametrize("name", sorted(SEVERAL_EPSILONS))
def test_several_epsilons_are_more_than_names_can_tell(name):
    program = to_program(DATA / name / FACTS[name]["prefix"], said(name))
    found = [part["variance"] for layer in program.layers for part in layer.provenance["parts"] if "variance" in part]
    assert found == [layer["bn"]["variance"] for layer in FACTS[name]["layers"] if layer["bn"]]


@pytest.mark.parametrize("name", sorted(BRANCHING))
def test_branches_are_an_error(name):
    with pytest.raises(ScopeError, match="in no order does each layer take what the one before gives"):
        to_program(DATA / name / FACTS[name]["prefix"], Options(use_graph=False, activation="relu"))


@pytest.mark.parametrize("name", ["conv_fused", "conv_seed"])
def test_a_convolutional_network_gives_folded_kernels_and_says_what_is_missing(name, tmp_path):
    facts = FACTS[name]
    program = to_program(DATA / name / facts["prefix"], Options(use_graph=False, activation="relu", epsilon=1e-3))
    write_out(tmp_path / "out.npz", program)
    layers = read_bundle(tmp_path / "out.npz").layers
    assert [layer.provenance["kernel"] for layer in layers] == [layer["kernel"] for layer in facts["layers"]]
    with open_checkpoint(DATA / name / facts["prefix"]) as checkpoint:
        for layer, truth in zip(layers, facts["layers"], strict=True):
            wanted, bias = checkpoint.read(truth["kernel"]).astype(np.float64), checkpoint.read(truth["bias"]) if truth["bias"] else 0.0
            if truth["bn"]:
                values = [checkpoint.read(truth["bn"][role]) for role in ("beta", "gamma", "mean", "variance")]
                bias = normalised(bias, values)
                wanted = wanted * (values[1].astype(np.float64) / np.sqrt(values[3] + np.float64(1e-3)))
            np.testing.assert_allclose(layer.arrays["kernel"].values, wanted, rtol=1e-6)
            np.testing.assert_allclose(layer.arrays["bias"].values, bias, rtol=1e-5, atol=1e-6)
    with pytest.raises(IncompleteBundle, match="strides, padding and pooling"):
        predict(program, np.zeros((1, 8, 8, 1), np.float32))


def test_batch_norms_whose_numbers_say_other_than_their_places_are_an_error():
    with pytest.raises(ScopeError) as error:
        to_program(DATA / "conv_preact" / "model.ckpt", Options(use_graph=False))
    assert "bn1 behind stem, bn2 behind conv1, bn3 behind conv2\n" in str(error.value)
    assert "--order stem,bn1,conv1,bn2,conv2,bn3,W" in str(error.value)
    program = to_program(DATA / "conv_preact" / "model.ckpt", Options(use_graph=False, order=["stem", "bn1", "conv1", "bn2", "conv2", "bn3", "W"]))
    assert names(program) == ["stem", "conv1", "conv2", "W"]


def test_averages_are_taken_where_asked():
    want = np.load(DATA / "polyak" / "expected_ema.npz")[FACTS["polyak"]["outputs"][0]]
    program = to_program(DATA / "polyak", said("polyak", averages=True))
    np.testing.assert_allclose(predict(program, rows("polyak")), want, rtol=0, atol=2e-6)
    assert program.conversion["averages"]["taken"]
    assert "layer1/W/ExponentialMovingAverage" in program.conversion["averages"]["of"]
    assert program.layers[0].provenance["kernel"] == "layer1/W/ExponentialMovingAverage"
    assert "raw weight: 6" in program.conversion["ignored"]
    raw = to_program(DATA / "polyak", said("polyak"))
    assert "averages of 6 weights are there and were not taken; --ema takes them" in raw.conversion["assumed"]


def test_one_of_several_averages_is_not_chosen(tmp_path):
    weights = {f"W/ExponentialMovingAverage{suffix}": kernel(4, 3, i) for i, suffix in enumerate(("", "_1"))}
    prefix = forged(tmp_path, weights | {"W": kernel(4, 3, 2), "b": np.ones(3, np.float32)})
    with pytest.raises(ScopeError, match=r"several averages of one weight \(W/ExponentialMovingAverage, W/ExponentialMovingAverage_1\)"):
        to_program(prefix, Options(averages=True))
    assert to_program(prefix).layers[0].provenance["kernel"] == "W"


def test_averages_that_are_not_there_cannot_be_taken():
    with pytest.raises(UsageError, match=r"^--ema: .* holds no averages of weights; leave it out$"):
        to_program(DATA / "no_meta", said("no_meta", averages=True))


# ---- what names cannot tell


def test_without_an_activation_the_weights_are_there_and_nothing_runs(tmp_path):
    program = to_program(DATA / "no_meta")
    write_out(tmp_path / "out.npz", program)
    model = Model(read_bundle(tmp_path / "out.npz"))
    with pytest.raises(IncompleteBundle, match="convert again with --activation relu"):
        model.predict(rows("no_meta"))
    same = to_program(DATA / "no_meta", Options(activation="relu:softmax"))
    for ours, theirs in zip(model.layers, same.layers, strict=True):
        np.testing.assert_array_equal(ours.arrays["kernel"].values, materialize(theirs.arrays["kernel"]))
        np.testing.assert_array_equal(ours.arrays["bias"].values, materialize(theirs.arrays["bias"]))
    assert [layer.provenance.get("activation") for layer in model.layers] == ["not known", "not known", None]


def test_a_batch_norm_behind_an_activation_that_is_not_known_is_not_folded_through_it():
    program = to_program(DATA / "bn_after_activation", Options(use_graph=False, bn_after_activation=True))
    known = to_program(DATA / "bn_after_activation", Options(use_graph=False, bn_after_activation=True, activation="relu"))
    assert "incomplete" in program.conversion
    for ours, theirs in zip(program.layers, known.layers, strict=True):
        np.testing.assert_array_equal(materialize(ours.arrays["kernel"]), materialize(theirs.arrays["kernel"]))


def test_what_was_assumed_and_ignored_is_in_the_record():
    record = to_program(DATA / "no_meta_seed" / "model.ckpt", Options(activation="relu")).conversion
    assert record["ignored"] == ["optimiser slot: 22"]
    assert "bn behind W1, bn_1 behind W2: their sizes allow nothing else" in record["assumed"]
    assert "no layer takes more than what the one before it gives (--order takes layers, and batch norms where they stand)" in record["assumed"]
    assert "each batch norm stands between its layer and the activation (--bn-after-activation puts them behind it)" in record["assumed"]
    assert "the activation of every layer but the last is relu; W3 has none" in record["assumed"]
    assert record["warnings"] == ["names carry no epsilon: 0.001 was taken for every batch norm; say another with --epsilon"]


def test_one_layer_needs_no_activation(tmp_path):
    w, b = kernel(4, 3), np.ones(3, np.float32)
    program = to_program(forged(tmp_path, {"Variable": w, "Variable_1": b, "global_step": np.int64(7)}))
    x = np.eye(4, dtype=np.float32)
    np.testing.assert_allclose(predict(program, x), x @ w + b, rtol=1e-6)
    assert program.conversion["ignored"] == ["counter: 1"]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("relu", ["Relu", "Relu", None]),
        ("ReLU:softmax", ["Relu", "Relu", "Softmax"]),
        ("none:log_softmax", [None, None, "LogSoftmax"]),
        ("tanh, none, sigmoid", ["Tanh", None, "Sigmoid"]),
        ("leaky_relu(0.1)", ["LeakyRelu", "LeakyRelu", None]),
    ],
)
def test_activations_can_be_said(text, found):
    program = to_program(DATA / "no_meta", Options(activation=text))
    assert [layer.activation for layer in program.layers] == found
    if "(" in text:
        assert program.layers[0].activation_attrs == {"alpha": 0.1}


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"activation": "rleu"}, "there is no activation 'rleu'; there are relu, relu6"),
        ({"activation": "relu,relu"}, "--activation relu,relu is for 2 layers, and the network has 3"),
        ({"activation": "leaky_relu(e)"}, "there is no activation"),
        ({"epsilon": -1e-3}, "an epsilon is a number that is not negative"),
        ({"epsilon": float("nan")}, "an epsilon is a number that is not negative"),
        ({"order": ["layer1", "layer3"]}, "no layer, batch norm or scope 'layer3'; did you mean layer"),
        ({"order": ["layer1", "layer1"]}, "--order names layer1 twice"),
        ({"order": ["layer1/bn"]}, "--order names no layer"),
    ],
)
def test_options_that_do_not_fit_are_refused(said, message):
    with pytest.raises(UsageError, match=message.replace("(", r"\(")):
        to_program(DATA / "no_meta", Options(**said))


@pytest.mark.parametrize("said", [{"outputs": ["y"]}, {"set_values": {"phase": False}}, {"statistics": "batch"}, {"shapes": {"x": [1]}}])
def test_options_that_only_say_something_of_a_graph_are_refused(said):
    with pytest.raises(UsageError, match=r"says something of a graph, but .*model.ckpt has no graph \(\.meta\) beside it: leave the option out"):
        to_program(DATA / "no_meta_seed" / "model.ckpt", Options(**said))
    with pytest.raises(UsageError, match="says something of a graph, but --no-graph leaves the graph out"):
        to_program(DATA / "seed", Options(use_graph=False, **said))


def test_an_epsilon_of_zero_is_one_too():
    with pytest.raises(UsageError, match="--epsilon only says what names cannot tell"):
        to_program(DATA / "seed", Options(epsilon=0.0))


# ---- order


def test_square_layers_without_numbers_are_ambiguous(tmp_path):
    prefix = forged(tmp_path, {"alpha/W": kernel(4, 4), "omega/W": kernel(4, 4, 1)})
    with pytest.raises(ScopeError) as error:
        to_program(prefix)
    assert "\n  alpha → omega\n  omega → alpha\n" in str(error.value)
    assert str(error.value).endswith("--order alpha,omega")
    program = to_program(prefix, Options(order=["omega/W", "alpha"], activation="relu"))
    x = np.random.default_rng(0).standard_normal((5, 4)).astype(np.float32)
    np.testing.assert_allclose(predict(program, x), np.maximum(x @ kernel(4, 4, 1), 0) @ kernel(4, 4), rtol=1e-5, atol=1e-6)


def test_numbers_order_square_layers_and_that_is_said(tmp_path):
    weights = {f"fc{i}/W": kernel(4, 4, i) for i in range(1, 12)} | {"out/W": kernel(4, 4, 99)}
    program = to_program(forged(tmp_path, weights))
    assert names(program) == [*(f"fc{i}" for i in range(1, 12)), "out"]
    assert any(text.startswith("the order of the layers is that of their numbers and names: fc1 → fc2") for text in program.conversion["assumed"])


def test_shapes_order_layers_against_their_numbers(tmp_path):
    program = to_program(forged(tmp_path, {"W2": kernel(8, 4), "W1": kernel(4, 2), "b1": np.ones(2, np.float32)}))
    assert names(program) == ["W2", "W1"]
    assert any("the only one that their shapes allow, though their numbers say another" in text for text in program.conversion["assumed"])


def test_numbers_that_no_chain_follows_are_an_error_where_shapes_leave_a_choice(tmp_path):
    # by number W1 (4, 4) is first, but the input is 8 wide; W3 and W1 can change places
    prefix = forged(tmp_path, {"W1": kernel(4, 4), "W2": kernel(8, 4), "W3": kernel(4, 4, 1)})
    with pytest.raises(ScopeError, match="fit in other orders than their numbers say"):
        to_program(prefix)


def test_towers_are_an_error_that_names_them_and_order_takes_one(tmp_path):
    arrays = {
        f"{tower}/dense{n}/kernel": kernel(i, o, len(tower)) for tower in ("actor", "target") for n, i, o in (("", 3, 8), ("_1", 8, 8), ("_2", 8, 1))
    }
    arrays |= {
        f"{tower}/bn/{role}": v
        for tower in ("actor", "target")
        for role, v in zip(("beta", "gamma", "moving_mean", "moving_variance"), norm(3), strict=True)
    }
    prefix = forged(tmp_path, arrays)
    with pytest.raises(ScopeError) as error:
        to_program(prefix)
    assert "\n  actor: actor/dense → actor/dense_1 → actor/dense_2\n  target: target/dense → " in str(error.value)
    program = to_program(prefix, Options(order=["target"], activation="tanh"))
    assert names(program) == ["target/dense", "target/dense_1", "target/dense_2"]
    assert program.conversion["ignored"] == ["not in --order: 4 (actor/bn, actor/dense, actor/dense_1, actor/dense_2)"]
    x = np.random.default_rng(0).standard_normal((5, 3)).astype(np.float32)
    w = [arrays[f"target/dense{n}/kernel"].astype(np.float64) for n in ("", "_1", "_2")]
    np.testing.assert_allclose(predict(program, x), np.tanh(np.tanh(normalised(x, norm(3)) @ w[0]) @ w[1]) @ w[2], rtol=1e-5, atol=1e-5)


def test_an_order_that_does_not_chain_is_refused():
    with pytest.raises(ScopeError, match=r"layer1 \(64 → 16\) comes after layer2 \(16 → 12\), which it cannot take its input from"):
        to_program(DATA / "no_meta", Options(order=["layer2", "layer1", "output"]))


def test_networks_that_were_trained_against_each_other_are_no_chain(tmp_path):
    arrays = {"generator/W1": kernel(4, 3), "generator/W2": kernel(3, 5), "discriminator/W1": kernel(5, 3), "discriminator/W2": kernel(3, 1)}
    prefix = forged(tmp_path, arrays)
    with pytest.raises(ScopeError, match="holds several networks, by the names of their scopes") as error:
        to_program(prefix)
    assert "\n  generator: generator/W1 → generator/W2\n" in str(error.value)
    assert len(to_program(prefix, Options(order=["generator"])).layers) == 2
    assert len(to_program(prefix, Options(order=["generator", "discriminator"])).layers) == 4


def test_a_decoder_comes_behind_an_encoder(tmp_path):
    assert names(to_program(forged(tmp_path, {"decoder/W": kernel(2, 4), "encoder/W": kernel(4, 2)}))) == ["encoder", "decoder"]


def test_the_order_is_said_where_shapes_tell_it():
    assumed = to_program(DATA / "no_meta", Options(activation="relu")).conversion["assumed"]
    assert assumed[0] == "the order of the layers is the only one that their shapes allow: layer1 → layer2 → output"


@pytest.mark.parametrize("outs", [1, 3])
def test_a_bias_may_be_a_number_alone(tmp_path, outs):
    """Linear regression in many a tutorial: of a layer of one unit it is the bias, and of wider ones a stray variable."""
    prefix = forged(tmp_path, {"W": kernel(4, outs), "b": np.float32(0.5), "lr": np.float32(0.1)})
    if outs > 1:
        with pytest.raises(ScopeError, match=r"belong to no layer by name: b \[\]"):
            to_program(prefix)
        return
    x = np.eye(4, dtype=np.float32)
    np.testing.assert_allclose(predict(to_program(prefix), x), x @ kernel(4, 1) + 0.5, rtol=1e-6)


def test_biases_may_be_rows(tmp_path):
    arrays = {"w1": kernel(4, 3), "b1": kernel(1, 3), "w2": kernel(3, 2), "b2": kernel(1, 2)}
    x = np.eye(4, dtype=np.float32)
    want = np.maximum(x @ arrays["w1"] + arrays["b1"], 0) @ arrays["w2"] + arrays["b2"]
    np.testing.assert_allclose(predict(to_program(forged(tmp_path, arrays), Options(activation="relu")), x), want, rtol=1e-5, atol=1e-6)


def test_the_two_kernels_of_a_separable_convolution_are_one_behind_the_other(tmp_path):
    """tf.layers and Keras have both in one scope, with one bias; MobileNet's checkpoints have a scope, and a batch norm, for each."""
    depthwise, pointwise = np.ones((3, 3, 4, 1), np.float32), np.ones((1, 1, 4, 4), np.float32)
    arrays = {}
    for scope in ("separable_conv2d", "separable_conv2d_1"):
        arrays |= {f"{scope}/pointwise_kernel": pointwise, f"{scope}/depthwise_kernel": depthwise, f"{scope}/bias": np.ones(4, np.float32)}
    program = to_program(forged(tmp_path, arrays), Options(activation="relu"))
    assert [(layer.op, sorted(layer.arrays)) for layer in program.layers] == [("DepthwiseConv2D", ["kernel"]), ("Conv2D", ["bias", "kernel"])] * 2
    (folder := tmp_path / "mobilenet").mkdir()
    arrays = {}
    for i in (1, 2):
        arrays |= {f"net/Conv2d_{i}_pointwise/weights": pointwise, f"net/Conv2d_{i}_depthwise/depthwise_weights": depthwise}
        arrays |= keras_norm(f"net/Conv2d_{i}_pointwise/BatchNorm", 4) | keras_norm(f"net/Conv2d_{i}_depthwise/BatchNorm", 4)
    program = to_program(forged(folder, arrays), Options(activation="relu6"))
    assert names(program) == [f"net/Conv2d_{i}_{half}" for i in (1, 2) for half in ("depthwise", "pointwise")]
    assert [[part["node"] for part in layer.provenance["parts"]] for layer in program.layers] == [[f"{name}/BatchNorm"] for name in names(program)]


# ---- batch norms


def deep(count, width=4):
    return {f"W{i}": kernel(width, width, i) for i in range(1, count + 1)}


def test_fewer_batch_norms_than_hidden_layers_of_one_width_are_ambiguous(tmp_path):
    prefix = forged(tmp_path, deep(4) | seed_norm("bn", 4) | seed_norm("bn_1", 4, 1, "bn"))
    with pytest.raises(ScopeError) as error:
        to_program(prefix)
    assert "bn behind W1, bn_1 behind W2" in str(error.value)
    assert "bn behind W1, bn_1 behind W3" in str(error.value)
    program = to_program(prefix, Options(order=["bn", "W1", "W2", "bn_1", "W3", "W4"], activation="relu"))
    x = np.random.default_rng(0).standard_normal((5, 4)).astype(np.float32)
    w = [kernel(4, 4, i).astype(np.float64) for i in range(1, 5)]
    hidden = np.maximum(normalised(x, norm(4)) @ w[0], 0)
    hidden = np.maximum(normalised(hidden @ w[1], norm(4, 1)), 0)
    np.testing.assert_allclose(predict(program, x), np.maximum(hidden @ w[2], 0) @ w[3], rtol=1e-4, atol=1e-4)


def test_a_batch_norm_for_each_hidden_layer_goes_by_its_number(tmp_path):
    norms = seed_norm("bn", 4) | seed_norm("bn_1", 4, 1, "bn") | seed_norm("bn_2", 4, 2, "bn")
    program = to_program(forged(tmp_path, deep(4) | norms))
    assert [[part["gamma"] for part in layer.provenance["parts"]] for layer in program.layers] == [["bn/gamma"], ["bn_1/gamma"], ["bn_2/gamma"], []]
    assert (
        "bn behind W1, bn_1 behind W2, bn_2 behind W3: there is one for each hidden layer, in the order of their numbers"
        in program.conversion["assumed"]
    )


def test_the_first_of_batch_norms_that_are_counted_in_a_scope_comes_first(tmp_path):
    """Its `beta` has no number, and the scope is no name of it: the layers are in it too."""
    arrays = {f"net/W{i}": kernel(ins, outs) for i, (ins, outs) in enumerate([(6, 5), (5, 6), (6, 4), (4, 3)], 1)}
    for n, width in (("", 5), ("_1", 6), ("_2", 4)):
        arrays |= {f"net/{role}{n}": v for role, v in zip(("beta", "scale", "pop_mean", "pop_var"), norm(width), strict=True)}
    prefix = forged(tmp_path, arrays)
    for order in ([], ["net"]):
        assumed = to_program(prefix, Options(order=order)).conversion["assumed"]
        assert (
            "net/batch_norm behind net/W1, net/batch_norm_1 behind net/W2, net/batch_norm_2 behind net/W3: their sizes allow nothing else" in assumed
        )


def test_batch_norms_go_to_the_layers_of_their_numbers(tmp_path):
    program = to_program(forged(tmp_path, deep(4) | seed_norm("bn2", 4) | seed_norm("bn3", 4, 1)))
    assert [[part["gamma"] for part in layer.provenance["parts"]] for layer in program.layers] == [[], ["bn2/gamma"], ["bn3/gamma"], []]
    assumed = program.conversion["assumed"]
    assert assumed[1:3] == ["bn2 behind W2, bn3 behind W3: their numbers agree", "the sizes of these batch norms fit other places too"]


def test_long_networks_are_read_in_no_time(tmp_path):
    """A search that tries all ways would not come back."""
    few = {f"W{i}": kernel(4, 4, i) for i in range(1, 61)}
    norms = {name: value for i in range(1, 41) for name, value in seed_norm(f"bn{i}", 4).items()}
    program = to_program(forged(tmp_path, few | norms))
    assert [len(layer.provenance["parts"]) for layer in program.layers] == [1] * 40 + [0] * 20
    with pytest.raises(ScopeError, match="more than one order"):
        to_program(forged(tmp_path, {f"{a}{b}/W": kernel(4, 4) for a in "abcde" for b in "vwxyz"}))


def test_layers_and_batch_norms_counted_together_say_their_places(tmp_path):
    arrays = {}
    for i, role in enumerate(["W", "W", "bn", "W", "bn", "W"]):
        scope = f"layer_with_weights-{i}"
        values = (
            dict(zip(("beta", "gamma", "moving_mean", "moving_variance"), norm(4, i), strict=True)) if role == "bn" else {"kernel": kernel(4, 4, i)}
        )
        arrays |= {f"{scope}/{name}": value for name, value in values.items()}
    program = to_program(forged(tmp_path, arrays))
    assert [[part["node"] for part in layer.provenance["parts"]] for layer in program.layers] == [
        [],
        ["layer_with_weights-2"],
        ["layer_with_weights-4"],
        [],
    ]


def test_a_batch_norm_called_after_its_layer_is_its(tmp_path):
    arrays = {"conv1/kernel": kernel(4, 4), "conv2/kernel": kernel(4, 4, 1), "conv3/kernel": kernel(4, 4, 2)}
    arrays |= {f"conv2_bn/conv2_bn_{role}": value for role, value in zip(("offset", "scale", "moving_mean", "moving_variance"), norm(4), strict=True)}
    program = to_program(forged(tmp_path, arrays))
    assert [len(layer.provenance["parts"]) for layer in program.layers] == [0, 1, 0]


def test_sonnets_arrays_of_four_dimensions_are_vectors(tmp_path):
    values = norm(3)
    arrays = {f"mlp/batch_norm/{role}": v.reshape(1, 3) for role, v in zip(("beta", "gamma", "moving_mean", "moving_variance"), values, strict=True)}
    arrays["mlp/linear/w"] = kernel(4, 3)
    program = to_program(forged(tmp_path, arrays))
    x = np.eye(4, dtype=np.float32)
    np.testing.assert_allclose(predict(program, x), normalised(x @ kernel(4, 3).astype(np.float64), values), rtol=1e-5, atol=1e-6)


def keras_norm(scope, width, seed=0):
    return {f"{scope}/{role}": v for role, v in zip(("beta", "gamma", "moving_mean", "moving_variance"), norm(width, seed), strict=True)}


def test_numbers_that_tensorflow_counted_do_not_place_batch_norms(tmp_path):
    # dense, then dense_1 with a batch norm, and dense_2 with one: the batch norms are counted from nothing all the same
    arrays = {f"dense{n}/kernel": kernel(4, 4, i) for i, n in enumerate(("", "_1", "_2", "_3"))}
    arrays |= keras_norm("batch_normalization", 4) | keras_norm("batch_normalization_1", 4, 1)
    with pytest.raises(ScopeError, match="batch_normalization behind dense_1, batch_normalization_1 behind dense_2"):
        to_program(forged(tmp_path, arrays))


def test_a_batch_norm_on_the_input_is_a_reading_too(tmp_path):
    arrays = {f"dense{n}/kernel": kernel(4, 4, i) for i, n in enumerate(("", "_1"))}
    arrays |= keras_norm("batch_normalization", 4) | keras_norm("batch_normalization_1", 4, 1)
    with pytest.raises(ScopeError, match="batch_normalization on the input, batch_normalization_1 behind dense\n"):
        to_program(forged(tmp_path, arrays))
    arrays = {"dense/kernel": kernel(4, 4), "dense_1/kernel": kernel(4, 3)} | keras_norm("batch_normalization", 4)
    (folder := tmp_path / "hidden").mkdir()
    assumed = to_program(forged(folder, arrays)).conversion["assumed"]
    assert "batch_normalization behind dense: there is one for each hidden layer, in the order of their numbers" in assumed


@pytest.mark.parametrize(("layers", "norms"), [("w w_1 w_2 w_3", "bn_1 bn_2"), ("dense dense_1 dense_2", "bn1 bn3"), ("a1/w a2/w a3/w", "a1/bn bn")])
def test_numbers_that_are_no_evidence_do_not_place_batch_norms(tmp_path, layers, norms):
    arrays = {name: kernel(4, 4, i) for i, name in enumerate(layers.split())}
    for scope in norms.split():
        arrays |= keras_norm(scope, 4)
    with pytest.raises(ScopeError, match="more than one reading of where the batch norms stand"):
        to_program(forged(tmp_path, arrays))


@pytest.mark.parametrize("absent", ["beta", "scale_2", "pop_mean_1"])
def test_batch_norms_that_are_counted_out_of_step_are_an_error(tmp_path, absent):
    arrays = {f"{role}{n}": v for n in ("", "_1", "_2") for role, v in zip(("beta", "scale", "pop_mean", "pop_var"), norm(4), strict=True)} | deep(4)
    del arrays[absent]
    with pytest.raises(ScopeError, match=r"nothing says which belong together: batch_norm \(.*: no number, 1, 2"):
        to_program(forged(tmp_path, arrays))


def test_two_batch_norms_do_not_share_a_layer(tmp_path):
    # the statistics of a second tower that shares the weights: s1/bn and, for the second use, s1/bn/layer1_1/bn
    moments = "layer1/bn/layer1_1/bn/moments"
    second = {f"{moments}/{s}/ExponentialMovingAverage": np.ones(4, np.float32) for s in ("Squeeze", "Squeeze_1")}
    arrays = {"layer1/W": kernel(4, 4), "layer2/W": kernel(4, 4, 1), "out/W": kernel(4, 2)} | second
    arrays |= {
        name.replace("bn/bn", "layer1/bn/layer1/bn", 1) if "moments" in name else f"layer1/{name}": v for name, v in seed_norm("bn", 4).items()
    }
    with pytest.raises(ScopeError, match="the names of two batch norms, layer1/bn and layer1/bn/layer1_1/bn, say that they stand behind layer1"):
        to_program(forged(tmp_path, arrays))


def test_batch_norms_stand_before_their_layers_where_one_must(tmp_path):
    arrays = {"layer1/W": kernel(3, 4), "layer2/W": kernel(4, 4)} | keras_norm("layer1/bn", 3) | keras_norm("layer2/bn", 4)
    program = to_program(forged(tmp_path, arrays), Options(activation="none"))
    x = np.eye(3, dtype=np.float32)
    want = normalised(normalised(x, norm(3)) @ kernel(3, 4).astype(np.float64), norm(4)) @ kernel(4, 4)
    np.testing.assert_allclose(predict(program, x), want, rtol=1e-4, atol=1e-4)


def test_batch_norms_may_lie_in_scopes_of_their_own(tmp_path):
    arrays = {"denses/0/kernel": kernel(3, 4), "denses/1/kernel": kernel(4, 4), "last/kernel": kernel(4, 4, 1)}
    program = to_program(forged(tmp_path, arrays | keras_norm("norms/0", 4) | keras_norm("norms/1", 4)))
    assert [[part["gamma"] for part in layer.provenance["parts"]] for layer in program.layers] == [["norms/0/gamma"], ["norms/1/gamma"], []]


def test_batch_norms_of_layers_that_are_left_out_are_not_taken(tmp_path):
    arrays = {"g_W1": kernel(5, 4), "g_W2": kernel(4, 6), "d_W1": kernel(6, 4), "d_W2": kernel(4, 2)}
    program = to_program(forged(tmp_path, arrays | seed_norm("d_bn", 4)), Options(order=["g_W1", "g_W2"], activation="relu"))
    assert program.conversion["ignored"] == ["not in --order: 3 (d_W1, d_W2, d_bn)"]
    (folder := tmp_path / "other").mkdir()
    prefix = forged(folder, arrays | seed_norm("bn", 4))
    with pytest.raises(ScopeError, match=r"bn \(4 channels\) may belong to layers that --order names, and to d_W1 \(6 → 4\)"):
        to_program(prefix, Options(order=["g_W1", "g_W2"]))
    assert len(to_program(prefix, Options(order=["d_W1", "bn", "d_W2"])).layers) == 2


def test_a_bias_that_may_be_beta_is_an_error(tmp_path):
    arrays = {"conv1/kernel": kernel(4, 3), "conv1/biases": np.ones(3, np.float32)} | keras_norm("conv1", 3)
    del arrays["conv1/beta"]
    with pytest.raises(ScopeError, match=r"conv1/biases \[3\] is beside the batch norm conv1, which has no beta"):
        to_program(forged(tmp_path, arrays))


def averages(scope, width):
    """What tf.train.ExponentialMovingAverage keeps of tf.nn.moments: a batch norm without beta and gamma of its own."""
    mean, variance = norm(width)[2:]
    return {f"{scope}/Squeeze/ExponentialMovingAverage": mean, f"{scope}/Squeeze_1/ExponentialMovingAverage": variance}


def test_biases_that_may_be_the_offsets_of_batch_norms_are_an_error(tmp_path):
    """tf.nn.batch_normalization(x, mean, variance, B1, None, 1e-5) in a well-known tutorial, which has W1 and B1 at the top."""
    arrays = {"W1": kernel(4, 3), "B1": np.ones(3, np.float32), "W2": kernel(3, 2), "B2": np.ones(2, np.float32)} | averages("moments", 3)
    with pytest.raises(ScopeError, match=r"B1 \[3\] is beside the batch norm batch_norm, which has no beta"):
        to_program(forged(tmp_path, arrays))


def test_biases_before_batch_norms_without_beta_are_said(tmp_path):
    arrays = {"fc1/w": kernel(4, 3), "fc1/b": np.ones(3, np.float32), "fc2/w": kernel(3, 2)} | averages("bn1/moments", 3)
    record = to_program(forged(tmp_path, arrays)).conversion
    assert "biases are added before the batch norms, which have no beta: fc1/b before bn1" in record["assumed"]


@pytest.mark.parametrize("names", [("W1", "b1", "Wout", "bout"), ("fcw1", "fcb1", "fcw2", "fcb2"), ("net/hW", "net/hB", "net/oW", "net/oB")])
def test_biases_that_are_one_letter_from_their_kernels(tmp_path, names):
    arrays = dict(zip(names, (kernel(4, 3), np.ones(3, np.float32), kernel(3, 2), np.ones(2, np.float32)), strict=True))
    program = to_program(forged(tmp_path, arrays), Options(activation="relu"))
    assert [sorted(layer.arrays) for layer in program.layers] == [["bias", "kernel"]] * 2


def test_a_layer_without_a_bias_beside_others_that_have_one_is_said(tmp_path):
    arrays = {"W_x": kernel(4, 3), "W_h": kernel(3, 5), "b_h": np.ones(5, np.float32), "W_y": kernel(5, 2), "b_y": np.ones(2, np.float32)}
    assert "no bias belongs to W_x by name" in to_program(forged(tmp_path, arrays)).conversion["assumed"]


def test_a_recurrence_by_hand_is_no_chain_of_layers(tmp_path):
    arrays = {"Wx": kernel(4, 3), "Wh": kernel(3, 3), "bh": np.ones(3, np.float32), "Wy": kernel(3, 2), "by": np.ones(2, np.float32)}
    with pytest.raises(ScopeError, match=r"these variables belong to no layer by name: bh \[3\], by \[2\]"):
        to_program(forged(tmp_path, arrays))


def test_a_batch_norm_that_fits_nowhere_is_an_error(tmp_path):
    prefix = forged(tmp_path, {"W1": kernel(4, 3), "W2": kernel(3, 2)} | seed_norm("bn", 5))
    with pytest.raises(ScopeError, match=r"bn \(5 channels\) fit behind no layers: these are W1 \(4 → 3\), W2 \(3 → 2\)"):
        to_program(prefix)


def test_beta_and_gamma_without_statistics_are_an_error(tmp_path):
    arrays = {"W": kernel(4, 3), "LayerNorm/beta": np.zeros(3, np.float32), "LayerNorm/gamma": np.ones(3, np.float32)}
    with pytest.raises(
        ScopeError,
        match=r"have no moving mean .*, or too many \(layer norms have none, and tf\.train.*\): LayerNorm \(only beta and gamma, 3 channels\)",
    ):
        to_program(forged(tmp_path, arrays))


def test_what_belongs_nowhere_is_not_dropped_silently(tmp_path):
    arrays = {"W1": kernel(4, 3), "W2": kernel(3, 2), "prelu/slope": np.ones(3, np.float32)}
    prefix = forged(tmp_path, arrays)
    with pytest.raises(ScopeError, match=r"belong to no layer by name: prelu/slope \[3\]"):
        to_program(prefix)
    record = to_program(prefix, Options(order=["W1", "W2"])).conversion
    assert "what belongs to no layer was left out, as --order does not name it: prelu/slope" in record["warnings"]


def test_vectors_without_a_name_that_fit_a_layer_are_not_left_out_for_order(tmp_path):
    """`batch_norm_wrapper` of 2016: scale, beta, pop_mean and pop_var without a name, behind each kernel. The first of them is no bias."""
    arrays = {"Variable": kernel(4, 3), "Variable_5": kernel(3, 2)} | {f"Variable_{i}": np.ones(3, np.float32) for i in (1, 2, 3, 4)}
    prefix = forged(tmp_path, arrays)
    for order in ([], ["Variable", "Variable_5"]):
        with pytest.raises(ScopeError, match=r"Variable_2 \[3\], Variable_3 \[3\], Variable_4 \[3\].*convert with the graph"):
            to_program(prefix, Options(order=order))


def test_half_batch_norms_beside_the_layers_in_order_are_not_left_out(tmp_path):
    """`mu` and `sigma` are no names of statistics that everybody would read alike; another network's parts are nobody's concern."""
    part = {"bn/beta": np.zeros(3, np.float32), "bn/gamma": np.ones(3, np.float32), "bn/mu": np.zeros(3, np.float32)}
    layers = {"fc1/w": kernel(4, 3), "fc2/w": kernel(3, 2)}
    with pytest.raises(ScopeError, match=r"the batch norms bn \(only beta and gamma, 3 channels\) may belong to the layers that --order names"):
        to_program(forged(tmp_path, layers | part), Options(order=["fc1", "fc2"]))
    (folder := tmp_path / "other").mkdir()
    apart = {f"net/{name}": a for name, a in layers.items()} | {f"critic/{name}": a for name, a in part.items()}
    record = to_program(forged(folder, apart), Options(order=["net/fc1", "net/fc2"])).conversion
    assert "what belongs to no layer was left out, as --order does not name it: critic/bn/mu, critic/bn" in record["warnings"]


def test_nothing_like_a_layer_is_an_error_that_lists_what_there_is(tmp_path):
    prefix = forged(tmp_path, seed_norm("bn", 3) | {"global_step": np.int64(1)})
    with pytest.raises(ScopeError, match=r"no variable looks like the kernel of a layer; it holds bn/beta \[3\], .*global_step \[\]$"):
        to_program(prefix)


@pytest.mark.parametrize("name", ["lstm_cell/kernel", "embedding/embeddings"])
def test_cells_and_embeddings_are_an_error(tmp_path, name):
    with pytest.raises(ScopeError, match=name):
        to_program(forged(tmp_path, {"dense/kernel": kernel(4, 3), name: kernel(9, 4)}))


def test_a_lone_matrix_without_a_name_is_no_network(tmp_path):
    prefix = forged(tmp_path, {"Variable": kernel(30, 4)})
    with pytest.raises(ScopeError, match="and not an embedding; if it is, give --order Variable"):
        to_program(prefix)
    assert names(to_program(prefix, Options(order=["Variable"]))) == ["Variable"]


# ---- statistics


@pytest.mark.parametrize(
    ("role", "value", "message"),
    [
        (
            "Squeeze_1",
            -0.5,
            r"the moving variance 'bn/bn/moments/Squeeze_1/ExponentialMovingAverage' of the batch norm 'bn' is negative \(-0.5 at index 1\)",
        ),
        ("Squeeze_1", np.nan, "the moving variance .* NaN or infinite"),
        ("Squeeze", np.inf, "the moving mean .* NaN or infinite"),
    ],
)
def test_statistics_that_no_batch_norm_has_are_refused(tmp_path, role, value, message):
    arrays = {"W1": kernel(4, 3), "W2": kernel(3, 2)} | seed_norm("bn", 3)
    arrays[f"bn/bn/moments/{role}/ExponentialMovingAverage"][1] = value
    with pytest.raises(BadStatistics, match=message):
        to_program(forged(tmp_path, arrays))


def test_statistics_that_never_moved_are_warned_of(tmp_path):
    arrays = {"W1": kernel(4, 3), "W2": kernel(3, 2)} | seed_norm("bn", 3)
    arrays["bn/bn/moments/Squeeze/ExponentialMovingAverage"][:] = 0
    arrays["bn/bn/moments/Squeeze_1/ExponentialMovingAverage"][:] = 1
    warnings = to_program(forged(tmp_path, arrays), Options(epsilon=1e-5)).conversion["warnings"]
    assert warnings == ["the moving statistics of bn are still 0 and 1: its update ops never ran, or were not run before saving"]


def test_a_variance_of_zero_needs_an_epsilon(tmp_path):
    arrays = {"W1": kernel(4, 3), "W2": kernel(3, 2)} | seed_norm("bn", 3)
    arrays["bn/bn/moments/Squeeze_1/ExponentialMovingAverage"][:] = 0
    with pytest.raises(BadStatistics, match="is 0 in places, which an epsilon of 0 divides by"):
        to_program(forged(tmp_path, arrays), Options(epsilon=0.0))


# ---- any order of names


class Fake:
    """A checkpoint of zeros and ones that never reads a kernel and lists its variables in the order given."""

    prefix = Path("fake")

    def __init__(self, checkpoint, order):
        self.checkpoint, self.order = checkpoint, order

    def __iter__(self):
        return iter(self.order)

    def __contains__(self, name):
        return name in self.order

    def info(self, name):
        return self.checkpoint.info(name)

    def stored(self, name):
        return self.checkpoint.stored(name)

    def variable_keys(self):
        return self.checkpoint.variable_keys()

    def read(self, name):
        assert len(self.checkpoint.info(name).shape) == 1, "only vectors are read"
        return self.checkpoint.read(name)


@pytest.mark.parametrize("name", ["no_meta_seed", "tf2_weights", "seed_zero_debias", "polyak"])
@settings(max_examples=15)
@given(data=st.data())
def test_the_order_in_which_names_are_listed_does_not_matter(name, data):
    with open_checkpoint(DATA / name / "model.ckpt") as checkpoint:
        order = data.draw(st.permutations(checkpoint.names()))
        program = program_from_names(Fake(checkpoint, order), Options(activation="relu"))
        other = program_from_names(Fake(checkpoint, checkpoint.names()), Options(activation="relu"))
        assert [(layer.name, layer.provenance) for layer in program.layers] == [(layer.name, layer.provenance) for layer in other.layers]
        assert program.conversion == other.conversion


_NAMES = st.sampled_from(
    [
        "W",
        "W1",
        "W2",
        "W_a",
        "b",
        "b1",
        "Variable",
        "Variable_1",
        "bn/beta",
        "bn/gamma",
        "bn_1/beta",
        "bn/moving_mean",
        "bn/moving_variance",
        "t/W1",
        "t/W2",
        "out/kernel",
        "beta",
        "pop_mean",
        "pop_var",
        "weights/Variable",
        "biases/Variable",
        "G_W1",
        "D_W1",
        "policy/w",
        "value/w",
        "n/mean",
        "n/variance",
        "n/count",
        "n/weight",
        "s/depthwise_kernel",
        "s/pointwise_kernel",
        "W/ExponentialMovingAverage",
        "ws/0",
        "bs/0",
    ]
)


@settings(max_examples=60)
@given(st.dictionaries(_NAMES, st.sampled_from([(), (3,), (3, 3), (4, 3), (3, 4), (1, 3), (2, 2, 3, 3), (2, 3, 3), (3, 3, 3, 3, 3)]), max_size=8))
def test_any_names_give_a_network_or_an_error_of_ours(tmp_path_factory, shapes):
    prefix = forged(tmp_path_factory.mktemp("any"), {name: np.ones(shape, np.float32) for name, shape in shapes.items()})
    try:
        program = to_program(prefix, Options(activation="relu"))
    except BnexportError as error:
        assert str(error).strip()
    else:
        for layer in program.layers:
            for array in layer.arrays.values():
                assert materialize(array).shape == array.shape


@pytest.mark.parametrize("name", ["no_meta_seed", "bn_after_activation", "bn_on_input", "half"])
def test_unfolded_it_computes_the_same(name):
    folded, unfolded = (make(DATA / name / FACTS[name]["prefix"], said(name)) for make in (to_program, to_unfolded))
    assert [layer.op for layer in unfolded.layers].count("ScaleShift") == sum(layer["bn"] is not None for layer in FACTS[name]["layers"])
    np.testing.assert_allclose(predict(folded, rows(name)), predict(unfolded, rows(name).astype(np.float64)), rtol=1e-5, atol=1e-6)
