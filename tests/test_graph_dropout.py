"""Every way in which dropout has been written: removed, and the rest left as TensorFlow computes it without."""

import numpy as np
import pytest
from live_graph import Net, dense, rows

from bnexport.errors import GraphError, UnsupportedOps

pytestmark = pytest.mark.tensorflow


def form_of_1_12(tf, x, keep):
    mask = tf.floor(keep + tf.random_uniform(tf.shape(x)))
    return tf.div(x, keep) * mask


def form_of_1_13(tf, x, keep):
    rate = 1.0 - keep
    scale = 1.0 / (1.0 - rate)
    return x * scale * tf.cast(tf.random_uniform(tf.shape(x)) >= rate, tf.float32)


def form_of_today(tf, x, keep):
    return tf.nn.dropout(x, keep_prob=keep)


def form_of_today_by_rate(tf, x, keep):
    return tf.nn.dropout(x, rate=1.0 - keep)


def mask_first(tf, x, keep):
    return x * tf.cast(tf.random_uniform(tf.shape(x)) < keep, tf.float32) / keep


def mask_of_noise_shape(tf, x, keep):
    return tf.nn.dropout(x, keep_prob=keep, noise_shape=[tf.shape(x)[0], 1])


def selected(tf, x, keep):
    return tf.where(tf.random_uniform(tf.shape(x)) < keep, x / keep, tf.zeros_like(x))


def factor_left(tf, x, keep):
    return (1.0 / keep) * x * tf.floor(tf.random_uniform(tf.shape(x)) + keep)


def two_uniforms_limits(tf, x, keep):
    return x / keep * tf.floor(keep + tf.random_uniform(tf.shape(x), 0.0, 1.0, seed=4))


def mask_with_its_factor(tf, x, keep):
    return x * (tf.floor(tf.random_uniform(tf.shape(x)) + keep) / keep)


def what_the_mask_leaves_out(tf, x, keep):
    return x * (1.0 - tf.cast(tf.random_uniform(tf.shape(x)) >= keep, tf.float32)) / keep


def mask_that_is_negated(tf, x, keep):
    return x * tf.cast(tf.logical_not(tf.random_uniform(tf.shape(x)) >= keep), tf.float32) * (1.0 / keep)


def selected_from_the_other_end(tf, x, keep):
    return tf.where(tf.random_uniform(tf.shape(x)) >= keep, tf.zeros_like(x), x / keep)


FORMS = [
    mask_with_its_factor,
    what_the_mask_leaves_out,
    mask_that_is_negated,
    selected_from_the_other_end,
    form_of_1_12,
    form_of_1_13,
    form_of_today,
    form_of_today_by_rate,
    mask_first,
    mask_of_noise_shape,
    selected,
    factor_left,
    two_uniforms_limits,
]


def network(tf, apply, keep):
    """Two dropouts between three layers; `apply` None for none."""
    x = tf.placeholder(tf.float32, [None, 6], name="x")
    h = tf.nn.relu(dense(tf, x, 8, "one"))
    h = apply(tf, h, keep) if apply else h
    h.set_shape([None, 8])  # a placeholder of unknown rank has made it unknown
    h = tf.nn.tanh(dense(tf, h, 7, "two"))
    h = apply(tf, h, keep) if apply else h
    h.set_shape([None, 7])
    return x, tf.nn.softmax(dense(tf, h, 4, "three"), name="y")


@pytest.mark.parametrize("form", FORMS)
def test_fed(tf, live, form):
    def build():
        keep = tf.placeholder(tf.float32, name="keep_prob")
        x, y = network(tf, form, keep)
        return Net({x: rows(5, 6)}, [y], {keep: 1.0})

    program = live(build).matches()
    assert [(d["keep"], d["fed_by"]) for d in program.conversion["dropped"]] == [(None, "keep_prob")] * 2


@pytest.mark.parametrize("form", FORMS)
def test_baked_in(tf, live, form, keep=0.7):
    def build(apply):
        x, y = network(tf, apply, keep)
        return Net({x: rows(5, 6)}, [y])

    saved = live(lambda: build(form))
    (expected,) = live.outputs(lambda: build(None), saved.variables)
    program = saved.matches(expected={"y": expected})
    assert [d["keep"] for d in program.conversion["dropped"]] == pytest.approx([keep] * 2, abs=1e-6)


@pytest.mark.parametrize("form", [form_of_1_12, form_of_1_13, form_of_today])
def test_placeholder_with_default(tf, live, form):
    def build():
        keep = tf.placeholder_with_default(1.0, [], name="keep_prob")
        x, y = network(tf, form, keep)
        return Net({x: rows(5, 6)}, [y])

    live(build).matches()


@pytest.mark.parametrize("form", [form_of_1_12, form_of_1_13, form_of_today])
def test_a_default_that_is_trainings(tf, live, form):
    def build():
        keep = tf.placeholder_with_default(0.5, [], name="keep_prob")
        x, y = network(tf, form, keep)
        return Net({x: rows(5, 6)}, [y], {keep: 1.0})

    live(build).matches()


def test_rate_is_fed(tf, live):
    def build():
        rate = tf.placeholder(tf.float32, name="rate")
        x, y = network(tf, lambda _, h, r: tf.nn.dropout(h, rate=r), rate)
        return Net({x: rows(5, 6)}, [y], {rate: 0.0})

    live(build).matches()


def test_keep_is_a_variable(tf, live):
    def build(apply):
        keep = tf.Variable(0.6, trainable=False, name="keep")
        x, y = network(tf, apply, keep)
        return Net({x: rows(5, 6)}, [y])

    saved = live(lambda: build(form_of_1_12))
    (expected,) = live.outputs(lambda: build(None), saved.variables)
    saved.matches(expected={"y": expected})


@pytest.mark.parametrize("cond_v2", [False, True])
@pytest.mark.parametrize("form", [form_of_1_12, form_of_1_13, form_of_today])
def test_inside_a_condition(tf, live, form, cond_v2):
    def build():
        training = tf.placeholder(tf.bool, name="training")
        x, y = network(tf, lambda _, h, keep: tf.cond(training, lambda: form(tf, h, keep), lambda: h), 0.7)
        return Net({x: rows(5, 6)}, [y], {training: False})

    program = live(build, cond_v2=cond_v2).matches()
    assert [(f["node"], f["value"]) for f in program.conversion["set"]] == [("training", False)]
    assert program.conversion["dropped"] == []


def test_keep_chosen_by_a_condition(tf, live):
    """keep = tf.cond(training, 0.5, 1.0): the flag is only seen through the dropout that it feeds."""

    def build():
        training = tf.placeholder(tf.bool, name="training")
        keep = tf.cond(training, lambda: tf.constant(0.5), lambda: tf.constant(1.0))
        x, y = network(tf, form_of_1_12, keep)
        return Net({x: rows(5, 6)}, [y], {training: False})

    live(build).matches()


def test_keep_chosen_by_where(tf, live):
    def build():
        training = tf.placeholder(tf.bool, [], name="training")
        x, y = network(tf, form_of_1_12, tf.where(training, 0.5, 1.0))
        return Net({x: rows(5, 6)}, [y], {training: False})

    live(build).matches()


def test_before_and_after_batch_norm(tf, live):
    def build():
        keep = tf.placeholder(tf.float32, name="keep_prob")
        x = tf.placeholder(tf.float32, [None, 6], name="x")
        h = tf.nn.dropout(x, keep_prob=keep)
        h = dense(tf, h, 8, "one")
        mean, variance = tf.get_variable("mean", [8]), tf.get_variable("variance", [8])
        h = tf.nn.batch_normalization(h, mean, variance, tf.get_variable("beta", [8]), tf.get_variable("gamma", [8]), 1e-3)
        y = tf.nn.relu(tf.nn.dropout(h, keep_prob=keep), name="y")
        return Net({x: rows(5, 6)}, [y], {keep: 1.0})

    program = live(build).matches()
    assert [layer.op for layer in program.layers] == ["Dense"]


def test_a_mask_without_its_factor_is_no_dropout(tf, live):
    def build():
        x, y = network(tf, lambda _, h, keep: h * tf.floor(keep + tf.random_uniform(tf.shape(h))), 0.5)
        return Net({x: rows(5, 6)}, [y])

    with pytest.raises(UnsupportedOps, match="RandomUniform: random_uniform/RandomUniform"):
        live(build).convert()


def test_a_mask_that_is_fed_masks_nothing_where_the_user_sets_it_to_1(tf, live):
    """A denoising autoencoder's corruption: x times a mask, without a factor."""

    def build():
        keep = tf.placeholder(tf.float32, [], name="keep_prob")
        x, y = network(tf, lambda tf, h, keep: h * tf.cast(tf.random_uniform(tf.shape(h)) < keep, tf.float32), keep)
        return Net({x: rows(5, 6)}, [y], {keep: 1.0})

    saved = live(build)
    with pytest.raises(UnsupportedOps, match="or what they are compared with to 0 or 1"):
        saved.convert()
    saved.matches(set_values={"keep_prob": 1.0})


@pytest.mark.parametrize("shape", [[2], [None], None])
def test_a_keep_probability_for_each_layer(tf, live, shape):
    def build():
        keeps = tf.placeholder(tf.float32, shape, name="keep_probs")
        x = tf.placeholder(tf.float32, [None, 6], name="x")
        h = form_of_1_12(tf, tf.nn.relu(dense(tf, x, 8, "one")), keeps[0])
        h.set_shape([None, 8])
        h = form_of_today_by_rate(tf, tf.nn.relu(dense(tf, h, 8, "two")), keeps[1])
        h.set_shape([None, 8])
        return Net({x: rows(5, 6)}, [dense(tf, h, 3, "three")], {keeps: [1.0, 1.0]})

    dropouts = live(build).matches().conversion["dropped"]
    assert [d["fed_by"] for d in dropouts] == ["keep_probs", "keep_probs"]


def test_a_factor_of_another_probability_is_no_dropout(tf, live):
    def build():
        x, y = network(tf, lambda _, h, keep: h / 0.8 * tf.floor(keep + tf.random_uniform(tf.shape(h))), 0.5)
        return Net({x: rows(5, 6)}, [y])

    with pytest.raises(UnsupportedOps, match="RandomUniform"):
        live(build).convert()


def test_inverted_comparison_is_no_dropout(tf, live):
    """x / keep where uniform >= keep keeps 1 - keep of the units: whoever wrote it has another expectation than x."""

    def build():
        x, y = network(tf, lambda _, h, keep: h / keep * tf.cast(tf.random_uniform(tf.shape(h)) >= keep, tf.float32), 0.3)
        return Net({x: rows(5, 6)}, [y])

    with pytest.raises(UnsupportedOps, match="RandomUniform"):
        live(build).convert()


@pytest.mark.parametrize("noise", ["normal", "uniform"])
def test_noise_is_not_dropout(tf, live, noise):
    def build():
        def add(_, h, scale):
            return h + scale * (tf.random_normal(tf.shape(h)) if noise == "normal" else tf.random_uniform(tf.shape(h), -1.0, 1.0))

        x, y = network(tf, add, 0.1)
        return Net({x: rows(5, 6)}, [y])

    advice = {
        "normal": r"random numbers: --set random_normal/RandomStandardNormal=0 --set random_normal_1/RandomStandardNormal=0 takes their mean",
        "uniform": r"random_uniform/RandomUniform.* \(random numbers: set the node that adds them to zero with --set NODE=0",
    }
    with pytest.raises(UnsupportedOps, match=advice[noise]):
        live(build).convert()


def test_noise_of_several_widths_is_not_dropout(tf, live):
    def build():
        x, y = network(tf, lambda _, h, scale: h + tf.random_uniform([int(h.shape[-1])]) * tf.range(float(int(h.shape[-1]))), 0.1)
        return Net({x: rows(5, 6)}, [y])

    with pytest.raises(UnsupportedOps, match="random numbers"):
        live(build).convert()


def test_units_drawn_by_their_own_probabilities_are_not_dropout(tf, live):
    """h * floor(p + uniform) / p with a p that is computed from the data."""

    def build():
        def drawn(_, h, scale):
            p = tf.sigmoid(h)
            return h * tf.floor(p + tf.random_uniform(tf.shape(h))) / p

        x, y = network(tf, drawn, 0.1)
        return Net({x: rows(5, 6)}, [y])

    with pytest.raises(UnsupportedOps, match="random numbers"):
        live(build).convert()


def test_noise_that_the_user_sets_to_zero(tf, live):
    def build(noise):
        x = tf.placeholder(tf.float32, [None, 6], name="x")
        h = dense(tf, x, 8, "one")
        if noise:
            h += tf.random_normal(tf.shape(h), name="noise")
        return Net({x: rows(5, 6)}, [tf.nn.relu(h, name="y")])

    saved = live(lambda: build(True))
    (expected,) = live.outputs(lambda: build(False), saved.variables)
    saved.matches(expected={"y": expected}, set_values={"noise": 0.0})


def test_the_user_may_ask_for_the_tensor_behind_dropout(tf, live):
    def build():
        keep = tf.placeholder(tf.float32, name="keep_prob")
        x = tf.placeholder(tf.float32, [None, 6], name="x")
        h = tf.nn.dropout(tf.nn.relu(dense(tf, x, 8, "one")), keep_prob=keep, name="dropped")
        y = tf.nn.softmax(dense(tf, h, 3, "two"))
        return Net({x: rows(5, 6)}, [h, y], {keep: 1.0})

    saved = live(build)
    names = list(saved.expected)
    saved.matches(outputs=names)


def test_dropout_of_the_input_alone_is_removed_too(tf, live):
    def build():
        keep = tf.placeholder(tf.float32, name="keep_prob")
        x = tf.placeholder(tf.float32, [None, 6], name="x")
        y = tf.sigmoid(dense(tf, tf.nn.dropout(x, keep_prob=keep), 2, "one"), name="y")
        return Net({x: rows(5, 6)}, [y], {keep: 1.0})

    assert live(build).matches().conversion["dropped"][0]["fed_by"] == "keep_prob"


def test_values_that_the_user_sets_for_keep_prob(tf, live):
    """keep_prob=1 said by hand leaves a mask of ones: the same network."""

    def build():
        keep = tf.placeholder(tf.float32, name="keep_prob")
        x, y = network(tf, form_of_1_12, keep)
        return Net({x: rows(5, 6)}, [y], {keep: 1.0})

    live(build).matches(set_values={"keep_prob": 1.0})


def test_double_precision(tf, live):
    def build():
        keep = tf.placeholder(tf.float64, name="keep_prob")
        x = tf.placeholder(tf.float64, [None, 6], name="x")
        y = tf.sigmoid(dense(tf, tf.nn.dropout(x, keep_prob=keep), 2, "one"), name="y")
        return Net({x: rows(5, 6).astype(np.float64)}, [y], {keep: 1.0})

    live(build).matches(tolerance=1e-12)


def test_alpha_dropout_is_not_taken_for_dropout(tf, live):
    """selu's dropout sets units to a constant and applies an affine map: at inference it is the identity, but it is no scaled mask."""

    def build():
        def alpha_dropout(_, h, keep):
            mask = tf.cast(tf.random_uniform(tf.shape(h)) < keep, tf.float32)
            return 1.2 * (h * mask + -1.7580993408473766 * (1 - mask)) + 0.3

        x, y = network(tf, alpha_dropout, 0.9)
        return Net({x: rows(5, 6)}, [y])

    with pytest.raises(GraphError, match="RandomUniform"):
        live(build).convert()


@pytest.mark.parametrize("level", ["constant", "variable", "fed"])
def test_noise_that_is_multiplied_by_zero(tf, live, level):
    """The clean half of a ladder network: the same code as the noisy half, with a noise level of 0."""

    def build():
        x = tf.placeholder(tf.float32, [None, 6], name="x")
        noise = {
            "constant": lambda: 0.0,
            "variable": lambda: tf.get_variable("level", [], initializer=tf.zeros_initializer(), trainable=False),
            "fed": lambda: tf.placeholder(tf.float32, [], name="level"),
        }[level]()
        h = x + tf.random_normal(tf.shape(x)) * noise
        h = tf.nn.relu(dense(tf, h, 5, "one"))
        h = tf.random_normal(tf.shape(h), stddev=0.5) * noise + h
        return Net({x: rows(4, 6)}, [tf.identity(dense(tf, h, 3, "two"), name="y")], {noise: 0.0} if level == "fed" else {})

    saved = live(build)
    program = saved.matches(outputs=["y"], **({"set_values": {"level": 0}} if level == "fed" else {}))
    assert [layer.op for layer in program.layers] == ["Dense", "Dense"]


def test_noise_that_is_heard_is_refused(tf, live):
    def build():
        x = tf.placeholder(tf.float32, [None, 6], name="x")
        return Net({x: rows(4, 6)}, [dense(tf, x + tf.random_normal(tf.shape(x)) * 0.1, 3, "one")])

    with pytest.raises(UnsupportedOps, match="RandomStandardNormal: random_normal/RandomStandardNormal"):
        live(build).convert()


def test_noise_times_zero_of_another_shape_than_the_data_is_not_left_out(tf, live):
    """What it is added to is spread out to its shape."""

    def build():
        x = tf.placeholder(tf.float32, [None, 6], name="x")
        return Net({x: rows(4, 6)}, [tf.reduce_max(dense(tf, x, 3, "one"), 1, keepdims=True) + tf.random_normal([4, 3]) * 0.0])

    with pytest.raises(UnsupportedOps, match="RandomStandardNormal"):
        live(build).convert()


def test_a_mask_that_is_chosen_against_by_a_zero(tf, live):
    """An autoencoder that is fed how much of its input is corrupted: by default none of it."""

    def build():
        x = tf.placeholder(tf.float32, [None, 6], name="x")
        corrupted = tf.placeholder_with_default(0.0, [], name="corrupted")
        mask = tf.cast(tf.random_uniform(tf.shape(x), minval=0, maxval=2, dtype=tf.int32), tf.float32)
        data = tf.multiply(x, mask) * corrupted + x * (1 - corrupted)
        return Net({x: rows(4, 6)}, [tf.identity(dense(tf, data, 3, "out"), name="y")])

    live(build).matches()


@pytest.mark.parametrize("cond_v2", [False, True])
@pytest.mark.parametrize("comparison", ["less", "greater_equal", "swapped"])
def test_a_layer_that_is_left_out_at_random_but_never_at_a_rate_of_zero(tf, live, comparison, cond_v2):
    def build():
        x = tf.placeholder(tf.float32, [None, 6], name="x")
        rate = tf.placeholder_with_default(0.0, [], name="rate")
        for i in range(3):
            draw, bound = tf.random_uniform([]), rate * i / 3
            keep, added = x, tf.nn.dropout(tf.nn.relu(dense(tf, x, 6, f"layer{i}")), keep_prob=1.0 - rate) + x
            if comparison == "greater_equal":
                x = tf.cond(draw >= bound, lambda added=added: added * 1.0, lambda keep=keep: keep * 1.0)
            else:
                left_out = bound > draw if comparison == "swapped" else draw < bound
                x = tf.cond(left_out, lambda keep=keep: keep * 1.0, lambda added=added: added * 1.0)
        return Net({tf.get_default_graph().get_tensor_by_name("x:0"): rows(4, 6)}, [tf.identity(x, name="y")])

    live(build, cond_v2=cond_v2).matches()
