"""Whether a network surely computes each row of a batch by itself, so that a large batch may go through it in parts.

An operator that treats rows by themselves does so of a tensor whose first dimension counts the rows. That is lost by a reshape that puts another
dimension first (of a signal that is a single image to a convolution, say), by a softmax of a vector, and by arithmetic of tensors of different ranks,
which broadcasts the rows of one against the columns of the other. So the ranks of all tensors are followed; where one is not sure, the answer is no.
"""

from collections.abc import Sequence

import numpy as np

from bnexport.kernels import OPS
from bnexport.program import Layer, Literal, Port
from bnexport.steps import KERNELS

_OF_ONE_TENSOR = frozenset(
    {"MaxPool", "MaxPoolV2", "AvgPool", "LRN", "ResizeBilinear", "ResizeNearestNeighbor", "ResizeBicubic", "Cast", "ScaleShift"}
)
_ALONG_THE_LAST_AXIS = frozenset({"Softmax", "LogSoftmax"})
_REDUCTIONS = frozenset({"Mean", "Sum", "Max", "Min"})
_CONCATENATIONS = frozenset({"ConcatV2", "Concat"})
_CHOICES = frozenset({"Select", "SelectV2"})


def row_by_row(layers: Sequence[Layer], inputs: Sequence[Port], batch: int | None = None) -> bool:
    """Whether each row is surely computed by itself.

    Args:
        batch: the number of rows that a network was built for, which its reshapes may say.
    """
    ranks = {port.tensor: len(port.shape) for port in inputs if port.shape and port.shape[0] is None}
    shared = {port.tensor: port.shape for port in inputs if port.tensor not in ranks}
    for layer in layers:
        rank = _rank(layer, ranks, shared, batch)
        if rank is None:
            return False
        ranks[layer.name] = rank
    return True


def _rank(layer: Layer, ranks: dict[str, int], shared: dict[str, tuple[int | None, ...]], batch: int | None) -> int | None:
    """The rank of what a layer makes; None where its first dimension may not count the rows, or where they may be mixed."""
    first = layer.inputs[0] if layer.inputs else None
    rank = ranks.get(first) if isinstance(first, str) else None
    if layer.op in KERNELS or layer.op in _OF_ONE_TENSOR:
        return rank
    if layer.op == "Reshape":
        target = _integers(layer, 1)
        if rank is None or not target:
            return None
        return len(target) if target[0] == -1 or (batch is not None and target[0] > 0 and target[0] % batch == 0) else None
    if layer.op in _REDUCTIONS:
        axes = _integers(layer, 1)
        if rank is None or axes is None or any(axis <= 0 for axis in axes):
            return None
        return rank if layer.attrs.get("keep_dims") else rank - len(axes)
    if layer.op in _ALONG_THE_LAST_AXIS:
        return rank if rank is not None and rank > 1 else None
    if layer.op in _CONCATENATIONS:
        axes = _integers(layer, len(layer.inputs) - 1 if layer.op == "ConcatV2" else 0)
        if axes in (None, (0,)):
            return None
    elif layer.op not in _CHOICES and not (layer.op in OPS and OPS[layer.op].inplace):
        return None
    return _common_rank(layer, ranks, shared, batch)


def _common_rank(layer: Layer, ranks: dict[str, int], shared: dict[str, tuple[int | None, ...]], batch: int | None) -> int | None:
    """The rank of the tensors that an elementwise operator combines, where it is the same and all else is the same for every row."""
    common = {ranks[operand] for operand in layer.inputs if isinstance(operand, str) and operand in ranks}
    if len(common) != 1:
        return None
    (rank,) = common
    for operand in layer.inputs:
        if isinstance(operand, str) and operand in ranks:
            continue
        if isinstance(operand, Literal):
            shape: tuple[int | None, ...] = np.shape(operand.value)
        elif operand.startswith("@"):
            shape = layer.arrays[operand[1:]].shape
        elif operand in shared:
            shape = shared[operand]
        else:
            return None
        if len(shape) > rank or (len(shape) == rank and shape[0] not in (1, batch)):
            return None
    return rank


def _integers(layer: Layer, position: int) -> tuple[int, ...] | None:
    operand = layer.inputs[position] if position < len(layer.inputs) else None
    return tuple(int(i) for i in np.asarray(operand.value).reshape(-1)) if isinstance(operand, Literal) else None
