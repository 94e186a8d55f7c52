"""Frozen graphs: a graph whose variables have become constants, so that one file holds all that inference needs.

freeze_graph.py, convert_variables_to_constants and the exporters built upon them write these. What was made of variables is taken for variables
again, so that whatever reads a graph with its checkpoint reads these alike.
"""

from pathlib import Path
from typing import Any

import numpy as np

from bnexport.checkpoint.graph_files import read_meta_graph, refuse_graph_alone
from bnexport.checkpoint.tensor_protos import decode_tensor
from bnexport.checkpoint.tensors import Stored, TensorInfo, described
from bnexport.checkpoint.wire import MalformedError
from bnexport.errors import CheckpointNotFound, CorruptCheckpoint, GraphError
from bnexport.program import InMemory
from bnexport.protos import tensorflow_pb2 as pb

_OF_WEIGHTS = frozenset({pb.DT_FLOAT, pb.DT_DOUBLE, pb.DT_HALF, pb.DT_BFLOAT16, pb.DT_QUINT8, pb.DT_QINT8, pb.DT_QUINT16, pb.DT_QINT16})
"""The types that weights are frozen in; the quantised ones are what TensorFlow's tools make of them to save room."""
_VARIABLES = ("Variable", "VariableV2", "VarHandleOp")


class FrozenGraph:
    """The graph of a file, and its constants that were variables: those of floating point, or quantised, that have a dimension.

    A number alone (an epsilon, a rate) stays a constant. `meta` is the graph, in which they are constants.
    """

    def __init__(self, path: Path, *, saved_model: bool) -> None:
        self.path = path
        self.meta = read_meta_graph(path, saved_model=saved_model)
        nodes = self.meta.graph_def.node
        self.entries = {node.name: node.attr["value"].tensor for node in nodes if _was_variable(node)}
        if self.entries and (not saved_model or not any(node.op in _VARIABLES for node in nodes)):
            return
        if not saved_model:
            raise CheckpointNotFound(f"{path} is a graph without values: give the checkpoint, and this file with --graph")
        if not self.entries:
            refuse_graph_alone(path)
        raise CheckpointNotFound(f"{path} has no variables beside it: there are no weights to read; copy its folder `variables` too")

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
        """The tensor, decoded when it is read."""
        return Stored(self.info(name), lambda count: InMemory(self.read(name)).readers(count))

    def _corrupt(self, name: str, error: MalformedError | GraphError) -> CorruptCheckpoint:
        return CorruptCheckpoint(f"{self.path}: the constant {name!r} is damaged ({error}): copy the file again from where it came")


def _was_variable(node: pb.NodeDef) -> bool:
    tensor = node.attr["value"].tensor if node.op == "Const" and "value" in node.attr else None
    return tensor is not None and tensor.dtype in _OF_WEIGHTS and len(tensor.tensor_shape.dim) > 0
