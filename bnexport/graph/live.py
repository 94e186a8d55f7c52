"""The part of a graph that inference runs.

Every reference is followed through identities, decided conditions and what was put in place of training's parts.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np

from bnexport.errors import AmbiguousNetwork, BnexportError, GraphError, TensorNotFound, UnsupportedOps
from bnexport.graph import ops
from bnexport.graph.axes import noted_shape
from bnexport.graph.branches import Branches, find_branches
from bnexport.graph.flags import Flag, find_flags, flags_of
from bnexport.graph.graphdef import Graph, Node, Ref, constant_node, topological
from bnexport.graph.names import as_array, as_declared
from bnexport.graph.variables import Variables
from bnexport.kernels import OPS
from bnexport.kernels.table import NDArray, evaluate, ieee
from bnexport.program import Array, InMemory

_KEPT_BYTES = 1 << 20  # constants up to this size are kept once evaluated; larger ones are evaluated again when they are written
STEPS = frozenset(
    {"Floor", "Ceil", "Round", "Rint", "Sign", "Cast", "Equal", "NotEqual", "Greater", "GreaterEqual", "Less", "LessEqual", "FloorDiv", "FloorMod",
     "Mod", "TruncateDiv", "TruncateMod", "ArgMax", "ArgMin", "TopK", "TopKV2", "Range", "IsInf", "IsNan", "IsFinite", "FakeQuantWithMinMaxArgs",
     "FakeQuantWithMinMaxVars", "FakeQuantWithMinMaxVarsPerChannel", "Bucketize", "InTopK", "InTopKV2", "LowerBound", "UpperBound"}
)  # fmt: skip
"""Operators that jump: where float32 says 0.7 * 10 is 7 and float64 that it is a little less, they give something else altogether."""


class _Known:
    """What has been found out of a graph; it holds until the graph, or what is put in place of its parts, changes."""

    __slots__ = ("consumers", "dynamic", "inputs", "narrow", "predicates", "resolved", "values")

    def __init__(self) -> None:
        self.resolved: dict[Ref, Ref] = {}
        self.inputs: dict[str, tuple[Ref, ...]] = {}
        self.values: dict[Ref, NDArray] = {}
        self.narrow: dict[Ref, NDArray] = {}
        self.dynamic: dict[str, bool] = {}
        self.predicates: dict[Ref, bool | None] = {}
        self.consumers: dict[Ref, list[Node]] | None = None


class Live:
    """A graph as inference sees it.

    Attributes:
        graph: the nodes; rewriting adds to them and never removes.
        fixed: values put in place of outputs (flags, what the user set).
        replaced: references put in place of others (dropout, batch statistics).
        switched: those of them that were dropouts whose rate is fed or 0, which a network for training and inference alike has.
        flags: what was decided of conditions, for the report.
        normalising: what batch statistics are made of that stay in inference though their averages are kept: they are no losses.
    """

    def __init__(self, graph: Graph, variables: Variables, given: dict[Ref, Any]):
        self.graph = graph
        self.variables = variables
        self.fixed: dict[Ref, NDArray] = {ref: as_declared(graph, ref, value) for ref, value in given.items()}
        self.replaced: dict[Ref, Ref] = {}
        self.switched: set[Ref] = set()
        self.normalising: set[str] = set()
        self.flags: list[Flag] = []
        self.branches: Branches = find_branches(graph)
        self.sources: set[str] = set()
        self._known = _Known()
        self._constants = "value"  # what the nodes of fixed values are called
        self.flags = find_flags(self.branches, self._assume, self.fixed, self._actual)
        for flag in self.flags:
            shape = graph.nodes[flag.node].attrs.get("shape") if flag.op in ops.VARIABLES else None
            self.fixed[Ref(flag.node)] = as_array(flag.value).reshape(shape or ())  # (a variable of shape [1] may be a weight as well)
        self._forget()

    def _forget(self) -> None:
        self._known = _Known()

    def _assume(self, predicate: Ref, values: dict[Ref, Any]) -> NDArray:
        """A value under these values of flags alone."""
        before = self.fixed, self._known, self._constants
        self.fixed = {ref: np.asarray(value) for ref, value in values.items()}
        self._known, self._constants = _Known(), "assumed"
        try:
            return self.value(predicate)
        finally:
            self.fixed, self._known, self._constants = before

    def assuming(self, values: dict[Ref, Any], ref: Ref) -> NDArray:
        """A value as it would be if these references had these values as well.

        Raises:
            BnexportError: as `value` does.
        """
        return self._assume(ref, {**self.fixed, **values})

    def _actual(self, node: Node) -> Any:
        """The value that a flag has by itself: a constant's, a default's, a saved variable's; None for a placeholder or what is no scalar."""
        value: NDArray | None = None
        if node.op == "Const":
            value = node.attrs["value"]
        elif node.op == "PlaceholderWithDefault":
            try:
                value = self.value(node.inputs[0])
            except BnexportError:
                return None
        elif node.op in ops.VARIABLES and self.variables.holds(node):
            value = self.variables.value(node)
        return value.item() if value is not None and value.size == 1 else None

    # ---- rewriting

    def replace(self, ref: Ref, by: Ref) -> None:
        """Puts one reference in place of another wherever it is taken from now on."""
        self.replaced[ref] = by
        self._forget()

    def rewritten(self) -> None:
        """Has to be called when nodes of the graph were changed in place."""
        self.branches = find_branches(self.graph)
        self._forget()

    def add(self, node: Node) -> Ref:
        """Adds a node of our own making; its name must be new."""
        if node.name in self.graph.nodes:
            raise GraphError(f"{self.graph.source}: the graph already has a node {node.name!r}")
        self.graph.nodes[node.name] = node
        self._known.consumers = None
        return Ref(node.name)

    def put(self, nodes: Iterable[Node]) -> None:
        """Puts nodes in the place of those of the same name, on whose sides of conditions they stand."""
        self.graph.nodes.update({node.name: node for node in nodes})
        self._forget()

    def cut(self, refs: Iterable[Ref]) -> None:
        """Makes these references the network's inputs: what computes them is left out."""
        self.sources.update(ref.node for ref in refs)
        self._forget()

    # ---- following

    def resolve(self, ref: Ref) -> Ref:
        """The reference that gives this value in inference, with nothing that only passes values on in between."""
        resolved = self._known.resolved
        chain = []
        while ref not in resolved:
            chain.append(ref)
            following = self._step(ref)
            if following == ref:
                resolved[ref] = ref
                break
            ref = following
        end = resolved[ref]
        for passed in chain:
            resolved[passed] = end
        return end

    def _step(self, ref: Ref) -> Ref:
        if ref in self.replaced:
            return self.replaced[ref]
        node = self.graph.node(ref.node)
        if node.name in self.sources:
            return ref
        if ref in self.fixed:
            name = f"{ref.node}/{self._constants}" if ref.output == 0 else f"{ref.node}/{self._constants}_{ref.output}"
            self.graph.nodes[name] = constant_node(name, self.fixed[ref])
            return Ref(name)
        if node.op == "IdentityN":
            return node.inputs[ref.output]
        if node.op == "PlaceholderWithDefault":
            return ref if self.is_input_with_default(node) else node.inputs[0]
        if (node.op in ops.PASS_THROUGH or node.op in ops.SWITCHES) and node.inputs:
            return node.inputs[0]
        if node.op in ops.SELECTS:
            chosen = self._value_if_known(node.inputs[0])
            if chosen is not None and chosen.size == 1:
                taken = node.inputs[1] if chosen.item() else node.inputs[2]
                return ref if self._is_spread(node, taken) else taken
        if node.op in ops.BATCH_NORMS and ref.output in (1, 2) and not ops.in_training_mode(node):
            return node.inputs[2 + ref.output]  # at inference the moving statistics are handed through
        if node.op == "OptionalGetValue":  # what a branch of control flow v2 kept for its gradient
            kept = self.graph.node(self.resolve(node.inputs[0]).node)
            return kept.inputs[ref.output] if kept.op == "OptionalFromValue" else ref
        if node.op in ops.MERGES:
            alive = [r for r in node.inputs if not self._is_dead(r)]
            if len(alive) == 1 and ref.output == 0:
                return alive[0]
        return ref

    def _is_spread(self, select: Node, taken: Ref) -> bool:
        """Whether a SelectV2 repeats what it takes to the shape of what it leaves, as far as the graph tells. (A number needs no repeating.)"""
        whole, part = (noted_shape(self.graph, ref) for ref in (Ref(select.name), taken))
        if select.op != "SelectV2" or whole is None or not part:
            return False
        return len(part) < len(whole) or any(p == 1 and w != 1 for p, w in zip(part, whole, strict=False))

    def is_input_with_default(self, node: Node) -> bool:
        """Whether a placeholder_with_default is a data input: one with a batch (a scalar is a setting, whose default then holds)."""
        shape = node.attrs.get("shape")
        return shape is None or any(size is None for size in shape) or (len(shape) > 1)

    def _is_dead(self, ref: Ref) -> bool:
        return any(self._predicate(p) not in (None, bool(v)) for p, v in self.branches.sides_at(ref))

    def is_dead(self, name: str) -> bool:
        """Whether a node stands on a side of a condition that inference does not take."""
        return any(self._predicate(p) not in (None, bool(v)) for p, v in self.branches.sides.get(name, ()))

    def is_undecided(self, name: str) -> bool:
        """Whether it is open if a node stands on the side of a condition that inference takes."""
        return any(self._predicate(p) is None for p, _ in self.branches.sides.get(name, ()))

    def is_decided(self, switch: Node) -> bool:
        """Whether the predicate of a Switch has a value."""
        return self._predicate(self.branches.predicate_of(switch)) is not None

    def _predicate(self, predicate: Ref) -> bool | None:
        predicates = self._known.predicates
        if predicate not in predicates:
            predicates[predicate] = None  # stands while it is computed: a predicate that depends on itself has no value
            value = self._value_if_known(predicate)
            if value is not None and value.size == 1:
                predicates[predicate] = bool(value.item())
        return predicates[predicate]

    def _value_if_known(self, ref: Ref) -> NDArray | None:
        """A condition's value where it has one.

        None where it depends on data, or on what bnexport does not have: a saver's file names, another model's variables.
        """
        if self.is_dynamic(ref):
            return None
        try:
            return self.value(ref)
        except (UnsupportedOps, TensorNotFound):
            return None

    def undecided(self, merge: Node) -> str:
        """What to tell the user of a condition whose branches are both possible."""
        predicates = [p for p in self.branches.predicates_at(merge) if self._predicate(p) is None]
        fed = [flags_of(self.graph, p) - {ref.node for ref in self.fixed} for p in predicates]
        flags = sorted({f for names, p in zip(fed, predicates, strict=True) for f in names or {self.resolve(p).node}})
        values = {"bool": "true|false", "object": "'\"TEXT\"'"}
        names = " or ".join(f"--set {name}={values.get(self.graph.nodes[name].attrs.get('dtype', 'bool'), 'VALUE')}" for name in flags) or "--output"
        return (
            f"{self.graph.source}: nothing in the graph tells which branch of the condition at {merge.name!r} is inference's; "
            f"its predicate comes from {', '.join(flags) or 'a computed value'}; choose with {names}"
            f"{'' if all(fed) else ', or, where data decides, name a tensor behind the condition with --input'}"
        )

    def inputs(self, node: Node) -> tuple[Ref, ...]:
        """A node's data inputs, followed; none of a node through which data enters, be it out of a queue, an iterator or in a default's place."""
        known = self._known.inputs
        if node.name not in known:
            entry = node.name in self.sources or ops.is_source(node) or (node.op == "PlaceholderWithDefault" and self.is_input_with_default(node))
            known[node.name] = () if entry else tuple([self.resolve(ref) for ref in node.inputs])
        return known[node.name]

    # ---- what is constant

    def is_dynamic(self, ref: Ref) -> bool:
        """Whether a value depends on the network's input, on random numbers or on a condition that is not decided."""
        start = self.resolve(ref)
        dynamic = self._known.dynamic
        if start.node not in dynamic:
            for name in topological(self.graph, [start.node], self._inputs_unless_known):
                node = self.graph.nodes[name]
                dynamic[name] = (
                    name in self.sources
                    or ops.is_source(node)
                    or node.op == "PlaceholderWithDefault"
                    or ops.is_random(node.op)
                    or ops.is_assignment(node.op)
                    or node.op in ops.MERGES
                    or node.op in ops.LOOPS
                    or any(dynamic[r.node] for r in self.inputs(node))
                )
        return dynamic[start.node]

    def _inputs_unless_known(self, node: Node) -> tuple[Ref, ...]:
        if node.name in self._known.dynamic or node.op in ops.LOOPS:
            return ()
        return self.inputs(node)

    def value(self, ref: Ref) -> NDArray:
        """A constant's value, floating point in float64; but what jumps jumps where it does in the graph's own dtype.

        Raises:
            AmbiguousNetwork: it depends on a flag that nobody set.
            UnsupportedOps: an operator on the way has no kernel.
        """
        return self._evaluated(ref, self._known.values, wide=True)

    def as_rounded(self, ref: Ref) -> NDArray:
        """A constant's value as `value` gives it, but rounded on the way wherever TensorFlow rounds it."""
        return _widen(self._evaluated(ref, self._known.narrow, wide=False))

    def _evaluated(self, ref: Ref, kept: dict[Ref, NDArray], *, wide: bool) -> NDArray:
        """A constant's value in float64, or in the dtypes of the graph; `kept` are those that are known already."""
        start = self.resolve(ref)
        if start in kept:
            return kept[start]
        order = topological(self.graph, [start.node], lambda n: [] if (n.name, 0) in kept else self.inputs(n))
        values: dict[Ref, NDArray] = {}
        for name in order:
            node = self.graph.nodes[name]
            if Ref(name) in kept:
                continue
            refs = self.inputs(node)
            operands = [values[r] if r in values else kept[r] for r in refs]
            if wide and node.op in STEPS and not _only_rounds(node, operands) and any(o.dtype.kind == "f" for o in operands):
                operands = [self._evaluated(r, self._known.narrow, wide=False) for r in refs]
            if wide and _only_rounds(node, operands):
                results = operands
            else:
                with ieee():  # a damaged NaN is one that NumPy warns of
                    results = [_widen(r) if wide else r for r in self._compute(node, operands)]
            where = kept if sum(result.nbytes for result in results) <= _KEPT_BYTES else values
            where.update({Ref(name, i): result for i, result in enumerate(results)})
        return values[start] if start in values else kept[start]

    def _compute(self, node: Node, operands: list[NDArray]) -> Iterable[NDArray]:
        if node.op == "Const":
            return [node.attrs["value"]]
        if node.op in ops.VARIABLES:
            return [self.variables.value(node)]
        if node.op in ops.ASK_WHETHER_INITIALISED:
            return [np.asarray(True)]
        if ops.is_source(node) or node.op == "PlaceholderWithDefault":
            raise AmbiguousNetwork(f"{self.graph.source}: {node.name!r} ({node.op}) has no value; give it one with --set {node.name}=VALUE")
        if node.op not in OPS:
            raise UnsupportedOps(f"{self.graph.source}: bnexport has no operator {node.op}, which the node {node.name!r} uses to compute a constant")
        try:
            return evaluate(OPS[node.op], node.attrs, operands)
        except (IndexError, ValueError) as cause:  # NumPy's words for operands that do not fit: a value assumed or set of another shape
            shapes = ", ".join(str(list(o.shape)) for o in operands)
            raise GraphError(
                f"{self.graph.source}: the node {node.name!r} ({node.op}) cannot take operands of the shapes {shapes}: {cause}"
            ) from cause

    def array(self, ref: Ref) -> Array:
        """A constant as an array that is computed, or read, when it is read; a variable keeps its own dtype."""
        resolved = self.resolve(ref)
        node = self.graph.nodes[resolved.node]
        if node.op in ops.VARIABLES:
            return self.variables.array(node)
        if node.op == "Const":
            return InMemory(node.attrs["value"])
        return InMemory(self.value(resolved))

    def variables_behind(self, ref: Ref) -> list[str]:
        """The names of the variables that a constant is computed from, nearest first."""
        order = topological(self.graph, [self.resolve(ref).node], self.inputs)
        return [name for name in reversed(order) if self.graph.nodes[name].op in ops.VARIABLES]

    def passed(self, ref: Ref) -> list[str]:
        """The nodes from a reference on that only pass on what they take; none in front of the last that something was put in place of."""
        names: list[str] = []
        while (following := self._step(ref)) != ref:
            names = [] if ref in self.replaced else [*names, ref.node]
            ref = following
        return names

    def used_replacements(self, order: Iterable[str]) -> set[Ref]:
        """Which of `replaced` are really passed when the nodes of `order` take their inputs."""
        used = set()
        for name in order:
            for ref in self.graph.nodes[name].inputs:
                following = self._step(ref)
                while following != ref:
                    if ref in self.replaced:
                        used.add(ref)
                    ref, following = following, self._step(following)
        return used

    def consumers(self) -> dict[Ref, list[Node]]:
        """For each reference, the nodes of the inference graph that take it; what only passes values on is left out."""
        if self._known.consumers is None:
            self._known.consumers = self._consumers()
        return self._known.consumers

    def _consumers(self) -> dict[Ref, list[Node]]:
        users: dict[Ref, list[Node]] = {}
        for node in list(self.graph.nodes.values()):
            if node.op in ops.PASS_THROUGH or node.op in ops.SWITCHES or node.op in ops.MERGES or node.op == "IdentityN" or self.is_dead(node.name):
                continue
            if node.op in ops.SELECTS and Ref(node.name) not in self.replaced and self.resolve(Ref(node.name)) != Ref(node.name):
                continue  # a flag has chosen for it
            for ref in dict.fromkeys(self.inputs(node)):
                users.setdefault(ref, []).append(node)
        return users


def _only_rounds(node: Node, operands: list[NDArray]) -> bool:
    """Whether a node turns floating point into floating point of another size."""
    return node.op == "Cast" and operands[0].dtype.kind == "f" and str(node.attrs["DstT"]) in ("float16", "bfloat16", "float32", "float64")


def _widen(array: NDArray) -> NDArray:
    """Floating point as float64 (ml_dtypes' kinds, such as bfloat16, too); other arrays as they are."""
    if array.dtype.kind == "f":
        return array.astype(np.float64, copy=False)
    return array.astype(np.float64) if array.dtype.kind == "V" and array.dtype.name.startswith(("bfloat", "float")) else array
