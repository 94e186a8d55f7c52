"""The places of a whole matrix, one behind the other, as a bucketized column writes them to give a dense tensor out as a sparse one."""

from typing import NamedTuple

from bnexport.graph import ops
from bnexport.graph.graphdef import Graph, Node, Ref


class Size(NamedTuple):
    """How many rows and columns a matrix has; the rows are those of a batch."""

    rows: Ref
    width: int


class Grid(NamedTuple):
    """All places of a matrix in row-major order; `columns` are the columns' numbers, 0, 1, 0, 1, …"""

    size: Size
    columns: Ref


def whole_grid(graph: Graph, ref: Ref) -> Grid | None:
    """The matrix of all whose places this is, the number of its row and of its column for each; None where it is something else."""
    transpose = _node(graph, ref)
    pack = _node(graph, transpose.inputs[0]) if transpose.op == "Transpose" else None
    if pack is None or pack.op != "Pack" or len(pack.inputs) != 2 or pack.attrs.get("axis", 0):
        return None
    rows, columns = (ops.behind(graph, operand) for operand in pack.inputs)
    size = columns_of_grid(graph, columns)
    return Grid(size, columns) if size is not None and size == _rows_of_grid(graph, rows) else None


def columns_of_grid(graph: Graph, ref: Ref) -> Size | None:
    """The size of a matrix of which these are the numbers of the columns: 0, 1, 0, 1, …"""
    tile = graph.nodes[ref.node]
    count = _count(graph, tile.inputs[0]) if tile.op == "Tile" else None
    times = _node(graph, tile.inputs[1]) if count is not None else None
    width = ops.constant_behind(graph, count) if count is not None else None
    if width is None or times is None or times.op != "Pack" or len(times.inputs) != 1:
        return None
    return Size(ops.behind(graph, times.inputs[0]), int(width))


def size_in_shape(graph: Graph, ref: Ref) -> Size | None:
    """The size that a shape says."""
    pack = _node(graph, ref)
    width = ops.constant_behind(graph, pack.inputs[1]) if pack.op == "Pack" and len(pack.inputs) == 2 else None
    return None if width is None else Size(ops.behind(graph, pack.inputs[0]), int(width))


def _rows_of_grid(graph: Graph, ref: Ref) -> Size | None:
    """The size of a matrix of which these are the numbers of the rows: 0, 0, 1, 1, …"""
    reshape = graph.nodes[ref.node]
    tile = _node(graph, reshape.inputs[0]) if reshape.op == "Reshape" else None
    apart = _node(graph, tile.inputs[0]) if tile is not None and tile.op == "Tile" else None
    if tile is None or apart is None or apart.op != "ExpandDims":
        return None
    count, axis, times = _count(graph, apart.inputs[0]), ops.constant_behind(graph, apart.inputs[1]), ops.constant_behind(graph, tile.inputs[1])
    if count is None or axis is None or int(axis) != 1 or times is None or len(times) != 2 or times[0] != 1:
        return None
    return Size(count, int(times[1]))


def _count(graph: Graph, ref: Ref) -> Ref | None:
    """How many numbers there are from 0 on."""
    numbers = _node(graph, ref)
    if numbers.op != "Range":
        return None
    start, limit, step = numbers.inputs
    counted = [ops.constant_behind(graph, operand) for operand in (start, step)] == [0, 1]
    return ops.behind(graph, limit) if counted else None


def _node(graph: Graph, ref: Ref) -> Node:
    return graph.nodes[ops.behind(graph, ref).node]
