"""What a network's inputs and outputs are, found from a graph that also holds its training.

A *weight* is what a variable of more than one element becomes without being summed up. An input is a source of data that is combined with a weight somewhere
downstream; a label, a reward or a learning rate never is. The network is everything that depends on inputs and weights but on no other source, so losses
and metrics fall away with the labels they compare to. Its outputs are its ends. Three kinds of ends are stepped back from: reductions over the batch (losses without
labels, metrics), decisions (argmax, comparisons) and the logarithm of a likelihood.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from bnexport.errors import AmbiguousNetwork, GraphError
from bnexport.graph import ops
from bnexport.graph.graphdef import Node, Ref, topological
from bnexport.graph.live import Live

_SAVING = frozenset({"SaveV2", "Save", "SaveSlices", "QueueEnqueueManyV2", "QueueEnqueueV2", "QueueEnqueue", "QueueEnqueueMany"})
_DECISIONS = frozenset(
    {"ArgMax", "ArgMin", "Equal", "NotEqual", "Greater", "GreaterEqual", "Less", "LessEqual", "InTopK", "InTopKV2", "TopK", "TopKV2", "Round", "Rint",
     "OneHot", "Multinomial", "LogicalAnd", "LogicalOr", "LogicalNot", "Where", "IsNan", "IsInf", "IsFinite", "All", "Any"}
)  # fmt: skip
_SHAPES_ONLY = frozenset({"Shape", "ShapeN", "Size", "Rank", "ZerosLike", "OnesLike"})
_ARITHMETIC = frozenset(
    {"Sub", "Add", "AddV2", "Mul", "Square", "SquaredDifference", "Pow", "Abs", "Neg", "Log", "Log1p", "RealDiv", "Div", "Maximum", "Minimum", "Sum", "Mean",
     "Sqrt", "Exp", "Select", "SelectV2", "ClipByValue", "Cast"}
)  # fmt: skip
_LISTED = 12  # candidates shown in an error


@dataclass(slots=True)
class Endpoints:
    """The inputs and outputs of a network: the name that users see, and the reference in the graph."""

    inputs: dict[str, Ref]
    outputs: dict[str, Ref]
    alternatives: list[str] = field(default_factory=list)


def find_endpoints(live: Live) -> Endpoints:
    """The inputs and outputs of the one network in the graph.

    Raises:
        AmbiguousNetwork: there is none, or more than one.
    """
    search = _Search(live)
    groups = search.networks()
    if not groups:
        raise AmbiguousNetwork(
            f"{live.graph.source}: no output was found that depends on data and on saved variables; name one with --output. "
            f"The graph's ends are {_listing(search.ends())}"
        )
    if len(groups) > 1:
        lines = "\n".join(f"  --output {' --output '.join(map(str, g))}" for g in groups[:_LISTED])
        more = f"\n  and {len(groups) - _LISTED} more" if len(groups) > _LISTED else ""
        raise AmbiguousNetwork(f"{live.graph.source}: the graph holds {len(groups)} networks that share no layer; choose one of\n{lines}{more}")
    outputs = {str(search.authors_name(ref)): ref for ref in groups[0]}
    inputs = {str(ref): ref for ref in sources_of(live, outputs.values())}
    return Endpoints(inputs, outputs, [str(r) for r in search.stepped_back if r not in groups[0]])


def _listing(names: Iterable[object]) -> str:
    texts = [str(n) for n in names]
    return ", ".join(texts[:_LISTED]) + (f" and {len(texts) - _LISTED} more" if len(texts) > _LISTED else "") if texts else "none"


def sources_of(live: Live, outputs: Iterable[Ref]) -> list[Ref]:
    """The references through which data enters the computation of `outputs`, in the order of their names in the graph."""
    order = topological(live.graph, [live.resolve(r).node for r in outputs], live.inputs)
    entered: dict[Ref, None] = {}
    wanted = {live.resolve(r) for r in outputs}
    for name in order:
        for ref in live.inputs(live.graph.nodes[name]):
            wanted.add(ref)
    for ref in wanted:
        node = live.graph.nodes[ref.node]
        if ref.node in live.sources or ops.is_source(node) or (node.op == "PlaceholderWithDefault" and ref.node in order):
            entered[ref] = None
    position = {name: i for i, name in enumerate(live.graph.nodes)}
    return sorted(entered, key=lambda r: (position[r.node], r.output))


class _Search:
    def __init__(self, live: Live):
        self.live = live
        self.users = live.consumers()
        self.stepped_back: list[Ref] = []
        self._weights: dict[str, bool] = {}
        self._depends: dict[str, int] = {}  # a bit for each source
        self._touched: set[str] = set()
        self._weighted: set[str] = set()
        self._sources: dict[Ref, int] = {}
        self._updates: set[str] = set()
        self._walk()
        inputs = 0
        for name in self._weighted:
            inputs |= self._depends[name]
        self.network = {name for name in self._touched if self._depends[name] & ~inputs == 0}
        self.losses = self._losses()
        self.network -= self._downstream(self.losses)

    def _walk(self) -> None:
        """Follows data from all sources forward, noting for each node what it depends on and whether weights have touched it."""
        live = self.live
        start = [n for n in live.graph.nodes.values() if n.name in live.sources or ops.is_source(n) or (n.op == "PlaceholderWithDefault" and live.resolve(Ref(n.name)) == Ref(n.name))]
        reached: dict[str, Node] = {}
        stack = []
        by_node: dict[str, list[Ref]] = {}
        for ref in self.users:
            by_node.setdefault(ref.node, []).append(ref)
        for node in start:
            for ref in by_node.get(node.name, ()):
                self._sources[ref] = 1 << len(self._sources)
            stack.append(node.name)
        while stack:
            name = stack.pop()
            for ref in by_node.get(name, ()):
                for user in self.users[ref]:
                    if user.name not in reached and not self._is_training(user):
                        reached[user.name] = user
                        stack.append(user.name)
        inside = {n: [r for r in live.inputs(node) if r.node in reached or r in self._sources] for n, node in reached.items()}
        for name in topological(live.graph, list(reached), lambda n: [r for r in inside.get(n.name, ()) if r.node in reached]):
            if name not in reached:
                continue
            node = reached[name]
            mask = 0
            touched = False
            for ref in inside[name]:
                mask |= self._sources.get(ref, 0) | self._depends.get(ref.node, 0)
                touched = touched or ref.node in self._touched
            self._depends[name] = mask
            if node.op in _SHAPES_ONLY:
                continue
            if any(r.node not in reached and r not in self._sources and self._is_weight(r) for r in live.inputs(node)):
                self._weighted.add(name)
                touched = True
            if touched:
                self._touched.add(name)

    def _is_training(self, node: Node) -> bool:
        """Whether a node only serves training, or something else was put in its place."""
        return _belongs_to_training(node) or Ref(node.name) in self.live.replaced

    def _is_weight(self, ref: Ref) -> bool:
        """Whether a constant is made of a variable of more than one element, without having been reduced."""
        if ref.node not in self._weights:
            live, node = self.live, self.live.graph.nodes[ref.node]
            self._weights[ref.node] = False  # stands while its operands are looked at
            if node.op in ops.VARIABLES:
                shape = node.attrs.get("shape")
                self._weights[ref.node] = live.variables.holds(node) and shape != [1]
                if self._weights[ref.node] and not shape:
                    self._weights[ref.node] = live.variables.array(node).shape not in ((), (1,))
            elif node.op not in ops.REDUCTIONS and node.op != "L2Loss" and not ops.is_assignment(node.op) and not ops.is_source(node):
                self._weights[ref.node] = any(self._is_weight(r) for r in live.inputs(node))
        return self._weights[ref.node]

    def _losses(self) -> set[str]:
        """Reductions over the batch after which no weight comes any more."""
        found = set()
        for name in self.network:
            node = self.live.graph.nodes[name]
            if (node.op in ops.REDUCTIONS or node.op in ("L2Loss", "AddN")) and self._reduces_batch(node) and not (self._downstream({name}) - {name}) & self._weighted:
                found.add(name)
        return found

    def _reduces_batch(self, node: Node) -> bool:
        if node.op == "L2Loss":
            return True
        if len(node.inputs) < 2 or node.op == "AddN":
            return False
        axes = self.live.inputs(node)[1]
        if self.live.is_dynamic(axes):
            return True  # tf.reduce_mean(x) of an unknown rank: all axes, computed from the rank
        return 0 in self.live.value(axes).reshape(-1).tolist()

    def _downstream(self, names: Iterable[str]) -> set[str]:
        reached = set(names)
        stack = list(reached)
        by_node: dict[str, list[Node]] = self._users_by_node()
        while stack:
            for user in by_node.get(stack.pop(), ()):
                if user.name in self._depends and user.name not in reached:
                    reached.add(user.name)
                    stack.append(user.name)
        return reached

    def _users_by_node(self) -> dict[str, list[Node]]:
        if not hasattr(self, "_by_node"):
            self._by_node: dict[str, list[Node]] = {}
            for ref, users in self.users.items():
                self._by_node.setdefault(ref.node, []).extend(users)
        return self._by_node

    # ---- ends

    def ends(self) -> list[Ref]:
        """The references of the network that nothing in it takes, after stepping back from losses, metrics and decisions."""
        inside = set(self.network)
        by_node = self._users_by_node()
        while True:
            ends = [n for n in inside if not any(u.name in inside and u.op not in _SHAPES_ONLY for u in by_node.get(n, ()))]
            back = {n for n in ends if self._is_no_output(n, inside) or self._serves_training(n)}
            if not back:
                break
            for name in back:
                if self._serves_training(name):
                    self._updates.add(name)
                else:
                    self.stepped_back.append(Ref(name))
            inside -= back
        return [Ref(n) for n in self.live.graph.nodes if n in set(ends)]

    def _is_no_output(self, name: str, inside: set[str]) -> bool:
        node = self.live.graph.nodes[name]
        behind = [r for r in self.live.inputs(node) if r.node in inside]
        users = self._users_by_node().get(name, ())
        if node.op in _SHAPES_ONLY or node.op in ("Assert", "Size"):
            return True
        if not behind or name in self._weighted:
            return False
        if node.op in _DECISIONS:
            return True
        outside = [u for u in users if u.name in self._depends and u.name not in self.network]
        if node.op == "Cast" and (bool(outside) or {node.attrs.get("SrcT"), node.attrs.get("DstT")} & {"bool", "int32", "int64", "uint8"}):
            return True
        stepped = [u for u in users if u.name in self.network and u.name not in inside]
        if node.op in ("Neg", "Exp", "Greater", "GreaterEqual") and stepped:
            return True
        if node.op in ops.SELECTS and (outside or stepped) and self._chooses_by_sign(node):
            return True
        if not outside:
            return False
        if node.op in ("Reshape", "Squeeze", "Transpose") and all("CrossEntropy" in u.op for u in outside):
            return True
        if node.op in ("Log", "Log1p"):
            return True
        if any(u.op == "Log" for u in users) and node.op in ("Add", "AddV2", "Maximum", "Minimum", "Sub", "ClipByValue"):
            return True
        return any(u.name in self.losses or u.name in self._downstream(self.losses) for u in outside) and self._compares_with_data(name, inside)

    def _serves_training(self, name: str) -> bool:
        """Whether a node only makes updates of moving statistics, or what dropout was, gradients aside."""
        node = self.live.graph.nodes[name]
        if name in self._weighted and not ops.in_training_mode(node):
            return False
        users = [u for u in self._users_by_node().get(name, ()) if not ops.is_gradient(u)]
        return bool(users) and all(ops.is_assignment(u.op) or Ref(u.name) in self.live.replaced or u.name in self._updates for u in users)

    def _chooses_by_sign(self, node: Node) -> bool:
        """Whether a Select takes x or -x or zero by the sign of x, as the stable form of the sigmoid cross entropy does."""
        condition, *branches = self.live.inputs(node)
        test = self.live.graph.nodes[condition.node]
        if test.op not in ("Greater", "GreaterEqual"):
            return False
        x = self.live.inputs(test)[0]
        plain = [b for b in branches if b == x or self.live.graph.nodes[b.node].op in ("ZerosLike", "Neg", "Const")]
        return len(plain) == len(branches)

    def _compares_with_data(self, name: str, inside: set[str]) -> bool:
        """Whether arithmetic just behind combines the network's result with data that no weight has touched, as a reconstruction loss does."""
        stack, seen = [name], set()
        while stack:
            current = stack.pop()
            node = self.live.graph.nodes[current]
            if current in seen or current in self._weighted or node.op not in _ARITHMETIC:
                continue
            seen.add(current)
            for ref in self.live.inputs(node):
                if ref in self._sources or (ref.node in self._depends and ref.node not in self._touched):
                    return True
                if ref.node in inside:
                    stack.append(ref.node)
        return False

    def networks(self) -> list[list[Ref]]:
        """The ends, those that share a weighted node together; towers in training mode are left out where others use the same variables."""
        ends = self.ends()
        groups: list[tuple[set[str], list[Ref]]] = []
        for end in ends:
            ancestors = set(topological(self.live.graph, [end.node], self.live.inputs))
            mine, members = ancestors & self._weighted, [end]
            rest = []
            for weighted, refs in groups:
                if weighted & mine:
                    mine, members = mine | weighted, refs + members
                else:
                    rest.append((weighted, refs))
            groups = [*rest, (mine, members)]
        if len(groups) > 1:
            groups = self._without_training_towers(groups)
        return [refs for _, refs in groups]

    def _without_training_towers(self, groups: list[tuple[set[str], list[Ref]]]) -> list[tuple[set[str], list[Ref]]]:
        live = self.live
        facts = []
        for _, refs in groups:
            names = topological(live.graph, [r.node for r in refs], live.inputs)
            nodes = [live.graph.nodes[n] for n in names]
            variables = frozenset(n.name for n in nodes if n.op in ops.VARIABLES)
            training = any(ops.is_random(n.op) or ops.in_training_mode(n) or (n.op == "Mean" and self._reduces_batch(n)) for n in nodes)
            facts.append((variables, training))
        kept = []
        for i, group in enumerate(groups):
            variables, training = facts[i]
            if training and any(not other and (shared & variables) for j, (shared, other) in enumerate(facts) if j != i):
                continue
            kept.append(group)
        return kept or groups

    def authors_name(self, ref: Ref) -> Ref:
        """The name that the graph's author gave an output: that of the last of the identities behind it that nothing else takes."""
        named = [n for n in self.live.graph.nodes.values() if n.op == "Identity" and not _belongs_to_training(n) and not self.live.is_dead(n.name) and self.live.resolve(Ref(n.name)) == ref]
        taken = {r.node for n in self.live.graph.nodes.values() for r in n.inputs if not _belongs_to_training(n) and not ops.is_summary(n.op)}
        final = [n for n in named if n.name not in taken]
        return Ref(final[0].name) if len(final) == 1 else ref


def _belongs_to_training(node: Node) -> bool:
    return ops.is_assignment(node.op) or ops.is_summary(node.op) or node.op in _SAVING or ops.is_gradient(node)


def named_endpoints(live: Live, inputs: list[str], outputs: list[str]) -> Endpoints:
    """The endpoints that the user named; `name=tensor` gives a tensor a name of the user's own.

    Raises:
        GraphError: a name is not in the graph.
        AmbiguousNetwork: outputs were not named, and inputs alone leave a choice.
    """
    from bnexport.graph.names import find_named

    cut = {name: find_named(live.graph, tensor) for name, tensor in map(_split, inputs)}
    if cut:
        live.cut(cut.values())
    if not outputs:
        found = find_endpoints(live)
        return Endpoints(_order_inputs(live, cut, found.outputs.values()), found.outputs, found.alternatives)
    wanted = {name: live.resolve(find_named(live.graph, tensor)) for name, tensor in map(_split, outputs)}
    for name, ref in wanted.items():
        if not live.is_dynamic(ref):
            raise GraphError(f"{live.graph.source}: the output {name!r} does not depend on any input: it is a constant")
    return Endpoints(_order_inputs(live, cut, wanted.values()), wanted)


def _split(text: str) -> tuple[str, str]:
    name, equals, tensor = text.partition("=")
    return (name, tensor) if equals else (name.removesuffix(":0"), name)


def _order_inputs(live: Live, named: dict[str, Ref], outputs: Iterable[Ref]) -> dict[str, Ref]:
    needed = sources_of(live, outputs)
    unused = [name for name, ref in named.items() if ref not in needed]
    if unused:
        raise GraphError(f"{live.graph.source}: the outputs do not depend on the input {unused[0]!r}; they depend on {_listing(needed)}")
    return {**named, **{str(ref): ref for ref in needed if ref not in named.values()}}
