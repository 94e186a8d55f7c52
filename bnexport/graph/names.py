"""Finding what a user names in a graph."""

from bnexport.errors import UsageError
from bnexport.graph.graphdef import Graph, Ref, parse_ref


def find_named(graph: Graph, text: str) -> Ref:
    """The reference that a user means by a tensor's or a node's name.

    Raises:
        UsageError: the graph has no such node; the message suggests close ones.
    """
    ref = parse_ref(text)
    if ref.node not in graph.nodes:
        import difflib

        close = difflib.get_close_matches(ref.node, graph.nodes, n=5, cutoff=0.5)
        ends = [name for name in graph.nodes if name.rsplit("/", 1)[-1] == ref.node.rsplit("/", 1)[-1]][:5]
        hint = ", ".join(dict.fromkeys(ends + close))
        raise UsageError(f"{graph.source}: the graph has no tensor {text!r}" + (f"; close names are {hint}" if hint else ""))
    return ref
