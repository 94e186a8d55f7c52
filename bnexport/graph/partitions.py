"""Tables that are kept in several parts, joined again.

tf.nn.embedding_lookup over a list of tables divides the indices among them (DynamicPartition), looks up each table's own, and puts the results back
in order (DynamicStitch). How many indices each table gets depends on the data, but the whole is one lookup in one table, whose rows are those of all
parts in the order of their indices. Which row of which part an index means, by either strategy, is told by the graph's own arithmetic: it is
evaluated for every index there is.
"""

from typing import NamedTuple

import numpy as np

from bnexport.errors import BnexportError
from bnexport.graph import ops
from bnexport.graph.graphdef import Node, Ref, constant_node
from bnexport.graph.live import Live
from bnexport.kernels.table import NDArray

_STITCHES = frozenset({"DynamicStitch", "ParallelDynamicStitch"})
_LOOKUPS = frozenset({"Gather", "GatherV2"})
_ELEMENTWISE = ops.SELECTS | frozenset(
    {"Add", "AddV2", "Sub", "Mul", "FloorDiv", "FloorMod", "Div", "Mod", "TruncateDiv", "TruncateMod", "Maximum", "Minimum", "Cast", "Less",
     "LessEqual", "Greater", "GreaterEqual"}
)  # fmt: skip


class _Parts(NamedTuple):
    """A lookup in several tables: for each index, the number of its table and the row there."""

    lookups: list[Node]
    tables: list[Ref]
    numbers: Ref
    rows: Ref


def join_partitions(live: Live) -> None:
    """Puts one lookup in a joined table in the place of each lookup in a table of several parts."""
    for node in [n for n in live.graph.nodes.values() if n.op in _STITCHES and not ops.is_gradient(n)]:
        parts = _parts(live, node)
        indices = None if parts is None else _computed_from(live, (parts.numbers, parts.rows))
        if parts is None or indices is None:
            continue
        order = _order(live, parts, indices)
        if order is not None:
            _join(live, node, parts, indices, order)


def _parts(live: Live, stitch: Node) -> _Parts | None:
    """The lookups that a DynamicStitch puts back in order, if it does so."""
    refs = live.inputs(stitch)
    count = len(refs) // 2
    positions = _divided(live, refs[:count])
    lookups = [live.graph.nodes[r.node] for r in refs[count:]]
    if positions is None or not all(n.op in _LOOKUPS and _is_by_rows(live, n) for n in lookups):
        return None
    rows = _divided(live, [live.inputs(n)[1] for n in lookups])
    if rows is None or rows[1] != positions[1] or not _counts(live, positions[0]):
        return None
    tables = [live.inputs(n)[0] for n in lookups]
    return _Parts(lookups, tables, positions[1], rows[0]) if not any(map(live.is_dynamic, tables)) else None


def _divided(live: Live, refs: list[Ref] | tuple[Ref, ...]) -> tuple[Ref, Ref] | None:
    """The operands of the DynamicPartition of which these are all the outputs in their order: what it divides, and the parts that it goes to."""
    node = live.graph.nodes[refs[0].node]
    if node.op != "DynamicPartition" or node.attrs["num_partitions"] != len(refs) or list(refs) != [Ref(node.name, i) for i in range(len(refs))]:
        return None
    data, numbers = live.inputs(node)
    return data, numbers


def _is_by_rows(live: Live, lookup: Node) -> bool:
    axis = live.inputs(lookup)[2:]
    return not lookup.attrs.get("batch_dims", 0) and all(not live.is_dynamic(r) and not live.value(r).any() for r in axis)


def _counts(live: Live, ref: Ref) -> bool:
    """Whether a value is 0, 1, 2, …"""
    node = live.graph.nodes[ref.node]
    start, _, step = live.inputs(node) if node.op == "Range" else (ref, ref, ref)
    return node.op == "Range" and not live.is_dynamic(start) and not live.is_dynamic(step) and live.value(start) == 0 and live.value(step) == 1


def _computed_from(live: Live, refs: tuple[Ref, ...]) -> Ref | None:
    """The one value from which these are computed, each element by itself."""
    found: set[Ref] = set()
    stack = list(refs)
    while stack:
        ref = stack.pop()
        node = live.graph.nodes[ref.node]
        if node.op not in _ELEMENTWISE:
            found.add(ref)
            continue
        for operand in live.inputs(node):
            if live.is_dynamic(operand):
                stack.append(operand)
            elif live.value(operand).size != 1:
                return None
    return found.pop() if len(found) == 1 else None


def _order(live: Live, parts: _Parts, indices: Ref) -> NDArray | None:
    """For each index, its row among those of all tables one after another; None if the tables are of other sizes than the strategy makes them."""
    sizes = np.array([live.array(table).shape[0] for table in parts.tables])
    every = {indices: np.arange(sizes.sum())}
    try:
        numbers, rows = (live.assuming(every, ref).astype(np.int64) for ref in (parts.numbers, parts.rows))
    except BnexportError:
        return None
    if np.any((numbers < 0) | (numbers >= len(sizes))) or np.any((rows < 0) | (rows >= sizes[numbers])):
        return None
    order: NDArray = (np.cumsum(sizes) - sizes)[numbers] + rows
    return order if np.array_equal(np.sort(order), every[indices]) else None


def _join(live: Live, stitch: Node, parts: _Parts, indices: Ref, order: NDArray) -> None:
    name, dtype = stitch.name, parts.lookups[0].attrs["Tparams"]
    users = live.consumers()
    axis = live.add(constant_node(f"{name}/axis", np.zeros((), np.int32)))
    table = live.add(Node(f"{name}/parts", "ConcatV2", [*parts.tables, axis], [], {"T": dtype, "N": len(parts.tables)}))
    if not np.array_equal(order, np.arange(len(order))):
        rows = live.add(constant_node(f"{name}/order", order))
        table = live.add(Node(f"{name}/table", "GatherV2", [table, rows, axis], [], {"Tparams": dtype}))
    live.put([Node(name, "GatherV2", [table, indices, axis], [], {"Tparams": dtype})])
    for lookup in parts.lookups:
        if all(u is stitch or ops.is_gradient(u) for u in users[Ref(lookup.name)]):
            live.replace(Ref(lookup.name), Ref(name))
