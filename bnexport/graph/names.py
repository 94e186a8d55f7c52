"""Finding what a user names in a graph."""

from bnexport.errors import UsageError
from bnexport.graph import ops
from bnexport.graph.graphdef import Graph, Ref, parse_ref

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
