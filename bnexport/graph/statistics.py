"""Moving statistics put in place of the batch's, in graphs that were saved from training.

A graph built with is_training=True has no inference branch: batch norm normalises with the mean and variance of the batch, and the moving statistics
are only written. They are found through what writes them: an assignment

    V ← V - (V - batch) * (1 - decay)      AssignMovingAvg, ExponentialMovingAverage, Keras, slim
    V ← V * decay + batch * (1 - decay)    hand-written

is linear in the batch statistic, so walking back from the written value through additions and through multiplications by constants, past V itself,
ends at the statistic that V is the average of. Wherever inference takes that statistic, it now takes V, if V goes to where the statistic stays: sums
that are kept over an epoch are linear in it too.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from bnexport.errors import BnexportError
from bnexport.graph import ops
from bnexport.graph.graphdef import Node, Ref, topological
from bnexport.graph.live import Live

_LINEAR = frozenset({"Add", "AddV2", "Sub", "Mul", "AddN", "RealDiv", "Neg", "Cast"})
_UPDATES = frozenset({"Assign", "AssignAdd", "AssignSub", "AssignVariableOp", "AssignAddVariableOp", "AssignSubVariableOp"})
_NEARBY = 48  # nodes walked through between a reduction over the batch and the assignment of its average


@dataclass(slots=True)
class Replacement:
    """A batch statistic, or the fused batch norm that takes it, and the variable that holds its moving average."""

    statistic: Ref
    variable: str


def use_moving_statistics(live: Live, choice: str = "auto") -> list[Replacement]:
    """Puts moving averages in place of batch statistics; gives what was replaced (which need not be on the inference path).

    Args:
        choice: "moving" or "batch" for all; "auto" for moving, except where all data comes through placeholders of a fixed batch size: what such a
            graph computes is a function of that one batch, which can be evaluated as it stands.
    """
    if choice == "batch":
        return []
    found = {s: v for s, v in averages(live).items() if choice == "moving" or not _batch_is_fixed(live, s)}
    return _replace(live, found)


def averages(live: Live) -> dict[Ref, str]:
    """For each batch statistic that is averaged: the variable that holds its moving average."""
    found: dict[Ref, str] = {}
    updates: list[tuple[str, Ref]] = []
    for node in list(live.graph.nodes.values()):
        if node.op not in _UPDATES or len(node.inputs) < 2:
            continue
        variable = _variable_of(live, node.inputs[0])
        if variable is None or live.variables.array(live.graph.nodes[variable]).shape == ():
            continue  # (a scalar follows a loss)
        updates.append((variable, node.inputs[1]))
        for statistic in _averaged(live, node.inputs[1], variable):
            if _follows(live, node, variable, statistic):
                found.setdefault(statistic, variable)
    # With zero debias the average is kept in a second variable, from which the plain one is computed: biased / (1 - decay ** steps).
    for variable, written in updates:
        debiased = _divided(live, written) - {variable}
        for statistic, biased in found.items():
            if biased in debiased:
                found[statistic] = variable
    return found


def _divided(live: Live, written: Ref) -> set[str]:
    """The variables that a written value divides by something."""

    def operands(node: Node) -> list[Ref]:
        return live.inputs(node)[:1] if ops.is_assignment(node.op) else live.inputs(node)

    found = set()
    for name in topological(live.graph, [live.resolve(written).node], operands):
        node = live.graph.nodes[name]
        if node.op in ("RealDiv", "Div"):
            numerator = live.inputs(node)[0]
            while ops.is_assignment(live.graph.nodes[numerator.node].op):
                numerator = live.inputs(live.graph.nodes[numerator.node])[0]
            found.add(numerator.node)
    return {name for name in found if live.graph.nodes[name].op in ops.VARIABLES}


def _batch_is_fixed(live: Live, statistic: Ref) -> bool:
    """Whether a statistic is taken over a batch that is fed, of a size that the graph fixes."""
    names = topological(live.graph, [statistic.node], live.inputs)
    fed = [live.graph.nodes[n] for n in names if ops.is_source(live.graph.nodes[n])]
    shapes = [
        (n.attrs.get("_output_shapes") or [n.attrs.get("shape")])[0] for n in fed if n.op in ops.PLACEHOLDERS and n.attrs.get("dtype") != "bool"
    ]
    return len(shapes) > 0 and all(shape and shape[0] is not None for shape in shapes if shape != []) and all(n.op in ops.PLACEHOLDERS for n in fed)


def _replace(live: Live, found: dict[Ref, str]) -> list[Replacement]:
    replacements = []
    trained: dict[str, dict[int, str]] = {}
    for statistic, variable in found.items():
        node = live.graph.nodes[statistic.node]
        if ops.in_training_mode(node):
            trained.setdefault(node.name, {})[statistic.output] = variable
        else:
            live.replace(statistic, Ref(variable))
            replacements.append(Replacement(statistic, variable))
    for name, outputs in trained.items():
        if 1 in outputs and 2 in outputs:
            node = live.graph.nodes[name]
            stored = [*node.inputs[:3], Ref(outputs[1]), Ref(outputs[2])]
            inference = live.add(Node(f"{name}/inference", node.op, stored, [], {**node.attrs, "is_training": False}))
            live.replace(Ref(name), inference)
            replacements.extend(Replacement(Ref(name), outputs[i]) for i in (1, 2))
    return replacements


def _variable_of(live: Live, ref: Ref) -> str | None:
    node = live.graph.nodes[live.resolve(ref).node]
    return node.name if node.op in ops.VARIABLES and live.variables.holds(node) else None


def _averaged(live: Live, written: Ref, variable: str) -> list[Ref]:
    """The batch statistics that a written value is linear in."""
    found = []
    stack = [live.resolve(written)]
    seen: set[Ref] = set()
    while stack and len(seen) < _NEARBY:
        ref = stack.pop()
        if ref in seen or not live.is_dynamic(ref):
            continue
        seen.add(ref)
        node = live.graph.nodes[ref.node]
        operands = live.inputs(node)
        if node.op in _LINEAR and (len(operands) == 1 or any(_is_weight(live, r, variable) for r in operands)):
            stack.extend(operands)
        elif _reduces_batch(live, ref):
            found.append(ref)
    return found


class _Linear(NamedTuple):
    """old · (the variable) + new · (the statistic) + rest."""

    old: Any
    new: Any
    rest: Any


_BESSEL = (
    2.0  # a variance may be averaged with n / (n - 1) for n elements, as fused batch norm does; where it stays it is this times as large at most
)


def _follows(live: Live, update: Node, variable: str, statistic: Ref) -> bool:
    """Whether a variable that is updated again and again ends where the statistic stays: V ← a·V + b·s ends at b / (1 - a) · s.

    Arithmetic that is more than linear, and a decay that has no value here, get the benefit of the doubt.
    """
    written = _linear(live, update.inputs[1], variable, statistic)
    if written is None:
        return True
    sign = -1 if "Sub" in update.op else 1
    start = 0 if update.op in ("Assign", "AssignVariableOp") else 1
    kept = 1 - (start + sign * written.old)
    with np.errstate(all="ignore"):
        gain, offset = np.divide(sign * written.new, kept), np.divide(sign * written.rest, kept)
    # 0 / 0 is an update that inference turns off, by a momentum of 1
    return bool(np.all(np.isnan(gain) | ((gain > 1 - 1e-3) & (gain <= _BESSEL + 1e-3))) and np.all(np.isnan(offset) | (np.abs(offset) < 1e-9)))


def _linear(live: Live, ref: Ref, variable: str, statistic: Ref) -> _Linear | None:
    """What a written value is made of; None where that is not linear or not known."""
    ref = live.resolve(ref)
    if ref == live.resolve(statistic):
        return _Linear(0.0, 1.0, 0.0)
    if ref.node == variable:
        return _Linear(1.0, 0.0, 0.0)
    node = live.graph.nodes[ref.node]
    if node.op not in _LINEAR or (not live.is_dynamic(ref) and variable not in live.variables_behind(ref)):
        try:
            return _Linear(0.0, 0.0, live.value(ref))
        except BnexportError:
            return None
    parts = [_linear(live, operand, variable, statistic) for operand in node.inputs]
    known = [part for part in parts if part is not None]
    if len(known) < len(parts):
        return None
    first, *others = known
    if node.op in ("Mul", "RealDiv"):
        (second,) = others
        if node.op == "Mul" and not (np.any(first.old) or np.any(first.new)):
            first, second = second, first
        if np.any(second.old) or np.any(second.new):
            return None
        with np.errstate(all="ignore"):
            factor = second.rest if node.op == "Mul" else np.divide(1.0, second.rest)
        return _Linear(*(value * factor for value in first))
    signs = {"Sub": (1, -1), "Neg": (-1,)}.get(node.op, (1,) * len(known))
    return _Linear(*(sum(sign * value for sign, value in zip(signs, values, strict=True)) for values in zip(*known, strict=True)))


def _is_weight(live: Live, ref: Ref, variable: str) -> bool:
    """Whether an operand belongs to the arithmetic of the average: a constant such as the decay, or something made with the variable."""
    if not live.is_dynamic(ref):
        return True
    node = live.graph.nodes[ref.node]
    return node.op in _LINEAR and any(r.node == variable or _is_weight_made_with(live, r, variable) for r in live.inputs(node))


def _is_weight_made_with(live: Live, ref: Ref, variable: str) -> bool:
    node = live.graph.nodes[ref.node]
    return node.op in _LINEAR and any(r.node == variable for r in live.inputs(node))


def _reduces_batch(live: Live, ref: Ref) -> bool:
    """Whether a value is a statistic over the batch: a fused batch norm's in training mode, or made of a mean over the first axis, nearby."""
    stack = [ref]
    seen: set[str] = set()
    while stack and len(seen) < _NEARBY:
        name = stack.pop(0).node
        if name in seen:
            continue
        seen.add(name)
        node = live.graph.nodes[name]
        if ops.in_training_mode(node):
            return ref.output in (1, 2) and node.name == ref.node
        if node.op in ("Mean", "Sum") and len(node.inputs) == 2:
            return 0 in _axes(live, node)
        if node.op in _LINEAR or node.op in ("Squeeze", "Reshape", "Square", "SquaredDifference", "Sqrt"):
            stack.extend(live.inputs(node))
    return False


def _axes(live: Live, node: Node) -> list[int]:
    axes = live.inputs(node)[1]
    return [] if live.is_dynamic(axes) else [int(a) for a in live.value(axes).reshape(-1)]


def batch_statistics(live: Live, roots: list[str]) -> list[str]:
    """The nodes among the ancestors of `roots` that take statistics over the batch, so that scores depend on what is in it."""
    names = topological(live.graph, roots, live.inputs)
    nodes = (live.graph.nodes[name] for name in names)
    return [
        n.name
        for n in nodes
        if ops.in_training_mode(n) or (n.op in ("Mean", "Sum") and live.is_dynamic(Ref(n.name)) and len(n.inputs) == 2 and 0 in _axes(live, n))
    ]
