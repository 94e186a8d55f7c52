"""Graphs read from .meta, saved_model.pb, frozen .pb and .pbtxt files."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bnexport.checkpoint import Checkpoint, impostor
from bnexport.checkpoint.paths import GRAPH_SUFFIX, TEXT_SUFFIX
from bnexport.errors import GraphError
from bnexport.graph.graphdef import Graph, Node, read_node

_SERVE = "serve"
_TEXTS = (b"meta_info_def {", b"graph_def {", b"saved_model_schema_version:", b"meta_graphs {")
_WHOLE = re.compile(r"^(meta_info_def|graph_def|saver_def|collection_def)\b", re.MULTILINE)
"""What a MetaGraphDef as text has in it, and a GraphDef has not."""


def read_graph(checkpoint: Checkpoint) -> Graph:
    """The graph of a checkpoint.

    Raises:
        GraphError: there is none, or the file is no graph.
    """
    location = checkpoint.location
    path = location.graph
    if path is None:
        raise GraphError(f"{location.prefix} has no .meta file beside it")
    frozen = checkpoint.frozen_graph()
    if frozen is not None:
        graph = _graph(frozen, path)
        for name in checkpoint:
            graph.nodes[name] = _thawed(checkpoint, name)
        return graph
    meta = _parse(path, saved_model=location.saved_model is not None)
    graph = _graph(meta.graph_def, path)
    graph.signatures = {k: v for k, v in meta.signature_def.items() if not k.startswith("__")}
    graph.restore_op = meta.saver_def.restore_op_name.removesuffix(":0")
    graph.tensorflow_version = meta.meta_info_def.tensorflow_version
    if not graph.nodes:
        raise _graph_alone(path) if _is_graph_alone(path) else GraphError(f"{path}: the file holds no graph")
    return graph


def _graph(definition: Any, path: Path) -> Graph:
    try:
        nodes = {n.name: read_node(n) for n in definition.node}
    except GraphError as error:
        raise GraphError(f"{path}: {error}") from error
    return Graph(nodes, {f.signature.name: f for f in definition.library.function}, source=str(path))


def _thawed(checkpoint: Checkpoint, name: str) -> Node:
    """The variable that a constant of a frozen graph was."""
    info = checkpoint.info(name)
    return Node(name, "VariableV2", [], [], {"shape": list(info.shape), "dtype": info.dtype.name})


def _graph_alone(path: Path) -> GraphError:
    return GraphError(f"{path}: it is a GraphDef by itself, as frozen graphs are: call it {path.stem}{GRAPH_SUFFIX}, and give that")


def _parse(path: Path, *, saved_model: bool) -> Any:
    from google.protobuf.message import DecodeError

    from bnexport.protos import tensorflow_pb2 as pb

    if not saved_model and path.suffix.lower() == GRAPH_SUFFIX:
        from bnexport.checkpoint.frozen import read_graph_def

        return pb.MetaGraphDef(graph_def=read_graph_def(path))
    try:
        if not saved_model:
            return parse(path, pb.MetaGraphDef())
        graphs = parse(path, pb.SavedModel()).meta_graphs
    except DecodeError as cause:
        if _is_graph_alone(path):
            raise _graph_alone(path) from cause
        kind = "SavedModel" if saved_model else "MetaGraphDef"
        raise GraphError(impostor(path) or f"{path}: it is no {kind} that TensorFlow wrote, or is cut short") from cause
    if not graphs:
        raise GraphError(f"{path}: the SavedModel holds no graph")
    serving = serving_graph(graphs)
    if serving is None:
        tags = ", ".join("+".join(g.meta_info_def.tags) or "(none)" for g in graphs)
        raise GraphError(f"{path}: the SavedModel has no graph tagged '{_SERVE}', and several others: its graphs are tagged {tags}")
    return serving


def parse(path: Path, message: Any) -> Any:
    """A file's MetaGraphDef or SavedModel, of this package's protos or of TensorFlow's, that may be there as text, or as the text of its graph.

    Raises:
        google.protobuf.message.DecodeError: the file holds no such message.
        GraphError: the text is none.
    """
    from google.protobuf import text_format

    data = path.read_bytes()
    if path.suffix.lower() != TEXT_SUFFIX and not data.startswith(_TEXTS):
        message.ParseFromString(data)
        return message
    text = data.decode("utf-8", "replace")
    whole = _WHOLE.search(text) is not None or not hasattr(message, "graph_def")
    try:
        text_format.Parse(text, message if whole else message.graph_def, allow_unknown_field=True)
    except text_format.ParseError as cause:
        raise GraphError(f"{path}: it is no graph in protobuf's text format ({cause}): copy it again") from cause
    return message


def _is_graph_alone(path: Path) -> bool:
    """Whether a file holds a GraphDef where a message that has one in it should be."""
    from google.protobuf.message import DecodeError

    from bnexport.protos import tensorflow_pb2 as pb

    try:
        nodes = pb.GraphDef.FromString(path.read_bytes()).node
    except DecodeError:
        return False
    return bool(nodes) and all(node.name and node.op for node in nodes)


def serving_graph(graphs: Sequence[Any]) -> Any:
    """The graph of a SavedModel that TensorFlow serves; None where nothing tells.

    It is tagged so alone, or among others; or has no tags, as TensorFlow Hub has it; or is the only one.
    """
    tagged = [graph for graph in graphs if _SERVE in graph.meta_info_def.tags]
    alone = [graph for graph in tagged if len(graph.meta_info_def.tags) == 1]
    untagged = [graph for graph in graphs if not graph.meta_info_def.tags]
    return next(iter(alone or tagged or untagged or (graphs if len(graphs) == 1 else ())), None)
