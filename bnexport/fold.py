"""The algebra of folding: scale/shift layers go into the linear layers beside them wherever that is exact.

With y = x·K + b (a dense layer, or a convolution as a sum over its window):

    after    s·(x·K + b) + t  =  x·(K·s) + (b·s + t)                  s and t per output channel
    before   (x·s + t)·K + b  =  x·(s·K) + (t·K + b)                  s and t per input channel

The second needs every window to see all of t: true of a dense layer and of a convolution without padding; with zero padding the border sees less, so
that only a scale without shift passes. Everything is computed in float64 and rounded once, when it is written.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bnexport.arrays import Folded, weighted_row_sum
from bnexport.program import Array, InMemory, Layer, Literal, materialize

NDArray = np.ndarray[Any, Any]

LINEAR = frozenset({"Dense", "Conv2D", "DepthwiseConv2D", "Conv2DTranspose"})
ACTIVATIONS = frozenset({"Relu", "Relu6", "LeakyRelu", "Elu", "Selu", "Softplus", "Softsign", "Sigmoid", "Tanh", "Softmax", "LogSoftmax"})
_RESHAPES = frozenset({"Reshape", "Squeeze", "ExpandDims"})


@dataclass(slots=True)
class Network:
    """Layers with their shapes and consumers, as folding rewrites them. `outputs` are the tensors of the network's outputs, in their order."""

    layers: list[Layer]
    shapes: dict[str, tuple[int | None, ...]]
    outputs: list[str]
    users: dict[str, list[Layer]] = field(default_factory=dict)
    makers: dict[str, Layer] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.makers = {layer.name: layer for layer in self.layers}
        for layer in self.layers:
            for tensor in {t for t in layer.inputs if isinstance(t, str) and not t.startswith("@")}:
                self.users.setdefault(tensor, []).append(layer)

    def sole_user(self, tensor: str) -> Layer | None:
        """The one layer that takes a tensor, if the tensor is not an output as well."""
        users = self.users.get(tensor, [])
        return users[0] if len(users) == 1 and tensor not in self.outputs else None

    def bypass(self, layer: Layer) -> None:
        """Removes a layer of one input: whatever takes its result takes that input from now on."""
        source = layer.inputs[0]
        assert isinstance(source, str)
        self.layers.remove(layer)
        for user in self.users.pop(layer.name, []):
            user.inputs = [source if t == layer.name else t for t in user.inputs]
            if user not in self.users[source]:
                self.users[source].append(user)
        self.users[source].remove(layer)
        self.outputs[:] = [source if t == layer.name else t for t in self.outputs]
        del self.makers[layer.name]


def fold(network: Network, dtype: str) -> list[str]:
    """Folds in place; gives one line for each scale/shift layer that stays, with the reason.

    Args:
        dtype: the network's floating-point dtype, to which arrays are rounded where their layer does not say otherwise.
    """
    _merge_chains(network)
    _fold_back(network)
    _fold_forward(network)
    reasons = _reasons(network)
    _attach_activations(network)
    for layer in network.layers:
        _round(layer, dtype)
    return reasons


# ---- scale and shift


def _affine(layer: Layer) -> tuple[NDArray, NDArray]:
    return materialize(layer.arrays["scale"]), materialize(layer.arrays["shift"])


def _set_affine(layer: Layer, scale: NDArray, shift: NDArray) -> None:
    layer.arrays = {"scale": InMemory(scale), "shift": InMemory(shift)}


def _join(kept: Layer, gone: Layer, *, first: bool) -> None:
    """Notes in `kept` what `gone` was made of."""
    theirs = gone.provenance.get("parts", [])
    mine = kept.provenance.get("parts", [])
    kept.provenance["parts"] = [*theirs, *mine] if first else [*mine, *theirs]


def _merge_chains(network: Network) -> None:
    """s2·(s1·x + t1) + t2 = (s2·s1)·x + (s2·t1 + t2)."""
    for layer in list(network.layers):
        while layer.op == "ScaleShift" and (after := network.sole_user(layer.name)) is not None and after.op == "ScaleShift":
            axes = {a for a in (layer.attrs["axis"], after.attrs["axis"]) if a is not None}
            if len(axes) > 1:
                break
            (s1, t1), (s2, t2) = _affine(layer), _affine(after)
            _set_affine(after, s2 * s1, s2 * t1 + t2)
            after.attrs["axis"] = axes.pop() if axes else None
            _join(after, layer, first=True)
            network.bypass(layer)
            layer = after


def _fold_back(network: Network) -> None:
    """Folds scale/shift layers into the linear layer that they follow, through reshapes that keep the channel axis last."""
    for layer in list(network.layers):
        if layer.op != "ScaleShift":
            continue
        tensor = layer.inputs[0]
        while isinstance(tensor, str) and (maker := network.makers.get(tensor)) is not None and network.sole_user(tensor) is not None:
            if maker.op in LINEAR and _channels_match(network, layer, maker):
                _fold_after(maker, *_affine(layer))
                _join(maker, layer, first=False)
                network.bypass(layer)
                break
            if maker.op not in _RESHAPES or not _keeps_channel(network, layer, maker):
                break
            tensor = maker.inputs[0]


def _keeps_channel(network: Network, layer: Layer, reshape: Layer) -> bool:
    """Whether a per-channel scale after a reshape is the same per-channel scale before it."""
    if layer.attrs["axis"] is None:
        return True
    source = reshape.inputs[0]
    assert isinstance(source, str)
    before, after = network.shapes[source], network.shapes[reshape.name]
    return layer.attrs["axis"] == -1 and bool(before) and bool(after) and before[-1] is not None and before[-1] == after[-1]


def _channel_axis(layer: Layer) -> int:
    return 1 if layer.attrs.get("data_format") == "NCHW" else -1


def _channels_match(network: Network, affine: Layer, linear: Layer) -> bool:
    return affine.attrs["axis"] in (None, _channel_axis(linear))


def _output_factor(linear: Layer, scale: NDArray) -> NDArray:
    """A factor per output channel in the shape of the kernel, each dimension the kernel's or 1."""
    shape = linear.arrays["kernel"].shape
    if scale.size == 1:
        return scale.reshape((1,) * len(shape))
    if linear.op == "DepthwiseConv2D":  # output channel = input channel * multiplier + m
        return scale.reshape(1, 1, shape[2], shape[3])
    if linear.op == "Conv2DTranspose":  # kernels are height, width, output, input
        return scale.reshape(1, 1, shape[2], 1)
    return scale.reshape((1,) * (len(shape) - 1) + (-1,))


def output_channels(linear: Layer) -> int:
    """How many channels a linear layer gives."""
    shape = linear.arrays["kernel"].shape
    return {"DepthwiseConv2D": shape[-2] * shape[-1], "Conv2DTranspose": shape[-2]}.get(linear.op, shape[-1])


def _bias(linear: Layer) -> NDArray:
    return materialize(linear.arrays["bias"]).astype(np.float64) if "bias" in linear.arrays else np.zeros(output_channels(linear))


def _multiply_kernel(linear: Layer, factor: NDArray) -> None:
    kernel = linear.arrays["kernel"]
    label = f"the kernel of the layer {linear.name!r}"
    if isinstance(kernel, Folded) and kernel.factor is not None:
        linear.arrays["kernel"] = Folded(kernel.source, kernel.factor * factor, kernel.dtype, label)
    else:
        source = kernel.source if isinstance(kernel, Folded) else kernel
        linear.arrays["kernel"] = Folded(source, factor, np.dtype(np.float64), label)


def _fold_after(linear: Layer, scale: NDArray, shift: NDArray) -> None:
    bias = _bias(linear) * scale + shift
    if not np.all(scale == 1.0):
        _multiply_kernel(linear, _output_factor(linear, scale))
    linear.arrays["bias"] = InMemory(np.broadcast_to(bias, (output_channels(linear),)).copy())


def _fold_forward(network: Network) -> None:
    """Folds scale/shift layers that follow no linear layer into the ones they come before."""
    for layer in reversed(list(network.layers)):
        if layer.op != "ScaleShift" or layer.name in network.outputs:
            continue
        users = network.users.get(layer.name, [])
        if not users or layer.inputs[0] == layer.name:
            continue
        plans = [_forward_plan(network, layer, user) for user in users]
        if all(plan is not None for plan in plans):
            for plan in plans:
                assert plan is not None
                linear, scale, shift = plan
                _fold_before(linear, scale, shift)
                _join(linear, layer, first=True)
            network.bypass(layer)


def _forward_plan(network: Network, layer: Layer, user: Layer) -> tuple[Layer, NDArray, NDArray] | None:
    """The linear layer that a scale/shift reaches through `user` without changing, and its vectors there."""
    scale, shift = _affine(layer)
    axis = layer.attrs["axis"]
    tensor = layer.name
    while True:
        source = network.shapes[tensor]
        if user.op in LINEAR:
            kernel = user.arrays["kernel"].shape
            if user.inputs[0] != tensor or axis not in (None, _channel_axis(user)) or not (_sees_all(user) or not shift.any()) or user.op == "Conv2DTranspose":
                return None
            channels = kernel[0] if user.op == "Dense" else kernel[2]
            if scale.size not in (1, channels) or shift.size not in (1, channels):
                return None
            return user, np.broadcast_to(scale, (channels,)), np.broadcast_to(shift, (channels,))
        moved = _through(network, user, source, scale, shift, axis)
        following = network.sole_user(user.name)
        if moved is None or following is None:
            return None
        scale, shift, axis = moved
        tensor, user = user.name, following


def _through(network: Network, user: Layer, source: tuple[int | None, ...], scale: NDArray, shift: NDArray, axis: int | None) -> tuple[NDArray, NDArray, int | None] | None:
    """Scale and shift behind a layer that commutes with them; None where it does not."""
    result = network.shapes[user.name]
    if user.op in _RESHAPES:
        if axis is None:
            return scale, shift, axis
        if axis != -1 or not source or not result or source[-1] is None or result[-1] is None:
            return None
        if source[-1] == result[-1]:
            return scale, shift, axis
        if result[-1] % source[-1] == 0 and all(size is not None for size in source[1:]) and int(np.prod(source[1:], dtype=np.int64)) % result[-1] == 0:
            repeats = result[-1] // source[-1]  # flattening: the last axis turns over once for each position
            return np.tile(np.broadcast_to(scale, (source[-1],)), repeats), np.tile(np.broadcast_to(shift, (source[-1],)), repeats), axis
        return None
    channel_last = user.attrs.get("data_format", "NHWC") == "NHWC"
    if user.op == "AvgPool":  # a mean over what the window holds; padding does not count
        return (scale, shift, axis) if axis is None or (axis == -1) == channel_last else None
    if user.op in ("MaxPool", "MaxPoolV2"):  # increasing functions commute with max
        return (scale, shift, axis) if (axis is None or (axis == -1) == channel_last) and (scale >= 0).all() else None
    if user.op == "Mean" and len(source) == 4 and axis == -1:
        axes = user.inputs[1]
        if isinstance(axes, Literal) and sorted(np.asarray(axes.value).reshape(-1) % 4) == [1, 2]:
            return scale, shift, -1
    return None


def _sees_all(linear: Layer) -> bool:
    """Whether every output of a linear layer sees its whole window, so that a shift of the input is a shift of the output."""
    if linear.op == "Dense":
        return True
    kernel = linear.arrays["kernel"].shape
    return linear.attrs.get("padding") == "VALID" or (linear.attrs.get("padding") == "SAME" and kernel[:2] == (1, 1))


def _fold_before(linear: Layer, scale: NDArray, shift: NDArray) -> None:
    kernel = linear.arrays["kernel"]
    rows = kernel.shape[:-1]
    if shift.any():
        if linear.op == "DepthwiseConv2D":
            whole = materialize(kernel).astype(np.float64)
            extra = (whole * shift[None, None, :, None]).sum(axis=(0, 1)).reshape(-1)
        elif linear.op == "Conv2D" and rows[2] != shift.size:
            raise AssertionError("a grouped convolution is not folded into")
        else:
            extra = weighted_row_sum(kernel, np.broadcast_to(shift, rows))
        linear.arrays["bias"] = InMemory(_bias(linear) + extra)
    if not np.all(scale == 1.0):
        factor = scale.reshape(-1, 1) if linear.op == "Dense" else scale.reshape(1, 1, -1, 1)
        _multiply_kernel(linear, factor)


# ---- the end


def _reasons(network: Network) -> list[str]:
    lines = []
    for layer in network.layers:
        if layer.op != "ScaleShift":
            continue
        maker = network.makers.get(str(layer.inputs[0]))
        before = f"it follows {maker.name} ({maker.op})" if maker is not None else "it stands on the input"
        users = network.users.get(layer.name, [])
        after = ", ".join(f"{u.name} ({u.op})" for u in users) or "the output"
        why = f"{before} and goes into {after}"
        if maker is not None and maker.op in LINEAR:
            why = f"{maker.name} ({maker.op}) also goes elsewhere"
        layer.provenance["not_folded"] = why
        if layer.attrs["axis"] is None and not layer.provenance.get("parts"):
            continue  # arithmetic with plain numbers, of which a network may have any amount
        lines.append(f"{layer.name}: {why}")
    return lines


def _attach_activations(network: Network) -> None:
    for layer in list(network.layers):
        if layer.op not in LINEAR and layer.op != "ScaleShift":
            continue
        after = network.sole_user(layer.name)
        if after is None or after.op not in ACTIVATIONS or layer.activation is not None:
            continue
        if after.op in ("Softmax", "LogSoftmax") and _channel_axis(layer) != -1:
            continue
        layer.activation = after.op
        layer.activation_attrs = {k: v for k, v in after.attrs.items() if k == "alpha"}
        network.bypass(after)


def _round(layer: Layer, dtype: str) -> None:
    """Every floating-point array in the dtype in which the layer computes."""
    target = np.dtype(layer.provenance.pop("dtype", dtype))
    if layer.op == "ScaleShift" and layer.attrs.pop("axis") == 1:  # channels first: broadcast against the last dimensions all the same
        layer.arrays = {role: InMemory(materialize(array).reshape(-1, 1, 1)) for role, array in layer.arrays.items()}
    for role, array in layer.arrays.items():
        layer.arrays[role] = _rounded(array, target, f"the {role} of the layer {layer.name!r}")


def _rounded(array: Array, dtype: "np.dtype[Any]", label: str) -> Array:
    if isinstance(array, Folded):
        return Folded(array.source, array.factor, dtype, label)
    if array.dtype.kind == "f" or array.dtype.name == "bfloat16":
        return Folded(array, None, dtype, label)
    return array
