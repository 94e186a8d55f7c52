"""Converting the seed's network, a whole process, beside a TensorFlow script that does the same, and beside Python only importing NumPy and click."""

import sys

from benchmarks.measure import BNEXPORT, PEERS, SEED, WORK, Table, alternating, machine, parser, process, ratio_text, seconds_text, show

PREFIX = SEED / "model.ckpt"


def main() -> None:
    options = parser(__doc__, rounds=15).parse_args()
    WORK.mkdir(parents=True, exist_ok=True)
    commands = {
        "bnexport convert": [*BNEXPORT, "convert", PREFIX, WORK / "seed.npz", "--quiet"],
        "import numpy, click": [sys.executable, "-c", "import numpy, click"],
        "TensorFlow, NumPy and savez": [sys.executable, PEERS / "tensorflow_fold.py", PREFIX, WORK / "seed-peer.npz"],
    }
    runs = {name: lambda command=command: process(command).seconds for name, command in commands.items()}
    table = Table("convert, the seed's network, whole process", ("", "seconds", "bnexport convert", "ratio", "goal"))
    convert, imports, peer = runs
    seconds = alternating({name: runs[name] for name in (convert, imports)}, options.rounds)
    table.add(
        imports,
        seconds_text(seconds[imports]),
        seconds_text(seconds[convert]),
        f"{ratio_text(seconds[convert], seconds[imports])} times as long",
        "1.7",
    )
    # A script that imports TensorFlow takes seconds: a third of the rounds is enough.
    seconds = alternating({name: runs[name] for name in (convert, peer)}, max(1, options.rounds // 3))
    table.add(peer, seconds_text(seconds[peer]), seconds_text(seconds[convert]), f"{ratio_text(seconds[peer], seconds[convert])} times faster", "15")
    table.notes.append(
        f"The median of {options.rounds} pairs of runs, and from the least to the greatest. {machine('bnexport', 'numpy', 'tensorflow')}"
    )
    show(table, markdown=options.markdown)


if __name__ == "__main__":
    main()
