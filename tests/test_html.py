"""The page of `inspect --html`: what it says, that nothing can be smuggled into it, and that a real browser shows it without complaint."""

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from checkpoint_forge import write_bundle as forge
from click.testing import CliRunner

from bnexport.cli import main
from bnexport.conversion import convert, to_program
from bnexport.differences import Difference
from bnexport.formats import write_bundle
from bnexport.html.facts import Facts, gather
from bnexport.html.layout import BOX_GAP, place
from bnexport.html.markup import element, text
from bnexport.html.page import page, write_page
from bnexport.html.shapes import followed
from bnexport.html.units import examined
from bnexport.html.values import spread
from bnexport.options import Options
from bnexport.program import InMemory, Layer, Port, Program
from bnexport.runner import Model
from bnexport.verification import LayerCheck, OutputCheck, Verification

DATA = Path(__file__).parents[1] / "fixtures" / "data"
FIXTURES = [
    "seed",
    "seed_zero_debias",
    "conv_preact",
    "conv_fused",
    "bn_on_input",
    "contrib",
    "multi_io",
    "no_meta",
    "savedmodel_v2",
    "tf_layers",
    "v1",
]
VOID = {"br", "hr", "meta", "wbr", "input"}


class Page(HTMLParser):
    """A page taken apart: its text, its elements, and its table of units. An element that is not closed where it should be is an error."""

    def __init__(self, html):
        super().__init__(convert_charrefs=True)
        self.elements, self.words, self.open, self.rows = [], [], [], []
        self.feed(html)
        self.close()
        assert self.open == []
        self.text = re.sub(r"\s+", " ", "".join(self.words))

    def handle_starttag(self, tag, attrs):
        assert len(dict(attrs)) == len(attrs)
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag == "td":
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "script"):
            self.words.append(data)
        if "td" in self.open:
            self.rows[-1][-1] += data

    def values(self, attribute):
        return [attrs[attribute] for _, attrs in self.elements if attribute in attrs]


def shown(path, options=None):
    return Page(page(gather(path, options)))


def path_of(fixture):
    return DATA / fixture / json.loads((DATA / fixture / "fixture.json").read_text())["prefix"]


@pytest.mark.parametrize("fixture", FIXTURES)
def test_the_page_names_everything(fixture):
    truth = json.loads((DATA / fixture / "fixture.json").read_text())
    read = shown(path_of(fixture))
    program = to_program(path_of(fixture))
    for layer in truth["layers"]:
        norm = layer["bn"] or {}
        for variable in (layer["kernel"], layer["bias"], *(norm.get(role) for role in ("gamma", "beta", "mean", "variance"))):
            assert variable is None or variable in read.text
        if norm:
            assert f"{norm['epsilon']:.7g}" in read.text
    for layer in program.layers:
        assert layer.name in read.text
    boxes = [target for tag, attrs in read.elements if tag == "g" and (target := attrs.get("data-target"))]
    assert boxes == ["#inputs"] * len(program.inputs) + [f"#layer-{n}" for n in range(len(program.layers))] + ["#outputs"] * len(program.outputs)
    for warning in program.conversion["warnings"]:
        assert warning in read.text
    for flag in program.conversion.get("set", ()):
        assert flag["why"] in read.text
    for entry in (*program.conversion["unfolded"], *program.conversion.get("assumed", ())):
        assert entry.partition(": ")[2] in read.text
    for port in (*program.inputs, *program.outputs):
        assert port.name in read.text


@pytest.mark.parametrize("fixture", FIXTURES)
def test_links_lead_somewhere_and_nothing_leads_away(fixture):
    html = page(gather(path_of(fixture)))
    read = Page(html)
    ids = read.values("id")
    assert len(ids) == len(set(ids))
    links = read.values("href") + read.values("data-target")
    assert links and all(link.startswith("#") and link[1:] in ids for link in links)
    assert read.values("src") == read.values("style") == []
    assert not re.search(r"https?://|\bsrc=|url\(|@import|<link|<iframe|<img", html)
    assert all(attrs.get("aria-label") or tag == "title" for tag, attrs in read.elements if attrs.get("role") == "region")


def test_the_same_network_gives_the_same_page(tmp_path):
    for name in ("a", "b"):
        write_page(DATA / "conv_preact", tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_bundle_shows_what_is_left_of_a_checkpoint(tmp_path):
    convert(DATA / "seed", tmp_path / "seed.npz")
    before, after = shown(DATA / "seed"), shown(tmp_path / "seed.npz")
    for name in ("bn/gamma", "bn/bn/moments/Squeeze_1/ExponentialMovingAverage", "W1", "b1", "0.001 from the graph", "keep_prob"):
        assert name in after.text
    assert "kernel before folding" in before.text and "folding scale" in before.text
    assert "kernel before folding" not in after.text
    steps = [attrs["class"] for tag, attrs in before.elements if tag == "li" and attrs.get("class", "").startswith("step")]
    assert steps == ["step kernel", "step shift", "step norm", "step activation"] * 2 + ["step kernel", "step shift", "step activation"]
    # Whether a batch norm stood before the kernel or behind it, only the checkpoint tells; here the parts' own order is that of the graph.
    assert steps == [attrs["class"] for tag, attrs in after.elements if tag == "li" and attrs.get("class", "").startswith("step")]


def test_a_batch_norm_before_its_layer_stands_before_it():
    facts = gather(DATA / "bn_on_input")
    truth = json.loads((DATA / "bn_on_input" / "fixture.json").read_text())
    kinds = [[step.kind for step in layer.made_of] for layer in facts.layers]
    assert kinds[0].index("norm") < kinds[0].index("kernel"), truth["about"]


def test_a_checkpoint_that_cannot_be_converted_has_a_page(tmp_path):
    rng = np.random.default_rng(0)
    forge(tmp_path / "model.ckpt", {name: (1, rng.normal(size=(3, 5)).astype(np.float32)) for name in ("a/W", "b/W")})
    read = shown(tmp_path / "model.ckpt")
    assert "cannot be converted" in read.text
    assert "a/W" in read.text


# ---- smuggling

EVIL = '<script>alert("x")<'  # with the slash and `script>` that a name brings along this would be a whole element
NAMES = [f"{EVIL}/script>1", "'\"><img src=x onerror=alert(1)>&amp;", "\u202etxt\x00\x1b[31m\ud800"]


def evil_program():
    arrays = {"kernel": InMemory(np.ones((2, 2), np.float32)), "bias": InMemory(np.zeros(2, np.float32))}
    layers = []
    for source, name in zip([NAMES[2][:4], *NAMES], NAMES[:2], strict=False):
        norm = {"node": name, "op": EVIL, "gamma": name, "mean": EVIL, "variance": EVIL + name, "epsilon": 0.1, "epsilon_from": EVIL}
        layers.append(Layer(name, "Dense", [source], arrays=arrays, provenance={"node": name, "kernel": EVIL, "parts": [norm], "not_folded": EVIL}))
    record = {
        "warnings": [EVIL],
        "set": [{"node": EVIL, "value": EVIL, "why": EVIL}],
        "assumed": [EVIL],
        EVIL: [EVIL],
        "unfolded": [EVIL],
        "source": NAMES[:2],
    }
    ports = [Port(name, tensor, (None, 2), "float32") for name, tensor in ((NAMES[0], NAMES[2][:4]), (NAMES[1], NAMES[1]))]
    return Program(ports[:1], layers, ports[1:], record)


def untouched(html):
    """That a page holds no element or attribute but the page's own."""
    read = Page(html)
    assert [tag for tag, _ in read.elements].count("script") == 1
    assert {tag for tag, _ in read.elements}.isdisjoint({"img", "iframe", "object", "embed", "base", "form"})
    assert not [key for _, attrs in read.elements for key in attrs if key.startswith("on")]
    return read


def test_names_cannot_become_elements(tmp_path):
    write_bundle(tmp_path / "evil.npz", evil_program())
    read = untouched(page(gather(tmp_path / "evil.npz")))
    for name in (EVIL, *NAMES[:2]):
        assert name in read.text


def test_names_in_a_checkpoint_cannot_either(tmp_path):
    rng = np.random.default_rng(0)
    variables = {f"{EVIL}/script>1/W": (3, 4), f"{EVIL}/script>1/b": (4,), f"{EVIL}/script>2/W": (4, 2), f"{EVIL}/script>2/b": (2,)}
    forge(tmp_path / "model.ckpt", {name: (1, rng.normal(size=size).astype(np.float32)) for name, size in variables.items()})
    read = untouched(page(gather(tmp_path / "model.ckpt")))
    assert set(variables) <= {row[0] for row in read.rows if row}


def test_what_cannot_be_seen_is_written_out():
    assert text(NAMES[2]) == r"\u202etxt\x00\x1b[31m\ud800"
    assert element("a", "<", href='"&') == '<a href="&quot;&amp;">&lt;</a>'


# ---- units


def one_layer(kernel, bias, activation, before):
    layers = [
        Layer("first", before, ["x"]),
        Layer("second", "Dense", ["first"], arrays={"kernel": InMemory(kernel), "bias": InMemory(bias)}, activation=activation),
    ]
    return Program([Port("x", "x", (None, len(kernel)), "float32")], layers, [Port("y", "second", (None, len(bias)), "float32")])


@pytest.mark.parametrize(("before", "low", "high"), [("Relu", 0, 1e9), ("Sigmoid", 0, 1), ("Relu6", 0, 6), ("Tanh", -1, 1), ("Identity", -1e9, 1e9)])
def test_dead_units_are_those_that_no_input_wakes(before, low, high):
    rng = np.random.default_rng(3)
    kernel = np.where(rng.random((3, 200)) < 0.4, 0, rng.normal(-0.5, 1, (3, 200))).astype(np.float32)
    bias = rng.normal(-1, 1.5, 200).astype(np.float32)
    found = examined(one_layer(kernel, bias, "Relu", before))["second"]
    corners = np.array(np.meshgrid(*[(low, high)] * 3)).reshape(3, -1).T  # a linear function is largest in a corner
    silent = (corners @ kernel.astype(np.float64) + bias).max(axis=0) <= 0
    constant = ~kernel.any(axis=0)
    assert set(found.constant) == set(np.flatnonzero(constant))
    assert set(found.dead) == set(np.flatnonzero(silent & ~constant))
    assert (len(found.dead) > 0) == (before != "Identity")


def test_a_unit_without_a_relu_is_not_dead():
    kernel, bias = -np.ones((2, 2), np.float32), -np.ones(2, np.float32)
    assert examined(one_layer(kernel, bias, None, "Relu"))["second"].dead == ()
    assert examined(one_layer(kernel, bias, "Relu", "Relu"))["second"].dead == (0, 1)


def test_units_worth_a_look_are_listed(tmp_path):
    rng = np.random.default_rng(1)
    first, second = rng.normal(size=(5, 8)), rng.normal(size=(8, 3))
    first[:, 4] = 0
    second[:, 1] = -np.abs(second[:, 1])
    gamma, variance = np.ones(8), rng.uniform(0.5, 2, 8)
    gamma[2], variance[3], variance[5] = 0, 1e-12, 1e-6
    arrays = {"one/W": first, "one/b": np.ones(8), "two/W": second, "two/b": np.array([1, -1, 1]), "three/W": np.ones((3, 2)), "three/b": np.zeros(2)}
    arrays |= {"one/bn/gamma": gamma, "one/bn/beta": np.ones(8), "one/bn/moving_mean": np.zeros(8), "one/bn/moving_variance": variance}
    forge(tmp_path / "model.ckpt", {name: (1, values.astype(np.float32)) for name, values in arrays.items()})
    read = shown(tmp_path / "model.ckpt", Options(activation="relu", epsilon=1e-3))
    listed = {(row[0], row[1]): row[3] for row in read.rows if len(row) == 4}
    assert listed == {
        ("one", "constant: all weights were 0 before folding"): "4",
        ("one", "constant: all weights are 0 after folding"): "2",
        ("one", "one/bn: gamma is 0"): "2",
        ("one", "one/bn: the moving variance has collapsed"): "3",
        ("one", "one/bn: the moving variance is small against epsilon"): "5",
        ("two", "dead: never positive before the Relu"): "1",
    }


def test_a_message_of_several_lines_keeps_them():
    record = {
        "kind": "checkpoint",
        "path": "c",
        "version": 2,
        "graph": None,
        "parameters": 0,
        "layers": [],
        "variables": [],
        "warnings": ["one of\n  a\n  b"],
    }
    assert "<li>one of<br>a<br>b</li>" in page(Facts(record, None))


def test_weights_of_a_diverged_training_are_a_warning(tmp_path):
    arrays = {"one/W": np.full((3, 4), np.nan), "one/b": np.ones(4), "two/W": np.ones((4, 2)), "two/b": np.zeros(2)}
    forge(tmp_path / "model.ckpt", {name: (1, values.astype(np.float32)) for name, values in arrays.items()})
    read = shown(tmp_path / "model.ckpt", Options(activation="relu"))
    assert "weights are NaN or infinite in one: the training had diverged" in read.text


# ---- the parts


def test_histograms_are_those_of_numpy():
    rng = np.random.default_rng(0)
    values = rng.normal(3, 0.1, (300, 200)).astype(np.float32)
    found = spread(InMemory(values))
    wide = values.astype(np.float64)
    inside = wide[(wide >= found.start) & (wide <= found.stop)]
    assert list(found.counts) == pytest.approx(np.histogram(inside, len(found.counts), (found.start, found.stop))[0].tolist(), abs=1)
    assert sum(found.counts) + found.below + found.above == values.size
    assert (found.low, found.high) == (wide.min(), wide.max())
    assert found.mean == pytest.approx(wide.mean(), rel=1e-12)
    assert found.deviation == pytest.approx(wide.std(), rel=1e-9)


def test_an_outlier_does_not_hide_the_rest():
    values = np.concatenate([np.linspace(-1, 1, 1000), [1e6, np.nan, np.inf]]).astype(np.float32)
    found = spread(InMemory(values))
    assert (found.size, found.bad, found.high, found.above) == (1003, 2, 1e6, 1)


def test_values_that_are_all_the_same():
    found = spread(InMemory(np.full(7, 2.0, np.float32)))
    assert (found.counts, found.low, found.high, found.deviation) == ((7,), 2, 2, 0)
    assert spread(InMemory(np.zeros((0, 3), np.float32))).counts == ()


@pytest.mark.parametrize("fixture", ["seed", "conv_preact", "conv_fused", "conv_seed", "multi_io"])
def test_shapes_are_those_of_the_values(fixture):
    program = to_program(DATA / fixture)
    rng = np.random.default_rng(0)
    feeds = {port.name: rng.normal(size=[5 if size is None else size for size in port.shape]).astype(port.dtype) for port in program.inputs}
    values = Model(program).trace(feeds)
    shapes = followed(program)
    assert shapes.keys() == values.keys()
    for tensor, known in shapes.items():
        assert tuple(5 if size is None else size for size in known) == values[tensor].shape


def random_graph(seed):
    rng = np.random.default_rng(seed)
    edges = {(int(rng.integers(max(0, b - 6), b)), b) for b in range(1, 60) for _ in range(int(rng.integers(1, 4)))}
    return [(float(rng.integers(60, 260)), float(rng.integers(30, 80))) for _ in range(60)], sorted(edges)


@pytest.mark.parametrize("seed", range(5))
def test_boxes_do_not_overlap_and_edges_go_down(seed):
    sizes, edges = random_graph(seed)
    placed = place(sizes, edges)
    rows = {}
    for (x, y), (width, height) in zip(placed.centres, sizes, strict=True):
        rows.setdefault(y, []).append((x - width / 2, x + width / 2))
        assert x - width / 2 >= -1e-6 and x + width / 2 <= placed.width + 1e-6 and y + height <= placed.height + 1e-6
    for row in rows.values():
        row.sort()
        assert all(right[0] - left[1] > BOX_GAP - 1e-6 for left, right in pairwise(row))
    for (a, b), bends in zip(edges, placed.bends, strict=True):
        way = [placed.centres[a][1] + sizes[a][1], *(y for _, y in bends), placed.centres[b][1]]
        assert way == sorted(way)


def test_a_chain_is_drawn_straight():
    placed = place([(200.0, 70.0)] * 100, [(n, n + 1) for n in range(99)])
    assert len({x for x, _ in placed.centres}) == 1


# ---- the command


def test_the_command(tmp_path):
    out = tmp_path / "report.html"
    result = CliRunner().invoke(main, ["inspect", str(DATA / "seed"), "--html", str(out)], catch_exceptions=False)
    assert (result.exit_code, result.output) == (0, f"wrote {out}\n")
    assert out.read_text(encoding="utf-8").startswith("<!doctype html>\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--json", "--html", "report.html"], "--json and --html are two ways to show the same: give one of them"),
        (["--html", "nowhere/report.html"], "nowhere/report.html cannot be written: there is no folder"),
    ],
)
def test_what_the_command_refuses(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, ["inspect", str(DATA / "seed"), *arguments])
    assert result.exit_code == 1
    assert message in result.output
    assert list(tmp_path.iterdir()) == []


# ---- verification


def difference_of(values, truth):
    found = Difference()
    found.add(np.asarray(values, np.float64), np.asarray(truth, np.float64))
    return found


def test_errors_are_counted_by_powers_of_two():
    truth = np.array([1.0, -2.0, 3.0, 4.0, 8.0])
    found = difference_of(truth + np.array([0, 2**-20, -(2**-20) * 1.5, 2**-19, 0]), truth)
    assert (found.exact, dict(found.powers), found.count) == (2, {-19: 2, -18: 1}, 5)


def test_the_errors_of_a_verification_have_their_place(tmp_path, monkeypatch):
    monkeypatch.setattr("bnexport.verification._session", lambda *_: None)
    convert(DATA / "seed", tmp_path / "seed.npz")
    out = tmp_path / "report.html"
    command = ["verify", str(DATA / "seed"), str(tmp_path / "seed.npz"), "--input-file", str(DATA / "seed" / "input.csv"), "--html", str(out)]
    result = CliRunner().invoke(main, command, catch_exceptions=False)
    assert (result.exit_code, result.stderr) == (0, f"wrote {out}\n")
    read = untouched(out.read_text(encoding="utf-8"))
    for words in ("Errors against float64", "Within the tolerance", "error against float64, log scale", "largest error", "kernel before folding"):
        assert words in read.text
    marks = [attrs["href"] for tag, attrs in read.elements if tag == "a" and re.match(r"W\d: bundle \d", attrs.get("aria-label", ""))]
    assert marks == ["#layer-0", "#layer-1", "#layer-2"]


def test_a_bundle_that_differs_is_said_to(tmp_path):
    broken = difference_of([1.0, 2.5], [1.0, 2.0])
    layers = [LayerCheck("W1", "Dense", "Relu", "Relu", broken, None, broken.relative)]
    found = Verification("c", "b", 2, {"x": EVIL}, "float32", 1e-5, layers, [OutputCheck("y", broken)], unavailable=EVIL)
    read = untouched(page(gather(DATA / "seed"), found))
    assert "Beyond the tolerance, from the layer W1 on." in read.text
    assert "0.25" in read.text and EVIL in read.text
    assert [attrs.get("class") for tag, attrs in read.elements if tag == "div" and attrs.get("class") == "failed"] == ["failed"]


# ---- in a browser

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
SWITCHES = [
    *(
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
    ),
    *("--disable-sync", "--disable-extensions", "--virtual-time-budget=4000", "--enable-logging=stderr", "--v=0", "--dump-dom"),
]
PROBE = """
<script>
window.addEventListener("load", () => setTimeout(() => {
  const wide = document.documentElement;
  const graph = document.getElementById("graph");
  const before = graph.getAttribute("width");
  document.querySelector("[data-zoom=in]").click();
  const after = graph.getAttribute("width");
  const find = document.getElementById("find");
  find.value = "w2";
  find.dispatchEvent(new Event("input"));
  const left = Array.from(document.querySelectorAll(".card")).filter((card) => !card.hidden).map((card) => card.dataset.name);
  find.value = "";
  find.dispatchEvent(new Event("input"));
  const bars = document.querySelector("svg[data-counts]");
  const frame = bars.getBoundingClientRect();
  bars.dispatchEvent(new PointerEvent("pointermove", { clientX: frame.left + 1, clientY: frame.top + 1 }));
  wide.style.scrollBehavior = "auto";
  document.getElementById("layer-2").scrollIntoView();
  window.dispatchEvent(new Event("scroll"));
  const color = (selector, property) => getComputedStyle(document.querySelector(selector))[property];
  setTimeout(() => report({
    overflow: wide.scrollWidth - wide.clientWidth, width: window.innerWidth, zoom: after / before, left,
    reading: bars.closest("figure").querySelector(".numbers").textContent,
    paper: color("body", "backgroundColor"), ink: color("body", "color"), quiet: color(".numbers", "color"),
    current: Array.from(document.querySelectorAll(".node.current")).map((node) => node.dataset.target),
  }), 200);
}, 300));
const report = (found) => {
  if (parent === window) document.title = JSON.stringify(found);
  else parent.postMessage(JSON.stringify(found), "*");
};
</script>
"""

FRAME = """<!doctype html><title>none</title><iframe src="page.html" width="WIDTH" height="800" style="border: 0"></iframe>
<script>window.addEventListener("message", (event) => { document.title = event.data; });</script>"""
"""Around a page that is to be narrower than a browser's window can be."""


def browse(file, profile, *, dark=False):
    """The title and the text of a page as a browser leaves it, and what it complained of."""
    switches = [*SWITCHES, "--window-size=1400,1000", f"--user-data-dir={profile}", f"--blink-settings=preferredColorScheme={0 if dark else 1}"]
    done = subprocess.run([BROWSER, *switches, file.as_uri()], capture_output=True, text=True, timeout=120, check=True)
    complaints = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    title = re.search("<title>(.*?)</title>", done.stdout)[1].replace("&amp;", "&")
    return title, done.stdout, complaints


browser = pytest.mark.skipif(BROWSER is None, reason="there is no Chromium or Chrome on the path")


def without_policy(html):
    """A page into which a test may put a script of its own."""
    bare, count = re.subn(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", html)
    assert count == 1
    return bare


@pytest.fixture
def seed_page():
    return page(gather(DATA / "seed"))


@browser
def test_a_browser_runs_the_page_under_its_own_policy(tmp_path, seed_page):
    file = tmp_path / "page.html"
    file.write_text(seed_page, encoding="utf-8")
    title, dom, complaints = browse(file, tmp_path / "profile")
    assert (title, complaints) == ("model.ckpt · bnexport", [])
    assert 'class="canvas draggable"' in dom
    assert not re.search(r'class="tools"[^>]*hidden', dom)


@browser
def test_complaints_are_seen_and_other_scripts_are_not_run(tmp_path, seed_page):
    file = tmp_path / "page.html"
    file.write_text(seed_page.replace("</body>", '<script>document.title = "run"</script></body>'), encoding="utf-8")
    title, _, complaints = browse(file, tmp_path / "profile")
    assert title == "model.ckpt · bnexport"
    assert len(complaints) == 1 and "Content Security Policy" in complaints[0]


def luminance(color):
    """Relative luminance by WCAG 2.1."""
    channels = [int(value) / 255 for value in re.findall(r"\d+", color)[:3]]
    return np.dot([0.2126, 0.7152, 0.0722], [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels])


def contrast(one, other):
    """The ratio of two colours by WCAG 2.1."""
    high, low = sorted([luminance(one), luminance(other)], reverse=True)
    return (high + 0.05) / (low + 0.05)


@browser
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1400, 380])
def test_wide_and_narrow_light_and_dark(tmp_path, seed_page, width, dark):
    file, frame = tmp_path / "page.html", tmp_path / "frame.html"
    file.write_text(without_policy(seed_page).replace("</body>", PROBE + "</body>"), encoding="utf-8")
    frame.write_text(FRAME.replace("WIDTH", str(width)), encoding="utf-8")
    title, _, complaints = browse(frame if width < 500 else file, tmp_path / "profile", dark=dark)
    found = json.loads(title)
    assert complaints == []
    assert (found["overflow"], found["left"]) == (0, ["w2"])
    assert found["width"] == width
    assert found["current"] == ["#layer-2"]
    assert found["zoom"] == pytest.approx(1.25)
    assert re.fullmatch("\\d+ from \N{MINUS SIGN}[\\d.]+ to \N{MINUS SIGN}[\\d.]+", found["reading"])
    assert (luminance(found["paper"]) < 0.05) == dark
    assert contrast(found["paper"], found["ink"]) > 7
    assert contrast(found["paper"], found["quiet"]) > 4.5


@browser
@pytest.mark.parametrize("source", ["conv_preact", "no_meta", "evil"])
def test_other_pages_are_shown_without_complaint(tmp_path, source):
    file = tmp_path / "page.html"
    write_bundle(tmp_path / "evil.npz", evil_program())
    write_page(tmp_path / "evil.npz" if source == "evil" else DATA / source, file)
    title, dom, complaints = browse(file, tmp_path / "profile")
    assert complaints == []
    assert title.endswith(" · bnexport")
    assert 'class="canvas draggable"' in dom
