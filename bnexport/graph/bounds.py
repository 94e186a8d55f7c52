"""What is known of a value that may depend on data: the value itself, or the bounds of a number, as of `min(steps, longest sequence)`."""

from collections.abc import Callable, Sequence

import numpy as np

from bnexport.errors import BnexportError
from bnexport.graph.graphdef import Node
from bnexport.kernels import OPS
from bnexport.kernels.table import NDArray, evaluate

Bounds = tuple[float, float]
"""The least and the greatest that a number can be; of a truth value, 0 and 1."""
Known = NDArray | Bounds | None
"""A value, its bounds, or nothing."""

_ANY = (-np.inf, np.inf)
_RULES: dict[str, Callable[[Bounds, Bounds], Bounds]] = {
    "Minimum": lambda a, b: (min(a[0], b[0]), min(a[1], b[1])),
    "Maximum": lambda a, b: (max(a[0], b[0]), max(a[1], b[1])),
    "Less": lambda a, b: (a[1] < b[0], a[0] < b[1]),
    "LessEqual": lambda a, b: (a[1] <= b[0], a[0] <= b[1]),
    "Greater": lambda a, b: (a[0] > b[1], a[1] > b[0]),
    "GreaterEqual": lambda a, b: (a[0] >= b[1], a[1] >= b[0]),
    "LogicalAnd": lambda a, b: (a[0] == b[0] == 1, a[1] != 0 and b[1] != 0),
    "LogicalOr": lambda a, b: (a[0] == 1 or b[0] == 1, a[1] != 0 or b[1] != 0),
}


def known_results(node: Node, operands: Sequence[Known]) -> Sequence[Known]:
    """What is known of a node's outputs by what is known of its operands."""
    values = [o for o in operands if o is not None and not isinstance(o, tuple)]
    if node.op in OPS and operands and len(values) == len(operands):
        try:
            return evaluate(OPS[node.op], node.attrs, values)
        except BnexportError:  # an operator that cannot be evaluated with these: nothing is known
            return [None]
    if node.op not in _RULES or len(operands) != 2:
        return [None]
    first, second = (_bounds(o) for o in operands)
    low, high = (float(end) for end in _RULES[node.op](first, second))
    logical = node.op not in ("Minimum", "Maximum")
    return [np.asarray(bool(low)) if logical and low == high else (low, high)]


def _bounds(value: Known) -> Bounds:
    if value is None:
        return _ANY
    if isinstance(value, tuple):
        return value
    return (float(value.min()), float(value.max())) if value.size else _ANY
