"""Colours of images whose last dimension is red, green and blue, or hue, saturation and value, all from 0 to 1.

A hue goes from red over green and blue to red again. The formulas are those of TensorFlow's CPU kernels (colorspace_op.h, adjust_hue_op.cc).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from bnexport.kernels.table import Abstract, Attrs, NDArray, op, shapes_differ


def _coloured(attrs: Attrs, operands: Sequence[Abstract]) -> Sequence[Abstract]:
    x = operands[0]
    if x.shape[-1:] != (3,) or any(o.shape for o in operands[1:]):
        raise shapes_differ("colours", *(o.shape for o in operands))
    return [Abstract(x.shape, x.dtype)]


def _channels(x: NDArray) -> tuple[NDArray, NDArray, NDArray]:
    wide = x if x.dtype == np.float64 else x.astype(np.float32, copy=False)
    return wide[..., 0], wide[..., 1], wide[..., 2]


def _hue_and_range(x: NDArray) -> tuple[NDArray, NDArray, NDArray]:
    """The hue of each pixel, its largest channel and how far the smallest lies below that."""
    r, g, b = _channels(x)
    value = np.maximum(np.maximum(r, g), b)
    span = value - np.minimum(np.minimum(r, g), b)
    sixth = r.dtype.type(1 / 6) / np.where(span > 0, span, 1)
    third = r.dtype.type(1 / 3)
    hue = np.where(r == value, sixth * (g - b), np.where(g == value, sixth * (b - r) + third, sixth * (r - g) + 2 * third))
    hue = np.where(span > 0, hue, 0)
    return np.where(hue < 0, hue + 1, hue), value, span


def _saturation(value: NDArray, span: NDArray) -> Any:
    return np.where(value > 0, span / np.where(value > 0, value, 1), 0)


def _painted(hue: NDArray, saturation: Any, value: NDArray) -> NDArray:
    """Red, green and blue."""
    six = 6 * hue
    parts = [np.abs(six - 3) - 1, 2 - np.abs(six - 2), 2 - np.abs(six - 4)]
    return np.stack([((1 - saturation) + saturation * np.clip(part, 0, 1)) * value for part in parts], axis=-1)


@op("RGBToHSV", infer=_coloured)
def rgb_to_hsv(attrs: Attrs, x: NDArray) -> NDArray:
    """Hue, saturation and value of red, green and blue. Grey has the hue 0, and black the saturation 0."""
    hue, value, span = _hue_and_range(x)
    return np.stack([hue, _saturation(value, span), value], axis=-1).astype(x.dtype)


@op("HSVToRGB", infer=_coloured)
def hsv_to_rgb(attrs: Attrs, x: NDArray) -> NDArray:
    """Red, green and blue of hue, saturation and value."""
    return _painted(*_channels(x)).astype(x.dtype)


@op("AdjustHue", infer=_coloured)
def adjust_hue(attrs: Attrs, x: NDArray, delta: NDArray) -> NDArray:
    """x with its hues moved by `delta` turns; the largest and the smallest channel stay what they are."""
    hue, value, span = _hue_and_range(x)
    turned = np.mod(hue + delta, 1)
    # the smallest channel is taken off first, since a saturation says nothing where colours are negative
    return np.asarray(_painted(turned, 1, span) + (value - span)[..., None]).astype(x.dtype)


@op("AdjustSaturation", infer=_coloured)
def adjust_saturation(attrs: Attrs, x: NDArray, factor: NDArray) -> NDArray:
    """x with its saturations times `factor`, at most 1."""
    hue, value, span = _hue_and_range(x)
    painted = _painted(hue, np.clip(_saturation(value, span) * factor, 0, 1), value)
    return painted.astype(x.dtype)
