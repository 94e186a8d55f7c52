"""Whether a bundle gives what its checkpoint computes: layer by layer, against the unfolded network in float64 and against TensorFlow.

The truth is the network with nothing folded, every operation in float64. A bundle in float32 is some rounding errors away from it, and so is
TensorFlow's own session; how far each is, in units of the largest number of the tensor, is what is measured.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bnexport.batchnorms import batch_norms
from bnexport.differences import Difference
from bnexport.draws import draw
from bnexport.errors import IncompleteBundle, InputError, UsageError
from bnexport.kernels.table import ieee
from bnexport.options import Options
from bnexport.program import Port, Program, shape_text
from bnexport.reference import Session, Unavailable, Variables, compare_variables
from bnexport.runner import Model, load
from bnexport.tracing import evaluate

if TYPE_CHECKING:
    from bnexport.checkpoint import Location

NDArray = np.ndarray[Any, Any]

TOLERANCES = {"float64": 1e-12, "float32": 1e-5, "float16": 1e-2}
"""The largest difference, in units of the largest number of a tensor, that rounding is held to explain.

One operation in float32 is off by up to 6e-8 of its result. A sum of a thousand products, in any order, is off by about 1e-6 of its scale, and
errors grow through layers that subtract large numbers; TensorFlow's own session is 1e-7 to 5e-6 from the truth in real networks. What is wrong (an
epsilon, a statistic, a weight, an activation) makes 1e-3 or more. 1e-5 lies between. float64 has more room, because the truth is rounded there as
well; float16 has ten units of rounding.
"""

TIMES = 2
"""How often as far from the truth as TensorFlow's own result one beyond the tolerance may be.

A network can lose more digits than that in float32, whoever computes it: an attention that adds -10000 to all of a row's scores rounds them to a
thousandth. Two programs that round in other places are then apart by as much as each is from the truth, and neither is wrong. No output of the
networks in docs/accuracy.md is twice as far as TensorFlow's.
"""

PART_BYTES = 256 << 20
"""About how much of a float64 trace is in memory at a time."""


@dataclass(slots=True)
class LayerCheck:
    """One layer of a bundle.

    Attributes:
        name, op, activation: of the layer.
        equals: the tensor of the unfolded network that it gives; None where folding left it a value of its own.
        bundle: how far it is from the truth.
        tensorflow: how far TensorFlow's own tensor is, where there is one.
        added: how much further from the truth the layer's result is than what it takes, in units of the scale.
        unfolded: without TensorFlow's tensor, for one beyond the tolerance: how far the network is with nothing folded and in its own dtypes.
    """

    name: str
    op: str
    activation: str | None
    equals: str | None
    bundle: Difference | None = None
    tensorflow: Difference | None = None
    added: float = 0.0
    unfolded: Difference | None = None


@dataclass(slots=True)
class OutputCheck:
    """One output: how far the bundle, TensorFlow and (as in `LayerCheck`) the network with nothing folded are from the truth."""

    name: str
    bundle: Difference = field(default_factory=Difference)
    tensorflow: Difference | None = None
    unfolded: Difference | None = None

    @property
    def nearer(self) -> bool | None:
        """Whether the bundle is at least as near to the truth as TensorFlow; None without TensorFlow."""
        return None if self.tensorflow is None else self.bundle.most <= self.tensorflow.most

    @property
    def ratio(self) -> float | None:
        """The bundle's largest difference over TensorFlow's; below 1 is nearer."""
        if self.tensorflow is None:
            return None
        return self.bundle.most / self.tensorflow.most if self.tensorflow.most else (1.0 if self.bundle.most == 0 else np.inf)


@dataclass(slots=True)
class Verification:
    """What was found.

    Attributes:
        checkpoint, bundle: the files.
        rows: how many examples were evaluated.
        inputs: for each input where its numbers came from.
        dtype: the floating-point kind of the bundle's outputs.
        tolerance: the largest difference allowed, in units of each tensor's scale.
        layers, outputs: in the bundle's order.
        tensorflow: TensorFlow's version, where it evaluated the network.
        unavailable: else why not.
        variables: the reading of each variable compared with TensorFlow's; None where there is no TensorFlow.
        strict: whether the user said the tolerance, so that nothing beyond it is allowed.
    """

    checkpoint: str
    bundle: str
    rows: int
    inputs: dict[str, str]
    dtype: str
    tolerance: float
    layers: list[LayerCheck]
    outputs: list[OutputCheck]
    tensorflow: str | None = None
    unavailable: str | None = None
    variables: Variables | None = None
    strict: bool = False

    def allowed(self, check: LayerCheck | OutputCheck) -> float:
        """The largest difference of a tensor: the tolerance, or `TIMES` what TensorFlow's own has, or the network's with nothing folded."""
        other = check.tensorflow or check.unfolded
        most = 0.0 if other is None or self.strict else TIMES * other.relative
        return max(self.tolerance, most) if np.isfinite(most) else self.tolerance

    @property
    def beyond(self) -> list[LayerCheck]:
        """The layers that are further from the truth than is allowed, in their order: the first is where it begins."""
        return [layer for layer in self.layers if layer.bundle is not None and not layer.bundle.relative <= self.allowed(layer)]

    @property
    def strained(self) -> list[LayerCheck | OutputCheck]:
        """The layers and outputs that are beyond the tolerance, and no further than the network's own rounding explains."""
        checks: list[LayerCheck | OutputCheck] = [*self.layers, *self.outputs]
        return [check for check in checks if check.bundle is not None and self.tolerance < check.bundle.relative <= self.allowed(check)]

    @property
    def adds_most(self) -> LayerCheck | None:
        """The layer that adds the most to the difference."""
        return max((layer for layer in self.layers if layer.bundle is not None), key=lambda layer: layer.added, default=None)

    @property
    def passed(self) -> bool:
        """Whether all layers and outputs are as near to the truth as is allowed, and every variable reads as TensorFlow reads it."""
        outputs = all(output.bundle.relative <= self.allowed(output) for output in self.outputs)
        return outputs and not self.beyond and not (self.variables and self.variables.different)


def verify(
    checkpoint: str | Path,
    bundle: str | Path,
    *,
    input_file: str | Path | None = None,
    header: bool | None = None,
    rows: int = 32,
    seed: int = 0,
    tolerance: float | None = None,
) -> Verification:
    """Compares a bundle with the checkpoint that it was made from.

    Args:
        input_file: rows to evaluate, as `bnexport run` takes them; without it `rows` random ones are drawn (`bnexport.draws`), or whole
            batches of a network that was built for them: one where it takes statistics over it.
        tolerance: in units of each tensor's largest number; by default as `TOLERANCES` says, or more where TensorFlow's own differences are
            beyond it (`TIMES`).

    Raises:
        UsageError: the two files are not of one network.
        BnexportError: one of them cannot be read or evaluated. That TensorFlow cannot is no error.
    """
    from bnexport.checkpoint import Checkpoint, locate
    from bnexport.conversion import to_unfolded

    model = load(bundle)
    if model.conversion.get("incomplete"):
        raise IncompleteBundle(f"{bundle}: {model.conversion['incomplete']}")
    options = Options(**model.conversion.get("options", {}))
    location = locate(checkpoint, options.graph)
    try:
        program = to_unfolded(checkpoint, options)
    except UsageError as error:
        raise UsageError(f"{checkpoint} cannot be read in the way that {bundle} was made: {error}") from error
    _check_ports(checkpoint, bundle, program, model)
    with Checkpoint(location) as stored:
        norms = batch_norms(program, stored)
        if input_file is not None:
            feeds, sources = _from_file(input_file, model, header)
        else:
            batch = model.conversion.get("batch", 1)
            batches = 1 if model.conversion.get("uses_batch") else max(1, rows // batch)
            feeds, sources = draw(program, norms, model.inputs, rows if batch == 1 else batches * batch, seed)
        dtype = next((p.dtype for p in model.outputs if p.dtype.startswith("float")), "float32")
        count = max((len(value) for value in feeds.values() if value.ndim), default=1)
        layers = [LayerCheck(layer.name, layer.op, layer.activation, layer.provenance.get("equals")) for layer in model.layers]
        outputs = [OutputCheck(port.name) for port in model.outputs]
        found = Verification(
            str(checkpoint),
            str(bundle),
            count,
            sources,
            dtype,
            TOLERANCES[dtype] if tolerance is None else tolerance,
            layers,
            outputs,
            strict=tolerance is not None,
        )
        try:
            found.variables = compare_variables(stored)
        except Unavailable as error:
            found.unavailable = str(error)
    truth = Model(program, str(checkpoint))
    _compare(found, model, truth, feeds, _session(found, location, options, model))
    _compare_unfolded(found, model, truth, feeds, lambda: Model(to_unfolded(checkpoint, options, exact=False), str(checkpoint)))
    _attribute(found, model)
    return found


def _session(found: Verification, location: "Location", options: Options, model: Model) -> Session | None:
    try:
        session = Session(location, options, model.conversion)
    except Unavailable as error:
        found.unavailable = str(error)
        return None
    found.tensorflow = session.version
    return session


def _check_ports(checkpoint: str | Path, bundle: str | Path, program: Program, model: Model) -> None:
    for kind, theirs, ours in (("inputs", program.inputs, model.inputs), ("outputs", program.outputs, model.outputs)):
        if [(p.name, p.shape) for p in theirs] != [(p.name, p.shape) for p in ours]:
            raise UsageError(
                f"{bundle} was not made from {checkpoint}: the bundle's {kind} are {_listed(ours)}, the checkpoint's network has {_listed(theirs)}"
            )
    known = {layer.name for layer in program.layers}
    for layer in model.layers:
        equal = layer.provenance.get("equals")
        if equal is not None and equal not in known:
            raise UsageError(
                f"{bundle} was not made from {checkpoint}: its layer {layer.name} gives the tensor {equal}, "
                "which the checkpoint's network does not have"
            )


def _listed(ports: "tuple[Port, ...] | list[Port]") -> str:
    return ", ".join(f"{port.name} {shape_text(port.shape)}" for port in ports) or "none"


def _from_file(path: str | Path, model: Model, header: bool | None) -> tuple[dict[str, NDArray], dict[str, str]]:
    from bnexport.tables import read_inputs

    blocks = list(read_inputs(path, model.inputs, header=header, block_rows=None))
    if not blocks:
        raise InputError(f"{path} holds no rows")
    return blocks[0], {port.name: f"the rows of {path}" for port in model.inputs}


# ---- comparing


def _compare(found: Verification, model: Model, truth: Model, feeds: Mapping[str, NDArray], session: Session | None) -> None:
    """Evaluates all of them, some rows at a time where rows do not depend on each other, and takes in the differences."""
    try:
        for part in _parts(model, truth, feeds):
            exact = _evaluated(truth, part, found)
            traced = evaluate(model, part)
            with ieee():
                predicted = model.predict(part)
            theirs = _theirs(found, session, part)
            for check in found.layers:
                if check.equals is not None:
                    check.bundle = _added(check.bundle, traced[check.name], exact[check.equals], found, check.name)
                    if check.equals in theirs and theirs[check.equals].shape == exact[check.equals].shape:
                        check.tensorflow = _added(check.tensorflow, theirs[check.equals], exact[check.equals], found, check.name)
            for output, port in zip(found.outputs, truth.outputs, strict=True):
                values = predicted[output.name] if isinstance(predicted, dict) else predicted
                _added(output.bundle, values, exact[port.tensor], found, output.name)
                if f"output:{output.name}" in theirs:
                    output.tensorflow = _added(output.tensorflow, theirs[f"output:{output.name}"], exact[port.tensor], found, output.name)
    finally:
        if session is not None:
            session.__exit__()


def _compare_unfolded(found: Verification, model: Model, truth: Model, feeds: Mapping[str, NDArray], unfolded: Callable[[], Model]) -> None:
    """Finds out, of what is beyond the tolerance and TensorFlow does not have, how far the network is with nothing folded in its own dtypes."""
    layers = [
        check for check in found.layers if check.bundle is not None and check.tensorflow is None and not check.bundle.relative <= found.tolerance
    ]
    ports = [(check, port) for check, port in zip(found.outputs, truth.outputs, strict=True) if check.tensorflow is None]
    outputs = [(check, port.tensor) for check, port in ports if not check.bundle.relative <= found.tolerance]
    if found.strict or not (layers or outputs):
        return
    wanted: list[tuple[LayerCheck | OutputCheck, str]] = [*((check, check.equals) for check in layers if check.equals is not None), *outputs]
    plain = unfolded()
    for part in _parts(model, truth, feeds):
        exact, rounded = _evaluated(truth, part, found), evaluate(plain, part)
        for check, tensor in wanted:
            check.unfolded = _added(check.unfolded, rounded[tensor], exact[tensor], found, check.name)


def _evaluated(truth: Model, part: Mapping[str, NDArray], found: Verification) -> dict[str, NDArray]:
    try:
        return evaluate(truth, part)
    except InputError as error:
        raise UsageError(f"{found.bundle} was not made from {found.checkpoint}: {error}") from error


def _added(difference: Difference | None, values: NDArray, exact: NDArray, found: Verification, name: str) -> Difference:
    difference = difference or Difference()
    if values.shape != exact.shape:
        raise UsageError(
            f"{found.bundle} was not made from {found.checkpoint}: {name} is of shape {list(values.shape)}, "
            f"and the checkpoint gives {list(exact.shape)}"
        )
    difference.add(values, exact)
    return difference


def _parts(model: Model, truth: Model, feeds: Mapping[str, NDArray]) -> Iterator[dict[str, NDArray]]:
    batched = [p.name for p in model.inputs if p.shape and p.shape[0] is None]
    count = len(feeds[batched[0]]) if batched else 1
    if not (model.row_by_row and truth.row_by_row and batched) or count <= 1:
        yield dict(feeds)
        return
    one = {name: value[:1] if name in batched else value for name, value in feeds.items()}
    step = max(1, PART_BYTES // max(1, sum(value.nbytes for value in evaluate(truth, one).values())))
    for start in range(0, count, step):
        yield {name: value[start : start + step] if name in batched else value for name, value in feeds.items()}


def _theirs(found: Verification, session: Session | None, part: Mapping[str, NDArray]) -> dict[str, NDArray]:
    """TensorFlow's tensors; none where it fails, which is noted."""
    if session is None or found.unavailable is not None:
        return {}
    try:
        return session.evaluate(part)
    except Unavailable as error:
        found.unavailable, found.tensorflow = str(error), None
        for layer in found.layers:
            layer.tensorflow = None
        for output in found.outputs:
            output.tensorflow = None
        return {}


def _attribute(found: Verification, model: Model) -> None:
    """How much each layer adds: its own difference less the largest of what it takes; a tensor that cannot be compared hands its operands' on."""
    reached: dict[str, float] = {port.tensor: 0.0 for port in model.inputs}
    for check, layer in zip(found.layers, model.layers, strict=True):
        before = max((reached.get(tensor, 0.0) for tensor in layer.takes), default=0.0)
        after = before if check.bundle is None else check.bundle.relative
        check.added = max(0.0, after - before) if np.isfinite(after) else np.inf
        reached.update(dict.fromkeys(layer.makes, after))
