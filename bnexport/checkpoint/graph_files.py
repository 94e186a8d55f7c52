"""The files that hold graphs: .meta, saved_model.pb, GraphDefs by themselves, and all of these as text."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from google.protobuf import text_format
from google.protobuf.message import DecodeError

from bnexport.checkpoint.files import impostor
from bnexport.checkpoint.paths import GRAPH_SUFFIX, TEXT_SUFFIX
from bnexport.errors import CheckpointError, CorruptCheckpoint, GraphError
from bnexport.protos import tensorflow_pb2 as pb

_SERVE = "serve"
_ASSETS = "saved_model_assets"
_FILES_OF_TABLES = frozenset({"InitializeTableFromTextFile", "InitializeTableFromTextFileV2"})
_TEXTS = (b"meta_info_def {", b"graph_def {", b"saved_model_schema_version:", b"meta_graphs {")
_WHOLE = re.compile(r"^(meta_info_def|graph_def|saver_def|collection_def)\b", re.MULTILINE)
"""What a MetaGraphDef as text has in it, and a GraphDef has not."""
_SAVED_MODEL_BEGINS = b"\x08"  # its version, a number, where a graph begins with a node


def read_meta_graph(path: Path, *, saved_model: bool) -> pb.MetaGraphDef:
    """The graph of a file with its signatures: of a SavedModel the one that is served; around a graph that has none.

    Raises:
        CheckpointError: a GraphDef's file is none.
        GraphError: another's is none.
    """
    if not saved_model and path.suffix.lower() == GRAPH_SUFFIX:
        return read_graph_def(path)
    try:
        if not saved_model:
            meta: pb.MetaGraphDef = parse(path, pb.MetaGraphDef())
            return meta
        graphs = parse(path, pb.SavedModel()).meta_graphs
    except DecodeError as cause:
        refuse_graph_alone(path)
        kind = "SavedModel" if saved_model else "MetaGraphDef"
        raise GraphError(impostor(path) or f"{path}: it is no {kind} that TensorFlow wrote, or is cut short") from cause
    if not graphs:
        raise GraphError(f"{path}: the SavedModel holds no graph")
    serving: pb.MetaGraphDef | None = serving_graph(graphs)
    if serving is None:
        tags = ", ".join("+".join(g.meta_info_def.tags) or "(none)" for g in graphs)
        raise GraphError(f"{path}: the SavedModel has no graph tagged '{_SERVE}', and several others: its graphs are tagged {tags}")
    return serving


def read_graph_def(path: Path) -> pb.MetaGraphDef:
    """The GraphDef in a file, in a message that signatures could stand in; raises `CorruptCheckpoint` for what is none."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror}): give a file that you may read") from error
    if data.startswith(_SAVED_MODEL_BEGINS):
        raise CorruptCheckpoint(f"{path} is the graph of a SavedModel under another name: call it saved_model.pb, and give the folder that it is in")
    meta = pb.MetaGraphDef()
    try:
        meta.graph_def.ParseFromString(data)
    except DecodeError as cause:
        raise _no_graph(path) from cause
    if not meta.graph_def.node or not all(node.name and node.op for node in meta.graph_def.node):
        raise _no_graph(path)
    return meta


def _no_graph(path: Path) -> CorruptCheckpoint:
    what = impostor(path) or f"{path} is no graph (a GraphDef) that TensorFlow wrote, or is cut short"
    return CorruptCheckpoint(f"{what}: if it is a MetaGraphDef, call it PREFIX.meta, beside the checkpoint's other files")


def parse(path: Path, message: Any) -> Any:
    """A file's MetaGraphDef or SavedModel, of this package's protos or of TensorFlow's, that may be there as text, or as the text of its graph.

    Raises:
        google.protobuf.message.DecodeError: the file holds no such message.
        GraphError: the text is none.
    """
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


def serving_graph(graphs: Sequence[Any]) -> Any:
    """The graph of a SavedModel that TensorFlow serves; None where nothing tells.

    It is tagged so alone, or among others; or has no tags, as TensorFlow Hub has it; or is the only one.
    """
    tagged = [graph for graph in graphs if _SERVE in graph.meta_info_def.tags]
    alone = [graph for graph in tagged if len(graph.meta_info_def.tags) == 1]
    untagged = [graph for graph in graphs if not graph.meta_info_def.tags]
    return next(iter(alone or tagged or untagged or (graphs if len(graphs) == 1 else ())), None)


def asset_files(meta: Any, path: Path) -> dict[str, Path]:
    """The files that a graph reads by the tensors that hold their names; of this package's protos or of TensorFlow's.

    Those of a SavedModel lie in its folder `assets`; TensorFlow 1 listed them in a collection. A name that leads out of the folder is left out. Any
    other graph has the names that the files had where it was made: they are looked for beside it, and in a folder `assets` beside it.

    Args:
        path: the file of the graph.
    """
    listed = [
        pb.AssetFileDef.FromString(entry.value) for key, found in meta.collection_def.items() if key == _ASSETS for entry in found.any_list.value
    ]
    named = {asset.tensor_info.name: asset.filename for asset in (*listed, *meta.asset_file_def)}
    files = {name: path.parent / "assets" / file for name, file in named.items() if Path(file).name == file}
    return {**_files_beside(meta.graph_def, path.parent), **files}


def _files_beside(graph: Any, folder: Path) -> dict[str, Path]:
    """The files that fill tables and lie beside a graph, or in a folder `assets` there, by the constants that are their names elsewhere."""
    fills = [node for node in graph.node if node.op in _FILES_OF_TABLES and len(node.input) > 1]
    if not fills:
        return {}
    constants = {node.name: node.attr["value"].tensor.string_val for node in graph.node if node.op == "Const"}
    found = {}
    for name in (node.input[1].removesuffix(":0") for node in fills):
        for text in constants.get(name, ()):
            file = text.decode("utf-8", "surrogateescape").replace("\\", "/").rpartition("/")[2]
            candidates = (folder / file, folder / "assets" / file) if file else ()
            found.update({f"{name}:0": candidate for candidate in reversed(candidates) if candidate.is_file()})
    return found


def refuse_graph_alone(path: Path) -> None:
    """A frozen graph under the name of another kind of graph holds its weights itself.

    Raises:
        CheckpointError: the file is a GraphDef.
    """
    try:
        read_graph_def(path)
    except CheckpointError:
        return
    raise CheckpointError(f"{path} is a graph by itself, as frozen graphs are: if its weights are in it, call it frozen.pb, and give that")
