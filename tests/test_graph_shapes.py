"""Batch sizes: open, unknown, baked into placeholders and constants, and what cannot be generalised."""

import numpy as np
import pytest
from live_graph import Net, dense, rows

from bnexport.errors import GraphError, InputError, UnsupportedOps, UsageError
from bnexport.runner import load

pytestmark = pytest.mark.tensorflow


def other_batches(saved, build, live, sizes, **options):
    """Compares batches of other sizes than the graph was built for with TensorFlow's, one graph for each size."""
    saved.matches(**options)
    model = load(saved.prefix.with_name("out.npz"))
    for size in sizes:
        expected = live.outputs(lambda size=size: build(size), saved.variables)
        (name,) = saved.inputs
        got = model.predict({name: rows(size, *saved.inputs[name].shape[1:])})
        got = list(got.values()) if isinstance(got, dict) else [got]
        for a, b in zip(got, expected, strict=True):
            assert a.shape == b.shape
            assert np.abs(a - b).max() <= 1e-5 * max(1.0, np.abs(b).max())


def points(tf, size):
    """PointNet in small: the batch size is in the placeholder, in a tile and in reshapes."""
    x = tf.placeholder(tf.float32, [size, 8, 3], name="points")
    kernel = tf.get_variable("conv/w", [1, 3, 1, 5])
    h = tf.nn.relu(tf.nn.conv2d(tf.expand_dims(x, -1), kernel, [1, 1, 1, 1], "VALID"))
    pooled = tf.reshape(tf.nn.max_pool(h, [1, 8, 1, 1], [1, 1, 1, 1], "VALID"), [size, -1])
    tiled = tf.tile(tf.reshape(pooled, [size, 1, 1, 5]), [1, 8, 1, 1])
    joined = tf.reshape(tf.concat([h, tiled], 3), [size * 8, 10])
    return x, tf.reshape(dense(tf, joined, 2, "out"), [size, 8, 2], name="y")


def test_a_baked_batch_is_generalised(tf, live):
    def build(size=4):
        x, y = points(tf, size)
        return Net({x: rows(size, 8, 3)}, [y])

    saved = live(build)
    other_batches(saved, build, live, [1, 4, 7])
    assert load(saved.prefix.with_name("out.npz")).inputs[0].shape == (None, 8, 3)


def test_a_learned_transform_per_point_cloud(tf, live):
    """PointNet's transform nets: a matrix per sample, multiplied into its points."""

    def build(size=4):
        x = tf.placeholder(tf.float32, [size, 8, 3], name="points")
        feature = tf.reduce_max(x, 1)
        with tf.variable_scope("t"):
            matrix = dense(tf, feature, 9, "m") + tf.constant(np.eye(3).flatten(), tf.float32)
        y = tf.matmul(x, tf.reshape(matrix, [size, 3, 3]), name="moved")
        return Net({x: rows(size, 8, 3)}, [y])

    other_batches(live(build), build, live, [1, 3])


@pytest.mark.parametrize("where", ["placeholder", "constant", "default"])
def test_the_batch_of_a_transposed_convolution_is_its_datas(tf, live, where):
    """TensorFlow demands that both are the same, so that a size that was built in, or is a default, says nothing."""

    def build(size=4):
        x = tf.placeholder(tf.float32, [size if where == "placeholder" else None, 3, 3, 2], name="x")
        batch = tf.placeholder_with_default(size, [], name="batch_size") if where == "default" else size
        kernel = tf.get_variable("kernel", [3, 3, 4, 2])
        y = tf.nn.conv2d_transpose(x, kernel, tf.stack([batch, 6, 6, 4]), [1, 2, 2, 1])
        return Net({x: rows(size, 3, 3, 2)}, [tf.nn.sigmoid(y, name="y")])

    saved = live(build)
    other_batches(saved, build, live, [1, 3])
    assert load(saved.prefix.with_name("out.npz")).inputs[0].shape == (None, 3, 3, 2)


def test_a_batch_size_that_is_fed(tf, live):
    """No shape follows from a number that is fed; once it is given, no other number of rows fits."""

    def build(size=4):
        x, batch = tf.placeholder(tf.float32, [None, 6], name="x"), tf.placeholder(tf.int32, [], name="batch_size")
        h = tf.reshape(dense(tf, x, 6, "one"), tf.stack([batch, 2, 3]))
        y = dense(tf, h[:, 0], 2, "two")
        return Net({x: rows(size, 6)}, [y], {batch: size})

    saved = live(build)
    with pytest.raises(GraphError, match="it is computed from batch_size, which --set batch_size=NUMBER gives a value"):
        saved.convert()
    given = {"set_values": {"batch_size": 4}}
    other_batches(saved, build, live, [1, 3], **given)
    other_batches(saved, build, live, [1, 3], shapes={"x": [4, 6]}, **given)


@pytest.mark.parametrize("trained", [4, 6])
def test_a_batch_size_that_only_reshapes_tell(tf, live, trained):
    """A generator takes any number of codes, and its transposed convolutions a batch of one size."""

    def build(size=trained):
        z = tf.placeholder(tf.float32, [None, 5], name="z")
        h = tf.nn.relu(tf.reshape(dense(tf, z, 24, "one"), [-1, 2, 2, 6]))
        kernel = tf.get_variable("kernel", [3, 3, 4, 6])
        h = tf.nn.conv2d_transpose(h, kernel, [size, 4, 4, 4], [1, 2, 2, 1])
        y = tf.tanh(tf.reshape(h, [size, 4, 4, 4]), name="y")
        return Net({z: rows(size, 5)}, [y])

    saved = live(build)
    other_batches(saved, build, live, [1, 3])
    assert load(saved.prefix.with_name("out.npz")).inputs[0].shape == (None, 5)


def test_sizes_that_are_fed_and_open_ones_are_told_with_what_fixes_them(tf, live):
    def build():
        x, batch, time = (
            tf.placeholder(tf.float32, [None, 6], name="x"),
            tf.placeholder(tf.int32, [], name="batch"),
            tf.placeholder(tf.int32, name="time"),
        )
        h = tf.reshape(dense(tf, x, 6, "one"), tf.stack([batch, time, 6]))
        cell = tf.nn.rnn_cell.BasicLSTMCell(4)
        outputs, _ = tf.nn.dynamic_rnn(cell, h, initial_state=cell.zero_state(batch, tf.float32))
        return Net({x: rows(8, 6)}, [dense(tf, tf.reshape(outputs, [-1, 4]), 2, "two")], {batch: 2, time: 4})

    saved = live(build)
    with pytest.raises(UnsupportedOps, match=r"its number of steps depends on data, on .*; --set (time|batch)=NUMBER"):
        saved.convert()
    given = {"set_values": {"batch": 2, "time": 4}}
    with pytest.raises(GraphError, match=r"if the number of rows is among batch and time, say it of the data as well: --shape x=ROWS,6$"):
        saved.convert(**given)
    saved.matches(shapes={"x": [8, 6]}, **given)


def test_a_size_that_the_graph_leaves_open_is_told_where_it_does_not_fit(tf, live):
    def build():
        x = tf.placeholder(tf.float32, [None, None], name="x")
        return Net({x: rows(4, 5)}, [dense(tf, tf.reduce_sum(tf.reshape(x, [-1, 5, 1]), 1), 2, "one")])

    live(build).matches()


def test_the_batch_size_of_another_number_in_the_graph(tf, live):
    """A batch of 8 and 8 units: a reshape to [-1, 8] or [8, 1] of weights must not be scaled with the batch."""

    def build(size=8):
        x = tf.placeholder(tf.float32, [size, 8], name="x")
        h = tf.nn.relu(dense(tf, x, 8, "one"))
        h = h + tf.reshape(tf.get_variable("shift", [8]), [1, 8])
        h = tf.reshape(tf.reshape(h, [size, 2, 4]), [size, 8])
        y = tf.matmul(h, tf.reshape(tf.get_variable("w", [64]), [8, 8]), name="y")
        return Net({x: rows(size, 8)}, [y])

    other_batches(live(build), build, live, [1, 5])


def test_constants_with_the_batch_in_them_keep_it(tf, live):
    """A noise matrix of [4, 3] that is added row by row: the network is of batches of 4, the last one filled up."""

    def build():
        x = tf.placeholder(tf.float32, [4, 6], name="x")
        y = tf.nn.tanh(dense(tf, x, 3, "out") + tf.get_variable("per_row", [4, 3]), name="y")
        return Net({x: rows(4, 6)}, [y])

    saved = live(build)
    program = saved.matches()
    assert program.conversion["batch"] == 4
    assert program.conversion["rows_alone"]
    (warning,) = program.conversion["warnings"]
    assert warning == "the network is built for batches of 4 rows: a smaller one is filled up, and the added rows' scores dropped"
    scores = load(saved.prefix.with_name("out.npz")).predict(saved.inputs["x"][:3])
    np.testing.assert_allclose(scores, saved.expected["y"][:3], atol=1e-5)


def test_a_batch_that_cannot_be_filled_up(tf, live):
    """What is said when it is converted is what is done when it is run."""

    def build():
        x = tf.placeholder(tf.float32, [4, 6], name="x")
        y = dense(tf, x, 3, "one") + tf.get_variable("per_row", [4, 3])
        return Net({x: rows(4, 6)}, [tf.tanh(y - tf.reverse(y, [0]), name="y")])

    saved = live(build)
    program = saved.matches()
    assert (program.conversion["batch"], program.conversion["rows_alone"]) == (4, False)
    assert "the network is built for batches of 4 rows: it takes so many at a time" in program.conversion["warnings"]
    with pytest.raises(InputError, match="give 4 rows, not 3"):
        load(saved.prefix.with_name("out.npz")).predict(saved.inputs["x"][:3])


@pytest.mark.parametrize("towers", [2, 3])
def test_a_batch_that_is_shared_out_to_devices(tf, live, towers):
    """Each device takes its part of the rows, with the same weights; what does not divide is refused, as TensorFlow does."""

    def build(size=6):
        x = tf.placeholder(tf.float32, [None, 5], name="x")
        scores = []
        for i, part in enumerate(tf.split(x, towers)):
            with tf.variable_scope("tower", reuse=i > 0):
                scores.append(dense(tf, tf.nn.relu(dense(tf, part, 4, "one")), 3, "two"))
        return Net({x: rows(size, 5)}, [tf.concat(scores, 0, name="y")])

    saved = live(build)
    other_batches(saved, build, live, [18, 1200])
    with pytest.raises(InputError, match=f"7 cannot be divided into {towers} equal parts.*give a multiple of {towers}"):
        load(saved.prefix.with_name("out.npz")).predict(rows(7, 5))


def test_a_batch_of_triplets(tf, live):
    """Embeddings are taken apart into anchors, positives and negatives for the loss."""

    def build(size=6):
        x = tf.placeholder(tf.float32, [None, 5], name="x")
        embeddings = tf.nn.l2_normalize(dense(tf, x, 4, "one"), 1)
        anchors, positives, _ = tf.unstack(tf.reshape(embeddings, [-1, 3, 4]), 3, 1)
        return Net({x: rows(size, 5)}, [tf.multiply(anchors, positives, name="y")])

    other_batches(live(build), build, live, [3, 600])


def test_a_dynamic_batch_from_tf_shape(tf, live):
    def build(size=5):
        x = tf.placeholder(tf.float32, [None, 6], name="x")
        h = dense(tf, x, 8, "one")
        batch = tf.shape(h)[0]
        h = tf.reshape(h, tf.stack([batch, 2, 4]))
        h = tf.concat([h, tf.zeros([batch, 1, 4])], 1) + tf.ones(tf.shape(h)[:1])[:, None, None]
        y = tf.reshape(h, [-1, 12], name="y")
        return Net({x: rows(size, 6)}, [y])

    other_batches(live(build), build, live, [1, 2, 11, 13])


def test_a_batch_that_is_folded_into_time_and_back(tf, live):
    def build(size=5):
        x = tf.placeholder(tf.float32, [None, 4, 6], name="x")
        h = tf.nn.relu(dense(tf, tf.reshape(x, [-1, 6]), 3, "each"))
        y = tf.reduce_mean(tf.reshape(h, [-1, 4, 3]), 1, name="y")
        return Net({x: rows(size, 4, 6)}, [y])

    other_batches(live(build), build, live, [1, 8])


def test_a_division_by_the_batch_size(tf, live):
    """x / tf.shape(x)[0]: the result depends on how many rows come together, in TensorFlow as here."""

    def build(size=5):
        x = tf.placeholder(tf.float32, [None, 6], name="x")
        y = tf.divide(dense(tf, x, 3, "out"), tf.cast(tf.shape(x)[0], tf.float32), name="y")
        return Net({x: rows(size, 6)}, [y])

    other_batches(live(build), build, live, [1, 7, 600])


def test_a_maximum_with_the_batch_size(tf, live):
    def build(size=5):
        x = tf.placeholder(tf.float32, [None, 6], name="x")
        rank = tf.cast(tf.minimum(tf.shape(x)[0], 6), tf.float32)
        y = tf.multiply(dense(tf, x, 3, "out"), rank, name="y")
        return Net({x: rows(size, 6)}, [y])

    other_batches(live(build), build, live, [1, 4, 9])


def test_reversed_and_sliced_batches(tf, live):
    def build(size=6):
        x = tf.placeholder(tf.float32, [None, 6], name="x")
        h = dense(tf, x, 3, "out")
        y = tf.subtract(h, tf.reverse(h, [0]), name="y")
        return Net({x: rows(size, 6)}, [y])

    other_batches(live(build), build, live, [1, 2, 700])


def test_softmax_over_the_batch(tf, live):
    def build(size=6):
        x = tf.placeholder(tf.float32, [None, 6], name="x")
        h = dense(tf, x, 3, "out")
        y = tf.transpose(tf.nn.softmax(tf.transpose(h)), name="y")
        return Net({x: rows(size, 6)}, [y])

    other_batches(live(build), build, live, [1, 9, 700])


def test_a_maximum_over_the_batch(tf, live):
    def build(size=6):
        x = tf.placeholder(tf.float32, [None, 6], name="x")
        h = dense(tf, x, 3, "out")
        y = tf.subtract(h, tf.reduce_max(h, 0, keepdims=True), name="y")
        return Net({x: rows(size, 6)}, [y])

    other_batches(live(build), build, live, [1, 9, 700], outputs=["y"])


def test_the_gram_matrix_of_a_batch(tf, live):
    def build(size=6):
        x = tf.placeholder(tf.float32, [None, 6], name="x")
        h = dense(tf, x, 3, "out")
        return Net({x: rows(size, 6)}, [tf.matmul(h, h, transpose_b=True, name="y")])

    other_batches(live(build), build, live, [1, 9, 300])


def test_time_first(tf, live):
    """Sequences as [time, batch, features], unrolled over a fixed time."""

    def build(size=5):
        x = tf.placeholder(tf.float32, [None, 4, 3], name="x")
        cell, state = tf.get_variable("cell", [6, 3]), tf.zeros([tf.shape(x)[0], 3])
        for step in tf.unstack(tf.transpose(x, [1, 0, 2])):
            state = tf.tanh(tf.matmul(tf.concat([step, state], 1), cell))
        return Net({x: rows(size, 4, 3)}, [tf.identity(state, name="y")])

    other_batches(live(build), build, live, [1, 9])


def test_images_of_any_size(tf, live):
    def build(size=2):
        x = tf.placeholder(tf.float32, [None, None, None, 3], name="x")
        h = tf.nn.relu(tf.nn.conv2d(x, tf.get_variable("w", [3, 3, 3, 4]), [1, 2, 2, 1], "SAME"))
        return Net({x: rows(size, 12, 10, 3)}, [tf.reduce_mean(h, [1, 2], name="y")])

    other_batches(live(build), build, live, [1, 5])


def test_an_unknown_rank_is_told_by_the_first_layer(tf, live):
    def build():
        x = tf.placeholder(tf.float32, name="x")
        product = tf.raw_ops.MatMul(a=x, b=tf.get_variable("w", [6, 3]))  # tf.matmul writes another operator for it today
        return Net({x: rows(5, 6)}, [tf.nn.softmax(product, name="y")])

    live(build).matches()


def test_an_unknown_rank_that_nothing_tells(tf, live):
    def build():
        x = tf.placeholder(tf.float32, name="x")
        y = tf.matmul(tf.tanh(x), tf.get_variable("w", [6, 3]), name="y")
        return Net({x: rows(5, 6)}, [y])

    saved = live(build)
    with pytest.raises(GraphError, match=r"the graph does not say what shape the input 'x' has; give it with --shape x=\?,SIZE"):
        saved.convert()
    saved.matches(shapes={"x": (None, 6)})
    with pytest.raises(UsageError, match="a shape was given for 'z', which is no input; the inputs are x"):
        saved.convert(shapes={"x": (None, 6), "z": (None, 6)})


def test_the_runner_says_what_shape_it_wants(tf, live):
    def build():
        x, y = points(tf, 4)
        return Net({x: rows(4, 8, 3)}, [y])

    saved = live(build)
    saved.convert()
    with pytest.raises(InputError, match=r"the input 'points' was given the shape \(4, 3\); it is float32 of shape \(any, 8, 3\)"):
        load(saved.prefix.with_name("out.npz")).predict(rows(4, 3))


@pytest.mark.parametrize("how", ["moments", "gram", "softmax"])
@pytest.mark.parametrize("size", [1, 4])
def test_a_baked_batch_whose_rows_are_mixed_is_kept(tf, live, how, size):
    """What a batch of one makes of itself, a larger one would make of all its images together."""

    def build():
        x = tf.placeholder(tf.float32, [size, 5, 3], name="x")
        h = dense(tf, tf.reshape(x, [-1, 3]), 4, "h")
        if how == "moments":
            mean, variance = tf.nn.moments(h, [0])
            h = tf.nn.batch_normalization(h, mean, variance, None, None, 1e-3)
        elif how == "gram":
            h = tf.matmul(h, tf.nn.softmax(tf.matmul(h, h, transpose_a=True)))
        else:
            h = tf.transpose(tf.nn.softmax(tf.transpose(h)))
        return Net({x: rows(size, 5, 3)}, [tf.reshape(h, [size, 5, 4], name="y")])

    saved = live(build)
    program = saved.matches(outputs=["y"])
    assert program.conversion["batch"] == size
    model = load(saved.prefix.with_name("out.npz"))
    twice = model.predict(np.concatenate([saved.inputs["x"][::-1], saved.inputs["x"]]))
    assert np.abs(twice[size:] - saved.expected["y"]).max() <= 1e-5
    if size > 1:
        with pytest.raises(InputError, match="whose scores may depend on each other: give 4 rows, not 3"):
            model.predict(saved.inputs["x"][:3])


@pytest.mark.parametrize("how", ["first", "one image of all"])
def test_a_batch_of_one_that_is_no_batch_in_between(tf, live, how):
    """The image without its batch dimension: of several images, the first alone, or windows from one into the next."""

    def build():
        x = tf.placeholder(tf.float32, [1, 6, 6, 3], name="x")
        kernel = tf.get_variable("kernel", [3, 3, 3, 2])
        if how == "first":
            return Net({x: rows(1, 6, 6, 3)}, [tf.tanh(tf.nn.conv2d(x, kernel, [1, 1, 1, 1], "SAME")[0], name="y")])
        image = tf.reshape(x, [6, 6, 3]) * 0.5
        h = tf.nn.conv2d(tf.expand_dims(image, 0), kernel, [1, 1, 1, 1], "SAME")
        return Net({x: rows(1, 6, 6, 3)}, [tf.reshape(h, [1, 72], name="y")])

    saved = live(build)
    program = saved.matches()
    model = load(saved.prefix.with_name("out.npz"))
    images = np.concatenate([rows(2, 6, 6, 3, seed=1), saved.inputs["x"]])
    if how == "first":
        assert program.inputs[0].shape == (1, 6, 6, 3)
        with pytest.raises(InputError):
            model.predict(images)
    else:
        assert np.abs(model.predict(images)[2:] - saved.expected["y"]).max() <= 1e-5


@pytest.mark.parametrize("length", [7, 32, 50])
def test_a_text_of_which_the_beginning_is_taken(tf, live, length):
    """x[:, :32] has 32 words in both probes, and fewer where the text has."""

    def build(size=8):
        x = tf.placeholder(tf.float32, [None, None, 6], name="x")
        h = tf.tanh(x[:, :32] * tf.get_variable("w", [6]))
        y = tf.nn.softmax(tf.reshape(h, [-1, tf.shape(h)[1] * 6]), name="y")
        return Net({x: rows(size, length, 6)}, [y])

    other_batches(live(build), build, live, [1, 16])


def test_strides_that_leave_little_of_an_image(tf, live):
    """ceil(96 / 64) and ceil(128 / 64) are both 2, but 256 / 64 is 4."""

    def build(size=2):
        x = tf.placeholder(tf.float32, [None, None, None, 3], name="x")
        h = x
        for _ in range(3):
            h = tf.nn.max_pool2d(h, 4, 4, "SAME")
        shape = tf.shape(h)
        tokens = tf.nn.softmax(tf.reshape(h, tf.stack([shape[0], shape[1] * shape[2], 3])), 1)
        return Net({x: rows(size, 256, 192, 3)}, [tf.multiply(tokens, tf.get_variable("w", [3]), name="y")])

    other_batches(live(build), build, live, [1, 3])


def test_the_first_rows_of_a_batch(tf, live):
    def build(size=6):
        x = tf.placeholder(tf.float32, [None, 6], name="x")
        return Net({x: rows(size, 6)}, [tf.nn.softmax(dense(tf, dense(tf, x, 4, "h")[:8], 3, "out"), name="y")])

    saved = live(build)
    other_batches(saved, build, live, [1, 8, 20])
    assert load(saved.prefix.with_name("out.npz")).outputs[0].shape == (None, 3)


def test_the_one_size_that_indices_of_any_length_can_have(tf, live):
    """A factorisation machine whose placeholders leave the number of fields open, which only a reshape tells."""

    def build():
        indices, values = (tf.placeholder(dtype, [None, None], name=name) for dtype, name in ((tf.int32, "indices"), (tf.float32, "values")))
        vectors = tf.nn.embedding_lookup(tf.get_variable("table", [20, 3]), indices) * tf.reshape(values, [-1, 4, 1])
        y = tf.identity(dense(tf, tf.reshape(vectors, [-1, 12]), 2, "out"), name="y")
        return Net({indices: np.arange(12, dtype=np.int32).reshape(3, 4), values: rows(3, 4)}, [y])

    program = live(build).matches()
    assert [port.shape for port in program.inputs] == [(None, 4), (None, 4)]


def test_a_picture_that_could_be_cut_to_several_is_of_no_size(tf, live):
    """reshape(maps, [-1, 98]), of maps of 7 x 7, also takes those of pictures of 98 x 98, as many rows each."""

    def build():
        x = tf.placeholder(tf.float32, [None, None, None, 2], name="x")
        maps = tf.nn.max_pool(x, [1, 2, 2, 1], [1, 2, 2, 1], "SAME")
        return Net({x: rows(2, 14, 14, 2)}, [tf.identity(dense(tf, tf.reshape(maps, [-1, 98]), 3, "a"), name="y")])

    saved = live(build)
    with pytest.raises(GraphError, match=r"the graph leaves sizes open, which may be fixed: --shape x=\?,SIZE,SIZE,2"):
        saved.convert()
    saved.matches(shapes={"x": (None, 14, 14, 2)})


def test_a_number_of_rows_that_the_graph_was_built_for_is_asked_for(tf, live):
    """Other examples of the batch as negatives, rotated by slices of a fixed size."""

    def build():
        x, wanted = (tf.placeholder(tf.float32, [None, 6], name=name) for name in ("x", "wanted"))
        a, b = dense(tf, x, 4, "a"), dense(tf, wanted, 4, "b")
        rotated = tf.concat([tf.slice(b, [1, 0], [4, -1]), tf.slice(b, [0, 0], [1, -1])], 0)
        return Net({x: rows(5, 6), wanted: rows(5, 6, seed=2)}, [tf.identity(a * rotated, name="y")])

    saved = live(build)
    with pytest.raises(GraphError, match=r"built for a fixed number of rows, say which: --shape x=ROWS,6 --shape wanted=ROWS,6"):
        saved.convert()
    saved.matches(shapes={"x": (5, 6), "wanted": (5, 6)})
