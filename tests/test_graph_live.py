"""Function calls written out, and what stops a conversion: Python code, operators that bnexport does not have."""

import re

import numpy as np
import pytest
from live_graph import Net, dense, rows

from bnexport.errors import BnexportError, UnsupportedOps

pytestmark = pytest.mark.tensorflow
X = rows(5, 6)


def test_calls_of_functions(tf, live):
    """A tf.function within a graph of TensorFlow 1: a call for each, and functions that call functions."""
    from kernel_oracle import tensorflow

    function = tensorflow().function

    @function
    def swish(x):
        return x * tf.sigmoid(x)

    @function
    def both(x):
        return swish(x), tf.reduce_mean(swish(x * 2.0), 1, keepdims=True)

    def build():
        x = tf.placeholder(tf.float32, [None, 6], name="x")
        a, b = both(dense(tf, x, 8, "one"))
        return Net({x: X}, [tf.sigmoid(dense(tf, a + b, 2, "out"), name="y")])

    live(build, resource=True).matches()


def test_conditions_in_functions_in_conditions(tf, live):
    from kernel_oracle import tensorflow

    function = tensorflow().function

    def build():
        phase = tf.placeholder(tf.bool, [], name="phase")
        x = tf.placeholder(tf.float32, [None, 6], name="x")

        @function
        def layer(h, training):
            return tf.cond(training, lambda: tf.nn.dropout(h, keep_prob=0.5), lambda: tf.nn.relu(h))

        h = dense(tf, x, 8, "one")
        h = tf.cond(phase, lambda: layer(h, phase), lambda: layer(h, phase) * 3.0)
        return Net({x: X}, [tf.matmul(h, tf.get_variable("w", [8, 2]), name="y")], {phase: False})

    live(build, cond_v2=True).matches()


def test_operators_of_several_results_in_functions(tf, live):
    """Within a function an output is named by its argument: split, unstack, top_k, moments, a fused batch norm."""
    from kernel_oracle import tensorflow

    @tensorflow().function
    def layers(h, mean, variance):
        a, b, c = tf.split(h, 3, axis=1)
        values, _ = tf.nn.top_k(a + b, 2)
        first, second = tf.unstack(tf.reshape(c, [-1, 2, 4]), axis=1)
        image, _, _ = tf.nn.fused_batch_norm(
            tf.reshape(first * second, [-1, 1, 1, 4]), tf.ones([4]), tf.zeros([4]), mean, variance, epsilon=1e-3, is_training=False
        )
        return tf.concat([values, image[:, 0, 0, :]], 1)

    def build():
        x = tf.placeholder(tf.float32, [None, 6], name="x")
        mean, variance = tf.get_variable("mean", [4]), tf.get_variable("variance", [4])
        h = layers(dense(tf, x, 24, "one"), mean, variance)
        return Net({x: X}, [tf.matmul(h, tf.get_variable("w", [6, 2]), name="y")])

    live(build, resource=True).matches()


def test_a_static_recurrent_network_is_its_operators(tf, live):
    def build():
        x = tf.placeholder(tf.float32, [None, 4, 6], name="x")
        kernel, bias = tf.get_variable("lstm/kernel", [6 + 5, 20]), tf.get_variable("lstm/bias", [20])
        c = h = tf.zeros([tf.shape(x)[0], 5])
        for step in tf.unstack(x, axis=1):
            i, j, f, o = tf.split(tf.matmul(tf.concat([step, h], 1), kernel) + bias, 4, axis=1)
            c = c * tf.sigmoid(f + 1.0) + tf.sigmoid(i) * tf.tanh(j)
            h = tf.tanh(c) * tf.sigmoid(o)
        return Net({x: rows(5, 4, 6)}, [tf.nn.softmax(dense(tf, tf.reshape(h, [-1, 5]), 3, "out"), name="y")])

    live(build).matches()


def test_a_loop_beside_the_network_does_no_harm(tf, live):
    """A decoder, a metric or a data pipeline may loop where inference does not."""

    def build():
        x = tf.placeholder(tf.float32, [None, 6], name="x")
        y = tf.nn.softmax(dense(tf, x, 3, "out"), name="y")
        tf.while_loop(lambda i, total: i < 3, lambda i, total: (i + 1, total + tf.reduce_sum(y)), [0, 0.0])
        return Net({x: X}, [y])

    live(build).matches(outputs=["y"])


def test_python_code_is_refused(tf, live):
    def build():
        x = tf.placeholder(tf.float32, [None, 6], name="x")
        h = tf.py_func(np.cumsum, [dense(tf, x, 6, "one")], tf.float32, name="mine")
        h = tf.reshape(h, [-1, 6])
        return Net({x: X}, [tf.matmul(h, tf.get_variable("w", [6, 2]), name="y")])

    with pytest.raises(
        UnsupportedOps, match=r"PyFunc: mine \(Python code that is not part of the checkpoint: name the tensors after it with --input\)"
    ):
        live(build).convert(outputs=["y"])


def test_python_code_in_the_middle_is_refused_without_asking_for_an_output(tf, live):
    def build():
        x = tf.placeholder(tf.float32, [None, 6], name="x")
        h = tf.py_func(lambda v: 2 * v, [tf.nn.relu(dense(tf, x, 6, "one"))], tf.float32, name="mine")
        h.set_shape([None, 6])
        return Net({x: X}, [dense(tf, h, 2, "two")])

    with pytest.raises(UnsupportedOps, match="PyFunc: mine"):
        live(build).convert()


def test_python_code_behind_the_network_does_no_harm(tf, live):
    def build():
        x = tf.placeholder(tf.float32, [None, 6], name="x")
        y = tf.nn.relu(dense(tf, x, 6, "one"), name="y")
        tf.py_func(lambda v: v.sum(), [y], tf.float32)
        return Net({x: X}, [y])

    live(build).matches()


def test_what_prints_passes_its_operand_on(tf, live, capfd):
    def build():
        x = tf.placeholder(tf.float32, [None, 6], name="x")
        h = tf.nn.relu(dense(tf, x, 6, "one"))
        return Net({x: X}, [tf.nn.softmax(dense(tf, tf.Print(h, [h]), 2, "two"), name="y")])

    live(build).matches()
    capfd.readouterr()  # what TensorFlow printed


def test_parts_of_a_large_constant(tf, live):
    """One part is large and is evaluated again when it is needed, the other is small."""

    def build():
        x = tf.placeholder(tf.float32, [None, 2], name="x")
        small, large = tf.split(tf.get_variable("w", [150000, 2]), [3, 149997])
        return Net({x: rows(5, 2)}, [tf.add(x * tf.gather(2.0 * large, 7) + tf.reduce_mean(small, 0), 0.5, name="y")])

    live(build).matches(outputs=["y"])


def jumps(tf, w, how):
    """What makes something else of numbers that differ by one rounding."""
    if how == "round":
        return tf.round(w * 127.0) / 127.0
    if how == "fake_quant":
        return tf.fake_quant_with_min_max_args(w, -1, 1)
    if how == "compare":
        return tf.where(w * 3.0 >= tf.constant(0.1) * 3.0, w, -w)
    return w[: tf.cast(tf.constant(0.7) * 10.0, tf.int32)]


@pytest.mark.parametrize("how", ["round", "fake_quant", "compare", "cast"])
def test_what_jumps_jumps_where_single_precision_does(tf, live, how):
    """Constants are evaluated in float64, in which 0.7 * 10 is less than 7 and (k + 1/2) / 127 * 127 no half."""
    w = ((np.arange(28) + 0.5) / 127).astype(np.float32).reshape(7, 4)
    if how == "fake_quant":
        w = (w / w.max() * np.arange(28).reshape(7, 4) / np.float32(127.5)).astype(np.float32)
    if how == "compare":
        w[::2] = 0.1

    def build():
        x = tf.placeholder(tf.float32, [None, 7], name="x")
        return Net({x: rows(5, 7)}, [tf.matmul(x, jumps(tf, tf.get_variable("w", [7, 4]), how), name="y")])

    live(build, {"w": w}).matches()


def test_all_missing_operators_in_one_message(tf, live):
    def build():
        x = tf.placeholder(tf.float32, [None, 6], name="x")
        h = tf.math.zeta(tf.abs(dense(tf, x, 6, "one")) + 2.0, 1.0, name="first")
        h = tf.math.zeta(h * h + 2.0, 1.0, name="second")
        h = tf.math.igamma(tf.abs(h) + 1.0, tf.abs(h) + 0.5, name="third")
        return Net({x: X}, [tf.matmul(h, tf.get_variable("w", [6, 2]), name="y")])

    with pytest.raises(UnsupportedOps) as caught:
        live(build).convert(outputs=["y"])
    assert re.search(r"\n  Igamma: third\n  Zeta: first, second", str(caught.value))


def test_missing_operators_beside_the_network_do_no_harm(tf, live):
    def build():
        x, labels = tf.placeholder(tf.float32, [None, 6], name="x"), tf.placeholder(tf.float32, [None, 3], name="labels")
        y = tf.nn.softmax(dense(tf, x, 3, "out"), name="y")
        tf.reduce_mean(tf.math.zeta(y + labels, 1.0))
        tf.summary.image("filters", tf.reshape(tf.get_default_graph().get_tensor_by_name("out/w:0"), [1, 6, 3, 1]))
        return Net({x: X}, [y])

    live(build).matches()


def test_text_as_the_input(tf, live):
    def build():
        text = tf.placeholder(tf.string, [None], name="line")
        numbers = tf.reshape(tf.strings.to_number(text), [-1, 6], name="numbers")
        return Net({text: np.array(["0.5"] * 12, object)}, [tf.nn.softmax(dense(tf, numbers, 3, "out"), name="y")])

    saved = live(build)
    with pytest.raises(UnsupportedOps, match=r"StringToNumber|takes text"):
        saved.convert(outputs=["y"])
    program = saved.convert(inputs=["numbers"], outputs=["y"])
    assert [p.name for p in program.inputs] == ["numbers"]


@pytest.mark.parametrize("filtered", [False, True])
def test_complex_numbers_are_computed_on_the_way_and_not_stored(tf, live, filtered):
    def build():
        x = tf.placeholder(tf.float32, [None, 6], name="x")
        spectrum = tf.signal.rfft(dense(tf, x, 8, "one"))
        if filtered:
            spectrum = spectrum * tf.complex(tf.get_variable("real", [5]), tf.get_variable("imaginary", [5]))
        return Net({x: X}, [tf.matmul(tf.abs(spectrum), tf.get_variable("w", [5, 2]), name="y")])

    saved = live(build)
    if not filtered:
        saved.matches(outputs=["y"])
        return
    with pytest.raises(BnexportError, match=r"of dtype complex\d+, which a bundle does not hold"):
        saved.convert(outputs=["y"])


def test_an_assignment_on_the_way_is_refused(tf, live):
    """A hidden state that is written and passed on: what comes out depends on what was computed before."""

    def build():
        x = tf.placeholder(tf.float32, [5, 6], name="x")
        state = tf.get_variable("state", [5, 4], trainable=False)
        moved = tf.assign(state, 0.5 * state + dense(tf, x, 4, "one"))
        return Net({x: X}, [tf.tanh(dense(tf, moved, 2, "out"), name="y")])

    with pytest.raises(UnsupportedOps, match="Assign: Assign"):
        live(build).convert(outputs=["y"])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("resource", [False, True])
def test_embeddings(tf, live, resource, dtype):
    def build():
        words = tf.placeholder(tf.int32, [None, 4], name="words")
        table = tf.get_variable("table", [50, 7], dtype)
        h = tf.reduce_mean(tf.nn.embedding_lookup(table, words), 1)
        y = tf.nn.softmax(dense(tf, h, 3, "out"), name="y")
        return Net({words: np.arange(20, dtype=np.int32).reshape(5, 4)}, [y])

    live(build, resource=resource).matches(tolerance=1e-5 if dtype == "float32" else 1e-12)


def test_integers_are_not_folded_as_numbers_with_fractions(tf, live):
    def build():
        x = tf.placeholder(tf.int32, [None, 6], name="x")
        halves = tf.floordiv(x * 3 + 1, 2)
        y = tf.matmul(tf.cast(halves, tf.float32), tf.get_variable("w", [6, 2]), name="y")
        return Net({x: np.arange(-15, 15, dtype=np.int32).reshape(5, 6)}, [y])

    live(build).matches()


@pytest.mark.parametrize("dtype", ["float64", "float16"])
def test_other_precisions(tf, live, dtype):
    def build():
        x = tf.placeholder(dtype, [None, 6], name="x")
        h = tf.nn.relu(dense(tf, x, 8, "one"))
        mean, variance = tf.get_variable("mean", [8], dtype), tf.get_variable("variance", [8], dtype)
        h = tf.nn.batch_normalization(h, mean, variance, None, None, 1e-3)
        return Net({x: X.astype(dtype)}, [tf.nn.softmax(dense(tf, h, 3, "out"), name="y")])

    live(build).matches(tolerance={"float64": 1e-12, "float16": 4e-3}[dtype])
