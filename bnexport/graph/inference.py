"""From the files of a graph to the layers that inference runs: the stages of this package, in their order."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from bnexport.checkpoint import Checkpoint, Location
from bnexport.checkpoint.tensor_protos import dtype_name
from bnexport.errors import AmbiguousNetwork, GraphError, UsageError
from bnexport.graph import ops
from bnexport.graph.choices import choose_by_data
from bnexport.graph.dropout import Dropout, decide_certain_draws, remove_dropout, remove_silent_noise
from bnexport.graph.endpoints import Endpoints, by_name, find_endpoints, named_endpoints, split_name
from bnexport.graph.files import read_graph
from bnexport.graph.functions import inline_functions
from bnexport.graph.graphdef import Graph, Node, Ref, parse_ref, topological
from bnexport.graph.labels import take_rows_of_inputs
from bnexport.graph.live import Live
from bnexport.graph.lower import Lowered, lower, missing_operators
from bnexport.graph.names import find_named
from bnexport.graph.networks import sources_of
from bnexport.graph.over_batch import batch_statistics, drop_weightless
from bnexport.graph.provenance import by_key, untouched_statistics
from bnexport.graph.shapes import Shapes, contradicted, follow
from bnexport.graph.statistics import Replacement, averages_kept, refuse_mixtures, use_moving_statistics
from bnexport.graph.variables import Variables
from bnexport.graph.writes import written_before_read, written_in_passing
from bnexport.options import Options
from bnexport.program import Port
from bnexport.text import name_of

_AVERAGE = "/ExponentialMovingAverage"
_LOOKUPS_AND_SPARSE = ("Lookup", "DenseBincount", "SparseToDense", "SparseRe", "SparseFill", "SparseSegment", "SparseTensorDense")
_STITCHES = ("DynamicStitch", "ParallelDynamicStitch")
"""How operators begin that few graphs have; the stages for them are only imported where there are any."""


@dataclass(slots=True)
class Inference:
    """What a graph computes at inference, not folded yet, and all that was found out on the way."""

    live: Live
    ends: Endpoints
    inputs: dict[Ref, str]
    outputs: dict[str, Ref]
    order: list[str]
    shapes: Shapes
    lowered: Lowered
    dropouts: list[Dropout]
    moving: list[Replacement]
    averages: dict[str, str]

    def input_ports(self) -> list[Port]:
        """The network's inputs."""
        shapes = self.shapes
        return [
            Port(name, self.lowered.tensors[ref], shapes.input_shapes.get(ref, shapes.of(ref)), name_of(shapes.dtype(ref)))
            for ref, name in self.inputs.items()
        ]

    def output_ports(self, tensors: list[str]) -> list[Port]:
        """The network's outputs, which are these tensors of the program."""
        ports = zip(self.outputs.items(), tensors, strict=True)
        return [Port(name, tensor, self.shapes.of(ref), self.shapes.dtype(ref).name) for (name, ref), tensor in ports]

    def dtype(self) -> str:
        """The floating-point dtype of the network."""
        kinds = {self.shapes.dtype(ref).name for ref in self.outputs.values() if self.shapes.dtype(ref).kind == "f"}
        return "float64" if kinds == {"float64"} else "float32"


def read_inference(location: Location, options: Options) -> Inference:
    """Reads a graph and its checkpoint, and takes out of them what inference computes.

    Raises:
        BnexportError: a file cannot be read, the graph leaves a choice, or it has no exact translation.
    """
    checkpoint = Checkpoint(location)
    graph = read_graph(checkpoint)
    inline_functions(graph)
    if _holds(graph, *_LOOKUPS_AND_SPARSE):
        from bnexport.graph.preprocessing import write_out_preprocessing

        write_out_preprocessing(graph, checkpoint)
    averages = averaged_keys(checkpoint)
    if options.averages and not averages:
        raise UsageError(f"{checkpoint.prefix} holds no averages of weights (keys that end in {_AVERAGE} beside their variable); leave out --ema")
    variables = Variables(graph, checkpoint, averages if options.averages else None)
    given = {find_named(graph, name): value for name, value in options.set_values.items()}
    live = Live(graph, variables, given)
    if any(node.op in ops.LOOPS for node in graph.nodes.values()):
        _write_out_loops(live, options)
        live = Live(graph, variables, given)
    decide_certain_draws(live)
    dropouts = remove_dropout(live)
    remove_silent_noise(live)
    if _holds(graph, *_LOOKUPS_AND_SPARSE):
        from bnexport.graph.sparse_inputs import write_out_sparse

        write_out_sparse(live)
    drop_weightless(live)
    moving = use_moving_statistics(live, options.statistics)
    choose_by_data(live)
    if _holds(graph, *_STITCHES):
        from bnexport.graph.partitions import join_partitions

        join_partitions(live)
    take_rows_of_inputs(live)
    ends = _endpoints(live, options)
    inputs = {live.resolve(ref): name for name, ref in ends.inputs.items()}
    outputs = {name: live.resolve(ref) for name, ref in ends.outputs.items()}
    order = topological(graph, [r.node for r in outputs.values()], live.inputs)
    refuse_mixtures(live, [r.node for r in outputs.values()], moving)
    dynamic = [name for name in order if live.is_dynamic(Ref(name))]
    missing_operators(live, dynamic, list(inputs))
    named = {name: ref for ref, name in inputs.items()}
    try:
        shapes = follow(live, named, list(outputs.values()), dynamic, options.shapes)
    except GraphError as error:
        if not (why := contradicted(live, named, options.shapes)):
            raise
        raise type(error)(f"{error}{why}") from error
    lowered = lower(live, shapes, inputs, list(outputs.values()))
    for name, ref in outputs.items():
        if not live.is_dynamic(ref):
            raise GraphError(f"{graph.source}: the output {name!r} does not depend on any input: it is a constant")
        if ref not in lowered.tensors:
            raise UsageError(f"{graph.source}: the graph has no tensor {str(ref)!r}: {ref.node} ({graph.nodes[ref.node].op}) has no such output")
        if shapes.dtype(ref).kind == "O":
            raise UsageError(f"{graph.source}: the output {name!r} is text, which a network does not give; name the numbers before it with --output")
    for layer in lowered.layers:
        layer.provenance = by_key(live, layer.provenance)
    return Inference(live, ends, inputs, outputs, order, shapes, lowered, dropouts, moving, averages)


def _holds(graph: Graph, *beginnings: str) -> bool:
    return any(node.op.startswith(beginnings) for node in graph.nodes.values())


def _write_out_loops(live: Live, options: Options) -> None:
    from bnexport.graph.loops import write_out_loops

    graph = live.graph
    named = {name: find_named(graph, tensor) for name, tensor in map(split_name, options.inputs)}
    live.cut(named.values())
    remove_dropout(live)  # what a size is computed from may have gone through one
    wanted = [find_named(graph, tensor) for _, tensor in map(split_name, options.outputs)]
    signature = graph.signature(options.signature)
    if signature is not None and not options.inputs and not options.outputs:
        named = {key: parse_ref(info.name) for key, info in signature.inputs.items()}
        wanted = [parse_ref(info.name) for info in signature.outputs.values()]
    given = {named.get(name, parse_ref(name)): tuple(shape) for name, shape in options.shapes.items()}
    shapes = {live.resolve(ref) if ref.node in graph.nodes else ref: shape for ref, shape in given.items()}
    write_out_loops(live, shapes, wanted, {ref: name for name, ref in named.items()})


def record(inference: Inference, options: Options) -> dict[str, Any]:
    """How a network came about, as JSON values: files, what was set and why, what was left out or put in place of something else, warnings."""
    live, graph = inference.live, inference.live.graph
    location = live.variables.checkpoint.location
    used = live.used_replacements(inference.order)
    said = {str(find_named(graph, name)): value for name, value in options.set_values.items()}
    entries: dict[str, Any] = {
        "tensorflow": graph.tensorflow_version,
        "source": [p.name for p in dict.fromkeys((location.prefix, location.graph, *graph.read)) if p is not None],
        "set": [{"node": f.node, "value": _shown(f.value), "why": f.reason} for f in live.flags]
        + [{"node": name, "value": np.asarray(value).tolist(), "why": "--set"} for name, value in said.items()],
        "dropped": [{"node": d.node, "keep": d.keep, "fed_by": d.fed_by} for d in inference.dropouts if Ref(d.node) in used],
        "statistics": [{"in_place_of": str(m.statistic), "variable": m.variable} for m in inference.moving if m.statistic in used],
        "alternatives": inference.ends.alternatives,
        "warnings": untouched_statistics(live, inference.lowered.layers),
    }
    if inference.ends.ignored:
        entries["ignored"] = inference.ends.ignored
    batch_nodes = batch_statistics(live, [r.node for r in inference.outputs.values()], inference.shapes)
    if batch_nodes:
        entries["uses_batch"] = batch_nodes
        averages = averages_kept(live, batch_nodes)
        instead = f"; the graph keeps averages of them ({averages[0]}), which --statistics moving takes instead" if averages else ""
        said_of = ", ".join(batch_nodes[:4])
        entries["warnings"].append(
            f"scores depend on the batch: {said_of} {'take' if batch_nodes[1:] else 'takes'} statistics over it, in TensorFlow as here{instead}"
        )
    elif options.statistics == "batch":
        entries["warnings"].append("--statistics batch changes nothing: nothing on the way to the outputs takes statistics over the batch")
    entries["warnings"] += _write_warnings(inference, {m.variable for m in inference.moving if m.statistic in used})
    entries["warnings"] += [
        f"{m.statistic} has several moving averages that differ: {m.variable} was taken, and not {', '.join(m.rivals)}"
        for m in inference.moving
        if m.statistic in used and m.rivals
    ]
    entries["warnings"] += _order_warnings(inference)
    keys = {live.variables.saved(graph.nodes[name]).key for name in inference.order if graph.nodes[name].op in ops.VARIABLES}
    available = sorted(key for key, average in inference.averages.items() if key in keys or average in keys)
    if available:
        entries["averages"] = {"of": available, "taken": options.averages}
    if inference.shapes.batch is not None:
        entries["batch"] = inference.shapes.batch
    return entries


def _shown(value: Any) -> Any:
    """A flag's value as JSON has it; a word may be bytes."""
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else value


def _write_warnings(inference: Inference, put_in_place: set[str]) -> list[str]:
    """What to say of variables that TensorFlow writes when it computes the outputs; training of course writes the averages that were put in place."""
    live, order = inference.live, inference.order
    before = written_before_read(live, order)
    passing = written_in_passing(live, inference.outputs.values(), order)
    open_order = [f"{assignment} writes {v}" for v, assignment in passing.items() if v not in before and v not in put_in_place]
    texts = [f"{a} writes {v} before it is read: scores are those of the value in the checkpoint" for v, a in before.items()]
    if open_order:
        more = f", and {len(open_order) - 2} more" if len(open_order) > 2 else ""
        texts.append(
            f"TensorFlow moves variables whenever it computes these scores, whichever branch it takes ({', '.join(open_order[:2])}{more}): "
            "the scores here are those of the values in the checkpoint"
        )
    return texts


def _order_warnings(inference: Inference) -> list[str]:
    """What to say of largest elements that TensorFlow gives in any order; nothing where they are all there are, or only reduced to one number."""
    live, shapes = inference.live, inference.shapes
    nodes = [live.graph.nodes[name] for name in inference.order]
    texts = []
    for node in (n for n in nodes if n.op in ("TopK", "TopKV2") and not n.attrs.get("sorted", True)):
        found, data = Ref(node.name), live.inputs(node)[0]
        users = [user for user in nodes if any(ref.node == node.name for ref in live.inputs(user))]
        if shapes.of(found)[-1] not in (1, shapes.of(data)[-1]) and not (users and all(_reduces_last(inference, user) for user in users)):
            texts.append(
                f"{node.name} asks for the largest {shapes.of(found)[-1]} elements with sorted=False, which TensorFlow gives in an order that its "
                "version and device decide: here the largest comes first"
            )
    return texts


def _reduces_last(inference: Inference, node: Node) -> bool:
    """Whether a node reduces its operand over the last axis, or over that among others."""
    if node.op not in ops.REDUCTIONS:
        return False
    data, axes = inference.live.inputs(node)
    rank = inference.shapes.rank(data)
    return rank - 1 in (inference.live.value(axes).reshape(-1) % rank)


def averaged_keys(checkpoint: Checkpoint) -> dict[str, str]:
    """For each variable of which the checkpoint also holds a moving average (tf.train.ExponentialMovingAverage over weights): that average's key."""
    pairs = {name.removesuffix(_AVERAGE): name for name in checkpoint.names() if name.endswith(_AVERAGE)}
    return {key: average for key, average in pairs.items() if key in checkpoint and checkpoint.info(key).shape == checkpoint.info(average).shape}


def _endpoints(live: Live, options: Options) -> Endpoints:
    graph: Graph = live.graph
    if options.signature and options.signature not in graph.signatures:
        raise UsageError(f"{graph.source}: there is no signature {options.signature!r}; there are {', '.join(graph.signatures) or 'none'}")
    if options.inputs or options.outputs:
        return named_endpoints(live, list(options.inputs), list(options.outputs))
    signature = graph.signature(options.signature)
    return find_endpoints(live) if signature is None else _signature_endpoints(live, signature)


def _found_beside(live: Live, ignored: list[str]) -> Endpoints:
    """The endpoints that the graph itself shows, where all that its signature names were left out."""
    try:
        return find_endpoints(live)
    except AmbiguousNetwork as error:
        raise AmbiguousNetwork(f"{error} (the signature has only {', '.join(ignored)})") from error


def _signature_endpoints(live: Live, signature: Any) -> Endpoints:
    """The endpoints that a SavedModel's signature names; outputs that are text or constants are left out, unless all are."""
    inputs = {key: live.resolve(parse_ref(info.name)) for key, info in sorted(signature.inputs.items())}
    outputs = {key: live.resolve(parse_ref(info.name)) for key, info in sorted(signature.outputs.items())}
    text = {key for key in outputs if dtype_name(signature.outputs[key].dtype) == "object"}
    constant = {key for key, ref in outputs.items() if key not in text and not live.is_dynamic(ref)}
    kept = {key: ref for key, ref in outputs.items() if key not in text | constant}
    ignored = [f"the output {key} ({'text' if key in text else 'a constant'})" for key in outputs if key not in kept]
    if not kept:
        found = _found_beside(live, ignored)
        kept, alternatives = found.outputs, found.alternatives
    else:
        alternatives = []
    needed = sources_of(live, kept.values())
    used = {key: ref for key, ref in inputs.items() if ref in needed}
    return Endpoints({**used, **by_name(live, [r for r in needed if r not in used.values()], signature.inputs)}, kept, alternatives, ignored)
