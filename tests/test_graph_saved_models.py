"""SavedModels as TensorFlow 1 and 2 write them: signatures, variables that are found through objects, features."""

from pathlib import Path

import numpy as np
import pytest

from bnexport.checkpoint import open_checkpoint
from bnexport.conversion import convert
from bnexport.options import Options
from bnexport.runner import load

X = np.random.default_rng(3).normal(size=(5, 4)).astype(np.float32)


def predicted(export, folder, x=X, **options):
    """What the bundle of a SavedModel gives, by the outputs' names."""
    out = Path(folder) / "out.npz"
    convert(export, out, Options(**options))
    model = load(out)
    result = model.predict(x)
    return result if isinstance(result, dict) else {model.outputs[0].name: result}


def close(got, expected):
    return got.shape == expected.shape and np.abs(got - expected).max() <= 1e-6 * max(1.0, np.abs(expected).max())


class TestVariables:
    def test_those_that_only_the_objects_lead_to(self, tf, tmp_path):
        """The saver of what tf.saved_model.save writes of a Keras 3 model restores copies of the variables, which no function reads."""
        keras = pytest.importorskip("keras", minversion="3")
        import tensorflow

        layers = keras.layers
        model = keras.Sequential([layers.Input((4,)), layers.Dense(6), layers.BatchNormalization(), layers.ReLU(), layers.Dense(3)])
        rng = np.random.default_rng(1)
        for variable in model.weights:
            variable.assign(rng.uniform(0.3, 2.0, variable.shape))
        tensorflow.saved_model.save(model, str(tmp_path / "export"))
        assert [close(value, np.asarray(model(X, training=False))) for value in predicted(tmp_path / "export", tmp_path).values()] == [True]

    def test_a_name_in_the_program_is_not_taken_for_a_path(self, tf, tmp_path):
        """Two variables have each other's attribute for a name."""
        import tensorflow

        module = tensorflow.Module()
        module.first, module.second = (tensorflow.Variable(value, name=name) for value, name in ((1.0, "second"), (2.0, "first")))
        tensorflow.train.Checkpoint(module).write(str(tmp_path / "model"))
        with open_checkpoint(tmp_path / "model") as checkpoint:
            values = {name: float(checkpoint.read(key)) for name, key in checkpoint.program_names().items()}
        assert values == {"second": 1.0, "first": 2.0}
