"""`bnexport run`."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bnexport.errors import UsageError

if TYPE_CHECKING:
    import numpy as np

    from bnexport.csvrows import Block
    from bnexport.runner import Model


@click.command()
@click.argument("bundle", metavar="BUNDLE")
@click.argument("rows", metavar="INPUT")
@click.option(
    "-o", "--output", "out", metavar="OUT", help="The file to write, as its suffix says: .csv, .tsv, .npy or .npz.  [default: CSV to standard output]"
)
@click.option(
    "--header/--no-header",
    default=None,
    help="Whether the first row of a CSV input names its columns.  [default: where none of its cells is a number, or it names inputs]",
)
def run(bundle: str, rows: str, out: str | None, header: bool | None) -> None:
    """Evaluate the bundle BUNDLE on the rows of INPUT.

    INPUT is CSV, a row for each example with its further dimensions flattened row-major, or .npy, or .npz with an array under each input's name;
    - is CSV from standard input. Columns of text stand beside those of numbers, in quotes where they hold a comma.

    \b
    Example:
        bnexport run out.npz input.csv
        bnexport run out.npz input.npy -o scores.npz
        head -1 input.csv | bnexport run out.npz -
    """
    from bnexport.csvrows import BLOCK_ROWS
    from bnexport.tables import read_inputs, write_outputs

    if out is not None and out != "-":
        from bnexport.formats.writing import refuse_own_input

        refuse_own_input(out, bundle, rows)
    model = _loaded(bundle, rows)
    # In blocks only where a row's result cannot depend on the other rows.
    blocks = read_inputs(rows, model.inputs, header=header, block_rows=BLOCK_ROWS if model.row_by_row else None)
    write_outputs(out, model.outputs, _predicted(model, blocks))


def _loaded(path: str, rows: str) -> "Model":
    from bnexport.formats import is_bundle
    from bnexport.runner import load

    if not is_bundle(path):
        from bnexport.checkpoint import is_checkpoint

        if is_checkpoint(path):
            raise UsageError(f"{path} is a checkpoint; run takes a bundle: make one with `bnexport convert {path} out.npz`")
        if Path(path).is_file() and is_bundle(rows):
            raise UsageError(f"{path} is no bundle; the bundle comes first, and then the rows: bnexport run {rows} {path}")
    return load(path)


def _predicted(model: "Model", blocks: "Iterable[Block]") -> "Iterator[dict[str, np.ndarray[Any, Any]]]":
    from bnexport.kernels.table import ieee

    for block in blocks:
        with ieee():  # a NaN in a row is the user's own
            result = model.predict(block)
        yield result if isinstance(result, dict) else {model.outputs[0].name: result}
