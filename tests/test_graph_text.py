"""Networks of text: words looked up in tables, hashed into buckets, and what feature columns and Keras' layers make of both."""

import pickle
import warnings

import numpy as np
import pytest
from click.testing import CliRunner
from live_graph import Net, dense, rows, spread

from bnexport.cli import main
from bnexport.conversion import convert
from bnexport.errors import AmbiguousNetwork, BnexportError, InputError, UnsupportedOps, UsageError
from bnexport.program import InMemory, Layer, Literal, Port, Program
from bnexport.runner import Model, load
from bnexport.verification import verify

VOCABULARY = ["red", "grün", "two words", "blue"]
WORDS = np.array([["red", "blue"], ["", "grün"], ["no such", "two words"], ["", ""], ["red", "red"], ["no such", "other"]], object)


def table_of(tf, values=None, default=-1):
    values = np.arange(len(VOCABULARY)) if values is None else values
    return tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(tf.constant(VOCABULARY), tf.constant(values)), default)


def index_table(**options):
    """tf.contrib.lookup.index_table_from_tensor, and its siblings, where they live today."""
    from tensorflow.python.ops import lookup_ops

    return lookup_ops.index_table_from_file(**options) if "vocabulary_file" in options else lookup_ops.index_table_from_tensor(**options)


def embedded(tf, numbers, size):
    found = tf.nn.embedding_lookup(tf.get_variable("embedding", [size, 3]), numbers)
    return tf.identity(dense(tf, tf.reshape(found, [-1, 3 * int(numbers.shape[1])]), 2, "scores"), name="out")


class TestTables:
    def test_words_beside_numbers(self, tf, live):
        def build():
            words, x = tf.placeholder(tf.string, [None, 2], "words"), tf.placeholder(tf.float32, [None, 2], "x")
            ids = table_of(tf, default=2).lookup(words)
            features = tf.concat([tf.reshape(tf.one_hot(ids, 4), [-1, 8]), x], axis=1)
            return Net({words: WORDS, x: np.ones((6, 2), np.float32)}, [tf.identity(dense(tf, features, 3, "scores"), name="out")])

        program = live(build).matches()
        assert [(port.name, port.shape, port.dtype) for port in program.inputs] == [("words", (None, 2), "string"), ("x", (None, 2), "float32")]
        (lookup,) = (layer for layer in program.layers if layer.op == "Lookup")
        assert np.asarray(lookup.arrays["keys"]).tolist() == [word.encode() for word in VOCABULARY]
        assert np.asarray(lookup.arrays["values"]).tolist() == [0, 1, 2, 3]

    @pytest.mark.parametrize("buckets", [0, 1, 3])
    def test_an_index_with_buckets_for_unknown_words(self, tf, live, buckets):
        def build():
            words = tf.placeholder(tf.string, [None, 2], "words")
            numbers = index_table(vocabulary_list=tf.constant(VOCABULARY), num_oov_buckets=buckets).lookup(words)
            return Net({words: WORDS}, [embedded(tf, tf.maximum(numbers, 0), 4 + buckets)])

        live(build).matches()

    def test_labels_are_no_inputs(self, tf, live):
        def build():
            words, labels = tf.placeholder(tf.string, [None, 2], "words"), tf.placeholder(tf.string, [None], "labels")
            scores = embedded(tf, table_of(tf, default=0).lookup(words), 4)
            classes = index_table(vocabulary_list=tf.constant(["no", "yes"])).lookup(labels)
            tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels=classes, logits=scores), name="loss")
            return Net({words: WORDS}, [scores])

        live(build).matches()

    def test_a_table_that_training_wrote_to(self, tf, live):
        """Its contents are in the checkpoint."""
        from tensorflow.python.ops import lookup_ops

        def build():
            words = tf.placeholder(tf.string, [None, 2], "words")
            table = lookup_ops.MutableHashTable(tf.string, tf.int64, 0, name="grown")
            insert = table.insert(tf.constant(VOCABULARY), tf.constant([3, 1, 2, 1], tf.int64))
            tf.get_default_session().run(insert)
            return Net({words: WORDS}, [embedded(tf, table.lookup(words), 4)])

        live(build).matches()

    def test_two_tables_in_one(self, tf, live):
        """What one gives, the other takes, and a word of the first is no UTF-8."""

        def build():
            words = tf.placeholder(tf.string, [None, 2], "words")
            pairs = tf.lookup.KeyValueTensorInitializer(tf.constant([b"\xff\xfe", b"red"]), tf.constant(["blue", "red"]))
            numbers = table_of(tf, default=0).lookup(tf.lookup.StaticHashTable(pairs, "blue").lookup(words))
            feeds = WORDS.copy()
            feeds[0, 1] = b"\xff\xfe"
            return Net({words: feeds}, [embedded(tf, numbers, 4)])

        live(build).matches()

    def test_a_word_that_ends_in_a_zero_byte(self, tf, live):
        def build():
            words = tf.placeholder(tf.string, [None, 1], "words")
            pairs = tf.lookup.KeyValueTensorInitializer(tf.constant([b"a\0", b"b"]), tf.constant([1, 2], tf.int64))
            return Net({words: WORDS[:, :1]}, [embedded(tf, tf.lookup.StaticHashTable(pairs, 0).lookup(words), 4)])

        with pytest.raises(UnsupportedOps, match=r"\(Lookup\) holds cannot be stored: a word ends in a byte 0, or is far longer than the others"):
            live(build).convert()

    def test_a_table_that_nothing_fills(self, tf, live):
        from tensorflow.python.ops import gen_lookup_ops

        def build():
            words = tf.placeholder(tf.string, [None, 1], "words")
            handle = gen_lookup_ops.hash_table_v2(tf.string, tf.int64, name="empty")
            known = table_of(tf, default=0).lookup(words)
            scores = embedded(tf, known, 4)
            unknown = gen_lookup_ops.lookup_table_find_v2(handle, words, tf.constant(0, tf.int64), name="found")
            tf.add(scores, tf.cast(unknown, tf.float32), name="sum")
            return Net({words: WORDS[:, :1]}, [scores])

        with pytest.raises(
            UnsupportedOps, match=r"found \(what the table 'empty' holds is not known: nothing in the graph fills it; name the first num"
        ):
            live(build).convert(outputs=["sum"])

    def test_an_output_that_is_text(self, tf, live):
        def build():
            words = tf.placeholder(tf.string, [None, 2], "words")
            scores = embedded(tf, table_of(tf, default=0).lookup(words), 4)
            labels = tf.constant(["no", "yes"])
            tf.gather(labels, tf.argmax(scores, 1), name="label")
            return Net({words: WORDS}, [scores])

        saved = live(build)
        saved.matches()
        with pytest.raises(UsageError, match="the output 'label' is text, which a network does not give; name the numbers before it with --output"):
            saved.convert(outputs=["label"])

    def test_what_is_not_looked_up(self, tf, live):
        def build():
            words = tf.placeholder(tf.string, [None, 2], "words")
            return Net({words: WORDS}, [embedded(tf, table_of(tf, default=0).lookup(tf.strings.regex_replace(words, "e", "a", name="re")), 4)])

        with pytest.raises(UnsupportedOps, match=r"RegexReplace: re \(text or files: name the first numeric tensors"):
            live(build).convert()


def exported(tf, folder, build):
    """A SavedModel of TensorFlow 1 with its tables' files, and what TensorFlow gives."""
    with tf.Graph().as_default() as graph, tf.Session() as session:
        graph.seed = 5
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what people wrote then is deprecated now
            inputs, feeds, scores = build()
        session.run([tf.global_variables_initializer(), tf.tables_initializer()])
        rng = np.random.default_rng(4)
        for variable in tf.global_variables():
            variable.load(spread(variable.name, session.run(variable), rng), session)
        builder = tf.saved_model.builder.SavedModelBuilder(str(folder))
        signature = tf.saved_model.signature_def_utils.predict_signature_def(inputs, {"scores": scores})
        builder.add_meta_graph_and_variables(
            session,
            ["serve"],
            {"serving_default": signature},
            assets_collection=tf.get_collection(tf.GraphKeys.ASSET_FILEPATHS),
            main_op=tf.tables_initializer(),
        )
        builder.save()
        return session.run(scores, {inputs[name]: value for name, value in feeds.items()})


def assert_gives(folder, feeds, expected):
    """The bundle gives what TensorFlow gave, and `verify` finds that it does."""
    out = folder.with_suffix(".npz")
    convert(folder, out)
    got = load(out).predict(feeds)
    assert got.shape == expected.shape
    assert np.abs(got - expected).max() <= 1e-5 * max(1.0, np.abs(expected).max())
    found = verify(folder, out)
    assert found.tensorflow is not None, found.unavailable
    assert found.passed


class TestFiles:
    def table(self, tf, data, folder, **options):
        folder.mkdir(exist_ok=True)
        (folder / "words.txt").write_bytes(data)
        words = tf.placeholder(tf.string, [None, 2], "words")
        if options:
            start = tf.lookup.TextFileInitializer(str(folder / "words.txt"), tf.string, 1, tf.int64, 0, **options)
            numbers = tf.lookup.StaticHashTable(start, 0).lookup(words)
        else:
            numbers = index_table(vocabulary_file=str(folder / "words.txt"), num_oov_buckets=1).lookup(words)
        return {"words": words}, {"words": WORDS}, embedded(tf, numbers, 6)

    @pytest.mark.parametrize(
        ("data", "options"),
        [
            ("red\ngrün\ntwo words\n \n", {}),
            ("red\r\ngrün\r\ntwo words", {}),
            ("3\tred\n 1\tgrün\tmore\n0\ttwo words\n", {"delimiter": "\t"}),
            ("3,red\n1,grün\n0,two words\n", {"delimiter": ",", "vocab_size": 2}),
        ],
    )
    def test_words_of_a_file(self, tf, tmp_path, data, options):
        expected = exported(tf, tmp_path / "export", lambda: self.table(tf, data.encode(), tmp_path / "where", **options))
        (tmp_path / "where" / "words.txt").unlink()
        assert_gives(tmp_path / "export", {"words": WORDS}, expected)

    @pytest.mark.parametrize(
        ("data", "message"),
        [
            (None, r"words\.txt, which is missing"),
            ("3,red\n", r"words\.txt, which has 1 lines instead of 2"),
            ("3,red\n\n1,blue\n", r"words\.txt, which has an empty line"),
            ("red,3\nblue,1\n", r"words\.txt, which has no column 0 of int64 in every line"),
            ("3,red\n4,red\n", "has two values for the key b'red'"),
        ],
    )
    def test_files_that_are_not_what_was_saved(self, tf, tmp_path, data, message):
        table = b"3,red\n1,blue\n"
        exported(tf, tmp_path / "export", lambda: self.table(tf, table, tmp_path / "where", delimiter=",", vocab_size=2))
        file = tmp_path / "export" / "assets" / "words.txt"
        if data is None:
            file.unlink()
        else:
            file.write_text(data)
        with pytest.raises(UnsupportedOps, match=rf"LookupTableFindV2: .*{message}; name the first numeric tensors after it with --input"):
            convert(tmp_path / "export", tmp_path / "out.npz")

    @pytest.mark.parametrize("where", ["", "assets"])
    def test_a_file_beside_a_checkpoint(self, tf, live, tmp_path, where):
        """It has the name that it had where the graph was made, and is moved with the checkpoint."""

        def build():
            inputs, feeds, scores = self.table(tf, "red\ngrün\ntwo words\n".encode(), tmp_path / "where")
            return Net({inputs["words"]: feeds["words"]}, [scores])

        saved = live(build)
        file = tmp_path / "where" / "words.txt"
        with pytest.raises(
            UnsupportedOps,
            match=r"is filled from the file .*where/words\.txt, which does not lie beside model-1\.ckpt\.meta: put it there; name the first",
        ):
            saved.convert()
        (tmp_path / where).mkdir(exist_ok=True)
        file.rename(tmp_path / where / "words.txt")
        program = saved.matches()
        assert program.conversion["source"] == ["model-1.ckpt", "model-1.ckpt.meta", "words.txt"]
        assert verify(saved.prefix, tmp_path / "out.npz").tensorflow is not None


@pytest.mark.parametrize("kind", ["first", "fast", "strong"])
def test_buckets(tf, live, kind):
    def build():
        words = tf.placeholder(tf.string, [None, 2], "words")
        hashed = {
            "first": lambda: tf.string_to_hash_bucket(words, 9),
            "fast": lambda: tf.strings.to_hash_bucket_fast(words, 9),
            "strong": lambda: tf.strings.to_hash_bucket_strong(words, 9, key=[5, 2**50]),
        }[kind]()
        return Net({words: WORDS}, [embedded(tf, hashed, 9)])

    live(build).matches()


class TestColumns:
    """Feature columns of text, which make it sparse, without what is missing, and dense again."""

    def column(self, columns, kind):
        words = columns.categorical_column_with_vocabulary_list
        return {
            "vocabulary": lambda: words("words", VOCABULARY),
            "default": lambda: words("words", VOCABULARY, default_value=2),
            "buckets": lambda: words("words", VOCABULARY, num_oov_buckets=2),
            "hash": lambda: columns.categorical_column_with_hash_bucket("words", 5),
            "numbers": lambda: columns.categorical_column_with_identity("numbers", 4, default_value=0),
            "hashed numbers": lambda: columns.categorical_column_with_hash_bucket("numbers", 5, tf_int64()),
        }[kind]()

    def features(self, tf, width, *made):
        """The input layer of some columns, with the inputs that they take."""
        columns = tf.feature_column
        inputs = {"words": tf.placeholder(tf.string, [None, width], "words"), "numbers": tf.placeholder(tf.int64, [None, width], "numbers")}
        values = {"words": WORDS[:, :width], "numbers": np.array([[0, 3], [-1, 5], [1, -1], [-1, -1], [2, 2], [3, 0]])[:, :width]}
        built = [make(columns) for make in made]
        used = {key: inputs[key] for key in inputs if any(key in column.name for column in built)}
        return used, {key: values[key] for key in used}, columns.input_layer(used, built)

    @pytest.mark.parametrize("width", [1, 2])
    @pytest.mark.parametrize("kind", ["vocabulary", "default", "buckets", "hash", "numbers", "hashed numbers"])
    def test_an_indicator(self, tf, live, kind, width):
        def build():
            inputs, values, features = self.features(tf, width, lambda columns: columns.indicator_column(self.column(columns, kind)))
            return Net({inputs[key]: values[key] for key in inputs}, [tf.identity(dense(tf, features, 3, "scores"), name="out")])

        live(build).matches()

    @pytest.mark.parametrize("width", [1, 2])
    @pytest.mark.parametrize("combiner", ["mean", "sum", "sqrtn"])
    @pytest.mark.parametrize("kind", ["vocabulary", "buckets", "hash"])
    def test_an_embedding(self, tf, live, kind, combiner, width):
        def build():
            inputs, values, features = self.features(tf, width, lambda columns: columns.embedding_column(self.column(columns, kind), 3, combiner))
            return Net({inputs[key]: values[key] for key in inputs}, [tf.identity(dense(tf, features, 3, "scores"), name="out")])

        live(build).matches()

    def test_a_linear_model_and_a_saved_model(self, tf, tmp_path):
        def build():
            words = tf.placeholder(tf.string, [None, 2], "words")
            columns = [self.column(tf.feature_column, "vocabulary"), tf.feature_column.embedding_column(self.column(tf.feature_column, "hash"), 4)]
            linear = tf.feature_column.linear_model({"words": words}, columns[:1], units=3)
            deep = dense(tf, tf.feature_column.input_layer({"words": words}, columns[1:]), 3, "scores")
            return {"words": words}, {"words": WORDS}, linear + deep

        expected = exported(tf, tmp_path / "export", build)
        assert_gives(tmp_path / "export", {"words": WORDS}, expected)

    @pytest.mark.parametrize("old", [False, True])
    def test_features_of_records(self, tf, tmp_path, old):
        """Those of any number of values are taken dense, filled up with what feature columns take for missing."""
        numbers = np.array([[0, 3], [-1, -1], [1, -1], [2, -1], [2, 2], [3, 0]])

        def build():
            columns = tf.feature_column
            records = tf.placeholder(tf.string, [None], "records")
            spec = {"words": tf.VarLenFeature(tf.string), "numbers": tf.VarLenFeature(tf.int64), "x": tf.FixedLenFeature([1], tf.float32)}
            spec["kind"] = tf.FixedLenFeature([1], tf.string)
            words, identity = self.column(columns, "buckets"), columns.categorical_column_with_identity("numbers", 4)
            kind = columns.indicator_column(columns.categorical_column_with_vocabulary_list("kind", VOCABULARY))
            made = [columns.embedding_column(words, 3), columns.indicator_column(words), columns.indicator_column(identity), kind]
            parsed = parse_with_old_operator(records, spec) if old else tf.parse_example(records, spec)
            features = columns.input_layer(parsed, [*made, columns.numeric_column("x")])
            given = [record(tf, words, numbers[row], WORDS[row, 0], row) for row, words in enumerate(WORDS)]
            return {"records": records}, {"records": given}, dense(tf, features, 3, "scores")

        expected = exported(tf, tmp_path / "export", build)
        program = convert(tmp_path / "export", tmp_path / "out.npz")
        ports = {port.name: (port.shape, port.dtype) for port in program.inputs}
        assert ports["words"] == ((None, None), "string") and ports["numbers"] == ((None, None), "int64") and ports["kind"] == ((None, 1), "string")
        wide = np.concatenate([np.full((6, 1), "", object), WORDS, np.full((6, 2), "", object)], 1)
        rows = {"words": wide, "numbers": numbers, "kind": WORDS[:, :1], "x": np.arange(6, dtype=np.float32)[:, None]}
        got = load(tmp_path / "out.npz").predict(rows)
        assert np.abs(got - expected).max() <= 1e-5 * np.abs(expected).max()

    @pytest.mark.parametrize("combiner", ["mean", "sum", "sqrtn"])
    @pytest.mark.parametrize("width", [1, 3])
    def test_buckets_of_numbers(self, tf, live, width, combiner):
        """Dense numbers are given out as sparse ones, whole."""

        def build():
            columns = tf.feature_column
            inputs = {"x": tf.placeholder(tf.float32, [None, width], "x"), "words": tf.placeholder(tf.string, [None, 2], "words")}
            buckets = columns.bucketized_column(columns.numeric_column("x", shape=(width,)), [-1.0, 0.0, 1.0])
            deep = columns.input_layer(inputs, [columns.embedding_column(buckets, 3, combiner)])
            linear = columns.linear_model(inputs, [buckets, self.column(columns, "vocabulary")], units=2)
            feeds = {inputs["x"]: np.linspace(-2, 2, 6 * width, dtype=np.float32).reshape(6, width), inputs["words"]: WORDS}
            return Net(feeds, [tf.identity(dense(tf, deep, 2, "scores") + linear, name="out")])

        live(build).matches()

    def crossed(self, tf, linear, width, *keys, **options):
        """Features crossed with each other: texts and numbers as they are, looked up or hashed, buckets of numbers."""
        columns = tf.feature_column
        dtypes = {"words": (tf.string, width), "kinds": (tf.string, 1), "numbers": (tf.int64, width), "x": (tf.float32, 2)}
        numbers = np.array([[0, 3], [-1, 2], [1, -1], [-1, -1], [2, 2], [3, 0]])
        values = {"words": WORDS[:, :width], "kinds": WORDS[:, 1:], "numbers": numbers[:, :width], "x": rows(6, 2)}
        made = {"vocabulary": self.column(columns, "vocabulary")}
        made["identity"] = columns.categorical_column_with_identity("numbers", 4)
        made["buckets"] = columns.bucketized_column(columns.numeric_column("x", shape=(2,)), [-1.0, 0.0, 1.0])
        crossed = columns.crossed_column([made.get(key, key) for key in keys], 11, **options)
        inputs = {name: tf.placeholder(dtype, [None, size], name) for name, (dtype, size) in dtypes.items()}
        if linear:
            y = columns.linear_model(inputs, [crossed], units=3)
        else:
            y = dense(
                tf, columns.input_layer(inputs, [columns.indicator_column(crossed), columns.embedding_column(crossed, 3, "sqrtn")]), 3, "scores"
            )
        read = {"vocabulary": "words", "identity": "numbers", "buckets": "x"}
        return Net({inputs[name]: values[name] for name in (read.get(key, key) for key in keys)}, [tf.identity(y, name="out")])

    @pytest.mark.parametrize("linear", [False, True])
    @pytest.mark.parametrize("width", [1, 2])
    @pytest.mark.parametrize(
        "keys", [("words", "kinds"), ("vocabulary", "kinds"), ("identity", "vocabulary"), ("buckets", "vocabulary", "kinds"), ("numbers", "words")]
    )
    def test_crossed_columns(self, tf, live, linear, width, keys):
        live(lambda: self.crossed(tf, linear, width, *keys)).matches()

    def test_crossed_columns_with_a_key(self, tf, live):
        live(lambda: self.crossed(tf, True, 2, "words", "kinds", hash_key=2**40 + 7)).matches()

    @pytest.mark.parametrize("combiner", ["mean", "sum"])
    @pytest.mark.parametrize("kind", ["vocabulary", "hash"])
    def test_an_embedding_whose_rows_are_clipped(self, tf, live, kind, combiner):
        def build():
            embedding = lambda columns: columns.embedding_column(self.column(columns, kind), 3, combiner, max_norm=0.5)  # noqa: E731
            inputs, values, features = self.features(tf, 2, embedding)
            return Net({inputs["words"]: values["words"]}, [tf.identity(dense(tf, features, 3, "scores"), name="out")])

        live(build).matches()

    @pytest.mark.parametrize("kind", ["vocabulary", "buckets", "hash"])
    @pytest.mark.parametrize("linear", [False, True])
    @pytest.mark.parametrize("max_norm", [None, 0.5])
    def test_an_embedding_in_parts(self, tf, live, kind, linear, max_norm):
        def build():
            words, columns = tf.placeholder(tf.string, [None, 2], "words"), tf.feature_column
            with tf.variable_scope("parts", partitioner=tf.fixed_size_partitioner(3)):
                column = self.column(columns, kind)
                if linear:
                    y = columns.linear_model({"words": words}, [column], units=3)
                else:
                    y = columns.input_layer({"words": words}, [columns.embedding_column(column, 4, max_norm=max_norm)])
            return Net({words: WORDS}, [tf.identity(dense(tf, y, 3, "scores"), name="out")])

        live(build).matches()


def record(tf, words, numbers, kind, x):
    """A serialized record of the words and the numbers that are not missing."""
    features = {
        "words": tf.train.Feature(bytes_list=tf.train.BytesList(value=[word.encode() for word in words if word])),
        "numbers": tf.train.Feature(int64_list=tf.train.Int64List(value=[number for number in numbers if number >= 0])),
        "kind": tf.train.Feature(bytes_list=tf.train.BytesList(value=[kind.encode()])),
        "x": tf.train.Feature(float_list=tf.train.FloatList(value=[x])),
    }
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()


def parse_with_old_operator(records, spec):
    """What tf.parse_example was before 1.15: the operator ParseExample, whose keys are a scalar each."""
    import tensorflow

    sparse, fixed = (sorted(key for key, kind in spec.items() if ("FixedLen" in type(kind).__name__) is dense) for dense in (False, True))
    indices, values, shapes, found = tensorflow.raw_ops.ParseExample(
        serialized=records,
        names=tensorflow.constant([], tensorflow.string),
        sparse_keys=sparse,
        dense_keys=fixed,
        dense_defaults=[tensorflow.constant([], spec[key].dtype) for key in fixed],
        sparse_types=[spec[key].dtype for key in sparse],
        dense_shapes=[spec[key].shape for key in fixed],
    )
    tensors = {key: tensorflow.SparseTensor(*parts) for key, *parts in zip(sparse, indices, values, shapes, strict=True)}
    return tensors | dict(zip(fixed, found, strict=True))


def tf_int64():
    import tensorflow

    return tensorflow.int64


class TestKeras:
    @pytest.fixture(params=["keras", "tf_keras"])
    def keras(self, tf, request):
        return pytest.importorskip(request.param)

    def gives_the_same(self, keras, folder, layers, width=1):
        """Of a model of text and numbers, exported and converted."""
        import tensorflow

        keras.utils.set_random_seed(3)
        words, x = keras.layers.Input((width,), dtype="string", name="words"), keras.layers.Input((2,), name="x")
        h = words
        for layer in layers:
            h = layer(h)
        h = keras.layers.Dense(4)(keras.layers.Concatenate()([keras.layers.Flatten()(h), x]))
        model = keras.Model({"words": words, "x": x}, keras.layers.Dense(3)(keras.layers.ReLU()(keras.layers.BatchNormalization()(h))))
        feeds = {"words": WORDS[:, :width], "x": np.random.default_rng(1).normal(size=(6, 2)).astype(np.float32)}
        expected = np.asarray(model({key: tensorflow.constant(value) for key, value in feeds.items()}))
        (model.export if keras.__name__ == "keras" else model.save)(str(folder / "export"))
        assert_gives(folder / "export", feeds, expected)

    @pytest.mark.parametrize("options", [{}, {"mask_token": ""}, {"num_oov_indices": 3}])
    def test_words_to_numbers(self, keras, tmp_path, options):
        layers = [keras.layers.StringLookup(vocabulary=VOCABULARY, **options), keras.layers.Embedding(8, 2)]
        self.gives_the_same(keras, tmp_path, layers, width=2)

    @pytest.mark.parametrize("mode", ["one_hot", "multi_hot", "count"])
    def test_words_to_categories(self, keras, tmp_path, mode):
        self.gives_the_same(
            keras, tmp_path, [keras.layers.StringLookup(vocabulary=VOCABULARY, output_mode=mode)], width=1 if mode == "one_hot" else 2
        )

    def test_a_vocabulary_that_was_learned(self, keras, tmp_path):
        lookup = keras.layers.StringLookup(output_mode="multi_hot")
        lookup.adapt(np.array(VOCABULARY)[:, None])
        self.gives_the_same(keras, tmp_path, [lookup], width=2)

    def test_a_vocabulary_in_a_file(self, keras, tmp_path):
        """TensorFlow 2 assigns the file's name to a variable before it fills the table."""
        file = tmp_path / "words.txt"
        file.write_text("\n".join(VOCABULARY))
        lookup = keras.layers.StringLookup(vocabulary=str(file), output_mode="multi_hot")
        self.gives_the_same(keras, tmp_path, [lookup], width=2)

    def test_feature_columns(self, tmp_path):
        import tensorflow

        keras, columns = pytest.importorskip("tf_keras"), tensorflow.feature_column
        words = columns.categorical_column_with_vocabulary_list("words", VOCABULARY, num_oov_buckets=1)
        inputs = {"words": keras.layers.Input((2,), dtype="string", name="words"), "x": keras.layers.Input((1,), name="x")}
        made = [columns.embedding_column(words, 3), columns.indicator_column(words), columns.numeric_column("x")]
        model = keras.Model(inputs, keras.layers.Dense(3)(keras.layers.DenseFeatures(made)(inputs)))
        feeds = {"words": WORDS, "x": np.arange(6, dtype=np.float32)[:, None]}
        expected = np.asarray(model({key: tensorflow.constant(value) for key, value in feeds.items()}))
        model.save(str(tmp_path / "export"))
        assert_gives(tmp_path / "export", feeds, expected)

    def test_hashing(self, keras, tmp_path):
        self.gives_the_same(keras, tmp_path, [keras.layers.Hashing(5), keras.layers.Embedding(5, 2)], width=2)

    def test_hashing_with_salt(self, keras, tmp_path):
        self.gives_the_same(keras, tmp_path, [keras.layers.Hashing(5, salt=[3, 4]), keras.layers.Embedding(5, 2)], width=2)

    def test_words_for_numbers_are_no_network(self, keras, tmp_path):
        numbers = keras.layers.Input((1,), dtype="int64", name="numbers")
        model = keras.Model(numbers, keras.layers.StringLookup(vocabulary=VOCABULARY, invert=True)(numbers))
        (model.export if keras.__name__ == "keras" else model.save)(str(tmp_path / "export"))
        with pytest.raises(AmbiguousNetwork, match=r"no output was found .* \(the signature has only the output \w+ \(text\)\)"):
            convert(tmp_path / "export", tmp_path / "out.npz")

    def test_what_splits_text_is_refused_by_name(self, keras, tmp_path):
        with pytest.raises(BnexportError, match=r"StringSplitV2: "):
            self.gives_the_same(
                keras, tmp_path, [keras.layers.TextVectorization(vocabulary=VOCABULARY, output_sequence_length=4), keras.layers.Embedding(8, 2)]
            )


@pytest.fixture(scope="module")
def files(tf, tmp_path_factory):
    """A SavedModel of a column of words and two of numbers with a batch norm, its bundle, rows, and TensorFlow's scores of them."""
    folder = tmp_path_factory.mktemp("words")

    def build():
        word, x = tf.placeholder(tf.string, [None, 1], "word"), tf.placeholder(tf.float32, [None, 2], "x")
        colours = tf.feature_column.categorical_column_with_vocabulary_list("word", VOCABULARY)
        features = tf.feature_column.input_layer({"word": word}, [tf.feature_column.indicator_column(colours)])
        h = dense(tf, tf.concat([features, x], 1), 5, "hidden")
        mean, variance = tf.get_variable("bn/mean", [5]), tf.get_variable("bn/var", [5])
        h = tf.nn.relu(tf.nn.batch_normalization(h, mean, variance, None, None, 1e-3))
        feeds = {"word": WORDS[:, :1], "x": np.linspace(-1, 1, 12, dtype=np.float32).reshape(6, 2)}
        return {"word": word, "x": x}, feeds, dense(tf, h, 3, "scores")

    expected = exported(tf, folder / "export", build)
    lines = [f'"{word}",{a:.9g},{b:.9g}' for word, (a, b) in zip(WORDS[:, 0], np.linspace(-1, 1, 12).reshape(6, 2), strict=True)]
    (folder / "rows.csv").write_text("\n".join(["word,x[0],x[1]", *lines, ""]))
    convert(folder / "export", folder / "out.npz")
    return folder, expected


class TestCommands:
    def invoke(self, *arguments, code=0):
        done = CliRunner().invoke(main, list(map(str, arguments)))
        assert done.exit_code == code, done.output
        return done.output

    def test_run(self, files):
        folder, expected = files
        scores = np.loadtxt(self.invoke("run", folder / "out.npz", folder / "rows.csv").splitlines(), delimiter=",")
        np.testing.assert_allclose(scores, expected, atol=1e-5 * np.abs(expected).max())

    def test_inspect(self, files):
        folder, _ = files
        text = self.invoke("inspect", folder / "out.npz")
        assert "input:           word [?, 1] string" in text
        assert "keys             [4]     S9" in text
        assert "input:           word [?, 1] string" in self.invoke("inspect", folder / "export")

    @pytest.mark.parametrize("name", ["export", "out.npz"])
    def test_pages(self, files, name):
        folder, _ = files
        self.invoke("inspect", "--html", folder / "page.html", folder / name)
        assert "word" in (folder / "page.html").read_text()

    def test_trace(self, files):
        folder, _ = files
        table = [line.split("\t") for line in self.invoke("trace", folder / "export", folder / "rows.csv", "--unit", "0").splitlines()]
        assert table[0][0] == "batch norm" and len(table) > 1
        for suffix in (".npz", ".h5"):
            self.invoke("trace", folder / "out.npz", folder / "rows.csv", "-o", folder / f"all{suffix}")
        with np.load(folder / "all.npz") as arrays:
            assert [word.decode() for word in arrays["word"][:, 0]] == WORDS[:, 0].tolist()

    def test_verify(self, files):
        folder, _ = files
        text = self.invoke("verify", folder / "export", folder / "out.npz")
        assert "the 4 words that " in text and " knows, and '?'" in text
        assert "the bundle agrees with the checkpoint" in text
        assert "agrees" in self.invoke("verify", folder / "export", folder / "out.npz", "--input-file", folder / "rows.csv")

    def test_diagnose(self, files):
        folder, expected = files
        np.save(folder / "mine.npy", expected)
        assert "agree" in self.invoke("diagnose", folder / "export", folder / "rows.csv", folder / "mine.npy")

    def test_a_word_that_stands_where_a_number_belongs(self, files):
        folder, _ = files
        (folder / "bad.csv").write_text("x[0],word,x[1]\n1,red,2\n1,2,red\n")
        assert self.invoke("run", folder / "out.npz", folder / "bad.csv", code=1) == (
            f"Error: {folder / 'bad.csv'}, row 3, column 3 ('x[1]'): 'red' is not a number\n"
        )


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["red", 3], r"was given 3 of type int at \[1\], which is no text; it is string of shape \(any\)"),
        (["red", None], r"was given None of type NoneType at \[1\], which is no text"),
        (np.array([1.5]), r"was given .*1\.5.* at \[0\], which is no text"),
        ([["red"]], r"was given the shape \(1, 1\); it is string of shape \(any\)"),
        (["\ud800"], r"at \[0\], which is no text"),
    ],
)
def test_what_is_no_text(given, message):
    arrays = {"keys": InMemory(np.array([b"red", b"blue"])), "values": InMemory(np.array([1, 2]))}
    table = Layer("y", "Lookup", ["x", "@keys", "@values", Literal(0, "int64")], arrays=arrays)
    model = Model(Program([Port("x", "x", (None,), "string")], [table], [Port("y", "y", (None,), "int64")]))
    for words in (["red", "x"], ("red", b"x"), np.array(["red", "x"]), np.array([b"red", b"x"]), np.array(["red", "x"], object)):
        assert model.predict(words).tolist() == [1, 0]
    assert pickle.loads(pickle.dumps(model)).predict(["blue"]).tolist() == [2]
    with pytest.raises(InputError, match=message):
        model.predict(given)
