"""What a network's inputs and outputs are, found from a graph that also holds its training, or named by the user."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import permutations

from bnexport.errors import AmbiguousNetwork, GraphError, UsageError
from bnexport.graph import ops
from bnexport.graph.ends import Ends
from bnexport.graph.features import dense_feature
from bnexport.graph.flow import Flow, belongs_to_training
from bnexport.graph.graphdef import Node, Ref, topological
from bnexport.graph.live import Live
from bnexport.graph.names import find_named

_AUTOMATIC = frozenset({"truediv", "div", "read", "control_dependency", "exit", "merge", "step", "result"})
"""Names that TensorFlow gives beside those of operators; the last two are of loops that were written out."""
_PRODUCTS = frozenset({"MatMul", "BatchMatMul", "BatchMatMulV2", "BatchMatMulV3", "Conv2D"})
_NORMAL_NUMBERS = frozenset(
    {"RandomStandardNormal", "TruncatedNormal", "StatelessRandomNormal", "StatelessRandomNormalV2", "StatelessTruncatedNormal"}
)
_LISTED = 12  # candidates shown in an error


@dataclass(slots=True)
class Endpoints:
    """The inputs and outputs of a network: the name that users see, and the reference in the graph.

    `alternatives` could be outputs too; `ignored` are outputs that the graph names and a network cannot have.
    """

    inputs: dict[str, Ref]
    outputs: dict[str, Ref]
    alternatives: list[str] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)


def find_endpoints(live: Live, named: Collection[Ref] = ()) -> Endpoints:
    """The inputs and outputs of the one network in the graph.

    Args:
        named: inputs that the user named. What does not depend on them, as what they were computed from, is no network then, if anything does.

    Raises:
        AmbiguousNetwork: there is none, or more than one.
    """
    search = _Networks(live)
    if not search.flow.sources:
        live.cut(_constant_data(live))
        search = _Networks(live)
    groups = search.find()
    groups = [group for group in groups if not set(named).isdisjoint(sources_of(live, group))] or groups
    _refuse_undecided(live, {ref for refs in groups for ref in refs})
    if not groups and live.graph.functions and not live.graph.signatures and all(_is_text(live, ref) for ref in search.flow.sources):
        raise AmbiguousNetwork(
            f"{live.graph.source}: it was saved without signatures, so that nothing says which function is the network and what it is given; save it "
            "again with tf.saved_model.save(model, folder, signatures=model.__call__.get_concrete_function(tf.TensorSpec([None, …], tf.float32)))"
        )
    if not groups:
        ends = search.ends.find()
        candidates = f". The graph's ends are {_listing(ends)}" if ends else ""
        raise AmbiguousNetwork(
            f"{live.graph.source}: no output was found that depends on data and on saved variables; name one with --output{candidates}"
            f"{_unsaved_weights(live)}{_drawn_weights(search.flow)}"
        )
    if len(groups) > 1:
        offers = [_offer(live, refs) for refs in groups] + [_offer(live, [ref], ", which nothing takes") for ref in dict.fromkeys(search.lying)]
        offered = {ref for refs in groups for ref in refs} | set(search.lying)
        actions = {ref: fed for ref, fed in _stand_ins(search.flow).items() if ref not in offered and search.is_certain(ref)}
        offers += [_offer(live, [ref], f", in the place of {fed}") for ref, fed in actions.items()]
        lines = "\n".join(offers[:_LISTED])
        more = f"\n  and {len(offers) - _LISTED} more" if len(offers) > _LISTED else ""
        raise AmbiguousNetwork(f"{live.graph.source}: the graph holds {len(groups)} networks that share no layer; choose one of\n{lines}{more}")
    outputs = {str(_authors_name(live, ref)): ref for ref in groups[0]}
    inputs = by_name(live, sources_of(live, outputs.values()))
    return Endpoints(inputs, outputs, [str(r) for r in search.ends.stepped_back if r not in groups[0]])


def _is_text(live: Live, source: Ref) -> bool:
    return bool(live.graph.nodes[source.node].attrs.get("dtype") == "object")


def _offer(live: Live, ends: list[Ref], remark: str = "") -> str:
    """The line that offers a network to the user, and says what it is computed from."""
    names = " --output ".join(str(_authors_name(live, r)) for r in ends)
    return f"  --output {names}  (from {_listing(by_name(live, sources_of(live, ends)))}{remark})"


def _stand_ins(flow: Flow) -> dict[Ref, Ref]:
    """What stands where an input does in another use of the same weights, and that input: an actor's action, in front of its critic."""
    live = flow.live
    uses: dict[Ref, list[Ref]] = {}
    for name in sorted(flow.weighted):
        operands = live.inputs(live.graph.nodes[name])
        if live.graph.nodes[name].op in _PRODUCTS and not live.is_dynamic(operands[1]):
            uses.setdefault(operands[1], []).append(operands[0])
    found: dict[Ref, Ref] = {}
    pairs = [pair for data in uses.values() for pair in permutations(dict.fromkeys(data[:_LISTED]), 2)]
    seen: set[tuple[Ref, Ref]] = set()
    while pairs:
        fed, made = pair = pairs.pop()
        if fed == made or pair in seen:
            continue
        seen.add(pair)
        nodes = live.graph.nodes[fed.node], live.graph.nodes[made.node]
        if fed in flow.sources and made.node in flow.touched:
            found[made] = fed
        elif nodes[0].op == nodes[1].op:
            pairs += zip(*map(live.inputs, nodes), strict=False)
    return found


def _unsaved_weights(live: Live) -> str:
    """What to add where no network is found: that the weights of the graph are not those of the checkpoint, if that is so."""
    location = live.variables.checkpoint.location
    variables = [node for node in live.graph.nodes.values() if node.op in ops.VARIABLES]
    if not variables and not location.is_frozen:
        return f". {live.graph.source} has no variables: if it is a frozen graph, its weights are in it, and it is converted by itself"
    unsaved = [node for node in variables if not live.variables.holds(node)]
    weights = [node.name for node in unsaved if len(node.attrs.get("shape") or ()) > 1]
    if not weights:
        return ""
    holds = f". {location.prefix} does not hold the graph's variables {_listing(weights)}: "
    if location.is_frozen:
        return f"{holds}it is a graph without values; give the checkpoint, and this file with --graph"
    return f"{holds}they were not saved, or the graph is that of another checkpoint"


def _drawn_weights(flow: Flow) -> str:
    """What to add where no network is found: that its weights are random numbers about what is saved, if that is so."""
    live = flow.live
    products = [live.graph.nodes[name] for name in flow.depends if live.graph.nodes[name].op in _PRODUCTS]
    kernels = [r.node for node in products for r in live.inputs(node) if r.node not in flow.depends and r not in flow.sources and live.is_dynamic(r)]
    drawn = [name for name in topological(live.graph, kernels, live.inputs) if live.graph.nodes[name].op in _NORMAL_NUMBERS]
    if not drawn:
        return ""
    return f". Its weights are drawn at random: {' '.join(f'--set {name}=0' for name in drawn)} takes their means"


def _refuse_undecided(live: Live, ends: set[Ref]) -> None:
    """What goes into a condition that is not decided is no end of a network; where there is none, such a condition may be why."""
    merges = [n for n in list(live.graph.nodes.values()) if n.op in ops.MERGES and not belongs_to_training(n) and not live.is_dead(n.name)]
    for merge in merges:
        if live.resolve(Ref(merge.name)) == Ref(merge.name) and (not ends or any(live.resolve(ref) in ends for ref in merge.inputs)):
            raise AmbiguousNetwork(live.undecided(merge))


def _constant_data(live: Live) -> list[Ref]:
    """Constants that stand where data would: matrices and images that no variable is made of, in a graph to which nothing is fed."""
    users = live.consumers()
    found = []
    for node in list(live.graph.nodes.values()):
        if node.op != "Const" or node.attrs["dtype"] not in ("float32", "float64", "float16") or node.attrs["value"].ndim < 2:
            continue
        if any(not belongs_to_training(u) for u in users.get(Ref(node.name), ())):
            found.append(Ref(node.name))
    return found


def _listing(names: Iterable[object]) -> str:
    texts = [str(n) for n in names]
    return ", ".join(texts[:_LISTED]) + (f" and {len(texts) - _LISTED} more" if len(texts) > _LISTED else "") if texts else "none"


def sources_of(live: Live, outputs: Iterable[Ref]) -> list[Ref]:
    """The references through which data enters the computation of `outputs`, in the order of their names in the graph."""
    order = topological(live.graph, [live.resolve(r).node for r in outputs], live.inputs)
    entered: dict[Ref, None] = {}
    wanted = dict.fromkeys(live.resolve(r) for r in outputs)
    for name in order:
        wanted.update(dict.fromkeys(live.inputs(live.graph.nodes[name])))
    for ref in wanted:
        node = live.graph.nodes[ref.node]
        if ref.node in live.sources or ops.is_source(node) or (node.op == "PlaceholderWithDefault" and ref.node in order):
            entered[ref] = None
    position = {name: i for i, name in enumerate(live.graph.nodes)}
    return sorted(entered, key=lambda r: (position[r.node], r.output))


def by_name(live: Live, sources: Iterable[Ref], taken: Collection[str] = ()) -> dict[str, Ref]:
    """Sources of data by the names that users see: a feature's key in the records that the graph parses, or the tensor's name.

    Args:
        taken: names that others have already.
    """
    features = {ref: dense_feature(live.graph, ref) for ref in sources}
    keys = [*taken, *(feature.key for feature in features.values() if feature is not None)]
    return {str(ref) if feature is None or keys.count(feature.key) > 1 else feature.key: ref for ref, feature in features.items()}


class _Networks:
    """The ends of a graph, sorted into networks.

    Attributes:
        lying: ends that nothing takes and that were left out.
    """

    def __init__(self, live: Live):
        self.live = live
        self.flow = Flow(live)
        self.ends = Ends(self.flow)
        self.lying: list[Ref] = []

    def find(self) -> list[list[Ref]]:
        """The ends, those that share a weighted node together.

        Left out are networks of variables that the checkpoint does not hold, towers in training mode where others use the same variables, networks
        that compute the same as another from another input, and, where their network has others, ends that only a penalty is computed from or that
        depend on random numbers.
        """
        networks = self._grouped(self._taken(self.ends.find()))
        penalties = {end.node for refs in networks for end in self._penalised(refs)}
        if penalties:  # what stands before one may be an output: policies stand before their entropy
            networks = self._grouped(self._taken(self.ends.find(self._serving(penalties))))
            penalised = [set(self._penalised(refs)) for refs in networks]
            networks = [[end for end in refs if end not in left_out] for refs, left_out in zip(networks, penalised, strict=True)]
        if len(networks) > 1:
            networks = [refs for refs in networks if self._is_saved(refs)] or networks
        if len(networks) > 1:
            networks = self._without_training_towers(networks)
        if len(networks) > 1:
            networks = self._whole(networks)
        if len(networks) > 1:
            memo: dict[Ref, int] = {}
            networks = list({tuple(sorted(self._fingerprint(r, memo) for r in refs)): refs for refs in reversed(networks)}.values())[::-1]
        return networks

    def _grouped(self, ends: list[Ref]) -> list[list[Ref]]:
        """The ends, those together that share a weighted node; of these none that depends on random numbers, if there are others."""
        groups: list[tuple[set[str], list[Ref]]] = []
        for end in ends:
            ancestors = set(topological(self.live.graph, [end.node], self.live.inputs))
            mine, members = ancestors & self.flow.weighted, [end]
            rest = []
            for weighted, refs in groups:
                if weighted & mine:
                    mine, members = mine | weighted, refs + members
                else:
                    rest.append((weighted, refs))
            groups = [*rest, (mine, members)]
        networks = [refs for _, refs in groups]
        return [[ref for ref in refs if self.is_certain(ref)] or refs for refs in networks]

    def _penalised(self, ends: list[Ref]) -> list[Ref]:
        """The ends of a network that only penalties are computed from, where there are others."""
        found = [end for end in ends if self._only_feeds(end.node)]
        return found if len(found) < len(ends) else []

    def _serving(self, names: set[str]) -> set[str]:
        """Nodes of the network from which, losses aside, nothing but these is computed, these among them."""
        found = set(names)
        stack = list(names)
        while stack:
            for ref in self.live.inputs(self.live.graph.nodes[stack.pop()]):
                users = self.flow.followers(ref.node)
                if ref.node in self.flow.network and ref.node not in found and all(u.name in found or u.name in self.flow.lossy for u in users):
                    found.add(ref.node)
                    stack.append(ref.node)
        return found

    def is_certain(self, end: Ref) -> bool:
        """Whether an end depends on no random numbers, as one between real and generated examples does that a penalty is put on."""
        names = topological(self.live.graph, [end.node], self.live.inputs)
        return not any(ops.is_random(self.live.graph.nodes[name].op) for name in names)

    def _taken(self, ends: list[Ref]) -> list[Ref]:
        """The ends without those that were left lying, where losses and metrics tell which are not."""
        if not any(self._is_compared(end) for end in ends):
            return ends
        return [end for refs in self._whole([[end] for end in ends]) for end in refs]

    def _is_compared(self, end: Ref) -> bool:
        """Whether anything that is no part of the network, or was stepped back from, is computed from an end: a loss, a metric or a decision."""
        return bool(self.flow.followers(end.node))

    def _whole(self, networks: list[list[Ref]]) -> list[list[Ref]]:
        """The networks without what was only computed on the way to another and left lying: a recurrent layer's outputs where its state is used.

        Nothing takes such an end, nobody gave it a name, and another network has all its variables, and more. A generator that samples from
        an input of its own, or in inference mode where the other network trains, is no such end.
        """
        live = self.live
        names = [topological(live.graph, [r.node for r in refs], live.inputs) for refs in networks]
        variables = [{n for n in part if live.graph.nodes[n].op in ops.VARIABLES} for part in names]
        sources = [set(sources_of(live, refs)) for refs in networks]
        kept = []
        for i, refs in enumerate(networks):
            left = not any(self.flow.followers(r.node) for r in refs) and all(
                _is_automatic(live.graph.nodes[_authors_name(live, r).node]) for r in refs
            )
            larger = [j for j, others in enumerate(variables) if variables[i] < others and sources[i] <= sources[j]] if left else []
            if larger and (self._only_trains(names[i]) or not all(self._only_trains(names[j]) for j in larger)):
                self.ends.stepped_back += refs
                self.lying += refs
            else:
                kept.append(refs)
        return kept

    def _only_feeds(self, name: str) -> bool:
        """Whether losses and penalties are all that is computed from an end."""
        users = self.flow.followers(name)
        compared = all(u.name in self.flow.lossy or u.name in self.ends.losses.compared_to_constants for u in users)
        return bool(users) and (compared or self.ends.losses.is_term_of_loss(name))

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

    def _trains(self, names: Sequence[str]) -> bool:
        """Whether nodes normalise with statistics of the batch, or would, had moving ones not been put in their place; or had a dropout."""
        return self._only_trains(names) or bool(self.live.used_replacements(names))

    def _only_trains(self, names: Sequence[str]) -> bool:
        """`_trains`, but for dropouts whose rate is fed, and 0 at inference."""
        nodes = [self.live.graph.nodes[name] for name in names]
        by_statistics = any(ops.in_training_mode(n) or (n.op == "Mean" and self.flow.reduces_batch(n)) for n in nodes)
        return by_statistics or bool(self.live.used_replacements(names) - self.live.switched)

    def _without_training_towers(self, networks: list[list[Ref]]) -> list[list[Ref]]:
        live = self.live
        facts = []
        for refs in networks:
            names = topological(live.graph, [r.node for r in refs], live.inputs)
            training = any(ops.is_random(live.graph.nodes[n].op) for n in names) or self._trains(names)
            facts.append((frozenset(n for n in names if live.graph.nodes[n].op in ops.VARIABLES), training))
        kept = []
        for i, refs in enumerate(networks):
            variables, training = facts[i]
            if training and any(not other and (shared & variables) for j, (shared, other) in enumerate(facts) if j != i):
                continue
            kept.append(refs)
        return kept or networks


def _authors_name(live: Live, ref: Ref) -> Ref:
    """The name that the graph's author gave an output.

    That is the name of the last of the identities behind it that nothing else takes, or the only one given by hand.
    """
    nodes = list(live.graph.nodes.values())
    identities = [n for n in nodes if n.op == "Identity" and live.resolve(Ref(n.name)) == ref]
    named = {n.name: n for n in identities if not belongs_to_training(n) and not live.is_dead(n.name)}
    taken = {r.node for n in nodes for r in n.inputs if r.node in named and not belongs_to_training(n)}
    final = [n for name, n in named.items() if name not in taken]
    if len(final) != 1 and _is_automatic(live.graph.nodes[ref.node]):
        final = [n for n in named.values() if not _is_automatic(n)]
    return Ref(final[0].name) if len(final) == 1 else ref


def _is_automatic(node: Node) -> bool:
    """Whether a node is called as TensorFlow calls one that was given no name: after its operator."""
    last = node.name.rpartition("/")[2].rstrip("0123456789").rstrip("_").lower()
    op = node.op.lower()
    return last in _AUTOMATIC or last == op.removesuffix("v2") or last.replace("_", "") == op


def named_endpoints(live: Live, inputs: list[str], outputs: list[str]) -> Endpoints:
    """The endpoints that the user named; `name=tensor` gives a tensor a name of the user's own.

    Raises:
        UsageError: a name is not in the graph, or stands for two tensors.
        GraphError: an output depends on no input, or on none of those that were named.
        AmbiguousNetwork: outputs were not named, and inputs alone leave a choice.
    """
    cut = _named(live, inputs, "--input")
    if cut:
        live.cut(cut.values())
    if not outputs:
        found = find_endpoints(live, cut.values())
        return Endpoints(_order_inputs(live, cut, found.outputs.values()), found.outputs, found.alternatives)
    wanted = {name: live.resolve(ref) for name, ref in _named(live, outputs, "--output").items()}
    for name, ref in wanted.items():
        if not live.is_dynamic(ref):
            what = "an operation that gives no tensor" if live.graph.nodes[ref.node].op == "NoOp" else "a constant"
            raise GraphError(f"{live.graph.source}: the output {name!r} does not depend on any input: it is {what}")
    return Endpoints(_order_inputs(live, cut, wanted.values()), wanted)


def _named(live: Live, texts: list[str], option: str) -> dict[str, Ref]:
    named: dict[str, Ref] = {}
    for text in texts:
        name, tensor = split_name(text)
        if not name or not tensor:
            raise UsageError(f"{option} {text}: give the name of a tensor, or NAME=TENSOR")
        ref = find_named(live.graph, tensor)
        if named.setdefault(name, ref) != ref:
            raise UsageError(f"{option} {text}: the name {name!r} stands for {named[name]} already")
    return named


def split_name(text: str) -> tuple[str, str]:
    """What `NAME=TENSOR`, or a tensor's name alone, calls a tensor, and the tensor."""
    name, equals, tensor = text.partition("=")
    return (name, tensor) if equals else (name.removesuffix(":0"), name)


def _order_inputs(live: Live, named: dict[str, Ref], outputs: Iterable[Ref]) -> dict[str, Ref]:
    needed = sources_of(live, outputs)
    unused = [name for name, ref in named.items() if ref not in needed]
    if unused:
        raise GraphError(f"{live.graph.source}: the outputs do not depend on the input {unused[0]!r}; they depend on {_listing(needed)}")
    return {**named, **by_name(live, [ref for ref in needed if ref not in named.values()], named)}
