"""Converting a large checkpoint of the seed's idiom, beside `cp` of its data file: time, and the peak of memory."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.measure import (
    BNEXPORT,
    PEERS,
    REPOSITORY,
    WORK,
    Run,
    Table,
    alternating,
    clean_environment,
    installed,
    machine,
    parser,
    process,
    ratio_text,
    seconds_text,
    show,
)

# Where a file system can share blocks between files, cp would otherwise copy nothing.
CP = ("cp", "--reflink=never") if sys.platform == "linux" else ("cp",)


def checkpoint(gigabytes: float, *, adam: bool) -> Path:
    """The prefix of the checkpoint, which is made the first time, and whose data is in the page cache after."""
    folder = WORK / f"large-{gigabytes:g}{'-adam' if adam else ''}"
    prefix = folder / "model.ckpt"
    if not prefix.with_name("model.ckpt.index").exists():
        command = [sys.executable, "-m", "benchmarks.large", str(folder), str(gigabytes), *(["--adam"] if adam else [])]
        subprocess.run(command, check=True, env=clean_environment(), cwd=REPOSITORY)
    with data_file(prefix).open("rb") as file:
        while file.read(1 << 20):
            pass
    return prefix


def data_file(prefix: Path) -> Path:
    return prefix.with_name(prefix.name + ".data-00000-of-00001")


class Timed:
    """A command that writes a file, which is removed before and after, and whose memory is kept."""

    def __init__(self, command: Sequence[str | os.PathLike[str]], out: Path) -> None:
        self.command, self.out = command, out
        self.runs: list[Run] = []

    def __call__(self) -> float:
        self.out.unlink(missing_ok=True)
        os.sync()  # no run is to wait for what the one before has still to write
        self.runs.append(process(self.command))
        self.out.unlink()
        return self.runs[-1].seconds

    def peak(self) -> str:
        return f"{max(run.peak for run in self.runs) / 1e6:.0f} MB"


def converting(prefix: Path, suffix: str) -> Timed:
    out = WORK / f"out-{os.getpid()}{suffix}"
    return Timed([*BNEXPORT, "convert", prefix, out, "--quiet"], out)


def main() -> None:
    options_parser = parser(__doc__, rounds=7)
    options_parser.add_argument("--gigabytes", type=float, default=1.0, help="the size of the data file (default 1)")
    options_parser.add_argument("--format", choices=["npz", "h5"], default="npz", help="the bundle's format (default npz)")
    options_parser.add_argument("--no-adam", action="store_true", help="leave out the checkpoint with Adam's slots")
    options_parser.add_argument("--peers", action="store_true", help="also the TensorFlow script, and tf2onnx where it is installed")
    options = options_parser.parse_args()
    suffix = f".{options.format}"
    plain = checkpoint(options.gigabytes, adam=False)
    table = Table(
        f"convert, {options.gigabytes:g} GB checkpoint of 5 dense layers, to {suffix}, whole process",
        ("", "seconds", "peak memory", "times as long as", "", "goal"),
    )

    cp, convert = Timed([*CP, data_file(plain), WORK / "copy"], WORK / "copy"), converting(plain, suffix)
    seconds = alternating({"cp": cp, "convert": convert}, options.rounds)
    table.add("cp of the data file", seconds_text(seconds["cp"]), cp.peak(), "", "", "")
    table.add(
        "bnexport convert", seconds_text(seconds["convert"]), convert.peak(), "cp", ratio_text(seconds["convert"], seconds["cp"]), "1.25, 80 MB"
    )

    if not options.no_adam:
        adam, convert = converting(checkpoint(options.gigabytes, adam=True), suffix), converting(plain, suffix)
        seconds = alternating({"without": convert, "with": adam}, options.rounds)
        ratio = ratio_text(seconds["with"], seconds["without"])
        table.add("bnexport convert, with Adam's slots", seconds_text(seconds["with"]), adam.peak(), "convert without them", ratio, "1, 80 MB")

    if options.peers:
        _peers(table, plain, suffix)
    table.notes.append(
        f"{options.rounds} pairs of runs; the median, and from the least to the greatest. {machine('bnexport', 'numpy', 'tensorflow')}"
    )
    show(table, markdown=options.markdown)


def _peers(table: Table, prefix: Path, suffix: str) -> None:
    """Once each beside bnexport: they take a minute."""
    out = WORK / "peer.npz"
    peers = {"TensorFlow, NumPy and savez": Timed([sys.executable, PEERS / "tensorflow_fold.py", prefix, out], out)}
    if installed("tf2onnx"):
        onnx = WORK / "peer.onnx"
        command = [sys.executable, "-m", "tf2onnx.convert", "--checkpoint", f"{prefix}.meta", "--inputs", "x:0,phase_train:0", "--outputs", "y:0"]
        peers["tf2onnx"] = Timed([*command, "--large_model", "--output", onnx], onnx)
    else:
        table.notes.append("tf2onnx is not installed.")
    for name, peer in peers.items():
        convert = converting(prefix, suffix)
        try:
            seconds = alternating({"convert": convert, "peer": peer}, 1, warm=False)
        except RuntimeError as error:
            table.notes.append(f"{name} failed: {str(error).strip().splitlines()[-1]}")
            continue
        table.add(name, seconds_text(seconds["peer"]), peer.peak(), "bnexport convert", ratio_text(seconds["peer"], seconds["convert"]), "")


if __name__ == "__main__":
    WORK.mkdir(parents=True, exist_ok=True)
    main()
