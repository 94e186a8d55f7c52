"""Comparison, logic and selection."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from bnexport.errors import DependsOnData
from bnexport.kernels.rules import broadcast, predicate
from bnexport.kernels.table import Abstract, Attrs, Compute, NDArray, op, shapes_differ


def _predicate(function: "np.ufunc") -> Compute:
    def compute(attrs: Attrs, *operands: NDArray) -> Any:
        return function(*operands)

    return compute


_PREDICATES = {
    "Greater": np.greater,
    "GreaterEqual": np.greater_equal,
    "IsFinite": np.isfinite,
    "IsInf": np.isinf,
    "IsNan": np.isnan,
    "Less": np.less,
    "LessEqual": np.less_equal,
    "LogicalAnd": np.logical_and,
    "LogicalNot": np.logical_not,
    "LogicalOr": np.logical_or,
}
for _name, _function in _PREDICATES.items():
    op(_name, infer=predicate)(_predicate(_function))


def _fit(x: Any, y: Any) -> bool:
    try:
        np.broadcast_shapes(x.shape, y.shape)
    except ValueError:
        return False
    return True


def _equality(attrs: Attrs, operands: Sequence[Abstract]) -> Sequence[Abstract]:
    if not attrs.get("incompatible_shape_error", True) and not _fit(*operands):
        return [Abstract((), np.dtype(bool))]
    return predicate(attrs, operands)


@op("Equal", infer=_equality)
def equal(attrs: Attrs, x: NDArray, y: NDArray) -> Any:
    """x = y. With `incompatible_shape_error` False, shapes that do not broadcast are one False."""
    if not attrs.get("incompatible_shape_error", True) and not _fit(x, y):
        return np.False_
    return np.equal(x, y)


@op("NotEqual", infer=_equality)
def not_equal(attrs: Attrs, x: NDArray, y: NDArray) -> Any:
    """x ≠ y. With `incompatible_shape_error` False, shapes that do not broadcast are one True."""
    if not attrs.get("incompatible_shape_error", True) and not _fit(x, y):
        return np.True_
    return np.not_equal(x, y)


def _bucket_numbers(attrs: Attrs, operands: Sequence[Abstract]) -> Sequence[Abstract]:
    return [Abstract(operands[0].shape, np.dtype(np.int32))]


@op("Bucketize", infer=_bucket_numbers)
def bucketize(attrs: Attrs, x: NDArray) -> NDArray:
    """How many of the attribute `boundaries`, which are sorted float32, are not greater than x: int32. NaN is greater than all of them.

    Integers are compared as float32, and doubles as they are (bucketize_op.cc).
    """
    boundaries = np.asarray(attrs["boundaries"], np.float32)
    x = x if x.dtype.kind == "f" else x.astype(np.float32)
    return np.searchsorted(boundaries, x, side="right").astype(np.int32)


def _select_shape(attrs: Attrs, operands: Sequence[Abstract]) -> Sequence[Abstract]:
    condition, x, y = operands
    row_wise = len(condition.shape) == 1 and len(x.shape) >= 1 and condition.shape[0] == x.shape[0]
    if x.shape != y.shape or not (condition.shape in ((), x.shape) or row_wise):
        raise shapes_differ("Select", condition.shape, x.shape, y.shape)
    return [Abstract(x.shape, x.dtype)]


@op("Select", infer=_select_shape)
def select(attrs: Attrs, condition: NDArray, x: NDArray, y: NDArray) -> NDArray:
    """x where the condition holds, else y. A vector as condition chooses whole rows of tensors of higher rank."""
    if condition.ndim == 1 and x.ndim > 1:
        condition = condition.reshape(-1, *[1] * (x.ndim - 1))
    return np.where(condition, x, y)


def _broadcast_choice(attrs: Attrs, operands: Sequence[Abstract]) -> Sequence[Abstract]:
    return [Abstract(broadcast(*(o.shape for o in operands)), operands[1].dtype)]


@op("SelectV2", infer=_broadcast_choice)
def select_v2(attrs: Attrs, condition: NDArray, x: NDArray, y: NDArray) -> NDArray:
    """x where the condition holds, else y, all three broadcast."""
    return np.where(condition, x, y)


def _as_many_as_hold(attrs: Attrs, operands: Sequence[Abstract]) -> Sequence[Abstract]:
    raise DependsOnData("the number of elements that Where finds depends on the data, so its shape cannot be known before it is computed")


@op("Where", infer=_as_many_as_hold)
def where(attrs: Attrs, condition: NDArray) -> NDArray:
    """The indices of the elements that are true or not zero, in row-major order: int64 of shape (found, rank)."""
    return np.argwhere(condition).astype(np.int64, copy=False)
