"""The project's own .proto against TensorFlow's: the same numbers, types and packing, in one process with them."""

import os
import warnings

import pytest

from bnexport.protos import tensorflow_pb2 as pb

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    tf = pytest.importorskip("tensorflow", reason="compares with TensorFlow's own messages")
    from google.protobuf import descriptor_pool
    from tensorflow.core.framework import tensor_slice_pb2  # noqa: F401  # loaded for its messages, as are the next
    from tensorflow.core.protobuf import meta_graph_pb2, saved_model_pb2, tensor_bundle_pb2  # noqa: F401
    from tensorflow.core.util import saved_tensor_slice_pb2  # noqa: F401

pytestmark = pytest.mark.tensorflow


def messages(found):
    for message in found:
        yield message
        yield from messages(message.nested_types)


def described(field):
    kind = field.message_type or field.enum_type
    # `Any` is the one message that is not TensorFlow's own.
    name = kind.full_name.replace("bnexport.tensorflow.Any", "google.protobuf.Any").removeprefix("bnexport.") if kind else None
    repeated = field.is_repeated if hasattr(field, "is_repeated") else field.label == field.LABEL_REPEATED
    return field.name, field.type, name, repeated, repeated and field.is_packed, field.containing_oneof is not None


OURS = {message.full_name.removeprefix("bnexport."): message for message in messages(pb.DESCRIPTOR.message_types_by_name.values())}


@pytest.mark.parametrize("name", sorted(set(OURS) - {"tensorflow.Any"}))
def test_every_field_is_tensorflows(name):
    theirs = descriptor_pool.Default().FindMessageTypeByName(name)
    for field in OURS[name].fields:
        assert described(field) == described(theirs.fields_by_number[field.number])


def test_every_type_is_tensorflows():
    theirs = descriptor_pool.Default().FindEnumTypeByName("tensorflow.DataType")
    assert {value.name: value.number for value in pb.DataType.DESCRIPTOR.values}.items() <= {
        value.name: value.number for value in theirs.values
    }.items()


def test_a_graph_is_read_as_tensorflow_wrote_it():
    with tf.Graph().as_default() as graph:
        tf.compat.v1.placeholder(tf.float32, [None, 3], name="x")
        tf.constant([1.5, -2], name="c")
        written = tf.compat.v1.train.export_meta_graph(graph=graph)
    ours = pb.MetaGraphDef.FromString(written.SerializeToString())
    assert [(node.name, node.op) for node in ours.graph_def.node] == [("x", "Placeholder"), ("c", "Const")]
    assert ours.graph_def.node[0].attr["shape"].shape.dim[0].size == -1
    assert ours.graph_def.node[1].attr["value"].tensor.tensor_content == written.graph_def.node[1].attr["value"].tensor.tensor_content
    # What our messages do not know is kept, so that nothing is lost on the way.
    assert meta_graph_pb2.MetaGraphDef.FromString(ours.SerializeToString()) == written
