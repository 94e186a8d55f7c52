import numpy as np
import pytest
from kernel_oracle import check, compares

from bnexport.errors import GraphError
from bnexport.kernels import OPS, Abstract

CORNERS = np.array(np.meshgrid(*[[0.0, 0.25, 1.0]] * 3), np.float32).reshape(3, -1).T


def pixels(*shape):
    """Random colours, with every order of the channels, equal ones among them."""
    return np.concatenate([CORNERS, np.random.default_rng(1).random((33, 3), np.float32)]).reshape(*shape, 3)


@compares("RGBToHSV", "HSVToRGB")
@pytest.mark.parametrize("name", ["RGBToHSV", "HSVToRGB"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_colour_spaces(name, dtype):
    check(name, {}, pixels(2, 6, 5).astype(dtype), tolerance=2e-6)
    check(name, {}, pixels(60).astype(dtype), tolerance=2e-6)


@compares("AdjustHue", "AdjustSaturation")
@pytest.mark.parametrize("amount", [-0.7, -0.1, 0.0, 0.25, 1.6])
@pytest.mark.parametrize("dark", [0.0, 0.6])
def test_adjusting_colours(amount, dark):
    """Images are often around zero when their colours are distorted."""
    for x in (pixels(2, 6, 5) - np.float32(dark), 255 * pixels(6, 10)):
        check("AdjustHue", {}, x, np.float32(amount), tolerance=3e-6)
        check("AdjustSaturation", {}, x, np.float32(abs(amount)), tolerance=3e-6)


def test_colours_are_three():
    with pytest.raises(GraphError, match="colours"):
        OPS["RGBToHSV"].infer({}, [Abstract((2, 4), np.dtype("float32"))])
