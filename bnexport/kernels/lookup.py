"""Lookups in tables whose keys and values are constants."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from bnexport.kernels.table import Abstract, Attrs, NDArray, op, shapes_differ


def _found(attrs: Attrs, operands: Sequence[Abstract]) -> Sequence[Abstract]:
    x, keys, values, default = operands
    if len(keys.shape) != 1 or keys.shape != values.shape or default.shape != ():
        raise shapes_differ("Lookup", keys.shape, values.shape, default.shape)
    return [Abstract(x.shape, values.dtype)]


def finder(keys: NDArray, values: NDArray) -> Callable[[NDArray, NDArray], NDArray]:
    """A function that gives for each element the value of the key that it equals, or else a default."""
    places = {key: place for place, key in enumerate(keys.tolist())}

    def find(x: NDArray, default: NDArray) -> NDArray:
        at = np.array([places.get(element, -1) for element in x.reshape(-1).tolist()], np.intp).reshape(x.shape)
        found = np.full(x.shape, default, values.dtype)
        hit = at >= 0
        found[hit] = values[at[hit]]
        return found

    return find


@op("Lookup", infer=_found)
def lookup(attrs: Attrs, x: NDArray, keys: NDArray, values: NDArray, default: NDArray) -> Any:
    """values[i] where x = keys[i], or else the default: LookupTableFindV2 of a table that holds these keys and values. No key stands there twice."""
    return finder(keys, values)(x, default)
