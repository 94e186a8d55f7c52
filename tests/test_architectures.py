"""Whole architectures of keras.applications, built and saved by live TensorFlow: their outputs, and where their batch norms went.

Weights are random, and so are the moving statistics, so that no batch norm is trivial. Each network is saved as a SavedModel of a `tf.function`,
which is what `Model.export` of Keras 3 does too, but several times faster; that way, and `Model.save` of Keras 2, are tried on a smaller network
at the end.
"""

import importlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from bnexport.conversion import convert
from bnexport.report import batch_norms
from bnexport.runner import load

pytestmark = pytest.mark.tensorflow

LINEAR = ("Dense", "Conv2D", "DepthwiseConv2D", "Conv2DTranspose")


@dataclass(frozen=True)
class Architecture:
    """A network of keras.applications, the smallest height and width it takes, and the scale/shift layers that have to stay, by what they follow."""

    name: str
    size: int
    stay: Mapping[str, int]
    options: Mapping[str, Any] = field(default_factory=dict)


# A batch norm that stays has an activation behind it, and before it no linear layer that only it takes: in ResNet50V2 and DenseNet121 a sum or
# concatenation that other layers take as well, or a pool (in ResNet50V2 of data padded with zeros). What EfficientNetB0 keeps is no batch norm but
# the normalization of its input, whose shift must not reach the zeros that the first convolution is padded with.
ARCHITECTURES = [
    Architecture("ResNet50", 32, {}),
    Architecture("ResNet50V2", 32, {"AddV2": 16, "MaxPool": 1}),
    Architecture("MobileNetV2", 32, {}, {"alpha": 0.35}),
    Architecture("InceptionV3", 75, {}),
    Architecture("DenseNet121", 32, {"ConcatV2": 58, "MaxPool": 1, "AvgPool": 3}),
    Architecture("EfficientNetB0", 32, {"the input": 1}),
    Architecture("Xception", 71, {}),
    Architecture("VGG16", 32, {}),
]


def randomize(model, keras):
    """Batch norms as training might leave them, some gammas negative; the normalization of an input as `adapt` would."""
    rng = np.random.default_rng(5)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            width = layer.moving_mean.shape[0]
            if layer.scale:
                layer.gamma.assign(rng.uniform(0.6, 1.4, width) * rng.choice([1, -1], width, p=[0.9, 0.1]))
            if layer.center:
                layer.beta.assign(rng.normal(0, 0.2, width))
            layer.moving_mean.assign(rng.normal(0, 0.2, width))
            layer.moving_variance.assign(rng.uniform(0.5, 2.0, width))
        elif isinstance(layer, keras.layers.Normalization):
            layer.adapt_mean.assign([0.485, 0.456, 0.406])
            layer.adapt_variance.assign([0.229**2, 0.224**2, 0.225**2])
            layer.finalize_state()


def save(tf, model, path):
    """A SavedModel of the model at inference."""
    module = tf.Module()
    module.variables_of_the_model = [v.value for v in model.variables]
    shape = (None, *model.input_shape[1:])
    serve = tf.function(lambda image: {"scores": model(image, training=False)}, input_signature=[tf.TensorSpec(shape, tf.float32, "image")])
    tf.saved_model.save(module, str(path), signatures=serve)


@pytest.fixture(scope="module")
def keras():
    pytest.importorskip("tensorflow")
    return pytest.importorskip("keras", minversion="3")


@pytest.fixture(scope="module", params=ARCHITECTURES, ids=lambda a: a.name)
def converted(request, keras, tmp_path_factory):
    """The architecture, the program it was converted to, the number of its batch norms, and its outputs here and in TensorFlow."""
    import tensorflow as tf

    keras.utils.set_random_seed(1)
    architecture = request.param
    shape = (architecture.size, architecture.size, 3)
    build = getattr(keras.applications, architecture.name)
    model = build(weights=None, classes=10, classifier_activation=None, input_shape=shape, **architecture.options)
    randomize(model, keras)
    norms = sum(isinstance(layer, keras.layers.BatchNormalization) for layer in model.layers)
    x = np.random.default_rng(0).uniform(0, 255, (2, *shape)).astype(np.float32)
    if architecture.name != "EfficientNetB0":  # which takes pixels as they are
        x = x / 127.5 - 1
    expected = np.asarray(model(x, training=False))
    folder = tmp_path_factory.mktemp(architecture.name)
    save(tf, model, folder / "saved")
    del model
    program = convert(folder / "saved", folder / "out.npz")
    return architecture, program, norms, load(folder / "out.npz").predict(x), expected


def test_the_outputs_are_tensorflows(converted):
    _, program, _, got, expected = converted
    assert [(p.name, p.shape) for p in program.inputs] == [("image", (None, *program.inputs[0].shape[1:]))]
    assert [(p.name, p.shape) for p in program.outputs] == [("scores", (None, 10))]
    assert got.shape == expected.shape
    assert np.ptp(expected) > 0.1 * np.abs(expected).max()  # else hardly anything would be tested
    assert np.abs(got - expected).max() <= 1e-5 * np.abs(expected).max()


def test_batch_norms_are_folded_but_for_those_listed(converted):
    architecture, program, norms, _, _ = converted
    makers = {layer.name: layer for layer in program.layers}
    left = [layer for layer in program.layers if layer.op == "ScaleShift"]
    assert not [layer.name for layer in left if layer.inputs[0] in makers and makers[layer.inputs[0]].op in LINEAR]
    assert Counter(makers[layer.inputs[0]].op if layer.inputs[0] in makers else "the input" for layer in left) == architecture.stay
    assert program.conversion["unfolded"] == [f"{layer.name}: {layer.provenance['not_folded']}" for layer in left]
    assert sum(len(batch_norms(layer)) for layer in program.layers) == norms
    assert (
        not {"Mul", "Sub", "Rsqrt", "BiasAdd", "FusedBatchNormV3"} & {layer.op for layer in program.layers} or architecture.name == "EfficientNetB0"
    )


def test_the_reasons_say_what_is_in_the_way(converted):
    architecture, program, *_ = converted
    for line in program.conversion["unfolded"]:
        name, _, why = line.partition(": ")
        if architecture.name == "EfficientNetB0":
            assert why.startswith("it stands on the input image, and its result goes into ")
            assert why.endswith(" (Pad), which fills up with zeros that its shift must not reach")
        else:
            assert why.endswith(" (Relu)")
            assert " (MaxPool)" in why or " (AvgPool)" in why or " (AddV2)" in why or " (ConcatV2)" in why
            assert name not in why


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.parametrize("way", ["keras.Model.export", "tf_keras.Model.save"])
def test_both_ways_of_saving(way, tmp_path):
    pytest.importorskip("tensorflow")
    keras = pytest.importorskip(way.partition(".")[0])
    layers = importlib.import_module(f"{keras.__name__}.layers")
    keras.utils.set_random_seed(2)
    model = keras.Sequential(
        [
            layers.Input((16, 16, 3)),
            layers.ZeroPadding2D(),
            layers.Conv2D(8, 3, strides=2, use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(6.0),
            layers.DepthwiseConv2D(3, padding="same"),
            layers.BatchNormalization(scale=False),
            layers.Conv2DTranspose(4, 2, strides=2),
            layers.BatchNormalization(center=False),
            layers.Activation("elu"),
            layers.BatchNormalization(),
            layers.GlobalAveragePooling2D(),
            layers.Dropout(0.5),
            layers.Dense(5),
        ]
    )
    randomize(model, keras)
    x = np.random.default_rng(1).normal(size=(3, 16, 16, 3)).astype(np.float32)
    expected = np.asarray(model(x, training=False))
    if way == "keras.Model.export":
        model.export(str(tmp_path / "saved"), verbose=False)
    else:
        model.save(str(tmp_path / "saved"), save_format="tf")
    program = convert(tmp_path / "saved", tmp_path / "out.npz")
    assert program.conversion["unfolded"] == []
    assert sum(len(batch_norms(layer)) for layer in program.layers) == 4
    assert not [layer.name for layer in program.layers if layer.op == "ScaleShift"]
    got = load(tmp_path / "out.npz").predict(x)
    assert np.abs(got - expected).max() <= 1e-5 * np.abs(expected).max()
