"""Text as arrays: what stands for it in memory, and what in a bundle.

TensorFlow knows bytes alone. In memory a text is a Python `bytes` in an array of objects; what people give as `str` is UTF-8. In a bundle an array of
texts has one width in bytes, NumPy's `S`, in which shorter ones are filled up with zero bytes, so that none may end in one.
"""

from typing import Any

import numpy as np

NDArray = np.ndarray[Any, Any]

TEXT = "string"
"""The dtype of a port or a literal that is text."""
LONGEST_FILL = 1 << 28
"""So many bytes may an array of texts take in one width."""


def dtype_of(name: str) -> "np.dtype[Any]":
    """The dtype in memory of a dtype by its name in a manifest."""
    return np.dtype(object if name == TEXT else name)


def name_of(dtype: "np.dtype[Any]") -> str:
    """The name of a dtype in a manifest: NumPy's, `string` for text, and `S12` for an array of texts in 12 bytes each."""
    if dtype.kind in "OS":
        return TEXT if dtype.kind == "O" else dtype.str[1:]
    return dtype.newbyteorder("=").name


def encoded(values: NDArray) -> tuple[NDArray, int | None]:
    """Texts of any kind as `bytes`, and the flat index of the first element that is no text (or none that UTF-8 has), or None."""
    out = np.empty(values.shape, object)
    texts = [_encoded(value) for value in values.astype(object).reshape(-1).tolist()]
    out.reshape(-1)[:] = texts
    return out, texts.index(None) if None in texts else None


def _encoded(value: Any) -> bytes | None:
    if isinstance(value, bytes):
        return value
    try:
        return value.encode("utf-8") if isinstance(value, str) else None
    except UnicodeEncodeError:
        return None


def constant(value: Any, dtype: str) -> NDArray:
    """The array that a literal of a manifest stands for; raises ValueError where it says text and has none."""
    if dtype != TEXT:
        return np.asarray(value, dtype)
    texts, bad = encoded(np.asarray(value, object))
    if bad is not None:
        raise ValueError(f"{value!r:.40} is no text")
    return texts


def in_one_width(values: NDArray) -> NDArray | None:
    """Texts as a bundle has them; None where one ends in a zero byte, or the longest is so long that the others would fill a disk."""
    texts = values.reshape(-1).tolist()
    width = max(map(len, texts), default=0)
    if any(text.endswith(b"\0") for text in texts) or width * len(texts) > LONGEST_FILL:
        return None
    return values.astype(f"S{max(1, width)}")


def in_memory(values: NDArray) -> NDArray:
    """An array out of a bundle as it is computed with."""
    return values.astype(object) if values.dtype.kind == "S" else values
