"""Features that a graph parses from tf.train.Example records: which one an output of the parser is."""

from typing import NamedTuple

from bnexport.graph.graphdef import Graph, Node, Ref

_PARSERS = frozenset({"ParseExample", "ParseExampleV2", "ParseSingleExample"})


class Feature(NamedTuple):
    """A dense feature: its key in the records, the shape of its tensor with None for sizes that vary (None where it is not known), its dtype."""

    key: str
    shape: tuple[int | None, ...] | None
    dtype: str


def dense_feature(graph: Graph, ref: Ref) -> Feature | None:
    """The dense feature that an output of a parser holds; None for any other tensor.

    A parser has three outputs for every sparse feature, and the dense ones behind them (parsing_ops.cc).
    """
    node = graph.nodes[ref.node]
    if node.op not in _PARSERS:
        return None
    sparse = int(node.attrs.get("num_sparse", node.attrs.get("Nsparse", 0)))
    dtypes = node.attrs.get("Tdense") or []
    number = ref.output - 3 * sparse
    keys = _dense_keys(graph, node, sparse)
    if not 0 <= number < min(len(dtypes), len(keys)):
        return None
    sizes = node.attrs["dense_shapes"][number]
    batch = () if node.op == "ParseSingleExample" else (None,)
    return Feature(keys[number], None if sizes is None else (*batch, *sizes), str(dtypes[number]))


def _dense_keys(graph: Graph, node: Node, sparse: int) -> list[str]:
    if node.op == "ParseSingleExample":
        return list(node.attrs.get("dense_keys") or [])
    # Both take records and their names first; then the old one has a scalar for each key, and the new one a vector for each kind of feature.
    refs = node.inputs[3:4] if node.op == "ParseExampleV2" else node.inputs[2 + sparse : 2 + sparse + len(node.attrs.get("Tdense") or [])]
    keys = [graph.nodes[ref.node] for ref in refs]
    if any(key.op != "Const" for key in keys):
        return []
    return [text.decode("utf-8", "backslashreplace") for key in keys for text in key.attrs["value"].reshape(-1)]
