"""Which checkpoint key holds each variable of a graph, by the tensor names that the graph's own saver restores from."""

from typing import Any, NamedTuple

import numpy as np

from bnexport.checkpoint import Checkpoint
from bnexport.errors import ContradictoryGraph, GraphError, TensorNotFound
from bnexport.graph import ops
from bnexport.graph.graphdef import Graph, Node, Ref
from bnexport.program import Array, InMemory

Slice = tuple[tuple[int, int], ...]


class Saved(NamedTuple):
    """Where a variable lies: a key, and the part of it (start and length per dimension) where the variable is one of several partitions."""

    key: str
    part: Slice | None = None


class Variables:
    """The variables of a graph and their values in a checkpoint."""

    def __init__(self, graph: Graph, checkpoint: Checkpoint, averaged: dict[str, str] | None = None):
        """
        Args:
            averaged: keys to read in place of others (Polyak averages in place of raw weights).
        """
        self.graph = graph
        self.checkpoint = checkpoint
        self._averaged = averaged or {}
        self._saved = _restored_variables(graph, checkpoint)
        self._named = checkpoint.program_names()
        self._arrays: dict[str, Array] = {}

    def saved(self, node: Node) -> Saved:
        """
        Raises:
            TensorNotFound: the checkpoint does not hold the variable.
        """
        found = self._found(node)
        if found is None:
            held = sum(other.op in ops.VARIABLES and self.holds(other) for other in self.graph.nodes.values())
            why = (
                f"it holds {held} others of the graph's, as of a saver that was given some: tf.train.Saver(tf.trainable_variables()) leaves out what "
                "batch norms keep; save again with tf.train.Saver(), or give a checkpoint that holds it"
                if held
                else "nor does it any other of the graph's: the graph is that of another model; give the right one with --graph"
            )
            raise TensorNotFound(f"{self.checkpoint.prefix}: the graph needs the variable {node.name!r}, which this checkpoint does not hold; {why}")
        return Saved(self._averaged.get(found.key, found.key), found.part)

    def holds(self, node: Node) -> bool:
        """Whether the checkpoint has a value for the variable."""
        return self._found(node) is not None

    def restored(self, node: Node) -> bool:
        """Whether a saver of the graph gives the variable its value."""
        return node.name in self._saved

    def _found(self, node: Node) -> Saved | None:
        """By the saver, by the variable's own name, or by the name that an object-based checkpoint keeps beside its keys.

        TensorFlow 2 may restore copies that no function reads, and bind the functions' variables through the objects (Keras 3 in a SavedModel).
        """
        shared = node.attrs.get("shared_name") or node.name
        keys = (key for name in (node.name, shared) for key in (name, self._named.get(name)) if key in self.checkpoint)
        return self._saved.get(node.name) or next((Saved(key) for key in keys if key is not None), None)

    def array(self, node: Node) -> Array:
        """A variable's value, read when it is written.

        Raises:
            ContradictoryGraph: graph and checkpoint give the variable different shapes.
        """
        if node.name in self._arrays:
            return self._arrays[node.name]
        saved = self.saved(node)
        info = self.checkpoint.info(saved.key)
        shape = tuple(length for _, length in saved.part) if saved.part else info.shape
        declared = node.attrs.get("shape")
        # An empty shape attribute also stands for "not known": TensorFlow writes it so for validate_shape=False.
        sizes = declared or []
        known = declared is not None and (bool(sizes) or _shape_is_known(node))
        if known and (len(sizes) != len(shape) or any(d not in (None, s) for d, s in zip(sizes, shape, strict=True))):
            raise ContradictoryGraph(
                f"{self.graph.source} gives the variable {node.name!r} the shape {declared}, but {self.checkpoint.prefix} holds {list(shape)} "
                f"under {saved.key!r}: the two files do not belong together"
            )
        if saved.part is None:  # (a part is read whole, and is not kept)
            return self._arrays.setdefault(node.name, self.checkpoint.stored(saved.key))
        whole = self.checkpoint.read(saved.key)
        return InMemory(whole[tuple(slice(start, start + length) for start, length in saved.part)])

    def value(self, node: Node) -> "np.ndarray[Any, Any]":
        """A variable's value, whole."""
        saved = self.saved(node)
        self.array(node)  # for its check of the shape
        whole = self.checkpoint.read(saved.key)
        return whole if saved.part is None else whole[tuple(slice(start, start + length) for start, length in saved.part)]


def _shape_is_known(node: Node) -> bool:
    shapes = node.attrs.get("_output_shapes")
    return node.op != "VarHandleOp" and isinstance(shapes, list) and bool(shapes) and shapes[0] is not None


def _restored_variables(graph: Graph, checkpoint: Checkpoint) -> dict[str, Saved]:
    """For each variable node: the key that a saver of the graph restores it from.

    The saver that wrote the graph comes first; of others (a second saver for averages, say) one counts only for what the first does not restore, and
    only where the checkpoint holds its keys.
    """
    own = _run_by(graph, graph.restore_op)
    lists: dict[Ref, list[str] | None] = {}
    assignments = [n for n in graph.nodes.values() if n.op in ("Assign", "AssignVariableOp") and len(n.inputs) >= 2]
    found: dict[str, Saved] = {}
    for node in sorted(assignments, key=lambda n: n.name not in own):
        saved = restore_behind(graph, node.inputs[1], lists)
        if saved is None or saved.key not in checkpoint:
            continue
        variable = _variable_behind(graph, node.inputs[0])
        if variable is not None:
            found.setdefault(variable, saved)
    return found


def _run_by(graph: Graph, name: str) -> set[str]:
    """The nodes that a group operation runs, through groups of groups; those of a function that it calls."""
    run: set[str] = set()
    stack = [name]
    while stack:
        current = stack.pop()
        if current in graph.nodes and current not in run:
            run.add(current)
            stack.extend(graph.nodes[current].controls)
            if graph.nodes[current].op == "IdentityN":
                run.update(n for n in graph.nodes if n.startswith(f"{current}/"))
    return run


def _variable_behind(graph: Graph, ref: Ref) -> str | None:
    while True:
        node = graph.node(ref.node)
        if node.op in ops.VARIABLES:
            return node.name
        if not node.inputs or (node.op not in ops.PASS_THROUGH and node.op not in ops.SWITCHES and node.op != "IdentityN"):
            return None
        ref = node.inputs[ref.output if node.op == "IdentityN" else 0]


def restore_behind(graph: Graph, ref: Ref, lists: dict[Ref, list[str] | None]) -> Saved | None:
    """What a saver restores a reference from, if it does. `lists` keeps the lists of names, of which all restored tensors share one."""
    for _ in range(8):  # identities, a cast or a reshape may stand between a restore and its variable
        node = graph.node(ref.node)
        if node.op in ("RestoreV2", "Restore", "RestoreSlice"):
            names = _strings(graph, node.inputs[1], lists)
            if names is None or ref.output >= len(names):
                return None
            specs = _strings(graph, node.inputs[2], lists) if len(node.inputs) > 2 else None
            return Saved(names[ref.output], _parse_slice(specs[ref.output]) if specs and ref.output < len(specs) else None)
        if not node.inputs or node.op not in (*ops.PASS_THROUGH, "Reshape", "Cast", "IdentityN"):
            return None
        ref = node.inputs[ref.output if node.op == "IdentityN" else 0]
    return None


def _strings(graph: Graph, ref: Ref, lists: dict[Ref, list[str] | None]) -> list[str] | None:
    if ref not in lists:
        node = graph.node(ref.node)
        if node.op == "Const":
            lists[ref] = [s.decode("utf-8", "backslashreplace") for s in node.attrs["value"].reshape(-1)]
        else:
            lists[ref] = _strings(graph, node.inputs[0], lists) if node.op in ops.PASS_THROUGH and node.inputs else None
    return lists[ref]


def _parse_slice(text: str) -> Slice | None:
    """`"64 16 0,22:0,16"`: the full shape, then start and length per dimension, where `-` means all (saved_tensor_slice_util.cc).

    Raises:
        GraphError: the text is of another form.
    """
    *shape, extents = text.split(" ") if text else [""]
    if not extents:
        return None
    parts = []
    for size, extent in zip(shape, extents.split(":"), strict=False):
        start, comma, length = extent.partition(",")
        if extent == "-":
            parts.append((0, int(size)))
        elif comma:
            parts.append((int(start), int(length)))
        else:
            raise GraphError(f"the saver's slice {text!r} cannot be read")
    return tuple(parts)
