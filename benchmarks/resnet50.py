"""ResNet50 of keras.applications at 224 x 224: images per second beside onnxruntime and TensorFlow, and the time of conversion beside tf2onnx's."""

import json
import subprocess
import sys
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.measure import (
    BNEXPORT,
    PEERS,
    REPOSITORY,
    WORK,
    Table,
    alternating,
    clean_environment,
    clean_process,
    installed,
    machine,
    parser,
    process,
    ratio_text,
    repeated,
    seconds_text,
    show,
)

SAVED_MODEL, BUNDLE, ONNX = WORK / "resnet50", WORK / "resnet50.npz", WORK / "resnet50.onnx"
TF2ONNX = (sys.executable, "-m", "tf2onnx.convert", "--saved-model", SAVED_MODEL, "--opset", "17", "--output", ONNX)
TOLERANCE = 1e-5


def main() -> None:
    options_parser = parser(__doc__, rounds=5)
    options_parser.add_argument("--batch", type=int, action="append", help="only this batch; repeatable (default 1 and 8)")
    options_parser.add_argument("--cores", type=int, action="append", help="only this many cores; repeatable (default 1 and 2)")
    options_parser.add_argument(
        "--measure", action="store_true", help="measure in this process and print the seconds as JSON; used by the benchmark itself"
    )
    options = options_parser.parse_args()
    if options.measure:
        print(json.dumps(_measured(options)))
        return
    WORK.mkdir(parents=True, exist_ok=True)
    if not SAVED_MODEL.exists():
        process([sys.executable, PEERS / "keras_resnet50.py", SAVED_MODEL])
    conversion = _conversion(options)
    table = Table(
        "ResNet50 at 224 x 224, in process", ("cores", "batch", "bnexport images/s", "peer", "its images/s", "bnexport of the peer", "goal")
    )
    for cores in options.cores or (1, 2):
        for batch in options.batch or (1, 8):
            command = [
                sys.executable,
                "-m",
                "benchmarks.resnet50",
                "--measure",
                "--cores",
                str(cores),
                "--batch",
                str(batch),
                "--rounds",
                str(options.rounds),
            ]
            done = subprocess.run(command, capture_output=True, env=clean_environment(), cwd=REPOSITORY, text=True)
            if done.returncode:
                raise RuntimeError(done.stderr)
            seconds = json.loads(done.stdout.splitlines()[-1])
            ours = seconds.pop("bnexport")
            for peer, theirs in seconds.items():
                goal = "0.6" if peer == "onnxruntime" else "1"
                table.add(str(cores), str(batch), _rate(batch, ours), peer, _rate(batch, theirs), ratio_text(theirs, ours), goal)
    table.notes.append(f"The median of {options.rounds} runs of each in turn. {machine('bnexport', 'numpy', 'onnxruntime', 'tensorflow', 'tf2onnx')}")
    for each in (conversion, table):
        show(each, markdown=options.markdown)
        print()


def _rate(batch: int, seconds: list[float]) -> str:
    return f"{batch / sorted(seconds)[len(seconds) // 2]:.1f}"


def _conversion(options: Namespace) -> Table:
    """Converts with both, and leaves what they wrote for the measurements."""
    table = Table("convert, ResNet50 as a SavedModel, whole process", ("", "seconds", "bnexport convert", "times faster", "goal"))
    runs: dict[str, Callable[[], float]] = {"bnexport": lambda: process([*BNEXPORT, "convert", SAVED_MODEL, BUNDLE, "--quiet"]).seconds}
    if installed("tf2onnx"):
        runs["tf2onnx"] = lambda: process(TF2ONNX).seconds
    else:
        table.notes.append("tf2onnx is not installed; onnxruntime, which is given what it makes, is left out.")
    seconds = alternating(runs, max(1, options.rounds // 2), warm=False)
    ours = seconds.pop("bnexport")
    for peer, theirs in seconds.items():
        table.add(peer, seconds_text(theirs), seconds_text(ours), ratio_text(theirs, ours), "10")
    return table


def _measured(options: Namespace) -> dict[str, list[float]]:
    (cores,), (batch,) = options.cores, options.batch
    clean_process(cores)
    import numpy as np

    import bnexport

    x = np.random.default_rng(1).standard_normal((batch, 224, 224, 3), np.float32)
    model = bnexport.load(BUNDLE)
    ours = model.predict(x)
    scale = max(1.0, float(np.abs(ours).max()))
    calls: dict[str, Callable[[], Any]] = {"bnexport": lambda: model.predict(x)}
    if ONNX.exists() and installed("onnxruntime"):
        calls["onnxruntime"] = _onnxruntime(ONNX, x, cores)
    calls["TensorFlow"] = _tensorflow(SAVED_MODEL, x, cores)
    for call in calls.values():
        np.testing.assert_allclose(np.asarray(call()), ours, rtol=0, atol=TOLERANCE * scale)
    return alternating({name: repeated(call) for name, call in calls.items()}, options.rounds, warm=False)


def _onnxruntime(path: Path, x: Any, cores: int) -> Callable[[], Any]:
    from benchmarks.networks import session

    other = session(str(path), cores)
    feeds = {other.get_inputs()[0].name: x}
    return lambda: other.run(None, feeds)[0]


def _tensorflow(folder: Path, x: Any, cores: int) -> Callable[[], Any]:
    """The SavedModel as it is, batch norms and all."""
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(cores)
    tf.config.threading.set_inter_op_parallelism_threads(cores)
    function = tf.saved_model.load(str(folder)).signatures["serving_default"]
    (name,) = function.structured_input_signature[1]
    (output,) = function.structured_outputs
    tensor = tf.constant(x)
    return lambda: function(**{name: tensor})[output].numpy()


if __name__ == "__main__":
    main()
