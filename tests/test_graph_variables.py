"""Which stored tensor is which variable: savers that rename, several savers, partitions, and checkpoints that do not fit their graph."""

import shutil

import numpy as np
import pytest
from live_graph import Net, dense, rows

from bnexport.errors import BadStatistics, BnexportError, ContradictoryGraph, TensorNotFound

pytestmark = pytest.mark.tensorflow


def network(tf, saver=None):
    x = tf.placeholder(tf.float32, [None, 6], name="x")
    y = tf.nn.softmax(dense(tf, tf.nn.relu(dense(tf, x, 8, "one")), 3, "two"), name="y")
    return Net({x: rows(5, 6)}, [y], saver=saver and saver({v.op.name: v for v in tf.global_variables()}))


@pytest.mark.parametrize("resource", [False, True])
def test_a_saver_that_renames(tf, live, resource):
    def build():
        return network(tf, lambda v: tf.train.Saver({f"other/{name}": variable for name, variable in v.items()}))

    program = live(build, resource=resource).matches()
    assert {layer.provenance["kernel"] for layer in program.layers} == {"other/one/w", "other/two/w"}


def test_a_saver_that_swaps_names(tf, live):
    """Two kernels of one shape under each other's names: the graph's own saver knows, the names do not."""

    def build():
        x = tf.placeholder(tf.float32, [None, 6], name="x")
        a, b = tf.get_variable("a", [6, 6]), tf.get_variable("b", [6, 6])
        y = tf.matmul(tf.nn.relu(tf.matmul(x, a)), b, name="y")
        return Net({x: rows(5, 6)}, [y], saver=tf.train.Saver({"b": a, "a": b}))

    live(build).matches()


@pytest.mark.parametrize("first", [False, True])
def test_a_second_saver_for_other_names(tf, live, first):
    """Such as one that restores a pretrained part, or swapped weights: it did not write this file."""

    def build():
        x = tf.placeholder(tf.float32, [None, 6], name="x")
        a, b = tf.get_variable("a", [6, 6]), tf.get_variable("b", [6, 6])
        y = tf.matmul(tf.nn.relu(tf.matmul(x, a)), b, name="y")
        if first:
            tf.train.Saver({"b": a, "a": b})
        mine = tf.train.Saver([a, b])
        if not first:
            tf.train.Saver({"b": a})
            tf.train.Saver({"pretrained/kernel": b})
        return Net({x: rows(5, 6)}, [y], saver=mine)

    live(build).matches()


def test_partitioned_variables(tf, live):
    def build():
        x = tf.placeholder(tf.float32, [None, 6], name="x")
        with tf.variable_scope("net", partitioner=tf.fixed_size_partitioner(3)):
            h = tf.nn.relu(tf.matmul(x, tf.convert_to_tensor(tf.get_variable("w", [6, 8]))))
        with tf.variable_scope("out", partitioner=tf.fixed_size_partitioner(2, axis=1)):
            y = tf.matmul(h, tf.convert_to_tensor(tf.get_variable("w", [8, 4])), name="y")
        return Net({x: rows(5, 6)}, [y])

    live(build).matches()


def test_variables_of_one_name_in_two_scopes(tf, live):
    def build():
        x = tf.placeholder(tf.float32, [None, 6], name="x")
        h = x
        for _ in range(3):
            with tf.variable_scope(None, default_name="layer"):
                h = tf.nn.tanh(dense(tf, h, 6, "d"))
        return Net({x: rows(5, 6)}, [tf.identity(h, name="y")])

    live(build).matches()


def test_unnamed_variables(tf, live):
    def build():
        x = tf.placeholder(tf.float32, [None, 6])
        w1, b1 = tf.Variable(tf.zeros([6, 4])), tf.Variable(tf.zeros([4]))
        w2, b2 = tf.Variable(tf.zeros([4, 2])), tf.Variable(tf.zeros([2]))
        y = tf.nn.xw_plus_b(tf.nn.relu(tf.nn.xw_plus_b(x, w1, b1)), w2, b2)
        return Net({x: rows(5, 6)}, [y])

    program = live(build).matches()
    assert [layer.provenance["kernel"] for layer in program.layers] == ["Variable", "Variable_2"]


@pytest.mark.parametrize("resource", [False, True])
def test_a_graph_that_contradicts_its_checkpoint(tf, live, resource):
    def build(width):
        x = tf.placeholder(tf.float32, [None, 6], name="x")
        return Net({x: rows(5, 6)}, [tf.matmul(tf.nn.relu(dense(tf, x, width, "one")), tf.get_variable("w", [width, 2]), name="y")])

    wide, narrow = live(lambda: build(9), resource=resource), live(lambda: build(8), resource=resource)
    shutil.copy(f"{wide.prefix}.meta", f"{narrow.prefix}.meta")
    with pytest.raises(ContradictoryGraph, match=r"gives the variable '[a-z/]+' the shape \[.*9.*\], but .* holds \[.*8.*\] under"):
        narrow.convert()


def test_a_checkpoint_that_lacks_a_variable(tf, live):
    def build():
        return network(tf, lambda v: tf.train.Saver({name: variable for name, variable in v.items() if name != "two/b"}))

    saved = live(build)
    with pytest.raises(TensorNotFound, match=r"'two/b', which this checkpoint does not hold; it holds \d others of the graph's, as of a saver that"):
        saved.convert(outputs=["y"])


def test_transposed_cast_and_reshaped_weights(tf, live):
    def build():
        x = tf.placeholder(tf.float32, [None, 6], name="x")
        a, b, c = tf.get_variable("a", [8, 6]), tf.get_variable("b", [8 * 3], tf.float64), tf.get_variable("c", [3, 3])
        h = tf.nn.relu(tf.matmul(x, a, transpose_b=True))
        h = tf.matmul(h, tf.cast(tf.reshape(b, [8, 3]), tf.float32))
        return Net({x: rows(5, 6)}, [tf.matmul(h, tf.transpose(c), name="y")])

    live(build).matches()


def test_weights_computed_from_weights(tf, live):
    """Weight normalisation, tied weights, masks: what does not depend on the input is computed once."""

    def build():
        x = tf.placeholder(tf.float32, [None, 6], name="x")
        v, g = tf.get_variable("v", [6, 4]), tf.get_variable("gamma", [4])
        h = tf.nn.relu(tf.matmul(x, g * v / tf.sqrt(tf.reduce_sum(tf.square(v), 0))))
        mask = tf.get_variable("mask", [6, 4], trainable=False)
        y = tf.matmul(h, tf.transpose(v * tf.cast(mask > 0, tf.float32)), name="y")
        return Net({x: rows(5, 6)}, [y])

    program = live(build).matches()
    assert [layer.op for layer in program.layers] == ["Dense", "Dense"]


def test_polyak_averages_are_the_users_choice(tf, live):
    def build():
        net = network(tf)
        tf.train.ExponentialMovingAverage(0.99).apply(tf.trainable_variables())
        return net

    saved = live(build)
    program = saved.matches()
    assert program.conversion["averages"] == {"of": ["one/b", "one/w", "two/b", "two/w"], "taken": False}
    averaged = {name: saved.variables.get(f"{name}/ExponentialMovingAverage", value) for name, value in saved.variables.items()}
    (expected,) = live.outputs(lambda: network(tf), averaged)
    assert np.abs(expected - saved.expected["y"]).max() > 1e-2
    assert saved.matches(expected={"y": expected}, averages=True).conversion["averages"]["taken"]


def test_weights_that_are_not_numbers_are_refused(tf, live):
    broken = np.ones((6, 8), np.float32)
    broken[3, 2] = np.nan
    with pytest.raises(BnexportError, match=r"one.* NaN or infinite"):
        live(lambda: network(tf), {"one/w": broken}).convert()


def test_a_negative_variance_is_refused_by_the_stored_name(tf, live):
    """In the seed's spelling, written by an operation and not by a saver."""

    def build():
        x = tf.placeholder(tf.float32, [None, 6], name="x")
        h = dense(tf, x, 4, "one")
        with tf.variable_scope("bn"):
            mean, variance = (tf.get_variable(f"moments/{n}/ExponentialMovingAverage", [4], trainable=False) for n in ("Squeeze", "Squeeze_1"))
            h = tf.nn.batch_normalization(h, mean, variance, tf.get_variable("beta", [4]), tf.get_variable("gamma", [4]), 1e-3)
        return Net({x: rows(5, 6)}, [tf.nn.relu(h, name="y")])

    saved = live(build)
    saved.matches()
    damaged = {**saved.variables, "bn/moments/Squeeze_1/ExponentialMovingAverage": np.array([1, -1e-3, 1, 1], np.float32)}
    with live.graph() as session:
        session.run(
            tf.raw_ops.SaveV2(
                prefix=str(saved.prefix), tensor_names=list(damaged), shape_and_slices=[""] * len(damaged), tensors=list(damaged.values())
            )
        )
    with pytest.raises(BadStatistics, match=r"'bn/moments/Squeeze_1/ExponentialMovingAverage' .* is negative \(-0.001 at index 1\)"):
        saved.convert()
