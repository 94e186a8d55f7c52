"""A layer in detail: what it was made from, and how its numbers are spread before and after folding."""

# ruff: noqa: RUF001
# What the page says is written with the signs of mathematics and typography.

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bnexport.errors import BadStatistics
from bnexport.html.drawing import shape
from bnexport.html.errors import figure as error_figure
from bnexport.html.facts import LayerFacts, Norm
from bnexport.html.histograms import count, figure
from bnexport.html.markup import Content, Markup, element, name
from bnexport.html.shapes import Shape
from bnexport.html.values import spread
from bnexport.program import Array, InMemory
from bnexport.report import epsilon_text

if TYPE_CHECKING:
    from bnexport.verification import LayerCheck

_LISTED = 16
"""How many units of a finding are named."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Units of a layer that are worth a look: what is the matter, and which they are."""

    what: str
    units: tuple[int, ...]

    @property
    def listed(self) -> str:
        """The units' numbers, from 0; of many the first."""
        rest = len(self.units) - _LISTED
        return ", ".join(map(str, self.units[:_LISTED])) + (f" and {rest} more" if rest > 0 else "")


def findings(facts: LayerFacts) -> list[Finding]:
    """What there is to say about a layer's units."""
    found = []
    if facts.units is not None:
        fresh = tuple(unit for unit in facts.units.constant if unit not in set(facts.unused))
        found += [Finding("constant: all weights are 0 after folding", fresh), Finding("dead: never positive before the Relu", facts.units.dead)]
    found.append(Finding("constant: all weights were 0 before folding", facts.unused))
    for norm in facts.norms:
        found += [
            Finding(f"{norm.name}: gamma is 0", norm.no_gamma),
            Finding(f"{norm.name}: the moving variance has collapsed", norm.collapsed),
            Finding(f"{norm.name}: the moving variance is small against epsilon", norm.small),
        ]
    return [finding for finding in found if finding.units]


def card(facts: LayerFacts, found: list[Finding], shapes: Mapping[str, Shape], box: str, check: "LayerCheck | None" = None) -> Markup:
    """The card of a layer.

    Args:
        box: where the layer is in the drawing.
        check: what a verification found of it.
    """
    layer = facts.layer
    kernel = f" {shape(layer.arrays['kernel'].shape)}" if "kernel" in layer.arrays else ""
    what = f"{layer.op}{kernel}{f', {layer.activation}' if layer.activation else ''}"
    heading = element(
        "div",
        element("h3", element("a", name(layer.name), href=box, title="Show it in the graph")),
        element("span", what, class_="kind"),
        element("span", _through(facts, shapes), class_="through"),
        class_="heading",
    )
    plain = not layer.arrays
    content = [heading] if plain else [heading, _made_of(facts), _notes(facts, found), _figures(facts, check), _origin(facts)]
    return element(
        "article", content, id=f"layer-{facts.number}", class_="card plain" if plain else "card", data_name=layer.name.lower(), tabindex="-1"
    )


def _through(facts: LayerFacts, shapes: Mapping[str, Shape]) -> str:
    sources = [operand for operand in facts.layer.inputs if isinstance(operand, str) and operand in shapes]
    before = shape(shapes[sources[0]]) if len(sources) == 1 else None
    after = shape(facts.shape) if facts.shape is not None else None
    return f"{before} → {after}" if before and after else after or ""


def _made_of(facts: LayerFacts) -> Markup | None:
    if len(facts.made_of) < 2:
        return None
    steps = [element("li", step.text, class_=f"step {step.kind}", title=step.details) for step in facts.made_of]
    return element("ol", steps, class_="made", aria_label="Made of")


def _notes(facts: LayerFacts, found: list[Finding]) -> list[Markup]:
    notes = [element("p", element("strong", f"{count(len(f.units), 'unit')} "), f"{f.what}: {f.listed}", class_="finding") for f in found]
    if "not_folded" in facts.layer.provenance:
        reason = facts.layer.provenance["not_folded"]
        notes.append(element("p", element("strong", "Not folded: "), str(reason) or "nothing stands beside it that could take it", class_="finding"))
    return notes


# ---- histograms


def _figures(facts: LayerFacts, check: "LayerCheck | None") -> Markup:
    """The equation of folding as pictures: the kernel as it was trained, times the scale, is the kernel as it is used."""
    arrays = facts.layer.arrays
    figures: list[Markup] = []
    if facts.before is not None and facts.norms:
        figures.append(_of(facts, "kernel before folding", facts.before, "before"))
    for norm in facts.norms if facts.layer.op != "ScaleShift" else ():  # whose own scale it is
        if norm.scale is not None:
            label = "folding scale" if len(facts.norms) == 1 else f"folding scale of {norm.name}"
            figures.append(figure(label, f"the {label}, gamma over the root of variance plus epsilon", spread(InMemory(norm.scale)), "scale"))
    for role, array in arrays.items():
        if array.dtype.kind in "biufV":
            figures.append(_of(facts, role if not facts.norms or "not_folded" in facts.layer.provenance else f"{role} after folding", array, "after"))
    if check is not None and (error := error_figure(check)) is not None:
        figures.append(error)
    return element("div", figures, class_="figures")


def _of(facts: LayerFacts, label: str, array: Array, kind: str) -> Markup:
    try:
        values = spread(array)
    except BadStatistics as error:
        return element("figure", element("figcaption", label), element("p", str(error), class_="numbers"), class_=f"histogram {kind}")
    return figure(label, f"the {label} of {facts.layer.name}", values, kind)


# ---- where it came from


def _origin(facts: LayerFacts) -> Markup | None:
    rows = list(_variables(facts))
    if not rows:
        return None
    return element("dl", [element("div", element("dt", role), element("dd", content)) for role, content in rows], class_="origin")


def _variables(facts: LayerFacts) -> Iterable[tuple[str, Content]]:
    provenance = facts.layer.provenance
    kernel = provenance.get("kernel")
    names = [kernel] if isinstance(kernel, str) else list(kernel or ())
    if names:
        yield "kernel", _list(names)
    told = {key for norm in facts.norms for key in norm.variables.values()}
    for role, label in (("shift", "bias"), ("scale", "scale")):
        plain = [part[role] for part in provenance.get("parts", ()) if isinstance(part.get(role), str) and part[role] not in told]
        if plain:
            yield label, _list(dict.fromkeys(plain))
    for role, operand in provenance.get("operands", {}).items():
        yield str(role), _list([operand] if isinstance(operand, str) else map(str, operand))
    for norm in facts.norms:
        yield from _norm(norm)


def _list(names: Iterable[str]) -> list[Content]:
    return [[", " if place else None, name(key)] for place, key in enumerate(names)]


def _norm(norm: Norm) -> Iterable[tuple[str, Content]]:
    for role, label in (("gamma", "scale γ"), ("beta", "offset β"), ("mean", "moving mean"), ("variance", "moving variance")):
        if role in norm.variables:
            yield label, name(norm.variables[role])
    yield "epsilon", epsilon_text({"epsilon": norm.epsilon, "epsilon_from": norm.epsilon_from})
