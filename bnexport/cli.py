"""The command line: a command parses what it was given, calls the library and prints.

Modules are imported by the commands that use them, because `run` is to take no longer than it needs.
"""

import gc
import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import click

from bnexport._version import __version__
from bnexport.commands.diagnose import diagnose
from bnexport.commands.options import conversion_options
from bnexport.commands.trace import trace
from bnexport.commands.verify import verify
from bnexport.errors import BnexportError, CheckpointError, UsageError

if TYPE_CHECKING:
    import numpy as np

    from bnexport.csvrows import Block
    from bnexport.options import Options
    from bnexport.program import Array, Program
    from bnexport.runner import Model

PROGRESS_AFTER = 1.0
"""Seconds after which a terminal is shown a progress bar."""


class _Commands(click.Group):
    """Shows the library's errors as a command line does: one message on standard error, exit code 1."""

    def invoke(self, ctx: click.Context) -> Any:
        # A command makes ten thousands of objects that stay until it ends: looking through them for garbage every seven hundred is lost time.
        thresholds = gc.get_threshold()
        gc.set_threshold(50_000)
        try:
            return super().invoke(ctx)
        except BnexportError as error:
            raise click.ClickException(str(error)) from error
        finally:
            gc.set_threshold(*thresholds)


@click.group(cls=_Commands, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(__version__, prog_name="bnexport")
@click.pass_context
def main(ctx: click.Context) -> None:
    """Take a trained TensorFlow 1.x network, batch norm and all, out of TensorFlow.

    \b
    Example:
        bnexport convert model.ckpt out.npz
        bnexport run out.npz input.csv
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


# ---- convert


@main.command()
@click.argument("checkpoint", metavar="CKPT")
@click.argument("out", metavar="OUT")
@conversion_options
@click.option("--quiet", is_flag=True, help="No summary and no progress bar.")
def convert(
    checkpoint: str,
    out: str,
    options: "Options",
    quiet: bool,
) -> None:
    """Write the network in the checkpoint CKPT to the bundle OUT (.npz or .h5), ready for inference.

    CKPT is the prefix that tf.train.Saver was given, any of the files with it, their folder, or the folder of a SavedModel. A summary of what was
    done goes to standard error.

    \b
    Example:
        bnexport convert model.ckpt out.npz
        bnexport convert model.ckpt out.npz --output logits --set phase_train=false
        bnexport convert model.ckpt out.npz --activation relu --epsilon 1e-3    (the .meta is lost)
    """
    from bnexport.conversion import to_program
    from bnexport.formats import write_bundle

    _check_destination(out)
    _refuse_bundle(checkpoint)
    program = to_program(checkpoint, options)
    with _Progress(program, shown=not quiet and sys.stderr.isatty()):
        write_bundle(out, program)
    if not quiet:
        from bnexport.report import summary

        for line in summary(program):
            name, colon, rest = line.partition(":")
            click.echo(click.style(name + colon, fg="yellow", bold=True) + rest if name == "Warning" else line, err=True)
        click.echo(f"wrote {out}", err=True)


def _check_destination(out: str) -> None:
    """Refuses what could not be written, before any work."""
    from pathlib import Path

    from bnexport.formats import FORMATS

    path = Path(out)
    known = [suffix for form in FORMATS for suffix in form.suffixes]
    if path.suffix.lower() not in known:
        raise UsageError(f"{out} has the suffix {path.suffix or '(none)'}; a bundle is written as one of {', '.join(known)}")
    if not path.parent.is_dir():
        raise UsageError(f"{out} cannot be written: there is no folder {path.parent}")


def _refuse_bundle(path: str) -> None:
    from bnexport.formats import is_bundle, read_bundle

    if not is_bundle(path):
        return
    try:
        read_bundle(path)
    except BnexportError:  # some other zip or HDF5 file: the checkpoint reader says what is wrong with it
        return
    raise UsageError(f"{path} is a bundle already: evaluate it with `bnexport run {path} INPUT`; convert takes a checkpoint")


class _Counted:
    """An array that tells how many of its bytes have been read."""

    def __init__(self, array: "Array", progress: "_Progress") -> None:
        self.shape, self.dtype = array.shape, array.dtype
        self._array, self._progress = array, progress

    def pieces(self) -> "Iterator[np.ndarray[Any, Any]]":
        for piece in self._array.pieces():
            yield piece
            self._progress.advance(piece.nbytes)


class _Progress:
    """A progress bar over the bytes of a program's arrays as they are written, once that has taken a while."""

    def __init__(self, program: "Program", *, shown: bool) -> None:
        from time import monotonic

        self._clock = monotonic
        self._start = monotonic()
        self._bar: Any = None
        self._done = self._total = 0
        if shown:
            for layer in program.layers:
                layer.arrays.update({role: _Counted(array, self) for role, array in layer.arrays.items()})
            self._total = sum(_nbytes(array) for layer in program.layers for array in layer.arrays.values())

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.render_finish()

    def advance(self, count: int) -> None:
        self._done += count
        if self._bar is not None:
            self._bar.update(count)
        elif self._clock() - self._start > PROGRESS_AFTER:
            self._bar = click.progressbar(length=self._total, label="writing", file=sys.stderr)
            self._bar.update(self._done)


def _nbytes(array: "Array") -> int:
    from math import prod

    return prod(array.shape) * array.dtype.itemsize


# ---- run


@main.command()
@click.argument("bundle", metavar="BUNDLE")
@click.argument("rows", metavar="INPUT")
@click.option(
    "-o", "--output", "out", metavar="OUT", help="The file to write, as its suffix says: .csv, .tsv, .npy or .npz.  [default: CSV to standard output]"
)
@click.option(
    "--header/--no-header",
    default=None,
    help="Whether the first row of a CSV input names its columns.  [default: where none of its cells is a number]",
)
def run(bundle: str, rows: str, out: str | None, header: bool | None) -> None:
    """Evaluate the bundle BUNDLE on the rows of INPUT.

    INPUT is CSV, a row for each example with its further dimensions flattened row-major, or .npy, or .npz with an array under each input's name;
    - is CSV from standard input.

    \b
    Example:
        bnexport run out.npz input.csv
        bnexport run out.npz input.npy -o scores.npz
        head -1 input.csv | bnexport run out.npz -
    """
    from bnexport.csvrows import BLOCK_ROWS
    from bnexport.tables import read_inputs, write_outputs

    model = _loaded(bundle)
    # In blocks only where a row's result cannot depend on the other rows.
    blocks = read_inputs(rows, model.inputs, header=header, block_rows=BLOCK_ROWS if model.row_by_row else None)
    write_outputs(out, model.outputs, _predicted(model, blocks))


def _loaded(path: str) -> "Model":
    from bnexport.formats import is_bundle
    from bnexport.runner import load

    if not is_bundle(path) and _is_checkpoint(path):
        raise UsageError(f"{path} is a checkpoint; run takes a bundle: make one with `bnexport convert {path} out.npz`")
    return load(path)


def _is_checkpoint(path: str) -> bool:
    from bnexport.checkpoint import locate

    try:
        locate(path)
    except CheckpointError:
        return False
    return True


def _predicted(model: "Model", blocks: "Iterable[Block]") -> "Iterator[dict[str, np.ndarray[Any, Any]]]":
    for block in blocks:
        result = model.predict(block)
        yield result if isinstance(result, dict) else {model.outputs[0].name: result}


# ---- inspect


@main.command()
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
        write_page(path, html)
        click.echo(f"wrote {html}", err=True)
        return
    from bnexport.inspection import examine, listing

    record = examine(path)
    if as_json:
        import json

        click.echo(json.dumps(record, indent=1))
        return
    for text in listing(record):
        # A heading begins at the margin; click drops the style where the output is no terminal.
        click.echo(click.style(text, bold=True) if text and not text.startswith(" ") else text)


main.add_command(trace)
main.add_command(verify)
main.add_command(diagnose)
