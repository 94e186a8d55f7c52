"""`bnexport convert`."""

import sys
from math import prod
from time import monotonic
from typing import TYPE_CHECKING, Any

import click

from bnexport.commands.options import conversion_options
from bnexport.errors import BnexportError, UsageError

if TYPE_CHECKING:
    from bnexport.options import Options
    from bnexport.program import Program

PROGRESS_AFTER = 1.0
"""Seconds after which a terminal is shown a progress bar."""


@click.command()
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

    CKPT is the prefix that tf.train.Saver was given, any of the files with it, their folder, the folder of a SavedModel, or a frozen graph (.pb or
    .pbtxt). A summary of what was done goes to standard error.

    \b
    Example:
        bnexport convert model.ckpt out.npz
        bnexport convert model.ckpt out.npz --output logits --set phase_train=false
        bnexport convert model.ckpt out.npz --activation relu --epsilon 1e-3    (the .meta is lost)
    """
    from bnexport.conversion import to_program
    from bnexport.formats import write_bundle
    from bnexport.formats.writing import refuse_own_input

    _refuse_bundle(checkpoint)
    _check_destination(out)
    refuse_own_input(out, checkpoint)
    program = to_program(checkpoint, options)
    with _Progress(program, shown=not quiet and sys.stderr.isatty()) as progress:
        write_bundle(out, program, progress.advance)
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
        from bnexport.checkpoint import is_checkpoint

        order = "; the checkpoint comes first, and then the bundle" if not path.is_dir() and is_checkpoint(out) else ""
        raise UsageError(f"{out} has the suffix {path.suffix or '(none)'}; a bundle is written as one of {', '.join(known)}{order}")
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


class _Progress:
    """A progress bar over the bytes of a program's arrays as they are written, once that has taken a while."""

    def __init__(self, program: "Program", *, shown: bool) -> None:
        self._program, self._shown = program, shown
        self._start = monotonic()
        self._bar: Any = None
        self._done = 0

    def __enter__(self) -> "_Progress":
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.render_finish()

    def advance(self, count: int) -> None:
        self._done += count
        if self._bar is not None:
            self._bar.update(count)
        elif self._shown and monotonic() - self._start > PROGRESS_AFTER:
            total = sum(prod(array.shape) * array.dtype.itemsize for layer in self._program.layers for array in layer.arrays.values())
            self._bar = click.progressbar(length=total, label="writing", file=sys.stderr)
            self._bar.update(self._done)
