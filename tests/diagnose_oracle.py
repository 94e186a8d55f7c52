"""The networks of some fixtures in NumPy, float32, with a place for every mistake. Nothing here is bnexport's but the reading of variables."""

import json
from pathlib import Path

import numpy as np

from bnexport.checkpoint import open_checkpoint

DATA = Path(__file__).parents[1] / "fixtures" / "data"


def variables(name):
    with open_checkpoint(DATA / name) as checkpoint:
        return {key: checkpoint.read(key) for key in checkpoint}


def rows(name):
    return np.loadtxt(DATA / name / "input.csv", delimiter=",").astype(np.float32)


def norm(x, mean, var, beta, gamma, eps):
    return gamma * (x - mean) / np.sqrt(var + np.float32(eps)) + beta


def relu(x):
    return np.maximum(x, np.float32(0))


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


ACTIVATIONS = {"relu": relu, "tanh": np.tanh, "softmax": lambda x: x, None: lambda x: x}


def dense(
    name,
    *,
    x=None,
    norm=norm,
    order=None,
    kernel=lambda k, i: k,
    bias=lambda b: b,
    activation=None,
    hidden=lambda h, i: h,
    softmax=softmax,
    numbers=None,
):
    """A fixture that is a chain of dense layers, as its fixture.json lists them: z0, n0, h0, z1, …, y.

    Args:
        norm: batch norm, of x, mean, var, beta, gamma and epsilon.
        order: where it stands.
        kernel, bias: what becomes of the kernel of layer i, and of all biases.
        hidden: what becomes of the result of layer i before the next one takes it.
        numbers: the layer whose batch norm's numbers layer i takes.
    """
    v = variables(name)
    layers = json.loads((DATA / name / "fixture.json").read_text())["layers"]
    h = rows(name) if x is None else x
    out = {}
    for i, layer in enumerate(layers):
        act = activation if activation and layer["activation"] in ("relu", "tanh") else ACTIVATIONS[layer["activation"]]
        h = h @ kernel(v[layer["kernel"]], i)
        if layer["bias"]:
            h = h + bias(v[layer["bias"]])
        out[f"z{i}"] = h
        if layer["bn"]:
            b = layers[numbers[i]]["bn"] if numbers else layer["bn"]
            of = [v[b["mean"]], v[b["variance"]], v[b["beta"]], v[b["gamma"]], b["epsilon"]]
            if (order or layer["order"]) == "before_activation":
                out[f"n{i}"] = norm(h, *of)
                out[f"h{i}"] = h = act(out[f"n{i}"])
            else:
                out[f"h{i}"] = act(h)
                out[f"n{i}"] = h = norm(out[f"h{i}"], *of)
        else:
            h = act(h)
        h = hidden(h, i)
    out["y"] = softmax(h)
    return {key: value.astype(np.float32) for key, value in out.items()}


def on_input(eps):
    """The batch norm straight on the input, three of whose units have the variance 0."""
    v = variables("bn_on_input")
    scope = "input_bn/input_bn/moments/Squeeze"
    moving = v[f"{scope}/ExponentialMovingAverage"], v[f"{scope}_1/ExponentialMovingAverage"]
    with np.errstate(divide="ignore", invalid="ignore"):
        return norm(rows("bn_on_input"), *moving, v["input_bn/beta"], v["input_bn/gamma"], eps)


def conv(x, kernel):
    """3 x 3, stride 1, SAME: y[i, j] = sum over a, b of padded x[i + a, j + b] * kernel[a, b]."""
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    _, height, width, _ = x.shape
    return sum(padded[:, a : a + height, b : b + width] @ kernel[a, b] for a in range(3) for b in range(3))


def conv_seed(
    *,
    kernel=lambda k: k,
    image=lambda x: x.reshape(-1, 8, 8, 1),
    flat=lambda x: x.reshape(len(x), -1),
    norm=norm,
    pool=lambda windows: windows.max((2, 4)),
):
    """conv, bias, batch norm, relu, 2 x 2 max pooling, dense, relu, dense, softmax."""
    v = variables("conv_seed")
    z = conv(image(rows("conv_seed")), kernel(v["conv1/W"])) + v["conv1/b"]
    bn = json.loads((DATA / "conv_seed" / "fixture.json").read_text())["layers"][0]["bn"]
    n = norm(z, v[bn["mean"]], v[bn["variance"]], v[bn["beta"]], v[bn["gamma"]], bn["epsilon"])
    pooled = pool(relu(n).reshape(-1, 4, 2, 4, 2, 6))
    h = relu(flat(pooled) @ v["fc1/W"] + v["fc1/b"])
    logits = h @ v["fc2/W"] + v["fc2/b"]
    return {"conv1/BiasAdd": z, "MaxPool": pooled, "fc2/add": logits, "y": softmax(logits)}


def conv_preact(first="conv1", second="conv2", shortcut=1):
    """The pre-activation block, with its two convolutions under the names of their kernels, and how much of its shortcut is added."""
    v = variables("conv_preact")

    def bn(x, scope):
        return norm(x, v[f"{scope}/pop_mean"], v[f"{scope}/pop_var"], v[f"{scope}/beta"], v[f"{scope}/gamma"], 1e-3)

    stem = conv(rows("conv_preact").reshape(-1, 8, 8, 1), v["stem"])
    inner = conv(relu(bn(stem, "bn1")), v[first])
    block = shortcut * stem + conv(relu(bn(inner, "bn2")), v[second])
    features = relu(bn(block, "bn3")).mean((1, 2))
    return {"block": block, "features": features, "y": softmax(features @ v["W"] + v["b"])}


def multi_io(join=lambda top, bottom: np.concatenate([top, bottom], 1)):
    """Two inputs, joined; a skip connection; two outputs."""
    v = variables("multi_io")
    with np.load(DATA / "multi_io" / "input.npz") as x:
        top, bottom = x["top_half"], x["bottom_half"].reshape(-1, 32)
    scope = "top/bn/top/bn/moments/Squeeze"
    z = top @ v["top/W"] + v["top/b"]
    n = norm(z, v[f"{scope}/ExponentialMovingAverage"], v[f"{scope}_1/ExponentialMovingAverage"], v["top/bn/beta"], v["top/bn/gamma"], 1e-3)
    joined = join(relu(n), relu(bottom @ v["bottom/W"] + v["bottom/b"]))
    skip = joined + relu(joined @ v["block/W"] + v["block/b"])
    return {"skip": skip, "digit_probabilities": softmax(skip @ v["digit/W"] + v["digit/b"])}
