"""What imports what: statically, layer by layer, and in processes that do the real work."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

import bnexport
from bnexport.cli import main

ROOT = Path(bnexport.__file__).parent
SEED = Path(__file__).parents[1] / "fixtures" / "data" / "seed"

LAYERS = (
    {"_version", "checksums", "differences", "errors", "protos", "text"},
    {"options", "program"},
    {"arrays", "checkpoint", "csvrows", "formats", "kernels"},
    {"batchnorms", "chain", "fold", "graph", "steps", "tables", "widen"},
    {"rows"},
    {"draws", "reference", "runner", "scopes"},
    {"conversion"},
    {"report", "tracing"},
    {"inspection", "verification"},
    {"diagnose", "html"},
    {"commands"},
    {"cli"},
    {"__main__"},
)
"""The modules and packages of bnexport; each may import those of the sets before its own, and itself."""

CONVERTER = [
    "google.protobuf",
    "google_crc32c",
    "cramjam",
    "ml_dtypes",
    *(f"bnexport.{name}" for name in ("checkpoint", "protos", "graph", "scopes", "arrays", "fold", "options", "conversion")),
]


def own_name(file):
    return file.relative_to(ROOT).parts[0].removesuffix(".py")


def executed(node):
    """The nodes below one that run; what only type checkers read does not."""
    for child in ast.iter_child_nodes(node):
        if not (isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"):
            yield child
            yield from executed(child)


def imported(tree):
    """The modules and packages directly below bnexport that a file imports, in functions too."""
    for node in executed(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        yield from (name.split(".")[1] for name in names if name.startswith("bnexport."))


FILES = [file for file in sorted(ROOT.rglob("*.py")) if file != ROOT / "__init__.py"]


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_imports_go_one_way(file):
    own = own_name(file)
    rank = {name: level for level, names in enumerate(LAYERS) for name in names}
    assert own in rank, f"{own} has no place in LAYERS"
    wrong = [name for name in imported(ast.parse(file.read_text(encoding="utf-8"))) if name != own and rank[name] >= rank[own]]
    assert wrong == []


def test_every_layer_exists():
    assert {own_name(file) for file in FILES} == set().union(*LAYERS)


def test_public_names():
    assert bnexport.__all__ == ["BnexportError", "Model", "Options", "__version__", "convert", "load"]
    assert dir(bnexport) == bnexport.__all__
    for name in bnexport.__all__:
        assert getattr(bnexport, name) is not None
    assert bnexport.load is importlib.import_module("bnexport.runner").load
    assert bnexport.convert is importlib.import_module("bnexport.conversion").convert
    with pytest.raises(AttributeError, match="module 'bnexport' has no attribute 'export'"):
        _ = bnexport.export


def imports_of(code, *arguments):
    """The modules that a process has imported when the code is done, and which packages it imported from outside the standard library."""
    script = f"""
import contextlib, io, sys
before = set(sys.modules)
with contextlib.redirect_stdout(io.StringIO()):
    {code}
print(*sys.modules, sep="\\n")
print("--")
print(*{{name.partition(".")[0] for name in sys.modules.keys() - before}} - sys.stdlib_module_names, sep="\\n")
"""
    done = subprocess.run([sys.executable, "-c", script, *map(str, arguments)], capture_output=True, text=True, check=True)
    modules, _, foreign = done.stdout.partition("--\n")
    # NumPy before 2.0 registers what Cython made of it.
    return set(modules.split()), {name for name in foreign.split() if "cython" not in name}


def imports_of_command(*arguments):
    return imports_of("from bnexport.cli import main; main(sys.argv[1:], standalone_mode=False)", *arguments)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    path = tmp_path_factory.mktemp("bundle") / "seed.npz"
    CliRunner().invoke(main, ["convert", str(SEED), str(path), "--quiet"], catch_exceptions=False)
    return path


def test_the_runner_imports_numpy_alone(bundle):
    code = "import numpy, bnexport; bnexport.load(sys.argv[1]).predict(numpy.zeros((2, 64), 'float32'))"
    modules, foreign = imports_of(code, bundle)
    assert foreign == {"numpy", "bnexport"}
    assert modules.isdisjoint(["click", "h5py", "tensorflow", "bnexport.cli", *CONVERTER])


def test_the_command_run_adds_click_alone(bundle, tmp_path):
    modules, foreign = imports_of_command("run", bundle, SEED / "input.csv", "-o", tmp_path / "scores.csv")
    assert foreign == {"numpy", "bnexport", "click"}
    assert modules.isdisjoint(["h5py", "tensorflow", "bnexport.inspection", "bnexport.report", *CONVERTER])


def test_reading_a_checkpoint_imports_no_tensorflow(tmp_path):
    for arguments in (["convert", SEED, tmp_path / "out.npz"], ["inspect", SEED], ["inspect", SEED, "--json"]):
        modules, _ = imports_of_command(*arguments)
        assert modules.isdisjoint(["tensorflow", "h5py", "bnexport.runner"])


def test_a_command_imports_no_other(bundle, tmp_path):
    modules, _ = imports_of_command("run", bundle, SEED / "input.csv", "-o", tmp_path / "scores.csv")
    assert {name for name in modules if name.startswith("bnexport.commands.")} == {"bnexport.commands.run"}


@pytest.mark.parametrize(("command", "threads"), [("convert", "1"), ("run", None)])
def test_what_the_process_settles_before_numpy_is_imported(command, threads):
    code = f"""
import gc, os, sys
os.environ.pop("OPENBLAS_NUM_THREADS", None)
sys.argv = ["bnexport", "{command}", "--help"]
from bnexport.__main__ import main
os._exit = lambda code: None  # how it ends is not what is asked here
try:
    main()
except SystemExit:
    pass
print(os.environ.get("OPENBLAS_NUM_THREADS"), "numpy" in sys.modules, gc.isenabled(), gc.get_freeze_count() > 0)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == f"{threads} False True True"


def test_what_watches_the_process_writes_what_it_saw(tmp_path):
    """It ends at once where nothing does."""
    subprocess.run(
        [sys.executable, "-m", "cProfile", "-o", "profile", "-m", "bnexport", "--version"], cwd=tmp_path, check=True, stdout=subprocess.DEVNULL
    )
    assert (tmp_path / "profile").stat().st_size > 0


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_help_and_version_import_no_numpy(option):
    modules, _ = imports_of_command(option)
    assert modules.isdisjoint(["numpy", "bnexport.program"])
