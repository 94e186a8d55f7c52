"""Frozen graphs: a graph whose variables have become constants, so that one file holds all that inference needs.

freeze_graph.py, convert_variables_to_constants and the exporters built upon them write these. What was made of variables is taken for variables
again, so that whatever reads a graph with its checkpoint reads these alike.
"""

from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError

from bnexport.checkpoint.files import impostor
from bnexport.checkpoint.tensor_protos import decode_tensor
from bnexport.checkpoint.tensors import Stored, TensorInfo, described
from bnexport.checkpoint.wire import MalformedError
from bnexport.errors import CheckpointError, CorruptCheckpoint, GraphError
from bnexport.program import InMemory
from bnexport.protos import tensorflow_pb2 as pb

_FLOATING = (pb.DT_FLOAT, pb.DT_DOUBLE, pb.DT_HALF, pb.DT_BFLOAT16)
_SAVED_MODEL_BEGINS = b"\x08"  # its version, a number, where a graph begins with a node


class FrozenGraph:
    """The graph of a file, and its constants that were variables: those of floating point that have a dimension.

    A number alone (an epsilon, a rate) stays a constant. `definition` is the graph, in which they are constants.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.definition = read_graph_def(path)
        self.entries = {node.name: node.attr["value"].tensor for node in self.definition.node if _was_variable(node)}

    def close(self) -> None:
        """There is nothing to close: the file was read whole."""

    def info(self, name: str) -> TensorInfo:
        """The tensor's description; raises `CorruptCheckpoint` for a shape that no tensor has."""
        tensor = self.entries[name]
        try:
            return described(name, tensor.tensor_shape, tensor.dtype, 0)
        except MalformedError as error:
            raise self._corrupt(name, error) from error

    def read(self, name: str) -> "np.ndarray[Any, Any]":
        """The tensor. Raises `CorruptCheckpoint` where the values are not what the graph says."""
        info = self.info(name)
        try:
            return decode_tensor(self.entries[name]).astype(info.dtype, copy=False)
        except GraphError as error:
            raise self._corrupt(name, error) from error

    def stored(self, name: str) -> Stored:
        """The tensor, decoded when its pieces are asked for."""
        return Stored(self.info(name), lambda: InMemory(self.read(name)).pieces())

    def _corrupt(self, name: str, error: MalformedError | GraphError) -> CorruptCheckpoint:
        return CorruptCheckpoint(f"{self.path}: the constant {name!r} is damaged ({error}): copy the file again from where it came")


def _was_variable(node: pb.NodeDef) -> bool:
    tensor = node.attr["value"].tensor if node.op == "Const" and "value" in node.attr else None
    return tensor is not None and tensor.dtype in _FLOATING and len(tensor.tensor_shape.dim) > 0


def read_graph_def(path: Path) -> pb.GraphDef:
    """The GraphDef in a file; raises `CorruptCheckpoint` for what is none."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror}): give a file that you may read") from error
    if data.startswith(_SAVED_MODEL_BEGINS):
        raise CorruptCheckpoint(f"{path} is the graph of a SavedModel under another name: call it saved_model.pb, and give the folder that it is in")
    try:
        graph = pb.GraphDef.FromString(data)
    except DecodeError as cause:
        raise _no_graph(path) from cause
    if not graph.node or not all(node.name and node.op for node in graph.node):
        raise _no_graph(path)
    return graph


def _no_graph(path: Path) -> CorruptCheckpoint:
    what = impostor(path) or f"{path} is no graph (a GraphDef) that TensorFlow wrote, or is cut short"
    return CorruptCheckpoint(f"{what}: if it is a MetaGraphDef, call it PREFIX.meta, beside the checkpoint's other files")
