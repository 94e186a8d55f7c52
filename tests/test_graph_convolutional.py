"""Convolutional networks with what their losses, metrics and summaries make of the output, and with batch norms of both modes in conditions."""

import pytest
from live_graph import Net, rows

from bnexport.errors import AmbiguousNetwork, UnsupportedOps

pytestmark = pytest.mark.tensorflow
IMAGES = rows(3, 8, 8, 2)
NETWORKS = []


def network(build):
    """Adds a network to those that convert without flags and match."""
    NETWORKS.append(build)
    return build


def images(tf):
    return tf.placeholder(tf.float32, [None, 8, 8, 2], name="x")


def conv(tf, x, channels, name, size=3, padding="SAME"):
    kernel = tf.get_variable(f"{name}/w", [size, size, int(x.shape[-1]), channels])
    return tf.nn.bias_add(tf.nn.conv2d(x, kernel, [1, 1, 1, 1], padding), tf.get_variable(f"{name}/b", [channels]))


def sparse_loss(tf, logits):
    labels = tf.placeholder(tf.int64, [None], name="labels")
    tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(logits=logits, labels=labels))
    return labels


@network
def a_fully_convolutional_classifier(tf):
    """Logits of one pixel, without the pixel's axes."""
    x = images(tf)
    y = tf.squeeze(conv(tf, tf.nn.relu(conv(tf, x, 4, "a")), 3, "b", 8, "VALID"), [1, 2], name="logits")
    sparse_loss(tf, y)
    return Net({x: IMAGES}, [y])


@network
def joints_whose_places_are_measured(tf):
    """A place is the index of the greatest value // width, and % width."""
    x, wanted = images(tf), tf.placeholder(tf.float32, [None, 8, 8, 2], name="wanted")
    heat = tf.identity(conv(tf, x, 2, "heat"), name="y")
    tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(logits=heat, labels=wanted))
    for example in (0, 1):
        places = []
        for maps in (heat, wanted):
            index = tf.argmax(tf.reshape(maps[example, :, :, 1], [-1]), 0)
            places.append((index // 8, index % 8))
        tf.sqrt(tf.add_n([tf.square(tf.cast(a - b, tf.float32)) for a, b in zip(*places, strict=True)]))
    return Net({x: IMAGES}, [heat])


@network
def hard_examples_looked_up(tf):
    """A loss that flattens the scores to look those of the labels up; a metric takes them as they are."""
    x = images(tf)
    y = tf.squeeze(tf.nn.softmax(conv(tf, x, 3, "a", 8, "VALID")), [1, 2], name="scores")
    labels = tf.placeholder(tf.int64, [None], name="labels")
    right = tf.gather(tf.reshape(y, [tf.size(y), 1]), tf.range(tf.size(labels, out_type=tf.int64)) * 3 + labels)
    tf.reduce_mean(tf.nn.top_k(tf.squeeze(-tf.log(right + 1e-10)), k=2)[0])
    tf.reduce_mean(tf.cast(tf.equal(tf.argmax(y, 1), labels), tf.float32))
    return Net({x: IMAGES}, [y])


@network
def a_focal_loss_of_anchors(tf):
    x, wanted = images(tf), tf.placeholder(tf.float32, [None, 64, 2], name="wanted")
    logits = tf.reshape(conv(tf, x, 2, "a"), [-1, 64, 2])
    scores = tf.sigmoid(logits, name="y")
    losses = wanted * 0.25 * tf.pow(1 - scores, 2.0) * tf.nn.sigmoid_cross_entropy_with_logits(labels=wanted, logits=logits)
    tf.reduce_sum(losses)
    return Net({x: IMAGES}, [scores])


@network
def an_angular_margin(tf):
    """The margin is only added where the cosine is above a threshold, which a Relu tests that is cast to a truth value."""
    x, wanted = images(tf), tf.placeholder(tf.float32, [None, 3], name="wanted")
    features = tf.nn.l2_normalize(tf.reduce_mean(conv(tf, x, 4, "a"), [1, 2]), 1)
    cosine = tf.matmul(features, tf.nn.l2_normalize(tf.get_variable("centers", [4, 3]), 0), name="cosine")
    sine = tf.sqrt(tf.subtract(1.0, tf.square(cosine)))
    farther = 64.0 * (cosine * 0.88 - sine * 0.48)
    above = tf.cast(tf.nn.relu(cosine + 0.88), tf.bool)
    logits = 64.0 * cosine * (1.0 - wanted) + tf.where(above, farther, 64.0 * (cosine - 0.24)) * wanted
    tf.reduce_mean(tf.nn.softmax_cross_entropy_with_logits(logits=logits, labels=wanted))
    return Net({x: IMAGES}, [cosine])


@network
def a_score_map_with_its_picture(tf):
    """The summary shows the scores as grey values; the loss takes them as they are."""
    x, wanted = images(tf), tf.placeholder(tf.float32, [None, 8, 8, 1], name="wanted")
    scores = tf.sigmoid(conv(tf, x, 1, "a"), name="y")
    tf.summary.image("scores", scores * 255)
    tf.summary.image("bytes", tf.cast(scores * 255.0, tf.uint8))
    1.0 - 2.0 * tf.reduce_sum(wanted * scores) / (tf.reduce_sum(wanted) + tf.reduce_sum(scores))
    return Net({x: IMAGES}, [scores])


@network
def pictures_as_files(tf):
    x = images(tf)
    picture = tf.clip_by_value(conv(tf, x, 3, "a"), 0.0, 1.0, name="y")
    tf.map_fn(tf.image.encode_png, tf.cast(picture * 255.0, tf.uint8), dtype=tf.string, name="files")
    return Net({x: IMAGES}, [tf.get_default_graph().get_tensor_by_name("mul:0")])


@network
def averaged_weights_with_a_bias_of_one_number(tf):
    """What the average is started with depends on whether the bias has a value, not on its value."""
    x, wanted = images(tf), tf.placeholder(tf.float32, [None, 8, 8, 1], name="wanted")
    y = tf.identity(conv(tf, x, 1, "a"), name="y")
    step = tf.train.GradientDescentOptimizer(0.1).minimize(tf.reduce_mean(tf.square(y - wanted)))
    with tf.control_dependencies([step]):
        tf.train.ExponentialMovingAverage(0.9).apply(tf.trainable_variables())
    return Net({x: IMAGES}, [y])


@network
def batch_norms_of_both_modes_in_a_condition(tf):
    """As tf.contrib.layers.batch_norm is called in tf.cond: once with is_training=True and its updates, once with False."""
    training, x = tf.placeholder(tf.bool, [], name="training"), images(tf)
    h = conv(tf, x, 4, "a")
    gamma, beta, mean, variance = (tf.get_variable(name, [4]) for name in ("gamma", "beta", "moving_mean", "moving_variance"))

    def trained():
        y, batch_mean, batch_variance = tf.nn.fused_batch_norm(h, gamma, beta)
        updates = [tf.assign_sub(v, (v - new) * 0.1) for v, new in ((mean, batch_mean), (variance, batch_variance))]
        with tf.control_dependencies(updates):
            return tf.identity(y)

    used = lambda: tf.nn.fused_batch_norm(h, gamma, beta, mean, variance, is_training=False)[0]  # noqa: E731
    y = conv(tf, tf.nn.relu(tf.cond(training, trained, used)), 3, "b")
    return Net({x: IMAGES}, [y], {training: False})


@network
def a_picture_found_in_another(tf):
    """As in a siamese tracker: what is made of the one picture is the kernel that goes over the other."""
    exemplar, x = tf.placeholder(tf.float32, [2, 4, 4, 2], name="exemplar"), tf.placeholder(tf.float32, [2, 8, 8, 2], name="x")
    with tf.variable_scope("features"):
        small = conv(tf, exemplar, 3, "a")
    with tf.variable_scope("features", reuse=True):
        large = conv(tf, x, 3, "a")
    found = [tf.nn.conv2d(large[i : i + 1], tf.expand_dims(small[i], -1), [1, 1, 1, 1], "VALID") for i in range(2)]
    y = tf.add(tf.concat(found, 0) * 0.01, tf.get_variable("shift", [1]), name="y")
    return Net({exemplar: rows(2, 4, 4, 2), x: rows(2, 8, 8, 2)}, [y])


@network
def a_scale_behind_a_computed_kernel(tf):
    """The scale cannot go into a kernel that is no constant."""
    x, kernel = tf.placeholder(tf.float32, [None, 4, 4, 4, 2], name="x"), tf.placeholder(tf.float32, [2, 2, 2, 2, 3], name="kernel")
    made = tf.nn.relu(kernel * tf.get_variable("gain", [3]))
    y = tf.nn.conv3d(x, made, [1, 1, 1, 1, 1], "SAME") * tf.get_variable("scale", [3]) + tf.get_variable("shift", [3])
    return Net({x: rows(2, 4, 4, 4, 2), kernel: rows(2, 2, 2, 2, 3)}, [tf.identity(y, name="y")])


@pytest.mark.parametrize("build", NETWORKS, ids=lambda build: build.__name__)
def test_matches_without_flags(tf, live, build):
    live(lambda: build(tf)).matches()


def test_the_divergence_of_a_code_is_no_output(tf, live):
    """Half of a layer's result is the deviation's logarithm: the divergence is made of it, and the code too."""

    def build(noise=None):
        x = images(tf)
        flat = tf.layers.flatten(conv(tf, x, 2, "a"))
        mean, spread = tf.layers.dense(flat, 3), 0.5 * tf.layers.dense(flat, 3)
        code = mean + tf.random_normal(tf.shape(mean), name="noise") * tf.exp(spread)
        y = tf.identity(tf.layers.dense(code, 128), name="y")
        distance = tf.reduce_sum(tf.squared_difference(y, tf.reshape(x, [-1, 128])), 1)
        divergence = -0.5 * tf.reduce_sum(1.0 + 2.0 * spread - tf.square(mean) - tf.exp(2.0 * spread), 1)
        tf.reduce_mean(distance + divergence)
        return Net({x: IMAGES}, [y], {tf.get_default_graph().get_tensor_by_name("noise:0"): rows(3, 3) * 0})

    saved = live(build)
    with pytest.raises(UnsupportedOps, match="random numbers: --set noise/RandomStandardNormal=0 takes their mean"):
        saved.convert()
    saved.matches(set_values={"noise/RandomStandardNormal": 0.0})


def test_a_condition_on_the_data(tf, live):
    """A decoded picture's number of channels: no flag, so that the file's name is not asked for."""

    def build():
        file = tf.placeholder(tf.string, [], name="file")
        decoded = tf.image.decode_png(file)
        picture = tf.cond(tf.equal(tf.shape(decoded)[2], 4), lambda: decoded[:, :, :3], lambda: decoded)
        x = tf.expand_dims(tf.reshape(tf.cast(picture, tf.float32), [8, 8, 3]), 0, name="x")
        return Net({x: rows(1, 8, 8, 3)}, [tf.identity(conv(tf, x, 2, "a"), name="y")])

    saved = live(build)
    with pytest.raises(AmbiguousNetwork, match=r"comes from Equal; choose with --set Equal=true\|false, or, .* behind the condition with --input"):
        saved.convert()
    saved.matches(inputs=["x"])


def test_each_picture_by_itself(tf, live):
    """tf.map_fn takes as many steps as there are rows: the message's options serve."""

    def build():
        x = images(tf)
        whitened = tf.map_fn(tf.image.per_image_standardization, x, name="map")
        return Net({x: IMAGES}, [tf.identity(conv(tf, whitened, 2, "a"), name="y")])

    saved = live(build)
    with pytest.raises(UnsupportedOps, match=r"a number of rows is fixed with --shape x=ROWS,8,8,2; .* behind it with --input"):
        saved.convert()
    saved.matches(shapes={"x": [3, 8, 8, 2]})


@pytest.mark.parametrize("named", ["Abs", "ResizeBilinear", "PyFunc"])
def test_an_input_of_another_dtype_than_what_it_is_made_of(tf, live, named):
    """The absolute values of a spectrum, a resized picture of bytes, and what Python makes of text are numbers of 32 bits."""

    def build():
        if named == "Abs":
            x = tf.abs(tf.signal.stft(tf.placeholder(tf.float32, [None, 32]), 16, 8, 16))
        elif named == "ResizeBilinear":
            x = tf.image.resize_bilinear(tf.placeholder(tf.uint8, [None, 5, 5, 2]), [3, 9])
        else:
            x = tf.reshape(tf.py_func(lambda file: rows(1, 3, 9), [tf.placeholder(tf.string, [])], tf.float32), [1, 3, 9])
            x = tf.get_default_graph().get_tensor_by_name("PyFunc:0")
        y = tf.tensordot(tf.reshape(x, [-1, 9]), tf.get_variable("w", [9, 2]), 1, name="y")
        return Net({x: rows(2, 3, 9, 2) if named == "ResizeBilinear" else rows(2, 3, 9)}, [y])

    live(build).matches(inputs=[named], **({"shapes": {named: [None, 3, 9]}} if named == "PyFunc" else {}))
