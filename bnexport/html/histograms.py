"""Histograms as figures: a path of bars in SVG, and what they tell in words beside it."""

# ruff: noqa: RUF001
# What the page says is written with the signs of mathematics and typography.

from collections.abc import Sequence

from bnexport.html.markup import Content, Markup, element
from bnexport.html.values import Spread

_WIDTH, _HEIGHT = 240, 64
_GAP = 0.14
_LEAST = 1.0
"""The height of a bar that holds anything: a tail that cannot be seen would be taken for none."""


def figure(title: Content, subject: str, values: Spread, kind: str) -> Markup:
    """A histogram with its caption.

    Args:
        title: the caption.
        subject: what the values are, for those who do not see the picture.
        kind: a class of the style sheet: `before`, `scale`, `after` or `error`.
    """
    return element("figure", element("figcaption", title), _picture(subject, values), _axis(values), _numbers(values), class_=f"histogram {kind}")


def number(value: float) -> str:
    """Three significant digits, with a minus sign as long as a plus."""
    return f"{value:.3g}".replace("-", "−")


def count(value: int, what: str) -> str:
    """`1 unit`, `1,024 units`."""
    return f"{value:,} {what}{'s' * (value != 1)}"


def bars(words: str, counts: Sequence[int], *, ends: tuple[float, float] | None = None, zero: Markup | None = None) -> Markup:
    """The picture of a histogram.

    Args:
        words: what it shows, for those who do not see it.
        ends: where its bars begin and end, by which the page tells the bar under the pointer.
    """
    return element(
        "svg",
        element("title", words),
        element("path", d=_path(counts), class_="bars"),
        zero,
        viewBox=f"0 0 {_WIDTH} {_HEIGHT}",
        preserveAspectRatio="none",
        role="img",
        data_start=repr(ends[0]) if ends else None,
        data_stop=repr(ends[1]) if ends else None,
        data_counts=",".join(map(str, counts)) if ends else None,
    )


def _picture(subject: str, values: Spread) -> Markup:
    words = f"Histogram of {subject}: {count(values.size, 'value')} from {number(values.low)} to {number(values.high)}"
    if values.start == values.stop:  # all values are one: a bar in the middle
        return bars(words, (0, *values.counts, 0))
    return bars(words, values.counts, ends=(values.start, values.stop), zero=_zero(values))


def _path(counts: Sequence[int]) -> str:
    peak = max(counts, default=0)
    if not peak:
        return f"M0 {_HEIGHT}"
    step = _WIDTH / len(counts)
    path = []
    for place, held in enumerate(counts):
        if held:
            left, height = step * (place + _GAP / 2), max(_LEAST, (_HEIGHT - 2) * held / peak)
            path.append(f"M{_short(left)} {_HEIGHT}v-{_short(height)}h{_short(step * (1 - _GAP))}V{_HEIGHT}z")
    return "".join(path)


def _short(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def _zero(values: Spread) -> Markup | None:
    if not values.start < 0 < values.stop:
        return None
    x = _short(_WIDTH * -values.start / (values.stop - values.start))
    return element("path", d=f"M{x} 0V{_HEIGHT}", class_="zero")


def _axis(values: Spread) -> Markup:
    ends = [element("span", number(end)) for end in ((values.start, values.stop) if values.start != values.stop else (values.start,))]
    return element("div", ends, class_="axis")


def _numbers(values: Spread) -> Markup:
    parts = [f"mean {number(values.mean)}", f"σ {number(values.deviation)}"] if values.size > 1 else []
    if values.below or values.above:
        parts.append(f"{count(values.below + values.above, 'value')} further out, {number(values.low)} to {number(values.high)}")
    if values.bad:
        parts.append(f"{values.bad:,} NaN or infinite")
    return element("p", " · ".join(parts), class_="numbers")
