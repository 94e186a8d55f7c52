"""Batch normalisation as one op, and local response normalisation."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from bnexport.kernels.rules import is_half, same_rank
from bnexport.kernels.table import Abstract, Attrs, NDArray, op, shapes_differ
from bnexport.kernels.window import channels_first


def _channel_axis(attrs: Attrs) -> int:
    return 1 if channels_first(attrs) else -1


def _fused(outputs: int) -> Any:
    def infer(attrs: Attrs, operands: Sequence[Abstract]) -> Sequence[Abstract]:
        x, scale, *others = operands
        axis = _channel_axis(attrs)
        if len(x.shape) not in (4, 5) or scale.shape != (x.shape[axis],):
            raise shapes_differ("batch normalisation", x.shape, scale.shape)
        for other in others:
            # in training mode the moving statistics may be given as nothing at all
            if other.shape not in (scale.shape, (0,)):
                raise shapes_differ("batch normalisation", x.shape, other.shape)
        rest = [Abstract(scale.shape, scale.dtype)] * 4
        return [Abstract(x.shape, x.dtype), *rest, *([Abstract((0,), scale.dtype)] if outputs == 6 else [])]

    return infer


def fused_batch_norm(attrs: Attrs, x: NDArray, scale: NDArray, offset: NDArray, mean: NDArray, variance: NDArray) -> tuple[NDArray, ...]:
    """scale · (x - mean) / √(variance + epsilon) + offset, for each channel.

    With `is_training` (TensorFlow's default) mean and variance are the batch's. The further outputs are the mean and variance to remember (the
    variance with n - 1 for n, and both mixed with the given ones by `exponential_avg_factor`), and the mean and variance that were used.
    """
    axis = _channel_axis(attrs) % x.ndim
    epsilon = scale.dtype.type(attrs.get("epsilon", 1e-4))
    wide = x.astype(scale.dtype) if is_half(x.dtype) else x
    per_channel = [-1 if i == axis else 1 for i in range(x.ndim)]
    used_mean, used_variance, kept_mean, kept_variance = mean, variance, mean, variance
    if attrs.get("is_training", True):
        others = tuple(i for i in range(x.ndim) if i != axis)
        count = x.size // max(1, x.shape[axis])
        exact = wide.astype(np.float64)
        used_mean = exact.mean(axis=others).astype(scale.dtype)
        exact_variance = exact.var(axis=others)
        used_variance = exact_variance.astype(scale.dtype)
        kept_mean, kept_variance = used_mean, (exact_variance * (count / max(1, count - 1))).astype(scale.dtype)
        factor = attrs.get("exponential_avg_factor", 1.0)
        if factor != 1:
            new = scale.dtype.type(factor)
            old = scale.dtype.type(1 - factor)
            kept_mean, kept_variance = old * mean + new * kept_mean, old * variance + new * kept_variance
    y = np.subtract(wide, used_mean.reshape(per_channel))
    y *= (scale / np.sqrt(used_variance + epsilon)).reshape(per_channel)
    y += offset.reshape(per_channel)
    return y.astype(x.dtype, copy=False), kept_mean.copy(), kept_variance.copy(), used_mean.copy(), used_variance.copy()


@op("FusedBatchNorm", "FusedBatchNormV2", infer=_fused(5))
def fused_batch_norm_v2(attrs: Attrs, *operands: NDArray) -> tuple[NDArray, ...]:
    """`fused_batch_norm`: y, mean, variance, and the mean and variance that a gradient would need."""
    return fused_batch_norm(attrs, *operands)


@op("FusedBatchNormV3", infer=_fused(6))
def fused_batch_norm_v3(attrs: Attrs, *operands: NDArray) -> tuple[NDArray, ...]:
    """`fused_batch_norm`, with one more output that is of use on GPUs only and empty here."""
    return (*fused_batch_norm(attrs, *operands), np.empty(0, operands[1].dtype))


def _global(attrs: Attrs, operands: Sequence[Abstract]) -> Sequence[Abstract]:
    x = operands[0]
    same_rank(4, x)
    for other in operands[1:]:
        if other.shape != x.shape[-1:]:
            raise shapes_differ("batch normalisation", x.shape, other.shape)
    return [Abstract(x.shape, x.dtype)]


@op("BatchNormWithGlobalNormalization", infer=_global)
def batch_norm_with_global_normalization(attrs: Attrs, x: NDArray, mean: NDArray, variance: NDArray, beta: NDArray, gamma: NDArray) -> NDArray:
    """(x - mean) / √(variance + variance_epsilon) · gamma + beta; gamma only with `scale_after_normalization`."""
    factor = 1 / np.sqrt(variance + x.dtype.type(np.float32(attrs["variance_epsilon"])))
    if attrs["scale_after_normalization"]:
        factor = factor * gamma
    return np.asarray((x - mean) * factor + beta)


def _over_channels(attrs: Attrs, operands: Sequence[Abstract]) -> Sequence[Abstract]:
    same_rank(4, operands[0])
    return [Abstract(operands[0].shape, operands[0].dtype)]


@op("LRN", infer=_over_channels)
def local_response_normalization(attrs: Attrs, x: NDArray) -> NDArray:
    """x / (bias + alpha · Σ x²)^beta, the sum over `depth_radius` channels to either side (Krizhevsky et al. 2012, section 3.3)."""
    radius = min(attrs.get("depth_radius", 5), x.shape[-1])
    wide = x.astype(np.float32) if is_half(x.dtype) else x
    squares = np.square(wide)
    total = squares.copy()
    for r in range(1, radius + 1):
        total[..., r:] += squares[..., :-r]
        total[..., :-r] += squares[..., r:]
    total *= wide.dtype.type(attrs.get("alpha", 1.0))
    total += wide.dtype.type(attrs.get("bias", 1.0))
    np.power(total, wide.dtype.type(-attrs.get("beta", 0.5)), out=total)
    total *= wide
    return np.asarray(total, x.dtype)
