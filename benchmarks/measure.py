"""What the benchmarks share: processes in a clean environment, runs that alternate, and the table that is printed.

Nothing here imports NumPy. A process begins its life as a copy of the one that started it and is charged that one's peak of memory, so a benchmark
that measures memory must itself stay small. And the settings of BLAS count when NumPy is loaded: a benchmark in one process must clear them before.
"""

import argparse
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from statistics import median
from time import perf_counter, sleep

REPOSITORY = Path(__file__).resolve().parents[1]
SEED = REPOSITORY / "fixtures" / "data" / "seed"
WORK = REPOSITORY / "build" / "benchmarks"
"""Where checkpoints and bundles are made: on the disk of the repository, since a temporary folder may be in memory."""
PEERS = Path(__file__).parent / "peers"
BNEXPORT = (Path(sys.executable).with_name("bnexport"),)
"""The command as it was installed: `python -m` takes longer."""

LOAD = os.getloadavg()[0]
"""What else kept the machine busy, in processes, when the benchmark began."""
ENOUGH, FEWEST = 60.0, 3
"""Seconds after which no more rounds are begun, and how many there are even so."""
SPIN = 0.05
"""Seconds after which another library's threads, which wait for more work by spinning, have gone to sleep."""

QUIET_TENSORFLOW = {"TF_CPP_MIN_LOG_LEVEL": "3"}


def clean_environment() -> dict[str, str]:
    """This process's environment without what would make the comparison one of settings.

    OPENBLAS_* chooses the kernels and threads of NumPy's matrix products, OMP_* and MKL_* those of peers; PYTHONDONTWRITEBYTECODE makes every start
    of a program compile it anew.
    """
    dropped = ("OPENBLAS_", "OMP_", "MKL_", "PYTHONDONTWRITEBYTECODE")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
    return {**environment, **QUIET_TENSORFLOW, "PYTHONPATH": os.pathsep.join([str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])])}


def clean_process(cores: int | None = None) -> None:
    """The same for this process, and no more than `cores` of the processor's cores for it and its threads. Before NumPy is imported."""
    if "numpy" in sys.modules:
        raise RuntimeError("NumPy was imported before the settings of BLAS were cleared")
    environment = clean_environment()
    for name in set(os.environ) - set(environment):
        del os.environ[name]
    os.environ.update(environment)
    if cores is not None:
        for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):
            os.environ[name] = str(cores)
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])


@dataclass(frozen=True)
class Run:
    """How long a process took from start to end, and the most memory it had (resident, in bytes)."""

    seconds: float
    peak: int


def process(command: Sequence[str | os.PathLike[str]]) -> Run:
    """Runs a command to its end.

    Raises:
        RuntimeError: it failed; the message has what it wrote to standard error.
    """
    start = perf_counter()
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=clean_environment(), cwd=REPOSITORY)
    assert child.stderr is not None
    said = child.stderr.read()
    _, status, usage = os.wait4(child.pid, 0)
    seconds = perf_counter() - start
    child.returncode = os.waitstatus_to_exitcode(status)
    child.stderr.close()
    if child.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))} ended with {child.returncode}:\n{said.decode(errors='replace')}")
    return Run(seconds, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024))


def alternating(runs: Mapping[str, Callable[[], float]], rounds: int, *, warm: bool = True) -> dict[str, list[float]]:
    """Seconds by name, `rounds` of each in the order A B A B, so that what else the machine does hits all alike; one of each before, not counted.

    No more are begun after `ENOUGH` seconds, but for the `FEWEST`.
    """
    if warm:
        for run in runs.values():
            run()
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    start = perf_counter()
    for number in range(rounds):
        if number >= FEWEST and perf_counter() - start > ENOUGH:
            break
        for name, run in runs.items():
            seconds[name].append(run())
    return seconds


def repeated(call: Callable[[], object], at_least: float = 0.1) -> Callable[[], float]:
    """Seconds per call, of as many calls in a row as take `at_least` seconds."""

    def timed(times: int, warm: bool = True) -> float:
        sleep(SPIN)
        if warm:
            call()
        start = perf_counter()
        for _ in range(times):
            call()
        return (perf_counter() - start) / times

    first = timed(1, warm=False)
    if first > at_least:  # what takes so long needs no warming up
        return lambda: timed(1, warm=False)
    few = max(1, round(at_least / 10 / max(first, 1e-7)))
    times = max(1, round(at_least / max(timed(few), 1e-7)))
    return lambda: timed(times)


def ratio(over: Sequence[float], under: Sequence[float]) -> tuple[float, float, float]:
    """The median of the pairs' ratios, the least and the greatest of them."""
    ratios = [a / b for a, b in zip(over, under, strict=True)]
    return median(ratios), min(ratios), max(ratios)


def ratio_text(over: Sequence[float], under: Sequence[float]) -> str:
    """`1.15 (1.02 to 1.31)`."""
    middle, least, most = ratio(over, under)
    return f"{middle:.3g} ({least:.3g} to {most:.3g})"


def seconds_text(seconds: Sequence[float]) -> str:
    """The median, as people write it."""
    value = median(seconds)
    return f"{value:.2f} s" if value >= 1 else f"{value * 1e3:.3g} ms" if value >= 1e-3 else f"{value * 1e6:.3g} µs"


@dataclass
class Table:
    """A title, column heads and rows of text."""

    title: str
    heads: tuple[str, ...]
    rows: list[tuple[str, ...]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, *cells: str) -> None:
        assert len(cells) == len(self.heads)
        self.rows.append(cells)

    def text(self) -> str:
        lines = [self.heads, *self.rows]
        widths = [max(len(line[i]) for line in lines) for i in range(len(self.heads))]
        body = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
        return "\n".join([self.title, "", *body, *self.notes])

    def markdown(self) -> str:
        lines = [self.heads, tuple("---" for _ in self.heads), *self.rows]
        body = ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]
        notes = [line for note in self.notes for line in ("", note)]
        return "\n".join([f"**{self.title}**", "", *body, *notes])


def show(table: Table, *, markdown: bool) -> None:
    print(table.markdown() if markdown else table.text(), flush=True)


def parser(about: str | None, rounds: int) -> argparse.ArgumentParser:
    """The options that every benchmark has."""
    made = argparse.ArgumentParser(description=about)
    made.add_argument("--rounds", type=int, default=rounds, help=f"how many pairs of runs (default {rounds})")
    made.add_argument("--markdown", action="store_true", help="print the table as Markdown, as in README.md")
    return made


def machine(*packages: str) -> str:
    """What the numbers were measured on."""
    versions = [f"{package} {metadata.version(package)}" for package in packages if installed(package)]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{_processor()}, {cores} cores, load {LOAD:.1f} at the start; Python {platform.python_version()}, {', '.join(versions)}."


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:  # not Linux
        pass
    return platform.processor() or platform.machine()


def installed(package: str) -> bool:
    try:
        metadata.version(package)
    except metadata.PackageNotFoundError:
        return False
    return True
