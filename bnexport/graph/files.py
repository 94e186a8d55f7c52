"""Graphs as the stages of a conversion take them, from the files that hold them."""

from pathlib import Path
from typing import Any

from bnexport.checkpoint import Checkpoint
from bnexport.checkpoint.graph_files import asset_files, read_meta_graph, refuse_graph_alone
from bnexport.errors import GraphError
from bnexport.graph.graphdef import Graph, Node, read_node


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
    meta = frozen or read_meta_graph(path, saved_model=location.saved_model is not None)
    graph = _graph(meta.graph_def, path)
    if frozen is not None:
        for name in checkpoint:
            graph.nodes[name] = _thawed(checkpoint, name)
    graph.signatures = {k: v for k, v in meta.signature_def.items() if not k.startswith("__")}
    graph.restore_op = meta.saver_def.restore_op_name.removesuffix(":0")
    graph.assets = {name.removesuffix(":0"): file for name, file in asset_files(meta, path).items()}
    graph.tensorflow_version = meta.meta_info_def.tensorflow_version
    if not graph.nodes:
        refuse_graph_alone(path)
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
