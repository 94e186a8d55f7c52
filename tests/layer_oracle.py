"""What layers compute, by live TensorFlow in float64: the truth that folded networks are held against.

Convolutions and pools with channels first, which TensorFlow does not compute on a CPU, are transposed there and back.
"""

import copy
from typing import Any

import numpy as np

from bnexport.fold import Network, fold
from bnexport.program import InMemory, Layer, Literal, materialize


class Oracle:
    """A network built layer by layer, to be evaluated as it is and as it is folded.

    Tensors are named by what makes them; the inputs are given with their values, whose first dimension is the batch.
    """

    def __init__(self, tf: Any, **inputs: Any):
        self.tf = tf
        self.inputs = {name: np.asarray(value, np.float64) for name, value in inputs.items()}
        self.layers: list[Layer] = []

    def add(self, op: str, *inputs: Any, activation: str | None = None, name: str | None = None, **given: Any) -> str:
        """Appends a layer: arrays are its arrays, other keywords its attributes; operands that are no names are literals."""
        arrays = {role: InMemory(np.asarray(value, np.float64)) for role, value in given.items() if isinstance(value, np.ndarray)}
        attrs = {key: value for key, value in given.items() if not isinstance(value, np.ndarray)}
        operands: list[str | Literal] = [o if isinstance(o, str) else Literal(np.asarray(o).tolist(), "int32") for o in inputs]
        layer = Layer(name or f"{op.lower()}_{len(self.layers)}", op, operands, attrs, arrays, activation)
        self.layers.append(layer)
        return layer.name

    def norm(self, x: str, scale: Any, shift: Any) -> str:
        """A scale/shift layer, as a batch norm becomes."""
        return self.add("ScaleShift", x, scale=np.asarray(scale, np.float64), shift=np.asarray(shift, np.float64))

    def values(self, layers: list[Layer], batch: int | None = None) -> dict[str, Any]:
        """Every tensor."""
        found: dict[str, Any] = {name: value[:batch] for name, value in self.inputs.items()}
        for layer in layers:
            operands = [np.asarray(o.value, o.dtype) if isinstance(o, Literal) else found[o] for o in layer.inputs]
            arrays = {role: materialize(array) for role, array in layer.arrays.items()}
            y = compute(self.tf, layer, operands, arrays)
            if layer.activation is not None:
                y = getattr(self.tf.raw_ops, layer.activation)(features=self.tf.constant(y), **layer.activation_attrs)
            found[layer.name] = np.asarray(y)
        return found

    def folded(self, *outputs: str) -> "Folding":
        """Folds a copy of the network, and holds its outputs against those of the network itself."""
        whole, part = self.values(self.layers), self.values(self.layers, 2)
        shapes = {name: tuple(a if a == b else None for a, b in zip(whole[name].shape, part[name].shape, strict=True)) for name in whole}
        network = Network(copy.deepcopy(self.layers), shapes, list(outputs))
        lines = fold(network, "float64")
        after = self.values(network.layers)
        for tensor, output in zip(network.outputs, outputs, strict=True):
            np.testing.assert_allclose(after[tensor], whole[output], rtol=1e-9, atol=1e-9 * max(1.0, np.abs(whole[output]).max()))
        return Folding(network, lines)


class Folding:
    """The layers that folding leaves, and the lines that it gives."""

    def __init__(self, network: Network, lines: list[str]):
        self.layers = layers = network.layers
        self.outputs = network.outputs
        self.lines = lines
        self.left = [layer.name for layer in layers if layer.op == "ScaleShift"]
        assert [line.partition(": ")[0] for line in lines] == self.left

    @property
    def why(self) -> str:
        """The reason for the only scale/shift layer that is left."""
        (line,) = self.lines
        return line.partition(": ")[2]


def compute(tf: Any, layer: Layer, operands: list[Any], arrays: dict[str, Any]) -> Any:
    """A layer's result before its activation."""
    x, attrs = operands[0], layer.attrs
    if layer.op == "ScaleShift":
        return x * arrays["scale"] + arrays["shift"]
    first = attrs.get("data_format", "").startswith("NC")
    if first:
        x = np.moveaxis(x, 1, -1)
        attrs = {key: [*v[:1], *v[2:], v[1]] if key in ("strides", "ksize") else v for key, v in attrs.items()}
    padding = attrs.get("padding")
    if padding == "EXPLICIT":
        padding = np.reshape(attrs["explicit_paddings"], (-1, 2)).tolist()
    if "kernel" in arrays:
        y = linear(tf, layer.op, x, arrays["kernel"], attrs, padding, operands[1:]) + arrays.get("bias", 0.0)
    elif layer.op in ("AvgPool", "MaxPool"):
        y = np.asarray(tf.nn.pool(x, attrs["ksize"][1:-1], layer.op[:3].upper(), attrs["strides"][1:-1], padding))
    else:
        return rest(tf, layer, operands)
    return np.moveaxis(y, -1, 1) if first else y


def linear(tf: Any, op: str, x: Any, kernel: Any, attrs: Any, padding: Any, others: list[Any]) -> Any:
    if op == "Dense":
        return np.asarray(tf.linalg.matmul(x, tf.constant(kernel)))
    strides = attrs["strides"]
    if op == "DepthwiseConv2D":
        return np.asarray(tf.nn.depthwise_conv2d(x, kernel, strides, padding))
    if op in ("Conv2DTranspose", "Conv3DTranspose"):
        spread = tf.nn.conv2d_transpose if op == "Conv2DTranspose" else tf.nn.conv3d_transpose
        return np.asarray(spread(x, kernel, [len(x), *others[0][1:]], strides, padding))
    convolve = tf.nn.conv2d if op == "Conv2D" else tf.nn.conv3d
    groups = x.shape[-1] // kernel.shape[-2]
    parts = zip(np.split(x, groups, -1), np.split(kernel, groups, -1), strict=True)
    return np.concatenate([np.asarray(convolve(a, k, strides, padding, dilations=attrs.get("dilations"))) for a, k in parts], -1)


def rest(tf: Any, layer: Layer, operands: list[Any]) -> Any:
    x, *more = operands
    attrs = layer.attrs
    if layer.op == "ConcatV2":
        return tf.concat(operands[:-1], int(operands[-1]))
    if layer.op in ("Mean", "Max", "Min"):
        return getattr(tf, f"reduce_{layer.op.lower()}")(x, more[0], keepdims=attrs.get("keep_dims", False))
    functions = {
        "Reshape": tf.reshape,
        "Transpose": tf.transpose,
        "Tile": tf.tile,
        "Pad": tf.pad,
        "PadV2": lambda x, pads, value: tf.pad(x, pads, constant_values=value),
        "MirrorPad": lambda x, pads: tf.pad(x, pads, attrs["mode"]),
        "AddV2": tf.add,
        "Mul": tf.multiply,
        "Relu": tf.nn.relu,
        "LeakyRelu": lambda x: tf.nn.leaky_relu(x, attrs["alpha"]),
        "Shape": tf.shape,
        "BatchToSpaceND": tf.batch_to_space,
        "SpaceToBatchND": tf.space_to_batch,
        "ResizeNearestNeighbor": lambda x, size: tf.compat.v1.image.resize_nearest_neighbor(x, size),
        "ResizeBilinear": lambda x, size: tf.compat.v1.image.resize_bilinear(x, size),
    }
    return functions[layer.op](x, *more)
