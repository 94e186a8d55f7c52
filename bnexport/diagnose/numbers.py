"""One unit of one batch norm, without any checkpoint: six numbers, and the result that a user has."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from bnexport.diagnose.compare import SLACK, UNIT
from bnexport.diagnose.hypotheses.norms import RIGHT, RULES, Rule, Terms
from bnexport.diagnose.mine import fineness_of_text
from bnexport.errors import UsageError

NAMES: dict[str, tuple[str, ...]] = {
    "x": ("x", "before", "input"),
    "mean": ("mean", "mu", "moving_mean"),
    "var": ("var", "variance", "sigma2", "moving_variance"),
    "offset": ("offset", "beta", "shift"),
    "scale": ("scale", "gamma"),
    "eps": ("eps", "epsilon"),
}
"""What each number may be called."""
_WRITTEN_DIGITS = 4
"""A number of fewer digits (1e-3, 1, 0.5) is meant as it stands; one of more may have been cut off."""


@dataclass(frozen=True, slots=True)
class Fit:
    """A mistake that gives the user's number.

    Attributes:
        name, remedy: the hypothesis.
        rule: which of its rules.
        terms: the numbers that the rule takes.
        value: what they give.
    """

    name: str
    remedy: str
    rule: Rule
    terms: Terms
    value: float


@dataclass(frozen=True, slots=True)
class NumbersDiagnosis:
    """What became of six numbers and a result.

    Attributes:
        mine, right: the user's result and the right one (float64).
        tolerance: how far a result may be from a formula's: the rounding of float32, and the last digits that the numbers are written with.
        terms: the six numbers.
        fits: the mistakes that give the user's result, the nearest first; none where it is right, or where none does.
    """

    mine: float
    right: float
    tolerance: float
    terms: Terms
    fits: tuple[Fit, ...]

    @property
    def agrees(self) -> bool:
        """Whether the user's number is right."""
        return abs(self.mine - self.right) <= self.tolerance


def parse(text: str) -> dict[str, str]:
    """`x=-0.08,mean=…` as a text for each of the six names; scale and offset may be left out.

    Raises:
        UsageError: a name is unknown, given twice or missing, or its value is no number.
    """
    own = {alias: name for name, aliases in NAMES.items() for alias in aliases}
    found: dict[str, str] = {}
    for part in text.replace(";", ",").split(","):
        alias, equals, value = (piece.strip() for piece in part.partition("="))
        name = own.get(alias.lower())
        if not equals or name is None:
            raise UsageError(f"--numbers: {part.strip()!r} is none of {', '.join(f'{n}=NUMBER' for n in NAMES)}")
        if name in found:
            raise UsageError(f"--numbers gives {name} twice")
        found[name] = value
    missing = [name for name in ("x", "mean", "var", "eps") if name not in found]
    if missing:
        raise UsageError(f"--numbers leaves out {', '.join(missing)}; give {','.join(f'{n}=NUMBER' for n in NAMES)}")
    return {"scale": "1", "offset": "0", **found}


def diagnose_numbers(numbers: Mapping[str, str], mine: str) -> NumbersDiagnosis:
    """Compares one result with batch norm's, and tries what people get wrong in the formula.

    Args:
        numbers: x, mean, var, offset, scale and eps as they are written.
        mine: the user's result as it is written.

    Raises:
        UsageError: one of them is no number, or the variance is negative.
    """
    values = {name: _number(name, text) for name, text in numbers.items()}
    x, mean, var, scale, offset, eps = (np.float64(values[name]) for name in ("x", "mean", "var", "scale", "offset", "eps"))
    if var < 0:
        raise UsageError(f"var: {numbers['var']} is negative, which no variance is")
    terms = Terms(x, mean, var, scale, offset, eps)
    steps = {name: _step(text, written=True) for name, text in numbers.items()}
    result, written = _number("your result", mine), _step(mine, written=False)
    with np.errstate(all="ignore"):
        right, tolerance = float(RIGHT(terms)), written + _reach(RIGHT, terms, steps)
        fits = []
        if not abs(result - right) <= tolerance:
            for name, (remedy, rules) in RULES.items():
                tried = [rule for rule in rules if rule.alone]
                near = [fit for rule in tried if (fit := _fit(name, remedy, rule, terms, steps, result, written)) is not None]
                fits.extend(sorted(near, key=lambda fit: abs(fit.value - result))[:1])
    return NumbersDiagnosis(result, right, tolerance, terms, tuple(sorted(fits, key=lambda fit: abs(fit.value - result) > written)))


def _fit(name: str, remedy: str, rule: Rule, terms: Terms, steps: Mapping[str, float], mine: float, written: float) -> Fit | None:
    value = float(rule(terms))
    if abs(mine - value) <= written + _reach(rule, terms, steps) or (np.isnan(mine) and np.isnan(value)):
        return Fit(name, remedy, rule, rule.terms(terms), value)
    return None


def _number(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise UsageError(f"{name}: {text!r} is not a number") from None


def _step(text: str, *, written: bool) -> float:
    fineness = fineness_of_text([text.strip()])
    if written and (fineness.digits or 0) < _WRITTEN_DIGITS:
        return 0.0
    return float(fineness.steps(np.array(float(text))))


def _reach(rule: Rule, terms: Terms, steps: Mapping[str, float]) -> float:
    """How far a rule's result moves when each number moves by half a unit of its last digit and by a few roundings of float32."""
    value = float(rule(terms))
    total = SLACK * UNIT * abs(value)
    for name, number in terms.named().items():
        moved = replace(terms, **{name: number + steps[name] + SLACK * UNIT * abs(number)})
        total += abs(float(rule(moved)) - value)
    return total if np.isfinite(total) else 0.0
