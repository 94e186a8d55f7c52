"""`bnexport verify`."""

from typing import TYPE_CHECKING, Any

import click

from bnexport.commands.output import check_page, print_json, print_table

if TYPE_CHECKING:
    from bnexport.differences import Difference
    from bnexport.verification import Verification

DIFFERENT = 3
"""The exit code where something differs by more than the tolerance."""


@click.command()
@click.argument("checkpoint", metavar="CKPT")
@click.argument("bundle", metavar="BUNDLE")
@click.option("--input-file", metavar="FILE", help="Rows to evaluate, as `run` takes them.  [default: random ones]")
@click.option("--header/--no-header", default=None, help="Whether the first row of a CSV input names its columns.")
@click.option("--random", "rows", metavar="N", type=click.IntRange(min=1), help="How many random rows to evaluate.  [default: 32]")
@click.option("--seed", metavar="S", type=click.IntRange(min=0), default=0, help="Which random rows.  [default: 0]")
@click.option(
    "--tolerance",
    metavar="T",
    type=float,
    help="The largest difference allowed, in units of each tensor's largest number.  [default: 1e-5 for float32]",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object, for machines.")
@click.option("--html", "html", metavar="FILE", help="Write a page to look at as well, as `inspect --html` does, with the errors of every layer.")
def verify(
    checkpoint: str,
    bundle: str,
    input_file: str | None,
    header: bool | None,
    rows: int | None,
    seed: int,
    tolerance: float | None,
    as_json: bool,
    html: str | None,
) -> None:
    """Check that the bundle BUNDLE computes what the checkpoint CKPT does; exit code 3 where it does not.

    The bundle, and where TensorFlow is installed TensorFlow's own session, are compared with the truth: the network with nothing folded, all of it in
    float64. Differences are in units of the largest number of each tensor (scale), and of the last place of that number (ULP). The rows are those
    of a file, or random in the range that the first batch norm has seen in training.

    Without --tolerance, what is beyond it may be twice as far from the truth as TensorFlow's own result (or the network's with nothing folded, where
    TensorFlow is not there): some networks lose that many digits whoever computes them.

    \b
    Example:
        bnexport verify model.ckpt out.npz
        bnexport verify model.ckpt out.npz --input-file input.csv --json
        bnexport verify model.ckpt out.npz --html report.html
    """
    from bnexport.errors import UsageError
    from bnexport.formats import is_bundle
    from bnexport.verification import verify as compared

    if input_file is not None and rows is not None:
        raise UsageError("--input-file gives the rows and --random draws them; say one of the two")
    if tolerance is not None and not tolerance >= 0:
        raise UsageError(f"--tolerance {tolerance}: a tolerance is a number that is not negative")
    if html is not None:
        check_page(html, checkpoint, bundle)
    if is_bundle(checkpoint):
        raise UsageError(f"{checkpoint} is a bundle; verify takes the checkpoint first, and then the bundle that was made from it")
    found = compared(checkpoint, bundle, input_file=input_file, header=header, rows=rows or 32, seed=seed, tolerance=tolerance)
    if as_json:
        print_json(_record(found))
    else:
        _print(found)
    if html is not None:
        from bnexport.html.page import write_verification

        write_verification(found, html)
        click.echo(f"wrote {html}", err=True)
    if not found.passed:
        click.get_current_context().exit(DIFFERENT)


def _print(found: "Verification") -> None:
    table: list[tuple[Any, ...]] = []
    for layer in found.layers:
        if layer.bundle is not None:
            op = f"{layer.op}, {layer.activation}" if layer.activation else layer.op
            table.append((f"layer {layer.name}", op, *_cells(layer.bundle, found.dtype), _relative(layer.tensorflow), _short(layer.added)))
    table += [(f"output {output.name}", None, *_cells(output.bundle, found.dtype), _relative(output.tensorflow), None) for output in found.outputs]
    print_table(("", "operation", "max / scale", "mean / scale", "max ULP", "mean ULP", "TensorFlow's max", "added"), table)
    click.echo()
    for name, sentence in found.inputs.items():
        click.echo(f"input {name}: {found.rows} row{'s' * (found.rows != 1)}, {sentence}")
    for line in _conclusions(found):
        click.echo(line)
    _verdict(found)


def _cells(difference: "Difference", dtype: str) -> tuple[float, ...]:
    return tuple(_short(value) for value in (difference.relative, difference.relative_mean, *difference.ulps(dtype)))


def _relative(difference: "Difference | None") -> float | None:
    return None if difference is None else _short(difference.relative)


def _short(value: float) -> float:
    """Three digits: more say nothing of a rounding error."""
    return float(f"{value:.3g}")


def _conclusions(found: "Verification") -> list[str]:
    lines = []
    if found.tensorflow is None:
        lines.append(f"TensorFlow: not compared ({found.unavailable})")
    else:
        nearer = sum(bool(output.nearer) for output in found.outputs)
        one = f"the output is {'at least as near to the truth as' if nearer else 'further from the truth than'} TensorFlow's"
        several = f"{nearer} of {len(found.outputs)} outputs are at least as near to the truth as TensorFlow's"
        ratios = ", ".join(f"{output.ratio:.2f}" for output in found.outputs if output.ratio is not None)
        said = one if len(found.outputs) == 1 else several
        lines.append(f"TensorFlow {found.tensorflow}: {said} in {found.dtype} (difference / TensorFlow's difference: {ratios})")
    if found.variables is not None:
        count, different = found.variables.compared, found.variables.different
        lines.append(
            f"variables: {len(different)} of {count} read otherwise than TensorFlow reads them: {', '.join(different[:4])}"
            if different
            else f"variables: all {count} are bit for bit what TensorFlow reads"
        )
    most = found.adds_most
    if most is not None:
        lines.append(f"the layer that adds most to the difference: {most.name} ({most.added:.2g} of its scale)")
    return lines


def _verdict(found: "Verification") -> None:
    from bnexport.verification import TIMES

    why = " (rounding to float32 makes 1e-7 to 5e-6 of it in a whole network; a wrong weight, epsilon or activation makes 1e-3 and more)"
    click.echo(f"tolerance: {found.tolerance:g} of each tensor's largest number{why if found.dtype == 'float32' else ''}")
    if strained := found.strained:
        most = max(strained, key=lambda check: check.bundle.relative if check.bundle else 0.0)
        far = f"{most.bundle.relative:.2g} of its scale" if most.bundle else ""
        whose = "TensorFlow's own result is" if most.tensorflow else "the network with nothing folded is, computed in its own dtypes"
        click.echo(f"beyond it, but at most {TIMES} times as far as {whose}: {len(strained)} tensors, {most.name} the furthest ({far})")
    if found.passed:
        click.secho("the bundle agrees with the checkpoint", fg="green", bold=True)
        return
    beyond = found.beyond
    if beyond:
        first = beyond[0]
        assert first.bundle is not None
        more = f", and so do {len(beyond) - 1} after it" if len(beyond) > 1 else ""
        far = f"{first.bundle.relative:.2g} of its scale"
        click.secho(f"the bundle differs: the layer {first.name} is the first beyond the tolerance, by {far}{more}", fg="red", bold=True)
    elif found.variables is not None and found.variables.different:
        click.secho("the checkpoint is read otherwise than TensorFlow reads it", fg="red", bold=True)
    else:
        click.secho("the bundle differs: an output is beyond the tolerance", fg="red", bold=True)


def _record(found: "Verification") -> dict[str, Any]:
    def difference(value: "Difference | None") -> dict[str, Any] | None:
        if value is None:
            return None
        most, mean = value.ulps(found.dtype)
        return {
            "max": value.most,
            "mean": value.total / max(value.count, 1),
            "scale": value.scale,
            "max_of_scale": value.relative,
            "mean_of_scale": value.relative_mean,
            "max_ulp": most,
            "mean_ulp": mean,
        }

    return {
        "checkpoint": found.checkpoint,
        "bundle": found.bundle,
        "passed": found.passed,
        "tolerance": found.tolerance,
        "dtype": found.dtype,
        "rows": found.rows,
        "inputs": found.inputs,
        "strained": [check.name for check in found.strained],
        "first_beyond": found.beyond[0].name if found.beyond else None,
        "adds_most": found.adds_most.name if found.adds_most else None,
        "tensorflow": found.tensorflow,
        "tensorflow_unavailable": found.unavailable,
        "variables": None if found.variables is None else {"compared": found.variables.compared, "different": found.variables.different},
        "layers": [
            {
                "name": layer.name,
                "op": layer.op,
                "activation": layer.activation,
                "equals": layer.equals,
                "bundle": difference(layer.bundle),
                "tensorflow": difference(layer.tensorflow),
                "unfolded": difference(layer.unfolded),
                "added": layer.added,
            }
            for layer in found.layers
        ],
        "outputs": [
            {
                "name": output.name,
                "bundle": difference(output.bundle),
                "tensorflow": difference(output.tensorflow),
                "unfolded": difference(output.unfolded),
                "nearer": output.nearer,
                "ratio": output.ratio,
            }
            for output in found.outputs
        ],
    }
