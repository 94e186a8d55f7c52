"""The batch norms of unfolded networks: against what the fixtures' makers know of them, and against TensorFlow for those written by hand."""

import json
from pathlib import Path

import numpy as np
import pytest
from live_graph import Net, dense, rows

from bnexport.batchnorms import batch_norms
from bnexport.checkpoint import open_checkpoint
from bnexport.conversion import to_unfolded
from bnexport.program import InMemory, Layer, Port, Program
from bnexport.runner import Model
from bnexport.tracing import evaluate

DATA = Path(__file__).parents[1] / "fixtures" / "data"
FACTS = {path.parent.name: json.loads(path.read_text()) for path in sorted(DATA.glob("*/fixture.json"))}
WITH_LAYERS = [name for name, facts in FACTS.items() if facts.get("layers")]
EPSILON = {"half": 0.0010004044}  # what float16 makes of 0.001


def norms_of(prefix):
    program = to_unfolded(prefix)
    with open_checkpoint(prefix) as checkpoint:
        return program, batch_norms(program, checkpoint)


@pytest.mark.parametrize("name", WITH_LAYERS)
def test_the_batch_norms_are_those_of_the_network(name):
    facts = FACTS[name]
    _, norms = norms_of(DATA / name / facts["prefix"])
    truth = [layer["bn"] for layer in facts["layers"] if layer["bn"]]
    assert [dict(norm.variables) for norm in norms] == [{role: key for role, key in bn.items() if role != "epsilon" and key} for bn in truth]
    assert [norm.epsilon for norm in norms] == [EPSILON.get(name, bn["epsilon"]) for bn in truth]
    assert all(norm.epsilon_from == ("default" if norm.layers == (norm.name,) else "the graph") for norm in norms)
    assert [norm.derived for norm in norms] == [()] * len(truth)
    with open_checkpoint(DATA / name / facts["prefix"]) as checkpoint:
        for norm, bn in zip(norms, truth, strict=True):
            for role in ("mean", "variance", "gamma", "beta"):
                values = getattr(norm, role)
                assert values.dtype == np.float64
                np.testing.assert_array_equal(values, checkpoint.read(bn[role]).astype(np.float64) if bn[role] else {"gamma": 1, "beta": 0}[role])
                assert values.shape == (norm.units,)
            assert norm.axis == -1


@pytest.mark.parametrize("name", [name for name in WITH_LAYERS if (DATA / name / FACTS[name]["prefix"]).with_suffix(".ckpt.meta").exists()])
def test_the_formula_leads_from_before_to_after(name):
    """gamma * (x - mean) / sqrt(variance + epsilon) + beta, in float64: only epsilon is shorter than the graph's float32."""
    program, norms = norms_of(DATA / name / FACTS[name]["prefix"])
    rng = np.random.default_rng(5)
    model = Model(program)
    values = evaluate(model, {p.name: rng.normal(size=[4 if s is None else s for s in p.shape]) for p in model.inputs})
    for norm in norms:
        after = norm.gamma * (values[norm.before] - norm.mean) / np.sqrt(norm.variance + norm.epsilon) + norm.beta
        np.testing.assert_allclose(values[norm.after], after, rtol=0, atol=1e-7 * max(1, np.abs(after).max()))


def test_names_and_places_of_the_seed():
    _, norms = norms_of(DATA / "seed")
    assert [(norm.name, norm.layer, norm.before, norm.after) for norm in norms] == [
        ("bn", "W1", "before_bn", "bn/batchnorm/add_1"),
        ("bn_1", "W2", "add", "bn_1/batchnorm/add_1"),
    ]
    assert norms[0].layers == ("bn/batchnorm/mul_1", "bn/batchnorm/add_1")


@pytest.mark.parametrize(
    ("fixture", "names", "layers"),
    [
        ("bn_on_input", ["input_bn"], [None]),
        ("conv_preact", ["bn1", "bn2", "bn3"], ["stem", "conv1", None]),  # the third stands behind a sum
        (
            "savedmodel_v2",
            ["classifier_1/batch_normalization_3", "classifier_1/batch_normalization_4"],
            ["classifier_1/dense_5", "classifier_1/dense_6"],
        ),
        ("tf2_objects", ["model/bn1", "model/bn2"], ["model/dense1", "model/dense2"]),
        ("no_meta_seed", ["bn", "bn_1"], ["W1", "W2"]),
    ],
)
def test_names_by_scope_and_the_layer_before(fixture, names, layers):
    _, norms = norms_of(DATA / fixture / FACTS[fixture]["prefix"])
    assert [norm.name for norm in norms] == names
    assert [norm.layer for norm in norms] == layers


# ---- written by hand


def by_hand(tf, how, x, name="bn", channels=6):
    """A batch norm in the words of `how`; its variables are called after their roles."""
    with tf.variable_scope(name):
        mean, variance, gamma, beta = (tf.get_variable(role, [channels], tf.float32) for role in ("mean", "var", "gamma", "beta"))
    return how(tf, x, mean, variance, gamma, beta)


FORMULAS = {
    "subtracted first": lambda tf, x, m, v, g, b: (x - m) / tf.sqrt(v + 1e-5) * g + b,
    "one factor": lambda tf, x, m, v, g, b: (x - m) * (g * tf.rsqrt(v + 1e-5)) + b,
    "folded by hand": lambda tf, x, m, v, g, b: x * (g * tf.rsqrt(v + 1e-5)) + (b - m * (g * tf.rsqrt(v + 1e-5))),
    "the factor before the mean": lambda tf, x, m, v, g, b: x * (g * tf.rsqrt(v + 1e-5)) + (b - (g * tf.rsqrt(v + 1e-5)) * m),
    "power": lambda tf, x, m, v, g, b: (x - m) * tf.pow(v + 1e-5, -0.5) * g + b,
}


@pytest.mark.tensorflow
@pytest.mark.parametrize("formula", FORMULAS)
def test_formulas_written_by_hand(tf, live, formula):
    def build():
        x = tf.placeholder(tf.float32, [None, 4], "x")
        after = tf.identity(by_hand(tf, FORMULAS[formula], dense(tf, x, 6, "fc")), "after")
        return Net({x: rows(5, 4)}, [tf.identity(dense(tf, after, 3, "out"), "y")])

    net = live(build)
    _, (norm,) = norms_of(net.prefix)
    for role, key in (("mean", "bn/mean"), ("variance", "bn/var"), ("gamma", "bn/gamma"), ("beta", "bn/beta")):
        np.testing.assert_allclose(getattr(norm, role), net.variables[key], rtol=1e-6)
    assert norm.epsilon == 1e-5
    assert (norm.name, norm.layer, norm.before) == ("bn", "fc", "add")


@pytest.mark.tensorflow
def test_a_bias_before_and_arithmetic_behind_do_not_belong_to_it(tf, live):
    def build():
        x = tf.placeholder(tf.float32, [None, 4], "x")
        after = by_hand(tf, FORMULAS["subtracted first"], dense(tf, x, 6, "fc"))
        scale, more = (tf.get_variable(name, [6], tf.float32) for name in ("extra/scale", "extra/more"))
        return Net({x: rows(5, 4)}, [tf.identity(after * scale + more, "y")])

    _, (norm,) = norms_of(live(build).prefix)
    assert dict(norm.variables) == {"mean": "bn/mean", "variance": "bn/var", "gamma": "bn/gamma", "beta": "bn/beta"}
    assert len(norm.layers) == 4


@pytest.mark.tensorflow
def test_two_in_a_row_are_two(tf, live):
    def build():
        x = tf.placeholder(tf.float32, [None, 6], "x")
        once = by_hand(tf, FORMULAS["subtracted first"], x, "first")
        return Net({x: rows(5, 6)}, [tf.identity(by_hand(tf, FORMULAS["folded by hand"], once, "second"), "y")])

    _, norms = norms_of(live(build).prefix)
    assert [norm.name for norm in norms] == ["first", "second"]
    assert norms[0].after == norms[1].before


@pytest.mark.tensorflow
def test_one_of_shared_variables_at_two_places_has_two_names(tf, live):
    def build():
        x = tf.placeholder(tf.float32, [None, 6], "x")
        with tf.variable_scope("shared", reuse=tf.AUTO_REUSE):
            once = by_hand(tf, FORMULAS["folded by hand"], x)
            twice = by_hand(tf, FORMULAS["folded by hand"], tf.nn.relu(once))
        return Net({x: rows(5, 6)}, [tf.identity(twice, "y")])

    _, norms = norms_of(live(build).prefix)
    assert [norm.name for norm in norms] == ["shared/bn", "shared/bn_2"]


@pytest.mark.tensorflow
def test_channels_first(tf, live):
    def build():
        x = tf.placeholder(tf.float32, [None, 3, 5, 5], "x")
        with tf.variable_scope("bn"):
            mean, variance, gamma, beta = (
                tf.reshape(tf.get_variable(role, [3], tf.float32), [1, 3, 1, 1]) for role in ("mean", "var", "gamma", "beta")
            )
        return Net({x: rows(2, 3, 5, 5)}, [tf.identity(tf.nn.batch_normalization(x, mean, variance, beta, gamma, 1e-3), "y")])

    net = live(build)
    _, (norm,) = norms_of(net.prefix)
    assert (norm.mean.shape, norm.axis, norm.units) == ((3, 1, 1), -3, 3)
    np.testing.assert_array_equal(norm.gamma.reshape(-1), net.variables["bn/gamma"])


@pytest.mark.tensorflow
def test_a_clipped_variance_is_made_up_for_in_gamma(tf, live):
    """The formula with the numbers given still leads from before to after, and it is said that gamma is not the variable."""

    def build():
        x = tf.placeholder(tf.float32, [None, 6], "x")
        return Net(
            {x: rows(5, 6)}, [tf.identity(by_hand(tf, lambda tf, x, m, v, g, b: (x - m) / tf.sqrt(tf.maximum(v, 1.0) + 1e-3) * g + b, x), "y")]
        )

    net = live(build)
    _, (norm,) = norms_of(net.prefix)
    assert norm.derived == ("gamma",)
    assert "gamma" not in norm.variables
    x = net.inputs["x"].astype(np.float64)
    after = norm.gamma * (x - norm.mean) / np.sqrt(norm.variance + norm.epsilon) + norm.beta
    np.testing.assert_allclose(after, net.expected["y"], rtol=0, atol=1e-5)


def test_a_tensor_that_something_else_takes_ends_a_batch_norm():
    """x * a, which is an output too, is no half of a formula."""
    part = {"op": "Mul", "node": "n"}
    program = Program(
        [Port("x", "x", (None, 2), "float64")],
        [
            Layer("a", "ScaleShift", ["x"], arrays={"scale": InMemory(np.ones(2)), "shift": InMemory(np.zeros(()))}, provenance={"parts": [part]}),
            Layer("r", "Relu", ["a"]),
            Layer("b", "ScaleShift", ["a"], arrays={"scale": InMemory(np.ones(2)), "shift": InMemory(np.zeros(()))}, provenance={"parts": [part]}),
        ],
        [Port("y", "b", (None, 2), "float64")],
    )
    with open_checkpoint(DATA / "seed") as checkpoint:
        assert batch_norms(program, checkpoint) == []
