"""The command line: which commands there are, and how their errors are shown."""

import os
import sys
from importlib import import_module
from typing import Any

import click

from bnexport._version import __version__
from bnexport.errors import BnexportError

COMMANDS = ("convert", "run", "inspect", "trace", "verify", "diagnose")


class _Commands(click.Group):
    """Imports a command's module when that command is asked for, and shows the library's errors as one message on standard error, exit code 1."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = getattr(import_module(f"bnexport.commands.{cmd_name}"), cmd_name)
        return command

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in COMMANDS and not args[0].startswith("-"):
            from difflib import get_close_matches

            near = get_close_matches(args[0], COMMANDS, 1)
            advice = f"Did you mean {near[0]!r}?" if near else f"There are {', '.join(COMMANDS)}."
            ctx.fail(f"No such command {args[0]!r}. {advice}")
        return super().resolve_command(ctx, args)

    def main(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().main(*args, **kwargs)
        except OSError as error:  # --help and --version are written before anything is invoked
            _drop_output()
            click.echo(f"Error: {_unwritten(error)}", err=True)
            sys.exit(1)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BnexportError as error:
            raise click.ClickException(str(error)) from error
        except MemoryError as error:
            raise click.ClickException(f"there is not enough memory: {error}" if str(error) else "there is not enough memory") from error
        except BrokenPipeError:
            _drop_output()  # whoever read it has seen enough
            return None
        except OSError as error:  # the disk under standard output is full, say; what is known of files has become a BnexportError
            _drop_output()
            raise click.ClickException(_unwritten(error)) from error


def _unwritten(error: OSError) -> str:
    return f"{error.filename or 'standard output'}: {error.strerror or error}"


def _drop_output() -> None:
    """Lets what is still buffered go nowhere, or Python would try once more at exit, complain, and end with another code."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


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
