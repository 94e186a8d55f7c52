"""The part of a graph that inference runs.

Every reference is followed through identities, decided conditions and what was put in place of training's parts.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np

from bnexport.errors import AmbiguousNetwork, BnexportError, GraphError, TensorNotFound, UnsupportedOps
from bnexport.graph import ops
from bnexport.graph.branches import Branches, Flag, find_branches, find_flags
from bnexport.graph.graphdef import Graph, Node, Ref, constant_node, topological
from bnexport.graph.variables import Variables
from bnexport.kernels import OPS
from bnexport.kernels.table import NDArray, evaluate
from bnexport.program import Array, InMemory

_KEPT_BYTES = 1 << 20  # constants up to this size are kept once evaluated; larger ones are evaluated again when they are written


class Live:
    """A graph as inference sees it.

    Attributes:
        graph: the nodes; rewriting adds to them and never removes.
        fixed: values put in place of outputs (flags, what the user set).
        replaced: references put in place of others (dropout, batch statistics).
        flags: what was decided of conditions, for the report.
    """

    def __init__(self, graph: Graph, variables: Variables, given: dict[Ref, Any]):
        self.graph = graph
        self.variables = variables
        self.fixed: dict[Ref, NDArray] = {ref: _as_declared(graph.nodes[ref.node], value) for ref, value in given.items()}
        self.replaced: dict[Ref, Ref] = {}
        self.flags: list[Flag] = []
        self.branches: Branches = find_branches(graph)
        self.sources: set[str] = set()
        self._resolved: dict[Ref, Ref] = {}
        self._values: dict[Ref, NDArray] = {}
        self._dynamic: dict[str, bool] = {}
        self._predicates: dict[Ref, bool | None] = {}
        self.flags = find_flags(self.branches, self._assume, self.fixed, self._actual)
        for flag in self.flags:
            self.fixed[Ref(flag.node)] = np.asarray(flag.value)
        self._forget()

    def _forget(self) -> None:
        self._resolved.clear()
        self._values.clear()
        self._dynamic.clear()
        self._predicates.clear()

    def _assume(self, predicate: Ref, values: dict[Ref, Any]) -> NDArray:
        """A value under these values of flags alone."""
        before = self.fixed
        self.fixed = {ref: np.asarray(value) for ref, value in values.items()}
        self._forget()
        try:
            return self.value(predicate)
        finally:
            self.fixed = before
            self._forget()

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
        return Ref(node.name)

    def cut(self, refs: Iterable[Ref]) -> None:
        """Makes these references the network's inputs: what computes them is left out."""
        self.sources.update(ref.node for ref in refs)
        self._forget()

    # ---- following

    def resolve(self, ref: Ref) -> Ref:
        """The reference that gives this value in inference, with nothing that only passes values on in between."""
        chain = []
        while ref not in self._resolved:
            chain.append(ref)
            following = self._step(ref)
            if following == ref:
                self._resolved[ref] = ref
                break
            ref = following
        end = self._resolved[ref]
        for passed in chain:
            self._resolved[passed] = end
        return end

    def _step(self, ref: Ref) -> Ref:
        if ref in self.replaced:
            return self.replaced[ref]
        node = self.graph.node(ref.node)
        if node.name in self.sources:
            return ref
        if ref in self.fixed:
            name = f"{ref.node}/value" if ref.output == 0 else f"{ref.node}/value_{ref.output}"
            self.graph.nodes[name] = constant_node(name, self.fixed[ref])
            return Ref(name)
        if node.op == "IdentityN":
            return node.inputs[ref.output]
        if node.op == "PlaceholderWithDefault":
            return ref if self.is_input_with_default(node) else node.inputs[0]
        if (node.op in ops.PASS_THROUGH or node.op in ops.SWITCHES) and node.inputs:
            return node.inputs[0]
        if node.op in ops.SELECTS:
            chosen = self._known(node.inputs[0])
            if chosen is not None and chosen.size == 1:
                return node.inputs[1] if chosen.item() else node.inputs[2]
        if node.op in ops.BATCH_NORMS and ref.output in (1, 2) and not ops.in_training_mode(node):
            return node.inputs[2 + ref.output]  # at inference the moving statistics are handed through
        if node.op in ops.MERGES:
            alive = [r for r in node.inputs if not self._is_dead(r)]
            if len(alive) == 1 and ref.output == 0:
                return alive[0]
        return ref

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
        if predicate not in self._predicates:
            self._predicates[predicate] = None  # stands while it is computed: a predicate that depends on itself has no value
            value = self._known(predicate)
            if value is not None and value.size == 1:
                self._predicates[predicate] = bool(value.item())
        return self._predicates[predicate]

    def _known(self, ref: Ref) -> NDArray | None:
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
        flags = sorted({self.resolve(p).node for p in self.branches.predicates_at(merge)})
        names = " or ".join(f"--set {name}=true|false" for name in flags) or "--output"
        return (
            f"{self.graph.source}: nothing in the graph tells which branch of the condition at {merge.name!r} is inference's; "
            f"its predicate comes from {', '.join(flags) or 'a computed value'}; choose with {names}"
        )

    def inputs(self, node: Node) -> list[Ref]:
        """A node's data inputs, followed."""
        if node.name in self.sources:
            return []
        return [self.resolve(ref) for ref in node.inputs]

    # ---- what is constant

    def is_dynamic(self, ref: Ref) -> bool:
        """Whether a value depends on the network's input, on random numbers or on a condition that is not decided."""
        start = self.resolve(ref)
        if start.node not in self._dynamic:
            for name in topological(self.graph, [start.node], self._inputs_unless_known):
                node = self.graph.nodes[name]
                self._dynamic[name] = (
                    name in self.sources
                    or ops.is_source(node)
                    or node.op == "PlaceholderWithDefault"
                    or ops.is_random(node.op)
                    or ops.is_assignment(node.op)
                    or node.op in ops.MERGES
                    or node.op in ops.LOOPS
                    or any(self._dynamic[r.node] for r in self.inputs(node))
                )
        return self._dynamic[start.node]

    def _inputs_unless_known(self, node: Node) -> list[Ref]:
        if node.name in self._dynamic or node.op in ops.LOOPS or ops.is_source(node):
            return []
        return self.inputs(node)

    def value(self, ref: Ref) -> NDArray:
        """A constant's value, floating point in float64.

        Raises:
            AmbiguousNetwork: it depends on a flag that nobody set.
            UnsupportedOps: an operator on the way has no kernel.
        """
        start = self.resolve(ref)
        if start in self._values:
            return self._values[start]
        order = topological(self.graph, [start.node], lambda n: [] if (n.name, 0) in self._values else self.inputs(n))
        values: dict[Ref, NDArray] = {}
        for name in order:
            node = self.graph.nodes[name]
            if Ref(name) in self._values:
                continue
            operands = [values[r] if r in values else self._values[r] for r in self.inputs(node)]
            for i, result in enumerate(self._compute(node, operands)):
                where = self._values if result.nbytes <= _KEPT_BYTES else values
                where[Ref(name, i)] = result
        return values[start] if start in values else self._values[start]

    def _compute(self, node: Node, operands: list[NDArray]) -> Iterable[NDArray]:
        if node.op == "Const":
            return [_widen(node.attrs["value"])]
        if node.op in ops.VARIABLES:
            return [_widen(self.variables.value(node))]
        if node.op in ("IsVariableInitialized", "VarIsInitializedOp"):
            return [np.asarray(True)]
        if ops.is_source(node) or node.op == "PlaceholderWithDefault":
            raise AmbiguousNetwork(f"{self.graph.source}: {node.name!r} ({node.op}) has no value; give it one with --set {node.name}=VALUE")
        if node.op not in OPS:
            raise UnsupportedOps(f"{self.graph.source}: bnexport has no operator {node.op}, which the node {node.name!r} uses to compute a constant")
        if node.op == "Cast" and operands[0].dtype.kind == "f" and np.dtype(_cast_target(node)).kind == "f":
            return operands
        with np.errstate(all="ignore"):
            return [_widen(result) for result in evaluate(OPS[node.op], node.attrs, operands)]

    def array(self, ref: Ref) -> Array:
        """A constant as an array that is computed, or read, when its pieces are asked for; a variable keeps its own dtype."""
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
        users: dict[Ref, list[Node]] = {}
        for node in list(self.graph.nodes.values()):
            if node.op in ops.PASS_THROUGH or node.op in ops.SWITCHES or node.op in ops.MERGES or node.op == "IdentityN" or self.is_dead(node.name):
                continue
            if node.op in ops.SELECTS and Ref(node.name) not in self.replaced and self.resolve(Ref(node.name)) != Ref(node.name):
                continue  # a flag has chosen for it
            for ref in dict.fromkeys(self.inputs(node)):
                users.setdefault(ref, []).append(node)
        return users


def _as_declared(node: Node, value: Any) -> NDArray:
    """A value that the user gave, in the dtype that the graph declares; a float in a float's place may be written as an integer."""
    declared = str(node.attrs.get("dtype", node.attrs.get("DstT", node.attrs.get("T", ""))))
    array = np.asarray(value)
    if declared == "bool":
        return array.astype(bool)
    return array.astype(np.float64) if declared in ("float32", "float64", "float16", "bfloat16") else array


def _cast_target(node: Node) -> str:
    target = str(node.attrs["DstT"])
    return "float32" if target == "bfloat16" else target


def _widen(array: NDArray) -> NDArray:
    """Floating point as float64 (ml_dtypes' kinds, such as bfloat16, too); other arrays as they are."""
    if array.dtype.kind == "f":
        return array.astype(np.float64, copy=False)
    return array.astype(np.float64) if array.dtype.kind == "V" and array.dtype.name.startswith(("bfloat", "float")) else array
