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
    meta = _from_text(path) if path.suffix.lower() == TEXT_SUFFIX else _parse(path, saved_model=location.saved_model is not None)
    graph = _graph(meta.graph_def, path)
    graph.signatures = {k: v for k, v in meta.signature_def.items() if not k.startswith("__")}
    graph.restore_op = meta.saver_def.restore_op_name.removesuffix(":0")
    graph.tensorflow_version = meta.meta_info_def.tensorflow_version
    if not graph.nodes:
        raise GraphError(f"{path}: the file holds no graph")
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


def _from_text(path: Path) -> Any:
    """A graph as text, of either kind, as a MetaGraphDef."""
    from google.protobuf import text_format

    from bnexport.protos import tensorflow_pb2 as pb

    meta = pb.MetaGraphDef()
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
        whole = re.search(r"^(meta_info_def|graph_def|saver_def|collection_def)\b", text, re.MULTILINE)
        text_format.Parse(text, meta if whole else meta.graph_def, allow_unknown_field=True)
    except text_format.ParseError as cause:
        raise GraphError(f"{path}: it is no graph in protobuf's text format ({cause}): copy it again") from cause
    return meta


def _parse(path: Path, *, saved_model: bool) -> Any:
    from google.protobuf.message import DecodeError

    from bnexport.protos import tensorflow_pb2 as pb

    if not saved_model and path.suffix.lower() == GRAPH_SUFFIX:
        from bnexport.checkpoint.frozen import read_graph_def

        return pb.MetaGraphDef(graph_def=read_graph_def(path))
    data = path.read_bytes()
    kind = "SavedModel" if saved_model else "MetaGraphDef"
    try:
        if not saved_model:
            return pb.MetaGraphDef.FromString(data)
        graphs = pb.SavedModel.FromString(data).meta_graphs
    except DecodeError as cause:
        what = impostor(path) or f"it is no {kind} that TensorFlow wrote, or is cut short"
        raise GraphError(f"{path}: {what}") from cause
    if not graphs:
        raise GraphError(f"{path}: the SavedModel holds no graph")
    serving = serving_graph(graphs)
    if serving is None:
        tags = ", ".join("+".join(g.meta_info_def.tags) or "(none)" for g in graphs)
        raise GraphError(f"{path}: the SavedModel has no graph tagged '{_SERVE}', and several others: its graphs are tagged {tags}")
    return serving


def serving_graph(graphs: Sequence[Any]) -> Any:
    """The graph of a SavedModel that TensorFlow serves: the one tagged so alone, or so among others, or the only one; None where there is none."""
    tagged = [graph for graph in graphs if _SERVE in graph.meta_info_def.tags]
    alone = [graph for graph in tagged if len(graph.meta_info_def.tags) == 1]
    return next(iter(alone or tagged or (graphs if len(graphs) == 1 else ())), None)
