"""Linear layers by name: kernels, and the bias that belongs to each."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

from bnexport.scopes.names import Path, natural_key, tokens
from bnexport.scopes.roles import BIAS, KERNEL, Named

_TRANSPOSED = frozenset({"transpose", "transposed", "deconv", "conv2dtranspose", "deconvolution"})
_DEPTHWISE = frozenset({"depthwise"})


@dataclass
class Linear:
    """A kernel with its bias.

    Attributes:
        kernel: a variable of rank 2 (in, out), 3 (width, in, out), or 4 (height, width, in, out).
        bias: a vector of `outs` numbers; None for a layer without.
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
        _by_name(free, homes)
        _by_creation(free, homes)
        for bias in free:
            if any(layer.bias is bias for layer in homes):
                biases.remove(bias)
    return Linears(layers, biases)


def _layer(kernel: Named, kernels: Sequence[Named]) -> Linear:
    scope = kernel.path[:-1]
    alone = bool(scope) and sum(k.path[:-1] == scope for k in kernels) == 1
    path = scope if alone and (not kernel.rest or kernel.unnamed) else kernel.path
    return Linear(kernel, None, "/".join(path), path, alone)


def _by_name(biases: list[Named], layers: list[Linear]) -> None:
    """`W1_a` with `B1_a`, `weights` with `biases`: what is left of a name without the word for its role is the same."""
    for bias in list(biases):
        if bias.unnamed:
            continue
        same = [layer for layer in layers if not layer.kernel.unnamed and layer.kernel.rest == bias.rest and layer.outs == bias.info.shape[0]]
        if len(same) == 1 and same[0].bias is None:
            same[0].bias = bias
    if len(layers) == 1 and layers[0].bias is None and len(biases) == 1 and biases[0].info.shape[0] == layers[0].outs:
        layers[0].bias = biases[0]


def _by_creation(biases: list[Named], layers: list[Linear]) -> None:
    """Biases without a name: the one made after each kernel, or as many as there are kernels, in the same order."""
    free = [b for b in biases if not any(layer.bias is b for layer in layers)]
    bare = [layer for layer in layers if layer.bias is None]
    if not free or not all(b.unnamed for b in free):
        return
    if all(layer.kernel.unnamed for layer in bare):
        made = sorted([*free, *(layer.kernel for layer in bare)], key=lambda v: natural_key(v.path))
        pairs = [(k, b) for k, b in pairwise(made) if k.role == KERNEL and b.role == BIAS and b.info.shape[0] == k.info.shape[-1]]
        by_kernel = {kernel.key: bias for kernel, bias in pairs}
        for layer in bare:
            layer.bias = by_kernel.get(layer.kernel.key)
    elif [b.info.shape[0] for b in free] == [layer.outs for layer in bare]:
        for layer, bias in zip(bare, free, strict=True):
            layer.bias = bias
    for layer in bare:
        layer.bias_by_order = layer.bias is not None
