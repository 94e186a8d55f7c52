"""The same checkpoint gives the same bytes, in every process: nothing follows the order of a set, which changes with Python's hash seed."""

import json
import os
import subprocess
import sys
from pathlib import Path

DATA = Path(__file__).parents[1] / "fixtures" / "data"
FIXTURES = ("seed", "seed_cond_v2", "conv_preact", "multi_io", "training_baked", "slim_training", "polyak", "no_meta", "savedmodel_v2/saved_model")

SCRIPT = """
import hashlib, json, pathlib, sys
from bnexport import convert
digests = {}
for name in sys.argv[2:]:
    for suffix in (".npz", ".h5"):
        out = pathlib.Path(sys.argv[1]) / f"out{suffix}"
        convert(name, out)
        digests[name + suffix] = hashlib.sha256(out.read_bytes()).hexdigest()
print(json.dumps(digests))
"""


def digests(seed: str, folder: Path) -> dict[str, str]:
    names = [str(DATA / name) for name in FIXTURES]
    environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(DATA.parents[1])}
    done = subprocess.run([sys.executable, "-c", SCRIPT, str(folder), *names], env=environment, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_every_process_writes_the_same_bytes(tmp_path):
    first = digests("0", tmp_path)
    assert len(first) == 2 * len(FIXTURES)
    for seed in ("1", "2"):
        assert digests(seed, tmp_path) == first
