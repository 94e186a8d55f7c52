"""The documentation says what is: commands print what it shows, its Python runs, its links lead somewhere."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from kernel_oracle import tensorflow

from bnexport import cli

ROOT = Path(__file__).parents[1]
PAGES = sorted(path.relative_to(ROOT) for path in [*ROOT.glob("*.md"), *ROOT.glob("*/*.md")] if not path.parent.name.startswith((".", "build")))
STORY = {"mean": -0.089603029, "variance": 0.000436493, "offset": -0.016652612, "scale": 1.0055743, "variance_epsilon": 1e-3}
STORY_X = -0.077417567

NUMBER = re.compile(r"-?\d+\.\d+(?:e[-+]\d+)?|-?\d+e[-+]\d+")
"""A number that is rounded: another processor gives other last digits."""


@pytest.fixture(scope="module")
def generate():
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def words(text):
    """Text without its numbers and without how it is broken into lines."""
    return NUMBER.sub("#", text).split()


@pytest.mark.parametrize("page", ["README.md", "docs/command-line.md", "docs/bundle-format.md"])
def test_pages_show_what_is_printed(generate, page):
    shown = (ROOT / page).read_text(encoding="utf-8")
    printed = generate.filled(shown)
    assert words(shown) == words(printed), "run `make docs`"
    numbers = [np.array(NUMBER.findall(text), float) for text in (shown, printed)]
    np.testing.assert_allclose(*numbers, rtol=1e-3, atol=1e-6, err_msg="run `make docs`")


def test_all_marked_blocks_are_filled(generate):
    for page in generate.PAGES:
        text = (ROOT / page).read_text(encoding="utf-8")
        kinds = ("command", "printed", "options", "commands", "operators")
        found = [kind for match in generate.BLOCK.finditer(text) for kind in kinds if match[kind] is not None]
        marked = re.findall(r"^<!-- (run|prints|options|commands|operators)\b", text, re.MULTILINE)
        assert len(found) == len(marked) > 0


def test_every_command_is_shown():
    text = (ROOT / "docs" / "command-line.md").read_text(encoding="utf-8")
    assert re.findall(r"^\$ bnexport (\w+) --help$", text, re.MULTILINE) == list(cli.COMMANDS)


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_links_lead_somewhere(page):
    text = re.sub(r"^```.*?^```", "", (ROOT / page).read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    targets = [target for target in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in target]
    assert [target for target in targets if not (ROOT / page.parent / target.partition("#")[0]).exists()] == []


def test_the_readme_tells_the_story():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    told = [*STORY.values(), STORY_X, 0.30664642, 0.30664611, 0.543057]
    numbers = set(map(float, re.findall(r"-?\d+(?:\.\d+)?(?:e-?\d+)?", text)))
    assert [number for number in told if number not in numbers] == []


@pytest.mark.tensorflow
def test_the_storys_number_is_tensorflows():
    tf = tensorflow()
    single = tf.nn.batch_normalization(tf.constant([STORY_X]), **STORY)
    double = tf.nn.batch_normalization(tf.constant([STORY_X], tf.float64), **{k: np.float64(v) for k, v in STORY.items()})
    np.testing.assert_allclose(single.numpy(), 0.30664611, rtol=0, atol=5e-7)  # its last digits are other ones in each version and on each processor
    np.testing.assert_allclose(double.numpy(), 0.30664642, rtol=0, atol=5e-9)


def test_the_architecture_page_knows_every_module():
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(bnexport/[\w/]+(?:\.py|/))`", text))
    assert [name for name in named if not (ROOT / name).exists()] == []
    package = ROOT / "bnexport"
    modules = {f"bnexport/{p.name}" for p in package.glob("*.py")} | {f"bnexport/{p.parent.name}/" for p in package.glob("*/__init__.py")}
    assert modules - named - {"bnexport/__init__.py", "bnexport/_version.py"} == set()


@pytest.mark.parametrize("fixture", ["seed", "multi_io"])
def test_every_process_prints_and_writes_the_same(generate, tmp_path, monkeypatch, fixture):
    """Pages could not be held to what is printed, nor bundles be compared by their hash, if it depended on the order of a set."""
    results = set()
    for seed in ("1", "2", "5"):
        monkeypatch.setenv("PYTHONHASHSEED", seed)
        command = [sys.executable, "-m", "bnexport", "convert", str(ROOT / "fixtures" / "data" / fixture), "out.npz"]
        printed = subprocess.run(command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, check=True).stderr
        results.add((printed, (tmp_path / "out.npz").read_bytes()))
    assert len({printed for printed, _ in results}) == 1
    assert len(results) == 1


def test_the_readme_lists_what_is_installed():
    table = (ROOT / "pyproject.toml").read_text(encoding="utf-8").partition("\ndependencies = [\n")[2].partition("]")[0]
    names = re.findall(r'"([\w-]+)', table)
    assert "numpy" in names
    installing = (ROOT / "README.md").read_text(encoding="utf-8").partition("## Installing")[2].partition("## ")[0].lower()
    assert [name for name in names if name not in installing] == []


def test_generate_is_a_script(generate, monkeypatch, tmp_path):
    for page in generate.PAGES:
        (tmp_path / page).parent.mkdir(exist_ok=True)
        (tmp_path / page).write_text("```python\nprint(6 * 7)\n```\n\n<!-- prints -->\n```text\n```\n", encoding="utf-8")
    monkeypatch.setattr(generate, "ROOT", tmp_path)
    monkeypatch.setattr(generate, "SHOWN", ())
    generate.main()
    for page in generate.PAGES:
        assert "```text\n42\n```" in (tmp_path / page).read_text(encoding="utf-8")
