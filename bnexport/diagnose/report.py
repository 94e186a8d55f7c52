"""What a diagnosis says: lines for people, and JSON values for machines."""

import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bnexport.diagnose import Diagnosis
from bnexport.diagnose.compare import EXPLANATION
from bnexport.diagnose.hypotheses.norms import RIGHT
from bnexport.diagnose.numbers import NumbersDiagnosis
from bnexport.diagnose.search import Compared, Example, Explanation, Finding

MOST_SHOWN = 5
"""How many explanations are written out."""
_NAME = re.compile(r"[A-Za-z_]\w*")


def lines(diagnosis: Diagnosis) -> Iterator[str]:
    """The diagnosis for people; headings begin at the margin."""
    yield f"Your numbers against the network's in float64 ({_count(diagnosis.rows, 'row')})"
    width = max(len(_pair(c)) for c in diagnosis.compared)
    for compared in diagnosis.compared:
        yield f"  {_pair(compared):<{width}}  {_verdict(compared)}"
    yield from (f"  not compared: {line}" for line in diagnosis.unmatched)
    for number, finding in enumerate(diagnosis.findings):
        yield ""
        yield from _finding(diagnosis, finding, number)
    yield ""
    if diagnosis.agrees:
        yield "They agree: what is left is the rounding of float32."
    yield from textwrap.wrap(f"(Agreement: {EXPLANATION}.)", 110, initial_indent="  ", subsequent_indent="  ")


def _pair(compared: Compared) -> str:
    own, tensor, note = compared.match.given.name, compared.reading.tensor, compared.reading.note
    text = f"{own} = {tensor}" if own and own != tensor else tensor
    how = "" if compared.match.how == "name" else "the output" if compared.match.how == "output" else "by its shape"
    notes = ", ".join(part for part in (how, note) if part)
    return f"{text} ({notes})" if notes else text


def _verdict(compared: Compared) -> str:
    d = compared.difference
    if d.agrees:
        return f"agrees to {_digits(d.digits)}"
    return f"differs by up to {d.largest:.3g} (numbers up to {d.scale:.3g}, tolerated {d.tolerance:.2g})"


def _finding(diagnosis: Diagnosis, finding: Finding, number: int) -> Iterator[str]:
    first = finding.first
    names = [c.name for c in diagnosis.compared]
    mine, right = _values(first)
    yield f"{'The first difference' if number == 0 else 'With that put right, the next difference'}: {_pair(first)}"
    yield f"  {_place(first.difference.index)}: yours {mine:.9g}, right {right:.9g}"
    yield ""
    if not finding.explanations:
        yield f"None of the {finding.tried} mistakes that were tried gives your numbers"
        if finding.pattern:
            yield f"  But {finding.pattern}."
        if finding.cut_short:
            yield "  The network is too large to try all of them in single layers: give fewer rows, or more of your own intermediate values."
        yield "  Look at this layer first: everything before it that you gave agrees."
        yield "  Give more of your own intermediate values (.npz, by layer name) to narrow it down, or name what your array is with --layer."
        return
    several = len(finding.explanations) > 1
    if several:
        yield f"{len(finding.explanations)} mistakes give your numbers equally well, the likeliest first"
    for explanation in finding.explanations[:MOST_SHOWN]:
        yield from _explanation(explanation, names[names.index(first.name) :] if first.name in names else [first.name])
    if len(finding.explanations) > MOST_SHOWN:
        yield f"  and {len(finding.explanations) - MOST_SHOWN} more (--json lists them)"


def _explanation(explanation: Explanation, names: Sequence[str]) -> Iterator[str]:
    detail = f" ({explanation.detail})" if explanation.detail else ""
    yield f"{explanation.hypothesis.name[0].upper()}{explanation.hypothesis.name[1:]}{detail}"
    reach = f"all of {_some(names)}" if explanation.explained == len(names) > 1 else _some(names[: explanation.explained])
    where = _some(explanation.sites) if explanation.sites else "the network"
    alone = f" alone, of {explanation.out_of} places" if len(explanation.sites) == 1 < explanation.out_of else ""
    if explanation.loose:
        yield f"  {reach}: the differences are of the size that this makes, and your numbers are numbers of that precision"
    else:
        yield f"  made in {where}{alone}, it gives your numbers to {_digits(explanation.first.difference.digits)}: {reach}"
    if explanation.also:
        yield f"  so would: {_some(explanation.also)}"
    if explanation.example is not None:
        yield from _example(explanation.example)
    yield f"  {explanation.hypothesis.remedy}"


def _example(example: Example) -> Iterator[str]:
    yield f"  at {example.tensor}, {_place(example.index)}:"
    yield from filled("right", example.right, example.right_numbers, example.right_value)
    yield from filled("yours", example.wrong, example.wrong_numbers, example.wrong_value)


def filled(label: str, formula: str, numbers: Mapping[str, float], value: float) -> Iterator[str]:
    """A formula, and below it the same with numbers in the place of names, and its result."""
    yield f"    {label:<6} {formula}"
    yield f"           = {with_numbers(formula, numbers)}"
    yield f"           = {value:.8g}"


def with_numbers(formula: str, numbers: Mapping[str, float]) -> str:
    """A formula with numbers in the place of names; negative ones in parentheses."""

    def number(match: re.Match[str]) -> str:
        value = numbers.get(match[0])
        if value is None:
            return match[0]
        text = f"{value:.9g}"
        return f"({text})" if text.startswith("-") else text

    return _NAME.sub(number, formula)


def _values(compared: Compared) -> tuple[float, float]:
    """The user's number and the right one where they differ first."""
    index = compared.difference.index
    return float(compared.reading.values[index]), float(compared.right[index])


def _place(index: tuple[int, ...]) -> str:
    """Row and unit, counted from 0; further dimensions in between as they are."""
    if not index:
        return "the only number"
    if len(index) == 1:
        return f"row {index[0]}"
    middle = f", place {', '.join(map(str, index[1:-1]))}" if len(index) > 2 else ""
    return f"row {index[0]}{middle}, unit {index[-1]}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


def _digits(number: int) -> str:
    return "the last digit" if number >= 16 else _count(number, "digit")


def _some(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= 4 else f"{', '.join(names[:3])} and {len(names) - 3} more"


# ---- six numbers


def number_lines(diagnosis: NumbersDiagnosis) -> Iterator[str]:
    """The diagnosis of one unit for people."""
    named = {name: float(value) for name, value in diagnosis.terms.named().items()}
    if diagnosis.agrees:
        yield f"{diagnosis.mine:.6g} is right (to {diagnosis.tolerance:.2g})"
        yield from filled("right", RIGHT.formula, named, diagnosis.right)
        return
    if not diagnosis.fits:
        yield f"{diagnosis.mine:.6g} is none of the mistakes that were tried; the right number is {diagnosis.right:.6g}"
        yield from filled("right", RIGHT.formula, named, diagnosis.right)
        return
    if len(diagnosis.fits) > 1:
        yield f"{len(diagnosis.fits)} mistakes give {diagnosis.mine:.6g} equally well, the likeliest first; the right number is {diagnosis.right:.6g}"
    for fit in diagnosis.fits:
        detail = f" ({fit.rule.detail})" if fit.rule.detail else ""
        yield f"{fit.name[0].upper()}{fit.name[1:]}{detail}: {diagnosis.mine:.6g} against {diagnosis.right:.6g}"
        yield from filled("right", RIGHT.formula, named, diagnosis.right)
        yield from filled("yours", fit.rule.formula, {name: float(value) for name, value in fit.terms.named().items()}, fit.value)
        yield f"  {fit.remedy}"


# ---- JSON


def record(diagnosis: Diagnosis) -> dict[str, Any]:
    """The diagnosis as JSON values."""
    return {
        "agrees": diagnosis.agrees,
        "rows": diagnosis.rows,
        "tolerance": EXPLANATION,
        "compared": [_compared(c) for c in diagnosis.compared],
        "unmatched": list(diagnosis.unmatched),
        "findings": [_finding_record(f) for f in diagnosis.findings],
    }


def _compared(compared: Compared) -> dict[str, Any]:
    d = compared.difference
    mine, right = _values(compared)
    return {
        "name": compared.match.given.name,
        "tensor": compared.reading.tensor,
        "matched_by": compared.match.how,
        "note": compared.reading.note,
        "agrees": d.agrees,
        "largest_difference": d.largest,
        "scale": d.scale,
        "digits": d.digits,
        "index": list(d.index),
        "yours": mine,
        "right": right,
        "tolerated": d.tolerance,
    }


def _finding_record(finding: Finding) -> dict[str, Any]:
    explanations = [_explanation_record(e) for e in finding.explanations]
    return {"first_difference": _compared(finding.first), "tried": finding.tried, "pattern": finding.pattern, "explanations": explanations}


def _explanation_record(explanation: Explanation) -> dict[str, Any]:
    example = explanation.example
    return {
        "mistake": explanation.hypothesis.name,
        "detail": explanation.detail,
        "also": list(explanation.also),
        "remedy": explanation.hypothesis.remedy,
        "sites": list(explanation.sites),
        "possible_sites": explanation.out_of,
        "explained": explanation.explained,
        "exact": not explanation.loose,
        "digits": explanation.first.difference.digits,
        "largest_difference": explanation.first.difference.largest,
        "example": None
        if example is None
        else {
            "tensor": example.tensor,
            "index": list(example.index),
            "right": {"formula": example.right, "numbers": dict(example.right_numbers), "value": example.right_value},
            "yours": {"formula": example.wrong, "numbers": dict(example.wrong_numbers), "value": example.wrong_value},
        },
    }


def number_record(diagnosis: NumbersDiagnosis) -> dict[str, Any]:
    """The diagnosis of one unit as JSON values."""
    return {
        "agrees": diagnosis.agrees,
        "yours": diagnosis.mine,
        "right": diagnosis.right,
        "tolerated": diagnosis.tolerance,
        "formula": RIGHT.formula,
        "explanations": [
            {"mistake": fit.name, "detail": fit.rule.detail, "remedy": fit.remedy, "formula": fit.rule.formula, "value": fit.value}
            for fit in diagnosis.fits
        ],
    }
