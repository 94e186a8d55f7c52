"""Dropout taken out of a graph.

tf.nn.dropout has been written in three ways:

    up to 1.12     x / keep * floor(keep + uniform)
    1.13 to 2.x    x * (1 / (1 - rate)) * cast(uniform >= rate)
    later 2.x      select(uniform >= rate, x * (1 / (1 - rate)), 0)

and people have written all of them by hand, with the scale before or behind the mask, or in it. What they share is a uniform number
compared with a threshold, and a factor that makes up for it: factor × keep = 1. That product is what is checked here, numerically, so the way in
which it is written does not matter. At inference dropout is the identity. A mask without its factor is left alone, and stops the conversion as any
random operator does.

Of a sparse tensor the elements that the mask drops are left out (tf.sparse_retain): positions and values are looked up with where(mask).
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from bnexport.errors import BnexportError
from bnexport.graph import ops
from bnexport.graph.axes import fed_shape
from bnexport.graph.graphdef import Node, Ref, constant_node, topological
from bnexport.graph.live import Live

_ADDS = ("Add", "AddV2")
_DIVISIONS = ("RealDiv", "Div", "SparseDenseCwiseDiv")
_MULTIPLICATIONS = ("Mul", "SparseDenseCwiseMul")
_SPARSE_FACTORS = ("SparseDenseCwiseMul", "SparseDenseCwiseDiv")
_LOOKUPS = ("Gather", "GatherV2")
_TOLERANCE = 1e-4  # the factor is often rounded to float16 or float32 by whoever wrote it
_UNIFORM = frozenset({"RandomUniform", "StatelessRandomUniform", "StatelessRandomUniformV2"})
MANY = 64  # more layers than anyone feeds a keep probability of its own to
_TRIAL = 0.625  # stands for a keep probability or rate that is fed: any value that is not 0, 0.5 or 1 tells keep from rate


class Dropout(NamedTuple):
    """A dropout that was removed: the node that applied it, and the keep probability that the graph had (None where it is fed)."""

    node: str
    keep: float | None
    fed_by: str | None


def remove_dropout(live: Live) -> list[Dropout]:
    """Puts the input of every dropout in place of its output."""
    users = live.consumers()
    removed: list[Dropout] = []
    starts = [n for n in list(live.graph.nodes.values()) if "RandomUniform" in n.op or n.op == "StatefulUniform"]
    for start in starts:
        for mask, threshold, keeps_below in _masks(live, users, Ref(start.name)):
            removed.extend(_remove(live, users, mask, threshold, keeps_below))
    return removed


def decide_certain_draws(live: Live) -> None:
    """Decides comparisons of one uniform number with one that it cannot reach: a layer that is left out at a rate of zero never is."""
    users = live.consumers()
    for start in [n for n in live.graph.nodes.values() if n.op in _UNIFORM]:
        size = live.inputs(start)[0]
        if live.is_dynamic(size) or live.value(size).size:
            continue  # many numbers, as masks are made of
        for mask, bound, below in list(_masks(live, users, Ref(start.name))):
            node, value = live.graph.nodes[mask.node], _number(live, bound)
            never_equal = node.op in ("Greater", "LessEqual") if live.inputs(node)[0] == bound else node.op in ("Less", "GreaterEqual")
            if node.op != "Floor" and value is not None and (value >= 1 or value < 0 or (value == 0 and never_equal)):
                live.replace(mask, live.add(constant_node(f"{node.name}/certain", np.asarray((value >= 1) == below))))


def remove_silent_noise(live: Live) -> None:
    """Takes away noise that is multiplied by zero: x + normal(shape of x) * 0 is x, as the clean half of a ladder network has it.

    So is x * (1 - 0) + x * mask * 0, as autoencoders choose between what is corrupted and what is not.
    """
    users = live.consumers()
    for start in [n for n in live.graph.nodes.values() if ops.is_random(n.op) and n.inputs]:
        queue = [(Ref(start.name), False)]
        while queue:
            noise, silent = queue.pop()
            for user in users.get(noise, ()):
                operands = live.inputs(user)
                if user.op == "Cast":
                    queue.append((Ref(user.name), silent))
                if len(operands) != 2 or user.op not in ("Mul", *_ADDS):
                    continue
                other = operands[1] if operands[0] == noise else operands[0]
                number = _number(live, other)
                if user.op != "Mul" and silent and _is_shape_of(live, live.inputs(start)[0], other):
                    live.replace(Ref(user.name), other)
                elif number is not None and (user.op == "Mul" or number == 0):
                    queue.append((Ref(user.name), silent or (user.op == "Mul" and number == 0)))
                elif user.op == "Mul" and _is_shape_of(live, live.inputs(start)[0], other):
                    queue.append((Ref(user.name), silent))  # a mask of the data


def _number(live: Live, ref: Ref) -> float | None:
    node = live.graph.nodes[ref.node]
    if node.op in ops.VARIABLES and (not live.variables.holds(node) or live.variables.array(node).shape != ()):
        return None
    return _trial_value(live, ref, None)


def _is_shape_of(live: Live, shape: Ref, data: Ref) -> bool:
    """Whether a shape was asked of some data, of which `data` is at most a multiple."""
    node = live.graph.nodes[shape.node]
    if node.op != "Shape":
        return False
    wanted = live.inputs(node)[0]
    while data != wanted and (made := live.graph.nodes[data.node]).op == "Mul":
        further = [r for r in live.inputs(made) if _number(live, r) is None]
        if len(further) != 1:
            return False
        data = further[0]
    return data == wanted


def _masks(live: Live, users: dict[Ref, list[Node]], uniform: Ref) -> Iterator[tuple[Ref, Ref, bool]]:
    """(mask, threshold, whether the threshold is the keep probability), for each mask made of a uniform number."""
    seen: set[Ref] = set()
    queue = [uniform]
    while queue:
        ref = queue.pop()
        if ref in seen:
            continue
        seen.add(ref)
        for user in users.get(ref, ()):
            operands = live.inputs(user)
            if len(operands) != 2:
                continue
            first = operands[0] == ref
            other = operands[1] if first else operands[0]
            if user.op in _ADDS and (floors := [f for f in users.get(Ref(user.name), ()) if f.op == "Floor"]):
                yield from ((Ref(f.name), other, True) for f in floors)
            elif user.op in (*_ADDS, "Mul") and not live.is_dynamic(other) and np.all(live.value(other) == (1 if user.op == "Mul" else 0)):
                queue.append(Ref(user.name))  # tf.random_uniform: the number times (max - min), plus min
            elif user.op in ("GreaterEqual", "Greater", "Less", "LessEqual"):
                yield Ref(user.name), other, (user.op in ("Less", "LessEqual")) == first


def _remove(live: Live, users: dict[Ref, list[Node]], mask: Ref, threshold: Ref, keeps_below: bool) -> Iterator[Dropout]:
    leaf = _fed_leaf(live, threshold)
    for user in list(users.get(mask, ())):
        if user.op == "Cast":
            yield from _remove(live, users, Ref(user.name), threshold, keeps_below)
            continue
        if user.op == "LogicalNot" or (user.op == "Sub" and live.inputs(user)[1] == mask and _number(live, live.inputs(user)[0]) == 1):
            yield from _remove(live, users, Ref(user.name), threshold, not keeps_below)
            continue
        if user.op == "Where":
            share = _keep(live, threshold, keeps_below, leaf)
            yield from () if share is None else _remove_of_sparse(live, users, user, share, leaf)
            continue
        operands = live.inputs(user)
        keep = _keep(live, threshold, keeps_below, leaf)
        end = Ref(user.name)
        if keep is not None and _factor_of(live, user, mask, leaf, keep):  # the mask is multiplied first: x * (mask / keep)
            for after in [n for n in users.get(end, ()) if n.op == "Mul" and len(live.inputs(n)) == 2]:
                first, second = live.inputs(after)
                live.replace(Ref(after.name), second if first == end else first)
                yield Dropout(after.name, None if leaf else keep, leaf.node if leaf else None)
            continue
        if user.op == "Mul" and len(operands) == 2:
            kept = operands[1] if operands[0] == mask else operands[0]
        elif user.op in ops.SELECTS and operands[0] == mask and _is_zero(live, operands[2]):
            kept = operands[1]
        elif user.op in ops.SELECTS and operands[0] == mask and _is_zero(live, operands[1]):
            kept, keep = operands[2], _keep(live, threshold, not keeps_below, leaf)
        else:
            continue
        if keep is None:
            continue
        if keep == 1 and leaf is None:  # a number below 1 is always below 1: nothing is masked, so there is no factor to look for
            live.replace(end, kept)
            live.switched.add(end)
            yield Dropout(end.node, keep, None)
            continue
        source = _without_factor(live, kept, keep, leaf)
        if source is None:  # the factor may come behind the mask
            for after in users.get(end, ()):
                if _factor_of(live, after, end, leaf, keep):
                    source, end = kept, Ref(after.name)
                    break
        if source is not None:
            live.replace(end, source)
            if leaf:
                live.switched.add(end)
            yield Dropout(end.node, None if leaf else keep, leaf.node if leaf else None)


def _remove_of_sparse(live: Live, users: dict[Ref, list[Node]], where: Node, keep: float, leaf: Ref | None) -> Iterator[Dropout]:
    """Removes the dropout of a sparse tensor, of which `where` says what is kept."""
    chosen = [Ref(r.name) for r in users.get(Ref(where.name), ()) if r.op in ("Reshape", "Squeeze")]
    lookups = [n for ref in chosen for n in users.get(ref, ()) if n.op in _LOOKUPS and live.inputs(n)[1] == ref]
    for lookup in lookups:
        values = Ref(lookup.name)
        scaled = [n for n in users.get(values, ()) if n.op in _SPARSE_FACTORS and _factor_of(live, n, values, leaf, keep)]
        if scaled or (keep == 1 and leaf is None):
            for other in lookups:
                live.replace(Ref(other.name), live.inputs(other)[0])
            for node in scaled:
                live.replace(Ref(node.name), live.inputs(lookup)[0])
            yield Dropout(scaled[0].name if scaled else lookup.name, None if leaf else keep, leaf.node if leaf else None)
            return


def _keep(live: Live, threshold: Ref, keeps_below: bool, leaf: Ref | None) -> float | None:
    value = _trial_value(live, threshold, leaf)
    return None if value is None else value if keeps_below else 1.0 - value


def _without_factor(live: Live, kept: Ref, keep: float, leaf: Ref | None) -> Ref | None:
    node = live.graph.nodes[kept.node]
    for operand in live.inputs(node):
        if _factor_of(live, node, operand, leaf, keep):
            return operand
    return None


def _factor_of(live: Live, node: Node, data: Ref, leaf: Ref | None, keep: float) -> bool:
    """Whether `node` multiplies `data` by 1 / keep."""
    operands = live.inputs(node)
    if node.op in _SPARSE_FACTORS:
        operands = (operands[1], operands[-1])  # beside the values stand their positions and the shape
    if len(operands) != 2 or data not in operands or (node.op not in _MULTIPLICATIONS and (node.op not in _DIVISIONS or operands[0] != data)):
        return False
    other = operands[1] if operands[0] == data else operands[0]
    value = _trial_value(live, other, leaf)
    if value is None or value == 0:
        return False
    factor = value if node.op in _MULTIPLICATIONS else 1.0 / value
    return abs(factor * keep - 1.0) < _TOLERANCE


def _trial_value(live: Live, ref: Ref, leaf: Ref | None) -> float | None:
    """A scalar's value, where a fed keep probability stands for `_TRIAL`; None where it is no such scalar."""
    if live.is_dynamic(ref) and (leaf is None or _leaves(live, ref) != {leaf}):
        return None
    for shape in [()] if leaf is None else _fed_shapes(live, leaf):
        try:
            value = live.value(ref) if leaf is None else live.assuming({leaf: np.full(shape, _TRIAL)}, ref)
        except BnexportError:  # an operator without a kernel, or a shape that does not fit: no scalar that dropout uses
            continue
        return float(value.item()) if value.size == 1 and value.dtype.kind in "fiu" else None
    return None


def _fed_shapes(live: Live, leaf: Ref) -> list[tuple[int, ...]]:
    """The shapes that something fed may have: one number, or one for each dropout (keep[0], keep[1])."""
    shape = fed_shape(live.graph.nodes[leaf.node])
    if shape is None or len(shape) == 0:  # (in old graphs an empty shape may also be an unknown one)
        return [(), (MANY,)]
    return [tuple(MANY if size is None else size for size in shape)]


def _fed_leaf(live: Live, threshold: Ref) -> Ref | None:
    leaves = _leaves(live, threshold) if live.is_dynamic(threshold) else set()
    return leaves.pop() if len(leaves) == 1 else None


def _leaves(live: Live, ref: Ref) -> set[Ref]:
    """What a scalar is computed from that has no value yet: what is fed, and conditions that are not decided (keep = tf.cond(training, …))."""

    def is_leaf(node: Node) -> bool:
        return ops.is_source(node) or node.op == "PlaceholderWithDefault" or node.op in ops.MERGES or node.op in ops.LOOPS

    order = topological(live.graph, [live.resolve(ref).node], lambda node: [] if is_leaf(node) else live.inputs(node))
    return {Ref(name) for name in order if is_leaf(live.graph.nodes[name])} if len(order) < 32 else set()


def _is_zero(live: Live, ref: Ref) -> bool:
    node = live.graph.nodes[live.resolve(ref).node]
    if node.op == "ZerosLike":
        return True
    return not live.is_dynamic(ref) and not np.any(live.value(ref))
