"""Graphs as TensorFlow wrote them: nodes, their inputs, their attributes.

A `Graph` is a dictionary of `Node` records that later stages rewrite freely; attributes are decoded only when they are asked for, because a training
graph has thousands of nodes of which inference needs dozens.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bnexport.errors import GraphError
from bnexport.graph.values import decode_attribute


class Ref(NamedTuple):
    """One output of a node."""

    node: str
    output: int = 0

    def __str__(self) -> str:
        return self.node if self.output == 0 else f"{self.node}:{self.output}"


def parse_ref(text: str) -> Ref:
    """`"name"` or `"name:1"` as TensorFlow writes them."""
    name, colon, output = text.rpartition(":")
    return Ref(name, int(output)) if colon and output.isdigit() else Ref(text)


class Attributes(Mapping[str, Any]):
    """A node's attributes, decoded when asked for. Types are NumPy's names, strings are `str`, shapes are lists with None."""

    __slots__ = ("_decoded", "_messages", "_node")

    def __init__(self, messages: Any, node: str):
        self._messages = messages
        self._node = node
        self._decoded: dict[str, Any] = {}

    def __getitem__(self, key: str) -> Any:
        if key not in self._decoded:
            if key not in self._messages:
                raise KeyError(key)
            try:
                self._decoded[key] = decode_attribute(self._messages[key])
            except GraphError as error:
                raise GraphError(f"the node {self._node!r}: {error}") from error
        return self._decoded[key]

    def __iter__(self) -> Iterator[str]:
        return iter({**dict.fromkeys(self._messages), **dict.fromkeys(self._decoded)})

    def __contains__(self, key: object) -> bool:
        return key in self._decoded or key in self._messages

    def __len__(self) -> int:
        return sum(1 for _ in self)


@dataclass(slots=True)
class Node:
    """One operation. `controls` are the nodes that run before it without giving it data."""

    name: str
    op: str
    inputs: list[Ref]
    controls: list[str] = field(default_factory=list)
    attrs: Mapping[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class Graph:
    """All nodes by name, the functions that they may call, and the signatures that came with them.

    `restore_op` runs the restoring half of the saver that wrote the file; a graph may hold further savers. `assets` are the files that fill tables by
    the constants that are their names, and `read` those of them that were read. `in_steps` are the nodes of loops' steps that were written out, and
    of what each is given: TensorFlow can be asked for what a loop ends with, and for none of these.
    """

    nodes: dict[str, Node]
    functions: dict[str, Any] = field(default_factory=dict)
    signatures: dict[str, Any] = field(default_factory=dict)
    tensorflow_version: str = ""
    restore_op: str = ""
    source: str = ""
    assets: dict[str, Path] = field(default_factory=dict)
    read: list[Path] = field(default_factory=list)
    in_steps: set[str] = field(default_factory=set)

    def node(self, name: str) -> Node:
        """
        Raises:
            GraphError: there is no such node.
        """
        try:
            return self.nodes[name]
        except KeyError:
            raise GraphError(f"{self.source}: the graph has no node {name!r}") from None

    def signature(self, name: str | None = None) -> Any:
        """The signature of this name; None where there is none.

        By default it is the only one, or serving_default, or default, as TensorFlow Hub calls it.
        """
        if name is None and len(self.signatures) == 1:
            return next(iter(self.signatures.values()))
        return next((self.signatures[key] for key in ([name] if name else ("serving_default", "default")) if key in self.signatures), None)

    def consumers(self) -> dict[str, list[Node]]:
        """For each node's name, the nodes that take data from it."""
        users: dict[str, list[Node]] = {}
        for node in self.nodes.values():
            for name in {ref.node for ref in node.inputs}:
                users.setdefault(name, []).append(node)
        return users


_RESOURCE_LOOKUPS = {"ResourceGather": "Gather", "ResourceGatherNd": "GatherNd"}
"""Lookups in a resource variable, which read it themselves, and the operators that do the same with its value."""


def read_node(message: Any) -> Node:
    """A NodeDef as a `Node`.

    Raises:
        GraphError: it is a constant without a value, as none is that TensorFlow wrote.
    """
    if message.op == "Const" and "value" not in message.attr:
        raise GraphError(f"the constant {message.name!r} has no value: the file is damaged")
    inputs, controls = [], []
    for text in message.input:
        if text.startswith("^"):
            controls.append(text[1:])
        else:
            inputs.append(parse_ref(text))
    attributes = Attributes(message.attr, message.name)
    if message.op in _RESOURCE_LOOKUPS:
        return Node(message.name, _RESOURCE_LOOKUPS[message.op], inputs, controls, {**attributes, "Tparams": attributes["dtype"]})
    if message.op == "SparseMatMul" and {attributes.get(key, "float32") for key in ("Ta", "Tb")} == {"float32"}:  # of matrices that hold many zeros
        return Node(message.name, "MatMul", inputs, controls, {**attributes, "T": "float32"})
    return Node(message.name, message.op, inputs, controls, attributes)


def topological(graph: Graph, roots: Iterable[str], inputs_of: Any = None) -> list[str]:
    """The ancestors of `roots` (themselves included) by data edges, each after all that it takes from.

    Args:
        inputs_of: gives a node's data inputs, where they are not the node's own.

    Raises:
        GraphError: the edges form a loop, as tf.while_loop makes.
    """
    order: list[str] = []
    done: dict[str, bool] = {}  # False for those whose ancestors are being followed
    follow = _own_inputs if inputs_of is None else inputs_of
    for root in roots:
        if root in done:
            continue
        done[root] = False
        path = [(root, iter(follow(graph.node(root))))]
        while path:
            name, refs = path[-1]
            for ref in refs:
                known = done.get(ref.node)
                if known is None:
                    done[ref.node] = False
                    path.append((ref.node, iter(follow(graph.node(ref.node)))))
                    break
                if not known:
                    raise _part_of_loop(graph, name)
            else:
                path.pop()
                done[name] = True
                order.append(name)
    return order


def _part_of_loop(graph: Graph, name: str) -> GraphError:
    return GraphError(
        f"{graph.source}: the node {name!r} ({graph.nodes[name].op}) is part of a loop (tf.while_loop or dynamic_rnn), which bnexport does not "
        "convert: build the network with a static number of steps, or name outputs before the loop with --output"
    )


def _own_inputs(node: Node) -> list[Ref]:
    return node.inputs


def constant_node(name: str, value: "np.ndarray[Any, Any]") -> Node:
    """A Const of our own making."""
    return Node(name, "Const", [], [], {"value": value, "dtype": value.dtype.name})
