"""The geometry of windows that slide over images: strides, dilations, padding, layouts, and the room to lay windows out in."""

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bnexport.errors import GraphError
from bnexport.kernels.table import Attrs, NDArray, Shape, shapes_differ


@dataclass(slots=True)
class Slide:
    """How a window slides along one dimension: `count` positions, `before` padding elements in front and `after` behind."""

    size: int
    stride: int
    dilation: int
    before: int
    after: int
    count: int

    @property
    def moves(self) -> bool:
        """Whether the window does anything but stand on each element in turn."""
        return self.size != 1 or self.stride != 1 or self.before != 0 or self.after != 0

    def reach(self, tap: int, length: int) -> tuple[int, int, int]:
        """The positions at which a tap of the window falls on one of `length` real elements, as a range, and the first such element."""
        offset = tap * self.dilation - self.before
        first = max(0, -(offset // self.stride))
        last = min(self.count, (length - 1 - offset) // self.stride + 1)
        return first, max(first, last), first * self.stride + offset


def slide(padding: str, explicit: Sequence[int], length: int, size: int, stride: int, dilation: int = 1) -> Slide:
    """The positions of a window along a dimension of `length`.

    `padding` is TensorFlow's SAME, VALID or EXPLICIT (then `explicit` is the pair before, after); the formulas are those of
    https://www.tensorflow.org/api_docs/python/tf/nn#notes_on_padding_2.

    Raises:
        GraphError: the window does not fit, or the padding is none of the three.
    """
    extent = (size - 1) * dilation + 1
    if padding == "SAME":
        count = -(-length // stride)
        total = max((count - 1) * stride + extent - length, 0)
        return Slide(size, stride, dilation, total // 2, total - total // 2, count)
    if padding not in ("VALID", "EXPLICIT"):
        raise GraphError(f"there is no padding {padding}: it is SAME, VALID or EXPLICIT")
    before, after = (explicit[0], explicit[1]) if padding == "EXPLICIT" else (0, 0)
    room = before + length + after - extent
    if room < 0 and extent > 1:  # a window of one element stands nowhere on no elements, such as those of an empty batch
        raise shapes_differ(f"a window of {size} (dilation {dilation}) with padding {padding}", (length,))
    return Slide(size, stride, dilation, before, after, room // stride + 1)


def channels_first(attrs: Attrs) -> bool:
    """Whether the layout is NCHW or NCDHW instead of NHWC or NDHWC."""
    return str(attrs.get("data_format", "NHWC")).startswith("NC")


def last_to_first(x: NDArray) -> NDArray:
    """A view of NHWC data as NCHW."""
    return np.moveaxis(x, -1, 1)


def first_to_last(x: NDArray) -> NDArray:
    """A view of NCHW data as NHWC."""
    return np.moveaxis(x, 1, -1)


def nhwc_shape(shape: Shape, attrs: Attrs) -> Shape:
    """The shape that data has once its channels are last."""
    return (shape[0], *shape[2:], shape[1]) if channels_first(attrs) else shape


def own_shape(shape: Shape, attrs: Attrs) -> Shape:
    """The shape in the op's own layout of data that is NHWC."""
    return (shape[0], shape[-1], *shape[1:-1]) if channels_first(attrs) else shape


def per_dimension(attrs: Mapping[str, Any], name: str, rank: int) -> list[int]:
    """An attribute such as `strides`, in the order of NHWC; ones where it is absent."""
    values = list(attrs.get(name) or [1] * rank)
    return [values[0], *values[2:], values[1]] if channels_first(attrs) else values


def slides(attrs: Attrs, lengths: Sequence[int], sizes: Sequence[int], strides: Sequence[int], dilations: Sequence[int]) -> list[Slide]:
    """The slides of a window along the dimensions of NHWC data, all of which are given (batch and channels too)."""
    pairs = list(attrs.get("explicit_paddings") or [0] * (2 * len(lengths)))
    if channels_first(attrs):
        pairs = [*pairs[:2], *pairs[4:], *pairs[2:4]]
    return [
        slide(attrs["padding"], pairs[2 * i : 2 * i + 2], n, k, s, d)
        for i, (n, k, s, d) in enumerate(zip(lengths, sizes, strides, dilations, strict=True))
    ]


@functools.cache
def _scratch() -> Any:
    # imported here because a network of dense layers has no use for it, and every millisecond of start-up counts
    import threading

    return threading.local()


def scratch(purpose: str, shape: Sequence[int], dtype: "np.dtype[Any]") -> NDArray:
    """Memory to work in, not initialised, and kept for the next call of the same thread and purpose. Never hand it out."""
    held: dict[str, NDArray] = _scratch().__dict__
    size = math.prod(shape) * dtype.itemsize
    if purpose not in held or held[purpose].nbytes < size:
        held[purpose] = np.empty(size, np.uint8)
    return held[purpose][:size].view(dtype).reshape(shape)
