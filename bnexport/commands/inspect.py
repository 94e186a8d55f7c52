"""`bnexport inspect`."""

import click

from bnexport.commands.output import check_page, print_lines
from bnexport.errors import UsageError


@click.command()
@click.argument("path", metavar="PATH")
@click.option("--json", "as_json", is_flag=True, help="One JSON object, for machines.")
@click.option("--html", "html", metavar="FILE", help="Write a page to look at instead: the network as a graph, its weights and what was folded.")
def inspect(path: str, as_json: bool, html: str | None) -> None:
    """List what PATH, a checkpoint or a bundle, holds.

    Of a checkpoint: each layer's variables with role, shape and dtype, the batch norms' epsilon, and what belongs to no layer. Of a bundle: inputs,
    outputs and layers, and what they were made from.

    \b
    Example:
        bnexport inspect model.ckpt
        bnexport inspect out.npz --json
        bnexport inspect model.ckpt --html report.html
    """
    if html is not None:
        from bnexport.html.page import write_page

        if as_json:
            raise UsageError("--json and --html are two ways to show the same: give one of them")
        check_page(html, path)
        write_page(path, html)
        click.echo(f"wrote {html}", err=True)
        return
    from bnexport.inspection import examine, listing

    record = examine(path)
    if as_json:
        import json

        click.echo(json.dumps(record, indent=1))
        return
    print_lines(listing(record))
