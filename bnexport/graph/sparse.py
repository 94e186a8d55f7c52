"""Tensors that are sparse for a while, as the dense ones that they were made of.

Feature columns drop the elements of a dense tensor that are missing (`''`, or -1), look up those that are left, drop what has no number, and make
dense tensors of them again: one with a default in the gaps, or the sum or mean of the rows of a table that each row's elements choose. How many
elements are left depends on the data; which these are does not have to be told by their indices, but can be told by a truth value for every element.
So whatever was computed for the elements that are left is computed for all, and the gaps are left out where the tensor becomes dense again.

A feature of any number of values, which tf.train.Example records hold, is such a tensor whose dense one is an input: what feature columns take for
missing in a dense tensor fills up its rows.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from bnexport.graph import ops
from bnexport.graph.crosses import Part, cross, features_of
from bnexport.graph.features import sparse_feature
from bnexport.graph.graphdef import Graph, Node, Ref, constant_node
from bnexport.graph.grids import Size, columns_of_grid, size_in_shape, whole_grid
from bnexport.graph.rowwise import repeated

_ELEMENTWISE = frozenset(
    {"Lookup", "StringToHashBucket", "StringToHashBucketFast", "StringToHashBucketStrong", "AsString", "Cast", "Add", "AddV2", "Sub", "Mul",
     "FloorMod", "FloorDiv", "LogicalAnd", "LogicalOr", "LogicalNot", "Select", "SelectV2", "ZerosLike", "OnesLike", "Maximum", "Minimum",
     "Bucketize"}
)  # fmt: skip
_COMPARISONS = frozenset({"NotEqual", "Equal", "Less", "LessEqual", "Greater", "GreaterEqual"})
_MISSING: dict[str, Any] = {"object": b"", "int64": -1}
"""What feature columns take for missing in a dense tensor, by its dtype."""
_GATHERS = frozenset({"Gather", "GatherV2"})
_DENSE = frozenset({"SparseToDense"})
_TELLING = frozenset({"SparseFillEmptyRows", "SparseReshape"})
"""Operators that also tell something that is dense: which rows are empty, a shape."""
_COMBINERS = {"SparseSegmentSum": "sum", "SparseSegmentMean": "mean", "SparseSegmentSqrtN": "sqrtn"}


@dataclass(frozen=True)
class _Places:
    """The indices of the elements that are kept.

    `kept` is a truth value for each element, in the shape that the tensor had first; `shape` is the one it was given since. `default` is what one
    element of each row that had none was given (SparseFillEmptyRows).
    """

    kept: Ref
    shape: Ref | None = None
    default: Ref | None = None


@dataclass(frozen=True)
class _Values:
    """Values of the elements that are kept: those of a dense tensor, or of a scalar for all."""

    dense: Ref
    kept: Ref
    default: Ref | None = None


@dataclass(frozen=True)
class _Table:
    """A matrix whose rows are looked up; or, where `of` is given, the rows that are computed of this vector of numbers, as from a table in parts."""

    rows: Ref
    of: Ref | None = None


def keep_dense(graph: Graph) -> None:
    """Puts dense tensors in the place of those that were sparse for a while, in place."""
    found = [node for node in graph.nodes.values() if node.op in _DENSE or node.op in _COMBINERS or node.op in _TELLING]
    sparse = _Sparse(graph) if found else None
    for telling in (False, True):  # those who ask for a shape show which tensors are of one
        for node in found:
            if sparse is not None and (node.op in _TELLING) is telling:
                sparse.rewrite(node)
    if sparse is not None:
        sparse.tell_shapes_of_inputs()
        sparse.tell_shapes_of_crosses()


class _Sparse:
    def __init__(self, graph: Graph):
        self.graph = graph
        self._values: dict[Ref, _Values | None] = {}
        self._places: dict[Ref, _Places | None] = {}
        self._inputs: set[str] = set()
        self._shapes: dict[Ref, Ref] = {}
        self._sizes: dict[Ref, Size] = {}
        self._crossed: dict[str, _Values | None] = {}
        self.users = graph.consumers()

    # ---- what becomes dense again

    def rewrite(self, node: Node) -> None:
        """Computes what a node gives from dense tensors, where it is known of which."""
        if node.op in _DENSE:
            self._to_dense(node)
        elif node.op in _COMBINERS:
            self._combine(node)
        elif node.op == "SparseReshape":
            self._tell_shape(node)
        else:
            self._tell_empty(node)

    def _to_dense(self, node: Node) -> None:
        """A tensor with a default in the gaps."""
        indices, shape, values, default = node.inputs
        places, found = self.places(indices), self.values(values)
        if places is None or found is None or found.kept != places.kept or places.default or not self._is_shape(shape, places):
            return
        kept, dense = (self._reshaped(ref, places, node.name) for ref in (found.kept, found.dense))
        self.graph.nodes[node.name] = Node(node.name, "SelectV2", [kept, dense, default], node.controls, {"T": node.attrs["T"]})

    def _combine(self, node: Node) -> None:
        """The sums or means of the rows of a table that the elements of each row choose."""
        rows = self._rows_of(node.inputs[2])
        table, ids = self._looked_up(node)
        if rows is None or table is None or ids is None or rows.kept != ids.kept or rows.default is None or rows.default != ids.default:
            return
        name, dtype = node.name, node.attrs["T"]
        zero = self._constant(f"{name}/zero", np.zeros((), dtype))
        none = rows.default if table.of else self._constant(f"{name}/none", np.zeros((), self._dtype_of_ids(ids)))
        last, column, row = (self._constant(f"{name}/{word}", np.int32(axis)) for word, axis in (("last", -1), ("column", 1), ("row", 0)))
        kept, numbers = (self._reshaped(ref, rows, name) for ref in (ids.kept, ids.dense))
        typed = {"T": dtype}
        chosen = self._add(f"{name}/ids", "SelectV2", [kept, numbers, none])
        found = self._look_up(table, chosen, f"{name}/rows", name)
        if found is None:
            return
        there = self._add(f"{name}/there", "ExpandDims", [kept, last])
        counted = self._add(f"{name}/counted", "SelectV2", [there, found, zero], typed)
        result = self._add(f"{name}/sum", "Sum", [counted, column], {**typed, "keep_dims": False})
        if _COMBINERS[node.op] != "sum":
            ones = self._add(f"{name}/ones", "Cast", [there], {"SrcT": "bool", "DstT": dtype})
            count = self._add(f"{name}/count", "Sum", [ones, column], {**typed, "keep_dims": False})
            least = self._add(f"{name}/least", "Maximum", [count, self._constant(f"{name}/one", np.ones((), dtype))], typed)
            divisor = least if _COMBINERS[node.op] == "mean" else self._add(f"{name}/root", "Sqrt", [least], typed)
            result = self._add(f"{name}/mean", "RealDiv", [result, divisor], typed)
        gathered = {"Tparams": dtype, "Taxis": "int32", "batch_dims": 0}
        operands = [found, self._constant(f"{name}/first", np.int32(0)), column] if table.of else [table.rows, rows.default, row]
        filled = self._add(f"{name}/filled", "GatherV2", operands, gathered)
        some = self._add(f"{name}/some", "Any", [there, column], {"keep_dims": False})
        self.graph.nodes[name] = Node(name, "SelectV2", [some, result, filled], node.controls, typed)

    def tell_shapes_of_inputs(self) -> None:
        """Takes the shapes of features that are parsed from the inputs that they come from."""
        for ref, dense in self._shapes.items():
            self._replace(
                ref, self._add(f"{dense.node}/shape", "Shape", [dense], {"T": self.graph.nodes[dense.node].attrs["dtype"], "out_type": "int64"})
            )

    def tell_shapes_of_crosses(self) -> None:
        """Takes the shapes of crossed features from all combinations that there are, kept or not: the rows are the same."""
        for name, crossed in self._crossed.items():
            if crossed is not None:
                shape = self._add(f"{name}/shape", "Shape", [crossed.dense], {"T": "int64", "out_type": "int64"})
                self._replace(Ref(name, 2), shape)

    def _tell_empty(self, node: Node) -> None:
        """Computes which rows are empty from the elements that are kept, for those who ask SparseFillEmptyRows."""
        places = self.places(Ref(node.name))
        if places is None:
            return
        column = self._constant(f"{node.name}/column", np.int32(1))
        some = self._add(f"{node.name}/some", "Any", [self._reshaped(places.kept, places, node.name), column], {"keep_dims": False})
        self._replace(Ref(node.name, 2), self._add(f"{node.name}/empty", "LogicalNot", [some]))

    def _tell_shape(self, node: Node) -> None:
        """Takes the shape of a tensor that was reshaped from the dense one, for those who ask SparseReshape."""
        places = self.places(Ref(node.name))
        if places is not None:
            kept = self._reshaped(places.kept, places, node.name)
            self._replace(Ref(node.name, 1), self._add(f"{node.name}/shape", "Shape", [kept], {"T": "bool", "out_type": "int64"}))

    def _replace(self, ref: Ref, by: Ref) -> None:
        for user in self.users.get(ref.node, ()):
            user.inputs[:] = [by if taken == ref else taken for taken in user.inputs]

    # ---- following

    def values(self, ref: Ref) -> _Values | None:
        """What a vector of the elements that are kept holds."""
        ref = self._behind(ref)
        if ref not in self._values:
            self._values[ref] = None  # stands while it is computed: a loop's values depend on themselves
            self._values[ref] = self._read_values(ref)
        return self._values[ref]

    def _read_values(self, ref: Ref) -> _Values | None:
        node = self.graph.nodes[ref.node]
        if (given := self._given(ref, 1)) is not None:
            return given
        if node.op == "GatherNd":
            places = self.places(node.inputs[1])
            dense = self._behind(node.inputs[0])
            return _Values(dense, places.kept) if places is not None and not places.shape and self._is_mask_of(places.kept, dense) else None
        if node.op in _GATHERS:
            values, retained = self.values(node.inputs[0]), self._retained(node.inputs[1])
            if values is None or retained is None or retained[0] != values.kept or values.default:
                return None
            return replace(values, kept=retained[1])
        if node.op == "SparseFillEmptyRows" and ref.output == 1:
            places, values = self.places(Ref(node.name)), self.values(node.inputs[1])
            return replace(values, default=node.inputs[3]) if places is not None and values is not None and places.kept == values.kept else None
        if node.op == "SparseCross" and ref.output == 1:
            return self._cross(node)
        if node.op == "Fill":
            return self._filled(node)
        if node.op in ("Add", "AddV2") and (kept := self._numbered(node)) is not None:
            return _Values(ref, kept)
        return self._elementwise(node) if node.op in _ELEMENTWISE | _COMPARISONS else None

    def _filled(self, node: Node) -> _Values | None:
        sizes = self.graph.nodes[self._behind(node.inputs[0]).node]
        like = self.values(sizes.inputs[0]) if sizes.op == "Shape" else None
        return replace(like, dense=node.inputs[1]) if like is not None and like.default is None else None

    def _elementwise(self, node: Node) -> _Values | None:
        """What an operator makes of elements that are kept, made of all."""
        operands: list[Ref] = []
        kept: set[Ref] = set()
        for position, ref in enumerate(node.inputs):
            values = self.values(ref)
            if values is not None and values.default is None:
                kept.add(values.kept)
                operands.append(values.dense)
            elif values is None and (self._is_scalar(ref) or (node.op == "Lookup" and position in (1, 2))):
                operands.append(ref)
            else:
                return None
        if len(kept) != 1:
            return None
        op = "SelectV2" if node.op == "Select" else node.op
        return _Values(self._add(f"{node.name}/dense", op, operands, node.attrs), kept.pop())

    def _cross(self, node: Node) -> _Values | None:
        """Each combination of an element of one feature with one of every other, hashed, of features that are matrices."""
        if node.name not in self._crossed:
            self._crossed[node.name] = None
            features, parts = features_of(node), list[Part]()
            for number, (indices, values, shape) in enumerate(features.sparse if features else ()):
                places, found = self.places(indices), self.values(values)
                if places is None or found is None or found.kept != places.kept or places.default or not self._is_shape(shape, places):
                    return None
                dense, kept = (self._reshaped(ref, places, f"{node.name}/feature_{number}") for ref in (found.dense, found.kept))
                parts.append(Part(dense, kept))
            if features is not None:
                self._crossed[node.name] = _Values(*cross(node, [*parts, *(Part(self._behind(ref), None) for ref in features.dense)], self._add))
        return self._crossed[node.name]

    def places(self, ref: Ref) -> _Places | None:
        """Which elements a matrix of indices, in row-major order, is of."""
        ref = self._behind(ref)
        if ref not in self._places:
            self._places[ref] = None
            self._places[ref] = self._read_places(ref)
        return self._places[ref]

    def _read_places(self, ref: Ref) -> _Places | None:
        node = self.graph.nodes[ref.node]
        if (given := self._given(ref, 0)) is not None:
            return _Places(given.kept)
        if node.op == "Cast" and (whole := self._whole(node.inputs[0])) is not None:
            return whole
        if node.op == "SparseCross" and ref.output == 0 and (crossed := self._cross(node)) is not None:
            return _Places(crossed.kept)
        if node.op == "Where":
            kept = self._behind(node.inputs[0])
            return _Places(kept) if self.graph.nodes[kept.node].op in _COMPARISONS and self.values(kept) is None else None
        if node.op in _GATHERS:
            places, retained = self.places(node.inputs[0]), self._retained(node.inputs[1])
            return replace(places, kept=retained[1]) if places and retained and retained[0] == places.kept and not places.default else None
        if node.op == "SparseReshape" and ref.output == 0:
            places = self.places(node.inputs[0])
            fits = places is not None and not places.default and self._is_shape(node.inputs[1], places)
            return replace(places, shape=node.inputs[2]) if places is not None and fits else None
        if node.op == "SparseFillEmptyRows" and ref.output == 0:
            places = self.places(node.inputs[0])
            fits = places is not None and not places.default and self._is_shape(node.inputs[2], places)
            return replace(places, default=node.inputs[3]) if places is not None and fits else None
        return None

    def _given(self, ref: Ref, part: int) -> _Values | None:
        """The values of a feature that is parsed, of which a reference is the given part; they come from an input of the feature's name."""
        feature = sparse_feature(self.graph, ref)
        if feature is None or feature.part != part or feature.dtype not in _MISSING:
            return None
        taken = feature.key in self.graph.nodes and feature.key not in self._inputs
        name = f"{ref.node}/{feature.key}" if taken else feature.key
        self._inputs.add(name)
        dense = self._add(name, "Placeholder", [], {"dtype": feature.dtype, "shape": [None, None]})
        self._shapes[feature.shape] = dense
        missing = self._constant(f"{name}/missing", np.array(_MISSING[feature.dtype], feature.dtype))
        return _Values(dense, self._add(f"{name}/given", "NotEqual", [dense, missing], {"T": feature.dtype}))

    def _whole(self, ref: Ref) -> _Places | None:
        """All places of a matrix, as a bucketized column writes them."""
        grid = whole_grid(self.graph, ref)
        if grid is None:
            return None
        kept = self._all(grid.columns)
        self._sizes[kept] = grid.size
        return _Places(kept, self._constant(f"{kept.node}/shape", np.array([-1, grid.size.width], np.int64)))

    def _all(self, columns: Ref) -> Ref:
        return self._add(f"{columns.node}/all", "Equal", [columns, columns], {"T": "int32"})

    def _numbered(self, node: Node) -> Ref | None:
        """Where numbers are added to multiples of the numbers of columns: what tells that all of them are kept."""
        for operand in node.inputs:
            product = self.graph.nodes[self._behind(operand).node]
            for factor in product.inputs if product.op == "Mul" else ():
                if columns_of_grid(self.graph, self._behind(factor)) is not None:
                    return self._all(self._behind(factor))
        return None

    def _retained(self, ref: Ref) -> tuple[Ref, Ref] | None:
        """Of a vector that says which of the elements that are kept to keep further (tf.sparse.retain): what tells the former, and the latter."""
        reshape = self.graph.nodes[self._behind(ref).node]
        where = self.graph.nodes[self._behind(reshape.inputs[0]).node] if reshape.op == "Reshape" else reshape
        if where.op != "Where":
            return None
        told = self.values(where.inputs[0])
        if told is None or told.default is not None:
            return None
        return told.kept, self._add(f"{where.name}/kept", "LogicalAnd", [told.kept, told.dense])

    def _rows_of(self, ref: Ref) -> _Places | None:
        """The elements of whose indices a vector is the first column."""
        node = self.graph.nodes[self._behind(ref).node]
        if node.op == "Cast":
            node = self.graph.nodes[self._behind(node.inputs[0]).node]
        if node.op != "StridedSlice":
            return None
        bounds = [self._constant_value(r) for r in node.inputs[1:]]
        masks = [int(node.attrs.get(f"{word}_mask", 0)) for word in ("begin", "end", "shrink_axis")]
        first = (
            masks == [1, 1, 2]
            and all(b is not None and b.shape == (2,) for b in bounds)
            and [int(b[1]) for b in bounds if b is not None] == [0, 1, 1]
        )
        return self.places(node.inputs[0]) if first else None

    def _looked_up(self, node: Node) -> tuple[_Table | None, _Values | None]:
        """The table, and the elements that choose its rows: themselves, or through what is different among them."""
        data, ids = self._behind(node.inputs[0]), self._behind(node.inputs[1])
        gather, unique = self.graph.nodes[data.node], self.graph.nodes[ids.node]
        if unique.op not in ("Unique", "UniqueV2"):
            table, chosen = _Table(data), self.values(ids)
        elif ids.output == 1 and gather.op in _GATHERS and self._behind(gather.inputs[1]) == Ref(unique.name) and self._is_by_rows(gather):
            table, chosen = _Table(self._behind(gather.inputs[0])), self.values(unique.inputs[0])
        else:
            return (_Table(data, Ref(unique.name)), self.values(unique.inputs[0])) if ids.output == 1 else (None, None)
        return (table, chosen) if len(self.graph.nodes[table.rows.node].attrs.get("shape") or ()) == 2 else (None, None)

    def _look_up(self, table: _Table, ids: Ref, name: str, taker: str) -> Ref | None:
        """The rows of a table that a matrix of numbers chooses; None where they are not known to be computed one by one."""
        if table.of is None:
            row = self._constant(f"{name}/row", np.int32(0))
            dtype = self.graph.nodes[table.rows.node].attrs["dtype"]
            return self._add(name, "GatherV2", [table.rows, ids, row], {"Tparams": dtype, "Taxis": "int32", "batch_dims": 0})
        rest, axis = self._constant(f"{name}/rest", np.array([-1], np.int32)), self._constant(f"{name}/axis", np.int32(0))
        vector = self._add(f"{name}/vector", "Reshape", [ids, rest], {"T": "int64"})
        rows = repeated(self.graph, table.rows, table.of, vector, f"{name}/of", taker)
        if rows is None:
            return None
        sizes = self._add(f"{name}/sizes", "Shape", [ids], {"out_type": "int32"})
        return self._add(name, "Reshape", [rows, self._add(f"{name}/shape", "ConcatV2", [sizes, rest, axis], {"T": "int32", "N": 2})])

    def _is_by_rows(self, gather: Node) -> bool:
        axis = self._constant_value(gather.inputs[2]) if len(gather.inputs) > 2 else np.zeros(())
        return axis is not None and int(axis) == 0 and not gather.attrs.get("batch_dims", 0)

    # ---- small things

    def _behind(self, ref: Ref) -> Ref:
        return ops.behind(self.graph, ref)

    def _constant_value(self, ref: Ref) -> "np.ndarray[Any, Any] | None":
        value: np.ndarray[Any, Any] | None = ops.constant_behind(self.graph, ref)
        return value

    def _is_scalar(self, ref: Ref) -> bool:
        """Whether a value is one constant, as far as it is cast."""
        node = self.graph.nodes[self._behind(ref).node]
        value = self._constant_value(node.inputs[0] if node.op == "Cast" else ref)
        return value is not None and value.ndim == 0

    def _is_mask_of(self, kept: Ref, dense: Ref) -> bool:
        """Whether truth values are told by comparing each element of a tensor with one constant."""
        node = self.graph.nodes[kept.node]
        return node.op in _COMPARISONS and self._behind(node.inputs[0]) == dense and self._is_scalar(node.inputs[1])

    def _is_shape(self, ref: Ref, places: _Places) -> bool:
        """Whether a vector is the shape of the tensor whose elements these are."""
        ref = self._behind(ref)
        node = self.graph.nodes[ref.node]
        if (given := self._given(ref, 2)) is not None:
            return not places.shape and given.kept == self._first(places.kept)
        if node.op == "Cast":
            size = size_in_shape(self.graph, node.inputs[0])
            return size is not None and size == self._sizes.get(self._first(places.kept))
        if node.op == "SparseCross":
            crossed = self._cross(node)
            return ref.output == 2 and crossed is not None and not places.shape and crossed.kept == self._first(places.kept)
        if node.op == "SparseReshape" and ref.output == 1:
            before = self.places(Ref(node.name))
            return before is not None and before.shape == places.shape
        return node.op == "Shape" and not places.shape and self._is_mask_of(self._first(places.kept), self._behind(node.inputs[0]))

    def _first(self, kept: Ref) -> Ref:
        """The truth values that elements were first kept by."""
        node = self.graph.nodes[kept.node]
        return self._first(node.inputs[0]) if node.op == "LogicalAnd" else kept

    def _dtype_of_ids(self, ids: _Values) -> str:
        node = self.graph.nodes[ids.dense.node]
        return str(next((node.attrs[key] for key in ("Tout", "DstT", "T", "dtype") if key in node.attrs), "int64"))

    def _reshaped(self, ref: Ref, places: _Places, name: str) -> Ref:
        if places.shape is None or self._is_scalar(ref):
            return ref
        return self._add(f"{name}/{ref.node.rpartition('/')[2]}", "Reshape", [ref, places.shape], {"T": "bool", "Tshape": "int64"})

    def _constant(self, name: str, value: Any) -> Ref:
        self.graph.nodes[name] = constant_node(name, np.asarray(value))
        return Ref(name)

    def _add(self, name: str, op: str, inputs: list[Ref], attrs: Mapping[str, Any] | None = None) -> Ref:
        """A node of our own making; one that was made before stands."""
        self.graph.nodes.setdefault(name, Node(name, op, inputs, [], attrs or {}))
        return Ref(name)
