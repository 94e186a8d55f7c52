"""Runs benchmarks and puts their tables into README.md.

python -m benchmarks.record              all of them
python -m benchmarks.record predict      those named
"""

import re
import subprocess
import sys
from pathlib import Path

from benchmarks.measure import REPOSITORY, clean_environment

README = Path(__file__).parent / "README.md"
BLOCK = re.compile(r"(<!-- benchmark: (\w+)((?: .*)?) -->\n)(?:.*\n)*?(<!-- end -->)")


def main(names: list[str]) -> None:
    known = [match[2] for match in BLOCK.finditer(README.read_text(encoding="utf-8"))]
    unknown = [name for name in names if name not in known]
    if unknown:
        sys.exit(f"no such benchmark: {', '.join(unknown)}; there are {', '.join(known)}")

    for name in names or known:
        README.write_text(BLOCK.sub(lambda match, name=name: _filled(match, name), README.read_text(encoding="utf-8")), encoding="utf-8")


def _filled(match: "re.Match[str]", name: str) -> str:
    if match[2] != name:
        return match[0]
    command = [sys.executable, "-m", f"benchmarks.{name}", "--markdown", *match[3].split()]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=clean_environment(), cwd=REPOSITORY)
    print(done.stdout, flush=True)
    return f"{match[1]}\n{done.stdout.strip()}\n\n{match[4]}"


if __name__ == "__main__":
    main(sys.argv[1:])
