"""The flags of a graph: what chooses between training and inference, and the value that each has at inference.

The evidence that the sides of conditions give is gathered per *flag*, the placeholder, variable or constant that predicates are computed from: one
flag usually drives dozens of conditions and one of them (a dropout, an update of moving averages) tells for all. A number that weighs the batch's
statistics against stored ones, phase * batch + (1 - phase) * moving, chooses too.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from bnexport.errors import BnexportError
from bnexport.graph import ops
from bnexport.graph.axes import are_of_batch, fed_shape, noted_shape
from bnexport.graph.branches import Branches, skip_identities
from bnexport.graph.graphdef import Graph, Node, Ref
from bnexport.graph.names import as_array

Evaluate = Callable[[Ref, dict[Ref, Any]], Any]
"""Computes a reference's value, given the values of some others."""

_ELEMENTWISE = frozenset({"Add", "AddV2", "Sub", "Mul", "RealDiv", "Div", "Floor", "Cast", "GreaterEqual", "Less", "Select", "SelectV2"})
_KEEP_STATISTICS = ops.PASS_THROUGH | ops.SWITCHES | frozenset(
    {"Squeeze", "ExpandDims", "Reshape", "Sub", "Add", "AddV2", "Mul", "Square", "SquaredDifference", "RealDiv", "Sqrt", "Rsqrt", "Cast", "IdentityN"}
)  # fmt: skip
_COMPARES = frozenset({"Equal", "NotEqual"})
_COMBINATIONS = 64  # of flags' values, among which one has to give what predicates are to be
_NEARBY = 24  # nodes looked at behind a Merge for a reduction over the batch: moments are made of a handful
_DOMAINS: dict[str, tuple[Any, ...]] = {"b": (False, True), "i": (0, 1, 2, -1), "u": (0, 1, 2), "f": (1.0, 0.0, 0.5)}


class Flag(NamedTuple):
    """A node whose value chooses between training and inference, what it was found to be, and why."""

    node: str
    op: str
    value: Any
    reason: str


def find_flags(branches: Branches, evaluate: Evaluate, given: dict[Ref, Any], actual: Callable[[Node], Any]) -> list[Flag]:
    """The value for inference of everything that predicates depend on, where the graph tells.

    Args:
        evaluate: computes a predicate from assumed values of flags.
        given: what the user has set already.
        actual: the value that a flag really has (a variable's in the checkpoint, a default), or None.
    """
    graph = branches.graph
    predicates: dict[Ref, tuple[list[str], list[str]]] = {}
    merges: dict[Ref, list[Node]] = {}
    for node in graph.nodes.values():
        if node.op in ops.SWITCHES:
            predicate = branches.predicate_of(node)
            predicates.setdefault(predicate, branches.evidence.get(predicate, ([], [])))
        elif node.op in ops.MERGES and not ops.is_gradient(node):
            for predicate in branches.predicates_at(node):
                merges.setdefault(predicate, []).append(node)
        elif node.op in ops.SELECTS and not ops.is_gradient(node):
            predicate = skip_identities(graph, node.inputs[0])
            found = predicates.setdefault(predicate, branches.evidence.get(predicate, ([], [])))
            merges.setdefault(predicate, [])
            behind = {1: _training_behind(graph, node.inputs[1]), 0: _training_behind(graph, node.inputs[2])}
            for value in (0, 1):
                if behind[value] and not behind[1 - value]:
                    found[value].append(f"{behind[value]} lies behind the {'true' if value else 'false'} side of {node.name}")
    for weight, what in _weights(graph):
        values = [actual(graph.nodes[name]) for name in flags_of(graph, weight)]
        if any(isinstance(value, (int, float)) and value not in (0, 1) for value in values):
            continue  # (a share, and no switch)
        predicates.setdefault(weight, ([], []))[1].append(what)
    by_flags: dict[frozenset[str], list[Ref]] = {}
    for predicate in predicates:
        leaves = flags_of(graph, predicate)
        if leaves:
            by_flags.setdefault(leaves, []).append(predicate)
    found_flags: list[Flag] = []
    known = dict(given)
    for leaves in sorted(by_flags, key=len):
        free = [name for name in leaves if Ref(name) not in known]
        if len(free) != 1:
            continue
        own = _own_evidence(branches, free[0], predicates, by_flags, actual)
        flag = _decide(branches, free[0], by_flags[leaves], own, merges, evaluate, known, actual)
        if flag is not None:
            found_flags.append(flag)
            known[Ref(flag.node)] = flag.value
    for leaves, candidates in by_flags.items():
        free = [name for name in leaves if Ref(name) not in known]
        if len(leaves) > 1 and free:
            domains = {name: _domain(graph, name, candidates, actual) for name in free}
            found_flags.extend(_decide_together(branches, domains, candidates, predicates, merges, evaluate, known))
    return found_flags


def _weights(graph: Graph) -> Iterator[tuple[Ref, str]]:
    """The numbers made of flags that weigh a statistic of the batch against something that another such number weighs; with what says so."""
    users = graph.consumers()
    for node in graph.nodes.values():
        if node.op not in ("Add", "AddV2") or ops.is_gradient(node) or any(ops.is_assignment(user.op) for user in users.get(node.name, ())):
            continue  # (an average that is moved by a decay is written)
        weighed = [found for found in (_weighed(graph, ref) for ref in node.inputs) if found is not None]
        if len(weighed) != 2 or flags_of(graph, weighed[0][0]) != flags_of(graph, weighed[1][0]):
            continue
        if any(graph.nodes[name].op == "Const" for name in flags_of(graph, weighed[0][0])):
            continue  # (no flag: it weighs both in training and at inference)
        first, second = (_nearby_statistic(graph, data) for _, data in weighed)
        if bool(first) != bool(second) and _is_stored(graph, weighed[1 if first else 0][1]):
            yield weighed[0 if first else 1][0], f"{first or second} takes a mean over the batch for {node.name}"


def _is_stored(graph: Graph, ref: Ref) -> bool:
    """Whether a value is made of variables alone, few steps behind, as a moving average is."""
    stack, seen, found = [ref], set[str](), False
    while stack:
        node = graph.node(skip_identities(graph, stack.pop()).node)
        if node.name in seen:
            continue
        seen.add(node.name)
        found = found or node.op in ops.VARIABLES
        if len(seen) > _NEARBY or ops.is_source(node) or node.op == "PlaceholderWithDefault" or node.op in ops.LOOPS:
            return False
        stack.extend(() if node.op in ops.VARIABLES else node.inputs)
    return found


def _weighed(graph: Graph, ref: Ref) -> tuple[Ref, Ref] | None:
    """The number of flags that something is multiplied by, and what is. (A number that a variable holds may have been learnt.)"""
    node = graph.node(skip_identities(graph, ref).node)
    for weight, data in (node.inputs, node.inputs[::-1]) if node.op == "Mul" else ():
        flags = flags_of(graph, weight) if noted_shape(graph, weight) in ([], None) else ()
        if flags and not any(graph.nodes[name].op in ops.VARIABLES and _kind(graph.nodes[name]) == "f" for name in flags):
            return weight, data
    return None


def _decide_together(
    branches: Branches,
    domains: dict[str, tuple[Any, ...]],
    candidates: list[Ref],
    predicates: dict[Ref, tuple[list[str], list[str]]],
    merges: dict[Ref, list[Node]],
    evaluate: Evaluate,
    known: dict[Ref, Any],
) -> list[Flag]:
    """Predicates of several flags (training and not frozen): what they are at inference, where their sides tell. Of the flags that tells nothing."""
    wanted: dict[Ref, tuple[int, str]] = {}
    for predicate in candidates:
        sides = predicates[predicate] if any(predicates[predicate]) else _statistics_evidence(branches, predicate, merges.get(predicate, []))
        if predicate.output == 0 and bool(sides[0]) != bool(sides[1]):
            wanted[predicate] = (0, sides[1][0]) if sides[1] else (1, sides[0][0])
    possible: dict[Ref, set[bool]] = {predicate: set() for predicate in candidates}
    for values in itertools.islice(itertools.product(*domains.values()), _COMBINATIONS):
        assumed = {**known, **{Ref(name): as_array(value) for name, value in zip(domains, values, strict=True)}}
        try:
            results = {predicate: bool(evaluate(predicate, assumed)) for predicate in candidates}
        except BnexportError:
            return []
        if all(results[predicate] == bool(value) for predicate, (value, _) in wanted.items()):
            for predicate, result in results.items():
                possible[predicate].add(result)
    nodes = branches.graph.nodes
    told = {predicate: f"on the other side {why}" for predicate, (_, why) in wanted.items()}
    if all(len(domain) == len(_DOMAINS["b"]) for domain in domains.values()):  # (of numbers only some were tried)
        given = next((f"as {predicate} is" for predicate in wanted), f"whatever {' and '.join(domains)} may be")
        told = {**dict.fromkeys(candidates, given), **told}
    return [
        Flag(predicate.node, nodes[predicate.node].op, next(iter(possible[predicate])), why)
        for predicate, why in told.items()
        if predicate.output == 0 and len(possible[predicate]) == 1
    ]


def _domain(graph: Graph, name: str, predicates: Iterable[Ref], actual: Callable[[Node], Any]) -> tuple[Any, ...]:
    """The values that a flag may have, its own first."""
    node = graph.nodes[name]
    present = actual(node)
    domain = _words(graph, predicates) if node.attrs.get("dtype") == "object" else _DOMAINS.get(_kind(node), ())
    return domain if present is None else (present, *(v for v in domain if v != present))


def _own_evidence(
    branches: Branches,
    name: str,
    predicates: dict[Ref, tuple[list[str], list[str]]],
    by_flags: dict[frozenset[str], list[Ref]],
    actual: Callable[[Node], Any],
) -> dict[Ref, tuple[list[str], list[str]]]:
    """The evidence that speaks of this flag.

    use_bn is not spoken of by training that another flag within its condition brings about, which has to be fed; nor, if it has a value of its own,
    by training that such a flag around it brings about.
    """
    nodes = branches.graph.nodes
    fed = {p for leaves, found in by_flags.items() if name not in leaves and all(actual(nodes[n]) is None for n in leaves) for p in found}
    if actual(nodes[name]) is None:
        mine = {p for leaves, found in by_flags.items() if name in leaves for p in found}
        switches = [node for node in nodes.values() if node.op in ops.SWITCHES] if fed else []
        fed &= {branches.predicate_of(s) for s in switches if any(predicate in mine for predicate, _ in branches.sides.get(s.name, ()))}

    def own(whats: list[str]) -> list[str]:
        return [what for what in whats if not any(predicate in fed for predicate, _ in branches.evidence_at.get(what, ()))]

    return {predicate: (own(sides[0]), own(sides[1])) for predicate, sides in predicates.items()}


def _decide(
    branches: Branches,
    name: str,
    candidates: list[Ref],
    predicates: dict[Ref, tuple[list[str], list[str]]],
    merges: dict[Ref, list[Node]],
    evaluate: Evaluate,
    known: dict[Ref, Any],
    actual: Callable[[Node], Any],
) -> Flag | None:
    node = branches.graph.nodes[name]
    present = actual(node)
    domain = _domain(branches.graph, name, candidates, actual)
    evidence = {p: predicates[p] for p in candidates}
    if not any(e[0] or e[1] for e in evidence.values()):
        evidence = {p: _statistics_evidence(branches, p, merges.get(p, [])) for p in candidates}
    scores: list[tuple[int, Any, str, list[int]]] = []
    for value in domain:
        count, why, chosen = 0, "", []
        for predicate, sides in evidence.items():
            try:
                result = int(bool(evaluate(predicate, {**known, Ref(name): as_array(value)})))
            except BnexportError:
                return None  # the predicate needs more than flags: it is looked at again if an output depends on it
            count += len(sides[result])
            if predicate in merges:  # values are chosen by it, not only side effects
                chosen.append(result)
            why = why or (sides[1 - result][0] if sides[1 - result] else "")
        scores.append((count, value, why, chosen))
    clean = [s for s in scores if s[0] == 0]
    if clean and len(clean) < len(scores):
        _, value, why, _ = clean[0]
        if value != present and any(s[3] != clean[0][3] for s in clean):
            return None  # there is more than one kind of inference, such as evaluation and prediction
        return Flag(name, node.op, value, f"on the other side {why}")
    if present is not None and node.op != "Const":  # (which has its value without being decided)
        return Flag(name, node.op, present, "its own value; nothing in the graph tells training from inference")
    return None


def _words(graph: Graph, predicates: Iterable[Ref]) -> tuple[str, ...]:
    """What a text may be that predicates compare with others: each of these, and none of them."""
    found: dict[str, None] = {}
    seen: set[str] = set()
    stack = [skip_identities(graph, predicate) for predicate in predicates][::-1]
    while stack:
        node = graph.node(stack.pop().node)
        if node.name not in seen:
            seen.add(node.name)
            stack.extend([skip_identities(graph, ref) for ref in node.inputs][::-1])
            if node.op == "Const" and node.attrs["dtype"] == "object":
                found.update(dict.fromkeys(text.decode(errors="replace") for text in node.attrs["value"].reshape(-1)))
    return (*found, "")


def _kind(node: Node) -> str:
    dtype = node.attrs.get("dtype", "bool")
    return {"bool": "b", "float32": "f", "float64": "f", "float16": "f", "bfloat16": "f"}.get(dtype, "u" if str(dtype).startswith("u") else "i")


def flags_of(graph: Graph, predicate: Ref) -> frozenset[str]:
    """The placeholders, variables and boolean constants that a predicate is computed from; nothing if it takes more than flags."""
    leaves: set[str] = set()
    seen: set[str] = set()
    stack = [predicate]
    while stack:
        ref = skip_identities(graph, stack.pop())
        if ref.node in seen:
            continue
        seen.add(ref.node)
        node = graph.node(ref.node)
        if len(seen) > _NEARBY or node.op in ops.LOOPS or node.op in ops.ASK_WHETHER_INITIALISED:
            return frozenset()
        if ops.is_source(node) and node.op not in ops.PLACEHOLDERS:
            return frozenset()  # data
        if node.op in ops.PLACEHOLDERS or node.op in ops.VARIABLES or node.op == "PlaceholderWithDefault":
            if any(size != 1 for size in fed_shape(node) or ()):
                return frozenset()  # data
            leaves.add(node.name)
        elif node.op == "Const":
            if ref == skip_identities(graph, predicate):
                leaves.add(node.name)
        elif not node.inputs or (node.op not in _COMPARES and any(_is_text(graph, r) for r in node.inputs)):
            return frozenset()  # (a word is compared with others, and what else is done with text is done with data)
        else:
            stack.extend(node.inputs)
    return frozenset(leaves)


def _is_text(graph: Graph, ref: Ref) -> bool:
    node = graph.node(skip_identities(graph, ref).node)
    return node.op in ops.PLACEHOLDERS and node.attrs.get("dtype") == "object"


def _training_behind(graph: Graph, ref: Ref) -> str:
    """The name of a node just behind `ref` that is random or takes a statistic of the batch."""
    return _nearby(graph, ref, ops.PASS_THROUGH | _ELEMENTWISE, lambda n: ops.is_random(n.op) or ops.in_training_mode(n)) or _nearby_statistic(
        graph, ref
    )


def _nearby(graph: Graph, ref: Ref, through: frozenset[str], wanted: Callable[[Node], bool]) -> str:
    """The name of a node that `wanted` accepts, among the few behind `ref` that are reached through these operators."""
    seen: set[str] = set()
    queue = [ref]
    while queue and len(seen) < _NEARBY:
        name = queue.pop(0).node
        if name in seen:
            continue
        seen.add(name)
        node = graph.node(name)
        if wanted(node):
            return name
        if node.op in through:
            queue.extend(node.inputs)
    return ""


def _statistics_evidence(branches: Branches, predicate: Ref, merges: list[Node]) -> tuple[list[str], list[str]]:
    """For conditions that choose between stored statistics and the batch's: which side takes a mean."""
    graph = branches.graph
    sides: tuple[list[str], list[str]] = ([], [])
    for merge in merges:
        behind: dict[int, str] = {}
        for ref in merge.inputs:
            values = {v for p, v in branches.sides_at(ref) if p == predicate}
            if len(values) == 1:
                behind[values.pop()] = _nearby_statistic(graph, ref)
        for value in (0, 1):
            if behind.get(value) and behind.get(1 - value) == "":
                sides[value].append(f"{behind[value]} takes a mean over the batch for {merge.name}")
    return sides


def _nearby_statistic(graph: Graph, ref: Ref) -> str:
    """A mean over the batch behind `ref` that is reached through operators which keep statistics what they are."""
    return _nearby(graph, ref, _KEEP_STATISTICS, lambda n: _reduces_batch(graph, n) or ops.in_training_mode(n))


def _reduces_batch(graph: Graph, node: Node) -> bool:
    """Whether a mean or sum goes over the batch: over the first axis, and of more than a matrix not over that alone, as a mean over time does.

    A pooling over positions is no sign of training.
    """
    if node.op not in ("Mean", "Sum") or len(node.inputs) != 2:
        return False
    axes = graph.node(skip_identities(graph, node.inputs[1]).node)
    if axes.op != "Const":
        return axes.op == "Range"  # all axes, of an unknown rank
    data, listed = node.inputs[0], axes.attrs["value"].reshape(-1)
    shape = noted_shape(graph, data)
    return are_of_batch(graph, data, listed) and (shape is None or len(shape) <= 2 or listed.size > 1)
