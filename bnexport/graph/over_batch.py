"""What a graph computes over the batch: means and variances, but any other value as well in which the rows of its data are no more told apart."""

from collections.abc import Iterable
from typing import Any

from bnexport.graph import ops
from bnexport.graph.axes import are_of_batch, counted_from_first, noted_shape
from bnexport.graph.graphdef import Node, Ref, topological
from bnexport.graph.live import Live
from bnexport.graph.shapes import Shapes

_OF_STATISTICS = frozenset(
    {"Add", "AddV2", "Sub", "Mul", "AddN", "RealDiv", "Div", "DivNoNan", "Neg", "Cast", "Squeeze", "Reshape", "Square", "SquaredDifference", "Sqrt",
     "Rsqrt", "Reciprocal", "Inv", "Pow", "Log", "Exp", "Abs", "Maximum", "Minimum", "ClipByValue", "StridedSlice", "ExpandDims", "Transpose",
     "Pack", "Unpack", "ConcatV2", "Split"}
)  # fmt: skip
"""What statistics are made with, from the reduction on: variances, deviations, logarithms of these, what is clipped."""
_CONTRACTIONS = frozenset({"MatMul", "BatchMatMul", "BatchMatMulV2", "BatchMatMulV3", "Einsum", "TopK", "TopKV2"})
"""What sums over rows, or chooses among them, without being a reduction, wherever its result has none."""
_SQUARES = frozenset({"Square", "SquaredDifference", "Mul", "Pow"})
_KEEPS_DATA = frozenset({"Square", "SquaredDifference", "Sub", "Abs"})
_DEEP = 8  # operators from a statistic to its data
NEARBY = 48  # nodes walked through between a reduction over the batch and the assignment of its average


def is_over_batch(live: Live, ref: Ref) -> bool:
    """Whether a value is a statistic over the batch: a fused batch norm's in training mode, or made of a reduction over the rows, nearby."""
    stack = [ref]
    seen: set[str] = set()
    while stack and len(seen) < NEARBY:
        name = stack.pop(0).node
        if name in seen:
            continue
        seen.add(name)
        node = live.graph.nodes[name]
        if ops.in_training_mode(node):
            return ref.output in (1, 2) and node.name == ref.node
        if _is_reduction(node):
            return _goes_over_batch(live, node)
        if node.op in _CONTRACTIONS:
            return _loses_rows(live, node)
        if node.op in _OF_STATISTICS:
            stack.extend(live.inputs(node))
    return False


def is_of_squares(live: Live, ref: Ref) -> bool:
    """Whether a statistic is made of squares, as a variance is, which may be corrected by n / (n - 1); a mean never is."""
    nodes = [live.graph.nodes[ref.node]]
    for node in nodes:
        if ops.in_training_mode(node):
            return ref.output == 2
        if _is_reduction(node) and live.graph.nodes[live.inputs(node)[0].node].op in _SQUARES:
            return True
        if node.op in _CONTRACTIONS:
            return True  # of something with itself, it may be
        if node.op in _OF_STATISTICS and len(nodes) < NEARBY:
            nodes.extend(live.graph.nodes[r.node] for r in live.inputs(node))
    return False


def _is_reduction(node: Node) -> bool:
    return node.op in ops.REDUCTIONS and len(node.inputs) == 2


def _axes(live: Live, node: Node) -> list[int]:
    data, axes = live.inputs(node)
    return [] if live.is_dynamic(axes) else counted_from_first(live.graph, data, live.value(axes).reshape(-1))


def _goes_over_batch(live: Live, node: Node) -> bool:
    return are_of_batch(live.graph, live.inputs(node)[0], _axes(live, node))


def _loses_rows(live: Live, node: Node) -> bool:
    """Whether a result has a fixed size where an operand has an open one, by the shapes that TensorFlow noted."""
    made = noted_shape(live.graph, Ref(node.name))
    taken = [noted_shape(live.graph, ref) for ref in node.inputs]
    return made is not None and None not in made and any(shape is not None and None in shape for shape in taken)


def drop_weightless(live: Live) -> None:
    """Takes away statistics over the batch that are multiplied by the number zero: 0 * batch + 1 * moving is the moving one.

    An average that does not move at inference, for its decay is 1 there, is an average all the same.
    """
    written = {live.resolve(ref) for n in live.graph.nodes.values() if ops.is_assignment(n.op) for ref in n.inputs[1:]}
    sums = [n for n in live.graph.nodes.values() if n.op in ("Add", "AddV2") and not ops.is_gradient(n)]
    for node in (n for n in sums if Ref(n.name) not in written):
        first, second = live.inputs(node)
        for ref, other in ((first, second), (second, first)):
            made = live.graph.nodes[ref.node]
            shapes = [noted_shape(live.graph, r) for r in (Ref(node.name), other)]
            if made.op != "Mul" or not live.is_dynamic(ref) or (None not in shapes and shapes[0] != shapes[1]):
                continue
            weights = [live.value(r) for r in live.inputs(made) if not live.is_dynamic(r) and not live.variables_behind(r)]
            if len(weights) == 1 and weights[0].size == 1 and not weights[0].item() and is_over_batch(live, ref):
                live.replace(Ref(node.name), other)
                break


def data_of(live: Live, statistic: Ref) -> set[tuple[Ref, tuple[int, ...]]]:
    """The data that a statistic is taken over, with the axes: for mean((x - mean)²) and mean(x²), as for mean(x), it is x."""
    found = set()
    stack = [statistic]
    seen: set[Ref] = set()
    while stack and len(seen) < NEARBY:
        ref = stack.pop(0)
        if ref in seen:
            continue
        seen.add(ref)
        node = live.graph.nodes[ref.node]
        if _is_reduction(node):
            axes = tuple(_axes(live, node))
            data = [live.inputs(node)[0]]
            while data:
                taken = live.graph.nodes[data[0].node]
                if taken.op in _KEEPS_DATA:
                    data.extend(r for r in live.inputs(taken) if live.is_dynamic(r))
                found.add((data.pop(0), axes))
        elif node.op in _OF_STATISTICS:
            stack.extend(live.inputs(node))
    return found


def computed_again(live: Live, statistics: Iterable[Ref]) -> dict[Ref, Ref]:
    """For each further value that is the same statistic of the same data, as where moments are taken twice: the statistic that it equals."""
    known = {_formula(live, ref): ref for ref in statistics if not ops.in_training_mode(live.graph.nodes[ref.node])}
    made_by = {live.graph.nodes[ref.node].op for ref in known.values()}
    found = {}
    for node in [n for n in live.graph.nodes.values() if n.op in made_by]:
        ref = Ref(node.name)
        if live.is_dynamic(ref) and is_over_batch(live, ref) and (same := known.get(_formula(live, ref), ref)) != ref:
            found[ref] = same
    return found


def _formula(live: Live, ref: Ref, depth: int = 0) -> Any:
    """How a statistic is computed from its data, comparable with others."""
    node = live.graph.nodes[ref.node]
    if node.op == "Const":
        return node.attrs["value"].tobytes()
    if depth == _DEEP or not (_is_reduction(node) or node.op in _OF_STATISTICS or node.op in _CONTRACTIONS):
        return ref
    attributes = tuple((key, str(node.attrs[key])) for key in sorted(node.attrs) if not key.startswith("_"))
    return node.op, attributes, ref.output, tuple(_formula(live, operand, depth + 1) for operand in live.inputs(node))


def reductions_over_batch(live: Live, names: list[str]) -> list[str]:
    """Which of some nodes reduce data over the batch."""
    nodes = (live.graph.nodes[name] for name in names)
    return [n.name for n in nodes if _is_reduction(n) and live.is_dynamic(Ref(n.name)) and _goes_over_batch(live, n)]


def batch_statistics(live: Live, roots: list[str], shapes: Shapes) -> list[str]:
    """The nodes among the ancestors of `roots` that take statistics over the batch, so that scores depend on what is in it."""
    names = topological(live.graph, roots, live.inputs)
    return [name for name in names if ops.in_training_mode(node := live.graph.nodes[name]) or _mixes_rows(live, node, shapes)]


def _mixes_rows(live: Live, node: Node, shapes: Shapes) -> bool:
    """Whether an operator reduces an axis of any size, or sums over one or chooses from it; means and sums also one of the batch's fixed size."""
    taken = [shapes.of(ref) for ref in live.inputs(node) if ref in shapes.found]
    if _is_reduction(node) and live.is_dynamic(Ref(node.name)):
        plain = node.op in ("Mean", "Sum")
        if not taken or None not in taken[0]:
            return plain and _goes_over_batch(live, node)
        data = live.inputs(node)[0]
        of_rows = any(taken[0][axis] is None and _counts_rows(shapes, data, axis) for axis in _axes(live, node))
        return of_rows and (plain or shapes.dtype(data).kind == "f")
    made = Ref(node.name)
    return node.op in _CONTRACTIONS and made in shapes.found and None not in shapes.of(made) and any(None in shape for shape in taken)


def _counts_rows(shapes: Shapes, ref: Ref, axis: int) -> bool:
    """Whether an open axis has as many elements as the batch has rows, or a multiple: a length or a width has not.

    Where no input is a batch, any has.
    """
    rows = next((shapes.found[r] for r, shape in shapes.input_shapes.items() if shape[:1] == (None,) and r in shapes.found), None)
    return rows is None or all(probe.shape[axis] % fed.shape[0] == 0 for probe, fed in zip(shapes.found[ref], rows, strict=True))
