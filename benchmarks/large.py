"""Makes a checkpoint of the seed's idiom of any size: `python -m benchmarks.large FOLDER GIGABYTES [--adam]`.

TensorFlow builds the graph, as a training script would, and writes the .meta. No session holds the variables: their values are drawn and written
piece by piece, as TensorFlow's saver would lay them out.
"""

import argparse
import os
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np

from bnexport.program import PIECE_BYTES
from tests.checkpoint_forge import entry, header, table

LAYERS = 5
FLOAT32 = 1
"""TensorFlow's number of the type (DT_FLOAT)."""


def build(width: int, *, adam: bool) -> Any:
    """The seed's network, `width` wide, in the current graph, as the fixture `seed` has it; its saver."""
    from fixtures.seed import batch_norm, biases, heads, tf, weights

    x = tf.placeholder(tf.float32, [None, width], name="x")
    phase_train = tf.placeholder(tf.bool, name="phase_train")
    h = x
    for i in range(1, LAYERS):
        h = tf.nn.relu(batch_norm(tf.matmul(h, weights([width, width], f"W{i}")) + biases(width, f"b{i}"), width, phase_train))
    logits = tf.add(tf.matmul(h, weights([width, width], f"W{LAYERS}")), biases(width, f"b{LAYERS}"), name="logits")
    tf.nn.softmax(logits, name="y")
    heads(logits, tf.train.AdamOptimizer(0.01) if adam else tf.train.GradientDescentOptimizer(0.1))
    return tf.train.Saver()


def write(folder: Path, gigabytes: float, *, adam: bool) -> None:
    """model.ckpt.{index,data,meta} in `folder`. Adam's slots are zeros, which take no room on a disk that can leave holes."""
    from fixtures.common import behaviour, tf

    width = round((gigabytes * 1e9 / 4 / LAYERS) ** 0.5)
    prefix = folder / "model.ckpt"
    with behaviour():
        saver = build(width, adam=adam)
        saver.export_meta_graph(f"{prefix}.meta")
        shapes = {v.op.name: tuple(v.shape.as_list()) for v in tf.global_variables()}
    entries = {b"": header()}
    generator = np.random.default_rng(0)
    with Path(f"{prefix}.data-00000-of-00001").open("wb") as data:
        for name, shape in sorted(shapes.items()):
            offset = data.tell()
            checksum = _hole(data, shape) if "Adam" in name else _numbers(data, name, shape, generator)
            entries[name.encode()] = entry(FLOAT32, shape, b"", offset, size=data.tell() - offset, crc=_masked(checksum))
        data.truncate()
    Path(f"{prefix}.index").write_bytes(table(entries))
    (folder / "checkpoint").write_text('model_checkpoint_path: "model.ckpt"\nall_model_checkpoint_paths: "model.ckpt"\n')


def _numbers(data: Any, name: str, shape: tuple[int, ...], generator: Any) -> int:
    left, checksum = int(np.prod(shape)), 0
    while left:
        count = min(left, PIECE_BYTES // 4)
        piece = generator.standard_normal(count, np.float32) * np.float32(0.02)
        if "Squeeze_1" in name or name.endswith("gamma"):  # a variance is positive
            piece = np.abs(piece) + np.float32(0.5)
        checksum = google_crc32c.extend(checksum, piece.tobytes())
        data.write(piece.tobytes())
        left -= count
    return checksum


def _hole(data: Any, shape: tuple[int, ...]) -> int:
    size = int(np.prod(shape)) * 4
    zeros, checksum = bytes(PIECE_BYTES), 0
    for start in range(0, size, PIECE_BYTES):
        checksum = google_crc32c.extend(checksum, zeros[: size - start])
    data.seek(size, os.SEEK_CUR)
    return checksum


def _masked(checksum: int) -> int:
    """As TensorFlow stores checksums (crc32c.h): rotated right by 15, plus a constant."""
    return ((checksum >> 15 | checksum << 17 & 0xFFFFFFFF) + 0xA282EAD8) % 2**32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("gigabytes", type=float)
    parser.add_argument("--adam", action="store_true", help="with Adam's two slots for each variable, which makes three times the size")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    write(options.folder, options.gigabytes, adam=options.adam)


if __name__ == "__main__":
    main()
