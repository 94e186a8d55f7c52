"""What commands print: tables that are aligned in a terminal and separated by tabs in a pipe, and JSON."""

import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from bnexport.errors import UsageError

DIGITS = 9
"""Significant digits of a number in a terminal: any two float32 differ in them. In a pipe all digits are written."""


def check_page(out: str, *read: str) -> None:
    """Refuses what is no name for a page: in mistake for another argument, say."""
    suffix = Path(out).suffix
    if suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"--html {out} has the suffix {suffix or '(none)'}; a page is written as .html")
    from bnexport.formats.writing import refuse_own_input

    refuse_own_input(out, *read)


def in_terminal() -> bool:
    """Whether a person reads standard output."""
    return sys.stdout.isatty()


def print_doubts(record: Mapping[str, Any]) -> None:
    """Tells, on standard error, what was assumed of a network and what there is to warn of.

    Args:
        record: its program's `conversion`.
    """
    from bnexport.report import doubts

    for text in doubts(record):
        click.echo(text, err=True)


def print_table(heads: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Prints rows below their heads. Numbers stand to the right and text to the left; None is left empty.

    In a pipe a tab separates the cells, and a float is the shortest text that reads back as the same number.
    """
    if not in_terminal():
        for row in (heads, *rows):
            click.echo("\t".join("" if cell is None else repr(cell) if isinstance(cell, float) else str(cell) for cell in row))
        return
    texts = [["" if cell is None else shown(cell) if isinstance(cell, float) else str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(heads, *texts, strict=True)]
    numeric = [all(isinstance(cell, float | int | None) for cell in column) for column in zip(*rows, strict=True)] or [False] * len(heads)

    def line(cells: Sequence[str]) -> str:
        return "  ".join(
            cell.rjust(width) if right else cell.ljust(width) for cell, width, right in zip(cells, widths, numeric, strict=True)
        ).rstrip()

    click.echo(click.style(line(heads), bold=True))
    for text in texts:
        click.echo(line(text))


def shown(value: float) -> str:
    """A number for people."""
    return f"{value:.{DIGITS}g}"


def print_lines(lines: Iterable[str]) -> None:
    """Prints lines, of which those that begin at the margin are headings."""
    for line in lines:
        # click drops the style where the output is no terminal.
        click.echo(click.style(line, bold=True) if line and not line.startswith(" ") else line)


def print_json(record: Any) -> None:
    """Prints JSON values; a number that is not finite becomes null, since JSON has none."""
    click.echo(json.dumps(_finite(record), indent=1))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
