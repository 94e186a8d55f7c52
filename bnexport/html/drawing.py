"""The network as a picture: boxes for its inputs, layers and outputs, and what was folded into a layer inside of its box."""

# ruff: noqa: RUF001
# What the page says is written with the signs of mathematics and typography.

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from bnexport.html.facts import Facts, LayerFacts, Step
from bnexport.html.layout import place
from bnexport.html.markup import Content, Markup, element
from bnexport.html.shapes import Shape
from bnexport.program import Port

_MARGIN = 14.0
_WIDE, _NARROW = 252.0, 176.0
_PAD = 12.0
_NAME_LETTER = 7.0
"""The width of a letter of a name, in a monospaced type of 11.5 pixels."""
_STEP_LETTER = 5.9
_STEP_PAD, _STEP_GAP, _STEP_HEIGHT = 14.0, 4.0, 17.0
_STEM = 18.0
"""How far an edge goes straight down from its box: the shape stands beside it."""
_DOTS = "…"


@dataclass(frozen=True, slots=True)
class _Box:
    """A box to draw: its tensors, its size, and what stands in it."""

    takes: tuple[str, ...]
    gives: tuple[str, ...]
    width: float
    height: float
    kind: str
    target: str
    name: str
    line: str
    steps: tuple[Step, ...] = ()
    flagged: int = 0
    words: str = ""


def drawing(facts: Facts, flagged: Mapping[str, int]) -> Markup:
    """The network of a program in SVG, from top to bottom.

    Args:
        flagged: how many units of a layer, by its name, are worth a look.
    """
    program = facts.program
    if program is None:
        return Markup("")
    boxes = [_port(port, "input", "#inputs") for port in program.inputs]
    boxes += [_layer(layer, flagged.get(layer.layer.name, 0)) for layer in facts.layers]
    boxes += [_port(port, "output", "#outputs") for port in program.outputs]
    makers = {tensor: number for number, box in enumerate(boxes) for tensor in box.gives}
    edges = [(makers[tensor], number, tensor) for number, box in enumerate(boxes) for tensor in dict.fromkeys(box.takes) if tensor in makers]
    placed = place([(box.width, box.height) for box in boxes], [(a, b) for a, b, _ in edges])
    lines = [_edge(boxes, placed.centres, edge, bends, number) for number, (edge, bends) in enumerate(zip(edges, placed.bends, strict=True))]
    labels = _labels(boxes, placed.centres, edges, facts.shapes)
    shown = [_drawn(box, number, centre) for number, (box, centre) in enumerate(zip(boxes, placed.centres, strict=True))]
    width, height = placed.width + 2 * _MARGIN, placed.height + 2 * _MARGIN
    return element(
        "svg",
        element("title", f"The network: {len(facts.layers)} layers from {_names(program.inputs)} to {_names(program.outputs)}"),
        element("g", lines, class_="edges"),
        element("g", labels, class_="labels", aria_hidden="true"),
        element("g", shown, class_="boxes"),
        id="graph",
        viewBox=f"{-_MARGIN:g} {-_MARGIN:g} {_short(width)} {_short(height)}",
        width=_short(width),
        height=_short(height),
        role="group",
    )


def shape(sizes: Shape) -> str:
    """`? × 28 × 28 × 1`; a scalar is `()`."""
    return " × ".join("?" if size is None else str(size) for size in sizes) or "()"


def _names(ports: Sequence[Port]) -> str:
    return ", ".join(port.name for port in ports)


def _port(port: Port, kind: str, target: str) -> _Box:
    takes, gives = ((), (port.tensor,)) if kind == "input" else ((port.tensor,), ())
    words = f"{kind} {port.name}: {shape(port.shape)} {port.dtype}"
    return _Box(takes, gives, _NARROW, 30, kind, target, port.name, kind, words=words)


def _layer(facts: LayerFacts, flagged: int) -> _Box:
    layer = facts.layer
    takes, gives = tuple(layer.takes), tuple(layer.makes)
    target = f"#layer-{facts.number}"
    if not layer.arrays and not facts.made_of:
        return _Box(takes, gives, _NARROW, 30, "op", target, layer.name, layer.op, words=f"{layer.name}: {layer.op}")
    kernel = layer.arrays.get("kernel")
    what = "batch norm, not folded" if layer.op == "ScaleShift" and facts.norms else layer.op
    line = f"{what} {shape(kernel.shape)}" if kernel is not None else what
    kind = "left" if layer.op == "ScaleShift" else "folded" if facts.norms else "linear"
    words = f"{layer.name}: {' + '.join(step.text for step in facts.made_of) or layer.op} → {layer.op}"
    return _Box(takes, gives, _WIDE, 72 if facts.made_of else 46, kind, target, layer.name, line, facts.made_of, flagged, words)


# ---- boxes


def _drawn(box: _Box, number: int, centre: tuple[float, float]) -> Markup:
    x, y = centre[0] - box.width / 2, centre[1]
    small = box.height < 40
    content: list[Content] = [element("title", box.words + (f"; {box.flagged} units worth a look" if box.flagged else ""))]
    content.append(element("rect", width=_short(box.width), height=_short(box.height), rx=15 if box.kind in ("input", "output") else 6, class_="box"))
    if small:
        room = box.width - 2 * _PAD - len(box.line) * 6.6 - 8
        content.append(element("text", box.line, x=_PAD, y=19, class_="line"))
        if box.name != box.line:
            content.append(element("text", _cut(box.name, room), x=_short(box.width - _PAD), y=19, text_anchor="end", class_="name"))
    else:
        content.append(element("text", _cut(box.name, box.width - 2 * _PAD - (34 if box.flagged else 0)), x=_PAD, y=19, class_="name"))
        content.append(element("text", box.line, x=_PAD, y=36, class_="line"))
        content.append(_steps(box))
    if box.flagged:
        width = 14 + 6.2 * len(str(box.flagged))
        mark = [
            element("rect", x=_short(box.width - width - 8), y=8, width=_short(width), height=15, rx=7.5),
            element("text", box.flagged, x=_short(box.width - 8 - width / 2), y=19, text_anchor="middle"),
        ]
        content.append(element("g", mark, class_="flag"))
    link = element("a", content, href=box.target, aria_label=box.words)
    return element("g", link, id=f"box-{number}", class_=f"node {box.kind}", transform=f"translate({_short(x)} {_short(y)})", data_target=box.target)


def _steps(box: _Box) -> list[Markup]:
    """The operations that a layer stands for, each in a frame of its own; those for which there is no room are counted in the last."""
    found: list[Markup] = []
    x, room = _PAD, box.width - _PAD
    for number, step in enumerate(box.steps):
        width = _STEP_PAD + _STEP_LETTER * len(step.text)
        rest = len(box.steps) - number
        if x + width + (26 if rest > 1 else 0) > room and number:
            found.append(element("text", f"+{rest}", x=_short(x + 2), y=58, class_="more"))
            break
        frame = element("rect", width=_short(width), height=_STEP_HEIGHT, rx=4)
        label = element("text", step.text, x=_short(width / 2), y=12, text_anchor="middle")
        found.append(element("g", element("title", step.details), frame, label, class_=f"step {step.kind}", transform=f"translate({_short(x)} 46)"))
        x += width + _STEP_GAP
    return found


def _cut(name: str, room: float) -> str:
    """A name that fits, without its beginning where it is too long: what tells layers apart mostly stands at the end."""
    letters = max(4, int(room / _NAME_LETTER))
    return name if len(name) <= letters else _DOTS + name[len(name) - letters + 1 :]


# ---- edges


def _edge(
    boxes: Sequence[_Box], centres: Sequence[tuple[float, float]], edge: tuple[int, int, str], bends: Sequence[tuple[float, float]], number: int
) -> Markup:
    a, b, _ = edge
    x, bottom = centres[a][0], centres[a][1] + boxes[a].height
    points = [(x, bottom + _STEM), *bends, centres[b]]
    path = [f"M{_short(x)} {_short(bottom)}V{_short(bottom + _STEM)}"]
    for (x0, y0), (x1, y1) in pairwise(points):
        if abs(x0 - x1) < 0.05:
            path.append(f"V{_short(y1)}")
        else:
            middle = _short((y0 + y1) / 2)
            path.append(f"C{_short(x0)} {middle} {_short(x1)} {middle} {_short(x1)} {_short(y1)}")
    return element("path", d="".join(path), id=f"edge-{number}", data_from=f"box-{a}", data_to=f"box-{b}")


def _labels(
    boxes: Sequence[_Box], centres: Sequence[tuple[float, float]], edges: Sequence[tuple[int, int, str]], shapes: Mapping[str, Shape]
) -> list[Markup]:
    """The shape of each tensor, once, below the box that it comes out of."""
    found = []
    for a, tensor in dict.fromkeys((a, tensor) for a, _, tensor in edges):
        if tensor in shapes and tensor == boxes[a].gives[0]:
            x, y = centres[a][0] + 7, centres[a][1] + boxes[a].height + 14
            found.append(element("text", shape(shapes[tensor]), x=_short(x), y=_short(y)))
    return found


def _short(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
