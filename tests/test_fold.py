"""Folding, rule by rule, where it is exact and where it must not happen; the truth is TensorFlow's in float64 on the network as it was."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from layer_oracle import Oracle

from bnexport.fold import Network, fold
from bnexport.fold.affine import affine, collapsed, regrouped
from bnexport.program import materialize

pytestmark = pytest.mark.tensorflow

RNG = np.random.default_rng(0)
few = settings(derandomize=True, deadline=None, max_examples=10)
seeds = st.integers(0, 2**32 - 1)


@pytest.fixture(scope="module")
def build(tf):
    import tensorflow

    return lambda **inputs: Oracle(tensorflow, **inputs)


def reseed(seed):
    RNG.bit_generator.state = np.random.default_rng(seed).bit_generator.state


def normal(*shape):
    return RNG.normal(size=shape)


def scales(channels, sign=None):
    values = RNG.uniform(0.5, 1.5, channels)
    if sign is None:
        values[::2] *= -1
    return values * (sign or 1)


IMAGE = (3, 6, 8, 4)
ONES = [1, 1, 1, 1]
VOLUME = [-1, 4, 6, 4, 3]

# name: input shape, op, kernel shape, output channels, attributes, further operands
LINEAR = {
    "dense": ((3, 4), "Dense", (4, 5), 5, {}, []),
    "dense on sequences": ((3, 2, 4), "Dense", (4, 5), 5, {}, []),
    "conv": (IMAGE, "Conv2D", (3, 2, 4, 5), 5, {"strides": ONES, "padding": "VALID"}, []),
    "conv, padded": (IMAGE, "Conv2D", (3, 2, 4, 5), 5, {"strides": [1, 2, 1, 1], "padding": "SAME"}, []),
    "conv, padded as it says": (
        IMAGE,
        "Conv2D",
        (3, 2, 4, 5),
        5,
        {"strides": ONES, "padding": "EXPLICIT", "explicit_paddings": [0, 0, 1, 0, 0, 2, 0, 0]},
        [],
    ),
    "conv of one point": (IMAGE, "Conv2D", (1, 1, 4, 5), 5, {"strides": [1, 2, 2, 1], "padding": "SAME"}, []),
    "conv that fits": (IMAGE, "Conv2D", (2, 2, 4, 5), 5, {"strides": [1, 2, 2, 1], "padding": "SAME"}, []),
    "conv, dilated": (IMAGE, "Conv2D", (2, 2, 4, 5), 5, {"strides": ONES, "padding": "VALID", "dilations": [1, 2, 2, 1]}, []),
    "conv in groups": (IMAGE, "Conv2D", (2, 2, 2, 6), 6, {"strides": ONES, "padding": "VALID"}, []),
    "conv, channels first": ((3, 4, 6, 8), "Conv2D", (3, 2, 4, 5), 5, {"strides": ONES, "padding": "VALID", "data_format": "NCHW"}, []),
    "depthwise": (IMAGE, "DepthwiseConv2D", (2, 2, 4, 3), 12, {"strides": ONES, "padding": "VALID"}, []),
    "depthwise, padded": (IMAGE, "DepthwiseConv2D", (3, 3, 4, 1), 4, {"strides": ONES, "padding": "SAME"}, []),
    "transposed": (IMAGE, "Conv2DTranspose", (3, 2, 5, 4), 5, {"strides": [1, 2, 2, 1], "padding": "SAME"}, [[-1, 12, 16, 5]]),
    "volume": ((3, 4, 5, 6, 2), "Conv3D", (2, 2, 2, 2, 3), 3, {"strides": [1] * 5, "padding": "VALID"}, []),
    "volume, padded": ((3, 4, 5, 6, 2), "Conv3D", (2, 3, 2, 2, 3), 3, {"strides": [1] * 5, "padding": "SAME"}, []),
    "transposed volume": (
        (3, 2, 3, 2, 2),
        "Conv3DTranspose",
        (2, 2, 2, 3, 2),
        3,
        {"strides": [1, 2, 2, 2, 1], "padding": "SAME"},
        [[-1, 4, 6, 4, 3]],
    ),
}
PADDED = ("conv, padded", "conv, padded as it says", "depthwise, padded", "volume, padded")
TRANSPOSED = ("transposed", "transposed volume")


def channelwise(values, attrs):
    return values.reshape(-1, 1, 1) if attrs.get("data_format") == "NCHW" else values


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("kind", LINEAR)
def test_after_a_linear_layer(build, kind, bias):
    shape, op, kernel, channels, attrs, more = LINEAR[kind]
    net = build(x=normal(*shape))
    y = net.add(op, "x", *more, kernel=normal(*kernel), **({"bias": normal(channels)} if bias else {}), **attrs)
    y = net.norm(y, channelwise(scales(channels), attrs), channelwise(normal(channels), attrs))
    folding = net.folded(y)
    assert not folding.left
    assert [layer.op for layer in folding.layers] == [op]


@pytest.mark.parametrize("shifts", [False, True])
@pytest.mark.parametrize("kind", LINEAR)
def test_before_a_linear_layer(build, kind, shifts):
    shape, op, kernel, channels, attrs, more = LINEAR[kind]
    inputs = shape[1] if "NCHW" in attrs.values() else shape[-1]
    net = build(x=normal(*shape))
    x = net.norm("x", channelwise(scales(inputs), attrs), channelwise(normal(inputs) * shifts, attrs))
    folding = net.folded(net.add(op, x, *more, kernel=normal(*kernel), bias=normal(channels), **attrs))
    if shifts and kind in PADDED:
        assert folding.why.endswith("which pads with zeros that its shift must not reach")
    elif shifts and kind in TRANSPOSED:
        assert "another part of its shift" in folding.why
    else:
        assert not folding.left


# ---- layers in between


def between(build, shape, passes, scale, shift, *, behind=None):
    """A scale/shift before what `passes` adds, and a dense layer on its channels behind."""
    net = build(x=normal(*shape))
    x = passes(net, net.norm("x", scale, shift))
    width = net.values(net.layers)[x].shape[-1]
    return net.folded(net.add("Dense", x, kernel=normal(width, 3)))


def beyond(build, shape, passes, scale, shift):
    """A scale/shift behind what `passes` adds to a dense layer on its channels."""
    net = build(x=normal(*shape))
    x = passes(net, net.add("Dense", "x", kernel=normal(shape[-1], shape[-1])))
    return net.folded(net.norm(x, scale, shift))


def average(padding):
    return lambda net, x: net.add("AvgPool", x, ksize=[1, 3, 2, 1], strides=[1, 2, 2, 1], padding=padding)


def maximum(padding):
    return lambda net, x: net.add("MaxPool", x, ksize=[1, 3, 2, 1], strides=[1, 2, 2, 1], padding=padding)


PASSES = {
    "average pool": average("VALID"),
    "average pool, padded": average("SAME"),
    "mean": lambda net, x: net.add("Mean", x, [1, 2]),
    "mean, kept": lambda net, x: net.add("Mean", x, [-2, 1], keep_dims=True),
    "reshape": lambda net, x: net.add("Reshape", x, [-1, 48, 4]),
    "squeeze": lambda net, x: net.add("Reshape", net.add("Reshape", x, [-1, 1, 6, 1, 8, 4]), [-1, 6, 8, 4]),
    "rows of a batch": lambda net, x: net.add("Reshape", x, [-1, 4]),
    "transpose": lambda net, x: net.add("Transpose", x, [0, 2, 1, 3]),
    "tile": lambda net, x: net.add("Tile", x, [1, 2, 1, 1]),
    "mirrored": lambda net, x: net.add("MirrorPad", x, [[0, 0], [1, 1], [2, 0], [0, 0]], mode="REFLECT"),
    "nearest": lambda net, x: net.add("ResizeNearestNeighbor", x, [9, 5]),
    "blocks": lambda net, x: net.add("SpaceToBatchND", x, [2, 2], [[0, 0], [0, 0]]),
    "no blocks": lambda net, x: net.add("BatchToSpaceND", net.add("SpaceToBatchND", x, [2, 2], [[0, 0], [0, 0]]), [2, 2], [[0, 0], [0, 0]]),
}
EXTREMES = {
    "max pool": maximum("VALID"),
    "max pool, padded": maximum("SAME"),
    "max": lambda net, x: net.add("Max", x, [1, 2]),
    "min, kept": lambda net, x: net.add("Min", x, [1], keep_dims=True),
}
FILLS = {
    "pad": lambda net, x: net.add("Pad", x, [[0, 0], [1, 1], [2, 0], [0, 0]]),
    "pad with 0": lambda net, x: net.add("PadV2", x, [[0, 0], [1, 1], [2, 0], [0, 0]], 0),
    "blocks, padded": lambda net, x: net.add("SpaceToBatchND", x, [2, 2], [[1, 1], [0, 2]]),
}


@pytest.mark.parametrize("where", [between, beyond])
@pytest.mark.parametrize("kind", PASSES)
def test_what_passes_everything(build, kind, where):
    assert not where(build, IMAGE, PASSES[kind], scales(4), normal(4)).left
    assert not where(build, IMAGE, PASSES[kind], np.asarray(-0.5), np.asarray(2.0)).left


@pytest.mark.parametrize("where", [between, beyond])
@pytest.mark.parametrize("kind", EXTREMES)
def test_maxima_pass_what_increases(build, kind, where):
    assert not where(build, IMAGE, EXTREMES[kind], np.array([0.5, 0.0, 2.0, 1.0]), normal(4)).left
    folding = where(build, IMAGE, EXTREMES[kind], scales(4), normal(4))
    assert "negative scales, which turn a maximum into a minimum" in folding.why


@pytest.mark.parametrize("where", [between, beyond])
@pytest.mark.parametrize("kind", FILLS)
def test_zeros_pass_scales_only(build, kind, where):
    assert not where(build, IMAGE, FILLS[kind], scales(4), np.zeros(4)).left
    folding = where(build, IMAGE, FILLS[kind], scales(4), normal(4))
    assert "zeros that its shift must not reach" in folding.why


@pytest.mark.parametrize("where", [between, beyond])
def test_a_pad_with_another_number_passes_nothing(build, where):
    pad = lambda net, x: net.add("PadV2", x, [[0, 0], [1, 1], [2, 0], [0, 0]], 1)  # noqa: E731
    assert "PadV2" in where(build, IMAGE, pad, scales(4), np.zeros(4)).why


@pytest.mark.parametrize("where", [between, beyond])
@pytest.mark.parametrize("op", ["Relu", "LeakyRelu"])
def test_activations_pass_nothing(build, op, where):
    attrs = {"alpha": 0.125} if op == "LeakyRelu" else {}
    assert len(where(build, IMAGE, lambda net, x: net.add(op, x, **attrs), scales(4), normal(4)).left) == 1


def test_flattening(build):
    """Before it a scale per channel, behind it the same for each position: the other way round only where the positions agree."""
    flatten = lambda net, x: net.add("Reshape", x, [-1, 6 * 8 * 4])  # noqa: E731
    assert not between(build, IMAGE, flatten, scales(4), normal(4)).left
    assert not between(build, IMAGE, flatten, scales(6).reshape(6, 1, 1), normal(6, 8, 4)).left
    assert not beyond(build, IMAGE, flatten, np.tile(scales(4), 48), np.tile(normal(4), 48)).left
    assert "varies along more than its channels" in beyond(build, IMAGE, flatten, scales(192), normal(192)).why


def test_flattening_channels_first(build):
    net = build(x=normal(3, 4, 3, 2))
    x = net.norm("x", scales(4).reshape(4, 1, 1), normal(4, 1, 1))
    x = net.add("AvgPool", x, ksize=[1, 1, 2, 2], strides=ONES, padding="VALID", data_format="NCHW")
    folding = net.folded(net.add("Dense", net.add("Reshape", x, [-1, 8]), kernel=normal(8, 3)))
    assert not folding.left


def test_pools_do_not_pass_what_varies_within_a_window(build):
    assert "mixes numbers of different scales" in between(build, IMAGE, average("VALID"), normal(6, 1, 1), np.zeros(())).why
    assert "mixes numbers of different scales" in between(build, IMAGE, PASSES["tile"], normal(6, 1, 1), np.zeros(())).why


def test_a_transpose_turns_the_axis(build):
    net = build(x=normal(3, 4, 6, 8))
    x = net.add("Transpose", net.norm("x", scales(4).reshape(4, 1, 1), normal(4, 1, 1)), [0, 2, 3, 1])
    assert not net.folded(net.add("Conv2D", x, kernel=normal(2, 2, 4, 3), strides=ONES, padding="VALID")).left
    net = build(x=normal(3, 6, 8, 4))
    x = net.add("Conv2D", "x", kernel=normal(2, 2, 4, 3), strides=ONES, padding="VALID")
    x = net.norm(net.add("Transpose", x, [0, 3, 1, 2]), scales(3).reshape(3, 1, 1), normal(3, 1, 1))
    assert not net.folded(x).left


# ---- branches


@few
@given(seeds, st.sampled_from([1, 2, 3, -1]))
def test_concatenations_backward(build, seed, axis):
    reseed(seed)
    net = build(x=normal(*IMAGE), y=normal(*IMAGE))
    parts = [net.add("Dense", name, kernel=normal(4, 4)) for name in ("x", "y")]
    joined = net.add("ConcatV2", *parts, axis)
    width = 8 if axis in (3, -1) else 4
    assert not net.folded(net.norm(joined, scales(width), normal(width))).left


def test_a_concatenation_needs_all_its_parts(build):
    net = build(x=normal(3, 4))
    parts = [net.add("Dense", "x", kernel=normal(4, 4)), net.add("Relu", net.add("Dense", "x", kernel=normal(4, 4)))]
    folding = net.folded(net.norm(net.add("ConcatV2", *parts, 1), scales(8), normal(8)))
    assert folding.why == "it follows concatv2_3 (ConcatV2), and its result is an output"
    net = build(x=normal(3, 4))
    part = net.add("Dense", "x", kernel=normal(4, 4))
    assert len(net.folded(net.norm(net.add("ConcatV2", part, part, 1), scales(8), normal(8))).left) == 1


@pytest.mark.parametrize("both", [False, True])
def test_concatenations_forward(build, both):
    net = build(x=normal(*IMAGE), y=normal(3, 6, 8, 2))
    parts = [net.norm("x", scales(4), normal(4)), net.norm("y", scales(2), normal(2)) if both else "y"]
    flat = net.add("Reshape", net.add("ConcatV2", *parts, 3), [-1, 6 * 8 * 6])
    assert not net.folded(net.add("Dense", flat, kernel=normal(288, 3))).left


def test_a_tensor_concatenated_with_itself(build):
    net = build(x=normal(3, 4))
    x = net.norm("x", scales(4), normal(4))
    assert not net.folded(net.add("Dense", net.add("ConcatV2", x, x, 1), kernel=normal(8, 3))).left


def test_sums(build):
    """A scale of the sum is one of each term, where all of them can take it."""
    net = build(x=normal(*IMAGE), y=normal(*IMAGE))
    terms = [net.add("Conv2D", name, kernel=normal(3, 3, 4, 5), strides=ONES, padding="SAME") for name in ("x", "y")]
    assert not net.folded(net.norm(net.add("AddV2", *terms), scales(5), normal(5))).left
    net = build(x=normal(*IMAGE))
    y = net.add("Conv2D", "x", kernel=normal(3, 3, 4, 4), strides=ONES, padding="SAME")
    assert net.folded(net.norm(net.add("AddV2", y, "x"), scales(4), normal(4))).why == "it follows addv2_1 (AddV2), and its result is an output"
    net = build(x=normal(*IMAGE), y=normal(3, 1, 1, 4))
    terms = [net.add("Dense", name, kernel=normal(4, 5)) for name in ("x", "y")]
    assert len(net.folded(net.norm(net.add("AddV2", *terms), scales(5), normal(5))).left) == 1


def test_a_shift_of_a_term_passes_a_sum_but_a_scale_does_not(build):
    for scale, left in ((np.ones(()), 0), (scales(4), 1)):
        net = build(x=normal(3, 4), y=normal(3, 4))
        total = net.add("AddV2", net.norm("x", scale, normal(4)), "y")
        assert len(net.folded(net.add("Dense", total, kernel=normal(4, 3))).left) == left
    net = build(x=normal(3, 4))
    x = net.norm("x", np.ones(()), normal(4))
    assert len(net.folded(net.add("Dense", net.add("AddV2", x, x), kernel=normal(4, 3))).left) == 1


def test_a_tensor_used_twice(build):
    net = build(x=normal(3, 4))
    x = net.norm("x", scales(4), normal(4))
    outputs = [net.add("Dense", x, kernel=normal(4, 3)) for _ in range(2)]
    assert not net.folded(*outputs).left
    outputs.append(net.add("Relu", x))
    folding = net.folded(*outputs)
    assert folding.why == f"it stands on the input x, and its result goes into {outputs[-1]} (Relu)"


def test_both_sides_of_a_diamond(build):
    net = build(x=normal(*IMAGE))
    x = net.norm("x", scales(4, 1), normal(4))
    sides = [net.add(op, x, ksize=[1, 2, 2, 1], strides=[1, 2, 2, 1], padding="VALID") for op in ("AvgPool", "MaxPool")]
    joined = net.add("ConcatV2", *sides, 3)
    assert not net.folded(net.add("Conv2D", joined, kernel=normal(2, 2, 8, 3), strides=ONES, padding="VALID")).left


def test_what_else_needs_a_linear_layer_keeps_its_batch_norm_out_of_it(build):
    net = build(x=normal(3, 4))
    y = net.add("Dense", "x", kernel=normal(4, 4))
    relu = net.add("Relu", net.norm(y, scales(4), normal(4)))
    total = net.add("AddV2", relu, y)
    assert net.folded(total).why == f"{y} (Dense) before it is needed as it is by {total} (AddV2), and its result goes into {relu} (Relu)"
    assert net.folded(total, y).why.startswith(f"{y} (Dense) before it is needed as it is by {total} (AddV2)")
    net.layers = net.layers[:3]
    assert net.folded(relu, y).why.startswith(f"{y} (Dense) before it is needed as it is by an output")


def test_a_result_that_is_an_output(build):
    net = build(x=normal(3, 4))
    y = net.norm(net.add("Dense", "x", kernel=normal(4, 4)), scales(4), normal(4))
    assert not net.folded(y, net.add("Dense", y, kernel=normal(4, 3))).left
    net = build(x=normal(3, 4))
    x = net.norm("x", scales(4), normal(4))
    assert net.folded(x, net.add("Dense", x, kernel=normal(4, 3))).why == "it stands on the input x, and its result is an output"


def test_who_only_looks_at_the_shape_is_not_in_the_way(build):
    net = build(x=normal(3, 4))
    x = net.norm("x", scales(4), normal(4))
    assert not net.folded(net.add("Dense", x, kernel=normal(4, 3)), net.add("Shape", x)).left


def test_arithmetic_with_plain_numbers_is_not_listed(build):
    net = build(x=normal(3, 4))
    net.add("Relu", net.norm("x", 0.5, 1.0))
    assert fold(Network(net.layers, {layer.name: (None, 4) for layer in net.layers} | {"x": (None, 4)}, ["relu_1"]), "float64") == []


def test_chains_are_merged_and_what_does_nothing_goes(build):
    net = build(x=normal(3, 4))
    x = net.norm(net.norm(net.norm("x", 1.0, 0.0), scales(4), normal(4)), 2.0, normal(4))
    relu = net.add("Relu", x)
    doubled = net.norm(net.norm(relu, 4.0, 0.0), 0.25, 0.0)
    folding = net.folded(net.add("MaxPool", net.add("Reshape", doubled, [-1, 1, 1, 4]), ksize=ONES, strides=ONES, padding="VALID"))
    assert folding.left == [x]


def test_large_means_are_subtracted_first(build):
    """x·(1/8) - 1013/8 in float32 would lose the digits that the difference of two close numbers keeps."""
    x = RNG.normal(1013.0, 8.0, (50, 4)).astype(np.float32)
    net = build(x=x)
    y = net.add("Dense", net.norm(net.norm("x", 1.0, np.array([-1010.0, -1013.0, -1015.0, -1020.0])), np.full(4, 1 / 8.0), 0.0), kernel=normal(4, 3))
    network = Network(net.layers, {"x": (None, 4), **{layer.name: (None, 4) for layer in net.layers}}, [y])
    truth = net.values(list(net.layers))[y]
    (line,) = fold(network, "float32")
    assert line.startswith("scaleshift_0: it stands on the input x, and it subtracts numbers so large that float32 keeps the digits")
    first, dense = network.layers
    got = (x + materialize(first.arrays["shift"])) @ materialize(dense.arrays["kernel"])
    assert got.dtype == np.float32
    assert np.abs(got - truth).max() < 1e-6


# ---- any network


@settings(derandomize=True, deadline=None, max_examples=60)
@given(seeds)
def test_any_network_computes_the_same(build, seed):
    """Layers drawn at random over tensors drawn at random, any of which may be outputs."""
    reseed(seed)
    net = build(image=normal(3, 8, 8, 4))
    pool = {"ksize": [1, 2, 2, 1], "strides": ONES, "padding": "SAME"}
    same = {"strides": ONES, "padding": "SAME"}
    menu = [
        *4 * [lambda x: net.norm(x, scales(4, RNG.choice([None, 1])), normal(4) * RNG.integers(2))],
        lambda x: net.add("Conv2D", x, kernel=normal(3, 3, 4, 4), bias=normal(4), **same),
        lambda x: net.add("Conv2D", x, kernel=normal(1, 1, 4, 4), **same),
        lambda x: net.add("DepthwiseConv2D", x, kernel=normal(2, 2, 4, 1), **same),
        lambda x: net.add("Relu", x),
        lambda x: net.add("AvgPool", x, **pool),
        lambda x: net.add("MaxPool", x, **pool),
        lambda x: net.add("AddV2", x, RNG.choice(tensors)),
        lambda x: net.add("Conv2D", net.add("ConcatV2", x, str(RNG.choice(tensors)), 3), kernel=normal(1, 1, 8, 4), **same),
        lambda x: net.add("Conv2D", net.add("Pad", x, [[0, 0], [1, 1], [1, 1], [0, 0]]), kernel=normal(3, 3, 4, 4), strides=ONES, padding="VALID"),
        lambda x: net.add("Reshape", net.add("Dense", net.add("Reshape", x, [-1, 4]), kernel=normal(4, 4)), [-1, 8, 8, 4]),
    ]
    tensors = ["image"]
    for _ in range(12):
        source = tensors[-1] if RNG.random() < 0.7 else str(RNG.choice(tensors))
        tensors.append(menu[RNG.integers(len(menu))](source))
    flat = net.add("Reshape", tensors[-1], [-1, 256])
    outputs = {net.add("Dense", flat, kernel=normal(256, 2)), *(t for t in tensors[1:] if RNG.random() < 0.1)}
    folding = net.folded(*sorted(outputs))
    makers = {layer.name: layer for layer in folding.layers}
    taken = [operand for layer in folding.layers for operand in layer.inputs] + folding.outputs
    for layer in folding.layers:  # none is left behind a linear layer that only it takes
        if layer.op == "ScaleShift" and (maker := makers.get(layer.inputs[0])) is not None and "kernel" in maker.arrays:
            assert taken.count(maker.name) > 1 or maker.activation is not None


# ---- values


@few
@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), seeds)
def test_regrouped_values_are_those_of_the_reshaped_tensor(sizes, seed):
    rng = np.random.default_rng(seed)
    whole = rng.integers(0, 2, [n if rng.integers(2) else 1 for n in sizes]).astype(float)
    spread = np.broadcast_to(whole, sizes)
    for result in ([int(np.prod(sizes))], [1, *sizes], [sizes[0], int(np.prod(sizes[1:]))], [*sizes, 1]):
        got = regrouped(collapsed(whole), (None, *sizes), (None, *result))
        assert np.array_equal(np.broadcast_to(got, result), spread.reshape(result))
    unknown = regrouped(np.arange(6.0).reshape(2, 3), (None, 2, 3), (None, None, 3))
    assert unknown is None


@few
@given(seeds)
def test_composition(seed):
    rng = np.random.default_rng(seed)
    (s1, s2), (t1, t2), x = rng.normal(size=(2, 3)), rng.normal(size=(2, 1)), rng.normal(size=(5, 3))
    both = affine(s2, t2).after(affine(s1, t1))
    np.testing.assert_allclose(x * both.scale + both.shift, (x * s1 + t1) * s2 + t2, atol=1e-13)
