"""Variables whose names say what they are for together with those beside them, as TensorFlow names them, compared with TensorFlow."""

import numpy as np
import pytest
from live_graph import Net, rows
from test_scopes import forged, kernel, norm, normalised

from bnexport.conversion import to_program
from bnexport.errors import UsageError
from bnexport.options import Options
from bnexport.runner import Model

pytestmark = pytest.mark.tensorflow


def by_names(saved, **said):
    """The conversion without the graph, after a comparison with TensorFlow."""
    program = to_program(saved.prefix, Options(use_graph=False, activation="relu", epsilon=1e-3, **said))
    (x,), (want,) = saved.inputs.values(), saved.expected.values()
    assert np.abs(Model(program).predict(x) - want).max() <= 1e-5 * max(1, np.abs(want).max())
    return program


def two_layers(tf, weights, biases):
    x = tf.placeholder(tf.float32, [None, 8])
    y = tf.nn.relu(x @ weights[0] + biases[0]) @ weights[1] + biases[1]
    return Net({x: rows(5, 8)}, [y])


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize("scopes", [("layer1/", "layer2/"), ("", ""), ("layer/", "layer/")])
def test_scopes_called_weights_and_biases_belong_to_the_names(tf, live, scopes, named):
    """mnist_with_summaries.py of TensorFlow's own tutorials, and what came after it."""

    def build():
        weights, biases = [], []
        for scope, shape in zip(scopes, [(8, 6), (6, 3)], strict=True):
            with tf.name_scope(scope or None):
                with tf.name_scope("weights"):
                    weights.append(tf.Variable(tf.zeros(shape), name="W" if named else None))
                with tf.name_scope("biases"):
                    biases.append(tf.Variable(tf.zeros(shape[1:]), name="b" if named else None))
        return two_layers(tf, weights, biases)

    program = by_names(live(build))
    if scopes[0] == "layer1/":
        assert [layer.name for layer in program.layers] == ["layer1", "layer2"]


@pytest.mark.parametrize("called", [("h1", "out", "b1", "out"), (None, None, None, None), ("w1", "w2", "b1", "b2")])
def test_all_weights_in_one_scope_and_all_biases_in_another(tf, live, called):
    def build():
        with tf.name_scope("weights"):
            weights = [tf.Variable(tf.zeros(shape), name=name) for shape, name in zip([(8, 6), (6, 3)], called[:2], strict=True)]
        with tf.name_scope("biases"):
            biases = [tf.Variable(tf.zeros(shape), name=name) for shape, name in zip([(6,), (3,)], called[2:], strict=True)]
        return two_layers(tf, weights, biases)

    by_names(live(build))


def test_two_variables_that_would_have_one_name_keep_their_own(tmp_path):
    arrays = {"a/weights/W": kernel(4, 3), "a/kernel/W": kernel(3, 2)}
    assert [layer.name for layer in to_program(forged(tmp_path, arrays)).layers] == ["a/weights", "a/kernel"]


def dense_norm_dense(tf, **said):
    x = tf.placeholder(tf.float32, [None, 8])
    return x, tf.layers.dense(tf.nn.relu(tf.layers.batch_normalization(tf.layers.dense(x, 6), **said)), 3)


def test_what_batch_renormalisation_trains_with_is_left_out(tf, live):
    def build():
        x, y = dense_norm_dense(tf, renorm=True)
        return Net({x: rows(5, 8)}, [y])

    assert by_names(live(build)).conversion["ignored"] == ["renorm: 3"]


def test_averages_that_were_saved_without_the_weights_stand_in_their_place(tf, live):
    def build():
        x, y = dense_norm_dense(tf)
        saved = {v.op.name + "/ExponentialMovingAverage" * ("moving" not in v.op.name): v for v in tf.global_variables()}
        return Net({x: rows(5, 8)}, [y], saver=tf.train.Saver(saved))

    saved = live(build)
    program = by_names(saved)
    assert any(text.startswith("averages stand in the place of 6 weights that are not there: ") for text in program.conversion["assumed"])
    assert program.layers[0].provenance["kernel"] == "dense/kernel/ExponentialMovingAverage"
    by_names(saved, averages=True)


def test_averages_beside_some_of_the_weights_are_still_none_of_the_others(tmp_path):
    prefix = forged(tmp_path, {"W": kernel(4, 3), "b": np.ones(3, np.float32)})
    with pytest.raises(UsageError, match="holds no averages of weights"):
        to_program(prefix, Options(averages=True))


@pytest.mark.parametrize("sep", ["/", "."])
def test_weight_and_bias_beside_running_statistics_are_gamma_and_beta(tmp_path, sep):
    """As PyTorch calls them."""
    values = norm(3)
    arrays = {f"bn1{sep}{role}": v for role, v in zip(("bias", "weight", "running_mean", "running_var"), values, strict=True)}
    arrays |= {
        f"fc{n}{sep}{role}": v
        for n, *both in ((1, kernel(4, 3), np.ones(3, np.float32)), (2, kernel(3, 2), np.zeros(2, np.float32)))
        for role, v in zip(("weight", "bias"), both, strict=True)
    }
    x = np.random.default_rng(0).standard_normal((5, 4)).astype(np.float32)
    want = np.maximum(normalised(x @ kernel(4, 3).astype(np.float64) + 1, values), 0) @ kernel(3, 2)
    np.testing.assert_allclose(Model(to_program(forged(tmp_path, arrays), Options(activation="relu"))).predict(x), want, rtol=1e-4, atol=1e-5)


def test_batch_norms_that_share_a_scope_with_one_layer_stand_before_it_where_one_must(tf, live):
    def build():
        x = h = tf.placeholder(tf.float32, [None, 4])
        for i in range(3):
            with tf.variable_scope(f"l{i}"):
                h = tf.layers.dense(tf.layers.batch_normalization(h), 6)
            h = tf.nn.relu(h) if i < 2 else h
        return Net({x: rows(5, 4)}, [h])

    assumed = by_names(live(build), bn_after_activation=True).conversion["assumed"]
    assert any(text.startswith("l0/batch_normalization on the input, l1/batch_normalization behind l0/dense, ") for text in assumed)


def test_lists_of_variables_are_told_by_what_the_lists_are_called(tmp_path):
    """`self.ws = [tf.Variable(…), …]` of a tf.Module."""
    arrays = {f"net/{name}/{i}": value for i in range(3) for name, value in (("ws", kernel(4, 4, i)), ("bs", np.full(4, i, np.float32)))}
    program = to_program(forged(tmp_path, arrays), Options(activation="relu"))
    assert [layer.provenance["kernel"] for layer in program.layers] == ["net/ws/0", "net/ws/1", "net/ws/2"]
    assert [layer.provenance["parts"][0]["shift"] for layer in program.layers] == ["net/bs/0", "net/bs/1", "net/bs/2"]


@pytest.mark.parametrize("said", [{}, {"epsilon": 1e-3}])
def test_a_normalization_of_keras_has_no_epsilon(tmp_path, said):
    mean, variance = np.array([1, 2, 3, 4], np.float32), np.array([0.01, 4, 9, 0], np.float32)
    arrays = {"net/norm/mean": mean, "net/norm/variance": variance, "net/norm/count": np.int64(100), "net/dense/kernel": kernel(4, 3)}
    program = to_program(forged(tmp_path, arrays), Options(**said))
    x = np.random.default_rng(0).standard_normal((5, 4)).astype(np.float32)
    want = (x.astype(np.float64) - mean) / np.maximum(np.sqrt(variance), 1e-7) @ kernel(4, 3)
    assert np.abs(Model(program).predict(x) - want).max() <= 1e-5 * np.abs(want).max()
    assert program.conversion["warnings"] == []
    assert program.layers[0].provenance["parts"][0]["epsilon_from"] == "Keras' Normalization"


def test_moving_averages_beside_a_count_have_an_epsilon(tmp_path):
    """Others count their updates as well; statistics without gamma and beta are Keras' by their own names only."""
    _, _, mean, variance = norm(4)
    arrays = {"bn/moving_mean": mean, "bn/moving_variance": variance * 0.01, "bn/count": np.int64(100), "dense/kernel": kernel(4, 3)}
    program = to_program(forged(tmp_path, arrays), Options(epsilon=0.1))
    x = rows(5, 4)
    want = (x - mean) / np.sqrt(variance * 0.01 + 0.1) @ kernel(4, 3)
    np.testing.assert_allclose(Model(program).predict(x), want, rtol=1e-5, atol=1e-5)
