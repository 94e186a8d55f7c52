"""TensorFlow's operators in NumPy: the table `OPS`, and what evaluates an operator or follows its shapes."""

from bnexport.kernels import activation, linear  # noqa: F401  (they fill OPS)
from bnexport.kernels.table import OPS, Abstract, Attrs, NDArray, Op, evaluate, ieee, infer, op, shapes_differ

__all__ = ["OPS", "Abstract", "Attrs", "NDArray", "Op", "evaluate", "ieee", "infer", "op", "shapes_differ"]

_OTHERS = (
    *("arithmetic", "shape", "reduce", "compare", "index", "norm", "conv", "pool", "space", "image", "diagonal", "quantize", "gradient"),
    *("lookup", "hashing", "segment", "colour", "boxes", "fourier", "image_gradient", "recurrent", "special", "search", "fused"),
)
OPS.others.extend(f"{__name__}.{module}" for module in _OTHERS)
