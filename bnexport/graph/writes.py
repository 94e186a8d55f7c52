"""Variables that a run writes before it reads them, by control dependencies: what it reads is then not what the checkpoint holds."""

from collections.abc import Iterable

from bnexport.graph import ops
from bnexport.graph.graphdef import Ref
from bnexport.graph.live import Live


def written_before_read(live: Live, order: Iterable[str]) -> dict[str, str]:
    """For each variable among what the nodes of `order` read, the assignment that runs before it is read, if there is one."""
    found: dict[str, str] = {}
    behind: dict[tuple[str, ...], dict[str, str]] = {}
    for name in order:
        for ref in live.graph.nodes[name].inputs:
            end = live.resolve(ref).node
            if end in found or live.graph.nodes[end].op not in ops.VARIABLES:
                continue
            for reader in [name] if ref.node == end else live.passed(ref):
                controls = tuple(live.graph.nodes[reader].controls)
                if controls and controls not in behind:
                    behind[controls] = assigned_before(live, controls)
                if end in behind.get(controls, ()):
                    found[end] = behind[controls][end]
    return found


def assigned_before(live: Live, roots: Iterable[str]) -> dict[str, str]:
    """The variables that are written before some nodes are done, and by which node."""
    found: dict[str, str] = {}
    seen: set[str] = set()
    stack = list(roots)
    while stack:
        name = stack.pop()
        if name in seen or name not in live.graph.nodes or live.is_dead(name):
            continue
        seen.add(name)
        node = live.graph.nodes[name]
        if ops.is_assignment(node.op) and node.inputs:
            found.setdefault(live.resolve(Ref(node.inputs[0].node)).node, name)
        stack.extend(node.controls)
        stack.extend(ref.node for ref in node.inputs)
    return found
