"""Every mistake that diagnose knows, made on a real network by NumPy code of the tests' own: it is named, and nothing else is."""

import numpy as np
import pytest
from diagnose_oracle import DATA, conv_preact, conv_seed, dense, multi_io, norm, on_input, relu, rows, softmax

from bnexport.diagnose import diagnose
from bnexport.diagnose.hypotheses import REGISTRY
from bnexport.diagnose.hypotheses.norms import RIGHT, RULES

sqrt = np.sqrt


def only(values, *names):
    return {name: values[name] for name in names}


def ask(folder, tmp_path, mine, **options):
    path = tmp_path / "mine.npz"
    np.savez(path, **mine)
    data = folder / "input.csv"
    return diagnose(folder, data if data.exists() else folder / "input.npz", path, **options)


def half(x):
    return x.astype(np.float16).astype(np.float32)


def batch(x, *_, less=0, **__):
    return x.mean(0), x.var(0, ddof=less)


def with_batch(less):
    return lambda x, m, v, b, g, e: norm(x, *batch(x, less=less), b, g, e)


def mask(shape, keep):
    return (np.random.default_rng(5).random(shape) < keep) / np.float32(keep)


def in_half(x=None):
    """The seed as a float16 program computes it: each product, sum and function rounded."""

    def bn(x, m, v, b, g, e):
        inv = half(half(1 / half(sqrt(half(v + np.float32(e))))) * g)
        return half(half(x * inv) + half(b - half(m * inv)))

    from diagnose_oracle import variables

    v = {key: half(value) for key, value in variables("seed").items() if value.dtype.kind == "f"}
    stat = "ExponentialMovingAverage"
    h = half(rows("seed"))
    for i, scope in ((1, "bn"), (2, "bn_1")):
        z = half(half(h @ v[f"W{i}"]) + v[f"b{i}"])
        s = f"bn/{scope}/moments/Squeeze"
        h = relu(bn(z, v[f"{s}/{stat}"], v[f"{s}_1/{stat}"], v[f"{scope}/beta"], v[f"{scope}/gamma"], 1e-3))
    return {"logits": half(half(h @ v["W3"]) + v["b3"])}


def seed(**wrong):
    return only(dense("seed", **wrong), "y")


def formula(function):
    return lambda: seed(norm=function)


MISTAKES = {
    "epsilon outside the square root": ("seed", formula(lambda x, m, v, b, g, e: g * (x - m) / (sqrt(v) + np.float32(e)) + b)),
    "no epsilon": ("bn_on_input", lambda: {"input_bn": on_input(0)}),
    "another epsilon": ("seed", formula(lambda x, m, v, b, g, e: norm(x, m, v, b, g, 1e-2))),
    "variance used as the standard deviation": ("seed", formula(lambda x, m, v, b, g, e: g * (x - m) / (v + np.float32(e)) + b)),
    "standard deviation used as the variance": ("seed", formula(lambda x, m, v, b, g, e: norm(x, m, sqrt(v), b, g, e))),
    "batch statistics instead of the moving ones": ("seed", formula(with_batch(0))),
    "n - 1 instead of n in the variance": ("seed", formula(with_batch(1))),
    "offset (beta) forgotten": ("seed", formula(lambda x, m, v, b, g, e: norm(x, m, v, 0 * b, g, e))),
    "scale (gamma) forgotten": ("seed", formula(lambda x, m, v, b, g, e: norm(x, m, v, b, 0 * g + 1, e))),
    "scale and offset (gamma and beta) forgotten": ("seed", formula(lambda x, m, v, b, g, e: norm(x, m, v, 0 * b, 0 * g + 1, e))),
    "scale and offset (gamma and beta) swapped": ("seed", formula(lambda x, m, v, b, g, e: norm(x, m, v, g, b, e))),
    "mean forgotten": ("seed", formula(lambda x, m, v, b, g, e: norm(x, 0, v, b, g, e))),
    "mean and variance swapped": ("bn_after_activation", lambda: only(dense("bn_after_activation", norm=swapped), "n0")),
    "moving statistics never loaded": ("seed", formula(lambda x, m, v, b, g, e: norm(x, 0 * m, 0 * v + 1, b, g, e))),
    "parentheses forgotten": ("seed", formula(lambda x, m, v, b, g, e: g * x - m / sqrt(v + np.float32(e)) + b)),
    "offset (beta) added before the scale": ("seed", formula(lambda x, m, v, b, g, e: g * ((x - m) / sqrt(v + np.float32(e)) + b))),
    "batch norm left out": ("seed", formula(lambda x, *_: x)),
    "numbers of another batch norm": ("inverted_flag", lambda: only(dense("inverted_flag", numbers=[0, 0, 2]), "y")),
    "batch norm after the activation instead of before": ("seed", lambda: seed(order="after_activation")),
    "batch norm before the activation instead of after": (
        "bn_after_activation",
        lambda: only(dense("bn_after_activation", order="before_activation"), "y"),
    ),
    "activation forgotten": ("seed", lambda: seed(activation=lambda x: x)),
    "another activation": ("seed", lambda: seed(activation=lambda x: np.where(x > 0, x, np.float32(0.2) * x))),
    "softmax left out": ("seed", lambda: seed(softmax=lambda x: x)),
    "softmax applied once too often": ("seed", lambda: seed(softmax=lambda x: softmax(softmax(x)))),
    "dropout scaled at inference": ("seed", lambda: seed(hidden=lambda h, i: h * np.float32(0.8) if i == 1 else h)),
    "dropout left on": ("seed", lambda: dropped()),
    "input scaled differently": ("seed", lambda: seed(x=rows("seed") * 255)),
    "columns of the input in another order": ("seed", lambda: seed(x=rows("seed")[:, sorted(range(64), key=str)])),
    "low precision": ("seed", in_half),
    "weights written with few decimals": ("seed_named", lambda: only(dense("seed_named", **decimals(2)), "y")),
    "raw weights instead of averaged ones, or the reverse": ("polyak", lambda: dict(np.load(DATA / "polyak" / "expected_ema.npz"))),
    "bias forgotten": ("seed", lambda: seed(bias=lambda b: 0 * b)),
    "kernel transposed": ("inverted_flag", lambda: only(dense("inverted_flag", kernel=lambda k, i: k.T if i == 1 else k), "y")),
    "convolution kernel flipped": ("conv_seed", lambda: only(conv_seed(kernel=lambda k: k[::-1, ::-1]), "y")),
    "channels first instead of last": ("conv_seed", lambda: only(conv_seed(flat=lambda x: x.transpose(0, 3, 1, 2).reshape(len(x), -1)), "y")),
    "rows and columns of the image swapped": (
        "conv_seed",
        lambda: only(conv_seed(image=lambda x: x.reshape(-1, 8, 8, 1).transpose(0, 2, 1, 3)), "y"),
    ),
    "maximum and average pooling confused": ("conv_seed", lambda: only(conv_seed(pool=lambda x: x.mean((2, 4))), "y")),
    "shortcut (residual connection) forgotten": ("conv_preact", lambda: only(conv_preact(shortcut=0), "y")),
    "layers in another order": ("conv_preact", lambda: only(conv_preact("conv2", "conv1"), "y")),
    "inputs of a concatenation swapped": (
        "multi_io",
        lambda: only(multi_io(lambda top, bottom: np.concatenate([bottom, top], 1)), "digit_probabilities"),
    ),
}


WITH_TENSORFLOW = ("SAME padding on the wrong side", "images in another layout", "red and blue swapped", "images mirrored")
"""Those that no fixture's network can make are tried on live ones, in test_diagnose.py."""


def swapped(x, m, v, b, g, e):
    with np.errstate(invalid="ignore"):
        return norm(x, v, m, b, g, e)


def dropped():
    """The seed with a random mask behind its second layer; what comes out there, and at the end."""
    values = dense("seed", hidden=lambda h, i: h * mask(h.shape, 0.7).astype(np.float32) if i == 1 else h)
    clean = dense("seed")["h1"]
    return {"dropout/SelectV2": clean * mask(clean.shape, 0.7).astype(np.float32), "y": values["y"]}


def decimals(count):
    def bn(x, m, v, b, g, e):
        return norm(x, *(np.round(values, count) for values in (m, v, b, g)), e)

    return {"norm": bn, "kernel": lambda k, i: np.round(k, count), "bias": lambda b: np.round(b, count)}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_named(name, tmp_path):
    fixture, make = MISTAKES[name]
    result = ask(DATA / fixture, tmp_path, make())
    assert not result.agrees
    assert [e.hypothesis.name for f in result.findings for e in f.explanations] == [name]
    assert result.findings[0].explanations[0].explained == len([c for c in result.compared if not c.difference.agrees])


def test_every_hypothesis_is_tested():
    assert {h.name for h in REGISTRY} == {*MISTAKES, *WITH_TENSORFLOW}


@pytest.mark.parametrize("make", [lambda: dense("seed"), lambda: dense("inverted_flag")], ids=["seed", "inverted_flag"])
def test_the_oracle_is_right(make, request):
    name = request.node.callspec.id
    with np.load(DATA / name / "expected.npz") as expected:
        assert np.abs(make()["y"] - expected["y"]).max() < 1e-6


def test_the_oracle_of_convolutions_is_right():
    for name, make, output in (("conv_seed", conv_seed, "y"), ("conv_preact", conv_preact, "y"), ("multi_io", multi_io, "digit_probabilities")):
        with np.load(DATA / name / "expected.npz") as expected:
            assert np.abs(make()[output] - expected[output]).max() < 2e-6


@pytest.mark.parametrize(("name", "rule"), [(n, r) for n, (_, rules) in RULES.items() for r in rules if r.formula != RIGHT.formula])
def test_a_formula_says_what_is_computed(name, rule):
    from bnexport.diagnose.hypotheses.norms import Terms

    terms = Terms(*(np.float64(v) for v in (0.7, -0.3, 0.21, 1.7, 0.4, 1e-3)))
    assert rule(terms) == pytest.approx(eval(rule.formula, {"sqrt": np.sqrt}, terms.named()), rel=1e-14)
    assert rule(terms) != pytest.approx(RIGHT(terms))
