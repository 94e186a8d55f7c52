"""Loops written out step by step, where the number of steps is known before any data is.

A loop of TensorFlow 1 is a *frame*: values come in through Enter, Merge joins what came in with what the last step gave, LoopCond says whether there
is another step, Switch hands each value to the step or to Exit, and NextIteration takes it to the next Merge. `functions.py` writes the loops of
control flow v2 in the same form. dynamic_rnn over a time dimension that the graph fixes, or map_fn over a fixed dimension, only counts: its
condition is evaluated with the counters and sizes that are known, and the body is written as often as it holds.

Where a condition also depends on data (`time < min(steps, longest sequence)`), all steps are computed after which it may still hold, and what leaves
the loop is chosen: the result of each step where the conditions held until then, else that of the step before.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from bnexport.errors import GraphError
from bnexport.graph import ops
from bnexport.graph.bounds import Known, known_results
from bnexport.graph.graphdef import Graph, Node, Ref, constant_node, topological
from bnexport.graph.live import Live
from bnexport.graph.sizes import Sizes
from bnexport.graph.tensor_arrays import leave_out_arrays, write_arrays

MOST_STEPS = 5_000
MOST_NODES = 60_000
"""How many nodes loops may become: about a thousand steps of a recurrent layer."""

_ENTERS = frozenset({"Enter", "RefEnter"})
_COUNTS = ("int32", "int64", "bool")
_EXITS = frozenset({"Exit", "RefExit"})
_NEXT = frozenset({"NextIteration", "RefNextIteration"})


class _Refused(Exception):
    """Why a loop is not written out."""


@dataclass(slots=True)
class Frame:
    """A loop: its nodes, and its variables, each a Merge, with what they begin with and what a step makes of them."""

    name: str
    parent: str = ""
    nodes: set[str] = field(default_factory=set)
    first: dict[str, Ref] = field(default_factory=dict)
    following: dict[str, Ref] = field(default_factory=dict)
    condition: Ref | None = None


def write_out_loops(live: Live, shapes: Mapping[Ref, Sequence[int | None]], wanted: Iterable[Ref], names: Mapping[Ref, str]) -> None:
    """Writes out, in place, each loop of the graph whose number of steps is known; the exits of the others say why they are not.

    Args:
        shapes: shapes that the user gave to inputs.
        wanted: references that are outputs, whatever takes them.
        names: what the user calls inputs, where that is not their name in the graph.
    """
    graph = live.graph
    sizes = Sizes(live, shapes)
    refused: dict[str, str] = {}
    written = 0
    while frames := [f for f in _frames(graph).values() if not f.parent and f.name not in refused]:
        for frame in frames:
            if not frame.nodes <= graph.nodes.keys():
                continue  # it went with another, whose gradients it was part of
            try:
                written += _Loop(live, sizes, frame, set(wanted), names).write(MOST_NODES - written)
            except _Refused as reason:
                refused[frame.name] = str(reason)
            else:
                write_arrays(live, sizes)
                refused.clear()  # what this loop gives may tell how long another is
    closed = [_close(graph, frame, refused[frame.name]) for frame in _frames(graph).values() if not frame.parent]
    live.rewritten()
    leave_out_arrays(live, closed)
    live.rewritten()


def _close(graph: Graph, frame: Frame, reason: str) -> str:
    """Makes of a loop that is not written out one node that nothing can compute, behind all that goes into it; gives its name."""
    entering = dict.fromkeys(r for n in sorted(frame.nodes) if graph.nodes[n].op in _ENTERS for r in graph.nodes[n].inputs)
    kept = [r for r in entering if not ops.is_gradient(graph.nodes[r.node])]  # a loop of control flow v2 also fills lists that only gradients read
    exits = sorted(n for n in frame.nodes if graph.nodes[n].op in _EXITS)
    loop = frame.name.removesuffix("/frame").removesuffix("/while_context")
    loop = f"{loop}/loop" if loop in graph.nodes else loop
    graph.nodes[loop] = Node(loop, "While", kept, [], {"_why": reason})
    for number, name in enumerate(exits):
        graph.nodes[name] = Node(name, "Identity", [Ref(loop, number)])
    _remove(graph, frame.nodes - set(exits))
    return loop


def _remove(graph: Graph, names: set[str]) -> None:
    """Removes nodes, and what was made of them: what leaves a loop leaves through its exits, so that it can only be part of gradients."""
    users = graph.consumers()
    stack = list(names)
    while stack:
        name = stack.pop()
        if graph.nodes.pop(name, None) is not None:
            stack.extend(u.name for u in users.get(name, ()) if graph.nodes.get(u.name) is u)


def _frames(graph: Graph) -> dict[str, Frame]:
    """The loops of the graph that tf.gradients did not make, by name."""
    users: dict[str, list[Node]] = {}
    frames: dict[str, Frame] = {}
    inside: dict[str, str] = {}
    for node in graph.nodes.values():
        if not ops.is_gradient(node):
            for name in {*(r.node for r in node.inputs), *node.controls}:
                users.setdefault(name, []).append(node)
            if node.op in _ENTERS:
                inside[node.name] = node.attrs["frame_name"]
                frames.setdefault(inside[node.name], Frame(inside[node.name]))
    stack = list(inside)
    while stack:
        name = stack.pop()
        here = inside[name]
        if graph.nodes[name].op in _EXITS:
            here = frames[here].parent
            if not here:
                continue  # it leaves for what stands in no loop, or the loop that it stands in is not known yet
        for user in users.get(name, ()):
            if user.name not in inside:
                inside[user.name] = here
                stack.append(user.name)
            elif user.op in _ENTERS and inside[user.name] != here and not frames[inside[user.name]].parent:
                frames[inside[user.name]].parent = here
                stack.extend(n for n, f in inside.items() if f == inside[user.name] and graph.nodes[n].op in _EXITS)
    for name, frame in inside.items():
        _note(graph, frames[frame], graph.nodes[name])
    return frames


def _note(graph: Graph, frame: Frame, node: Node) -> None:
    frame.nodes.add(node.name)
    if node.op == "LoopCond":
        frame.condition = node.inputs[0]
    elif node.op in ops.MERGES and len(node.inputs) == 2:
        entering, back = (graph.nodes[r.node] for r in node.inputs)
        if entering.op in _ENTERS and back.op in _NEXT:
            frame.first[node.name], frame.following[node.name] = entering.inputs[0], back.inputs[0]


@dataclass(slots=True)
class _Step:
    """What the references of a loop are in the step that is being written."""

    given: Mapping[str, Ref]
    entered: Mapping[str, Ref]
    copies: dict[str, str] = field(default_factory=dict)


class _Loop:
    """One loop that stands in no other."""

    def __init__(self, live: Live, sizes: Sizes, frame: Frame, wanted: set[Ref], names: Mapping[Ref, str]):
        self.live = live
        self.sizes = sizes
        self.frame = frame
        self.nodes = live.graph.nodes
        self.wanted = wanted
        self.names = names
        self.enters = {n for n in frame.nodes if self.nodes[n].op in _ENTERS}
        self.switches = {n: self.nodes[n].inputs[0].node for n in frame.nodes if self._hands_on(self.nodes[n])}

    def _hands_on(self, node: Node) -> bool:
        """Whether a node is the Switch of a variable, and not of a condition in the loop."""
        return node.op in ops.SWITCHES and node.inputs[0].node in self.frame.first and self.nodes[node.inputs[1].node].op == "LoopCond"

    def write(self, room: int) -> int:
        """Writes the loop out; gives the number of nodes that it became.

        Raises:
            _Refused: the number of steps depends on data, or is too large.
        """
        if self.frame.condition is None:
            raise _Refused("its condition is not found")
        steps = self._steps(self.frame.condition)
        exits = self._exits()
        needed = self._needed(set(exits.values()), self._variables_behind([self.frame.condition]) if None in steps else set())
        bodies = [self._behind([self.frame.following[m] for m in merges]) for merges in needed]
        body = bodies[-1]
        asked = self._behind([self.frame.condition]) if None in steps else set()
        varying = self._varying(body | asked)
        size = len(body & varying) * len(steps)
        if size > room:
            raise _Refused(f"its {len(steps)} steps of {len(body & varying)} nodes each are too many to write out ({MOST_NODES} nodes at most)")
        entered = {n: self._entering(self.nodes[n].inputs[0]) for n in self.enters}
        current = {m: self._entering(self.frame.first[m]) for m in self.frame.first}
        for name in (body | asked) - varying:  # the same in each step
            node = self.nodes[name]
            self.nodes[name] = Node(name, node.op, [entered.get(r.node, r) for r in node.inputs], [], node.attrs)
        results, goes_on = current, None
        for number, holds in enumerate(steps):
            step = _Step(current, entered)
            following = min(len(steps) - 1 - number, len(needed) - 1)
            self._copy(bodies[following] & varying, f"step_{number}", step)
            current = {**current, **{m: self._now(self.frame.following[m], step) for m in needed[following]}}
            if holds is None:
                question = _Step(step.given, entered)
                self._copy(asked & varying, f"condition_{number}", question)
                goes_on = self._both(number, goes_on, self._now(self.frame.condition, question))
            results = current if goes_on is None else self._chosen(number, goes_on, current, results, set(exits.values()))
        for name in (n for n in self.frame.nodes if self.nodes[n].op in _EXITS):
            taken = name in exits
            self.nodes[name] = Node(name, "Identity", [results[exits[name]]]) if taken else constant_node(name, np.zeros((), np.float32))
        _remove(self.live.graph, {n for n in self.frame.nodes if self.nodes[n].op != "Const"} - set(exits) - ((body | asked) - varying))
        self.live.rewritten()
        self.sizes.rewritten()
        return size

    # ---- how many steps

    def _steps(self, condition: Ref) -> list[bool | None]:
        """For each step True; None where it depends on data whether there is one."""
        try:
            asked = self._followed([condition])
            counters = self._counters(asked)
            counting = self._followed([self.frame.following[m] for m in counters])
        except GraphError:
            raise _Refused("a loop inside of it tells how many steps it has") from None
        values: dict[str, Known] = {m: self.sizes.constant(self.frame.first[m]) for m in counters}
        steps: list[bool | None] = []
        while True:
            holds = self._evaluated(asked, values)(condition)
            if holds is not None and not isinstance(holds, tuple):
                if not holds.all():
                    return steps
                steps.append(True)
            elif len(steps) >= MOST_STEPS or all(v is None for v in values.values()):
                raise _Refused(self._dependence([condition, *(self.frame.first[m] for m in counters)]))
            else:
                steps.append(None)
            if len(steps) > MOST_STEPS:
                raise _Refused(f"it takes more than {MOST_STEPS} steps")
            look = self._evaluated(counting, values)
            values = {m: look(self.frame.following[m]) for m in counters}

    def _dependence(self, refs: Sequence[Ref]) -> str:
        condition = self.frame.condition
        assert condition is not None
        entering = [self.nodes[n].inputs[0] for n in self._followed([condition]) if n in self.enters]
        sources = self.sizes.sources([*entering, *refs[1:]])
        by_rows = ""
        for ref in sources:
            pair = self.sizes.of(ref)
            shape = [None if a != b else a for a, b in zip(pair[0].shape, pair[1].shape, strict=True)] if pair else []
            rows = "?" if None in shape[1:] else "ROWS"
            sizes = ",".join((rows if i == 0 else "STEPS") if size is None else str(size) for i, size in enumerate(shape))
            option = f"--shape {self.names.get(ref, str(ref))}={sizes}"
            if None in shape[1:]:
                return f"its number of steps is a size that the graph leaves open, or depends on data; a size is fixed with {option}"
            if None in shape:
                by_rows = by_rows or f"; a number of rows is fixed with {option}"
        names = ", ".join(self.names.get(r, str(r)) for r in sources)
        numbers = [r for r in sources if self._is_number(r)]
        advice = f"; --set {numbers[0]}=NUMBER gives a number that is fed its value" if numbers else by_rows
        return "its number of steps depends on data" + (f", on {names} or its number of rows{advice}" if names else "")

    def _is_number(self, source: Ref) -> bool:
        """Whether a whole number is fed here, such as a batch size."""
        attrs = self.nodes[source.node].attrs
        return attrs.get("dtype") in ("int32", "int64") and not attrs.get("shape")

    def _followed(self, refs: Sequence[Ref]) -> list[str]:
        """The nodes of a step behind these, followed as inference does, each after what it takes."""

        def inputs(node: Node) -> tuple[Ref, ...]:
            return () if node.name in self.frame.first or node.name in self.enters else self.live.inputs(node)

        return topological(self.live.graph, [self.live.resolve(r).node for r in refs], inputs)

    def _counters(self, asked: Sequence[str]) -> list[str]:
        """The variables that a condition, and the steps that make them, depend on."""
        found = [n for n in asked if n in self.frame.first]
        for merge in found:  # (grows while it is walked)
            found += [n for n in self._followed([self.frame.following[merge]]) if n in self.frame.first and n not in found]
        return found

    def _evaluated(self, order: Sequence[str], values: Mapping[str, Known]) -> Callable[[Ref], Known]:
        """What is known of these nodes in one step, as a function from references."""
        found: dict[Ref, Known] = {}
        for name in order:
            node = self.nodes[name]
            if name in self.frame.first:
                found[Ref(name)] = values.get(name)
            elif name in self.enters:
                found[Ref(name)] = self.sizes.constant(node.inputs[0])
            elif not self.live.is_dynamic(Ref(name)) or name not in self.frame.nodes:
                found[Ref(name)] = self.sizes.constant(Ref(name))
            else:
                results = known_results(node, [found.get(r) for r in self.live.inputs(node)])
                found.update({Ref(name, i): result for i, result in enumerate(results)})
        return lambda ref: found.get(self.live.resolve(ref))

    # ---- what is written

    def _exits(self) -> dict[str, str]:
        """The exits that anything takes, and the variables that they give.

        Lists that only gradients read are pushed to in each step; they are left out.
        """
        taken = {self.live.resolve(r) for r in self.wanted}
        users = self.live.graph.consumers()
        for node in list(self.nodes.values()):
            counts = node.op == "Identity" and node.attrs.get("T") in _COUNTS and not users.get(node.name)  # of steps, which nobody asks
            if node.op != "IdentityN" and not counts and not ops.is_gradient(node) and node.name not in self.frame.nodes:
                taken.update(self.live.resolve(r) for r in node.inputs)
        exits = {n: self.switches.get(self.nodes[n].inputs[0].node, "") for n in self.frame.nodes if self.nodes[n].op in _EXITS}
        pushed = {m for m, ref in self.frame.following.items() if self.nodes[self.live.resolve(ref).node].op == "TensorListPushBack"}
        return {n: m for n, m in exits.items() if m and m not in pushed and Ref(n) in taken}

    def _needed(self, leaving: set[str], asked: set[str]) -> list[list[str]]:
        """The variables to compute in the last step, in the one before it and so on, in the graph's order; the last list is for all others.

        Args:
            leaving: those that are taken from the loop.
            asked: those that tell whether there is another step.
        """
        found = [leaving]
        while True:
            more = found[-1] | asked | self._variables_behind([self.frame.following[m] for m in found[-1]])
            if more == found[-1]:
                return [[m for m in self.frame.first if m in merges] for merges in found]
            found.append(more)

    def _held(self, node: Node) -> list[str]:
        """The nodes of the loop that tell on which side of a condition in it a node stands."""
        return [c for c in node.controls if c in self.frame.nodes and self.live.branches.sides.get(c)]

    def _is_edge(self, name: str) -> bool:
        return name in self.frame.first or name in self.switches or name in self.enters or name not in self.nodes

    def _reached(self, refs: Iterable[Ref]) -> set[str]:
        """The nodes behind these within a step, with the variables and entering values where it begins."""
        seen: set[str] = set()
        stack = [r.node for r in refs]
        while stack:
            name = stack.pop()
            if name not in seen:
                seen.add(name)
                if not self._is_edge(name):
                    stack.extend(r.node for r in self.nodes[name].inputs)
                    stack.extend(self._held(self.nodes[name]))
        return seen

    def _behind(self, refs: Iterable[Ref]) -> set[str]:
        return {n for n in self._reached(refs) if not self._is_edge(n)}

    def _variables_behind(self, refs: Iterable[Ref]) -> set[str]:
        return {self.switches.get(n, n) for n in self._reached(refs)} & self.frame.first.keys()

    def _varying(self, names: set[str]) -> set[str]:
        """Those of a step's nodes that may give something else in each step."""
        users: dict[str, list[str]] = {}
        found = []
        for name in names:
            node = self.nodes[name]
            before = [*(r.node for r in node.inputs), *self._held(node)]
            for other in before:
                users.setdefault(other, []).append(name)
            edge = any(other in self.frame.first or other in self.switches for other in before)
            if edge or ops.is_random(node.op) or ops.is_assignment(node.op) or node.op in ops.LOOPS:
                found.append(name)
        seen = set(found)
        while found:
            for user in users.get(found.pop(), ()):
                if user not in seen:
                    seen.add(user)
                    found.append(user)
        return seen

    def _copy(self, names: set[str], kind: str, step: _Step) -> None:
        step.copies = {n: f"{n}/{kind}" for n in names}
        for name in sorted(names):
            node, copy = self.nodes[name], step.copies[name]
            attrs = {**node.attrs, "frame_name": f"{node.attrs['frame_name']}/{kind}"} if node.op in _ENTERS else node.attrs
            held = [step.copies[c] for c in self._held(node) if c in step.copies]
            self.nodes[copy] = Node(copy, node.op, [self._now(r, step) for r in node.inputs], held, attrs)
        self.live.graph.in_steps.update(step.copies.values())

    def _now(self, ref: Ref, step: _Step) -> Ref:
        """What a reference of the loop is in a step."""
        if (merge := self.switches.get(ref.node, ref.node)) in step.given:
            return step.given[merge]
        if ref.node in step.entered:
            return step.entered[ref.node]
        return Ref(step.copies[ref.node], ref.output) if ref.node in step.copies else ref

    def _entering(self, ref: Ref) -> Ref:
        """What goes into the loop: as a constant where it is known, so that it can decide conditions in the loop."""
        if not self.live.is_dynamic(ref) or (value := self.sizes.constant(ref)) is None:
            return ref
        name = f"{ref.node}/known_{ref.output}"
        self.nodes[name] = constant_node(name, value)
        return Ref(name)

    def _both(self, number: int, before: Ref | None, condition: Ref) -> Ref:
        """Whether the condition held until this step, and still does."""
        if before is None:
            return condition
        name = f"{self.frame.name}/goes_on_{number}"
        self.nodes[name] = Node(name, "LogicalAnd", [before, condition])
        return Ref(name)

    def _chosen(self, number: int, condition: Ref, new: Mapping[str, Ref], old: Mapping[str, Ref], merges: set[str]) -> dict[str, Ref]:
        """The result of each of these variables if the loop may end before this step."""
        chosen = {}
        for merge in merges:
            name = f"{merge}/result_{number}"
            if new[merge] != old[merge]:
                self.nodes[name] = Node(
                    name, "SelectV2", [condition, new[merge], old[merge]], [], {"T": self.nodes[merge].attrs.get("T"), "_ends": True}
                )
            chosen[merge] = Ref(name) if new[merge] != old[merge] else old[merge]
        return chosen
