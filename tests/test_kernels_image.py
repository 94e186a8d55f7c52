import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kernel_oracle import bounded, check, compares, tensorflow

from bnexport.errors import GraphError, InputError
from bnexport.kernels import OPS, Abstract, evaluate

RESIZES = ["ResizeBilinear", "ResizeNearestNeighbor", "ResizeBicubic", "ResizeArea"]
images = st.tuples(st.integers(1, 2), *[st.integers(1, 9)] * 2, st.just(2))
sizes = st.tuples(*[st.integers(1, 12)] * 2)


def normal(seed, shape, dtype="float32"):
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


@compares(*RESIZES)
@pytest.mark.parametrize("name", RESIZES)
@given(images, sizes, st.sampled_from(["", "align", "half"]))
@bounded(60)
def test_resizing(name, shape, size, mode):
    attrs = {"align_corners": mode == "align", "half_pixel_centers": mode == "half"}
    if name == "ResizeArea":
        attrs = {"align_corners": mode == "align"}
    check(name, attrs, normal(1, shape), np.array(size, np.int32), tolerance=1e-5)


@compares(*RESIZES)
@pytest.mark.parametrize("name", RESIZES)
def test_corners_that_are_one_pixel(name):
    for shape in ((2, 1, 4, 1), (1, 1, 1, 2), (1, 4, 1, 1)):
        check(name, {"align_corners": True}, normal(1, shape), np.array([3, 2], np.int32), tolerance=1e-5)


@compares("ResizeBilinear", "ResizeNearestNeighbor")
def test_resizing_of_bytes():
    x = np.random.default_rng(0).integers(0, 255, (1, 5, 4, 3)).astype(np.uint8)
    for name in ("ResizeBilinear", "ResizeNearestNeighbor"):
        check(name, {}, x, np.array([7, 9], np.int32), tolerance=1e-5)


@compares("ScaleAndTranslate")
@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize("kernel", ["lanczos1", "lanczos3", "lanczos5", "gaussian", "box", "triangle", "keyscubic", "mitchellcubic"])
def test_scaling_and_translating(kernel, antialias):
    for scale, shift, size in (([1.7, 2.3], [0.4, -1.2], [9, 14]), ([0.4, 0.61], [0.0, 0.0], [3, 4]), ([1.0, 0.5], [2.0, -0.3], [8, 5])):
        attrs = {"kernel_type": kernel, "antialias": antialias}
        operands = (np.array(size, np.int32), np.array(scale, np.float32), np.array(shift, np.float32))
        check("ScaleAndTranslate", attrs, normal(1, (2, 6, 7, 2)), *operands, tolerance=2e-5)


@compares("CropAndResize")
@pytest.mark.parametrize("method", ["bilinear", "nearest"])
@pytest.mark.parametrize("size", [(3, 4), (1, 1), (5, 1)])
def test_crops(method, size):
    boxes = np.array([[0, 0, 1, 1], [0.2, 0.1, 0.7, 0.9], [-0.3, 0.2, 1.4, 0.6], [0.9, 0.8, 0.1, 0.2]], np.float32)
    attrs = {"method": method, "extrapolation_value": 7.0}
    check("CropAndResize", attrs, normal(1, (2, 6, 7, 2)), boxes, np.array([0, 1, 1, 0], np.int32), np.array(size, np.int32), tolerance=1e-5)


def test_a_crop_of_an_image_that_is_not_there_is_refused():
    with pytest.raises(InputError, match="not among the 1 given"):
        evaluate(OPS["CropAndResize"], {}, [normal(1, (1, 4, 4, 1)), np.zeros((1, 4), np.float32), np.array([1]), np.array([2, 2])])


def parameters(channels, dtype="float32"):
    scale, offset, mean = (normal(i, channels, dtype) for i in (2, 3, 4))
    return scale, offset, mean, np.abs(normal(5, channels, dtype)) + dtype_of(dtype)(0.1)


def dtype_of(name):
    return np.dtype(name).type


FUSED = ["FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3"]


def first(attrs):
    return {**attrs, "data_format": "NCHW"}


@compares(*FUSED)
@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", FUSED)
def test_fused_batch_norm(name, training, dtype):
    if name == "FusedBatchNorm" and dtype == "float16":
        pytest.skip("the first version is for float32 only")
    x = (3 + 2 * normal(1, (3, 4, 5, 2))).astype(dtype)
    attrs = {"is_training": training, "epsilon": 1e-3}
    # without training TensorFlow's CPU kernel leaves the statistics for a gradient uninitialised; a GPU's reserved space is of no fixed size
    how = {"tolerance": 3e-3 if dtype == "float16" else 1e-5, "outputs": 5 if training else 3}
    results = check(name, attrs, x, *parameters(2), **how)
    turned = [results[0].transpose(0, 3, 1, 2), *results[1:]]
    check(name, first(attrs), x.transpose(0, 3, 1, 2), *parameters(2), expected=turned)
    if training:
        none = np.zeros(0, np.float32)
        check(name, attrs, x, *parameters(2)[:2], none, none, **how)
        check(name, {**attrs, "exponential_avg_factor": 0.1}, x, *parameters(2), **how)


@compares("FusedBatchNormV3")
def test_fused_batch_norm_by_its_formula():
    x = normal(1, (2, 3, 3, 4))
    scale, offset, mean, variance = (p.astype(np.float64) for p in parameters(4))
    (y, *_) = check("FusedBatchNormV3", {"is_training": False, "epsilon": 0.01}, x, *parameters(4), outputs=3)
    np.testing.assert_allclose(y, scale * (x - mean) / np.sqrt(variance + 0.01) + offset, rtol=1e-5, atol=1e-6)


def removed_op(name, attrs, operands):
    """What TensorFlow computes for an op that graphs of today may not contain, by a graph that says it is old."""
    tf = tensorflow()
    definition = tf.compat.v1.GraphDef()
    definition.versions.producer = 8
    node = definition.node.add(name="result", op=name)
    node.attr["T"].type = 1
    node.attr["variance_epsilon"].f = attrs["variance_epsilon"]
    node.attr["scale_after_normalization"].b = attrs["scale_after_normalization"]
    for i, operand in enumerate(operands):
        node.input.append(f"operand{i}")
        constant = definition.node.add(name=f"operand{i}", op="Const")
        constant.attr["dtype"].type = 1
        constant.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(operand))
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        tf.import_graph_def(definition, name="")
        return [session.run("result:0")]


@compares("BatchNormWithGlobalNormalization")
@pytest.mark.parametrize("scaled", [False, True])
def test_batch_norm_with_global_normalization(scaled):
    gamma, beta, mean, variance = parameters(3)
    operands = [normal(1, (2, 4, 5, 3)), mean, variance, beta, gamma]
    attrs = {"variance_epsilon": 1e-3, "scale_after_normalization": scaled}
    name = "BatchNormWithGlobalNormalization"
    check(name, attrs, *operands, expected=removed_op(name, attrs, operands))


@compares("AdjustContrastv2")
@pytest.mark.parametrize("shape", [(5, 6, 3), (2, 4, 5, 2), (2, 3, 4, 4, 1)])
def test_adjusting_the_contrast(shape):
    check("AdjustContrastv2", {}, normal(1, shape) + 3, np.float32(1.7))


@compares("LRN")
@pytest.mark.parametrize("channels", [1, 4, 12])
@pytest.mark.parametrize("attrs", [{}, {"depth_radius": 2, "bias": 2.0, "alpha": 1e-4, "beta": 0.75}, {"depth_radius": 1, "beta": 1.0}])
def test_local_response_normalization(attrs, channels):
    check("LRN", attrs, normal(1, (2, 3, 4, channels)), tolerance=1e-5)


@compares("FakeQuantWithMinMaxArgs", "FakeQuantWithMinMaxVars", "FakeQuantWithMinMaxVarsPerChannel")
@pytest.mark.parametrize("attrs", [{}, {"num_bits": 4}, {"narrow_range": True}])
@pytest.mark.parametrize(("low", "high"), [(-6.0, 6.0), (-1.0, 2.5), (0.0, 1.0), (-3.3, 0.0)])
def test_fake_quantisation(attrs, low, high):
    x = 3 * normal(1, (40, 3))
    check("FakeQuantWithMinMaxArgs", {**attrs, "min": low, "max": high}, x)
    check("FakeQuantWithMinMaxVars", attrs, x, np.float32(low), np.float32(high), unknown=(0, 1, 2))
    lows = np.array([low, -1, 0], np.float32)
    check("FakeQuantWithMinMaxVarsPerChannel", attrs, x, lows, lows + np.array([high - low, 2, 0], np.float32), unknown=(0, 1, 2))


def of(*shape):
    return Abstract(shape, np.dtype("float32"))


@pytest.mark.parametrize(
    ("name", "attrs", "operands"),
    [
        ("FusedBatchNormV3", {}, [of(2, 3, 3, 4), of(4), of(4), of(3), of(4)]),
        ("FusedBatchNormV3", {"data_format": "NCHW"}, [of(2, 3, 3, 4), *[of(4)] * 4]),
        ("ResizeBilinear", {}, [of(2, 3, 3, 4), Abstract((2,), np.dtype("int32"))]),
        ("ResizeBilinear", {}, [of(2, 3, 3, 4), Abstract((2,), np.dtype("int32"), np.array([0, 3]))]),
        ("LRN", {}, [of(2, 3)]),
        ("AdjustContrastv2", {}, [of(2, 3), of()]),
    ],
)
def test_what_does_not_fit_is_refused(name, attrs, operands):
    with pytest.raises(GraphError):
        OPS[name].infer(attrs, operands)
