"""The batch norms of a network that is not folded: where each stands, and the numbers it is made of.

Without folding a batch norm is one scale/shift layer (FusedBatchNorm, or a network read from names) or several in a row, as its formula was written:

    x·(γ/√(σ²+ε)) + (β − μ·γ/√(σ²+ε))      tf.nn.batch_normalization: two layers, the variance is part of both
    (x − μ)/√(σ²+ε) · γ + β                 written by hand: up to four layers, the variance is part of the second

A bias added before, or anything multiplied or added after a formula that is complete, does not belong to it.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bnexport.checkpoint import Checkpoint
from bnexport.program import LINEAR, Layer, Program, materialize

NDArray = np.ndarray[Any, Any]

_OBJECT_SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"
_INNER = ("moments", "batchnorm", "cond")
"""Scopes that TensorFlow's own functions open inside a batch norm's."""
_CLOSE = 1e-6
"""How well a formula must give the graph's own numbers, relative: epsilon is written shorter than float32 has it, which alone makes 2e-8."""


@dataclass(frozen=True, slots=True)
class BatchNorm:
    """gamma · (x − mean) / √(variance + epsilon) + beta, as one place of a network has it (Ioffe and Szegedy 2015, algorithm 2).

    Attributes:
        name: the scope of its variables; where they have none, its first node.
        before, after: the tensors that it takes and gives, by their names in the program.
        layers: the scale/shift layers that it is.
        layer: the linear layer whose result it is given, directly or through activations, pooling and reshapes; None on a network's input or behind a
            join of several ways.
        mean, variance, gamma, beta: float64, all of one shape that broadcasts against x from its last dimension on: (C,), or (C, 1, 1) where channels
            are first. Where there is no gamma it is ones, where no beta zeros. With these numbers the formula gives what the graph computes.
        epsilon: as people write it (0.001, of which float32 has 0.00100000005).
        epsilon_from: `the graph`, `--epsilon` or `default`.
        variables: the checkpoint key for each role that has one: `mean`, `variance`, `gamma`, `beta`.
        derived: the roles whose numbers are no variable's: computed backward from what the graph multiplies by and adds, because it treats the
            variable in some other way than the formula (clips it, say).
    """

    name: str
    before: str
    after: str
    layers: tuple[str, ...]
    layer: str | None
    mean: NDArray
    variance: NDArray
    gamma: NDArray
    beta: NDArray
    epsilon: float
    epsilon_from: str
    variables: Mapping[str, str]
    derived: tuple[str, ...]

    @property
    def axis(self) -> int | None:
        """The axis of x along which the numbers vary, counted from the end (-1 for channels last); None where there are several."""
        long = [axis - self.mean.ndim for axis, size in enumerate(self.mean.shape) if size > 1]
        return long[0] if len(long) == 1 else -self.mean.ndim if not long else None

    @property
    def units(self) -> int:
        """How many numbers there are in each role."""
        return self.mean.size


def batch_norms(program: Program, checkpoint: Checkpoint) -> list[BatchNorm]:
    """The batch norms of a network in the order of its layers.

    Args:
        program: unfolded, as `bnexport.conversion.to_unfolded` gives it.
        checkpoint: which it was read from; only the variables of batch norms are read.

    Raises:
        CheckpointError: a variable cannot be read.
    """
    makers = {layer.name: layer for layer in program.layers}
    taken: set[str] = set()
    found = []
    for chain in _chains(program.layers):
        for group in _groups(chain):
            norm = _batch_norm(group, checkpoint, _linear_before(makers, str(group[0].inputs[0])), taken)
            taken.add(norm.name)
            found.append(norm)
    return found


def _chains(layers: Sequence[Layer]) -> Iterable[list[Layer]]:
    """Scale/shift layers that follow each other, none of which anything else takes on the way."""
    users: dict[str, list[Layer]] = {}
    for layer in layers:
        for tensor in {t for t in layer.inputs if isinstance(t, str)}:
            users.setdefault(tensor, []).append(layer)
    inside: set[str] = set()
    for layer in layers:
        if layer.op != "ScaleShift" or layer.name in inside:
            continue
        chain = [layer]
        while len(after := users.get(chain[-1].name, [])) == 1 and after[0].op == "ScaleShift":
            chain.append(after[0])
            inside.add(after[0].name)
        yield chain


def _parts(layer: Layer) -> list[dict[str, Any]]:
    parts: list[dict[str, Any]] = layer.provenance.get("parts", [])
    return parts


def _has(layer: Layer, role: str) -> bool:
    return any(role in part for part in _parts(layer))


def _variance(layer: Layer) -> str | None:
    return next((str(part["variance"]) for part in _parts(layer) if "variance" in part), None)


def _only(layer: Layer, role: str, *ops: str) -> bool:
    """Whether a layer does nothing but to add (role `shift`) or to multiply by (`scale`) a variable, with one of these operators."""
    parts = _parts(layer)
    return len(parts) == 1 and role in parts[0] and parts[0]["op"] in ops


def _groups(chain: list[Layer]) -> Iterable[list[Layer]]:
    """The batch norms in a chain of scale/shift layers, each the layers that it is."""
    start = 0
    while start < len(chain):
        variance = _variance(chain[start])
        if variance is None:
            start += 1
            continue
        end = start + 1
        complete = _has(chain[start], "mean")
        while not complete and end < len(chain) and _variance(chain[end]) == variance:
            complete = _has(chain[end], "mean")
            end += 1
        first = start
        if not complete and start > 0 and _only(chain[start - 1], "shift", "Sub"):
            first = start - 1
            if not _has(chain[start], "gamma") and end < len(chain) and _only(chain[end], "scale", "Mul"):
                end += 1
            if end < len(chain) and _only(chain[end], "shift", "Add", "AddV2", "BiasAdd"):
                end += 1
        yield chain[first:end]
        start = end


_MEANS = {"shift": ("mean", "beta"), "scale": ("gamma", "gamma")}
"""What a variable without a role is before the division and after it."""


def _roles(group: Sequence[Layer]) -> dict[str, Any]:
    """The variable in each role, and epsilon with its source."""
    found: dict[str, Any] = {}
    divided = False
    for layer in group:
        for part in _parts(layer):
            divided = divided or "variance" in part
            for role, value in part.items():
                found.setdefault(_MEANS[role][divided] if role in _MEANS else role, value)
    if found.get("mean") == found.get("gamma"):  # μ·(γ/√…) read from its other end; the numbers tell the mean
        found.pop("mean", None)
    return found


def _batch_norm(group: Sequence[Layer], checkpoint: Checkpoint, layer: str | None, taken: set[str]) -> BatchNorm:
    roles = _roles(group)
    scale, shift = np.ones(()), np.zeros(())
    for part in group:
        times, plus = (np.asarray(materialize(part.arrays[role]), np.float64) for role in ("scale", "shift"))
        scale, shift = scale * times, shift * times + plus
    shape = np.broadcast_shapes(scale.shape, shift.shape, (1,))
    while len(shape) > 1 and shape[0] == 1:
        shape = shape[1:]
    scale, shift = (np.broadcast_to(values, np.broadcast_shapes(values.shape, shape)).reshape(shape) for values in (scale, shift))
    epsilon = float(roles["epsilon"])
    read = {role: _read(checkpoint, roles.get(role), shape) for role in ("mean", "variance", "gamma", "beta")}
    values, derived = _solved(scale, shift, epsilon, read)
    variables = {role: str(roles[role]) for role in values if role in roles and role not in derived}
    name = _name(variables, group)
    while name in taken:
        name = _next(name)
    return BatchNorm(
        name,
        str(group[0].inputs[0]),
        group[-1].name,
        tuple(part.name for part in group),
        layer,
        **values,
        epsilon=epsilon,
        epsilon_from=str(roles.get("epsilon_from", "the graph")),
        variables=variables,
        derived=derived,
    )


def _read(checkpoint: Checkpoint, key: str | None, shape: tuple[int, ...]) -> NDArray | None:
    """A variable in the shape that broadcasts; None where there is none, or it is of another size."""
    if key is None:
        return None
    values = checkpoint.read(key).astype(np.float64)
    size = int(np.prod(shape))
    if values.size not in (1, size):
        return None
    return np.broadcast_to(values.reshape(-1), (size,)).reshape(shape)


def _solved(scale: NDArray, shift: NDArray, epsilon: float, read: Mapping[str, NDArray | None]) -> tuple[dict[str, NDArray], tuple[str, ...]]:
    """The numbers of a formula that multiplies by `scale` and adds `shift`: the variables' where they give these, else solved for."""
    derived = []
    gamma, beta, mean, variance = (read[role] for role in ("gamma", "beta", "mean", "variance"))
    gamma = np.ones_like(scale) if gamma is None else gamma
    beta = np.zeros_like(shift) if beta is None else beta
    with np.errstate(divide="ignore", invalid="ignore"):  # a unit that is multiplied by 0 tells nothing of its mean
        if variance is None:
            variance = np.where(scale == 0, 1.0, (gamma / scale) ** 2 - epsilon)
            derived.append("variance")
        elif not _agree(gamma / np.sqrt(variance + epsilon), scale, np.abs(scale)):
            gamma = scale * np.sqrt(variance + epsilon)
            derived.append("gamma")
        if mean is None:
            mean = np.where(scale == 0, 0.0, (beta - shift) / scale)
            derived.append("mean")
        elif not _agree(beta - mean * scale, shift, np.abs(beta) + np.abs(mean * scale)):
            beta = shift + mean * scale
            derived.append("beta")
    return {"mean": mean, "variance": variance, "gamma": gamma, "beta": beta}, tuple(derived)


def _agree(mine: NDArray, theirs: NDArray, size: NDArray) -> bool:
    return bool((np.abs(mine - theirs) <= _CLOSE * size).all())


def _name(variables: Mapping[str, str], group: Sequence[Layer]) -> str:
    """The scope of gamma or beta, else the one that mean and variance share, else the first node's; a layer read from names has its name already."""
    if any(part["op"] == "BatchNorm" for part in _parts(group[0])):
        return group[0].name
    paths = {role: key.removesuffix(_OBJECT_SUFFIX).split("/")[:-1] for role, key in variables.items()}
    for role in ("gamma", "beta"):
        scope = paths.get(role)
        if scope and scope != ["variables"]:  # in a SavedModel of TensorFlow 2 keys are numbers
            return "/".join(scope)
    shared = []
    for one, other in zip(paths.get("mean", ()), paths.get("variance", ()), strict=False):
        if one != other:
            break
        shared.append(one)
    node = [part for part in group[0].name.split("/") if not part.startswith(("StatefulPartitionedCall", "PartitionedCall"))]
    for scope in (shared, node[:-1]):
        while scope and scope[-1].startswith(_INNER):
            scope = scope[:-1]
        if scope and scope != ["variables"]:
            return "/".join(scope)
    return group[0].name


def _next(name: str) -> str:
    """The name of another batch norm of the same variables: bn, bn_2, bn_3, …"""
    stem, _, number = name.rpartition("_")
    return f"{stem}_{int(number) + 1}" if stem and number.isdecimal() else f"{name}_2"


def _linear_before(makers: Mapping[str, Layer], tensor: str) -> str | None:
    while (layer := makers.get(tensor)) is not None:
        if layer.op in LINEAR:
            return layer.name
        if len(layer.takes) != 1:
            return None
        (tensor,) = layer.takes
    return None
