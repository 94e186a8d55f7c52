"""Which variables a folded number came from, and in which role: read off the expression that the graph computes it by.

The variance is what stands under a square root, epsilon the number added to it there, gamma what the root's inverse is multiplied by, the mean what
is subtracted before, beta what is added after. No name is looked at.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np

from bnexport.errors import BadStatistics
from bnexport.graph import ops
from bnexport.graph.graphdef import Node, Ref, topological
from bnexport.graph.live import Live
from bnexport.program import Layer

_CLIPS = frozenset({"Maximum", "Minimum", "ClipByValue", "Relu"})
_KEEPS_VARIANCE = _CLIPS | frozenset(
    {"Add", "AddV2", "Mul", "RealDiv", "Div", "Reshape", "ExpandDims", "Squeeze", "Cast", "Transpose", "Tile", "BroadcastTo", "StridedSlice", "Slice",
     "Split", "SplitV", "Unpack", "GatherV2", "Gather", "Concat", "ConcatV2"}
)  # fmt: skip
"""What a variance may pass on its way to the root: not a square or a sum of squares (weight normalisation), not an exponential."""


def affine_part(live: Live, node: Node, constant: Ref, *, multiplies: bool) -> dict[str, Any]:
    """What is known of a constant that a tensor is multiplied by, or that is added to it: roles and the names of their variables.

    Raises:
        BadStatistics: a variance that is negative, or a statistic that is not finite.
    """
    part: dict[str, Any] = {"node": node.name, "op": node.op}
    reader = _Reader(live, part)
    resolved = live.resolve(constant)
    reader.read(resolved, scale=multiplies)
    if "variance" in part:
        part["epsilon_from"] = "the graph"
        part.setdefault("epsilon", 0.0)
        check_statistics(live, part, clipped=reader.clipped)
    return part if len(part) > 2 else {}


class _Reader:
    def __init__(self, live: Live, part: dict[str, Any]):
        self.live = live
        self.part = part
        self.clipped = False  # whether the variance is kept from being negative before its root is taken

    def read(self, ref: Ref, *, scale: bool, normalised: bool = False) -> None:
        """Goes down an expression; `normalised` says that the value is multiplied by an inverse root."""
        node = self.live.graph.nodes[ref.node]
        if node.op in ops.VARIABLES:
            role = ("gamma" if scale else "mean") if normalised else ("scale" if scale else "shift")
            if node.name not in self.part.values():
                self.part.setdefault(role, node.name)
            return
        operands = self.live.inputs(node)
        if self._is_root(node):
            self._read_root(operands[0])
        elif node.op in ("Mul", "RealDiv", "Div") and len(operands) == 2:
            roots = [self._has_root(r) for r in operands]
            for mine, operand in enumerate(operands):
                self.read(operand, scale=scale, normalised=normalised or roots[1 - mine])
        else:
            for operand in operands:
                self.read(operand, scale=scale, normalised=normalised)

    def _has_root(self, ref: Ref) -> bool:
        nodes = [self.live.graph.nodes[n] for n in topological(self.live.graph, [ref.node], self.live.inputs)]
        return any(self._is_root(n) and self._variance_behind(self.live.inputs(n)[0])[0] for n in nodes)

    def _variance_behind(self, ref: Ref) -> tuple[str | None, bool]:
        """The variable that a root is taken of, if it is one and no function of one, and whether it is clipped on the way."""
        clipped = False
        while True:
            node = self.live.graph.nodes[ref.node]
            if node.op in ops.VARIABLES:
                return node.name, clipped
            made = [r for r in self.live.inputs(node) if self.live.variables_behind(r)]
            if node.op not in _KEEPS_VARIANCE or not made or made[1:] == made[:1]:  # (x * x is a square)
                return None, False
            clipped = clipped or node.op in _CLIPS
            ref = made[0]

    def _is_root(self, node: Node) -> bool:
        if node.op == "Pow":
            exponent = self.live.inputs(node)[1]
            return not self.live.is_dynamic(exponent) and bool(np.all(np.abs(self.live.value(exponent)) == 0.5))
        return node.op in ("Rsqrt", "Sqrt")

    def _read_root(self, ref: Ref) -> None:
        """variance + epsilon, in either order; the variance may have been clipped or reshaped."""
        node = self.live.graph.nodes[ref.node]
        variable, clipped = self._variance_behind(ref)
        if variable is None:
            return
        if "variance" not in self.part:
            self.part["variance"] = variable
            self.clipped = clipped
        if node.op in ("Add", "AddV2"):
            for operand in self.live.inputs(node):
                if not self.live.variables_behind(operand):
                    value = self.live.value(operand)
                    if value.size == 1:
                        self.part.setdefault("epsilon", shortest(value.item()))


def shortest(value: float) -> float:
    """A float32's value as people write it: 0.001, not 0.0010000000474974513."""
    single = np.float32(value)
    return float(str(single)) if float(single) == value else value


def check_statistics(live: Live, part: dict[str, Any], *, clipped: bool = False) -> None:
    """
    Args:
        clipped: the graph itself sees to it that a variance is not negative (one computed as E[x²] - E[x]² may be, by its rounding).

    Raises:
        BadStatistics: the moving variance is negative, or one of the statistics is NaN or infinite.
    """
    for role in ("variance", "mean"):
        name = part.get(role)
        if name is None:
            continue
        values = live.variables.value(live.graph.nodes[name]).astype(np.float64)
        key = live.variables.saved(live.graph.nodes[name]).key
        where = f"{live.variables.checkpoint.prefix}: the moving {role} {key!r} of the batch norm at {part['node']!r}"
        if not np.isfinite(values).all():
            raise BadStatistics(f"{where} holds values that are NaN or infinite: the checkpoint was saved from a training that had diverged")
        if role == "variance" and not clipped and values.size and values.min() < 0:
            raise BadStatistics(
                f"{where} is negative ({values.min():g} at index {int(values.argmin())}): no batch norm has such a variance; "
                "the checkpoint is damaged or was edited"
            )


def by_key(live: Live, provenance: dict[str, Any]) -> dict[str, Any]:
    """A layer's provenance with the keys of variables in the checkpoint in place of their names in the graph."""

    def translated(value: Any) -> Any:
        if isinstance(value, list):
            return [translated(v) for v in value]
        if isinstance(value, dict):
            return {k: v if k in ("node", "op", "dtype") else translated(v) for k, v in value.items()}
        node = live.graph.nodes.get(value) if isinstance(value, str) else None
        return live.variables.saved(node).key if node is not None and node.op in ops.VARIABLES else value

    translation: dict[str, Any] = translated(provenance)
    return translation


def untouched_statistics(live: Live, layers: Iterable[Layer]) -> list[str]:
    """A warning for each batch norm whose moving mean is all 0 and variance all 1, as before the first update: the update operations never ran.

    Args:
        layers: whose provenance holds keys (see `by_key`).
    """
    warnings: dict[str, None] = {}
    read = live.variables.checkpoint.read
    for layer in layers:
        for part in layer.provenance.get("parts", ()):
            if "mean" in part and "variance" in part and not read(part["mean"]).any() and (read(part["variance"]) == 1).all():
                names = f"{part['mean']} and {part['variance']}"
                warnings[f"the moving statistics {names} are still 0 and 1: training never updated them (its update operations were not run)"] = None
    return list(warnings)
