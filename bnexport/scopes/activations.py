"""What `--activation` may say."""

import re
from dataclasses import dataclass
from typing import Any

from bnexport.errors import UsageError

_OPS = {
    "relu": "Relu",
    "relu6": "Relu6",
    "leaky_relu": "LeakyRelu",
    "elu": "Elu",
    "selu": "Selu",
    "softplus": "Softplus",
    "softsign": "Softsign",
    "sigmoid": "Sigmoid",
    "tanh": "Tanh",
    "softmax": "Softmax",
    "log_softmax": "LogSoftmax",
}
_NONE = ("none", "linear", "identity")
_CALL = re.compile(r"leaky_relu\((-?\d*\.?\d+(?:e-?\d+)?)\)")


@dataclass(frozen=True, slots=True)
class Activation:
    """An operator of TensorFlow with its attributes."""

    op: str
    attrs: dict[str, Any]


def parse_activations(text: str, layers: int) -> list[Activation | None]:
    """The activation of each of a network's linear layers, None for none.

    Args:
        text: `relu` for all layers but the last, which has none; `relu:softmax` for these and the last; `relu,tanh,none` for each layer by itself.
            `leaky_relu` has TensorFlow's own slope of 0.2 unless it says another, as in `leaky_relu(0.1)`.

    Raises:
        UsageError: an activation that does not exist, or not one for each layer.
    """
    if "," in text:
        each = [_parse(part) for part in text.split(",")]
        if len(each) != layers:
            raise UsageError(f"--activation {text} is for {len(each)} layers, and the network has {layers}")
        return each
    hidden, colon, last = text.partition(":")
    return [_parse(hidden)] * (layers - 1) + [_parse(last) if colon else None]


def _parse(name: str) -> Activation | None:
    name = name.strip().lower()
    if name in _NONE:
        return None
    if name in _OPS:
        return Activation(_OPS[name], {"alpha": 0.2} if name == "leaky_relu" else {})
    call = _CALL.fullmatch(name)
    if call is not None:
        return Activation("LeakyRelu", {"alpha": float(call[1])})
    raise UsageError(f"--activation: there is no activation {name!r}; there are {', '.join([*_OPS, 'none'])}")
