"""Moving statistics put in place of the batch's, in graphs that were saved from training.

A graph built with is_training=True has no inference branch: batch norm normalises with the mean and variance of the batch, and the moving statistics
are only written. They are found through what writes them: an assignment

    V ← V - (V - batch) * (1 - decay)      AssignMovingAvg, ExponentialMovingAverage, Keras, slim
    V ← V * decay + batch * (1 - decay)    hand-written

is linear in the batch statistic, so walking back from the written value through additions and through multiplications by constants, past V itself,
ends at the statistic that V is the average of. Wherever inference takes that statistic, it now takes V, if V goes to where the statistic stays, which
is tried with numbers: sums that are kept over an epoch are linear in it too. Where V is but the last batch's statistic, and E the average of V, as in
ladder networks and the first DCGAN, it takes E.
"""

from collections.abc import Collection
from typing import Any, NamedTuple

import numpy as np

from bnexport.errors import AmbiguousNetwork, BnexportError
from bnexport.graph import ops
from bnexport.graph.axes import fed_shape, noted_shape
from bnexport.graph.flags import flags_of
from bnexport.graph.flow import belongs_to_training
from bnexport.graph.graphdef import Node, Ref, topological
from bnexport.graph.live import Live
from bnexport.graph.over_batch import NEARBY, computed_again, data_of, is_of_squares, is_over_batch, reductions_over_batch
from bnexport.graph.writes import assigned_before

_LINEAR = frozenset({"Add", "AddV2", "Sub", "Mul", "AddN", "RealDiv", "Neg", "Cast"})
_OF_NUMBERS = _LINEAR | {"Div", "Minimum", "Maximum", "StridedSlice", "Prod"}
_UPDATES = frozenset({"Assign", "AssignAdd", "AssignSub", "AssignVariableOp", "AssignAddVariableOp", "AssignSubVariableOp"})
_FAKE_QUANTISATIONS = frozenset({"FakeQuantWithMinMaxVars", "FakeQuantWithMinMaxVarsPerChannel"})
_TRIAL = 0.625  # stands for a decay that is fed: any number between 0 and 1
_TRIAL_SIZES = {"Shape": [64] * 4, "Size": 64, "Rank": 4}  # stand for sizes that the data has: large, since sums grow with them and averages do not


NDArray = np.ndarray[Any, Any]


class Replacement(NamedTuple):
    """A batch statistic, the fused batch norm that takes it, or the assignment of its average, and the variable that holds its moving average."""

    statistic: Ref
    variable: str
    rivals: tuple[str, ...] = ()
    """Other variables that hold a moving average of it, with other values."""


def use_moving_statistics(live: Live, choice: str = "auto") -> list[Replacement]:
    """Puts moving averages in place of batch statistics; gives what was replaced (which need not be on the inference path).

    Args:
        choice: "moving" or "batch" for all; "auto" for moving, except where all data comes through placeholders of a fixed batch size: what such a
            graph computes is a function of that one batch, which can be evaluated as it stands. Also where a flag says whether averages are moved,
            "auto" leaves what is taken without: that is what TensorFlow takes at inference.
    """
    if choice == "batch":
        return []
    updates = _updates(live)
    if choice == "auto":
        left = [u for u in updates if _is_left_to_training(live, u.node)]
        live.normalising = set(topological(live.graph, [s.node for u in left for s in u.statistics], live.inputs))
        updates = [u for u in updates if u not in left]
    found = {s: v for s, v in _averages(live, updates).items() if choice == "moving" or not _batch_is_fixed(live, s)}
    found |= {again: found[statistic] for again, statistic in computed_again(live, found).items() if again not in found}
    replacements = []
    for held, (statistic, average) in _averages_of_held(live, updates).items():
        if statistic in found:
            found[statistic] = average
            if _is_read_when_written(live, held, average):
                live.replace(Ref(held), Ref(average))
                replacements.append(Replacement(Ref(held), average))
    replacements += _replace(live, found, _rivals(live, updates, found))
    for update in updates:
        if update.statistics and all(s in found for s in update.statistics):  # m = tf.assign(V, …): where training takes what it has just written
            live.replace(Ref(update.node), Ref(update.variable))
            replacements.append(Replacement(Ref(update.node), update.variable))
    return replacements + _kept_ranges(live)


def _is_left_to_training(live: Live, update: str) -> bool:
    """Whether a flag, and no counter of steps, keeps inference from an assignment."""

    def is_switch(name: str) -> bool:
        node = live.graph.nodes[name]
        return node.op in ops.PLACEHOLDERS or node.op == "PlaceholderWithDefault" or node.attrs.get("dtype") == "bool"

    flags = [flags_of(live.graph, predicate) for predicate, _ in live.branches.sides.get(update, ())]
    return live.is_dead(update) and all(map(is_switch, frozenset().union(*flags)))


def averages_kept(live: Live, nodes: Collection[str]) -> list[str]:
    """The variables that hold moving averages of the batch statistics that these nodes compute, where the batch's own were left in their place."""
    kept = _averages(live, _updates(live)).items()
    return [variable for statistic, variable in kept if not set(nodes).isdisjoint(topological(live.graph, [statistic.node], live.inputs))]


def _kept_ranges(live: Live) -> list[Replacement]:
    """Puts the range that a variable keeps in place of the assignment that training has just made, where a fake quantisation takes that.

    tf.contrib.quantize writes training graphs so, and graphs for evaluation with the variable alone (quant_ops.py).
    """
    found: dict[str, str] = {}
    for node in list(live.graph.nodes.values()):
        for ref in node.inputs[1:3] if node.op in _FAKE_QUANTISATIONS else ():
            assignment = live.graph.nodes[live.resolve(ref).node]
            variable = _variable_of(live, assignment.inputs[0]) if assignment.op in _UPDATES else None
            if variable is not None:
                found[assignment.name] = variable
    for assigned, variable in found.items():
        live.replace(Ref(assigned), Ref(variable))
    return [Replacement(Ref(assigned), variable) for assigned, variable in found.items()]


class _Update(NamedTuple):
    """An assignment, the variable that it writes, and the batch statistics that the variable becomes an average of."""

    node: str
    variable: str
    statistics: list[Ref]


def _updates(live: Live) -> list[_Update]:
    found = []
    for node in list(live.graph.nodes.values()):
        if node.op not in _UPDATES or len(node.inputs) < 2:
            continue
        variable = _variable_of(live, node.inputs[0])
        if variable is None or live.variables.array(live.graph.nodes[variable]).shape == ():
            continue  # (a scalar follows a loss)
        ends, sums = _averaged(live, node.inputs[1], variable)
        statistics = [s for s in ends if _is_average(live, node, variable, s)]
        if statistics:  # what was made of them may itself be what is averaged, and normalised with: an unbiased variance, say
            of_them = [s for s in sums if _is_made_without(live, s, variable, sums)]
            statistics += [s for s in of_them if _is_average(live, node, variable, s, exactly=True)]
        elif ends:
            shifted = all(variable in live.variables_behind(end) for end in ends)
            apart = (s for s in sums if shifted or variable not in live.variables_behind(s))
            statistics = next(([s] for s in apart if _is_average(live, node, variable, s)), [])
        found.append(_Update(node.name, variable, statistics))
    return found


def _averages(live: Live, updates: list[_Update]) -> dict[Ref, str]:
    """For each batch statistic that is averaged: the variable that holds its moving average."""
    found: dict[Ref, str] = {}
    for update in updates:
        for statistic in update.statistics:
            found.setdefault(statistic, update.variable)
    # With zero debias the average is kept in a second variable, from which the plain one is computed: biased / (1 - decay ** steps).
    for update in updates:
        debiased = _divided(live, live.graph.nodes[update.node].inputs[1]) - {update.variable}
        for statistic, biased in found.items():
            if biased in debiased:
                found[statistic] = update.variable
    return found


def _rivals(live: Live, updates: list[_Update], found: dict[Ref, str]) -> dict[Ref, tuple[str, ...]]:
    """For each batch statistic, further variables that hold a moving average of it, as with two decays, where their values are not the same."""
    written = {u.node: live.graph.nodes[u.node].inputs[1] for u in updates}
    biased = {name for u in updates for name in _divided(live, written[u.node])}
    averages: dict[Ref, dict[str, None]] = {}
    for update in updates:
        for statistic in update.statistics:
            if update.variable not in biased and live.resolve(written[update.node]) != statistic:  # (which is no average, but the last batch's)
                averages.setdefault(statistic, {})[update.variable] = None

    def value(name: str) -> NDArray:
        return live.variables.value(live.graph.nodes[name])

    return {
        statistic: tuple(name for name in names if name != found[statistic] and not np.array_equal(value(name), value(found[statistic])))
        for statistic, names in averages.items()
        if len(names) > 1 and statistic in found
    }


def _averages_of_held(live: Live, updates: list[_Update]) -> dict[str, tuple[Ref, str]]:
    """For each variable that holds the last batch's statistic and has a moving average: that statistic, and the variable with the average."""
    written = {u.node: live.graph.nodes[u.node].inputs[1] for u in updates}
    held = {u.variable: s for u in updates for s in u.statistics if live.resolve(written[u.node]) == s}
    found = {}
    for update in updates if held else []:
        node = live.graph.nodes[update.node]
        behind = live.variables_behind(written[update.node])
        if node.op.startswith("Assign") and (update.variable in behind or "Sub" in node.op or "Add" in node.op):  # and no mere copy
            for name in held.keys() & {*behind} - {update.variable}:
                if _is_average(live, node, update.variable, Ref(name), exactly=True):
                    found[name] = (held[name], update.variable)
    return found


def _is_read_when_written(live: Live, held: str, average: str) -> bool:
    """Whether all that takes a variable, but for its average, runs after the batch's statistic was written to it."""

    def is_aside(reader: Node) -> bool:
        apart = reader.op in ops.ASK_WHETHER_INITIALISED or any(r.node == average for r in live.inputs(reader))
        return apart or belongs_to_training(reader) or _is_only_reported(live, reader)

    readers = [reader for reader in live.consumers().get(Ref(held), ()) if not is_aside(reader)]
    return len(readers) > 0 and all(held in assigned_before(live, [reader.name]) for reader in readers)


def _is_only_reported(live: Live, node: Node) -> bool:
    """Whether summaries are all that is made of a node."""
    users = live.consumers().get(Ref(node.name), ())
    return len(users) > 0 and all(ops.is_summary(u.op) or _is_only_reported(live, u) for u in users)


def _is_average(live: Live, update: Node, variable: str, statistic: Ref, *, exactly: bool = False) -> bool:
    """Whether a variable that is updated again and again ends where the statistic stays: V ← a·V + b·s ends at b / (1 - a) · s.

    Arithmetic that has no value here gets the benefit of the doubt: that it is linear is known all the same. `exactly` leaves no doubt, and no room
    for a correction of the variance, which for n rows may be averaged with n / (n - 1), as fused batch norm does.
    """
    shape = live.variables.array(live.graph.nodes[variable]).shape
    zeros, ones = np.zeros(shape), np.ones(shape)

    def operands(node: Node) -> list[Ref]:
        return [] if node.op in ops.SHAPES_ONLY else [r for r in live.inputs(node) if r != statistic]

    names = topological(live.graph, [live.resolve(update.inputs[1]).node], operands)
    nodes = [live.graph.nodes[name] for name in names]
    fed: dict[Ref, Any] = {Ref(n.name): _TRIAL for n in nodes if n.op in ops.PLACEHOLDERS}
    fed |= {Ref(n.name): _TRIAL_SIZES[n.op] for n in nodes if n.op in _TRIAL_SIZES}  # in a factor such as n / (n - 1) for n rows

    def becomes(before: NDArray, batch: NDArray) -> NDArray:
        written = live.assuming({Ref(variable): before, statistic: batch, **fed}, update.inputs[1])
        if "Sub" in update.op:
            return before - written
        return before + written if "Add" in update.op else written

    try:
        rest, old, new = becomes(zeros, zeros), becomes(ones, zeros), becomes(zeros, ones)
    except BnexportError:  # an operator without a kernel
        return not exactly
    with np.errstate(all="ignore"):
        goes = 1 - (old - rest)  # 0 / 0 is an update that inference turns off, by a momentum of 1
        gain, offset = (new - rest) / goes, rest / goes
        rows = np.rint(1 / (gain - 1))
        corrected = (rows >= 1) & (np.abs(gain - 1 - 1 / rows) < 1e-4) & (not exactly and is_of_squares(live, statistic))
    return bool(np.all(np.isnan(gain) | (np.abs(gain - 1) < 1e-3) | corrected) and np.all(np.isnan(offset) | (np.abs(offset) < 1e-9)))


def _divided(live: Live, written: Ref) -> set[str]:
    """The variables that a written value divides by something."""

    def operands(node: Node) -> tuple[Ref, ...]:
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
    reduced = [(noted_shape(live.graph, data) or [], axes) for data, axes in data_of(live, statistic)]
    if any(axes and all(0 <= axis < len(shape) and shape[axis] is None for axis in axes) for shape, axes in reduced):
        return False  # there are as many as columns, in a matrix of features and any number of rows
    names = topological(live.graph, [statistic.node], live.inputs)
    fed = [live.graph.nodes[n] for n in names if ops.is_source(live.graph.nodes[n])]
    shapes = [fed_shape(n) for n in fed if n.op in ops.PLACEHOLDERS and n.attrs.get("dtype") != "bool"]
    return len(shapes) > 0 and all(shape and shape[0] is not None for shape in shapes if shape != []) and all(n.op in ops.PLACEHOLDERS for n in fed)


def _replace(live: Live, found: dict[Ref, str], rivals: dict[Ref, tuple[str, ...]]) -> list[Replacement]:
    replacements = []
    trained: dict[str, dict[int, str]] = {}
    for statistic, variable in found.items():
        node = live.graph.nodes[statistic.node]
        if ops.in_training_mode(node):
            trained.setdefault(node.name, {})[statistic.output] = variable
        else:
            live.replace(statistic, Ref(variable))
            replacements.append(Replacement(statistic, variable, rivals.get(statistic, ())))
    for name, outputs in trained.items():
        if 1 in outputs and 2 in outputs and not live.is_dead(name):
            node = live.graph.nodes[name]
            stored = [*node.inputs[:3], Ref(outputs[1]), Ref(outputs[2])]
            inference = live.add(Node(f"{name}/inference", node.op, stored, [], {**node.attrs, "is_training": False}))
            live.replace(Ref(name), inference)
            replacements.extend(Replacement(Ref(name), outputs[i], rivals.get(Ref(name, i), ())) for i in (1, 2))
    return replacements


def _variable_of(live: Live, ref: Ref) -> str | None:
    node = live.graph.nodes[live.resolve(ref).node]
    return node.name if node.op in ops.VARIABLES and live.variables.holds(node) else None


def _averaged(live: Live, written: Ref, variable: str) -> tuple[list[Ref], list[Ref]]:
    """The batch statistics that a written value is linear in, and the sums and products of these on the way, outermost first.

    Where the data's differences from V are averaged, as by contrib's batch norm up to TensorFlow 1.1, the statistic is the sum of that mean and V;
    where the data are shared out to devices, it is the mean of theirs.
    """
    found: list[Ref] = []
    sums: list[Ref] = []
    stack = [live.resolve(written)]
    seen: set[Ref] = set()
    while stack and len(seen) < NEARBY:
        ref = stack.pop()
        if ref in seen or not live.is_dynamic(ref):
            continue
        seen.add(ref)
        node = live.graph.nodes[ref.node]
        operands = live.inputs(node)
        if node.op in _LINEAR and (len(operands) == 1 or any(_is_weight(live, r, variable) for r in operands)):
            stack.extend(operands)
            sums.append(ref)
        elif is_over_batch(live, ref):
            found.append(ref)
    return found, sums


def _is_made_without(live: Live, ref: Ref, variable: str, sums: list[Ref]) -> bool:
    """Whether a variable is no operand of a sum, nor of the sums that it is made of."""
    operands = [ref]
    for operand in operands:
        if operand in sums:
            operands.extend(live.inputs(live.graph.nodes[operand.node]))
        elif not live.is_dynamic(operand) and variable in live.variables_behind(operand):
            return False
    return True


def _is_weight(live: Live, ref: Ref, variable: str) -> bool:
    """Whether an operand belongs to the arithmetic of the average: a constant such as the decay, or something made with the variable."""
    if not live.is_dynamic(ref) or _is_plain_number(live, ref):
        return True
    node = live.graph.nodes[ref.node]
    return node.op in _LINEAR and any(r.node == variable or _is_weight_made_with(live, r, variable) for r in live.inputs(node))


def _is_plain_number(live: Live, ref: Ref) -> bool:
    """Whether a value is computed from numbers that are fed, such as a decay, and from numbers of rows, but from no data."""
    stack, seen = [ref], set()
    while stack:
        current = stack.pop()
        node = live.graph.nodes[current.node]
        if current in seen or not live.is_dynamic(current):
            continue
        seen.add(current)
        if node.op in _OF_NUMBERS:
            stack.extend(live.inputs(node))
        elif node.op not in ops.SHAPES_ONLY and (node.op not in ops.PLACEHOLDERS or node.attrs.get("shape")):
            return False
    return True


def _is_weight_made_with(live: Live, ref: Ref, variable: str) -> bool:
    node = live.graph.nodes[ref.node]
    return node.op in _LINEAR and any(r.node == variable for r in live.inputs(node))


def refuse_mixtures(live: Live, roots: list[str], replaced: list[Replacement]) -> None:
    """
    Raises:
        AmbiguousNetwork: of the statistics of some data, one is replaced by its moving average and another stays the batch's. Numbers made of both
            are neither what training computes nor what inference should.
    """
    names = topological(live.graph, roots, live.inputs)
    used = live.used_replacements(names)
    over = {made: r for r in replaced if r.statistic in used for made in data_of(live, r.statistic)}
    for name in reversed(reductions_over_batch(live, names)) if over else []:  # the variance is computed after the mean that it needs
        for made in data_of(live, Ref(name)):
            if (r := over.get(made)) is not None:
                raise AmbiguousNetwork(
                    f"{live.graph.source}: {str(r.statistic)!r} has a moving average, {r.variable!r}, but none was found of {name!r}, which is "
                    "taken over the same data (as in a graph of batch renormalisation that was saved from training): convert a graph that was "
                    "built for inference, or take all statistics from the batch with --statistics batch"
                )
