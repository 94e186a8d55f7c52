"""Gradients, where they are a network's own result: forces, from an energy, or what a differential equation asks of its solution.

tf.gradients makes these operators of the functions' own results (Tanh, Sigmoid, Sqrt) or operands (Relu, Softplus); all else it writes with ordinary
ones.
"""

from collections.abc import Callable, Sequence

import numpy as np

from bnexport.kernels.activation import SELU_ALPHA, SELU_SCALE
from bnexport.kernels.index import strided_slice
from bnexport.kernels.rules import elementwise, integers, known
from bnexport.kernels.table import Abstract, Attrs, Compute, NDArray, op, shapes_differ

_OF_POWERS = frozenset({"InvGrad", "ReciprocalGrad", "RsqrtGrad", "SqrtGrad"})
"""Gradients that are zero where that of the result is, also where the derivative is infinite, as that of a square root at 0. They conjugate y."""
_OF_RESULT: dict[str, Callable[[NDArray], NDArray]] = {
    "InvGrad": lambda y: -y * y,
    "ReciprocalGrad": lambda y: -y * y,
    "RsqrtGrad": lambda y: y * y * y * y.dtype.type(-0.5),
    "SigmoidGrad": lambda y: y * (1 - y),
    "SqrtGrad": lambda y: y.dtype.type(0.5) / y,
    "TanhGrad": lambda y: 1 - y * y,
}
"""The derivative of a function by its result y; the operands are y and the gradient of it."""


def _by_result(derivative: Callable[[NDArray], NDArray], of_power: bool) -> Compute:
    def compute(attrs: Attrs, y: NDArray, dy: NDArray) -> NDArray:
        gradient = np.asarray(dy * derivative(y.conj() if of_power else y))
        if of_power:
            gradient[dy == 0] = 0
        return gradient

    return compute


for _name in _OF_RESULT:
    op(_name, infer=elementwise)(_by_result(_OF_RESULT[_name], _name in _OF_POWERS))


@op("ReluGrad", infer=elementwise)
def relu_grad(attrs: Attrs, dy: NDArray, x: NDArray) -> NDArray:
    """dy where x > 0, else dy · 0."""
    return np.multiply(dy, x > 0, dtype=dy.dtype)


@op("Relu6Grad", infer=elementwise)
def relu6_grad(attrs: Attrs, dy: NDArray, x: NDArray) -> NDArray:
    """dy where 0 < x < 6, else dy · 0."""
    return np.multiply(dy, (x > 0) & (x < 6), dtype=dy.dtype)


@op("LeakyReluGrad", infer=elementwise)
def leaky_relu_grad(attrs: Attrs, dy: NDArray, x: NDArray) -> NDArray:
    """dy where x > 0, else alpha · dy."""
    return np.where(x > 0, dy, dy * dy.dtype.type(np.float32(attrs.get("alpha", 0.2))))


@op("EluGrad", infer=elementwise)
def elu_grad(attrs: Attrs, dy: NDArray, y: NDArray) -> NDArray:
    """dy · (y + 1) where y < 0, else dy."""
    return np.where(y < 0, dy * (y + 1), dy)


@op("SeluGrad", infer=elementwise)
def selu_grad(attrs: Attrs, dy: NDArray, y: NDArray) -> NDArray:
    """dy times the slope of Selu, by its result y."""
    scale, alpha = y.dtype.type(SELU_SCALE), y.dtype.type(SELU_SCALE * SELU_ALPHA)
    return np.asarray(np.where(y < 0, dy * (y + alpha), dy * scale))


@op("SoftplusGrad", infer=elementwise)
def softplus_grad(attrs: Attrs, dy: NDArray, x: NDArray) -> NDArray:
    """dy / (1 + exp(-x))."""
    return np.asarray(dy / (np.exp(-x) + 1))


@op("SoftsignGrad", infer=elementwise)
def softsign_grad(attrs: Attrs, dy: NDArray, x: NDArray) -> NDArray:
    """dy / (1 + |x|)²."""
    return np.asarray(dy / np.square(1 + np.abs(x)))


def _needs_both_shapes(attrs: Attrs, operands: Sequence[Abstract]) -> Sequence[Abstract]:
    first, second = (known(o, "shape of a gradient's operand") for o in operands)
    return [Abstract(axes.shape, axes.dtype) for axes in broadcast_gradient_args(attrs, first, second)]


@op("BroadcastGradientArgs", infer=_needs_both_shapes)
def broadcast_gradient_args(attrs: Attrs, first: NDArray, second: NDArray) -> tuple[NDArray, NDArray]:
    """For two shapes that were broadcast against each other: the axes of the result along which each has one element, but none of equal shapes.

    Raises:
        GraphError: the shapes do not fit together.
    """
    if np.array_equal(first, second):
        return np.zeros(0, first.dtype), np.zeros(0, second.dtype)
    rank = max(len(first), len(second))
    sizes = np.array([[1] * (rank - len(shape)) + integers(shape) for shape in (first, second)])
    if np.any((sizes[0] != sizes[1]) & (sizes != 1).all(0)):
        raise shapes_differ("broadcasting", tuple(integers(first)), tuple(integers(second)))
    return np.flatnonzero(sizes[0] == 1).astype(first.dtype), np.flatnonzero(sizes[1] == 1).astype(second.dtype)


def _whole(attrs: Attrs, operands: Sequence[Abstract]) -> Sequence[Abstract]:
    return [Abstract(tuple(integers(known(operands[0], "shape"))), operands[4].dtype)]


@op("StridedSliceGrad", infer=_whole)
def strided_slice_grad(attrs: Attrs, shape: NDArray, begin: NDArray, end: NDArray, strides: NDArray, dy: NDArray) -> NDArray:
    """Zeros of a shape, with dy where StridedSlice would have cut it out."""
    result = np.zeros(integers(shape), dy.dtype)
    strided_slice(attrs, result, begin, end, strides)[...] = dy
    return result
