"""Which files make up the checkpoint that somebody points to.

People give the prefix, as TensorFlow wants it, or whichever file they see: `.index`, `.meta`, `.data-00000-of-00001`, the folder, the text file
`checkpoint` in it, a SavedModel. All of them say the same checkpoint.
"""

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath

from bnexport.checkpoint.files import impostor, other_kind
from bnexport.checkpoint.table import MAGIC
from bnexport.errors import CheckpointError, CheckpointNotFound, CorruptCheckpoint

STATE_FILE = "checkpoint"
GRAPH_FILE = "graph.pbtxt"
SAVED_MODEL = "saved_model.pb"
_SAVED_MODELS = (SAVED_MODEL, "saved_model.pbtxt")
GRAPH_SUFFIX, TEXT_SUFFIX = ".pb", ".pbtxt"

_SIBLING = re.compile(r"(?P<prefix>.+)(?:\.index|\.meta|\.data-(?:\d{5}|\?{5})-of-\d{5})")
_SHARD = re.compile(r"(?P<prefix>.+)-(?:\d{5}|\?{5})-of-\d{5}")
_DATA = frozenset({".npy", ".npz"})  # what a network was tried with, say
_STEP = re.compile(r"-\d+$")
_LISTED = 10


@dataclass(slots=True)
class Location:
    """The files of one checkpoint.

    `prefix` is what TensorFlow calls the checkpoint. `index` is the `.index` file of version 2, or the (first) file of version 1, and `files` are
    that one or all the files of version 1; None and none where there is only a graph. `meta` and `saved_model` are the files of the graph.
    A frozen graph (version 0) is all of these in one file, be it a SavedModel's or one by itself.
    """

    prefix: Path
    index: Path | None
    meta: Path | None
    saved_model: Path | None
    version: int
    files: tuple[Path, ...]

    @property
    def is_frozen(self) -> bool:
        """Whether variables and graph are those of a frozen graph."""
        return self.version == 0

    @property
    def graph(self) -> Path | None:
        """The file of the graph."""
        return self.saved_model or self.meta or (self.prefix if self.is_frozen else None)


def locate(path: "str | Path", graph: "str | Path | None" = None) -> Location:
    """The checkpoint that `path` points to, with another file for its `graph` if one is given.

    Raises `CheckpointNotFound` with what there is to choose from, and `CorruptCheckpoint` for a file that is none of a checkpoint's.
    """
    location = _find(Path(path))
    if graph is None:
        return location
    if not _is_file(Path(graph)):
        raise CheckpointNotFound(f"--graph: there is no file {graph}; give a .meta or a graph.pbtxt")
    if location.is_frozen:
        raise CheckpointError(f"--graph: {location.prefix} is a frozen graph, which is all that is needed; leave the option out")
    location.meta, location.saved_model = Path(graph), None
    return location


def _find(path: Path) -> Location:
    """The checkpoint that `path` points to, by any of its files, its prefix, its folder, or the folder of a SavedModel.

    Only names are looked at, and the last bytes of a file that could be version 1. In a folder the `checkpoint` file decides, whose paths are
    looked up beside it, for they are often those of another machine; without one the folder must hold a single checkpoint. A file that ends in `.pb`
    or `.pbtxt` is taken for a frozen graph.
    Raises `CheckpointNotFound` with what there is to choose from, and `CorruptCheckpoint` for a file that is none of a checkpoint's.
    """
    # As for TensorFlow, a prefix comes before a folder of the same name.
    if _is_folder(path) and not _is_file(path.parent / f"{path.name}.index"):
        return _in_folder(path)
    if path.name in _SAVED_MODELS and _is_file(path):
        return _in_folder(path.parent)
    if path.name == STATE_FILE and _is_file(path) and not _is_table(path):
        return _from_state(path)
    sibling, shard = _SIBLING.fullmatch(path.name), _SHARD.fullmatch(path.name)
    match = sibling or shard
    found = _at_prefix(path.with_name(match["prefix"])) if match else None
    if found is None and not shard:
        # Also where the name looks like that of a sibling: a prefix may end in `.index`.
        found = _at_prefix(path)
    if found is not None:
        return found
    if not _is_file(path):
        raise _nothing_at(path)
    if path.suffix.lower() in (GRAPH_SUFFIX, TEXT_SUFFIX):
        return Location(path, None, None, None, 0, (path,))
    if not match:
        raise CorruptCheckpoint(
            impostor(path)
            or other_kind(path)
            or f"{path} is neither a checkpoint nor one of its files: give a prefix, its .index or .meta file, or the folder; or a frozen graph (.pb)"
        )
    raise _nothing_at(path)


def graphs_beside(location: Location) -> list[Path]:
    """Files beside a checkpoint that may hold its graph: that of another step, as savers write it once, and what an Estimator leaves as text."""
    prefix = location.prefix
    stem = _STEP.sub("", prefix.name)
    files = sorted(_files(prefix.parent))
    metas = [file for file in files if file.suffix == ".meta" and _STEP.sub("", file.stem) == stem]
    return metas + [file for file in files if file.name == GRAPH_FILE]


def checkpoints_beside(graph: Path) -> list[Path]:
    """The prefixes of the checkpoints in the folder of a graph's file."""
    return [prefix for prefix in _prefixes(graph.parent) if (found := _at_prefix(prefix)) is not None and found.files]


def is_checkpoint(path: "str | Path") -> bool:
    """Whether `locate` finds a checkpoint there."""
    try:
        locate(path)
    except CheckpointError:
        return False
    return True


def _at_prefix(prefix: Path) -> Location | None:
    """The checkpoint whose prefix is exactly this; None where neither an index nor a graph has that name."""
    if not prefix.name:
        return None
    index = prefix.with_name(prefix.name + ".index")
    meta = _existing(prefix.with_name(prefix.name + ".meta"))
    saved_model = _saved_model(prefix.parent.parent) if prefix.parent.name == prefix.name == "variables" else None
    if _is_file(index):
        return Location(prefix, index, meta, saved_model, 2, (index,))
    files = (prefix,) if _is_file(prefix) and _is_table(prefix) else tuple(_shards(prefix))
    if files:
        return Location(prefix, files[0], meta, saved_model, 1, files)
    if meta and not any(_siblings(prefix)) and not _shard_names(prefix):
        return Location(prefix, None, meta, saved_model, 2, ())
    return None


def _saved_model(folder: Path) -> Path | None:
    """The file of a SavedModel; TensorFlow looks for the binary form first."""
    return next((file for name in _SAVED_MODELS if (file := _existing(folder / name)) is not None), None)


def _in_folder(folder: Path) -> Location:
    saved_model = _saved_model(folder)
    if saved_model is not None:
        found = _at_prefix(folder / "variables" / "variables")
        return found or Location(saved_model, None, None, saved_model, 0, (saved_model,))
    state = folder / STATE_FILE
    if _is_file(state) and not _is_table(state):
        return _from_state(state)
    prefixes = _prefixes(folder)
    if len(prefixes) > 1:
        raise CheckpointNotFound(f"{folder} holds {len(prefixes)} checkpoints and no `{STATE_FILE}` file that chooses one: give {_listed(prefixes)}")
    found = _at_prefix(prefixes[0]) if prefixes else None
    if found is None:
        raise _nothing_at(folder)
    return found


def _from_state(state: Path) -> Location:
    """The latest checkpoint according to a `checkpoint` file, a CheckpointState message in text format."""
    impostor_message = impostor(state)
    try:
        text = state.read_text(encoding="utf-8-sig", errors="surrogateescape")
    except OSError as error:
        raise CheckpointNotFound(f"{state} cannot be read ({error.strerror}): give the checkpoint's prefix") from error
    paths = _text_field(text, "model_checkpoint_path")
    if not paths:
        raise CorruptCheckpoint(impostor_message or f"{state} names no checkpoint (it has no model_checkpoint_path): give the checkpoint's prefix")
    latest = paths[-1]
    for candidate in _resolutions(state.parent, latest):
        sibling = _SIBLING.fullmatch(candidate.name)  # what was edited by hand may name a file, not the prefix
        found = (sibling and _at_prefix(candidate.with_name(sibling["prefix"]))) or _at_prefix(candidate)
        if found is not None:
            return found
    others = _prefixes(state.parent)
    hint = f"give {_listed(others)}" if others else "copy its .index and .data files there"
    raise CheckpointNotFound(f"{state} names {latest[0]!r}, which is not in that folder: {hint}")


def _resolutions(folder: Path, spellings: tuple[str, str]) -> Iterator[Path]:
    """Where a path of a `checkpoint` file may be, the likeliest first.

    The file's own folder comes before the absolute path, for a copied folder still names the original. A path that Windows wrote has backslashes,
    and one that was edited by hand has them unescaped.
    """
    for spelling in dict.fromkeys(spellings):
        prefix = _shardless(spelling)
        windows = PureWindowsPath(prefix)
        if not windows.name:
            continue
        if not Path(prefix).is_absolute() and not windows.drive:
            yield folder / prefix
            if not windows.root:
                yield folder.joinpath(*windows.parts)
        yield folder / windows.name
        if Path(prefix).is_absolute():
            yield Path(prefix)


def _shardless(prefix: str) -> str:
    """The prefix of a sharded version 1 checkpoint, which a `checkpoint` file writes as `prefix-?????-of-00002`."""
    match = _SHARD.fullmatch(prefix)
    return match["prefix"] if match else prefix


def _text_field(text: str, name: str) -> list[tuple[str, str]]:
    """The values of a string field of a message in text format: unescaped, and as they stand."""
    found = re.findall(rf"""^\s*{name}\s*:\s*(?:"((?:[^"\\\n]|\\.)*)"|'((?:[^'\\\n]|\\.)*)')""", text, re.MULTILINE)
    return [(_unescape(double or single), double or single) for double, single in found]


_ESCAPES = {"n": b"\n", "t": b"\t", "r": b"\r", "a": b"\a", "b": b"\b", "f": b"\f", "v": b"\v", "\\": b"\\", "'": b"'", '"': b'"', "?": b"?"}


def _unescape(text: str) -> str:
    """A string of protobuf's text format without its C escapes; one that does not exist stays as it is."""

    def replace(match: re.Match[str]) -> str:
        escape = match[1]
        if escape[0] in "01234567":
            return bytes([int(escape, 8) & 0xFF]).decode("latin-1")
        if escape[0] in "xX" and len(escape) > 1:
            return bytes([int(escape[1:], 16)]).decode("latin-1")
        return _ESCAPES[escape].decode("latin-1") if escape in _ESCAPES else match[0]

    # Escapes stand for bytes, several of which may make up one character.
    as_bytes = text.encode(errors="surrogateescape").decode("latin-1")
    unescaped = re.sub(r"\\([0-7]{1,3}|[xX][0-9a-fA-F]{1,2}|.)", replace, as_bytes, flags=re.DOTALL)
    return unescaped.encode("latin-1").decode(errors="surrogateescape")


def _prefixes(folder: Path) -> list[Path]:
    """The prefixes of the checkpoints in a folder, sorted: of version 2, or of version 1 where there is none, or of graphs where there is neither."""
    files = sorted(_files(folder))
    # A version 1 file can have any name, so its contents decide.
    return _named(files, ".index") or sorted({file.with_name(_shardless(file.name)) for file in files if _is_table(file)}) or _named(files, ".meta")


def _named(files: Iterable[Path], suffix: str) -> list[Path]:
    """The files that have a suffix, without it."""
    return [file.with_name(file.name[: -len(suffix)]) for file in files if file.name.endswith(suffix) and file.name != suffix]


def _shards(prefix: Path) -> list[Path]:
    """The files of a sharded version 1 checkpoint; none unless all are there."""
    files = [file for file in _shard_names(prefix) if _is_table(file)]
    complete = bool(files) and len(files) == int(files[0].name.rpartition("-")[2])
    return files if complete else []


def _shard_names(prefix: Path) -> list[Path]:
    """The files that are named as the shards of a version 1 checkpoint are, sorted."""
    matches = ((file, _SHARD.fullmatch(file.name)) for file in _siblings(prefix, "-"))
    return sorted(file for file, match in matches if match and match["prefix"] == prefix.name and not _SIBLING.fullmatch(file.name))


def _siblings(prefix: Path, separator: str = ".data-") -> Iterator[Path]:
    """The files beside `prefix` whose names go on with `separator`."""
    return (file for file in _files(prefix.parent) if file.name.startswith(prefix.name + separator))


def _files(folder: Path) -> Iterator[Path]:
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in entries if entry.is_file()]
    except OSError:
        return iter(())
    return (folder / name for name in names)


def _is_table(path: Path) -> bool:
    """Whether a file ends as the table of a version 1 checkpoint does."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - len(MAGIC)))
            return file.read() == MAGIC
    except OSError:
        return False


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:
        # Such as a name, from a damaged `checkpoint` file, that is longer than names can be.
        return False


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:
        return False


def _existing(path: Path) -> Path | None:
    return path if _is_file(path) else None


def _folders_with_one(folder: Path) -> list[Path]:
    """The folders in a folder that hold a checkpoint: an export, say, is a folder of SavedModels by the time they were made."""
    try:
        inside = sorted(path for path in folder.iterdir() if _is_folder(path))
    except OSError:
        return []
    return [path for path in inside if _saved_model(path) or _prefixes(path)]


def _nothing_at(path: Path) -> CheckpointNotFound:
    """The error for a path that leads to no checkpoint, with what lies there instead."""
    if _is_folder(path):
        data = [file for file in sorted(_files(path)) if _SIBLING.fullmatch(file.name)]
        if data:
            return _index_missing(data[0])
        inside = [*sorted(file for file in _files(path) if file.suffix.lower() == GRAPH_SUFFIX), *_folders_with_one(path)]
        kinds = (other_kind(file) for file in sorted(_files(path)) if file.suffix not in _DATA)
        other = None if inside else next(filter(None, kinds), None)
        if other is not None:
            return CheckpointNotFound(f"{path} holds no checkpoint: {other}")
        hint = f"give {_listed(inside)}" if inside else f"give a folder with a .index file or a {SAVED_MODEL}, or the checkpoint's prefix"
        return CheckpointNotFound(f"{path} holds no checkpoint: {hint}")
    match = _SIBLING.fullmatch(path.name) or _SHARD.fullmatch(path.name)
    prefix = path.with_name(match["prefix"]) if match else path
    data = sorted(_siblings(prefix))
    if data:
        return _index_missing(data[0])
    shards = _shard_names(prefix)
    if shards:
        return CheckpointNotFound(f"{shards[0]} is one of several files of a checkpoint, and not all are there: copy the others to the same folder")
    if not _is_folder(path.parent):
        return CheckpointNotFound(f"{path} does not exist, nor does its folder: give the checkpoint's prefix, one of its files, or its folder")
    others = _prefixes(path.parent)
    hint = f"give {_listed(others)}" if others else "give the checkpoint's prefix, one of its files, or its folder"
    return CheckpointNotFound(f"there is no checkpoint {path}: {hint}")


def _index_missing(data: Path) -> CheckpointNotFound:
    match = _SIBLING.fullmatch(data.name)
    prefix = match["prefix"] if match else data.name
    return CheckpointNotFound(f"{data} has no {prefix}.index beside it, which says what it holds: copy that file to the same folder")


def _listed(prefixes: Iterable[Path]) -> str:
    """Prefixes to choose from, in a sentence."""
    names = [str(prefix) for prefix in prefixes]
    more = f", or one of {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return " or ".join(names[:_LISTED]) + more
