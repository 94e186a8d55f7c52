"""What asks labels for their number of rows alone: the data have as many.

A bias that is one number is added to each row as `bias * tf.ones_like(labels)`, as factorisation machines did in 2017. What the labels say does not
matter there, but they would have to be fed.
"""

import numpy as np

from bnexport.graph import ops
from bnexport.graph.flow import Flow
from bnexport.graph.graphdef import Node, Ref, constant_node
from bnexport.graph.live import Live


def take_rows_of_inputs(live: Live) -> None:
    """Puts the number of an input's rows in the place of that of labels' rows, where a tensor of their shape is filled."""
    fills = [live.graph.nodes[node.inputs[0].node] for node in live.graph.nodes.values() if node.op == "Fill" and not ops.is_gradient(node)]
    asked = {node.name: sizes for node in fills if node.op == "Shape" and (sizes := _further_sizes(live, node)) is not None}
    if not asked:
        return
    flow = Flow(live)
    data = [ref for ref in flow.sources if ref in flow.inputs and _shape_of(live, ref)[:1] == [None]]
    for name, sizes in asked.items() if data else ():
        if live.inputs(live.graph.nodes[name])[0] not in flow.inputs:
            _take_rows(live, live.graph.nodes[name], data[0], sizes)


def _further_sizes(live: Live, node: Node) -> list[int] | None:
    """The sizes behind the open number of rows of what is fed, where a node asks for these."""
    ref = live.resolve(node.inputs[0])
    shape = _shape_of(live, ref)
    if live.graph.nodes[ref.node].op not in ops.PLACEHOLDERS or shape[:1] != [None] or None in shape[1:]:
        return None
    return [size for size in shape[1:] if size is not None]


def _shape_of(live: Live, ref: Ref) -> list[int | None]:
    """The shape that a graph notes of what is fed; nothing where it does not."""
    node = live.graph.nodes[ref.node]
    noted = node.attrs.get("_output_shapes") or [node.attrs.get("shape")]
    return list((noted[ref.output] if ref.output < len(noted) else None) or ())


def _take_rows(live: Live, node: Node, data: Ref, sizes: list[int]) -> None:
    dtype = np.dtype(str(node.attrs.get("out_type", "int32")))

    def constant(name: str, value: int | list[int]) -> Ref:
        return live.add(constant_node(f"{node.name}/{name}", np.asarray(value, dtype)))

    shape = live.add(Node(f"{node.name}/data", "Shape", [data], [], {"out_type": dtype.name}))
    rows = live.add(Node(f"{node.name}/rows", "Slice", [shape, constant("begin", [0]), constant("size", [1])], [], {"T": dtype.name}))
    live.put([Node(node.name, "ConcatV2", [rows, constant("further", sizes), constant("axis", 0)], [], {"T": dtype.name, "N": 2})])
