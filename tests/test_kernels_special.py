"""Operators that few networks have: special functions, quantised weights, searches, what tools for inference fused."""

import numpy as np
import pytest
from kernel_oracle import assert_close, check, check_values, compares, tensorflow

from bnexport.errors import DependsOnData, GraphError, InputError
from bnexport.kernels import OPS, Abstract, evaluate, infer


def normal(*shape, seed=1, dtype="float32"):
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


@compares("Lgamma", "Digamma", "Erfinv", "Ndtri")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_special_functions(dtype):
    positive = np.concatenate([np.geomspace(1e-6, 1e6, 60), np.linspace(0.1, 20, 60)]).astype(dtype)
    tolerance = 3e-6 if dtype == "float32" else 3e-12
    for name, points in {
        "Lgamma": np.concatenate([positive, -positive[20:35] - 0.25, [0, -1, -7, np.inf, np.nan]]),
        "Digamma": np.concatenate([positive, [-0.25, -1.5, -3.75, np.inf, np.nan]]),
        "Erfinv": np.concatenate([np.linspace(-0.999, 0.999, 101), [0, 1, -1, 1e-7, -1e-5, 1.5, np.nan]]),
        "Ndtri": np.concatenate([np.linspace(0.001, 0.999, 101), [0, 1, 0.5, 1e-6, -1, np.nan]]),
    }.items():
        (result,) = check(name, {}, points.astype(dtype), tolerance=tolerance)
        finite = np.isfinite(result)
        (wide,) = evaluate(OPS[name], {}, [points.astype(dtype).astype(np.float64)])
        np.testing.assert_allclose(result[finite], wide[finite], rtol=1e-6)


MODES = ["MIN_COMBINED", "MIN_FIRST", "SCALED"]


@compares("Dequantize")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("dtype", "quantised"), [("uint8", "quint8"), ("int8", "qint8"), ("uint16", "quint16"), ("int16", "qint16")])
def test_weights_that_were_bytes(mode, dtype, quantised):
    tf = tensorflow()
    limits = np.iinfo(dtype)
    x = np.linspace(limits.min, limits.max, 23).astype(dtype).reshape(1, 23)
    for low, high in ((-1.3, 2.7), (0.0, 6.0), (-6.0, -0.5), (0.4, 0.9)):
        for narrow in (False, True):
            attrs = {"mode": mode, **({"narrow_range": True} if narrow and dtype[0] == "i" else {})}
            bounds = np.float32(low), np.float32(high)
            held = tf.bitcast(tf.constant(x), getattr(tf, quantised))
            expected = tf.raw_ops.Dequantize(input=held, min_range=bounds[0], max_range=bounds[1], **attrs).numpy()
            check("Dequantize", attrs, x, *bounds, expected=(expected,), unknown=range(3))


def test_what_is_not_dequantised():
    with pytest.raises(InputError, match="whole tensors"):
        evaluate(OPS["Dequantize"], {"axis": 1}, [np.zeros((2, 2), np.uint8), np.zeros(2, np.float32), np.ones(2, np.float32)])
    with pytest.raises(InputError, match="no narrow range"):
        evaluate(OPS["Dequantize"], {"narrow_range": True}, [np.zeros(2, np.uint8), np.float32(0), np.float32(1)])


@compares("LowerBound", "UpperBound")
def test_places_in_sorted_rows():
    rows = np.sort(np.rint(normal(3, 7) * 2), axis=1)
    for name in ("LowerBound", "UpperBound"):
        check(name, {}, rows, np.rint(normal(3, 5, seed=2) * 2), unknown=(0, 1))
        check(name, {}, rows[:, :0], normal(3, 2), unknown=(0, 1))


@compares("Bincount")
@pytest.mark.parametrize("weights", [np.zeros(0, np.float32), np.zeros(0, np.int32), normal(9)])
def test_counts(weights):
    x = np.array([0, 3, 1, 3, 3, 9, 1, 4, 2], np.int32)
    check("Bincount", {}, x, np.int32(5), weights, unknown=(0, 2))
    check("Bincount", {}, x, np.int32(12), weights, unknown=(0, 2))


@compares("ListDiff")
def test_elements_that_are_not_in_another_vector():
    check_values("ListDiff", {}, np.array([5, 1, 3, 5, 2], np.int32), np.array([3, 1, 7], np.int32))
    with pytest.raises(DependsOnData, match="how many numbers"):
        infer(OPS["ListDiff"], {}, [Abstract((3,), np.dtype("int32")), Abstract((2,), np.dtype("int32"))])


@compares("SelfAdjointEigV2", "Svd")
def test_values_of_matrices_without_their_vectors():
    x = normal(2, 4, 4)
    check("SelfAdjointEigV2", {"compute_v": False}, x + x.swapaxes(-1, -2), outputs=1, tolerance=1e-5, expected=eigenvalues(x))
    for matrices in (x, normal(3, 2, 5), normal(5, 2)):
        check("Svd", {"compute_uv": False}, matrices, outputs=1, tolerance=1e-5, expected=singular_values(matrices))
    turned = (x + 1j * normal(2, 4, 4, seed=3)).astype(np.complex64)
    for name, flag in (("SelfAdjointEigV2", "compute_v"), ("Svd", "compute_uv")):
        assert evaluate(OPS[name], {flag: False}, [turned])[0].dtype == np.complex64  # as TensorFlow's, though they are real
    for name, flag in (("SelfAdjointEigV2", "eigenvectors"), ("Svd", "singular vectors")):
        with pytest.raises(GraphError, match=f"{flag} are known up to their signs only"):
            OPS[name].infer({}, [Abstract((3, 3), np.dtype("float32"))])


def eigenvalues(x):
    return tensorflow().linalg.eigvalsh(x + x.swapaxes(-1, -2)).numpy(), np.zeros(0, np.float32)


def singular_values(x):
    return tensorflow().linalg.svd(x, compute_uv=False).numpy(), *[np.zeros(0, np.float32)] * 2


@compares("FusedPadConv2D", "FusedResizeAndPadConv2D")
@pytest.mark.parametrize("mode", ["REFLECT", "SYMMETRIC"])
@pytest.mark.parametrize("corners", [False, True])
def test_convolutions_of_padded_images(mode, corners):
    paddings, kernel = np.array([[0, 0], [1, 2], [2, 1], [0, 0]], np.int32), normal(3, 2, 3, 4, seed=2)
    for padding, stride in (("VALID", 1), ("SAME", 2)):
        attrs = {"mode": mode, "strides": [1, stride, stride, 1], "padding": padding}
        check("FusedPadConv2D", attrs, normal(1, 6, 5, 3), paddings, kernel, unknown=(0, 2), tolerance=1e-5)
        check(
            "FusedResizeAndPadConv2D", {**attrs, "resize_align_corners": corners}, normal(1, 4, 5, 3), np.array([8, 7], np.int32), paddings, kernel,
            unknown=(0, 3), tolerance=1e-5,
        )  # fmt: skip


@compares("Reverse", "ConjugateTranspose")
def test_dimensions_turned_round():
    check("Reverse", {}, normal(2, 3, 4), np.array([True, False, True]))
    z = (normal(2, 3, 4) + 1j * normal(2, 3, 4, seed=2)).astype(np.complex64)
    check("ConjugateTranspose", {}, z, np.array([2, 0, 1], np.int32))
    assert_close(evaluate(OPS["ConjugateTranspose"], {}, [z.real, np.array([0, 2, 1])])[0], z.real.swapaxes(1, 2))
