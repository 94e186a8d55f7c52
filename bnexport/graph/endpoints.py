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
     "OneHot", "Multinomial", "AsString", "LogicalAnd", "LogicalOr", "LogicalNot", "Where", "IsNan", "IsInf", "IsFinite", "All", "Any"}
)  # fmt: skip
_SHAPES_ONLY = frozenset({"Shape", "ShapeN", "Size", "Rank", "ZerosLike", "OnesLike"})
_ARITHMETIC = frozenset(
    {"Sub", "Add", "AddV2", "Mul", "Square", "SquaredDifference", "Pow", "Abs", "Neg", "Log", "Log1p", "RealDiv", "Div", "Maximum", "Minimum", "Sum", "Mean",
     "Sqrt", "Exp", "Select", "SelectV2", "ClipByValue", "Cast"}
)  # fmt: skip
_RESHAPES = frozenset({"Reshape", "Squeeze", "ExpandDims", "Transpose"})
_BEFORE_LOGARITHMS = frozenset({"Add", "AddV2", "Maximum", "Minimum", "Sub", "ClipByValue", "Exp"})
_LOSS_SCOPES = frozenset(
    {"logistic_loss", "log_loss", "hinge_loss", "huber_loss", "mean_squared_error", "mean_pairwise_squared_error", "absolute_difference", "cosine_distance_loss",
     "softmax_cross_entropy_loss", "sigmoid_cross_entropy_loss", "sparse_softmax_cross_entropy_loss", "softmax_cross_entropy_with_logits", "L2Loss", "l2_regularizer"}
)  # fmt: skip
"""The scopes that tf.nn's and tf.losses' functions open."""
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
    if not search.has_sources():
        live.cut(_constant_data(live))
        search = _Search(live)
    groups = search.networks()
    _refuse_undecided(live, {ref for refs in groups for ref in refs})
    if not groups:
        raise AmbiguousNetwork(
            f"{live.graph.source}: no output was found that depends on data and on saved variables; name one with --output. "
            f"The graph's ends are {_listing(search.ends())}"
        )
    if len(groups) > 1:
        lines = "\n".join(f"  --output {' --output '.join(str(search.authors_name(r)) for r in g)}" for g in groups[:_LISTED])
        more = f"\n  and {len(groups) - _LISTED} more" if len(groups) > _LISTED else ""
        raise AmbiguousNetwork(f"{live.graph.source}: the graph holds {len(groups)} networks that share no layer; choose one of\n{lines}{more}")
    outputs = {str(search.authors_name(ref)): ref for ref in groups[0]}
    inputs = {str(ref): ref for ref in sources_of(live, outputs.values())}
    return Endpoints(inputs, outputs, [str(r) for r in search.stepped_back if r not in groups[0]])


def _refuse_undecided(live: Live, ends: set[Ref]) -> None:
    """What goes into a condition that is not decided is no end of a network; where there is none, such a condition may be why."""
    merges = [n for n in live.graph.nodes.values() if n.op in ops.MERGES and not _belongs_to_training(n) and not live.is_dead(n.name)]
    for merge in merges:
        if live.resolve(Ref(merge.name)) == Ref(merge.name) and (not ends or any(live.resolve(ref) in ends for ref in merge.inputs)):
            raise AmbiguousNetwork(live.undecided(merge))


def _constant_data(live: Live) -> list[Ref]:
    """Constants that stand where data would: matrices and images that no variable is made of, in a graph to which nothing is fed."""
    users = live.consumers()
    found = []
    for node in live.graph.nodes.values():
        if node.op != "Const" or node.attrs["dtype"] not in ("float32", "float64", "float16") or node.attrs["value"].ndim < 2:
            continue
        if any(not _belongs_to_training(u) for u in users.get(Ref(node.name), ())):
            found.append(Ref(node.name))
    return found


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
        self._compared_to_constants: set[str] = set()
        self._untaken = self._not_chosen()
        self._dropped: set[str] = set()
        self._likelihood: set[str] = set()  # logarithms of a likelihood, and the arithmetic before them
        self._walk()
        inputs = 0
        for name in self._weighted:
            inputs |= self._depends[name]
        self.network = {name for name in self._touched if self._depends[name] & ~inputs == 0}
        self.losses = self._losses()
        self.network -= self._downstream(self.losses)

    def _not_chosen(self) -> set[Ref]:
        """What goes into decided conditions and comes out of none."""
        live = self.live
        outside = [n for n in list(live.graph.nodes.values()) if not _belongs_to_training(n)]
        offered = {live.resolve(n.inputs[0]) for n in outside if n.op in ops.SWITCHES and live.is_decided(n)}
        return offered - {live.resolve(Ref(n.name)) for n in outside if n.op in ops.MERGES}

    def _is_dropped(self, name: str) -> bool:
        """Whether a node is only computed for the side of a condition that is not taken."""
        users = self._followers(name)
        return Ref(name) in self._untaken or (bool(users) and all(u.name in self._dropped for u in users))

    def has_sources(self) -> bool:
        """Whether any data enters the graph."""
        return bool(self._sources)

    def _walk(self) -> None:
        """Follows data from all sources forward, noting for each node what it depends on and whether weights have touched it."""
        live = self.live
        start = [
            n
            for n in live.graph.nodes.values()
            if n.name in live.sources or ops.is_source(n) or (n.op == "PlaceholderWithDefault" and live.resolve(Ref(n.name)) == Ref(n.name))
        ]
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
            if any(r.node not in reached and r not in self._sources and not live.is_dynamic(r) and self._is_weight(r) for r in live.inputs(node)):
                self._weighted.add(name)
                touched = True
            if touched:
                self._touched.add(name)

    def _is_training(self, node: Node) -> bool:
        """Whether a node only serves training (as arithmetic on gradients does), or something else was put in its place."""
        if _belongs_to_training(node) or Ref(node.name) in self.live.replaced:
            return True
        return any(ops.is_gradient(self.live.graph.nodes[r.node]) for r in self.live.inputs(node))

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
            if (
                (node.op in ops.REDUCTIONS or node.op in ("L2Loss", "AddN"))
                and self._reduces_batch(node)
                and not (self._downstream({name}) - {name}) & self._weighted
            ):
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
            dropped = {n for n in ends if self._is_dropped(n)}
            self._dropped |= dropped
            back = dropped | {n for n in ends if self._is_no_output(n, inside) or self._serves_training(n)}
            if not back:
                break
            for name in back:
                if self._serves_training(name):
                    self._updates.add(name)
                elif name not in dropped:
                    self.stepped_back.append(Ref(name))
            inside -= back
        return [Ref(n) for n in self.live.graph.nodes if n in set(ends)]

    def _is_no_output(self, name: str, inside: set[str]) -> bool:
        """Whether an end is a decision, or the beginning of a loss or metric."""
        node = self.live.graph.nodes[name]
        behind = [r for r in self.live.inputs(node) if r.node in inside]
        if node.op in _SHAPES_ONLY or node.op in ("Assert", "Size"):
            return True
        if not behind or name in self._weighted:
            return False
        if any(part.rstrip("0123456789").rstrip("_") in _LOSS_SCOPES for part in name.split("/")):
            return True
        if node.op in _DECISIONS or (node.op in _RESHAPES and self.live.graph.nodes[behind[0].node].op in _DECISIONS):
            return True
        users = self._followers(name)
        outside = [u for u in users if u.name not in self.network]  # losses and metrics, by the labels that they also depend on
        stepped = [u for u in users if u.name in self.network and u.name not in inside]
        if node.op == "Cast" and (bool(outside) or {node.attrs.get("SrcT"), node.attrs.get("DstT")} & {"bool", "int32", "int64", "uint8"}):
            return True
        if not outside and not stepped:
            return False
        logarithm = node.op in ("Log", "Log1p")
        if logarithm and (outside or any(u.op == "Mul" for u in stepped)):
            self._likelihood.add(name)
            return True
        if not logarithm and node.op in _BEFORE_LOGARITHMS and any(u.op in ("Log", "Log1p") or u.name in self._likelihood for u in users):
            self._likelihood.add(name)
            return True
        if logarithm:
            return False
        if node.op in ("Neg", "Exp", "Minimum", "Maximum", "RealDiv", "Sum") and stepped and not outside:
            return self._normalises(node, behind) if node.op in ("RealDiv", "Sum") else True
        if node.op in ops.SELECTS and self._chooses_by_sign(node):
            return True
        if node.op in _RESHAPES and outside and all("CrossEntropy" in u.op for u in outside):
            return True
        lossy = self._downstream(self.losses)
        return all(u.name in lossy or u in stepped for u in users) and self._compares(name, inside)

    def _followers(self, name: str) -> list[Node]:
        """What takes a node's values, gradients and questions of shape aside."""
        return [u for u in self._users_by_node().get(name, ()) if u.name in self._depends and u.op not in _SHAPES_ONLY]

    def _normalises(self, node: Node, behind: list[Ref]) -> bool:
        """Whether a node divides by, or is, a sum of what it is divided into: what a cross entropy does to probabilities first."""
        if node.op == "Sum":
            return True
        numerator, denominator = self.live.inputs(node)
        total = self.live.graph.nodes[denominator.node]
        return total.op == "Sum" and self.live.inputs(total)[0] == numerator and numerator in behind

    def _serves_training(self, name: str) -> bool:
        """Whether a node only makes updates of moving statistics, or what dropout was, gradients aside."""
        node = self.live.graph.nodes[name]
        users = [u for u in self._users_by_node().get(name, ()) if not ops.is_gradient(u)]
        if users and all(Ref(u.name) in self.live.replaced for u in users):
            return True
        if name in self._weighted and not ops.in_training_mode(node) and node.op not in ("Sub", "Mul", "Add", "AddV2"):
            return False  # (an average is updated by arithmetic with the average itself, which is a variable too)
        return bool(users) and all(self._moves_statistics(u) or Ref(u.name) in self.live.replaced or u.name in self._updates for u in users)

    def _moves_statistics(self, node: Node) -> bool:
        """Whether a node writes a variable that is no scalar: a scalar follows a loss, and what a loss is computed from may be an output."""
        if not ops.is_assignment(node.op):
            return False
        return self.live.graph.nodes[self.live.resolve(node.inputs[0]).node].attrs.get("shape") != []

    def _chooses_by_sign(self, node: Node) -> bool:
        """Whether a Select takes x or -x or zero by the sign of x, as the stable form of the sigmoid cross entropy does."""
        condition, *branches = self.live.inputs(node)
        test = self.live.graph.nodes[condition.node]
        if test.op not in ("Greater", "GreaterEqual"):
            return False
        x = self.live.inputs(test)[0]
        plain = [b for b in branches if b == x or self.live.graph.nodes[b.node].op in ("ZerosLike", "Neg", "Const")]
        return len(plain) == len(branches)

    def _compares(self, name: str, inside: set[str]) -> bool:
        """Whether arithmetic just behind compares the network's result with data that no weight has touched, or with constants, as a loss does."""
        stack, seen = [name], set()
        while stack:
            current = stack.pop()
            node = self.live.graph.nodes[current]
            if current in seen or current in self._weighted or node.op not in _ARITHMETIC:
                continue
            seen.add(current)
            operands = self.live.inputs(node)
            made = [self.live.graph.nodes[r.node].op for r in operands]
            if node.op in ("Sub", "SquaredDifference") or (node.op == "Mul" and ("Log" in made or "Log1p" in made)):
                if any(r in self._sources or (r.node in self._depends and r.node not in self._touched) for r in operands):
                    return True
                if any(not self.live.is_dynamic(r) and not self._is_weight(r) and self.live.value(r).size > 1 for r in operands):
                    self._compared_to_constants.update(seen)
                    return True
            stack.extend(r.node for r in operands if r.node in inside or r.node in self._depends)
        return False

    def networks(self) -> list[list[Ref]]:
        """The ends, those that share a weighted node together.

        Left out are networks of variables that the checkpoint does not hold, towers in training mode where others use the same variables, networks that compute
        the same as another from another input, and ends that only a penalty is computed from where their network has others.
        """
        groups: list[tuple[set[str], list[Ref]]] = []
        for end in self.ends():
            ancestors = set(topological(self.live.graph, [end.node], self.live.inputs))
            mine, members = ancestors & self._weighted, [end]
            rest = []
            for weighted, refs in groups:
                if weighted & mine:
                    mine, members = mine | weighted, refs + members
                else:
                    rest.append((weighted, refs))
            groups = [*rest, (mine, members)]
        lossy = self._downstream(self.losses)
        networks = [refs for _, refs in groups]
        for refs in networks:
            plain = [r for r in refs if not self._only_feeds(r.node, lossy)]
            if plain:
                refs[:] = plain
        if len(networks) > 1:
            networks = [refs for refs in networks if self._is_saved(refs)] or networks
        if len(networks) > 1:
            networks = self._without_training_towers(networks)
        if len(networks) > 1:
            memo: dict[Ref, int] = {}
            networks = list({tuple(sorted(self._fingerprint(r, memo) for r in refs)): refs for refs in reversed(networks)}.values())[::-1]
        return networks

    def _only_feeds(self, name: str, lossy: set[str]) -> bool:
        users = self._followers(name)
        return bool(users) and all(u.name in lossy or u.name in self._compared_to_constants for u in users)

    def _is_saved(self, refs: list[Ref]) -> bool:
        names = topological(self.live.graph, [r.node for r in refs], self.live.inputs)
        return all(self.live.variables.holds(self.live.graph.nodes[n]) for n in names if self.live.graph.nodes[n].op in ops.VARIABLES)

    def _fingerprint(self, end: Ref, memo: dict[Ref, int]) -> int:
        """Equal for two references that compute the same function, of inputs of the same kind, with the same variables."""
        for name in topological(self.live.graph, [end.node], self.live.inputs):
            node = self.live.graph.nodes[name]
            if Ref(name) in memo:
                continue
            if node.op in ops.VARIABLES:
                own: object = name
            elif node.op == "Const":
                own = node.attrs["value"].tobytes()
            else:
                own = tuple((k, str(node.attrs[k])) for k in sorted(node.attrs) if not k.startswith("_"))
            memo[Ref(name)] = hash((node.op, own, *(hash((memo[Ref(r.node)], r.output)) for r in self.live.inputs(node))))
        return hash((memo[Ref(end.node)], end.output))

    def _without_training_towers(self, networks: list[list[Ref]]) -> list[list[Ref]]:
        live = self.live
        facts = []
        for refs in networks:
            names = topological(live.graph, [r.node for r in refs], live.inputs)
            nodes = [live.graph.nodes[n] for n in names]
            variables = frozenset(n.name for n in nodes if n.op in ops.VARIABLES)
            training = any(ops.is_random(n.op) or ops.in_training_mode(n) or (n.op == "Mean" and self._reduces_batch(n)) for n in nodes)
            facts.append((variables, training or bool(live.used_replacements(names))))
        kept = []
        for i, refs in enumerate(networks):
            variables, training = facts[i]
            if training and any(not other and (shared & variables) for j, (shared, other) in enumerate(facts) if j != i):
                continue
            kept.append(refs)
        return kept or networks

    def authors_name(self, ref: Ref) -> Ref:
        """The name that the graph's author gave an output: that of the last of the identities behind it that nothing else takes, or the only one given by hand."""
        live = self.live
        identities = [n for n in live.graph.nodes.values() if n.op == "Identity" and not _belongs_to_training(n) and not live.is_dead(n.name)]
        named = [n for n in identities if live.resolve(Ref(n.name)) == ref]
        taken = {r.node for n in live.graph.nodes.values() for r in n.inputs if not _belongs_to_training(n) and not ops.is_summary(n.op)}
        final = [n for n in named if n.name not in taken]
        if len(final) != 1 and _is_automatic(live.graph.nodes[ref.node]):
            final = [n for n in named if not _is_automatic(n)]
        return Ref(final[0].name) if len(final) == 1 else ref


def _is_automatic(node: Node) -> bool:
    """Whether a node is called as TensorFlow calls one that was given no name: after its operator."""
    last = node.name.rpartition("/")[2].rstrip("0123456789").rstrip("_").lower()
    return last in (node.op.lower().removesuffix("v2"), "truediv", "div", "read", "control_dependency")


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
