"""From a checkpoint to a bundle: the whole way."""

from collections.abc import Mapping
from pathlib import Path

from bnexport._version import __version__
from bnexport.checkpoint import Checkpoint, Location, graphs_beside, locate
from bnexport.errors import ScopeError, UsageError
from bnexport.options import Options
from bnexport.program import Program
from bnexport.rows import rows_alone


def to_program(path: str | Path, options: Options | None = None) -> Program:
    """What the checkpoint at `path` computes at inference, folded; arrays are read when they are written.

    Raises:
        BnexportError: the checkpoint cannot be read, or has no exact translation.
    """
    options = options or Options()
    location = locate(path, options.graph)
    program = _from_graph(location, options) if _has_graph(location, options) else _from_names(location, options)
    if said := options.given():
        program.conversion["options"] = said
    return program


def to_unfolded(path: str | Path, options: Options | None = None, *, exact: bool = True) -> Program:
    """What the checkpoint at `path` computes at inference, with nothing folded, and all of it in float64: the truth that a bundle is measured by.

    Its layers are called as they are in the graph (linear layers after their kernels), and batch norm is one or more `ScaleShift` layers of its own,
    each with the roles of its variables under `parts` in its provenance.

    Args:
        exact: False for the dtypes that the network has, not float64.

    Raises:
        BnexportError: as `to_program` does.
    """
    from bnexport.widen import widened

    options = options or Options()
    location = locate(path, options.graph)
    if not _has_graph(location, options):
        named = _from_names(location, options, folded=False)
        return widened(named) if exact else named
    from bnexport.graph.inference import read_inference, record

    inference = read_inference(location, options)
    lowered = inference.lowered
    tensors = [lowered.tensors[ref] for ref in inference.outputs.values()]
    program = Program(inference.input_ports(), lowered.layers, inference.output_ports(tensors), record(inference, options))
    _note_rows(program, lowered.shapes)
    return widened(program) if exact else program


def convert(path: str | Path, out: str | Path, options: Options | None = None) -> Program:
    """Writes the bundle `out` (.npz or .h5) of the checkpoint at `path`; gives the program that it holds. `bnexport.load(out)` evaluates it.

    Args:
        path: the checkpoint's prefix, any of its files, or its folder.
        options: what the options of the command say: `bnexport.Options(outputs=["logits"], set_values={"phase_train": False})`.

    Raises:
        BnexportError: nothing is left behind then.
    """
    from bnexport.formats import write_bundle

    if not isinstance(options, Options | None):
        raise UsageError(f"the options are a {type(options).__name__}: give bnexport.Options(outputs=[…], …)")
    program = to_program(path, options)
    write_bundle(out, program)
    return program


def _note_rows(program: Program, shapes: Mapping[str, tuple[int | None, ...]]) -> None:
    """Records whether a batch may be computed in parts, and says what becomes of rows that are no full batch."""
    record = program.conversion
    batch = record.get("batch")
    record["rows_alone"] = rows_alone(program.inputs, program.layers, program.outputs, shapes, batch)
    if batch is not None:
        rest = "a smaller one is filled up, and the added rows' scores dropped" if record["rows_alone"] else "it takes so many at a time"
        record["warnings"].append(f"the network is built for batches of {batch} rows: {rest}")


def _has_graph(location: Location, options: Options) -> bool:
    if options.graph is not None and not options.use_graph:
        raise UsageError("--graph names the graph that --no-graph leaves out: give one of them")
    if not options.use_graph or location.graph is None:
        _refuse_options_of_graphs(location, options)
        return False
    only_for_names = {
        "--activation": options.activation,
        "--epsilon": options.epsilon is not None,
        "--order": options.order,
        "--bn-after-activation": options.bn_after_activation,
    }
    given = [flag for flag, value in only_for_names.items() if value]
    if given:
        raise UsageError(
            f"{', '.join(given)} only says what names cannot tell, but {location.graph} holds the graph, which tells it; "
            "leave it out, or add --no-graph to read the names alone"
        )
    return True


def _from_names(location: Location, options: Options, *, folded: bool = True) -> Program:
    from bnexport.scopes import program_from_names

    beside = graphs_beside(location) if options.use_graph else []
    hint = f"{' or '.join(map(str, beside))} may be its graph: convert with --graph {beside[0]} if it is" if beside else ""
    try:
        program = program_from_names(Checkpoint(location), options, folded=folded)
    except ScopeError as error:
        if not hint:
            raise
        raise type(error)(f"{error}; {hint}") from error
    if hint:
        program.conversion["warnings"].append(f"names were read, for there is no {location.prefix}.meta; {hint}")
    _note_rows(program, {})
    return program


def _refuse_options_of_graphs(location: Location, options: Options) -> None:
    only_for_graphs = {
        "--set": options.set_values,
        "--input": options.inputs,
        "--output": options.outputs,
        "--shape": options.shapes,
        "--signature": options.signature,
        "--statistics batch": options.statistics == "batch",
    }
    given = [flag for flag, value in only_for_graphs.items() if value]
    if given:
        why = "--no-graph leaves the graph out" if not options.use_graph else f"{location.prefix} has no graph (.meta) beside it"
        raise UsageError(f"{', '.join(given)} says something of a graph, but {why}: leave the option out, or name the graph's file with --graph")


def _from_graph(location: Location, options: Options) -> Program:
    from bnexport.fold import Network, fold
    from bnexport.fold.sharing import share_arrays
    from bnexport.graph.inference import read_inference, record

    inference = read_inference(location, options)
    entries = record(inference, options)
    lowered = inference.lowered
    network = Network(lowered.layers, lowered.shapes, [lowered.tensors[ref] for ref in inference.outputs.values()])
    entries["unfolded"] = fold(network, inference.dtype())
    share_arrays(network.layers)
    program = Program(
        inference.input_ports(), network.layers, inference.output_ports(network.outputs), {"producer": f"bnexport {__version__}", **entries}
    )
    _note_rows(program, network.shapes)
    return program
