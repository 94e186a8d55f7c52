"""What losses make of a network's results, as detectors, segmenters and recommenders wrote them: none of it is an output."""

import numpy as np
import pytest
from live_graph import Net, dense, rows

from bnexport.errors import AmbiguousNetwork

pytestmark = pytest.mark.tensorflow
X = rows(5, 6)


def hidden(tf, x, name="hidden"):
    return tf.nn.relu(dense(tf, x, 8, name))


def image(tf):
    x = tf.placeholder(tf.float32, [None, 8, 8, 3], name="x")
    return x, tf.nn.relu(tf.layers.conv2d(x, 4, 3, padding="same"))


def overlap(tf, a, b):
    """The intersection of boxes over their union, by their centers and sizes."""
    low = tf.maximum(a[..., :2] - a[..., 2:] / 2, b[..., :2] - b[..., 2:] / 2)
    high = tf.minimum(a[..., :2] + a[..., 2:] / 2, b[..., :2] + b[..., 2:] / 2)
    size = tf.maximum(high - low, 0.0)
    both = size[..., 0] * size[..., 1]
    return both / (a[..., 2] * a[..., 3] + b[..., 2] * b[..., 3] - both)


def detector(tf, scope):
    """Two heads as YOLO has them, whose boxes are decoded, and a loss that takes both the decoded and the raw numbers apart."""
    x, trunk = image(tf)
    heads, total = [], 0.0
    for i in range(2):
        raw = tf.layers.conv2d(trunk, 7, 1, name=f"raw_{i}")
        decoded = tf.concat([tf.sigmoid(raw[..., :2]), tf.exp(raw[..., 2:4]) * 2.0, tf.sigmoid(raw[..., 4:])], -1, name=f"head_{i}")
        wanted = tf.placeholder(tf.float32, [None, 8, 8, 7], name=f"wanted_{i}")
        with tf.name_scope(scope.format(i)):
            raw = tf.reshape(raw, [-1, 8, 8, 7])
            there = wanted[..., 4:5]
            boxes = there[..., 0] * (1.0 - overlap(tf, decoded[..., :4], wanted[..., :4]))
            unsure = tf.pow(tf.abs(there - decoded[..., 4:5]), 2)
            scores = unsure * tf.nn.sigmoid_cross_entropy_with_logits(labels=there, logits=raw[..., 4:5])
            classes = there * tf.nn.sigmoid_cross_entropy_with_logits(labels=wanted[..., 5:], logits=raw[..., 5:])
            total += sum(tf.reduce_mean(term) for term in (boxes, scores, classes))
        heads.append(decoded)
    tf.train.AdamOptimizer().minimize(total)
    return x, heads


@pytest.mark.parametrize("scope", ["box_loss_{}", "head_{}/LossLayer", "cost_{}"])
def test_what_is_taken_apart_in_a_scope_called_a_loss(tf, live, scope):
    def build():
        x, heads = detector(tf, scope)
        return Net({x: rows(2, 8, 8, 3)}, heads)

    program = live(build).matches()
    assert all(name.startswith("raw_") for name in program.conversion["alternatives"])


def test_a_network_in_a_scope_called_a_loss(tf, live):
    """Where the weights are in it, that scope tells nothing; nor does it of a softmax of what lies before it."""

    def build():
        x, labels = tf.placeholder(tf.float32, [None, 6], name="x"), tf.placeholder(tf.float32, [None, 3], name="labels")
        logits = dense(tf, hidden(tf, x), 3, "out")
        with tf.name_scope("first_loss"):
            first = tf.nn.softmax(logits)
            tf.reduce_sum(tf.square(labels - first))
        with tf.name_scope("second_loss"):
            second = tf.square(dense(tf, x, 3, "second"))
            tf.reduce_sum(tf.square(labels - second))
        return Net({x: X}, [first, second])

    with pytest.raises(AmbiguousNetwork, match=r"--output first_loss/Softmax  \(from x\)\n  --output second_loss/Square  \(from x\)"):
        live(build).convert()


def test_a_name_given_to_what_a_loss_takes_apart(tf, live):
    """Of all that is made of the output, nothing has a name; tf.identity does nothing but give one."""

    def build():
        x, trunk = image(tf)
        y = tf.identity(tf.layers.conv2d(trunk, 5, 1), name="output")
        wanted, there = tf.placeholder(tf.float32, [None, 8, 8, 4], name="wanted"), tf.placeholder(tf.float32, [None, 8, 8], name="there")
        boxes = tf.concat([tf.sigmoid(y[..., :2]), tf.exp(y[..., 2:4])], -1)
        best = tf.cast(tf.greater(overlap(tf, boxes, wanted), 0.3), tf.float32) * there
        tf.reduce_mean(best * tf.reduce_sum(tf.square(boxes - wanted), -1) + tf.square(best - tf.sigmoid(y[..., 4])))
        return Net({x: rows(2, 8, 8, 3)}, [y])

    live(build).matches()


def test_parts_with_names_of_their_own(tf, live):
    """The author named them too."""

    def build():
        x, wanted = tf.placeholder(tf.float32, [None, 6], name="x"), tf.placeholder(tf.float32, [None, 2], name="wanted")
        both = tf.identity(dense(tf, hidden(tf, x), 4, "out"), name="both")
        mean, scale = tf.identity(both[:, :2], name="mean"), tf.nn.softplus(both[:, 2:], name="scale")
        tf.reduce_mean(tf.square((wanted - mean) / scale) / 2 + tf.log(scale))
        return Net({x: X}, [mean, scale])

    live(build).matches()


@pytest.mark.parametrize("way", ["cross entropy", "gather", "partition"])
def test_logits_in_another_shape_beside_a_softmax_by_hand(tf, live, way):
    """U-Net and DeepLab flatten the scores for the loss, once or twice, and leave pixels out by their labels."""

    def build():
        x, trunk = image(tf)
        logits = tf.layers.conv2d(trunk, 3, 1)
        label = tf.placeholder(tf.int32, [None, 8, 8], name="label")
        flat, labels = tf.reshape(logits, [-1, 3]), tf.reshape(label, [-1])
        if way == "cross entropy":
            tf.nn.softmax_cross_entropy_with_logits_v2(labels=tf.one_hot(labels, 3), logits=flat)
        elif way == "gather":
            kept = tf.squeeze(tf.where(tf.less_equal(labels, 2)), 1)
            tf.nn.sparse_softmax_cross_entropy_with_logits(labels=tf.gather(labels, kept), logits=tf.gather(flat, kept))
        else:
            valid = tf.cast(tf.less_equal(labels, 2), tf.int32)
            parts = [tf.dynamic_partition(t, valid, 2)[1] for t in (labels, flat)]
            tf.nn.sparse_softmax_cross_entropy_with_logits(labels=parts[0], logits=parts[1])
        rates = tf.exp(logits - tf.reduce_max(logits, 3, keepdims=True))
        y = tf.divide(rates, tf.reduce_sum(rates, 3, keepdims=True), name="y")
        tf.argmax(y, 3)
        return Net({x: rows(2, 8, 8, 3)}, [y.op.outputs[0]])

    live(build).matches()


def test_a_logarithm_of_the_softmax_beside_it(tf, live):
    """As BERT's classifier: the probabilities are the output, and the loss takes their logarithms with labels."""

    def build():
        x, label = tf.placeholder(tf.float32, [None, 6], name="x"), tf.placeholder(tf.int32, [None], name="label")
        logits = dense(tf, hidden(tf, x), 3, "out")
        y = tf.nn.softmax(logits, name="y")
        tf.reduce_mean(-tf.reduce_sum(tf.one_hot(label, 3) * tf.nn.log_softmax(logits), -1))
        return Net({x: X}, [y])

    live(build).matches()


def test_the_sigmoid_cross_entropy_under_another_name(tf, live):
    def build():
        x, labels = tf.placeholder(tf.float32, [None, 6], name="x"), tf.placeholder(tf.float32, [None, 3], name="labels")
        logits = dense(tf, hidden(tf, x), 3, "out")
        y = tf.sigmoid(logits, name="y")
        tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(labels=labels, logits=logits, name="xent"))
        return Net({x: X}, [y])

    live(build).matches()


def test_decisions_under_a_mask_and_by_their_places(tf, live):
    """What is the network's own input too may say which hits count, and which items the best scores are of."""

    def build():
        item, user = tf.placeholder(tf.int32, [None], name="item"), tf.placeholder(tf.float32, [None, 6], name="user")
        looked_up = tf.nn.embedding_lookup(tf.get_variable("table", [4, 8]), item)
        scores = tf.reshape(dense(tf, hidden(tf, user) * looked_up, 1, "out"), [-1], name="y")
        hits = tf.cast(tf.greater(scores, 0.0), tf.float32) * tf.cast(tf.not_equal(item, 0), tf.float32)
        tf.reduce_mean(hits)
        tf.gather(item, tf.nn.top_k(scores, 2)[1])
        return Net({item: np.array([0, 1, 2, 3, 1], np.int32), user: X}, [scores])

    live(build).matches()


def test_assertions_and_thresholds_are_no_alternatives(tf, live):
    def build():
        x, label = tf.placeholder(tf.float32, [None, 6], name="x"), tf.placeholder(tf.float32, [None, 1], name="label")
        y = tf.sigmoid(dense(tf, hidden(tf, x), 1, "out"), name="y")
        tf.metrics.auc(label, y)
        return Net({x: X}, [y])

    assert live(build).matches().conversion["alternatives"] == []


def test_a_generator_is_listed_beside_the_critic_of_its_pictures(tf, live):
    """pix2pix: all batch norms take statistics of the batch; the critic is asked about real and about made pictures."""

    def build():
        x, wanted = (tf.placeholder(tf.float32, [None, 6], name=name) for name in ("x", "wanted"))
        with tf.variable_scope("generator"):
            made = tf.tanh(dense(tf, tf.layers.batch_normalization(hidden(tf, x), training=True), 6, "out"), name="made")
        scores = []
        for picture in (wanted, made):
            with tf.variable_scope("critic", reuse=len(scores) > 0):
                scores.append(tf.sigmoid(dense(tf, hidden(tf, tf.concat([x, picture], 1)), 1, "out")))
        tf.reduce_mean(-(tf.log(scores[0] + 1e-12) + tf.log(1 - scores[1] + 1e-12)))
        tf.reduce_mean(-tf.log(scores[1] + 1e-12)) + tf.reduce_mean(tf.abs(wanted - made))
        return Net({x: X}, [made])

    with pytest.raises(AmbiguousNetwork, match=r"--output generator/made  \(from x, in the place of wanted\)"):
        live(build).convert()


def forward_algorithm(tf, scores, transitions, lengths):
    """The logarithm of the sum over all paths, as tf.contrib.crf computes it: a recurrent cell takes a step for each word."""

    class Forward(tf.nn.rnn_cell.RNNCell):
        state_size = output_size = 4

        def __call__(self, inputs, state, scope=None):
            made = inputs + tf.reduce_logsumexp(tf.expand_dims(state, 2) + transitions, [1])
            return made, made

    _, last = tf.nn.dynamic_rnn(Forward(), scores[:, 1:], sequence_length=lengths - 1, initial_state=scores[:, 0], dtype=tf.float32)
    return tf.reduce_logsumexp(last, [1])


@pytest.mark.parametrize("picked", ["gathered", "times ones"])
@pytest.mark.parametrize("scope", ["crf", "crf_loss"])
def test_a_conditional_random_field(tf, live, picked, scope):
    """Labels look up transitions, which are weights, and are no input for it; the sum over all paths is the loss'."""
    word = np.random.default_rng(1).integers(0, 9, (3, 5)).astype(np.int32)

    def build():
        words, label = (tf.placeholder(tf.int32, [None, 5], name=name) for name in ("words", "label"))
        lengths = tf.placeholder(tf.int32, [None], name="lengths")
        looked_up = tf.nn.embedding_lookup(tf.get_variable("table", [9, 6]), words)
        states, _ = tf.nn.dynamic_rnn(tf.nn.rnn_cell.GRUCell(4), looked_up, sequence_length=lengths, dtype=tf.float32)
        scores = tf.reshape(dense(tf, tf.reshape(states, [-1, 4]), 4, "out"), [-1, 5, 4], name="scores")
        with tf.variable_scope(scope):
            transitions = tf.get_variable("transitions", [4, 4])
            if picked == "gathered":
                places = tf.reshape(tf.expand_dims(tf.range(tf.shape(scores)[0]) * 20, 1) + tf.range(5) * 4 + label, [-1])
                path = tf.reshape(tf.gather(tf.reshape(scores, [-1]), places), [-1, 5])
            else:
                path = tf.reduce_sum(tf.one_hot(label, 4) * scores, 2)
            steps = tf.gather(tf.reshape(transitions, [-1]), label[:, :-1] * 4 + label[:, 1:])
            mask = tf.sequence_mask(lengths, 5, tf.float32)
            of_labels = tf.reduce_sum(path * mask, 1) + tf.reduce_sum(steps * mask[:, 1:], 1)
            likelihood = of_labels - forward_algorithm(tf, scores, transitions, lengths)
        tf.train.AdamOptimizer().minimize(tf.reduce_mean(-likelihood))
        return Net({words: word, lengths: np.array([5, 3, 1], np.int32)}, [scores])

    live(build).matches()


def test_an_item_whose_score_is_picked(tf, live):
    """What picks its score is an input where that score is the result: it is not reduced over the batch."""

    def build():
        user, item = tf.placeholder(tf.float32, [None, 6], name="user"), tf.placeholder(tf.int32, [None, 1], name="item")
        scores = dense(tf, hidden(tf, user), 4, "out")
        picked = tf.reduce_sum(tf.one_hot(item[:, 0], 4) * scores, 1) + tf.gather(tf.get_variable("bias", [4]), item[:, 0])
        return Net({user: X, item: np.array([[0], [1], [2], [3], [1]], np.int32)}, [tf.identity(picked, name="y")])

    live(build).matches()


def test_the_total_variation_of_a_picture(tf, live):
    """It is made of the picture's shifted parts; the loss compares the picture itself."""

    def build():
        x, wanted = tf.placeholder(tf.float32, [None, 8, 8, 3], name="x"), tf.placeholder(tf.float32, [None, 8, 8, 2], name="wanted")
        y = tf.sigmoid(tf.layers.conv2d(x, 2, 3, padding="same"), name="y")
        tf.reduce_mean(tf.square(y - wanted)) + 1e-3 * tf.reduce_mean(tf.image.total_variation(y))
        return Net({x: rows(2, 8, 8, 3)}, [y])

    live(build).matches()


def test_deviations_that_a_density_inverts(tf, live):
    """A mixture of densities, as of 2016: it divides by the deviations twice, with tf.reciprocal each time."""

    def build():
        x, wanted = tf.placeholder(tf.float32, [None, 6], name="x"), tf.placeholder(tf.float32, [None, 1], name="wanted")
        raw, deviation, mean = tf.split(dense(tf, hidden(tf, x), 9, "out"), 3, 1)
        rates = tf.exp(raw - tf.reduce_max(raw, 1, keepdims=True))
        weights = tf.multiply(tf.reciprocal(tf.reduce_sum(rates, 1, keepdims=True)), rates, name="weights")
        deviation = tf.exp(deviation, name="deviation")
        exponents = -tf.square(tf.multiply(tf.subtract(wanted, mean), tf.reciprocal(deviation))) / 2
        densities = tf.multiply(tf.exp(exponents), tf.reciprocal(deviation)) / np.sqrt(2 * np.pi)
        tf.reduce_mean(-tf.log(tf.reduce_sum(densities * weights, 1, keepdims=True)))
        return Net({x: X}, [weights, deviation, mean])

    live(build).matches()


def test_what_the_last_step_leaves_lying_beside_probabilities(tf, live):
    """TabNet: each step makes a mask for the next, and the last one's is only looked at. The loss takes the logits."""

    def build():
        x, label = tf.placeholder(tf.float32, [None, 6], name="x"), tf.placeholder(tf.int32, [None], name="label")
        features, total = x, 0.0
        for step in range(2):
            decided, attended = tf.split(tf.nn.relu(dense(tf, features, 8, f"step_{step}")), 2, 1)
            total += decided
            features = x * tf.nn.softmax(dense(tf, attended, 6, "mask") if step == 0 else tf.concat([attended, attended[:, :2]], 1))
            tf.summary.image("features", features[None, :, :, None])
        logits = dense(tf, total, 3, "out")
        tf.nn.sparse_softmax_cross_entropy_with_logits(labels=label, logits=logits)
        return Net({x: X}, [tf.nn.softmax(logits)])

    live(build).matches()


@pytest.mark.parametrize("loss", ["nce_loss", "sampled_softmax_loss"])
def test_labels_that_wrong_classes_are_drawn_beside(tf, live, loss):
    """word2vec: the loss looks up the weights of the labels and of what is drawn; the network is the lookup of the words."""

    def build():
        words, label = tf.placeholder(tf.int32, [5], name="words"), tf.placeholder(tf.int32, [5, 1], name="label")
        vectors = tf.nn.embedding_lookup(tf.get_variable("embeddings", [9, 4]), words, name="vectors")
        weights, biases = tf.get_variable("weights", [9, 4]), tf.get_variable("biases", [9])
        tf.reduce_mean(getattr(tf.nn, loss)(weights, biases, label, vectors, 3, 9, name="loss"))
        return Net({words: np.array([0, 4, 8, 1, 2], np.int32)}, [vectors])

    live(build, resource=False).matches(rename={"vectors/Identity": "vectors"})


@pytest.mark.parametrize("over", ["all", "hardest"])
def test_triplets_in_a_batch(tf, live, over):
    """All triplets of a batch, of which labels make a mask, are made of the distances between its rows."""

    def build():
        x, label = tf.placeholder(tf.float32, [None, 6], name="x"), tf.placeholder(tf.int32, [None], name="label")
        code = dense(tf, hidden(tf, x), 3, "code")
        products = tf.matmul(code, code, transpose_b=True)
        squares = tf.diag_part(products)
        distances = tf.maximum(squares[:, None] - 2.0 * products + squares[None], 0.0, name="distances")
        same = tf.cast(tf.equal(label[:, None], label[None]), tf.float32)
        if over == "all":
            losses = tf.expand_dims(distances, 2) - tf.expand_dims(distances, 1) + 0.5
            losses = tf.maximum(tf.multiply(same[:, :, None] * (1 - same[:, None]), losses), 0.0)
            tf.reduce_sum(losses) / (tf.reduce_sum(tf.cast(tf.greater(losses, 1e-16), tf.float32)) + 1e-16)
        else:
            farthest = tf.reduce_max(same * distances, 1, keepdims=True)
            nearest = tf.reduce_min(distances + tf.reduce_max(distances, 1, keepdims=True) * same, 1, keepdims=True)
            tf.reduce_mean(tf.maximum(farthest - nearest + 0.5, 0.0))
        return Net({x: X}, [distances])

    live(build).matches()


def test_a_picture_that_losses_look_at_in_several_ways(tf, live):
    """The transfer of styles: by features of another network, which are constants here, and by the differences between its pixels."""

    def features(picture):
        kernel = tf.constant(rows(3, 3, 2, 4), name="features")
        return tf.nn.relu(tf.nn.conv2d(picture - 0.5, kernel, [1, 1, 1, 1], "SAME"))

    def build():
        x = tf.placeholder(tf.float32, [2, 8, 8, 2], name="x")
        y = tf.nn.tanh(tf.layers.conv2d(x, 2, 3, padding="same")) * 150 + 127.5
        looks, wanted = features(y), features(x)
        flat = tf.reshape(looks, [2, 64, 4])
        style = tf.nn.l2_loss(tf.matmul(flat, flat, transpose_a=True) / 256 - np.ones((4, 4), np.float32))
        content, smooth = tf.nn.l2_loss(looks - wanted), tf.nn.l2_loss(y[:, 1:] - y[:, :-1])
        tf.train.AdamOptimizer().minimize(content + style + smooth)
        return Net({x: rows(2, 8, 8, 2)}, [y])

    live(build).matches()


def test_two_views_that_are_held_against_each_other(tf, live):
    """The depth of two pictures, of which labels are made for each other: nothing is compared with it as it is."""

    def build():
        left, right = (tf.placeholder(tf.float32, [None, 8, 8, 3], name=name) for name in ("left", "right"))
        y = tf.multiply(0.3, tf.layers.conv2d(left, 2, 3, padding="same", activation=tf.sigmoid), name="y")
        first, second = y[:, :, :, :1], y[:, :, :, 1:]
        made = right * (1 - first) + left * first
        edges = tf.exp(-tf.reduce_mean(tf.abs(left[:, :, :-1] - left[:, :, 1:]), 3, keepdims=True))
        smooth = tf.abs((first[:, :, :-1] - first[:, :, 1:]) * edges)
        tf.reduce_mean(tf.abs(made - left)) + tf.reduce_mean(smooth) + tf.reduce_mean(tf.abs(first - second))
        return Net({left: rows(2, 8, 8, 3)}, [y])

    live(build).matches()
