"""The manifest of a bundle: a program without its arrays, as JSON. `docs/bundle-format.md` specifies it."""

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from bnexport import text
from bnexport._version import __version__
from bnexport.errors import BundleError, CorruptBundle
from bnexport.program import LINEAR, Array, InMemory, Layer, Literal, Port, Program, Read

FORMAT = "bnexport"
VERSION = 1
MEMBER = "manifest.json"
"""The manifest's name among the members of a .npz bundle."""

DTYPES = ("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float32", "float64")
"""The dtypes that a bundle holds, by NumPy's names. bfloat16 is float32 by then, because few languages have it."""

CONVENTIONS = {
    "activation": "the name of a TensorFlow operator, applied last to a layer's result; null for none; activation_attrs are its attributes",
    "arrays": "row-major, little-endian; crc32 is that of these bytes",
    "bias": "one number per output channel; a layer without one adds nothing",
    "Lookup": "y = values[i] where x = keys[i], else the fourth operand; text (dtype S and a number of bytes) ends before its zero bytes",
    "layout": "images are NHWC unless the attribute data_format says NCHW; kernels have the same layout for both",
    "Dense": "y = activation(x @ kernel + bias); kernel is (in, out)",
    "Conv2D": "y = activation(conv(x, kernel) + bias); kernel is (height, width, in, out); the kernel is not flipped",
    "DepthwiseConv2D": "y = activation(conv(x, kernel) + bias); kernel is (height, width, in, multiplier)",
    "Conv2DTranspose": "y = activation(conv_transpose(x, kernel) + bias); kernel is (height, width, out, in)",
    "Conv3D": "as Conv2D, kernel (depth, height, width, in, out)",
    "Conv3DTranspose": "as Conv2DTranspose, kernel (depth, height, width, out, in)",
    "ScaleShift": "y = activation(x * scale + shift); scale and shift are broadcast against x from the last dimension on",
    "tensors": "a layer's first output is the tensor of the layer's name, the next are name:1, name:2, ...",
}


_OWN = {**dict.fromkeys(LINEAR, (("kernel",), ("bias",))), "ScaleShift": (("scale", "shift"), ())}
"""The arrays that operations of our own have: those that they must have, and those that they may have."""


class Stored(NamedTuple):
    """What the manifest says of an array."""

    shape: tuple[int, ...]
    dtype: "np.dtype[Any]"
    crc32: str

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass(slots=True)
class Manifest:
    """A manifest that has been read and checked. `roles` has, for each layer, the names of its arrays by their role."""

    program: Program
    roles: list[dict[str, str]]
    arrays: dict[str, Stored]

    def with_arrays(self, values: Mapping[str, "np.ndarray[Any, Any]"]) -> Program:
        """The program with its arrays, which nobody can write to."""
        for array in values.values():
            array.setflags(write=False)
        arrays = {name: InMemory(array) for name, array in values.items()}
        for layer, roles in zip(self.program.layers, self.roles, strict=True):
            layer.arrays.update({role: arrays[name] for role, name in roles.items()})
        return self.program


def named_arrays(program: Program) -> dict[str, Array]:
    """The arrays of a program by the names they have in a bundle, in the order of the layers.

    Raises:
        BundleError: the program contradicts itself (see `check`), or holds a dtype that a bundle does not.
    """
    check(program)
    named: dict[str, Array] = {}
    for layer, names in zip(program.layers, _roles(program.layers), strict=True):
        for role, name in names.items():
            array = layer.arrays[role]
            if role in ("", ".", ".."):
                raise BundleError(f"an array of the layer {layer.name} has the role {role!r}, which is no name")
            if named.get(name, array) is not array:
                raise BundleError(f"two arrays of the network would both be called {name}")
            if array.dtype.kind != "S" and text.name_of(array.dtype) not in DTYPES:
                raise BundleError(f"the array {name} is of dtype {array.dtype.name}, which a bundle does not hold; it holds {', '.join(DTYPES)}")
            named[name] = array
    return named


def check(program: Program) -> None:
    """Holds a program against the rules that a runner relies on: names are unique, and what is used was computed before.

    Raises:
        BundleError: saying which layer, tensor or port breaks which rule.
    """
    known: set[str] = set()
    for kind, ports in (("input", program.inputs), ("output", program.outputs)):
        names: set[str] = set()
        for port in ports:
            if port.name in names:
                raise BundleError(f"two {kind}s are called {port.name}")
            if port.dtype not in (*DTYPES, text.TEXT):
                raise BundleError(f"the {kind} {port.name} is of dtype {port.dtype}, which a bundle does not hold; it holds {', '.join(DTYPES)}")
            names.add(port.name)
    for port in program.inputs:
        if port.tensor in known:
            raise BundleError(f"two inputs are the same tensor {port.tensor}")
        known.add(port.tensor)
    for layer in program.layers:
        if not layer.name or layer.name.startswith("@"):
            raise BundleError(f"a layer of op {layer.op} is called {layer.name!r}; a name is not empty and does not begin with @")
        if layer.outputs < 1:
            raise BundleError(f"the layer {layer.name} has {layer.outputs} outputs")
        for operand in layer.inputs:
            if isinstance(operand, Literal):
                if operand.dtype not in (*DTYPES, text.TEXT):
                    raise BundleError(f"an operand of the layer {layer.name} is of dtype {operand.dtype}, which a bundle does not hold")
            elif operand.startswith("@"):
                if operand[1:] not in layer.arrays:
                    raise BundleError(f"the layer {layer.name} uses its array {operand[1:]}, which it does not have")
            elif operand not in known:
                raise BundleError(f"the layer {layer.name} uses the tensor {operand}, which no input and no layer before it makes")
        _check_roles(layer)
        for tensor in layer.makes:
            if tensor in known:
                raise BundleError(f"two layers or inputs make the tensor {tensor}")
            known.add(tensor)
    for port in program.outputs:
        if port.tensor not in known:
            raise BundleError(f"the output {port.name} is the tensor {port.tensor}, which no input and no layer makes")
    if not program.outputs:
        raise BundleError("the network has no outputs")


def _check_roles(layer: Layer) -> None:
    """A bias under another name would be left out without a word."""
    if layer.op not in _OWN:
        return
    must, may = _OWN[layer.op]
    for role in must:
        if role not in layer.arrays:
            raise BundleError(f"the layer {layer.name} ({layer.op}) has no {role}")
    for role in layer.arrays:
        if role not in must + may and f"@{role}" not in layer.inputs:
            raise BundleError(f"the layer {layer.name} ({layer.op}) has an array of the role {role}, which it does not compute with")


def encode(program: Program, checksums: Mapping[str, int]) -> bytes:
    """The manifest of a program whose arrays have these checksums, by the names that `named_arrays` gave them.

    A layer, an array or a port takes one line, keys are sorted: the same program gives the same bytes.

    Raises:
        BundleError: an attribute or a record holds a value that JSON cannot.
    """
    arrays: dict[str, Any] = {}
    layers = []
    for layer, roles in zip(program.layers, _roles(program.layers), strict=True):
        layers.append(_layer_entry(layer, roles))
        for role, name in roles.items():
            array = layer.arrays[role]
            arrays[name] = {"shape": list(array.shape), "dtype": text.name_of(array.dtype), "crc32": f"{checksums[name]:08x}"}
    manifest = {
        "format": FORMAT,
        "version": VERSION,
        "producer": f"bnexport {__version__}",
        "conventions": CONVENTIONS,
        "inputs": [_port_entry(port) for port in program.inputs],
        "outputs": [_port_entry(port) for port in program.outputs],
        "layers": layers,
        "arrays": arrays,
        "conversion": _plain(program.conversion, "the record of the conversion"),
    }
    return ("{\n" + ",\n".join(f"{_json(key)}: {_lines(manifest[key])}" for key in sorted(manifest)) + "\n}\n").encode("ascii")


def decode(data: bytes) -> Manifest:
    """Reads a manifest and checks all that can be known without the arrays.

    Raises:
        CorruptBundle: it is not JSON, not a manifest of this version, or contradicts itself.
    """
    try:
        manifest = json.loads(data.decode("utf-8"), object_pairs_hook=_object, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise CorruptBundle(f"the manifest is not JSON as a bundle has it ({error})") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise CorruptBundle('the manifest is not one of a bundle: its "format" is not "bnexport"')
    if manifest.get("version") != VERSION:
        raise CorruptBundle(f"the bundle is of version {manifest.get('version')}, and this bnexport reads version {VERSION}; a newer one may read it")
    stored = {
        name: _stored(name, _expect(entry, dict, f"the array {name}")) for name, entry in _field(manifest, "arrays", dict, "the manifest").items()
    }
    layers: list[Layer] = []
    roles: list[dict[str, str]] = []
    for number, entry in enumerate(_field(manifest, "layers", list, "the manifest")):
        layer, arrays = _layer(_expect(entry, dict, f"layer {number}"), number)
        layers.append(layer)
        roles.append(arrays)
        for role, name in arrays.items():
            if name not in stored:
                raise CorruptBundle(f'the layer {layer.name} names the array {name} as its {role}, which "arrays" does not list')
    for name in stored.keys() - {name for arrays in roles for name in arrays.values()}:
        raise CorruptBundle(f"no layer uses the array {name}")
    inputs, outputs = (
        [_port(_expect(entry, dict, f"an entry of {key}"), key[:-1]) for entry in _field(manifest, key, list, "the manifest")]
        for key in ("inputs", "outputs")
    )
    program = Program(inputs, layers, outputs, _record(_field(manifest, "conversion", dict, "the manifest")))
    # The arrays themselves come later; what names them can be checked now.
    for layer, arrays in zip(layers, roles, strict=True):
        layer.arrays.update({role: _Absent(stored[name].shape, stored[name].dtype) for role, name in arrays.items()})
    try:
        check(program)
    except BundleError as error:
        raise CorruptBundle(str(error)) from error
    return Manifest(program, roles, stored)


@dataclass(slots=True)
class _Absent:
    """An array that is only known from the manifest yet."""

    shape: tuple[int, ...]
    dtype: "np.dtype[Any]"

    def readers(self, count: int) -> list[Read]:
        raise CorruptBundle("an array of the bundle was not read")


# Names of arrays


def _roles(layers: Sequence[Layer]) -> list[dict[str, str]]:
    """For each layer the names of its arrays by role: `layer/role`, with what a path cannot have written as in a URL.

    An array that several layers hold is called after the first of them.
    A layer may be called as another's array (`a` has a `kernel`, and there is a layer `a/kernel`). In HDF5 that name would have to be a group and a
    dataset at once, so that layer's slashes are escaped.
    """
    owners = [_safe(layer.name) for layer in layers]
    leaves = {f"{owner}/{_escape(role, '')}" for owner, layer in zip(owners, layers, strict=True) for role in layer.arrays}
    names = []
    taken: dict[int, str] = {}
    for owner, layer in zip(owners, layers, strict=True):
        parts = owner.split("/")
        if any("/".join(parts[:n]) in leaves for n in range(2, len(parts) + 1)):
            owner = "%2F".join(parts)
        names.append({role: taken.setdefault(id(array), f"{owner}/{_escape(role, '')}") for role, array in layer.arrays.items()})
    return names


def _safe(name: str) -> str:
    parts = name.split("/")
    if parts[0] == MEMBER or any(part in ("", ".", "..") for part in parts):
        return _escape(name, "").replace(".", "%2E")
    return _escape(name, "/")


def _escape(name: str, keep: str) -> str:
    return re.sub(f"[^A-Za-z0-9_.{keep}-]+", lambda match: "".join(f"%{byte:02X}" for byte in match[0].encode("utf-8", "surrogatepass")), name)


# Out of the program


def _port_entry(port: Port) -> dict[str, Any]:
    return {"name": port.name, "tensor": port.tensor, "shape": list(port.shape), "dtype": port.dtype}


def _layer_entry(layer: Layer, roles: Mapping[str, str]) -> dict[str, Any]:
    where = f"the layer {layer.name}"
    inputs: list[Any] = []
    for operand in layer.inputs:
        if isinstance(operand, Literal):
            value = _plain(operand.value, f"an operand of {where}")
            if np.shape(value) != np.shape(operand.value):
                raise BundleError(
                    f"an operand of {where} is empty in a shape that JSON cannot say, {list(np.shape(operand.value))}; make it an array"
                )
            inputs.append({"value": value, "dtype": operand.dtype})
        else:
            inputs.append({"array": roles[operand[1:]]} if operand.startswith("@") else operand)
    entry = {
        "name": layer.name,
        "op": layer.op,
        "inputs": inputs,
        "attrs": _plain(layer.attrs, f"an attribute of {where}"),
        "arrays": dict(roles),
        "activation": layer.activation,
        "activation_attrs": _plain(layer.activation_attrs, f"an attribute of {where}'s activation"),
        "provenance": _plain(layer.provenance, f"the provenance of {where}"),
    }
    return entry | {"outputs": layer.outputs} if layer.outputs > 1 else entry


def _plain(value: Any, where: str) -> Any:
    """A value as JSON has it. It has no infinities and no NaN: they are `{"float": "inf"}`, `{"float": "-inf"}` and `{"float": "nan"}`."""
    if isinstance(value, (np.generic, np.ndarray)):
        value = value.tolist()
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"float": str(value)}
    if isinstance(value, (list, tuple)):
        return [_plain(item, where) for item in value]
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {key: _plain(item, where) for key, item in value.items()}
    raise BundleError(f"{where} holds a value of type {type(value).__name__}, which the manifest cannot: {value!r:.60}")


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, allow_nan=False)


def _lines(value: Any) -> str:
    """JSON for people: each item on its own line, but no deeper, so that a long list of numbers does not run over pages."""
    if isinstance(value, dict) and value:
        return "{\n " + ",\n ".join(f"{_json(key)}: {_json(value[key])}" for key in sorted(value)) + "\n}"
    if isinstance(value, list) and value:
        return "[\n " + ",\n ".join(map(_json, value)) + "\n]"
    return _json(value)


# Into the program


def _object(pairs: list[tuple[str, Any]]) -> Any:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError(f"a key stands twice in one object: {', '.join(sorted(key for key, _ in pairs))}")
    if len(pairs) == 1 and pairs[0][0] == "float" and pairs[0][1] in ("inf", "-inf", "nan"):
        return float(pairs[0][1])
    return value


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def _expect(value: Any, kind: type, where: str) -> Any:
    if type(value) is not kind:
        raise CorruptBundle(f"{where} is {value!r:.60} in the manifest, not of type {kind.__name__}")
    return value


def _field(entry: Mapping[str, Any], key: str, kind: type, where: str) -> Any:
    if key not in entry:
        raise CorruptBundle(f'{where} has no "{key}"')
    return _expect(entry[key], kind, f'"{key}" of {where}')


def _shape(entry: Mapping[str, Any], where: str, allowed: Callable[[Any], bool]) -> tuple[Any, ...]:
    shape = tuple(_field(entry, "shape", list, where))
    if not all(allowed(size) for size in shape):
        raise CorruptBundle(f"{where} has the shape {list(shape)} in the manifest")
    return shape


def _size(size: Any) -> bool:
    return type(size) is int and size >= 0


def _stored(name: str, entry: Mapping[str, Any]) -> Stored:
    where = f"the array {name}"
    dtype, crc = _field(entry, "dtype", str, where), _field(entry, "crc32", str, where)
    if dtype not in DTYPES and not re.fullmatch("S[1-9][0-9]{0,8}", dtype):
        raise CorruptBundle(f"{where} is of dtype {dtype}, which a bundle does not hold")
    if not re.fullmatch("[0-9a-f]{8}", crc):
        raise CorruptBundle(f"{where} has the checksum {crc!r}, which is not of eight hex digits")
    if any(part in ("", ".", "..") for part in name.split("/")) or _escape(name, "/%") != name:
        raise CorruptBundle(f"{where} has a name that is no safe path")
    return Stored(_shape(entry, where, _size), np.dtype(dtype), crc)


def _port(entry: Mapping[str, Any], kind: str) -> Port:
    name = _field(entry, "name", str, f"an {kind}")
    where = f"the {kind} {name}"
    shape = _shape(entry, where, lambda size: size is None or _size(size))
    return Port(name, _field(entry, "tensor", str, where), shape, _field(entry, "dtype", str, where))


def _record(entry: dict[str, Any]) -> dict[str, Any]:
    """The record of the conversion, of which three entries say how to evaluate the network."""
    if entry.get("incomplete") is not None:
        _field(entry, "incomplete", str, '"conversion"')
    if entry.get("batch") is not None and _field(entry, "batch", int, '"conversion"') < 1:
        raise CorruptBundle(f'"batch" of "conversion" is {entry["batch"]} in the manifest, which is no number of rows')
    if entry.get("rows_alone") is not None:
        _field(entry, "rows_alone", bool, '"conversion"')
    return entry


def _layer(entry: Mapping[str, Any], number: int) -> tuple[Layer, dict[str, str]]:
    name = _field(entry, "name", str, f"layer {number}")
    where = f"the layer {name}"
    roles: dict[str, str] = _field(entry, "arrays", dict, where)
    by_name = {_expect(array, str, f"the {role} of {where}"): role for role, array in roles.items()}
    inputs: list[str | Literal] = []
    for operand in _field(entry, "inputs", list, where):
        if isinstance(operand, str) and not operand.startswith("@"):
            inputs.append(operand)
        elif isinstance(operand, dict) and operand.keys() == {"array"} and operand["array"] in by_name:
            inputs.append("@" + by_name[operand["array"]])
        elif isinstance(operand, dict) and operand.keys() == {"value", "dtype"} and operand["dtype"] in (*DTYPES, text.TEXT):
            inputs.append(Literal(operand["value"], operand["dtype"]))
        else:
            raise CorruptBundle(f"{where} has an operand that is no tensor, no array of its own and no value: {operand!r:.60}")
    activation = entry.get("activation")
    layer = Layer(
        name,
        _field(entry, "op", str, where),
        inputs,
        attrs=_field(entry, "attrs", dict, where),
        activation=None if activation is None else _expect(activation, str, f"the activation of {where}"),
        activation_attrs=_field(entry, "activation_attrs", dict, where),
        provenance=_field(entry, "provenance", dict, where),
        outputs=_field(entry, "outputs", int, where) if "outputs" in entry else 1,
    )
    return layer, roles
