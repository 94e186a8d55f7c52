"""The checkpoints of strangers, read by their names alone."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from bnexport.conversion import to_program
from bnexport.errors import BadStatistics, CheckpointError, ScopeError
from bnexport.formats import write_bundle
from bnexport.options import Options
from bnexport.runner import Model

CORPUS = os.environ.get("BNEXPORT_CORPUS")
pytestmark = [pytest.mark.corpus, pytest.mark.skipif(not CORPUS, reason="BNEXPORT_CORPUS does not say where the corpus of real checkpoints is")]

FOLDERS = [Path(CORPUS) / record["slug"] for record in json.loads((Path(CORPUS) / "catalog.json").read_text())] if CORPUS else []


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_a_network_or_a_clear_error(folder):
    try:
        program = to_program(folder, Options(use_graph=False))
    except (ScopeError, BadStatistics, CheckpointError) as error:
        assert len(str(error)) > 40
        return
    assert program.layers
    assert program.conversion.get("incomplete") or len(program.layers) == 1


GRAPHLESS = {
    "iwyoo-dirnet-tensorflow--ckpt-model": 4,
    "james-meadow-bankrupt_prediction--model-model-0": 4,
    "lmy0217-wirelesschannelai--model-model": 6,
    "cornelldatascience-insights-databowl--models-cnn": 7,
    "brentunderwood-gatech_ml--best_model": 11,
}


@pytest.mark.parametrize("slug", GRAPHLESS)
def test_checkpoints_that_have_lost_their_graph(slug, tmp_path):
    program = to_program(Path(CORPUS) / slug, Options(activation="relu"))
    assert len(program.layers) == GRAPHLESS[slug]
    write_bundle(tmp_path / "out.npz", program)


@pytest.mark.parametrize("slug", ["daegyulim-collision_detection_network--model", "daegyulim-collision_detection_network--noimu"])
def test_several_networks_in_one_checkpoint_are_taken_one_at_a_time(slug):
    with pytest.raises(ScopeError, match="m1/Joint5Net: m1/Joint5Net/W1 → m1/Joint5Net/W2"):
        to_program(Path(CORPUS) / slug)
    program = to_program(Path(CORPUS) / slug, Options(order=["m1/Joint5Net"], activation="relu"))
    norms = [[p["node"] for p in layer.provenance["parts"] if "variance" in p] for layer in program.layers]
    assert norms == [[f"m1/Joint5Net/batch_normalization{n}"] for n in ("", "_1", "_2", "_3")]


@pytest.mark.parametrize(
    ("slug", "activation", "output"),
    [
        ("caesernieh-tensorflow-book--model.tflearn", "none:softmax", "FullyConnected_2/Softmax:0"),
        ("chris-slattery-multilayer-neural-network--model", "sigmoid", "add_1:0"),
        ("gkluber-simple-mnist-classifier--models-model", "none", "add:0"),
        ("nubbyp-omega_go--checkpoints-model", "relu:softmax", "Softmax:0"),
        ("pcchenxi-env_rllab--data-xyr-model", "tanh", "policy/add_2:0"),
        ("ptrandpxq-mlp_pruning_tensorflow--model-model", "relu", "add_2:0"),
        ("shahzeb1-jupyter-talk--model-model-3059", "relu", "dnn/logits/BiasAdd:0"),
        ("huqinwei-tensorflow_demo--ema-weights", "relu", "add_1:0"),
    ],
)
def test_names_give_what_tensorflow_gave(slug, activation, output):
    with np.load(Path(CORPUS) / slug / "ref.npz") as reference:
        (x,) = (reference[key] for key in reference.files if key.startswith("in:"))
        want = reference[f"out:{output}"]
    with np.errstate(over="ignore"):
        got = Model(to_program(Path(CORPUS) / slug, Options(use_graph=False, activation=activation))).predict(x)
    assert np.abs(got - want).max() <= 1e-5 * max(1, np.abs(want).max())
