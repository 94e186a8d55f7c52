"""Operators on text: lookups in tables, buckets of hashes, numbers written out."""

import numpy as np
import pytest
from kernel_oracle import check, compares, tensorflow

from bnexport.errors import GraphError
from bnexport.kernels import OPS, Abstract

WORDS = np.array([[b"red", b"", "grün".encode()], [b"no such", b"red\0", b"blue"]], object)


def in_tensorflow(x, keys, values, default):
    tf = tensorflow()
    table = tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(tf.constant(keys), tf.constant(values)), tf.constant(default))
    return (table.lookup(tf.constant(x)).numpy(),)


@compares("Lookup")
@pytest.mark.parametrize(
    ("x", "keys", "values", "default"),
    [
        (WORDS, np.array([b"blue", "grün".encode(), b"red"], object), np.array([4, 0, 2]), np.array(-1)),
        (WORDS, np.array([b"red", b""], object), np.array([0.5, -1.5], np.float32), np.array(9.0, np.float32)),
        (WORDS[:, :0], np.array([b"red"], object), np.array([0]), np.array(1)),
        (np.array([7, 2, 8]), np.array([2, 7]), np.array([0, 1]), np.array(2)),
        (np.array([7, 2, 8], np.int32), np.array([2, 7], np.int32), np.array([0.25, 1], np.float32), np.array(2, np.float32)),
        (np.array([7, 2, 8]), np.array([2, 7]), np.array([b"two", b"seven"], object), np.array(b"more", object)),
        (WORDS, np.array([b"red"], object), np.array([b"rouge"], object), np.array(b"?", object)),
    ],
)
def test_lookup(x, keys, values, default):
    check("Lookup", {}, x, keys, values, default, expected=in_tensorflow(x, keys, values, default))


def test_a_table_whose_values_are_too_few():
    shapes = [Abstract(shape, np.dtype(object)) for shape in ((3,), (4,), (3,), ())]
    with pytest.raises(GraphError, match=r"Lookup: the shapes \[4\] and \[3\] and \[\] do not fit together"):
        OPS["Lookup"].infer({}, shapes)


@compares("StringToHashBucket", "StringToHashBucketFast", "StringToHashBucketStrong")
@pytest.mark.parametrize("count", [1, 7, 1000, 2**63 - 1])
def test_buckets_of_texts_of_every_length(count):
    """The fingerprint has another formula for lengths up to 3, 7, 16, 32 and 64, and above takes 64 bytes at a time; the others take 8."""
    rng = np.random.default_rng(count % 1000)
    texts = np.empty(300, object)
    texts[:] = [rng.bytes(size) for size in range(300)]
    for name in ("StringToHashBucket", "StringToHashBucketFast"):
        check(name, {"num_buckets": count}, texts.reshape(30, 10))
    for key in ([7, 2**62 + 9], [-1, 0]):
        check("StringToHashBucketStrong", {"num_buckets": count, "key": key}, texts)


def crossed_in_tensorflow(attrs, features):
    """One combination a row of features of one element a row."""
    tf = tensorflow()
    dense = [tf.constant(np.broadcast_to(f, np.broadcast_shapes(*(g.shape for g in features))).reshape(-1, 1)) for f in features]
    internal = tf.string if all(f.dtype == object for f in features) else tf.int64
    _, values, _ = tf.raw_ops.SparseCross(
        indices=[], values=[], shapes=[], dense_inputs=dense, hashed_output=True, out_type=tf.int64, internal_type=internal, **attrs
    )
    return (values.numpy().reshape(np.broadcast_shapes(*(f.shape for f in features))),)


@compares("HashedCross")
@pytest.mark.parametrize("count", [7, 1000, 2**40, 0])
@pytest.mark.parametrize("key", [0xDECAFCAFFE, 0, 2**62 + 5])
def test_combinations(count, key):
    attrs = {"num_buckets": count, "hash_key": key}
    numbers = np.array([[0], [-1], [2**63 - 1], [-(2**63)], [12345]])
    for features in ([WORDS], [numbers], [WORDS[:, None], numbers], [numbers, WORDS[0], numbers[2]]):
        check("HashedCross", attrs, *features, expected=crossed_in_tensorflow(attrs, features), unknown=range(len(features)))


@compares("AsString")
@pytest.mark.parametrize("x", [np.array([[-5, 0], [12, 2**40]]), np.array([200, 3], np.uint8), np.array([True, False])])
def test_numbers_written_out(x):
    check("AsString", {}, x)


@pytest.mark.parametrize(("dtype", "attrs"), [("float32", {}), ("int64", {"width": 4}), ("int64", {"fill": "0"})])
def test_numbers_that_are_not_written_out(dtype, attrs):
    with pytest.raises(GraphError, match="AsString is for integers without a width or a fill; name the first numbers after it with --input"):
        OPS["AsString"].infer(attrs, [Abstract((2,), np.dtype(dtype))])
