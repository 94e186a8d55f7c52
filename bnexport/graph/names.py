"""What a user names in a graph, and the values that are given to it."""

from typing import Any

import numpy as np

from bnexport.errors import UsageError
from bnexport.graph import ops
from bnexport.graph.graphdef import Graph, Ref, parse_ref
from bnexport.kernels.table import NDArray

_LISTED = 8
"""How many placeholders a message lists."""


def find_named(graph: Graph, text: str) -> Ref:
    """The reference that a user means by a tensor's or a node's name.

    Raises:
        UsageError: the graph has no such node; the message suggests close ones, or else what can be fed.
    """
    ref = parse_ref(text)
    if ref.node not in graph.nodes:
        import difflib

        close = difflib.get_close_matches(ref.node, graph.nodes, n=5, cutoff=0.5)
        ends = [name for name in graph.nodes if name.rsplit("/", 1)[-1].lower() == ref.node.rsplit("/", 1)[-1].lower()][:5]
        hint = f"; close names are {', '.join(dict.fromkeys(ends + close))}" if ends or close else ""
        if not hint:
            fed = [node.name for node in graph.nodes.values() if node.op in ops.PLACEHOLDERS or node.op == "PlaceholderWithDefault"]
            hint = f"; its placeholders are {', '.join(fed[:_LISTED])}{', …' if len(fed) > _LISTED else ''}" if fed else ""
        raise UsageError(f"{graph.source}: the graph has no tensor {text!r}{hint}")
    return ref


def as_array(value: Any) -> NDArray:
    """A flag's value; text as TensorFlow keeps it, in bytes."""
    return np.asarray(value.encode(), object) if isinstance(value, str) else np.asarray(value)


def as_declared(graph: Graph, ref: Ref, value: Any) -> NDArray:
    """A value that the user gave, in the dtype that the graph declares; a float in a float's place may be written as an integer.

    Raises:
        UsageError: the value is of no such dtype, or of another shape than a placeholder's.
    """
    node = graph.nodes[ref.node]
    declared = str(node.attrs.get("dtype", node.attrs.get("DstT", node.attrs.get("T", ""))))
    try:
        array = np.asarray(value)
    except ValueError:  # rows of different lengths
        array = np.asarray(str(value))
    said = f"{graph.source}: --set {ref}={value!s:.60}"
    if declared == "object":
        if not isinstance(value, str):
            raise UsageError(f"{said}: {ref} is text; give it in quotes that reach bnexport, such as --set {ref}='\"TEXT\"'")
        return as_array(value)
    if array.dtype.kind not in "biuf":
        raise UsageError(f"{said}: the value is neither true, false, a number nor a list of them")
    if declared == "bool" and not np.isin(array, (0, 1)).all():
        raise UsageError(f"{said}: {ref} is a truth value; give true or false")
    if declared.startswith(("int", "uint")) and not np.all(np.float64(array) % 1 == 0):
        raise UsageError(f"{said}: {ref} is of dtype {declared}; give an integer")
    shape = node.attrs.get("shape") if node.op in ops.PLACEHOLDERS else None  # [] was written for an unknown one in old graphs
    if shape and (len(shape) > 1 or array.size != 1):
        fits = len(shape) == array.ndim and all(want in (None, got) for want, got in zip(shape, array.shape, strict=True))
        if not fits:
            sizes = ", ".join("?" if size is None else str(size) for size in shape)
            raise UsageError(f"{said}: {ref} is of shape [{sizes}], and the value of shape {list(array.shape)}")
    if declared == "bool":
        return array.astype(bool)
    if declared.startswith(("int", "uint")):
        return array.astype(np.int64) if array.dtype.kind == "f" else array
    return array.astype(np.float64) if declared in ("float32", "float64", "float16", "bfloat16") else array
