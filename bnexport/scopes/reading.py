"""A checkpoint's names as layers: which variables there are, and which of them make up the network, in which order."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from itertools import pairwise

from bnexport.checkpoint import Checkpoint, TensorInfo
from bnexport.checkpoint.reader import OBJECT_GRAPH_KEY
from bnexport.errors import ScopeError, UsageError
from bnexport.scopes.beside import among_others
from bnexport.scopes.doubts import refuse_copies, refuse_doubtful, refuse_heads, refuse_transposed, transposed
from bnexport.scopes.linears import Linear, match_linears
from bnexport.scopes.names import Path, listed
from bnexport.scopes.norms import Norm, described, match_norms
from bnexport.scopes.order import chains, follows, networks, parts_that_chain
from bnexport.scopes.placement import Placement, fits, place_norms
from bnexport.scopes.roles import BETA, BIAS, EMBEDDING, KERNEL, MEAN, RECURRENT, UNKNOWN, VARIANCE, Named, VariableRole, classify, display_name


@dataclass(slots=True)
class Reading:
    """What the names of a checkpoint say.

    Attributes:
        variables: all of them, by role.
        linears: layers with kernels, in natural order.
        norms: batch norms that have their statistics, in natural order.
        stray: weights that fit in no layer.
        incomplete: batch norms without statistics, or with half of them.
        assumed: sentences on what was matched by order alone.
        uneven: batch norms whose variables have only numbers to belong together by, which do not say it.
    """

    variables: list[Named]
    linears: list[Linear]
    norms: list[Norm]
    stray: list[Named]
    incomplete: list[Norm]
    assumed: list[str]
    uneven: list[str]


@dataclass(slots=True)
class Choice:
    """The layers of the network in their order, its batch norms by place, and what was left out or assumed."""

    chain: list[Linear]
    places: dict[int, Norm]
    left_out: list[str] = field(default_factory=list)
    assumed: list[str] = field(default_factory=list)


def full_names(checkpoint: Checkpoint) -> dict[str, str]:
    """The names that variables had in the program, by key; an object-based checkpoint has them, where it has them, beside their paths."""
    if OBJECT_GRAPH_KEY not in checkpoint:
        return {}
    return {key: name for name, key in checkpoint.variable_keys().items() if name != display_name(key)}


def read_names(infos: Iterable[TensorInfo], names: Mapping[str, str]) -> Reading:
    """Roles, layers and batch norms of the variables with these names and shapes; no values are looked at."""
    variables = among_others(classify(infos, names))
    linears, norms = match_linears(variables), match_norms(variables)
    matched = {layer.kernel.key for layer in linears.found} | {layer.bias.key for layer in linears.found if layer.bias is not None}
    stray = [v for v in variables if v.info.shape and v.role in (KERNEL, UNKNOWN, EMBEDDING, RECURRENT) and v.key not in matched]
    return Reading(variables, linears.found, norms.found, stray + linears.odd, norms.odd, norms.assumed, norms.uneven)


def assign_roles(infos: Iterable[TensorInfo], names: Mapping[str, str] | None = None) -> list[VariableRole]:
    """The role of each variable, the layer or batch norm that it is part of, and the variable that it was made for; sorted by name.

    Args:
        infos: all variables of a checkpoint: `checkpoint.info(name) for name in checkpoint`.
        names: of an object-based checkpoint, `full_names(checkpoint)`.
    """
    reading = read_names(infos, names or {})
    layers: dict[str, str] = {}
    for layer in reading.linears:
        layers.update({v.key: layer.name for v in (layer.kernel, layer.bias) if v is not None})
    for norm in [*reading.norms, *reading.incomplete]:
        layers.update({v.key: norm.name for v in norm.variables.values()})
    return [VariableRole(v.key, v.role, layers.get(v.key), v.belongs_to) for v in reading.variables]


def choose(prefix: object, reading: Reading, order: Sequence[str], aliases: Mapping[str, str]) -> Choice:
    """The network that the names make up.

    Args:
        prefix: the checkpoint, for messages.
        order: what the user says of the order: names of layers, kernels, batch norms, or scopes whose layers are meant.
        aliases: other names of variables by key.

    Raises:
        ScopeError: the names say nothing, or leave more than one reading.
        UsageError: `order` names what is not there.
    """
    if not reading.linears:
        raise ScopeError(
            f"{prefix}: no variable looks like the kernel of a layer; it holds {listed([_shown(v) for v in reading.variables]) or 'nothing'}"
        )
    if reading.uneven:
        raise ScopeError(
            f"{prefix}: only numbers tell the variables of several batch norms apart, each kind counted by itself, and not all have the same "
            f"numbers, so that nothing says which belong together: {listed(reading.uneven)}; convert with the graph (.meta)"
        )
    if not order:
        _refuse_strays(prefix, reading)
        if apart := networks(reading.linears):
            raise ScopeError(_several_networks(prefix, {scope: _inside(scope, reading.linears) for scope in apart}))
        chain, assumed = _ordered(prefix, reading.linears)
        refuse_doubtful(prefix, chain, reading.norms)
        placement = place_norms(prefix, chain, reading.linears, reading.norms)
        _refuse_betas_that_may_be_biases(prefix, chain, placement.places)
        notes = [*_matched_biases(chain), *reading.assumed, *assumed, *placement.assumed, *_notes_on_biases(chain, placement.places)]
        return Choice(chain, placement.places, [], notes)
    named = _resolved(prefix, reading, order, aliases)
    chain = [part for part in named if isinstance(part, Linear)]
    if not chain:
        raise UsageError(f"--order names no layer; there are {listed([layer.name for layer in reading.linears])}")
    for first, second in pairwise(chain):
        if not follows(first, second):
            raise ScopeError(f"{prefix}: in the order given, {second.label} comes after {first.label}, which it cannot take its input from")
    if any(isinstance(part, Norm) for part in named):
        placement = _placed(prefix, named, chain)
    else:
        placement = place_norms(prefix, chain, reading.linears, reading.norms)
    _refuse_betas_that_may_be_biases(prefix, chain, placement.places)
    _refuse_what_may_be_theirs(prefix, reading, chain)
    kept = {id(part) for part in [*chain, *placement.places.values()]}
    left_out = [layer.name for layer in reading.linears if id(layer) not in kept]
    left_out += [norm.name for norm in reading.norms if id(norm) not in kept]
    left_out += [v.key for v in reading.stray] + [n.name for n in reading.incomplete]
    notes = [*_matched_biases(chain), *reading.assumed, *placement.assumed, *_notes_on_biases(chain, placement.places)]
    return Choice(chain, placement.places, left_out, notes)


def _several_networks(prefix: object, inside: Mapping[str, Sequence[Linear]]) -> str:
    orders = {scope: chains(layers, by_name=True) for scope, layers in inside.items()}
    lines = "".join(
        f"\n  {scope}: {_arrow(orders[scope][0]) if orders[scope] else f'{listed([layer.name for layer in layers])} (no single chain)'}"
        for scope, layers in inside.items()
    )
    example = next((f", for example --order {scope}" for scope, found in orders.items() if len(found) == 1), "")
    return f"{prefix} holds several networks, by the names of their scopes:{lines}\nname one with --order{example}, or all that follow one another"


def _refuse_betas_that_may_be_biases(prefix: object, chain: Sequence[Linear], places: Mapping[int, Norm]) -> None:
    """A bias beside a batch norm without beta is added before it (where its mean takes it away again), or, as Darknet has it, behind it."""
    for place, norm in places.items():
        bias = chain[place - 1].bias if place else None
        if bias is not None and BETA not in norm.variables and bias.path[:-1] == norm.scope:
            raise ScopeError(
                f"{prefix}: {_shown(bias)} is beside the batch norm {norm.name}, which has no beta: no name says whether it is the layer's bias, "
                "added before the batch norm, or the batch norm's beta, added behind it; convert with the graph (.meta)"
            )


def _notes_on_biases(chain: Sequence[Linear], places: Mapping[int, Norm]) -> list[str]:
    pairs = [(chain[place - 1].bias, norm) for place, norm in places.items() if place and BETA not in norm.variables]
    told = [f"{display_name(bias.key)} before {norm.name}" for bias, norm in pairs if bias is not None]
    notes = [f"biases are added before the batch norms, which have no beta: {listed(told)}"] if told else []
    bare = [layer.name for place, layer in enumerate(chain, 1) if layer.bias is None and place not in places]
    if bare and len(bare) < len(chain):
        notes.append(f"no bias belongs to {listed(bare)} by name")
    return notes


def _refuse_what_may_be_theirs(prefix: object, reading: Reading, chain: Sequence[Linear]) -> None:
    """Parts of batch norms, and vectors without a name, that fit a layer in `--order`: without them it would be another network."""

    def fits_one(scope: Path, width: int) -> bool:
        return any(layer.outs == width and layer.kernel.path[: len(scope)] == scope for layer in chain)

    norms = described([norm for norm in reading.incomplete if fits_one(norm.scope[:-1], norm.width)])
    vectors = listed([_shown(v) for v in reading.stray if v.unnamed and v.role == BIAS and fits_one(v.path[:-1], v.width)])
    what = " and ".join(part for part in (norms and f"the batch norms {norms}", vectors and f"the vectors {vectors}") if part)
    if what:
        raise ScopeError(
            f"{prefix}: {what} may belong to the layers that --order names: no name says what they are for, and without them it would be "
            "another network; convert with the graph (.meta)"
        )


def _matched_biases(chain: Sequence[Linear]) -> list[str]:
    pairs = [f"{layer.bias.key} to {layer.kernel.key}" for layer in chain if layer.bias is not None and layer.bias_by_order]
    return [f"biases have no names of their own and were matched by the order in which they were made: {listed(pairs)}"] if pairs else []


def _shown(variable: Named) -> str:
    return f"{display_name(variable.key)} {list(variable.info.shape)}"


def _refuse_strays(prefix: object, reading: Reading) -> None:
    """Variables that a network may compute with, but nobody knows where."""
    hint = "convert with the graph (.meta), or, if another network has them, name the layers of this one with --order"
    if reading.incomplete:
        lost = not any({MEAN, VARIANCE} & norm.variables.keys() for norm in reading.incomplete)
        why = " (layer norms have none, and tf.train.Saver(tf.trainable_variables()) leaves them out)" if lost else ""
        raise ScopeError(
            f"{prefix}: these batch norms have no moving mean and variance of their own, or too many{why}: {described(reading.incomplete)}; {hint}"
        )
    for role, what in ((RECURRENT, "a recurrent network, whose cells"), (EMBEDDING, "embeddings, whose place")):
        found = [v for v in reading.stray if v.role == role]
        if found:
            raise ScopeError(f"{prefix} holds {what} names alone do not tell: {listed([_shown(v) for v in found])}; {hint}")
    only = reading.linears[0]
    if len(reading.linears) == 1 and only.kernel.by_shape and only.bias is None and not reading.norms:
        raise ScopeError(
            f"{prefix}: nothing says that {_shown(only.kernel)} is a layer's kernel, and not an embedding; if it is, give --order {only.name}"
        )
    if reading.stray:
        why = transposed(reading.linears, reading.stray)
        raise ScopeError(f"{prefix}: these variables belong to no layer by name: {listed([_shown(v) for v in reading.stray])}{why}; {hint}")


def _ordered(prefix: object, layers: Sequence[Linear]) -> tuple[list[Linear], list[str]]:
    by_name, by_shape = chains(layers, by_name=True), chains(layers, by_name=False)
    if by_name or by_shape:
        refuse_copies(prefix, (by_name or by_shape)[0])
    if len(by_name) == 1:
        if len(layers) == 1:
            return by_name[0], []
        why = "the only one that their shapes allow" if len(by_shape) == 1 else "that of their numbers and names"
        return by_name[0], [f"the order of the layers is {why}: {_arrow(by_name[0])}"]
    if not by_name and len(by_shape) == 1:
        refuse_transposed(prefix, by_shape[0])
        return by_shape[0], [
            f"the order of the layers is the only one that their shapes allow, though their numbers say another: {_arrow(by_shape[0])}"
        ]
    orders = by_name or by_shape
    if orders:
        refuse_heads(prefix, orders[0])
        why = (
            "more than one order of the layers fits their names and shapes"
            if by_name
            else "the shapes of the layers fit in other orders than their numbers say"
        )
        lines = "\n".join(f"  {_arrow(order)}" for order in orders)
        raise ScopeError(f"{prefix}: {why}:\n{lines}\nsay which with --order, for example --order {','.join(layer.name for layer in orders[0])}")
    parts = parts_that_chain(layers)
    if parts:
        lines = "\n".join(f"  {scope}: {_arrow(inside)}" for scope, inside in list(parts.items())[:12])
        more = f"\n  and {len(parts) - 12} more" if len(parts) > 12 else ""
        advice = f"\nname one with --order, for example --order {next(iter(parts))}, or convert with the graph (.meta)"
        raise ScopeError(f"{prefix}: the {len(layers)} layers are no single chain; these parts are one by themselves:\n{lines}{more}{advice}")
    raise ScopeError(
        f"{prefix}: in no order does each layer take what the one before gives: {listed([layer.label for layer in layers])}; "
        "convert with the graph (.meta), or name the layers that make up one chain with --order"
    )


def _arrow(layers: Sequence[Linear]) -> str:
    return " → ".join(layer.name for layer in layers)


# ---- --order


def _resolved(prefix: object, reading: Reading, order: Sequence[str], aliases: Mapping[str, str]) -> list[Linear | Norm]:
    known: dict[str, Linear | Norm] = {}
    for norm in reading.norms:
        for variable in norm.variables.values():
            known[aliases.get(variable.key, "").rpartition("/")[0] or norm.name] = norm
        known[norm.name] = norm
    for layer in reading.linears:
        key = layer.kernel.key
        names = [key, display_name(key), layer.name]
        if key in aliases:
            names += [aliases[key], aliases[key].rpartition("/")[0]]
        known.update({name: layer for name in names if name})
    parts: list[Linear | Norm] = []
    for entry in order:
        if entry in known:
            parts.append(known[entry])
            continue
        inside = _inside(entry, reading.linears)
        if not inside:
            near = get_close_matches(entry, known, 3)
            hint = f"did you mean {' or '.join(near)}?" if near else f"there are {listed(list(known))}"
            raise UsageError(f"--order: {prefix} has no layer, batch norm or scope {entry!r}; {hint}")
        parts += _ordered(f"{prefix}, scope {entry}", inside)[0]
    twice = [part.name for i, part in enumerate(parts) if any(part is other for other in parts[:i])]
    if twice:
        raise UsageError(f"--order names {listed(twice)} twice")
    return parts


def _inside(scope: str, layers: Sequence[Linear]) -> list[Linear]:
    return [layer for layer in layers if "/".join(layer.kernel.path).startswith(f"{scope.rstrip('/')}/")]


def _placed(prefix: object, named: Sequence[Linear | Norm], chain: Sequence[Linear]) -> Placement:
    """Batch norms where the user says that they stand."""
    placement = Placement()
    place = 0
    for part in named:
        if isinstance(part, Linear):
            place += 1
            continue
        where = f"behind {chain[place - 1].label}" if place else f"before {chain[0].label}"
        if place in placement.places:
            raise ScopeError(f"{prefix}: in the order given, two batch norms stand {where}: {placement.places[place].name} and {part.name}")
        if not fits(part, chain, place):
            raise ScopeError(f"{prefix}: in the order given, {part.name}, which has {part.width} channels, stands {where}")
        placement.places[place] = part
    return placement
