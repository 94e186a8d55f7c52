"""Graphs as TensorFlow wrote them: nodes, their inputs, their attributes.

A `Graph` is a dictionary of `Node` records that later stages rewrite freely; attributes are decoded only when they are asked for, because a training
graph has thousands of nodes of which inference needs dozens.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
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

    __slots__ = ("_decoded", "_messages")

    def __init__(self, messages: Any, decoded: dict[str, Any] | None = None):
        self._messages = messages
        self._decoded: dict[str, Any] = decoded or {}

    def __getitem__(self, key: str) -> Any:
        if key not in self._decoded:
            if key not in self._messages:
                raise KeyError(key)
            self._decoded[key] = decode_attribute(self._messages[key])
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

    `restore_op` runs the restoring half of the saver that wrote the file; a graph may hold further savers.
    """

    nodes: dict[str, Node]
    functions: dict[str, Any] = field(default_factory=dict)
    signatures: dict[str, Any] = field(default_factory=dict)
    tensorflow_version: str = ""
    restore_op: str = ""
    source: str = ""

    def node(self, name: str) -> Node:
        """
        Raises:
            GraphError: there is no such node.
        """
        try:
            return self.nodes[name]
        except KeyError:
            raise GraphError(f"{self.source}: the graph has no node {name!r}") from None

    def consumers(self) -> dict[str, list[Node]]:
        """For each node's name, the nodes that take data from it."""
        users: dict[str, list[Node]] = {}
        for node in self.nodes.values():
            for name in {ref.node for ref in node.inputs}:
                users.setdefault(name, []).append(node)
        return users


_READING = {"ResourceGather": "Gather", "ResourceGatherNd": "GatherNd"}
"""Operators that read a resource variable and do something with the value, and the operator that does it with a value."""


def read_node(message: Any) -> Node:
    """A NodeDef as a `Node`."""
    inputs, controls = [], []
    for text in message.input:
        if text.startswith("^"):
            controls.append(text[1:])
        else:
            inputs.append(parse_ref(text))
    if message.op in _READING:
        decoded = {"Tparams": decode_attribute(message.attr["dtype"])}
        return Node(message.name, _READING[message.op], inputs, controls, Attributes(message.attr, decoded))
    return Node(message.name, message.op, inputs, controls, Attributes(message.attr))


def topological(graph: Graph, roots: Iterable[str], inputs_of: Any = None) -> list[str]:
    """The ancestors of `roots` (themselves included) by data edges, each after all that it takes from.

    Args:
        inputs_of: gives a node's data inputs, where they are not the node's own.

    Raises:
        GraphError: the edges form a loop, as tf.while_loop makes.
    """
    order: list[str] = []
    done: set[str] = set()
    open_: set[str] = set()
    stack: list[tuple[str, bool]] = [(name, False) for name in reversed(list(roots))]
    while stack:
        name, expanded = stack.pop()
        if expanded:
            open_.discard(name)
            done.add(name)
            order.append(name)
            continue
        if name in done or name in open_:
            continue
        open_.add(name)
        stack.append((name, True))
        node = graph.node(name)
        for ref in reversed(node.inputs if inputs_of is None else inputs_of(node)):
            if ref.node in open_:
                raise GraphError(
                    f"{graph.source}: the node {name!r} ({node.op}) is part of a loop (tf.while_loop or dynamic_rnn), which bnexport does not "
                    "convert: build the network with a static number of steps, or name outputs before the loop with --output"
                )
            if ref.node not in done:
                stack.append((ref.node, False))
    return order


def constant_node(name: str, value: "np.ndarray[Any, Any]") -> Node:
    """A Const of our own making."""
    return Node(name, "Const", [], [], {"value": value, "dtype": value.dtype.name})
