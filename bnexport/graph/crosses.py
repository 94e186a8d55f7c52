"""Crossed features: each combination of an element of one feature with one of every other, as a number of a bucket.

SparseCross takes features of any number of elements a row, and makes one of all combinations, in an order that nothing depends on. Of features that
are dense matrices, with a truth value for each element that tells whether it is there, it is a tensor with a dimension for each feature.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from bnexport.graph.graphdef import Node, Ref, constant_node

Add = Callable[..., Ref]


class Part(NamedTuple):
    """A feature (rows, elements), and which of its elements are there; None for all of them."""

    dense: Ref
    kept: Ref | None


class Features(NamedTuple):
    """What a SparseCross takes: the indices, values and shape of each sparse feature, and the dense ones after them."""

    sparse: Sequence[tuple[Ref, Ref, Ref]]
    dense: Sequence[Ref]


def features_of(node: Node) -> Features | None:
    """The features that a SparseCross combines to numbers; None where it combines them to text."""
    if not node.attrs.get("hashed_output"):
        return None
    count = int(node.attrs["N"])
    parts = [node.inputs[i * count : (i + 1) * count] for i in range(3)]
    return Features(list(zip(*parts, strict=True)), node.inputs[3 * count :])


def cross(node: Node, parts: Sequence[Part], add: Add) -> tuple[Ref, Ref]:
    """The combinations (rows, combinations) as numbers, and which of them are there."""
    name, typed = node.name, {"T": "int64"}

    def constant(word: str, value: object) -> Ref:
        return add(f"{name}/{word}", "Const", [], constant_node("", np.asarray(value, np.int32)).attrs)

    def apart(ref: Ref, place: int, what: str) -> Ref:
        """A matrix with its elements along one of as many dimensions as there are features."""
        for number in range(len(parts) - 1):
            axis = constant("first", 1) if number < place else constant("last", -1)
            ref = add(f"{name}/{what}_{place}/dimension_{number}", "ExpandDims", [ref, axis])
        return ref

    attrs = {"num_buckets": int(node.attrs["num_buckets"]), "hash_key": int(node.attrs["hash_key"])}
    numbers = add(f"{name}/hashed", "HashedCross", [apart(part.dense, i, "element") for i, part in enumerate(parts)], attrs)
    kept = add(f"{name}/all", "Equal", [numbers, numbers], typed)
    for i, part in enumerate(parts):
        if part.kept is not None:
            kept = add(f"{name}/kept_{i}", "LogicalAnd", [kept, apart(part.kept, i, "is_there")])
    sizes = add(f"{name}/sizes", "Shape", [numbers], {**typed, "out_type": "int32"})
    rows = add(f"{name}/rows", "Slice", [sizes, constant("begin", [0]), constant("one", [1])], {"T": "int32"})
    shape = add(f"{name}/matrix", "ConcatV2", [rows, constant("rest", [-1]), constant("axis", 0)], {"T": "int32", "N": 2})
    matrix, there = (
        add(f"{name}/{word}", "Reshape", [ref, shape], {"T": dtype}) for word, ref, dtype in (("numbers", numbers, "int64"), ("there", kept, "bool"))
    )
    return matrix, there
