"""Quantisation: weights that were stored as bytes, and floats rounded to the values that a quantised network could represent."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from bnexport.errors import InputError
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


def _steps(dtype: "np.dtype[Any]") -> tuple[int, int]:
    """The lowest and the highest quantised number."""
    return int(np.iinfo(dtype).min), int(np.iinfo(dtype).max)


@op("Dequantize", infer=lambda attrs, operands: [Abstract(operands[0].shape, np.dtype(np.float32))])
def dequantize(attrs: Attrs, x: NDArray, low: NDArray, high: NDArray) -> NDArray:
    """The numbers between low and high that quantised ones stand for, in float32 (dequantize_op.cc).

    The `mode` says how: MIN_COMBINED (the default) and MIN_FIRST take low for the lowest quantised number, and in the latter zero is one of the
    numbers; SCALED is a factor alone.

    Raises:
        InputError: there is a range for each of several slices, or what TensorFlow has other rules for.
    """
    if attrs.get("axis", -1) != -1 or low.size != 1 or attrs.get("dtype", "float32") != "float32" or x.dtype.itemsize > 2:
        raise InputError("Dequantize is for whole tensors of bytes, and gives float32")
    if attrs.get("narrow_range", False) and x.dtype.kind == "u":
        raise InputError("Dequantize of numbers without a sign has no narrow range")
    least, most = _steps(x.dtype)
    bottom, top = (np.float32(bound.reshape(())) for bound in (low, high))
    mode = attrs.get("mode", "MIN_COMBINED")
    if mode == "SCALED":
        factor = top / np.float32(most)
        if least:
            factor = max(factor, bottom / np.float32(least + bool(attrs.get("narrow_range", False))))
        return x * factor
    if mode == "MIN_COMBINED":
        half = np.float32((most - least + 1) / 2 if least else 0)
        return (x + half) * ((top - bottom) / np.float32(most - least)) + bottom
    steps = most - least + 1
    scale = (top - bottom) * np.float32(steps / (steps - 1)) / np.float32(steps)
    begin = bottom if bottom == top else np.float32(np.floor(np.abs(bottom / scale) + np.float32(0.5)) * np.sign(bottom)) * scale
    return np.asarray(begin + (x.astype(np.float32) - np.float32(least)) * scale)
