"""Folding: scale/shift layers go into the linear layers beside them wherever that is exact.

`affine` has scales and shifts as values, `commute` the layers that they pass, `linear` what becomes of a kernel and a bias; here they are moved
about. A scale/shift layer is first folded backward, into all that its input is made of, and else forward, into all that takes its result: everything
in its way must pass it, and each way must end in a linear layer or in another scale/shift layer. Whatever has no such end stays, with the reason.
Everything is computed in float64 and rounded once, when it is written.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from bnexport.arrays import Deferred, Folded
from bnexport.fold.affine import Affine, NDArray, affine
from bnexport.fold.commute import Refusal, backward, channel_axis, forward, named
from bnexport.fold.linear import check_after, check_before, fold_after, fold_before
from bnexport.fold.network import Network
from bnexport.program import LINEAR, Array, InMemory, Layer, materialize

__all__ = ["Network", "fold"]

ACTIVATIONS = frozenset({"Relu", "Relu6", "LeakyRelu", "Elu", "Selu", "Softplus", "Softsign", "Sigmoid", "Tanh", "Softmax", "LogSoftmax"})
_SHAPE_ONLY = frozenset({"Shape", "ShapeN", "Size", "Rank", "ZerosLike", "OnesLike"})  # operators that do not look at the numbers
LOST_SPREADS = 32.0
"""An input minus its mean, divided by its spread, loses the digits of mean / spread where the product comes first, as it does in x·scale + shift.
From this ratio on the subtraction stays by itself: 32 costs five of float32's 24 bits, which leaves an error of 2e-6."""
_SUBTRACTS = "subtracts numbers so large that float32 keeps the digits of the difference only if that comes first"

Action = Callable[[], None]
Plan = list[tuple[Layer, Action]]
"""The layers that would absorb a scale/shift, and how."""


def fold(network: Network, dtype: str) -> list[str]:
    """Folds in place; gives one line for each scale/shift layer that stays, with the reason.

    Args:
        dtype: the network's floating-point dtype, to which arrays are rounded where their layer does not say otherwise.
    """
    moves = _Moves(network)
    moves.merge_chains()
    while moves.fold_backward() | moves.fold_forward():
        pass
    network.prune()
    lines = _reasons(network, moves.reasons)
    _attach_activations(network)
    network.prune()
    for layer in network.layers:
        if layer.name in network.equals:
            layer.provenance["equals"] = network.equals[layer.name]
        _round(layer, dtype)
    return lines


def _affine(layer: Layer) -> Affine:
    return affine(materialize(layer.arrays["scale"]), materialize(layer.arrays["shift"]))


def _set(layer: Layer, value: Affine) -> None:
    layer.arrays = {"scale": InMemory(value.scale), "shift": InMemory(value.shift)}


def _compose(layer: Layer, other: Affine, *, first: bool) -> None:
    """Makes a scale/shift layer do `other` too, before its own part or after it."""
    _set(layer, _affine(layer).after(other) if first else other.after(_affine(layer)))


def _join(kept: Layer, gone: Layer, *, first: bool) -> None:
    """Notes in `kept` what `gone` was made of; of what a linear layer now does to its input, that it comes before."""
    before = {"before": True} if first and kept.op in LINEAR else {}
    theirs = [part | before for part in gone.provenance.get("parts", [])]
    mine = kept.provenance.get("parts", [])
    kept.provenance["parts"] = [*theirs, *mine] if first else [*mine, *theirs]
    value = _affine(gone)
    if kept.op in LINEAR and not theirs and not value.scale.ndim and not value.shift.ndim:
        number = {"node": gone.provenance.get("node", gone.name), "scale": float(value.scale), "shift": float(value.shift), **before}
        kept.provenance.setdefault("numbers", []).append(number)


class _Moves:
    """The scale/shift layers of a network on their way.

    Attributes:
        reasons: for each that was not folded, why not backward and why not forward.
    """

    def __init__(self, network: Network):
        self.network = network
        self.reasons: dict[str, tuple[str, str]] = {}
        self.fixed: set[str] = set()  # subtractions that have to come first, see LOST_SPREADS
        self.passed: list[str] = []  # the tensors that the plan at hand would change

    def merge_chains(self) -> None:
        """Merges scale/shift layers that follow each other into the last of them, and drops those that do nothing."""
        for layer in self.network.layers:
            if layer.op != "ScaleShift":
                continue
            value = _affine(layer)
            _set(layer, value)
            after = self.network.sole_user(layer.name)
            if value.is_identity:
                self.network.bypass(layer)
            elif after is None or after.op != "ScaleShift":
                continue
            elif self._loses_digits(layer, value, _affine(after)):
                self.fixed.add(layer.name)
            else:
                _set(after, _affine(after).after(value))
                _join(after, layer, first=True)
                self.network.bypass(layer)

    def _loses_digits(self, layer: Layer, value: Affine, after: Affine) -> bool:
        """Whether a layer subtracts from an input what is far larger than the spread that is divided by next (`LOST_SPREADS`)."""
        if str(layer.inputs[0]) in self.network.makers or value.scales:
            return False
        return bool(np.abs(after.scale * value.shift).max() > LOST_SPREADS)

    def fold_backward(self) -> bool:
        """Folds layers, first to last, into all that their input is made of; gives whether there were any."""
        return self._fold(self.network.layers, self._back, first=False)

    def fold_forward(self) -> bool:
        """Folds layers, last to first, into all that takes their result; gives whether there were any."""
        return self._fold(self.network.layers[::-1], self._on, first=True)

    def _fold(self, layers: list[Layer], plan: Callable[[Layer], Plan | Refusal], *, first: bool) -> bool:
        changed = False
        for layer in layers:
            if layer.op != "ScaleShift" or not self.network.holds(layer):
                continue
            self.passed.clear()
            found = plan(layer)
            if isinstance(found, Refusal):
                back, on = self.reasons.get(layer.name, ("", ""))
                self.reasons[layer.name] = (back, found.why) if first else (found.why, on)
                continue
            for absorber, absorb in found:
                absorb()
                _join(absorber, layer, first=first)
            for tensor in self.passed:
                self.network.equals.pop(tensor, None)
            self.network.bypass(layer, done_before=not first)
            changed = True
        return changed

    # ---- backward

    def _back(self, layer: Layer) -> Plan | Refusal:
        source = str(layer.inputs[0])
        if source not in self.network.makers:
            return Refusal(f"it stands on the input {source}")
        return self._absorbed(source, _affine(layer), layer)

    def _absorbed(self, tensor: str, behind: Affine, user: Layer) -> Plan | Refusal:
        """How the layers that make a tensor for `user` can do `behind` as well."""
        self.passed.append(tensor)
        maker = self.network.makers.get(tensor)
        if maker is None:
            return Refusal(f"it follows {named(user)}, which takes the input {tensor}")
        if self.network.sole_user(tensor) is not user:
            others = [named(other) for other in self.network.users[tensor] if other is not user]
            return Refusal(f"{named(maker)} before it is needed as it is by {' and '.join(others) or 'an output'}")
        if maker.op in LINEAR:
            return check_after(self.network, maker, behind) or [(maker, partial(fold_after, self.network, maker, behind))]
        if maker.op == "ScaleShift":
            if maker.name in self.fixed:
                return Refusal(f"{maker.name} before it {_SUBTRACTS}")
            return [(maker, partial(_compose, maker, behind, first=False))]
        ends = backward(self.network, maker, behind)
        if isinstance(ends, Refusal):
            return ends
        plan: Plan = []
        for operand, needed in ends:
            part = self._absorbed(operand, needed, maker)
            if isinstance(part, Refusal):
                return part if len(ends) == 1 else Refusal(f"it follows {named(maker)}")
            plan += part
        return plan

    # ---- forward

    def _on(self, layer: Layer) -> Plan | Refusal:
        if layer.name in self.fixed:
            return Refusal(f"it {_SUBTRACTS}")
        return self._pushed(layer.name, _affine(layer))

    def _pushed(self, tensor: str, before: Affine) -> Plan | Refusal:
        """How all that takes a tensor can do `before` to it."""
        if tensor in self.network.outputs:
            return Refusal("its result is an output")
        plan: Plan = []
        for user in self.network.users.get(tensor, []):
            part = self._taken(user, tensor, before)
            if isinstance(part, Refusal):
                return part
            plan += part
        return plan or Refusal("nothing that could take it follows")

    def _taken(self, user: Layer, tensor: str, before: Affine) -> Plan | Refusal:
        """How one layer that takes a tensor, or those after it, can do `before` to it."""
        if user.op in _SHAPE_ONLY:
            return []
        if user.op in LINEAR:
            return check_before(self.network, user, tensor, before) or [(user, partial(fold_before, self.network, user, tensor, before))]
        if user.op == "ScaleShift":
            return [(user, partial(_compose, user, before, first=True))]
        behind = forward(self.network, user, tensor, before)
        self.passed.append(user.name)
        return behind if isinstance(behind, Refusal) else self._pushed(user.name, behind)


# ---- the end


def _reasons(network: Network, reasons: dict[str, tuple[str, str]]) -> list[str]:
    """One line for each scale/shift layer that is left, except for arithmetic with plain numbers, of which a network may have any amount."""
    lines = []
    for layer in network.layers:
        if layer.op != "ScaleShift":
            continue
        why = ", and ".join(reason for reason in reasons.get(layer.name, ()) if reason)
        layer.provenance["not_folded"] = why
        value = _affine(layer)
        if layer.provenance.get("parts") or value.scale.ndim or value.shift.ndim:
            lines.append(f"{layer.name}: {why}")
    return lines


def _attach_activations(network: Network) -> None:
    for layer in network.layers:
        if layer.op not in LINEAR and layer.op != "ScaleShift":
            continue
        after = network.sole_user(layer.name)
        if after is None or after.op not in ACTIVATIONS or layer.activation is not None:
            continue
        if after.op in ("Softmax", "LogSoftmax") and channel_axis(layer, len(network.shapes[layer.name])) != -1:
            continue
        layer.activation = after.op
        layer.activation_attrs = {k: v for k, v in after.attrs.items() if k == "alpha"}
        network.bypass(after, done_before=True)


def _round(layer: Layer, dtype: str) -> None:
    """Every floating-point array in the dtype in which the layer computes."""
    target = np.dtype(layer.provenance.pop("dtype", dtype))
    if layer.op == "ScaleShift":
        layer.attrs = {}
    variables = layer.provenance.get("operands", {})
    for role, array in layer.arrays.items():
        if variables.get(role) == [] and array.dtype.kind == "f":  # a number of the graph's own, which may well be infinite, as in a mask
            layer.arrays[role] = Deferred(array.shape, target, partial(_cast, array, target))
        else:
            layer.arrays[role] = _rounded(array, target, f"the {role} of the layer {layer.name!r}")


def _cast(array: Array, dtype: "np.dtype[Any]") -> NDArray:
    with np.errstate(over="ignore"):
        return materialize(array).astype(dtype)


def _rounded(array: Array, dtype: "np.dtype[Any]", label: str) -> Array:
    if isinstance(array, Folded):
        return Folded(array.source, array.factor, dtype, label)
    if array.dtype.kind == "f" or array.dtype.name == "bfloat16":
        return Folded(array, None, dtype, label)
    return array
