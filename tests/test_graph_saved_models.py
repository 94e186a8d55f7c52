"""How graphs are stored: SavedModels of TensorFlow 1 and 2 with their signatures, tags and features; graphs as text."""

from pathlib import Path

import numpy as np
import pytest
from live_graph import Net

from bnexport.checkpoint import open_checkpoint
from bnexport.conversion import convert
from bnexport.errors import AmbiguousNetwork, CheckpointError, CheckpointNotFound, GraphError, UnsupportedOps
from bnexport.graph.outputs import ARGUMENTS, output_number
from bnexport.kernels import OPS
from bnexport.options import Options
from bnexport.runner import load
from bnexport.verification import verify

X = np.random.default_rng(3).normal(size=(5, 4)).astype(np.float32)


def predicted(export, folder, x=X, **options):
    """What the bundle of a SavedModel gives, by the outputs' names."""
    out = Path(folder) / "out.npz"
    convert(export, out, Options(**options))
    model = load(out)
    result = model.predict(x)
    return result if isinstance(result, dict) else {model.outputs[0].name: result}


def close(got, expected):
    return got.shape == expected.shape and np.abs(got - expected).max() <= 1e-6 * max(1.0, np.abs(expected).max())


class TestVariables:
    def test_those_that_only_the_objects_lead_to(self, tf, tmp_path):
        """The saver of what tf.saved_model.save writes of a Keras 3 model restores copies of the variables, which no function reads."""
        keras = pytest.importorskip("keras", minversion="3")
        import tensorflow

        layers = keras.layers
        model = keras.Sequential([layers.Input((4,)), layers.Dense(6), layers.BatchNormalization(), layers.ReLU(), layers.Dense(3)])
        rng = np.random.default_rng(1)
        for variable in model.weights:
            variable.assign(rng.uniform(0.3, 2.0, variable.shape))
        tensorflow.saved_model.save(model, str(tmp_path / "export"))
        assert [close(value, np.asarray(model(X, training=False))) for value in predicted(tmp_path / "export", tmp_path).values()] == [True]
        assert verify(tmp_path / "export", tmp_path / "out.npz").tensorflow is not None

    def test_a_name_in_the_program_is_not_taken_for_a_path(self, tf, tmp_path):
        """Two variables have each other's attribute for a name."""
        import tensorflow

        module = tensorflow.Module()
        module.first, module.second = (tensorflow.Variable(value, name=name) for value, name in ((1.0, "second"), (2.0, "first")))
        tensorflow.train.Checkpoint(module).write(str(tmp_path / "model"))
        with open_checkpoint(tmp_path / "model") as checkpoint:
            values = {name: float(checkpoint.read(key)) for name, key in checkpoint.program_names().items()}
        assert values == {"second": 1.0, "first": 2.0}


def dense(tf, x, units, name):
    kernel = tf.get_variable(f"{name}/w", [int(x.shape[-1]), units])
    return tf.matmul(x, kernel) + tf.get_variable(f"{name}/b", [units])


def exported(tf, folder, build, tags=(("serve",),), as_text=False):
    """Writes a SavedModel with a graph for each of the tags; gives what TensorFlow makes of what `build` says is to be run.

    `build` gives the signatures, as (inputs, outputs) by names, what is fed, and what is run.
    """
    signatures = tf.saved_model.signature_def_utils.predict_signature_def
    builder = tf.saved_model.builder.SavedModelBuilder(str(folder))
    results = None
    for number, tag in enumerate(tags):
        with tf.Graph().as_default() as graph, tf.Session() as session:
            graph.seed = 5
            named, feeds, wanted = build(tag)
            session.run(tf.global_variables_initializer())
            session.run(tf.tables_initializer())
            definitions = {name: signatures(*ports) for name, ports in named.items()}
            if number == 0:
                builder.add_meta_graph_and_variables(session, list(tag), definitions, main_op=tf.tables_initializer())
                results = session.run(wanted, feeds)
            else:
                builder.add_meta_graph(list(tag), definitions, main_op=tf.tables_initializer())
    builder.save(as_text)
    return results


def labelled(tf, scores):
    keys = tf.constant([0, 1, 2], tf.int64)
    table = tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(keys, tf.constant(["a", "b", "c"])), "?")
    return table.lookup(tf.argmax(scores, 1))


class TestSignatures:
    @pytest.mark.parametrize("default", [True, False])
    def test_the_only_one_counts_whatever_its_name(self, tf, tmp_path, default):
        def build(tag):
            x = tf.placeholder(tf.float32, [None, 4], "data")
            scores = dense(tf, x, 3, "scores")
            return (
                {"serving_default" if default else "predict_rows": ({"rows": x}, {"classes": tf.argmax(scores, 1), "scores": scores})},
                {x: X},
                scores,
            )

        expected = exported(tf, tmp_path / "export", build)
        got = predicted(tmp_path / "export", tmp_path, {"rows": X})
        assert sorted(got) == ["classes", "scores"]
        assert close(got["scores"], expected)

    def test_text_and_constants_are_left_out_and_said(self, tf, tmp_path):
        def build(tag):
            x = tf.placeholder(tf.float32, [None, 4], "x")
            scores = dense(tf, x, 3, "scores")
            ports = {"label": labelled(tf, scores), "scores": scores, "version": tf.constant(3.0)}
            return {"serving_default": ({"x": x}, ports)}, {x: X}, scores

        expected = exported(tf, tmp_path / "export", build)
        program = convert(tmp_path / "export", tmp_path / "out.npz", Options())
        assert program.conversion["ignored"] == ["the output label (text)", "the output version (a constant)"]
        assert close(load(tmp_path / "out.npz").predict(X), expected)

    def test_what_text_is_made_of_where_all_is_text(self, tf, tmp_path):
        def build(tag):
            x = tf.placeholder(tf.float32, [None, 4], "x")
            scores = tf.identity(dense(tf, x, 3, "scores"), name="logits")
            return {"serving_default": ({"x": x}, {"label": labelled(tf, scores)})}, {x: X}, scores

        expected = exported(tf, tmp_path / "export", build)
        assert close(predicted(tmp_path / "export", tmp_path)["logits"], expected)
        assert convert(tmp_path / "export", tmp_path / "out.npz", Options()).conversion["alternatives"] == ["ArgMax"]

    def test_a_shape_that_is_missing_is_asked_for_by_the_signatures_name(self, tf, tmp_path):
        def build(tag):
            x = tf.placeholder(tf.float32, None, "data")
            scores = tf.add(x, tf.get_variable("w", [3]))
            return {"serving_default": ({"rows": x}, {"scores": scores})}, {x: X[:, :3]}, scores

        expected = exported(tf, tmp_path / "export", build)
        with pytest.raises(GraphError, match=r"the input 'rows' has; give it with --shape rows=\?,SIZE"):
            convert(tmp_path / "export", tmp_path / "out.npz", Options())
        assert close(predicted(tmp_path / "export", tmp_path, X[:, :3], shapes={"rows": (None, 3)})["scores"], expected)

    @pytest.mark.parametrize("named", [None, "feature"])
    def test_of_tensorflow_hub(self, tf, tmp_path, named):
        """Whose modules have a graph without tags, whose signature is called default, beside one for training."""

        def build(tag):
            x = tf.placeholder(tf.float32, [None, 4], "x")
            feature = tf.nn.relu(dense(tf, x, 5, "hidden"))
            scores = dense(tf, feature, 3, "scores") * (2.0 if tag else 1.0)
            return {"default": ({"x": x}, {"out": scores}), "feature": ({"x": x}, {"out": feature})}, {x: X}, [scores, feature]

        exported(tf, tmp_path / "export", build, (("train",), ()))
        with tf.Graph().as_default(), tf.Session() as session:
            tf.saved_model.load(session, [], str(tmp_path / "export"))
            graph = session.graph
            expected = session.run(graph.get_tensor_by_name("Relu:0" if named else "mul:0"), {graph.get_tensor_by_name("x:0"): X})
        assert close(predicted(tmp_path / "export", tmp_path, signature=named)["out"], expected)


class TestTags:
    @pytest.mark.parametrize("tags", [(("serve",), ("train",)), (("serve",), ("serve", "tpu")), (("train",),), (("mine",),), (("serve", "gpu"),)])
    def test_the_graph_that_is_served_or_the_only_one(self, tf, tmp_path, tags):
        def build(tag):
            x = tf.placeholder(tf.float32, [None, 4], "x")
            scores = dense(tf, x, 3, "scores") if tag == tags[0] else 5 * dense(tf, x, 3, "scores")
            return {"serving_default": ({"x": x}, {"scores": scores})}, {x: X}, scores

        expected = exported(tf, tmp_path / "export", build, tags)
        assert close(predicted(tmp_path / "export", tmp_path)["scores"], expected)

    def test_among_others_one_has_to_be_served(self, tf, tmp_path):
        def build(tag):
            x = tf.placeholder(tf.float32, [None, 4], "x")
            return {"serving_default": ({"x": x}, {"scores": dense(tf, x, 3, "scores")})}, {x: X}, x

        exported(tf, tmp_path / "export", build, (("train",), ("eval",)))
        with pytest.raises(GraphError, match="no graph tagged 'serve', and several others: its graphs are tagged train, eval"):
            convert(tmp_path / "export", tmp_path / "out.npz", Options())


class TestFeatures:
    def records(self, tf, **features):
        def feature(value):
            if value.dtype.kind == "i":
                return tf.train.Feature(int64_list=tf.train.Int64List(value=value.reshape(-1)))
            return tf.train.Feature(float_list=tf.train.FloatList(value=value.reshape(-1)))

        rows = len(next(iter(features.values())))
        return [
            tf.train.Example(features=tf.train.Features(feature={key: feature(value[i]) for key, value in features.items()})).SerializeToString()
            for i in range(rows)
        ]

    @pytest.mark.parametrize("parser", ["ParseExample", "ParseExampleV2"])
    def test_inputs_are_called_after_them(self, tf, tmp_path, parser):
        """Of their own shapes and dtypes, also where a sparse feature, which has three outputs, stands before them and no shape is written beside."""
        counts = np.array([[3], [0], [7]])

        def build(tag):
            records = tf.placeholder(tf.string, name="records")
            keys = {"dense_keys": ["count", "row"], "sparse_keys": ["words"]}
            if parser == "ParseExampleV2":
                keys["ragged_keys"] = tf.constant([], tf.string)
                kinds = {"num_sparse": 1, "ragged_value_types": [], "ragged_split_types": []}
            else:
                kinds = {}
            parsed = getattr(tf.raw_ops, parser)(
                serialized=records,
                names=tf.constant([], tf.string),
                **keys,
                **kinds,
                sparse_types=[tf.string],
                dense_defaults=[tf.constant([], tf.int64), tf.constant([], tf.float32)],
                dense_shapes=[[1], [4]],
            )
            count, row = parsed.dense_values
            row.set_shape([None, 4])
            scores = dense(tf, row, 3, "scores") + tf.cast(count // 2, tf.float32)
            feeds = {records: self.records(tf, count=counts, row=X[:3])}
            return {"serving_default": ({"examples": records}, {"scores": scores})}, feeds, scores

        expected = exported(tf, tmp_path / "export", build)
        strip_shapes(tf, tmp_path / "export")
        program = convert(tmp_path / "export", tmp_path / "out.npz", Options())
        assert [(port.name, port.shape, port.dtype) for port in program.inputs] == [("count", (None, 1), "int64"), ("row", (None, 4), "float32")]
        assert close(load(tmp_path / "out.npz").predict({"count": counts, "row": X[:3]}), expected)

    @pytest.mark.parametrize("missing", [-1, 2])
    def test_columns_of_numbers_that_are_sparse_for_a_while(self, tf, live, missing):
        """An indicator column makes its numbers sparse, without those that are missing, and dense again; here beside buckets of another column."""

        def build():
            columns = tf.feature_column
            kind = tf.placeholder(tf.int64, [None], "kind")
            age = tf.placeholder(tf.float32, [None], "age")
            layers = [
                columns.indicator_column(columns.categorical_column_with_identity("kind", 4)),
                columns.bucketized_column(columns.numeric_column("age"), [18.0, 30.0, 65.5]),
            ]
            features = tf.feature_column.input_layer({"kind": kind, "age": age}, layers)
            feeds = {kind: np.array([0, 3, missing, 1]), age: np.array([18, 17.5, 66, 30], np.float32)}
            return Net(feeds, [tf.identity(dense(tf, features, 3, "scores"), name="out")])

        live(build).matches()

    def test_what_came_in_sparse_is_fed_dense(self, tf, live):
        def build():
            places, shape = tf.placeholder(tf.int64, [None, 2], "places"), tf.placeholder(tf.int64, [2], "shape")
            values = tf.placeholder(tf.float32, [None], "values")
            x = tf.sparse_to_dense(places, shape, values)
            x.set_shape([None, 4])
            feeds = {places: np.array([[0, 1], [1, 2]]), shape: np.array([2, 4]), values: np.ones(2, np.float32)}
            return Net(feeds, [tf.identity(dense(tf, x, 3, "scores"), name="out")])

        saved = live(build)
        saved.convert()
        model = load(saved.prefix.with_name("out.npz"))
        assert [(port.name, port.shape) for port in model.inputs] == [("values/dense", (None, 4))]
        got = model.predict(np.array([[0, 1, 0, 0], [0, 0, 1, 0]], np.float32))
        assert np.abs(got - saved.expected["out"]).max() <= 1e-6

    def test_what_came_in_sparse_with_another_fill_is_refused(self, tf, live):
        def build():
            places, shape = tf.placeholder(tf.int64, [None, 2], "places"), tf.placeholder(tf.int64, [2], "shape")
            values = tf.placeholder(tf.float32, [None], "values")
            x = tf.sparse_to_dense(places, shape, values, default_value=-1.0)
            x.set_shape([None, 4])
            feeds = {places: np.array([[0, 1], [1, 2]]), shape: np.array([2, 4]), values: np.ones(2, np.float32)}
            return Net(feeds, [tf.identity(dense(tf, x, 3, "scores"), name="out")])

        with pytest.raises(
            UnsupportedOps, match=r"SparseToDense: .* \(sparse features, whose sizes depend on the data: name the first dense tensors"
        ):
            live(build).convert()

    def test_what_they_were_computed_from_is_no_network_beside_a_named_input(self, tf, live):
        """A table looked up beforehand and the network behind share no layer, once the network's input is named."""

        def build():
            words = tf.placeholder(tf.int64, [None], "words")
            found = tf.identity(tf.gather(tf.get_variable("table", [5, 4]), words), name="found")
            scores = tf.identity(dense(tf, tf.nn.relu(found), 3, "scores"), name="out")
            return Net({found: X}, [scores])

        live(build).matches(inputs=["found"])


class TestPreprocessing:
    """Keras' layers of numbers."""

    NUMBERS = np.array([[0, 3, 2], [5, 5, 9], [1, 0, 4]])

    @pytest.fixture(params=["keras", "tf_keras"])
    def keras(self, tf, request):
        return pytest.importorskip(request.param)

    def gives_the_same(self, keras, tmp_path, x, *layers):
        import tensorflow

        keras.utils.set_random_seed(3)
        model = keras.Sequential([keras.layers.Input(x.shape[1:], dtype=x.dtype.name), *layers, keras.layers.Flatten(), keras.layers.Dense(3)])
        tensorflow.saved_model.save(model, str(tmp_path / "export"))
        (got,) = predicted(tmp_path / "export", tmp_path, x).values()
        return close(got, np.asarray(model(x)))

    @pytest.mark.parametrize("mode", ["int", "one_hot", "multi_hot", "count"])
    def test_buckets(self, keras, tmp_path, mode):
        layer = keras.layers.Discretization(bin_boundaries=[-1.0, 0.0, 0.5], output_mode=mode)
        x = np.array([[-1], [0.2], [0.5], [7]], np.float32)
        if mode == "int":
            layer = [layer, keras.layers.Embedding(4, 2)]
        assert self.gives_the_same(keras, tmp_path, x, *(layer if isinstance(layer, list) else [layer]))

    @pytest.mark.parametrize("mode", ["int", "one_hot", "multi_hot", "count"])
    def test_numbers_looked_up(self, keras, tmp_path, mode):
        """Some are in no vocabulary."""
        layer = keras.layers.IntegerLookup(vocabulary=[5, 2, 9], output_mode=mode)
        layers = [layer, keras.layers.Embedding(4, 2)] if mode == "int" else [layer]
        assert self.gives_the_same(keras, tmp_path, self.NUMBERS[:, :1] if mode == "one_hot" else self.NUMBERS, *layers)

    @pytest.mark.parametrize("mode", ["multi_hot", "count"])
    def test_categories(self, keras, tmp_path, mode):
        assert self.gives_the_same(keras, tmp_path, self.NUMBERS, keras.layers.CategoryEncoding(10, output_mode=mode))


class TestGraphFiles:
    def network(self, tf, folder, save):
        """What TensorFlow gives for X; `save` writes the files."""
        with tf.Graph().as_default() as graph, tf.Session() as session:
            graph.seed = 7
            x = tf.placeholder(tf.float32, [None, 4], "x")
            scores = tf.tanh(dense(tf, x, 3, "scores"), name="out")
            session.run(tf.global_variables_initializer())
            save(session, str(folder / "model"))
            return session.run(scores, {x: X})

    def test_as_text(self, tf, tmp_path):
        def save(session, prefix):
            saver = tf.train.Saver()
            saver.save(session, prefix, write_meta_graph=False)
            saver.export_meta_graph(f"{prefix}.meta", as_text=True)

        expected = self.network(tf, tmp_path, save)
        assert close(predicted(tmp_path, tmp_path)["out"], expected)
        assert verify(tmp_path, tmp_path / "out.npz").tensorflow is not None
        (tmp_path / "model.meta").write_text((tmp_path / "model.meta").read_text()[:900])
        with pytest.raises(GraphError, match=r"model\.meta: it is no graph in protobuf's text format"):
            convert(tmp_path, tmp_path / "out.npz", Options())

    def test_a_saved_model_as_text(self, tf, tmp_path):
        def build(tag):
            x = tf.placeholder(tf.float32, [None, 4], "x")
            scores = dense(tf, x, 3, "scores")
            return {"serving_default": ({"x": x}, {"scores": scores})}, {x: X}, scores

        expected = exported(tf, tmp_path / "runs" / "1", build, as_text=True)
        assert not (tmp_path / "runs" / "1" / "saved_model.pb").exists()
        for path in (tmp_path / "runs" / "1", tmp_path / "runs" / "1" / "saved_model.pbtxt", tmp_path / "runs" / "1" / "variables"):
            assert close(predicted(path, tmp_path)["scores"], expected)
        assert verify(path, tmp_path / "out.npz").tensorflow is not None
        with pytest.raises(CheckpointNotFound, match=r"runs holds no checkpoint: give .*runs.1$"):
            convert(tmp_path / "runs", tmp_path / "out.npz", Options())

    @pytest.mark.parametrize("saver", [True, False])
    def test_without_what_belongs_to_the_saver(self, tf, tmp_path, saver):
        """graph.pbtxt is written when training begins, before or after there is a saver in the graph; TensorFlow is given the values then."""

        def save(session, prefix):
            if not saver:
                tf.train.write_graph(session.graph, str(tmp_path), "graph.pbtxt")
            tf.train.Saver().save(session, prefix, global_step=3, write_meta_graph=False)
            if saver:
                tf.train.write_graph(session.graph, str(tmp_path), "graph.pbtxt")

        expected = self.network(tf, tmp_path, save)
        assert close(predicted(tmp_path, tmp_path, graph=tmp_path / "graph.pbtxt")["out"], expected)
        assert verify(tmp_path, tmp_path / "out.npz").tensorflow is not None

    @pytest.mark.parametrize("name", ["model.meta", "saved_model.pb"])
    def test_a_frozen_graph_under_another_name(self, tf, tmp_path, name):
        def save(session, prefix):
            tf.train.Saver().save(session, prefix, write_meta_graph=False)
            frozen = tf.graph_util.convert_variables_to_constants(session, session.graph_def, ["out"])
            (tmp_path / name).write_bytes(frozen.SerializeToString())

        self.network(tf, tmp_path, save)
        if name == "saved_model.pb":
            (tmp_path / "variables").mkdir()
            for file in tmp_path.glob("model.*"):
                file.rename(tmp_path / "variables" / file.name.replace("model", "variables"))
        with pytest.raises(CheckpointError, match=rf"{name} is a graph by itself, as frozen graphs are: .* call it frozen\.pb, and give that"):
            convert(tmp_path, tmp_path / "out.npz", Options())

    def test_functions_without_signatures(self, tf, tmp_path):
        import tensorflow

        module = tensorflow.Module()
        module.w = tensorflow.Variable(np.ones((4, 3), np.float32))
        module.run = tensorflow.function(lambda x: x @ module.w)
        module.run(tensorflow.constant(X))
        tensorflow.saved_model.save(module, str(tmp_path / "export"))
        with pytest.raises(
            AmbiguousNetwork, match=r"saved without signatures, .* save it again with tf\.saved_model\.save\(model, folder, signatures="
        ):
            convert(tmp_path / "export", tmp_path / "out.npz", Options())


def strip_shapes(tf, export):
    """Takes the shapes that TensorFlow writes beside its nodes out of a SavedModel, as older versions left them."""
    from tensorflow.core.protobuf import saved_model_pb2

    path = export / "saved_model.pb"
    model = saved_model_pb2.SavedModel.FromString(path.read_bytes())
    for graph in model.meta_graphs:
        for node in graph.graph_def.node:
            node.attr.pop("_output_shapes", None)
    path.write_bytes(model.SerializeToString())


class TestOutputsOfFunctions:
    """A function calls an output by the name of its argument: of operators with several the name has to be known."""

    def test_the_names_are_those_of_TensorFlow(self, tf):
        from tensorflow.python.framework import op_def_registry

        for name in sorted({*OPS, *ARGUMENTS}):
            definition = op_def_registry.get(name)
            if definition is None:  # one of our own
                continue
            lists = [(argument.name, argument.number_attr or argument.type_list_attr) for argument in definition.output_arg]
            spelled = " ".join(f"{name}*{length}" if length else name for name, length in lists)
            assert ARGUMENTS.get(name) == (spelled if len(lists) > 1 else None), name

    def test_behind_lists_of_outputs(self):
        attrs = {"num_sparse": 2, "sparse_types": ["int64", "object"], "Tdense": ["float32"] * 3}
        assert [output_number("ParseExampleV2", attrs, *name) for name in (("sparse_shapes", 1), ("dense_values", 2))] == [5, 8]
        assert [output_number(op, {}, *name) for op, name in (("TopKV2", ("indices", 0)), ("Unpack", ("output", 3)))] == [1, 3]

    @pytest.mark.parametrize("operator", ["determinant", "unpooling", "boxes"])
    def test_in_a_branch(self, tf, live, operator):
        def results(x):
            if operator == "determinant":
                return tf.linalg.slogdet(tf.reshape(x, [-1, 2, 2]))[1]
            if operator == "unpooling":
                window = [1, 2, 2, 1]
                return tf.cast(tf.nn.max_pool_with_argmax(tf.reshape(x, [-1, 2, 2, 1]), window, window, "VALID")[1], tf.float32)[:, 0, 0, 0]
            return tf.cast(tf.image.combined_non_max_suppression(x[:, None, None, :], x[:, None, :1], 1, 1)[3], tf.float32)

        def build():
            x, training = tf.placeholder(tf.float32, [None, 4], name="x"), tf.placeholder(tf.bool, [], name="is_training")
            h = dense(tf, x, 4, "h")
            chosen = tf.cond(training, lambda: tf.nn.dropout(results(h), rate=0.5), lambda: results(h))
            return Net({x: X}, [tf.expand_dims(chosen, 1) * tf.get_variable("out", [3])], {training: False})

        live(build, cond_v2=True).matches()
