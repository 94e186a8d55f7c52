"""Function calls and `If` written out as plain nodes, so that everything after sees one flat graph of TensorFlow 1 control flow.

A call becomes its body's nodes under the call's name. `If` and `StatelessIf` (tf.cond of control flow v2, TF2's functions) become what tf.cond
of control flow v1 writes: a Switch for each operand, both bodies, a Merge for each result. One analysis of branches then serves both.
"""

from typing import Any

from bnexport.errors import GraphError, UnsupportedOps
from bnexport.graph.graphdef import Attributes, Graph, Node, Ref, read_node
from bnexport.graph.outputs import output_number

CALLS = frozenset({"PartitionedCall", "StatefulPartitionedCall", "RemoteCall"})
CONDITIONS = frozenset({"If", "StatelessIf"})
WHILES = frozenset({"While", "StatelessWhile"})

_MAX_DEPTH = 64  # of calls within calls; TensorFlow's own functions nest a handful deep, and a function that calls itself would never end


def inline_functions(graph: Graph) -> None:
    """Replaces every call and every `If` of `graph`, in place.

    Raises:
        GraphError: a function is called that the graph does not define, or calls itself.
    """
    for name in list(graph.nodes):
        _inline(graph, graph.nodes[name], depth=0)


def _function_of(graph: Graph, node: Node) -> Any:
    if node.op in CALLS:
        return node.attrs["f"].name
    return node.op if node.op in graph.functions else None


def _inline(graph: Graph, node: Node, depth: int) -> None:
    if depth > _MAX_DEPTH:
        raise GraphError(f"{graph.source}: the function called by {node.name!r} calls itself, which bnexport does not convert")
    if node.op in CONDITIONS:
        _inline_condition(graph, node, depth)
        return
    if node.op in WHILES:
        _inline_while(graph, node, depth)
        return
    function = _function_of(graph, node)
    if function is not None:
        results = _write_body(graph, function, node.name, node.inputs, node.controls, depth)
        graph.nodes[node.name] = Node(node.name, "IdentityN", results, node.controls)


def _inline_condition(graph: Graph, node: Node, depth: int) -> None:
    predicate, *operands = node.inputs
    if node.attrs.get("Tcond", "bool") != "bool":
        cast = Node(f"{node.name}/cast", "Cast", [predicate], [], {"SrcT": node.attrs["Tcond"], "DstT": "bool"})
        graph.nodes[cast.name] = cast
        predicate = Ref(cast.name)
    pivot = Node(f"{node.name}/pivot", "Switch", [predicate, predicate], list(node.controls))  # both branches wait for what the condition waits for
    graph.nodes[pivot.name] = pivot
    switches = []
    for i, operand in enumerate(operands):
        switch = Node(f"{node.name}/switch_{i}", "Switch", [operand, predicate])
        graph.nodes[switch.name] = switch
        switches.append(switch.name)
    results = []
    for side, branch in enumerate(("else_branch", "then_branch")):
        anchor = Node(f"{node.name}/{branch}", "Identity", [Ref(pivot.name, side)])
        graph.nodes[anchor.name] = anchor
        arguments = [Ref(name, side) for name in switches]
        results.append(_write_body(graph, node.attrs[branch].name, f"{node.name}/{branch}", arguments, [anchor.name], depth))
    merges = []
    for i, (otherwise, then) in enumerate(zip(*results, strict=True)):
        merge = Node(f"{node.name}/merge_{i}", "Merge", [otherwise, then], [], {"N": 2})
        graph.nodes[merge.name] = merge
        merges.append(Ref(merge.name))
    graph.nodes[node.name] = Node(node.name, "IdentityN", merges, node.controls)


def _inline_while(graph: Graph, node: Node, depth: int) -> None:
    """A loop of control flow v2 as what tf.while_loop of control flow v1 writes."""

    def add(op: str, name: str, inputs: list[Ref], attrs: dict[str, Any] | None = None) -> Ref:
        graph.nodes[name] = Node(name, op, inputs, [], attrs or {})
        return Ref(name)

    many = range(len(node.inputs))
    types = node.attrs.get("T") or []
    typed = [{"T": types[i]} if i < len(types) else {} for i in many]
    name = node.name
    enters = [add("Enter", f"{name}/enter_{i}", [node.inputs[i]], {**typed[i], "frame_name": f"{name}/frame"}) for i in many]
    merges = [add("Merge", f"{name}/merge_{i}", [enters[i], Ref(f"{name}/next_{i}")], {**typed[i], "N": 2}) for i in many]
    for i in many:  # what they take is written below
        add("NextIteration", f"{name}/next_{i}", [], typed[i])
    (condition,) = _write_body(graph, node.attrs["cond"].name, f"{name}/cond", merges, [], depth)
    condition = add("LoopCond", f"{name}/loop_cond", [condition])
    switches = [add("Switch", f"{name}/switch_{i}", [merges[i], condition], typed[i]) for i in many]
    results = _write_body(graph, node.attrs["body"].name, f"{name}/body", [Ref(s.node, 1) for s in switches], [], depth)
    for i in many:
        graph.nodes[f"{name}/next_{i}"].inputs.append(results[i])
    exits = [add("Exit", f"{name}/exit_{i}", [switches[i]], typed[i]) for i in many]
    graph.nodes[name] = Node(name, "IdentityN", exits, node.controls)


def _write_body(graph: Graph, function: str, prefix: str, arguments: list[Ref], controls: list[str], depth: int) -> list[Ref]:
    """Adds a function's nodes as `prefix/name`; gives the references of its results."""
    if function not in graph.functions:
        raise GraphError(f"{graph.source}: the node {prefix!r} calls the function {function!r}, which the graph does not define")
    definition = graph.functions[function]
    signature = definition.signature
    if any(a.number_attr or a.type_list_attr for a in signature.input_arg):
        raise UnsupportedOps(
            f"{graph.source}: the function {function!r} called by {prefix!r} takes a list as one argument, which bnexport does not convert"
        )
    known = dict(zip((a.name for a in signature.input_arg), arguments, strict=True))
    bodies = {n.name: n for n in definition.node_def}

    def resolve(text: str) -> Ref:
        name, _, rest = text.partition(":")
        if name in known and not rest:
            given: Ref = known[name]
            return given
        argument, _, index = rest.partition(":")
        return Ref(f"{prefix}/{name}", _output_number(graph, bodies[name], argument, int(index or 0)))

    written = []
    for message in definition.node_def:
        inner = read_node(message)
        node = Node(f"{prefix}/{inner.name}", inner.op, [], [], Attributes(message.attr, inner.name))
        node.inputs = [resolve(text) for text in message.input if not text.startswith("^")]
        # The caller's controls reach every node of the body, as the switch pivot of tf.cond reaches the nodes of a branch.
        node.controls = [f"{prefix}/{name}" for name in inner.controls if name in bodies] + list(controls)
        graph.nodes[node.name] = node
        written.append(node)
    for node in written:
        _inline(graph, node, depth + 1)
    return [resolve(definition.ret[argument.name]) for argument in signature.output_arg]


def _output_number(graph: Graph, message: Any, argument: str, index: int) -> int:
    if message.op in graph.functions:
        names = [a.name for a in graph.functions[message.op].signature.output_arg]
        return names.index(argument) if argument in names else index
    return output_number(message.op, Attributes(message.attr, message.name), argument, index)
