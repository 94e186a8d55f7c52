import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from kernel_oracle import bounded, check, compares, from_tensorflow

from bnexport.errors import GraphError
from bnexport.kernels import OPS, Abstract, conv, evaluate

PADDINGS = st.sampled_from(["SAME", "VALID", "EXPLICIT"])
FLOATS = st.sampled_from(["float32", "float64", "float16"])
strides = st.tuples(st.integers(1, 3), st.integers(1, 3))
kernels = st.tuples(st.integers(1, 4), st.integers(1, 4))
images = st.tuples(st.integers(1, 3), st.integers(4, 9), st.integers(4, 9), st.integers(1, 4))
frames = st.tuples(*[st.integers(0, 2)] * 4)


def normal(seed, shape, dtype="float32"):
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def attributes(padding, frame, stride, dilation=(1, 1)):
    attrs = {"padding": padding, "strides": [1, *stride, 1], "dilations": [1, *dilation, 1]}
    return {**attrs, "explicit_paddings": [0, 0, *frame, 0, 0]} if padding == "EXPLICIT" else attrs


def to_nchw(attrs):
    """The same attributes for the other layout, which TensorFlow computes on GPUs only."""
    turned = {**attrs, "data_format": "NCHW"}
    for name in ("strides", "dilations", "ksize"):
        if name in attrs:
            turned[name] = [attrs[name][i] for i in (0, 3, 1, 2)]
    if "explicit_paddings" in attrs:
        turned["explicit_paddings"] = [attrs["explicit_paddings"][i] for i in (0, 1, 6, 7, 2, 3, 4, 5)]
    return turned


def fits(attrs, shape, kernel):
    """Whether a window fits into the padded image at all."""
    frame = attrs.get("explicit_paddings", [0] * 8)
    room = [n + frame[2 * i + 2] + frame[2 * i + 3] for i, n in enumerate(shape[1:3])]
    extents = [(k - 1) * d + 1 for k, d in zip(kernel, attrs.get("dilations", [1] * 4)[1:3], strict=True)]
    return attrs["padding"] == "SAME" or all(n >= e for n, e in zip(room, extents, strict=True))


def check_both_layouts(name, attrs, x, *others, tolerance=None):
    (expected,) = check(name, attrs, x, *others, tolerance=tolerance)
    check(name, to_nchw(attrs), x.transpose(0, 3, 1, 2), *others, expected=[expected.transpose(0, 3, 1, 2)], tolerance=tolerance)


@compares("Conv2D")
@given(images, kernels, st.integers(1, 4), PADDINGS, frames, strides, st.tuples(st.integers(1, 2), st.integers(1, 2)), FLOATS)
@bounded(80)
def test_conv2d(shape, size, filters, padding, frame, stride, dilation, dtype):
    attrs = attributes(padding, frame, stride, dilation)
    assume(fits(attrs, shape, size))
    check_both_layouts("Conv2D", attrs, normal(1, shape, dtype), normal(2, (*size, shape[3], filters), dtype))


@compares("Conv2D")
@pytest.mark.parametrize("padding", ["SAME", "VALID"])
@pytest.mark.parametrize(("size", "stride"), [(1, 1), (1, 2), (3, 1), (3, 2), (7, 2), (2, 1)])
def test_conv2d_in_many_blocks(monkeypatch, padding, size, stride):
    monkeypatch.setattr(conv, "BLOCK_BYTES", 20_000)
    monkeypatch.setattr(conv, "BLOCK_ROWS", 16)
    for n, side in ((1, 31), (5, 7)):
        attrs = attributes(padding, None, (stride, stride))
        check("Conv2D", attrs, normal(1, (n, side, side + 2, 8)), normal(2, (size, size, 8, 5)))


@compares("Conv2D")
@given(st.integers(1, 3), st.integers(2, 3), st.integers(1, 2), st.sampled_from(["SAME", "VALID"]), strides)
@bounded(20)
def test_grouped_conv2d(inner, groups, filters, padding, stride):
    attrs = attributes(padding, None, stride)
    check("Conv2D", attrs, normal(1, (2, 6, 5, inner * groups)), normal(2, (3, 2, inner, filters * groups)), unknown=(0, 1))


@compares("DepthwiseConv2dNative")
@given(images, kernels, st.integers(1, 3), PADDINGS, frames, st.integers(1, 3), st.integers(1, 2), FLOATS)
@bounded(60)
def test_depthwise_conv2d(shape, size, multiplier, padding, frame, stride, dilation, dtype):
    attrs = attributes(padding, frame, (stride, stride), (dilation, dilation))
    assume(fits(attrs, shape, size))
    x, kernel = normal(1, shape, dtype), normal(2, (*size, shape[3], multiplier), dtype)
    expected = None
    if dilation > 1:  # TensorFlow's own kernel has no dilations on CPUs: the same convolution with zeros between the taps
        stretched = np.zeros(((size[0] - 1) * dilation + 1, (size[1] - 1) * dilation + 1, *kernel.shape[2:]), dtype)
        stretched[::dilation, ::dilation] = kernel
        expected = from_tensorflow("DepthwiseConv2dNative", attributes(padding, frame, (stride, stride)), [x, stretched])
    tolerance = 6e-3 if dtype == "float16" else None
    (result,) = check("DepthwiseConv2dNative", attrs, x, kernel, expected=expected, tolerance=tolerance)
    check("DepthwiseConv2dNative", to_nchw(attrs), x.transpose(0, 3, 1, 2), kernel, expected=[result.transpose(0, 3, 1, 2)])


@compares("DepthwiseConv2dNative")
@pytest.mark.parametrize("stride", [1, 2])
def test_depthwise_conv2d_in_many_blocks(monkeypatch, stride):
    monkeypatch.setattr(conv, "BLOCK_BYTES", 8_000)
    check("DepthwiseConv2dNative", attributes("SAME", None, (stride, stride)), normal(1, (2, 17, 12, 8)), normal(2, (3, 3, 8, 1)))


@compares("Conv2DBackpropInput")
@given(images, kernels, st.integers(1, 4), PADDINGS, frames, strides, st.sampled_from(["float32", "float64"]))
@bounded(60)
def test_transposed_conv2d(shape, size, filters, padding, frame, stride, dtype):
    attrs = attributes(padding, frame, stride)
    assume(fits(attrs, shape, size))
    if padding == "EXPLICIT":
        assume(max(frame[:2]) < size[0] and max(frame[2:]) < size[1])
    kernel = normal(2, (*size, shape[3], filters), dtype)
    (forward,) = from_tensorflow("Conv2D", attrs, [np.zeros(shape, dtype), kernel])
    y = normal(3, forward.shape, dtype)
    (result,) = check("Conv2DBackpropInput", attrs, np.array(shape, np.int32), kernel, y, unknown=(1, 2))
    check("Conv2DBackpropInput", attrs, np.array(shape[1:3], np.int32), kernel, y, unknown=(1, 2))
    turned = np.array([shape[0], shape[3], shape[1], shape[2]], np.int32)
    expected = [result.transpose(0, 3, 1, 2)]
    check("Conv2DBackpropInput", to_nchw(attrs), turned, kernel, y.transpose(0, 3, 1, 2), unknown=(1, 2), expected=expected)


@compares("DepthwiseConv2dNativeBackpropInput")
@pytest.mark.parametrize("padding", ["SAME", "VALID"])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("multiplier", [1, 3])
def test_transposed_depthwise_conv2d(padding, stride, multiplier):
    name, attrs = "DepthwiseConv2dNativeBackpropInput", attributes(padding, None, (stride, stride))
    shape, kernel = (2, 7, 6, 4), normal(2, (3, 2, 4, multiplier))
    (forward,) = from_tensorflow("DepthwiseConv2dNative", attrs, [np.zeros(shape, np.float32), kernel])
    y = normal(3, forward.shape)
    (result,) = check(name, attrs, np.array(shape, np.int32), kernel, y, unknown=(1, 2))
    turned = [np.array([2, 4, 7, 6], np.int32), kernel, y.transpose(0, 3, 1, 2)]
    check(name, to_nchw(attrs), *turned, unknown=(1, 2), expected=[result.transpose(0, 3, 1, 2)])


@compares("Conv3D")
@given(st.tuples(*[st.integers(1, 3)] * 3), st.tuples(*[st.integers(1, 2)] * 3), st.sampled_from(["SAME", "VALID"]))
@bounded(20)
def test_conv3d(size, stride, padding):
    attrs = {"padding": padding, "strides": [1, *stride, 1]}
    x, kernel = normal(1, (2, 4, 5, 3, 2)), normal(2, (*size, 2, 3))
    (result,) = check("Conv3D", attrs, x, kernel)
    first = {**attrs, "strides": [1, 1, *stride], "data_format": "NCDHW"}
    check("Conv3D", first, np.moveaxis(x, -1, 1), kernel, expected=[np.moveaxis(result, -1, 1)])


@compares("DynamicConv2D", "DynamicConv3D")
def test_computed_kernels():
    """The same operators by the names that they have in a bundle where the kernel is no array."""
    for name, dimensions in (("Conv2D", 2), ("Conv3D", 3)):
        attrs = {"padding": "SAME", "strides": [1] * (dimensions + 2)}
        operands = normal(1, (2, *[5] * dimensions, 3)), normal(2, (*[2] * dimensions, 3, 4))
        check(f"Dynamic{name}", attrs, *operands, expected=from_tensorflow(name, attrs, operands))


@compares("Conv3DBackpropInputV2")
@pytest.mark.parametrize("padding", ["SAME", "VALID"])
@pytest.mark.parametrize(("size", "stride"), [((2, 3, 1), (1, 2, 1)), ((3, 3, 3), (2, 2, 2)), ((1, 1, 1), (1, 1, 1))])
def test_transposed_conv3d(padding, size, stride):
    attrs = {"padding": padding, "strides": [1, *stride, 1]}
    shape, kernel = (2, 4, 5, 6, 2), normal(2, (*size, 2, 3))
    (forward,) = from_tensorflow("Conv3D", attrs, [np.zeros(shape, np.float32), kernel])
    check("Conv3DBackpropInputV2", attrs, np.array(shape, np.int32), kernel, normal(3, forward.shape), unknown=(1, 2))


@compares("ExtractImagePatches")
@pytest.mark.parametrize("padding", ["SAME", "VALID"])
@pytest.mark.parametrize(("size", "stride", "rate"), [((2, 3), (1, 2), (1, 1)), ((3, 3), (2, 2), (1, 1)), ((2, 2), (1, 1), (2, 1))])
def test_patches(padding, size, stride, rate):
    attrs = {"ksizes": [1, *size, 1], "strides": [1, *stride, 1], "rates": [1, *rate, 1], "padding": padding}
    check("ExtractImagePatches", attrs, normal(1, (2, 6, 7, 3)))


@compares("MaxPool", "MaxPoolV2", "AvgPool")
@given(images, kernels, PADDINGS, frames, strides, FLOATS)
@bounded(80)
def test_pooling(shape, size, padding, frame, stride, dtype):
    attrs = {**attributes(padding, frame, stride), "ksize": [1, *size, 1]}
    del attrs["dilations"]
    assume(fits(attrs, shape, size))
    assume(padding != "EXPLICIT" or (max(frame[:2]) < size[0] and max(frame[2:]) < size[1]))
    x = normal(1, shape, dtype) - 2  # mostly negative: padding must not count as zeros
    check_both_layouts("MaxPool", attrs, x)
    if padding != "EXPLICIT":
        check_both_layouts("AvgPool", attrs, x)
        sizes, steps = np.array(attrs["ksize"], np.int32), np.array(attrs["strides"], np.int32)
        check("MaxPoolV2", {"padding": padding}, x, sizes, steps)


@compares("MaxPoolWithArgmax")
@pytest.mark.parametrize("padding", ["SAME", "VALID"])
@pytest.mark.parametrize(("size", "stride"), [((2, 2), (2, 2)), ((3, 2), (1, 2)), ((2, 3), (3, 1))])
@pytest.mark.parametrize("more", [{}, {"include_batch_in_index": True, "Targmax": "int32"}])
def test_pooling_with_positions(padding, size, stride, more):
    attrs = {"padding": padding, "ksize": [1, *size, 1], "strides": [1, *stride, 1], **more}
    check("MaxPoolWithArgmax", attrs, normal(1, (2, 6, 7, 3)) - 2)
    check("MaxPoolWithArgmax", attrs, np.round(normal(2, (2, 6, 7, 3))))  # the first of equal ones


@compares("MaxPool3D", "AvgPool3D")
@pytest.mark.parametrize("padding", ["SAME", "VALID"])
@pytest.mark.parametrize(("size", "stride"), [((2, 2, 2), (2, 2, 2)), ((3, 2, 1), (1, 2, 3)), ((1, 3, 3), (1, 1, 2))])
def test_3d_pooling(padding, size, stride):
    attrs = {"padding": padding, "ksize": [1, *size, 1], "strides": [1, *stride, 1]}
    check("MaxPool3D", attrs, normal(1, (2, 5, 6, 7, 2)))
    check("AvgPool3D", attrs, normal(1, (2, 5, 6, 7, 2)))


@compares("Dilation2D")
@pytest.mark.parametrize("padding", ["SAME", "VALID"])
@pytest.mark.parametrize(("stride", "rate"), [(1, 1), (2, 1), (1, 2)])
def test_grey_scale_dilation(padding, stride, rate):
    attrs = {"padding": padding, "strides": [1, stride, stride, 1], "rates": [1, rate, rate, 1]}
    check("Dilation2D", attrs, normal(1, (2, 7, 8, 3)), normal(2, (3, 2, 3)))


@compares("MaxPool", "MaxPool3D")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("padding", ["SAME", "VALID"])
def test_the_largest_of_NaN_and_infinities(dtype, padding):
    """NaN is left out, and what is below all numbers becomes the lowest of them."""
    x = np.random.default_rng(5).choice([np.nan, -np.inf, np.inf, 1, 2, -3], p=[0.4, 0.4, 0.02, 0.06, 0.06, 0.06], size=(2, 6, 7, 5)).astype(dtype)
    for size in (1, 2, 3):
        check("MaxPool", {"ksize": [1, size, size, 1], "strides": [1, 2, 1, 1], "padding": padding}, x)
        check("MaxPool3D", {"ksize": [1, size, size, 1, 1], "strides": [1, 2, 1, 1, 1], "padding": padding}, x[..., None].astype(np.float32))


@compares("Conv2D", "MaxPool", "AvgPool")
def test_an_empty_batch_stays_empty():
    # TensorFlow's CPU kernels give the input's channels here, or no result at all
    nothing = [np.zeros((0, 5, 5, 4), np.float32)]
    check("Conv2D", attributes("SAME", None, (1, 1)), normal(1, (0, 5, 5, 2)), normal(2, (3, 3, 2, 4)), expected=nothing)
    for name in ("MaxPool", "AvgPool"):
        attrs = {"padding": "VALID", "ksize": [1, 2, 2, 1], "strides": [1, 2, 2, 1]}
        check(name, attrs, normal(1, (0, 4, 4, 2)), expected=[np.zeros((0, 2, 2, 2), np.float32)])


def of(*shape):
    return Abstract(shape, np.dtype("float32"))


VALID = {"padding": "VALID", "strides": [1, 1, 1, 1]}
MISFITS = [
    ("Conv2D", VALID, [of(1, 2, 2, 3), of(3, 3, 3, 4)]),
    ("Conv2D", VALID, [of(1, 5, 5, 3), of(3, 3, 2, 4)]),
    ("Conv2D", VALID, [of(1, 5, 3), of(3, 3, 3, 4)]),
    ("Conv2D", {**VALID, "padding": "FULL"}, [of(1, 5, 5, 3), of(3, 3, 3, 4)]),
    ("DepthwiseConv2dNative", VALID, [of(1, 5, 5, 3), of(3, 3, 2, 4)]),
    ("Conv2DBackpropInput", VALID, [Abstract((4,), np.dtype("int32"), np.array([1, 5, 5, 3])), of(3, 3, 3, 4), of(1, 4, 3, 4)]),
    ("Conv2DBackpropInput", VALID, [Abstract((4,), np.dtype("int32")), of(3, 3, 3, 4), of(1, 3, 3, 4)]),
    ("MaxPool", {**VALID, "ksize": [1, 3, 3, 1]}, [of(1, 2, 2, 3)]),
    ("MaxPool", {**VALID, "ksize": [1, 3, 3, 1]}, [of(2, 2)]),
    ("MaxPoolWithArgmax", {**VALID, "ksize": [1, 2, 2, 3]}, [of(1, 4, 4, 3)]),
]


@pytest.mark.parametrize(("name", "attrs", "operands"), MISFITS, ids=lambda v: v if isinstance(v, str) else "")
def test_what_does_not_fit_is_refused(name, attrs, operands):
    with pytest.raises(GraphError):
        OPS[name].infer(attrs, operands)


def test_convolution_of_a_transposed_view_needs_no_contiguous_data():
    x, kernel = normal(1, (2, 3, 6, 7)), normal(2, (3, 3, 3, 4))
    attrs = attributes("VALID", None, (1, 1))
    (expected,) = evaluate(OPS["Conv2D"], attrs, [np.ascontiguousarray(x.transpose(0, 2, 3, 1)), kernel])
    (result,) = evaluate(OPS["Conv2D"], attrs, [x.transpose(0, 2, 3, 1), kernel])
    np.testing.assert_array_equal(result, expected)
