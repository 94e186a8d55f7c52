"""Shapes followed through a network without computing it.

Shape rules work on concrete sizes. To learn which dimensions depend on the batch, a network is followed twice, with two batch sizes: what comes out
equal is fixed, what differs is not. The same holds for values: a target shape that comes out equal both times is a constant. Where two sizes may be
equal by being cut off (the first 32 words of a text, an image after strides of 64), it is followed once more, with sizes that tell.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import lcm
from typing import Any

import numpy as np

from bnexport.errors import AmbiguousNetwork, BnexportError, DependsOnData, GraphError, UnsupportedOps, UsageError
from bnexport.graph import ops
from bnexport.graph.features import dense_feature
from bnexport.graph.graphdef import Node, Ref, topological
from bnexport.graph.live import Live
from bnexport.kernels import OPS
from bnexport.kernels.table import Abstract, infer
from bnexport.program import shape_text
from bnexport.text import TEXT, dtype_of

PROBES = (11, 13)  # two batch sizes that no real dimension is likely to be, so that a confusion shows as an error
_PARTS = 60  # 2, 3, 4, 5 and 6 divide it: batches that come in such parts are followed with sizes that it divides
OPEN_SIZES = (96, 128)  # for an image's height or width that the graph leaves open
_MOST_SIZES = 16  # more are not tried in the place of open ones
_SMALL_SIZES = ((2, 2), (2, 8), (2, 24))  # batch and open size, of which the first that fits the network shows what is cut off
_LARGE_SIZES = ((17, 640),)
_SLICES = frozenset({"Slice", "StridedSlice"})
_WINDOWS = frozenset({"Conv2D", "Conv3D", "DepthwiseConv2dNative", "MaxPool", "MaxPoolV2", "MaxPool3D", "AvgPool", "AvgPool3D"})
_TARGETS = {"Reshape": 1, "Conv2DBackpropInput": 0, "Conv3DBackpropInputV2": 0}  # the operand that says what shape the result has
_SHAPES_ALONE = frozenset({"Shape", "ShapeN", "Size", "Rank"})
_KEPT_BYTES = 1 << 16  # constants whose values shape rules may want are small

MAY_SATURATE = frozenset(
    {"Minimum", "Maximum", "FloorDiv", "FloorMod", "Mod", "TruncateDiv", "TruncateMod", "Div", "RealDiv", "Floor", "Ceil", "Round", "Cast", "Equal",
     "NotEqual", "Less", "LessEqual", "Greater", "GreaterEqual", "ClipByValue", "Sign", "Min", "Max", "Pow", "Sqrt", "LogicalAnd", "LogicalOr",
     "LogicalNot"}
)  # fmt: skip

_COMPUTED = {"float16": "float32", "bfloat16": "float32", "object": TEXT}


def computed_dtype(name: str) -> str:
    """The dtype in which a network of this dtype is evaluated, as manifests name it.

    Half precision is widened to float32, which holds all its numbers exactly.
    """
    return _COMPUTED.get(name, name)


@dataclass(slots=True)
class Shapes:
    """What two or more probes found: for each reference an `Abstract` of each.

    `batch` is the size that the graph was built for, where it cannot be generalised. `unsure` are values that came out equal though what they were
    computed from did not, by an operator that may well give something else for a third size (a minimum, a quotient): they are no constants.
    """

    found: dict[Ref, tuple[Abstract, ...]] = field(default_factory=dict)
    input_shapes: dict[Ref, tuple[int | None, ...]] = field(default_factory=dict)
    batch: int | None = None
    unsure: set[Ref] = field(default_factory=set)

    def of(self, ref: Ref) -> tuple[int | None, ...]:
        """A shape with None for sizes that vary."""
        return tuple(sizes[0] if len(set(sizes)) == 1 else None for sizes in zip(*(probe.shape for probe in self.found[ref]), strict=True))

    def rank(self, ref: Ref) -> int:
        """The number of dimensions."""
        return len(self.found[ref][0].shape)

    def dtype(self, ref: Ref) -> "np.dtype[Any]":
        """The dtype in which it is computed."""
        return self.found[ref][0].dtype

    def constant(self, ref: Ref) -> "np.ndarray[Any, Any] | None":
        """The value, where it depends on fixed sizes only."""
        return None if ref in self.unsure else common_value(self.found[ref])


def follow(live: Live, inputs: Mapping[str, Ref], outputs: Sequence[Ref], order: Sequence[str], given: Mapping[str, Sequence[int | None]]) -> Shapes:
    """Follows shapes from the inputs through the nodes of `order`, which end in `outputs`.

    Args:
        given: shapes that the user gave to inputs by name, or by their tensors' names, in place of the graph's.

    Raises:
        GraphError: shapes that do not fit, or a size that has to be known and is not.
    """
    called = {str(ref): name for name, ref in inputs.items()}
    given = {name if name in inputs else called.get(name, name): shape for name, shape in ((n.removesuffix(":0"), s) for n, s in given.items())}
    declared = {ref: tuple(given[name]) if name in given else declared_shape(live, ref, name) for name, ref in inputs.items()}
    unknown = [name for name in given if name not in inputs]
    if unknown:
        raise UsageError(f"{live.graph.source}: a shape was given for {unknown[0]!r}, which is no input; the inputs are {', '.join(inputs)}")
    baked = {shape[0] for ref, shape in declared.items() if shape and shape[0] is not None}
    batch = baked.pop() if len(baked) == 1 else None
    if batch is not None and any(shape and shape[0] is None for shape in declared.values()):
        try:  # the batch is open, and beside it something has a size of its own: so many candidates to choose from
            return _probe_twice(live, declared, order, PROBES, None)
        except GraphError:
            pass  # the size is the batch's after all
    try:
        shapes = _probe_twice(live, declared, order, PROBES, batch)
        if batch is None or not _mixes_rows(live, [_probe(live, declared, order, size, OPEN_SIZES[0], batch) for size in PROBES], order):
            return shapes
    except (AmbiguousNetwork, DependsOnData, UnsupportedOps):
        raise
    except GraphError as error:
        if any(size is None for shape in declared.values() for size in shape[1:]):
            try:  # a graph's adjacency matrix has as many columns as there are rows
                return _probe_twice(live, declared, order, PROBES, batch, PROBES)
            except GraphError:
                pass  # what was found first is told
            if batch is None and (sized := _of_one_size(live, declared, order, outputs)) is not None:
                return sized
        if batch is None:
            splits = (live.graph.nodes[name].attrs["num_split"] for name in order if live.graph.nodes[name].op == "Split")
            parts = lcm(_PARTS, *splits)
            try:  # a batch that is shared out to several devices, or that holds pairs or triplets
                return _probe_twice(live, declared, order, (parts * PROBES[0], parts * PROBES[1]), None)
            except GraphError:
                pass
            rows = _fitting_rows(live, declared, order)
            if rows is None:
                raise GraphError(f"{error}{_open_batch(live, inputs, declared)}") from error
            fixed = {name: (rows, *declared[ref][1:]) for name, ref in inputs.items() if declared[ref][:1] == (None,)}
            return follow(live, inputs, outputs, order, {**given, **fixed})
    shapes = _probe_twice(live, declared, order, (batch, batch), None)
    ends = [shapes.found[ref] for ref in outputs]
    if all(end[0].shape[:1] == (batch,) for end in ends):  # rows come out as they went in: it is a batch, and not an example's first dimension
        shapes.batch = batch
        shapes.input_shapes = {ref: (None, *shape[1:]) if shape[:1] == (batch,) else shape for ref, shape in shapes.input_shapes.items()}
    return shapes


def _fitting_rows(live: Live, declared: Mapping[Ref, tuple[int | None, ...]], order: Sequence[str]) -> int | None:
    """The number of rows that a network is built for behind an input of any: the only one that fits, of those that its reshapes or the user name."""
    named = {int(value) for value in live.fixed.values() if value.dtype.kind in "iu" and value.shape == ()}
    for name in order:
        node = live.graph.nodes[name]
        at = _TARGETS.get(node.op)
        if at is not None and not live.is_dynamic(live.inputs(node)[at]) and (target := live.value(live.inputs(node)[at]).reshape(-1)).size:
            named.add(int(target[0]))
    fitting = []
    for rows in sorted(n for n in named if n > 0):
        fixed = {ref: (rows, *shape[1:]) if shape[:1] == (None,) else shape for ref, shape in declared.items()}
        try:
            _probe(live, fixed, order, rows, OPEN_SIZES[0], None)
        except BnexportError:
            continue
        fitting.append(rows)
    return fitting[0] if len(fitting) == 1 else None


def _of_one_size(live: Live, declared: Mapping[Ref, tuple[int | None, ...]], order: Sequence[str], outputs: Sequence[Ref]) -> Shapes | None:
    """What is found with the one size that the graph reshapes something to and that can stand for all that are open; None where there is no such.

    Indices of shape [?, ?] are those of as many fields as reshape(values, [-1, fields, 1]) has. Each row has to give one row: a picture that is too
    large is cut to several by reshape(maps, [-1, pixels]).
    """
    targets = [live.inputs(live.graph.nodes[name])[1] for name in order if live.graph.nodes[name].op == "Reshape"]
    sizes = sorted({int(size) for target in targets if not live.is_dynamic(target) for size in live.value(target).reshape(-1) if size > 1})
    found = []
    for size in sizes if len(sizes) <= _MOST_SIZES else ():
        fixed = {ref: (*shape[:1], *(size if open_ is None else open_ for open_ in shape[1:])) for ref, shape in declared.items()}
        try:
            shapes = _probe_twice(live, fixed, order, PROBES, None)
        except BnexportError:
            continue  # it does not fit
        if all(tuple(probe.shape[:1] for probe in shapes.found[ref][:2]) == tuple((rows,) for rows in PROBES) for ref in outputs):
            found.append(shapes)
    return found[0] if len(found) == 1 else None


def _probe_twice(
    live: Live,
    declared: Mapping[Ref, tuple[int | None, ...]],
    order: Sequence[str],
    sizes: tuple[int, int],
    baked: int | None,
    open_sizes: tuple[int, int] = OPEN_SIZES,
) -> Shapes:
    probes = [_probe(live, declared, order, size, open_, baked) for size, open_ in zip(sizes, open_sizes, strict=True)]
    for further in _further(live, probes, order):
        for size, open_ in further:
            try:
                probe = _probe(live, declared, order, size if sizes[0] != sizes[1] else sizes[0], open_, baked)
            except GraphError:
                continue  # the network does not take such sizes
            if all(len(probe[ref].shape) == len(known.shape) for ref, known in probes[0].items()):
                probes.append(probe)
                break
    shapes = Shapes({ref: tuple(probe[ref] for probe in probes) for ref in probes[0] if all(ref in probe for probe in probes)})
    for ref, shape in declared.items():
        free = shape and (shape[0] is None or (baked is not None and shape[0] == baked))
        shapes.input_shapes[ref] = (None, *shape[1:]) if free else shape
    for name in order:
        node, ref = live.graph.nodes[name], Ref(name)
        operands = [r for r in live.inputs(node) if r in shapes.found]
        moved = node.op in MAY_SATURATE and any(differs(shapes.found[r]) for r in operands)
        if ref in shapes.found and (moved or any(r in shapes.unsure for r in operands)) and shapes.constant(ref) is not None:
            shapes.unsure.update(r for r in shapes.found if r.node == name)
    return shapes


def _further(live: Live, probes: Sequence[Mapping[Ref, Abstract]], order: Sequence[str]) -> list[tuple[tuple[int, int], ...]]:
    """The sizes to follow a network with once more, because in two probes something may have been cut off to one size."""
    cut: set[bool] = set()
    for name in order:
        node = live.graph.nodes[name]
        if node.op in _SLICES or node.op in _WINDOWS:
            before, after = (len(_varying(probes, r)) for r in (live.inputs(node)[0], Ref(name)))
            if after < before:
                cut.add(node.op in _SLICES)
    return [_SMALL_SIZES] * (True in cut) + [_LARGE_SIZES] * (False in cut)


def _varying(probes: Sequence[Mapping[Ref, Abstract]], ref: Ref) -> set[int]:
    """The axes along which two probes differ; none of a constant, or of an input that is one."""
    if ref not in probes[0]:
        return set()
    first, second = (probe[ref].shape for probe in probes[:2])
    return {axis for axis, (a, b) in enumerate(zip(first, second, strict=True)) if a != b}


def _mixes_rows(live: Live, probes: Sequence[Mapping[Ref, Abstract]], order: Sequence[str]) -> bool:
    """Whether rows of a batch are summed up, compared, seen through one window or left out, where two probes differ in the batch size alone."""
    for name in order:
        node = live.graph.nodes[name]
        refs = live.inputs(node)
        data = 2 if node.op == "Conv2DBackpropInput" else 0
        if len(refs) <= data or node.op in _SHAPES_ALONE or not (varying := _varying(probes, refs[data])):
            continue
        rank = len(probes[0][refs[data]].shape)
        mixed: set[int] = set()
        if Ref(name) in probes[0] and not _varying(probes, Ref(name)):
            return True
        if node.op in ops.REDUCTIONS or node.op in ("ArgMax", "ArgMin", "Cumsum", "Cumprod"):
            axes = probes[0][refs[1]].value if refs[1] in probes[0] else live.value(refs[1])
            mixed = set(range(rank)) if axes is None else {int(axis) % rank for axis in axes.reshape(-1)}
        elif node.op in ("Softmax", "LogSoftmax"):
            mixed = {rank - 1}
        elif node.op in ("MatMul", "BatchMatMul", "BatchMatMulV2", "BatchMatMulV3"):
            mixed = {rank - 2 if node.attrs.get("transpose_a") or node.attrs.get("adj_x") else rank - 1}
        elif node.op in _WINDOWS or node.op in ("Conv2DBackpropInput", "ResizeBilinear", "ResizeNearestNeighbor", "ResizeBicubic"):
            mixed = set(range(1, rank))
        elif ops.in_training_mode(node):
            mixed = {0}
        if mixed & varying:
            return True
    return False


def common_value(found: Sequence[Abstract]) -> "np.ndarray[Any, Any] | None":
    """The value that several probes found alike."""
    value = found[0].value
    return None if value is None or any(p.value is None or not np.array_equal(p.value, value) for p in found[1:]) else value


def differs(found: Sequence[Abstract]) -> bool:
    """Whether a value depends on sizes that are not fixed."""
    value = found[0].value
    return value is not None and any(p.value is not None and not np.array_equal(p.value, value) for p in found[1:])


def _probe(
    live: Live, declared: Mapping[Ref, tuple[int | None, ...]], order: Sequence[str], batch: int, open_: int, baked: int | None
) -> dict[Ref, Abstract]:
    found: dict[Ref, Abstract] = {}
    for ref, shape in declared.items():
        first = (batch,) if shape and (shape[0] is None or shape[0] == baked) else shape[:1]
        concrete = (*first, *(open_ if size is None else size for size in shape[1:]))
        found[ref] = Abstract(tuple(int(s) for s in concrete if s is not None), dtype_of(input_dtype(live, ref)))
    for name in order:
        node = live.graph.nodes[name]
        if Ref(name) in found or any(r.node == name for r in declared):
            continue
        operands = [found[r] if r in found else constant_abstract(live, r, node) for r in live.inputs(node)]
        try:
            operator = OPS[node.op]
            if node.op == "Reshape" and baked is not None and operands[0].value is None:
                operands[1] = _reshape_target(operands, batch, baked)
            results = infer(operator, attributes(node), operands)
        except BnexportError as cause:
            if "_choice" in node.attrs:  # branches of different shapes, of which no Select can choose
                raise AmbiguousNetwork(live.undecided(node)) from cause
            kind = DependsOnData if isinstance(cause, DependsOnData) else GraphError
            raise kind(f"{live.graph.source}: at the node {name!r} ({node.op}): {cause}{_fed_sizes(live, declared, found, node)}") from cause
        for i, result in enumerate(results):
            found[Ref(name, i)] = result
    return found


def _fed_sizes(live: Live, declared: Mapping[Ref, tuple[int | None, ...]], found: Mapping[Ref, Abstract], node: Node) -> str:
    """What to tell the user of whole numbers that are fed, such as a batch size, where a shape is computed from them."""
    sizes = [r for r in live.inputs(node) if r in found and found[r].value is None and found[r].dtype.kind in "iu" and len(found[r].shape) < 2]
    names = topological(live.graph, [r.node for r in sizes], live.inputs) if sizes else []
    fed = [str(ref) for ref, shape in declared.items() if shape == () and found[ref].dtype.kind in "iu" and ref.node in names]
    return f"; it is computed from {' and '.join(fed)}, which --set {fed[0]}=NUMBER gives a value" if fed else ""


def _open_batch(live: Live, inputs: Mapping[str, Ref], declared: Mapping[Ref, tuple[int | None, ...]]) -> str:
    """What to tell the user whose network does not fit with sizes that stand for open ones: that they can be fixed.

    A number that the user gave may be that of the rows.
    """
    if contradicted(live, inputs, {name: declared[ref] for name, ref in inputs.items()}):
        return ""
    given = [ref.node for ref, value in live.fixed.items() if live.graph.nodes[ref.node].op in ops.PLACEHOLDERS and value.dtype.kind in "iu"]
    opened = {name: declared[ref] for name, ref in inputs.items() if declared[ref] and declared[ref][0] is None}
    if given and opened:
        return f"; if the number of rows is among {' and '.join(given)}, say it of the data as well: {_shape_options(opened, 'ROWS')}"
    further = {name: declared[ref] for name, ref in inputs.items() if None in declared[ref][1:]}
    if further:
        return f"; the graph leaves sizes open, which may be fixed: {_shape_options(further, '?')}"
    return f"; if the graph was built for a fixed number of rows, say which: {_shape_options(opened, 'ROWS')}" if opened else ""


def contradicted(live: Live, inputs: Mapping[str, Ref], given: Mapping[str, Sequence[int | None]]) -> str:
    """What to tell the user who gave an input another number of dimensions than the graph does, or another size than its features."""
    told = []
    for name, shape in given.items():
        name = name.removesuffix(":0")
        try:
            own = declared_shape(live, inputs[name], name)
        except GraphError:
            continue
        if len(own) != len(shape) or any(None not in pair and len(set(pair)) > 1 for pair in zip(own[1:], shape[1:], strict=True)):
            told.append(f"{name} {shape_text(own)}, and --shape says {shape_text(shape)}")
    return f"; the graph has {' and '.join(told)}" if told else ""


def _shape_options(shapes: Mapping[str, Sequence[int | None]], first: str) -> str:
    """The options that give inputs their shapes, `first` in front, with a word for each size to be filled in."""
    sizes = {
        name: ",".join([first if shape[0] is None else str(shape[0]), *("SIZE" if s is None else str(s) for s in shape[1:])])
        for name, shape in shapes.items()
    }
    return " ".join(f"--shape {name}={text}" for name, text in sizes.items())


def _reshape_target(operands: Sequence[Abstract], batch: int, baked: int) -> Abstract:
    """A target shape that was built for the batch size `baked`, for a batch of another size.

    A reshape is row-major, so that a first dimension that is a multiple of the batch may be scaled with it. Where that is no reshape, the rule for
    Reshape says so, and the network keeps its batch size.
    """
    data, target = operands
    if target.value is None or not target.value.size or not data.shape or data.shape[0] % batch:
        return target
    first = int(target.value.reshape(-1)[0])
    size = int(np.prod(data.shape, dtype=np.int64))
    rest = [int(d) for d in target.value.reshape(-1)[1:]]
    known = int(np.prod([d for d in rest if d > 0], dtype=np.int64))
    if first <= 0 or first % baked or (-1 not in rest and size == first * known):
        return target
    scaled = np.array([first // baked * batch, *rest], target.value.dtype)
    return Abstract(target.shape, target.dtype, scaled)


def attributes(node: Node) -> dict[str, Any]:
    """A node's attributes for its kernel, half precision widened; what only TensorFlow's runtime reads is left out."""
    out: dict[str, Any] = {}
    for key in node.attrs:
        if not key.startswith("_"):
            value = node.attrs[key]
            out[key] = computed_dtype(value) if isinstance(value, str) else value
    return out


def operand_dtype(node: Node, value_dtype: "np.dtype[Any]") -> "np.dtype[Any]":
    """The dtype of a constant operand: floating point in the dtype in which its consumer computes."""
    if value_dtype.kind != "f":
        return value_dtype
    declared = computed_dtype(str(node.attrs.get("T", node.attrs.get("Tparams", "float32"))))
    return np.dtype(declared) if declared in ("float32", "float64") else np.dtype("float32")


def constant_abstract(live: Live, ref: Ref, consumer: Node) -> Abstract:
    """What shape rules need of a constant: its value only where it is small."""
    node = live.graph.nodes[ref.node]
    if node.op in ops.VARIABLES:
        array = live.variables.array(node)
        size = int(np.prod(array.shape, dtype=np.int64)) * 8
        if size > _KEPT_BYTES:
            kind = array.dtype if array.dtype.kind in "iub" else np.dtype("float64")
            return Abstract(array.shape, operand_dtype(consumer, kind))
    value = live.value(ref)
    dtype = operand_dtype(consumer, value.dtype)
    return Abstract(value.shape, dtype, value.astype(dtype, copy=False) if value.nbytes <= _KEPT_BYTES else None)


_OF_ONE_DTYPE = {
    **dict.fromkeys(("ResizeBilinear", "ResizeBicubic", "ResizeArea", "CropAndResize", "ScaleAndTranslate"), "float32"),
    **dict.fromkeys(("Equal", "NotEqual", "Greater", "GreaterEqual", "Less", "LessEqual", "IsNan", "IsInf", "IsFinite"), "bool"),
    **dict.fromkeys(("StringToHashBucket", "StringToHashBucketFast", "StringToHashBucketStrong"), "int64"),
}
"""Operators whose result is of one dtype, whatever they take."""


def input_dtype(live: Live, ref: Ref) -> str:
    """The dtype in which an input is taken, as manifests name it.

    Raises:
        UnsupportedOps: the input is no tensor.
    """
    node = live.graph.nodes[ref.node]
    feature = dense_feature(live.graph, ref)
    listed: list[Any] = next(
        (node.attrs[key] for key in ("component_types", "output_types", "Tdense", "Tout") if isinstance(node.attrs.get(key), list)), []
    )
    if feature is not None:
        name = feature.dtype
    elif ref.output < len(listed):
        name = str(listed[ref.output])
    elif node.op in _OF_ONE_DTYPE:
        name = _OF_ONE_DTYPE[node.op]
    else:
        name = next((str(node.attrs[key]) for key in ("dtype", "out_type", "output_type", "DstT", "Tout", "T") if key in node.attrs), "float32")
    if name in ("resource", "variant"):
        raise UnsupportedOps(
            f"{live.graph.source}: the input {str(ref)!r} takes {name}, which bnexport does not evaluate; "
            f"name the first numeric tensor after it with --input (for example {_first_numeric(live, ref)})"
        )
    return computed_dtype(name)


def _first_numeric(live: Live, ref: Ref) -> str:
    users = live.consumers()
    queue, seen = [ref], set()
    while queue:
        current = queue.pop(0)
        if current in seen:
            continue
        seen.add(current)
        for user in users.get(current, ()):
            if user.op in ("Cast", "ConcatV2", "Concat", "Reshape", "MatMul"):
                return user.name
            queue.extend(r for r in users if r.node == user.name)
    return "none was found"


def declared_shape(live: Live, ref: Ref, name: str | None = None) -> tuple[int | None, ...]:
    """The shape of an input as the graph declares it, or as the first node that takes it needs.

    A placeholder of shape `[]` in graphs of before 1.2 means an unknown rank; `_output_shapes` tells.

    Args:
        name: what users call the input.

    Raises:
        GraphError: nothing tells.
    """
    node = live.graph.nodes[ref.node]
    shapes = node.attrs.get("_output_shapes") or node.attrs.get("output_shapes")
    if shapes and ref.output < len(shapes) and shapes[ref.output] is not None:
        return tuple(shapes[ref.output])
    feature = dense_feature(live.graph, ref)
    if feature is not None and feature.shape is not None:
        return feature.shape
    shape = node.attrs.get("shape") if node.op in ops.PLACEHOLDERS or node.op == "PlaceholderWithDefault" else None
    if shape:
        return tuple(shape)
    for user in live.consumers().get(ref, ()):
        operands = live.inputs(user)
        if user.op == "MatMul" and operands[0] == ref and not live.is_dynamic(operands[1]):
            kernel = live.array(operands[1]).shape
            return (None, kernel[1] if user.attrs.get("transpose_b") else kernel[0])
        if user.op == "Conv2D" and operands[0] == ref and not live.is_dynamic(operands[1]):
            return (None, None, None, live.array(operands[1]).shape[2])
        if user.op == "Reshape" and operands[0] == ref and not live.is_dynamic(operands[1]):
            target = [int(d) for d in live.value(operands[1]).reshape(-1)]
            if target.count(-1) <= 1 and target and target[0] == -1:
                return (None, int(np.prod(target[1:])))
    if shape is not None and node.attrs.get("_output_shapes") is None and not shape:
        return ()
    name = name or str(ref)
    number = f"; if it is one number, such as a size, its value with --set {name}=NUMBER" if np.dtype(input_dtype(live, ref)).kind in "iu" else ""
    raise GraphError(f"{live.graph.source}: the graph does not say what shape the input {name!r} has; give it with --shape {name}=?,SIZE,…{number}")
