"""A checkpoint of any version, as its users see it."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bnexport.checkpoint.bundle import Bundle
from bnexport.checkpoint.paths import Location, checkpoints_beside, locate
from bnexport.checkpoint.tensors import Stored, TensorInfo
from bnexport.errors import CheckpointNotFound, CorruptCheckpoint, TensorNotFound

if TYPE_CHECKING:
    from bnexport.checkpoint.frozen import FrozenGraph
    from bnexport.checkpoint.v1 import SavedSlices
    from bnexport.protos import tensorflow_pb2 as pb

OBJECT_GRAPH_KEY = "_CHECKPOINTABLE_OBJECT_GRAPH"
VALUE_SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"


def open_checkpoint(path: "str | Path") -> "Checkpoint":
    """The checkpoint that `path` points to in any of the ways that `locate` knows; its index is read, and no values.

    Raises `CheckpointNotFound`, and `CorruptCheckpoint` for an index that is damaged.
    """
    return Checkpoint(locate(path))


class Checkpoint:
    """A checkpoint's tensors by name. A context manager; not for use by several threads at once."""

    def __init__(self, location: Location) -> None:
        if not location.files:
            raise _without_variables(location)
        self.location = location
        self.prefix = location.prefix
        self._reader = _reader(location)
        self._names = sorted(self._reader.entries)

    def __enter__(self) -> "Checkpoint":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the files; what was read stays, and nothing more is to be read."""
        self._reader.close()

    def __len__(self) -> int:
        return len(self._names)

    def __contains__(self, name: object) -> bool:
        return name in self._reader.entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def names(self) -> list[str]:
        """The names of all tensors, sorted; a partitioned variable has one name, not those of its slices."""
        return list(self._names)

    def info(self, name: str) -> TensorInfo:
        """Shape, dtype and size of a tensor. Raises `TensorNotFound`, and `CorruptCheckpoint` for a shape or type that no tensor has."""
        return self._reader.info(self._known(name))

    def read(self, name: str) -> "np.ndarray[Any, Any]":
        """The values of a tensor, bit for bit what `tf.train.load_checkpoint(...).get_tensor(name)` returns; strings as an object array of bytes.

        Raises `TensorNotFound`; `CheckpointNotFound` where the data file is missing; `CorruptCheckpoint` where data, checksum and index disagree.
        """
        return self._reader.read(self._known(name))

    def stored(self, name: str) -> Stored:
        """A tensor that is read piece by piece when it is needed, without ever being in memory whole (a `bnexport.program.Array`).

        Partitioned variables, strings and version 1 files are the exception: they are read whole. Raises as `read` does, here where the data file is
        missing or too short, and when its last values are read where the checksum does not match.
        """
        return self._reader.stored(self._known(name))

    def frozen_graph(self) -> "pb.MetaGraphDef | None":
        """The graph that the tensors are constants of; None for a checkpoint whose graph, if any, is another file."""
        return getattr(self._reader, "meta", None)

    def object_graph(self) -> "pb.TrackableObjectGraph | None":
        """The objects that an object-based checkpoint (TensorFlow 2) was saved from; None for a checkpoint by names."""
        if OBJECT_GRAPH_KEY not in self:
            return None
        from google.protobuf.message import DecodeError

        from bnexport.protos import tensorflow_pb2 as pb

        value = self.read(OBJECT_GRAPH_KEY)
        try:
            return pb.TrackableObjectGraph.FromString(value.item())
        except (DecodeError, TypeError, ValueError) as error:
            raise CorruptCheckpoint(f"{self.prefix}: {OBJECT_GRAPH_KEY} is not a TrackableObjectGraph: save the checkpoint again") from error

    def variable_keys(self) -> dict[str, str]:
        """For an object-based checkpoint the key of each variable, by the names that people know it by.

        These are its path in the object graph (`layer/kernel`, which the key has before `/.ATTRIBUTES/VARIABLE_VALUE`) and the name that it had in
        the program (`dense/kernel`), where one was saved and no two variables share it. Empty for a checkpoint by names.
        """
        if OBJECT_GRAPH_KEY not in self:
            return {}
        return self.program_names() | {_unescape(key.removesuffix(VALUE_SUFFIX)): key for key in self._names if key.endswith(VALUE_SUFFIX)}

    def program_names(self) -> dict[str, str]:
        """For an object-based checkpoint the keys by the names that variables had in the program, of which no two have the same."""
        graph = self.object_graph()
        keys: dict[str, set[str]] = {}
        for node in graph.nodes if graph is not None else ():
            for attribute in node.attributes:
                if attribute.full_name and attribute.checkpoint_key in self and attribute.checkpoint_key.endswith(VALUE_SUFFIX):
                    keys.setdefault(attribute.full_name, set()).add(attribute.checkpoint_key)
        return {name: found.pop() for name, found in keys.items() if len(found) == 1}

    def _known(self, name: str) -> str:
        if name in self:
            return name
        from difflib import get_close_matches

        near = get_close_matches(name, self._names, 3)
        hint = f"did you mean {' or '.join(map(repr, near))}?" if near else f"it holds {len(self)} others; list them with `bnexport inspect`"
        raise TensorNotFound(f"{self.prefix} has no tensor {name!r}: {hint}")


def _without_variables(location: Location) -> CheckpointNotFound:
    """The error for a .meta by itself."""
    from bnexport.checkpoint.graph_files import refuse_graph_alone

    assert location.meta is not None
    refuse_graph_alone(location.meta)
    others = checkpoints_beside(location.meta)
    hint = f", or give {others[0]} with --graph {location.meta}" if others else ""
    return CheckpointNotFound(
        f"{location.meta} has no variables beside it: there are no weights to read; copy the checkpoint's .index and .data files too{hint}"
    )


def _reader(location: Location) -> "Bundle | SavedSlices | FrozenGraph":
    if location.version == 2:
        return Bundle(location.prefix, location.files[0])
    if location.is_frozen:
        from bnexport.checkpoint.frozen import FrozenGraph

        return FrozenGraph(location.prefix, saved_model=location.saved_model is not None)
    # Few checkpoints are that old.
    from bnexport.checkpoint.v1 import SavedSlices

    return SavedSlices(location.files)


def _unescape(path: str) -> str:
    """A path of local names, in which `.S` stands for a slash and `..` for a dot; `.OPTIMIZER_SLOT`, which is no name, stays as it is."""
    return re.sub(r"\.([.S])", lambda escaped: "/" if escaped[1] == "S" else ".", path)
