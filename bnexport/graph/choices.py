"""Conditions that data decide: both branches are computed, and the result is chosen.

What a tf.cond asks of the data, as static_rnn asks at each step whether all sequences have ended, has an answer for each batch. As long as neither
branch draws random numbers or writes a variable, computing both and taking one of them gives what TensorFlow gives. A condition on a single fed value
is not decided so: that may be a flag, which has one value at inference.
"""

from bnexport.graph import ops
from bnexport.graph.graphdef import Node, Ref, topological
from bnexport.graph.live import Live


def choose_by_data(live: Live) -> None:
    """Puts a Select in the place of each Merge that joins the branches of a condition on data."""
    merges = [
        n for n in list(live.graph.nodes.values()) if n.op in ops.MERGES and not ops.is_gradient(n) and live.resolve(Ref(n.name)) == Ref(n.name)
    ]
    asks_data: dict[Ref, bool] = {}
    chosen = []
    for merge in merges:
        joined = _joined(live, merge)
        if joined is None:
            continue
        predicate, otherwise, then = joined
        if predicate not in asks_data:
            asks_data[predicate] = not any(live.branches.evidence.get(predicate, ())) and _asks_data(live, predicate)
        if asks_data[predicate]:
            chosen.append(Node(merge.name, "Select", [predicate, then, otherwise], [], {"T": merge.attrs.get("T"), "_choice": True}))
    live.put(chosen)


def _joined(live: Live, merge: Node) -> tuple[Ref, Ref, Ref] | None:
    """The predicate whose branches a Merge joins, and what it takes where that is false and where it is true."""
    if len(merge.inputs) != 2:
        return None
    first, second = (live.branches.sides_at(ref) for ref in merge.inputs)
    apart = [(predicate, value) for predicate, value in first if (predicate, 1 - value) in second]
    if len(apart) != 1:
        return None
    ((predicate, value),) = apart
    then, otherwise = merge.inputs if value else reversed(merge.inputs)
    return predicate, otherwise, then


def _asks_data(live: Live, predicate: Ref) -> bool:
    """Whether a predicate is computed from data, and from nothing that may be a flag or that differs from run to run."""
    nodes = [live.graph.nodes[name] for name in topological(live.graph, [live.resolve(predicate).node], live.inputs)]
    if any(ops.is_random(n.op) or ops.is_assignment(n.op) or n.op in ops.LOOPS for n in nodes):
        return False
    entries = [n for n in nodes if n.name in live.sources or ops.is_source(n) or n.op == "PlaceholderWithDefault"]
    return bool(entries) and all(_has_rows(n) for n in entries)


def _has_rows(source: Node) -> bool:
    """Whether data of more than one element may come in here, as far as the graph tells."""
    shapes = source.attrs.get("_output_shapes") or source.attrs.get("output_shapes") or [source.attrs.get("shape")]
    return all(shape is not None and any(size != 1 for size in shape) for shape in shapes)
