"""What a page tells, gathered from a checkpoint or a bundle: the folded layers, what went into each, and the units that do nothing."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bnexport.batchnorms import BatchNorm
from bnexport.batchnorms import batch_norms as located
from bnexport.errors import BnexportError
from bnexport.html.shapes import Shape, followed
from bnexport.html.units import Units, examined, indices, unit_weights
from bnexport.inspection import examine
from bnexport.options import Options
from bnexport.program import LINEAR, Array, Layer, Program
from bnexport.report import batch_norms

NDArray = np.ndarray[Any, Any]

COLLAPSED = 1e-10
"""A moving variance below this is that of a unit which never varied: float32 sums of squares leave more than that of any that did."""
SMALL = 1e-2
"""A moving variance of less than this part of epsilon: epsilon and not the data decides what the unit is divided by."""


@dataclass(frozen=True, slots=True)
class Norm:
    """A batch norm as the page shows it.

    Attributes:
        name: its scope.
        variables: the checkpoint key for each role that has one (`gamma`, `beta`, `mean`, `variance`).
        epsilon, epsilon_from: None where they are not known.
        scale: gamma / sqrt(variance + epsilon), float64 of shape (units,); None where only a bundle is there.
        no_gamma: units whose gamma is 0, so that the batch norm gives beta whatever it is given.
        collapsed: units whose moving variance is below `COLLAPSED`.
        small: further units whose moving variance is less than `SMALL` times epsilon.
    """

    name: str
    variables: Mapping[str, str]
    epsilon: float | None
    epsilon_from: str | None
    scale: NDArray | None = None
    no_gamma: tuple[int, ...] = ()
    collapsed: tuple[int, ...] = ()
    small: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Step:
    """One of the operations that a layer stands for: what is written on it, its kind (`kernel`, `norm`, `shift` or `activation`), and the details."""

    text: str
    kind: str
    details: str


@dataclass(frozen=True, slots=True)
class LayerFacts:
    """A folded layer.

    Attributes:
        number: its place, from 0.
        made_of: the operations of the graph that it stands for, in their order where the checkpoint tells it.
        before: the kernel as it was trained, in float64; None where there is none or only a bundle is there.
        unused: units whose weights were all zero before folding.
        units: what is known of the units; None where there are no weights.
        diverged: whether weights are NaN or infinite, so that no bundle can be written.
    """

    number: int
    layer: Layer
    shape: Shape | None
    made_of: tuple[Step, ...]
    norms: tuple[Norm, ...]
    before: Array | None
    unused: tuple[int, ...]
    units: Units | None
    diverged: bool


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything that a page tells.

    Attributes:
        record: as `bnexport inspect` gives it.
        program: the folded network; None for a checkpoint that could not be converted.
        shapes: of the program's tensors, as far as they can be followed.
    """

    record: dict[str, Any]
    program: Program | None
    layers: tuple[LayerFacts, ...] = ()
    shapes: Mapping[str, Shape] = field(default_factory=dict)


def gather(path: str | Path, options: Options | None = None, bundle: str | Path | None = None) -> Facts:
    """What there is to tell of a bundle, or of a checkpoint by any of its files.

    Args:
        options: of the conversion, for a checkpoint.
        bundle: the bundle that was made of the checkpoint, to show in place of what converting it now would give.

    Raises:
        BnexportError: there is nothing at `path`, or it cannot be read. A checkpoint that can be read but not converted is no error.
    """
    from bnexport.conversion import to_program
    from bnexport.formats import is_bundle, read_bundle

    record = examine(path)
    if is_bundle(path):
        program = read_bundle(path)
        return _facts(record, program, None, ())
    try:
        program = read_bundle(bundle) if bundle is not None else to_program(path, options)
    except BnexportError as error:
        if bundle is not None:
            raise
        return Facts(record | {"unconverted": str(error)}, None)
    from bnexport.checkpoint import Checkpoint, locate
    from bnexport.conversion import to_unfolded

    unfolded = to_unfolded(path, options)
    with Checkpoint(locate(path)) as checkpoint:
        norms = located(unfolded, checkpoint)
    return _facts(record | {"unconverted": None}, program, unfolded, norms)


def _facts(record: dict[str, Any], program: Program, unfolded: Program | None, norms: Sequence[BatchNorm]) -> Facts:
    shapes = followed(program)
    return Facts(record, program, tuple(_layers(program, shapes, unfolded, norms)), shapes)


def _layers(program: Program, shapes: Mapping[str, Shape], unfolded: Program | None, norms: Sequence[BatchNorm]) -> Iterable[LayerFacts]:
    units = examined(program)
    before = _Before(unfolded, norms)
    for number, layer in enumerate(program.layers):
        kernel = before.kernel(layer)
        unused: tuple[int, ...] = ()
        if kernel is not None:
            weights = unit_weights(layer.op, kernel)
            unused = indices((weights.positive == 0) & (weights.negative == 0))
        mine = before.norms(layer) if unfolded is not None else [_from_bundle(norm) for norm in batch_norms(layer)]
        known = units.get(layer.name)
        diverged = layer.name in units and known is None
        yield LayerFacts(number, layer, shapes.get(layer.name), tuple(before.steps(layer)), tuple(mine), kernel, unused, known, diverged)


class _Before:
    """The network as it was before folding, if there is one, by the nodes of its graph."""

    def __init__(self, unfolded: Program | None, norms: Sequence[BatchNorm]):
        layers = unfolded.layers if unfolded is not None else []
        self._kernels = {layer.name: layer for layer in layers if "kernel" in layer.arrays}
        self._places: dict[str, int] = {}
        self._norm_at: dict[str, BatchNorm] = {}
        owner = {name: norm for norm in norms for name in norm.layers}
        for place, layer in enumerate(layers):
            for node in (layer.provenance.get("node", layer.name), *(_node(part) for part in layer.provenance.get("parts", ()))):
                self._places.setdefault(str(node), place)
            if layer.name in owner:
                self._norm_at.update({_node(part): owner[layer.name] for part in layer.provenance.get("parts", ())})

    def kernel(self, layer: Layer) -> Array | None:
        """The kernel of a folded layer as it was trained."""
        own = layer.arrays.get("kernel")
        found = self._kernels.get(layer.name)
        if own is None or found is None or found.op != layer.op or found.arrays["kernel"].shape != own.shape:
            return None
        return found.arrays["kernel"]

    def norms(self, layer: Layer) -> list[Norm]:
        """The batch norms that a folded layer was made from."""
        found = {id(norm): norm for part in layer.provenance.get("parts", ()) if (norm := self._norm_at.get(_node(part))) is not None}
        return [_located(norm) for norm in found.values()]

    def steps(self, layer: Layer) -> list[Step]:
        """The operations that a folded layer stands for."""
        placed: list[tuple[int, Step]] = []
        if layer.op in LINEAR:
            node = str(layer.provenance.get("node", layer.name))
            kernel = layer.provenance.get("kernel")
            names = [kernel] if isinstance(kernel, str) else list(kernel or ())
            placed.append(
                (self._places.get(node, -1), Step(LINEAR[layer.op], "kernel", f"{node}: kernel {', '.join(map(str, names)) or 'constant'}"))
            )
        seen: set[str] = set()
        for part in layer.provenance.get("parts", ()):
            place = self._places.get(_node(part), 0)
            norm = self._norm_at.get(_node(part))
            variance = norm.name if norm is not None else part.get("variance")
            if variance is None:
                placed.append((place, _plain_step(part)))
            elif str(variance) not in seen:
                seen.add(str(variance))
                name = norm.name if norm is not None else _scope({role: str(value) for role, value in part.items()})
                placed.append((place, Step("batch norm", "norm", name)))
        steps = [step for _, step in sorted(placed, key=lambda entry: entry[0])]
        if layer.activation is not None:
            steps.append(Step(layer.activation, "activation", layer.activation))
        return steps


def _node(part: Mapping[str, Any]) -> str:
    return str(part.get("node", part.get("shift", part.get("scale", ""))))


def _plain_step(part: Mapping[str, Any]) -> Step:
    op = str(part.get("op", ""))
    if "shift" in part and "scale" not in part:
        return Step("minus" if op == "Sub" else "bias", "shift", f"{_node(part)}: {part['shift']}")
    if "scale" in part:
        return Step("scale", "shift", f"{_node(part)}: {part['scale']}")
    return Step(op or "scale/shift", "shift", _node(part))


def _located(norm: BatchNorm) -> Norm:
    variance = norm.variance.reshape(-1)
    told = "variance" not in norm.derived
    collapsed = (variance < COLLAPSED) & told
    return Norm(
        norm.name,
        norm.variables,
        norm.epsilon,
        norm.epsilon_from,
        (norm.gamma / np.sqrt(norm.variance + norm.epsilon)).reshape(-1),
        indices(norm.gamma == 0),
        indices(collapsed),
        indices((variance < SMALL * norm.epsilon) & ~collapsed & told),
    )


def _from_bundle(norm: Mapping[str, Any]) -> Norm:
    variables = {role: str(norm[role]) for role in ("gamma", "beta", "mean", "variance") if norm.get(role) is not None}
    return Norm(_scope(variables), variables, norm.get("epsilon"), norm.get("epsilon_from"))


def _scope(variables: Mapping[str, str]) -> str:
    key = next((variables[role] for role in ("gamma", "beta", "shift", "variance") if role in variables), "batch norm")
    return key.rpartition("/")[0] or key
