"""The process that the command `bnexport` is, `python -m bnexport` too: what must be settled before anything else is imported."""

import gc
import os
import signal
import sys
from io import TextIOWrapper
from pathlib import Path

GARBAGE_EVERY = 50_000
"""How many objects more there are between two looks for garbage (Python's own number is 700)."""


def main() -> None:
    """Runs the command line.

    A command makes ten thousands of objects that stay until it ends, first of all by importing. Looking through them for garbage, again and again,
    and taking them apart at exit is a third of the time that a small conversion takes.
    """
    gc.disable()
    _open_closed_streams()
    _write_what_can_be_written()
    _leave_by_the_door()
    if sys.argv[1:2] == ["convert"]:
        # It multiplies no large matrices, and OpenBLAS's threads, which NumPy starts, wait for work by spinning: a core that others could use.
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

    try:
        from bnexport.cli import main as command_line

        gc.freeze()  # what has been imported stays
        gc.enable()
        gc.set_threshold(GARBAGE_EVERY)
        command_line(prog_name="bnexport")
    except SystemExit as end:
        _end_at_once(end.code)
        raise
    except KeyboardInterrupt:  # while modules are imported; later ones click has caught
        sys.stderr.write("Aborted!\n")
        sys.exit(1)


def _open_closed_streams() -> None:
    """Whoever starts a process may have closed its standard streams; Python has None in their places then."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode))  # noqa: SIM115  (until the process ends)


def _write_what_can_be_written() -> None:
    """A sign that standard output's encoding does not have, or a file's name that is no text, is written as an escape, as on standard error."""
    if isinstance(sys.stdout, TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")


def _leave_by_the_door() -> None:
    """Makes being asked to end, or losing the terminal, an exception: files that are half written are then removed. What is ignored stays so."""
    for name in ("SIGTERM", "SIGHUP"):  # Windows has no SIGHUP
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, _end)


def _end_at_once(code: object) -> None:
    """Ends the process without taking apart all that it is made of, which the operating system does sooner; returns where something would be lost.

    Every file is closed by the block that opened it, and no thread is left; only the standard streams may hold what is not written yet.
    """
    if _is_watched() or not (code is None or isinstance(code, int)):
        return
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except (OSError, ValueError):  # Python will say so
        return
    os._exit(code or 0)


def _is_watched() -> bool:
    """Whether a profiler, a debugger or somebody at a prompt goes on when this ends."""
    monitoring = getattr(sys, "monitoring", None)  # from Python 3.12 on
    tools = [monitoring.get_tool(number) for number in range(6)] if monitoring else []
    return bool(sys.getprofile() or sys.gettrace() or sys.flags.inspect or sys.flags.interactive or any(tools))


def _end(number: int, _: object) -> None:
    raise SystemExit(128 + number)  # what a shell makes of it anyway


if __name__ == "__main__":
    main()
