"""Whether a network surely computes each row of its batch by itself, so that the rows of a batch may be computed in parts.

An operator that treats rows by themselves in one network mixes them in another: a softmax goes over the batch where a tensor has no other dimension,
and a difference compares every row with every other where one of its operands was reshaped. So the rank of every tensor is followed, and whether its
first dimension is the batch (or several rows for each of the batch's).
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from bnexport.kernels import OPS
from bnexport.program import LINEAR, Layer, Literal, Port

_SAME_RANK = frozenset(
    {"MaxPool", "MaxPoolV2", "AvgPool", "BiasAdd", "LRN", "ResizeBilinear", "ResizeNearestNeighbor", "ResizeBicubic", "ScaleShift"}
)
_BROADCAST = frozenset(
    {"Cast", "Bucketize", "Select", "SelectV2", "Equal", "NotEqual", "Less", "LessEqual", "Greater", "GreaterEqual", "LogicalAnd", "LogicalOr",
     "LogicalNot"}
)  # fmt: skip
_ELEMENTS_ALONE = frozenset({"Lookup", "StringToHashBucket", "StringToHashBucketFast", "StringToHashBucketStrong", "AsString"})
"""What is done to each element of the first operand by itself."""
_OVER_LAST = frozenset({"Softmax", "LogSoftmax"})
_REDUCTIONS = frozenset({"Mean", "Sum", "Max", "Min", "All", "Any"})
_LOOKUPS = frozenset({"Gather", "GatherV2"})


class _Tensor(NamedTuple):
    rank: int
    batched: bool


def rows_alone(inputs: Sequence[Port], layers: Sequence[Layer], outputs: Sequence[Port], batch: int | None = None) -> bool:
    """Whether each row of the outputs depends on one row of the inputs only.

    Args:
        batch: the number of rows that the network was built for, if it takes no other.
    """
    known = {port.tensor: _Tensor(len(port.shape), bool(port.shape) and port.shape[0] is None) for port in inputs}
    for layer in layers:
        result = _result(layer, known, batch)
        if result is None or (layer.activation in _OVER_LAST and result.batched and result.rank < 2):
            return False
        known[layer.name] = result
    return all(port.tensor in known and known[port.tensor].batched for port in outputs)


def _result(layer: Layer, known: dict[str, _Tensor], batch: int | None) -> _Tensor | None:
    """What a layer makes, if it treats rows by themselves."""
    if layer.outputs != 1 or not layer.inputs or any(isinstance(o, str) and not o.startswith("@") and o not in known for o in layer.inputs):
        return None
    operands = [_operand(layer, o, known) for o in layer.inputs]
    first = operands[0]
    if layer.op in LINEAR or layer.op in _SAME_RANK:
        alone = first.rank > 1 or layer.op == "ScaleShift" or not first.batched
        return first if alone and not any(o.batched for o in operands[1:]) else None
    if layer.op in _OVER_LAST:
        return first if first.rank > 1 or not first.batched else None
    if layer.op in _ELEMENTS_ALONE:
        return first if not any(o.batched for o in operands[1:]) else None
    if layer.op == "DenseBincount":
        return first if first.rank > 1 and not any(o.batched for o in operands[1:]) else None
    if layer.op == "OneHot":
        return _Tensor(first.rank + 1, first.batched) if layer.attrs.get("axis", -1) and not any(o.batched for o in operands[1:]) else None
    if layer.op in _LOOKUPS:
        rows = len(layer.inputs) < 3 or _integers(layer, 2) == [0]
        alone = rows and not first.batched and not layer.attrs.get("batch_dims", 0)
        return _Tensor(operands[1].rank + first.rank - 1, operands[1].batched) if alone else None
    if layer.op == "Reshape":
        return _reshaped(layer, first, batch)
    if layer.op in ("ConcatV2", "Concat"):
        at, parts = (-1, operands[:-1]) if layer.op == "ConcatV2" else (0, operands[1:])
        axis, rank = _integers(layer, at), max((p.rank for p in parts), default=0)
        return None if not axis or axis[0] % max(1, rank) == 0 else _Tensor(rank, any(p.batched for p in parts))
    if layer.op in _REDUCTIONS:
        listed = _integers(layer, 1)
        if listed is None:
            return None
        axes = {axis % max(1, first.rank) for axis in listed}
        return None if first.batched and 0 in axes else _Tensor(first.rank - (0 if layer.attrs.get("keep_dims") else len(axes)), first.batched)
    if layer.op in _BROADCAST or (layer.op in OPS and OPS[layer.op].inplace):
        return _broadcast(layer, operands)
    return None


def _operand(layer: Layer, operand: str | Literal, known: dict[str, _Tensor]) -> _Tensor:
    if isinstance(operand, Literal):
        return _Tensor(np.ndim(operand.value), False)
    return _Tensor(len(layer.arrays[operand[1:]].shape), False) if operand.startswith("@") else known[operand]


def _integers(layer: Layer, position: int) -> list[int] | None:
    operand = layer.inputs[position] if position < len(layer.inputs) else None
    return [int(i) for i in np.asarray(operand.value).reshape(-1)] if isinstance(operand, Literal) else None


def _reshaped(layer: Layer, data: _Tensor, batch: int | None) -> _Tensor | None:
    """A reshape keeps rows apart where the first dimension of its result goes with that of its operand; any rest is of one row."""
    sizes = _integers(layer, 1)
    if sizes is None:
        return None
    if data.batched and not (sizes and (sizes[0] == -1 or (batch is not None and sizes[0] % batch == 0))):
        return None
    return _Tensor(len(sizes), data.batched)


def _broadcast(layer: Layer, operands: Sequence[_Tensor]) -> _Tensor | None:
    """Elementwise: the first dimension of every operand that has rows has to be that of the result."""
    aligned = operands[1:] if layer.op == "Select" and operands[0].rank == 1 else operands  # (whose condition may choose whole rows)
    rank = max(o.rank for o in aligned)
    batched = any(o.batched for o in operands)
    if any(o.batched and o.rank != rank for o in aligned) or (batched and not rank):
        return None
    return _Tensor(rank, batched)
