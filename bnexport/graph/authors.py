"""What the author of a graph gave a name, and what TensorFlow called by itself."""

from bnexport.graph.flow import belongs_to_training
from bnexport.graph.graphdef import Node, Ref
from bnexport.graph.live import Live

_AUTOMATIC = frozenset({"truediv", "div", "read", "control_dependency", "exit", "merge", "step", "result"})
"""Names that TensorFlow gives beside those of operators; the last two are of loops that were written out."""


def authors_name(live: Live, ref: Ref) -> Ref:
    """The name that the graph's author gave an output.

    That is the name of the last of the identities behind it that nothing else takes, or the only one given by hand.
    """
    nodes = list(live.graph.nodes.values())
    identities = [n for n in nodes if n.op == "Identity" and live.resolve(Ref(n.name)) == ref]
    named = {n.name: n for n in identities if not belongs_to_training(n) and not live.is_dead(n.name)}
    taken = {r.node for n in nodes for r in n.inputs if r.node in named and not belongs_to_training(n)}
    final = [n for name, n in named.items() if name not in taken]
    if len(final) != 1 and is_automatic(live.graph.nodes[ref.node]):
        final = [n for n in named.values() if not is_automatic(n)]
    return Ref(final[0].name) if len(final) == 1 else ref


def is_automatic(node: Node) -> bool:
    """Whether a node is called as TensorFlow calls one that was given no name: after its operator."""
    last = node.name.rpartition("/")[2].rstrip("0123456789").rstrip("_").lower()
    op = node.op.lower()
    return last in _AUTOMATIC or last == op.removesuffix("v2") or last.replace("_", "") == op
