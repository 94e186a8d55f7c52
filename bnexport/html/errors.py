"""How far a bundle is from the truth, as pictures: layer after layer, and how the errors within a layer are spread.

Everything is in units of the largest number of the tensor, on logarithmic scales.
"""

# ruff: noqa: RUF001
# What the page says is written with the signs of mathematics and typography.

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from bnexport.html.histograms import bars, count, number
from bnexport.html.markup import Content, Markup, element, name, table

if TYPE_CHECKING:
    from bnexport.verification import LayerCheck, Verification

_WIDTH, _HEIGHT, _LEFT, _TOP, _BOTTOM = 720.0, 200.0, 46.0, 10.0, 22.0
_LEAST_BARS = 8


def overview(found: "Verification", numbers: Mapping[str, int]) -> list[Content]:
    """What a verification says of the network as a whole.

    Args:
        numbers: each layer's number by its name.
    """
    return [
        element("p", _verdict(found), class_="verdict passed" if found.passed else "verdict failed"),
        element("p", _conditions(found), class_="note"),
        _outputs(found),
        _by_layer(found, numbers),
    ]


def figure(check: "LayerCheck") -> Markup | None:
    """How the errors within a layer are spread; None where the layer's result has no counterpart in the network that is not folded."""
    difference = check.bundle
    if difference is None:
        return None
    caption = element("figcaption", "error against float64, log scale")
    words = [f"largest {number(difference.relative)}", f"mean {number(difference.relative_mean)}"]
    if difference.exact:
        words.append(f"{difference.exact / max(difference.count, 1):.0%} exact")
    told = element("p", " · ".join(words), class_="numbers")
    if not difference.powers or not difference.scale:
        return element("figure", caption, told, class_="histogram error")
    low, high = min(difference.powers), max(difference.powers)
    low = min(low, high - _LEAST_BARS + 1)
    counts = tuple(difference.powers.get(power, 0) for power in range(low, high + 1))
    ends = [2.0 ** (low - 1) / difference.scale, 2.0**high / difference.scale]
    extent = f"from {number(ends[0])} to {number(ends[1])} of its largest number"
    title = f"Histogram of the errors of {check.name}: {count(difference.count, 'value')}, {extent}"
    axis = element("div", [element("span", number(end)) for end in ends], class_="axis")
    return element("figure", caption, bars(title, counts), axis, told, class_="histogram error")


def _verdict(found: "Verification") -> str:
    if found.passed and found.strained:
        return "Beyond the tolerance, and no further than the network’s own rounding explains: the bundle computes what the checkpoint does."
    if found.passed:
        return "Within the tolerance: the bundle computes what the checkpoint does."
    if found.variables and found.variables.different:
        return "Not the same: variables are read otherwise than TensorFlow reads them."
    if found.beyond:
        return f"Beyond the tolerance, from the layer {found.beyond[0].name} on."
    return "Beyond the tolerance, in the outputs."


def _conditions(found: "Verification") -> list[Content]:
    from bnexport.verification import TIMES

    theirs = f"TensorFlow {found.tensorflow} computed the same rows." if found.tensorflow else f"TensorFlow was not asked: {found.unavailable}."
    inputs = "; ".join(f"{port}: {source}" for port, source in found.inputs.items())
    whose = "TensorFlow’s own" if found.tensorflow else "that of the network with nothing folded in its own dtypes"
    more = f", and what is at most {count(TIMES, 'time')} {whose}" if found.strained else ""
    return [
        f"The truth is the network with nothing folded, in float64, on {count(found.rows, 'row')} ({inputs}). Errors are in units of the largest "
        f"number of each tensor; up to {number(found.tolerance)} counts as rounding{more}. {theirs}"
    ]


def _outputs(found: "Verification") -> Markup:
    head = ["Output", "Largest error", "Mean error", "In units in the last place", "TensorFlow’s largest", ""]
    rows = [
        (
            name(output.name),
            number(output.bundle.relative),
            number(output.bundle.relative_mean),
            number(output.bundle.ulps(found.dtype)[0]),
            number(output.tensorflow.relative) if output.tensorflow is not None else "unknown",
            {True: "the bundle is at least as near", False: "TensorFlow is nearer", None: None}[output.nearer],
        )
        for output in found.outputs
    ]
    return table(head, rows, label="Errors of the outputs")


# ---- layer after layer


def _by_layer(found: "Verification", numbers: Mapping[str, int]) -> Markup | None:
    compared = [layer for layer in found.layers if layer.bundle is not None]
    if not compared:
        return None
    sizes = [d.relative for layer in compared for d in (layer.bundle, layer.tensorflow) if d is not None and 0 < d.relative < math.inf]
    low = math.floor(math.log10(min([*sizes, found.tolerance]))) - 1
    high = math.ceil(math.log10(max([*sizes, found.tolerance]))) + 1
    scale = _Scale(low, high, len(compared))
    grid = [
        element("g", element("path", d=f"M{_LEFT} {_short(y)}H{_WIDTH}"), element("text", label, x=_LEFT - 6, y=_short(y + 4)))
        for power in range(low, high + 1, max(1, (high - low) // 6))
        for y, label in [(scale.down(10.0**power), "exact" if power == low else f"1e{power}".replace("-", "−"))]
    ]
    limit = scale.down(found.tolerance)
    marks = [mark for place, layer in enumerate(compared) for mark in _marks(place, layer, scale, numbers)]
    picture = element(
        "svg",
        element("title", f"The largest error of each of {len(compared)} layers"),
        element("g", grid, class_="grid"),
        element("path", d=f"M{_LEFT} {_short(limit)}H{_WIDTH}", class_="limit"),
        element("text", "tolerance", x=_WIDTH - 4, y=_short(limit - 5), class_="limit"),
        marks,
        element("text", "first layer", x=_LEFT, y=_HEIGHT - 4, class_="end first"),
        element("text", "last layer", x=_WIDTH, y=_HEIGHT - 4, class_="end"),
        viewBox=f"0 0 {_WIDTH:g} {_HEIGHT:g}",
        role="group",
    )
    keys = [element("span", "bundle", class_="ours"), element("span", "TensorFlow", class_="theirs") if found.tensorflow else None]
    most = found.adds_most
    words = f"The most is added by {most.name}: {number(most.added)}." if most is not None and most.added else None
    caption = element("figcaption", "Largest error of each layer ", element("span", keys, class_="keys"))
    region = element("div", picture, class_="wide", tabindex="0", role="region", aria_label="Errors, layer after layer")
    return element("figure", caption, region, element("p", words) if words else None, class_="errors")


class _Scale:
    """Where an error stands (logarithmically) and where a layer does."""

    def __init__(self, low: int, high: int, layers: int):
        self.low, self.high, self.layers = low, high, layers

    def down(self, error: float) -> float:
        """An error's distance from the top; what is exact stands at the bottom, what is infinite at the top."""
        power = math.log10(error) if 0 < error < math.inf else (self.low if error == 0 else self.high)
        return _TOP + (_HEIGHT - _TOP - _BOTTOM) * (self.high - power) / (self.high - self.low)

    def across(self, place: int) -> float:
        """A layer's distance from the left."""
        return _LEFT + (_WIDTH - _LEFT) * (place + 0.5) / self.layers


def _marks(place: int, layer: "LayerCheck", scale: _Scale, numbers: Mapping[str, int]) -> Iterable[Markup]:
    x = _short(scale.across(place))
    radius = max(2.0, min(4.0, 160 / scale.layers))
    for difference, whose in ((layer.tensorflow, "theirs"), (layer.bundle, "ours")):
        if difference is None:
            continue
        words = f"{layer.name}: {'bundle' if whose == 'ours' else 'TensorFlow'} {number(difference.relative)}"
        dot = element("circle", element("title", words), cx=x, cy=_short(scale.down(difference.relative)), r=_short(radius), class_=whose)
        linked = whose == "ours" and layer.name in numbers
        yield element("a", dot, href=f"#layer-{numbers[layer.name]}", aria_label=words) if linked else dot


def _short(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
