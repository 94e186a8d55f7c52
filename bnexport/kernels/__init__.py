"""TensorFlow's operators in NumPy: the table `OPS`, and what evaluates an operator or follows its shapes."""

from bnexport.kernels import activation, arithmetic, compare, conv, diagonal, image, index, linear, norm, pool, quantize, reduce, shape, space  # noqa: F401  (they fill OPS)
from bnexport.kernels.table import OPS, Abstract, Attrs, NDArray, Op, evaluate, ieee, infer, op, shapes_differ

__all__ = ["OPS", "Abstract", "Attrs", "NDArray", "Op", "evaluate", "ieee", "infer", "op", "shapes_differ"]
