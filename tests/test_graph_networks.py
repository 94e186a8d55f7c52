"""Whole networks as people write them, each with something on which a rule of the converter might stumble."""

import pytest
from live_graph import Net, dense, rows

from bnexport.errors import AmbiguousNetwork, UnsupportedOps

pytestmark = pytest.mark.tensorflow
X, IMAGES = rows(5, 6), rows(3, 6, 6, 2)
NETWORKS = []


def network(build):
    """Adds a network to those that convert without flags and match."""
    NETWORKS.append(build)
    return build


def vectors(tf):
    return tf.placeholder(tf.float32, [None, 6], name="x")


def images(tf):
    return tf.placeholder(tf.float32, [None, 6, 6, 2], name="x")


def conv(tf, x, channels, size=3):
    return tf.nn.conv2d(x, tf.get_variable("w", [size, size, int(x.shape[-1]), channels]), [1, 1, 1, 1], "SAME")


@network
def keep_computed_from_a_flag(tf):
    training, x = tf.placeholder(tf.bool, [], name="training"), vectors(tf)
    h = tf.nn.dropout(tf.nn.relu(dense(tf, x, 8, "a")), keep_prob=1.0 - 0.5 * tf.cast(training, tf.float32))
    return Net({x: X}, [dense(tf, h, 3, "b")], {training: False})


@network
def dropout_that_is_made_up_for_at_inference(tf):
    """As in the paper of 2014: units are dropped in training, and scaled by keep at inference."""
    training, x = tf.placeholder(tf.bool, [], name="training"), vectors(tf)
    h = tf.nn.relu(dense(tf, x, 8, "a"))
    h = tf.cond(training, lambda: h * tf.floor(0.5 + tf.random_uniform(tf.shape(h))), lambda: h * 0.5)
    return Net({x: X}, [dense(tf, h, 3, "b")], {training: False})


@network
def dropped_connections(tf):
    keep, x, w = tf.placeholder(tf.float32, [], name="keep"), vectors(tf), tf.get_variable("w", [6, 4])
    return Net({x: X}, [tf.matmul(x, tf.nn.dropout(w, keep_prob=keep), name="y")], {keep: 1.0})


@network
def matrices_that_hold_many_zeros(tf):
    x, w, v = vectors(tf), tf.get_variable("w", [6, 4]), tf.get_variable("v", [3, 4])
    h = tf.nn.relu(tf.matmul(tf.layers.batch_normalization(x), w, b_is_sparse=True) + tf.get_variable("b", [4]))
    return Net({x: X}, [tf.matmul(h, v, transpose_b=True, a_is_sparse=True, name="y")])


@network
def dropped_channels(tf):
    keep, x = tf.placeholder(tf.float32, [], name="keep"), images(tf)
    h = conv(tf, x, 4)
    h = tf.nn.dropout(h, keep_prob=keep, noise_shape=[tf.shape(h)[0], 1, 1, 4])
    return Net({x: IMAGES}, [tf.reduce_max(h, [1, 2], name="y")], {keep: 1.0})


@network
def dropped_layers(tf):
    """Stochastic depth: a random condition inside the training side of another."""
    training, x = tf.placeholder(tf.bool, [], name="training"), vectors(tf)
    h = dense(tf, x, 6, "a")
    sometimes = lambda: tf.cond(tf.random_uniform([]) < 0.8, lambda: x + h, lambda: tf.identity(x))  # noqa: E731
    y = tf.cond(training, sometimes, lambda: x + 0.8 * h)
    return Net({x: X}, [dense(tf, y, 3, "b")], {training: False})


@network
def noise_in_a_condition(tf):
    training, x = tf.placeholder(tf.bool, [], name="training"), vectors(tf)
    noise = tf.cond(training, lambda: tf.random_normal(tf.shape(x)), lambda: tf.zeros_like(x))
    return Net({x: X}, [dense(tf, x + noise, 3, "b")], {training: False})


@network
def keras_learning_phase(tf):
    phase, x = tf.placeholder_with_default(False, [], name="keras_learning_phase"), vectors(tf)
    h = dense(tf, x, 8, "a")
    h = tf.cond(phase, lambda: tf.nn.dropout(h, rate=0.4), lambda: tf.identity(h))
    return Net({x: X}, [dense(tf, h, 3, "b")])


@network
def batch_renormalisation(tf):
    training, x = tf.placeholder(tf.bool, [], name="training"), vectors(tf)
    h = dense(tf, x, 8, "a")
    mean, variance = tf.nn.moments(h, [0])
    moving_mean, moving_variance = (tf.get_variable(n, [8], trainable=False) for n in ("moving_mean", "moving_variance"))
    # (run with the training step: as a control dependency of what is computed outside the condition, they would run, and race, at inference too)
    tf.assign(moving_mean, moving_mean * 0.9 + mean * 0.1)
    tf.assign(moving_variance, moving_variance * 0.9 + variance * 0.1)
    spread = tf.sqrt(moving_variance + 1e-3)
    r = tf.stop_gradient(tf.clip_by_value(tf.sqrt(variance + 1e-3) / spread, 0.3, 3.0))
    d = tf.stop_gradient(tf.clip_by_value((mean - moving_mean) / spread, -5, 5))
    trained = (h - mean) / tf.sqrt(variance + 1e-3) * r + d
    y = tf.cond(training, lambda: trained, lambda: (h - moving_mean) / spread)
    return Net({x: X}, [dense(tf, tf.nn.relu(y), 3, "b")], {training: False})


@network
def instance_norm(tf):
    x = images(tf)
    h = conv(tf, x, 4)
    mean, variance = tf.nn.moments(h, [1, 2], keep_dims=True)
    h = (h - mean) * tf.rsqrt(variance + 1e-5) * tf.get_variable("gamma", [4]) + tf.get_variable("beta", [4])
    return Net({x: IMAGES}, [tf.reduce_mean(tf.nn.relu(h), [1, 2], name="y")])


@network
def layer_norm(tf):
    x = vectors(tf)
    h = dense(tf, x, 8, "a")
    mean, variance = tf.nn.moments(h, [-1], keep_dims=True)
    h = (h - mean) * tf.rsqrt(variance + 1e-5) * tf.get_variable("gamma", [8]) + tf.get_variable("beta", [8])
    return Net({x: X}, [dense(tf, tf.nn.relu(h), 3, "b")])


@network
def group_norm(tf):
    x = tf.placeholder(tf.float32, [None, 4, 4, 8], name="x")
    h = tf.reshape(x, [tf.shape(x)[0], 4, 4, 2, 4])
    mean, variance = tf.nn.moments(h, [1, 2, 4], keep_dims=True)
    h = tf.reshape((h - mean) / tf.sqrt(variance + 1e-5), [tf.shape(x)[0], 4, 4, 8]) * tf.get_variable("gamma", [1, 1, 1, 8])
    return Net({x: rows(3, 4, 4, 8)}, [tf.nn.conv2d(h, tf.get_variable("w", [1, 1, 8, 2]), [1, 1, 1, 1], "SAME", name="y")])


@network
def clipped_weights(tf):
    """A Wasserstein critic: assignments clip the weights between steps."""
    x = vectors(tf)
    y = dense(tf, x, 3, "a")
    tf.group(*(tf.assign(v, tf.clip_by_value(v, -0.01, 0.01)) for v in tf.global_variables()))
    return Net({x: X}, [y])


@network
def epsilon_greedy(tf):
    x, epsilon = vectors(tf), tf.placeholder(tf.float32, [], name="epsilon")
    q = tf.identity(dense(tf, x, 3, "a"), name="q")
    anything = tf.random_uniform([tf.shape(x)[0]], 0, 3, tf.int64)
    tf.where(tf.random_uniform([tf.shape(x)[0]]) < epsilon, anything, tf.argmax(q, 1), name="action")
    return Net({x: X}, [q])


@network
def scales_behind_pooling(tf):
    x = images(tf)
    h = tf.nn.max_pool(conv(tf, x, 4), [1, 2, 2, 1], [1, 2, 2, 1], "SAME")
    h = h * tf.get_variable("scale", [4]) + tf.get_variable("shift", [4])
    return Net({x: IMAGES}, [tf.nn.avg_pool(h, [1, 3, 3, 1], [1, 1, 1, 1], "SAME", name="y")])


@network
def prelu_crelu_and_maxout(tf):
    x = vectors(tf)
    h = dense(tf, x, 8, "a")
    h = tf.nn.crelu(tf.nn.relu(h) + tf.get_variable("alpha", [8]) * (h - tf.abs(h)) * 0.5)
    return Net({x: X}, [dense(tf, tf.reduce_max(tf.reshape(h, [-1, 4, 4]), 2), 3, "b")])


@network
def features_and_their_mean(tf):
    x = vectors(tf)
    mean = tf.reduce_mean(x, 1, keepdims=True)
    return Net({x: X}, [dense(tf, tf.concat([x - mean, mean], 1), 3, "a")])


@network
def policy_value_and_entropy(tf):
    """A2C: actions are drawn by Gumbel's trick, and the entropy is a part of the loss that no label is compared to."""
    x, action, gain = vectors(tf), tf.placeholder(tf.int32, [None], name="action"), tf.placeholder(tf.float32, [None], name="gain")
    h = tf.tanh(dense(tf, x, 8, "a"))
    logits, value = dense(tf, h, 3, "policy"), tf.reshape(dense(tf, h, 1, "value"), [-1], name="value_of_state")
    tf.argmax(logits - tf.log(-tf.log(tf.random_uniform(tf.shape(logits)))), 1)
    shifted = logits - tf.reduce_max(logits, 1, keepdims=True)
    total = tf.reduce_sum(tf.exp(shifted), 1, keepdims=True)
    entropy = tf.reduce_mean(tf.reduce_sum(tf.exp(shifted) / total * (tf.log(total) - shifted), 1))
    taken = tf.nn.sparse_softmax_cross_entropy_with_logits(logits=logits, labels=action)
    loss = tf.reduce_mean(gain * taken) - 0.01 * entropy + tf.reduce_mean(tf.square(value - gain))
    tf.train.RMSPropOptimizer(0.01).minimize(loss)
    return Net({x: X}, [logits, value])


@network
def categorical_policy(tf):
    x, action = vectors(tf), tf.placeholder(tf.int32, [None], name="action")
    logits = dense(tf, tf.tanh(dense(tf, x, 8, "a")), 3, "policy")
    policy = tf.distributions.Categorical(logits=logits)
    policy.sample(name="drawn")
    tf.train.AdamOptimizer().minimize(-tf.reduce_mean(policy.log_prob(action) + 0.01 * policy.entropy()))
    return Net({x: X}, [policy.probs])


@network
def policy_gradient_with_the_negative_logarithm(tf):
    x, action, value = vectors(tf), tf.placeholder(tf.int32, [None], name="action"), tf.placeholder(tf.float32, [None], name="value")
    policy = tf.nn.softmax(dense(tf, tf.tanh(dense(tf, x, 8, "a")), 3, "policy"), name="act_prob")
    surprise = tf.reduce_sum(-tf.log(policy) * tf.one_hot(action, 3), axis=1)
    tf.train.AdamOptimizer().minimize(tf.reduce_mean(surprise * value))
    return Net({x: X}, [policy])


@network
def ratings_that_are_filled_up(tf):
    """The loss takes what is missing of the ratings that there are."""
    x, mask = vectors(tf), tf.placeholder(tf.float32, [None, 6], name="mask")
    y = dense(tf, tf.sigmoid(dense(tf, x, 4, "encoder")), 6, "decoder")
    tf.train.AdamOptimizer().minimize(tf.reduce_sum(tf.square((x - y) * mask)))
    return Net({x: X}, [y])


@network
def candidates_beside_an_open_batch(tf):
    """As many as the graph says, however many rows there are."""
    x, candidates = vectors(tf), tf.placeholder(tf.int32, [7], name="candidates")
    h = tf.nn.relu(dense(tf, x, 4, "a"))
    chosen = tf.nn.embedding_lookup(tf.get_variable("items", [20, 4]), candidates)
    return Net({x: X, candidates: [3, 0, 19, 5, 5, 1, 2]}, [tf.matmul(h, chosen, transpose_b=True, name="y")])


@network
def distances_held_against_each_other(tf):
    """The loss takes a relation that holds, and one that does not, and asks for a margin between them."""
    head, tail, relation, wrong = (tf.placeholder(tf.int32, [None], name=name) for name in ("head", "tail", "relation", "wrong"))
    items, relations = tf.get_variable("items", [20, 4]), tf.get_variable("relations", [5, 4])
    unit = lambda table, i: tf.nn.l2_normalize(tf.nn.embedding_lookup(table, i), 1)  # noqa: E731
    distance = lambda a, b: tf.reduce_sum(tf.abs(unit(items, a) + unit(relations, relation) - unit(items, b)), 1, keepdims=True)  # noqa: E731
    y = distance(head, tail)
    tf.train.AdamOptimizer().minimize(tf.reduce_sum(tf.maximum(y - distance(wrong, tail) + 1.0, 0)))
    return Net({head: [1, 5, 7], tail: [2, 0, 19], relation: [0, 4, 2]}, [y])


@network
def scores_held_against_each_other(tf):
    """The sum of a bias and a product is the score itself, and no part of the margin."""
    user, item, wrong = (tf.placeholder(tf.int32, [None], name=name) for name in ("user", "item", "wrong"))
    users, items, biases = tf.get_variable("users", [20, 4]), tf.get_variable("items", [20, 4]), tf.get_variable("biases", [20])
    look = tf.nn.embedding_lookup
    score = lambda i: tf.add(look(biases, i), tf.reduce_sum(look(users, user) * look(items, i), 1))  # noqa: E731
    y = score(item)
    tf.train.AdamOptimizer().minimize(tf.reduce_mean(tf.nn.relu(1.0 - (y - score(wrong)))))
    return Net({user: [1, 5, 7], item: [2, 0, 19]}, [y])


@network
def solution_of_a_differential_equation(tf):
    """The equation is asked for at other points than the data are given at; it multiplies the solution with its derivatives."""
    at, points, labels = (tf.placeholder(tf.float32, [None, 1], name=name) for name in ("at", "points", "labels"))
    speed = tf.get_variable("speed", [1])

    def solution(x):
        with tf.variable_scope("solution", reuse=tf.AUTO_REUSE):
            return dense(tf, tf.tanh(dense(tf, x, 8, "a")), 1, "b")

    y, inside = solution(at), solution(points)
    slope = tf.gradients(inside, points)[0]
    rest = speed * inside * slope - 0.1 * tf.gradients(slope, points)[0]
    tf.train.AdamOptimizer().minimize(tf.reduce_mean(tf.square(y - labels)) + tf.reduce_mean(tf.square(rest)))
    return Net({at: rows(5, 1)}, [y])


@network
def gaussian_policy(tf):
    """Actions are drawn from what the network says, which is its mean and deviation."""
    x, action = vectors(tf), tf.placeholder(tf.float32, [None, 2], name="action")
    h = tf.tanh(dense(tf, x, 8, "a"))
    mean, deviation = tf.tanh(dense(tf, h, 2, "mean")), tf.nn.softplus(dense(tf, h, 2, "deviation")) + 1e-4
    policy = tf.distributions.Normal(mean, deviation, name="policy")
    tf.clip_by_value(tf.squeeze(policy.sample(1), axis=0), -2.0, 2.0)
    tf.train.AdamOptimizer().minimize(-tf.reduce_mean(policy.log_prob(action) + 0.01 * policy.entropy()))
    return Net({x: X}, [policy.loc, policy.scale])


@network
def mixture_density(tf):
    """Of three parts of one layer, one is the mean, which only the loss takes."""
    x, y = vectors(tf), tf.placeholder(tf.float32, [None, 1], name="label")
    weight, mean, deviation = tf.split(dense(tf, tf.tanh(dense(tf, x, 8, "a")), 9, "b"), 3, 1)
    weight, deviation = tf.nn.softmax(weight), tf.exp(deviation)
    density = tf.exp(-tf.square((y - mean) / deviation) / 2) / deviation
    tf.train.AdamOptimizer().minimize(tf.reduce_mean(-tf.log(tf.reduce_sum(density * weight, 1))))
    return Net({x: X}, [weight, mean, deviation])


@network
def contrastive_distance(tf):
    """Siamese networks: the loss squares the distance, and holds it against a margin."""
    one, two, same = (tf.placeholder(tf.float32, shape, name=name) for name, shape in (("one", [None, 6]), ("two", [None, 6]), ("same", [None])))
    with tf.variable_scope("tower", reuse=tf.AUTO_REUSE):
        ends = [dense(tf, tf.nn.relu(dense(tf, x, 8, "a")), 3, "b") for x in (one, two)]
    distance = tf.sqrt(tf.reduce_sum(tf.square(ends[0] - ends[1]), 1) + 1e-6, name="distance")
    loss = tf.reduce_mean(same * tf.square(distance) + (1.0 - same) * tf.square(tf.maximum(1.0 - distance, 0.0)))
    tf.train.AdamOptimizer().minimize(loss)
    return Net({one: X, two: rows(5, 6, seed=9)}, [distance])


@network
def messages_along_edges(tf):
    """A graph network: there are as many rows as nodes in one input, and as edges in the others."""
    x, begin, end = vectors(tf), tf.placeholder(tf.int32, [None], name="begin"), tf.placeholder(tf.int32, [None], name="end")
    messages = tf.nn.relu(dense(tf, tf.gather(x, begin), 4, "a"))
    received = tf.unsorted_segment_sum(messages, end, tf.shape(x)[0])
    return Net({x: X, begin: [0, 1, 2, 4], end: [1, 2, 2, 0]}, [dense(tf, tf.concat([x, received], 1), 3, "b")])


@network
def outputs_of_steps_that_nobody_takes(tf):
    x, label = tf.placeholder(tf.float32, [None, 4, 3], name="x"), tf.placeholder(tf.int32, [None], name="label")
    cells = tf.nn.rnn_cell.BasicLSTMCell(4), tf.nn.rnn_cell.GRUCell(4)
    outputs, _, _ = tf.nn.static_bidirectional_rnn(*cells, tf.unstack(x, 4, 1), dtype=tf.float32)
    logits = dense(tf, outputs[-1], 3, "b")
    tf.train.AdamOptimizer().minimize(tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(logits=logits, labels=label)))
    return Net({x: rows(5, 4, 3)}, [logits])


@network
def positions_up_to_a_length(tf):
    """As GPT-2: texts of any length, but positions are looked up in a table that is shorter than a size that stands for any."""
    x = tf.placeholder(tf.int32, [None, None], name="x")
    words, places = tf.get_variable("words", [20, 4]), tf.get_variable("places", [9, 4])
    number = tf.tile(tf.range(tf.shape(x)[1])[None], [tf.shape(x)[0], 1])
    h = tf.nn.embedding_lookup(words, x) + tf.gather(places, number)
    return Net({x: [[3, 5, 0, 19], [1, 1, 2, 7]]}, [tf.tensordot(h, tf.get_variable("w", [4, 2]), 1, name="y")])


@network
def graph_convolution(tf):
    """The adjacency matrix has as many columns as there are rows."""
    edges, x = tf.placeholder(tf.float32, [None, None], name="edges"), vectors(tf)
    h = tf.nn.relu(tf.matmul(edges, tf.matmul(x, tf.get_variable("a", [6, 4]))))
    return Net({edges: rows(5, 5), x: X}, [tf.matmul(edges, tf.matmul(h, tf.get_variable("b", [4, 3])), name="y")])


@pytest.mark.parametrize("cond_v2", [False, True], ids=["switch_merge", "cond_v2"])
@pytest.mark.parametrize("build", NETWORKS, ids=lambda build: build.__name__)
def test_matches_without_flags(tf, live, build, cond_v2):
    live(lambda: build(tf), cond_v2=cond_v2).matches()


def test_a_generator_and_its_critic_are_two_networks(tf, live):
    def build():
        z, real = tf.placeholder(tf.float32, [None, 4], name="z"), tf.placeholder(tf.float32, [None, 6], name="real")
        with tf.variable_scope("generator"):
            fake = tf.tanh(dense(tf, z, 6, "a"), name="fake")
        scores = []
        for data in (real, fake):
            with tf.variable_scope("critic", reuse=tf.AUTO_REUSE):
                scores.append(dense(tf, data, 1, "a"))
        for score, label in zip(scores, (tf.ones_like, tf.zeros_like), strict=True):
            tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(logits=score, labels=label(score)))
        return Net({z: rows(5, 4)}, [fake])

    saved = live(build)
    with pytest.raises(
        AmbiguousNetwork,
        match=r"the graph holds 2 networks that share no layer; choose one of\n  --output critic/add  \(from real\)\n  --output critic_1/add",
    ):
        saved.convert()
    saved.matches(outputs=["generator/fake"])


def test_noise_of_a_strength_that_is_fed(tf, live):
    def build():
        strength, x = tf.placeholder_with_default(0.1, [], name="strength"), vectors(tf)
        return Net({x: X}, [dense(tf, x + strength * tf.random_normal(tf.shape(x)), 3, "b")])

    with pytest.raises(UnsupportedOps, match="RandomStandardNormal: random_normal/RandomStandardNormal"):
        live(build).convert()


def test_words_looked_up_in_a_resource_variable(tf, live):
    def build():
        words = tf.placeholder(tf.int32, [None, 3], name="words")
        table = tf.get_variable("table", [20, 4], dtype=tf.float64)
        return Net({words: [[3, 5, 19], [0, 1, 1]]}, [tf.nn.softmax(tf.reduce_sum(tf.nn.embedding_lookup(table, words), 1), name="y")])

    program = live(build, resource=True).matches(tolerance=1e-12)
    assert [layer.op for layer in program.layers if layer.arrays] == ["Gather"]


def test_what_was_drawn_is_an_alternative(tf, live):
    def build():
        x = vectors(tf)
        mean = dense(tf, x, 3, "a")
        tf.add(mean, tf.random_normal(tf.shape(mean)), name="action")
        return Net({x: X}, [mean])

    assert live(build).matches().conversion["alternatives"] == ["action"]


@pytest.mark.parametrize(("made_of_them", "told"), [("joined", True), ("mean", False), ("sorted", False)])
def test_largest_elements_in_any_order_are_told_of(tf, live, made_of_them, told):
    """What a layer of weights makes of them depends on an order that TensorFlow leaves open; their mean does not."""

    def build():
        x = vectors(tf)
        largest, _ = tf.nn.top_k(dense(tf, x, 5, "a"), 3, sorted=made_of_them == "sorted")
        y = tf.reduce_mean(largest, -1, keep_dims=True) if made_of_them == "mean" else largest
        return Net({x: X}, [tf.identity(dense(tf, y, 2, "b"), name="y")])

    saved = live(build)
    warnings = (saved.convert() if told else saved.matches()).conversion["warnings"]
    assert [("sorted=False" in text, "TopKV2" in text) for text in warnings] == [(True, True)] * told
