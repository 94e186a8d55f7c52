"""The script that one writes with TensorFlow at hand: read the seed's variables, fold with NumPy, save. Arguments: the checkpoint, the .npz."""

import sys

import numpy as np
import tensorflow as tf

EPSILON = 1e-3


def main(prefix: str, out: str) -> None:
    reader = tf.train.load_checkpoint(prefix)
    variables = reader.get_variable_to_shape_map()
    arrays = {}
    number = 1
    while f"W{number}" in variables:
        kernel, bias = reader.get_tensor(f"W{number}"), reader.get_tensor(f"b{number}")
        scope = "bn" if number == 1 else f"bn_{number - 1}"
        if f"{scope}/beta" in variables:
            shadow = f"bn/{scope}/moments/Squeeze"
            mean, variance = (reader.get_tensor(f"{shadow}{which}/ExponentialMovingAverage") for which in ("", "_1"))
            scale = reader.get_tensor(f"{scope}/gamma") / np.sqrt(variance + EPSILON)
            kernel, bias = kernel * scale, (bias - mean) * scale + reader.get_tensor(f"{scope}/beta")
        arrays[f"W{number}/kernel"], arrays[f"W{number}/bias"] = kernel, bias
        number += 1
    np.savez(out, **arrays)


if __name__ == "__main__":
    main(*sys.argv[1:])
