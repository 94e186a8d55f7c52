"""Sparse tensors that are fed, or constant, and that a network takes as the matrices they stand for."""

import numpy as np
import pytest
from live_graph import Net, dense, rows

from bnexport.checkpoint import locate
from bnexport.errors import UnsupportedOps
from bnexport.options import Options
from bnexport.reference import Session
from bnexport.runner import load

pytestmark = pytest.mark.tensorflow

MATRIX = np.where(rows(5, 6, seed=4) > 0.3, rows(5, 6), 0)
GRAPH = np.where(rows(5, 5, seed=9) > 0.2, 0.5, 0).astype(np.float32) + np.eye(5, dtype=np.float32)


def fed(sparse, matrix):
    """The feeds of a sparse placeholder; a shape that the graph holds is left alone."""
    parts = {sparse.indices: np.argwhere(matrix), sparse.values: matrix[matrix != 0], sparse.dense_shape: matrix.shape}
    return {tensor: np.asarray(value) for tensor, value in parts.items() if tensor.op.type.startswith("Placeholder")}


def scores(saved, data):
    """What the bundle gives for dense matrices."""
    program = saved.convert()
    model = load(saved.prefix.with_name("out.npz"))
    assert {port.name for port in model.inputs} == set(data)
    return program, model.predict(data)


def close(got, want):
    assert got.shape == want.shape
    assert np.abs(got - want).max() <= 1e-5 * max(1.0, np.abs(want).max())


def factorisation_machine(tf, x):
    w, v = tf.get_variable("w", [6, 1]), tf.get_variable("v", [6, 3])
    squares = tf.SparseTensor(x.indices, tf.square(x.values), x.dense_shape)
    pairs = tf.square(tf.sparse_tensor_dense_matmul(x, v)) - tf.sparse_tensor_dense_matmul(squares, tf.square(v))
    return tf.sparse_tensor_dense_matmul(x, w) + tf.get_variable("b", [1]) + 0.5 * tf.reduce_sum(pairs, 1, keep_dims=True)


def filled(tf, x):
    return dense(tf, tf.reshape(tf.sparse_tensor_to_dense(x), [-1, 6]), 2, "fc")


def summed(tf, x):
    return dense(tf, tf.reshape(tf.sparse_reduce_sum(x * 0.5, 1), [-1, 1]), 2, "fc")


def added(tf, x):
    return dense(tf, tf.reshape(tf.sparse_add(x, tf.get_variable("more", [5, 6])), [-1, 6]), 2, "fc")


def sorted_and_divided(tf, x):
    return tf.sparse_tensor_dense_matmul(tf.sparse_reorder(x) / 4.0, tf.get_variable("w", [6, 2])) + tf.get_variable("b", [2])


def adjoint(tf, x):
    return tf.sparse_tensor_dense_matmul(x, tf.get_variable("w", [2, 6]), adjoint_b=True) + tf.get_variable("b", [2])


CASES = [(n, s) for n in (factorisation_machine, sorted_and_divided, adjoint) for s in (None, [None, 6])]


@pytest.mark.parametrize(("network", "shape"), [*CASES, (filled, [None, 6]), (summed, [None, 6]), (added, None), (added, [5, 6])])
def test_a_sparse_placeholder_is_one_dense_input(tf, live, network, shape):
    def build():
        x = tf.sparse_placeholder(tf.float32, shape, name="x")
        y = tf.identity(network(tf, x), name="y")
        return Net(fed(x, MATRIX), [y])

    saved = live(build)
    program, got = scores(saved, {"x": MATRIX})
    close(got, saved.expected["y"])
    with Session(locate(saved.prefix), Options(), program.conversion) as session:
        close(session.evaluate({"x": MATRIX})["output:y"], saved.expected["y"])


@pytest.mark.parametrize("dropout", ["default", "placeholder", "constant"])
def test_a_graph_network_with_dropout_of_sparse_features(tf, live, dropout):
    """Kipf's: what noise draws is as long as the features have elements; labels and their mask are fed besides."""

    def build():
        support = tf.sparse_placeholder(tf.float32, name="support")
        features = tf.sparse_placeholder(tf.float32, tf.constant([5, 6], tf.int64), name="features")
        count = tf.placeholder(tf.int32, name="count")
        rate = {
            "default": lambda: tf.placeholder_with_default(0.0, [], name="rate"),
            "placeholder": lambda: tf.placeholder(tf.float32, [], name="rate"),
            "constant": lambda: 0.5,
        }[dropout]()
        keep = 1 - rate
        mask = tf.cast(tf.floor(keep + tf.random_uniform(count)), tf.bool)
        x = tf.sparse_retain(features, mask) * (1.0 / keep)
        h = tf.nn.relu(tf.sparse_tensor_dense_matmul(support, tf.sparse_tensor_dense_matmul(x, tf.get_variable("w1", [6, 4]))))
        y = tf.sparse_tensor_dense_matmul(support, tf.matmul(h, tf.get_variable("w2", [4, 3])), name="y")
        labels = tf.placeholder(tf.float32, [None, 3], name="labels")
        loss = tf.nn.softmax_cross_entropy_with_logits_v2(labels=labels, logits=y)
        tf.train.AdamOptimizer().minimize(tf.reduce_mean(loss))
        feeds = {count: [np.count_nonzero(MATRIX)], **({rate: 0.0} if dropout == "placeholder" else {})}
        return Net({**fed(support, GRAPH), **fed(features, MATRIX)}, [y], feeds)

    saved = live(build)
    _, got = scores(saved, {"support": GRAPH, "features": MATRIX})
    w1, w2 = saved.variables["w1"], saved.variables["w2"]
    close(got, GRAPH.astype(float) @ (np.maximum(GRAPH @ (MATRIX.astype(float) @ w1), 0) @ w2))
    if dropout != "constant":  # (TensorFlow would draw)
        close(got, saved.expected[next(iter(saved.expected))])


def test_placeholders_without_names(tf, live):
    def build():
        x = tf.sparse_placeholder(tf.float32)
        return Net(fed(x, MATRIX), [tf.identity(adjoint(tf, x), name="y")])

    saved = live(build)
    values = next(name for name, value in saved.inputs.items() if value.ndim == 1 and value.dtype == np.float32)
    _, got = scores(saved, {f"{values}/dense": MATRIX})
    close(got, saved.expected["y"])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", ["constant", "trained"])
def test_a_sparse_matrix_of_the_graphs_own(tf, live, kind, dtype):
    """The Laplacian that spectral graph convolutions multiply with; or one whose elements are trained."""

    def build():
        x = tf.placeholder(dtype, [None, 5], name="x")
        values = GRAPH[GRAPH != 0].astype(dtype)
        if kind == "trained":
            values = tf.get_variable("values", initializer=values)
        laplacian = tf.sparse_reorder(tf.SparseTensor(np.argwhere(GRAPH), values, GRAPH.shape))
        turned = tf.transpose(x)
        second = 2 * tf.sparse_tensor_dense_matmul(laplacian, tf.sparse_tensor_dense_matmul(laplacian, turned)) - turned
        return Net({x: rows(4, 5)}, [tf.identity(dense(tf, tf.transpose(second), 2, "fc"), name="y")])

    live(build).matches(tolerance=1e-12 if dtype == "float64" else 1e-5)


def test_what_a_matrix_with_zeros_does_not_tell_is_refused(tf, live):
    """The greatest of the elements that are written, and a fill of ones, are no matter of zeros."""

    def build():
        x = tf.sparse_placeholder(tf.float32, [None, 6], name="x")
        w = tf.get_variable("w", [6, 2])
        y = tf.matmul(tf.reshape(tf.sparse_tensor_to_dense(x, default_value=1.0), [-1, 6]), w)
        more = tf.sparse_tensor_dense_matmul(tf.SparseTensor(x.indices, tf.exp(x.values), x.dense_shape), w)
        return Net(fed(x, MATRIX), [tf.add(y, more, name="y")])

    saved = live(build)
    with pytest.raises(UnsupportedOps) as error:
        saved.convert()
    assert "SparseTensorDenseMatMul" in str(error.value)
    assert "SparseToDense" in str(error.value)


@pytest.mark.parametrize("repeated", [False, True])
def test_elements_at_the_same_position_of_what_becomes_dense(tf, live, repeated):
    """The last of them stays; everywhere else they are summed."""
    positions = [[0, 1], [2, 0], [0, 1] if repeated else [2, 3]]

    def build():
        x = tf.placeholder(tf.float32, [None, 3], name="x")
        matrix = tf.sparse_to_dense(positions, [3, 4], tf.get_variable("values", initializer=[1.0, 2.0, 3.0]), 0.0, validate_indices=False)
        return Net({x: rows(4, 3)}, [tf.matmul(x, matrix, name="y")])

    saved = live(build)
    if repeated:
        with pytest.raises(UnsupportedOps, match="SparseToDense"):
            saved.convert()
    else:
        saved.matches()


def test_a_product_with_a_dense_tensor(tf, live):
    def build():
        x = tf.sparse_placeholder(tf.float32, [None, 6], name="x")
        gates = tf.placeholder(tf.float32, [None, 6], name="gates")
        y = tf.sparse_tensor_dense_matmul(x * gates, tf.get_variable("w", [6, 2]))
        return Net({**fed(x, MATRIX), gates: rows(5, 6, seed=2)}, [tf.identity(y, name="y")])

    saved = live(build)
    _, got = scores(saved, {"x": MATRIX, "gates": rows(5, 6, seed=2)})
    close(got, saved.expected["y"])
