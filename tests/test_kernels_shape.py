import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from kernel_oracle import bounded, check, compares, tensorflow

from bnexport.errors import GraphError, InputError
from bnexport.kernels import OPS, Abstract, evaluate, infer

DTYPES = st.sampled_from(["float32", "float64", "int32", "int64", "bool"])
SIZES = st.lists(st.integers(1, 4), min_size=1, max_size=4)


def numbered(shape, dtype="float32"):
    return (np.arange(np.prod(shape, dtype=int)) % 251).reshape(shape).astype(dtype)


def i32(*values):
    return np.array(values, np.int32)


def unknown_of(*shape, dtype="float32"):
    return Abstract(shape, np.dtype(dtype))


def known_as(*values, dtype="int32"):
    value = np.array(values, dtype)
    return Abstract(value.shape, value.dtype, value)


PASS_THROUGH = ["CheckNumerics", "GuaranteeConst", "Identity", "PreventGradient", "Snapshot", "StopGradient"]


@compares(*PASS_THROUGH)
@pytest.mark.parametrize("name", PASS_THROUGH)
def test_pass_through(name):
    check(name, {"message": "?"} if name == "CheckNumerics" else {}, numbered((2, 3)))


@compares("IdentityN", "EnsureShape", "PlaceholderWithDefault")
def test_more_that_pass_through():
    check("IdentityN", {}, numbered((2, 3)), numbered((4,), "int32"), unknown=(0, 1))
    check("EnsureShape", {"shape": [2, None]}, numbered((2, 3)))
    check("PlaceholderWithDefault", {"shape": [2, 3]}, numbered((2, 3)))


@compares("Shape", "Size", "Rank", "ShapeN", "ZerosLike", "OnesLike")
@given(st.lists(st.integers(0, 4), max_size=4), DTYPES, st.sampled_from(["int32", "int64"]))
@bounded(20)
def test_what_shapes_alone_say(shape, dtype, out_type):
    x = numbered(shape, dtype)
    check("Shape", {"out_type": out_type}, x)
    check("Size", {"out_type": out_type}, x)
    check("Rank", {}, x)
    check("ShapeN", {"out_type": out_type}, x, x, unknown=(0, 1))
    check("ZerosLike", {}, x)
    check("OnesLike", {}, x)


def test_the_value_of_a_shape_is_known_without_the_data():
    (shape,) = infer(OPS["Shape"], {}, [unknown_of(5, 3)])
    np.testing.assert_array_equal(shape.value, [5, 3])
    (product,) = infer(OPS["Prod"], {}, [shape, known_as(0)])
    assert product.value == 15


@compares("Reshape", "Transpose", "ExpandDims", "Squeeze", "ReverseV2", "Tile")
@given(SIZES, DTYPES, st.data())
@bounded(40)
def test_rearranging(shape, dtype, data):
    x = numbered(shape, dtype)
    rank = len(shape)
    split = data.draw(st.integers(0, rank))
    check("Reshape", {}, x, np.array([int(np.prod(shape[:split])), -1], data.draw(st.sampled_from(["int32", "int64"]))))
    check("Transpose", {}, x, i32(*data.draw(st.permutations(range(rank)))))
    axis = data.draw(st.integers(-rank - 1, rank))
    check("ExpandDims", {}, x, np.int32(axis))
    check("Squeeze", {"squeeze_dims": [axis]}, np.expand_dims(x, axis))
    check("Squeeze", {}, np.expand_dims(x, axis))
    check("ReverseV2", {}, x, i32(*data.draw(st.lists(st.integers(0, rank - 1), unique=True))))
    check("Tile", {}, x, i32(*data.draw(st.lists(st.integers(0, 3), min_size=rank, max_size=rank))))


@compares("ConcatV2", "Concat", "ConcatOffset", "Pack", "Unpack", "Split", "SplitV")
@given(SIZES, DTYPES, st.data())
@bounded(30)
def test_joining_and_parting(shape, dtype, data):
    rank = len(shape)
    axis = data.draw(st.integers(-rank, rank - 1))
    parts = []
    for n in data.draw(st.lists(st.integers(0, 3), min_size=2, max_size=4)):
        part = list(shape)
        part[axis] = n
        parts.append(numbered(part, dtype))
    everything = range(len(parts))
    check("ConcatV2", {}, *parts, np.int32(axis), unknown=everything)
    check("Concat", {}, np.int32(axis % rank), *parts, unknown=[i + 1 for i in everything])
    check("ConcatOffset", {}, np.int32(axis % rank), *(i32(*p.shape) for p in parts), unknown=())
    same = [numbered(shape, dtype)] * 3
    at = data.draw(st.integers(-rank - 1, rank))
    check("Pack", {"axis": at}, *same, unknown=(0, 1, 2))
    check("Pack", {}, *same, unknown=(0, 1, 2))
    x = numbered(shape, dtype)
    check("Unpack", {"axis": axis, "num": shape[axis]}, x)
    halves = numbered([2 * n if i == axis % rank else n for i, n in enumerate(shape)], dtype)
    check("Split", {"num_split": 2}, np.int32(axis), halves, unknown=(1,))
    sizes = i32(1, shape[axis] - 1, shape[axis])
    check("SplitV", {"num_split": 3}, halves, sizes, np.int32(axis))
    sizes[data.draw(st.integers(0, 2))] = -1
    check("SplitV", {"num_split": 3}, halves, sizes, np.int32(axis))


@compares("BroadcastTo", "BroadcastArgs", "Fill", "Range", "LinSpace", "InvertPermutation")
def test_making():
    check("BroadcastTo", {}, numbered((3, 1)), i32(2, 3, 4))
    check("BroadcastArgs", {}, i32(3, 1), i32(2, 3, 4), unknown=())
    check("Fill", {}, i32(2, 3), np.float32(7), unknown=(1,))
    check("Fill", {}, np.array([], np.int64), np.int32(7), unknown=(1,))
    check("LinSpace", {}, np.float32(-1), np.float32(2), np.int32(7), unknown=())
    check("LinSpace", {}, np.float32(-1), np.float32(2), np.int32(1), unknown=())
    check("InvertPermutation", {}, i32(2, 0, 3, 1))
    for start, limit, delta in ((0, 10, 3), (10, 0, -3), (0, 9, 3), (5, 5, 1)):
        check("Range", {}, np.int32(start), np.int32(limit), np.int32(delta), unknown=())
        check("Range", {}, np.float32(start), np.float32(limit), np.float32(delta), unknown=())
    for tenths in range(1, 60):
        check("Range", {}, np.float32(0), np.float32(tenths / 10), np.float32(0.1 + tenths % 3 / 5), unknown=())
    check("Range", {}, np.float32(1.8), np.float32(-2.7), np.float32(-0.9), unknown=())


@compares("Slice", "StridedSlice")
@given(st.lists(st.integers(1, 5), min_size=1, max_size=4), st.data())
@bounded(60)
def test_slices(shape, data):
    x = numbered(shape)
    begin = [data.draw(st.integers(0, n)) for n in shape]
    size = [data.draw(st.integers(-1, n - b)) for n, b in zip(shape, begin, strict=True)]
    check("Slice", {}, x, i32(*begin), i32(*size))
    entries = data.draw(st.integers(1, len(shape)))
    where = st.integers(-6, 6)
    begins, ends = ([data.draw(where) for _ in range(entries)] for _ in range(2))
    steps = [data.draw(st.sampled_from([1, 1, 2, -1, -2, 3])) for _ in range(entries)]
    masks = {m: data.draw(st.integers(0, 2**entries - 1)) for m in ("begin_mask", "end_mask", "shrink_axis_mask", "new_axis_mask")}
    ellipsis = data.draw(st.integers(-1, entries - 1))
    masks["ellipsis_mask"] = 0 if ellipsis < 0 else 1 << ellipsis
    axis, steps = 0, list(steps)
    for i in range(entries):
        if masks["ellipsis_mask"] >> i & 1:
            axis = len(shape) - sum(not masks["new_axis_mask"] >> j & 1 for j in range(i + 1, entries))
        elif not masks["new_axis_mask"] >> i & 1:
            if masks["shrink_axis_mask"] >> i & 1:
                steps[i] = 1
                begins[i] = begins[i] % shape[axis] - (shape[axis] if begins[i] < 0 else 0)
            axis += 1
    check("StridedSlice", masks, x, i32(*begins), i32(*ends), i32(*steps))


@compares("Gather", "GatherV2", "GatherNd", "ScatterNd")
@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), st.lists(st.integers(0, 3), max_size=2), st.data())
@bounded(30)
def test_gathering(shape, of, data):
    x = numbered(shape)
    random = np.random.default_rng(data.draw(st.integers(0, 99)))
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    indices = random.integers(0, shape[axis], of).astype(data.draw(st.sampled_from(["int32", "int64"])))
    check("GatherV2", {}, x, indices, np.int32(axis), unknown=(0, 1))
    check("Gather", {}, x, np.minimum(indices, shape[0] - 1), unknown=(0, 1))
    batch = data.draw(st.integers(0, axis % len(shape)))
    indices = random.integers(0, shape[axis], [*shape[:batch], *of]).astype(np.int32)
    check("GatherV2", {"batch_dims": batch}, x, indices, np.int32(axis), unknown=(0, 1))
    depth = data.draw(st.integers(0, len(shape)))
    places = np.stack([random.integers(0, n, of) for n in shape[:depth]], axis=-1) if depth else np.zeros((*of, 0))
    check("GatherNd", {}, x, places.astype(np.int32), unknown=(0, 1))
    assume(depth and of)
    check("ScatterNd", {}, places.astype(np.int32), numbered((*of, *shape[depth:])), i32(*shape), unknown=(0, 1))


SCATTERS = ["TensorScatterAdd", "TensorScatterSub", "TensorScatterMax", "TensorScatterMin", "ScatterNdNonAliasingAdd"]


@compares(*SCATTERS)
@pytest.mark.parametrize("name", SCATTERS)
def test_scattering_into_a_tensor(name):
    x = numbered((4, 3))
    check(name, {}, x, np.array([[1, 2], [3, 0]], np.int32), numbered((2,)) + 5, unknown=(0, 1, 2))
    check(name, {}, x, np.array([[1], [3], [1]], np.int32), numbered((3, 3)) + 5, unknown=(0, 1, 2))


@compares("UnravelIndex")
def test_places_in_row_major_order():
    check("UnravelIndex", {}, i32(3, 0, 11), i32(4, 3), unknown=(0,))
    check("UnravelIndex", {}, np.int64(7), np.array([2, 2, 3]), unknown=(0,))
    with pytest.raises(InputError, match="lies outside"):
        evaluate(OPS["UnravelIndex"], {}, [i32(12), i32(4, 3)])


@compares("TensorScatterUpdate", "TensorScatterAdd", "UnsortedSegmentSum", "ReverseSequence")
def test_updates_segments_and_sequences():
    x = numbered((4, 3))
    places = np.array([[0, 1], [3, 2], [1, 0]], np.int32)
    check("TensorScatterUpdate", {}, x, places, numbered((3,)) + 50, unknown=(0, 1, 2))
    check("TensorScatterAdd", {}, x, places[:, :1], numbered((3, 3)) + 50, unknown=(0, 1, 2))
    check("TensorScatterAdd", {}, x, places[[0, 0]], numbered((2,)) + 50, unknown=(0, 1, 2))
    check("UnsortedSegmentSum", {}, x, i32(2, 0, 2, -1), np.int32(4), unknown=(0, 1))
    check("UnsortedSegmentSum", {}, x, np.array([[2, 0, 2], [1, 1, -1], [0, 0, 0], [4, 4, 4]], np.int32), np.int32(5), unknown=(0, 1))
    for batch, sequence, shape in ((0, 1, (3, 4, 2)), (1, 0, (4, 3, 2)), (0, 2, (3, 2, 4)), (2, 1, (2, 4, 3))):
        check("ReverseSequence", {"seq_dim": sequence, "batch_dim": batch}, numbered(shape), np.array([4, 0, 2]), unknown=(0, 1))


@compares("DenseBincount")
@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "int64"])
def test_counts(dtype, binary):
    x = np.array([[0, 3, 3], [1, 7, 4]])
    nothing, weights = np.array([], dtype), np.array([[1, 2, 5], [3, 4, -6]], dtype)
    for size in (5, 8, 0):
        check("DenseBincount", {"binary_output": binary}, x, np.int64(size), nothing)
        check("DenseBincount", {"binary_output": binary}, x[0].astype(np.int32), np.int32(size), nothing)
        if not binary:
            check("DenseBincount", {"binary_output": binary}, x, np.int64(size), weights)
    with pytest.raises(InputError, match="-1 is negative"):
        evaluate(OPS["DenseBincount"], {"binary_output": binary}, [x - 1, np.int64(5), nothing])


@compares("DynamicStitch", "ParallelDynamicStitch")
@pytest.mark.parametrize("name", ["DynamicStitch", "ParallelDynamicStitch"])
def test_slices_put_together_by_their_indices(name):
    check(name, {"N": 2}, i32(4, 0), np.array([[1, 2], [5, 3]], np.int32), numbered((2, 3)), numbered((2, 2, 3)) + 50, unknown=(2, 3))
    check(name, {"N": 2}, np.int32(1), np.int32(0), numbered(()), numbered(()) + 50, unknown=(2, 3))


@compares("DynamicStitch")
def test_of_two_slices_at_one_index_the_last_stays():
    check("DynamicStitch", {"N": 2}, i32(0, 1, 2), i32(1), i32(7, 8, 9), i32(1), unknown=(2, 3))
    with pytest.raises(GraphError, match="order of what is put together depends on the data"):
        OPS["DynamicStitch"].infer({}, [Abstract((2,), np.dtype(np.int32)), Abstract((2, 3), np.dtype(np.float32))])


@pytest.mark.parametrize("wrong", [-1, 3])
def test_indices_out_of_range_are_refused(wrong):
    with pytest.raises(InputError, match=rf"the index {wrong} lies outside of the 3 elements"):
        evaluate(OPS["Gather"], {}, [numbered((3, 2)), i32(0, wrong)])


@compares("OneHot")
@pytest.mark.parametrize("axis", [-1, 0, 1, 2])
def test_one_hot(axis):
    check("OneHot", {"axis": axis}, np.array([[0, 2, -1], [5, 1, 3]]), np.int32(4), np.float32(5), np.float32(-1))


@compares("Pad", "PadV2", "MirrorPad", "Roll")
@given(st.lists(st.integers(2, 4), min_size=1, max_size=4), DTYPES, st.data())
@bounded(20)
def test_padding(shape, dtype, data):
    x = numbered(shape, dtype)
    widths = np.array([[data.draw(st.integers(0, 1)), data.draw(st.integers(0, n - 1))] for n in shape], np.int32)
    check("Pad", {}, x, widths)
    check("PadV2", {}, x, widths, x.reshape(-1)[1])
    check("MirrorPad", {"mode": "REFLECT"}, x, widths)
    check("MirrorPad", {"mode": "SYMMETRIC"}, x, widths)
    check("Roll", {}, x, i32(2, -1), i32(0, -1))


@compares("SpaceToBatchND", "BatchToSpaceND", "SpaceToBatch", "BatchToSpace", "SpaceToDepth", "DepthToSpace")
@given(st.tuples(*[st.integers(1, 3)] * 4), st.tuples(st.integers(2, 3), st.integers(1, 3)), st.data())
@bounded(20)
def test_space_batch_and_depth(sizes, block, data):
    n, h, w, c = sizes
    front = [data.draw(st.integers(0, 1)) for _ in block]
    pads = np.array([[f, -(f + size) % b] for f, size, b in zip(front, (h, w), block, strict=True)], np.int32)
    check("SpaceToBatchND", {}, numbered(sizes), i32(*block), pads)
    check("SpaceToBatchND", {}, numbered(sizes)[..., 0], i32(block[0]), pads[:1])
    crops = np.array([[data.draw(st.integers(0, 1)), 0] for _ in block], np.int32)
    check("BatchToSpaceND", {}, numbered((n * block[0] * block[1], h, w, c)), i32(*block), crops * 0 + (np.array(block)[:, None] > 1) * crops)
    b = block[0]
    square = np.array([[f, -(f + size) % b] for f, size in zip(front, (h, w), strict=True)], np.int32)
    check("SpaceToBatch", {"block_size": b}, numbered(sizes), square)
    check("BatchToSpace", {"block_size": b}, numbered((n * b * b, h, w, c)), crops)
    whole, deep = numbered((n, h * b, w * b, c)), numbered((n, h, w, c * b * b))
    check("SpaceToDepth", {"block_size": b}, whole)
    (shallow,) = check("DepthToSpace", {"block_size": b}, deep)
    first = {"block_size": b, "data_format": "NCHW"}
    # TensorFlow has NCHW on GPUs only
    tf = tensorflow()
    expected = tf.transpose(tf.nn.space_to_depth(whole, b), [0, 3, 1, 2]).numpy()
    check("SpaceToDepth", first, whole.transpose(0, 3, 1, 2), expected=[expected])
    check("DepthToSpace", first, deep.transpose(0, 3, 1, 2), expected=[shallow.transpose(0, 3, 1, 2)])


def test_a_shape_that_depends_on_the_data_is_named():
    with pytest.raises(GraphError, match="the shape depends on the data"):
        OPS["Reshape"].infer({}, [unknown_of(2, 3), unknown_of(1, dtype="int32")])
    with pytest.raises(GraphError, match="number of elements that Where finds depends on the data"):
        OPS["Where"].infer({}, [unknown_of(2, 3)])


MISFITS = [
    ("Reshape", {}, [unknown_of(2, 3), known_as(4, 2)]),
    ("Reshape", {}, [unknown_of(2, 3), known_as(-1, -1)]),
    ("Transpose", {}, [unknown_of(2, 3), known_as(0, 0)]),
    ("Squeeze", {"squeeze_dims": [0]}, [unknown_of(2, 3)]),
    ("ExpandDims", {}, [unknown_of(2, 3), known_as(4)]),
    ("Slice", {}, [unknown_of(2, 3), known_as(0, 1), known_as(2, 3)]),
    ("StridedSlice", {"shrink_axis_mask": 1}, [unknown_of(2, 3), known_as(2), known_as(3), known_as(1)]),
    ("StridedSlice", {}, [unknown_of(2), known_as(0, 0), known_as(1, 1), known_as(1, 1)]),
    ("ConcatV2", {}, [unknown_of(2, 3), unknown_of(2, 3, 4), known_as(0)]),
    ("ConcatV2", {}, [unknown_of(2, 3), unknown_of(4, 3), known_as(1)]),
    ("Pack", {}, [unknown_of(2, 3), unknown_of(3, 2)]),
    ("Split", {"num_split": 2}, [known_as(1), unknown_of(2, 3)]),
    ("SplitV", {"num_split": 2}, [unknown_of(2, 3), known_as(1, 1), known_as(1)]),
    ("Tile", {}, [unknown_of(2, 3), known_as(1)]),
    ("Pad", {}, [unknown_of(2, 3), known_as([1, 1])]),
    ("GatherV2", {}, [unknown_of(2, 3), unknown_of(4, dtype="int32"), known_as(2)]),
    ("GatherNd", {}, [unknown_of(2, 3), unknown_of(4, 3, dtype="int32")]),
    ("SpaceToDepth", {"block_size": 2}, [unknown_of(1, 3, 4, 1)]),
    ("SpaceToBatchND", {}, [unknown_of(1, 3, 4, 1), known_as(2, 2), known_as([0, 0], [0, 0])]),
    ("Range", {}, [known_as(1), known_as(5), known_as(-1)]),
]


@pytest.mark.parametrize(("name", "attrs", "operands"), MISFITS, ids=lambda v: v if isinstance(v, str) else "")
def test_what_does_not_fit_is_refused(name, attrs, operands):
    with pytest.raises(GraphError):
        OPS[name].infer(attrs, operands)
