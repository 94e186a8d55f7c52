"""Which reductions go over the batch, as far as the graph tells before anything is evaluated: by shapes that TensorFlow noted, or by operators."""

from collections.abc import Iterable

from bnexport.graph import ops
from bnexport.graph.graphdef import Graph, Node, Ref

_RANKS = {"MatMul": 2, "Conv2D": 4, "DepthwiseConv2dNative": 4, "Conv2DBackpropInput": 4, "MaxPool": 4, "AvgPool": 4, "Conv3D": 5} | dict.fromkeys(
    ops.BATCH_NORMS, 4
)
_SAME_RANK = ops.PASS_THROUGH | ops.SWITCHES | ops.MERGES | frozenset(
    {"BiasAdd", "Relu", "Relu6", "Elu", "Selu", "LeakyRelu", "Sigmoid", "Tanh", "Softplus", "Softsign", "Softmax", "Square", "Sqrt", "Rsqrt", "Abs",
     "Exp", "Log", "Neg", "Cast"}
)  # fmt: skip
_BROADCAST = frozenset({"Add", "AddV2", "Sub", "Mul", "RealDiv", "Div", "Maximum", "Minimum", "SquaredDifference"})
_FAR = 24  # nodes that a rank is looked for behind


def noted_shape(graph: Graph, ref: Ref) -> list[int | None] | None:
    """The shape that TensorFlow noted, None for sizes that are open; None where it noted none, or knows not even the rank."""
    node = graph.nodes.get(ref.node)
    shapes = [] if node is None else node.attrs.get("_output_shapes") or []
    return shapes[ref.output] if ref.output < len(shapes) else None


def fed_shape(source: Node) -> list[int | None] | None:
    """The shape of what is fed, as TensorFlow noted it or else the placeholder says; None where the rank is unknown."""
    shapes: list[list[int | None] | None] = source.attrs.get("_output_shapes") or [source.attrs.get("shape")]
    return shapes[0]


def rank_of(graph: Graph, ref: Ref, far: int = _FAR) -> int | None:
    """How many dimensions a tensor has; None where neither shapes nor operators tell."""
    shape = noted_shape(graph, ref)
    node = graph.nodes.get(ref.node)
    if shape is not None or node is None or not far:
        return None if shape is None else len(shape)
    if node.op in _RANKS:
        return _RANKS[node.op] if ref.output == 0 else None
    if node.op in ops.PLACEHOLDERS:
        return len(node.attrs.get("shape") or ()) or None  # (in old graphs an empty shape may also be an unknown one)
    if node.op in _SAME_RANK and node.inputs:
        return rank_of(graph, node.inputs[0], far - 1)
    if node.op in _BROADCAST:
        ranks = [rank_of(graph, operand, far // 2) for operand in node.inputs]
        return None if None in ranks else max((rank for rank in ranks if rank is not None), default=None)
    return None


def counted_from_first(graph: Graph, data: Ref, axes: Iterable[int]) -> list[int]:
    """Axes of a tensor, those counted from the last (-1) counted from the first, where its rank is known."""
    listed = [int(axis) for axis in axes]
    rank = rank_of(graph, data) if any(axis < 0 for axis in listed) else None
    return listed if rank is None else [axis % rank if -rank <= axis < 0 else axis for axis in listed]


def are_of_batch(graph: Graph, data: Ref, axes: Iterable[int]) -> bool:
    """Whether the batch's axis is among some axes: the first one, or the second of a matrix whose columns are the rows (features × any number)."""
    listed = counted_from_first(graph, data, axes)
    shape = noted_shape(graph, data) or []
    return 0 in listed or (len(shape) == 2 and shape[0] not in (None, 1) and shape[1] is None and 1 in listed)
