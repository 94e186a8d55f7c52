"""What people get wrong in dense and convolutional layers: biases, the layout of kernels and of images, padding, and which layer comes when."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from itertools import combinations

import numpy as np

from bnexport.diagnose.case import Case, Hypothesis, Index, Numbers, Shown, Site, Variant
from bnexport.diagnose.network import AS_FED, Definition, Formula, Network, Values, around, operands, with_arrays
from bnexport.kernels.table import NDArray
from bnexport.program import InMemory, Layer, Literal, materialize

MOST_PAIRS = 60
"""How many pairs of layers are tried in each other's place."""


def _kernel(layer: Layer) -> NDArray:
    return materialize(layer.arrays["kernel"])


# ---- biases


def _biases(network: Network) -> Iterator[tuple[Layer, NDArray, Definition]]:
    """The layers that add a bias, the bias, and the layer without it."""
    inside = {name for norm in network.norms for name in norm.layers}
    for layer in network.linear:
        if "bias" in layer.arrays:
            arrays = {role: array for role, array in layer.arrays.items() if role != "bias"}
            yield layer, materialize(layer.arrays["bias"]), replace(layer, arrays=arrays)
    for layer in network.layers("ScaleShift"):
        parts = layer.provenance.get("parts", ())
        scale, shift = (materialize(layer.arrays[role]) for role in ("scale", "shift"))
        if layer.name not in inside and any("shift" in part for part in parts) and shift.any() and (scale == 1).all():
            yield layer, shift, Formula(tuple(operands(layer)), lambda x: x)


def _bias_forgotten(case: Case) -> Iterable[Variant]:
    sites = []
    for layer, bias, without in _biases(case.network):
        shown = Shown(layer.name, "x + bias", "x", partial(_bias_numbers, layer.name, bias))
        sites.append(Site(layer.name, {layer.name: without}, shown))
    if sites:
        yield Variant("", tuple(sites))


def _bias_numbers(name: str, bias: NDArray, right: Values, wrong: Values, index: Index) -> tuple[Numbers, Numbers]:
    added = float(np.broadcast_to(bias, right[name].shape)[index])
    return {"x": float(right[name][index]) - added, "bias": added}, {"x": float(wrong[name][index])}


# ---- kernels


def _swapped(a: int, b: int) -> Callable[[NDArray], NDArray]:
    return lambda k: np.swapaxes(k, a, b) if k.shape[a] == k.shape[b] else k


DENSE_LAYOUTS: tuple[tuple[str, Callable[[NDArray], NDArray]], ...] = (
    ("(in, out) read as (out, in)", lambda k: k.reshape(k.shape[::-1]).T),
    ("(out, in) read as (in, out)", lambda k: k.T.reshape(k.shape)),
)
"""Kernels whose two dimensions were mixed up: for square ones both are the transpose, for others the numbers are regrouped."""
CONV_LAYOUTS: tuple[tuple[str, Callable[[NDArray], NDArray]], ...] = (
    ("height and width swapped", _swapped(0, 1)),
    ("in and out channels swapped", _swapped(2, 3)),
    ("HWIO read as OIHW", lambda k: k.reshape(k.shape[3], k.shape[2], *k.shape[:2]).transpose(2, 3, 1, 0)),
    ("OIHW read as HWIO", lambda k: k.transpose(3, 2, 0, 1).reshape(k.shape)),
    ("HWIO read as HWOI", lambda k: k.reshape(*k.shape[:2], k.shape[3], k.shape[2]).transpose(0, 1, 3, 2)),
)
"""TensorFlow's kernels are (height, width, in, out); PyTorch's (out, in, height, width)."""


def _other_kernel(layer: Layer, turned: Callable[[NDArray], NDArray]) -> Site | None:
    kernel = _kernel(layer)
    other = turned(kernel)
    return Site(layer.name, {layer.name: with_arrays(layer, {"kernel": other})}) if not np.array_equal(kernel, other) else None


def _transposed(case: Case) -> Iterable[Variant]:
    for rank, layouts in ((2, DENSE_LAYOUTS), (4, CONV_LAYOUTS)):
        for detail, turned in layouts:
            sites = [_other_kernel(layer, turned) for layer in case.network.linear if len(layer.arrays["kernel"].shape) == rank]
            if any(sites):
                yield Variant(detail, tuple(site for site in sites if site is not None))


def _flipped(case: Case) -> Iterable[Variant]:
    sites = [_other_kernel(layer, lambda k: k[::-1, ::-1]) for layer in case.network.linear if len(layer.arrays["kernel"].shape) == 4]
    if any(sites):
        yield Variant("", tuple(site for site in sites if site is not None))


# ---- padding


def _paddings(layer: Layer, shape: tuple[int, ...], window: tuple[int, int]) -> Iterator[tuple[str, list[int]]]:
    """Other paddings than SAME's for an image of `shape`, in the form of `explicit_paddings`: they give as many windows.

    SAME puts half of what is missing in front, rounded down (https://www.tensorflow.org/api_docs/python/tf/nn#notes_on_padding_2).
    """
    first = str(layer.attrs.get("data_format", "NHWC")).startswith("NC")
    at = (2, 3) if first else (1, 2)
    strides = layer.attrs["strides"]
    dilations = layer.attrs.get("dilations") or [1] * 4
    even: list[list[int]] = [[0, 0] for _ in range(4)]
    turned: list[list[int]] = [[0, 0] for _ in range(4)]
    for axis, size in zip(at, window, strict=True):
        reach = (size - 1) * dilations[axis] + 1
        missing = max(0, (-(-shape[axis] // strides[axis]) - 1) * strides[axis] + reach - shape[axis])
        even[axis] = [(reach - 1) // 2] * 2
        turned[axis] = [missing - missing // 2, missing // 2]
    yield "as much on both sides", [pad for pair in even for pad in pair]
    yield "the odd one in front", [pad for pair in turned for pad in pair]


def _padded(case: Case) -> Iterable[Variant]:
    found: dict[str, list[Site]] = {}
    for layer in case.network.layers("Conv2D", "DepthwiseConv2D", "MaxPool", "AvgPool"):
        if layer.attrs.get("padding") != "SAME":
            continue
        shape, result = case.right[operands(layer)[0]].shape, case.right[layer.name].shape
        if "kernel" in layer.arrays:
            height, width = layer.arrays["kernel"].shape[:2]
        else:
            sizes = layer.attrs["ksize"]
            height, width = sizes[2:] if str(layer.attrs.get("data_format", "NHWC")).startswith("NC") else sizes[1:3]
        for detail, pads in _paddings(layer, shape, (height, width)):
            if layer.op in ("MaxPool", "AvgPool"):
                edit: Definition = _pool(layer, pads, result)
            else:
                edit = replace(layer, attrs={**layer.attrs, "padding": "EXPLICIT", "explicit_paddings": pads})
                edit = around(edit, partial(_cropped, result[1:]))
            found.setdefault(detail, []).append(Site(layer.name, {layer.name: edit}))
    for detail, sites in found.items():
        yield Variant(detail, tuple(sites))


def _pool(layer: Layer, pads: list[int], result: tuple[int, ...]) -> Formula:
    """Pooling of an image that is padded with what the operator ignores for a maximum, and with zeros for an average."""
    width = [(pads[2 * i], pads[2 * i + 1]) for i in range(4)]
    fill = -np.inf if layer.op == "MaxPool" else 0.0
    inner = around(replace(layer, attrs={**layer.attrs, "padding": "VALID"}), partial(_cropped, result[1:]))
    return Formula(inner.inputs, lambda x: inner.compute(np.pad(x, width, constant_values=fill)))


def _cropped(shape: tuple[int, ...], x: NDArray) -> NDArray:
    """At most so many windows in an image: padding on both sides may give one more."""
    cut = x[(slice(None), *(slice(size) for size in shape))]
    missing = [(0, 0), *((0, size - got) for size, got in zip(shape, cut.shape[1:], strict=True))]
    return np.pad(cut, missing, constant_values=np.nan) if any(after for _, after in missing) else cut


def _pooled(case: Case) -> Iterable[Variant]:
    sites = [
        Site(layer.name, {layer.name: replace(layer, op="AvgPool" if layer.op == "MaxPool" else "MaxPool")})
        for layer in case.network.layers("MaxPool", "AvgPool")
    ]
    if sites:
        yield Variant("", tuple(sites))


# ---- images laid out in rows


def _flattenings(case: Case) -> Iterator[tuple[Layer, bool]]:
    """The reshapes between images (N, H, W, C) and rows (N, H·W·C); True for those from images to rows."""
    for layer in case.network.layers("Reshape"):
        source, result = case.right[operands(layer)[0]].shape, case.right[layer.name].shape
        if len(source) == 4 and len(result) == 2 and source[0] == result[0]:
            yield layer, True
        elif len(source) == 2 and len(result) == 4 and source[0] == result[0]:
            yield layer, False


def _reordered(orders: Mapping[str, tuple[int, ...]], case: Case) -> Iterable[Variant]:
    """Flattened (or read) with the axes of the image in another order."""
    for detail, order in orders.items():
        sites = list(_orders(case, order))
        if sites:
            yield Variant(detail, tuple(sites))


def _orders(case: Case, order: tuple[int, ...]) -> Iterator[Site]:
    for layer, flattens in _flattenings(case):
        shape = case.right[operands(layer)[0]].shape if flattens else case.right[layer.name].shape
        if [axis for axis in order if shape[axis] > 1] == [axis for axis in range(4) if shape[axis] > 1]:
            continue  # the elements stay where they are
        turn = partial(_flattened, order) if flattens else partial(_unflattened, order, shape)
        yield Site(layer.name, {layer.name: Formula((operands(layer)[0],), turn)})
    for name, port in case.network.inputs.items():
        shape = case.right[name].shape
        if len(shape) == 4 and len(port.shape) == 4:
            yield Site(name, {name: Formula((f"{name}{AS_FED}",), partial(_unflattened, order, shape))})


def _relaid(case: Case) -> Iterable[Variant]:
    """Images given in another layout, and taken for ones of the layout that the network has."""
    for detail, order in (("channels first", (0, 3, 1, 2)), ("column-major", (0, 3, 2, 1))):
        turns = {name: partial(_laid_out, order) for name in _images(case) if case.right[name].shape[-1] > 1}
        yield from _of_images(case, detail, turns)


def _mirrored(case: Case) -> Iterable[Variant]:
    for detail, axes in (("upside down", (1,)), ("left and right", (2,)), ("both", (1, 2))):
        yield from _of_images(case, detail, {name: partial(np.flip, axis=axes) for name in _images(case)})


def _channels_swapped(case: Case) -> Iterable[Variant]:
    yield from _of_images(case, "", {name: partial(np.flip, axis=-1) for name in _images(case) if case.right[name].shape[-1] == 3})


def _images(case: Case) -> list[str]:
    """The tensors that are images as they come in: inputs, and what rows are reshaped to."""
    read = [layer.name for layer, flattens in _flattenings(case) if not flattens and operands(layer)[0] in case.network.inputs]
    return [name for name in case.network.inputs if case.right[name].ndim == 4] + read


def _of_images(case: Case, detail: str, turns: Mapping[str, Callable[[NDArray], NDArray]]) -> Iterable[Variant]:
    sites = []
    for name, turn in turns.items():
        layer = case.network.layer(name)
        sites.append(Site(name, {name: around(layer, turn) if layer else Formula((f"{name}{AS_FED}",), turn)}))
    if sites:
        yield Variant(detail, tuple(sites))


def _laid_out(order: tuple[int, ...], x: NDArray) -> NDArray:
    return x.transpose(order).reshape(x.shape)


def _flattened(order: tuple[int, ...], x: NDArray) -> NDArray:
    return x.transpose(order).reshape(x.shape[0], -1)


def _unflattened(order: tuple[int, ...], shape: tuple[int, ...], x: NDArray) -> NDArray:
    stored = x.reshape(len(x), *(shape[axis] for axis in order[1:]))
    return stored.transpose(tuple(np.argsort(order)))


# ---- which layer comes when


def _chain(network: Network, layer: Layer) -> dict[str, Layer]:
    """A linear layer, and the bias behind it: the layers whose arrays belong to it, by role."""
    found = {"kernel": layer}
    after = network.sole_user(layer.name)
    if after is not None and any(after is bias for bias, _, _ in _biases(network)):
        found["bias"] = after
    return found


def _exchanged(case: Case) -> Iterable[Variant]:
    alike = [(a, b) for a, b in combinations(case.network.linear, 2) if a.op == b.op and a.arrays["kernel"].shape == b.arrays["kernel"].shape]
    for a, b in alike[:MOST_PAIRS]:
        chains = _chain(case.network, a), _chain(case.network, b)
        kernels = _with_arrays_of(chains[0]["kernel"], chains[1]["kernel"]) | _with_arrays_of(chains[1]["kernel"], chains[0]["kernel"])
        yield Variant(f"the kernels of {a.name} and {b.name} swapped", (Site(a.name, kernels),))
        if "bias" in chains[0] and "bias" in chains[1]:
            biases = _with_arrays_of(chains[0]["bias"], chains[1]["bias"]) | _with_arrays_of(chains[1]["bias"], chains[0]["bias"])
            yield Variant(f"{a.name} and {b.name} swapped", (Site(a.name, kernels | biases),))
            yield Variant(f"the biases of {a.name} and {b.name} swapped", (Site(chains[0]["bias"].name, biases),))
        for one, other in ((a, b), (b, a)):
            yield Variant(f"{one.name} with the kernel of {other.name}", (Site(one.name, _with_arrays_of(one, other)),))


def _with_arrays_of(layer: Layer, other: Layer) -> dict[str, Definition]:
    arrays = {role: InMemory(materialize(array)) for role, array in other.arrays.items() if role in layer.arrays}
    return {layer.name: replace(layer, arrays={**layer.arrays, **arrays})}


def _concatenated(case: Case) -> Iterable[Variant]:
    for layer in case.network.layers("ConcatV2"):
        *parts, axis = layer.inputs
        if len(parts) == 2 and isinstance(axis, Literal):
            yield Variant("", (Site(layer.name, {layer.name: replace(layer, inputs=[parts[1], parts[0], axis])}),))


def _shortcut(case: Case) -> Iterable[Variant]:
    """One of the two tensors that are added is left out, the same in all sums or in one alone."""
    for kept, detail in ((0, "the second of the tensors that are added"), (1, "the first of the tensors that are added")):
        sites = []
        for layer in case.network.layers("AddV2", "Add"):
            tensors = operands(layer)
            if len(tensors) == 2 and case.right[tensors[kept]].shape == case.right[layer.name].shape:
                sites.append(Site(layer.name, {layer.name: Formula((tensors[kept],), lambda x: x)}))
        if sites:
            yield Variant(detail, tuple(sites))


HYPOTHESES = [
    Hypothesis("bias forgotten", "Add the bias after the product.", _bias_forgotten),
    Hypothesis(
        "kernel transposed",
        "TensorFlow's dense kernels are (in, out), used as x @ kernel; its convolution kernels are (height, width, in, out).",
        _transposed,
    ),
    Hypothesis(
        "convolution kernel flipped",
        "TensorFlow's convolution is a cross-correlation: the kernel is not turned around (scipy.signal.correlate, not convolve).",
        _flipped,
    ),
    Hypothesis(
        "SAME padding on the wrong side",
        "SAME pads only what is missing, half of it in front, rounded down: with a stride of 2 that is often 0 in front and 1 behind.",
        _padded,
    ),
    Hypothesis(
        "channels first instead of last",
        "TensorFlow flattens images as (height, width, channels): transpose (N, C, H, W) to (N, H, W, C) first.",
        partial(_reordered, {"": (0, 3, 1, 2)}),
    ),
    Hypothesis(
        "rows and columns of the image swapped",
        "Images are flattened row by row (C order, not Fortran's or MATLAB's).",
        partial(_reordered, {"": (0, 2, 1, 3), "column-major": (0, 3, 2, 1)}),
    ),
    Hypothesis("images in another layout", "TensorFlow's images are (height, width, channels), row by row, unless the graph says NCHW.", _relaid),
    Hypothesis("red and blue swapped", "Give the channels in the order that the network was trained on: OpenCV reads BGR.", _channels_swapped),
    Hypothesis("images mirrored", "Give the rows from top to bottom, and the columns from left to right.", _mirrored),
    Hypothesis("maximum and average pooling confused", "Take the graph's pooling.", _pooled),
    Hypothesis("shortcut (residual connection) forgotten", "Add both tensors there.", _shortcut),
    Hypothesis("layers in another order", "Take the layers in the order of the graph; `bnexport inspect` lists them.", _exchanged),
    Hypothesis("inputs of a concatenation swapped", "Concatenate in the order of the graph.", _concatenated),
]
