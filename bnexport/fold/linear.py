"""Folding into the kernel and the bias of a linear layer.

With y = x·K + b (a dense layer, or a convolution as a sum over its window):

    after    s·(x·K + b) + t  =  x·(K·s) + (b·s + t)                  s and t per output channel
    before   (x·s + t)·K + b  =  x·(s·K) + (t·K + b)                  s and t per input channel

The second needs every window to see all of t: true of a dense layer and of a convolution without padding. With zero padding the border sees less, so
that only a scale passes. The bias that would make up for it differs from position to position: as large as the layer's whole result, it is more to
store and to read for every image than the scale/shift layer that it would save, which is therefore kept.
"""

from typing import Any

import numpy as np

from bnexport.arrays import Folded, weighted_row_sum
from bnexport.fold.affine import Affine, NDArray, per_channel
from bnexport.fold.commute import Refusal, channel_axis, named
from bnexport.fold.network import Network
from bnexport.kernels.window import slide
from bnexport.program import InMemory, Layer, materialize

CONVOLUTIONS = frozenset({"Conv2D", "Conv3D"})
TRANSPOSED = frozenset({"Conv2DTranspose", "Conv3DTranspose"})


def output_channels(linear: Layer) -> int:
    """How many channels a linear layer gives."""
    shape = linear.arrays["kernel"].shape
    if linear.op == "DepthwiseConv2D":  # output channel = input channel * multiplier + m
        return shape[-2] * shape[-1]
    return shape[-2] if linear.op in TRANSPOSED else shape[-1]


def check_after(network: Network, linear: Layer, behind: Affine) -> Refusal | None:
    """Why `behind` cannot be folded into the layer that it follows, if it cannot."""
    axis = channel_axis(linear, len(network.shapes[linear.name]))
    if any(per_channel(values, axis, output_channels(linear)) is None for values in (behind.scale, behind.shift)):
        return Refusal(f"it follows {named(linear)} and varies along more than its channels")
    return None


def fold_after(network: Network, linear: Layer, behind: Affine) -> None:
    """Makes a layer give behind(y) in place of y. `check_after` has been asked."""
    axis, channels = channel_axis(linear, len(network.shapes[linear.name])), output_channels(linear)
    scale, shift = per_channel(behind.scale, axis, channels), per_channel(behind.shift, axis, channels)
    assert scale is not None
    assert shift is not None
    if behind.scales:
        shape = linear.arrays["kernel"].shape
        ones = (1,) * len(shape[:-2])
        if linear.op == "DepthwiseConv2D":
            factor = scale.reshape(*ones, *shape[-2:])
        else:
            factor = scale.reshape((*ones, -1, 1) if linear.op in TRANSPOSED else (*ones, 1, -1))
        _multiply(linear, factor)
    linear.arrays["bias"] = InMemory(_bias(linear) * scale + shift)


def check_before(network: Network, linear: Layer, tensor: str, before: Affine) -> Refusal | None:
    """Why `before`, on the tensor that a layer takes, cannot be folded into the layer, if it cannot."""
    where = f"its result goes into {named(linear)}"
    shape = network.shapes[tensor]
    axis = channel_axis(linear, len(shape))
    channels = shape[axis]
    if linear.inputs[0] != tensor or linear.inputs.count(tensor) != 1 or channels is None or not _takes(linear, channels):
        return Refusal(where)
    if any(per_channel(values, axis, channels) is None for values in (before.scale, before.shift)):
        return Refusal(f"{where} and varies along more than its channels")
    if before.shifts and linear.op in TRANSPOSED:
        return Refusal(f"{where}, each result of which sees another part of the kernel, and so another part of its shift")
    if before.shifts and _pads(linear, shape):
        return Refusal(f"{where}, which pads with zeros that its shift must not reach")
    return None


def fold_before(network: Network, linear: Layer, tensor: str, before: Affine) -> None:
    """Makes a layer take x where it took before(x). `check_before` has been asked."""
    shape = network.shapes[tensor]
    axis = channel_axis(linear, len(shape))
    channels = shape[axis]
    assert channels is not None
    kernel = linear.arrays["kernel"]
    scale, shift = per_channel(before.scale, axis, channels), per_channel(before.shift, axis, channels)
    assert scale is not None
    assert shift is not None
    if before.shifts:
        linear.arrays["bias"] = InMemory(_bias(linear) + _sums(linear, shift))
    if not before.scales:
        return
    ones = (1,) * len(kernel.shape[:-2])
    if linear.op in TRANSPOSED:
        _multiply(linear, scale.reshape(*ones, 1, -1))
    elif linear.op in CONVOLUTIONS and kernel.shape[-2] != channels:
        _multiply(linear, _by_group(kernel.shape, scale).reshape(*ones, *kernel.shape[-2:]))
    else:
        _multiply(linear, scale.reshape(*ones, -1, 1))


def _takes(linear: Layer, channels: int) -> bool:
    """Whether a layer's kernel is one for so many input channels."""
    shape = linear.arrays["kernel"].shape
    if linear.op in CONVOLUTIONS:
        return channels % shape[-2] == 0  # more than one group otherwise
    return channels == (shape[-1] if linear.op in TRANSPOSED else shape[-2])


def _sums(linear: Layer, shift: NDArray) -> NDArray:
    """What a layer makes of an input that is `shift` everywhere: t·K for each output channel."""
    kernel = linear.arrays["kernel"]
    if linear.op == "DepthwiseConv2D":
        whole = materialize(kernel).astype(np.float64)
        return np.asarray((whole * shift[:, None]).sum(axis=(0, 1))).reshape(-1)
    if kernel.shape[-2] != shift.size:
        whole = materialize(kernel).astype(np.float64)
        return np.asarray((whole * _by_group(kernel.shape, shift)).sum(axis=tuple(range(whole.ndim - 1))))
    return weighted_row_sum(kernel, shift)


def _by_group(shape: tuple[int, ...], values: NDArray) -> NDArray:
    """One value per input channel as one for each (input channel of a group, output channel) of a grouped convolution's kernel."""
    inside, outputs = shape[-2:]
    groups = values.size // inside
    return np.repeat(values.reshape(groups, inside).T, outputs // groups, axis=1)


def _pads(linear: Layer, shape: tuple[int | None, ...]) -> bool:
    """Whether some window of a convolution may reach beyond its data."""
    if linear.op == "Dense":
        return False
    attrs: dict[str, Any] = linear.attrs
    padding = attrs.get("padding")
    if padding == "EXPLICIT":
        return any(attrs.get("explicit_paddings", ()))
    if padding != "SAME":
        return padding != "VALID"  # without a graph it is not known
    rank = len(shape)
    first = 2 if channel_axis(linear, rank) != -1 else 1
    sizes = linear.arrays["kernel"].shape
    for number, axis in enumerate(range(first, first + rank - 2)):
        length = shape[axis]
        if length is None:
            if sizes[number] != 1:
                return True
            continue
        along = slide("SAME", (), length, sizes[number], attrs["strides"][axis], (attrs.get("dilations") or [1] * rank)[axis])
        if along.before or along.after:
            return True
    return False


def _bias(linear: Layer) -> NDArray:
    return materialize(linear.arrays["bias"]).astype(np.float64) if "bias" in linear.arrays else np.zeros(output_channels(linear))


def _multiply(linear: Layer, factor: NDArray) -> None:
    """Multiplies a kernel when it is written; the factor's dimensions are the kernel's or 1."""
    kernel = linear.arrays["kernel"]
    label = f"the kernel of the layer {linear.name!r}"
    if isinstance(kernel, Folded):
        factor = factor if kernel.factor is None else kernel.factor * factor
        linear.arrays["kernel"] = Folded(kernel.source, factor, np.dtype(np.float64), label)
    else:
        linear.arrays["kernel"] = Folded(kernel, factor, np.dtype(np.float64), label)
