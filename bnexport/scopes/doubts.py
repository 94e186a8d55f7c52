"""What makes it doubtful that layers, whose shapes fit one behind another, are a chain: an order that the user gives settles each of these."""

from collections.abc import Iterator, Sequence
from itertools import combinations, pairwise

from bnexport.errors import ScopeError
from bnexport.scopes.linears import Linear
from bnexport.scopes.names import Path, common_scope, listed, precedes, tokens
from bnexport.scopes.norms import Norm
from bnexport.scopes.order import OUTPUTS, contradicted, follows
from bnexport.scopes.roles import Named

_BESIDE = (
    # Words of layers that take the same tensor, and are never one behind the other.
    (frozenset({"policy", "pi", "actor"}), frozenset({"value", "vf", "critic", "advantage", "adv"})),
    (frozenset({"value", "vf"}), frozenset({"advantage", "adv"})),
    (frozenset({"mean", "mu", "loc"}), frozenset({"std", "logstd", "stddev", "sigma", "var", "logvar", "variance"})),
)
_ENDS = OUTPUTS.union(*(words for pair in _BESIDE for words in pair))


def refuse_doubtful(prefix: object, chain: Sequence[Linear], norms: Sequence[Norm]) -> None:
    """
    Args:
        norms: the batch norms, which stand behind layers as wide as they are.

    Raises:
        ScopeError: the chain has two layers whose names say that they stand beside each other, or one that may be no layer.
    """
    refuse_heads(prefix, chain)
    _refuse_rivals(prefix, chain)
    _refuse_odd_kernels(prefix, chain, norms)


def refuse_heads(prefix: object, chain: Sequence[Linear]) -> None:
    """
    Raises:
        ScopeError: two layers of a chain are called as if they took the same tensor.
    """
    spoken = [layer for layer in chain if any(_ENDS.intersection(tokens(part)) for part in layer.path)]
    for first, second in combinations(spoken, 2):
        if _are_beside(first, second) and _may_take_the_same(chain, first, second):
            raise ScopeError(
                f"{prefix}: {first.name} and {second.name} are called like two ends of one network, which stand beside each other, though the shapes "
                f"of the layers fit one behind another: {' → '.join(layer.name for layer in chain)}; name the layers of one of them with --order"
                f"{_example([layer for layer in chain if layer is not second])}"
            )


def refuse_copies(prefix: object, layers: Sequence[Linear]) -> None:
    """A network and its target, or the towers of an ensemble, can be one behind the other where all of them take what they give.

    Raises:
        ScopeError: scopes with layers of the same names and shapes are all there is.
    """
    shared = min(common_scope(layers[0].kernel.path, layer.kernel.path) for layer in layers)
    scopes: dict[str, dict[Path, tuple[int, ...]]] = {}
    for layer in layers:
        if layer.op == "DepthwiseConv2D":  # one layer with the kernel behind it
            continue
        scope, rest = layer.kernel.path[: shared + 1], layer.kernel.path[shared + 1 :]
        scopes.setdefault("/".join(scope), {})[rest] = layer.kernel.info.shape
    contents = list(scopes.values())
    if len(contents) > 1 and len(contents[0]) > 1 and all(other == contents[0] for other in contents):
        raise ScopeError(
            f"{prefix}: {listed(list(scopes))} hold layers of the same names and shapes: copies of one network, of which --order {next(iter(scopes))}"
            f" names one, or parts of one, which --order {','.join(scopes)} puts one behind the other"
        )


def _are_beside(first: Linear, second: Linear) -> bool:
    a, b = _own_words(first.path, second.path)
    if a & OUTPUTS and b & OUTPUTS and precedes(first.path, second.path) is None:
        return True
    return any((a & one and b & other and not b & one) or (b & one and a & other and not a & one) for one, other in _BESIDE)


def _may_take_the_same(chain: Sequence[Linear], first: Linear, second: Linear) -> bool:
    """Whether what the first of two layers takes, or something before it, has the width that the second takes."""
    return chain[0].ins == second.ins or any(follows(layer, second) for layer in chain[: chain.index(first)])


def _own_words(first: Path, second: Path) -> Iterator[set[str]]:
    """The words of the first components in which two paths differ."""
    shared = common_scope(first, second)
    return (set(tokens(path[shared])) if len(path) > shared else set() for path in (first, second))


def _refuse_rivals(prefix: object, chain: Sequence[Linear]) -> None:
    """`G_W1` and `D_W1`, or `G/h0` and `D/h0`: a generator, and the discriminator that its results go into in training."""
    shared = min(common_scope(chain[0].path, layer.path) for layer in chain)
    firsts = [tokens(layer.path[shared])[:1] if len(layer.path) > shared else () for layer in chain]
    if set(firsts) == {("g",), ("d",)}:
        sides = [[layer for layer, first in zip(chain, firsts, strict=True) if first == (side,)] for side in "gd"]
        raise ScopeError(
            f"{prefix}: the names begin with G and D, as of two networks, a generator and a discriminator: name the layers of one, or of both as "
            f"they follow one another, with --order{' or'.join(f' {_names(side)}' for side in sides)}"
        )


def _refuse_odd_kernels(prefix: object, chain: Sequence[Linear], norms: Sequence[Norm]) -> None:
    """A matrix without a bias, and without a kernel's name, among layers that all have both: the centres of a loss, a logarithm of deviations."""
    odd = [
        layer
        for layer in chain
        if layer.op == "Dense" and layer.kernel.by_shape and layer.bias is None and not layer.kernel.unnamed
        if not OUTPUTS.intersection(tokens(layer.path[-1])) and all(norm.width != layer.outs for norm in norms)
    ]
    others = [layer for layer in chain if layer not in odd]
    if len(others) > len(odd) > 0 and all(layer.bias is not None and not layer.kernel.by_shape for layer in others):
        what = listed([f"{layer.name} {list(layer.kernel.info.shape)}" for layer in odd])
        without = f"; if not, --order {_names(others)}" if _chained(others) else ""
        raise ScopeError(
            f"{prefix}: {what} may be a layer's kernel by shape alone, among layers that have a bias and a kernel's name; if it is, give --order "
            f"{_names(chain)}{without}"
        )


def refuse_transposed(prefix: object, chain: Sequence[Linear]) -> None:
    """Kernels of (out, in) make a chain the other way round than their names say. The width of a bias tells.

    Args:
        chain: the only one that the shapes allow, and the names speak against.

    Raises:
        ScopeError: the names say the other way round.
    """
    if all(layer.op == "Dense" and (layer.bias is None or layer.ins == layer.outs) for layer in chain) and not contradicted(chain[::-1]):
        raise ScopeError(
            f"{prefix}: the shapes allow the order {listed([layer.label for layer in chain])} alone, and the names say the other way round, as "
            f"with kernels that are stored as (out, in): if these are not, give --order {_names(chain)}; if they are, convert with the graph (.meta)"
        )


def transposed(layers: Sequence[Linear], strays: Sequence[Named]) -> str:
    """A sentence on kernels that seem to be stored as (out, in), as the vectors that belong to no layer say; empty where they do not."""
    dense = [layer for layer in layers if layer.op == "Dense" and layer.bias is None]
    widths = sorted(max(v.info.shape, default=1) for v in strays)
    if len(dense) != len(layers) or widths != sorted(layer.ins for layer in dense) or widths == sorted(layer.outs for layer in dense):
        return ""
    return f"; each is as long as a kernel has rows, as if kernels were stored as (out, in): {listed([layer.label for layer in dense])}"


def _names(layers: Sequence[Linear]) -> str:
    return ",".join(layer.name for layer in layers)


def _chained(layers: Sequence[Linear]) -> bool:
    return all(follows(first, second) for first, second in pairwise(layers))


def _example(layers: Sequence[Linear]) -> str:
    return f", for example --order {_names(layers)}" if _chained(layers) else ""
