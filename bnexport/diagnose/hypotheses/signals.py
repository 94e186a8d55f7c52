"""What people get wrong between layers: activations, dropout, softmax, the scale of the input, the precision, and which weights they take."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial

import numpy as np

from bnexport.batchnorms import BatchNorm
from bnexport.diagnose.case import Case, Hypothesis, Index, Numbers, Shown, Site, Variant
from bnexport.diagnose.hypotheses import norms
from bnexport.diagnose.network import (
    AS_FED,
    BFLOAT16,
    HALF,
    Definition,
    Formula,
    Network,
    Values,
    around,
    compiled,
    operands,
    to_half,
    to_mantissa,
    with_arrays,
)
from bnexport.kernels import OPS
from bnexport.kernels.table import NDArray
from bnexport.program import LINEAR, Layer, materialize

ACTIVATIONS = ("Relu", "Relu6", "LeakyRelu", "Elu", "Selu", "Softplus", "Softsign", "Sigmoid", "Tanh")
"""Those that are single operators."""
OTHERS = ("Relu", "Elu", "Selu", "LeakyRelu", "Relu6", "Softplus", "Sigmoid", "Tanh")
KEEPS = (0.5, 0.8, 0.9, 0.75, 0.7, 0.6, 0.4, 0.3, 0.25, 0.2, 0.1, 0.95)
"""Keep probabilities that people train with."""
_MASK_CLOSE = 1e-4
"""How close to one number the ratios of the kept elements must be, relative: they are of two float32 results."""

_MASK_SPREAD = 5.0
"""How many standard deviations the share of dropped elements may be from what the factor of the others says."""


# ---- activations, and batch norm on their wrong side


def _neighbours(network: Network) -> Iterator[tuple[BatchNorm, Layer, bool]]:
    """Batch norms next to an activation; True where the activation comes after."""
    for norm in network.norms:
        after = network.sole_user(norm.after)
        while after is not None and after.op in ("Reshape", "Identity"):
            after = network.sole_user(after.name)
        if after is not None and after.op in ACTIVATIONS:
            yield norm, after, True
        before = network.layer(norm.before)
        if before is not None and before.op in ACTIVATIONS and len(network.users[before.name]) == 1:
            yield norm, before, False


def _activation(layer: Layer) -> Callable[[NDArray], NDArray]:
    compute = compiled(layer)
    return lambda x: np.asarray(compute(x)[0])


def _by_position(norm: BatchNorm, act: Layer, after: bool) -> dict[str, Definition]:
    """Each in the other's place: the first tensor is then what the second operation gives."""
    normalised = partial(norms.computed, norm, norms.RIGHT)
    if after:
        return {norm.after: Formula((norm.before,), _activation(act)), act.name: Formula(tuple(operands(act)), normalised)}
    return {act.name: Formula(tuple(operands(act)), normalised), norm.after: Formula((norm.before,), _activation(act))}


def _by_kind(network: Network, norm: BatchNorm, act: Layer, after: bool) -> dict[str, Definition]:
    """Each under its own name; whatever took the second now takes the other."""
    normalised = partial(norms.computed, norm, norms.RIGHT)
    activated = _activation(act)
    if after:
        last, instead = act.name, norm.after
        edits: dict[str, Definition] = {act.name: Formula((norm.before,), activated), norm.after: Formula((act.name,), normalised)}
    else:
        last, instead = norm.after, act.name
        edits = {norm.after: Formula(tuple(operands(act)), normalised), act.name: Formula((norm.after,), activated)}
    for user in network.users[last]:
        layer = network.layer(user)
        if layer is not None:
            edits[user] = replace(layer, inputs=[instead if operand == last else operand for operand in layer.inputs])
    return edits


def _other_side(after: bool, case: Case) -> Iterable[Variant]:
    found = [(norm, act) for norm, act, is_after in _neighbours(case.network) if is_after is after]
    if found:
        yield Variant("", tuple(Site(norm.name, _by_position(norm, act, after)) for norm, act in found))
        inner = [(n, a) for n, a in found if not {n.after, a.name} & set(case.network.outputs)]
        kinds = [(n, a) for n, a in inner if case.right[n.after].shape == case.right[a.name].shape]
        if kinds:
            yield Variant("under its own name", tuple(Site(n.name, _by_kind(case.network, n, a, after)) for n, a in kinds))


def _activation_forgotten(case: Case) -> Iterable[Variant]:
    sites = [Site(a.name, {a.name: Formula(tuple(operands(a)), lambda x: x)}) for a in case.network.layers(*ACTIVATIONS)]
    if sites:
        yield Variant("", tuple(sites))


def _another_activation(case: Case) -> Iterable[Variant]:
    for name in OTHERS:
        for alpha in (0.2, 0.01, 0.3) if name == "LeakyRelu" else (None,):
            attrs = {"alpha": alpha} if alpha else {}
            there = [a for a in case.network.layers(*ACTIVATIONS) if a.op != name or a.attrs.get("alpha") != alpha]
            function = partial(OPS[name].compute, attrs)
            if there:
                detail = f"{name}, alpha {alpha}" if alpha else name
                yield Variant(detail, tuple(Site(a.name, {a.name: Formula(tuple(operands(a)), function)}) for a in there))


def _softmax(x: NDArray) -> NDArray:
    return np.asarray(OPS["Softmax"].compute({}, x))


def _softmax_left_out(case: Case) -> Iterable[Variant]:
    sites = [Site(s.name, {s.name: Formula(tuple(operands(s)), lambda x: x)}) for s in case.network.layers("Softmax", "LogSoftmax")]
    if sites:
        yield Variant("", tuple(sites))


def _softmax_again(case: Case) -> Iterable[Variant]:
    for name in case.network.outputs:
        layer = case.network.layer(name)
        if layer is not None and case.right[name].ndim == 2:
            yield Variant("", (Site(name, {name: around(layer, _softmax)}),))


# ---- dropout


def _dropped(case: Case) -> Iterator[Layer]:
    """Where dropout may have stood: what dense and convolutional layers take, straight or flattened."""
    seen = set()
    for linear in case.network.linear:
        layer = case.network.layer(operands(linear)[0])
        while layer is not None and layer.op in ("Reshape", "Identity"):
            layer = case.network.layer(operands(layer)[0])
        if layer is not None and layer.name not in seen:
            seen.add(layer.name)
            yield layer


def _keeps(case: Case) -> list[float]:
    recorded = [entry["keep"] for entry in case.record.get("dropped", ()) if entry.get("keep")]
    return list(dict.fromkeys([*(round(float(keep), 6) for keep in recorded), *KEEPS]))


def _dropout_scaled(case: Case) -> Iterable[Variant]:
    for keep in _keeps(case):
        for sign, factor in (("*", keep), ("/", 1 / keep)):
            sites = [Site(d.name, {d.name: around(d, partial(np.multiply, factor))}, _scaled(d.name, sign, keep)) for d in _dropped(case)]
            if sites:
                yield Variant(f"x {sign} keep, keep = {keep:g}", tuple(sites))


def _scaled(name: str, sign: str, keep: float) -> Shown:
    def numbers(right: Values, wrong: Values, index: Index) -> tuple[Numbers, Numbers]:
        x = float(right[name][index])
        return {"x": x}, {"x": float(wrong[name][index]) / (keep if sign == "*" else 1 / keep), "keep": keep}

    return Shown(name, "x", f"x {sign} keep", numbers)


def _dropout_left_on(case: Case) -> Iterable[Variant]:
    """Told from the elements: some are 0 which should not be, all others are too large by one factor, 1 / keep (or by none)."""
    for layer in _dropped(case):
        tensor, mine = layer.name, case.mine.get(layer.name)
        if mine is None:
            continue
        right = case.right[tensor][: len(mine)]
        alive = np.abs(right) > 1e-6 * np.abs(right).max(initial=0)
        zero = alive & (mine == 0)
        kept = alive & ~zero
        if not zero.any() or not kept.any() or len(mine) != len(case.right[tensor]):
            continue
        ratios = mine[kept] / right[kept]
        factor = float(np.median(ratios))
        share = float(zero.sum() / alive.sum())
        spread = np.sqrt(share * (1 - share) / alive.sum())
        scaled = abs(1 - 1 / factor - share) < _MASK_SPREAD * spread or abs(factor - 1) < _MASK_CLOSE
        if not scaled or np.abs(ratios - factor).max() > _MASK_CLOSE * factor:
            continue
        mask = np.where(zero, 0.0, factor)
        detail = f"{share:.0%} of the numbers are 0, the others times {factor:.4g}: keep = {1 / factor:.3g}"
        yield Variant(detail, (Site(tensor, {tensor: around(layer, partial(np.multiply, mask))}),), whole=True)


# ---- the input

INPUTS: tuple[tuple[str, Callable[[NDArray], NDArray]], ...] = (
    ("x / 255", lambda x: x / 255),
    ("x * 255 / 256", lambda x: x * (255 / 256)),
    ("x * 255", lambda x: x * 255),
    ("x / 127.5 - 1", lambda x: x / 127.5 - 1),
    ("(x + 1) * 127.5", lambda x: (x + 1) * 127.5),
    ("2 * x - 1", lambda x: 2 * x - 1),
    ("(x + 1) / 2", lambda x: (x + 1) / 2),
    ("x - 0.5", lambda x: x - 0.5),
    ("1 - x", lambda x: 1 - x),
    ("x * 16", lambda x: x * 16),
    ("x / 16", lambda x: x / 16),
    ("(x - mean of all) / standard deviation", lambda x: (x - x.mean()) / x.std()),
    ("(x - mean of the column) / standard deviation", lambda x: np.nan_to_num((x - x.mean(0)) / x.std(0))),
)
"""What is done to an input once too often, or once too seldom."""


def _input(case: Case) -> Iterable[Variant]:
    names = [name for name in case.network.inputs if case.feeds[name].dtype.kind == "f" and case.feeds[name].ndim > 1]
    for detail, function in INPUTS:
        if names:
            sites = tuple(Site(name, {name: Formula((f"{name}{AS_FED}",), function)}) for name in names)
            yield Variant(detail, sites, whole="mean" in detail)


def _columns(case: Case) -> Iterable[Variant]:
    """The columns of a table in the order that file systems and libraries sort their names in, and in that of a library that reads them backwards."""
    tables = [name for name in case.network.inputs if case.feeds[name].ndim == 2 and case.feeds[name].shape[1] > 1]
    for detail, order in (
        ("from the last to the first", _backwards),
        ("sorted as text, 0, 1, 10, 11, …", _as_text),
        ("of text put in order", _from_text),
    ):
        sites = [Site(name, {name: Formula((f"{name}{AS_FED}",), partial(_taken, order(case.feeds[name].shape[1])))}) for name in tables]
        if sites:
            yield Variant(detail, tuple(sites))


def _backwards(width: int) -> list[int]:
    return list(range(width))[::-1]


def _as_text(width: int) -> list[int]:
    return sorted(range(width), key=str)


def _from_text(width: int) -> list[int]:
    order = _as_text(width)
    return sorted(range(width), key=order.__getitem__)


def _taken(columns: list[int], x: NDArray) -> NDArray:
    return x[:, columns]


# ---- precision


def _rounded_weights(rounded: Callable[[NDArray], NDArray], layer: Layer) -> Site:
    return Site(layer.name, {layer.name: with_arrays(layer, {role: rounded(materialize(array)) for role, array in layer.arrays.items()})})


def _decimals(count: int, x: NDArray) -> NDArray:
    return np.round(x, count)


def _low_precision(case: Case) -> Iterable[Variant]:
    owners = [d for d in case.network.definitions.values() if isinstance(d, Layer) and any(a.dtype.kind == "f" for a in d.arrays.values())]
    for detail, rounded in (("weights in float16", to_half), ("weights in bfloat16", to_mantissa(8))):
        if owners:
            yield Variant(detail, (_together([_rounded_weights(rounded, layer) for layer in owners]),))
    tf32 = to_mantissa(11)
    if case.network.linear:
        yield Variant("products in TF32 (10 bits of mantissa)", tuple(_rounded_operands(tf32, layer) for layer in case.network.linear))
    whole = Site("everywhere", {})
    yield Variant("computed in float16", (whole,), HALF)
    yield Variant("computed in bfloat16", (whole,), BFLOAT16)


def _together(sites: list[Site]) -> Site:
    return Site("everywhere", {name: edit for site in sites for name, edit in site.edits.items()})


def _rounded_operands(rounded: Callable[[NDArray], NDArray], layer: Layer) -> Site:
    inner = around(with_arrays(layer, {"kernel": rounded(materialize(layer.arrays["kernel"]))}), lambda y: y)
    return Site(layer.name, {layer.name: Formula(inner.inputs, lambda x, *more: inner.compute(rounded(x), *more))})


def _few_decimals(case: Case) -> Iterable[Variant]:
    owners = [d for d in case.network.definitions.values() if isinstance(d, Layer) and d.op in (*LINEAR, "ScaleShift") and d.arrays]
    inside = {name for norm in case.network.norms for name in norm.layers}
    for count in (2, 3, 4, 5):
        rounded = partial(_decimals, count)
        sites = [_rounded_weights(rounded, layer) for layer in owners if layer.name not in inside]
        for norm in case.network.norms:
            mean, variance, gamma, beta = map(rounded, (norm.mean, norm.variance, norm.gamma, norm.beta))
            sites.append(norms.site(norm, norms.RIGHT, replace(norm, mean=mean, variance=variance, gamma=gamma, beta=beta)))
        if sites:
            yield Variant(f"{count} decimals", (_together(sites),))


# ---- which weights


def _averages(case: Case) -> Iterable[Variant]:
    other = case.averaged()
    if other is None:
        return
    taken = bool(case.record["averages"]["taken"])
    edits = {name: definition for name, definition in other.definitions.items() if isinstance(definition, Layer) and definition.arrays}
    yield Variant("the weights themselves, not their averages" if taken else "the averages, not the weights themselves", (Site("everywhere", edits),))


HYPOTHESES = [
    Hypothesis("batch norm after the activation instead of before", "The graph normalises first.", partial(_other_side, True)),
    Hypothesis("batch norm before the activation instead of after", "The graph applies the activation first.", partial(_other_side, False)),
    Hypothesis("activation forgotten", "Apply the graph's activation there.", _activation_forgotten),
    Hypothesis("another activation", "Take the graph's activation, with its alpha.", _another_activation),
    Hypothesis("softmax left out", "The network's output is behind the softmax.", _softmax_left_out),
    Hypothesis("softmax applied once too often", "The network's output has been through softmax (or is to be left without).", _softmax_again),
    Hypothesis("dropout scaled at inference", "At inference dropout does nothing: TensorFlow divides by keep_prob in training.", _dropout_scaled),
    Hypothesis("dropout left on", "Feed keep_prob 1 (rate 0) at inference.", _dropout_left_on),
    Hypothesis("input scaled differently", "Give the network the numbers that it was trained on, scaled once.", _input),
    Hypothesis("columns of the input in another order", "Give the columns in the order that the network was trained on.", _columns),
    Hypothesis("low precision", "Compute in float32: turn half precision and TF32 off.", _low_precision),
    Hypothesis("weights written with few decimals", "Write weights with 9 significant digits (%.9g), or as .npy.", _few_decimals),
    Hypothesis("raw weights instead of averaged ones, or the reverse", "Take the same ones; `--ema` makes bnexport take the averages.", _averages),
]
