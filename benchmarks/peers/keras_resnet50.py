"""Makes a SavedModel of keras.applications' ResNet50 with random weights and moving statistics. Argument: the folder."""

import sys

import keras
import numpy as np


def main(folder: str) -> None:
    keras.utils.set_random_seed(0)
    generator = np.random.default_rng(0)
    model = keras.applications.ResNet50(weights=None)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            size = layer.gamma.shape
            # Of such a size that activations neither vanish nor explode on their way through 50 layers.
            statistics = [generator.normal(0, 0.1, size), generator.uniform(0.5, 1.5, size)]
            layer.set_weights([generator.uniform(0.5, 1, size), generator.normal(0, 0.1, size), *statistics])
    model.export(folder)


if __name__ == "__main__":
    main(*sys.argv[1:])
