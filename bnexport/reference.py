"""TensorFlow itself, where it is installed, evaluating the network that a bundle was made from.

The graph is imported as it was saved and the checkpoint restored by its own saver. What makes it inference is fed, as the bundle's record says:
flags, keep probabilities, moving statistics in place of the batch's. Only what cannot be fed is changed in the graph before it is imported: dropout
with a constant probability is bypassed, and a fused batch norm that can only train gets its variables. No kernel of bnexport's is used here.
"""

import os
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bnexport.checkpoint import Checkpoint, Location
from bnexport.checkpoint.paths import GRAPH_SUFFIX
from bnexport.errors import BnexportError
from bnexport.graph import ops

if TYPE_CHECKING:
    from bnexport.graph.graphdef import Ref
    from bnexport.graph.inference import Inference
    from bnexport.options import Options

NDArray = np.ndarray[Any, Any]

_COLLECTIONS = ("variables", "trainable_variables", "local_variables")
_TABLE_COLLECTIONS = ("table_initializer", "saved_model_main_op", "legacy_init_op")
_INIT_SIGNATURE = "__saved_model_init_op"
_UNFED = re.compile(r"You must feed a value for placeholder tensor '(\S+)'")
_GONE = re.compile(r"Tensor (\S+), specified in either feed_devices or fetch_devices was not found")


class Unavailable(BnexportError):
    """TensorFlow is not installed, or cannot evaluate this network; the message says why."""


@dataclass(slots=True)
class Variables:
    """How the variables of a checkpoint read, compared bit for bit with `tf.train.load_checkpoint`.

    Attributes:
        compared: how many there are.
        different: the names of those that differ in dtype, shape or any bit.
    """

    compared: int = 0
    different: list[str] = field(default_factory=list)


def tensorflow() -> Any:
    """The module tensorflow.

    Raises:
        Unavailable: it is not installed, or cannot be loaded.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        with _quiet(), _silent():
            import tensorflow as tf  # type: ignore[import-untyped,unused-ignore]  # ships types in some versions only
    except ImportError as error:
        raise Unavailable("TensorFlow is not installed") from error
    tf.compat.v1.logging.set_verbosity(tf.compat.v1.logging.ERROR)
    return tf


@contextmanager
def _quiet() -> Iterator[None]:
    """TensorFlow warns of its own past: what the graphs of TensorFlow 1 are made of is deprecated."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def _silent() -> Iterator[None]:
    """Without what TensorFlow's libraries write past Python to standard error when they are loaded: the machine's instructions, missing drivers."""
    kept = os.dup(2)
    try:
        with Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def compare_variables(checkpoint: Checkpoint) -> Variables:
    """Reads every tensor of a checkpoint with TensorFlow too.

    Raises:
        Unavailable: there is no TensorFlow, or it does not read the checkpoint.
        CheckpointError: bnexport does not.
    """
    tf = tensorflow()
    found = Variables()
    try:
        reader = _Constants(tf, checkpoint.location) if checkpoint.location.is_frozen else tf.train.load_checkpoint(str(checkpoint.prefix))
        for name in checkpoint.names():
            found.compared += 1
            if not _same_bits(checkpoint.read(name), reader.get_tensor(name)):
                found.different.append(name)
    except (tf.errors.OpError, RuntimeError, ValueError) as error:
        raise Unavailable(f"TensorFlow does not read {checkpoint.prefix}: {_first_line(error)}") from error
    return found


class _Constants:
    """The constants of a frozen graph, by the method that a checkpoint's reader has."""

    def __init__(self, tf: Any, location: Location) -> None:
        self._tf = tf
        self._nodes = {node.name: node for node in _meta_graph(tf, location).graph_def.node}

    def get_tensor(self, name: str) -> NDArray:
        array = np.asarray(self._tf.make_ndarray(self._nodes[name].attr["value"].tensor))
        return array if array.dtype.names is None else array[array.dtype.names[0]]  # quantised numbers are called so


def _same_bits(ours: NDArray, theirs: Any) -> bool:
    if ours.dtype.hasobject:  # text, of which TensorFlow gives one alone as bytes
        texts = np.asarray(theirs, object)
        return bool(ours.shape == texts.shape and ours.reshape(-1).tolist() == texts.reshape(-1).tolist())
    theirs = np.asarray(theirs)
    return bool(ours.dtype == theirs.dtype and ours.shape == theirs.shape and ours.tobytes() == theirs.tobytes())


class Session:
    """A TensorFlow session of the network in its own precision. A context manager.

    Attributes:
        version: TensorFlow's.
    """

    def __init__(self, location: Location, options: "Options", record: Mapping[str, Any]) -> None:
        """
        Args:
            options: as the bundle was converted with.
            record: the bundle's `conversion`.

        Raises:
            Unavailable: TensorFlow is not installed, there is no graph, or TensorFlow cannot import or restore it.
        """
        if location.graph is None or not options.use_graph:
            raise Unavailable("there is no graph that TensorFlow could evaluate")
        from bnexport.graph.inference import read_inference

        self._tf = tf = tensorflow()
        self.version = str(tf.__version__)
        self._inference: Inference = read_inference(location, options)
        self._record = record
        self._feeds: dict[Any, NDArray] = {}
        self._meta = _meta_graph(tf, location)
        self._names = {node.name for node in self._meta.graph_def.node}
        self._signature = self._inference.live.graph.signature(options.signature)
        self._bypass(self._baked())
        try:
            with _quiet(), _silent():
                self._session = self._restored(location)
                self._decide()
        except (tf.errors.OpError, ValueError, KeyError, TypeError, RuntimeError) as error:
            raise Unavailable(f"TensorFlow {self.version} cannot load the graph: {_first_line(error)}") from error

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, *_: object) -> None:
        self._session.close()

    def evaluate(self, feeds: Mapping[str, NDArray]) -> dict[str, NDArray]:
        """The tensors of the unfolded network that TensorFlow's graph has too, by the program's names, and the outputs as `output:NAME`.

        Args:
            feeds: rows by the names of the inputs.

        Raises:
            Unavailable: TensorFlow fails.
        """
        with _quiet():
            sparse = {name: parts for ref, name in self._inference.inputs.items() if (parts := self._sparse_parts(ref)) is not None}
            inputs = {
                name: self._named([*self._signed("inputs", name), str(ref), name], name)
                for ref, name in self._inference.inputs.items()
                if name not in sparse
            }
            try:
                fed = {tensor: array for name, parts in sparse.items() for tensor, array in _as_sparse(parts, feeds[name]).items()}
                return _joined(
                    self._run({t: part[n].astype(t.dtype.as_numpy_dtype) for n, t in inputs.items()} | fed, rows)
                    for part, rows in self._batches({} if sparse else inputs, feeds)
                )
            except (self._tf.errors.OpError, ValueError, TypeError) as error:
                raise Unavailable(f"TensorFlow {self.version} cannot evaluate the graph: {_first_line(error)}") from error

    def _sparse_parts(self, ref: "Ref") -> tuple[Any, ...] | None:
        """The tensors that positions, values and shape of a sparse tensor are fed to, where the network has a dense one in its place."""
        from bnexport.graph.sparse_inputs import PARTS

        parts = self._inference.live.graph.nodes[ref.node].attrs.get(PARTS)
        return None if parts is None else tuple(self._named([str(part)], str(ref)) for part in parts)

    def _batches(self, tensors: Mapping[str, Any], feeds: Mapping[str, NDArray]) -> Iterator[tuple[dict[str, NDArray], int | None]]:
        """The rows in batches of the size that the graph has baked into its inputs, the last one filled up; with each how many of its rows count."""
        sizes = {tensor.shape[0] for tensor in tensors.values() if tensor.shape.rank and tensor.shape[0] is not None}
        counts = {len(feeds[name]) for name in tensors if feeds[name].ndim}
        if len(sizes) != 1 or len(counts) != 1 or sizes == counts:
            yield dict(feeds), None
            return
        (batch,), (count,) = sizes, counts
        if self._record.get("uses_batch"):
            raise Unavailable(f"the graph takes statistics over batches of {batch} rows, and there are {count}")
        for start in range(0, count, batch):
            rows = min(batch, count - start)
            filled = {
                name: np.concatenate([value[start : start + rows], np.repeat(value[-1:], batch - rows, axis=0)]) for name, value in feeds.items()
            }
            yield filled, rows

    def _run(self, inputs: Mapping[Any, NDArray], rows: int | None) -> dict[str, NDArray]:
        """One batch; of results that have as many rows as it, or a multiple, those of the first `rows`."""
        fed = {**self._feeds, **inputs}
        layers = {}
        for ref, name in self._inference.lowered.tensors.items():
            tensor = self._tensor([str(ref), f"{ref.node.removesuffix('/inference')}:{ref.output}"])
            if tensor is not None and tensor not in fed:
                layers[name] = tensor
        outputs = {
            f"output:{name}": self._named([*self._signed("outputs", name), str(ref), name], name) for name, ref in self._inference.outputs.items()
        }
        self._settle_dropout(fed)
        # The outputs by themselves, as people run them: what else is fetched keeps TensorFlow from fusing operations.
        scores = self._scores(outputs, fed)
        results = {**self._layers(layers, fed), **scores}
        if rows is None:
            return results
        batch = max(len(value) for value in inputs.values())
        return {name: value[: len(value) // batch * rows] if value.ndim and len(value) % batch == 0 else value for name, value in results.items()}

    def _scores(self, wanted: dict[str, Any], fed: dict[Any, NDArray]) -> dict[str, NDArray]:
        """Tensors that do not depend on what is not fed yet: a rate on a side of a condition that is not taken needs a value all the same."""
        try:
            return dict(self._session.run(wanted, fed))
        except self._tf.errors.InvalidArgumentError as error:
            unfed = _UNFED.search(error.message)
            tensor = None if unfed is None else self._tensor([unfed[1]])
            if tensor is None or tensor in fed:
                raise
            fed[tensor] = self._feeds[tensor] = np.full(_sizes(tensor), 0.5).astype(tensor.dtype.as_numpy_dtype)
        return self._scores(wanted, fed)

    def _layers(self, wanted: dict[str, Any], fed: Mapping[Any, NDArray]) -> dict[str, NDArray]:
        """Tensors on the way, without those that TensorFlow's optimizer does away with even though they are asked for."""
        try:
            return dict(self._session.run(wanted, fed))
        except self._tf.errors.InvalidArgumentError as error:
            gone = _GONE.search(error.message)
            kept = {name: tensor for name, tensor in wanted.items() if gone is not None and tensor.name != gone[1]}
            if gone is None or len(kept) == len(wanted):
                raise
        return self._layers(kept, fed)

    # ---- the graph as it is imported

    def _baked(self) -> dict[str, str]:
        """What stands in place of outputs that no feed can change: of dropout whose probability the graph holds as a constant."""
        fed = {entry["node"] for entry in self._record.get("dropped", ()) if entry.get("fed_by")}
        from bnexport.graph.graphdef import Ref

        baked = {}
        for entry in self._record.get("dropped", ()):
            source = self._inference.live.replaced.get(Ref(entry["node"]))
            if source is not None and entry["node"] not in fed and source.node in self._names:
                baked[entry["node"]] = str(source)
        return baked

    def _bypass(self, baked: Mapping[str, str]) -> None:
        def followed(name: str) -> str:
            while name.removesuffix(":0") in baked:
                name = baked[name.removesuffix(":0")]
            return name

        for node in self._meta.graph_def.node:
            node.input[:] = [followed(name) for name in node.input]
            if "Grad" in node.op:
                # No gradient is run, but TensorFlow refuses graphs in which an old version noted other shapes of theirs.
                node.attr.pop("_output_shapes", None)
        nodes = {node.name: node for node in self._meta.graph_def.node}
        for entry in self._record.get("statistics", ()):
            node = nodes.get(_parsed(entry["in_place_of"])[0])
            if node is not None and node.op.startswith("FusedBatchNorm"):
                # The record has the mean before the variance, which is the order of the operands.
                self._use_variable(node, 4 if not node.attr["is_training"].b else 3, nodes[entry["variable"]])

    def _use_variable(self, node: Any, operand: int, variable: Any) -> None:
        """Takes a fused batch norm out of training mode, with a variable as its mean (operand 3) or variance (4)."""
        node.attr["is_training"].b = False
        node.input[operand] = variable.name
        if variable.op == "VarHandleOp":
            read = self._meta.graph_def.node.add(name=f"{node.name}/moving_{operand}", op="ReadVariableOp", input=[variable.name])
            read.attr["dtype"].CopyFrom(variable.attr["dtype"])
            node.input[operand] = read.name

    def _restored(self, location: Location) -> Any:
        from bnexport.checkpoint.graph_files import asset_files

        v1 = self._tf.compat.v1
        graph = self._tf.Graph()
        fills = _that_fill_tables(self._meta)
        assert location.graph is not None
        assets = {name: str(file) for name, file in asset_files(self._meta, location.graph).items()}
        for key in [key for key in self._meta.collection_def if key not in _COLLECTIONS]:
            del self._meta.collection_def[key]  # summaries, queues and training operations, some of which are not in the graph that was saved
        with graph.as_default():
            saver = v1.train.import_meta_graph(self._meta, clear_devices=True)
            session = v1.Session(graph=graph)
            self._has_saver = saver is not None
            if saver is not None:
                saver.restore(session, str(location.prefix))
            with suppress(self._tf.errors.OpError):  # tables that stay empty say so when they are asked
                session.run([graph.as_graph_element(name) for name in fills if name.partition(":")[0] in self._names], assets)
        return session

    # ---- what makes it inference

    def _decide(self) -> None:
        """Flags, averages and statistics, as the record says."""
        for entry in self._record.get("set", ()):
            self._give(entry["node"], np.asarray(entry["value"]))
        variables = self._inference.live.variables
        for entry in self._record.get("statistics", ()):
            name, output = _parsed(entry["in_place_of"])
            tensor = self._tensor([f"{name}:{output}"])
            if tensor is not None and not tensor.op.type.startswith("FusedBatchNorm"):
                value = variables.value(self._inference.live.graph.nodes[entry["variable"]])
                self._feeds[tensor] = value.reshape(tensor.shape.as_list()) if tensor.shape.is_fully_defined() else value
        averaged = bool((self._record.get("averages") or {}).get("taken"))
        nodes = (self._inference.live.graph.nodes[name] for name in self._inference.order)
        for node in (node for node in nodes if node.op in ops.VARIABLES):
            if averaged or not self._has_saver or not variables.restored(node):
                self._give(node.name, variables.value(node))

    def _give(self, name: str, value: NDArray) -> None:
        """Gives a variable a value, and feeds anything else."""
        graph = self._session.graph
        with graph.as_default():
            variable = next((v for v in self._tf.compat.v1.global_variables() if v.op.name == name), None)
            if variable is not None:
                value = np.broadcast_to(value.astype(variable.dtype.base_dtype.as_numpy_dtype), _sizes(variable) if value.size == 1 else value.shape)
                variable.load(value, self._session)
                return
        tensor = self._tensor([f"{name}:0"])
        if tensor is None:
            raise ValueError(f"{name}, which was given a value, is inside a function")
        if tensor.op.type in ops.VARIABLES:
            self._assign(tensor, value)
            return
        shape = _sizes(tensor) if value.size == 1 else value.shape  # one value may stand for all
        self._feeds[tensor] = np.broadcast_to(value.astype(tensor.dtype.as_numpy_dtype), shape)

    def _assign(self, handle: Any, value: NDArray) -> None:
        """Gives a value to a variable that no collection of the graph lists."""
        value = value.astype(handle.op.get_attr("dtype").as_numpy_dtype)
        with self._session.graph.as_default():
            resource = handle.dtype == self._tf.resource
            assigned = self._tf.raw_ops.AssignVariableOp(resource=handle, value=value) if resource else self._tf.compat.v1.assign(handle, value)
        self._session.run(assigned)

    def _settle_dropout(self, fed: dict[Any, NDArray]) -> None:
        """Feeds keep probabilities 1 and rates 0. The other way round dropout drops everything, which is how the two are told apart."""
        entries = [entry for entry in self._record.get("dropped", ()) if entry.get("fed_by")]
        switches = [switch for entry in entries if (switch := self._tensor([entry["fed_by"]])) is not None and switch not in fed]
        trial = {switch: np.ones(_sizes(switch), switch.dtype.as_numpy_dtype) for switch in switches}
        for entry in entries:
            switch, result = self._tensor([entry["fed_by"]]), self._tensor([entry["node"]])
            if switch is None or result is None:
                raise Unavailable(f"the dropout at {entry['node']} is inside a function, where its probability cannot be told from a rate")
            if switch in fed:
                continue
            values = {}
            for value in (1, 0):
                trial[switch] = np.full(_sizes(switch), value, switch.dtype.as_numpy_dtype)
                values[value] = self._session.run(result, {**trial, **fed})
            kept = [value for value, numbers in values.items() if np.isfinite(numbers).all() and numbers.any()]
            if len(kept) != 1:
                raise Unavailable(f"nothing tells whether {entry['fed_by']} is the probability or the rate of the dropout at {entry['node']}")
            fed[switch] = self._feeds[switch] = np.full(_sizes(switch), kept[0], switch.dtype.as_numpy_dtype)

    # ---- names

    def _tensor(self, names: Iterable[str]) -> Any:
        graph = self._session.graph
        for name in names:
            node, output = _parsed(name)
            try:
                operation = graph.get_operation_by_name(node)
            except (KeyError, ValueError):
                continue
            if output < len(operation.outputs):
                return operation.outputs[output]
        return None

    def _named(self, names: Iterable[str], name: str) -> Any:
        tensor = self._tensor(names)
        if tensor is None:
            raise Unavailable(f"TensorFlow's graph has no tensor for {name}")
        return tensor

    def _signed(self, kind: str, name: str) -> list[str]:
        """The tensor that the signature gives for one of its `inputs` or `outputs`."""
        info = getattr(self._signature, kind).get(name) if self._signature else None
        return [info.name] if info is not None and info.name else []


def _that_fill_tables(meta: Any) -> list[str]:
    """The operations that fill a graph's tables: those that its training lists, or what a SavedModel runs when it is loaded."""
    names = [name for key, listed in meta.collection_def.items() if key in _TABLE_COLLECTIONS for name in listed.node_list.value]
    names += [info.name for key, signature in meta.signature_def.items() if key == _INIT_SIGNATURE for info in signature.outputs.values()]
    return list(dict.fromkeys(names))


def _joined(parts: Iterable[dict[str, NDArray]]) -> dict[str, NDArray]:
    results = list(parts)
    if len(results) == 1:
        return results[0]
    return {name: np.concatenate([part[name] for part in results]) if value.ndim else value for name, value in results[0].items()}


def _meta_graph(tf: Any, location: Location) -> Any:
    """The MetaGraphDef of the file that bnexport reads too: the serving part of a SavedModel, or around a graph that has none.

    A graph that `--graph` named may not say how variables are restored: as savers by default do.
    """
    from google.protobuf.message import DecodeError

    from bnexport.checkpoint.graph_files import parse, serving_graph

    path, v1 = location.graph, tf.compat.v1
    assert path is not None
    meta = v1.MetaGraphDef()
    try:
        if location.saved_model is not None:
            from tensorflow.core.protobuf import saved_model_pb2  # type: ignore[import-untyped,unused-ignore]  # as tensorflow itself

            return serving_graph(parse(path, saved_model_pb2.SavedModel()).meta_graphs)
        if path.suffix.lower() == GRAPH_SUFFIX:
            meta.graph_def.ParseFromString(path.read_bytes())
        else:
            parse(path, meta)
    except DecodeError as error:
        raise Unavailable("TensorFlow cannot read the graph") from error
    names = {node.name for node in meta.graph_def.node}
    if not location.is_frozen and not meta.HasField("saver_def") and {"save/Const", "save/control_dependency", "save/restore_all"} <= names:
        meta.saver_def.filename_tensor_name, meta.saver_def.restore_op_name = "save/Const:0", "save/restore_all"
        meta.saver_def.save_tensor_name, meta.saver_def.version = "save/control_dependency:0", v1.train.SaverDef.V2
    return meta


def _as_sparse(parts: Iterable[Any], dense: NDArray) -> dict[Any, NDArray]:
    """What to feed of a dense tensor to the positions, the values and the shape of a sparse one; the shape may be a constant."""
    at = np.nonzero(dense)
    fed = zip(parts, (np.stack(at, axis=-1), dense[at], np.array(dense.shape)), strict=True)
    return {tensor: array.astype(tensor.dtype.as_numpy_dtype) for tensor, array in fed if tensor.op.type.startswith("Placeholder")}


def _sizes(tensor: Any) -> tuple[int, ...]:
    """The shape of a setting: of a scalar unless it says otherwise; of a vector of any length, such as a probability for each layer, a long one."""
    from bnexport.graph.dropout import MANY

    return tuple(MANY if size is None else size for size in tensor.shape.as_list()) if tensor.shape.rank is not None else ()


def _parsed(name: str) -> tuple[str, int]:
    node, _, output = name.partition(":")
    return node, int(output or 0)


def _first_line(error: BaseException) -> str:
    message = getattr(error, "message", None) or str(error) or type(error).__name__
    lines = str(message).strip().splitlines()
    why = [line for line in lines if not line.startswith((" ", "\t", "Graph execution error", "Detected at", "Node:", "Original stack", "node "))]
    return next((line.strip() for line in why if line.strip()), lines[0])[:200]
