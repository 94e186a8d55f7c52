"""Evaluating one row, a whole process, beside an onnxruntime script that does the same and beside Python only importing NumPy."""

import sys
from pathlib import Path

from benchmarks.measure import (
    BNEXPORT,
    PEERS,
    SEED,
    WORK,
    Table,
    alternating,
    clean_process,
    machine,
    parser,
    process,
    ratio_text,
    seconds_text,
    show,
)


def main() -> None:
    options = parser(__doc__, rounds=15).parse_args()
    clean_process()
    WORK.mkdir(parents=True, exist_ok=True)
    bundle, model, row = WORK / "seed.npz", WORK / "seed.onnx", WORK / "row.csv"
    process([*BNEXPORT, "convert", SEED, bundle, "--quiet"])
    _write_onnx(bundle, model)
    row.write_text((SEED / "input.csv").read_text().splitlines()[0] + "\n")
    commands = {
        "bnexport run": [*BNEXPORT, "run", bundle, row],
        "import numpy": [sys.executable, "-c", "import numpy"],
        "onnxruntime": [sys.executable, PEERS / "onnxruntime_row.py", model, row],
    }
    seconds = alternating({name: lambda command=command: process(command).seconds for name, command in commands.items()}, options.rounds)
    run, imports, peer = commands
    table = Table("run, one row of the seed's network, whole process", ("", "seconds", "bnexport run", "ratio", "goal"))
    ours = seconds_text(seconds[run])
    table.add(imports, seconds_text(seconds[imports]), ours, f"{ratio_text(seconds[run], seconds[imports])} times as long", "1.5")
    table.add(peer, seconds_text(seconds[peer]), ours, f"{ratio_text(seconds[peer], seconds[run])} times faster", "1")
    table.notes.append(
        f"The median of {options.rounds} runs of each in turn, and from the least to the greatest. {machine('bnexport', 'numpy', 'onnxruntime')}"
    )
    show(table, markdown=options.markdown)


def _write_onnx(bundle: Path, path: Path) -> None:
    """The bundle's own layers as an ONNX model."""
    import bnexport
    from benchmarks.networks import onnx_model
    from bnexport.program import materialize

    layers = [tuple(materialize(layer.arrays[role]) for role in ("kernel", "bias")) for layer in bnexport.load(bundle).layers]
    path.write_bytes(onnx_model(layers))


if __name__ == "__main__":
    main()
