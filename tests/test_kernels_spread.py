"""A row of constants spread out gives what NumPy's own broadcasting gives, bit for bit."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bnexport.kernels.spread import ELEMENTS, FEW, Row, constant
from bnexport.program import InMemory, Layer, Port, Program
from bnexport.runner import Model

UFUNCS = [np.add, np.multiply, np.maximum, np.minimum]


@settings(derandomize=True, deadline=None, max_examples=150)
@given(
    st.sampled_from([1, 2, 3, 10, 64, 513, FEW, ELEMENTS - 1, ELEMENTS, ELEMENTS + 1, 20_000]),
    st.integers(0, 3 * ELEMENTS),
    st.sampled_from(["float32", "float64", "float16", "int32"]),
    st.sampled_from(UFUNCS),
    st.booleans(),
    st.booleans(),
)
def test_a_row(columns, about, dtype, ufunc, in_place, single):
    random = np.random.default_rng(about)
    x = (random.standard_normal((about // columns, columns)) * 9).astype(dtype)
    row = (random.standard_normal(() if single else columns) * 9).astype(dtype)
    truth = ufunc(x, row)
    before = x.copy()
    out = x if in_place else np.empty_like(x)
    given_back = Row(row).apply(ufunc, x, out)
    assert given_back is out or np.shares_memory(given_back, out) or out.size == 0
    np.testing.assert_array_equal(out, truth)
    if not in_place:
        np.testing.assert_array_equal(x, before)


@pytest.mark.parametrize("ufunc", UFUNCS)
def test_what_is_not_contiguous(ufunc):
    whole = np.random.default_rng(0).standard_normal((2, 150, 40, 3)).astype("f4")
    x = whole[:, ::2].swapaxes(1, 2)
    row = np.float32([1, -2, 3])
    truth = ufunc(x, row)
    Row(row).apply(ufunc, x, x)
    np.testing.assert_array_equal(x, truth)


@pytest.mark.parametrize("shape", [(30, 5), (3000, 5), (9000, 1)])
def test_a_row_of_another_length_is_refused(shape):
    x = np.ones(shape, "f4")
    with pytest.raises(ValueError, match="broadcast"):
        Row(np.ones(3, "f4")).apply(np.add, x, x)


def test_numbers_that_are_none_and_infinite_ones():
    x = np.zeros(3 * ELEMENTS, "f4")
    x[5], x[ELEMENTS + 1], x[-1], x[-2] = np.nan, -np.inf, np.nan, np.inf
    y = constant(0, x.dtype).apply(np.maximum, x, np.empty_like(x))
    np.testing.assert_array_equal(y, np.maximum(x, 0))


@pytest.mark.parametrize("sizes", [(), (3,)])
@pytest.mark.parametrize("activation", [None, "Relu", "Relu6", "Tanh"])
@pytest.mark.parametrize("op", ["ScaleShift", "Relu6"])
def test_blocks_are_the_whole(sizes, activation, op):
    """Large arrays, small ones and ones of other strides go through a layer in different ways, and come out the same."""
    random = np.random.default_rng(1)
    arrays = {role: InMemory(random.standard_normal(sizes).astype("f4")) for role in ("scale", "shift")} if op == "ScaleShift" else {}
    layer = Layer("y", op, ["x"], {}, arrays, activation if op == "ScaleShift" else None)
    model = Model(Program([Port("x", "x", (None, 230, 230, 3), "float32")], [layer], [Port("y", "y", (None, 230, 230, 3), "float32")]))
    x = (random.standard_normal((3, 230, 230, 3)) * 5).astype("f4")
    y = model.predict(x)
    np.testing.assert_array_equal(y, np.concatenate([model.predict(row[None]) for row in x]))
    np.testing.assert_array_equal(y, model.predict(np.asfortranarray(x)))
    wide = x.astype("f8")
    if op == "ScaleShift":
        wide = wide * arrays["scale"].values + arrays["shift"].values
    wide = {None: lambda z: z, "Relu": lambda z: np.maximum(z, 0), "Tanh": np.tanh}.get(layer.activation, lambda z: z)(wide)
    if "Relu6" in (op, layer.activation):
        wide = np.clip(wide, 0, 6)
    np.testing.assert_allclose(y, wide, rtol=0, atol=1e-5)
