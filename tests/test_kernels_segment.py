import numpy as np
import pytest
from kernel_oracle import check, compares

from bnexport.errors import GraphError, InputError
from bnexport.kernels import OPS, Abstract, evaluate

UNSORTED = ["UnsortedSegmentSum", "UnsortedSegmentProd", "UnsortedSegmentMax", "UnsortedSegmentMin"]
SORTED = ["SegmentSum", "SegmentProd", "SegmentMax", "SegmentMin", "SegmentMean"]


def numbers(dtype, *shape):
    return (3 * np.random.default_rng(1).normal(size=shape)).astype(dtype)


@compares(*UNSORTED)
@pytest.mark.parametrize("name", UNSORTED)
@pytest.mark.parametrize("dtype", ["float32", "int32"])
def test_segments_in_any_order(name, dtype):
    check(name, {}, numbers(dtype, 6, 2), np.array([3, 0, 3, -1, 1, 0], np.int32), np.int32(5))
    check(name, {}, numbers(dtype, 2, 3, 2), np.array([[1, 0, 1], [2, 2, 1]], np.int64), np.int32(3))
    check(name, {}, numbers(dtype, 0, 2), np.zeros(0, np.int32), np.int32(2))


@compares(*SORTED)
@pytest.mark.parametrize("name", SORTED)
@pytest.mark.parametrize("dtype", ["float32", "int32"])
def test_sorted_segments(name, dtype):
    check(name, {}, numbers(dtype, 6, 2), np.array([0, 0, 1, 3, 3, 3], np.int32), unknown=(0,))
    check(name, {}, numbers(dtype, 4), np.array([2, 2, 2, 3], np.int64), unknown=(0,))


@compares("SegmentMax", "SegmentMin", "UnsortedSegmentMax", "UnsortedSegmentMin")
def test_infinite_extremes():
    x = np.array([-np.inf, -np.inf, np.inf, 2, np.inf], np.float32)
    for kind in ("Max", "Min"):
        check(f"Segment{kind}", {}, x, np.array([0, 0, 2, 2, 3], np.int32))
        check(f"UnsortedSegment{kind}", {}, x, np.array([0, 0, 2, 2, 3], np.int32), np.int32(5))


def test_segments_that_are_not_there_are_refused():
    x = numbers("float32", 3)
    with pytest.raises(InputError, match="the segment 5 is not one of the 2 there are"):
        evaluate(OPS["UnsortedSegmentSum"], {}, [x, np.array([0, 5, 1]), np.array(2)])
    with pytest.raises(InputError, match="not sorted"):
        evaluate(OPS["SegmentSum"], {}, [x, np.array([1, 0, 1])])
    for name, last in (("UnsortedSegmentSum", [Abstract((), np.dtype("int32"))]), ("SegmentSum", [])):
        with pytest.raises(GraphError, match="do not fit"):
            OPS[name].infer({}, [Abstract((4, 2), np.dtype("float32")), Abstract((3,), np.dtype("int32")), *last])
