"""Features that a graph parses from tf.train.Example records: which one an output of the parser is."""

from typing import NamedTuple

from bnexport.graph.graphdef import Graph, Node, Ref

_PARSERS = frozenset({"ParseExample", "ParseExampleV2", "ParseSingleExample"})


class Feature(NamedTuple):
    """A dense feature: its key in the records, the shape of its tensor with None for sizes that vary (None where it is not known), its dtype."""

    key: str
    shape: tuple[int | None, ...] | None
    dtype: str


class SparseFeature(NamedTuple):
    """A feature of any number of values: its key in the records, its dtype, which part of it is meant (0 indices, 1 values, 2 shape), its shape."""

    key: str
    dtype: str
    part: int
    shape: Ref


def sparse_feature(graph: Graph, ref: Ref) -> SparseFeature | None:
    """The sparse feature a part of which is an output of a parser of batches; None for any other tensor."""
    node = graph.nodes[ref.node]
    if node.op not in _PARSERS or node.op == "ParseSingleExample":
        return None
    count, types = _sparse_count(node), node.attrs.get("sparse_types") or []
    keys = _texts(graph, node.inputs[2:3] if node.op == "ParseExampleV2" else node.inputs[2 : 2 + count])
    if ref.output >= 3 * count or not len(keys) == len(types) == count:
        return None
    part, number = divmod(ref.output, count)
    return SparseFeature(keys[number], str(types[number]), part, Ref(ref.node, 2 * count + number))


def dense_feature(graph: Graph, ref: Ref) -> Feature | None:
    """The dense feature that an output of a parser holds; None for any other tensor.

    A parser has three outputs for every sparse feature, and the dense ones behind them (parsing_ops.cc).
    """
    node = graph.nodes[ref.node]
    if node.op not in _PARSERS:
        return None
    sparse = _sparse_count(node)
    dtypes = node.attrs.get("Tdense") or []
    number = ref.output - 3 * sparse
    keys = _dense_keys(graph, node, sparse)
    if not 0 <= number < min(len(dtypes), len(keys)):
        return None
    sizes = node.attrs["dense_shapes"][number]
    batch = () if node.op == "ParseSingleExample" else (None,)
    return Feature(keys[number], None if sizes is None else (*batch, *sizes), str(dtypes[number]))


def _sparse_count(node: Node) -> int:
    return int(node.attrs.get("num_sparse", node.attrs.get("Nsparse", 0)))


def _dense_keys(graph: Graph, node: Node, sparse: int) -> list[str]:
    if node.op == "ParseSingleExample":
        return list(node.attrs.get("dense_keys") or [])
    # Both take records and their names first; then the old one has a scalar for each key, and the new one a vector for each kind of feature.
    refs = node.inputs[3:4] if node.op == "ParseExampleV2" else node.inputs[2 + sparse : 2 + sparse + len(node.attrs.get("Tdense") or [])]
    return _texts(graph, refs)


def _texts(graph: Graph, refs: list[Ref]) -> list[str]:
    """The texts that constants hold; none where one is no constant."""
    keys = [graph.nodes[ref.node] for ref in refs]
    if any(key.op != "Const" for key in keys):
        return []
    return [text.decode("utf-8", "backslashreplace") for key in keys for text in key.attrs["value"].reshape(-1)]
