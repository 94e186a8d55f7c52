"""What a graph's inputs and outputs are, found among labels, losses, metrics, summaries, optimisers and other networks."""

import re

import numpy as np
import pytest
from live_graph import Net, dense, rows

from bnexport.errors import AmbiguousNetwork, GraphError, UnsupportedOps, UsageError

pytestmark = pytest.mark.tensorflow
X = rows(5, 6)


def hidden(tf, x, name="hidden"):
    return tf.nn.relu(dense(tf, x, 8, name))


LOSSES = {
    "softmax_v1": lambda tf, logits, labels: tf.reduce_mean(tf.nn.softmax_cross_entropy_with_logits(labels=labels, logits=logits)),
    "softmax_v2": lambda tf, logits, labels: tf.reduce_mean(tf.nn.softmax_cross_entropy_with_logits_v2(labels=labels, logits=logits)),
    "sigmoid": lambda tf, logits, labels: tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(labels=labels, logits=logits)),
    "weighted": lambda tf, logits, labels: tf.reduce_mean(tf.nn.weighted_cross_entropy_with_logits(labels=labels, logits=logits, pos_weight=2.0)),
    "squared": lambda tf, logits, labels: tf.reduce_mean(tf.square(logits - labels)),
    "squared_difference": lambda tf, logits, labels: tf.reduce_sum(tf.math.squared_difference(logits, labels)),
    "absolute": lambda tf, logits, labels: tf.reduce_mean(tf.abs(labels - logits)),
    "l2_loss": lambda tf, logits, labels: tf.nn.l2_loss(logits - labels),
    "losses.mse": lambda tf, logits, labels: tf.losses.mean_squared_error(labels, logits),
    "losses.softmax": lambda tf, logits, labels: tf.losses.softmax_cross_entropy(labels, logits),
    "losses.huber": lambda tf, logits, labels: tf.losses.huber_loss(labels, logits),
    "losses.sigmoid": lambda tf, logits, labels: tf.losses.sigmoid_cross_entropy(labels, logits),
    "losses.hinge": lambda tf, logits, labels: tf.losses.hinge_loss(labels, logits),
    "log_of_softmax": lambda tf, logits, labels: -tf.reduce_sum(labels * tf.log(tf.nn.softmax(logits) + 1e-10)),
    "log_of_clipped": lambda tf, logits, labels: tf.reduce_mean(
        -tf.reduce_sum(labels * tf.log(tf.clip_by_value(tf.nn.softmax(logits), 1e-10, 1.0)), 1)
    ),
    "root": lambda tf, logits, labels: tf.sqrt(tf.reduce_mean(tf.square(labels - logits))),
    "losses.cosine": lambda tf, logits, labels: tf.losses.cosine_distance(labels, tf.nn.l2_normalize(logits, 1, name="unit"), 1),
}
OF_PROBABILITIES = {"log_of_softmax", "log_of_clipped"}


@pytest.mark.parametrize("optimizer", [None, "AdamOptimizer"])
@pytest.mark.parametrize("loss", LOSSES)
def test_a_loss_with_labels(tf, live, loss, optimizer):
    def build():
        x, labels = tf.placeholder(tf.float32, [None, 6], name="x"), tf.placeholder(tf.float32, [None, 3], name="labels")
        logits = tf.identity(dense(tf, hidden(tf, x), 3, "out"), name="logits")
        value = LOSSES[loss](tf, logits, labels)
        if optimizer:
            getattr(tf.train, optimizer)(0.01).minimize(value)
        named = {"losses.cosine": "unit", **dict.fromkeys(OF_PROBABILITIES, "Softmax")}.get(loss, "logits")
        result = tf.get_default_graph().get_tensor_by_name(f"{named}:0")
        return Net({x: X}, [result])

    live(build).matches()


def test_sparse_labels_and_accuracy(tf, live):
    def build():
        x, labels = tf.placeholder(tf.float32, [None, 6], name="x"), tf.placeholder(tf.int64, [None], name="labels")
        logits = dense(tf, hidden(tf, x), 3, "out")
        y = tf.nn.softmax(logits, name="y")
        loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits))
        tf.train.MomentumOptimizer(0.1, 0.9).minimize(loss, global_step=tf.train.get_or_create_global_step())
        correct = tf.equal(tf.argmax(y, 1), labels)
        accuracy = tf.reduce_mean(tf.cast(correct, tf.float32))
        tf.reduce_mean(tf.cast(tf.nn.in_top_k(y, tf.cast(labels, tf.int32), 2), tf.float32))
        tf.summary.scalar("accuracy", accuracy)
        tf.summary.histogram("logits", logits)
        tf.summary.merge_all()
        return Net({x: X}, [y])

    live(build).matches()


def test_penalties_and_clipped_gradients(tf, live):
    def build():
        x, labels = tf.placeholder(tf.float32, [None, 6], name="x"), tf.placeholder(tf.float32, [None, 3], name="labels")
        rate = tf.placeholder(tf.float32, [], name="learning_rate")
        y = tf.identity(dense(tf, hidden(tf, x), 3, "out"), name="y")
        loss = tf.reduce_mean(tf.square(y - labels)) + 1e-3 * tf.add_n([tf.nn.l2_loss(v) for v in tf.trainable_variables()])
        optimizer = tf.train.AdamOptimizer(rate)
        gradients, variables = zip(*optimizer.compute_gradients(loss), strict=True)
        clipped, norm = tf.clip_by_global_norm(gradients, 5.0)
        optimizer.apply_gradients(zip(clipped, variables, strict=True))
        tf.summary.scalar("norm", norm)
        return Net({x: X}, [y])

    live(build).matches()


@pytest.mark.parametrize("distance", ["squared", "cross_entropy", "root"])
def test_an_autoencoder(tf, live, distance):
    def build():
        x = tf.placeholder(tf.float32, [None, 6], name="x")
        code = tf.nn.sigmoid(dense(tf, x, 3, "encoder"))
        y = tf.nn.sigmoid(dense(tf, code, 6, "decoder"), name="y")
        loss = {
            "squared": lambda: tf.reduce_mean(tf.square(y - x)),
            "cross_entropy": lambda: -tf.reduce_mean(x * tf.log(y + 1e-7) + (1 - x) * tf.log(1 - y + 1e-7)),
            "root": lambda: tf.sqrt(tf.reduce_mean(tf.pow(x - y, 2))),
        }[distance]()
        tf.train.RMSPropOptimizer(0.01).minimize(loss)
        return Net({x: np.abs(X)}, [y])

    live(build).matches()


def test_policy_gradient(tf, live):
    """The loss weighs the log of the chosen probability by a reward."""

    def build():
        state = tf.placeholder(tf.float32, [None, 6], name="state")
        action, reward = tf.placeholder(tf.int32, [None], name="action"), tf.placeholder(tf.float32, [None], name="reward")
        policy = tf.nn.softmax(dense(tf, hidden(tf, state), 3, "out"), name="policy")
        chosen = tf.reduce_sum(policy * tf.one_hot(action, 3), 1)
        loss = -tf.reduce_mean(tf.log(chosen) * reward)
        tf.train.AdamOptimizer(0.01).minimize(loss)
        return Net({state: X}, [policy])

    live(build).matches()


def test_deep_q_learning(tf, live):
    def build():
        state = tf.placeholder(tf.float32, [None, 6], name="state")
        action, target = tf.placeholder(tf.int32, [None], name="action"), tf.placeholder(tf.float32, [None], name="target")
        q = tf.identity(dense(tf, hidden(tf, state), 3, "out"), name="q")
        loss = tf.reduce_mean(tf.square(target - tf.reduce_sum(q * tf.one_hot(action, 3), 1)))
        tf.train.AdamOptimizer(0.01).minimize(loss)
        tf.argmax(q, 1, name="best")
        return Net({state: X}, [q])

    program = live(build).matches()
    assert "best" in program.conversion["alternatives"]


def test_two_heads(tf, live):
    def build():
        x = tf.placeholder(tf.float32, [None, 6], name="x")
        h = hidden(tf, x)
        policy, value = tf.nn.softmax(dense(tf, h, 3, "p"), name="policy"), tf.tanh(dense(tf, h, 1, "v"), name="value")
        wanted, won = tf.placeholder(tf.float32, [None, 3], name="wanted"), tf.placeholder(tf.float32, [None, 1], name="won")
        loss = tf.reduce_mean(tf.square(value - won)) - tf.reduce_mean(tf.reduce_sum(wanted * tf.log(policy + 1e-9), 1))
        tf.train.AdamOptimizer(0.01).minimize(loss)
        return Net({x: X}, [policy, value])

    live(build).matches()


def test_two_inputs_keep_their_names(tf, live):
    def build():
        a, b = tf.placeholder(tf.float32, [None, 6], name="a"), tf.placeholder(tf.float32, [None, 2], name="b")
        y = tf.sigmoid(dense(tf, tf.concat([hidden(tf, a), b], 1), 2, "out"), name="y")
        return Net({a: X, b: rows(5, 2, seed=1)}, [y])

    live(build).matches()


def test_towers_that_share_their_weights(tf, live):
    def build():
        x, test_x = tf.placeholder(tf.float32, [None, 6], name="x"), tf.placeholder(tf.float32, [None, 6], name="test_x")
        labels = tf.placeholder(tf.float32, [None, 3], name="labels")

        def tower(data, training):
            with tf.variable_scope("net", reuse=tf.AUTO_REUSE):
                h = hidden(tf, data)
                if training:
                    h = tf.nn.dropout(h, keep_prob=0.5)
                return dense(tf, h, 3, "out")

        train_logits = tower(x, True)
        tf.train.AdamOptimizer(0.01).minimize(tf.losses.softmax_cross_entropy(labels, train_logits))
        y = tf.nn.softmax(tower(test_x, False), name="y")
        return Net({test_x: X}, [y])

    saved = live(build)
    program = saved.convert()
    assert [p.name for p in program.outputs] in (["y"], ["net/add_1"])


def test_what_lies_beside_several_networks_is_listed_with_them(tf, live):
    """The mean of a policy is not used in training, where actions are drawn."""

    def build():
        x, action = tf.placeholder(tf.float32, [None, 6], name="x"), tf.placeholder(tf.float32, [None, 2], name="action")
        target = tf.placeholder(tf.float32, [None, 1], name="target")
        mean, spread = (dense(tf, hidden(tf, x, f"{name}/hidden"), 2, name) for name in ("mean", "spread"))
        tf.multiply(tf.tanh(mean), 2.0)
        drawn = tf.tanh(mean + tf.exp(spread) * tf.random_normal(tf.shape(mean)))
        with tf.variable_scope("critic"):
            score = dense(tf, tf.concat([x, action], 1), 1, "q")
        with tf.variable_scope("critic", reuse=True):
            gain = dense(tf, tf.concat([x, drawn], 1), 1, "q")
        with tf.variable_scope("other"):
            value = dense(tf, x, 1, "v")
        tf.train.AdamOptimizer().minimize(
            tf.reduce_mean(tf.square(score - target)) + tf.reduce_mean(tf.square(value - target)) - tf.reduce_mean(gain)
        )
        return Net({x: X, action: X[:, :2]}, [score])

    with pytest.raises(AmbiguousNetwork) as caught:
        live(build).convert()
    offers = str(caught.value).split("choose one of\n")[1].split("\n")
    assert offers == ["  --output critic/add  (from x, action)", "  --output other/add  (from x)", "  --output Mul  (from x, which nothing takes)"]


def test_probabilities_that_a_loss_picks_from_by_labels(tf, live):
    """MTCNN flattens them, and takes of each row the one that its label names."""

    def build():
        x, label = tf.placeholder(tf.float32, [5, 6], name="x"), tf.placeholder(tf.float32, [5], name="label")
        probabilities = tf.nn.softmax(dense(tf, hidden(tf, x), 2, "out"), name="probabilities")
        flat = tf.reshape(probabilities, [tf.size(probabilities), -1])
        picked = tf.squeeze(tf.gather(flat, 2 * tf.range(5) + tf.to_int32(label)))
        tf.train.AdamOptimizer().minimize(tf.reduce_mean(tf.nn.top_k(-tf.log(picked + 1e-10), 4)[0]))
        return Net({x: X}, [probabilities])

    live(build).matches()


def test_what_a_loss_is_made_of_in_a_loop_is_no_output(tf, live):
    """Of the distances between the rows of a batch, the least to those of other labels: one row after another."""

    def build():
        x, label = tf.placeholder(tf.float32, [5, 6], name="x"), tf.placeholder(tf.int32, [5], name="label")
        code = dense(tf, hidden(tf, x), 3, "code")
        distances = tf.sqrt(tf.reduce_sum(tf.square(code[:, None] - code[None]), -1) + 1e-12, name="distances")
        others = tf.not_equal(label[:, None], label[None])
        nearest = tf.map_fn(lambda row: tf.reduce_min(tf.boolean_mask(row[0], row[1])), (distances, others), tf.float32)
        tf.train.AdamOptimizer().minimize(tf.reduce_mean(tf.nn.softplus(-nearest)))
        return Net({x: X}, [distances])

    live(build).matches()


@pytest.mark.parametrize("codes", ["drawn", "fed"])
def test_a_generator_that_samples_is_a_network_of_its_own(tf, live, codes):
    """Nothing takes its samples, and the generator that is trained has all its variables and the critic's besides."""

    def generator(z, training, reuse=None):
        with tf.variable_scope("generator", reuse=reuse):
            return tf.tanh(dense(tf, tf.nn.relu(tf.layers.batch_normalization(hidden(tf, z), training=training)), 4, "out"))

    def critic(image, reuse=None):
        with tf.variable_scope("critic", reuse=reuse):
            return dense(tf, hidden(tf, image), 1, "score")

    def build():
        x, noise = tf.placeholder(tf.float32, [None, 4], name="x"), tf.placeholder(tf.float32, [None, 6], name="noise")
        made = generator(tf.random_normal([5, 6]) if codes == "drawn" else noise, True)
        real, false = critic(x), critic(made, True)
        sample = generator(noise, False, True)
        for loss, scope in ((tf.reduce_mean(false) - tf.reduce_mean(real), "critic"), (-tf.reduce_mean(false), "generator")):
            tf.train.AdamOptimizer().minimize(loss, var_list=tf.trainable_variables(scope))
        return Net({noise: X}, [sample])

    saved = live(build)
    with pytest.raises(AmbiguousNetwork, match=r"--output generator_1/Tanh  \(from noise\)"):
        saved.convert()
    saved.matches(outputs=["generator_1/Tanh"])


@pytest.mark.parametrize("normalised", [False, True])
def test_an_actor_in_front_of_its_critic_is_listed(tf, live, normalised):
    """The critic takes the action that is fed, and, for the actor's loss, the actor's own."""

    def build():
        x, action, value = (tf.placeholder(tf.float32, [None, n], name=name) for name, n in (("x", 6), ("action", 2), ("value", 1)))
        state = (x - tf.get_variable("mean", [6], trainable=False)) / 2.0 if normalised else x
        with tf.variable_scope("actor"):
            chosen = tf.tanh(dense(tf, hidden(tf, state), 2, "out"), name="chosen")
        values = []
        for acted in (action, chosen):
            with tf.variable_scope("critic", reuse=len(values) > 0):
                values.append(dense(tf, tf.nn.relu(dense(tf, tf.concat([state, acted / 3.0], 1), 5, "first")), 1, "last"))
        tf.train.AdamOptimizer().minimize(tf.reduce_mean(tf.square(values[0] - value)), name="critics")
        tf.train.AdamOptimizer().minimize(-tf.reduce_mean(values[1]), name="actors")
        tf.identity(dense(tf, x, 2, "apart"), name="another")
        return Net({x: X}, [chosen])

    saved = live(build)
    with pytest.raises(AmbiguousNetwork, match=r"--output actor/chosen  \(from x, in the place of action\)"):
        saved.convert()
    saved.matches(outputs=("actor/chosen",))


def test_networks_that_share_nothing_are_listed(tf, live):
    def build():
        x = tf.placeholder(tf.float32, [None, 6], name="x")
        heads = []
        for scope in ("online", "target"):
            with tf.variable_scope(scope):
                heads.append(tf.identity(dense(tf, hidden(tf, x), 3, "out"), name="q"))
        copies = [tf.assign(t, o) for o, t in zip(tf.global_variables("online"), tf.global_variables("target"), strict=True)]
        tf.group(*copies, name="sync")
        return Net({x: X}, heads)

    saved = live(build)
    with pytest.raises(AmbiguousNetwork, match=re.escape("the graph holds 2 networks that share no layer; choose one of\n  --output online/q")):
        saved.convert()
    for scope in ("online", "target"):
        saved.matches(outputs=[f"{scope}/q"], expected={f"{scope}/q": saved.expected[f"{scope}/q"]})


def test_a_queue_as_the_input(tf, live):
    def build():
        queue = tf.FIFOQueue(10, [tf.float32, tf.int64], [[6], []], name="queue")
        x, labels = queue.dequeue_many(5, name="batch")
        logits = dense(tf, hidden(tf, x), 3, "out")
        y = tf.nn.softmax(logits, name="y")
        loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits))
        tf.train.GradientDescentOptimizer(0.1).minimize(loss)
        return Net({x: X}, [y])

    live(build).matches()


def test_a_dataset_as_the_input(tf, live):
    def build():
        data = tf.data.Dataset.from_tensor_slices((X, np.arange(5))).batch(5)
        x, labels = tf.data.make_one_shot_iterator(data).get_next()
        logits = dense(tf, hidden(tf, x), 3, "out")
        y = tf.nn.softmax(logits, name="y")
        tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits))
        return Net({x: X}, [y])

    live(build).matches()


def test_a_constant_as_the_input(tf, live):
    def build():
        x = tf.constant(X, name="data")
        return Net({x: rows(5, 6, seed=2)}, [tf.nn.softmax(dense(tf, hidden(tf, x), 3, "out"), name="y")])

    live(build).matches()


def test_an_input_that_only_scales_the_output(tf, live):
    """A temperature is data as well: it has to be given."""

    def build():
        x, temperature = tf.placeholder(tf.float32, [None, 6], name="x"), tf.placeholder(tf.float32, [], name="temperature")
        y = tf.nn.softmax(dense(tf, hidden(tf, x), 3, "out") / temperature, name="y")
        return Net({x: X, temperature: np.float32(2.5)}, [y])

    live(build).matches(outputs=["y"])


def test_named_endpoints_cut_the_graph(tf, live):
    def build():
        x = tf.placeholder(tf.float32, [None, 6], name="x")
        h = tf.identity(hidden(tf, x), name="features")
        y = tf.nn.softmax(dense(tf, h, 3, "out"), name="y")
        return Net({h: rows(5, 8)}, [y])

    saved = live(build)
    saved.matches(inputs=["features"], outputs=["y:0"])
    program = saved.convert(inputs=["codes=features"], outputs=["scores=y"])
    assert ([p.name for p in program.inputs], [p.name for p in program.outputs]) == (["codes"], ["scores"])


def test_names_that_are_not_there(tf, live):
    def build():
        x = tf.placeholder(tf.float32, [None, 6], name="x")
        return Net({x: X}, [tf.nn.softmax(dense(tf, hidden(tf, x), 3, "out"), name="scores")])

    saved = live(build)
    with pytest.raises(UsageError, match="the graph has no tensor 'score'; close names are scores"):
        saved.convert(outputs=["score"])
    with pytest.raises(GraphError, match="the outputs do not depend on the input 'out/b'"):
        saved.convert(inputs=["out/b"], outputs=["Relu"])
    with pytest.raises(GraphError, match="the output 'out/b' does not depend on any input"):
        saved.convert(outputs=["out/b"])


def test_a_graph_without_a_network(tf, live):
    def build():
        x = tf.placeholder(tf.float32, [None, 6], name="x")
        tf.get_variable("unrelated", [3, 3])
        return Net({x: X}, [tf.nn.relu(x, name="y")])

    with pytest.raises(AmbiguousNetwork, match="no output was found that depends on data and on saved variables; name one with --output"):
        live(build).convert()


def test_a_siamese_network(tf, live):
    def build():
        a, b = tf.placeholder(tf.float32, [None, 6], name="a"), tf.placeholder(tf.float32, [None, 6], name="b")
        same = tf.placeholder(tf.float32, [None], name="same")

        def tower(x):
            with tf.variable_scope("net", reuse=tf.AUTO_REUSE):
                return dense(tf, hidden(tf, x), 3, "out")

        distance = tf.sqrt(tf.reduce_sum(tf.square(tower(a) - tower(b)), 1) + 1e-6, name="distance")
        tf.reduce_mean(same * tf.square(distance) + (1 - same) * tf.square(tf.maximum(1.0 - distance, 0)))
        return Net({a: X, b: rows(5, 6, seed=2)}, [distance])

    live(build).matches(outputs=["distance"])


def test_a_regression_with_its_moving_loss(tf, live):
    """The averages of losses of TensorFlow's CIFAR-10 tutorial."""

    def build():
        x, labels = tf.placeholder(tf.float32, [None, 6], name="x"), tf.placeholder(tf.float32, [None, 2], name="labels")
        y = tf.identity(dense(tf, hidden(tf, x), 2, "out"), name="y")
        loss = tf.reduce_mean(tf.square(y - labels))
        averages = tf.train.ExponentialMovingAverage(0.9, name="avg")
        with tf.control_dependencies([averages.apply([loss])]):
            tf.train.GradientDescentOptimizer(0.1).minimize(loss)
        ema = tf.train.ExponentialMovingAverage(0.99, tf.train.get_or_create_global_step())
        ema.apply(tf.trainable_variables())
        return Net({x: X}, [y])

    live(build).matches()


def test_a_variational_autoencoder_is_refused_for_its_noise(tf, live):
    def build():
        x = tf.placeholder(tf.float32, [None, 6], name="x")
        mu, log_sigma = dense(tf, x, 2, "mu"), dense(tf, x, 2, "log_sigma")
        z = mu + tf.exp(0.5 * log_sigma) * tf.random_normal(tf.shape(mu), name="noise")
        y = tf.sigmoid(dense(tf, z, 6, "decoder"), name="y")
        kl = -0.5 * tf.reduce_sum(1 + log_sigma - tf.square(mu) - tf.exp(log_sigma), 1)
        tf.train.AdamOptimizer(0.01).minimize(tf.reduce_mean(kl + tf.reduce_sum(tf.square(y - x), 1)))
        return Net({x: X}, [mu])

    saved = live(build)
    with pytest.raises(GraphError, match="random numbers: --set noise/RandomStandardNormal=0 takes their mean"):
        saved.convert(outputs=["y"])
    saved.matches(outputs=[next(iter(saved.expected))])


@pytest.mark.parametrize("loss", ["logarithms", "likelihood"])
def test_an_exponential_at_the_end_is_the_networks(tf, live, loss):
    """Differences of logarithms are a loss; what they are taken of is the output, and the bias of a single unit is no part of the loss."""

    def build():
        x, wanted = tf.placeholder(tf.float32, [None, 6], name="x"), tf.placeholder(tf.float32, [None, 1], name="wanted")
        y = tf.exp(dense(tf, hidden(tf, x), 1, "out"), name="y")
        if loss == "logarithms":
            value = tf.reduce_mean(tf.abs(tf.log(y + 1.0) - tf.log(wanted + 1.0)))
        else:  # Poisson
            value = tf.reduce_mean(y - wanted * tf.log(y + 1e-8))
        tf.train.GradientDescentOptimizer(0.01).minimize(value)
        return Net({x: X}, [y])

    live(build).matches()


@pytest.mark.parametrize("softplus", [lambda tf, z: tf.log(1.0 + tf.exp(z)), lambda tf, z: tf.nn.softplus(z)], ids=["log_exp", "softplus"])
def test_the_stable_form_of_the_sigmoid_cross_entropy_by_hand(tf, live, softplus):
    def build():
        x, wanted = tf.placeholder(tf.float32, [None, 6], name="x"), tf.placeholder(tf.float32, [None, 3], name="wanted")
        z = dense(tf, hidden(tf, x), 3, "out")
        tf.reduce_mean(tf.maximum(z, 0.0) - z * wanted + softplus(tf, -tf.abs(z)))
        return Net({x: X}, [z])

    live(build).matches()


@pytest.mark.parametrize("axis", [None, 0])
def test_a_softmax_by_hand_that_is_shifted_by_the_batchs_maximum(tf, live, axis):
    """The maximum over all rows is no loss, though no weight comes after it."""

    def build():
        x, wanted = tf.placeholder(tf.float32, [None, 6], name="x"), tf.placeholder(tf.float32, [None, 3], name="wanted")
        z = dense(tf, hidden(tf, x), 3, "out")
        powers = tf.exp(z - tf.stop_gradient(tf.reduce_max(z, axis)))
        y = tf.divide(powers, tf.reduce_sum(powers, 1, keepdims=True), name="y")
        tf.reduce_mean(tf.reduce_sum(wanted * tf.log(y), 1))
        return Net({x: X}, [y])

    program = live(build).matches()
    assert program.conversion["warnings"] == ["scores depend on the batch: Max takes statistics over it, in TensorFlow as here"]


@pytest.mark.parametrize("decision", ["probability", "argmax", "top_k"])
def test_the_greatest_score_goes_with_its_index(tf, live, decision):
    def build():
        x = tf.placeholder(tf.float32, [None, 6], name="x")
        logits = dense(tf, hidden(tf, x), 4, "out")
        scores = tf.nn.softmax(logits, name="scores") if decision == "probability" else tf.identity(logits, name="scores")
        tf.reduce_max(scores, 1, name="confidence")
        if decision == "argmax":
            tf.argmax(scores, 1, name="predicted")
        elif decision == "top_k":
            tf.nn.top_k(scores, 2)
        return Net({x: X}, [scores])

    assert "confidence" in live(build).matches().conversion["alternatives"]


@pytest.mark.parametrize("decoder", ["greedy", "beam"])
def test_a_decoder_of_connectionist_temporal_classification_decides(tf, live, decoder):
    def build():
        x, lengths = tf.placeholder(tf.float32, [None, 4, 6], name="x"), tf.placeholder(tf.int32, [None], name="lengths")
        logits = tf.transpose(tf.tensordot(x, tf.get_variable("w", [6, 5]), 1) + tf.get_variable("b", [5]), [1, 0, 2], name="logits")
        labels = tf.sparse_placeholder(tf.int32, name="labels")
        loss = tf.reduce_mean(tf.nn.ctc_loss(labels, logits, lengths))
        tf.train.MomentumOptimizer(0.1, 0.9).minimize(loss)
        decode = tf.nn.ctc_greedy_decoder if decoder == "greedy" else tf.nn.ctc_beam_search_decoder
        decoded, _ = decode(logits, lengths, merge_repeated=False)
        tf.sparse_tensor_to_dense(decoded[0], default_value=-1, name="decoded")
        tf.reduce_mean(tf.edit_distance(tf.cast(decoded[0], tf.int32), labels), name="error")
        return Net({x: rows(3, 4, 6)}, [logits])

    live(build).matches()


def test_the_metrics_of_tensorflow(tf, live):
    def build():
        x, labels = tf.placeholder(tf.float32, [None, 6], name="x"), tf.placeholder(tf.int64, [None], name="labels")
        scores = tf.nn.softmax(dense(tf, hidden(tf, x), 3, "out"), name="scores")
        predicted, one_hot = tf.argmax(scores, 1), tf.one_hot(labels, 3)
        tf.metrics.accuracy(labels, predicted)
        tf.metrics.precision(labels, predicted)
        tf.metrics.recall(labels, predicted)
        tf.metrics.auc(one_hot, scores)
        tf.metrics.mean_iou(labels, predicted, 3)
        tf.metrics.mean_per_class_accuracy(labels, predicted, 3)
        tf.metrics.precision_at_thresholds(one_hot, scores, [0.3, 0.6])
        tf.metrics.sensitivity_at_specificity(one_hot, scores, 0.5)
        tf.metrics.recall_at_k(labels, scores, 2)
        tf.metrics.mean_squared_error(one_hot, scores)
        tf.metrics.mean_absolute_error(one_hot, scores)
        tf.metrics.root_mean_squared_error(one_hot, scores)
        tf.metrics.mean_cosine_distance(one_hot, scores, 1)
        tf.metrics.mean_relative_error(one_hot, scores, tf.ones_like(scores))
        tf.metrics.percentage_below(scores, 0.5)
        tf.metrics.false_positives(labels, predicted)
        tf.confusion_matrix(labels, predicted, num_classes=3)
        return Net({x: X}, [scores])

    live(build).matches()


def test_a_feedable_iterator_as_the_input(tf, live):
    """Which data it iterates over is said by a string that is fed: that is no input of the network."""

    def build():
        dataset = tf.data.Dataset.from_tensor_slices((rows(8, 6), np.arange(8))).batch(4)
        handle = tf.placeholder(tf.string, [], name="handle")
        types, shapes = tf.data.get_output_types(dataset), tf.data.get_output_shapes(dataset)
        x, labels = tf.data.Iterator.from_string_handle(handle, types, shapes).get_next()
        logits = dense(tf, hidden(tf, x), 3, "out")
        tf.losses.sparse_softmax_cross_entropy(labels, logits)
        return Net({x: X}, [logits], {handle: ""})

    live(build).matches()


def labelled(tf, kind="float32", units=3):
    x, labels = tf.placeholder(tf.float32, [None, 6], name="x"), tf.placeholder(kind, [None, units], name="labels")
    trunk = hidden(tf, x)
    return x, labels, trunk, dense(tf, trunk, units, "out")


def contrastive(tf):
    x, same, _, features = labelled(tf)
    distance = tf.sqrt(tf.reduce_sum(tf.square(features), 1, keepdims=True) + 1e-6, name="y")
    tf.reduce_mean(same * tf.square(distance) + (1.0 - same) * tf.square(tf.maximum(1.0 - distance, 0.0)))
    return x, [distance]


def actor_critic(tf):
    x, action, trunk, logits = labelled(tf)
    reward = tf.placeholder(tf.float32, [None], name="reward")
    policy, value = tf.nn.softmax(logits, name="policy"), tf.squeeze(dense(tf, trunk, 1, "critic"), 1, name="value")
    log_chosen = tf.log(tf.reduce_sum(policy * action, 1) + 1e-8)
    entropy = -tf.reduce_sum(policy * tf.log(policy + 1e-8), 1)
    tf.reduce_mean(-log_chosen * tf.stop_gradient(reward - value) + 0.5 * tf.square(reward - value) - 0.01 * entropy)
    return x, [policy, value]


def focal(tf):
    x, labels, _, logits = labelled(tf)
    scores = tf.nn.sigmoid(logits, name="y")
    right = tf.where(tf.equal(labels, 1.0), scores, 1.0 - scores)
    tf.reduce_sum(-tf.pow(1.0 - right, 2.0) * tf.log(right + 1e-8))
    return x, [scores]


def mean_and_variance(tf):
    x, wanted, trunk, mean = labelled(tf)
    variance = tf.add(tf.nn.softplus(dense(tf, trunk, 3, "spread")), 0.1, name="variance")
    tf.reduce_mean(0.5 * tf.log(variance) + 0.5 * tf.square(wanted - mean) / variance)
    return x, [mean, variance]


def hinge_with_a_sign(tf):
    x, labels, _, scores = labelled(tf)
    tf.reduce_mean(tf.maximum(0.0, 1.0 - scores * labels))
    tf.reduce_mean(tf.cast(tf.equal(tf.sign(scores), labels), tf.float32))
    return x, [scores]


def mixture_of_experts(tf):
    """A sum over experts is the network's own, whatever the loss does with it."""
    x, labels, _, gates = labelled(tf)
    experts = tf.stack([dense(tf, x, 3, f"expert_{i}") for i in range(3)], 1)
    logits = tf.reduce_sum(tf.expand_dims(tf.nn.softmax(gates), 2) * experts, 1, name="y")
    tf.reduce_mean(tf.nn.softmax_cross_entropy_with_logits(labels=labels, logits=logits))
    return x, [logits]


def negative_distances(tf):
    x, labels, _, features = labelled(tf)
    distances = tf.reduce_sum(tf.square(tf.expand_dims(features, 1) - tf.get_variable("prototypes", [3, 3])), 2)
    logits = tf.negative(distances, name="y")
    tf.reduce_mean(tf.nn.softmax_cross_entropy_with_logits(labels=labels, logits=logits))
    return x, [logits]


def trained_on_logarithms_and_measured_in_units(tf):
    x, wanted, _, logarithm = labelled(tf)
    tf.reduce_mean(tf.square(logarithm - tf.log(wanted)))
    y = tf.exp(logarithm, name="y")
    tf.reduce_mean(tf.abs(y - wanted))
    return x, [y]


def clipped_at_zero_and_measured(tf):
    x, wanted, _, raw = labelled(tf)
    tf.reduce_mean(tf.square(raw - wanted))
    y = tf.maximum(raw, 0.0, name="y")
    tf.reduce_mean(tf.abs(y - wanted))
    return x, [y]


def drawn_from_a_distribution(tf):
    x, _, trunk, mean = labelled(tf)
    deviation = tf.exp(dense(tf, trunk, 3, "spread"), name="deviation")
    tf.identity(mean + deviation * tf.random_normal(tf.shape(mean)), name="sample")
    return x, [mean, deviation]


def softmax_by_hand(tf):
    x, labels, _, logits = labelled(tf)
    rates = tf.exp(logits)
    scores = tf.div(rates, tf.reduce_sum(rates, 1, keepdims=True), name="y")
    tf.reduce_sum(-labels * tf.log(scores))
    return x, [scores]


def critic_of_two(tf):
    """The loss of 2014's adversarial networks: log(D(x)) + log(1 - D(G(z)))."""
    real, fake = tf.placeholder(tf.float32, [None, 6], name="x"), tf.placeholder(tf.float32, [None, 6], name="fake")
    scores = []
    for data in (real, fake):
        with tf.variable_scope("critic", reuse=tf.AUTO_REUSE):
            scores.append(tf.nn.sigmoid(dense(tf, hidden(tf, data), 1, "out")))
    -tf.reduce_mean(tf.log(scores[0]) + tf.log(1.0 - scores[1]))
    return real, [tf.identity(scores[0], name="y")]


def divergence_of_a_code(tf):
    x = tf.placeholder(tf.float32, [None, 6], name="x")
    trunk = hidden(tf, x)
    mean, log_variance = dense(tf, trunk, 2, "mean"), dense(tf, trunk, 2, "log_variance")
    code = mean + tf.exp(log_variance / 2) * 0.1
    y = tf.nn.sigmoid(dense(tf, code, 6, "decoder"), name="y")
    divergence = -0.5 * tf.reduce_sum(1 + log_variance - tf.square(mean) - tf.exp(log_variance), 1)
    tf.reduce_mean(tf.reduce_sum(tf.square(y - x), 1) + divergence)
    return x, [y]


WITH_LOSSES = [
    contrastive,
    actor_critic,
    focal,
    mean_and_variance,
    hinge_with_a_sign,
    mixture_of_experts,
    negative_distances,
    trained_on_logarithms_and_measured_in_units,
    clipped_at_zero_and_measured,
    drawn_from_a_distribution,
    softmax_by_hand,
    critic_of_two,
    divergence_of_a_code,
]


@pytest.mark.parametrize("network", WITH_LOSSES)
def test_what_a_loss_makes_of_the_output_is_no_output(tf, live, network):
    def build():
        x, outputs = network(tf)
        return Net({x: X}, outputs)

    live(build).matches()


def test_an_iterator_by_its_handle(tf, live):
    """A feedable iterator: which dataset it is, a string tells that is fed."""

    def build():
        rows_ = tf.data.Dataset.from_tensor_slices((X, np.arange(5) % 3)).batch(5)
        handle = tf.placeholder(tf.string, [], name="handle")
        iterator = tf.data.Iterator.from_string_handle(handle, tf.data.get_output_types(rows_), tf.data.get_output_shapes(rows_))
        x, labels = iterator.get_next()
        y = dense(tf, hidden(tf, x), 3, "out")
        tf.losses.sparse_softmax_cross_entropy(labels, y)
        return Net({x: X}, [y])

    live(build).matches()


def test_a_placeholder_with_a_queue_for_its_default(tf, live):
    def build():
        x, labels = tf.FIFOQueue(10, [tf.float32, tf.int64], [[6], []]).dequeue_many(5)
        x = tf.placeholder_with_default(x, [None, 6], name="rows")
        y = dense(tf, hidden(tf, x), 3, "out")
        tf.losses.sparse_softmax_cross_entropy(labels, y)
        return Net({x: X}, [y])

    live(build).matches()


def test_labels_that_weights_are_looked_up_with(tf, live):
    """A center loss: the distance to the center of the row's own class."""

    def build():
        x, labels = tf.placeholder(tf.float32, [None, 6], name="x"), tf.placeholder(tf.int64, [None], name="labels")
        features = hidden(tf, x)
        y = dense(tf, features, 3, "out")
        centers = tf.get_variable("centers", [3, 8], trainable=False)
        distance = features - tf.gather(centers, labels)
        loss = tf.losses.sparse_softmax_cross_entropy(labels, y) + tf.nn.l2_loss(distance)
        tf.scatter_sub(centers, labels, -0.5 * distance)
        tf.train.AdamOptimizer(0.01).minimize(loss)
        return Net({x: X}, [y])

    live(build).matches()


@pytest.mark.parametrize("added", ["sum", "add_n"])
def test_labels_that_are_asked_for_their_rows_alone(tf, live, added):
    """A bias for each row, as many as there are labels."""

    def build():
        x, labels = tf.placeholder(tf.float32, [None, 6], name="x"), tf.placeholder(tf.float32, [None, 1], name="labels")
        bias = tf.get_variable("bias", []) * tf.ones_like(labels)
        score = dense(tf, hidden(tf, x), 1, "out")
        y = tf.add_n([score, bias], name="y") if added == "add_n" else tf.add(bias, score, name="y")
        tf.train.AdamOptimizer().minimize(tf.nn.l2_loss(labels - y))
        return Net({x: X}, [y], {labels: np.zeros((len(X), 1))})

    live(build).matches()


def test_labels_that_are_an_input_as_well(tf, live):
    """A classifier's loss on what is made for a class: its logits depend on the labels."""

    def build():
        x, labels = tf.placeholder(tf.float32, [None, 6], name="x"), tf.placeholder(tf.int64, [None], name="labels")
        y = dense(tf, hidden(tf, x * tf.gather(tf.get_variable("classes", [3, 6]), labels)), 3, "out")
        tf.losses.sparse_softmax_cross_entropy(labels, y)
        return Net({x: X, labels: np.arange(5) % 3}, [y])

    live(build).matches()


def test_what_gradients_are_computed_into_is_training(tf, live):
    """Adversarial examples, and a map of what a class depends on."""

    def build():
        x, labels = tf.placeholder(tf.float32, [None, 6], name="x"), tf.placeholder(tf.int64, [None], name="labels")

        def net(rows_):
            with tf.variable_scope("net", reuse=tf.AUTO_REUSE):
                features = hidden(tf, rows_)
                return features, dense(tf, features, 3, "out")

        features, y = net(x)
        loss = tf.losses.sparse_softmax_cross_entropy(labels, y)
        worse = tf.stop_gradient(x + 0.1 * tf.sign(tf.gradients(loss, x)[0]))
        loss += tf.losses.sparse_softmax_cross_entropy(labels, net(worse)[1])
        slope = tf.gradients(tf.reduce_sum(y * tf.one_hot(labels, 3)), features)[0]
        tf.nn.relu(tf.reduce_mean(slope, 0, keepdims=True) * features, name="map")
        tf.train.AdamOptimizer(0.01).minimize(loss)
        return Net({x: X}, [y])

    live(build).matches()


ENTROPIES = {
    "of_probabilities": lambda tf, p, logits: p * tf.log(p + 1e-8),
    "of_log_softmax": lambda tf, p, logits: p * tf.nn.log_softmax(logits),
    "of_clipped": lambda tf, p, logits: tf.log(tf.clip_by_value(p, 1e-8, 1.0)) * p,
}


@pytest.mark.parametrize("entropy", ENTROPIES)
def test_an_entropy_is_no_output(tf, live, entropy):
    def build():
        x, labels = tf.placeholder(tf.float32, [None, 6], name="x"), tf.placeholder(tf.int64, [None], name="labels")
        logits = dense(tf, hidden(tf, x), 3, "out")
        p = tf.nn.softmax(logits, name="p")
        uncertain = -tf.reduce_mean(tf.reduce_sum(ENTROPIES[entropy](tf, p, logits), 1))
        tf.train.AdamOptimizer(0.01).minimize(tf.losses.sparse_softmax_cross_entropy(labels, logits) - 0.01 * uncertain)
        return Net({x: X}, [p])

    live(build).matches()


def test_a_policy_before_its_entropy(tf, live):
    """The stable form of the entropy leaves no product of p and log p to see; what it is made of is an output all the same."""

    def build():
        x, action, target = (tf.placeholder(t, [None, *s], name=n) for t, s, n in [("float32", [6], "x"), ("int64", [], "a"), ("float32", [], "r")])
        features = hidden(tf, x)
        logits, value = dense(tf, features, 3, "policy"), tf.squeeze(dense(tf, features, 1, "value"), 1)
        shifted = logits - tf.reduce_max(logits, 1, keepdims=True)
        exponentials = tf.exp(shifted)
        total = tf.reduce_sum(exponentials, 1, keepdims=True)
        entropy = tf.reduce_mean(tf.reduce_sum(exponentials / total * (tf.log(total) - shifted), 1))
        chosen = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=action, logits=logits)
        loss = tf.reduce_mean(chosen * target) + tf.reduce_mean(tf.square(value - target)) - 0.01 * entropy
        tf.train.AdamOptimizer(0.01).minimize(loss)
        return Net({x: X}, [logits, value])

    live(build).matches()


def test_both_networks_that_a_gradient_penalty_lies_between(tf, live):
    """The critic of a Wasserstein GAN is applied to examples, to what the generator makes, and to random points between them."""

    def build():
        real, noise = tf.placeholder(tf.float32, [None, 4], name="real"), tf.placeholder(tf.float32, [None, 6], name="noise")
        made = dense(tf, hidden(tf, noise), 4, "made")

        def critic(rows_):
            with tf.variable_scope("critic", reuse=tf.AUTO_REUSE):
                return dense(tf, tf.nn.relu(dense(tf, rows_, 5, "one")), 1, "two")

        share = tf.random_uniform([tf.shape(real)[0], 1])
        between = share * real + (1 - share) * made
        slope = tf.gradients(critic(between), between)[0]
        loss = tf.reduce_mean(critic(made)) - tf.reduce_mean(critic(real)) + tf.reduce_mean((tf.norm(slope, axis=1) - 1) ** 2)
        tf.train.AdamOptimizer(0.01).minimize(loss)
        return Net({real: rows(5, 4), noise: X}, [made])

    with pytest.raises(AmbiguousNetwork) as raised:
        live(build).convert()
    assert re.findall(r"--output (\S+)", str(raised.value)) == ["critic_1/add_1", "critic_2/add_1", "add_1"]
    assert "--output add_1  (from noise, in the place of real)" in str(raised.value)  # the generator


@pytest.mark.parametrize("kind", ["sigmoid", "softmax"])
def test_what_a_loss_is_given_may_be_chosen_and_not_its_arithmetic(tf, live, kind):
    def build():
        x = tf.placeholder(tf.float32, [None, 4], name="x")
        y = tf.placeholder(tf.float32, [None, 3], name="y")
        logits = tf.add(tf.matmul(x, tf.get_variable("w", [4, 3])), tf.get_variable("b", [3]), name="logits")
        if kind == "sigmoid":
            scores, loss = tf.nn.sigmoid(logits, name="scores"), tf.nn.sigmoid_cross_entropy_with_logits(labels=y, logits=logits)
        else:
            scores, loss = tf.nn.softmax(logits, name="scores"), tf.nn.softmax_cross_entropy_with_logits_v2(labels=y, logits=logits)
        tf.train.GradientDescentOptimizer(0.1).minimize(tf.reduce_mean(loss))
        return Net({x: rows(3, 4)}, [scores])

    assert live(build).matches().conversion["alternatives"] == ["logits"]


@pytest.mark.parametrize("kind", ["table", "hash"])
def test_an_input_that_stands_for_text_has_the_dtype_of_what_text_becomes(tf, live, kind):
    def build():
        words = tf.placeholder(tf.string, [None], name="words")
        if kind == "hash":
            numbers = tf.strings.to_hash_bucket_fast(words, 4)
        else:
            pairs = tf.lookup.KeyValueTensorInitializer(["a", "b"], np.array([1, 2], np.int64))
            numbers = tf.lookup.StaticHashTable(pairs, 3).lookup(words)
        y = tf.identity(dense(tf, tf.nn.embedding_lookup(tf.get_variable("table", [4, 3]), numbers), 2, "out"), name="y")
        return Net({numbers: np.array([0, 3, 1], np.int64)}, [y])

    saved = live(build)
    (name,) = saved.inputs
    assert saved.matches(inputs=[name]).inputs[0].dtype == "int64"


def test_weights_that_are_drawn_are_told_with_what_takes_their_means(tf, live):
    """Bayes by backprop: each weight has a mean and a deviation."""

    def build(drawn=True):
        x, h = tf.placeholder(tf.float32, [None, 6], name="x"), None
        for name, width in (("a", 6), ("b", 3)):
            mean, spread = (tf.get_variable(f"{name}/{part}", [6, width]) for part in ("mean", "spread"))
            kernel = mean + tf.nn.softplus(spread) * tf.random_normal([6, width]) if drawn else mean
            h = tf.nn.relu(tf.matmul(x if h is None else h, kernel))
        return Net({x: X}, [tf.identity(h, name="y")])

    saved = live(build)
    with pytest.raises(AmbiguousNetwork, match=r"Its weights are drawn at random: --set .*=0 --set .*=0 takes their means") as caught:
        saved.convert()
    given = {part.removesuffix("=0"): 0 for part in str(caught.value).split() if part.endswith("=0")}
    (expected,) = live.outputs(lambda: build(drawn=False), saved.variables)
    saved.matches(set_values=given, expected={"y": expected})


def test_what_is_of_any_length_is_refused_with_where_to_begin_instead(tf, live):
    def build():
        where, words, shape = (tf.placeholder(tf.int64, size, name=name) for name, size in (("where", [None, 2]), ("words", [None]), ("shape", [2])))
        table = tf.get_variable("table", [9, 4])
        means = tf.nn.embedding_lookup_sparse(table, tf.SparseTensor(where, words, shape), None, combiner="mean", name="means")
        y = tf.nn.softmax(dense(tf, means, 3, "out"), name="y")
        return Net({where: [[0, 1], [0, 2], [1, 0]], words: [3, 4, 8], shape: [2, 3]}, [y])

    saved = live(build)
    with pytest.raises(UnsupportedOps, match=r"SparseSegmentMean: means \(how many elements there are depends on the data: name a tensor after it"):
        saved.convert()
    assert [p.name for p in saved.convert(inputs=["means"]).inputs] == ["means"]


@pytest.mark.parametrize("name", [None, "input", "padding_fifo_queue_DequeueMany"])
def test_a_name_given_to_what_a_queue_gives(tf, live, name):
    """As FaceNet: what is dequeued is called image_batch, and that input."""

    def build():
        queue = tf.PaddingFIFOQueue(10, [tf.float32, tf.int64], [[None if name else 4, 6], []])
        x, labels = queue.dequeue_many(5)
        x = tf.identity(tf.identity(x, name="batch"), name="input")
        if name:
            states, _ = tf.nn.dynamic_rnn(tf.nn.rnn_cell.GRUCell(3), x, dtype=tf.float32)
        else:
            states = hidden(tf, tf.reshape(x, [-1, 24]))[:, None]
        y = dense(tf, states[:, -1], 3, "out")
        tf.losses.sparse_softmax_cross_entropy(labels, y)
        return Net({x: rows(5, 4, 6)}, [y])

    live(build).matches(**({"shapes": {name: (5, 4, 6)}} if name else {}))


def test_a_distance_with_a_name_of_its_own_in_the_scope_of_a_loss(tf, live):
    def build():
        u, v, same = (tf.placeholder(tf.float32, shape, name=name) for name, shape in (("u", [None, 6]), ("v", [None, 6]), ("same", [None])))
        codes = []
        for number, x in enumerate((u, v)):
            with tf.variable_scope("code", reuse=number > 0):
                codes.append(dense(tf, x, 3, "fc"))
        with tf.name_scope("loss"):
            distance = tf.sqrt(tf.reduce_sum(tf.square(codes[0] - codes[1]), 1) + 1e-6, name="distance")
            tf.reduce_mean(same * tf.square(distance) + (1 - same) * tf.square(tf.maximum(1 - distance, 0)))
        return Net({u: X, v: X + 1}, [distance])

    live(build).matches()


def test_what_is_looked_up_and_picked_by_an_input_is_compared_with_labels(tf, live):
    """An item's score and its bias: the item is an input, though a loss follows."""

    def build():
        x, item, wanted = (tf.placeholder(*how) for how in ((tf.float32, [None, 6], "x"), (tf.int32, [None], "item"), (tf.float32, [None], "wanted")))
        score = tf.reduce_sum(dense(tf, x, 4, "scores") * tf.one_hot(item, 4), 1)
        y = tf.identity(score + tf.nn.embedding_lookup(tf.get_variable("bias", [4]), item), name="y")
        tf.reduce_mean(tf.square(y - wanted))
        return Net({x: X, item: np.arange(len(X), dtype=np.int32) % 4}, [y])

    live(build).matches()
