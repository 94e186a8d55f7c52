"""The first difference, and the mistakes that explain it.

The network is computed once as it is. Where the user's numbers part from it first, every hypothesis is tried in all layers and then in single ones,
wherever a mistake could be: not before a tensor that agrees. What explains the first difference stays in the network, and the search goes on from there
to the next one.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from bnexport.diagnose.case import Case, Hypothesis, Index, Site, Variant
from bnexport.diagnose.compare import Difference, difference, rounding
from bnexport.diagnose.hypotheses import REGISTRY
from bnexport.diagnose.matching import Match, Reading
from bnexport.diagnose.network import DOUBLE, SINGLE, Arithmetic, Edits, Network, Values

MOST_SITES = 24
"""In how many layers a mistake is tried alone."""
MOST_MISTAKES = 4
"""How many mistakes are looked for, one behind the other."""
NEAR = 0.2
"""A variant that is off by more than this part of a tensor's largest number is not looked at closely."""


@dataclass(frozen=True, slots=True)
class Compared:
    """A user's array beside the tensor that it was found to be, and the tensor's values."""

    match: Match
    reading: Reading
    difference: Difference
    right: "np.ndarray[Any, Any]"

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
    """A place where the user's numbers part from the network's, and what explains it: the best first, none where nothing does."""

    first: Compared
    explanations: tuple[Explanation, ...]
    tried: int


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
        self.compared: list[Compared] = self._all_compared(case.network, {}, case.right, DOUBLE)

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
            compared = self._all_compared(network, {}, right, DOUBLE)

    def _all_compared(self, network: Network, edits: Edits, values: Values, how: Arithmetic) -> list[Compared]:
        single = network.run(self.case.feeds, self.wanted, edits, how=self.unit)
        tolerances = {t: rounding(values[t], single[t]) for t in self.wanted}
        return [_best(match, values, tolerances) for match in self.matches]

    def _explained(self, case: Case, compared: list[Compared], parted: int) -> Finding:
        first = compared[parted]
        case = _with(case, case.network, case.right, {r.tensor: r.values for r in first.match.readings})
        sure = case.network.ahead(c.reading.tensor for c in compared if c.difference.agrees)
        found: list[Explanation] = []
        tried = 0
        for hypothesis in REGISTRY:
            fits = []
            for variant in hypothesis.variants(case):
                tried += 1
                fits.append(self._tried(case, hypothesis, variant, sure, parted))
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
        return Finding(first, tuple(found), tried)

    def _tried(self, case: Case, hypothesis: Hypothesis, variant: Variant, sure: set[str], parted: int) -> Explanation | None:
        """The best that a variant does, in all of its places or in one."""
        before = case.network.ahead(r.tensor for r in self.matches[parted].readings)
        sites = [s for s in variant.sites if not (sure & set(s.edits)) and (not s.edits or case.network.behind(s.edits) & set(self.wanted))]
        here = [s for s in sites if not s.edits or case.network.behind(s.edits) & before]
        if not here:
            return None
        everywhere = self._made(case, hypothesis, variant, sites, len(sites), parted)
        if len(sites) == 1 or (everywhere is not None and everywhere.explained == len(self.matches) - parted):
            return everywhere
        best = everywhere
        for site in here[:MOST_SITES]:
            alone = self._made(case, hypothesis, variant, [site], len(sites), parted)
            if alone is not None and (best is None or _quality(alone) > _quality(best)):
                best = alone
        return best

    def _made(self, case: Case, hypothesis: Hypothesis, variant: Variant, sites: list[Site], out_of: int, parted: int) -> Explanation | None:
        edits = {name: definition for site in sites for name, definition in site.edits.items()}
        network, exact = case.network, variant.how is DOUBLE
        wanted = {reading.tensor for match in self.matches[parted:] for reading in match.readings}
        values = network.run(case.feeds, wanted, edits, case.right if exact else None, variant.how)
        first = _best(self.matches[parted], values, dict.fromkeys(wanted, 0.0))
        if not first.difference.largest <= NEAR * max(first.difference.scale, np.finfo(np.float64).tiny):
            return None
        tolerances = self._tolerances(case, edits, values, variant, wanted)
        compared = [_best(match, values, tolerances) for match in self.matches[parted:]]
        agreeing = next((i for i, c in enumerate(compared) if not c.difference.agrees), len(compared))
        if not agreeing or (not exact and not _representable(variant.how, compared[:1])):
            return None
        names = tuple(site.name for site in sites if not site.edits or self._counts(network, site, compared[:agreeing]))
        example = next((e for site in sites if (e := _example(case, edits, site, tolerances)) is not None), None) if exact else None
        return Explanation(hypothesis, variant.detail, (), names, out_of, edits, variant.how, compared[0], agreeing, not exact, example)

    def _tolerances(self, case: Case, edits: Edits, values: Values, variant: Variant, wanted: set[str]) -> dict[str, float]:
        if variant.how is not DOUBLE:
            return {t: 4 * rounding(case.right[t], values[t]) / 16 for t in wanted}
        single = case.network.run(case.feeds, wanted, edits, how=self.unit)
        return {t: rounding(values[t], single[t]) for t in wanted}

    @staticmethod
    def _counts(network: Network, site: Site, compared: Iterable[Compared]) -> bool:
        """Whether a mistake at a site shows in what was explained."""
        return bool(network.behind(site.edits) & {c.reading.tensor for c in compared})


def _with(case: Case, network: Network, right: Values, mine: "Mapping[str, np.ndarray[tuple[int, ...], np.dtype[np.float64]]] | None" = None) -> Case:
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


def _example(case: Case, edits: Edits, site: Site, tolerances: Mapping[str, float]) -> Example | None:
    """A mistake on the first element that it changes visibly."""
    shown = site.shown
    if shown is None:
        return None
    wrong = case.network.run(case.feeds, [shown.tensor, *case.network.ahead([shown.tensor], edits)], edits, case.right)
    before, after = case.right[shown.tensor], wrong[shown.tensor]
    visible = 1e-4 * float(np.abs(before[np.isfinite(before)]).max(initial=0))
    changed = np.argwhere(~(np.abs(after - before) <= visible))
    if not len(changed):
        return None
    index = tuple(int(i) for i in changed[0])
    right_numbers, wrong_numbers = shown.numbers(case.right, wrong, index)
    return Example(shown.tensor, index, shown.right, shown.wrong, right_numbers, wrong_numbers, float(before[index]), float(after[index]))
