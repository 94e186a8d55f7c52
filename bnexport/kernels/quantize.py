"""Fake quantisation: floats rounded to the values that a quantised network could represent."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from bnexport.kernels.rules import same_as_first
from bnexport.kernels.table import Abstract, Attrs, NDArray, op, shapes_differ


def fake_quantized(attrs: Attrs, x: NDArray, low: Any, high: Any) -> NDArray:
    """x rounded to one of 2^`num_bits` levels between low and high, which are nudged so that 0 is a level.

    The scheme of https://www.tensorflow.org/api_docs/python/tf/quantization/fake_quant_with_min_max_args, in float32. With `narrow_range` the
    lowest level is not used.
    """
    bottom = np.float32(1 if attrs.get("narrow_range", False) else 0)
    top = np.float32(2 ** attrs.get("num_bits", 8) - 1)
    low, high = np.float32(low), np.float32(high)
    scale = (high - low) / (top - bottom)
    # halves away from zero, as std::round has it; the operand is never negative once it is clipped
    zero = np.floor(np.clip(bottom - low / scale, bottom, top) + np.float32(0.5))
    least, most = (bottom - zero) * scale, (top - zero) * scale
    level_of_zero = np.floor(-least / scale + np.float32(0.5))
    levels = np.floor((np.clip(x, least, most) - least) * (np.float32(1) / scale) - level_of_zero + np.float32(0.5))
    return np.asarray(np.where((low == 0) & (high == 0), np.float32(0), levels * scale))


@op("FakeQuantWithMinMaxArgs", infer=same_as_first)
def fake_quant_with_min_max_args(attrs: Attrs, x: NDArray) -> NDArray:
    """`fake_quantized` between the attributes `min` and `max` (-6 and 6 by default)."""
    return fake_quantized(attrs, x, attrs.get("min", -6.0), attrs.get("max", 6.0))


def _per_channel(attrs: Attrs, operands: Sequence[Abstract]) -> Sequence[Abstract]:
    x, low, high = operands
    if any(o.shape not in ((), x.shape[-1:]) for o in (low, high)):
        raise shapes_differ("fake quantisation", x.shape, low.shape, high.shape)
    return same_as_first(attrs, operands)


@op("FakeQuantWithMinMaxVars", "FakeQuantWithMinMaxVarsPerChannel", infer=_per_channel)
def fake_quant_with_min_max_vars(attrs: Attrs, x: NDArray, low: NDArray, high: NDArray) -> NDArray:
    """`fake_quantized` between two operands, which are scalars or have one element for each channel."""
    return fake_quantized(attrs, x, low, high)
