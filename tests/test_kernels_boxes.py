import numpy as np
import pytest
from kernel_oracle import check, check_values, compares
from live_graph import Net, rows

from bnexport.errors import DependsOnData
from bnexport.kernels import OPS, Abstract


def f32(value):
    return np.array(value, np.float32)


def i32(value):
    return np.array(value, np.int32)


def boxes(count, seed=1):
    """Boxes around a few places, so that many overlap, some of them with their corners the other way round."""
    rng = np.random.default_rng(seed)
    centre, size = rng.integers(0, 3, (count, 2)) + rng.normal(0, 0.1, (count, 2)), rng.uniform(0.3, 1.2, (count, 2))
    corners = np.concatenate([centre - size / 2, centre + size / 2], 1)
    corners[::7] = corners[::7][:, [2, 3, 0, 1]]
    return f32(corners)


def scores(*shape, seed=2):
    return f32(np.random.default_rng(seed).random(shape))


@compares("NonMaxSuppression", "NonMaxSuppressionV2", "NonMaxSuppressionV3")
@pytest.mark.parametrize("count", [0, 3, 40])
@pytest.mark.parametrize("overlap", [0.0, 0.3, 1.0])
def test_boxes_that_overlap(count, overlap):
    given = (boxes(40), scores(40), i32(count))
    check_values("NonMaxSuppression", {"iou_threshold": overlap}, *given)
    check_values("NonMaxSuppressionV2", {}, *given, f32(overlap))
    check_values("NonMaxSuppressionV3", {}, *given, f32(overlap), f32(0.4))
    equal = np.round(given[1], 1)
    check_values("NonMaxSuppressionV3", {}, given[0], equal, i32(40), f32(overlap), f32(-np.inf))
    check_values("NonMaxSuppressionV3", {}, boxes(0), scores(0), i32(3), f32(overlap), f32(0))


@compares("NonMaxSuppressionV4", "NonMaxSuppressionV5")
@pytest.mark.parametrize("sigma", [0.0, 0.2, 1.0])
@pytest.mark.parametrize("overlap", [0.3, 1.0])
def test_as_many_boxes_as_are_asked_for(sigma, overlap):
    given = (boxes(30), scores(30), i32(20), f32(overlap), f32(0.3))
    check("NonMaxSuppressionV4", {"pad_to_max_output_size": True}, *given)
    check("NonMaxSuppressionV5", {"pad_to_max_output_size": True}, *given, f32(sigma), tolerance=1e-5)
    check_values("NonMaxSuppressionV5", {"pad_to_max_output_size": False}, *given, f32(sigma))


@compares("CombinedNonMaxSuppression")
@pytest.mark.parametrize("shared", [1, 4])
@pytest.mark.parametrize("attrs", [{}, {"pad_per_class": True}, {"clip_boxes": False}])
@pytest.mark.parametrize(("per_class", "total"), [(3, 7), (20, 100)])
def test_boxes_of_several_classes(shared, attrs, per_class, total):
    each = f32(np.stack([np.stack([boxes(25, seed=10 * i + c) for c in range(shared)], 1) for i in range(2)]))
    values = scores(2, 25, 4, seed=5)
    check("CombinedNonMaxSuppression", attrs, each, values, i32(per_class), i32(total), f32(0.4), f32(0.2))


@pytest.mark.parametrize("name", ["NonMaxSuppression", "NonMaxSuppressionV3", "NonMaxSuppressionV4", "NonMaxSuppressionV5"])
def test_a_number_that_depends_on_the_data_is_refused(name):
    operands = [Abstract((5, 4), np.dtype("float32")), Abstract((5,), np.dtype("float32"))]
    with pytest.raises(DependsOnData, match="with --output"):
        OPS[name].infer({}, operands)


@pytest.mark.tensorflow
def test_a_detector_that_ends_in_boxes_names_what_to_convert_instead(tf, live):
    def build(count):
        x = tf.placeholder(tf.float32, [1, None, None, 3], name="x")
        kernel = tf.get_variable("kernel", [3, 3, 3, 5])
        head = tf.reshape(tf.nn.conv2d(x, kernel, [1, 1, 1, 1], "SAME"), [-1, 5])
        corners, objectness = tf.identity(head[:, :4], name="corners"), tf.sigmoid(head[:, 4], name="objectness")
        kept = tf.image.non_max_suppression(corners, objectness, count, 0.5)
        tf.gather(corners, kept, name="found")
        return Net({x: rows(1, 8, 8, 3)}, [corners, objectness])

    saved = live(lambda: build(10))
    with pytest.raises(DependsOnData, match=r"non-maximum suppression keeps depends on the data.*with --output$"):
        saved.convert(outputs=["found"])
    saved.matches(outputs=["corners", "objectness"])
