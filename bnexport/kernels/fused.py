"""Operators that TensorFlow's tools for inference make of several: a convolution with what pads or resizes its images before it.

Of several images TensorFlow's kernel (2.21) takes the first for all, so that its tools' graphs are for one; here each is convolved.
"""

from collections.abc import Sequence
from typing import Any

from bnexport.kernels.image import resize_bilinear
from bnexport.kernels.index import mirror_pad
from bnexport.kernels.rules import known
from bnexport.kernels.table import OPS, Abstract, Attrs, NDArray, op


def _padded(attrs: Attrs, operands: Sequence[Abstract]) -> Sequence[Abstract]:
    x, paddings, kernel = operands
    return OPS["Conv2D"].infer(attrs, [*OPS["MirrorPad"].infer(attrs, [x, paddings]), kernel])


@op("FusedPadConv2D", infer=_padded)
def fused_pad_conv2d(attrs: Attrs, x: NDArray, paddings: NDArray, kernel: NDArray) -> Any:
    """MirrorPad, then Conv2D: each with its own attributes."""
    return OPS["Conv2D"].compute(attrs, mirror_pad(attrs, x, paddings), kernel)


def _resizing(attrs: Attrs) -> dict[str, Any]:
    return {"align_corners": attrs.get("resize_align_corners", False)}


def _resized(attrs: Attrs, operands: Sequence[Abstract]) -> Sequence[Abstract]:
    x, size, paddings, kernel = operands
    known(size, "size of an image")
    (resized,) = OPS["ResizeBilinear"].infer(_resizing(attrs), [x, size])
    return _padded(attrs, [resized, paddings, kernel])


@op("FusedResizeAndPadConv2D", infer=_resized)
def fused_resize_and_pad_conv2d(attrs: Attrs, x: NDArray, size: NDArray, paddings: NDArray, kernel: NDArray) -> Any:
    """ResizeBilinear (`resize_align_corners`), then MirrorPad, then Conv2D."""
    return fused_pad_conv2d(attrs, resize_bilinear(_resizing(attrs), x, size), paddings, kernel)
