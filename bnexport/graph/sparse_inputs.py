"""Sparse tensors made dense, where only products and sums are made of them.

A sparse tensor comes as three: the positions of its elements, their values, and its shape. What tf.sparse_tensor_dense_matmul and the like compute is
what the same matrix gives with its zeros written out, so that a tf.sparse_placeholder becomes one ordinary input, and a sparse constant, such as
the Laplacian of a graph, an ordinary matrix. Elements at the same position are summed, as TensorFlow's products sum them.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from bnexport.errors import BnexportError
from bnexport.graph import ops
from bnexport.graph.axes import noted_shape
from bnexport.graph.graphdef import Node, Ref
from bnexport.graph.live import Live
from bnexport.graph.shapes import input_dtype
from bnexport.program import take_name

PARTS = "_sparse_parts"
"""The attribute of a dense input of our own making: the references of positions, values and shape that the graph has in its place."""

_KEEP_ZERO = frozenset({"Square", "Neg", "Abs", "Sign", "Sqrt", "Relu", "Relu6", "Elu", "Selu", "Tanh", "Sin", "Asinh", "Atan", "Cast", "LeakyRelu"})
"""Functions of a value that are zero at zero: the zeros that are not written stay what they are."""
_PRODUCTS = {"Mul": 0, "RealDiv": 0, "SparseDenseCwiseMul": 1, "SparseDenseCwiseDiv": 1}
"""Products of the values with a dense operand, which is the last: the place of the values among the operands."""


class _Sparse(NamedTuple):
    """The three references that a sparse tensor is made of."""

    positions: Ref
    values: Ref
    shape: Ref


def write_out_sparse(live: Live) -> None:
    """Puts operators on dense tensors in the place of those that take a sparse one which is fed, or whose positions are constant."""
    search = _Dense(live)
    for node in [n for n in live.graph.nodes.values() if n.op in _OPERATORS and not ops.is_gradient(n)]:
        search.replace(node)


def _matmul(live: Live, node: Node, dense: Ref, refs: Sequence[Ref]) -> Node:
    turned = {"transpose_a": node.attrs.get("adjoint_a", False), "transpose_b": node.attrs.get("adjoint_b", False)}
    return Node(node.name, "MatMul", [dense, refs[3]], node.controls, {"T": node.attrs["T"], **turned, **_noted(node)})


def _sum(live: Live, node: Node, dense: Ref, refs: Sequence[Ref]) -> Node:
    attrs = {"T": node.attrs["T"], "Tidx": "int32", "keep_dims": node.attrs.get("keep_dims", False)}
    return Node(node.name, "Sum", [dense, refs[3]], node.controls, attrs)


def _add(live: Live, node: Node, dense: Ref, refs: Sequence[Ref]) -> Node:
    return Node(node.name, "AddV2", [dense, refs[3]], node.controls, {"T": node.attrs["T"], **_noted(node)})


def _whole(live: Live, node: Node, dense: Ref, refs: Sequence[Ref]) -> Node | None:
    if live.is_dynamic(refs[3]) or live.value(refs[3]).any():
        return None  # what is not written is something else than zero
    return Node(node.name, "Identity", [dense], node.controls, {"T": node.attrs["T"], **_noted(node)})


def _noted(node: Node) -> Mapping[str, Any]:
    """The result's shape as the graph notes it."""
    return {"_output_shapes": node.attrs["_output_shapes"]} if "_output_shapes" in node.attrs else {}


_OPERATORS = {"SparseTensorDenseMatMul": _matmul, "SparseReduceSum": _sum, "SparseTensorDenseAdd": _add, "SparseToDense": _whole}


class _Dense:
    """The dense tensors in the place of sparse ones, each made once."""

    def __init__(self, live: Live):
        self.live = live
        self.made: dict[_Sparse, Ref] = {}

    def replace(self, node: Node) -> None:
        """Puts an operator on the dense tensor in the place of one on the sparse."""
        refs = self.live.inputs(node)
        order = (0, 2, 1) if node.op == "SparseToDense" else (0, 1, 2)
        sparse = _Sparse(*(refs[i] for i in order))
        if node.op == "SparseToDense" and self._may_repeat(self._in_any_order(sparse).positions):
            return  # of elements at the same position the last one stays, and they are not summed
        dense = self._dense(sparse, self._sizes(node, refs, sparse))
        if dense is not None and (dense_node := _OPERATORS[node.op](self.live, node, dense, refs)) is not None:
            self.live.put([dense_node])

    def _dense(self, sparse: _Sparse, sizes: list[int | None] | None) -> Ref | None:
        """A sparse tensor's dense twin; None where there is none.

        Args:
            sizes: its shape, as far as the graph tells.
        """
        live = self.live
        sparse = self._in_any_order(sparse)
        if sparse in self.made:
            return self.made[sparse]
        node = live.graph.nodes[sparse.values.node]
        if not live.is_dynamic(sparse.positions) and not live.is_dynamic(sparse.shape):
            found: Ref | None = self._scattered(sparse)
        elif node.op in ops.PLACEHOLDERS and live.graph.nodes[sparse.positions.node].op in ops.PLACEHOLDERS and sizes is not None:
            found = self._input(sparse, node, sizes)
        else:
            found = self._computed(sparse, node, sizes)
        if found is not None:
            self.made[sparse] = found
        return found

    def _may_repeat(self, positions: Ref) -> bool:
        """Whether constant positions are not certainly different; a sparse tensor that is fed holds none twice."""
        if self.live.is_dynamic(positions):
            return False
        try:
            known = self.live.value(positions)
        except BnexportError:  # an operator without a kernel
            return True
        return len(np.unique(known, axis=0)) < len(known)

    def _in_any_order(self, sparse: _Sparse) -> _Sparse:
        """Positions and values before they were sorted together, by which the tensor stays the same."""
        node = self.live.graph.nodes[sparse.values.node]
        while node.op == "SparseReorder" and (sparse.positions, sparse.values) == (Ref(node.name, 0), Ref(node.name, 1)):
            positions, values, _ = self.live.inputs(node)
            sparse = sparse._replace(positions=positions, values=values)
            node = self.live.graph.nodes[values.node]
        return sparse

    def _scattered(self, sparse: _Sparse) -> Ref:
        name = f"{sparse.values.node}/dense"
        attrs = {"T": input_dtype(self.live, sparse.values), "Tindices": "int64"}
        return self.live.add(Node(self._free(name), "ScatterNd", list(sparse), [], attrs))

    def _input(self, sparse: _Sparse, node: Node, sizes: list[int | None]) -> Ref:
        scope, _, last = sparse.values.node.rpartition("/")
        name = scope if scope and last.startswith("values") else f"{sparse.values.node}/dense"
        fed = sparse._replace(shape=self._before_default(sparse.shape))
        attrs = {"dtype": node.attrs["dtype"], "shape": sizes, "_output_shapes": [sizes], PARTS: fed}
        return self.live.add(Node(self._free(name), "Placeholder", [], [], attrs))

    def _before_default(self, shape: Ref) -> Ref:
        """The placeholder whose default a shape is, if it is one's: tf.sparse_placeholder makes one of a shape with open sizes."""
        defaults = (n for n in self.live.graph.nodes.values() if n.op == "PlaceholderWithDefault" and self.live.resolve(n.inputs[0]) == shape)
        return next((Ref(node.name) for node in defaults), shape)

    def _computed(self, sparse: _Sparse, node: Node, sizes: list[int | None] | None) -> Ref | None:
        """The dense twin of what is computed of the values alone, zero where they are."""
        refs = self.live.inputs(node)
        if node.op in _KEEP_ZERO:
            at, others = 0, []
        elif node.op in _PRODUCTS and self._keeps_zeros(node, refs):
            at, others = _PRODUCTS[node.op], [refs[-1]]
        else:
            return None
        before = self._dense(sparse._replace(values=refs[at]), sizes)
        if before is None:
            return None
        op = node.op.removeprefix("SparseDenseCwise").replace("Div", "RealDiv") if node.op.startswith("Sparse") else node.op
        attrs = {key: node.attrs[key] for key in node.attrs if key != "_output_shapes"}
        return self.live.add(Node(self._free(f"{node.name}/dense"), op, [before, *others], [], attrs))

    def _keeps_zeros(self, node: Node, refs: Sequence[Ref]) -> bool:
        """Whether a product leaves zeros what they are, and its other operand goes with a dense tensor, as a number does."""
        other = refs[-1]
        if self.live.is_dynamic(other):
            return node.op == "SparseDenseCwiseMul"
        value = self.live.value(other)
        return (node.op.startswith("Sparse") or value.ndim == 0) and (not node.op.endswith("Div") or bool(value.all()))

    def _free(self, name: str) -> str:
        return take_name(set(self.live.graph.nodes), name)

    # ---- sizes

    def _sizes(self, node: Node, refs: Sequence[Ref], sparse: _Sparse) -> list[int | None] | None:
        """The shape of a sparse operand, as far as its own or the operator's tell; None where not even its rank is known."""
        if not self.live.is_dynamic(sparse.shape):
            return [int(size) if size > 0 else None for size in self.live.value(sparse.shape)]
        if node.op == "SparseTensorDenseAdd":
            return self._noted_shape(refs[3])
        if node.op == "SparseToDense" and (whole := self._noted_shape(Ref(node.name))) is not None:
            return whole
        if node.op != "SparseTensorDenseMatMul":
            shape = self._noted_shape(sparse.shape)
            return [None] * shape[0] if shape and shape[0] is not None else None
        rows, columns = self._noted_shape(Ref(node.name)) or [None, None], self._noted_shape(refs[3]) or [None, None]
        sizes = [rows[0], columns[1 if node.attrs.get("adjoint_b", False) else 0]]
        return sizes[::-1] if node.attrs.get("adjoint_a", False) else sizes

    def _noted_shape(self, ref: Ref) -> list[int | None] | None:
        """A shape as a constant has it, or as the graph notes it."""
        if not self.live.is_dynamic(ref):
            return list(self.live.array(ref).shape)
        return noted_shape(self.live.graph, ref)
