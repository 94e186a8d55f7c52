"""`bnexport trace`."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from bnexport.commands.options import conversion_options
from bnexport.commands.output import print_doubts, print_json, print_table, shown
from bnexport.errors import UsageError

if TYPE_CHECKING:
    from bnexport.csvrows import Block
    from bnexport.options import Options
    from bnexport.tracing import LayerValues, Network, NormValues

HEADS = ("batch norm", "row", "unit", "before bn", "mean", "var", "offset", "scale", "epsilon", "after bn")
FIRST = 4
"""How many of a layer's numbers are shown."""


def _place(_: click.Context, __: click.Parameter, text: str | None) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split(",")] if text else []
    if not all(part.isdecimal() for part in parts):
        raise click.BadParameter(f"{text!r} is no place; give a number for each dimension with commas between them", param_hint="--place")
    return tuple(map(int, parts))


@click.command()
@click.argument("path", metavar="CKPT_OR_BUNDLE")
@click.argument("data", metavar="INPUT")
@click.option("--row", "rows", metavar="N", type=click.IntRange(min=0), multiple=True, help="A row of INPUT, from 0. Repeatable.  [default: 0]")
@click.option("--unit", "units", metavar="N", type=click.IntRange(min=0), multiple=True, help="A unit or channel, from 0. Repeatable.  [default: 0]")
@click.option("--place", metavar="Y,X", callback=_place, help="Where in an image the unit is looked at.  [default: the first place]")
@click.option("--layers", is_flag=True, help="Show every layer, and not the batch norms alone.")
@click.option("-o", "--out", "out", metavar="OUT", help="Write every layer's whole result, for all rows, under its name to a file (.npz or .h5).")
@click.option("--header/--no-header", default=None, help="Whether the first row of a CSV input names its columns.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object, for machines.")
@conversion_options
def trace(
    path: str,
    data: str,
    rows: tuple[int, ...],
    units: tuple[int, ...],
    place: tuple[int, ...],
    layers: bool,
    out: str | None,
    header: bool | None,
    as_json: bool,
    options: "Options",
) -> None:
    """Show the values of every batch norm, or every layer, for rows of INPUT.

    Of a checkpoint nothing is folded and everything is computed in float64: each batch norm's input, its mean, variance, offset (beta), scale (gamma)
    and epsilon, and its output, which is scale * (x - mean) / sqrt(var + epsilon) + offset. Of a bundle its layers are shown, into which the batch
    norms have been folded.

    \b
    Example:
        bnexport trace model.ckpt input.csv --row 0 --unit 5
        bnexport trace model.ckpt input.csv -o trace.npz
        bnexport trace out.npz input.csv --row 0 --row 1
    """
    from bnexport.tables import read_inputs
    from bnexport.tracing import check_suffix, evaluate, layer_values, norm_values, open_network, write_trace

    if out is not None:
        from bnexport.formats.writing import refuse_own_input

        check_suffix(out)
        refuse_own_input(out, path, data)
    network = open_network(path, options)
    if (units or place) and not network.norms:
        folded = "a bundle, into which the batch norms have been folded: give the checkpoint" if not network.unfolded else "a network without any"
        raise UsageError(f"{'--unit' if units else '--place'} chooses among the numbers of batch norms, and {path} is {folded}")
    (feeds,) = read_inputs(data, network.model.inputs, header=header, block_rows=None)
    rows, units = rows or (0,), units or (0,)
    if out is None and network.model.row_by_row:
        feeds, kept = _only(feeds, rows)
    else:
        kept = list(rows)
    values = evaluate(network.model, feeds)
    if network.unfolded:
        print_doubts(network.model.conversion)
    norms = norm_values(network, values, kept, units, place)
    results = layer_values(network.model, values, kept, FIRST) if layers or as_json or not network.norms else []
    if out is not None:
        write_trace(out, values)
    if as_json:
        print_json(_record(network, norms, results, kept, rows))
        return
    given = dict(zip(kept, rows, strict=True))
    if network.norms:
        print_table(HEADS, [(n.name, given[n.row], n.unit, n.before, n.mean, n.variance, n.offset, n.scale, n.epsilon, n.after) for n in norms])
    if results:
        if network.norms:
            click.echo()
        print_table(
            ("layer", "operation", "shape", "row", "first values", "least", "mean", "most"),
            [(v.name, _operation(v), _shape(v.shape), given[v.row], _first(v), v.least, v.mean, v.most) for v in results],
        )
    if out is not None:
        click.echo(f"wrote {out} ({len(values)} tensors)", err=True)


def _only(feeds: "Block", rows: tuple[int, ...]) -> "tuple[Block, list[int]]":
    """The rows that are asked for alone, and which they are among these."""
    from bnexport.tracing import check_row

    for row in rows:
        for value in feeds.values():
            check_row(row, len(value))
    return {name: value[list(rows)] for name, value in feeds.items()}, list(range(len(rows)))


def _operation(values: "LayerValues") -> str:
    return f"{values.op}, {values.activation}" if values.activation else values.op


def _shape(sizes: tuple[int, ...]) -> str:
    return f"[{', '.join(map(str, sizes))}]"


def _first(values: "LayerValues") -> str:
    import math

    more = " …" if math.prod(values.shape) > len(values.first) else ""
    return " ".join(shown(number) for number in values.first) + more


def _record(network: "Network", norms: "list[NormValues]", layers: "list[LayerValues]", kept: list[int], rows: tuple[int, ...]) -> dict[str, Any]:
    given = dict(zip(kept, rows, strict=True))
    return {
        "kind": "checkpoint" if network.unfolded else "bundle",
        "path": network.path,
        "batch_norms": [
            {
                "name": norm.name,
                "layer": norm.layer,
                "before": norm.before,
                "after": norm.after,
                "variables": dict(norm.variables),
                "epsilon": norm.epsilon,
                "epsilon_from": norm.epsilon_from,
                "values": [{**asdict(value), "row": given[value.row]} for value in norms if value.name == norm.name],
            }
            for norm in network.norms
        ],
        "layers": [{**asdict(value), "row": given[value.row]} for value in layers],
    }
