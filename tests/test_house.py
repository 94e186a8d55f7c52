"""The repository itself: what is tracked, what is documented, what the version is."""

import ast
import os
import re
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

from bnexport import __version__, cli

ROOT = Path(__file__).parents[1]
LARGEST = 1_000_000

# Written in pieces, so that this file may be looked through as well.
OF_A_MACHINE = [
    re.compile(pattern.replace("~", ""))
    for pattern in (r"/wo~rk/(?:main|shared)", r"/tm~p/\w", r"/ro~ot/", r"/ho~me/(?!some)\w", r"/Us~ers/\w", r"[A-Z]:\\Us~ers")
]
OF_A_REGISTRY = [
    re.compile(pattern.replace("~", "")) for pattern in (r"py~pi\.org", r"pytho~nhosted\.org", r"--index~-url", r"artif~actory", r"\bdev~pi\b")
]


@pytest.fixture(scope="module")
def tracked():
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False) if (ROOT / ".git").exists() else None
    if done is None or done.returncode:
        pytest.skip("this is no git checkout")
    return [path for name in done.stdout.split("\0") if name and (path := ROOT / name).is_file()]


def test_no_tracked_file_is_large(tracked):
    assert [path for path in tracked if path.stat().st_size > LARGEST] == []


def test_no_tracked_file_names_a_machine_or_a_registry(tracked):
    found = []
    for path in tracked:
        if "fixtures/data" in path.as_posix():
            continue  # what TensorFlow wrote, on whichever machine
        text = path.read_text(encoding="utf-8", errors="replace")
        found += [(str(path.relative_to(ROOT)), match[0]) for pattern in (*OF_A_MACHINE, *OF_A_REGISTRY) for match in pattern.finditer(text)]
    assert found == []


def test_the_changelog_has_the_version():
    heads = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert __version__ in heads


def test_the_command_tells_its_version():
    result = CliRunner().invoke(cli.main, ["--version"])
    assert (result.exit_code, result.output) == (0, f"bnexport, version {__version__}\n")


def public(tree, inside=""):
    """The public functions and classes of a module, and the public methods of its public classes."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            yield f"{inside}{node.name}", node
            if isinstance(node, ast.ClassDef):
                yield from public(node, f"{node.name}.")


FILES = sorted(path for path in (ROOT / "bnexport").rglob("*.py") if "protos" not in path.parts)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_what_is_public_has_a_docstring(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    if path.read_text(encoding="utf-8").strip():
        assert ast.get_docstring(tree)
    assert [name for name, node in public(tree) if not (ast.get_docstring(node) or is_obvious(node))] == []


def is_obvious(node):
    """Whether a method has its meaning from its protocol, or a kernel from TensorFlow's operator of the name it is registered under."""
    decorators = [ast.unparse(decorator) for decorator in getattr(node, "decorator_list", [])]
    return "property" in decorators or any(decorator.startswith("op(") for decorator in decorators) or node.name in ("readers", "invoke")


def test_the_extras_are_known():
    table = (ROOT / "pyproject.toml").read_text(encoding="utf-8").partition("[project.optional-dependencies]\n")[2].partition("\n[")[0]
    extras = re.findall(r"^(\w+) = \[", table, re.MULTILINE)
    assert "dev" in extras
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert [name for name in extras if f"`{name}`" not in text] == []


def test_ci_runs_the_tests():
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert script.read_text(encoding="utf-8").rstrip().endswith("make test")
