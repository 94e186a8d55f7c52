"""`bnexport diagnose`."""

import re
from itertools import compress, pairwise
from operator import not_
from typing import TYPE_CHECKING

import click

from bnexport.commands.options import conversion_options
from bnexport.commands.output import print_doubts, print_json, print_lines
from bnexport.errors import UsageError

if TYPE_CHECKING:
    from bnexport.options import Options

DIFFERS = 3
"""The exit code where numbers differ, whether a mistake explains them or not."""


class _NegativeNumbers(click.Command):
    """Takes a negative number for an argument, and no option, unless it is an option's value: `--numbers x=… -0.5`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if "--" not in args and any(arg.startswith("--numbers") for arg in args):
            valued = {name for option in self.params if isinstance(option, click.Option) and not option.is_flag for name in option.opts}
            negative = [bool(_NEGATIVE.fullmatch(arg)) and before not in valued for before, arg in pairwise(["", *args])]
            if any(negative):
                args = [*compress(args, map(not_, negative)), "--", *compress(args, negative)]
        return super().parse_args(ctx, args)


_NEGATIVE = re.compile(r"-\.?\d.*")


@click.command(cls=_NegativeNumbers, short_help="Find out why your own numbers differ.")
@click.argument("paths", metavar="CKPT INPUT MINE", nargs=-1)
@click.option("--layer", metavar="NAME", help="What MINE holds: a tensor, a layer, a batch norm or a scope.  [default: the output]")
@click.option("--numbers", metavar="x=N,mean=N,…", help="The numbers of one unit of a batch norm, without a checkpoint; then your result.")
@click.option("--header/--no-header", default=None, help="Whether the first row of a CSV input names its columns.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object, for machines.")
@conversion_options
@click.pass_context
def diagnose(
    context: click.Context, paths: tuple[str, ...], layer: str | None, numbers: str | None, header: bool | None, as_json: bool, options: "Options"
) -> None:
    """Find the mistake in your own numbers.

    MINE holds what you computed from the rows of INPUT yourself: an .npz with arrays by layer name (as `bnexport trace -o` names them; tensors,
    scopes and variables will do), or one array as .npy, .csv or .txt, which is the network's output unless --layer or its shape says otherwise. The
    first array that differs is compared with what people get wrong: epsilon outside the square root, batch statistics, a kernel transposed, …

    With --numbers a single unit is looked at, and the argument is your result.

    The exit code is 0 where all agrees up to the rounding of float32, 3 where it differs, and 1 for an error.

    \b
    Example:
        bnexport diagnose model.ckpt input.csv mine.npz
        bnexport diagnose model.ckpt input.csv hidden.csv --layer layer1/bn
        bnexport diagnose --numbers x=-0.077417567,mean=-0.089603029,var=0.000436493,offset=-0.016652612,scale=1.0055743,eps=1e-3 0.543057
    """
    if numbers is not None:
        agrees = _numbers(numbers, paths, as_json)
    else:
        agrees = _checkpoint(paths, layer, header, as_json, options)
    if not agrees:
        context.exit(DIFFERS)


def _numbers(numbers: str, paths: tuple[str, ...], as_json: bool) -> bool:
    from bnexport.diagnose.numbers import diagnose_numbers, parse
    from bnexport.diagnose.report import number_lines, number_record

    if len(paths) != 1:
        raise UsageError(f"--numbers takes one argument, your own result; {len(paths)} were given")
    result = diagnose_numbers(parse(numbers), paths[0])
    if as_json:
        print_json(number_record(result))
    else:
        print_lines(number_lines(result))
    return result.agrees


def _checkpoint(paths: tuple[str, ...], layer: str | None, header: bool | None, as_json: bool, options: "Options") -> bool:
    from bnexport.diagnose import diagnose as compare
    from bnexport.diagnose.report import lines, record
    from bnexport.formats import is_bundle

    if len(paths) != 3:
        raise UsageError(f"diagnose takes CKPT INPUT MINE, or --numbers and your result; {len(paths)} arguments were given")
    checkpoint, rows, mine = paths
    if is_bundle(checkpoint):
        raise UsageError(f"{checkpoint} is a bundle, into which the batch norms have been folded; give the checkpoint that it was made from")
    result = compare(checkpoint, rows, mine, options, layer=layer, header=header)
    print_doubts(result.record)
    if as_json:
        print_json(record(result))
    else:
        print_lines(lines(result))
    return result.agrees
