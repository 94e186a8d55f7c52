"""Recurrent networks of cells that TensorFlow computes in one operator, as LSTMBlockCell, LSTMBlockFusedCell and GRUBlockCellV2 of contrib.rnn."""

import numpy as np
import pytest
from live_graph import Net, dense, rows

from bnexport.errors import UnsupportedOps

pytestmark = pytest.mark.tensorflow
STEPS, INPUTS, UNITS = 6, 4, 5
SERIES, LENGTHS = rows(4, STEPS, INPUTS), np.array([6, 1, 3, 2], np.int32)


def variable(tf, name, *shape):
    return tf.get_variable(name, list(shape))


def peepholes(tf, used):
    return [variable(tf, f"w_{gate}_diag", UNITS) if used else tf.zeros([UNITS]) for gate in "ifo"]


def step(tf, kind, x, state, **options):
    """A step of contrib's cells: what comes out, and the new state."""
    with tf.variable_scope(kind, reuse=tf.AUTO_REUSE):
        if kind == "lstm":
            kernel, bias = variable(tf, "kernel", INPUTS + UNITS, 4 * UNITS), variable(tf, "bias", 4 * UNITS)
            wci, wcf, wco = peepholes(tf, options.get("use_peephole", False))
            _, c, _, _, _, _, h = tf.raw_ops.LSTMBlockCell(
                x=x, cs_prev=state[0], h_prev=state[1], w=kernel, wci=wci, wcf=wcf, wco=wco, b=bias, **options
            )
            return h, (c, h)
        gates, bias = variable(tf, "gates/kernel", INPUTS + UNITS, 2 * UNITS), variable(tf, "gates/bias", 2 * UNITS)
        kernel, new = variable(tf, "candidate/kernel", INPUTS + UNITS, UNITS), variable(tf, "candidate/bias", UNITS)
        *_, h = tf.raw_ops.GRUBlockCell(x=x, h_prev=state, w_ru=gates, w_c=kernel, b_ru=bias, b_c=new)
        return h, h


def cell(tf, kind, **options):
    class Cell(tf.nn.rnn_cell.RNNCell):
        state_size = (UNITS, UNITS) if kind == "lstm" else UNITS
        output_size = UNITS

        def __call__(self, inputs, state, scope=None):
            return step(tf, kind, inputs, state, **options)

    return Cell()


def fused(tf, x, lengths, name="LSTM", **options):
    """contrib's LSTMBlockFusedCell: what comes out of x (steps, N, inputs), and the last states."""
    n = tf.shape(x)[1]
    zeros = tf.zeros(tf.stack([n, UNITS]))
    kernel, bias = variable(tf, "kernel", INPUTS + UNITS, 4 * UNITS), variable(tf, "bias", 4 * UNITS)
    wci, wcf, wco = peepholes(tf, options.get("use_peephole", False))
    longest = tf.cast(tf.shape(x)[0] if lengths is None else tf.reduce_max(lengths), tf.int64)
    results = getattr(tf.raw_ops, f"Block{name}")(
        seq_len_max=longest, x=x, cs_prev=zeros, h_prev=zeros, w=kernel, wci=wci, wcf=wcf, wco=wco, b=bias, **options
    )
    c, h = results[1], results[6]
    if lengths is None:
        return h, (c[-1], h[-1])
    h *= tf.tile(tf.expand_dims(tf.transpose(tf.sequence_mask(lengths, tf.shape(x)[0], dtype=tf.float32)), -1), [1, 1, UNITS])
    at = tf.stack([lengths, tf.range(n)], axis=1)
    return h, tuple(tf.gather_nd(tf.concat([tf.expand_dims(zeros, 0), states], 0), at) for states in (c, h))


def series(tf, steps=STEPS):
    return tf.placeholder(tf.float32, [None, steps, INPUTS], name="x"), tf.placeholder(tf.int32, [None], name="lengths")


@pytest.mark.parametrize("kind", ["lstm", "gru"])
@pytest.mark.parametrize("v2", [False, True], ids=["frames", "functions"])
@pytest.mark.parametrize("with_lengths", [False, True])
def test_cells_in_a_loop(tf, live, kind, v2, with_lengths):
    """In control flow v2 the loop's body is a function, which calls the new state by its name `cs`."""

    def build():
        x, lengths = series(tf)
        outputs, state = tf.nn.dynamic_rnn(cell(tf, kind), x, lengths if with_lengths else None, dtype=tf.float32)
        y = dense(tf, tf.concat([outputs[:, -1], state[0] if kind == "lstm" else state], 1), 3, "out")
        return Net({x: SERIES, **({lengths: LENGTHS} if with_lengths else {})}, [y])

    program = live(build, cond_v2=v2).matches(outputs=["add"])
    steps = [layer for layer in program.layers if layer.op in ("LSTMBlockCell", "GRUBlockCell")]
    assert len(steps) == STEPS
    matrices = [array for layer in steps for array in layer.arrays.values() if len(array.shape) == 2]
    assert len({id(matrix) for matrix in matrices}) == {"lstm": 1, "gru": 2}[kind]


@pytest.mark.parametrize("options", [{"use_peephole": True}, {"cell_clip": 0.3, "forget_bias": 0.0}, {"cell_clip": -1.0}])
def test_cells_unrolled(tf, live, options):
    def build():
        x, _ = series(tf)
        outputs, state = tf.nn.static_rnn(cell(tf, "lstm", **options), tf.unstack(x, axis=1), dtype=tf.float32)
        return Net({x: SERIES}, [dense(tf, tf.concat([outputs[-1], state[0]], 1), 3, "out")])

    live(build).matches()


@pytest.mark.parametrize("name", ["LSTM", "LSTMV2"])
@pytest.mark.parametrize("steps", [STEPS, None])
@pytest.mark.parametrize("options", [{}, {"use_peephole": True, "cell_clip": 0.3}])
def test_whole_sequences(tf, live, name, steps, options):
    """The number of steps may be left open, as that of an ordinary dimension."""

    def build():
        x, _ = series(tf, steps)
        x_by_steps = tf.layers.batch_normalization(tf.transpose(x, [1, 0, 2]))
        _, state = fused(tf, x_by_steps, None, name, **options)
        return Net({x: SERIES}, [dense(tf, tf.concat(state, 1), 3, "out")])

    live(build).matches()


@pytest.mark.parametrize("steps", [STEPS, None])
def test_sequences_of_several_lengths_in_both_directions(tf, live, steps):
    def build():
        x, lengths = series(tf, steps)
        forward = tf.transpose(x, [1, 0, 2])
        turn = lambda data: tf.reverse_sequence(data, lengths, seq_axis=0, batch_axis=1)  # noqa: E731
        with tf.variable_scope("fw"):
            h, state = fused(tf, forward, lengths)
        with tf.variable_scope("bw"):
            backward, last = fused(tf, turn(forward), lengths)
        y = dense(tf, tf.concat([h, turn(backward)], 2)[0], 3, "out") + dense(tf, tf.concat([*state, *last], 1), 3, "states")
        return Net({x: SERIES, lengths: LENGTHS}, [y])

    live(build).matches()


@pytest.mark.parametrize("fed", [True, False])
def test_states_of_a_layer_before_the_last_are_left_lying(tf, live, fed):
    """Between the layers there is a dropout, whose rate is fed or 0 by default: it makes no training network of the whole."""

    def build():
        x, lengths = series(tf)
        rate = tf.placeholder(tf.float32, [], name="rate") if fed else tf.placeholder_with_default(0.0, [], name="rate")
        h, _ = fused(tf, tf.transpose(x, [1, 0, 2])[:, :, :INPUTS], lengths)
        h = tf.nn.dropout(h, rate=rate)[:, :, :INPUTS]
        with tf.variable_scope("second"):
            _, (_, h) = fused(tf, h, lengths)
        y = dense(tf, h, 3, "out")
        labels = tf.placeholder(tf.int32, [None], name="labels")
        loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=y))
        tf.train.AdamOptimizer().minimize(loss)
        return Net({x: SERIES, lengths: LENGTHS}, [y], {rate: 0.0})

    live(build).matches()


def test_a_layer_of_cudnn_is_refused_with_what_to_do(tf, live):
    def build(computed):
        x, _ = series(tf)
        by_steps = tf.transpose(x, [1, 0, 2])
        weights, zeros = variable(tf, "cudnn_lstm/opaque_kernel", 240), tf.zeros(tf.stack([1, tf.shape(x)[0], UNITS]))
        if computed:
            h = tf.raw_ops.CudnnRNN(input=by_steps, input_h=zeros, input_c=zeros, params=weights, rnn_mode="lstm", is_training=False)[0]
        else:
            h = tf.zeros([STEPS, 4, UNITS])
        return Net({x: SERIES}, [dense(tf, tf.reshape(h[-1], [-1, UNITS]), 3, "out")])

    saved = live(lambda: build(computed=False))  # TensorFlow itself has no kernel without a graphics card
    with live.graph():
        build(computed=True)
        tf.train.export_meta_graph(f"{saved.prefix}.meta", saver_def=tf.train.Saver().as_saver_def())
    with pytest.raises(UnsupportedOps, match=r"CudnnRNN: CudnnRNN \(a layer for graphics cards.* CudnnCompatibleLSTMCell .* with --graph\)"):
        saved.convert()
