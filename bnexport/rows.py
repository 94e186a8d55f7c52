"""Whether a network surely computes each row of its batch by itself, so that the rows of a batch may be computed in parts.

An operator that treats rows by themselves in one network mixes them in another: a softmax goes over the batch where a tensor has no other dimension,
a difference compares every row with every other where one of its operands was reshaped, and a reshape may make one row of three. So the rank of every
tensor is followed, and how many of its rows belong to one of the batch's.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from bnexport.kernels import OPS
from bnexport.kernels.rules import elementwise, predicate, same_as_all
from bnexport.program import LINEAR, Layer, Literal, Port

Shape = tuple[int | None, ...]


class _Tensor(NamedTuple):
    """A tensor's rank and its sizes behind the first where they are known; `each` of its rows belong to one row of the batch, 0 where it has none."""

    rank: int
    each: int = 0
    sizes: Shape | None = None

    @property
    def batched(self) -> bool:
        return self.each > 0


Rule = Callable[[Layer, Sequence[_Tensor], int | None], _Tensor | None]
"""What a layer makes of operands of which some are batched; None where it may mix rows. The number is the only batch that the network takes."""
_RULES: dict[str, Rule] = {}


def _rule(*names: str) -> Callable[[Rule], Rule]:
    def register(rule: Rule) -> Rule:
        _RULES.update(dict.fromkeys(names, rule))
        return rule

    return register


def rows_alone(
    inputs: Sequence[Port], layers: Sequence[Layer], outputs: Sequence[Port], shapes: Mapping[str, Shape], batch: int | None = None
) -> bool:
    """Whether each row of the outputs depends on one row of the inputs only.

    Args:
        shapes: of tensors, None for a size that varies. What is not known of them cannot be shown.
        batch: the number of rows that the network was built for, if it takes no other.
    """
    known = {port.tensor: _Tensor(len(port.shape), int(port.shape[:1] == (None,)), port.shape[1:]) for port in inputs}
    for layer in layers:
        result = _result(layer, known, batch)
        if result is None or (layer.activation in _OVER_LAST and result.batched and result.rank < 2):
            return False
        known.update({tensor: _Tensor(result.rank, result.each, shapes[tensor][1:] if tensor in shapes else None) for tensor in layer.makes})
    return all(port.tensor in known and known[port.tensor].batched for port in outputs)


def _result(layer: Layer, known: dict[str, _Tensor], batch: int | None) -> _Tensor | None:
    """What a layer makes, if it treats rows by themselves."""
    if not layer.inputs or any(tensor not in known for tensor in layer.takes):
        return None
    operands = [_operand(layer, o, known) for o in layer.inputs]
    rule = _RULES.get(layer.op)
    if rule is None and (layer.outputs != 1 or layer.op not in OPS or OPS[layer.op].infer not in _ELEMENTWISE):
        return None
    return (rule or _broadcast)(layer, operands, batch)


def _operand(layer: Layer, operand: str | Literal, known: dict[str, _Tensor]) -> _Tensor:
    if isinstance(operand, Literal):
        return _Tensor(np.ndim(operand.value))
    return _Tensor(len(layer.arrays[operand[1:]].shape)) if operand.startswith("@") else known[operand]


def _integers(layer: Layer, position: int) -> list[int] | None:
    operand = layer.inputs[position] if -len(layer.inputs) <= position < len(layer.inputs) else None
    return [int(i) for i in np.asarray(operand.value).reshape(-1)] if isinstance(operand, Literal) else None


def _axes(layer: Layer, position: int, rank: int) -> set[int] | None:
    """The axes that an operand names, of a tensor of that rank; None where they are computed."""
    listed = _integers(layer, position)
    return None if listed is None else {axis % max(1, rank) for axis in listed}


def _each(operands: Sequence[_Tensor]) -> int | None:
    """How many rows of each operand that has any belong to one of the batch's; None where they differ."""
    counts = {o.each for o in operands if o.batched} or {0}
    return counts.pop() if len(counts) == 1 else None


def _only_first(operands: Sequence[_Tensor]) -> bool:
    return not any(o.batched for o in operands[1:])


# ---- elementwise

_ELEMENTWISE = (elementwise, predicate, same_as_all)
"""The shape rules of operators that treat each element by itself, but for those over the last dimension."""
_OVER_LAST = frozenset({"Softmax", "LogSoftmax"})


@_rule("BiasAdd", "BiasAddV1", "Cast", "Bucketize", "Select", "SelectV2", "Equal", "NotEqual", "ClipByValue", "OnesLike", "ZerosLike", "HashedCross")
def _broadcast(layer: Layer, operands: Sequence[_Tensor], _: int | None) -> _Tensor | None:
    """Elementwise: the first dimension of every operand that has rows has to be that of the result."""
    aligned = operands[1:] if layer.op == "Select" and operands[0].rank == 1 else operands  # (whose condition may choose whole rows)
    rank = max(o.rank for o in aligned)
    each = _each(operands)
    if each is None or any(o.batched and o.rank != rank for o in aligned) or (each and not rank):
        return None
    return _Tensor(rank, each)


@_rule("Lookup", "StringToHashBucket", "StringToHashBucketFast", "StringToHashBucketStrong", "AsString")
@_rule("FakeQuantWithMinMaxArgs", "FakeQuantWithMinMaxVars")
def _each_element(_: Layer, operands: Sequence[_Tensor], __: int | None) -> _Tensor | None:
    """What is done to each element of the first operand by itself."""
    return operands[0] if _only_first(operands) else None


# ---- over all dimensions but the first


@_rule("Softmax", "LogSoftmax", "TopK", "TopKV2", "DenseBincount", "RGBToHSV", "HSVToRGB")
@_rule("MaxPool", "MaxPoolV2", "MaxPool3D", "AvgPool", "AvgPool3D", "LRN", "DepthToSpace", "SpaceToDepth", "ExtractImagePatches")
@_rule("ResizeBilinear", "ResizeNearestNeighbor", "ResizeBicubic", "ResizeArea")
@_rule("DynamicConv2D", "DynamicConv3D", "Dilation2D", "FakeQuantWithMinMaxVarsPerChannel", *LINEAR)
def _each_row(_: Layer, operands: Sequence[_Tensor], __: int | None) -> _Tensor | None:
    """What is done to each row of the first operand by itself, if it has rows at all and not only one number for each."""
    alone = operands[0].rank > 1 or not operands[0].batched
    return operands[0] if alone and _only_first(operands) else None


@_rule("ScaleShift")
def _scale_shift(_: Layer, operands: Sequence[_Tensor], __: int | None) -> _Tensor | None:
    return operands[0]


@_rule("LSTMBlockCell", "GRUBlockCell")
def _cell(layer: Layer, operands: Sequence[_Tensor], _: int | None) -> _Tensor | None:
    """One step of a recurrent network: input and states have a row for each of the batch's, weights have none."""
    states = 3 if layer.op == "LSTMBlockCell" else 2
    each = _each(operands[:states])
    return _Tensor(2, each) if each is not None and not any(o.batched for o in operands[states:]) else None


@_rule("BatchMatMul", "BatchMatMulV2", "BatchMatMulV3")
def _products(_: Layer, operands: Sequence[_Tensor], __: int | None) -> _Tensor | None:
    """A matrix for each row: the first dimension of what has rows has to be that of the result, and none of a matrix."""
    rank, each = max(o.rank for o in operands), _each(operands)
    if each is None or any(o.batched and (o.rank != rank or rank < 3) for o in operands):
        return None
    return _Tensor(rank, each)


@_rule("MatMul")
def _product(layer: Layer, operands: Sequence[_Tensor], _: int | None) -> _Tensor | None:
    return operands[0] if _only_first(operands) and not layer.attrs.get("transpose_a") else None


@_rule("Einsum")
def _einsum(layer: Layer, operands: Sequence[_Tensor], _: int | None) -> _Tensor | None:
    """The letter of the rows comes first, in the result too, stands there once and nowhere else."""
    terms, arrow, result = str(layer.attrs.get("equation", "")).replace(" ", "").partition("->")
    letters = terms.split(",")
    if not arrow or "." in terms or len(letters) != len(operands):
        return None
    rows = {term[:1] for term, operand in zip(letters, operands, strict=True) if operand.batched}
    each = _each(operands)
    if not rows:
        return _Tensor(len(result))
    if each is None or len(rows) > 1 or result[:1] not in rows:
        return None
    alone = all(term.count(result[0]) == (1 if operand.batched else 0) for term, operand in zip(letters, operands, strict=True))
    return _Tensor(len(result), each) if alone else None


# ---- along axes


@_rule("Mean", "Sum", "Max", "Min", "Prod", "All", "Any", "EuclideanNorm", "ArgMax", "ArgMin")
def _reduced(layer: Layer, operands: Sequence[_Tensor], _: int | None) -> _Tensor | None:
    axes = _axes(layer, 1, operands[0].rank)
    if axes is None or (operands[0].batched and 0 in axes):
        return None
    return _Tensor(operands[0].rank - (0 if layer.attrs.get("keep_dims") else len(axes)), operands[0].each)


@_rule("Cumsum", "Cumprod", "ReverseV2")
def _along(layer: Layer, operands: Sequence[_Tensor], _: int | None) -> _Tensor | None:
    axes = _axes(layer, 1, operands[0].rank)
    return None if axes is None or (operands[0].batched and 0 in axes) else operands[0]


@_rule("ConcatV2", "Concat")
def _joined(layer: Layer, operands: Sequence[_Tensor], _: int | None) -> _Tensor | None:
    at, joined = (-1, operands[:-1]) if layer.op == "ConcatV2" else (0, operands[1:])
    rank = max((o.rank for o in joined), default=0)
    axes, each = _axes(layer, at, rank), _each(joined)
    return _Tensor(rank, each) if each is not None and axes and 0 not in axes else None


@_rule("Pack")
def _packed(layer: Layer, operands: Sequence[_Tensor], _: int | None) -> _Tensor | None:
    rank, each = operands[0].rank + 1, _each(operands)
    if each is None or (each and not (all(o.batched for o in operands) and layer.attrs.get("axis", 0) % rank)):
        return None
    return _Tensor(rank, each)


@_rule("Unpack")
def _unpacked(layer: Layer, operands: Sequence[_Tensor], _: int | None) -> _Tensor | None:
    first = operands[0]
    return None if first.batched and not layer.attrs.get("axis", 0) % first.rank else _Tensor(first.rank - 1, first.each)


@_rule("Split", "SplitV")
def _split(layer: Layer, operands: Sequence[_Tensor], _: int | None) -> _Tensor | None:
    at, whole = (0, operands[1]) if layer.op == "Split" else (2, operands[0])
    axes = _axes(layer, at, whole.rank)
    return None if axes is None or (whole.batched and 0 in axes) else whole


# ---- to another shape


@_rule("Reshape")
def _reshaped(layer: Layer, operands: Sequence[_Tensor], batch: int | None) -> _Tensor | None:
    """A reshape keeps rows apart where those of its result, which are consecutive, make up whole rows of the batch."""
    data, sizes = operands[0], _integers(layer, 1)
    if sizes is None:
        return None
    if not data.batched:
        return _Tensor(len(sizes))
    if data.sizes is None or None in data.sizes or -1 in sizes[1:] or not sizes:
        return None
    numbers, row = data.each * math.prod(size for size in data.sizes if size is not None), math.prod(sizes[1:])
    if row == 0 or numbers % row or not numbers:
        return None
    return _Tensor(len(sizes), numbers // row) if sizes[0] == -1 or (batch is not None and sizes[0] == numbers // row * batch) else None


@_rule("ExpandDims")
def _expanded(layer: Layer, operands: Sequence[_Tensor], _: int | None) -> _Tensor | None:
    axes = _axes(layer, 1, operands[0].rank + 1)
    return None if axes is None or (operands[0].batched and 0 in axes) else _Tensor(operands[0].rank + 1, operands[0].each)


@_rule("Transpose")
def _transposed(layer: Layer, operands: Sequence[_Tensor], _: int | None) -> _Tensor | None:
    order = _integers(layer, 1)
    return operands[0] if not operands[0].batched or (order and order[0] == 0) else None


@_rule("Tile")
def _tiled(layer: Layer, operands: Sequence[_Tensor], _: int | None) -> _Tensor | None:
    times = _integers(layer, 1)
    return operands[0] if not operands[0].batched or (times and times[0] == 1) else None


@_rule("Pad", "PadV2", "MirrorPad")
def _padded(layer: Layer, operands: Sequence[_Tensor], _: int | None) -> _Tensor | None:
    around = _integers(layer, 1)
    return operands[0] if _only_first(operands) and (not operands[0].batched or (around and around[:2] == [0, 0])) else None


@_rule("Slice")
def _cut(layer: Layer, operands: Sequence[_Tensor], _: int | None) -> _Tensor | None:
    begin, size = _integers(layer, 1), _integers(layer, 2)
    return operands[0] if not operands[0].batched or (begin and size and (begin[0], size[0]) == (0, -1)) else None


@_rule("StridedSlice")
def _sliced(layer: Layer, operands: Sequence[_Tensor], _: int | None) -> _Tensor | None:
    """What is taken of a batch begins with `:` or with `...`."""
    begin, strides = _integers(layer, 1), _integers(layer, 3)
    if begin is None or strides is None:
        return None

    def marked(mask: str) -> list[bool]:
        return [bool(int(layer.attrs.get(mask, 0)) >> i & 1) for i in range(len(strides))]

    dots, new, gone = marked("ellipsis_mask"), marked("new_axis_mask"), marked("shrink_axis_mask")
    gone = [g and not n and not d for g, n, d in zip(gone, new, dots, strict=True)]
    new = [n and not d for n, d in zip(new, dots, strict=True)]
    named = sum(not n and not d for n, d in zip(new, dots, strict=True))
    if operands[0].batched and strides:
        whole = marked("end_mask")[0] and (marked("begin_mask")[0] or begin[0] == 0) and strides[0] == 1 and not new[0] and not gone[0]
        if not (named < operands[0].rank if dots[0] else whole):
            return None
    return _Tensor(operands[0].rank + sum(new) - sum(gone), operands[0].each)


# ---- by indices


@_rule("OneHot")
def _one_hot(layer: Layer, operands: Sequence[_Tensor], _: int | None) -> _Tensor | None:
    return _Tensor(operands[0].rank + 1, operands[0].each) if layer.attrs.get("axis", -1) and _only_first(operands) else None


@_rule("Gather", "GatherV2")
def _gathered(layer: Layer, operands: Sequence[_Tensor], _: int | None) -> _Tensor | None:
    """From a table of all rows, or the same places of each row."""
    table, indices = operands[:2]
    axes = {0} if len(layer.inputs) < 3 else _axes(layer, 2, table.rank)
    if axes is None or layer.attrs.get("batch_dims", 0) or (table.batched and (indices.batched or 0 in axes)) or (indices.batched and axes != {0}):
        return None
    return _Tensor(indices.rank + table.rank - 1, table.each or indices.each)
