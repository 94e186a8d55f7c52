"""Random inputs in a range that fits a network.

What a first batch norm has seen in training is written in its moving statistics, and so is, through the linear layer before it, the range of what the
network was trained on. Inputs drawn blindly would leave most units dead or saturated, and a comparison would say little.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from bnexport.batchnorms import BatchNorm
from bnexport.program import LINEAR, Layer, Literal, Port, Program, materialize
from bnexport.text import dtype_of, in_memory

NDArray = np.ndarray[Any, Any]

UNKNOWN_SIZE = 32
"""Taken for a dimension that any size will do for, except the batch."""
_MOVES = frozenset({"Reshape", "Squeeze", "ExpandDims", "Transpose", "Cast", "Identity"})
_LOOKUPS = frozenset({"Gather", "GatherV2"})


def draw(program: Program, norms: Sequence[BatchNorm], ports: Sequence[Port], rows: int, seed: int) -> tuple[dict[str, NDArray], dict[str, str]]:
    """Random rows for each input, and for each input a sentence about the range that they were drawn from.

    Args:
        program: unfolded.
        norms: its batch norms.
        ports: the inputs, of the names of the program's and in the dtype that is wanted.

    The same seed gives the same rows.
    """
    rng = np.random.default_rng(seed)
    users: dict[str, list[Layer]] = {}
    for layer in program.layers:
        for tensor in dict.fromkeys(t for t in layer.inputs if isinstance(t, str)):
            users.setdefault(tensor, []).append(layer)
    feeds, ranges = {}, {}
    for port in ports:
        sizes = [rows if number == 0 and size is None else UNKNOWN_SIZE if size is None else size for number, size in enumerate(port.shape)]
        values, ranges[port.name] = _drawn(rng, port, sizes, users, norms)
        if None in port.shape[1:]:
            ranges[port.name] += f"; {UNKNOWN_SIZE} was taken for each size that is open"
        feeds[port.name] = values.astype(dtype_of(port.dtype))
    return feeds, ranges


def _drawn(rng: np.random.Generator, port: Port, sizes: list[int], users: dict[str, list[Layer]], norms: Sequence[BatchNorm]) -> tuple[NDArray, str]:
    dtype = dtype_of(port.dtype)
    takers = _takers(users, port.tensor)
    keys, table = _keys(takers)
    if dtype.kind == "O":
        return _words(rng, sizes, keys, table)
    if keys and dtype.kind in "iu":
        unknown = next(number for number in range(len(keys) + 1) if number not in keys)
        return rng.choice([*keys, unknown], sizes), f"the {len(keys)} numbers that {table} knows, and {unknown}"
    if dtype.kind == "b":
        return rng.integers(0, 2, sizes).astype(bool), "true and false"
    if dtype.kind in "iu":
        size, where = _vocabulary(takers)
        return rng.integers(0, size, sizes), f"integers from 0 to {size - 1}, {where}"
    for layer, tensor in takers:
        norm = next((norm for norm in norms if layer.name in norm.layers and norm.before == tensor), None)
        if norm is not None and (values := _normalised(rng, norm, sizes)) is not None:
            return values, f"normal, with the moving mean and variance of the batch norm {norm.name} that stands on it"
        if layer.op in LINEAR and layer.inputs[0] == tensor:
            fitted = _fitted(layer, users, norms)
            if fitted is not None:
                mean, deviation, name = fitted
                return (
                    rng.normal(mean, deviation, sizes),
                    f"normal, mean {mean:.3g} and standard deviation {deviation:.3g}: what gives the moving statistics of {name} behind {layer.name}",
                )
    return rng.normal(size=sizes), "standard normal: no batch norm tells its range"


def _takers(users: dict[str, list[Layer]], tensor: str) -> list[tuple[Layer, str]]:
    """The layers that take an input, itself or moved about, and the tensor that each takes."""
    found = []
    stack = [tensor]
    while stack:
        current = stack.pop()
        for layer in users.get(current, ()):
            if layer.op in _MOVES:
                stack.append(layer.name)
            else:
                found.append((layer, current))
    return found


def _keys(takers: list[tuple[Layer, str]]) -> tuple[list[Any], str]:
    """The keys of the tables that an input is looked up in, and what the first of them is called."""
    lookups = [layer for layer, tensor in takers if layer.op == "Lookup" and layer.inputs[0] == tensor and "keys" in layer.arrays]
    found = {key: None for layer in lookups for key in in_memory(materialize(layer.arrays["keys"])).tolist()}
    return list(found), lookups[0].name if lookups else ""


def _words(rng: np.random.Generator, sizes: list[int], keys: list[Any], table: str) -> tuple[NDArray, str]:
    """The words of a table and one that it does not know; letters, where none tells more."""
    unknown = next(word for count in range(1, len(keys) + 2) if (word := b"?" * count) not in keys)
    words = np.array([*keys, unknown] if keys else [bytes([letter]) for letter in b"abcdefghijklmnopqrstuvwxyz"], object)
    drawn = words[rng.integers(0, len(words), sizes)]
    return drawn, f"the {len(keys)} words that {table} knows, and {unknown.decode()!r}" if keys else "the letters a to z, since no table tells more"


def _vocabulary(takers: list[tuple[Layer, str]]) -> tuple[int, str]:
    """How many different integers an input may hold: rows of the table that it looks up."""
    sizes = []
    for layer, tensor in takers:
        if layer.op in _LOOKUPS and len(layer.inputs) > 1 and layer.inputs[1] == tensor:
            table = layer.inputs[0]
            axis = int(layer.inputs[2].value) if len(layer.inputs) > 2 and isinstance(layer.inputs[2], Literal) else 0
            if isinstance(table, str) and table.startswith("@"):
                sizes.append((layer.arrays[table[1:]].shape[axis], f"the rows of the table that {layer.name} looks up"))
        elif layer.op == "OneHot" and isinstance(layer.inputs[1], Literal):
            sizes.append((int(layer.inputs[1].value), f"the depth of {layer.name}"))
    return min(sizes) if sizes else (2, "since no table that it looks up tells more")


def _normalised(rng: np.random.Generator, norm: BatchNorm, sizes: list[int]) -> NDArray | None:
    """What a batch norm makes standard normal."""
    try:
        return rng.normal(np.broadcast_to(norm.mean, sizes), np.sqrt(np.maximum(np.broadcast_to(norm.variance, sizes), 0.0)))
    except ValueError:  # it stands on a reshaped input
        return None


def _fitted(layer: Layer, users: dict[str, list[Layer]], norms: Sequence[BatchNorm]) -> tuple[float, float, str] | None:
    """The mean m and standard deviation s of independent inputs for which a linear layer's results have the moving statistics μ and σ² behind it.

    A unit is y = Σᵢ kᵢ·xᵢ + b, so its mean is m·Σk + b and its variance s²·Σk². There are two unknowns and many units: m is the least-squares
    solution over units, s² the median of σ² / Σk².
    """
    tensor, bias = layer.name, np.zeros(())
    norm = None
    while norm is None:
        norm = next((norm for norm in norms if norm.before == tensor), None)
        after = users.get(tensor, [])
        if norm is not None or len(after) != 1 or (after[0].op not in _MOVES and after[0].op != "ScaleShift"):
            break
        if after[0].op == "ScaleShift":
            scale, shift = (materialize(after[0].arrays[role]) for role in ("scale", "shift"))
            if (scale != 1).any() or shift.ndim > 1:
                return None
            bias = bias + shift
        tensor = after[0].name
    if norm is None or layer.op not in ("Dense", "Conv2D", "Conv3D"):
        return None
    kernel = materialize(layer.arrays["kernel"]).astype(np.float64)
    sums, squares = (values.reshape(-1, kernel.shape[-1]).sum(axis=0) for values in (kernel, kernel * kernel))
    mean, variance = norm.mean.reshape(-1), norm.variance.reshape(-1)
    live = (squares > 0) & (variance > 0) if mean.size == squares.size else np.zeros(1, bool)
    if not sums[live].any():
        return None
    centre = float((sums * (mean - bias))[live].sum() / (sums * sums)[live].sum())
    deviation = float(np.sqrt(np.median(variance[live] / squares[live])))
    return (centre, deviation, norm.name) if np.isfinite([centre, deviation]).all() else None
