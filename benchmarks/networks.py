"""Dense networks with random weights, as a bundle's model and as an ONNX model, for the benchmarks that evaluate them."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from bnexport.program import InMemory, Layer, Port, Program

Weights = list[tuple[Any, Any]]
IR_VERSION, OPSET = 8, 17


def weights(sizes: Sequence[int]) -> Weights:
    """Kernels and biases in float32, scaled so that what goes through keeps its size."""
    generator = np.random.default_rng(0)
    return [
        (generator.standard_normal((rows, columns), np.float32) * np.float32((2 / rows) ** 0.5), generator.standard_normal(columns, np.float32))
        for rows, columns in pairwise(sizes)
    ]


def program(layers: Weights) -> Program:
    """Dense and relu, dense and softmax at the end, as `convert` would make it."""
    made, tensor = [], "x"
    for i, (kernel, bias) in enumerate(layers):
        activation = "Softmax" if i == len(layers) - 1 else "Relu"
        made.append(Layer(f"dense{i}", "Dense", [tensor], {}, {"kernel": InMemory(kernel), "bias": InMemory(bias)}, activation))
        tensor = f"dense{i}"
    size_in, size_out = layers[0][0].shape[0], layers[-1][0].shape[1]
    return Program([Port("x", "x", (None, size_in), "float32")], made, [Port("y", tensor, (None, size_out), "float32")], {"rows_alone": True})


def onnx_model(layers: Weights) -> bytes:
    """The same network in ONNX, serialised."""
    from onnx import TensorProto, helper, numpy_helper

    nodes, initializers, tensor = [], [], "x"
    for i, (kernel, bias) in enumerate(layers):
        initializers += [numpy_helper.from_array(kernel, f"kernel{i}"), numpy_helper.from_array(bias, f"bias{i}")]
        nodes.append(helper.make_node("Gemm", [tensor, f"kernel{i}", f"bias{i}"], [f"z{i}"]))
        last = i == len(layers) - 1
        tensor = "y" if last else f"h{i}"
        nodes.append(helper.make_node("Softmax" if last else "Relu", [f"z{i}"], [tensor]))
    ports = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", size])
        for name, size in (("x", layers[0][0].shape[0]), ("y", layers[-1][0].shape[1]))
    ]
    graph = helper.make_graph(nodes, "dense", ports[:1], ports[1:], initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    return bytes(model.SerializeToString())


def session(model: bytes | str, threads: int | None = None) -> Any:
    """An onnxruntime session on the CPU, of as many threads as it takes by itself, or of `threads`."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    if threads is not None:
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
