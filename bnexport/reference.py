"""TensorFlow itself, where it is installed, evaluating the network that a bundle was made from.

The graph is imported as it was saved and the checkpoint restored by its own saver; what makes it inference is fed, as the bundle's record says: flags,
keep probabilities, moving statistics in place of the batch's. Only what cannot be fed is changed in the graph before it is imported: dropout whose
probability is baked in is bypassed, and a fused batch norm that is baked into training mode gets its variables. No kernel of bnexport's is used here.
"""

import os
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from bnexport.checkpoint import Checkpoint, Location
from bnexport.errors import BnexportError

if TYPE_CHECKING:
    from bnexport.graph.graphdef import Ref
    from bnexport.graph.inference import Inference
    from bnexport.options import Options

NDArray = np.ndarray[Any, Any]


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
        with _quiet():
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


def compare_variables(checkpoint: Checkpoint) -> Variables:
    """Reads every tensor of a checkpoint with TensorFlow too.

    Raises:
        Unavailable: there is no TensorFlow, or it does not read the checkpoint.
        CheckpointError: bnexport does not.
    """
    tf = tensorflow()
    found = Variables()
    try:
        reader = tf.train.load_checkpoint(str(checkpoint.prefix))
        for name in checkpoint.names():
            found.compared += 1
            if not _same_bits(checkpoint.read(name), np.asarray(reader.get_tensor(name))):
                found.different.append(name)
    except (tf.errors.OpError, RuntimeError, ValueError) as error:
        raise Unavailable(f"TensorFlow does not read {checkpoint.prefix}: {_first_line(error)}") from error
    return found


def _same_bits(ours: NDArray, theirs: NDArray) -> bool:
    if ours.dtype.hasobject or theirs.dtype.hasobject or theirs.dtype.kind == "S":
        return bool(ours.shape == theirs.shape and ours.reshape(-1).tolist() == theirs.reshape(-1).tolist())
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
        if (location.meta is None and location.saved_model is None) or not options.use_graph:
            raise Unavailable("there is no graph that TensorFlow could evaluate")
        from bnexport.graph.inference import read_inference

        self._tf = tf = tensorflow()
        self.version = str(tf.__version__)
        self._inference: Inference = read_inference(location, options)
        self._record = record
        self._feeds: dict[Any, NDArray] = {}
        self._meta = _meta_graph(tf, location)
        self._names = {node.name for node in self._meta.graph_def.node}
        self._signature = self._meta.signature_def.get(options.signature or "serving_default")
        self._bypass(self._baked())
        try:
            with _quiet():
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
            feeds: rows by the names of the inputs; as many as the graph was built for, where it was built for a number.

        Raises:
            Unavailable: TensorFlow fails.
        """
        inference = self._inference
        with _quiet():
            fed = dict(self._feeds)
            for ref, name in inference.inputs.items():
                tensor = self._tensor(self._input_names(ref, name))
                if tensor is None:
                    raise Unavailable(f"TensorFlow's graph has no tensor for the input {name}")
                fed[tensor] = feeds[name].astype(tensor.dtype.as_numpy_dtype)
            wanted = {
                name: tensor
                for ref, name in inference.lowered.tensors.items()
                if (tensor := self._tensor([str(ref)])) is not None and tensor not in fed
            }
            for name, ref in inference.outputs.items():
                tensor = self._tensor(self._output_names(ref, name))
                if tensor is None:
                    raise Unavailable(f"TensorFlow's graph has no tensor for the output {name}")
                wanted[f"output:{name}"] = tensor
            self._settle_dropout(fed)
            try:
                return dict(self._session.run(wanted, fed))
            except (self._tf.errors.OpError, ValueError, TypeError) as error:
                raise Unavailable(f"TensorFlow {self.version} cannot evaluate the graph: {_first_line(error)}") from error

    # ---- the graph as it is imported

    def _baked(self) -> dict[str, str]:
        """What stands in place of outputs that no feed can change: of dropout whose probability the graph holds as a constant."""
        fed = {entry["node"] for entry in self._record.get("dropped", ()) if entry.get("fed_by")}
        baked = {}
        for entry in self._record.get("dropped", ()):
            from bnexport.graph.graphdef import Ref

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
        for entry in self._record.get("statistics", ()):
            self._use_variable(*_parsed(entry["in_place_of"]), entry["variable"])

    def _use_variable(self, name: str, output: int, variable: str) -> None:
        """Gives a fused batch norm in training mode its moving mean (output 1) or variance (output 2) as an operand, out of training mode."""
        nodes = {node.name: node for node in self._meta.graph_def.node}
        node, source = nodes.get(name), nodes.get(variable)
        if node is None or source is None or output not in (1, 2) or not node.op.startswith("FusedBatchNorm"):
            return
        node.attr["is_training"].b = False
        node.input[2 + output] = variable
        if source.op == "VarHandleOp":
            read = self._meta.graph_def.node.add(name=f"{name}/moving_{output}", op="ReadVariableOp", input=[variable])
            read.attr["dtype"].CopyFrom(source.attr["dtype"])
            node.input[2 + output] = read.name

    def _restored(self, location: Location) -> Any:
        v1 = self._tf.compat.v1
        graph = self._tf.Graph()
        with graph.as_default():
            saver = v1.train.import_meta_graph(self._meta, clear_devices=True)
            session = v1.Session(graph=graph)
            if saver is not None:
                saver.restore(session, str(location.prefix))
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
        if (self._record.get("averages") or {}).get("taken"):
            from bnexport.graph import ops

            nodes = (self._inference.live.graph.nodes[name] for name in self._inference.order)
            for node in (node for node in nodes if node.op in ops.VARIABLES):
                self._give(node.name, variables.value(node))

    def _give(self, name: str, value: NDArray) -> None:
        """Gives a variable a value, and feeds anything else."""
        graph = self._session.graph
        with graph.as_default():
            variable = next((v for v in self._tf.compat.v1.global_variables() if v.op.name == name), None)
            if variable is not None:
                variable.load(value.astype(variable.dtype.base_dtype.as_numpy_dtype), self._session)
                return
        tensor = self._tensor([f"{name}:0"])
        if tensor is None:
            raise ValueError(f"{name}, which was given a value, is inside a function")
        self._feeds[tensor] = value.astype(tensor.dtype.as_numpy_dtype)

    def _settle_dropout(self, fed: dict[Any, NDArray]) -> None:
        """Feeds keep probabilities 1 and rates 0: the wrong one of the two divides by zero, which is how they are told apart."""
        for entry in self._record.get("dropped", ()):
            if not entry.get("fed_by"):
                continue
            switch, result = (self._tensor([f"{entry[key]}:0"]) for key in ("fed_by", "node"))
            if switch is None or switch in fed:
                continue
            if result is None:
                raise Unavailable(f"the dropout at {entry['node']} is inside a function, where nothing tells its probability from its rate")
            kind = switch.dtype.as_numpy_dtype
            fed[switch] = self._feeds[switch] = np.ones(switch.shape.as_list() if switch.shape.rank else (), kind)
            others = [self._tensor([f"{e['fed_by']}:0"]) for e in self._record["dropped"] if e.get("fed_by")]
            trial = {**{other: np.ones((), other.dtype.as_numpy_dtype) for other in others if other is not None}, **fed}
            if not np.isfinite(self._session.run(result, trial)).all():
                fed[switch] = self._feeds[switch] = np.zeros_like(fed[switch])

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

    def _input_names(self, ref: "Ref", name: str) -> list[str]:
        info = self._signature.inputs.get(name) if self._signature else None
        return [*([info.name] if info is not None and info.name else []), str(ref), name]

    def _output_names(self, ref: "Ref", name: str) -> list[str]:
        info = self._signature.outputs.get(name) if self._signature else None
        return [*([info.name] if info is not None and info.name else []), str(ref), name]


def _meta_graph(tf: Any, location: Location) -> Any:
    """The MetaGraphDef of a .meta file, or of the serving part of a SavedModel."""
    from google.protobuf.message import DecodeError

    meta = tf.compat.v1.MetaGraphDef()
    try:
        if location.meta is not None:
            meta.ParseFromString(location.meta.read_bytes())
            return meta
        assert location.saved_model is not None
        from tensorflow.core.protobuf import saved_model_pb2  # type: ignore[import-untyped,unused-ignore]

        model = saved_model_pb2.SavedModel()
        model.ParseFromString(location.saved_model.read_bytes())
    except DecodeError as error:
        raise Unavailable("TensorFlow cannot read the graph") from error
    return next((m for m in model.meta_graphs if "serve" in m.meta_info_def.tags), model.meta_graphs[0])


def _parsed(name: str) -> tuple[str, int]:
    node, _, output = name.partition(":")
    return node, int(output or 0)


def _first_line(error: BaseException) -> str:
    message = getattr(error, "message", None) or str(error) or type(error).__name__
    return str(message).strip().splitlines()[0][:200]
