"""From nodes to layers: batch norms in every shape that graphs write them in, and what must stay an operator."""

import numpy as np
import pytest
from live_graph import Net, rows

from bnexport.report import batch_norms

pytestmark = pytest.mark.tensorflow


def variables(tf, shape, name="bn"):
    return [tf.get_variable(f"{name}/{role}", shape) for role in ("mean", "variance", "beta", "gamma")]


def norm(tf, x, shape=None, name="bn", epsilon=1e-3):
    """tf.nn.batch_normalization with parameters of a shape, by default one per channel."""
    return tf.nn.batch_normalization(x, *variables(tf, shape or [int(x.shape[-1])], name), epsilon)


def conv(tf, x, outputs, size=3, name="conv", **attrs):
    kernel = tf.get_variable(f"{name}/kernel", [*[size] * (len(x.shape) - 2), int(x.shape[-1]), outputs])
    return tf.nn.conv2d(x, kernel, **{"strides": [1, 1, 1, 1], "padding": "SAME", **attrs})


def ops(program):
    return [layer.op for layer in program.layers]


def placed(tf, *shape):
    return tf.placeholder(tf.float32, [None, *shape], "x")


@pytest.mark.parametrize("shape", [[5], [1, 5], [1, 1, 5], [1, 1, 1, 5]])
def test_parameters_of_every_rank(tf, live, shape):
    def build():
        x = placed(tf, 6, 6, 3)
        return Net({x: rows(4, 6, 6, 3)}, [norm(tf, conv(tf, x, 5), shape)])

    program = live(build).matches()
    assert ops(program) == ["Conv2D"]
    assert batch_norms(program.layers[0]) == [
        {"gamma": "bn/gamma", "beta": "bn/beta", "mean": "bn/mean", "variance": "bn/variance", "epsilon": 0.001, "epsilon_from": "the graph"}
    ]


def test_statistics_of_each_position(tf, live):
    """tf.nn.moments over the batch alone: exact before a dense layer, too much for a convolution's kernel."""

    def build(after):
        x = placed(tf, 4, 4, 3)
        if after:
            return Net({x: rows(5, 4, 4, 3)}, [norm(tf, conv(tf, x, 2), [4, 4, 2])])
        flat = tf.reshape(norm(tf, x, [4, 4, 3]), [-1, 48])
        return Net({x: rows(5, 4, 4, 3)}, [tf.matmul(flat, tf.get_variable("kernel", [48, 2]))])

    assert ops(live(lambda: build(False)).matches()) == ["Reshape", "Dense"]
    program = live(lambda: build(True)).matches()
    assert ops(program) == ["Conv2D", "ScaleShift"]
    (line,) = program.conversion["unfolded"]
    assert line.endswith(": it follows conv (Conv2D) and varies along more than its channels, and its result is an output")


@pytest.mark.parametrize("inside", [False, True])
def test_convolutions_of_sequences(tf, live, inside):
    """tf.layers.conv1d is a Conv2D of one row; the batch norm may stand before or after the row is taken out again."""

    def build():
        x = placed(tf, 9, 4)
        y = conv(tf, tf.expand_dims(x, 1), 6, padding="VALID", size=1, strides=[1, 1, 2, 1])
        y = tf.squeeze(norm(tf, y), [1]) if inside else norm(tf, tf.squeeze(y, [1]))
        return Net({x: rows(3, 9, 4)}, [y])

    assert ops(live(build).matches()) == ["Reshape", "Conv2D", "Reshape"]


def test_dense_layers_on_sequences(tf, live):
    def build():
        x = placed(tf, 7, 4)
        y = norm(tf, tf.tensordot(x, tf.get_variable("a", [4, 5]), [[2], [0]]), name="bn1")
        y = norm(tf, tf.matmul(tf.nn.relu(y), tf.get_variable("b", [5, 3])), [1, 1, 3], name="bn2")
        return Net({x: rows(3, 7, 4)}, [y])

    program = live(build).matches()
    assert program.conversion["unfolded"] == []
    assert "ScaleShift" not in ops(program)


def test_a_dilated_convolution_by_blocks(tf, live):
    """As tf.nn.convolution wrote it until kernels could dilate; the batch norm goes through BatchToSpaceND."""

    def build():
        x = placed(tf, 7, 7, 3)
        y = tf.space_to_batch_nd(x, [2, 2], [[2, 3], [2, 3]])
        y = tf.batch_to_space_nd(conv(tf, y, 4, padding="VALID"), [2, 2], [[0, 1], [0, 1]])
        return Net({x: rows(2, 7, 7, 3)}, [norm(tf, y)])

    assert ops(live(build).matches()) == ["SpaceToBatchND", "Conv2D", "BatchToSpaceND"]


def test_volumes(tf, live):
    def build():
        x = placed(tf, 4, 5, 6, 2)
        y = tf.nn.conv3d(x, tf.get_variable("a/kernel", [2, 2, 2, 2, 3]), [1] * 5, "VALID")
        y = tf.nn.bias_add(y, tf.get_variable("a/bias", [3]))
        mean, variance, beta, gamma = variables(tf, [3], "bn1")
        y, _, _ = tf.nn.fused_batch_norm(y, gamma, beta, mean, variance, is_training=False, data_format="NDHWC")
        y = tf.nn.relu(y)
        y = tf.nn.conv3d_transpose(y, tf.get_variable("b/kernel", [2, 2, 2, 4, 3]), [tf.shape(y)[0], 6, 8, 10, 4], [1, 2, 2, 2, 1])
        return Net({x: rows(2, 4, 5, 6, 2)}, [norm(tf, y)])

    program = live(build).matches()
    assert [(layer.op, layer.activation) for layer in program.layers] == [
        ("Conv3D", "Relu"),
        ("Conv3DTranspose", None),
    ]


def test_convolutions_in_groups(tf, live):
    """Split, convolved one by one and joined, as AlexNet does, with one batch norm behind and one before."""

    def build():
        x = placed(tf, 6, 6, 4)
        parts = [conv(tf, part, 3, name=f"conv{i}") for i, part in enumerate(tf.split(x, 2, 3))]
        y = norm(tf, tf.concat(parts, 3), name="bn1")
        kernel = tf.get_variable("grouped/kernel", [2, 2, 3, 4])
        y = tf.nn.conv2d(norm(tf, tf.nn.relu(y), name="bn2"), kernel, [1, 1, 1, 1], "VALID")
        return Net({x: rows(2, 6, 6, 4)}, [y])

    program = live(build).matches()
    assert program.conversion["unfolded"] == []
    assert ops(program) == ["Split", "Conv2D", "Conv2D", "ConcatV2", "Relu", "Conv2D"]


def test_a_bias_behind_the_activation(tf, live):
    def build():
        x = placed(tf, 4)
        y = tf.nn.relu(tf.matmul(x, tf.get_variable("a", [4, 5]))) + tf.get_variable("b", [5])
        return Net({x: rows(3, 4)}, [tf.matmul(norm(tf, y), tf.get_variable("c", [5, 2]))])

    assert [(layer.op, layer.activation) for layer in live(build).matches().layers] == [("Dense", "Relu"), ("Dense", None)]


def test_the_input_as_people_normalise_it(tf, live):
    """Plain numbers on the input: into a dense layer, and not into a padded convolution, without a word."""

    def build(dense):
        x = placed(tf, 4, 4, 3)
        y = x / 127.5 - 1.0
        y = tf.matmul(tf.reshape(y, [-1, 48]), tf.get_variable("w", [48, 2])) if dense else conv(tf, y, 2)
        return Net({x: 127 + 50 * rows(3, 4, 4, 3)}, [y])

    assert ops(live(lambda: build(True)).matches()) == ["Reshape", "Dense"]
    program = live(lambda: build(False)).matches()
    assert ops(program) == ["ScaleShift", "Conv2D"]
    assert program.conversion["unfolded"] == []
    assert "pads with zeros" in program.layers[0].provenance["not_folded"]


CONSTANTS = {
    "infinite shift": lambda tf, y: tf.nn.softmax(y + np.array([0, -np.inf, 0], np.float32)),
    "division by zero": lambda tf, y: tf.tanh(y / np.zeros(3, np.float32)),
    "an inverse too large": lambda tf, y: tf.tanh(y / np.float32(1e-39)),
    "another shape": lambda tf, y: y[:1] + np.arange(6, dtype=np.float32).reshape(2, 3),
    "another dtype": lambda tf, y: tf.cast(tf.argmax(y, 1), tf.int32) + 7,
}


@pytest.mark.parametrize("kind", CONSTANTS)
def test_what_is_no_scale_and_shift_stays_an_operator(tf, live, kind):
    def build():
        x = placed(tf, 3)
        return Net({x: rows(4, 3)}, [CONSTANTS[kind](tf, tf.nn.elu(tf.matmul(x, tf.get_variable("w", [3, 3]))))])

    assert "ScaleShift" not in ops(live(build).matches())


def test_subtracting_large_means_keeps_its_digits(tf, live):
    """A column such as a year or a pressure, standardised before the first layer."""

    def build():
        x = placed(tf, 4)
        y = (x - tf.get_variable("mean", [4])) / tf.get_variable("sigma", [4])
        return Net({x: 1013 + 8 * rows(50, 4)}, [tf.matmul(y, tf.get_variable("w", [4, 3]))])

    values = {"mean": np.array([1010, 1013, 1015, 1020], np.float32), "sigma": np.array([8, 7, 9, 8], np.float32)}
    program = live(build, values).matches(tolerance=1e-6)
    assert ops(program) == ["ScaleShift", "Dense"]
    assert "float32 keeps the digits of the difference only if that comes first" in program.conversion["unfolded"][0]


@pytest.mark.parametrize("norm", ["sum_of_squares", "sum_of_products", "standard_deviation", "logarithm_of_variance"])
def test_a_root_that_is_taken_of_no_variance(tf, live, norm):
    """Weight normalisation and its like: what is below zero there is no variance, and no reason to refuse the checkpoint."""

    def build():
        x = tf.placeholder(tf.float32, [None, 6], name="x")
        v, g, s = tf.get_variable("v", [6, 8]), tf.get_variable("g", [8]), tf.get_variable("s", [8])
        h = tf.matmul(x, v)
        h = {
            "sum_of_squares": lambda: h * (g / tf.sqrt(tf.reduce_sum(tf.square(v), 0))),
            "sum_of_products": lambda: h * (g * tf.rsqrt(tf.reduce_sum(v * v, 0) + 1e-3)),
            "standard_deviation": lambda: h * g / tf.sqrt(s * s + 1e-3),
            "logarithm_of_variance": lambda: h * g / tf.sqrt(tf.exp(s)),
        }[norm]()
        return Net({x: rows(5, 6)}, [tf.nn.relu(h + tf.get_variable("b", [8]), name="y")])

    program = live(build).matches()
    assert not any("variance" in part for layer in program.layers for part in layer.provenance.get("parts", ()))


@pytest.mark.parametrize("written", ["norm", "power", "distance"])
def test_a_length_is_no_variance(tf, live, written):
    """The root of a sum of squares, and a square that is no root: weights there may well be negative."""

    def build():
        x = placed(tf, 6)
        kernel = tf.get_variable("kernel", [6, 4])
        h = tf.matmul(x, kernel)
        if written == "norm":
            h = h / tf.norm(kernel, axis=0)
        elif written == "power":
            h = h * tf.pow(tf.reduce_sum(tf.square(kernel), 0) + 1e-3, -0.5)
        else:
            h = tf.reduce_sum(kernel**2, 0) - 2.0 * h
        return Net({x: rows(5, 6)}, [tf.nn.relu(h)])

    program = live(build).matches()
    assert ops(program) == ["Dense"]
    assert batch_norms(program.layers[0]) == []


def test_a_root_written_as_a_power(tf, live):
    def build():
        x = placed(tf, 6)
        mean, variance, beta, gamma = variables(tf, [4])
        h = tf.matmul(x, tf.get_variable("kernel", [6, 4]))
        return Net({x: rows(5, 6)}, [tf.nn.relu((h - mean) * tf.pow(variance + 1e-3, -0.5) * gamma + beta)])

    (layer,) = live(build).matches().layers
    assert [part["variance"] for part in batch_norms(layer)] == ["bn/variance"]


STEPS = {
    "round": lambda tf, x: tf.round((x - 0.05) * 10.0),
    "floor": lambda tf, x: tf.floor((x - 0.1) / 0.2 + 1.0),
    "cast": lambda tf, x: tf.cast(tf.cast((x - 0.1) / 0.1, tf.int32), tf.float32),
    "compare": lambda tf, x: tf.cast(x * 3.0 - 0.9 >= 0.0, tf.float32),
    "compare with computed": lambda tf, x: tf.cast(x >= tf.constant(0.1) * 3.0 * tf.range(1.0, 7.0) / 3.0, tf.float32),
    "remainder": lambda tf, x: tf.floormod((x + 0.1) * 10.0, 2.0),
}


@pytest.mark.parametrize("step", STEPS)
def test_data_on_the_edge_of_a_step(tf, live, step):
    """Tenths that are rounded, bucketed and compared: one rounding more or less on the way there, and they fall on the other side."""

    def build():
        x = placed(tf, 6)
        tenths = (np.arange(-60, 60).reshape(20, 6) * np.float32(0.1)).astype(np.float32)
        return Net({x: tenths}, [tf.matmul(STEPS[step](tf, x), tf.get_variable("kernel", [6, 2]))])

    live(build).matches()
