"""How near the folded bundle and TensorFlow's own session are to the network in float64: writes docs/accuracy.md.

Over all fixtures, and over the corpus of real checkpoints where BNEXPORT_CORPUS says where it is.
"""

import argparse
import json
import os
import statistics
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bnexport.conversion import convert
from bnexport.errors import BnexportError
from bnexport.options import Options
from bnexport.verification import OutputCheck, Verification, verify

ROOT = Path(__file__).parents[1]
FIXTURES = ROOT / "fixtures" / "data"
PAGE = ROOT / "docs" / "accuracy.md"
WITHOUT_GRAPH = Options(activation="relu:softmax", epsilon=1e-3)
"""What the fixtures are that have lost their graph."""
WORSE = 2.0
"""From this ratio on a network is looked into."""


@dataclass(frozen=True)
class Case:
    """A checkpoint, and the options to try it with, one after the other until one converts."""

    kind: str
    name: str
    path: Path
    options: tuple[Options, ...]


def fixtures() -> Iterator[Case]:
    for path in sorted(FIXTURES.glob("*/fixture.json")):
        prefix = path.parent / json.loads(path.read_text(encoding="utf-8"))["prefix"]
        yield Case("fixture", path.parent.name, prefix, (Options(), WITHOUT_GRAPH))


def corpus() -> Iterator[Case]:
    root = os.environ.get("BNEXPORT_CORPUS")
    if not root:
        return
    for record in json.loads((Path(root) / "catalog.json").read_text(encoding="utf-8")):
        folder = Path(root) / record["slug"]
        path = folder if record["cat"].startswith("g-") else folder / Path(record["prefix"]).name
        named = Options(outputs=tuple(record.get("ref_outs") or ()))
        yield Case("corpus", record["slug"], path, (Options(), named) if named.outputs else (Options(),))


def verified(case: Case, rows: int, seed: int, folder: Path) -> Verification | str:
    """What was found, or why nothing could be."""
    reason = ""
    for options in case.options:
        bundle = folder / "out.npz"
        try:
            convert(case.path, bundle, options)
            return verify(case.path, bundle, rows=rows, seed=seed)
        except BnexportError as error:
            reason = reason or str(error).replace(f"{folder}{os.sep}", "")
    return reason


def page(cases: list[tuple[Case, list[Verification | str]]], rows: int, seeds: int) -> str:
    found = [(case, [each for each in results if isinstance(each, Verification)]) for case, results in cases]
    outputs: list[tuple[Case, list[OutputCheck]]] = []
    for case, results in found:
        outputs += [(case, [each.outputs[number] for each in results]) for number in range(len(results[0].outputs) if results else 0)]
    compared = [(case, checks) for case, checks in outputs if all(check.tensorflow is not None for check in checks)]
    ratios = {f"{case.name}: {checks[0].name}": ratio(checks) for case, checks in compared}
    near = [name for name, value in ratios.items() if value <= 1]
    worst = max(ratios, key=lambda name: ratios[name])
    layers = sum(len(layer_checks) for _, results in found for layer_checks in [[x for x in results[0].layers if x.bundle] if results else []])
    variables = [each.variables for _, results in found for each in results[:1] if each.variables is not None]
    versions = sorted({each.tensorflow for _, results in found for each in results if each.tensorflow})
    worse = [name for name, value in ratios.items() if value > WORSE]
    lines = [
        "# Accuracy",
        "",
        "Written by `python -m benchmarks.accuracy`, with TensorFlow " + ", ".join(versions) + ".",
        "",
        f"Every network is evaluated on {rows} random rows, {seeds} times with other rows, in the range that its first batch norm has seen",
        "(see `bnexport verify`), in three ways: the folded bundle with NumPy in float32, TensorFlow's own session of the saved graph, and the",
        "network with nothing folded, every operation in float64, which is taken for the truth. A difference is the largest of any output",
        "element, in units of the largest output. The ratio is the bundle's difference over TensorFlow's, each the mean of all times: below 1",
        "the bundle is nearer to the truth.",
        "",
        f"- **{len(near)} of {len(ratios)} outputs are at least as near to the truth as TensorFlow's.** "
        f"The median ratio is {statistics.median(ratios.values()):.2f}.",
        f"- **The worst ratio is {ratios[worst]:.2f}** ({worst}). "
        + (f"Worse than {WORSE:g} times: {', '.join(worse)}." if worse else f"None is worse than {WORSE:g} times."),
        f"- The largest difference of any output is {largest(outputs):.2g} of its scale, of any of {layers} layers {largest_layer(found):.2g}.",
        f"- {sum(v.compared for v in variables):,} variables were read bit for bit as `tf.train.load_checkpoint` reads them, "
        f"{sum(len(v.different) for v in variables)} otherwise.",
        "",
        "Two float32 programs that add the same products in another order are as far from each other as each is from the truth: a ratio is a",
        "draw, about 1 on average where neither has an advantage. Folding takes away two roundings per batch norm and adds one in each weight.",
        "A network in float16 is evaluated in float32 here, which is why its ratio is so small.",
        "",
        "Some networks lose more digits than 1e-5 of the scale, whoever computes them: where an attention adds -10000 to all of a row's scores,",
        "float32 keeps a thousandth of them. So `bnexport verify` lets a tensor beyond its tolerance pass that is at most twice as far from the",
        "truth as TensorFlow's own; a wrong weight, epsilon or activation is further.",
        "",
        "What was found and mended: OpenBLAS adds up the products of a small matrix product one after the other, so that a dense layer of 1440",
        "inputs was up to seven times as far from the truth as TensorFlow's at 32 rows. The runner adds such long sums up in parts of 256.",
        "",
        "| network | output | bundle | TensorFlow | ratio |",
        "|---|---|---|---|---|",
    ]
    for case, checks in sorted(outputs, key=lambda pair: (pair[0].kind != "fixture", pair[0].name)):
        theirs = [check.tensorflow.relative for check in checks if check.tensorflow is not None]
        own = f"{mean([check.bundle.relative for check in checks]):.1e}"
        comparison = f"{mean(theirs):.1e} | {ratio(checks):.2f}" if len(theirs) == len(checks) else "not compared | "
        lines.append(f"| {case.kind} `{case.name}` | `{checks[0].name}` | {own} | {comparison} |")
    lines += ["", "Not compared with TensorFlow:", ""]
    lines += [f"- {case.kind} `{case.name}`: {results[0].unavailable}" for case, results in found if results and results[0].tensorflow is None]
    if not any(isinstance(results[0], str) for _, results in cases):
        return "\n".join(lines) + "\n"
    lines += ["", "Not evaluated:", ""]
    lines += [f"- {case.kind} `{case.name}`: {reason(results[0], case)}" for case, results in cases if isinstance(results[0], str)]
    return "\n".join(lines) + "\n"


def reason(text: "Verification | str", case: Case) -> str:
    """The first line of a refusal, without where the file lies."""
    return str(text).splitlines()[0].rstrip(":").replace(f"{case.path.parent}{os.sep}", "").replace(str(case.path), case.path.name)


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def ratio(checks: list[OutputCheck]) -> float:
    theirs = sum(check.tensorflow.most for check in checks if check.tensorflow is not None)
    ours = sum(check.bundle.most for check in checks)
    return ours / theirs if theirs else float(ours > 0) or 1.0


def largest(outputs: list[tuple[Case, list[OutputCheck]]]) -> float:
    return max(check.bundle.relative for _, checks in outputs for check in checks)


def largest_layer(found: list[tuple[Case, list[Verification]]]) -> float:
    return max(layer.bundle.relative for _, results in found for each in results for layer in each.layers if layer.bundle is not None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=32, help="how many random rows")
    parser.add_argument("--seeds", type=int, default=5, help="how many times, each with other rows")
    parser.add_argument("--output", type=Path, default=PAGE, help="the page to write")
    options = parser.parse_args()
    cases = []
    with tempfile.TemporaryDirectory() as folder:
        for case in (*fixtures(), *corpus()):
            results = [verified(case, options.rows, 0, Path(folder))]
            if isinstance(results[0], Verification):
                results += [verified(case, options.rows, seed, Path(folder)) for seed in range(1, options.seeds)]
            print(case.name, "refused" if isinstance(results[0], str) else f"{len(results)} times", flush=True)
            cases.append((case, results))
    options.output.write_text(page(cases, options.rows, options.seeds), encoding="utf-8")


if __name__ == "__main__":
    main()
