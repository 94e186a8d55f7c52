"""Lookups in tables, with the table's contents for operands.

A table is filled when a program begins, by an operation that no output depends on: from constants, from a file beside the graph, or, where it was
written to while a network was trained, from the checkpoint.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bnexport.checkpoint import Checkpoint
from bnexport.errors import BnexportError
from bnexport.graph import ops
from bnexport.graph.graphdef import Graph, Node, Ref, constant_node
from bnexport.graph.variables import restore_behind
from bnexport.kernels import OPS, evaluate
from bnexport.kernels.table import NDArray

_FILLS = frozenset({"LookupTableImport", "LookupTableImportV2", "InitializeTable", "InitializeTableV2"})
_FILES = frozenset({"InitializeTableFromTextFile", "InitializeTableFromTextFileV2"})
_TABLES = frozenset({"HashTable", "HashTableV2"})
_WRITTEN = frozenset({"MutableHashTable", "MutableHashTableV2", "MutableDenseHashTable", "MutableDenseHashTableV2"})
_SIZES = frozenset({"LookupTableSize", "LookupTableSizeV2"})
_WHOLE_LINE, _LINE_NUMBER = -2, -1
"""What stands in the place of a column's number (tf.lookup.TextFileIndex)."""


class Contents(NamedTuple):
    """What a table holds: two vectors of one length."""

    keys: NDArray
    values: NDArray


class _UnknownError(Exception):
    """Why nothing tells what a table holds."""


def write_out_lookups(graph: Graph, checkpoint: Checkpoint) -> None:
    """Replaces each lookup by one that has the keys and values of its table for operands, and each question for a table's size by it, in place.

    One in a table of which nothing tells what it holds stays, with the reason in its attribute `_why`.
    """
    asking = [node for node in graph.nodes.values() if node.op in ops.LOOKUPS or node.op in _SIZES]
    tables = _Tables(graph, checkpoint) if asking else None
    for node in asking:
        assert tables is not None
        try:
            keys, values = tables.contents(node.inputs[0])
        except _UnknownError as error:
            node.attrs = {**node.attrs, "_why": str(error)}
            continue
        if node.op in _SIZES:
            graph.nodes[node.name] = constant_node(node.name, np.array(keys.size, np.int64))
            continue
        operands = [node.inputs[1], *(_add(graph, f"{node.name}/{part}", array) for part, array in (("keys", keys), ("values", values)))]
        attrs = {**node.attrs, "T": node.attrs["Tout"]}
        graph.nodes[node.name] = Node(node.name, "Lookup", [*operands, node.inputs[2]], node.controls, attrs)


def _add(graph: Graph, name: str, value: NDArray) -> Ref:
    graph.nodes[name] = constant_node(name, value)
    return Ref(name)


class _Tables:
    def __init__(self, graph: Graph, checkpoint: Checkpoint):
        self.graph = graph
        self.checkpoint = checkpoint
        self._lists: dict[Ref, list[str] | None] = {}
        self._found: dict[str, Contents | _UnknownError] = {}
        self._fills: dict[str, list[Node]] = {}
        for node in graph.nodes.values():
            if node.op in _FILLS or node.op in _FILES:
                self._fills.setdefault(self._name(node.inputs[0]), []).append(node)

    def contents(self, ref: Ref) -> Contents:
        """
        Raises:
            _UnknownError: why they are not known.
        """
        name = self._name(ref)
        if name not in self._found:
            try:
                self._found[name] = self._read(self._behind(ref), self._fills.get(name, []))
            except _UnknownError as error:
                self._found[name] = error
        found = self._found[name]
        if isinstance(found, _UnknownError):
            raise found
        return found

    def _behind(self, ref: Ref) -> Node:
        """The node that a value comes from."""
        return self.graph.nodes[ops.behind(self.graph, ref).node]

    def _name(self, ref: Ref) -> str:
        """What a table is called: nodes that share a name share a table."""
        node = self._behind(ref)
        shared = node.attrs.get("shared_name")
        return f"shared {shared}" if shared else node.name

    def _read(self, table: Node, fills: list[Node]) -> Contents:
        if table.op not in _TABLES and table.op not in _WRITTEN:
            raise _UnknownError(f"a table of the kind {table.op} that {table.name!r} makes")
        if table.op in _WRITTEN:
            fills = [node for node in fills if node.op in _FILLS and restore_behind(self.graph, node.inputs[1], self._lists) is not None]
        if not fills:
            missing = "the checkpoint does not hold it" if table.op in _WRITTEN else "nothing in the graph fills it"
            raise _UnknownError(f"what the table {table.name!r} holds is not known: {missing}")
        found = [_with_one_of_each(table, self._filled(table, node)) for node in fills]
        if any(not all(map(np.array_equal, found[0], other)) for other in found[1:]):
            raise _UnknownError(f"the table {table.name!r} is filled in {len(found)} ways")
        return found[0]

    def _filled(self, table: Node, fill: Node) -> Contents:
        if fill.op in _FILES:
            return self._from_file(table, fill)
        try:
            keys, values = (self._constant(ref) for ref in fill.inputs[1:3])
        except BnexportError as error:
            raise _UnknownError(f"what the table {table.name!r} holds is not known: {error}") from error
        if keys.ndim != 1 or keys.shape != values.shape:
            raise _UnknownError(f"the table {table.name!r} has keys of the shape {list(keys.shape)} and values of {list(values.shape)}")
        return Contents(keys, values)

    def _constant(self, ref: Ref) -> NDArray:
        """What the graph or the checkpoint says of a value."""
        saved = restore_behind(self.graph, ref, self._lists)
        if saved is not None and saved.key in self.checkpoint:
            return self.checkpoint.read(saved.key)
        node = self._behind(ref)
        if node.op == "Const":
            value: NDArray = node.attrs["value"]
            return value
        if node.op not in OPS or not node.inputs:
            raise _UnknownError(f"it is computed by {node.name!r} ({node.op})")
        return evaluate(OPS[node.op], node.attrs, [self._constant(operand) for operand in node.inputs])[ref.output]

    # ---- files

    def _named(self, file: Node) -> Node:
        """The constant that names a file, which TensorFlow 2 first assigns to a variable."""
        if file.op not in ops.VARIABLES:
            return file
        assigned = (node for node in self.graph.nodes.values() if node.op == "AssignVariableOp" and self._behind(node.inputs[0]) is file)
        return next((value for node in assigned if (value := self._behind(node.inputs[1])).name in self.graph.assets), file)

    def _from_file(self, table: Node, fill: Node) -> Contents:
        file = self._named(self._behind(fill.inputs[1]))
        path = self.graph.assets.get(file.name)
        if path is None or not path.is_file():
            told = b"".join(file.attrs["value"].reshape(-1)).decode("utf-8", "backslashreplace") if file.op == "Const" else file.name
            why = "is missing" if path else f"does not lie beside {Path(self.graph.source).name}: put it there"
            raise _UnknownError(f"the table {table.name!r} is filled from the file {path or told}, which {why}")
        self.graph.read.append(path)
        lines = [line.removesuffix(b"\r") for line in path.read_bytes().removesuffix(b"\n").split(b"\n")]
        size = int(fill.attrs.get("vocab_size", -1))
        lines = lines[:size] if size >= 0 else lines
        if len(lines) < size or not all(lines):
            short = f"{len(lines)} lines instead of {size}" if all(lines) else "an empty line"
            raise _UnknownError(f"the table {table.name!r} is filled from {path}, which has {short}")
        columns = [line.split(fill.attrs.get("delimiter", "\t").encode()) for line in lines]
        first = int(fill.attrs.get("offset", 0))

        def column(index: int, dtype: str) -> NDArray:
            try:
                texts = list(_column(index, lines, columns, first))
                return np.array(texts, dtype)
            except (IndexError, ValueError) as error:
                raise _UnknownError(
                    f"the table {table.name!r} is filled from {path}, which has no column {index} of {dtype} in every line"
                ) from error

        return Contents(column(fill.attrs["key_index"], table.attrs["key_dtype"]), column(fill.attrs["value_index"], table.attrs["value_dtype"]))


def _with_one_of_each(table: Node, contents: Contents) -> Contents:
    """The contents without keys that stand there again with the same value, which TensorFlow allows."""
    pairs = list(zip(contents.keys.tolist(), contents.values.tolist(), strict=True))
    known = dict(reversed(pairs))
    for key, value in pairs:
        if known[key] != value:
            raise _UnknownError(f"the table {table.name!r} has two values for the key {key!r}")
    first = sorted({key: place for place, (key, _) in reversed(list(enumerate(pairs)))}.values())
    return Contents(contents.keys[first], contents.values[first])


def _column(index: int, lines: list[bytes], columns: list[list[bytes]], first: int) -> Iterator[Any]:
    if index == _LINE_NUMBER:
        yield from range(first, first + len(lines))
    elif index == _WHOLE_LINE:
        yield from lines
    else:
        yield from (cells[index] for cells in columns)
