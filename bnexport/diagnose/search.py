"""The first difference, and the mistakes that explain it.

The network is computed once as it is. Where the user's numbers part from it first, every hypothesis is tried in all layers and then in single ones,
wherever a mistake could be: not before a tensor that agrees. What explains the first difference stays in the network, and the search goes on from
there to the next one.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from bnexport.diagnose.case import Case, Hypothesis, Index, Site, Variant
from bnexport.diagnose.compare import Difference, difference, rounding
from bnexport.diagnose.hypotheses import REGISTRY
from bnexport.diagnose.matching import Match, Reading
from bnexport.diagnose.network import DOUBLE, SINGLE, Arithmetic, Edits, Network, Values
from bnexport.diagnose.patterns import pattern
from bnexport.kernels.table import NDArray

MOST_WORK = 1 << 29
"""How many numbers are computed, for one difference, to try mistakes in single layers; a mistake in all of them is always tried."""
SCREENED = 1 << 20
"""How many numbers a network may have for the rows that everything is tried on first."""
SCREENED_ROWS = 8
VISIBLE = 1e-5
"""What part of a tensor's largest number a mistake must change an element by to be shown on it."""
MOST_MISTAKES = 4
"""How many mistakes are looked for, one behind the other."""
HALF_SLACK = 4.0
"""How often the difference that half precision makes in one evaluation it may make in another."""
NEAR = 1e-3
"""A variant that is off by more than this part of a tensor's largest number is not looked at closely."""


@dataclass(frozen=True, slots=True)
class Compared:
    """A user's array beside the tensor that it was found to be, and the tensor's values."""

    match: Match
    reading: Reading
    difference: Difference
    right: NDArray

    @property
    def name(self) -> str:
        """What to call it: the user's own name for it, or the tensor's."""
        return self.match.given.name or self.reading.tensor


@dataclass(frozen=True, slots=True)
class Example:
    """A mistake on one element: the formulas with numbers in them, and what they give.

    Attributes:
        tensor, index: the element.
        right, wrong: formulas in names; the same where only the numbers in them differ; nothing where there is no short formula.
        right_numbers, wrong_numbers: what the names stand for.
        right_value, wrong_value: what comes out.
    """

    tensor: str
    index: Index
    right: str
    wrong: str
    right_numbers: Mapping[str, float]
    wrong_numbers: Mapping[str, float]
    right_value: float
    wrong_value: float


@dataclass(frozen=True, slots=True)
class Explanation:
    """A mistake that gives the user's numbers.

    Attributes:
        sites: where it was made, of `out_of` places in which it could have been.
        first: the user's array that differed first, beside what the mistake gives.
        also: the details of other variants that do it as well.
        explained: how many of the user's arrays it explains, one after the other from the first difference on.
        loose: whether it explains the size of the differences and not each number: the results of half precision depend on the order of summation.
    """

    hypothesis: Hypothesis
    detail: str
    also: tuple[str, ...]
    sites: tuple[str, ...]
    out_of: int
    edits: Edits
    how: Arithmetic
    first: Compared
    explained: int
    loose: bool
    example: Example | None


@dataclass(frozen=True, slots=True)
class Finding:
    """A place where the user's numbers part from the network's.

    Attributes:
        first: the first array that differs.
        explanations: what explains it, the best first; none where nothing does.
        tried: how many variants of mistakes were tried.
        pattern: where nothing explains it, how the numbers hang together with the right ones, if that is simple.
        cut_short: whether the network was too large to try all of them in single layers as well.
    """

    first: Compared
    explanations: tuple[Explanation, ...]
    tried: int
    cut_short: bool
    pattern: str


class Search:
    """The comparison of one network with one user's arrays.

    Args:
        case: the network and what hypotheses look at; its `mine` is filled in here.
        unit: the arithmetic that the user's program is taken to compute in.
    """

    def __init__(self, case: Case, matches: Sequence[Match], unit: Arithmetic = SINGLE) -> None:
        self.case = case
        self.unit = unit
        self.wanted = list(dict.fromkeys(reading.tensor for match in matches for reading in match.readings))
        order = case.network.order
        self.matches = sorted(matches, key=lambda m: order[m.readings[0].tensor])
        self.compared: list[Compared] = self._all_compared(case.network, case.right)

    def findings(self) -> Iterator[Finding]:
        """The differences in order, as long as each is explained."""
        case, compared = self.case, self.compared
        for _ in range(MOST_MISTAKES):
            parted = next((i for i, c in enumerate(compared) if not c.difference.agrees), None)
            if parted is None:
                return
            finding = self._explained(case, compared, parted)
            yield finding
            if not finding.explanations or finding.explanations[0].loose:
                return
            best = finding.explanations[0]
            network = case.network.edited(best.edits)
            right = network.run(case.feeds, network.order)
            case = _with(case, network, right)
            compared = self._all_compared(network, right)

    def _all_compared(self, network: Network, values: Values) -> list[Compared]:
        single = network.run(self.case.feeds, self.wanted, how=self.unit)
        tolerances = {t: rounding(values[t], single[t]) for t in self.wanted}
        return [_best(match, values, tolerances) for match in self.matches]

    def _explained(self, case: Case, compared: list[Compared], parted: int) -> Finding:
        first = compared[parted]
        case = _with(case, case.network, case.right, {r.tensor: r.values for r in first.match.readings})
        sure = case.network.ahead(c.reading.tensor for c in compared if c.difference.agrees)
        trial = Trial(case, self.matches, parted, first.difference.index, sure, self.unit)
        found: list[Explanation] = []
        for hypothesis in REGISTRY:
            fits = (trial.best(hypothesis, variant) for variant in hypothesis.variants(case))
            good = sorted((fit for fit in fits if fit is not None), key=_quality, reverse=True)
            if good:
                also = tuple(fit.detail for fit in good[1:] if (fit.loose, fit.explained) == (good[0].loose, good[0].explained))
                found.append(replace(good[0], also=also))
        found.sort(key=lambda e: _quality(e)[:3], reverse=True)  # the registry's order where they are alike
        if any(not e.loose for e in found):
            found = [e for e in found if not e.loose]
        if found:
            most = max(e.explained for e in found)
            found = [e for e in found if e.explained == most]
            first = self._as_read(case, first, found[0].first.reading)
            if compared is self.compared:
                compared[parted] = first
        hint = "" if found else pattern(first.reading.values, first.right)
        return Finding(first, tuple(found), trial.tried, trial.work > MOST_WORK, hint)

    def _as_read(self, case: Case, first: Compared, reading: Reading) -> Compared:
        """A user's array beside the tensor that the best explanation takes it for."""
        if reading is first.reading:
            return first
        single = case.network.run(case.feeds, [reading.tensor], how=self.unit)
        tolerance = rounding(case.right[reading.tensor], single[reading.tensor])
        return Compared(first.match, reading, difference(reading, case.right, tolerance), case.right[reading.tensor])


class Trial:
    """Mistakes tried on one difference.

    Args:
        case: the network, and the user's values of the tensor that differs.
        matches: the user's arrays in the order of the network, of which number `parted` differs first.
        first: the element that differs first.
        sure: the tensors in which no mistake can be, because something behind them agrees.

    Attributes:
        tried: how many variants were.
        work: how many numbers were computed to try them in single layers.
    """

    def __init__(self, case: Case, matches: Sequence[Match], parted: int, first: Index, sure: set[str], unit: Arithmetic) -> None:
        self.case, self.matches, self.sure, self.unit = case, matches[parted:], sure, unit
        self.wanted = {reading.tensor for match in self.matches for reading in match.readings}
        self.before = case.network.ahead(reading.tensor for reading in self.matches[0].readings)
        self.tried = 0
        self.work = 0
        self.few = _few(case, self.matches[0])
        self.first = first

    def best(self, hypothesis: Hypothesis, variant: Variant) -> Explanation | None:
        """The best that a variant does, made in all of its places or in one."""
        self.tried += 1
        network = self.case.network
        sites = [s for s in variant.sites if not s.edits or (not self.sure & set(s.edits) and network.behind(s.edits) & self.wanted)]
        here = [s for s in sites if not s.edits or network.behind(s.edits) & self.before]
        if not here:
            return None
        best = self._made(hypothesis, variant, sites, sites)[0]
        if len(sites) == 1 or (best is not None and best.explained == len(self.matches)):
            return best
        for site in here:
            if self.work > MOST_WORK:
                break
            alone, work = self._made(hypothesis, variant, [site], sites)
            self.work += work
            if alone is not None and (best is None or _quality(alone) > _quality(best)):
                best = alone
        return best

    def _made(self, hypothesis: Hypothesis, variant: Variant, sites: Sequence[Site], of: Sequence[Site]) -> tuple[Explanation | None, int]:
        """What a mistake at some sites explains, and how many numbers were computed to see it."""
        edits = {name: definition for site in sites for name, definition in site.edits.items()}
        case, exact, work = self.case, variant.how is DOUBLE, 0
        if self.few is not None and not variant.whole:
            near, work = self._near(self.few.feeds, self.few.right, self.few.match, edits, variant.how)
            if not near:
                return None, work
        values = case.network.run(case.feeds, self.wanted, edits, case.right if exact else None, variant.how)
        work += case.network.work(values, case.right)
        if not _is_near(self.matches[0], values):
            return None, work
        tolerances = self._tolerances(edits, values, variant)
        compared = [_best(match, values, tolerances) for match in self.matches]
        agreeing = next((i for i, c in enumerate(compared) if not c.difference.agrees), len(compared))
        if not agreeing or (not exact and not _representable(variant.how, compared[:1])):
            return None, work
        explained = {c.reading.tensor for c in compared[:agreeing]}
        names = tuple(site.name for site in sites if not site.edits or case.network.behind(site.edits) & explained)
        example = next((e for site in sites if (e := _example(case, edits, site, self.first)) is not None), None) if exact else None
        return Explanation(hypothesis, variant.detail, (), names, len(of), edits, variant.how, compared[0], agreeing, not exact, example), work

    def _near(self, feeds: Values, right: Values, match: Match, edits: Edits, how: Arithmetic) -> tuple[bool, int]:
        values = self.case.network.run(feeds, [r.tensor for r in match.readings], edits, right if how is DOUBLE else None, how)
        return _is_near(match, values), self.case.network.work(values, right)

    def _tolerances(self, edits: Edits, values: Values, variant: Variant) -> dict[str, float]:
        if variant.how is not DOUBLE:
            return {t: HALF_SLACK * float(np.abs(self.case.right[t] - values[t]).max()) for t in self.wanted}
        single = self.case.network.run(self.case.feeds, self.wanted, edits, how=self.unit)
        return {t: rounding(values[t], single[t]) for t in self.wanted}


@dataclass(frozen=True, slots=True)
class _Few:
    """A few rows of a case: the inputs, the tensors, and the user's numbers."""

    feeds: Values
    right: Values
    match: Match


def _few(case: Case, match: Match) -> _Few | None:
    """Rows from the first that differs on, to try mistakes on before the rest; None where there are few, or where rows depend on each other."""
    batched = [tensor for tensor, port in case.network.inputs.items() if port.shape and port.shape[0] is None]
    rows = {len(case.feeds[tensor]) for tensor in batched}
    given = {len(r.values) for r in match.readings if r.values.ndim}
    if len(rows) != 1 or len(given) != 1 or any(not r.values.ndim for r in match.readings):
        return None
    (total,), (known,) = rows, given
    size = sum(value.size for value in case.right.values()) // max(1, total)
    count = min(SCREENED_ROWS, max(1, SCREENED // max(1, size)), known)
    if count >= total or any(len(case.right[r.tensor]) != total for r in match.readings):
        return None
    reading = match.readings[0]
    start = min(difference(reading, case.right, 0.0).index[0], known - count)
    taken = slice(start, start + count)
    feeds = {tensor: value[taken] if tensor in batched else value for tensor, value in case.feeds.items()}
    right = case.network.run(feeds, case.network.order)
    alike = all(
        right[r.tensor].shape == case.right[r.tensor][taken].shape
        and np.allclose(right[r.tensor], case.right[r.tensor][taken], rtol=1e-9, atol=1e-12, equal_nan=True)
        for r in match.readings
    )
    readings = tuple(replace(r, values=r.values[taken], steps=r.steps[taken]) for r in match.readings)
    return _Few(feeds, right, replace(match, readings=readings)) if alike else None


def _is_near(match: Match, values: Values) -> bool:
    for reading in match.readings:
        finite = np.abs(values[reading.tensor][np.isfinite(values[reading.tensor])])
        if difference(reading, values, NEAR * float(finite.max(initial=0))).agrees:
            return True
    return False


def _with(case: Case, network: Network, right: Values, mine: Mapping[str, NDArray] | None = None) -> Case:
    return Case(network, right, case.feeds, case.record, mine or {}, case.averaged)


def _best(match: Match, values: Values, tolerances: Mapping[str, float]) -> Compared:
    """A user's array beside the tensor that it is nearest to; beside the likeliest one where it is near to none."""
    options = [Compared(match, r, difference(r, values, tolerances[r.tensor]), values[r.tensor]) for r in match.readings]
    return next((o for o in options if o.difference.agrees), options[0])


def _quality(explanation: Explanation) -> tuple[bool, int, int, int]:
    """What makes an explanation better: it is exact, explains more, to more digits, and was made in more of the places where it could be."""
    first = explanation.first.difference
    return not explanation.loose, explanation.explained, first.digits, len(explanation.sites)


def _representable(how: Arithmetic, compared: Iterable[Compared]) -> bool:
    """Whether the user's numbers are numbers of a coarser arithmetic."""
    rounded = how.rounded
    return rounded is not None and all(np.array_equal(rounded(c.reading.values), c.reading.values, equal_nan=True) for c in compared)


def _example(case: Case, edits: Edits, site: Site, first: Index) -> Example | None:
    """A mistake on one element: on that of the first difference where the shape is the same, else on the first that it changes visibly."""
    shown = site.shown
    if shown is None:
        return None
    wrong = case.network.run(case.feeds, [shown.tensor, *case.network.ahead([shown.tensor], edits)], edits, case.right)
    before, after = case.right[shown.tensor], wrong[shown.tensor]
    visible = ~(np.abs(after - before) <= VISIBLE * float(np.abs(before[np.isfinite(before)]).max(initial=0)))
    if not visible.any():
        return None
    here = len(first) == visible.ndim and all(i < size for i, size in zip(first, visible.shape, strict=True)) and bool(visible[first])
    index = first if here else tuple(int(i) for i in np.argwhere(visible)[0])
    right_numbers, wrong_numbers = shown.numbers(case.right, wrong, index)
    return Example(shown.tensor, index, shown.right, shown.wrong, right_numbers, wrong_numbers, float(before[index]), float(after[index]))
