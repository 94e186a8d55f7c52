"""Gradients as results: operators that tf.gradients makes, and networks whose outputs are made with them."""

import itertools

import numpy as np
import pytest
from kernel_oracle import check, compares
from live_graph import Net, dense, rows

from bnexport.errors import GraphError
from bnexport.kernels import OPS, evaluate

OF_RESULT = ["InvGrad", "ReciprocalGrad", "RsqrtGrad", "SigmoidGrad", "SqrtGrad", "TanhGrad"]
OF_OPERAND = ["EluGrad", "LeakyReluGrad", "Relu6Grad", "ReluGrad", "SeluGrad", "SoftplusGrad", "SoftsignGrad"]
POINTS = np.concatenate([[0.0, -0.0, 6.0, 1.0, -1.0, 90.0, -90.0], np.random.default_rng(1).normal(0, 3, 33)])
SLOPES = np.random.default_rng(2).normal(size=POINTS.shape)


@compares(*OF_RESULT, *OF_OPERAND)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", [*OF_RESULT, *OF_OPERAND])
def test_gradients_of_functions(name, dtype):
    attrs = {"alpha": 0.3} if name == "LeakyReluGrad" else {}
    points, slopes = POINTS.astype(dtype), SLOPES.astype(dtype)
    check(name, attrs, *((points, slopes) if name in OF_RESULT else (slopes, points)), unknown=(0, 1))


@compares("InvGrad", "ReciprocalGrad", "RsqrtGrad", "SqrtGrad", "ReluGrad", "Relu6Grad")
@pytest.mark.parametrize("name", ["InvGrad", "ReciprocalGrad", "RsqrtGrad", "SqrtGrad", "ReluGrad", "Relu6Grad"])
def test_gradients_where_a_slope_is_infinite(name):
    """A zero gradient stays zero, as of a root at 0 that nothing asks for; NaN and infinite ones are not zero behind a unit that is off."""
    numbers = np.array([0.0, -1.0, 2.0, np.inf, -np.inf, np.nan], np.float32)
    points, slopes = np.repeat(numbers, 6), np.tile(numbers, 6)
    check(name, {}, *((points, slopes) if name in OF_RESULT else (slopes, points)), unknown=(0, 1))


@compares(*OF_RESULT)
@pytest.mark.parametrize("name", OF_RESULT)
def test_gradients_of_complex_functions(name):
    z = np.array([1 + 2j, -0.5 + 0.25j, 3 - 1j], np.complex64)
    check(name, {}, z, np.conj(z)[::-1], unknown=(0, 1))


@compares("BroadcastGradientArgs")
def test_axes_along_which_operands_were_repeated():
    sides = [s for rank in range(4) for s in itertools.product((1, 2, 0), repeat=rank)]
    for first, second in itertools.product(sides[::3], sides[::2]):
        if all(m == n or 1 in (m, n) for m, n in zip(first[::-1], second[::-1], strict=False)):
            check("BroadcastGradientArgs", {}, np.array(first, np.int32), np.array(second, np.int32), unknown=())
        else:
            with pytest.raises(GraphError, match="broadcasting"):
                evaluate(OPS["BroadcastGradientArgs"], {}, [np.array(first, np.int32), np.array(second, np.int32)])


@compares("StridedSliceGrad")
@pytest.mark.parametrize("attrs", [{}, {"begin_mask": 1, "end_mask": 2}, {"shrink_axis_mask": 2}, {"new_axis_mask": 1}])
def test_the_gradient_of_a_slice(attrs):
    shape, begin, end, strides = (np.array(v, np.int32) for v in ([5, 4, 2], [1, 2], [4, 3], [2, 1]))
    (cut,) = evaluate(OPS["StridedSlice"], attrs, [np.zeros(shape, np.float32), begin, end, strides])
    check("StridedSliceGrad", attrs, shape, begin, end, strides, images(*cut.shape), unknown=(4,))


def images(*shape, dtype="float32", seed=1):
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def channels_first(attrs):
    turned = {name: [v[0], v[3], *v[1:3]] for name, v in attrs.items() if name in ("ksize", "strides")}
    return {**attrs, **turned, "data_format": "NCHW"}


@compares("MaxPoolGrad", "AvgPoolGrad")
@pytest.mark.parametrize("padding", ["SAME", "VALID"])
@pytest.mark.parametrize(("size", "stride"), [((2, 2), (2, 2)), ((3, 2), (2, 1)), ((1, 3), (3, 2)), ((7, 6), (1, 1))])
def test_gradients_of_pools(size, stride, padding):
    attrs = {"ksize": [1, *size, 1], "strides": [1, *stride, 1], "padding": padding}
    x = np.round(images(2, 7, 6, 3), 1)  # with equal elements
    (y,) = evaluate(OPS["MaxPool"], attrs, [x])
    dy = images(*y.shape, seed=2)
    (expected,) = check("MaxPoolGrad", attrs, x, y, dy, unknown=(0, 1, 2))
    turn = lambda a: a.transpose(0, 3, 1, 2)  # noqa: E731
    check("MaxPoolGrad", channels_first(attrs), turn(x), turn(y), turn(dy), expected=[turn(expected)], unknown=(0, 1, 2))
    (expected,) = check("AvgPoolGrad", attrs, np.array(x.shape, np.int32), dy, unknown=(1,))
    check("AvgPoolGrad", channels_first(attrs), np.array(turn(x).shape, np.int32), turn(dy), expected=[turn(expected)], unknown=(1,))


@compares("ResizeBilinearGrad", "ResizeNearestNeighborGrad")
@pytest.mark.parametrize("attrs", [{}, {"align_corners": True}, {"half_pixel_centers": True}])
@pytest.mark.parametrize("to", [(8, 10), (3, 4), (7, 2)])
def test_gradients_of_resizing(attrs, to):
    dy = images(2, *to, 3)
    check("ResizeBilinearGrad", attrs, dy, images(2, 4, 5, 3), unknown=(0, 1), tolerance=1e-5)
    check("ResizeNearestNeighborGrad", attrs, dy, np.array([4, 5], np.int32))


@compares("MirrorPadGrad")
@pytest.mark.parametrize("mode", ["REFLECT", "SYMMETRIC"])
def test_the_gradient_of_mirrored_edges(mode):
    check("MirrorPadGrad", {"mode": mode}, images(2, 7, 8, 3), np.array([[0, 0], [2, 1], [0, 3], [0, 0]], np.int32))


@compares("FusedBatchNormGrad", "FusedBatchNormGradV2", "FusedBatchNormGradV3")
def test_the_gradient_of_a_batch_norm_with_moving_statistics():
    operands = [images(2, 3, 4, 5, seed=i) for i in (1, 2)] + [np.abs(images(5, seed=i)) + 0.1 for i in (3, 4, 5)]
    attrs = {"is_training": False, "epsilon": 1e-3}
    for name in ("FusedBatchNormGrad", "FusedBatchNormGradV2"):
        check(name, attrs, *operands, tolerance=1e-5, outputs=3, unknown=(0, 1))
    check("FusedBatchNormGradV3", attrs, *operands, images(5), tolerance=1e-5, outputs=3, unknown=(0, 1))
    with pytest.raises(GraphError, match="is_training=False"):
        OPS["FusedBatchNormGradV3"].infer({"is_training": True}, operands)


@pytest.mark.tensorflow
def test_where_a_class_is_seen(tf, live):
    """Grad-CAM: the gradient of a class's score with respect to a layer's feature maps, as weights of these."""

    def build():
        x = tf.placeholder(tf.float32, [None, 16, 16, 3], name="x")
        convolve = lambda h, ci, co, name: tf.nn.conv2d(h, tf.get_variable(name, [3, 3, ci, co]), [1, 1, 1, 1], "SAME")  # noqa: E731
        h = tf.nn.max_pool(tf.nn.relu(convolve(x, 3, 6, "a")), [1, 2, 2, 1], [1, 2, 2, 1], "SAME")
        maps = tf.nn.relu(convolve(h, 6, 8, "b"))
        pooled = tf.nn.max_pool(maps, [1, 2, 2, 1], [1, 2, 2, 1], "SAME")
        scores = dense(tf, tf.reshape(pooled, [-1, 128]), 4, "out")
        slope = tf.gradients(scores[:, 2], maps)[0]
        weights = tf.reduce_mean(slope, [1, 2], keepdims=True)
        tf.nn.relu(tf.reduce_sum(weights * maps, 3), name="cam")
        cam = tf.get_default_graph().get_tensor_by_name("cam:0")
        return Net({x: rows(3, 16, 16, 3)}, [cam])

    live(build).matches(outputs=["cam"])


@pytest.mark.tensorflow
@pytest.mark.parametrize("function", ["tanh", "sigmoid", "softplus", "elu", "softsign", "square"])
def test_a_force_is_the_gradient_of_an_energy(tf, live, function):
    def build():
        x = tf.placeholder(tf.float32, [None, 3], name="x")
        call = getattr(tf, function, None) or getattr(tf.nn, function)
        h = call(dense(tf, tf.sqrt(tf.reduce_sum(tf.square(x - 0.5), 1, keepdims=True) + 1.0), 6, "a"))
        h = h + call(dense(tf, h, 6, "b"))
        energy = tf.reduce_sum(dense(tf, h, 2, "c"), 1, name="energy")
        force = tf.negative(tf.gradients(energy, x)[0], name="force")
        return Net({x: rows(5, 3)}, [energy, force])

    live(build).matches(outputs=["energy", "force"])


@pytest.mark.tensorflow
def test_what_a_differential_equation_leaves_over(tf, live):
    def build():
        x, t = tf.placeholder(tf.float32, [None, 1], name="x"), tf.placeholder(tf.float32, [None, 1], name="t")
        u = dense(tf, tf.tanh(dense(tf, 2.0 * tf.concat([x, t], 1) - 1.0, 6, "a")), 1, "b")
        slope = tf.gradients(u, x)[0]
        rest = tf.add(tf.gradients(u, t)[0] + u * slope, -0.1 * tf.gradients(slope, x)[0], name="rest")
        return Net({x: rows(5, 1), t: rows(5, 1, seed=8)}, [rest])

    live(build).matches(outputs=["rest"])
