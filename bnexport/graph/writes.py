"""Variables that a run writes as well as reads: what it reads is then not what the checkpoint holds."""

from collections.abc import Iterable

import numpy as np

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


def written_in_passing(live: Live, outputs: Iterable[Ref], order: Iterable[str]) -> dict[str, str]:
    """For each variable among what the nodes of `order` read, the assignment that a run for these outputs makes, if before or after is not said.

    tf.cond runs what was made outside of it whichever branch is taken, if either depends on it: averages that are updated in front of a condition,
    and only waited for within it, move at inference too.
    """
    assigned = assigned_before(live, [ref.node for ref in outputs], through_dead=True)
    read = {ref.node for name in order for ref in live.inputs(live.graph.nodes[name])}
    return {variable: assignment for variable, assignment in assigned.items() if variable in read and not _adds_nothing(live, assignment)}


def _adds_nothing(live: Live, assignment: str) -> bool:
    """Whether what an assignment adds or subtracts is something times the number zero, as by a decay that is 1 at inference."""
    node = live.graph.nodes[assignment]
    if "Sub" not in node.op and "Add" not in node.op:
        return False
    added = live.graph.nodes[live.resolve(node.inputs[1]).node]
    factors = [live.value(r) for r in live.inputs(added) if not live.is_dynamic(r)] if added.op == "Mul" else []
    return any(factor.size == 1 and not np.any(factor) for factor in factors)


def assigned_before(live: Live, roots: Iterable[str], *, through_dead: bool = False) -> dict[str, str]:
    """The variables that are written before some nodes are done, and by which node.

    Args:
        through_dead: whether to follow what branches that are not taken depend on.
    """
    found: dict[str, str] = {}
    seen: set[str] = set()
    stack = list(roots)
    while stack:
        name = stack.pop()
        if name in seen or name not in live.graph.nodes:
            continue
        seen.add(name)
        dead = live.is_dead(name)
        if dead and not through_dead:
            continue
        node = live.graph.nodes[name]
        if ops.is_assignment(node.op) and node.inputs and not dead:
            found.setdefault(live.resolve(Ref(node.inputs[0].node)).node, name)
        stack.extend(node.controls)
        stack.extend(ref.node for ref in node.inputs)
    return found
