"""The memory that a conversion takes: about a piece of an array, not the model."""

import subprocess
import sys

import google_crc32c
import numpy as np
import pytest
from checkpoint_forge import entry, header, table

LAYERS, WIDTH = 12, 2048
CHECKPOINT_BYTES = LAYERS * WIDTH * WIDTH * 4
BUDGET = 40 << 20

SCRIPT = """
import resource, sys
from bnexport.conversion import convert
from bnexport.options import Options
small, large, out, graph = sys.argv[1:]
options = Options() if graph == "graph" else Options(activation="relu", epsilon=1e-3)
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
convert(small, out, options)
before = peak()
convert(large, out, options)
print(peak() - before)
"""


def added_memory(small, large, out, graph):
    """By how much converting `large` raised the peak of a process that has converted `small`."""
    run = subprocess.run([sys.executable, "-c", SCRIPT, str(small), str(large), str(out), graph], capture_output=True, text=True, check=True)
    return int(run.stdout)


def forge(prefix, layers, width):
    """A checkpoint of the seed's idiom without a graph: dense layers and a batch norm for each."""
    vector = np.linspace(0.5, 1.5, width, dtype=np.float32).tobytes()
    kernel = np.random.default_rng(0).normal(0, 0.02, (width, width)).astype(np.float32).tobytes()
    kinds = {"W": ([width, width], kernel), "b": ([width], vector)}
    for role in ("beta", "gamma", "moments/Squeeze/ExponentialMovingAverage", "moments/Squeeze_1/ExponentialMovingAverage"):
        kinds[f"bn/{role}"] = ([width], vector)
    entries, offset = {b"": header(1)}, 0
    with prefix.with_name(f"{prefix.name}.data-00000-of-00001").open("wb") as file:
        for layer in range(layers):
            for name, (shape, data) in kinds.items():
                crc = google_crc32c.value(data)
                stored = (crc >> 15 | crc << 17 & 0xFFFFFFFF) + 0xA282EAD8 & 0xFFFFFFFF
                entries[f"layer{layer}/{name}".encode()] = entry(1, shape, b"", offset, size=len(data), crc=stored)
                offset += file.write(data)
    prefix.with_name(f"{prefix.name}.index").write_bytes(table(entries))
    return prefix


@pytest.mark.parametrize("suffix", [".npz", ".h5"])
def test_without_a_graph(tmp_path, suffix):
    pytest.importorskip("resource")
    small, large = forge(tmp_path / "small.ckpt", 2, 16), forge(tmp_path / "large.ckpt", LAYERS, WIDTH)
    out = tmp_path / f"out{suffix}"
    assert added_memory(small, large, out, "names") < BUDGET
    assert out.stat().st_size > CHECKPOINT_BYTES


@pytest.mark.tensorflow
def test_with_a_graph(tf, live, tmp_path):
    """And one whose optimiser doubles the checkpoint: what is not needed is not read."""
    pytest.importorskip("resource")
    from live_graph import Net, dense, rows

    def build(layers, width):
        x = tf.placeholder(tf.float32, [None, width], name="x")
        h = x
        for i in range(layers):
            with tf.variable_scope(f"layer{i}"):
                h = dense(tf, h, width, "fc")
                mean, variance, beta, gamma = (tf.get_variable(n, [width]) for n in ("mean", "variance", "beta", "gamma"))
                h = tf.nn.relu(tf.nn.batch_normalization(h, mean, variance, beta, gamma, 1e-3))
        y = tf.identity(h, name="y")
        tf.train.MomentumOptimizer(0.1, 0.9).minimize(tf.reduce_mean(tf.square(y - tf.placeholder(tf.float32, [None, width]))))
        return Net({x: rows(1, width)}, [y])

    layers = LAYERS // 2
    kernel = np.full((WIDTH, WIDTH), 1e-3, np.float32)
    values = {f"layer{i}/fc/w{slot}": kernel for i in range(layers) for slot in ("", "/Momentum")}
    small, large = live(lambda: build(2, 16)), live(lambda: build(layers, WIDTH), values)
    assert large.prefix.with_name(f"{large.prefix.name}.data-00000-of-00001").stat().st_size > CHECKPOINT_BYTES
    assert added_memory(small.prefix, large.prefix, tmp_path / "out.npz", "graph") < BUDGET
