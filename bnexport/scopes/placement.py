"""Where batch norms stand between linear layers: by scope, by number, by the numbers of channels.

A place is a number: 0 is the network's input, k is behind the k-th layer.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from bnexport.errors import ScopeError
from bnexport.scopes.linears import Linear
from bnexport.scopes.names import common_scope, last_number, listed, precedes, tokens
from bnexport.scopes.norms import Norm

_NORM_WORDS = frozenset({"bn", "batch", "norm", "batchnorm", "normalization", "batchnormalization", "batchnormalize"})
_STEPS = 200_000
"""How often a batch norm is tried in a place before the search ends."""
_READINGS = 50
"""How many readings are looked at before there are simply too many."""


@dataclass(slots=True)
class Placement:
    """Batch norms by place, those of layers that were not chosen, sentences on what was assumed, and which (by id) their names did not place."""

    places: dict[int, Norm] = field(default_factory=dict)
    elsewhere: list[Norm] = field(default_factory=list)
    assumed: list[str] = field(default_factory=list)
    by_width: set[int] = field(default_factory=set)


def place_norms(prefix: object, chain: Sequence[Linear], every: Sequence[Linear], norms: Sequence[Norm]) -> Placement:
    """Finds the place of each batch norm in a chain of layers.

    Args:
        prefix: the checkpoint, for messages.
        chain: the layers in their order.
        every: these and all others in the checkpoint; a batch norm that is closer to others is theirs.
        norms: complete batch norms in natural order.

    Raises:
        ScopeError: a batch norm fits nowhere, or several readings are left.
    """
    result = Placement()
    families: dict[tuple[int, ...], list[Norm]] = {}
    for norm in norms:
        near = set(map(id, _nearest(prefix, norm, chain, every)))
        slots = tuple(k for k, layer in enumerate(chain, 1) if id(layer) in near)
        if slots:
            families.setdefault(slots, []).append(norm)
        else:
            result.elsewhere.append(norm)
    owners = {id(norm): owner for slots, family in families.items() for norm in family if (owner := _owner(norm, chain, slots, family)) is not None}
    before = _stand_before([(norm, chain[owners[id(norm)] - 1]) for norm in norms if id(norm) in owners])
    for slots, family in families.items():
        left = []
        for norm in family:
            place = _place_in_series(norm, chain, slots)
            if place is None and (owner := owners.get(id(norm))) is not None:
                place = _place_beside(norm, chain, owner, before=before)
            if place is None or not fits(norm, chain, place):
                left.append(norm)
            elif place in result.places:
                where = f"behind {chain[place - 1].name}" if place else "on the input"
                raise ScopeError(
                    f"{prefix}: the names of two batch norms, {result.places[place].name} and {norm.name}, say that they stand {where}; "
                    "say which, and all other batch norms and layers, in their order with --order"
                )
            else:
                result.places[place] = norm
        if left:
            _place_by_width(prefix, result, left, chain, slots)
    by_name = {place: norm for place, norm in result.places.items() if id(norm) not in result.by_width}
    if by_name:
        result.assumed.insert(0, f"{_described(chain, by_name)}: by their names")
    return result


def _nearest(prefix: object, norm: Norm, chain: Sequence[Linear], every: Sequence[Linear]) -> Sequence[Linear]:
    """The layers that a batch norm may belong to; where an order leaves layers out, some of those that it names, or of the others, as names have it.

    Raises:
        ScopeError: its name does not say it.
    """
    near = _closest(norm, every)
    chosen = set(map(id, chain))

    def undecided() -> bool:
        return len({id(layer) in chosen for layer in near}) > 1

    if undecided():
        near = _least(near, lambda layer: len(layer.path))
    if undecided():
        near = _least(near, lambda layer: -_shared_words(norm, layer))
    if undecided():
        near = [layer for layer in near if _is_inside(norm, layer) or _is_called_after(norm, layer)] or near
    if undecided():
        others = [layer for layer in near if id(layer) not in chosen and norm.width in (layer.ins, layer.outs)]
        if others and any(id(layer) in chosen and norm.width in (layer.ins, layer.outs) for layer in near):
            raise ScopeError(
                f"{prefix}: {norm.name} ({norm.width} channels) may belong to layers that --order names, and to {listed([o.label for o in others])}, "
                "which it does not name: put the batch norms into --order too, each where it stands, or convert with the graph (.meta)"
            )
    return near


def _least(layers: Sequence[Linear], measure: Callable[[Linear], int]) -> list[Linear]:
    measures = [measure(layer) for layer in layers]
    least = min(measures, default=0)
    return [layer for layer, found in zip(layers, measures, strict=True) if found == least]


def _shared_words(norm: Norm, layer: Linear) -> int:
    """How many words the names have in common at their beginning (`g_bn1` and `g_W2`), behind the scopes that they share."""
    shared = common_scope(layer.path, norm.path)
    if shared in (len(layer.path), len(norm.path)):
        return 0
    return common_scope(tokens(layer.path[shared]), tokens(norm.path[shared]))


def _closest(norm: Norm, layers: Sequence[Linear]) -> list[Linear]:
    """The layers whose scope shares most components with a batch norm."""
    return _least(layers, lambda layer: -common_scope(layer.path[:-1], norm.path))


def fits(norm: Norm, chain: Sequence[Linear], place: int) -> bool:
    """Whether a batch norm has as many channels as there are at a place."""
    if place == 0:
        return norm.width == chain[0].ins
    return norm.width == chain[place - 1].outs or (place < len(chain) and norm.width == chain[place].ins)


# ---- by scope


def _place_beside(norm: Norm, chain: Sequence[Linear], owner: int, *, before: bool) -> int:
    """The place of a batch norm whose name says which layer it belongs to: behind it, or before it where its width or others like it say so."""
    layer = chain[owner - 1]
    return owner if norm.width == layer.outs and not (before and norm.width == layer.ins) else owner - 1


def _owner(norm: Norm, chain: Sequence[Linear], slots: Sequence[int], family: Sequence[Norm]) -> int | None:
    """The number of the layer in whose scope a batch norm is, after which it is called, or beside which it is in a scope of these two alone
    (`l1/dense` and `l1/batch_normalization`); None where that is not one.
    """
    owners = [k for k in slots if _is_inside(norm, chain[k - 1])] or [k for k in slots if _is_called_after(norm, chain[k - 1])]
    if not owners and len(slots) == len(family) == 1 and common_scope(chain[slots[0] - 1].path[:-1], norm.path):
        return slots[0]
    return owners[0] if len(owners) == 1 else None


def _stand_before(owned: Sequence[tuple[Norm, Linear]]) -> bool:
    """Whether batch norms stand before the layers that their names say: as those do whose width allows nothing else."""
    before = any(norm.width == layer.ins != layer.outs for norm, layer in owned)
    return before and not any(norm.width == layer.outs != layer.ins for norm, layer in owned)


def _is_inside(norm: Norm, layer: Linear) -> bool:
    """`layer1/bn` in the scope of `layer1/W`."""
    return layer.owns_scope and norm.path[: len(layer.path)] == layer.path


def _is_called_after(norm: Norm, layer: Linear) -> bool:
    """`conv1_bn` or `bn_conv1` beside `conv1`."""
    wanted = tokens(layer.path[-1])
    if all(word.isdigit() for word in wanted) or norm.path[: len(layer.path) - 1] != layer.path[:-1]:
        return False
    names = [tuple(word for word in tokens(part) if word not in _NORM_WORDS) for part in norm.path[len(layer.path) - 1 :]]
    return wanted in names


def _place_in_series(norm: Norm, chain: Sequence[Linear], slots: Sequence[int]) -> int | None:
    """The place where layers and batch norms are counted together: `layer_with_weights-1` behind `layer_with_weights-0`."""
    place = slots[0] - 1
    for k in slots:
        path = chain[k - 1].path
        together = not norm.rest and len(path) == len(norm.scope) and common_scope(path, norm.scope) == len(path) - 1
        earlier = precedes(path, norm.scope) if together and chain[k - 1].owns_scope else None
        if earlier is None:
            return None
        if earlier:
            place = k
    return place


# ---- by number and width


def _place_by_width(prefix: object, result: Placement, norms: Sequence[Norm], chain: Sequence[Linear], slots: Sequence[int]) -> None:
    free = [k for k in slots if k not in result.places]
    on_input = 0 not in result.places and slots[0] == 1
    readings = sorted(_readings(norms, chain, [0, *free] if on_input else free), key=lambda reading: 0 in reading.values())
    if not readings:
        raise ScopeError(
            f"{prefix}: the batch norms {_widths(norms)} fit behind no layers: these are {listed([layer.label for layer in chain])}; "
            "say which layers and batch norms make up the network, in their order, with --order"
        )
    by_number = _numbered(norms, chain, free)
    whole_numbering = by_number if len(by_number) == len(norms) else None
    if len(readings) == 1:
        chosen = readings[0]
        contradicted = any(chosen[i] != place for i, place in by_number.items() if norms[i].width == chain[place - 1].outs)
        if contradicted:
            raise ScopeError(_ambiguous(prefix, chain, norms, [chosen, {**chosen, **by_number}]))
    else:
        counted = None if result.places else _counted(norms, free, chain)
        likely = [r for r in (whole_numbering, counted) if r is not None and _is_reading(r, norms, chain)]
        # A batch norm behind the last layer is as rare as one on the input; of a single layer that is what is left of a network.
        may_lead = any(0 in reading.values() for reading in readings)
        likely = [r for r in likely if len(chain) not in r.values() or not may_lead or len(chain) == 1]
        if not likely or any(r != likely[0] for r in likely):
            raise ScopeError(_ambiguous(prefix, chain, norms, readings))
        chosen = likely[0]
    how = "there is one for each hidden layer, in the order of their numbers"
    if len(readings) == 1:
        how = "their sizes allow nothing else"
    elif whole_numbering == chosen:
        how = "their numbers agree"
    result.assumed.append(f"{_reading(chain, norms, chosen)}: {how}")
    if len(readings) > 1:
        result.assumed.append("the sizes of these batch norms fit other places too")
    for i, place in chosen.items():
        result.places[place] = norms[i]
        result.by_width.add(id(norms[i]))


Reading = dict[int, int]
"""The place of each batch norm, by its position in the list."""


def _readings(norms: Sequence[Norm], chain: Sequence[Linear], free: Sequence[int]) -> list[Reading]:
    """All ways to put batch norms in places of their width, in the order of their numbers; not more than a few dozen."""
    options = [[place for place in free if fits(norm, chain, place)] for norm in norms]
    if _are_ordered(norms):
        options = _between(options)
    found: list[Reading] = []
    chosen: list[int] = []
    tries = [iter(options[0])]
    steps = _STEPS
    while tries and len(found) < _READINGS and steps:
        steps -= 1
        place = next(tries[-1], None)
        if place is None:
            tries.pop()
            if chosen:
                chosen.pop()
            continue
        if place in chosen or not _in_order(norms, chosen, place):
            continue
        if len(chosen) + 1 == len(norms):
            found.append(dict(enumerate([*chosen, place])))
            continue
        chosen.append(place)
        tries.append(iter(options[len(chosen)]))
    return found


def _is_reading(reading: Reading, norms: Sequence[Norm], chain: Sequence[Linear]) -> bool:
    places = [reading[i] for i in range(len(norms))]
    apart = len(set(places)) == len(places)
    return apart and all(fits(norm, chain, places[i]) and _in_order(norms, places[:i], places[i]) for i, norm in enumerate(norms))


def _are_ordered(norms: Sequence[Norm]) -> bool:
    """Whether numbers say of each batch norm that it comes before the next."""
    return all(precedes(a.path, b.path) for a, b in pairwise(norms))


def _between(options: list[list[int]]) -> list[list[int]]:
    """Of the places of batch norms whose order is known, those that leave a place for each one before and after."""
    earliest, latest = _greedy(options), _greedy([[-place for place in reversed(places)] for places in reversed(options)])
    if earliest is None or latest is None:
        return [[] for _ in options]
    last = [-place for place in reversed(latest)]
    return [[p for p in places if first <= p <= end] for places, first, end in zip(options, earliest, last, strict=True)]


def _greedy(options: list[list[int]]) -> list[int] | None:
    """The first increasing choice of one place of each list."""
    chosen: list[int] = []
    for places in options:
        place = next((p for p in places if not chosen or p > chosen[-1]), None)
        if place is None:
            return None
        chosen.append(place)
    return chosen


def _in_order(norms: Sequence[Norm], chosen: Sequence[int], place: int) -> bool:
    new = norms[len(chosen)].path
    return not any(place < other and precedes(norm.path, new) for norm, other in zip(norms, chosen, strict=False))


def _numbered(norms: Sequence[Norm], chain: Sequence[Linear], free: Sequence[int]) -> Reading:
    """The batch norms whose number a layer has too: `bn2` and `fc2`, `batch_normalization_1` and `dense_1`.

    Numbers of which the first is left out (`bn`, `bn_1`) are TensorFlow's, which counts batch norms and layers each for themselves: they say nothing.
    """
    numbers = [last_number(norm.path) for norm in norms]
    layers = {place: last_number(chain[place - 1].path) for place in free if place > 0}
    bare = {layer.path for layer in chain if last_number(layer.path) is None}
    counted_by_tensorflow = any((*layer.path[:-1], layer.path[-1].rpartition("_")[0]) in bare for layer in chain)
    if None in numbers or counted_by_tensorflow:
        return {}
    reading: Reading = {}
    for i, number in enumerate(numbers):
        same = [place for place, other in layers.items() if other == number]
        if len(same) == 1:
            reading[i] = same[0]
    return reading


def _counted(norms: Sequence[Norm], free: Sequence[int], chain: Sequence[Linear]) -> Reading | None:
    """The first batch norm behind the first layer and so on, where numbers order them and there is one for each layer, or each but the last."""
    behind = [place for place in free if place > 0]
    numbers = [last_number(norm.path) or 0 for norm in norms]
    gaps = len(set(numbers)) > 1 and any(b != a + 1 for a, b in pairwise(numbers))
    if gaps or not _are_ordered(norms) or len(norms) not in (len(behind), len(behind) - (len(chain) in behind)):
        return None
    return dict(enumerate(behind[: len(norms)]))


# ---- messages


def _widths(norms: Sequence[Norm]) -> str:
    return listed([f"{norm.name} ({norm.width} channels)" for norm in norms])


def _reading(chain: Sequence[Linear], norms: Sequence[Norm], reading: Reading) -> str:
    return _described(chain, {place: norms[i] for i, place in sorted(reading.items())})


def _described(chain: Sequence[Linear], places: Mapping[int, Norm]) -> str:
    return ", ".join(f"{norm.name} {f'behind {chain[place - 1].name}' if place else 'on the input'}" for place, norm in places.items())


def _ambiguous(prefix: object, chain: Sequence[Linear], norms: Sequence[Norm], readings: Sequence[Reading]) -> str:
    lines = [f"  {_reading(chain, norms, reading)}" for reading in readings[:4]]
    if len(readings) > 4:
        lines.append("  and others")
    example = [norms[i].name for i, place in readings[0].items() if place == 0]
    for k, layer in enumerate(chain, 1):
        example += [layer.name, *(norms[i].name for i, place in readings[0].items() if place == k)]
    return (
        f"{prefix}: names and shapes leave more than one reading of where the batch norms stand:\n"
        + "\n".join(lines)
        + f"\nsay the order of all layers and batch norms with --order, for example --order {','.join(example)}"
    )
