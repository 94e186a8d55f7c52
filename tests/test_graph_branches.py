"""What chooses between training and inference, in every spelling: found from the graph, and never guessed."""

import numpy as np
import pytest
from live_graph import Net, dense, rows

from bnexport.errors import AmbiguousNetwork, BnexportError, UsageError

pytestmark = pytest.mark.tensorflow
BOTH = pytest.mark.parametrize("cond_v2", [False, True], ids=["switch_merge", "cond_v2"])


def batch_norm(tf, x, choose, name="bn", epsilon=1e-3):
    """The seed's batch norm; `choose(if_training, if_not)` writes the condition."""
    with tf.variable_scope(name):
        width = int(x.shape[-1])
        beta, gamma = tf.get_variable("beta", [width]), tf.get_variable("gamma", [width])
        mean, variance = tf.nn.moments(x, [0], name="moments")
        pop_mean, pop_var = (tf.get_variable(n, [width], trainable=False) for n in ("pop_mean", "pop_var"))

        def update():
            moved = [tf.assign(pop_mean, pop_mean * 0.9 + mean * 0.1), tf.assign(pop_var, pop_var * 0.9 + variance * 0.1)]
            with tf.control_dependencies(moved):
                return tf.identity(mean), tf.identity(variance)

        m, v = choose(update, lambda: (tf.identity(pop_mean), tf.identity(pop_var)))
        return tf.nn.batch_normalization(x, m, v, beta, gamma, epsilon)


def without_updates(tf, x, choose, name):
    """Neither side updates or draws anything: one takes the mean of the batch, the other variables."""
    with tf.variable_scope(name):
        width = int(x.shape[-1])
        mean, variance = tf.nn.moments(x, [0])
        pop_mean, pop_var = tf.get_variable("pop_mean", [width]), tf.get_variable("pop_var", [width])
        m, v = choose(lambda: (mean, variance), lambda: (tf.identity(pop_mean), tf.identity(pop_var)))
        return tf.nn.batch_normalization(x, m, v, tf.get_variable("beta", [width]), None, 1e-5)


def network(tf, choose, norm=batch_norm):
    x = tf.placeholder(tf.float32, [None, 6], name="x")
    h = tf.nn.relu(norm(tf, dense(tf, x, 8, "one"), choose, "bn1"))
    h = tf.nn.relu(norm(tf, dense(tf, h, 7, "two"), choose, "bn2"))
    return x, tf.nn.softmax(dense(tf, h, 4, "three"), name="y")


def flags(program):
    return {f["node"]: f["value"] for f in program.conversion["set"]}


@BOTH
def test_a_bool_placeholder(tf, live, cond_v2):
    def build():
        phase = tf.placeholder(tf.bool, name="phase")
        x, y = network(tf, lambda a, b: tf.cond(phase, a, b))
        return Net({x: rows(5, 6)}, [y], {phase: False})

    program = live(build, cond_v2=cond_v2).matches()
    assert flags(program) == {"phase": False}
    assert program.conversion["unfolded"] == []
    assert [layer.op for layer in program.layers] == ["Dense"] * 3


@BOTH
def test_what_a_branch_keeps_for_its_gradient_is_no_output(tf, live, cond_v2):
    """A branch of control flow v2 hands its inner tensors to the gradient's branch as optional values."""

    def build():
        phase = tf.placeholder(tf.bool, name="phase")
        x = tf.placeholder(tf.float32, [None, 6], name="x")
        gamma, beta, mean, variance = (tf.get_variable(name, [8]) for name in ("gamma", "beta", "mean", "variance"))
        h = tf.reshape(dense(tf, x, 8, "one"), [-1, 1, 1, 8])

        def normalised(training):
            return tf.nn.fused_batch_norm(h, gamma, beta, *(() if training else (mean, variance)), is_training=training)[0]

        h = tf.cond(phase, lambda: normalised(True), lambda: normalised(False))
        y = dense(tf, tf.nn.relu(tf.reshape(h, [-1, 8])), 4, "two")
        labels = tf.placeholder(tf.int64, [None], name="labels")
        tf.train.GradientDescentOptimizer(0.1).minimize(tf.losses.sparse_softmax_cross_entropy(labels, y))
        return Net({x: rows(5, 6)}, [y], {phase: False})

    assert flags(live(build, cond_v2=cond_v2).matches()) == {"phase": False}


@BOTH
def test_inference_is_true(tf, live, cond_v2):
    def build():
        testing = tf.placeholder(tf.bool, name="testing")
        x, y = network(tf, lambda a, b: tf.cond(testing, b, a))
        return Net({x: rows(5, 6)}, [y], {testing: True})

    assert flags(live(build, cond_v2=cond_v2).matches()) == {"testing": True}


@BOTH
def test_inverted_by_logical_not(tf, live, cond_v2):
    def build():
        testing = tf.placeholder(tf.bool, name="testing")
        x, y = network(tf, lambda a, b: tf.cond(tf.logical_not(testing), a, b))
        return Net({x: rows(5, 6)}, [y], {testing: True})

    assert flags(live(build, cond_v2=cond_v2).matches()) == {"testing": True}


@pytest.mark.parametrize("default", [False, True])
def test_a_placeholder_with_default(tf, live, default):
    def build():
        phase = tf.placeholder_with_default(default, [], name="phase")
        x, y = network(tf, lambda a, b: tf.cond(phase, a, b))
        return Net({x: rows(5, 6)}, [y], {phase: False})

    assert flags(live(build).matches()) == {"phase": False}


@pytest.mark.parametrize("stored", [False, True])
@pytest.mark.parametrize("resource", [False, True])
def test_a_variable_whatever_it_was_saved_as(tf, live, stored, resource):
    def build():
        phase = tf.get_variable("phase", [], tf.bool, initializer=tf.constant_initializer(stored), trainable=False)
        x, y = network(tf, lambda a, b: tf.cond(phase, a, b))
        return Net({x: rows(5, 6)}, [y])

    saved = live(build, resource=resource)
    (expected,) = live.outputs(build, {**saved.variables, "phase": np.asarray(False)}, resource=resource)
    assert flags(saved.matches(expected={"y": expected})) == {"phase": False}


@pytest.mark.parametrize("compare", ["equal", "greater", "not_equal", "less"])
def test_an_integer_that_is_compared(tf, live, compare):
    def build():
        mode = tf.placeholder(tf.int32, [], name="mode")
        training = {"equal": tf.equal(mode, 1), "greater": mode > 0, "not_equal": tf.not_equal(mode, 0), "less": mode < 1}[compare]
        x, y = network(tf, lambda a, b: tf.cond(training, a, b))
        return Net({x: rows(5, 6)}, [y], {mode: 1 if compare == "less" else 0})

    live(build).matches()


def test_a_float_that_is_compared(tf, live):
    def build():
        mode = tf.placeholder(tf.float32, [], name="mode")
        x, y = network(tf, lambda a, b: tf.cond(mode > 0.5, a, b))
        return Net({x: rows(5, 6)}, [y], {mode: 0.0})

    live(build).matches()


def test_a_constant(tf, live):
    """tf.cond(tf.constant(True), …) in a graph saved from training."""

    def build(training):
        flag = tf.constant(training, name="is_training")
        x, y = network(tf, lambda a, b: tf.cond(flag, a, b))
        return Net({x: rows(5, 6)}, [y])

    saved = live(lambda: build(True))
    (expected,) = live.outputs(lambda: build(False), saved.variables)
    saved.matches(expected={"y": expected})


@BOTH
def test_nested_conditions(tf, live, cond_v2):
    def build():
        phase = tf.placeholder(tf.bool, name="phase")
        noisy = tf.placeholder(tf.bool, name="noisy")

        def choose(a, b):
            def training():
                m, v = a()
                return tf.cond(noisy, lambda: (m + tf.random_normal([]), v), lambda: (m, v))

            return tf.cond(phase, training, b)

        x, y = network(tf, choose)
        return Net({x: rows(5, 6)}, [y], {phase: False, noisy: False})

    assert flags(live(build, cond_v2=cond_v2).matches())["phase"] is False


@BOTH
def test_the_same_flag_inside_its_own_branch(tf, live, cond_v2):
    def build():
        phase = tf.placeholder(tf.bool, name="phase")
        x = tf.placeholder(tf.float32, [None, 6], name="x")

        def layers(h):
            return tf.cond(phase, lambda: tf.nn.dropout(h, keep_prob=0.5), lambda: h)

        w = tf.get_variable("w", [6, 3])
        h = tf.cond(phase, lambda: layers(x), lambda: layers(x) * 2.0)
        y = tf.matmul(h, w, name="y")
        return Net({x: rows(5, 6)}, [y], {phase: False})

    live(build, cond_v2=cond_v2).matches()


def test_where_on_the_flag(tf, live):
    def build():
        phase = tf.placeholder(tf.bool, [], name="phase")

        def choose(a, b):
            (m, v), (pm, pv) = a(), b()
            return tf.where(phase, m, pm), tf.where(phase, v, pv)

        x, y = network(tf, choose, without_updates)
        return Net({x: rows(5, 6)}, [y], {phase: False})

    live(build).matches()


def weighing(phase, mirrored=False):
    """phase * batch + (1 - phase) * population."""

    def choose(a, b):
        weigh = lambda batch, stored: (1.0 - phase) * batch + stored * phase if mirrored else batch * phase + stored * (1.0 - phase)  # noqa: E731
        return tuple(weigh(*pair) for pair in zip(a(), b(), strict=True))

    return choose


@pytest.mark.parametrize(
    ("kind", "mirrored", "found"),
    [
        ("float", False, 0.0),
        ("float", True, 1.0),
        ("int", False, 0),
        ("bool", False, False),
        ("default", False, 0.0),
        ("variable", False, False),
        ("text", False, ""),
    ],
)
def test_a_flag_that_weighs_statistics(tf, live, kind, mirrored, found):
    def build():
        if kind == "variable":
            flag = tf.get_variable("phase", [], tf.bool, initializer=tf.constant_initializer(True), trainable=False)
        elif kind == "default":
            flag = tf.placeholder_with_default(1.0, [], name="phase")
        else:
            flag = tf.placeholder({"float": tf.float32, "int": tf.int32, "bool": tf.bool, "text": tf.string}[kind], [], name="phase")
        number = tf.cast(tf.equal(flag, "train") if kind == "text" else flag, tf.float32)
        x, y = network(tf, weighing(number, mirrored), without_updates)
        return Net({x: rows(5, 6)}, [y], {flag: found})

    saved = live(build)
    program = saved.matches()
    assert flags(program) == {"phase": found}
    assert program.conversion["unfolded"] == []
    assert program.conversion["warnings"] == []
    saved.matches(set_values={"phase": found})


def test_a_number_that_was_learnt_is_no_flag(tf, live):
    def build():
        x, y = network(tf, weighing(tf.get_variable("gate", [], initializer=tf.constant_initializer(0.3))), without_updates)
        return Net({x: rows(5, 6)}, [y])

    assert flags(live(build).matches()) == {}


def test_a_decay_that_is_fed_is_no_flag(tf, live):
    def build():
        x, decay = tf.placeholder(tf.float32, [None, 6], name="x"), tf.placeholder(tf.float32, [], name="decay")
        h = dense(tf, x, 4, "a")
        centre = tf.get_variable("centre", [4], trainable=False)
        tf.assign(centre, centre * decay + tf.reduce_mean(h, 0) * (1.0 - decay))
        return Net({x: rows(5, 6)}, [dense(tf, h - centre, 3, "b")])

    assert flags(live(build).matches()) == {}


@BOTH
def test_two_flags_that_do_not_know_of_each_other(tf, live, cond_v2):
    def build():
        bn_phase = tf.placeholder(tf.bool, name="bn_training")
        dropping = tf.placeholder(tf.bool, name="dropping")
        x, y = network(tf, lambda a, b: tf.cond(bn_phase, a, b))
        h = tf.cond(dropping, lambda: tf.nn.dropout(y, keep_prob=0.5), lambda: y)
        z = tf.matmul(h, tf.get_variable("out", [4, 2]), name="z")
        return Net({x: rows(5, 6)}, [z], {bn_phase: False, dropping: False})

    assert flags(live(build, cond_v2=cond_v2).matches()) == {"bn_training": False, "dropping": False}


@BOTH
@pytest.mark.parametrize("frozen_is", ["fed", "false by default"])
def test_two_flags_in_one_predicate(tf, live, frozen_is, cond_v2):
    """What they are together is told, and nothing of either."""

    def build():
        training = tf.placeholder(tf.bool, [], name="training")
        frozen = tf.placeholder(tf.bool, [], name="frozen") if frozen_is == "fed" else tf.placeholder_with_default(False, [], name="frozen")
        moving = tf.logical_and(training, tf.logical_not(frozen), name="moving")
        x, y = network(tf, lambda a, b: tf.cond(moving, a, b))
        return Net({x: rows(5, 6)}, [y], {training: False, frozen: False})

    saved = live(build, cond_v2=cond_v2)
    assert flags(saved.matches()) == {"moving": False}
    for flag, value in (("training", False), ("frozen", True)):
        saved.matches(set_values={flag: value})


def test_a_predicate_that_one_flag_decides_alone_asks_for_no_other(tf, live):
    def build():
        x = tf.placeholder(tf.float32, [None, 6], name="x")
        doubled, more = (tf.placeholder(tf.bool, [], name=name) for name in ("doubled", "more"))
        h = dense(tf, x, 4, "a")
        y = tf.cond(tf.logical_and(doubled, more, name="both"), lambda: h * 2.0, lambda: h * 3.0)
        return Net({x: rows(5, 6)}, [tf.tanh(y, name="y")], {doubled: False, more: True})

    saved = live(build)
    with pytest.raises(AmbiguousNetwork, match="its predicate comes from doubled, more"):
        saved.convert()
    assert saved.matches(set_values={"doubled": False}).conversion["set"][0] == {"node": "both", "value": False, "why": "whatever more may be"}


@BOTH
def test_one_of_two_flags(tf, live, cond_v2):
    def build():
        asked = [tf.placeholder(tf.bool, [], name=name) for name in ("training", "adapting")]
        x, y = network(tf, lambda a, b: tf.cond(tf.logical_or(*asked), a, b), without_updates)
        return Net({x: rows(5, 6)}, [y], dict.fromkeys(asked, False))

    assert flags(live(build, cond_v2=cond_v2).matches()) == {"bn1/LogicalOr": False, "bn2/LogicalOr": False}


def test_two_predicates_that_cannot_both_be_inferences_are_left_to_the_user(tf, live):
    """Where both flags are true a unit is drawn, and where one of them is false, too."""

    def build():
        x = tf.placeholder(tf.float32, [None, 6], name="x")
        one, two = (tf.placeholder(tf.bool, [], name=name) for name in ("one", "two"))
        h = dense(tf, x, 4, "a")
        for asked in (tf.logical_and(one, two), tf.logical_not(tf.logical_and(one, two))):
            h = tf.cond(asked, lambda h=h: h + tf.random_normal([4]), lambda h=h: tf.identity(h))
        return Net({x: rows(5, 6)}, [dense(tf, h, 3, "b")], {one: False, two: False})

    with pytest.raises(AmbiguousNetwork, match="its predicate comes from one, two"):
        live(build).convert()


@BOTH
def test_training_within_the_condition_of_a_flag_that_is_fed_does_not_speak_of_it(tf, live, cond_v2):
    """Whether batch norm is used at all is not told by the updates that phase makes there."""

    def build():
        phase, use_bn = (tf.placeholder(tf.bool, [], name=name) for name in ("phase", "use_bn"))

        def norm(tf, x, choose, name):
            return tf.cond(use_bn, lambda: batch_norm(tf, x, choose, name), lambda: tf.identity(x))

        x, y = network(tf, lambda a, b: tf.cond(phase, a, b), norm)
        return Net({x: rows(5, 6)}, [y], {phase: False, use_bn: True})

    saved = live(build, cond_v2=cond_v2)
    with pytest.raises(AmbiguousNetwork, match=r"choose with --set use_bn=true\|false"):
        saved.convert()
    assert flags(saved.matches(set_values={"use_bn": True}))["phase"] is False


@BOTH
def test_statistics_alone_tell(tf, live, cond_v2):
    def build():
        phase = tf.placeholder(tf.bool, name="phase")
        x, y = network(tf, lambda a, b: tf.cond(phase, a, b), without_updates)
        return Net({x: rows(5, 6)}, [y], {phase: False})

    assert flags(live(build, cond_v2=cond_v2).matches()) == {"phase": False}


@BOTH
def test_whole_networks_in_the_branches(tf, live, cond_v2):
    """if phase: return the normalised with batch statistics, else with the population's, in functions of their own."""

    def norm(tf, x, choose, name):
        with tf.variable_scope(name):
            width = int(x.shape[-1])
            pop_mean, pop_var, beta = (tf.get_variable(n, [width]) for n in ("pop_mean", "pop_var", "beta"))

            def training():
                mean, variance = tf.nn.moments(x, [0])
                moved = [tf.assign(pop_mean, pop_mean * 0.9 + mean * 0.1), tf.assign(pop_var, pop_var * 0.9 + variance * 0.1)]
                with tf.control_dependencies(moved):
                    return tf.nn.batch_normalization(x, mean, variance, beta, None, 1e-3)

            return choose(training, lambda: tf.nn.batch_normalization(x, pop_mean, pop_var, beta, None, 1e-3))

    def build():
        phase = tf.placeholder(tf.bool, name="phase")
        x, y = network(tf, lambda a, b: tf.cond(phase, a, b), norm)
        return Net({x: rows(5, 6)}, [y], {phase: False})

    program = live(build, cond_v2=cond_v2).matches()
    assert program.conversion["unfolded"] == []


@BOTH
def test_no_evidence_asks(tf, live, cond_v2):
    def build():
        mode = tf.placeholder(tf.bool, name="mode")
        x = tf.placeholder(tf.float32, [None, 6], name="x")
        a, b = dense(tf, x, 3, "a"), dense(tf, x, 3, "b")
        y = tf.nn.softmax(tf.cond(mode, lambda: tf.identity(a), lambda: tf.identity(b)), name="y")
        return Net({x: rows(5, 6)}, [y], {mode: True})

    saved = live(build, cond_v2=cond_v2)
    with pytest.raises(AmbiguousNetwork, match=r"its predicate comes from mode; choose with --set mode=true\|false"):
        saved.convert()
    saved.matches(set_values={"mode": True})


@BOTH
@pytest.mark.parametrize("default", [False, True])
def test_a_mean_over_positions_is_no_evidence(tf, live, default, cond_v2):
    """Global pooling by the mean or by the maximum, as a flag says."""

    def build():
        x = tf.placeholder(tf.float32, [None, 4, 4, 3], name="x")
        largest = tf.placeholder_with_default(False, [], name="largest") if default else tf.placeholder(tf.bool, [], name="largest")
        h = tf.cond(largest, lambda: tf.reduce_max(x, [1, 2]), lambda: tf.reduce_mean(x, [1, 2]))
        return Net({x: rows(5, 4, 4, 3)}, [tf.nn.softmax(dense(tf, h, 3, "a"), name="y")], {largest: False})

    saved = live(build, cond_v2=cond_v2)
    if not default:
        with pytest.raises(AmbiguousNetwork, match="choose with --set largest=true"):
            saved.convert()
    saved.matches(set_values={} if default else {"largest": False})


@BOTH
def test_tf_layers_with_a_flag(tf, live, cond_v2):
    """Fused batch norm within tf.cond, which in version 2 also gives out what a gradient would need."""

    def build():
        x = tf.placeholder(tf.float32, [None, 5, 5, 2], name="x")
        training = tf.placeholder_with_default(False, [], name="training")
        h = tf.layers.batch_normalization(tf.layers.conv2d(x, 4, 3), training=training, fused=True)
        return Net({x: rows(3, 5, 5, 2)}, [tf.nn.relu(h, name="y")])

    assert [layer.op for layer in live(build, cond_v2=cond_v2).matches().layers] == ["Conv2D"]


def test_a_mean_over_time_is_no_evidence(tf, live):
    def build():
        x = tf.placeholder(tf.float32, [4, None, 3], name="x")
        whole = tf.placeholder_with_default(True, [], name="whole")
        h = tf.cond(whole, lambda: tf.reduce_mean(x, 0), lambda: x[-1])
        return Net({x: rows(4, 5, 3)}, [tf.nn.softmax(dense(tf, h, 3, "a"), name="y")])

    live(build).matches()


def test_what_where_does_not_take_is_no_output(tf, live):
    def build():
        x = tf.placeholder(tf.float32, [None, 6], name="x")
        other = tf.placeholder_with_default(False, [], name="other")
        a, b = dense(tf, x, 3, "a"), dense(tf, x, 3, "b")
        return Net({x: rows(5, 6)}, [tf.nn.softmax(tf.where(other, a, b), name="y")])

    saved = live(build)
    saved.matches()
    saved.matches(outputs=["y"])


def test_where_that_repeats_what_it_takes(tf, live):
    """tf.where(flag, a column, a matrix) is a matrix on either side."""

    def build():
        x = tf.placeholder(tf.float32, [None, 6], name="x")
        column = tf.placeholder_with_default(True, [], name="column")
        return Net({x: rows(5, 6)}, [tf.nn.softmax(tf.where_v2(column, dense(tf, x, 1, "a"), dense(tf, x, 3, "b")), name="y")])

    live(build).matches(outputs=["y"])


@BOTH
def test_two_kinds_of_inference_ask(tf, live, cond_v2):
    """0 trains; 1 or 2 may be what is wanted."""

    def build():
        mode = tf.placeholder(tf.int32, [], name="mode")
        x = tf.placeholder(tf.float32, [None, 6], name="x")
        h = dense(tf, x, 5, "a")
        h = tf.cond(tf.equal(mode, 0), lambda: tf.nn.dropout(h, 0.5), lambda: tf.identity(h))
        z = dense(tf, h, 3, "b")
        z = tf.cond(tf.equal(mode, 2), lambda: z / 3.0, lambda: tf.identity(z))
        return Net({x: rows(5, 6)}, [tf.nn.softmax(z, name="y")], {mode: 2})

    saved = live(build, cond_v2=cond_v2)
    with pytest.raises(AmbiguousNetwork, match="its predicate comes from mode; choose with --set mode=VALUE"):
        saved.convert()
    saved.matches(set_values={"mode": 2})


def named_mode(tf, *, served):
    """The flag is a word: "train", or anything else; "serve" may be something of its own."""
    mode = tf.placeholder(tf.string, [], name="mode")
    x, y = network(tf, lambda a, b: tf.cond(tf.equal(mode, "train"), a, b))
    if served:
        y = tf.cond(tf.equal(mode, "serve"), lambda: y * 2.0, lambda: tf.identity(y))
    return Net({x: rows(5, 6)}, [tf.identity(y, name="scores")], {mode: "serve" if served else "test"})


@BOTH
def test_a_word_that_is_compared(tf, live, cond_v2):
    program = live(lambda: named_mode(tf, served=False), cond_v2=cond_v2).matches(outputs=["scores"])
    assert flags(program) == {"mode": ""}


@BOTH
def test_a_word_that_the_user_has_to_say(tf, live, cond_v2):
    saved = live(lambda: named_mode(tf, served=True), cond_v2=cond_v2)
    with pytest.raises(AmbiguousNetwork, match="its predicate comes from mode; choose with --set mode='\"TEXT\"'"):
        saved.convert(outputs=["scores"])
    with pytest.raises(UsageError, match="--set mode=1: mode is text; give it in quotes that reach bnexport"):
        saved.convert(outputs=["scores"], set_values={"mode": 1})
    saved.matches(outputs=["scores"], set_values={"mode": "serve"})


def test_a_flag_that_is_decided_is_not_asked_for(tf, live):
    """Inference's side chooses once more, by something that is fed: only that is open."""

    def build():
        phase, domain = tf.placeholder(tf.bool, [], name="phase"), tf.placeholder(tf.int32, [], name="domain")
        x = tf.placeholder(tf.float32, [None, 6], name="x")
        h = dense(tf, x, 4, "one")
        factors = [tf.get_variable(f"factor{i}", [4]) for i in (0, 1)]
        y = tf.cond(
            phase,
            lambda: tf.nn.dropout(h, 0.5),
            lambda: h * tf.cond(tf.equal(domain, 0), lambda: tf.identity(factors[0]), lambda: tf.identity(factors[1])),
        )
        return Net({x: rows(5, 6)}, [tf.identity(y, name="y")], {phase: False, domain: 1})

    saved = live(build)
    with pytest.raises(AmbiguousNetwork, match=r"its predicate comes from domain; choose with --set domain=VALUE$"):
        saved.convert(outputs=["y"])
    saved.matches(outputs=["y"], set_values={"domain": 1})


def test_evidence_on_both_sides_asks(tf, live):
    """tf.cond(p, dropout 0.5, dropout 0.9): neither side is inference's."""

    def build():
        heavy = tf.placeholder(tf.bool, name="heavy")
        x = tf.placeholder(tf.float32, [None, 6], name="x")
        h = dense(tf, x, 3, "a")
        h = tf.cond(heavy, lambda: h + tf.random_normal(tf.shape(h)), lambda: h - tf.random_normal(tf.shape(h)))
        return Net({x: rows(5, 6)}, [tf.nn.softmax(h, name="y")], {heavy: True})

    with pytest.raises(BnexportError, match=r"heavy|random"):
        live(build).convert()


def test_set_overrides_what_was_found(tf, live):
    def build(phase_value):
        phase = tf.placeholder(tf.bool, name="phase")
        x = tf.placeholder(tf.float32, [None, 6], name="x")
        h = dense(tf, x, 3, "a")
        h = tf.cond(phase, lambda: tf.nn.dropout(h, keep_prob=0.5), lambda: h * 3.0)
        return Net({x: rows(5, 6)}, [tf.nn.softmax(h, name="y")], {phase: phase_value})

    saved = live(lambda: build(False))
    saved.matches()

    def without_dropout():
        x = tf.placeholder(tf.float32, [None, 6], name="x")
        return Net({x: rows(5, 6)}, [tf.nn.softmax(dense(tf, x, 3, "a"))])

    (expected,) = live.outputs(without_dropout, saved.variables)
    saved.matches(set_values={"phase": True}, expected={"y": expected})


@BOTH
@pytest.mark.parametrize("sign", [1, -1])
def test_a_condition_on_data_chooses_between_its_branches(tf, live, cond_v2, sign):
    """Which branch runs depends on the batch: both are computed."""

    def build():
        x = tf.placeholder(tf.float32, [None, 6], name="x")
        h = dense(tf, x, 3, "a")
        y = tf.cond(tf.reduce_mean(x) > 0, lambda: tf.cond(x[0, 0] > 0, lambda: h * 2.0, lambda: h * 3.0), lambda: h + 1.0, name="choice")
        return Net({x: sign * np.abs(rows(5, 6))}, [tf.nn.softmax(y, name="y")])

    assert not live(build, cond_v2=cond_v2).matches().conversion["set"]


@pytest.mark.parametrize("kind", ["a flag as well", "a number", "a random branch"])
def test_a_condition_that_is_not_on_data_alone_is_left_to_the_user(tf, live, kind):
    def build():
        x = tf.placeholder(tf.float32, [None, 6], name="x")
        fed = tf.placeholder(tf.bool if kind == "a flag as well" else tf.float32, [], name="fed")
        h = dense(tf, x, 3, "a")
        asked = tf.reduce_mean(x) > 0
        if kind != "a random branch":
            asked = tf.logical_and(fed, asked) if kind == "a flag as well" else fed > 0.5
        noise = tf.random_normal([3]) if kind == "a random branch" else 2.0
        y = tf.cond(asked, lambda: h * 2.0, lambda: h + tf.identity(noise) * 1.0, name="choice")
        return Net({x: rows(5, 6)}, [tf.nn.softmax(y, name="y")], {fed: 0})

    with pytest.raises(BnexportError, match=r"choice/Merge|random"):
        live(build).convert()


def test_a_variable_of_one_element_that_an_average_begins_with_is_no_flag(tf, live):
    """tf.train.ExponentialMovingAverage asks whether a variable was initialised before it takes the value of it."""

    def build():
        x = tf.placeholder(tf.float32, [None, 6], name="x")
        y = tf.identity(tf.nn.bias_add(tf.matmul(x, tf.get_variable("w", [6, 1])), tf.get_variable("b", [1])), name="y")
        tf.train.ExponentialMovingAverage(0.9).apply(tf.trainable_variables())
        return Net({x: rows(5, 6)}, [y])

    assert flags(live(build).matches()) == {}


def test_training_steps_behind_a_flag_do_not_confuse_a_data_flag(tf, live):
    """A flag that only says whether summaries are written has assignments on one side too."""

    def build():
        phase, logging = tf.placeholder(tf.bool, name="phase"), tf.placeholder_with_default(False, [], name="logging")
        x, y = network(tf, lambda a, b: tf.cond(phase, a, b))
        counter = tf.get_variable("counter", [], initializer=tf.zeros_initializer(), trainable=False)
        tf.cond(logging, lambda: tf.assign_add(counter, 1.0), lambda: tf.identity(counter))
        return Net({x: rows(5, 6)}, [y], {phase: False})

    live(build).matches()


@BOTH
def test_both_sides_computed_outside_the_condition(tf, live, cond_v2):
    """tf.cond(phase, lambda: trained, lambda: stored), both built before: the side that is not taken is no output."""

    def norm(tf, x, choose, name):
        with tf.variable_scope(name):
            width = int(x.shape[-1])
            mean, variance = tf.nn.moments(x, [0])
            pop_mean, pop_var, beta = (tf.get_variable(n, [width]) for n in ("pop_mean", "pop_var", "beta"))
            trained = tf.nn.batch_normalization(x, mean, variance, beta, None, 1e-3)
            stored = tf.nn.batch_normalization(x, pop_mean, pop_var, beta, None, 1e-3)
            return choose(lambda: trained, lambda: stored)

    def build():
        phase = tf.placeholder(tf.bool, name="phase")
        x, y = network(tf, lambda a, b: tf.cond(phase, a, b), norm)
        return Net({x: rows(5, 6)}, [y], {phase: False})

    live(build, cond_v2=cond_v2).matches()


def test_a_data_comparison_is_no_flag(tf, live):
    """tf.where(x > 0, x - mean, x): a statistic lies behind one side, but what is compared is the data."""

    def build():
        x = tf.placeholder(tf.float32, [None, 6], name="x")
        h = tf.where(x > 0.1, x - tf.reduce_mean(x, 0, keepdims=True), x)
        return Net({x: rows(5, 6)}, [tf.nn.softmax(dense(tf, h, 3, "a"), name="y")])

    program = live(build).matches()
    assert program.conversion["set"] == []
    assert "scores depend on the batch" in program.conversion["warnings"][0]


@BOTH
def test_a_condition_with_gradients(tf, live, cond_v2):
    """A branch of control flow v2 also returns what its gradient needs of it."""

    def norm(tf, x, choose, name):
        with tf.variable_scope(name):
            width = int(x.shape[-1])
            pop_mean, pop_var = (tf.get_variable(n, [width], trainable=False) for n in ("pop_mean", "pop_var"))
            beta, gamma = tf.get_variable("beta", [width]), tf.get_variable("gamma", [width])

            def training():
                mean, variance = tf.nn.moments(x, [0])
                with tf.control_dependencies([tf.assign(pop_mean, mean), tf.assign(pop_var, variance)]):
                    return tf.nn.batch_normalization(x, mean, variance, beta, gamma, 1e-3)

            return choose(training, lambda: tf.nn.batch_normalization(x, pop_mean, pop_var, beta, gamma, 1e-3))

    def build():
        phase, labels = tf.placeholder(tf.bool, name="phase"), tf.placeholder(tf.float32, [None, 4], name="labels")
        x, y = network(tf, lambda a, b: tf.cond(phase, a, b), norm)
        tf.train.GradientDescentOptimizer(0.1).minimize(tf.losses.mean_squared_error(labels, y))
        return Net({x: rows(5, 6)}, [y], {phase: False})

    assert live(build, cond_v2=cond_v2).matches().conversion["unfolded"] == []


@BOTH
@pytest.mark.parametrize("default", [False, True])
def test_a_flag_that_has_its_value_keeps_it_where_another_explains_the_training(tf, live, cond_v2, default):
    """use_bn is not phase: the updates within its condition are phase's."""

    def build():
        phase, use_bn = tf.placeholder(tf.bool, name="phase"), tf.placeholder_with_default(default, [], name="use_bn")

        def norm(tf, x, choose, name):
            return tf.cond(use_bn, lambda: batch_norm(tf, x, choose, name), lambda: tf.identity(x))

        x, y = network(tf, lambda a, b: tf.cond(phase, a, b), norm)
        return Net({x: rows(5, 6)}, [y], {phase: False})

    assert flags(live(build, cond_v2=cond_v2).matches()) == {"phase": False, "use_bn": default}


def test_a_flag_that_where_chooses_statistics_by_though_gradients_choose_too(tf, live):
    """The gradient of where(flag, batch's, moving) is a where of its own, with sums over the batch on either side."""

    def build():
        x = tf.placeholder(tf.float32, [None, 6], name="x")
        training = tf.placeholder(tf.bool, [], name="training")
        z = dense(tf, x, 4, "hidden")
        mean, variance = tf.nn.moments(z, [0])
        moving_mean = tf.get_variable("moving_mean", [4], trainable=False)
        log_variance = tf.get_variable("log_variance", [4], trainable=False)
        updates = [tf.assign(moving_mean, 0.9 * moving_mean + 0.1 * mean), tf.assign(log_variance, 0.9 * log_variance + 0.1 * tf.log(variance))]
        z = (z - tf.where(training, mean, moving_mean)) / tf.sqrt(tf.where(training, variance, tf.exp(log_variance)) + 1e-3)
        y = tf.identity(dense(tf, tf.nn.relu(z), 2, "out"), name="y")
        loss = tf.reduce_mean(tf.square(y - tf.placeholder(tf.float32, [None, 2], name="wanted")))
        with tf.control_dependencies(updates):
            tf.train.AdamOptimizer().minimize(loss)
        return Net({x: rows(5, 6)}, [y], {training: False})

    live(build).matches()


@BOTH
@pytest.mark.parametrize("fused", [False, True])
def test_a_gradient_through_a_condition_as_a_result(tf, live, fused, cond_v2):
    """A map of what a network looked at: the gradient's branch takes what the condition's branch kept for it as an optional value."""

    def build():
        x, phase = tf.placeholder(tf.float32, [None, 6, 6, 2], name="x"), tf.placeholder(tf.bool, [], name="phase")
        h = tf.nn.conv2d(x, tf.get_variable("kernel", [3, 3, 2, 4]), [1, 1, 1, 1], "SAME")
        h = tf.tanh(tf.layers.batch_normalization(h, training=phase, fused=fused))
        return Net({x: rows(4, 6, 6, 2)}, [tf.identity(tf.gradients(tf.reduce_mean(h, [1, 2]), x)[0], name="map")], {phase: False})

    live(build, cond_v2=cond_v2).matches(outputs=["map"])
