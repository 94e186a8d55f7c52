"""The rows of a CSV file through an ONNX model, the outputs as CSV to standard output. Arguments: the model, the CSV file."""

import sys

import numpy as np
import onnxruntime


def main(model: str, rows: str) -> None:
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    x = np.loadtxt(rows, delimiter=",", dtype=np.float32, ndmin=2)
    (y,) = session.run(None, {session.get_inputs()[0].name: x})
    np.savetxt(sys.stdout, y, delimiter=",", fmt="%.9g")


if __name__ == "__main__":
    main(*sys.argv[1:])
