"""Every checkpoint of the corpus: matched with TensorFlow's outputs, or refused for the true reason. A table is printed at the end."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from bnexport.conversion import convert, to_program
from bnexport.errors import AmbiguousNetwork, BnexportError
from bnexport.options import Options
from bnexport.runner import load

ROOT = os.environ.get("BNEXPORT_CORPUS")
pytestmark = [pytest.mark.corpus, pytest.mark.skipif(not ROOT, reason="BNEXPORT_CORPUS does not say where the corpus of real checkpoints is")]
CATALOG = {r["slug"]: r for r in json.loads((Path(ROOT) / "catalog.json").read_text())} if ROOT else {}
REFERRED = [slug for slug, record in CATALOG.items() if record["ref_status"] == "ok"]
UNREFERRED = [slug for slug in CATALOG if slug not in REFERRED]

REFUSED = {
    "hxdengberkeley-cluster-pointnet--log-model": r"'fc3/weights' the shape \[64, 40\], but .* holds \[3200, 40\] .*do not belong together",
    "hj-xu-sps-lcnn--log-model": "QueryBallPoint: layer0/QueryBallPoint, layer1/QueryBallPoint, layer2/QueryBallPoint",
    "ryanchen1204-ecg_cnn": r"model\.ckpt\.data-00000-of-00001 does not exist",
    "huqinwei-tensorflow_demo--ema-weights-tiny": "no output was found that depends on data and on saved variables",
    "caesernieh-tensorflow-book--season2-word2vec-log-model-0": "no output was found that depends on data and on saved variables",
    "gywjedi-deepmd--symlink-text": r"is a symbolic link that was stored as text, and says only 'model\.ckpt-100000\.index'",
    "backgom2357-forestfires--my_model_final": "the graph holds 2 networks that share no layer",
    "hidetomi-pyaq-custom--v1": "NaN or infinite|the graph holds 2 networks",
    "daegyulim-collision_detection_network--model": "the 29 layers are no single chain",
    "daegyulim-collision_detection_network--noimu": "the 27 layers are no single chain",
}
"""Words of the refusal of each that is not converted."""

BY_NAME = {
    "iwyoo-dirnet-tensorflow--ckpt-model",
    "james-meadow-bankrupt_prediction--model-model-0",
    "lmy0217-wirelesschannelai--model-model",
    "cornelldatascience-insights-databowl--models-cnn",
    "brentunderwood-gatech_ml--best_model",
}
"""Checkpoints without a graph, whose weights are exported by their names."""

SEVERAL = {
    "theinfamouswayne-ddpg_tf--actor20": 2,
    "theinfamouswayne-ddpg_tf--critic20": 4,
    "huqinwei-tensorflow_demo--batch_norm_layer-model": 2,
    "takasimike-ddpg": 4,
    "domantasm96-neural-network.therealitymin--my_model_final": 10,
    "marcosvro-a3c-continuous--log-model": 2,
    "izzybrand-reai_explorerbot--model-tof_model_robot": 2,
}
"""Graphs that leave a choice, and of how many networks: target networks, workers, towers."""

OTHERS = {
    "huqinwei-tensorflow_demo--bn_variables_save": "the same batch norm applied to another batch of the script's",
    "james-meadow-bankrupt_prediction--savedmodel": "the reference was fed behind the columns that the signature takes",
    "pcchenxi-env_rllab--data-xyr-model": "another Softmax of the same logits",
}
"""Graphs whose ends are found, but are not those that the reference has; with them named, they match."""


def folder(slug):
    record = CATALOG[slug]
    return Path(ROOT) / slug if record["cat"] == "g-savedmodel" else Path(ROOT) / slug / Path(record["prefix"]).name


def reference(slug):
    """({input or feed: array}, {output: array}, the inputs), names without `:0` of the first outputs of nodes."""
    with np.load(Path(ROOT) / slug / "ref.npz") as arrays:
        parts = [(*key.removesuffix(":0").split(":", 1), value) for key, value in arrays.items()]
    data = {name: value for kind, name, value in parts if kind in ("in", "feed")}
    return data, {name: value for kind, name, value in parts if kind == "out"}, [name for kind, name, _ in parts if kind == "in"]


def run(path, out, options, data):
    """The outputs by name; what of `data` the network does not take (a flag that was found by itself) is left out."""
    convert(path, out, options)
    model = load(out)
    wanted = {p.name for p in model.inputs}
    got = model.predict({name: value for name, value in data.items() if name in wanted})
    return got if isinstance(got, dict) else {model.outputs[0].name: got}


def assert_matches(got, want):
    for name, value in got.items():
        assert value.shape == want[name].shape
        assert np.abs(value - want[name]).max() <= 1e-5 * max(1.0, np.abs(want[name]).max()), name


def reason(error):
    return " ".join(str(error).replace(f"{ROOT}/", "").split())[:200]


@pytest.mark.parametrize("slug", REFERRED)
def test_with_the_outputs_named(tmp_path, corpus_row, slug):
    data, want, inputs = reference(slug)
    options = Options() if CATALOG[slug].get("ref_feeds") is None else Options(inputs=inputs, outputs=list(want))
    category = CATALOG[slug]["cat"]
    if slug in REFUSED:
        with pytest.raises(BnexportError, match=f"(?s){REFUSED[slug]}") as caught:
            run(folder(slug), tmp_path / "out.npz", options, data)
        corpus_row(category, slug, "refused", reason(caught.value))
        return
    try:
        assert_matches(run(folder(slug), tmp_path / "out.npz", options, data), want)
    except BnexportError as error:
        corpus_row(category, slug, "refused", reason(error))
        raise
    except Exception as error:  # whatever it is: it is a row of the table before it fails the test
        corpus_row(category, slug, "wrong", reason(error))
        raise
    corpus_row(category, slug, "matched", "")


@pytest.mark.parametrize("slug", [slug for slug in REFERRED if slug not in {*REFUSED, *SEVERAL, *OTHERS}])
def test_without_flags(tmp_path, corpus_row, slug):
    data, want, _ = reference(slug)
    got = run(folder(slug), tmp_path / "out.npz", Options(), data)
    common = {name: value for name, value in got.items() if name in want}
    if not common and len(got) == len(want) == 1:  # named by the signature, or after an identity
        common = dict(zip(want, got.values(), strict=True))
    assert common
    assert_matches(common, want)
    corpus_row(CATALOG[slug]["cat"], slug, "without flags", "")


@pytest.mark.parametrize("slug", [slug for slug in REFERRED if slug in SEVERAL])
def test_a_choice_is_listed(slug):
    with pytest.raises(AmbiguousNetwork, match=f"the graph holds {SEVERAL.get(slug)} networks that share no layer; choose one of\n  --output "):
        to_program(folder(slug))


@pytest.mark.parametrize("slug", UNREFERRED)
def test_without_a_reference(tmp_path, corpus_row, slug):
    out = tmp_path / "out.npz"
    category = CATALOG[slug]["cat"]
    if slug in BY_NAME:
        convert(folder(slug), out)
        assert load(out).layers
        corpus_row(category, slug, "weights by name", "the graph is lost")
        return
    with pytest.raises(BnexportError, match=f"(?s){REFUSED[slug]}") as caught:
        convert(folder(slug), out)
    assert not out.exists()
    corpus_row(category, slug, "refused", reason(caught.value))


def test_each_checkpoint_has_its_place_in_the_tables():
    assert set(CATALOG) >= {*REFUSED, *SEVERAL, *OTHERS, *BY_NAME}
    assert set(UNREFERRED) <= {*REFUSED, *BY_NAME}
