"""Gradients as results: operators that tf.gradients makes, and networks whose outputs are made with them."""

import itertools

import numpy as np
import pytest
from kernel_oracle import check, compares
from live_graph import Net, dense, rows

from bnexport.errors import GraphError
from bnexport.kernels import OPS, evaluate

OF_RESULT = ["InvGrad", "ReciprocalGrad", "RsqrtGrad", "SigmoidGrad", "SqrtGrad", "TanhGrad"]
OF_OPERAND = ["EluGrad", "LeakyReluGrad", "Relu6Grad", "ReluGrad", "SoftplusGrad", "SoftsignGrad"]
POINTS = np.concatenate([[0.0, -0.0, 6.0, 1.0, -1.0, 90.0, -90.0], np.random.default_rng(1).normal(0, 3, 33)])
SLOPES = np.random.default_rng(2).normal(size=POINTS.shape)


@compares(*OF_RESULT, *OF_OPERAND)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", [*OF_RESULT, *OF_OPERAND])
def test_gradients_of_functions(name, dtype):
    attrs = {"alpha": 0.3} if name == "LeakyReluGrad" else {}
    points, slopes = POINTS.astype(dtype), SLOPES.astype(dtype)
    check(name, attrs, *((points, slopes) if name in OF_RESULT else (slopes, points)), unknown=(0, 1))


@compares("BroadcastGradientArgs")
def test_axes_along_which_operands_were_repeated():
    sides = [s for rank in range(4) for s in itertools.product((1, 2, 0), repeat=rank)]
    for first, second in itertools.product(sides[::3], sides[::2]):
        if all(m == n or 1 in (m, n) for m, n in zip(first[::-1], second[::-1], strict=False)):
            check("BroadcastGradientArgs", {}, np.array(first, np.int32), np.array(second, np.int32), unknown=())
        else:
            with pytest.raises(GraphError, match="broadcasting"):
                evaluate(OPS["BroadcastGradientArgs"], {}, [np.array(first, np.int32), np.array(second, np.int32)])


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
