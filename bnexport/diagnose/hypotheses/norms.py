"""What people get wrong in the formula of batch norm, and in the numbers that they put into it."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from bnexport.batchnorms import BatchNorm
from bnexport.diagnose.case import Case, Hypothesis, Index, Numbers, Shown, Site, Variant
from bnexport.diagnose.network import Formula, Network, Values
from bnexport.kernels.table import NDArray

EPSILONS = (1e-5, 1e-4, 1e-2, 1e-6, 1e-7, 1e-8, 1e-9, 1e-12, 1e-3)
"""Those that libraries and people take: PyTorch, slim's ResNet, hand-written code, …"""
KEPT_BATCHES = (8, 16, 32, 50, 64, 100, 128, 200, 256, 512)
"""Batch sizes for which a moving variance may have been turned from n to n - 1 or back."""


@dataclass(frozen=True, slots=True)
class Terms:
    """The six numbers of a batch norm, as arrays that broadcast against x.

    Attributes:
        axes: those of x that the statistics of a batch are taken over; none for a single unit.
    """

    x: Any
    mean: Any
    var: Any
    scale: Any
    offset: Any
    eps: Any
    axes: tuple[int, ...] = ()

    def named(self) -> dict[str, Any]:
        """The numbers by the names that formulas use."""
        return {name: getattr(self, name) for name in ("x", "mean", "var", "scale", "offset", "eps")}


@dataclass(frozen=True, slots=True)
class Rule:
    """A batch norm's formula, and the numbers that go into it.

    Attributes:
        formula: the text.
        compute: the same as a function.
        terms: what becomes of the right numbers.
        detail: which of several variants it is.
        alone: whether it can be tried on a single unit, without the rest of the layer and of the batch.
    """

    formula: str
    compute: Callable[[Terms], NDArray]
    terms: Callable[[Terms], Terms] = lambda t: t
    detail: str = ""
    alone: bool = True

    def __call__(self, terms: Terms) -> NDArray:
        """The batch norm of x by this rule."""
        return np.asarray(self.compute(self.terms(terms)))


RIGHT = Rule("scale * (x - mean) / sqrt(var + eps) + offset", lambda t: t.scale * (t.x - t.mean) / np.sqrt(t.var + t.eps) + t.offset)
"""tf.nn.batch_normalization; Ioffe and Szegedy 2015, algorithm 2."""


def _formula(text: str, compute: Callable[[Terms], NDArray], detail: str = "") -> Rule:
    return Rule(text, compute, detail=detail)


def _numbers(terms: Callable[[Terms], Terms], detail: str = "", *, alone: bool = True) -> Rule:
    """The right formula of other numbers."""
    return Rule(RIGHT.formula, RIGHT.compute, terms, detail, alone)


def _batch(terms: Terms, *, less: int = 0, axes: tuple[int, ...] | None = None) -> Terms:
    over = terms.axes if axes is None else axes
    mean = terms.x.mean(over, keepdims=True)
    count = int(np.prod([terms.x.shape[axis] for axis in over]))
    return replace(terms, mean=mean, var=np.square(terms.x - mean).sum(over, keepdims=True) / np.float64(count - less))


def _count(terms: Terms) -> int:
    return int(np.prod([terms.x.shape[axis] for axis in terms.axes]))


def _unbiased(terms: Terms, *, count: int | None, up: bool) -> Terms:
    """The moving variance as of n - 1 (`up`) where it is of n, or the reverse; n is that of the rows given where it is None."""
    n = count or max(2, _count(terms))
    return replace(terms, var=terms.var * (n / (n - 1) if up else (n - 1) / n))


_MOVING_N = [
    _numbers(partial(_unbiased, count=n, up=up), f"moving variance * {factor}, n = {n or 'rows given'}", alone=n is not None)
    for up, factor in ((True, "n / (n - 1)"), (False, "(n - 1) / n"))
    for n in (None, *KEPT_BATCHES)
]

_FORMULA = "TensorFlow computes scale * (x - mean) / sqrt(var + eps) + offset."

RULES: dict[str, tuple[str, Sequence[Rule]]] = {
    "epsilon outside the square root": (
        f"Add epsilon to the variance before you take the square root: {_FORMULA}",
        [_formula("scale * (x - mean) / (sqrt(var) + eps) + offset", lambda t: t.scale * (t.x - t.mean) / (np.sqrt(t.var) + t.eps) + t.offset)],
    ),
    "no epsilon": (
        f"Add epsilon to the variance: {_FORMULA}",
        [_numbers(lambda t: replace(t, eps=t.eps * 0))],
    ),
    "another epsilon": (
        "Take the epsilon that the graph has; every library has another default.",
        [_numbers(partial(lambda e, t: replace(t, eps=t.eps * 0 + e), e), f"{e:g}") for e in EPSILONS],
    ),
    "variance used as the standard deviation": (
        f"What the checkpoint holds is the variance, of which the square root is still to be taken: {_FORMULA}",
        [
            _formula("scale * (x - mean) / (var + eps) + offset", lambda t: t.scale * (t.x - t.mean) / (t.var + t.eps) + t.offset),
            _formula("scale * (x - mean) / var + offset", lambda t: t.scale * (t.x - t.mean) / t.var + t.offset, "without epsilon"),
            _formula(
                "scale * (x - mean) / sqrt(var**2 + eps) + offset",
                lambda t: t.scale * (t.x - t.mean) / np.sqrt(t.var**2 + t.eps) + t.offset,
                "squared first",
            ),
        ],
    ),
    "standard deviation used as the variance": (
        f"Take the square root once: {_FORMULA}",
        [
            _formula(
                "scale * (x - mean) / sqrt(sqrt(var) + eps) + offset", lambda t: t.scale * (t.x - t.mean) / np.sqrt(np.sqrt(t.var) + t.eps) + t.offset
            ),
            _formula(
                "scale * (x - mean) / sqrt(sqrt(var + eps)) + offset",
                lambda t: t.scale * (t.x - t.mean) / np.sqrt(np.sqrt(t.var + t.eps)) + t.offset,
                "with epsilon inside",
            ),
        ],
    ),
    "batch statistics instead of the moving ones": (
        "At inference take the moving mean and variance of the checkpoint, not those of the rows at hand (phase_train, is_training: False).",
        [
            _numbers(_batch, alone=False),
            _numbers(partial(_batch, axes=(0,)), "over the rows alone, at each position by itself", alone=False),
        ],
    ),
    "n - 1 instead of n in the variance": (
        "TensorFlow's variance divides by n (np.var as it is, torch.var with unbiased=False).",
        [_numbers(partial(_batch, less=1), "statistics of the batch", alone=False), *_MOVING_N],
    ),
    "offset (beta) forgotten": (f"Add the offset at the end: {_FORMULA}", [_numbers(lambda t: replace(t, offset=t.offset * 0))]),
    "scale (gamma) forgotten": (f"Multiply by the scale: {_FORMULA}", [_numbers(lambda t: replace(t, scale=t.scale * 0 + 1))]),
    "scale and offset (gamma and beta) forgotten": (
        f"Multiply by the scale, and add the offset: {_FORMULA}",
        [_numbers(lambda t: replace(t, scale=t.scale * 0 + 1, offset=t.offset * 0))],
    ),
    "scale and offset (gamma and beta) swapped": (
        f"gamma is the scale and beta the offset: {_FORMULA}",
        [_numbers(lambda t: replace(t, scale=t.offset, offset=t.scale))],
    ),
    "mean forgotten": (f"Subtract the moving mean: {_FORMULA}", [_numbers(lambda t: replace(t, mean=t.mean * 0))]),
    "mean and variance swapped": (
        "In the seed's idiom moments/Squeeze is the mean and moments/Squeeze_1 the variance.",
        [_numbers(lambda t: replace(t, mean=t.var, var=t.mean))],
    ),
    "moving statistics never loaded": (
        "The mean is still 0 and the variance 1, as before training: load the moving mean and variance too.",
        [_numbers(lambda t: replace(t, mean=t.mean * 0, var=t.var * 0 + 1))],
    ),
    "parentheses forgotten": (
        f"The mean is subtracted from x first: {_FORMULA}",
        [
            _formula("scale * x - mean / sqrt(var + eps) + offset", lambda t: t.scale * t.x - t.mean / np.sqrt(t.var + t.eps) + t.offset),
            _formula("scale * (x - mean / sqrt(var + eps)) + offset", lambda t: t.scale * (t.x - t.mean / np.sqrt(t.var + t.eps)) + t.offset),
        ],
    ),
    "offset (beta) added before the scale": (
        f"The offset comes last: {_FORMULA}",
        [_formula("scale * ((x - mean) / sqrt(var + eps) + offset)", lambda t: t.scale * ((t.x - t.mean) / np.sqrt(t.var + t.eps) + t.offset))],
    ),
}
"""What people get wrong within a batch norm: name → what to do instead, and the rules that they follow."""


def terms(norm: BatchNorm, x: NDArray) -> Terms:
    """The six numbers, in the dtype of x."""
    axis = norm.axis
    axes = (0,) if axis is None else tuple(a for a in range(x.ndim) if a != x.ndim + axis)
    mean, var, scale, offset = (v.astype(x.dtype) for v in (norm.mean, norm.variance, norm.gamma, norm.beta))
    return Terms(x, mean, var, scale, offset, x.dtype.type(norm.epsilon), axes)


def computed(norm: BatchNorm, rule: Rule, x: NDArray) -> NDArray:
    """A batch norm's result by a rule."""
    return rule(terms(norm, x))


def site(norm: BatchNorm, rule: Rule, numbers: BatchNorm | None = None) -> Site:
    """A batch norm computed by a rule, with its own numbers or with those of another."""
    other = numbers or norm
    shown = Shown(norm.after, RIGHT.formula, rule.formula, partial(_shown, norm, other, rule))
    return Site(norm.name, {norm.after: Formula((norm.before,), partial(computed, other, rule))}, shown)


def _shown(norm: BatchNorm, other: BatchNorm, rule: Rule, right: Values, wrong: Values, index: Index) -> tuple[Numbers, Numbers]:
    mine, x = wrong[norm.before], right[norm.before]
    return _at(terms(norm, x), x.shape, index), _at(rule.terms(terms(other, mine)), mine.shape, index)


def _at(numbers: Terms, shape: Sequence[int], index: Index) -> dict[str, float]:
    return {name: float(np.broadcast_to(value, shape)[index]) for name, value in numbers.named().items()}


def _everywhere(rules: Sequence[Rule], case: Case) -> Iterator[Variant]:
    for rule in rules:
        if case.network.norms:
            yield Variant(rule.detail, tuple(site(norm, rule) for norm in case.network.norms), whole=not rule.alone)


def _of_another(case: Case) -> Iterable[Variant]:
    """The numbers of another batch norm of as many units."""
    for norm, other in _pairs(case.network):
        yield Variant(f"{norm.name} with the numbers of {other.name}", (site(norm, RIGHT, other),))
        if case.network.norms.index(norm) < case.network.norms.index(other):
            there, back = site(norm, RIGHT, other), site(other, RIGHT, norm)
            yield Variant(f"{norm.name} and {other.name} swapped", (Site(norm.name, {**there.edits, **back.edits}, there.shown),))


def _pairs(network: Network) -> Iterator[tuple[BatchNorm, BatchNorm]]:
    for norm in network.norms:
        for other in network.norms:
            if norm is not other and norm.mean.shape == other.mean.shape:
                yield norm, other


def _left_out(case: Case) -> Iterable[Variant]:
    if case.network.norms:
        yield Variant("", tuple(Site(n.name, {n.after: Formula((n.before,), lambda x: x)}) for n in case.network.norms))


HYPOTHESES = [
    *(Hypothesis(name, remedy, partial(_everywhere, rules)) for name, (remedy, rules) in RULES.items()),
    Hypothesis("batch norm left out", "Normalise there: the graph does.", _left_out),
    Hypothesis("numbers of another batch norm", "Take each batch norm's own variables; `bnexport inspect` lists which belong together.", _of_another),
]
