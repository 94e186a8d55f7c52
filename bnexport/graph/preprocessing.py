"""What Keras' preprocessing layers and feature columns make of numbers, in terms of what arrays can do: lookups in tables, counts, sparse tensors.

A table is filled when a program begins, by an operation that no output depends on. What it is filled with stands in the graph where that is numbers,
and not a file.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from bnexport.graph.graphdef import Graph, Node, Ref, constant_node

_FINDS = frozenset({"LookupTableFind", "LookupTableFindV2"})
_FILLS = frozenset({"LookupTableImport", "LookupTableImportV2", "InitializeTable", "InitializeTableV2"})
_TABLES = frozenset({"HashTable", "HashTableV2"})  # others are written to while a network is trained
_MOST_KEYS = 4096  # each row is compared with all of them


def write_out_preprocessing(graph: Graph) -> None:
    """Replaces lookups in tables of numbers by comparisons, gives counts their sizes, and leaves out that a tensor was sparse for a while, in place.

    What is text, or comes in sparse, stays.
    """
    fills: dict[str, list[Node]] = {}
    for node in graph.nodes.values():
        if node.op in _FILLS:
            fills.setdefault(node.inputs[0].node, []).append(node)
    for node in list(graph.nodes.values()):
        if node.op == "DenseBincount":
            node.inputs[1] = _clipped_to(graph, node.inputs[1])
        elif node.op == "SparseToDense":
            _keep_dense(graph, node)
        elif node.op in _FINDS and graph.nodes[node.inputs[0].node].op in _TABLES and len(found := fills.get(node.inputs[0].node, [])) == 1:
            keys, values = (_constant(graph, ref) for ref in found[0].inputs[1:3])
            if keys is not None and values is not None and "O" not in (keys.dtype.kind, values.dtype.kind) and 0 < keys.size <= _MOST_KEYS:
                _compare(graph, node, keys, values)


def _constant(graph: Graph, ref: Ref) -> "np.ndarray[Any, Any] | None":
    node = graph.nodes[ref.node]
    return node.attrs["value"] if node.op == "Const" else None


def _compare(graph: Graph, node: Node, keys: "np.ndarray[Any, Any]", values: "np.ndarray[Any, Any]") -> None:
    """Makes of a lookup the value of the key that each number equals, or the default."""

    def add(op: str, name: str, inputs: list[Ref], attrs: Mapping[str, Any]) -> Ref:
        graph.nodes[f"{node.name}/{name}"] = Node(f"{node.name}/{name}", op, inputs, [], attrs)
        return Ref(f"{node.name}/{name}")

    def constant(name: str, value: Any) -> Ref:
        graph.nodes[f"{node.name}/{name}"] = constant_node(f"{node.name}/{name}", np.asarray(value))
        return Ref(f"{node.name}/{name}")

    _, numbers, default = node.inputs
    last = constant("axis", np.int32(-1))
    apart = add("ExpandDims", "apart", [numbers, last], {"T": keys.dtype.name, "Tdim": "int32"})
    equal = add("Equal", "equal", [apart, constant("keys", keys)], {"T": keys.dtype.name})
    hit = add("Any", "hit", [equal, last], {"keep_dims": False, "Tidx": "int32"})
    places = add("Cast", "places", [equal], {"SrcT": "bool", "DstT": "int32"})
    place = add("ArgMax", "place", [places, last], {"T": "int32", "Tidx": "int32", "output_type": "int64"})
    at = [constant("values", values), place, constant("first", np.int32(0))]
    value = add("GatherV2", "value", at, {"Tparams": values.dtype.name, "Tindices": "int64", "Taxis": "int32", "batch_dims": 0})
    graph.nodes[node.name] = Node(node.name, "SelectV2", [hit, value, default], node.controls, {"T": values.dtype.name})


def _keep_dense(graph: Graph, node: Node) -> None:
    """Makes a choice of what takes the numbers that are not to be left out from a dense tensor, and puts them back where they were."""
    indices, shape, values, default = node.inputs
    where, sizes, gathered = (graph.nodes[ref.node] for ref in (indices, shape, values))
    if (where.op, sizes.op, gathered.op) != ("Where", "Shape", "GatherNd") or gathered.inputs[1] != indices:
        return
    numbers, kept = gathered.inputs[0], graph.nodes[where.inputs[0].node]
    if sizes.inputs[0] == numbers and kept.op == "NotEqual" and kept.inputs[0] == numbers and _is_one_number(graph, kept.inputs[1]):
        chosen = [where.inputs[0], numbers, default]
        graph.nodes[node.name] = Node(node.name, "SelectV2", chosen, node.controls, {"T": node.attrs["T"]})


def _is_one_number(graph: Graph, ref: Ref) -> bool:
    node = graph.nodes[ref.node]
    value = _constant(graph, node.inputs[0] if node.op == "Cast" else ref)
    return value is not None and value.ndim == 0


def _clipped_to(graph: Graph, ref: Ref) -> Ref:
    """The constant that a number of things always is, where it is clipped from above to no more than what it is clipped to from below."""
    most, rest = _with_constant(graph, ref, "Minimum")
    least, _ = _with_constant(graph, rest, "Maximum") if rest is not None else (None, None)
    if most is None or least is None:
        return ref
    (at_most, at_least) = (int(graph.nodes[constant.node].attrs["value"]) for constant in (most, least))
    return most if at_most <= at_least else ref


def _with_constant(graph: Graph, ref: Ref, op: str) -> tuple[Ref | None, Ref | None]:
    """The constant and the other operand of an operator of two."""
    node = graph.nodes[ref.node]
    if node.op != op:
        return None, None
    constants = [operand for operand in node.inputs if graph.nodes[operand.node].op == "Const"]
    others = [operand for operand in node.inputs if operand not in constants]
    return (constants[0], others[0]) if len(constants) == len(others) == 1 else (None, None)
