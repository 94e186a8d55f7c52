"""One page of HTML that shows a network: nothing in it comes from anywhere else, and the same network gives the same page."""

# ruff: noqa: RUF001
# What the page says is written with the signs of mathematics and typography.

from base64 import b64encode
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bnexport._version import __version__
from bnexport.errors import UsageError
from bnexport.formats.writing import replacing
from bnexport.html.cards import Finding, card, findings
from bnexport.html.drawing import drawing, shape
from bnexport.html.errors import overview
from bnexport.html.facts import COLLAPSED, SMALL, Facts, gather
from bnexport.html.histograms import count, number
from bnexport.html.markup import Content, Markup, element, name, table
from bnexport.html.record import dropped, entries
from bnexport.options import Options
from bnexport.report import epsilon_text, parameters

if TYPE_CHECKING:
    from bnexport.verification import Verification

_FEW_ROWS = 24
"""A table of more rows than this is closed when the page opens."""


def write_page(path: str | Path, out: str | Path, options: Options | None = None) -> None:
    """Writes the page of a checkpoint or a bundle to the file `out`.

    Args:
        path: a bundle, or a checkpoint by any of its files.
        options: of the conversion, for a checkpoint.

    Raises:
        BnexportError: there is nothing at `path`, it cannot be read, or `out` cannot be written.
    """
    save(page(gather(path, options)), out)


def write_verification(found: "Verification", out: str | Path) -> None:
    """Writes the page of a checkpoint and the bundle that was made from it, with the errors that `bnexport.verification.verify` found.

    Raises:
        BnexportError: the files cannot be read any more, or `out` cannot be written.
    """
    from bnexport.formats import read_bundle

    options = Options(**read_bundle(found.bundle).conversion.get("options", {}))
    save(page(gather(found.checkpoint, options, found.bundle), found), out)


def save(html: Markup, out: str | Path) -> None:
    """Writes a page, whole or not at all.

    Raises:
        UsageError: the operating system refuses.
    """
    with replacing(Path(out), UsageError) as temporary:
        temporary.write_text(html, encoding="utf-8", newline="\n")


def page(facts: Facts, verification: "Verification | None" = None) -> Markup:
    """The page of what was gathered, and of a verification of it if there was one."""
    record = facts.record
    style, script = (files("bnexport.html").joinpath(file).read_text(encoding="utf-8") for file in ("style.css", "script.js"))
    found = {layer.layer.name: findings(layer) for layer in facts.layers}
    flagged = {layer: len({unit for finding in some for unit in finding.units}) for layer, some in found.items()}
    title = _title(Path(str(record["path"])), record.get("graph"))
    policy = f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}; base-uri 'none'; form-action 'none'"
    head = [
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=policy),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("meta", name="generator", content=f"bnexport {__version__}"),
        element("title", f"{title} · bnexport"),
        element("style", Markup(style)),
    ]
    sections = [
        _warnings(facts),
        _errors(facts, verification),
        _network(facts, flagged, found, verification),
        _findings(facts, found),
        _how(facts),
        _norms(facts),
        _variables(facts),
    ]
    shown = [section for section in sections if section is not None]
    body = [
        element("a", "Skip to the layers", href="#network", class_="skip"),
        _header(facts, title, flagged, verification),
        element("main", [section for _, _, section in shown]),
        _footer(),
        element("script", Markup(script)),
    ]
    links = element("nav", [element("a", label, href=f"#{anchor}") for anchor, label, _ in shown], aria_label="Sections")
    body.insert(2, links)
    return Markup("<!doctype html>\n" + element("html", element("head", head), element("body", body), lang="en") + "\n")


def _title(path: Path, graph: str | None) -> str:
    """The last part of a path that says something: of a SavedModel its folder, as its variables are always called `variables/variables`."""
    named = path.parent.parent if path.parts[-2:] == ("variables", "variables") and graph is not None else path
    return named.name or str(path)


Section = tuple[str, str, Markup]
"""A section's anchor, its name in the navigation, and its content."""


def _hash(content: str) -> str:
    return f"'sha256-{b64encode(sha256(content.encode()).digest()).decode()}'"


def _section(anchor: str, title: str, *content: Content, label: str | None = None, **attributes: Any) -> Section:
    return anchor, label or title, element("section", element("h2", title), *content, id=anchor, **attributes)


# ---- the head of the page


def _header(facts: Facts, title: str, flagged: Mapping[str, int], verification: "Verification | None") -> Markup:
    record = facts.record
    made = facts.program.conversion.get("producer") if facts.program is not None and record["kind"] == "bundle" else None
    versions = {2: "V2", 1: "V1"}
    about = [
        "Bundle" if record["kind"] == "bundle" else f"Checkpoint, format {versions.get(record['version'], record['version'])}",
        f"by {made}" if made else None,
        f"graph from {record['graph']}" if record.get("graph") else "no graph: read from names" if record["kind"] == "checkpoint" else None,
        f"TensorFlow {record['tensorflow']}" if record.get("tensorflow") else None,
    ]
    return element(
        "header",
        element("p", "bnexport", class_="brand"),
        element("h1", title),
        element("p", " · ".join(part for part in about if part), class_="about"),
        element("p", name(str(record["path"])), class_="path"),
        element("dl", [tile.markup for tile in (*_checked(verification), *_tiles(facts, flagged))], class_="tiles"),
    )


@dataclass(frozen=True, slots=True)
class _Tile:
    """A number at the head of the page: what it counts, a few words below it, and the section that tells more."""

    value: str
    label: str
    note: str | None = None
    section: str | None = None
    kind: str | None = None

    @property
    def markup(self) -> Markup:
        label = element("a", self.label, href=f"#{self.section}") if self.section else self.label
        return element("div", element("dt", label), element("dd", element("strong", self.value), element("span", self.note)), class_=self.kind)


def _checked(verification: "Verification | None") -> Iterable[_Tile]:
    if verification is not None:
        worst = max(verification.outputs, key=lambda output: output.bundle.relative, default=None)
        largest, allowed = (0.0, verification.tolerance) if worst is None else (worst.bundle.relative, verification.allowed(worst))
        note = f"of the output’s largest number; {number(allowed)} is allowed"
        yield _Tile(number(largest), "largest error", note, "errors", None if verification.passed else "failed")


def _tiles(facts: Facts, flagged: Mapping[str, int]) -> Iterable[_Tile]:
    record, program = facts.record, facts.program
    if program is None:
        yield _Tile(f"{len(record['variables']):,}", "variables", None, "variables")
        yield _Tile(f"{record['parameters']:,}", "parameters in layers")
        yield _Tile("no", "network", "for the reason below", "warnings", "warn")
        return
    after = parameters(program.layers)
    yield _Tile(f"{record['parameters']:,}", "parameters", f"{after:,} after folding" if after != record["parameters"] else None)
    holding = sum(1 for layer in program.layers if layer.arrays)
    yield _Tile(f"{len(facts.layers):,}", "layers", f"{holding:,} with weights", "network")
    left = sum(len(layer.norms) for layer in facts.layers if "not_folded" in layer.layer.provenance)
    folded = len({norm.name for layer in facts.layers if "not_folded" not in layer.layer.provenance for norm in layer.norms})
    rest = f"{left:,} left as they are" if left else "none left over" if folded else None
    yield _Tile(f"{folded:,}", "batch norms folded", rest, "batch-norms" if folded or left else None)
    units, layers = sum(flagged.values()), sum(map(bool, flagged.values()))
    note = f"in {count(layers, 'layer')}" if units else "none dead, none collapsed"
    yield _Tile(f"{units:,}", "units worth a look", note, "units", "warn" if units else None)
    warnings, assumed = len(_warning_texts(facts)), len(program.conversion.get("assumed", ()))
    note = count(assumed, "assumption") if assumed else "nothing assumed"
    yield _Tile(f"{warnings:,}", "warnings", note, "warnings" if warnings else "how", "warn" if warnings else None)


def _warning_texts(facts: Facts) -> list[str]:
    conversion = facts.program.conversion if facts.program is not None else {}
    texts = [str(text) for text in conversion.get("warnings", facts.record["warnings"])]
    if conversion.get("incomplete"):
        texts.append(f"the bundle cannot be evaluated: {conversion['incomplete']}")
    diverged = [layer.layer.name for layer in facts.layers if layer.diverged]
    if diverged:
        more = f" and {len(diverged) - 3} more" if len(diverged) > 3 else ""
        texts.append(f"weights are NaN or infinite in {', '.join(diverged[:3])}{more}: the training had diverged, and no bundle can be made of them")
    return texts


def _lines(message: str) -> list[Content]:
    """A message of several lines, such as one that lists what to choose from."""
    return [[element("br") if place else None, line.strip()] for place, line in enumerate(message.splitlines())]


def _warnings(facts: Facts) -> Section | None:
    texts = [element("li", _lines(text)) for text in _warning_texts(facts)]
    if facts.record.get("unconverted"):
        texts.insert(0, element("li", "This checkpoint cannot be converted as it is. ", _lines(str(facts.record["unconverted"]))))
    return _section("warnings", "Warnings", element("ul", texts), class_="warnings") if texts else None


# ---- how the network was read


def _how(facts: Facts) -> Section | None:
    if facts.program is None:
        return None
    program = facts.program
    ports = [
        (label, [[name(port.name), f" {shape(port.shape)} ", element("span", port.dtype, class_="quiet")] for port in some], anchor)
        for label, some, anchor in (("Inputs", program.inputs, "inputs"), ("Outputs", program.outputs, "outputs"))
    ]
    rows = [
        *(_term(label, items or ["not known"], anchor) for label, items, anchor in ports),
        *(_term(label, items, None) for label, items in entries(program.conversion)),
        *(_term(label, items, None) for label, items in dropped(program.conversion)),
    ]
    return _section("how", "How it was read", element("dl", rows, class_="terms"))


def _term(label: str, items: Iterable[Content], anchor: str | None) -> Markup:
    shown = list(items)
    first, rest = shown[:8], shown[8:]
    definition: list[Content] = [element("div", item) for item in first]
    if rest:
        definition.append(element("details", element("summary", f"{len(rest)} more"), [element("div", item) for item in rest]))
    return element("div", element("dt", label), element("dd", definition), id=anchor)


# ---- units


def _findings(facts: Facts, found: Mapping[str, list[Finding]]) -> Section | None:
    if facts.program is None:
        return None
    rows = [
        (element("a", name(layer.layer.name), href=f"#layer-{layer.number}"), finding.what, count(len(finding.units), "unit"), finding.listed)
        for layer in facts.layers
        for finding in found[layer.layer.name]
    ]
    needs = " Gamma and the moving variance are in the checkpoint only." if facts.record["kind"] == "bundle" else ""
    explanation = element(
        "p",
        "A unit is dead when a Relu stands behind it and no input can make its result positive: the greatest value of Σ wᵢxᵢ + b over the range "
        "that its inputs can be in (not negative after a Relu, from 0 to 1 after a Sigmoid, any number at the network’s input) is not above 0. "
        f"It is constant when all of its weights are 0. A moving variance has collapsed below {COLLAPSED:g}, and is small below {SMALL:g} of "
        f"epsilon, which then decides what the unit is divided by.{needs}",
        class_="note",
    )
    content = table(("Layer", "What", "How many", "Which"), rows, label="Units worth a look") if rows else element("p", "None of that was found.")
    return _section("units", "Units worth a look", explanation, _closed(content, len(rows), "findings"), label="Units")


def _closed(content: Markup, rows: int, what: str) -> Markup:
    return element("details", element("summary", f"{rows} {what}"), content) if rows > _FEW_ROWS else content


# ---- the network


def _errors(facts: Facts, verification: "Verification | None") -> Section | None:
    if verification is None:
        return None
    numbers = {layer.layer.name: layer.number for layer in facts.layers}
    return _section("errors", "Errors against float64", overview(verification, numbers), label="Errors")


def _network(facts: Facts, flagged: Mapping[str, int], found: Mapping[str, list[Finding]], verification: "Verification | None") -> Section | None:
    if facts.program is None:
        return None
    tools = element(
        "div",
        element("button", "−", type="button", data_zoom="out", aria_label="Smaller"),
        element("button", "+", type="button", data_zoom="in", aria_label="Larger"),
        element("button", "Fit", type="button", data_zoom="fit", aria_label="Fit the width"),
        class_="tools",
        hidden=True,
    )
    legend = element(
        "p",
        [
            element("span", label, class_=kind)
            for kind, label in (("folded", "batch norm folded in"), ("linear", "weights"), ("left", "not folded"), ("op", "other"))
        ],
        class_="legend",
    )
    pane = element(
        "div", drawing(facts, flagged), class_="canvas", tabindex="0", role="region", aria_label="The network as a graph; scroll to see all of it"
    )
    graph = element("div", element("div", legend, tools, class_="bar"), pane, class_="graph")
    filters = element(
        "div",
        element("label", "Find a layer ", element("input", type="search", id="find", autocomplete="off")),
        element("label", element("input", type="checkbox", id="weights"), " only with weights"),
        element("output", id="shown", for_="find"),
        class_="filters",
        hidden=True,
    )
    first = len(facts.program.inputs)
    checks = {check.name: check for check in verification.layers} if verification is not None else {}
    cards = [
        card(layer, found[layer.layer.name], facts.shapes, f"#box-{first + layer.number}", checks.get(layer.layer.name)) for layer in facts.layers
    ]
    return _section(
        "network", "The network", _formula(facts), element("div", graph, element("div", filters, cards, class_="cards", id="layers"), class_="split")
    )


def _formula(facts: Facts) -> Markup | None:
    if not any(layer.norms for layer in facts.layers):
        return None
    return element(
        "p",
        "Batch norm at inference is γ · (x − mean) / √(variance + ε) + β. With s = γ / √(variance + ε), the folding scale, it goes into the layer "
        "beside it: kernel · s in place of the kernel, and (bias − mean) · s + β in place of the bias.",
        class_="note",
    )


# ---- tables


def _norms(facts: Facts) -> Section | None:
    rows = list(_norm_rows(facts))
    if not rows:
        return None
    content = table(("Layer", "Scale γ", "Offset β", "Moving mean", "Moving variance", "Epsilon", ""), rows, label="Batch norms and their variables")
    return _section("batch-norms", "Batch norms and their variables", _closed(content, len(rows), "batch norms"), label="Batch norms")


_ROLES = ("gamma", "beta", "mean", "variance")


def _norm_rows(facts: Facts) -> Iterable[tuple[Content, ...]]:
    if facts.program is None:
        for layer in facts.record["layers"]:
            for norm in layer["batch_norms"]:
                yield name(layer["name"]), *(_variable(norm[role]) for role in _ROLES), epsilon_text(norm), None
        return
    for facts_of in facts.layers:
        for norm in facts_of.norms:
            left = facts_of.layer.provenance.get("not_folded")
            yield (
                element("a", name(facts_of.layer.name), href=f"#layer-{facts_of.number}"),
                *(_variable(norm.variables.get(role)) for role in _ROLES),
                epsilon_text({"epsilon": norm.epsilon, "epsilon_from": norm.epsilon_from}),
                "folded" if left is None else "not folded",
            )


def _variable(key: str | None) -> Markup:
    return name(key) if key is not None else element("span", "none", class_="quiet")


def _variables(facts: Facts) -> Section | None:
    variables = facts.record.get("variables")
    if not variables:
        return None
    numbers = {layer.layer.name: layer.number for layer in facts.layers}
    rows = [(name(v["name"]), v["role"], shape(v["shape"]), v["dtype"], _place(v, numbers)) for v in variables]
    content = table(("Variable", "Role", "Shape", "Type", "Layer"), rows, label="Variables of the checkpoint")
    return _section("variables", "Variables of the checkpoint", _closed(content, len(rows), "variables"), label="Variables")


def _place(variable: Mapping[str, Any], numbers: Mapping[str, int]) -> Content:
    layer = variable["layer"]
    if layer in numbers:
        return element("a", name(layer), href=f"#layer-{numbers[layer]}")
    if layer is not None:
        return name(layer)
    owner = variable.get("belongs_to")
    return element("span", ["of ", name(owner)] if owner else "none", class_="quiet")


def _footer() -> Markup:
    return element("footer", element("p", f"Made by bnexport {__version__}. Everything on this page is in this one file."))
