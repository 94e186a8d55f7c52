"""What Keras' preprocessing layers and feature columns make of text and numbers, in terms of what arrays can do."""

from bnexport.checkpoint import Checkpoint
from bnexport.graph.graphdef import Graph, Ref
from bnexport.graph.sparse import keep_dense
from bnexport.graph.tables import write_out_lookups


def write_out_preprocessing(graph: Graph, checkpoint: Checkpoint) -> None:
    """Gives lookups the contents of their tables and counts their sizes, and leaves out that a tensor was sparse for a while, in place.

    What comes in sparse stays.
    """
    write_out_lookups(graph, checkpoint)
    keep_dense(graph)
    for node in list(graph.nodes.values()):
        if node.op == "DenseBincount":
            node.inputs[1] = _clipped_to(graph, node.inputs[1])


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
