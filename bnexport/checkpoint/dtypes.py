"""TensorFlow's DataType numbers as NumPy dtypes, the ones that `tf.train.load_checkpoint(...).get_tensor` returns."""

from typing import Any

import numpy as np

from bnexport.checkpoint.wire import MalformedError
from bnexport.errors import CheckpointError
from bnexport.protos import tensorflow_pb2 as pb

STRING = pb.DT_STRING

_NUMPY: dict[int, str] = {
    pb.DT_FLOAT: "float32",
    pb.DT_DOUBLE: "float64",
    pb.DT_HALF: "float16",
    pb.DT_INT8: "int8",
    pb.DT_INT16: "int16",
    pb.DT_INT32: "int32",
    pb.DT_INT64: "int64",
    pb.DT_UINT8: "uint8",
    pb.DT_UINT16: "uint16",
    pb.DT_UINT32: "uint32",
    pb.DT_UINT64: "uint64",
    pb.DT_BOOL: "bool",
    pb.DT_COMPLEX64: "complex64",
    pb.DT_COMPLEX128: "complex128",
    # Quantised types come out as the integers that hold them; their ranges are other tensors of the graph.
    pb.DT_QINT8: "int8",
    pb.DT_QUINT8: "uint8",
    pb.DT_QINT16: "int16",
    pb.DT_QUINT16: "uint16",
    pb.DT_QINT32: "int32",
}

_ML_DTYPES: dict[int, str] = {
    pb.DT_BFLOAT16: "bfloat16",
    pb.DT_FLOAT8_E5M2: "float8_e5m2",
    pb.DT_FLOAT8_E4M3FN: "float8_e4m3fn",
    pb.DT_FLOAT8_E4M3FNUZ: "float8_e4m3fnuz",
    pb.DT_FLOAT8_E4M3B11FNUZ: "float8_e4m3b11fnuz",
    pb.DT_FLOAT8_E5M2FNUZ: "float8_e5m2fnuz",
    pb.DT_INT4: "int4",
    pb.DT_UINT4: "uint4",
    pb.DT_INT2: "int2",
    pb.DT_UINT2: "uint2",
    pb.DT_FLOAT4_E2M1FN: "float4_e2m1fn",
}
"""Types that NumPy does not have. All of them take whole bytes in memory and in a checkpoint, the small ones one each."""

_OBJECTS = {pb.DT_STRING, pb.DT_VARIANT, pb.DT_RESOURCE}


def numpy_dtype(code: int) -> "np.dtype[Any]":
    """The NumPy dtype of a DataType number; a reference to a type counts as the type.

    Strings are `object`, and so are variants and resources, which no array can hold. Raises `MalformedError` for a number that is no type.
    """
    code = code - 100 if code > 100 else code
    if code in _NUMPY:
        return np.dtype(_NUMPY[code])
    if code in _OBJECTS:
        return np.dtype(object)
    if code in _ML_DTYPES:
        # Not needed by most checkpoints, and an import of its own.
        import ml_dtypes

        name = _ML_DTYPES[code]
        if not hasattr(ml_dtypes, name):
            raise CheckpointError(f"the type {name} needs a newer ml_dtypes than {ml_dtypes.__version__}: upgrade it")
        dtype: np.dtype[Any] = np.dtype(getattr(ml_dtypes, name))
        return dtype
    raise MalformedError(f"{code} is not the number of a type that TensorFlow has")


def type_name(code: int) -> str:
    """The name of a DataType number as TensorFlow writes it, for messages."""
    return pb.DataType.Name(pb.DataType.ValueType(code)) if code in pb.DataType.values() else f"DataType {code}"


def swap_bytes(data: "np.ndarray[Any, np.dtype[np.uint8]]", dtype: "np.dtype[Any]") -> None:
    """Reverse the byte order of every number of `dtype` in `data`, in place; a complex number is two."""
    width = dtype.itemsize // 2 if dtype.kind == "c" else dtype.itemsize
    if width > 1:
        data.view(f"u{width}").byteswap(inplace=True)
