"""From a checkpoint to a bundle: the whole way, and the record of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bnexport._version import __version__
from bnexport.checkpoint import Checkpoint, Location, locate
from bnexport.errors import GraphError, UsageError
from bnexport.program import Port, Program


@dataclass(slots=True)
class Options:
    """What the user may say.

    Attributes:
        set_values: values of flags and other tensors by name.
        inputs, outputs: tensors by name, or `name=tensor`.
        shapes: shapes of inputs by name, None for any size.
        averages: whether to take Polyak averages of the weights where the checkpoint holds them.
        signature: the signature of a SavedModel.
        statistics: in a graph that was saved from training, whether batch norm takes the `moving` statistics or the `batch`'s; `auto` for moving wherever
            the batch size is open.
        activation: only without a graph. `relu` for every linear layer but the last, which has none; `relu:softmax` for these and the last;
            `relu,tanh,none` for each linear layer by itself.
        bn_after_activation: only without a graph: whether batch norms stand behind the activation, not before it.
        epsilon: only without a graph, of all batch norms.
        order: only without a graph: the layers of the network by name, in their order, or a scope in which they are. Batch norms may stand between them;
            where none does, each is placed by its name.
        use_graph: False to read the names even where a graph lies beside the checkpoint.
    """

    set_values: Mapping[str, Any] = field(default_factory=dict)
    inputs: Sequence[str] = ()
    outputs: Sequence[str] = ()
    shapes: Mapping[str, Sequence[int | None]] = field(default_factory=dict)
    averages: bool = False
    signature: str | None = None
    statistics: str = "auto"
    activation: str | None = None
    bn_after_activation: bool = False
    epsilon: float | None = None
    order: Sequence[str] = ()
    use_graph: bool = True


def to_program(path: str | Path, options: Options | None = None) -> Program:
    """What the checkpoint at `path` computes at inference, folded; arrays are read when they are written.

    Raises:
        BnexportError: the checkpoint cannot be read, or has no exact translation.
    """
    options = options or Options()
    location = locate(path)
    if options.use_graph and (location.meta is not None or location.saved_model is not None):
        return _from_graph(location, options)
    from bnexport.scopes import program_from_names

    return program_from_names(Checkpoint(location), options)


def convert(path: str | Path, out: str | Path, options: Options | None = None) -> Program:
    """Writes the bundle `out` (.npz or .h5) of the checkpoint at `path`; gives the program that it holds.

    Raises:
        BnexportError: nothing is left behind then.
    """
    from bnexport.formats import write_bundle

    program = to_program(path, options)
    write_bundle(out, program)
    return program


def _from_graph(location: Location, options: Options) -> Program:
    from bnexport.fold import Network, fold
    from bnexport.graph import ops
    from bnexport.graph.dropout import remove_dropout
    from bnexport.graph.endpoints import find_endpoints, named_endpoints
    from bnexport.graph.files import read_graph
    from bnexport.graph.functions import inline_functions
    from bnexport.graph.graphdef import Ref, topological
    from bnexport.graph.live import Live
    from bnexport.graph.lower import lower, missing_operators
    from bnexport.graph.names import find_named
    from bnexport.graph.provenance import untouched_statistics
    from bnexport.graph.shapes import follow
    from bnexport.graph.statistics import batch_statistics, use_moving_statistics
    from bnexport.graph.variables import Variables

    _refuse_name_options(options, location)
    graph = read_graph(location)
    inline_functions(graph)
    checkpoint = Checkpoint(location)
    averaged = averaged_keys(checkpoint)
    if options.averages and not averaged:
        raise UsageError(f"{checkpoint.prefix} holds no averages of weights (keys that end in /ExponentialMovingAverage beside their variable); leave out --ema")
    variables = Variables(graph, checkpoint, averaged if options.averages else None)
    given = {find_named(graph, name): np.asarray(value) for name, value in options.set_values.items()}
    live = Live(graph, variables, given)
    dropouts = remove_dropout(live)
    moving = use_moving_statistics(live, options.statistics)
    signature = graph.signatures.get(options.signature or "serving_default") if not (options.inputs or options.outputs) else None
    if options.signature and options.signature not in graph.signatures:
        raise UsageError(f"{graph.source}: there is no signature {options.signature!r}; there are {', '.join(graph.signatures) or 'none'}")
    if signature is not None:
        ends = _signature_endpoints(live, signature)
    elif options.inputs or options.outputs:
        ends = named_endpoints(live, list(options.inputs), list(options.outputs))
    else:
        ends = find_endpoints(live)
    inputs = {live.resolve(ref): name for name, ref in ends.inputs.items()}
    outputs = {name: live.resolve(ref) for name, ref in ends.outputs.items()}
    order = topological(graph, [r.node for r in outputs.values()], live.inputs)
    dynamic = [name for name in order if live.is_dynamic(Ref(name))]
    missing_operators(live, dynamic, list(inputs))
    shapes = follow(live, {name: ref for ref, name in inputs.items()}, list(outputs.values()), dynamic, options.shapes)
    lowered = lower(live, shapes, inputs, list(outputs.values()))
    tensors = {name: lowered.tensors[ref] for name, ref in outputs.items()}
    network = Network(lowered.layers, lowered.shapes, list(tensors.values()))
    floats = {shapes.dtype(ref).name for ref in outputs.values() if shapes.dtype(ref).kind == "f"}
    dtype = "float64" if floats == {"float64"} else "float32"
    unfolded = fold(network, dtype)
    used = live.used_replacements(order)
    conversion = {
        "tensorflow": graph.tensorflow_version,
        "source": [p.name for p in (location.prefix, location.meta or location.saved_model) if p is not None],
        "set": [{"node": f.node, "value": f.value, "why": f.reason} for f in live.flags] + [{"node": str(r), "value": v.tolist(), "why": "--set"} for r, v in given.items()],
        "dropped": [{"node": d.node, "keep": d.keep, "fed_by": d.fed_by} for d in dropouts if Ref(d.node) in used],
        "statistics": [{"in_place_of": str(m.statistic), "variable": m.variable} for m in moving if m.statistic in used],
        "unfolded": unfolded,
        "alternatives": ends.alternatives,
        "warnings": [],
    }
    batch_nodes = batch_statistics(live, [r.node for r in outputs.values()])
    if batch_nodes:
        conversion["uses_batch"] = batch_nodes
        conversion["warnings"].append(f"scores depend on the batch: {', '.join(batch_nodes[:4])} take statistics over it, in TensorFlow as here")
    in_ports = [Port(name, lowered.tensors[ref], shapes.input_shapes.get(ref, shapes.of(ref)), shapes.dtype(ref).name) for ref, name in inputs.items()]
    keys = {variables.saved(graph.nodes[name]).key for name in order if graph.nodes[name].op in ops.VARIABLES}
    available = sorted(key for key in averaged if key in keys or averaged[key] in keys)
    if available:
        conversion["averages"] = {"of": available, "taken": options.averages}
    conversion["warnings"].extend(untouched_statistics(live, network.layers))
    out_ports = [
        Port(name, tensor, shapes.of(ref), shapes.dtype(ref).name)
        for (name, ref), tensor in zip(outputs.items(), network.outputs, strict=True)
    ]
    if shapes.batch is not None:
        conversion["batch"] = shapes.batch
    return Program(in_ports, network.layers, out_ports, {"producer": f"bnexport {__version__}", **conversion})


def averaged_keys(checkpoint: Checkpoint) -> dict[str, str]:
    """For each variable of which the checkpoint also holds a moving average (tf.train.ExponentialMovingAverage over weights): that average's key."""
    suffix = "/ExponentialMovingAverage"
    pairs = {name.removesuffix(suffix): name for name in checkpoint.names() if name.endswith(suffix)}
    return {key: average for key, average in pairs.items() if key in checkpoint and checkpoint.info(key).shape == checkpoint.info(average).shape}


def _refuse_name_options(options: Options, location: Location) -> None:
    given = [flag for flag, value in (("--activation", options.activation), ("--epsilon", options.epsilon), ("--order", options.order)) if value]
    if given:
        raise UsageError(
            f"{', '.join(given)} only says what names cannot tell, but {location.meta or location.saved_model} holds the graph, which tells it; "
            "leave it out, or add --no-graph to read the names alone"
        )


def _signature_endpoints(live: Any, signature: Any) -> Any:
    from bnexport.graph.endpoints import Endpoints, sources_of
    from bnexport.graph.graphdef import parse_ref
    from bnexport.graph.values import dtype_name

    inputs = {key: live.resolve(parse_ref(info.name)) for key, info in sorted(signature.inputs.items())}
    outputs = {key: live.resolve(parse_ref(info.name)) for key, info in sorted(signature.outputs.items())}
    text = [key for key, info in signature.outputs.items() if dtype_name(info.dtype) == "object"]
    outputs = {key: ref for key, ref in outputs.items() if key not in text}
    constant = [key for key, ref in outputs.items() if not live.is_dynamic(ref)]
    if constant:
        raise GraphError(f"{live.graph.source}: the output {constant[0]!r} of the signature is a constant")
    needed = sources_of(live, outputs.values())
    used = {key: ref for key, ref in inputs.items() if ref in needed}
    return Endpoints({**used, **{str(r): r for r in needed if r not in used.values()}}, outputs, [f"{key} (text)" for key in text])
