"""The runner: what it takes, what it gives, and that neither tiles nor memory that is used again change a number."""

import copy
import pickle
import re

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bnexport.errors import BnexportError, IncompleteBundle, InputError, UnsupportedOps
from bnexport.program import InMemory, Layer, Literal, Port, Program
from bnexport.runner import Model

RNG = np.random.default_rng(5)


def array(*shape, dtype=np.float32):
    return InMemory(RNG.normal(size=shape).astype(dtype))


def dense(name, source, rows, columns, activation=None):
    return Layer(name, "Dense", [source], arrays={"kernel": array(rows, columns), "bias": array(columns)}, activation=activation)


def two_layers(**conversion):
    layers = [dense("one", "x", 6, 8, "Relu"), dense("two", "one", 8, 3, "Softmax")]
    return Program([Port("x", "x", (None, 6), "float32")], layers, [Port("scores", "two", (None, 3), "float32")], conversion)


def by_hand(program, x):
    one, two = ({role: a.values.astype(np.float64) for role, a in layer.arrays.items() if isinstance(a, InMemory)} for layer in program.layers)
    h = np.maximum(x @ one["kernel"] + one["bias"], 0)
    z = h @ two["kernel"] + two["bias"]
    e = np.exp(z - z.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def two_inputs():
    layers = [
        dense("a1", "a", 4, 5, "Tanh"),
        Layer("joined", "ConcatV2", ["a1", "b", Literal(1, "int32")]),
        dense("y1", "joined", 7, 2),
        dense("y2", "joined", 7, 3, "Sigmoid"),
    ]
    inputs = [Port("a", "a", (None, 4), "float32"), Port("scope/b", "b", (None, 2), "float32")]
    return Program(inputs, layers, [Port("first", "y1", (None, 2), "float32"), Port("second", "y2", (None, 3), "float32")])


# ---- what it takes


def test_an_array_a_list_or_a_mapping():
    program = two_layers()
    model = Model(program)
    x = RNG.normal(size=(5, 6)).astype(np.float32)
    want = by_hand(program, x)
    for data in (x, x.tolist(), {"x": x}, {"x:0": x}, np.asfortranarray(x), x[::1], x.astype(np.float64)):
        got = model.predict(data)
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, want, atol=1e-6)


def test_integers_and_truth_values_that_fit():
    model = Model(two_layers())
    ones = np.ones((2, 6))
    for dtype in (np.int64, np.uint8, bool, np.float16):
        np.testing.assert_array_equal(model.predict(ones.astype(dtype)), model.predict(ones.astype(np.float32)))


def test_several_outputs_are_a_mapping():
    model = Model(two_inputs())
    a, b = RNG.normal(size=(3, 4)).astype(np.float32), RNG.normal(size=(3, 2)).astype(np.float32)
    got = model.predict({"a": a, "scope/b:0": b})
    assert list(got) == ["first", "second"]
    assert [v.shape for v in got.values()] == [(3, 2), (3, 3)]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (np.zeros((2, 5), np.float32), "net.npz: the input 'x' was given the shape (2, 5); it is float32 of shape (any, 6)"),
        (
            np.zeros(6, np.float32),
            "net.npz: the input 'x' was given the shape (6,); it is float32 of shape (any, 6); a single row is given as array[None]",
        ),
        (np.zeros((2, 6), complex), "net.npz: the input 'x' was given as complex128; it is float32 of shape (any, 6)"),
        (np.array([["a"] * 6]), "net.npz: the input 'x' was given as <U1; it is float32 of shape (any, 6)"),
        (
            [[1, 2, 3, 4, 5, "6 px"]],
            "net.npz: the input 'x' was given as <U21; it is float32 of shape (any, 6)",
        ),
        (
            np.array([[1, 2, 3, 4, 5, "cat"]], object),
            "net.npz: the input 'x' was given as object, because it has 'cat' of type str at [0, 5]; it is float32 of shape (any, 6)",
        ),
        (
            np.array([[2**70] * 6], object),
            "net.npz: the input 'x' was given as object, though all of it is numbers: give array.astype(float); it is float32 of shape (any, 6)",
        ),
        (None, "net.npz: the input 'x' was given as object, because it has None of type NoneType; it is float32 of shape (any, 6)"),
        (
            {"x": np.zeros((1, 6)), "x:0": np.ones((1, 6))},
            "net.npz: the input 'x' is given twice, as x and as x:0",
        ),
        (
            np.ma.masked_greater(np.ones((1, 6), np.float32), 0),
            "net.npz: the input 'x' has masked elements; say what stands in their places, as with array.filled(0)",
        ),
        ({"y": 1}, "net.npz has no input 'y'; its inputs are x"),
        ({}, "net.npz: the input 'x' is missing; it is float32 of shape (any, 6)"),
    ],
)
def test_what_does_not_fit_is_named(data, message):
    with pytest.raises(InputError) as caught:
        Model(two_layers(), "net.npz").predict(data)
    assert str(caught.value) == message


def test_ragged_rows_are_an_input_error():
    with pytest.raises(InputError, match=r"net\.npz: the input 'x' was given as rows of different lengths; it is float32 of shape"):
        Model(two_layers(), "net.npz").predict([[1.0, 2.0], [3.0]])


def test_a_tensor_that_cannot_be_read():
    class OnTheGpu:
        def __array__(self, dtype=None, copy=None):
            raise TypeError("can't convert cuda:0 device type tensor to numpy.\nUse Tensor.cpu() first")

    with pytest.raises(InputError, match=r"cannot be made an array \(can't convert cuda:0 .* numpy. Use Tensor.cpu\(\) first\); it is float32"):
        Model(two_layers(), "net.npz").predict(OnTheGpu())


def test_a_masked_array_of_which_nothing_is_masked():
    rows = RNG.normal(size=(3, 6)).astype(np.float32)
    model = Model(two_layers())
    got = model.predict(np.ma.masked_array(rows, False))
    assert type(got) is np.ndarray
    np.testing.assert_array_equal(got, model.predict(rows))


def test_weights_are_arrays_to_numpy():
    kernel = Model(two_layers()).layers[0].arrays["kernel"]
    assert np.asarray(kernel).shape == kernel.shape and np.asarray(kernel, np.float64).dtype == np.float64
    np.testing.assert_array_equal(np.ones((1, 6)) @ kernel, np.ones((1, 6)) @ kernel.values)


def test_a_program_in_short():
    assert repr(two_layers()) == "<bnexport Program: x [?, 6] float32 -> scores [?, 3] float32, 2 layers>"


def test_an_array_for_two_inputs():
    with pytest.raises(InputError, match=re.escape("net.npz has 2 inputs (a, scope/b): give a mapping from their names to arrays")):
        Model(two_inputs(), "net.npz").predict(np.zeros((1, 4)))


def test_inputs_of_different_lengths():
    with pytest.raises(InputError, match="the inputs have different numbers of rows: a has 3, scope/b has 2"):
        Model(two_inputs()).predict({"a": np.zeros((3, 4)), "scope/b": np.zeros((2, 2))})


@pytest.mark.parametrize(("dtype", "bad"), [("uint8", 300), ("uint8", -1), ("int32", 2**40), ("float32", 1e39), ("float16", 70000)])
def test_a_number_that_its_dtype_does_not_hold(dtype, bad):
    # cast as NumPy does, 300 would be 44 and 1e39 infinite, without a word
    program = Program([Port("x", "x", (None, 2), dtype)], [Layer("y", "Identity", ["x"])], [Port("y", "y", (None, 2), dtype)])
    with pytest.raises(InputError, match=re.escape(f"the input 'x' was given {bad}, which is no {dtype}; it is {dtype} of shape (any, 2)")):
        Model(program).predict([[1, bad]])
    assert Model(program).predict([[1, 100]]).tolist() == [[1, 100]]


@pytest.mark.parametrize(
    ("layer", "data", "message"),
    [
        (dense("y", "x", 3, 2), [[1.0, 2.0]], "the layer 'y' (Dense) cannot be computed: ValueError: matmul"),
        (Layer("y", "AddV2", ["x"]), [[1.0, 2.0]], "the layer 'y' (AddV2) cannot be computed: TypeError"),
        (Layer("y", "Mean", ["x"]), [[1.0, 2.0]], "the layer 'y' (Mean) cannot be computed: TypeError"),
        (
            Layer("y", "Reshape", ["x", Literal([-1, 7], "int32")]),
            [[1.0, 2.0]],
            "the layer 'y' (Reshape) cannot be computed: 2 elements",
        ),
    ],
)
def test_a_layer_that_cannot_be_computed_is_named(layer, data, message):
    # by what a bundle from other hands says of it, or for data of a size that the graph leaves open
    program = Program([Port("x", "x", (None, 2), "float32")], [layer], [Port("y", "y", (None, None), "float32")])
    with pytest.raises(BnexportError, match=re.escape(message)):
        Model(program, "net.npz").predict(data)


def test_infinities_and_nan_are_numbers_of_every_float():
    got = Model(two_layers()).trace(np.array([[np.inf, -np.inf, np.nan, 0, 0, 0]]))["x"]
    np.testing.assert_array_equal(got, np.array([[np.inf, -np.inf, np.nan, 0, 0, 0]], np.float32))


@pytest.mark.parametrize("build", [two_layers, two_inputs])
def test_copies_also_in_another_process(build):
    model = Model(build(), "net.npz")
    data = {port.name: RNG.normal(size=(3, port.shape[1])).astype(port.dtype) for port in model.inputs}
    want = model.trace(data)
    for twin in (copy.copy(model), copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert repr(twin) == repr(model)
        for name, values in twin.trace(data).items():
            np.testing.assert_array_equal(values, want[name])


def test_a_model_shows_what_it_is_and_not_its_numbers():
    model = Model(two_layers(), "net.npz")
    assert repr(model) == "<bnexport.Model net.npz: x [?, 6] float32 -> scores [?, 3] float32, 2 layers>"
    assert "InMemory(float32 [6, " in repr(model.layers)
    assert len(repr(model.layers)) < 1000


def test_fractions_are_not_integers():
    layers = [Layer("y", "Gather", ["@table", "x"], arrays={"table": array(9, 2)})]
    program = Program([Port("x", "x", (None,), "int32")], layers, [Port("y", "y", (None, 2), "float32")])
    with pytest.raises(InputError, match=re.escape("the input 'x' was given as float64; it is int32 of shape (any)")):
        Model(program).predict(np.array([0.5]))
    assert Model(program).predict(np.array([3, 8])).shape == (2, 2)


def test_integers_that_do_not_fit_are_not_wrapped():
    program = Program([Port("x", "x", (None, 1), "uint8")], [Layer("y", "Cast", ["x"], {"DstT": "float32"})], [Port("y", "y", (None, 1), "float32")])
    model = Model(program)
    np.testing.assert_array_equal(model.predict([[255], [0]]), [[255], [0]])
    for value in (256, -1):
        with pytest.raises(InputError, match=r"the input 'x' was given -?\d+, which is no uint8; it is uint8"):
            model.predict([[0], [value]])


def test_a_bundle_that_does_not_say_how_to_evaluate_it():
    model = Model(two_layers(incomplete="the activation is not known: convert again with --activation"), "net.npz")
    assert [layer.name for layer in model.layers] == ["one", "two"]
    for ask in (model.predict, model.trace):
        with pytest.raises(IncompleteBundle, match=re.escape("net.npz: the activation is not known: convert again with --activation")):
            ask(np.zeros((1, 6)))


def test_operators_of_a_newer_version():
    program = two_layers()
    program.layers.append(Layer("z", "Quaternion", ["two"]))
    with pytest.raises(
        UnsupportedOps, match=re.escape("net.npz uses operators that this version of bnexport does not have: Quaternion; install a newer one")
    ):
        Model(program, "net.npz")


# ---- tiles


@pytest.mark.parametrize("rows", [0, 1, 2, 255, 256, 257, 1000, 4099])
def test_tiles_change_nothing(monkeypatch, rows):
    from bnexport import runner

    x = RNG.normal(size=(rows, 6)).astype(np.float32)
    program = two_layers(rows_alone=True)
    whole = Model(program).predict(x)
    monkeypatch.setattr(runner, "TILE_BYTES", 1 << 12)
    monkeypatch.setattr(runner, "MIN_TILE_ROWS", 7)
    tiled = Model(program).predict(x)
    assert tiled.shape == whole.shape == (rows, 3)
    np.testing.assert_allclose(tiled, whole, atol=1e-6)
    np.testing.assert_allclose(tiled, by_hand(program, x), atol=1e-6)


def test_a_network_that_mixes_its_rows_is_not_tiled(monkeypatch):
    from bnexport import runner

    layers = [
        dense("h", "x", 6, 4),
        Layer("mean", "Mean", ["h", Literal([0], "int32")], {"keep_dims": True}),
        Layer("y", "Sub", ["h", "mean"]),
    ]
    program = Program([Port("x", "x", (None, 6), "float32")], layers, [Port("y", "y", (None, 4), "float32")], {"uses_batch": ["mean"]})
    monkeypatch.setattr(runner, "TILE_BYTES", 1 << 10)
    monkeypatch.setattr(runner, "MIN_TILE_ROWS", 4)
    y = Model(program).predict(RNG.normal(size=(100, 6)).astype(np.float32))
    np.testing.assert_allclose(y.mean(0), 0, atol=1e-5)


@pytest.mark.parametrize("rows", [1, 3, 4, 5, 8, 11])
def test_a_fixed_batch_is_filled_up(rows):
    seen = []
    program = two_layers(batch=4, rows_alone=True)
    model = Model(program)
    x = RNG.normal(size=(rows, 6)).astype(np.float32)
    run = model._run
    model._run = lambda feeds: seen.append(len(feeds[0])) or run(feeds)
    np.testing.assert_allclose(model.predict(x), by_hand(program, x), atol=1e-6)
    assert set(seen) == {4}


def test_of_a_filled_batch_whose_rows_have_several_results_all_that_were_added_are_dropped():
    layers = [Layer("y", "Reshape", ["x", Literal([8, 3], "int32")])]
    inputs, outputs = [Port("x", "x", (None, 6), "float32")], [Port("y", "y", (8, 3), "float32")]
    x = RNG.normal(size=(7, 6)).astype(np.float32)
    got = Model(Program(inputs, layers, outputs, {"batch": 4, "rows_alone": True})).predict(x)
    np.testing.assert_array_equal(got, x.reshape(14, 3))


def test_a_fixed_batch_needs_a_row():
    with pytest.raises(InputError, match="was built for batches of 4 rows and has none to run on"):
        Model(two_layers(batch=4)).predict(np.zeros((0, 6), np.float32))


# ---- memory


def test_results_are_the_callers_own():
    model = Model(two_layers())
    x = RNG.normal(size=(5, 6)).astype(np.float32)
    kept = x.copy()
    first = model.predict(x)
    copy = first.copy()
    second = model.predict(x * 2)
    np.testing.assert_array_equal(x, kept)
    np.testing.assert_array_equal(first, copy)
    assert not np.shares_memory(first, second)
    assert not np.shares_memory(first, x)
    first[:] = -1
    np.testing.assert_array_equal(model.predict(x), copy)


@pytest.mark.parametrize("op", ["Identity", "Reshape", "Relu"])
def test_outputs_do_not_share_the_inputs_memory(op):
    """A network may hand its input through: what it gives can be written to without harm all the same."""
    operands = ["x", Literal([-1, 3, 2], "int32")] if op == "Reshape" else ["x"]
    program = Program([Port("x", "x", (None, 6), "float32")], [Layer("y", op, operands)], [Port("y", "y", (None, None), "float32")])
    model = Model(program)
    x = RNG.normal(size=(4, 6)).astype(np.float32)
    assert not np.shares_memory(model.predict(x), x)


def test_constant_outputs_do_not_share_the_models_memory():
    layers = [dense("h", "x", 6, 3), Layer("same", "Reshape", ["@table", Literal([2, 2], "int32")], arrays={"table": array(4)})]
    program = Program([Port("x", "x", (None, 6), "float32")], layers, [Port("h", "h", (None, 3), "float32"), Port("same", "same", (2, 2), "float32")])
    model = Model(program)
    first = model.predict(np.zeros((1, 6)))["same"]
    copy = first.copy()
    first[:] = 0
    np.testing.assert_array_equal(model.predict(np.zeros((1, 6)))["same"], copy)


def test_trace_gives_every_tensor():
    program = two_inputs()
    a, b = RNG.normal(size=(3, 4)).astype(np.float32), RNG.normal(size=(3, 2)).astype(np.float32)
    tensors = Model(program).trace({"a": a, "scope/b": b})
    assert set(tensors) == {"a", "b", "a1", "joined", "y1", "y2"}
    kernel, bias = (program.layers[0].arrays[k].values for k in ("kernel", "bias"))
    np.testing.assert_allclose(tensors["a1"], np.tanh(a @ kernel + bias), atol=1e-6)
    np.testing.assert_array_equal(tensors["joined"], np.concatenate([tensors["a1"], b], 1))
    np.testing.assert_array_equal(tensors["y2"], Model(program).predict({"a": a, "scope/b": b})["second"])


UNARY = {
    "Relu": lambda x: np.maximum(x, 0),
    "Tanh": np.tanh,
    "Sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "Neg": np.negative,
    "Abs": np.abs,
    "Identity": lambda x: x,
    "Softmax": lambda x: np.exp(x - x.max(-1, keepdims=True)) / np.exp(x - x.max(-1, keepdims=True)).sum(-1, keepdims=True),
}
BINARY = {"AddV2": np.add, "Sub": np.subtract, "Mul": np.multiply, "Maximum": np.maximum}
OTHER = ["Dense", "ScaleShift", "Reshape", "Transpose", "Concat", "Row", "Split"]
BOUNDED = settings(max_examples=150, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))


@st.composite
def programs(draw):
    """A random network of 4 features throughout, whose tensors are used again at any distance, with several outputs; and its naive evaluation."""
    layers, tensors, steps = [], ["x"], []

    def pick():
        return draw(st.sampled_from(tensors[-4:] + tensors[:1]))

    for number in range(draw(st.integers(1, 12))):
        op, name, a = draw(st.sampled_from([*UNARY, *BINARY, *OTHER])), f"t{number}", pick()
        outputs = [name]
        if op in UNARY:
            layers.append(Layer(name, op, [a]))
            steps.append((outputs, lambda v, f=UNARY[op], a=a: [f(v[a])]))
        elif op in BINARY:
            b = pick()
            layers.append(Layer(name, op, [a, b]))
            steps.append((outputs, lambda v, f=BINARY[op], a=a, b=b: [f(v[a], v[b])]))
        elif op in ("Dense", "ScaleShift"):
            activation = draw(st.sampled_from([None, "Relu", "Tanh", "Softmax"]))
            roles = {"kernel": array(4, 4), "bias": array(4)} if op == "Dense" else {"scale": array(4), "shift": array(4)}
            layers.append(Layer(name, op, [a], {}, roles, activation))
            first, second = (r.values.astype(np.float64) for r in roles.values())
            then = UNARY[activation or "Identity"]
            steps.append((outputs, lambda v, a=a, f=first, s=second, t=then, o=op: [t((v[a] @ f if o == "Dense" else v[a] * f) + s)]))
        elif op == "Row":
            layers.append(Layer(name, "AddV2", ["@row", a], arrays={"row": array(4)}))
            row = layers[-1].arrays["row"].values.astype(np.float64)
            steps.append((outputs, lambda v, a=a, r=row: [r + v[a]]))
        elif op == "Reshape":
            layers += [
                Layer(f"{name}/in", "Reshape", [a, Literal([-1, 2, 2], "int32")]),
                Layer(name, "Reshape", [f"{name}/in", Literal([-1, 4], "int32")]),
            ]
            steps.append(([f"{name}/in"], lambda v, a=a: [v[a].reshape(-1, 2, 2)]))
            steps.append((outputs, lambda v, a=a: [v[a]]))
        elif op == "Transpose":
            layers += [
                Layer(f"{name}/in", "Transpose", [a, Literal([1, 0], "int32")]),
                Layer(name, "Transpose", [f"{name}/in", Literal([1, 0], "int32")]),
            ]
            steps.append(([f"{name}/in"], lambda v, a=a: [v[a].T]))
            steps.append((outputs, lambda v, a=a: [v[a]]))
        elif op == "Concat":
            b = pick()
            layers += [Layer(f"{name}/in", "ConcatV2", [a, b, Literal(1, "int32")]), dense(name, f"{name}/in", 8, 4)]
            kernel, bias = (layers[-1].arrays[k].values.astype(np.float64) for k in ("kernel", "bias"))
            steps.append(([f"{name}/in"], lambda v, a=a, b=b: [np.concatenate([v[a], v[b]], 1)]))
            steps.append((outputs, lambda v, n=name, k=kernel, s=bias: [v[f"{n}/in"] @ k + s]))
        else:
            layers += [
                Layer(f"{name}/in", "Split", [Literal(1, "int32"), a], {"num_split": 2}, outputs=2),
                Layer(name, "ConcatV2", [f"{name}/in:1", f"{name}/in", Literal(1, "int32")]),
            ]
            steps.append(([f"{name}/in", f"{name}/in:1"], lambda v, a=a: [v[a][:, :2], v[a][:, 2:]]))
            steps.append((outputs, lambda v, a=a: [np.concatenate([v[a][:, 2:], v[a][:, :2]], 1)]))
        tensors.append(name)
    chosen = sorted({tensors[-1], *draw(st.lists(st.sampled_from(tensors), max_size=3))})
    program = Program([Port("x", "x", (None, 4), "float32")], layers, [Port(t, t, (None, 4), "float32") for t in chosen])
    return program, steps


@BOUNDED
@given(programs(), st.integers(1, 9))
def test_memory_that_is_used_again_is_never_needed_again(case, rows):
    program, steps = case
    x = RNG.normal(size=(rows, 4)).astype(np.float32)
    kept = x.copy()
    values = {"x": x.astype(np.float64)}
    for names, compute in steps:
        values.update(zip(names, compute(values), strict=True))
    model = Model(program)
    results = []
    for _ in range(2):
        got = model.predict(x)
        results.append(got if isinstance(got, dict) else {model.outputs[0].name: got})
        np.testing.assert_array_equal(x, kept)
    for name, value in results[0].items():
        scale = max(1.0, np.abs(values[name]).max())
        assert np.abs(value - values[name]).max() <= 2e-4 * scale
        np.testing.assert_array_equal(value, results[1][name])
    for name, value in model.trace(x).items():
        assert np.abs(value - values[name]).max() <= 2e-4 * max(1.0, np.abs(values[name]).max())
