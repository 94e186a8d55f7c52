"""What a network's inputs and outputs are, found from a graph that also holds its training, or named by the user."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from bnexport.errors import AmbiguousNetwork, GraphError, UsageError
from bnexport.graph import ops
from bnexport.graph.authors import authors_name, is_automatic
from bnexport.graph.features import dense_feature
from bnexport.graph.flow import PRODUCTS, Flow, belongs_to_training
from bnexport.graph.graphdef import Ref, topological
from bnexport.graph.live import Live
from bnexport.graph.names import find_named
from bnexport.graph.networks import Networks, sources_of, stand_ins

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
    search = Networks(live)
    if not search.flow.sources:
        live.cut(_constant_data(live))
        search = Networks(live)
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
        actions = {ref: fed for ref, fed in stand_ins(search.flow).items() if ref not in offered and search.is_certain(ref)}
        offers += [_offer(live, [ref], f", in the place of {fed}") for ref, fed in actions.items()]
        lines = "\n".join(offers[:_LISTED])
        more = f"\n  and {len(offers) - _LISTED} more" if len(offers) > _LISTED else ""
        raise AmbiguousNetwork(f"{live.graph.source}: the graph holds {len(groups)} networks that share no layer; choose one of\n{lines}{more}")
    outputs = {str(authors_name(live, ref)): ref for ref in groups[0]}
    inputs = by_name(live, sources_of(live, outputs.values()))
    return Endpoints(inputs, outputs, [str(r) for r in search.ends.stepped_back if r not in groups[0]])


def _is_text(live: Live, source: Ref) -> bool:
    return bool(live.graph.nodes[source.node].attrs.get("dtype") == "object")


def _offer(live: Live, ends: list[Ref], remark: str = "") -> str:
    """The line that offers a network to the user, and says what it is computed from."""
    names = " --output ".join(str(authors_name(live, r)) for r in ends)
    return f"  --output {names}  (from {_listing(by_name(live, sources_of(live, ends)))}{remark})"


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
    products = [live.graph.nodes[name] for name in flow.depends if live.graph.nodes[name].op in PRODUCTS]
    kernels = [r.node for node in products for r in live.inputs(node) if r.node not in flow.depends and r not in flow.sources and live.is_dynamic(r)]
    drawn = [name for name in topological(live.graph, kernels, live.inputs) if live.graph.nodes[name].op in ops.NORMAL_NUMBERS]
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


def by_name(live: Live, sources: Iterable[Ref], taken: Collection[str] = ()) -> dict[str, Ref]:
    """Sources of data by the names that users see.

    That is a feature's key in the records that the graph parses, the name that its author gave what a queue or a dataset gives, or the tensor's.

    Args:
        taken: names that others have already.
    """
    features = {ref: dense_feature(live.graph, ref) for ref in sources}
    names = {ref: _name_of_data(live, ref) if feature is None else feature.key for ref, feature in features.items()}
    given = [*taken, *names.values()]
    return {str(ref) if given.count(name) > 1 else name: ref for ref, name in names.items()}


def _name_of_data(live: Live, ref: Ref) -> str:
    """The tensor's name, or that of the last of the identities behind what a queue or a dataset gives, where all that takes it goes through them."""
    node = live.graph.nodes[ref.node]
    while node.op not in ops.PLACEHOLDERS | {"PlaceholderWithDefault"}:
        takers = [n for n in live.graph.nodes.values() if any(r == ref for r in n.inputs) and not belongs_to_training(n) and not live.is_dead(n.name)]
        if len(takers) != 1 or takers[0].op != "Identity" or is_automatic(takers[0]):
            break
        node, ref = takers[0], Ref(takers[0].name)
    return str(ref)


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
