"""The options by which a user says how a checkpoint is to be read: the same for every command that reads one."""

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

import click

Command = Callable[..., Any]


def conversion_options(command: Command) -> Command:
    """Adds the options to a command, which gets them together as `options`, an `Options`."""

    @wraps(command)
    def with_options(**values: Any) -> Any:
        from bnexport.options import Options

        order = values.pop("order")
        options = Options(
            set_values=values.pop("set_values"),
            inputs=values.pop("inputs"),
            outputs=values.pop("outputs"),
            shapes=values.pop("shapes"),
            averages=values.pop("ema"),
            signature=values.pop("signature"),
            statistics=values.pop("statistics"),
            activation=values.pop("activation"),
            bn_after_activation=values.pop("bn_after_activation"),
            epsilon=values.pop("epsilon"),
            order=[part.strip() for part in order.split(",")] if order else (),
            graph=values.pop("graph"),
            use_graph=not values.pop("no_graph"),
        )
        return command(options=options, **values)

    for option in reversed(_OPTIONS):
        option(with_options)
    return with_options


def _pair(option: str, text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name or not value:
        raise click.BadParameter(f"{text!r} is not NAME=VALUE", param_hint=option)
    return name, value


def _pairs(option: str, texts: Sequence[str]) -> list[tuple[str, str]]:
    """What is said of each name; of one name not two things."""
    pairs = [_pair(option, text) for text in texts]
    said: dict[str, str] = {}
    for name, value in pairs:
        if said.setdefault(name.removesuffix(":0"), value) != value:
            raise click.BadParameter(f"{name} is given twice, with {said[name.removesuffix(':0')]} and with {value}", param_hint=option)
    return pairs


def _values(_: click.Context, __: click.Parameter, texts: Sequence[str]) -> dict[str, Any]:
    return {name: _value(name, text) for name, text in _pairs("--set", texts)}


def _value(name: str, text: str) -> Any:
    """A bool, an int, a float, or a list of them, nested evenly; or text in quotes."""
    import json

    import numpy as np

    word = text.strip().lower()
    if word[0] == word[-1] == '"' and len(word) > 1:
        return text.strip()[1:-1]
    try:
        value = json.loads(word)
    except ValueError:
        try:
            value = float(word)  # .5, inf, nan
        except ValueError:
            value = None
    try:
        fits = np.asarray(value).dtype.kind in "biuf"
    except ValueError:  # rows of different lengths
        fits = False
    if not fits:
        raise click.BadParameter(f"{name}={text}: the value is none of true, false, a number and a JSON list of them", param_hint="--set")
    return value


def _shapes(_: click.Context, __: click.Parameter, texts: Sequence[str]) -> dict[str, list[int | None]]:
    pairs = _pairs("--shape", texts)
    return {name: [_size(f"{name}={sizes}", size.strip()) for size in sizes.strip("[]()").split(",")] for name, sizes in pairs}


def _size(text: str, size: str) -> int | None:
    if size.lower() in ("?", "-1", "none"):
        return None
    if not size.isdecimal():
        raise click.BadParameter(f"{text}: {size!r} is no size; give numbers with commas between them, and ? for any size", param_hint="--shape")
    return int(size)


_OPTIONS: tuple[Callable[[Command], Command], ...] = (
    click.option(
        "--input",
        "inputs",
        metavar="NAME",
        multiple=True,
        help="A tensor to be the input, or NAME=TENSOR. Repeatable. By default the inputs are found.",
    ),
    click.option(
        "--output",
        "outputs",
        metavar="NAME",
        multiple=True,
        help="A tensor to be an output, or NAME=TENSOR. Repeatable. By default the outputs are found.",
    ),
    click.option(
        "--set",
        "set_values",
        metavar="NAME=VALUE",
        multiple=True,
        callback=_values,
        help="The value of a flag or another tensor: true, false, a number, a JSON list. Repeatable.",
    ),
    click.option(
        "--shape", "shapes", metavar="NAME=?,28,28,1", multiple=True, callback=_shapes, help="The shape of an input, ? for any size. Repeatable."
    ),
    click.option("--signature", metavar="NAME", help="The signature of a SavedModel.  [default: serving_default, or the only one]"),
    click.option("--ema", is_flag=True, help="Take the averaged weights (Polyak averages) where the checkpoint holds them."),
    click.option(
        "--statistics",
        type=click.Choice(["auto", "moving", "batch"]),
        default="auto",
        show_default=True,
        help="In a graph saved from training: the statistics of its batch norms. Auto is moving, unless the graph fixes the batch it is fed.",
    ),
    click.option(
        "--graph", metavar="FILE", help="The graph, where it does not lie beside CKPT under its name: a .meta of another step, a graph.pbtxt."
    ),
    click.option("--no-graph", is_flag=True, help="Read the variables' names alone, even where there is a graph."),
    click.option("--activation", metavar="NAME", help="Without a graph: the activation of the hidden layers."),
    click.option("--bn-after-activation", is_flag=True, help="Without a graph: batch norms stand behind the activations, not before them."),
    click.option("--epsilon", metavar="NUMBER", type=float, help="Without a graph: the epsilon of the batch norms."),
    click.option("--order", metavar="A,B,C", help="Without a graph: the layers in their order."),
)
