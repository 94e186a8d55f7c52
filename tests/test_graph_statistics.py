"""Batch norm in graphs that were saved from training: the moving statistics take the place of the batch's, whoever wrote the update."""

import warnings

import numpy as np
import pytest
from live_graph import Net, dense, rows

from bnexport.errors import AmbiguousNetwork, BadStatistics

pytestmark = pytest.mark.tensorflow


@pytest.fixture(scope="session")
def slim(tf):
    """tf_slim, whose last release looks for two names where TensorFlow no longer keeps them."""
    import tensorflow
    from tensorflow.python.framework import ops
    from tensorflow.python.layers import normalization
    from tensorflow.python.ops import control_flow_ops

    ops.Tensor, control_flow_ops.cond = tensorflow.Tensor, tf.cond
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        normalization.BatchNormalization = tf.layers.BatchNormalization
        return pytest.importorskip("tf_slim")


def normalised(tf, x, mean, variance, epsilon=1e-3):
    width = int(x.shape[-1])
    return tf.nn.batch_normalization(x, mean, variance, tf.get_variable("beta", [width]), tf.get_variable("gamma", [width]), epsilon)


def stored(tf, x):
    width = int(x.shape[-1])
    return (tf.get_variable(n, [width], trainable=False) for n in ("moving_mean", "moving_variance"))


def by_hand(tf, x, training):
    """tf.assign(V, V * decay + m * (1 - decay))."""
    moving_mean, moving_variance = stored(tf, x)
    if not training:
        return normalised(tf, x, moving_mean, moving_variance)
    mean, variance = tf.nn.moments(x, list(range(len(x.shape) - 1)))
    moved = [
        tf.assign(moving_mean, moving_mean * 0.99 + mean * (1 - 0.99)),
        tf.assign(moving_variance, moving_variance * 0.99 + variance * (1 - 0.99)),
    ]
    with tf.control_dependencies(moved):
        return normalised(tf, x, mean, variance)


def by_hand_subtracting(tf, x, training):
    """tf.assign_sub(V, (V - m) * (1 - decay)), the order of terms and the kind of op as some wrote it."""
    moving_mean, moving_variance = stored(tf, x)
    if not training:
        return normalised(tf, x, moving_mean, moving_variance)
    mean, variance = tf.nn.moments(x, [0])
    tf.add_to_collection("u", tf.assign_sub(moving_mean, 0.01 * (moving_mean - mean)))
    tf.add_to_collection("u", tf.assign_sub(moving_variance, 0.01 * (moving_variance - variance)))
    return normalised(tf, x, mean, variance)


def by_hand_adding(tf, x, training):
    """tf.assign_add(V, (m - V) * rate)."""
    moving_mean, moving_variance = stored(tf, x)
    if not training:
        return normalised(tf, x, moving_mean, moving_variance)
    mean, variance = tf.nn.moments(x, [0])
    tf.assign_add(moving_mean, (mean - moving_mean) * 0.01)
    tf.assign_add(moving_variance, (variance - moving_variance) * 0.01)
    return normalised(tf, x, mean, variance)


def by_assign_moving_average(tf, x, training):
    from tensorflow.python.training import moving_averages

    moving_mean, moving_variance = stored(tf, x)
    if not training:
        return normalised(tf, x, moving_mean, moving_variance)
    mean, variance = tf.nn.moments(x, [0])
    moving_averages.assign_moving_average(moving_mean, mean, 0.9, zero_debias=False)
    moving_averages.assign_moving_average(moving_variance, variance, 0.9, zero_debias=False)
    return normalised(tf, x, mean, variance)


def with_zero_debias(tf, x, training):
    from tensorflow.python.training import moving_averages

    moving_mean, moving_variance = stored(tf, x)
    if not training:
        return normalised(tf, x, moving_mean, moving_variance)
    mean, variance = tf.nn.moments(x, [0])
    moving_averages.assign_moving_average(moving_mean, mean, 0.9, zero_debias=True)
    moving_averages.assign_moving_average(moving_variance, variance, 0.9, zero_debias=True)
    return normalised(tf, x, mean, variance)


def by_a_decay_that_is_fed(tf, x, training):
    moving_mean, moving_variance = stored(tf, x)
    if not training:
        return normalised(tf, x, moving_mean, moving_variance)
    decay = tf.placeholder(tf.float32, [] if "0" in moving_mean.name else None)
    mean, variance = tf.nn.moments(x, [0])
    tf.assign(moving_mean, moving_mean * decay + mean * (1.0 - decay))
    tf.assign(moving_variance, moving_variance * decay + variance * (1.0 - decay))
    return normalised(tf, x, mean, variance)


def by_what_was_just_written(tf, x, training):
    """Training normalises with the moving statistics too, once they have been moved."""
    moving_mean, moving_variance = stored(tf, x)
    if not training:
        return normalised(tf, x, moving_mean, moving_variance)
    mean, variance = tf.nn.moments(x, [0])
    mean = tf.assign(moving_mean, moving_mean * 0.9 + mean * 0.1)
    return normalised(tf, x, mean, tf.assign_sub(moving_variance, 0.1 * (moving_variance - variance)))


def by_the_mean_of_all(tf, x, training):
    """(V * n + m) / (n + 1), where n counts the batches."""
    moving_mean, moving_variance = stored(tf, x)
    if not training:
        return normalised(tf, x, moving_mean, moving_variance)
    n = tf.get_variable("n", [], initializer=tf.constant_initializer(7.0), trainable=False)
    mean, variance = tf.nn.moments(x, [0])
    tf.assign(moving_mean, (moving_mean * n + mean) / (n + 1.0))
    tf.assign(moving_variance, (moving_variance * n + variance) / (n + 1.0))
    return normalised(tf, x, mean, variance)


def with_bessels_correction_for_any_batch(tf, x, training):
    moving_mean, moving_variance = stored(tf, x)
    if not training:
        return normalised(tf, x, moving_mean, moving_variance)
    mean, variance = tf.nn.moments(x, [0])
    n = tf.cast(tf.shape(x)[0], tf.float32)
    tf.assign(moving_mean, moving_mean * 0.9 + mean * 0.1)
    tf.assign(moving_variance, moving_variance * 0.9 + variance * (n / (n - 1.0)) * 0.1)
    return normalised(tf, x, mean, variance)


def with_bessels_correction_by_size(tf, x, training):
    """The same, multiplied and divided one after the other."""
    moving_mean, moving_variance = stored(tf, x)
    if not training:
        return normalised(tf, x, moving_mean, moving_variance)
    mean, variance = tf.nn.moments(x, [0])
    size = tf.cast(tf.shape(x)[0], tf.float32)
    tf.assign(moving_mean, moving_mean * 0.9 + mean * 0.1)
    tf.assign(moving_variance, moving_variance * 0.9 + variance * size / (size - 1.0) * 0.1)
    return normalised(tf, x, mean, variance)


def with_bessels_correction(tf, x, training):
    """The unbiased variance is what is averaged, the biased one what normalises, as the fused op does."""
    moving_mean, moving_variance = stored(tf, x)
    if not training:
        return normalised(tf, x, moving_mean, moving_variance)
    mean, variance = tf.nn.moments(x, [0])
    tf.assign(moving_mean, moving_mean * 0.9 + mean * 0.1)
    tf.assign(moving_variance, moving_variance * 0.9 + variance * (8 / 7) * 0.1)
    return normalised(tf, x, mean, variance)


def with_mean_and_squares(tf, x, training):
    """variance = E[x²] - E[x]², each by tf.reduce_mean."""
    moving_mean, moving_variance = stored(tf, x)
    if not training:
        return normalised(tf, x, moving_mean, moving_variance)
    mean = tf.reduce_mean(x, 0)
    variance = tf.reduce_mean(tf.square(x - mean), 0)
    tf.assign(moving_mean, 0.9 * moving_mean + 0.1 * mean)
    tf.assign(moving_variance, 0.9 * moving_variance + 0.1 * variance)
    return normalised(tf, x, mean, variance)


def weighted(tf, x, training):
    """tf.nn.weighted_moments, here with weights made of the data: sum(w * x) / sum(w)."""
    moving_mean, moving_variance = stored(tf, x)
    if not training:
        return normalised(tf, x, moving_mean, moving_variance)
    mean, variance = tf.nn.weighted_moments(x, [0], tf.cast(x[:, :1] > 0, tf.float32) + 0.5)
    tf.assign(moving_mean, moving_mean * 0.9 + mean * 0.1)
    tf.assign(moving_variance, moving_variance * 0.9 + variance * 0.1)
    return normalised(tf, x, mean, variance)


def over_two_devices(tf, x, training):
    """The mean of what the devices find in their parts of the batch, for batch norm across devices."""
    moving_mean, moving_variance = stored(tf, x)
    if not training:
        return normalised(tf, x, moving_mean, moving_variance)
    parts = tf.split(x, 2)
    mean = tf.add_n([tf.reduce_mean(part, 0) for part in parts]) / 2.0
    variance = tf.add_n([tf.reduce_mean(tf.square(part), 0) for part in parts]) / 2.0 - tf.square(mean)
    tf.assign_sub(moving_mean, (moving_mean - mean) * 0.1)
    tf.assign(moving_variance, moving_variance * 0.9 + variance * 0.1)
    beta, gamma = (tf.get_variable(name, [int(x.shape[-1])]) for name in ("beta", "gamma"))
    return tf.concat([tf.nn.batch_normalization(part, mean, variance, beta, gamma, 1e-3) for part in parts], 0)


def shifted_by_the_average(tf, x, training):
    """tf.nn.moments(x, axes, shift=moving_mean), as contrib's batch norm called it and TensorFlow wrote it up to 1.1: shift + mean(x - shift)."""
    moving_mean, moving_variance = stored(tf, x)
    if not training:
        return normalised(tf, x, moving_mean, moving_variance)
    counts, mean_ss, variance_ss, shift = tf.nn.sufficient_statistics(x, [0], shift=moving_mean)
    mean, variance = tf.nn.normalize_moments(counts, mean_ss, variance_ss, shift)
    tf.assign_sub(moving_mean, (moving_mean - mean) * 0.1)
    tf.assign(moving_variance, moving_variance * 0.9 + variance * 0.1)
    return normalised(tf, x, mean, variance)


def taken_twice(tf, x, training):
    """One function updates the averages and another normalises, each with moments of its own."""
    moving_mean, moving_variance = stored(tf, x)
    if not training:
        return normalised(tf, x, moving_mean, moving_variance)
    mean, variance = tf.nn.moments(x, [0])
    tf.assign(moving_mean, moving_mean * 0.9 + mean * 0.1)
    tf.assign(moving_variance, moving_variance * 0.9 + variance * 0.1)
    return normalised(tf, x, *tf.nn.moments(x, [0]))


def over_axes_counted_from_the_last(tf, x, training):
    """tf.nn.moments(x, [-2]), as people write it for tensors of several ranks."""
    moving_mean, moving_variance = stored(tf, x)
    if not training:
        return normalised(tf, x, moving_mean, moving_variance)
    mean, variance = tf.nn.moments(x, [-2])
    tf.assign(moving_mean, moving_mean * 0.9 + mean * 0.1)
    tf.assign(moving_variance, moving_variance * 0.9 + variance * 0.1)
    return normalised(tf, x, mean, variance)


def averaging(tf, x, training, statistics, normalise):
    """Averages of what `statistics` makes of the batch, and what `normalise` makes of the data with two of them."""
    kept = list(stored(tf, x))
    if not training:
        return normalise(*kept)
    made = statistics()
    for variable, statistic in zip(kept, made, strict=True):
        tf.assign(variable, variable * 0.9 + statistic * 0.1)
    return normalise(*made)


def of_the_inverse_deviation(tf, x, training):
    def statistics():
        mean, variance = tf.nn.moments(x, [0])
        return mean, tf.rsqrt(variance + 1e-5)

    return averaging(tf, x, training, statistics, lambda mean, inverse: (x - mean) * inverse)


def of_the_logarithm(tf, x, training):
    def statistics():
        mean, variance = tf.nn.moments(x, [0])
        return mean, tf.log(variance)

    return averaging(tf, x, training, statistics, lambda mean, logarithm: normalised(tf, x, mean, tf.exp(logarithm)))


def of_the_clipped_deviation(tf, x, training):
    def statistics():
        mean, variance = tf.nn.moments(x, [0])
        return mean, tf.maximum(tf.sqrt(variance), 1e-3)

    return averaging(tf, x, training, statistics, lambda mean, deviation: (x - mean) / deviation)


def of_the_unbiased_variance(tf, x, training):
    """Training normalises with what it averages, too."""

    def statistics():
        mean, variance = tf.nn.moments(x, [0])
        n = tf.cast(tf.shape(x)[0], tf.float32)
        return mean, variance * n / (n - 1.0)

    return averaging(tf, x, training, statistics, lambda mean, variance: normalised(tf, x, mean, variance))


def of_absolute_deviations(tf, x, training):
    """Batch norm in L1: the factor belongs to what is averaged."""

    def statistics():
        mean = tf.reduce_mean(x, 0)
        return mean, tf.reduce_mean(tf.abs(x - mean), 0) * 1.2533

    return averaging(tf, x, training, statistics, lambda mean, deviation: (x - mean) / (deviation + 1e-3))


def of_extremes(tf, x, training):
    return averaging(tf, x, training, lambda: (tf.reduce_min(x, 0), tf.reduce_max(x, 0)), lambda low, high: (x - low) / (high - low + 1e-3))


def of_products(tf, x, training):
    def statistics():
        n = tf.cast(tf.shape(x)[0], tf.float32)
        mean = tf.matmul(tf.ones([1, tf.shape(x)[0]]), x)[0] / n
        return mean, tf.einsum("nc,nc->c", x - mean, x - mean) / n

    return averaging(tf, x, training, statistics, lambda mean, variance: normalised(tf, x, mean, variance))


def network(tf, norm, training):
    x = tf.placeholder(tf.float32, [None, 6], name="x")
    h = x
    for i, width in enumerate((8, 7)):
        with tf.variable_scope(f"layer{i}"):
            h = tf.nn.relu(norm(tf, dense(tf, h, width, "dense"), training))
    return x, tf.nn.softmax(dense(tf, h, 4, "out"), name="y")


HAND_WRITTEN = [
    by_hand, by_hand_subtracting, by_hand_adding, by_assign_moving_average, with_zero_debias, with_bessels_correction, with_mean_and_squares,
    by_a_decay_that_is_fed, by_the_mean_of_all, with_bessels_correction_for_any_batch, with_bessels_correction_by_size, shifted_by_the_average,
    weighted, taken_twice, over_axes_counted_from_the_last, of_the_inverse_deviation, of_the_logarithm, of_the_clipped_deviation,
    of_the_unbiased_variance, of_absolute_deviations, of_extremes, of_products,
]  # fmt: skip


@pytest.mark.parametrize("resource", [False, True])
@pytest.mark.parametrize("norm", HAND_WRITTEN)
def test_moving_statistics_take_the_place_of_the_batchs(tf, live, norm, resource):
    def build(training):
        x, y = network(tf, norm, training)
        return Net({x: rows(8, 6)}, [y])

    saved = live(lambda: build(True), resource=resource)
    (expected,) = live.outputs(lambda: build(False), saved.variables, resource=resource)
    program = saved.matches(expected={"y": expected})
    assert sorted(s["variable"] for s in program.conversion["statistics"]) == [
        "layer0/moving_mean", "layer0/moving_variance", "layer1/moving_mean", "layer1/moving_variance"
    ]  # fmt: skip
    assert program.conversion["unfolded"] == []
    assert "uses_batch" not in program.conversion


def test_the_mean_of_what_devices_find_in_their_parts_of_the_batch(tf, live):
    """Batch norm across devices: each keeps a batch norm of its own, with the same averages."""

    def build(training):
        x, y = network(tf, over_two_devices, training)
        return Net({x: rows(8, 6)}, [y])

    saved = live(lambda: build(True))
    (expected,) = live.outputs(lambda: build(False), saved.variables)
    assert "uses_batch" not in saved.matches(expected={"y": expected}).conversion


@pytest.mark.parametrize("norm", HAND_WRITTEN[:4])
def test_the_whole_training_graph_around_it(tf, live, norm):
    def build(training):
        x, y = network(tf, norm, training)
        if training:
            labels = tf.placeholder(tf.int64, [None], name="labels")
            loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=tf.log(y)))
            tf.train.AdamOptimizer(0.01).minimize(loss)
            tf.summary.scalar("loss", loss)
            tf.summary.histogram("y", y)
        return Net({x: rows(8, 6)}, [y])

    saved = live(lambda: build(True))
    (expected,) = live.outputs(lambda: build(False), saved.variables)
    saved.matches(expected={"y": expected})


@pytest.mark.parametrize("zero_debias", [False, True])
def test_exponential_moving_average(tf, live, zero_debias):
    """The seed's own: ema.apply([mean, variance]), without a condition."""

    def norm(tf, x, training):
        ema = tf.train.ExponentialMovingAverage(0.9, zero_debias=zero_debias)
        mean, variance = tf.nn.moments(x, [0], name="moments")
        update = ema.apply([mean, variance])
        if not training:
            return normalised(tf, x, ema.average(mean), ema.average(variance))
        with tf.control_dependencies([update]):
            return normalised(tf, x, tf.identity(mean), tf.identity(variance))

    def build(training):
        x, y = network(tf, norm, training)
        return Net({x: rows(8, 6)}, [y])

    saved = live(lambda: build(True))
    (expected,) = live.outputs(lambda: build(False), saved.variables)
    saved.matches(expected={"y": expected})


@pytest.mark.parametrize("same", [False, True], ids=["of other values", "of the same values"])
def test_two_averages_of_one_statistic_are_told_of(tf, live, same):
    """Two objects that average, with decays of their own; nothing says which of them inference takes."""

    def norm(tf, x, training):
        averages = [tf.train.ExponentialMovingAverage(decay, name=f"decay{i}") for i, decay in enumerate((0.9, 0.5))]
        mean, variance = tf.nn.moments(x, [0], name="moments")
        updates = [average.apply([mean, variance]) for average in averages]
        with tf.control_dependencies(updates):
            return normalised(tf, x, tf.identity(mean), tf.identity(variance))

    def build():
        x, y = network(tf, norm, True)
        return Net({x: rows(8, 6)}, [y])

    values = live(build).variables
    if same:
        values = {name: values[name.replace("decay1", "decay0")] for name in values}
    told = [text for text in live(build, values).convert().conversion["warnings"] if "several moving averages" in text]
    assert len(told) == (0 if same else 4)
    assert all("decay0 was taken, and not" in text and text.endswith("decay1") for text in told)


def held_and_averaged(tf, x, training, *, reads_held):
    """Ladder networks and the first DCGAN: a variable holds the last batch's statistic, and what is averaged is that variable."""
    ema = tf.train.ExponentialMovingAverage(0.9)
    held_mean, held_variance = stored(tf, x)
    ema.apply([held_mean, held_variance])
    if not training:
        return normalised(tf, x, ema.average(held_mean), ema.average(held_variance))
    mean, variance = tf.nn.moments(x, [0])
    tf.summary.histogram("held_mean", held_mean)  # which takes it too, and is no part of the network
    tf.summary.scalar("held_variance", tf.reduce_mean(held_variance))
    with tf.control_dependencies([tf.assign(held_mean, mean), tf.assign(held_variance, variance)]):
        return normalised(tf, x, held_mean, held_variance) if reads_held else normalised(tf, x, mean, variance)


@pytest.mark.parametrize("resource", [False, True])
@pytest.mark.parametrize("reads_held", [False, True])
def test_a_variable_that_holds_the_last_batchs_statistic_gives_way_to_its_average(tf, live, reads_held, resource):
    def build(training):
        x, y = network(tf, lambda tf, x, training: held_and_averaged(tf, x, training, reads_held=reads_held), training)
        if training:
            labels = tf.placeholder(tf.int64, [None], name="labels")
            tf.train.AdamOptimizer(0.01).minimize(tf.losses.sparse_softmax_cross_entropy(labels, tf.log(y)))
        return Net({x: rows(8, 6)}, [y])

    saved = live(lambda: build(True), resource=resource)
    (expected,) = live.outputs(lambda: build(False), saved.variables, resource=resource)
    program = saved.matches(expected={"y": expected})
    assert {s["variable"] for s in program.conversion["statistics"]} == {
        f"layer{i}/layer{i}/moving_{what}/ExponentialMovingAverage" for i in (0, 1) for what in ("mean", "variance")
    }


def test_a_variable_that_inference_itself_reads_stays_though_it_has_an_average(tf, live):
    """Averages of all variables (Polyak), in a network whose statistics are those of the last batch."""

    def norm(tf, x, training):
        held_mean, held_variance = stored(tf, x)
        mean, variance = tf.nn.moments(x, [0])

        def of_the_batch():
            with tf.control_dependencies([tf.assign(held_mean, mean), tf.assign(held_variance, variance)]):
                return tf.identity(mean), tf.identity(variance)

        return normalised(tf, x, *tf.cond(training, of_the_batch, lambda: (tf.identity(held_mean), tf.identity(held_variance))))

    def build():
        training = tf.placeholder(tf.bool, [], name="training")
        x, y = network(tf, norm, training)
        tf.train.ExponentialMovingAverage(0.9).apply(tf.global_variables())
        return Net({x: rows(8, 6)}, [y], {training: False})

    live(build).matches()


def test_averages_of_the_moving_statistics_are_not_taken_for_them(tf, live):
    """ema.apply(tf.trainable_variables() + tf.moving_average_variables()), as slim's training scripts do."""

    def build(training):
        x, y = network(tf, by_hand, training)
        tf.train.ExponentialMovingAverage(0.9).apply(tf.global_variables())
        return Net({x: rows(8, 6)}, [y])

    saved = live(lambda: build(True))
    (expected,) = live.outputs(lambda: build(False), saved.variables)
    program = saved.matches(expected={"y": expected})
    assert not program.conversion["averages"]["taken"]


@pytest.mark.parametrize("fused", [False, True])
def test_tf_layers(tf, live, fused):
    def build(training):
        x = tf.placeholder(tf.float32, [None, 5, 5, 2], name="x")
        h = tf.layers.conv2d(x, 4, 3, name="conv")
        h = tf.nn.relu(tf.layers.batch_normalization(h, training=training, fused=fused, momentum=0.9, name="bn"))
        y = tf.layers.dense(tf.reshape(h, [-1, 36]), 3, name="out")
        return Net({x: rows(8, 5, 5, 2)}, [y])

    saved = live(lambda: build(True))
    (expected,) = live.outputs(lambda: build(False), saved.variables)
    program = saved.matches(expected={"out/BiasAdd": expected})
    assert [layer.op for layer in program.layers if layer.op == "ScaleShift"] == []


@pytest.mark.parametrize("flag", ["placeholder", "baked"])
@pytest.mark.parametrize("fused", [False, True])
def test_slim(tf, live, slim, fused, flag):
    def build(training):
        x = tf.placeholder(tf.float32, [None, 5, 5, 2], name="x")
        is_training = tf.placeholder(tf.bool, name="is_training") if flag == "placeholder" else training
        params = {"is_training": is_training, "decay": 0.9, "fused": fused, "scale": True}
        h = slim.conv2d(x, 4, 3, normalizer_fn=slim.batch_norm, normalizer_params=params, scope="conv")
        y = slim.fully_connected(slim.flatten(h), 3, activation_fn=None, scope="out")
        return Net({x: rows(8, 5, 5, 2)}, [y], {is_training: False} if flag == "placeholder" else {})

    saved = live(lambda: build(True))
    (expected,) = live.outputs(lambda: build(False), saved.variables)
    saved.matches(expected={"out/BiasAdd": expected})


def test_statistics_of_the_batch_that_nobody_averages_stay(tf, live):
    def build():
        x, y = network(tf, lambda tf, h, _: normalised(tf, h, *tf.nn.moments(h, [0])), True)
        return Net({x: rows(8, 6)}, [y])

    program = live(build).matches()
    assert program.conversion["warnings"][0].startswith("scores depend on the batch: layer0/moments/mean, layer0/moments/variance")
    assert len(program.conversion["uses_batch"]) == 4


def test_one_layer_keeps_the_batchs_statistics(tf, live):
    def norm(tf, x, training):
        if "layer0" in tf.get_variable_scope().name:
            return normalised(tf, x, *tf.nn.moments(x, [0]))
        return by_hand(tf, x, training)

    def build(training):
        x, y = network(tf, norm, training)
        return Net({x: rows(8, 6)}, [y])

    saved = live(lambda: build(True))
    (expected,) = live.outputs(lambda: build(False), saved.variables)
    program = saved.matches(expected={"y": expected})
    assert all(name.startswith("layer0") for name in program.conversion["uses_batch"])


def test_a_mean_over_the_batch_whose_axis_is_counted_from_the_last_is_told_of(tf, live):
    def build():
        x, y = network(tf, lambda tf, h, _: normalised(tf, h, *tf.nn.moments(h, [-2])), True)
        return Net({x: rows(8, 6)}, [y])

    assert "scores depend on the batch: layer0/moments/mean" in live(build).matches().conversion["warnings"][0]


@pytest.mark.parametrize("over_batch", [lambda tf, h: tf.reduce_max(h, 0), lambda tf, h: tf.matmul(h, h, transpose_a=True)[0]], ids=["Max", "MatMul"])
def test_whatever_the_batch_decides_is_told_of(tf, live, over_batch):
    def build():
        x = tf.placeholder(tf.float32, [None, 6], name="x")
        h = dense(tf, x, 4, "one")
        return Net({x: rows(8, 6)}, [tf.matmul(h + over_batch(tf, h), tf.get_variable("w", [4, 3]), name="y")])

    assert "scores depend on the batch" in live(build).matches().conversion["warnings"][0]


def test_what_is_no_statistic_of_the_batch_is_not_told_of(tf, live):
    """Numbers of rows, and the longest of several lengths."""

    def build():
        x, lengths = tf.placeholder(tf.float32, [None, 5, 4], name="x"), tf.placeholder(tf.int32, [None], name="lengths")
        steps = tf.range(5)[None, :, None] + 0 * tf.reduce_max(lengths)
        h = x * tf.cast(steps < lengths[:, None, None], tf.float32)
        return Net({x: rows(3, 5, 4), lengths: [1, 5, 2]}, [tf.reduce_sum(tf.tensordot(h, tf.get_variable("w", [4, 3]), 1), 1, name="y")])

    assert live(build).matches().conversion["warnings"] == []


def test_a_mean_over_steps_that_come_first_is_none_over_the_batch(tf, live):
    def build():
        x = tf.placeholder(tf.float32, [5, None, 4], name="x")
        return Net({x: rows(5, 3, 4)}, [tf.matmul(tf.reduce_mean(x, 0) + tf.reduce_max(x, 0), tf.get_variable("w", [4, 3]), name="y")])

    assert live(build).matches().conversion["warnings"] == []


def test_averages_of_statistics_that_are_put_together(tf, live):
    def norm(tf, x, training):
        ema = tf.train.ExponentialMovingAverage(0.9)
        both = tf.stack(tf.nn.moments(x, [0]), name="variance")
        ema.apply([both])
        return normalised(tf, x, *tf.unstack(tf.abs(both if training else ema.average(both))))

    def build(training):
        x, y = network(tf, norm, training)
        return Net({x: rows(8, 6)}, [y])

    saved = live(lambda: build(True))
    (expected,) = live.outputs(lambda: build(False), saved.variables)
    assert "uses_batch" not in saved.matches(expected={"y": expected}).conversion


def test_a_fused_batch_norm_that_averages_by_itself(tf, live):
    """exponential_avg_factor: what it gives beside its result is the average, moved already."""

    def build(training):
        x = h = tf.placeholder(tf.float32, [None, 6, 6, 2], name="x")
        for i, channels in enumerate((4, 5)):
            with tf.variable_scope(f"layer{i}"):
                h = tf.nn.conv2d(h, tf.get_variable("k", [3, 3, int(h.shape[-1]), channels]), [1, 1, 1, 1], "SAME")
                gamma, beta = (tf.get_variable(n, [channels]) for n in ("gamma", "beta"))
                mean, variance = stored(tf, h)
                settings = {"exponential_avg_factor": 0.1} if training else {"is_training": False}
                h, *moved = tf.nn.fused_batch_norm(h, gamma, beta, mean=mean, variance=variance, **settings)
                for variable, value in zip((mean, variance), moved, strict=True) if training else ():
                    tf.assign(variable, value)
                h = tf.nn.relu(h)
        return Net({x: rows(4, 6, 6, 2)}, [tf.reduce_mean(h, [1, 2], name="y")])

    saved = live(lambda: build(True))
    (expected,) = live.outputs(lambda: build(False), saved.variables)
    saved.matches(expected={"y": expected})


def test_rows_that_stand_in_columns(tf, live):
    """x is features × any number of rows, as W·x + b has them: the batch's axis is the second."""

    def build(training):
        x = h = tf.placeholder(tf.float32, [6, None], name="x")
        for i, (width, units) in enumerate(((6, 8), (8, 7))):
            with tf.variable_scope(f"layer{i}"):
                h = tf.matmul(tf.get_variable("w", [units, width]), h)
                kept = [tf.get_variable(n, [units, 1], trainable=False) for n in ("moving_mean", "moving_variance")]
                statistics = tf.nn.moments(h, [1], keep_dims=True)
                for variable, statistic in zip(kept, statistics, strict=True):
                    tf.assign(variable, variable * 0.9 + statistic * 0.1)
                beta, gamma = (tf.get_variable(n, [units, 1]) for n in ("beta", "gamma"))
                h = tf.nn.tanh(tf.nn.batch_normalization(h, *(statistics if training else kept), beta, gamma, 1e-3))
        return Net({x: rows(6, 5)}, [tf.matmul(tf.get_variable("out", [3, 7]), h, name="y")])

    saved = live(lambda: build(True))
    (expected,) = live.outputs(lambda: build(False), saved.variables)
    assert "uses_batch" not in saved.matches(expected={"y": expected}).conversion


@pytest.mark.parametrize("cond_v2", [False, True])
@pytest.mark.parametrize("choice", ["auto", "moving"])
def test_where_a_flag_moves_averages_that_inference_does_not_take_it_takes_the_batchs(tf, live, choice, cond_v2):
    """As some forget it: the averages are kept, and the batch's own statistics normalise whatever the flag says. TensorFlow's scores are these."""

    def build(stored_ones=False):
        phase = tf.placeholder(tf.bool, [], name="phase")

        def norm(tf, x, training):
            kept, statistics = list(stored(tf, x)), tf.nn.moments(x, [0])

            def move():
                return tf.group(*(tf.assign(v, v * 0.9 + s * 0.1) for v, s in zip(kept, statistics, strict=True)))

            with tf.control_dependencies([tf.cond(phase, move, tf.no_op)]):
                return normalised(tf, x, *map(tf.identity, kept if stored_ones else statistics))

        x, y = network(tf, norm, True)
        return Net({x: rows(8, 6)}, [y], {phase: False})

    saved = live(build, cond_v2=cond_v2)
    if choice == "moving":
        (expected,) = live.outputs(lambda: build(True), saved.variables, cond_v2=cond_v2)
        saved.matches(statistics="moving", expected={"y": expected})
    else:
        assert "(layer0/moving_mean), which --statistics moving takes instead" in saved.matches().conversion["warnings"][0]


@pytest.mark.parametrize("shapes", [True, False], ids=["noted", "not noted"])
def test_which_axes_are_the_batchs(shapes):
    from bnexport.graph.axes import are_of_batch
    from bnexport.graph.graphdef import Graph, Node, Ref

    def node(name, op, inputs, shape):
        return Node(name, op, [Ref(n) for n in inputs], [], {"_output_shapes": [shape]} if shapes else {})

    graph = Graph(
        {n.name: n for n in [node("w", "VariableV2", [], [6, 4]), node("x", "MatMul", ["w", "w"], [None, 4]), node("y", "Relu", ["x"], [None, 4])]}
    )
    assert are_of_batch(graph, Ref("y"), [-2])
    assert not are_of_batch(graph, Ref("y"), [-1])


@pytest.mark.parametrize("choice", ["batch", "moving"])
def test_the_user_chooses(tf, live, choice):
    def build(training):
        x, y = network(tf, by_hand_subtracting, training)
        return Net({x: rows(8, 6)}, [y])

    saved = live(lambda: build(True))
    (expected,) = live.outputs(lambda: build(choice == "batch"), saved.variables)
    program = saved.matches(expected={"y": expected}, statistics=choice)
    assert any("--statistics moving takes instead" in w for w in program.conversion["warnings"]) == (choice == "batch")


def test_that_the_user_chose_what_is_not_there_is_said(tf, live):
    """The graph has the moving statistics already."""

    def build():
        x, y = network(tf, by_hand, False)
        return Net({x: rows(8, 6)}, [y])

    saved = live(build)
    assert "--statistics batch changes nothing: nothing on the way" in saved.matches(statistics="batch").conversion["warnings"][0]
    assert saved.matches(statistics="moving").conversion["warnings"] == []


def test_an_average_of_the_loss_is_no_statistic_of_a_layer(tf, live):
    """Moving averages of the loss and of the weights stand beside batch norm in many training scripts."""

    def build():
        x = tf.placeholder(tf.float32, [None, 6], name="x")
        y = tf.sigmoid(dense(tf, x, 6, "out"), name="y")
        loss = tf.reduce_mean(tf.square(y - x))
        ema = tf.train.ExponentialMovingAverage(0.9)
        with tf.control_dependencies([ema.apply([loss, *tf.trainable_variables()])]):
            tf.summary.scalar("smooth", ema.average(loss))
        return Net({x: rows(8, 6)}, [y])

    program = live(build).matches()
    assert program.conversion["statistics"] == []


def test_a_running_centre_of_features_is_not_put_in_place_of_them(tf, live):
    """A variable that follows the mean of a layer for a penalty: the layer itself is not normalised by it."""

    def build():
        x = tf.placeholder(tf.float32, [None, 6], name="x")
        h = dense(tf, x, 4, "one")
        centre = tf.get_variable("centre", [4], trainable=False)
        tf.assign(centre, centre * 0.9 + tf.reduce_mean(h, 0) * 0.1)
        y = tf.nn.softmax(dense(tf, tf.nn.relu(h - centre), 3, "two"), name="y")
        return Net({x: rows(8, 6)}, [y])

    live(build).matches()


def test_a_sum_that_is_kept_over_batches_is_not_put_in_place_of_the_batchs(tf, live):
    def build():
        x = tf.placeholder(tf.float32, [None, 6], name="x")
        h = dense(tf, x, 4, "one")
        total = tf.reduce_sum(h, 0)
        tf.add_to_collection("u", tf.assign_add(tf.get_variable("total", [4], trainable=False), total))
        tf.add_to_collection("u", tf.assign(seen := tf.get_variable("seen", [4], trainable=False), seen + total * 0.1))
        return Net({x: rows(5, 6)}, [tf.nn.softmax(h - total / 5.0, name="y")])

    program = live(build).matches()
    assert program.conversion["statistics"] == []
    assert "scores depend on the batch" in program.conversion["warnings"][0]


@pytest.mark.parametrize("kept", ["all", "decaying"])
def test_sums_weighted_by_the_size_of_the_batch_are_no_averages(tf, live, kept):
    """Σ n · mean, which the author divides by the number of all rows elsewhere; it goes with the size of the batch."""

    def norm(tf, x, training):
        mean, variance = tf.nn.moments(x, [0])
        size = tf.cast(tf.shape(x)[0], tf.float32)
        for total, statistic in zip(stored(tf, x), (mean, variance), strict=True):
            tf.assign(total, total + statistic * size if kept == "all" else total * 0.9 + statistic * size * 0.1)
        return normalised(tf, x, mean, variance)

    def build():
        x, y = network(tf, norm, True)
        return Net({x: rows(8, 6)}, [y])

    program = live(build).matches()
    assert program.conversion["statistics"] == []
    assert "scores depend on the batch" in program.conversion["warnings"][0]


def test_a_momentum_that_the_flag_sets_to_one(tf, live):
    """The update does nothing at inference, and is an average all the same."""

    def build(training):
        x = tf.placeholder(tf.float32, [None, 6], name="x")
        h = dense(tf, x, 4, "one")
        mean, variance = stored(tf, h)
        if not training:
            return Net({x: rows(5, 6)}, [tf.identity(normalised(tf, h, mean, variance), name="y")])
        flag = tf.placeholder_with_default(True, [], name="training")
        noisy = tf.cond(flag, lambda: tf.nn.dropout(h, 0.5), lambda: tf.identity(h))
        momentum = tf.cond(flag, lambda: tf.constant(0.9), lambda: tf.constant(1.0))
        moments = tf.nn.moments(noisy, [0])
        for variable, statistic in zip((mean, variance), moments, strict=True):
            tf.add_to_collection("u", tf.assign(variable, variable * momentum + statistic * (1.0 - momentum)))
        return Net({x: rows(5, 6)}, [tf.identity(normalised(tf, noisy, *moments), name="y")])

    saved = live(lambda: build(True))
    (expected,) = live.outputs(lambda: build(False), saved.variables)
    saved.matches(expected={"y": expected}, outputs=["y"])


def test_input_standardised_by_a_running_mean(tf, live):
    """x - moving mean, where the moving mean is read before it is written: no batch statistic on the way at all."""

    def build():
        x = tf.placeholder(tf.float32, [None, 6], name="x")
        moving_mean, moving_variance = stored(tf, x)
        mean, variance = tf.nn.moments(x, [0])
        tf.assign(moving_mean, moving_mean * 0.9 + mean * 0.1)
        tf.assign(moving_variance, moving_variance * 0.9 + variance * 0.1)
        y = tf.nn.softmax(dense(tf, (x - moving_mean) / tf.sqrt(moving_variance + 1e-8), 3, "out"), name="y")
        return Net({x: rows(8, 6)}, [y])

    program = live(build).matches()
    assert [layer.op for layer in program.layers] == ["Dense"]


def test_statistics_that_were_never_updated_are_warned_of(tf, live):
    def build():
        x, y = network(tf, by_hand, False)
        return Net({x: rows(8, 6)}, [y])

    untouched = {f"layer{i}/{n}": np.full(w, v, np.float32) for i, w in enumerate((8, 7)) for n, v in (("moving_mean", 0), ("moving_variance", 1))}
    program = live(build, untouched).matches()
    assert "layer0/moving_mean and layer0/moving_variance are still 0 and 1: training never updated them" in program.conversion["warnings"][0]


@pytest.mark.parametrize("resource", [False, True])
def test_a_variable_that_is_written_before_it_is_read_is_warned_of(tf, live, resource):
    def build():
        x = tf.placeholder(tf.float32, [None, 6], name="x")
        factor = tf.get_variable("factor", [], initializer=tf.constant_initializer(2.0))
        with tf.control_dependencies([factor.assign_add(1.0, name="count") if resource else tf.assign_add(factor, 1.0, name="count")]):
            read = factor.read_value()
        return Net({x: rows(5, 6)}, [tf.multiply(dense(tf, x, 4, "one"), read, name="y")])

    saved = live(build, resource=resource)
    program = saved.matches(expected={"y": saved.expected["y"] * np.float32(2 / 3)})
    assert program.conversion["warnings"] == ["count writes factor before it is read: scores are those of the value in the checkpoint"]


def test_a_fused_batch_norm_in_the_branch_of_training_is_no_output(tf, live):
    """Its averages are moved within the branch as well: nothing of it is inference's."""
    from tensorflow.python.training import moving_averages

    def build():
        x, training = tf.placeholder(tf.float32, [None, 6, 6, 2], name="x"), tf.placeholder(tf.bool, [], name="training")
        gamma, beta, mean, variance = (tf.get_variable(n, [2]) for n in ("gamma", "beta", "moving_mean", "moving_variance"))

        def of_the_batch():
            y, m, v = tf.nn.fused_batch_norm(x, gamma, beta)
            with tf.control_dependencies([moving_averages.assign_moving_average(a, s, 0.9) for a, s in ((mean, m), (variance, v))]):
                return tf.identity(y)

        def of_all():
            return tf.nn.fused_batch_norm(x, gamma, beta, mean=mean, variance=variance, is_training=False)[0]

        h = tf.reshape(tf.cond(training, of_the_batch, of_all), [-1, 72])
        return Net({x: rows(4, 6, 6, 2)}, [tf.nn.softmax(dense(tf, h, 3, "out"), name="y")], {training: False})

    live(build).matches()


def waiting_for_updates_in_a_branch(tf, *, decay_by_flag=False):
    """The averages are updated outside of the condition, and only waited for within it: they move at inference as well."""
    from tensorflow.python.training import moving_averages

    x, training = tf.placeholder(tf.float32, [None, 6], name="x"), tf.placeholder(tf.bool, [], name="training")
    h = dense(tf, x, 4, "one")
    mean, variance = tf.nn.moments(h, [0])
    moving = list(stored(tf, h))
    decay = 1.0 - 0.1 * tf.cast(training, tf.float32) if decay_by_flag else 0.9
    moved = [moving_averages.assign_moving_average(v, s, decay, zero_debias=False) for v, s in zip(moving, (mean, variance), strict=True)]

    def of_the_batch():
        with tf.control_dependencies(moved):
            return tf.identity(mean), tf.identity(variance)

    chosen = tf.cond(training, of_the_batch, lambda: tuple(tf.identity(v) for v in moving))
    return Net({x: rows(5, 6)}, [tf.identity(normalised(tf, h, *chosen), name="y")], {training: False})


def test_averages_that_move_at_inference_too_are_warned_of(tf, live):
    program = live(lambda: waiting_for_updates_in_a_branch(tf)).convert()
    (warning,) = program.conversion["warnings"]
    assert warning.startswith("TensorFlow moves variables whenever it computes these scores, whichever branch it takes (AssignMovingAvg")
    assert "writes moving_mean" in warning
    assert warning.endswith("the scores here are those of the values in the checkpoint")


def test_a_condition_of_control_flow_v2_waits_for_them(tf, live):
    program = live(lambda: waiting_for_updates_in_a_branch(tf), cond_v2=True).convert()
    assert sorted(program.conversion["warnings"]) == [
        "AssignMovingAvg/AssignSubVariableOp writes moving_mean before it is read: scores are those of the value in the checkpoint",
        "AssignMovingAvg_1/AssignSubVariableOp writes moving_variance before it is read: scores are those of the value in the checkpoint",
    ]


def test_a_decay_that_the_flag_sets_to_one_moves_nothing(tf, live):
    program = live(lambda: waiting_for_updates_in_a_branch(tf, decay_by_flag=True)).matches()
    assert program.conversion["warnings"] == []


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("layer0/moving_variance", -0.25, r"the moving variance 'layer0/moving_variance' of the batch norm at .* is negative \(-0.25 at index 2\)"),
        ("layer1/moving_variance", np.nan, "the moving variance 'layer1/moving_variance' .* NaN or infinite"),
        ("layer1/moving_mean", np.inf, "the moving mean 'layer1/moving_mean' .* NaN or infinite"),
    ],
)
def test_statistics_that_no_batch_norm_has_are_refused(tf, live, name, value, words):
    def build():
        x, y = network(tf, by_hand, False)
        return Net({x: rows(8, 6)}, [y])

    broken = np.full(8 if "0" in name else 7, 0.5, np.float32)
    broken[2] = value
    with pytest.raises(BadStatistics, match=words):
        live(build, {name: broken}).convert()


def test_a_negative_variance_that_the_graph_clips_is_not_refused(tf, live):
    """One computed as E[x²] - E[x]² may be, by its rounding, and whoever clips it knows."""

    def build():
        x = tf.placeholder(tf.float32, [None, 6], name="x")
        moving_mean, moving_variance = stored(tf, x)
        return Net({x: rows(5, 6)}, [tf.matmul(normalised(tf, x, moving_mean, tf.maximum(moving_variance, 0.0)), tf.get_variable("w", [6, 2]))])

    saved = live(build, values={"moving_variance": np.array([1, 2, -1e-6, 3, 0, 1], np.float32)})
    saved.matches()


@pytest.mark.parametrize("resource", [False, True])
def test_what_was_just_written_is_the_variable_at_inference(tf, live, resource):
    def build(training):
        x, y = network(tf, by_what_was_just_written, training)
        return Net({x: rows(8, 6)}, [y])

    saved = live(lambda: build(True), resource=resource)
    (expected,) = live.outputs(lambda: build(False), saved.variables, resource=resource)
    program = saved.matches(expected={"y": expected})
    assert program.conversion["unfolded"] == []
    assert "uses_batch" not in program.conversion


def test_sums_of_statistics_are_no_averages_of_them(tf, live):
    """What inference would divide by the number of batches must not be put in place of a mean as it stands."""

    def build():
        x = tf.placeholder(tf.float32, [None, 6], name="x")
        sum_of_means, sum_of_variances = stored(tf, x)
        mean, variance = tf.nn.moments(x, [0])
        tf.assign_add(sum_of_means, mean)
        tf.assign(sum_of_variances, sum_of_variances + variance)
        return Net({x: rows(5, 6)}, [tf.matmul(normalised(tf, x, mean, variance), tf.get_variable("w", [6, 2]), name="y")])

    program = live(build).matches()
    assert program.conversion["statistics"] == []
    assert "scores depend on the batch" in program.conversion["warnings"][0]


@pytest.mark.parametrize(("of_mean", "of_variance"), [(2.0, 1.0), (1.0, 1.3)])
def test_multiples_of_statistics_are_no_averages_of_them(tf, live, of_mean, of_variance):
    """n / (n - 1) is a correction of a variance; no mean has one, and 1.3 is none for any number of rows."""

    def norm(tf, x, training):
        statistics = tf.nn.moments(x, [0])
        for variable, statistic, factor in zip(stored(tf, x), statistics, (of_mean, of_variance), strict=True):
            tf.assign(variable, variable * 0.9 + statistic * factor * 0.1)
        return normalised(tf, x, *statistics)

    def build():
        x, y = network(tf, norm, True)
        return Net({x: rows(8, 6)}, [y])

    with pytest.raises(AmbiguousNetwork, match="has a moving average"):
        live(build).convert()


def with_what_the_update_gives(tf, x, training):
    """Training normalises with the averages too, as they are after the update."""
    moving_mean, moving_variance = stored(tf, x)
    if not training:
        return normalised(tf, x, moving_mean, moving_variance)
    mean, variance = tf.nn.moments(x, [0])
    mean = tf.assign(moving_mean, moving_mean * 0.9 + mean * 0.1)
    variance = tf.assign_sub(moving_variance, (moving_variance - variance) * 0.1)
    return normalised(tf, x, mean, variance)


@pytest.mark.parametrize("resource", [False, True])
def test_normalising_with_what_the_update_gives(tf, live, resource):
    def build(training):
        x, y = network(tf, with_what_the_update_gives, training)
        return Net({x: rows(8, 6)}, [y])

    saved = live(lambda: build(True), resource=resource)
    (expected,) = live.outputs(lambda: build(False), saved.variables, resource=resource)
    assert "uses_batch" not in saved.matches(expected={"y": expected}).conversion


def test_the_batchs_variance_does_not_go_with_the_moving_mean(tf, live):
    """What is averaged is no variance, so that nothing could take the variance's place."""

    def norm(tf, x, training):
        mean, variance = tf.nn.moments(x, [0])
        moving_mean, moving_precision = stored(tf, x)
        tf.assign(moving_mean, moving_mean * 0.9 + mean * 0.1)
        tf.assign(moving_precision, moving_precision * 0.9 + tf.rsqrt(variance) * 0.1)
        return normalised(tf, x, mean, variance)

    def build():
        x, y = network(tf, norm, True)
        return Net({x: rows(8, 6)}, [y])

    saved = live(build)
    with pytest.raises(AmbiguousNetwork) as raised:
        saved.convert()
    assert "'layer1/moments/Squeeze' has a moving average, 'layer1/moving_mean', but none was found of 'layer1/moments/variance'" in str(raised.value)
    assert "--statistics batch" in str(raised.value)
    saved.matches(statistics="batch")


def test_batch_renormalization_saved_from_training_is_refused(tf, live):
    def build():
        x = tf.placeholder(tf.float32, [None, 6], name="x")
        h = tf.layers.batch_normalization(dense(tf, x, 8, "one"), training=True, renorm=True)
        return Net({x: rows(8, 6)}, [dense(tf, tf.nn.relu(h), 4, "two")])

    with pytest.raises(AmbiguousNetwork, match="batch renormalisation"):
        live(build).convert()


@pytest.mark.parametrize("per_channel", [False, True])
def test_the_range_of_a_fake_quantisation_that_training_is_moving(tf, live, per_channel):
    """That of activations is an average, that of weights the last one; training quantises with what it has just assigned, and evaluation does not."""

    def limits(x, training, assign):
        names = {"min": -1.5, "max": 1.25}
        shape = [int(x.shape[-1])] if per_channel else []
        kept = {name: tf.get_variable(name, shape, initializer=tf.constant_initializer(start), trainable=False) for name, start in names.items()}
        if not training:
            return kept["min"], kept["max"]
        axes = [0] if per_channel else None
        return assign(kept["min"], tf.reduce_min(x, axes)), assign(kept["max"], tf.reduce_max(x, axes))

    def moved(variable, now):
        return tf.assign_sub(variable, 0.1 * (variable - now))

    def build(training):
        quantised = tf.quantization.fake_quant_with_min_max_vars_per_channel if per_channel else tf.quantization.fake_quant_with_min_max_vars
        x = h = tf.placeholder(tf.float32, [None, 6], name="x")
        for i in range(2):
            with tf.variable_scope(f"layer{i}"):
                kernel = tf.get_variable("kernel", [6, 6])
                with tf.variable_scope("weights_quant"):
                    kernel = quantised(kernel, *limits(kernel, training, tf.assign), narrow_range=True)
                h = tf.nn.relu(tf.matmul(h, kernel))
                with tf.variable_scope("act_quant"):
                    h = quantised(h, *limits(h, training, moved))
        return Net({x: rows(8, 6)}, [tf.identity(h, name="y")])

    ranges = {f"layer{i}/{of}_quant/{end}": sign for i in range(2) for of in ("weights", "act") for end, sign in (("min", -1), ("max", 1))}
    values = {name: np.float32(sign) * np.linspace(1, 1.5, 6, dtype=np.float32)[: None if per_channel else 1] for name, sign in ranges.items()}
    values = {name: value if per_channel else value[0] for name, value in values.items()}
    saved = live(lambda: build(True), values)
    (expected,) = live.outputs(lambda: build(False), saved.variables)
    program = saved.matches(expected={"y": expected})
    assert sorted(s["variable"] for s in program.conversion["statistics"]) == sorted(ranges)


WEIGHED = {
    "by a constant": lambda tf, h, mean: 0.5 * h + 0.5 * mean,
    "by a share that is fed": lambda tf, h, mean: (share := tf.placeholder_with_default(np.float32(0.3), [], "share")) * h + (1 - share) * mean,
    "by a share, against a weight": lambda tf, h, mean: (
        h - (share := tf.placeholder_with_default(np.float32(0.3), [], "share")) * mean - (1 - share) * tf.get_variable("learnt", [1, 4])
    ),
}


@pytest.mark.parametrize("kind", WEIGHED)
def test_what_weighs_the_batchs_mean_need_be_no_flag(tf, live, kind):
    """It does so in training and at inference alike."""

    def build():
        x = tf.placeholder(tf.float32, [None, 8], name="x")
        h = dense(tf, x, 4, "one")
        return Net({x: rows(6, 8)}, [dense(tf, WEIGHED[kind](tf, h, tf.reduce_mean(h, 0, keepdims=True)), 3, "two")])

    program = live(build).matches()
    assert program.conversion["set"] == []
    assert program.conversion["warnings"] == ["scores depend on the batch: Mean takes statistics over it, in TensorFlow as here"]


def test_a_last_layer_whose_averages_only_training_moves(tf, live):
    """The batch's statistics normalise at inference as well; they are no losses, though no weight comes after them."""

    def build():
        x, training = tf.placeholder(tf.float32, [None, 8], name="x"), tf.placeholder(tf.bool, [], name="training")
        h = dense(tf, x, 4, "one")
        moments = tf.nn.moments(h, [0])
        averages = [tf.get_variable(name, [4], trainable=False) for name in ("moving_mean", "moving_variance")]
        tf.cond(training, lambda: tf.group(*(tf.assign(a, 0.9 * a + 0.1 * m) for a, m in zip(averages, moments, strict=True))), tf.no_op)
        return Net({x: rows(6, 8)}, [tf.nn.relu((h - moments[0]) / tf.sqrt(moments[1] + 1e-3), name="y")], {training: False})

    (warning,) = live(build).matches().conversion["warnings"]
    assert "take statistics over it, in TensorFlow as here; the graph keeps averages of them" in warning


def test_a_mean_over_an_open_length_is_none_over_the_batch(tf, live):
    def build():
        x = tf.placeholder(tf.int32, [None, None], name="x")
        words = tf.nn.embedding_lookup(tf.get_variable("words", [7, 4]), x)
        return Net({x: np.arange(18).reshape(3, 6) % 7}, [dense(tf, tf.reduce_mean(words, 1), 3, "out")])

    assert live(build).matches().conversion["warnings"] == []
