"""The order of layers: the numbers in their names, and shapes of which each takes what the one before gives."""

import re
from collections.abc import Sequence
from itertools import combinations

from bnexport.scopes.linears import Linear
from bnexport.scopes.names import Path, common_scope, precedes, tokens

_FIRST = frozenset({"input", "stem", "first", "encoder", "enc"})
OUTPUTS = frozenset({"out", "output", "outputs", "logit", "logits", "pred", "prediction", "predictions", "softmax", "final", "last"})
_LAST = OUTPUTS | {"decoder", "dec"}
_NETWORKS = frozenset({"generator", "gen", "discriminator", "disc", "dis", "critic", "actor", "target", "teacher", "student"})
"""Scopes of networks that are trained against each other, and are no parts of one."""
_HALVES = re.compile(r"_?(depthwise|pointwise)")
"""What the two kernels of a separable convolution are called after, the first before the second."""
_STEPS = 200_000
"""How often a layer is tried in a place, beyond what a chain in the order of its numbers takes, before an order counts as not to be found."""


def follows(first: Linear, second: Linear) -> bool:
    """Whether `second` can take what `first` gives: as many features or channels, or a dense layer the flattened channels of a convolution."""
    if first.op == "Dense":
        return second.op == "Dense" and first.outs == second.ins
    if second.op == "Dense":
        return second.ins > 0 and first.outs > 0 and second.ins % first.outs == 0
    return first.outs == second.ins


def chains(layers: Sequence[Linear], *, by_name: bool, most: int = 2) -> list[list[Linear]]:
    """Orders of all the layers in which each takes what the one before gives; no more than `most`.

    Args:
        by_name: whether the order must be one that the names do not contradict.
    """
    before: list[set[int]] = [set() for _ in layers]
    if by_name:
        for i, second in enumerate(layers):
            before[i] = {j for j, first in enumerate(layers) if _goes_before(first, second)}
    found: list[list[Linear]] = []
    placed: list[int] = []
    used: set[int] = set()
    tries = [iter(range(len(layers)))]
    steps = _STEPS + 4 * len(layers) ** 2
    while tries and len(found) < most and steps:
        steps -= 1
        i = next(tries[-1], -1)
        if i < 0:
            tries.pop()
            if placed:
                used.remove(placed.pop())
            continue
        if i in used or (placed and not follows(layers[placed[-1]], layers[i])) or not before[i] <= used:
            continue
        if len(placed) + 1 == len(layers):
            found.append([*(layers[k] for k in placed), layers[i]])
            continue
        placed.append(i)
        used.add(i)
        tries.append(iter(range(len(layers))))
    return found


def contradicted(chain: Sequence[Linear]) -> bool:
    """Whether the names say of a later layer in a chain that it comes before an earlier one."""
    return any(_goes_before(later, earlier) for earlier, later in combinations(chain, 2))


def _goes_before(first: Linear, second: Linear) -> bool:
    """Whether the names say that `first` comes before `second`."""
    if first is second:
        return False
    numbered = precedes(first.path, second.path)
    if numbered is None:
        (a, mine), (b, theirs) = _of_separable(first.path), _of_separable(second.path)
        numbered = mine < theirs if a == b and mine and theirs else precedes(a, b)
    if numbered is not None:
        return numbered
    shared = common_scope(first.path, second.path)
    ours, others = (set(tokens(layer.path[shared])) if len(layer.path) > shared else set() for layer in (first, second))
    return bool((ours & _FIRST and not others & _FIRST) or (others & _LAST and not ours & _LAST))


def _of_separable(path: Path) -> tuple[Path, str]:
    """A path without the words that tell the kernels of a separable convolution apart, and the last of these words: `Conv2d_1` for both."""
    words = [match[1] for part in path for match in _HALVES.finditer(part)]
    return (tuple(_HALVES.sub("", part) for part in path), words[-1]) if words else (path, "")


def networks(layers: Sequence[Linear]) -> list[str]:
    """Scopes that are networks of their own, where there are several, as their names say."""
    found: dict[str, frozenset[str]] = {}
    for layer in layers:
        scopes = layer.path if layer.owns_scope else layer.path[:-1]
        for depth, part in enumerate(scopes, 1):
            if words := _NETWORKS.intersection(tokens(part)):
                found.setdefault("/".join(layer.path[:depth]), words)
                break
    return list(found) if len(set(found.values())) > 1 else []


def parts_that_chain(layers: Sequence[Linear]) -> dict[str, list[Linear]]:
    """Scopes whose layers chain by themselves, the widest scopes first: towers, or several networks in one checkpoint."""
    scopes: dict[tuple[str, ...], list[Linear]] = {}
    for layer in layers:
        for depth in range(1, len(layer.path)):
            scopes.setdefault(layer.path[:depth], []).append(layer)
    found: dict[str, list[Linear]] = {}
    for scope in sorted(scopes, key=len):
        inside = scopes[scope]
        covered = any("/".join(scope).startswith(f"{other}/") for other in found)
        if covered or len(inside) < 2 or len(inside) == len(layers):
            continue
        orders = chains(inside, by_name=True)
        if len(orders) == 1:
            found["/".join(scope)] = orders[0]
    return found
