"""Loops: those that only count are written out and match, in control flow v1 and v2; those whose length depends on data are refused, and say why."""

import numpy as np
import pytest
from live_graph import Net, dense, rows

from bnexport.conversion import convert
from bnexport.errors import UnsupportedOps
from bnexport.graph import loops
from bnexport.options import Options
from bnexport.runner import load

pytestmark = pytest.mark.tensorflow
X, SERIES, LENGTHS = rows(5, 6), rows(4, 5, 3), np.array([5, 2, 3, 1], np.int32)
WORDS = np.random.default_rng(0).integers(0, 20, (4, 7)).astype(np.int32)
NETWORKS = []


def network(build):
    """Adds a network to those that convert without flags and match."""
    NETWORKS.append(build)
    return build


def cell(tf, name, *args, **options):
    return getattr(tf.nn.rnn_cell, name)(*args, **options)


def trained(tf, y):
    """With a loss and its gradients, which go through loops as well."""
    labels = tf.placeholder(tf.int32, [None], name="labels")
    loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=y))
    tf.train.AdamOptimizer(0.01).minimize(loss)
    return y


def recurrent(tf, what, take, **options):
    x = tf.placeholder(tf.float32, [None, 5, 3], name="x")
    outputs, state = tf.nn.dynamic_rnn(what, x, dtype=tf.float32, **options)
    return Net({x: SERIES}, [trained(tf, dense(tf, take(outputs, state), 3, "out"))])


@network
def last_output_of_an_lstm(tf):
    return recurrent(tf, cell(tf, "BasicLSTMCell", 4), lambda outputs, state: outputs[:, -1])


@network
def state_of_a_gru(tf):
    return recurrent(tf, cell(tf, "GRUCell", 4), lambda outputs, state: state)


@network
def layers_with_peepholes_and_projection(tf):
    cells = [cell(tf, "LSTMCell", 5, use_peepholes=True, num_proj=4, cell_clip=3.0), cell(tf, "BasicLSTMCell", 5)]
    return recurrent(tf, cell(tf, "MultiRNNCell", cells), lambda outputs, state: tf.transpose(outputs, [1, 0, 2])[-1])


@network
def tags_of_words_in_both_directions(tf):
    """The states, and what only they were computed for in the last step, are left lying."""
    x, lengths = tf.placeholder(tf.float32, [None, 5, 3], name="x"), tf.placeholder(tf.int32, [None], name="lengths")
    cells = cell(tf, "LSTMCell", 4), cell(tf, "LSTMCell", 4)
    outputs, _ = tf.nn.bidirectional_dynamic_rnn(*cells, x, lengths, dtype=tf.float32)
    y = tf.reshape(dense(tf, tf.reshape(tf.concat(outputs, -1), [-1, 8]), 3, "out"), [-1, 5, 3])
    labels = tf.placeholder(tf.int32, [None, 5], name="labels")
    tf.train.AdamOptimizer().minimize(tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=y)))
    return Net({x: SERIES, lengths: LENGTHS}, [y])


@network
def unrolled_until_the_longest_has_ended(tf):
    """static_rnn asks at each step whether all sequences, or the shortest, have ended."""
    x, lengths = tf.placeholder(tf.float32, [None, 5, 3], name="x"), tf.placeholder(tf.int32, [None], name="lengths")
    outputs, _ = tf.nn.static_rnn(cell(tf, "BasicLSTMCell", 4), tf.unstack(x, 5, 1), dtype=tf.float32, sequence_length=lengths)
    stacked = tf.reshape(tf.stack(outputs, 1), [-1, 4])
    last = tf.gather(stacked, tf.range(tf.shape(x)[0]) * 5 + lengths - 1)
    return Net({x: SERIES, lengths: np.array([3, 2, 3, 1], np.int32)}, [trained(tf, dense(tf, last, 3, "out"))])


@network
def dropout_within_the_loop(tf):
    keep = tf.placeholder(tf.float32, [], name="keep_prob")
    dropped = lambda units: cell(tf, "DropoutWrapper", cell(tf, "BasicLSTMCell", units), input_keep_prob=keep, output_keep_prob=keep)  # noqa: E731
    net = recurrent(tf, cell(tf, "MultiRNNCell", [dropped(4), dropped(4)]), lambda outputs, state: outputs[:, -1])
    return Net(net.inputs, net.outputs, {keep: 1.0})


@network
def one_loop_behind_another(tf):
    """The number of steps of the second is a size of what the first gives."""
    x = tf.placeholder(tf.float32, [None, 5, 3], name="x")
    h = x
    for name in ("one", "two"):
        with tf.variable_scope(name):
            h, _ = tf.nn.dynamic_rnn(cell(tf, "GRUCell", 4), h, dtype=tf.float32)
    return Net({x: SERIES}, [trained(tf, dense(tf, tf.reduce_max(h, 1), 3, "out"))])


@network
def sequences_of_several_lengths(tf):
    """The loop ends with the longest sequence: how many steps there are depends on data, but they are no more than the graph fixes."""
    x, lengths = tf.placeholder(tf.int32, [None, 7], name="x"), tf.placeholder(tf.int32, [None], name="lengths")
    words = tf.nn.embedding_lookup(tf.get_variable("words", [20, 3]), x)
    cells = cell(tf, "LSTMCell", 4), cell(tf, "LSTMCell", 4)
    outputs, states = tf.nn.bidirectional_dynamic_rnn(*cells, words, lengths, dtype=tf.float32)
    h = tf.concat([states[0].h, states[1].h, tf.reduce_sum(outputs[0], 1), tf.reduce_max(outputs[1], 1)], 1)
    return Net({x: WORDS, lengths: LENGTHS}, [trained(tf, dense(tf, h, 3, "out"))])


@network
def state_that_is_fed(tf):
    x, before = tf.placeholder(tf.float32, [None, 5, 3], name="x"), tf.placeholder(tf.float32, [None, 4], name="before")
    outputs, _ = tf.nn.dynamic_rnn(cell(tf, "BasicRNNCell", 4), x, initial_state=before)
    return Net({x: SERIES, before: rows(4, 4)}, [tf.reduce_sum(outputs, 2, name="sums")])


@network
def hand_written_steps(tf):
    x, w = tf.placeholder(tf.float32, [None, 6], name="x"), tf.get_variable("w", [6, 6])
    _, h = tf.while_loop(lambda i, h: i < 4, lambda i, h: (i + 1, tf.tanh(tf.matmul(h, w) + tf.cast(i, tf.float32))), [0, x])
    return Net({x: X}, [dense(tf, h, 3, "out")])


@network
def a_loop_in_a_loop(tf):
    x, w = tf.placeholder(tf.float32, [None, 6], name="x"), tf.get_variable("w", [6, 6])

    def outer(i, h):
        _, h = tf.while_loop(lambda j, h: j < 2, lambda j, h: (j + 1, tf.tanh(tf.matmul(h, w) + tf.cast(i * j, tf.float32))), [0, h])
        return i + 1, 0.9 * h

    _, h = tf.while_loop(lambda i, h: i < 3, outer, [0, x])
    return Net({x: X}, [dense(tf, h, 3, "out")])


@network
def a_condition_in_a_loop(tf):
    x, w = tf.placeholder(tf.float32, [None, 6], name="x"), tf.get_variable("w", [6, 6])

    def step(i, h):
        return i + 1, tf.cond(tf.equal(i % 2, 0), lambda: tf.matmul(h, w), lambda: tf.nn.relu(h))

    _, h = tf.while_loop(lambda i, h: i < 4, step, [0, x])
    return Net({x: X}, [dense(tf, h, 3, "out")])


@network
def at_most_so_many_steps(tf):
    """A fixed point is looked for; the steps after it is found change nothing."""
    x, w = tf.placeholder(tf.float32, [None, 6], name="x"), tf.get_variable("w", [6, 6])
    h = tf.while_loop(lambda h: tf.reduce_sum(tf.abs(h)) > 1.5, lambda h: 0.3 * tf.tanh(tf.matmul(h, w)), [x], maximum_iterations=6)
    return Net({x: X}, [dense(tf, h[0] if isinstance(h, (list, tuple)) else h, 3, "out")])


@network
def outputs_kept_in_an_array(tf):
    x, w = tf.placeholder(tf.float32, [None, 6], name="x"), tf.get_variable("w", [6, 6])

    def step(i, h, array):
        h = tf.tanh(tf.matmul(h, w))
        return i + 1, h, array.write(i, h)

    _, _, array = tf.while_loop(lambda i, h, array: i < 4, step, [0, x, tf.TensorArray(tf.float32, 4)])
    return Net({x: X}, [tf.reduce_sum(tf.transpose(array.stack(), [1, 0, 2]) * tf.get_variable("v", [6]), 2)])


@network
def scan_over_time(tf):
    x, w = tf.placeholder(tf.float32, [None, 5, 3], name="x"), tf.get_variable("w", [7, 4])
    begin = tf.zeros([tf.shape(x)[0], 4])
    h = tf.scan(lambda h, now: tf.tanh(tf.matmul(tf.concat([h, now], 1), w)), tf.transpose(x, [1, 0, 2]), initializer=begin)
    return Net({x: SERIES}, [trained(tf, dense(tf, h[-1], 3, "out"))])


@network
def map_over_a_fixed_batch(tf):
    x, w = tf.placeholder(tf.float32, [5, 6], name="x"), tf.get_variable("w", [6, 3])
    return Net({x: X}, [dense(tf, tf.map_fn(lambda row: tf.squeeze(tf.nn.relu(tf.matmul(row[None], w)), 0), x), 3, "out")])


@network
def a_decoder_that_may_stop_early(tf):
    """Whether there is another step depends on what the network says; what was not written to the array is zeros."""
    x, words = tf.placeholder(tf.float32, [None, 4], name="x"), tf.get_variable("words", [7, 4])
    w, out = tf.get_variable("w", [8, 4]), tf.get_variable("out", [4, 7])

    def step(i, h, word, done, array):
        h = tf.tanh(tf.matmul(tf.concat([h, tf.gather(words, word)], 1), w))
        scores = tf.matmul(h, out)
        word = tf.argmax(scores, 1, output_type=tf.int32)
        return i + 1, h, word, tf.logical_or(done, tf.equal(word, 2)), array.write(i, scores)

    def goes_on(i, h, word, done, array):
        return tf.logical_and(i < 6, tf.logical_not(tf.reduce_all(done)))

    n = tf.shape(x)[0]
    array = tf.TensorArray(tf.float32, 6, element_shape=[None, 7])
    begin = [0, x, tf.zeros([n], tf.int32), tf.zeros([n], tf.bool), array]
    result = tf.while_loop(goes_on, step, begin)
    return Net({x: rows(2, 4)}, [tf.transpose(result[4].stack(), [1, 0, 2], name="scores"), tf.identity(result[1], name="state")])


@network
def an_array_that_grows_and_is_joined(tf):
    x, w = tf.placeholder(tf.float32, [3, 6], name="x"), tf.get_variable("w", [6, 6])

    def step(i, h, array):
        h = tf.tanh(tf.matmul(h, w))
        return i + 1, h, array.write(i, h)

    _, _, array = tf.while_loop(lambda i, h, array: i < 4, step, [0, x, tf.TensorArray(tf.float32, 0, dynamic_size=True)])
    return Net({x: rows(3, 6)}, [tf.reduce_sum(array.concat() * tf.get_variable("v", [6]), 1)])


@network
def variables_that_change_places(tf):
    x, w = tf.placeholder(tf.float32, [None, 6], name="x"), tf.get_variable("w", [6, 6])
    _, a, b = tf.while_loop(lambda i, a, b: i < 5, lambda i, a, b: (i + 1, b, tf.matmul(a, w) + 0.1 * b), [0, x, tf.nn.relu(x)])
    return Net({x: X}, [dense(tf, tf.concat([a, b], 1), 3, "out")])


@pytest.mark.parametrize("v2", [False, True], ids=["frames", "functions"])
@pytest.mark.parametrize("build", NETWORKS, ids=lambda build: build.__name__)
def test_matches_without_flags(tf, live, build, v2):
    live(lambda: build(tf), cond_v2=v2).matches()


@pytest.mark.parametrize("v2", [False, True], ids=["frames", "functions"])
def test_the_steps_share_their_weights(tf, live, v2):
    program = live(lambda: last_output_of_an_lstm(tf), cond_v2=v2).matches()
    steps = [layer for layer in program.layers if layer.op == "Dense" and layer.arrays["kernel"].shape == (7, 16)]
    assert len(steps) == 5
    assert len({id(layer.arrays[role]) for layer in steps for role in ("kernel", "bias")}) == 2


def test_a_bundle_holds_shared_weights_once(tf, live):
    saved = live(lambda: last_output_of_an_lstm(tf))
    saved.matches()
    with np.load(saved.prefix.with_name("out.npz")) as arrays:
        kernels = [name for name in arrays.files if name.endswith("/kernel")]
    assert kernels == ["rnn/basic_lstm_cell/kernel", "out/kernel"]


def test_a_bundle_holds_a_table_once_that_every_step_looks_words_up_in(tf, live):
    saved = live(lambda: a_decoder_that_may_stop_early(tf))
    saved.matches()
    with np.load(saved.prefix.with_name("out.npz")) as arrays:
        assert [arrays[name].shape for name in arrays.files[:-1]] == [(7, 4), (8, 4), (4, 7)]


@pytest.mark.parametrize("v2", [False, True], ids=["frames", "functions"])
def test_an_open_number_of_steps_can_be_given(tf, live, v2):
    def build():
        x = tf.placeholder(tf.float32, [None, None, 3], name="x")
        _, state = tf.nn.dynamic_rnn(cell(tf, "GRUCell", 4), x, dtype=tf.float32)
        return Net({x: SERIES}, [dense(tf, state, 3, "out")])

    saved = live(build, cond_v2=v2)
    with pytest.raises(UnsupportedOps, match=r"While: rnn/while.*a size that the graph leaves open.*--shape x=\?,STEPS,3"):
        saved.convert(outputs=["add"])
    saved.matches(outputs=["add"], shapes={"x": (None, 5, 3)})


@pytest.mark.parametrize("v2", [False, True], ids=["frames", "functions"])
def test_a_length_that_depends_on_data_is_refused(tf, live, v2):
    def build():
        x, w = tf.placeholder(tf.float32, [None, 6], name="x"), tf.get_variable("w", [6, 6])
        h = tf.while_loop(lambda h: tf.reduce_sum(tf.abs(h)) > 1.0, lambda h: 0.5 * tf.tanh(tf.matmul(h, w)), [x], name="steps")
        return Net({x: X}, [dense(tf, h[0] if isinstance(h, (list, tuple)) else h, 3, "out")])

    with pytest.raises(UnsupportedOps, match=r"While: steps.*a loop.*its number of steps depends on data, on x"):
        live(build, cond_v2=v2).convert()


def test_keras_layers_of_a_saved_model(tf, tmp_path):
    """The user gives the open number of steps by the name that the signature has for the input."""
    import tf_keras as keras

    keras.utils.set_random_seed(4)
    layers = [keras.layers.Input((None, 3), name="series"), keras.layers.Bidirectional(keras.layers.GRU(4)), keras.layers.Dense(2)]
    model = keras.Sequential(layers)
    expected = model(SERIES).numpy()
    model.save(tmp_path / "saved", save_format="tf")
    with pytest.raises(UnsupportedOps, match=r"--shape series=\?,STEPS,3"):
        convert(tmp_path / "saved", tmp_path / "out.npz")
    convert(tmp_path / "saved", tmp_path / "out.npz", Options(shapes={"series": (None, 5, 3)}))
    assert np.abs(load(tmp_path / "out.npz").predict(SERIES) - expected).max() < 1e-5


def counted(tf, steps):
    x, w = tf.placeholder(tf.float32, [None, 6], name="x"), tf.get_variable("w", [6, 6])
    _, h = tf.while_loop(lambda i, h: i < steps, lambda i, h: (i + 1, tf.tanh(tf.matmul(h, w))), [0, x])
    return Net({x: X}, [dense(tf, h, 3, "out")])


def test_too_many_steps_are_refused_with_their_number(tf, live, monkeypatch):
    saved = live(lambda: counted(tf, 40))
    monkeypatch.setattr(loops, "MOST_STEPS", 39)
    with pytest.raises(UnsupportedOps, match="it takes more than 39 steps"):
        saved.convert()
    monkeypatch.undo()
    monkeypatch.setattr(loops, "MOST_NODES", 100)
    with pytest.raises(UnsupportedOps, match=r"its 40 steps of \d nodes each are too many to write out \(100 nodes at most\)"):
        saved.convert()
    monkeypatch.undo()
    saved.matches()


@pytest.mark.parametrize("cond_v2", [False, True], ids=["frames", "while_v2"])
def test_a_network_does_not_end_where_a_loop_begins_that_is_not_written_out(tf, live, cond_v2):
    """In control flow v2 the loop also fills lists for its gradients, and is no part of them for that."""

    def build():
        x, steps = tf.placeholder(tf.float32, [None, 6], name="x"), tf.placeholder(tf.int32, [], name="steps")
        h = tf.reshape(tf.nn.relu(dense(tf, x, 6, "one")), tf.stack([-1, steps, 6]))
        outputs, _ = tf.nn.dynamic_rnn(cell(tf, "GRUCell", 4), h, dtype=tf.float32)
        return Net({x: X[:4]}, [trained(tf, dense(tf, tf.reshape(outputs, [-1, 4]), 3, "out"))], {steps: 2})

    with pytest.raises(UnsupportedOps, match="While: ") as caught:
        live(build, cond_v2=cond_v2).convert()
    assert "gradients" not in str(caught.value)


def test_random_numbers_in_a_loop_are_drawn_in_each_step(tf, live):
    """They are not taken for one that all steps share: refused, as random numbers are everywhere."""

    def build():
        x, w = tf.placeholder(tf.float32, [None, 6], name="x"), tf.get_variable("w", [6, 6])
        step = lambda i, h: (i + 1, tf.matmul(h + tf.random_normal([6]), w))  # noqa: E731
        return Net({x: X}, [dense(tf, tf.while_loop(lambda i, h: i < 3, step, [0, x])[1], 3, "out")])

    with pytest.raises(UnsupportedOps, match=r"RandomStandardNormal: (.*step_\d.*){3}"):
        live(build).convert()
