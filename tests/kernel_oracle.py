"""Comparison of a kernel with live TensorFlow, and the record of which operators are compared."""

import functools
import inspect
import os
import warnings

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

from bnexport.kernels import OPS, Abstract, evaluate
from bnexport.kernels.rules import is_half

COMPARED: set[str] = set()
"""Every operator that some test, as it stands in the sources, compares with TensorFlow."""
RENAMED = {
    "concat_dim": "axis", "dim": "axis", "reduction_indices": "axis", "split_dim": "axis", "squeeze_dims": "axis",
    "e": "y", "input": "condition", "t": "x",
}  # fmt: skip
"""Operands and attributes that tf.raw_ops calls otherwise than the op's definition does."""
_checked: set[str] = set()

TOLERANCE = {"complex64": 2e-6, "float64": 1e-12, "float32": 2e-6, "float16": 2e-3, "bfloat16": 2e-2}
"""Of the largest expected value, per dtype; summed products round differently in every implementation."""


@functools.cache
def tensorflow():
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TensorFlow's own imports use what NumPy and Python have deprecated
        return pytest.importorskip("tensorflow")


def bounded(examples):
    return settings(
        max_examples=examples,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
    )


def compares(*names):
    """Marks a test that compares the operators `names`; one that is parametrized by `name` compares that one at a time."""
    COMPARED.update(names)

    def mark(test):
        @functools.wraps(test)
        def run(*args, **kwargs):
            _checked.clear()
            test(*args, **kwargs)
            assert ({kwargs["name"]} if "name" in kwargs else set(names)) <= _checked

        return pytest.mark.tensorflow(run)

    return mark


def from_tensorflow(name, attrs, operands):
    tf = tensorflow()
    from tensorflow.python.framework import op_def_registry

    definition = op_def_registry.get(name)
    raw = getattr(tf.raw_ops, name)
    spelled = inspect.signature(raw).parameters
    lists = [a for a in definition.input_arg if a.number_attr or a.type_list_attr]
    count = (len(operands) - len(definition.input_arg) + len(lists)) // max(1, len(lists))
    arguments, at = {}, 0
    for argument in definition.input_arg:
        keyword = argument.name if argument.name in spelled else RENAMED[argument.name]
        if argument.number_attr or argument.type_list_attr:
            arguments[keyword] = [tf.constant(o) for o in operands[at : at + count]]
            at += count
        else:
            arguments[keyword] = tf.constant(operands[at])
            at += 1
    inferred = {n for a in definition.input_arg for n in (a.type_attr, a.number_attr, a.type_list_attr)}
    result = raw(**arguments, **{k if k in spelled else RENAMED[k]: v for k, v in attrs.items() if k not in inferred})
    if isinstance(result, tf.Tensor):
        return (result.numpy(),)
    return tuple(r.numpy() for r in result)


def plain(x):
    """Half floats in float32, for NumPy's assertions know no NaN in bfloat16."""
    return x.astype(np.float32) if is_half(x.dtype) else x


def assert_close(actual, expected, tolerance=None):
    assert actual.shape == expected.shape
    assert actual.dtype == expected.dtype
    if expected.dtype.name in TOLERANCE:
        tolerance = tolerance or TOLERANCE[expected.dtype.name]
        actual, expected = plain(actual), plain(expected)
    if expected.dtype.kind in "fc":
        finite = np.abs(expected[np.isfinite(expected)])
        scale = finite.max() if finite.size else 0
        np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=min(scale, 1e30) * tolerance)
    else:
        np.testing.assert_array_equal(actual, expected)


def check_values(name, attrs, *operands):
    """`check` for an op whose result has a shape that depends on the data, so that there is no rule to ask."""
    _checked.add(name)
    for result, wanted in zip(evaluate(OPS[name], attrs, operands), from_tensorflow(name, attrs, operands), strict=True):
        assert_close(result, wanted)


def check(name, attrs, *operands, expected=None, unknown=(0,), tolerance=None, outputs=None):
    """Asserts that a kernel gives what TensorFlow gives (or `expected`), that its shape rule agrees, and that it leaves its operands alone.

    The shape rule is asked twice: with all values known, and with those at the positions `unknown` not. Where TensorFlow leaves some outputs
    to chance, only the first `outputs` are compared.
    """
    _checked.add(name)
    operator = OPS[name]
    operands = [np.array(o) for o in operands]
    if expected is None:
        expected = from_tensorflow(name, attrs, operands)
    for operand in operands:
        operand.flags.writeable = False  # a kernel that writes to an operand raises
    results = evaluate(operator, attrs, operands)
    assert len(results) == len(expected)
    for result, wanted in zip(results[:outputs], expected[:outputs], strict=True):
        assert_close(result, wanted, tolerance)
        if not operator.view:
            assert not any(np.shares_memory(result, o) for o in operands)
    for hidden in ((), unknown):
        known = [Abstract(o.shape, o.dtype, None if i in hidden else o) for i, o in enumerate(operands)]
        for rule, result in zip(operator.infer(attrs, known), results, strict=True):
            assert (rule.shape, rule.dtype) == (result.shape, result.dtype)
            if rule.value is not None:
                np.testing.assert_array_equal(rule.value, result)
    if operator.inplace and (results[0].shape, results[0].dtype) == (operands[0].shape, operands[0].dtype):
        out = operands[0].copy()
        with np.errstate(all="ignore"):
            assert operator.compute(attrs, out, *operands[1:], out=out) is out
        np.testing.assert_array_equal(plain(out), plain(results[0]))
    return results
