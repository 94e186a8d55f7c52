"""From nodes to layers: what inference computes, as a program that is not folded yet.

Multiplications and additions by constants become `ScaleShift` layers in float64, whatever wrote them: tf.nn.batch_normalization, a bias, a fused
batch norm, arithmetic by hand. Products with constant kernels become `Dense`, `Conv2D`, `Conv3D`, `DepthwiseConv2D`, `Conv2DTranspose` and
`Conv3DTranspose`. All other operators stay what they are.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bnexport.arrays import Deferred, transposed
from bnexport.errors import AmbiguousNetwork, UnsupportedOps
from bnexport.graph import ops
from bnexport.graph.graphdef import Node, Ref, topological
from bnexport.graph.live import STEPS, Live
from bnexport.graph.provenance import affine_part, check_statistics, shortest
from bnexport.graph.shapes import Shapes, attributes, operand_dtype
from bnexport.kernels import OPS
from bnexport.program import Array, InMemory, Layer, Literal, materialize, take_name
from bnexport.text import TEXT, in_one_width

NDArray = np.ndarray[Any, Any]

_ROLES = {("Lookup", 1): "keys", ("Lookup", 2): "values"}
"""Operands that are arrays with a name of their own, however few elements they have."""
_LITERAL_SIZE = 64  # integers and truth values up to this many stand in the manifest, where people can read them
_QUOTIENTS = frozenset({"RealDiv", "Div"})
_SUMS = {"Add": 1, "AddV2": 1, "BiasAdd": 1, "BiasAddV1": 1, "Sub": -1}
_KERNEL_NAMES = frozenset(
    {"kernel", "weights", "weight", "w", "filter", "filters", "depthwise_weights", "depthwise_kernel", "pointwise_weights", "pointwise_kernel"}
)
_FROZEN = "/ReadVariableOp/resource"  # convert_variables_to_constants_v2 calls a variable after the operation that read it
_QUANTISED = "_quantized_const"  # the Graph Transform Tool calls weights so that it stores as bytes
_PRODUCTS = frozenset({"MatMul", "BatchMatMul", "BatchMatMulV2", "BatchMatMulV3"})
_LINEAR_OPS = {
    **dict.fromkeys(_PRODUCTS, "Dense"),
    "Conv2D": "Conv2D",
    "Conv3D": "Conv3D",
    "DepthwiseConv2dNative": "DepthwiseConv2D",
    "Conv2DBackpropInput": "Conv2DTranspose",
    "Conv3DBackpropInputV2": "Conv3DTranspose",
}
_OF_COMPUTED_KERNELS = {"Conv2D": "DynamicConv2D", "Conv3D": "DynamicConv3D"}
"""What convolutions with a kernel that is computed from data are called: a layer `Conv2D` owns its kernel."""
_TRANSPOSED = frozenset({"Conv2DTranspose", "Conv3DTranspose"})  # their operands are the size of the result, the kernel and the data
_VARYING_SIZE = 1 << 20  # a constant that is no vector is only taken for a scale or shift up to this many elements
_OF_ANY_LENGTH = ("SparseTensor", "SparseSegment", "SparseDense", "SparseFill", "SparseRe", "SparseSlice", "Segment", "Unique", "DynamicPartition")
_SPATIAL = ("strides", "padding", "dilations", "data_format", "explicit_paddings")


@dataclass(slots=True)
class Lowered:
    """Layers in topological order, the program's tensor for each reference, and that tensor's shape."""

    layers: list[Layer] = field(default_factory=list)
    tensors: dict[Ref, str] = field(default_factory=dict)
    shapes: dict[str, tuple[int | None, ...]] = field(default_factory=dict)


def missing_operators(live: Live, order: Sequence[str], inputs: Sequence[Ref]) -> None:
    """
    Raises:
        UnsupportedOps: lists every operator on the way that bnexport does not have, with its nodes.
        AmbiguousNetwork: a condition on the way is not decided.
    """
    given = {ref.node for ref in inputs}
    missing: dict[str, list[str]] = {}
    for name in order:
        node = live.graph.nodes[name]
        if name in given or not live.is_dynamic(Ref(name)):
            continue
        if node.op in ops.MERGES:
            raise AmbiguousNetwork(live.undecided(node))
        if node.op not in OPS:
            missing.setdefault(node.op, []).append(name)
    if not missing:
        return
    if "While" in missing:  # what only hands values to the loop says nothing more
        missing = {op: names for op, names in missing.items() if not op.startswith(("TensorArray", "TensorList"))}
    lines = []
    for op, names in sorted(missing.items()):
        shown = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
        why = next((str(live.graph.nodes[n].attrs["_why"]) for n in names if "_why" in live.graph.nodes[n].attrs), "")
        lines.append(f"  {op}: {shown}{_advice(op, names, why)}")
    raise UnsupportedOps(f"{live.graph.source}: the outputs depend on operators that bnexport does not have:\n" + "\n".join(lines))


def _advice(op: str, names: Sequence[str], why: str) -> str:
    if op in ops.NORMAL_NUMBERS:
        return f" (random numbers: {' '.join(f'--set {name}=0' for name in names)} takes their mean; or name outputs before them with --output)"
    if ops.is_random(op):
        return (
            " (random numbers: set the node that adds them to zero with --set NODE=0, or what they are compared with to 0 or 1, "
            "or name outputs before them with --output)"
        )
    if op in ops.LOOPS or op.startswith(("TensorArray", "TensorList")):
        what = "a loop, as tf.while_loop and dynamic_rnn make" + (f": {why}" if why else "")
        return (
            f" ({what}; rebuild the network with a static number of steps, name tensors before it with --output, or, where it prepares the data, "
            "behind it with --input)"
        )
    if ops.is_assignment(op):
        return " (the value is written to a variable while it is computed: name the tensor before it with --output)"
    if op in ("PyFunc", "EagerPyFunc", "PyFuncStateless"):
        return " (Python code that is not part of the checkpoint: name the tensors after it with --input)"
    if op.startswith("CudnnRNN"):
        return (
            " (a layer for graphics cards, its weights in an order of cuDNN's own; the checkpoint has them by the names of cells that TensorFlow "
            "computes anywhere: build the same network of CudnnCompatibleLSTMCell or CudnnCompatibleGRUCell, and give its graph with --graph)"
        )
    if op.startswith(_OF_ANY_LENGTH):
        return " (how many elements there are depends on the data: name a tensor after it with --input, and compute that yourself)"
    if why and op in ops.LOOKUPS:
        return f" ({why}; name the first numeric tensors after it with --input)"
    if op.startswith(("String", "Lookup", "HashTable", "Decode", "Parse", "Regex", "StaticRegex", "Unicode", "Substr", "AsString")) or "Hash" in op:
        return " (text or files: name the first numeric tensors after it with --input)"
    if op.startswith("Sparse") or op == "RaggedTensorToTensor":
        return " (sparse features, whose sizes depend on the data: name the first dense tensors after it with --input)"
    return ""


def lower(live: Live, shapes: Shapes, inputs: dict[Ref, str], outputs: Sequence[Ref]) -> Lowered:
    """The layers that compute `outputs` from `inputs` (references and the program's names of them).

    Raises:
        BadStatistics: moving statistics that are negative, NaN or infinite.
    """
    return _Lowering(live, shapes, inputs).run(outputs)


class _Lowering:
    def __init__(self, live: Live, shapes: Shapes, inputs: dict[Ref, str]):
        self.live = live
        self.shapes = shapes
        self.out = Lowered(tensors=dict(inputs))
        self.inputs = inputs
        self.taken = set(inputs.values())
        self.exact: set[str] = set()
        self.arrays: dict[tuple[Ref, bool], Array] = {}

    def run(self, outputs: Sequence[Ref]) -> Lowered:
        order = topological(self.live.graph, [r.node for r in outputs], self._operands)
        self.exact = self._before_steps(order)
        for name in order:
            if any(r.node == name for r in self.inputs) or not self._is_computed(Ref(name)):
                continue
            self._lower(self.live.graph.nodes[name])
        self._leave_out_unused(outputs)
        for ref, tensor in self.out.tensors.items():
            self.out.shapes[tensor] = self.shapes.of(ref) if ref not in self.shapes.input_shapes else self.shapes.input_shapes[ref]
        return self.out

    def _leave_out_unused(self, outputs: Sequence[Ref]) -> None:
        """Takes out layers that no output needs: a transposed convolution whose size turned out to be known has no use for what computes it."""
        needed = {self.out.tensors[ref] for ref in outputs if ref in self.out.tensors}
        layers, unused = [], set()
        for layer in reversed(self.out.layers):
            if needed.isdisjoint(layer.makes):
                unused.update(layer.makes)
            else:
                layers.append(layer)
                needed.update(layer.takes)
        self.out.layers = layers[::-1]
        self.out.tensors = {ref: tensor for ref, tensor in self.out.tensors.items() if tensor not in unused}

    def _before_steps(self, order: Sequence[str]) -> set[str]:
        """Operators that jump, and the arithmetic between them and the input, which has to be rounded as TensorFlow rounds it.

        The data that people round, compare and count are often multiples of a tenth, which lie on the edge of such a step.
        """
        nodes = self.live.graph.nodes
        given = {ref.node for ref in self.inputs}
        plain = set(given)
        for name in order:
            if nodes[name].op not in _LINEAR_OPS and all(r.node in plain for r in self._operands(nodes[name])):
                plain.add(name)
        exact: set[str] = set()
        for name in reversed(order):
            if name in plain - given and (name in exact or (nodes[name].op in STEPS and not self._only_casts(nodes[name]))):
                exact.add(name)
                exact.update(r.node for r in self._operands(nodes[name]))
        return exact

    def _only_casts(self, node: Node) -> bool:
        return node.op == "Cast" and self.shapes.dtype(Ref(node.name)).kind == "f"

    def _operands(self, node: Node) -> list[Ref]:
        """The operands that have to be computed at run time."""
        if any(r.node == node.name for r in self.inputs):
            return []
        refs = self.live.inputs(node)
        if node.op == "Reshape" and self._target_shape(node) is not None:
            refs = refs[:1]
        return [r for r in refs if r in self.inputs or self._is_computed(r)]

    def _is_computed(self, ref: Ref) -> bool:
        return self.live.is_dynamic(ref) and self.shapes.constant(ref) is None

    def _target_shape(self, node: Node) -> list[int] | None:
        """A Reshape's target with at most one -1, where two probes agree on the rest."""
        sizes = self.shapes.of(Ref(node.name))
        if sum(size is None for size in sizes) > 1:
            return None
        return [-1 if size is None else size for size in sizes]

    # ---- layers

    def _lower(self, node: Node) -> None:
        refs = self.live.inputs(node)
        if node.op in ("Reshape", "Squeeze", "ExpandDims") and (target := self._target_shape(node)) is not None:
            if self.shapes.rank(Ref(node.name)) == self.shapes.rank(refs[0]) and self.shapes.of(Ref(node.name)) == self.shapes.of(refs[0]):
                self.out.tensors[Ref(node.name)] = self.out.tensors[refs[0]]
            else:
                self._add(node, Layer(take_name(self.taken, node.name), "Reshape", [self._tensor(refs[0]), Literal(target, "int32")]))
            return
        layer = self._linear(node, refs) or self._affine(node, refs) or self._operator(node, refs)
        self._add(node, layer)

    def _add(self, node: Node, layer: Layer) -> None:
        self.out.layers.append(layer)
        ref = Ref(node.name)
        while ref in self.shapes.found:
            self.out.tensors[ref] = layer.name if ref.output == 0 else f"{layer.name}:{ref.output}"
            layer.outputs = ref.output + 1
            ref = Ref(node.name, ref.output + 1)

    def _tensor(self, ref: Ref) -> str:
        return self.out.tensors[ref]

    def _linear(self, node: Node, refs: Sequence[Ref]) -> Layer | None:
        op = _LINEAR_OPS.get(node.op)
        if op is None:
            return None
        data, kernel = (2, 1) if op in _TRANSPOSED else (0, 1)
        if not self._is_computed(refs[data]) or self._is_computed(refs[kernel]):
            return None
        if op == "Dense" and (node.attrs.get("transpose_a") or node.attrs.get("adj_x")):
            return None
        turned = op == "Dense" and bool(node.attrs.get("transpose_b") or node.attrs.get("adj_y"))
        array = self.arrays.get((refs[kernel], turned)) or self._array(refs[kernel], node)
        if op == "Dense" and len(array.shape) != 2:
            return None
        if turned and (refs[kernel], turned) not in self.arrays:
            array = transposed(array)
        self.arrays[refs[kernel], turned] = array
        variables = self.live.variables_behind(refs[kernel])
        attrs = {k: v for k, v in attributes(node).items() if k in _SPATIAL and v != []}
        inputs: list[str | Literal] = [self._tensor(refs[data])]
        if op in _TRANSPOSED:
            size = self._size_operand(Ref(node.name), refs[0])
            inputs.append(size)
        layer = Layer(take_name(self.taken, self._layer_name(node, variables)), op, inputs, attrs, {"kernel": array})
        layer.provenance = {
            "node": node.name,
            "kernel": variables[0] if len(variables) == 1 else variables,
            "dtype": self.shapes.dtype(Ref(node.name)).name,
        }
        return layer

    def _size_operand(self, result: Ref, operand: Ref) -> str | Literal:
        sizes = self.shapes.of(result)
        if None not in sizes[1:]:
            return Literal([-1 if s is None else s for s in sizes], "int32")
        return self._tensor(operand)

    def _layer_name(self, node: Node, variables: list[str]) -> str:
        """A layer is called after its kernel's scope, or its kernel, or else its node."""
        if len(variables) != 1:
            return node.name
        reader = variables[0].removesuffix(_FROZEN)
        if reader != variables[0]:
            return reader.rpartition("/")[0] or reader
        name = variables[0].removesuffix(_QUANTISED)
        scope, slash, last = name.rpartition("/")
        return scope if slash and last.lower() in _KERNEL_NAMES else name

    def _array(self, ref: Ref, consumer: Node) -> Array:
        """A constant operand, read or computed when it is written."""
        node = self.live.graph.nodes[ref.node]
        if self.live.is_dynamic(ref):
            value = self.shapes.constant(ref)
            assert value is not None
            return InMemory(value)
        if node.op in ops.VARIABLES or node.op == "Const":
            return self.live.array(ref)
        value = self.live.value(ref)
        if value.nbytes <= 1 << 20:
            return InMemory(value)
        return Deferred(value.shape, value.dtype, lambda: self.live.value(ref))

    def _affine(self, node: Node, refs: Sequence[Ref]) -> Layer | None:
        """The layer for x * a + b with constants a and b that broadcast against each row of x; None where the node is no such thing."""
        result = Ref(node.name)
        if result not in self.shapes.found or self.shapes.dtype(result).kind != "f":
            return None
        if node.name in self.exact and node.op not in _QUOTIENTS:  # (TensorFlow's optimiser multiplies by a constant's inverse, too)
            return None
        if node.op in ops.BATCH_NORMS and not ops.in_training_mode(node):
            return self._batch_norm(node, refs[0], refs[1:5], node.attrs.get("epsilon", 1e-4), order="gbmv")
        if node.op == "BatchNormWithGlobalNormalization":
            scaled = bool(node.attrs["scale_after_normalization"])
            return self._batch_norm(node, refs[0], refs[1:5], node.attrs["variance_epsilon"], order="mvbg", scaled=scaled)
        one, zero = np.ones(()), np.zeros(())
        if node.op == "Neg":
            return self._scale_shift(node, refs[0], -one, zero, [])
        if node.op not in _SUMS and node.op not in _QUOTIENTS and node.op != "Mul":
            return None
        constant = [not self._is_computed(r) for r in refs]
        if constant == [False, True]:
            data, other = refs
        elif constant == [True, False] and node.op not in _QUOTIENTS:
            other, data = refs
        else:
            return None
        if self.shapes.found[result][0].shape != self.shapes.found[data][0].shape or not self._is_small(other):
            return None
        value = self._constant(other)
        if node.op in ("BiasAdd", "BiasAddV1"):
            value = self._over_channels(node, value, data)
        if value.dtype.kind != "f" or not self._is_for_each_row(value, data):
            return None
        parts = [affine_part(self.live, node, other, multiplies=node.op not in _SUMS)]
        with np.errstate(divide="ignore", over="ignore"):
            value = 1.0 / value if node.op in _QUOTIENTS else value
            finite = np.isfinite(value.astype(self.shapes.dtype(result))).all()
        if not finite:
            return None  # a mask of infinities, or a number that only the operator itself can divide by
        if node.op not in _SUMS:
            return self._scale_shift(node, data, value, zero, parts)
        if node.op == "Sub" and data == refs[1]:
            return self._scale_shift(node, data, -one, value, parts)
        return self._scale_shift(node, data, one, value * _SUMS[node.op], parts)

    def _is_small(self, ref: Ref) -> bool:
        """Whether a constant may be a scale or a shift: a matrix that is added somewhere need not be read to know that it is not."""
        node = self.live.graph.nodes[ref.node]
        if node.op not in ops.VARIABLES:
            return True
        shape = self.live.variables.array(node).shape
        size = int(np.prod(shape, dtype=np.int64))
        return size <= _VARYING_SIZE or size == max(shape)

    def _constant(self, ref: Ref) -> NDArray:
        if self.live.is_dynamic(ref):
            value = self.shapes.constant(ref)
            assert value is not None
            return value.astype(np.float64) if value.dtype.kind == "f" else value
        return self.live.value(ref)

    def _over_channels(self, node: Node, values: NDArray, data: Ref) -> NDArray:
        """One value per channel in the shape that broadcasts against data of the node's layout."""
        first = str(node.attrs.get("data_format", "NHWC")).startswith("NC")
        return values.reshape(-1, *(1,) * (self.shapes.rank(data) - 2)) if first else values.reshape(-1)

    def _is_for_each_row(self, values: NDArray, data: Ref) -> bool:
        """Whether values broadcast against each row of the data by itself, and vary along no size that is not fixed."""
        fixed = self.shapes.of(data)
        if values.ndim == len(fixed) > 1 and values.shape[0] != 1:
            return False
        return values.ndim <= len(fixed) and all(n in (1, size) for n, size in zip(values.shape[::-1], fixed[::-1], strict=False))

    def _batch_norm(self, node: Node, data: Ref, constants: Sequence[Ref], epsilon: float, order: str, scaled: bool = True) -> Layer | None:
        """gamma * (x - mean) / sqrt(variance + epsilon) + beta (Ioffe and Szegedy 2015, algorithm 1, with moving statistics)."""
        if any(self._is_computed(r) for r in constants):
            return None
        by_role = dict(zip(order, constants, strict=True))
        gamma, beta, mean, variance = (self._constant(by_role[role]).reshape(-1) for role in "gbmv")
        names = {role: self.live.variables_behind(by_role[key]) for role, key in (("gamma", "g"), ("beta", "b"), ("mean", "m"), ("variance", "v"))}
        part = {
            "node": node.name,
            "op": node.op,
            "epsilon": shortest(epsilon),
            "epsilon_from": "the graph",
            **{r: n[0] for r, n in names.items() if n},
        }
        check_statistics(self.live, part)
        scale = (gamma if scaled else 1.0) / np.sqrt(variance + float(epsilon))
        shift = beta - mean * scale
        return self._scale_shift(node, data, self._over_channels(node, scale, data), self._over_channels(node, shift, data), [part])

    def _scale_shift(self, node: Node, data: Ref, scale: NDArray, shift: NDArray, parts: list[dict[str, Any]]) -> Layer:
        arrays: dict[str, Array] = {"scale": InMemory(np.asarray(scale, np.float64)), "shift": InMemory(np.asarray(shift, np.float64))}
        dtype = self.shapes.dtype(Ref(node.name)).name
        provenance = {"node": node.name, "parts": [p for p in parts if p], "dtype": dtype}
        return Layer(take_name(self.taken, node.name), "ScaleShift", [self._tensor(data)], {}, arrays, provenance=provenance)

    def _operator(self, node: Node, refs: Sequence[Ref]) -> Layer:
        """A TensorFlow operator as it is, its constant operands written with it."""
        name = take_name(self.taken, node.name)
        layer = Layer(name, _OF_COMPUTED_KERNELS.get(node.op, node.op), [], attributes(node), {}, provenance={"node": node.name})
        for position, ref in enumerate(refs):
            computed = self._is_computed(ref)
            layer.inputs.append(self._tensor(ref) if computed else self._constant_operand(node, layer, position, ref))
        layer.provenance["dtype"] = operand_dtype(node, np.dtype("float64")).name
        return layer

    def _constant_operand(self, node: Node, layer: Layer, position: int, ref: Ref) -> str | Literal:
        """A constant where people can read it, or else an array of the layer's."""
        rounded = node.name in self.exact and not self.live.is_dynamic(ref)
        array = InMemory(self.live.as_rounded(ref)) if rounded else self._array(ref, node)
        size = int(np.prod(array.shape, dtype=np.int64))
        role = _ROLES.get((node.op, position))
        if role is None and size <= _LITERAL_SIZE and (array.dtype.kind in "iub" or size == 1):
            value = self.live.as_rounded(ref) if rounded else self._constant(ref)
            if value.dtype.kind != "O":
                return Literal(value.tolist(), operand_dtype(node, value.dtype).name)
            with suppress(UnicodeDecodeError):
                return Literal(np.vectorize(bytes.decode, otypes=[object])(value).tolist(), TEXT)
        role = role or f"operand_{position}"
        layer.arrays[role] = InMemory(self._stored_text(layer, materialize(array))) if array.dtype.kind == "O" else array
        layer.provenance.setdefault("operands", {})[role] = self.live.variables_behind(ref)
        return f"@{role}"

    def _stored_text(self, layer: Layer, values: NDArray) -> NDArray:
        """
        Raises:
            UnsupportedOps: a bundle cannot hold it.
        """
        stored = in_one_width(values)
        if stored is None:
            raise UnsupportedOps(
                f"{self.live.graph.source}: the text that {layer.name!r} ({layer.op}) holds cannot be stored: a word ends in a byte 0, or is far "
                "longer than the others; name the first numbers after it with --input"
            )
        return stored
