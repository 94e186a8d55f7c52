"""A part of a graph that computes a row for each element of a vector, repeated for the elements of another.

An embedding is looked up for what is different among the elements of a batch (Unique): in one table or in several parts of one, and the rows may be
scaled to a greatest length. What is computed for each element by itself can be computed for all elements, whether they are different or not.
"""

from collections.abc import Mapping

import numpy as np

from bnexport.graph import ops
from bnexport.graph.graphdef import Graph, Node, Ref

_LOOKUPS = frozenset({"Gather", "GatherV2"})
_ARRANGING = frozenset({"DynamicPartition", "DynamicStitch", "ParallelDynamicStitch", "Reshape", "Shape", "Size", "Range", "ConcatV2", "Fill"})
"""What divides elements among the parts of a table, and puts their rows in order again."""
_ELEMENTWISE = ops.SELECTS | frozenset(
    {"Add", "AddV2", "Sub", "Mul", "Div", "RealDiv", "FloorDiv", "FloorMod", "Maximum", "Minimum", "Cast", "Less", "Greater", "Square", "Sqrt",
     "Rsqrt", "OnesLike", "ZerosLike", "Identity"}
)  # fmt: skip


def repeated(graph: Graph, result: Ref, given: Ref, by: Ref, prefix: str, taker: str) -> Ref | None:
    """The rows that `result` computes of the vector `given`, computed of the vector `by` instead, as new nodes `prefix/…`.

    Where nothing but the node `taker` takes them, the new nodes take the place of the old ones, which would be a network of their own otherwise.
    None where something on the way may not treat elements by themselves, or looks up what is no matrix.
    """
    copies: dict[str, Node | None] = {}

    def depends(name: str) -> Node | None:
        """The copy of a node; None for one that does not depend on the vector.

        Raises:
            _NotByRows: it may mix elements.
        """
        if name not in copies:
            node = graph.nodes[name]
            copies[name] = None  # stands while it is computed: a loop depends on itself
            inputs = [copy(ref) for ref in node.inputs]
            if inputs != node.inputs:
                if not _is_by_rows(graph, node):
                    raise _NotByRows
                copies[name] = Node(f"{prefix}/{name}", node.op, inputs, [], node.attrs)
        return copies[name]

    def copy(ref: Ref) -> Ref:
        if ref == given:
            return by
        node = depends(ref.node)
        return ref if node is None else Ref(node.name, ref.output)

    try:
        end = copy(result)
    except _NotByRows:
        return None
    if end == result:
        return None
    made = {name: node for name, node in copies.items() if node is not None}
    users = graph.consumers()
    graph.nodes.update({node.name: node for node in made.values()})
    if all(_serves(user, taker, made, users) for name in made for user in users.get(name, ())):
        for name, node in made.items():
            outputs = 1 + max((ref.output for user in users.get(name, ()) for ref in user.inputs if ref.node == name), default=0)
            graph.nodes[name] = Node(name, "IdentityN", [Ref(node.name, number) for number in range(outputs)])
    return end


def _serves(user: Node, taker: str, made: Mapping[str, Node], users: Mapping[str, list[Node]]) -> bool:
    """Whether what a node takes only serves a lookup: the node is part of it, passes its result on to the node `taker`, or is a gradient."""
    passes = user.op in ops.PASS_THROUGH and all(_serves(further, taker, made, users) for further in users.get(user.name, ()))
    return user.name == taker or user.name in made or ops.is_gradient(user) or passes


class _NotByRows(Exception):
    """An operator may mix the elements of a vector."""


def _is_by_rows(graph: Graph, node: Node) -> bool:
    if node.op in _LOOKUPS:
        table = graph.nodes[ops.behind(graph, node.inputs[0]).node]
        axis = ops.constant_behind(graph, node.inputs[2]) if len(node.inputs) > 2 else np.zeros(())
        return len(table.attrs.get("shape") or ()) == 2 and axis is not None and not axis.any() and not node.attrs.get("batch_dims", 0)
    if node.op == "Sum":  # the squares of a row
        axes = ops.constant_behind(graph, node.inputs[1])
        return axes is not None and axes.reshape(-1).tolist() == [1] and bool(node.attrs.get("keep_dims"))
    return node.op in _ARRANGING or node.op in _ELEMENTWISE
