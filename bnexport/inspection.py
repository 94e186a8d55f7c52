"""What a checkpoint or a bundle holds: a record for machines, and a listing of it for people.

The record is made of JSON values only. Every record has

    kind            "checkpoint" or "bundle"
    path            what was given; of a checkpoint its prefix
    tensorflow      the version of TensorFlow that wrote the graph, or null
    inputs, outputs [{name, shape, dtype}], null in a shape where any size will do; null where they are not known; without a graph names are made up
    parameters      how many numbers the network's variables, or the bundle's arrays, hold
    layers          below
    warnings        [text]

that of a checkpoint also

    version         2 (tensor bundle), 1, or 0 for a frozen graph
    graph           the name of the file that holds the graph, or null
    unconverted     why the network could not be converted, or null; roles come from names alone then
    variables       [{name, shape, dtype, parameters, role, layer, belongs_to}], sorted by name
                    name is the checkpoint's key, layer null for what is part of none, belongs_to what an optimiser slot or an average was made for
    layers          [{name, op, activation, batch_norms}], op and activation null where they are not known
                    batch_norms: [{gamma, beta, mean, variance, epsilon, epsilon_from, before}], each null where there is none; before is true where
                    the batch norm stands before the layer

and that of a bundle

    incomplete      why the bundle cannot be evaluated, or null
    layers          [{name, op, inputs, activation, arrays, batch_norms, provenance}]
                    arrays: {role: {shape, dtype}}, inputs: names of tensors, constants left out, provenance: as the bundle has it
    conversion      as the bundle has it
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bnexport.errors import BnexportError
from bnexport.program import Layer, Port, Program, shape_text
from bnexport.report import batch_norms, epsilon_text, number, parameters
from bnexport.text import name_of

if TYPE_CHECKING:
    from bnexport.checkpoint import Checkpoint, Location

Record = dict[str, Any]

ROLES = ("kernel", "bias", "beta", "gamma", "moving mean", "moving variance")
"""The roles that make up a layer, in the order of a listing."""

_NORM_ROLES = {"gamma": "gamma", "beta": "beta", "mean": "moving mean", "variance": "moving variance"}


def examine(path: str | Path) -> Record:
    """The record of a bundle or a checkpoint, by any of the checkpoint's files.

    Raises:
        BnexportError: there is neither, or it cannot be read. A checkpoint that can be read but not converted is no error.
    """
    from bnexport.formats import is_bundle, read_bundle

    if is_bundle(path):
        return _bundle(str(path), read_bundle(path))
    from bnexport.checkpoint import Checkpoint, locate

    location = locate(path)
    with Checkpoint(location) as checkpoint:
        return _checkpoint(location, checkpoint)


def listing(record: Record) -> Iterator[str]:
    """The lines of a record for people; headings begin at the margin, and what belongs to them is indented."""
    yield from (_bundle_lines if record["kind"] == "bundle" else _checkpoint_lines)(record)


# ---- checkpoints


def _checkpoint(location: "Location", checkpoint: "Checkpoint") -> Record:
    from bnexport.scopes import assign_roles, full_names

    program, reason = _converted(location)
    infos = [checkpoint.info(name) for name in checkpoint]
    named = {variable.name: variable for variable in assign_roles(infos, full_names(checkpoint))}
    places: Places = {name: (variable.role, variable.layer) for name, variable in named.items()}
    graph = location.graph
    if program is not None:
        places = _by_program(program, _keys(checkpoint) if graph else {}, places)
    variables = []
    for info in infos:
        role, layer = places[info.name]
        size = 0 if info.dtype.hasobject else math.prod(info.shape)
        dtype = "string" if info.dtype.hasobject else info.dtype.name
        owner = named[info.name].belongs_to
        variables.append(
            {"name": info.name, "shape": list(info.shape), "dtype": dtype, "parameters": size, "role": role, "layer": layer, "belongs_to": owner}
        )
    return {
        "kind": "checkpoint",
        "path": str(checkpoint.prefix),
        "version": location.version,
        "graph": None if graph is None else graph.name,
        "tensorflow": None if program is None else program.conversion.get("tensorflow"),
        "unconverted": reason,
        "inputs": None if program is None else _ports(program.inputs),
        "outputs": None if program is None else _ports(program.outputs),
        "parameters": sum(variable["parameters"] for variable in variables if variable["layer"] is not None),
        "layers": _layers(program, variables),
        "variables": variables,
        # Of names alone the converter warns what it would take for what they do not say, and here nothing is taken.
        "warnings": [] if program is None or graph is None else list(program.conversion.get("warnings", ())),
    }


def _converted(location: "Location") -> tuple[Program | None, str | None]:
    """The network of a checkpoint, from its graph or its names; or none, and the reason."""
    from bnexport.conversion import to_program

    try:
        # The folder of a SavedModel holds its checkpoint two levels below.
        return to_program(location.saved_model.parent if location.saved_model else location.prefix), None
    except BnexportError as error:
        return None, str(error)


def _keys(checkpoint: "Checkpoint") -> Mapping[str, str]:
    """The checkpoint's key of each variable of its graph."""
    from bnexport.graph import ops
    from bnexport.graph.files import read_graph
    from bnexport.graph.functions import inline_functions
    from bnexport.graph.variables import Variables

    graph = read_graph(checkpoint)
    inline_functions(graph)
    variables = Variables(graph, checkpoint)
    nodes = [node for node in graph.nodes.values() if node.op in ops.VARIABLES and variables.holds(node)]
    return {node.name: variables.saved(node).key for node in nodes}


Places = dict[str, tuple[str, str | None]]
"""Role and layer by checkpoint key."""


def _by_program(program: Program, keys: Mapping[str, str], named: Places) -> Places:
    """Roles as the network uses the variables; what no layer uses keeps the role of its name, and no layer."""
    places: Places = {name: (role, None) for name, (role, _) in named.items()}

    def put(names: Any, role: str, layer: Layer, *, unless: tuple[str, ...] = ()) -> None:
        for name in [names] if isinstance(names, str) else names or ():
            key = keys.get(name, name)
            known = named.get(key, ("unknown", None))[0]
            if places.get(key, ("", None))[1] is None:
                places[key] = (known if known in unless else role, layer.name)

    for layer in program.layers:
        put(layer.provenance.get("kernel"), "kernel", layer)
        for norm in batch_norms(layer):
            for key, role in _NORM_ROLES.items():
                put(norm.get(key), role, layer)
        for part in layer.provenance.get("parts", ()):
            # A batch norm written out by hand subtracts its mean and adds its beta in steps that look like any other.
            put(part.get("shift"), "bias", layer, unless=("beta", "moving mean"))
            put(part.get("scale"), "scale", layer, unless=("gamma",))
        for names in layer.provenance.get("operands", {}).values():
            put(names, "unknown", layer, unless=ROLES)
    return places


def _layers(program: Program | None, variables: list[Record]) -> list[Record]:
    def norms(layer: Layer) -> list[Record]:
        # What is taken without anybody having said so is not in the checkpoint.
        return [norm if norm.get("epsilon_from") != "default" else norm | {"epsilon": None, "epsilon_from": None} for norm in batch_norms(layer)]

    members: dict[str, dict[str, list[str]]] = {}
    for variable in variables:
        if variable["layer"] is not None:
            members.setdefault(variable["layer"], {}).setdefault(variable["role"], []).append(variable["name"])
    if program is None:
        return [{"name": name, "op": None, "activation": None, "batch_norms": _completed([], roles)} for name, roles in members.items()]
    return [
        {"name": layer.name, "op": layer.op, "activation": layer.activation, "batch_norms": _completed(norms(layer), members[layer.name])}
        for layer in program.layers
        if layer.name in members
    ]


def _completed(norms: list[Record], roles: Mapping[str, list[str]]) -> list[Record]:
    """Every key of a batch norm; where a layer has one alone, the variables of its roles are that one's."""
    if not norms and "moving variance" in roles:
        norms = [{}]
    full = [{key: norm.get(key) for key in (*_NORM_ROLES, "epsilon", "epsilon_from")} | {"before": norm.get("before", False)} for norm in norms]
    if len(full) == 1:
        for key, role in _NORM_ROLES.items():
            if full[0][key] is None and len(roles.get(role, ())) == 1:
                full[0][key] = roles[role][0]
    return full


def _checkpoint_lines(record: Record) -> Iterator[str]:
    count = f"{len(record['variables'])} variable{'s' * (len(record['variables']) != 1)}"
    kind = f"checkpoint of version {record['version']}" if record["version"] else "frozen graph"
    yield f"{record['path']}: {kind}, {count}, {record['parameters']:,} parameters in layers"
    yield from _field("graph", record["graph"] or "none: roles are read off the names")
    yield from _field("tensorflow", record["tensorflow"])
    yield from _field("not converted", " ".join((record["unconverted"] or "").split()))
    yield from _port_lines(record)
    rows: dict[str | None, list[Record]] = {}
    for variable in record["variables"]:
        rows.setdefault(variable["layer"], []).append(variable)
    width = max((len(shape_text(variable["shape"])) for variable in record["variables"]), default=0)
    for layer in record["layers"]:
        yield ""
        yield "  ".join([layer["name"], ", ".join([text for text in (layer["op"], layer["activation"]) if text])]).rstrip()
        yield from _variable_lines(sorted(rows[layer["name"]], key=_place), width)
        for norm in layer["batch_norms"]:
            if norm["epsilon"] is not None:
                yield f"  {'epsilon':<15}  {epsilon_text(norm)}{_side(norm)}"
            else:
                yield f"  {'epsilon':<15}  not known: only the graph says it"
    others = rows.get(None, [])
    for title, chosen in (
        ("optimiser slots", [row for row in others if row["role"] == "optimiser slot"]),
        ("in no layer", [row for row in others if row["role"] != "optimiser slot"]),
    ):
        if chosen:
            yield ""
            yield f"{title} ({len(chosen)})"
            yield from _variable_lines(chosen, width)


def _place(variable: Record) -> int:
    return ROLES.index(variable["role"]) if variable["role"] in ROLES else len(ROLES)


def _variable_lines(variables: Iterable[Record], width: int) -> Iterator[str]:
    for variable in variables:
        yield f"  {variable['role']:<15}  {shape_text(variable['shape']):<{width}}  {variable['dtype']:<8}  {variable['name']}"


# ---- bundles


def _bundle(path: str, program: Program) -> Record:
    record = program.conversion
    layers = [
        {
            "name": layer.name,
            "op": layer.op,
            "inputs": layer.takes,
            "activation": layer.activation,
            "arrays": {role: {"shape": list(array.shape), "dtype": name_of(array.dtype)} for role, array in layer.arrays.items()},
            "batch_norms": _completed(batch_norms(layer), {}) if batch_norms(layer) else [],
            "provenance": layer.provenance,
        }
        for layer in program.layers
    ]
    return {
        "kind": "bundle",
        "path": path,
        "tensorflow": record.get("tensorflow"),
        "incomplete": record.get("incomplete"),
        "inputs": _ports(program.inputs),
        "outputs": _ports(program.outputs),
        "parameters": parameters(program.layers),
        "layers": layers,
        "warnings": list(record.get("warnings", ())),
        "conversion": record,
    }


def _bundle_lines(record: Record) -> Iterator[str]:
    count = len(record["layers"])
    yield f"{record['path']}: bundle, {count} layer{'s' * (count != 1)}, {record['parameters']:,} parameters"
    yield from _field("made from", ", ".join(record["conversion"].get("source", ())))
    yield from _field("made by", record["conversion"].get("producer"))
    yield from _field("tensorflow", record["tensorflow"])
    yield from _field("incomplete", record["incomplete"])
    yield from _port_lines(record)
    arrays = [array for layer in record["layers"] for array in layer["arrays"].values()]
    width = max((len(shape_text(array["shape"])) for array in arrays), default=0)
    for layer in record["layers"]:
        yield ""
        source = f" of {', '.join(layer['inputs'])}" if layer["inputs"] else ""
        yield f"{layer['name']}  {layer['op']}{', ' + layer['activation'] if layer['activation'] else ''}{source}"
        for role, array in layer["arrays"].items():
            yield f"  {role:<15}  {shape_text(array['shape']):<{width}}  {array['dtype']}"
        yield from _origin(layer)


def _origin(layer: Record) -> Iterator[str]:
    provenance = layer["provenance"]
    kernel = provenance.get("kernel")
    plain = [kernel] if isinstance(kernel, str) else list(kernel or ())
    folded = {norm["variance"] for norm in layer["batch_norms"]}
    for part in provenance.get("parts", ()):
        if str(part.get("variance")) not in folded:
            plain += [part[role] for role in ("scale", "shift") if isinstance(part.get(role), str)]
    if plain:
        yield f"  {'from':<15}  {', '.join(dict.fromkeys(plain))}"
    for norm in layer["batch_norms"]:
        roles = ", ".join(f"{key} {norm[key]}" for key in _NORM_ROLES if norm[key] is not None)
        yield f"  {'batch norm':<15}  {roles}, epsilon {epsilon_text(norm)}{_side(norm)}"
    for numbers in provenance.get("numbers", ()):
        scale, shift = (
            f" {sign} {number(numbers[key])}" if numbers[key] != none else "" for key, sign, none in (("scale", "*", 1), ("shift", "+", 0))
        )
        yield f"  {'numbers':<15}  {numbers['node']}:{scale}{shift}, {'before' if numbers.get('before') else 'behind'} the layer"
    if "not_folded" in provenance:
        yield f"  {'not folded':<15}  {provenance['not_folded']}"


def _side(norm: Record) -> str:
    return "; the batch norm stands before the layer" if norm["before"] else ""


# ---- both


def _ports(ports: Iterable[Port]) -> list[Record]:
    return [{"name": port.name, "shape": list(port.shape), "dtype": port.dtype} for port in ports]


def _port_lines(record: Record) -> Iterator[str]:
    for key in ("inputs", "outputs"):
        for port in record[key] or ():
            yield from _field(key[:-1], f"{port['name']} {shape_text(port['shape'])} {port['dtype']}")
    for text in record["warnings"]:
        yield from _field("Warning", text)


def _field(name: str, text: str | None) -> Iterator[str]:
    if text:
        yield f"  {name + ':':<15}  {text}"
