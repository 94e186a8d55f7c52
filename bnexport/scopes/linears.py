"""Linear layers by name: kernels, and the bias that belongs to each."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations, pairwise
from math import comb

from bnexport.scopes.names import Path, counted, natural_key, tokens
from bnexport.scopes.roles import BIAS, KERNEL, Named

_TRANSPOSED = frozenset({"transpose", "transposed", "deconv", "conv2dtranspose", "deconvolution"})
_DEPTHWISE = frozenset({"depthwise"})
_MOST_WAYS = 10_000
"""How many ways of giving biases to layers are looked at."""


@dataclass
class Linear:
    """A kernel with its bias.

    Attributes:
        kernel: a variable of rank 2 (in, out), 3 (width, in, out), or 4 (height, width, in, out).
        bias: a vector of `outs` numbers, or a row of them ([1, outs]); None for a layer without.
        name: its scope, or its kernel's name where the scope holds other layers too.
        path: the components of that name.
        owns_scope: whether it is the only layer in its scope.
        bias_by_order: whether nothing but the order in which variables were made says that the bias is its.
    """

    kernel: Named
    bias: Named | None
    name: str
    path: Path
    owns_scope: bool
    bias_by_order: bool = False

    @cached_property
    def op(self) -> str:
        """The operator of the bundle's layer, by the kernel's rank and the words of its name."""
        if len(self.kernel.info.shape) == 2:
            return "Dense"
        words = {word for part in self.kernel.path for word in tokens(part)}
        if _DEPTHWISE & words:
            return "DepthwiseConv2D"
        return "Conv2DTranspose" if _TRANSPOSED & words else "Conv2D"

    @cached_property
    def ins(self) -> int:
        """Input features, or input channels."""
        shape = self.kernel.info.shape
        return shape[-1] if self.op == "Conv2DTranspose" else shape[-2]

    @cached_property
    def outs(self) -> int:
        """Output features, or output channels."""
        shape = self.kernel.info.shape
        return {"DepthwiseConv2D": shape[-1] * shape[-2], "Conv2DTranspose": shape[-2]}.get(self.op, shape[-1])

    @property
    def label(self) -> str:
        """Its name and sizes, for a message."""
        return f"{self.name} ({self.ins} → {self.outs})"


@dataclass(slots=True)
class Linears:
    """What was matched: layers in natural order, and biases that fit none."""

    found: list[Linear]
    odd: list[Named]


def match_linears(variables: Sequence[Named]) -> Linears:
    """Puts kernels and biases together."""
    kernels = sorted((v for v in variables if v.role == KERNEL and 2 <= len(v.info.shape) <= 4), key=lambda v: natural_key(v.path))
    biases = sorted((v for v in variables if v.role == BIAS), key=lambda v: natural_key(v.path))
    layers = [_layer(kernel, kernels) for kernel in kernels]
    for scope in dict.fromkeys(v.path[:-1] for v in biases):
        free = [v for v in biases if v.path[:-1] == scope]
        homes = [layer for layer in layers if layer.kernel.path[:-1] == scope]
        done = _out_of_step(free, homes)
        for match in (_by_name, _by_words, _by_creation):
            match([bias for bias in free if bias.key not in done and not any(layer.bias is bias for layer in homes)], homes)
        for bias in free:
            if any(layer.bias is bias for layer in homes):
                biases.remove(bias)
    return Linears(layers, biases)


def _layer(kernel: Named, kernels: Sequence[Named]) -> Linear:
    scope = kernel.path[:-1]
    alone = bool(scope) and sum(k.path[:-1] == scope for k in kernels) == 1
    path = scope if alone and (kernel.unnamed or not set(kernel.rest) - _DEPTHWISE) else kernel.path
    return Linear(kernel, None, "/".join(path), path, alone)


def _out_of_step(biases: list[Named], layers: list[Linear]) -> set[str]:
    """`w`, `w_1`, `w_2` and only `b`: where TensorFlow counts each name by itself and not every layer has a bias, the numbers do not say which has.

    Their order and widths may: a bias was made later than the ones before it, for a later layer. Otherwise such biases are nobody's, and what is
    nobody's is refused. Gives the keys of the biases that it has seen to.
    """
    families, done = _families(biases), set[str]()
    for family, kernels in _families([layer.kernel for layer in layers]).items():
        counts, others = list(kernels), list(families.get(family, {}))
        if None not in counts or len(counts) == 1 or not others or counts == others:
            continue
        homes = [next(layer for layer in layers if layer.kernel is kernel) for kernel in kernels.values()]
        counted_biases = list(families[family].values())
        done.update(bias.key for bias in counted_biases)
        if len(counted_biases) > len(homes) or comb(len(homes), len(counted_biases)) > _MOST_WAYS:
            continue
        ways = [
            way
            for way in combinations(homes, len(counted_biases))
            if all(layer.outs == bias.width for layer, bias in zip(way, counted_biases, strict=True))
        ]
        if len(ways) == 1:
            for layer, bias in zip(ways[0], counted_biases, strict=True):
                layer.bias, layer.bias_by_order = bias, True
    return done


def _families(variables: Sequence[Named]) -> dict[Path, dict[str | None, Named]]:
    """Variables of one scope by name without its number, then by number."""
    families: dict[Path, dict[str | None, Named]] = {}
    for variable in variables:
        if not variable.unnamed:
            words, number = counted(variable.rest)
            families.setdefault(words, {})[number] = variable
    return families


def _by_name(biases: list[Named], layers: list[Linear]) -> None:
    """`W1_a` with `B1_a`, `weights` with `biases`: what is left of a name without the word for its role is the same."""
    for bias in biases:
        if bias.unnamed:
            continue
        same = [layer for layer in layers if not layer.kernel.unnamed and layer.kernel.rest == bias.rest and layer.outs == bias.width]
        if not same:  # a separable convolution, whose bias is added behind its second kernel
            same = [layer for layer in layers if layer.kernel.rest == (*bias.rest, "pointwise") and layer.outs == bias.width]
        if len(same) == 1 and same[0].bias is None:
            same[0].bias = bias
    if len(layers) == 1 and layers[0].bias is None and len(biases) == 1 and biases[0].width == layers[0].outs:
        layers[0].bias = biases[0]


def _by_words(biases: list[Named], layers: list[Linear]) -> None:
    """`encoder_h1` with `encoder_b1`, `Theta1` with `bias1`: a kernel that is called something else has all the words of one bias alone."""
    homes = {
        bias.key: [
            layer
            for layer in layers
            if layer.bias is None
            and layer.kernel.by_shape
            and not layer.kernel.unnamed
            and layer.outs == bias.width
            and _is_within(bias.rest, layer.kernel.rest)
        ]
        for bias in biases
        if bias.rest and not bias.unnamed
    }
    claims = Counter(id(layer) for found in homes.values() for layer in found)
    for bias in biases:
        found = homes.get(bias.key, [])
        if len(found) == 1 and claims[id(found[0])] == 1:
            found[0].bias = bias


def _is_within(words: Path, others: Path) -> bool:
    """Whether words stand among others, in the same order."""
    rest = iter(others)
    return all(word in rest for word in words)


def _by_creation(biases: list[Named], layers: list[Linear]) -> None:
    """Biases without a name: the one made after each kernel, or as many as there are kernels, in the same order."""
    bare = [layer for layer in layers if layer.bias is None]
    if not biases or not all(b.unnamed for b in biases):
        return
    in_order = [b.width for b in biases] == [layer.outs for layer in bare]
    if all(layer.kernel.unnamed for layer in bare):
        made = sorted([*biases, *(layer.kernel for layer in bare)], key=lambda v: natural_key(v.path))
        outs = {layer.kernel.key: layer.outs for layer in bare}
        by_kernel = {k.key: b for k, b in pairwise(made) if k.role == KERNEL and b.role == BIAS and b.width == outs[k.key]}
        if len(by_kernel) < len(biases) and in_order:  # all kernels, and then all biases
            by_kernel = {layer.kernel.key: bias for layer, bias in zip(bare, biases, strict=True)}
        for layer in bare:
            layer.bias = by_kernel.get(layer.kernel.key)
    elif in_order:
        for layer, bias in zip(bare, biases, strict=True):
            layer.bias = bias
    for layer in bare:
        layer.bias_by_order = layer.bias is not None
