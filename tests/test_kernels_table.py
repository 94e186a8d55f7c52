import ast
import importlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from kernel_oracle import COMPARED

from bnexport.errors import GraphError
from bnexport.kernels import OPS, Abstract, evaluate, infer, op

HERE = Path(__file__).parent


def test_every_operator_is_compared_with_TensorFlow():
    for path in HERE.glob("test_kernels_*.py"):
        importlib.import_module(path.stem)
    assert set(OPS) == COMPARED


def test_importing_the_kernels_imports_NumPy_and_nothing_else():
    script = "import sys, numpy, typing; before = set(sys.modules); import bnexport.kernels; print(sorted(set(sys.modules) - before))"
    new = ast.literal_eval(subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=HERE.parent).stdout)
    ours = {name for name in new if name.split(".")[0] == "bnexport"}
    assert {name.split(".")[0] for name in set(new) - ours} <= set(sys.stdlib_module_names)


def test_a_name_is_registered_once():
    with pytest.raises(ValueError, match="the operator Relu is registered twice"):
        op("Relu", infer=lambda attrs, operands: operands)(lambda attrs, x: x)


def test_results_are_arrays_even_of_scalars():
    (total,) = evaluate(OPS["Add"], {}, [np.array(1.0), np.array(2.0)])
    assert isinstance(total, np.ndarray)
    assert total.shape == ()


@pytest.mark.parametrize("name", ["Sigmoid", "Softplus", "Softmax", "Exp", "Elu", "Selu", "Tanh"])
def test_infinities_are_results_and_not_warnings(name):
    x = np.array([[-1e30, -200, 200, 1e30]], np.float32)
    assert not np.isnan(evaluate(OPS[name], {}, [x])[0]).any()


def test_values_are_inferred_where_all_operands_are_known():
    known = Abstract((2,), np.dtype("int32"), np.array([3, 4], np.int32))
    (total,) = infer(OPS["Mul"], {}, [known, known])
    np.testing.assert_array_equal(total.value, [9, 16])


def test_rules_compute_on_no_data():
    vast = Abstract((1 << 20, 1 << 20), np.dtype("float32"))
    axes = Abstract((1,), np.dtype("int32"), np.array([1], np.int32))
    assert infer(OPS["Add"], {}, [vast, vast])[0].shape == vast.shape
    assert infer(OPS["Sum"], {}, [vast, axes])[0].shape == (1 << 20,)
    assert infer(OPS["Transpose"], {}, [vast, Abstract((2,), axes.dtype, np.array([1, 0]))])[0].shape == vast.shape
    assert infer(OPS["MatMul"], {}, [vast, vast])[0].shape == vast.shape


def test_the_error_names_both_shapes():
    with pytest.raises(GraphError, match=r"^broadcasting: the shapes \[2, 3\] and \[4\] do not fit together$"):
        infer(OPS["Add"], {}, [Abstract((2, 3), np.dtype("float32")), Abstract((4,), np.dtype("float32"))])
