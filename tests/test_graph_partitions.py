"""Tables in several parts: one lookup in the joined table gives what TensorFlow's lookups in all of them give."""

import numpy as np
import pytest
from live_graph import Net, dense

from bnexport.errors import InputError, UnsupportedOps
from bnexport.runner import load

pytestmark = pytest.mark.tensorflow
INDICES = np.random.default_rng(0).integers(0, 11, (6, 4)).astype(np.int32)


def looked_up(tf, tables, strategy="mod", **options):
    """A network whose words are looked up in these tables, with its training."""
    indices = tf.placeholder(tf.int32, [None, 4], name="indices")
    words = tf.nn.embedding_lookup(tables, indices, partition_strategy=strategy, name="words", **options)
    y = tf.identity(dense(tf, tf.reshape(words, [-1, 12]), 2, "out"), name="y")
    tf.train.AdamOptimizer().minimize(tf.losses.mean_squared_error(tf.placeholder(tf.float32, [None, 2], name="labels"), y))
    return Net({indices: INDICES}, [y])


def tables(tf, *rows):
    return [tf.get_variable(f"table_{i}", [n, 3]) for i, n in enumerate(rows)]


@pytest.mark.parametrize("resource", [False, True])
@pytest.mark.parametrize("rows", [(4, 4, 3), (6, 5), (3, 2, 2, 2, 2)])
@pytest.mark.parametrize("strategy", ["mod", "div"])
def test_tables_in_a_list(tf, live, strategy, rows, resource):
    program = live(lambda: looked_up(tf, tables(tf, *rows), strategy), resource=resource).matches()
    assert [layer.op for layer in program.layers].count("GatherV2") == 1


@pytest.mark.parametrize("strategy", ["mod", "div"])
def test_a_partitioned_variable(tf, live, strategy):
    def build():
        table = tf.get_variable("table", [11, 3], partitioner=tf.fixed_size_partitioner(3))
        return looked_up(tf, table, strategy, max_norm=0.5)

    live(build).matches()


def test_an_index_behind_the_last_row_is_refused_as_tensorflow_refuses_it(tf, live):
    saved = live(lambda: looked_up(tf, tables(tf, 4, 4, 3)))
    saved.convert()
    for wrong in (11, 12, -1):
        with pytest.raises(InputError, match=str(wrong)):
            load(saved.prefix.with_name("out.npz")).predict(np.full((1, 4), wrong, np.int32))


def test_tables_that_are_taken_by_something_else_as_well(tf, live):
    def build():
        net = looked_up(tf, tables(tf, 6, 5), "div")
        lookups = [n for n in tf.get_default_graph().get_operations() if n.type == "GatherV2"]
        return Net(net.inputs, [*net.outputs, tf.reduce_sum(lookups[0].outputs[0], name="sum")])

    with pytest.raises(UnsupportedOps, match="DynamicPartition"):
        live(build).convert(outputs=["y", "sum"])


def test_tables_of_other_sizes_than_the_strategy_makes_them_are_refused(tf, live):
    def build():
        net = looked_up(tf, tables(tf, 9, 2), "mod")
        return Net(dict.fromkeys(net.inputs, INDICES % 4), net.outputs)

    with pytest.raises(UnsupportedOps, match="DynamicPartition"):
        live(build).convert()
