"""docs/bundle-format.md is true: its readers compute what a formula in float64 says, and its lists are those of the code."""

import re
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from bnexport import convert, load
from bnexport.fold import ACTIVATIONS
from bnexport.formats import write_bundle
from bnexport.formats.manifest import CONVENTIONS
from bnexport.kernels import OPS
from bnexport.program import InMemory, Layer, Literal, Port, Program

DATA = Path(__file__).parents[1] / "fixtures" / "data"
PAGE = (Path(__file__).parent.parent / "docs" / "bundle-format.md").read_text(encoding="utf-8")


def reader(container):
    found = re.search(rf"<!-- reader: {container} -->\n```python\n(.*?)```", PAGE, re.DOTALL)
    assert found is not None
    return found[1]


@pytest.mark.parametrize("container", ["npz", "h5"])
def test_the_readers_of_the_page(tmp_path, container):
    rng = np.random.default_rng(0)
    w1, b1, w2, b2 = (rng.standard_normal(shape).astype("f4") for shape in ((5, 7), (7,), (7, 3), (3,)))
    x = rng.standard_normal((4, 5)).astype("f4")
    layers = [
        Layer("net/fc1", "Dense", ["net/x"], arrays={"kernel": InMemory(w1), "bias": InMemory(b1)}, activation="Relu"),
        Layer("net/out", "Dense", ["net/fc1"], arrays={"kernel": InMemory(w2), "bias": InMemory(b2)}),
    ]
    path = tmp_path / f"net.{container}"
    write_bundle(path, Program([Port("x", "net/x", (None, 5), "float32")], layers, [Port("logits", "net/out", (None, 3), "float32")]))
    scope: dict[str, object] = {}
    exec(reader(container), scope)
    got = scope["predict"](path, {"x": x})
    wide = [a.astype(np.float64) for a in (x, w1, b1, w2, b2)]
    expected = np.maximum(wide[0] @ wide[1] + wide[2], 0) @ wide[3] + wide[4]
    assert list(got) == ["logits"]
    np.testing.assert_allclose(got["logits"], expected, rtol=0, atol=1e-6 * np.abs(expected).max())


@pytest.mark.parametrize("container", ["npz", "h5"])
def test_the_reader_of_tables(tmp_path, container):
    """The arrays are read with NumPy or h5py alone."""
    path = tmp_path / f"net.{container}"
    arrays = {"keys": InMemory(np.array([b"red", "grün".encode(), b""])), "values": InMemory(np.array([5, 6, 7]))}
    layer = Layer("table", "Lookup", ["x", "@keys", "@values", Literal(-1, "int64")], arrays=arrays)
    write_bundle(path, Program([Port("x", "x", (None, 2), "string")], [layer], [Port("y", "table", (None, 2), "int64")]))
    if container == "npz":
        with np.load(path, allow_pickle=False) as bundle:
            keys, values = bundle["table/keys"], bundle["table/values"]
    else:
        with h5py.File(path, "r") as bundle:
            keys, values = bundle["table/keys"][()], bundle["table/values"][()]
    scope: dict[str, object] = {}
    exec(reader("lookup"), scope)
    words = np.array([["red", "grün"], ["", "no such"]])
    assert scope["lookup"](words, keys, values, -1).tolist() == [[5, 6], [7, -1]] == load(path).predict(words).tolist()


@pytest.mark.parametrize("container", ["npz", "h5"])
def test_the_readers_compute_the_network_of_the_readme(tmp_path, container):
    path = tmp_path / f"seed.{container}"
    convert(DATA / "seed", path)
    scope: dict[str, object] = {}
    exec(reader(container), scope)
    x = np.loadtxt(DATA / "seed" / "input.csv", delimiter=",", dtype="f4")
    np.testing.assert_allclose(scope["predict"](path, {"x": x})["y"], load(path).predict(x), rtol=0, atol=1e-6)


@pytest.mark.parametrize("container", ["npz", "h5"])
def test_the_readers_refuse_an_incomplete_bundle(tmp_path, container):
    path = tmp_path / f"out.{container}"
    convert(DATA / "no_meta", path)
    scope: dict[str, object] = {}
    exec(reader(container), scope)
    with pytest.raises(AssertionError, match="names do not tell the activation"):
        scope["predict"](path, {"input": np.zeros((1, 64), "f4")})


def test_the_activations_of_the_page_are_those_of_the_converter():
    table = dict(re.findall(r"\| `(\w+)` \| (?:`|<code>)(.*?)(?=\s\|)", PAGE[PAGE.index("| activation |") : PAGE.index("- **The dtype**")]))
    assert set(table) == set(ACTIVATIONS)
    scale, below = (float(number) for number in re.findall(r"(\d\.\d{9,})", table["Selu"]))
    x = np.array([[-2.0, 3.0]])
    expected = np.where(x > 0, scale * x, below * np.expm1(x))
    np.testing.assert_allclose(OPS["Selu"].compute({}, x), expected, rtol=1e-12)
    np.testing.assert_allclose(OPS["LeakyRelu"].compute({}, x), [[-2 * 0.2, 3.0]], rtol=1e-7)  # 0.2 in float32, as in TensorFlow


@pytest.mark.parametrize(("container", "packages"), [("npz", {"numpy"}), ("h5", {"numpy", "h5py"})])
def test_the_readers_need_no_more_than_they_say(container, packages):
    code = reader(container)
    names = {name for line in re.findall(r"^import (.*)$", code, re.MULTILINE) for name in re.findall(r"(\w+)(?: as \w+)?", line)}
    assert names - set(sys.stdlib_module_names) - {"as", "np"} == packages
    assert len(code.strip().splitlines()) <= 24


def test_the_page_has_every_formula_of_the_manifest():
    for op in ("Dense", "ScaleShift", "Conv2D", "Conv2DTranspose"):
        formula = CONVENTIONS[op].split(";")[0]
        assert f"`{formula}`" in PAGE
    for op in ("Dense", "Conv2D", "DepthwiseConv2D", "Conv2DTranspose"):
        layout = re.search(r"kernel is (\(.*?\))", CONVENTIONS[op])
        assert layout is not None and f"`kernel` {layout[1]}" in PAGE


def test_a_changed_weight_is_noticed_by_the_reader(tmp_path):
    kernel = np.full((2, 2), 1.25, "f4")
    layer = Layer("d", "Dense", ["x"], arrays={"kernel": InMemory(kernel)})
    path = tmp_path / "net.h5"
    write_bundle(path, Program([Port("x", "x", (None, 2), "float32")], [layer], [Port("y", "d", (None, 2), "float32")]))
    data = path.read_bytes()
    path.write_bytes(data.replace(kernel.tobytes(), np.full((2, 2), 1.5, "f4").tobytes()))
    script = reader("h5") + "\nimport sys\npredict(sys.argv[1], {'x': np.ones((1, 2), 'f4')})\n"
    run = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True)
    assert run.returncode == 1 and "AssertionError" in run.stderr
