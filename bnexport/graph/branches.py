"""Which branch of every tf.cond is inference's, found from the graph.

The sides of a condition are known from Switch and Merge: a node belongs to a side of a predicate when it takes data or control from that side of a
Switch, until a Merge joins both. Inference is the side with no random operator, no assignment and no statistics over the batch.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from bnexport.graph import ops
from bnexport.graph.graphdef import Graph, Node, Ref

Side = tuple[Ref, int]
"""A predicate and the value (0 or 1) that it has here."""


@dataclass(slots=True)
class Branches:
    """The conditions of a graph: on which sides each node stands, the evidence of training on either side of each predicate, and where it stands."""

    graph: Graph
    sides: dict[str, frozenset[Side]] = field(default_factory=dict)
    evidence: dict[Ref, tuple[list[str], list[str]]] = field(default_factory=dict)
    evidence_at: dict[str, frozenset[Side]] = field(default_factory=dict)

    def predicate_of(self, switch: Node) -> Ref:
        """The predicate of a Switch, without the identities between."""
        return skip_identities(self.graph, switch.inputs[1])

    def sides_at(self, ref: Ref) -> frozenset[Side]:
        """The sides on which one output of a node stands: of a Switch, its own as well."""
        node = self.graph.node(ref.node)
        extra = {(self.predicate_of(node), ref.output)} if node.op in ops.SWITCHES else set()
        return self.sides.get(ref.node, frozenset()) | extra

    def predicates_at(self, merge: Node) -> set[Ref]:
        """The predicates that a Merge may join the sides of."""
        return {predicate for ref in merge.inputs for predicate, _ in self.sides_at(ref)}


def skip_identities(graph: Graph, ref: Ref) -> Ref:
    """The reference behind identities, and behind the switches that tf.cond puts on a predicate of an outer tf.cond."""
    while True:
        node = graph.node(ref.node)
        if node.op == "IdentityN":
            ref = node.inputs[ref.output]
        elif node.op in ops.PASS_THROUGH and node.op != "PlaceholderWithDefault" and node.inputs:
            if node.op == "ReadVariableOp" and graph.node(node.inputs[0].node).op == "VarHandleOp":
                return node.inputs[0]
            ref = node.inputs[0]
        elif node.op in ops.SWITCHES or node.op == "Squeeze":  # tf.cond squeezes a predicate of unknown shape
            ref = node.inputs[0]
        else:
            return ref


def find_branches(graph: Graph) -> Branches:
    """Follows every Switch forward and notes on which sides of which predicates each node stands, and what speaks for training there."""
    branches = Branches(graph)
    conditions = [n for n in graph.nodes.values() if n.op in ops.SWITCHES and graph.node(skip_identities(graph, n.inputs[1]).node).op != "LoopCond"]
    if not conditions:
        return branches
    for node in _forward_order(graph, [n.name for n in conditions]):
        sides = _sides_of(branches, node)
        branches.sides[node.name] = sides
        if sides and not _contradicts_itself(sides) and (what := _training(node)):
            branches.evidence_at[what] = sides
            for predicate, value in sides:
                branches.evidence.setdefault(predicate, ([], []))[value].append(what)
    return branches


def _training(node: Node) -> str:
    if ops.is_random(node.op):
        return f"{node.name} ({node.op}) is random"
    if ops.is_assignment(node.op):
        return f"{node.name} ({node.op}) writes a variable"
    if ops.in_training_mode(node):
        return f"{node.name} ({node.op}) uses the statistics of the batch"
    return ""


def _forward_order(graph: Graph, start: Iterable[str]) -> list[Node]:
    """The descendants of `start` by data and control edges, inputs first; back edges of loops are not followed."""
    users: dict[str, list[str]] = {}
    for node in graph.nodes.values():
        if node.op not in ("NextIteration", "RefNextIteration"):
            for name in {*(r.node for r in node.inputs), *node.controls}:
                users.setdefault(name, []).append(node.name)
    reached: dict[str, None] = {}  # (a set would have another order in each process)
    stack = list(start)
    while stack:
        name = stack.pop()
        if name not in reached:
            reached[name] = None
            stack.extend(users.get(name, ()))
    waiting = {}
    for name in reached:
        node = graph.nodes[name]
        back = node.op in ("NextIteration", "RefNextIteration")
        waiting[name] = 0 if back else sum(1 for p in {*(r.node for r in node.inputs), *node.controls} if p in reached)
    ready = [name for name, count in waiting.items() if count == 0]
    order = []
    while ready:
        name = ready.pop()
        order.append(graph.nodes[name])
        for user in users.get(name, ()):
            waiting[user] -= 1
            if waiting[user] == 0:
                ready.append(user)
    return order


def _sides_of(branches: Branches, node: Node) -> frozenset[Side]:
    graph, known = branches.graph, branches.sides
    each = []
    for ref in node.inputs:
        sides = known.get(ref.node, frozenset())
        source = graph.nodes.get(ref.node)
        if source is not None and source.op in ops.SWITCHES:
            sides = sides | {(branches.predicate_of(source), ref.output)}
        each.append(sides)
    if node.op in ops.MERGES:  # what all the sides that can be taken have in common; a side within the other side of the same flag never is
        back = {i for i, r in enumerate(node.inputs) if r.node in graph.nodes and graph.nodes[r.node].op in ("NextIteration", "RefNextIteration")}
        possible = [sides for i, sides in enumerate(each) if i not in back and not _contradicts_itself(sides)]
        each = [frozenset.intersection(*possible)] if possible else each
    each.extend(known.get(name, frozenset()) for name in node.controls)
    return frozenset().union(*each)


def _contradicts_itself(sides: frozenset[Side]) -> bool:
    return any((predicate, 1 - value) in sides for predicate, value in sides)
