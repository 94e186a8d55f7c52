"""Which tensor of a network a user's array is meant to be: by its name, read generously, or by its shape."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from bnexport.diagnose.mine import Given
from bnexport.diagnose.network import Network
from bnexport.errors import InputError, UsageError
from bnexport.kernels.table import NDArray
from bnexport.program import LINEAR

Shapes = dict[str, tuple[int, ...]]
_SUFFIXES = re.compile(r"/(out|output|activations?|result|value|bn_out|after)$")


@dataclass(frozen=True, slots=True)
class Reading:
    """A tensor that an array may be.

    Attributes:
        tensor: its name in the network.
        values: in the tensor's shape, or of fewer rows.
        steps: how finely each value is known.
        note: what was done to the array so that it fits.
    """

    tensor: str
    values: NDArray
    steps: NDArray
    note: str


@dataclass(frozen=True, slots=True)
class Match:
    """A user's array and the tensors that it may be, the likeliest first.

    Attributes:
        how: `name`, `output` or `shape`: what it was matched by.
    """

    given: Given
    readings: tuple[Reading, ...]
    how: str


def matches(network: Network, shapes: Shapes, mine: Sequence[Given], layer: str | None = None) -> tuple[list[Match], list[str]]:
    """The arrays that have a place in the network, and a line for each that has none.

    Args:
        shapes: of the tensors, for the rows that were given.
        layer: what the only array is, where the user says it.

    Raises:
        UsageError: `layer` names nothing in the network, or there are several arrays.
        InputError: no array has a place in the network.
    """
    if layer is not None:
        if len(mine) != 1:
            raise UsageError(f"--layer {layer} says which layer a file of one array holds; this one holds {len(mine)}, by name")
        tensors = by_name(network, layer)
        if not tensors:
            raise UsageError(f"--layer {layer}: the network has no layer of this name; it has {', '.join(_some(network))}")
        readings = _fitting(mine[0], tensors, shapes)
        if not readings:
            raise InputError(f"your values have the shape {list(mine[0].values.shape)}, and {layer} is {_shown(tensors, shapes)}")
        return [Match(mine[0], readings, "name")], []
    found, left = [], []
    for given in mine:
        match = _match(network, shapes, given)
        if match is not None:
            found.append(match)
        else:
            left.append(f"{given.name or 'your array'} {list(given.values.shape)} fits no layer by name or shape{_classes(network, shapes, given)}")
    if not found:
        outputs = _shown(list(network.outputs), shapes)
        raise InputError(f"nothing can be compared: {'; '.join(left)}; the output is {outputs}, and the network has {', '.join(_some(network))}")
    return found, left


def _match(network: Network, shapes: Shapes, given: Given) -> Match | None:
    if given.name:
        readings = _fitting(given, by_name(network, given.name), shapes)
        if readings:
            return Match(given, readings, "name")
    else:
        readings = _fitting(given, list(network.outputs), shapes)
        if readings:
            return Match(given, readings, "output")
    if given.values.ndim > 1:  # an array of one dimension may have been anything
        tail = given.values.shape[1:]
        readings = _fitting(given, [t for t in reversed(network.order) if t not in network.inputs and shapes[t][1:] == tail], shapes)
        if readings:
            return Match(given, readings, "shape")
    return None


def _classes(network: Network, shapes: Shapes, given: Given) -> str:
    """A hint where an array seems to be the number of the largest score of each row."""
    values = given.values.reshape(-1)
    for tensor in network.outputs:
        shape = shapes[tensor]
        if len(shape) == 2 and len(values) == shape[0] and np.isin(values, np.arange(shape[1])).all():
            return f" (if these are classes, give the scores of {tensor} that they are the largest of)"
    return ""


def by_name(network: Network, name: str) -> list[str]:
    """The tensors that a name may mean, the likeliest first.

    A tensor's own name means just that one, except for a dense or convolutional layer's, which people also give to what comes behind its bias, its
    batch norm and its activation. Else it may be the scope of a batch norm or of several tensors, of a variable, or the end of a longer name.
    """
    key = _plain(name)
    plain = {_plain(tensor): tensor for tensor in network.order}
    plain.update((_plain(port.name), tensor) for tensor, port in (*network.inputs.items(), *network.outputs.items()))
    layers = {_plain(layer.name): layer.name for layer in network.linear}
    if key in plain and key not in layers:
        return [plain[key]]
    for short in (key, _SUFFIXES.sub("", key)):
        found = list(dict.fromkeys(_meant(network, plain, layers, short)))
        if found:
            return found
    return []


def _meant(network: Network, plain: dict[str, str], layers: dict[str, str], key: str) -> Iterator[str]:
    if key in layers:
        yield from behind_layer(network, layers[key])
    yield from (norm.after for norm in network.norms if key == _plain(norm.name) or key in map(_plain, norm.variables.values()))
    yield from (tensor for name, tensor in reversed(plain.items()) if name.startswith(f"{key}/"))
    for name, tensor in plain.items():
        if name.endswith(f"/{key}"):
            yield from behind_layer(network, tensor) if name in layers else (tensor,)
    for definition in network.layers("ScaleShift", *LINEAR):
        if any(_plain(str(value)) == key for part in definition.provenance.get("parts", ()) for value in part.values()):
            yield definition.name


def behind_layer(network: Network, name: str) -> Iterator[str]:
    """A dense or convolutional layer's own tensor and those behind it, up to the next such layer or to where the way forks."""
    yield name
    after = network.sole_user(name)
    while after is not None and after.op not in LINEAR:
        yield after.name
        after = network.sole_user(after.name)


def _plain(name: str) -> str:
    text = name.strip().removesuffix(":0").replace("__", "/").replace(".", "/").replace("\\", "/")
    return text.strip("/").lower()


def _fitting(given: Given, tensors: Iterable[str], shapes: Shapes) -> tuple[Reading, ...]:
    readings: list[Reading] = []
    for tensor in tensors:
        if tensor in shapes:
            readings.extend(Reading(tensor, view, given.fineness.steps(view), note) for view, note in _views(given.values, shapes[tensor]))
    return tuple(readings)


def _views(values: NDArray, shape: tuple[int, ...]) -> Iterator[tuple[NDArray, str]]:
    """An array in a tensor's shape (or fewer rows of it), in all the ways that people lay it out."""
    if not shape:
        if values.size == 1:
            yield values.reshape(()), ""
        return
    rows, tail = shape[0], shape[1:]
    if values.ndim == 1 and len(shape) > 1:
        if values.shape == tail:
            values = values[None]
        elif values.size == rows and tail == (1,):
            values = values[:, None]
    if values.shape == (_size(tail), 1) and tail != (1,):  # one row, written as a column
        values = values.reshape(1, *tail)
    few = values.shape[0] if values.ndim else 0
    if not 0 < few <= rows:
        if values.shape == shape[::-1] and len(shape) == 2:
            yield values.T, "transposed"
        return
    note = f"the first {few} of {rows} rows" if few < rows else ""
    if values.shape[1:] == tail:
        yield values, note
    elif len(tail) == 3 and values.shape[1:] == (tail[2], *tail[:2]):
        yield values.transpose(0, 2, 3, 1), _joined(note, "channels first")
    elif values.ndim == 2 and values[0].size == _size(tail):
        yield values.reshape(few, *tail), _joined(note, "flattened")
        if len(tail) == 3:
            yield values.reshape(few, tail[2], *tail[:2]).transpose(0, 2, 3, 1), _joined(note, "flattened, channels first")
    elif values.reshape(few, -1).shape[1] == _size(tail) and values.ndim != len(shape):
        yield values.reshape(few, *tail), _joined(note, "reshaped")
    elif len(shape) == 2 and values.shape == shape[::-1]:
        yield values.T, "transposed"


def _size(shape: Sequence[int]) -> int:
    product = 1
    for size in shape:
        product *= size
    return product


def _joined(*notes: str) -> str:
    return ", ".join(note for note in notes if note)


def _some(network: Network) -> list[str]:
    names = [layer.name for layer in network.linear] + [norm.name for norm in network.norms] + list(network.outputs)
    return names if len(names) <= 12 else [*names[:12], "…"]


def _shown(tensors: Sequence[str], shapes: Shapes) -> str:
    return " or ".join(f"{tensor} {list(shapes[tensor])}" for tensor in tensors if tensor in shapes)
