"""Fills the marked blocks of the documentation with what commands really print: `python docs/generate.py`.

    <!-- run: COMMAND -->       the fenced block that follows shows the command and all that it prints
    <!-- prints -->             the fenced block that follows shows what the Python block before it prints
    <!-- options: COMMAND -->   a table of the command's options, up to <!-- end -->
    <!-- commands -->           a section with the --help of each command, up to <!-- end -->
    <!-- operators -->          the names of all operators, up to <!-- end -->

The blocks of a page are run in the order in which they stand, in one folder that holds `fixtures/`, Python's all in one namespace.
`tests/test_docs.py` fails where a page no longer says what is printed.
"""

import contextlib
import io
import os
import re
import shutil
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("README.md", "docs/command-line.md", "docs/bundle-format.md")
DATA = Path("fixtures", "data")
SHOWN = ("seed", "no_meta")
"""The fixtures that pages show."""

FENCED = r"```(?:\w+)\n(?P<{name}>.*?)^```\n"
BLOCK = re.compile(
    r"^<!-- run: (?P<command>.+?) -->\n" + FENCED.format(name="shown")
    + r"|^```python\n(?P<python>.*?)^```\n(?:\n<!-- prints -->\n" + FENCED.format(name="printed") + ")?"
    + r"|^<!-- options: (?P<options>\w+) -->\n.*?^<!-- end -->\n"
    + r"|^<!-- (?P<commands>commands) -->\n.*?^<!-- end -->\n"
    + r"|^<!-- (?P<operators>operators) -->\n.*?^<!-- end -->\n",
    re.DOTALL | re.MULTILINE,
)  # fmt: skip


def filled(page: str) -> str:
    """A page with its blocks filled anew.

    Raises:
        RuntimeError: a command ended in a way that no page shows; what a block of Python raises comes as it is.
    """
    with _workplace() as folder:
        names: dict[str, Any] = {}

        def fill(match: "re.Match[str]") -> str:
            if match["command"]:
                text = f"$ {match['command']}\n{_run(match['command'], folder)}"
                return f"<!-- run: {match['command']} -->\n```console\n{text}```\n"
            if match["options"]:
                return f"<!-- options: {match['options']} -->\n{_options(match['options'])}<!-- end -->\n"
            if match["commands"]:
                return f"<!-- commands -->\n{_commands(folder)}<!-- end -->\n"
            if match["operators"]:
                return f"<!-- operators -->\n{_operators()}<!-- end -->\n"
            printed = _execute(match["python"], names, folder)
            block = f"```python\n{match['python']}```\n"
            return block if match["printed"] is None else f"{block}\n<!-- prints -->\n```text\n{printed}```\n"

        try:
            return BLOCK.sub(fill, page)
        finally:
            for value in names.values():  # a page opens files as its readers do, who end their session
                if isinstance(value, np.lib.npyio.NpzFile):
                    value.close()


@contextlib.contextmanager
def _workplace() -> Iterator[Path]:
    """A folder that is like a checkout after `make demo`, with `bnexport` among the commands."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for name in SHOWN:
            shutil.copytree(ROOT / DATA / name, folder / DATA / name)
        (folder / "bin").mkdir()
        command = folder / "bin" / "bnexport"
        command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m bnexport "$@"\n')
        command.chmod(0o755)
        yield folder


def _run(command: str, folder: Path) -> str:
    environment = {
        **os.environ,
        "PATH": f"{folder / 'bin'}{os.pathsep}{os.environ.get('PATH', '')}",
        "PYTHONPATH": str(ROOT),
        "PYTHONUNBUFFERED": "1",
        "COLUMNS": "120",
    }
    done = subprocess.run(command, shell=True, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode not in (0, 1, 3):  # 1 is an error that the page may want to show, 3 numbers that differ
        raise RuntimeError(f"{command} ended with {done.returncode}: {done.stdout}")
    return done.stdout


def _execute(code: str, names: dict[str, Any], folder: Path) -> str:
    before = Path.cwd()
    os.chdir(folder)
    try:
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(compile(code, "the page's Python", "exec"), names)
    finally:
        os.chdir(before)
    return printed.getvalue()


def _commands(folder: Path) -> str:
    from bnexport.cli import COMMANDS

    shown = (f"bnexport {name} --help" for name in COMMANDS)
    return "".join(f"\n## {command.split()[1]}\n\n```console\n$ {command}\n{_run(command, folder)}```\n" for command in shown) + "\n"


def _options(command: str) -> str:
    module = import_module(f"bnexport.commands.{command}")
    rows = []
    for parameter in getattr(module, command).params:
        help_text = getattr(parameter, "help", None)
        if help_text is None:
            continue
        words = [", ".join([*parameter.opts, *parameter.secondary_opts]), *([parameter.metavar] if parameter.metavar else [])]
        rows.append(f"| `{' '.join(words)}` | {help_text} |\n".replace("  [default", " [default"))
    return "| option | meaning |\n|---|---|\n" + "".join(rows)


def _operators() -> str:
    from bnexport.kernels import OPS

    return textwrap.fill(", ".join(f"`{name}`" for name in sorted(OPS, key=str.lower)), 150) + ".\n"


def main() -> None:
    """Fills all pages where they lie."""
    for name in PAGES:
        path = ROOT / name
        path.write_text(filled(path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
