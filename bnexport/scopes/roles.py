"""What each variable of a checkpoint is for, by its name and shape alone.

A role maps to the spellings that libraries and people use for it; a new spelling is one more entry.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from bnexport.checkpoint.reader import OBJECT_GRAPH_KEY, VALUE_SUFFIX
from bnexport.checkpoint.tensors import TensorInfo
from bnexport.scopes.names import Path, components, tokens, without_conditions

KERNEL = "kernel"
BIAS = "bias"
BETA = "beta"
GAMMA = "gamma"
MEAN = "moving mean"
VARIANCE = "moving variance"
AVERAGE = "weight average"
SLOT = "optimiser slot"
ZERO_DEBIAS = "zero-debias"
RENORM = "renorm"
COUNTER = "counter"
FLAG = "flag"
METRIC = "metric"
EMBEDDING = "embedding"
RECURRENT = "recurrent"
BOOKKEEPING = "object graph"
UNKNOWN = "unknown"

WEIGHTS = (KERNEL, BIAS, BETA, GAMMA, MEAN, VARIANCE)
"""The roles whose variables a network computes with."""

SPELLINGS: Mapping[str, tuple[str, ...]] = {
    # Words of a variable's own name; `_` separates words, and capitals and numbers do too.
    MEAN: (
        "moving_mean",  # tf.layers, Keras, contrib.layers and slim, TFLearn, Sonnet
        "pop_mean",  # hand-written batch norms after the tutorials of 2016
        "population_mean",
        "running_mean",  # ported from PyTorch and Caffe
        "batch_mean",  # an average named after the op that it averages
        "global_mean",
        "mean",  # tensorpack: bn/mean/EMA
    ),
    VARIANCE: (
        "moving_variance",  # tf.layers, Keras, contrib.layers and slim, TFLearn, Sonnet
        "moving_var",
        "pop_var",  # hand-written batch norms after the tutorials of 2016
        "pop_variance",
        "population_var",
        "population_variance",
        "running_var",  # ported from PyTorch and Caffe
        "running_variance",
        "batch_var",  # an average named after the op that it averages
        "batch_variance",
        "global_var",
        "global_variance",
        "variance",  # tensorpack: bn/variance/EMA
        "var",
    ),
    BETA: (
        "beta",  # everybody
        "offset",  # tf.nn.batch_normalization's own word
        "shift",
    ),
    GAMMA: (
        "gamma",  # everybody
        "scale",  # tf.nn.batch_normalization's own word
    ),
    KERNEL: (
        "kernel",  # tf.layers, Keras
        "kernels",
        "weights",  # contrib.layers and slim, PointNet
        "weight",
        "filter",
        "filters",
        "matrix",  # rnn_cell._linear
        "w",  # TFLearn, tensorpack, Sonnet, tutorials
    ),
    BIAS: (
        "bias",  # tf.layers, Keras
        "biases",  # contrib.layers and slim, PointNet
        "b",  # TFLearn, tensorpack, Sonnet, tutorials
    ),
}

_ENDS_ONLY = frozenset({"w", "b"})
"""Words too short to mean anything in the middle of a name."""

AVERAGES = (
    "ExponentialMovingAverage",  # tf.train.ExponentialMovingAverage
    "EMA",  # tensorpack
)

MOMENTS: tuple[tuple[str, str], ...] = (
    # What follows `moments/` in the name of an averaged output of tf.nn.moments.
    ("Squeeze", MEAN),  # TensorFlow 1.2 and later
    ("Squeeze_1", VARIANCE),
    ("Cast_1", MEAN),  # half-precision input, whose moments are cast back
    ("Cast_2", VARIANCE),
    ("moments_1/mean", MEAN),  # TensorFlow 0.x to 1.1
    ("moments_1/variance", VARIANCE),
    ("normalize/mean", MEAN),  # TensorFlow 0.x, through tf.nn.normalize_moments
    ("normalize/variance", VARIANCE),
    ("mean", MEAN),  # keep_dims=True
    ("variance", VARIANCE),
)

SLOTS = frozenset(
    {
        # The names of tf.train's optimisers, as slots carry them.
        *("Adam", "Momentum", "RMSProp", "Adagrad", "ProximalAdagrad", "AdagradDA", "Adadelta", "Ftrl"),
        # tf.contrib.opt and tf.train's accumulators of AdagradDA.
        *("AdaMax", "Nadam", "LazyAdam", "AdamW", "LARSOptimizer", "gradient_accumulator", "gradient_squared_accumulator"),
        # BERT's own Adam.
        *("adam_m", "adam_v"),
    }
)
_RENORM = frozenset({"renorm_mean", "renorm_mean_weight", "renorm_stddev", "renorm_stddev_weight", "moving_stddev"})
"""What tf.layers' batch renormalisation trains with, beside the moving mean and variance that inference takes."""
_SHORT_SLOTS = frozenset({"m", "v", "vhat", "momentum", "rms", "accumulator", "velocity"})
"""Slots of Keras' optimisers in checkpoints by name; only where the variable that they belong to is there too."""
_POWERS = frozenset({"beta1_power", "beta2_power"})
_OPTIMISERS = frozenset({"optimizer", "_optimizer", "training", "adam", "sgd", "rmsprop", "adagrad", "adadelta", "nadam", "adamax", "ftrl"})
_COUNTERS = frozenset({"step", "counter", "iter", "iterations", "epoch", "batch"})
_METRICS = frozenset({"count", "total", "true_positives", "true_negatives", "false_positives", "false_negatives", "moving_avg"})
_METRIC_WORDS = frozenset({"acc", "accuracy", "loss", "entropy", "crossentropy"})
_EMBEDDINGS = frozenset({"embedding", "embeddings", "embed", "embed0", "emb"})
_RECURRENT = frozenset({"lstm", "gru", "rnn", "recurrent", "bilstm", "birnn"})
_SUFFIX = re.compile(r"_\d+$")
_MOMENTS = re.compile(r"moments(?:_(\d+))?")
_UNNAMED = re.compile(r"Variable(?:_\d+)?")


@dataclass(frozen=True, slots=True)
class VariableRole:
    """What a variable is for.

    Attributes:
        name: the key in the checkpoint.
        role: one of this module's roles.
        layer: the layer or the batch norm that it is part of, by name; None for what is part of none.
        belongs_to: the key of the variable that this one was made for (an optimiser slot, an average), where it is there.
    """

    name: str
    role: str
    layer: str | None = None
    belongs_to: str | None = None


@dataclass(frozen=True, slots=True)
class Named:
    """A variable as its name reads, before any is matched with another.

    Attributes:
        key: the key in the checkpoint.
        path: the components of its name.
        info: shape and dtype.
        role: what the name and shape say.
        rest: the words of the last component that do not say the role (`conv1_bn_offset`: `conv`, `1`, `bn`).
        belongs_to: as in `VariableRole`.
        moments: for a statistic that is the average of an op of tf.nn.moments, the path of the op's scope: of no variable's.
        by_shape: whether the name does not say the role, and the shape alone does.
        averaged: whether it is the average of a weight that is not there itself, and stands in its place.
    """

    key: str
    path: Path
    info: TensorInfo
    role: str
    rest: Path = ()
    belongs_to: str | None = None
    moments: Path | None = None
    by_shape: bool = False
    averaged: bool = False

    @property
    def unnamed(self) -> bool:
        """Whether it has the name that TensorFlow gives to a variable without one."""
        return bool(self.path) and _UNNAMED.fullmatch(self.path[-1]) is not None

    @property
    def width(self) -> int:
        """How many numbers a vector holds, also one of shape [1, C]; a number alone is one."""
        return self.info.shape[-1] if self.info.shape else 1


def display_name(key: str) -> str:
    """A key as people know the variable: without what object-based checkpoints add."""
    return key.removesuffix(VALUE_SUFFIX)


def classify(infos: Iterable[TensorInfo], full_names: Mapping[str, str]) -> list[Named]:
    """The role of each variable by its own name and shape, in the order of the keys; `among_others` (bnexport/scopes/beside.py) has the next word.

    Args:
        full_names: the names that variables had in the program, by key; they are taken for keys that only count (`variables/7`), and for all where
            Keras 3 has its optimiser list the network's variables (`optimizer/_trainable_variables/7`): the moving statistics have other keys.
    """
    infos = sorted(infos, key=lambda info: info.name)
    known = {display_name(info.name): info for info in infos}
    if not any("_trainable_variables" in components(info.name) for info in infos):
        full_names = {key: name for key, name in full_names.items() if components(display_name(key))[-1].isdigit()}
    return [_classified(info, full_names.get(info.name), known) for info in infos]


def _classified(info: TensorInfo, full_name: str | None, known: Mapping[str, TensorInfo]) -> Named:
    path = components(display_name(info.name))
    if path[-2:-1] == ("_variables",) and any("/".join((*path[:-2], steps)) in known for steps in ("_iterations", "iterations")):
        return Named(info.name, path, info, SLOT)  # an optimiser of Keras since TensorFlow 2.11
    if full_name is not None:
        path = components(full_name)
    last = path[-1]
    stem = _SUFFIX.sub("", last)
    if info.name == OBJECT_GRAPH_KEY:
        return Named(info.name, path, info, BOOKKEEPING)
    if ".OPTIMIZER_SLOT" in path:
        owner = "/".join(path[: path.index(".OPTIMIZER_SLOT")])
        return Named(info.name, path, info, SLOT, belongs_to=known[owner].name if owner in known else None)
    if stem in SLOTS or (last in _SHORT_SLOTS and _owner(path, known)):
        return Named(info.name, path, info, SLOT, belongs_to=_owner(path, known))
    if stem in _POWERS or _is_optimisers(path, info.shape):
        return Named(info.name, path, info, SLOT)
    if last in ("biased", "local_step") and len(path) > 1:
        return Named(info.name, path, info, ZERO_DEBIAS, belongs_to=_owner(path, known))
    if stem in AVERAGES and len(path) > 1:
        return _average(info, path, known)
    if last in _RENORM and all("/".join((*path[:-1], moving)) in known for moving in ("moving_mean", "moving_variance")):
        return Named(info.name, path, info, RENORM)
    if (averaged := _averaged_moment(info, path)) is not None:
        return averaged
    if "metrics" in path or stem in _METRICS or (not info.shape and _METRIC_WORDS & _words(path)):
        return Named(info.name, path, info, METRIC)
    if not info.shape:
        role = _scalar_role(info, last)
        return Named(info.name, path, info, role, (without_spelling(tokens(last), SPELLINGS[BIAS]) or ()) if role == BIAS else ())
    role, rest = _weight_role(info, path)
    by_shape = rest == tokens(last)
    made_for = _made_for(info, path, known, anywhere=by_shape)
    if made_for is not None:
        return Named(info.name, path, info, SLOT, belongs_to=made_for)
    return Named(info.name, path, info, role, rest, by_shape=by_shape)


def _made_for(info: TensorInfo, path: Path, known: Mapping[str, TensorInfo], *, anywhere: bool) -> str | None:
    """The variable that a slot of an optimiser of any name was made for: of its shape, and the slot's name is one component more.

    A scope that was open when the slot was made stands before all that (slot_creator.py in tensorflow/python/training). Such a name could also be a
    weight's, in a scope that is called as a variable somewhere else is; it is looked for only where the name says no role (`anywhere`).
    """
    for start in range(len(path) - 1 if anywhere else min(1, len(path) - 1)):
        owner = known.get("/".join(path[start:-1]))
        if owner is not None and owner.shape == info.shape:
            return owner.name
    return None


def _is_optimisers(path: Path, shape: tuple[int, ...]) -> bool:
    """Whether a variable stands in an optimiser's scope: that of TensorFlow 2 (`optimizer/…`), or of Keras in TensorFlow 1 (`training/Adam/…`)."""
    scopes = [_SUFFIX.sub("", part).lower() for part in path[:-1]]
    if not scopes or scopes[0] not in _OPTIMISERS or "_trainable_variables" in scopes:
        return False
    return not shape or scopes[0] in ("optimizer", "_optimizer") or (scopes[0] == "training" and scopes[1:2] != [] and scopes[1] in _OPTIMISERS)


def _words(path: Path) -> set[str]:
    return {word for part in path for word in tokens(part)}


def _owner(path: Path, known: Mapping[str, TensorInfo]) -> str | None:
    """The key of the variable that `path` adds one component to; the scope in which it was added may stand before its name."""
    for start in range(len(path) - 1):
        owner = known.get("/".join(path[start:-1]))
        if owner is not None:
            return owner.name
    return None


def _average(info: TensorInfo, path: Path, known: Mapping[str, TensorInfo]) -> Named:
    base = path[:-1]
    owner = known.get("/".join(base))
    if owner is not None:
        return Named(info.name, path, info, AVERAGE, belongs_to=owner.name)
    if not info.shape:
        return Named(info.name, path, info, METRIC)
    averaged = _averaged_moment(info, path)
    if averaged is not None:
        return averaged
    role, rest = _weight_role(info, base)
    if role in (MEAN, VARIANCE):
        return Named(info.name, path, info, role, rest, moments=without_conditions(base[:-1]))
    if role in WEIGHTS and (rest != tokens(base[-1]) or _UNNAMED.fullmatch(base[-1])):  # saved through `variables_to_restore`, without the weights
        return Named(info.name, base, info, role, rest, averaged=True)
    return Named(info.name, path, info, UNKNOWN)


def _averaged_moment(info: TensorInfo, path: Path) -> Named | None:
    """The average of an output of tf.nn.moments: no op has variables below its name but those that average it, whatever name the average has."""
    base = path[:-1]
    if not info.shape:
        return None
    for position, part in enumerate(base):
        match = _MOMENTS.fullmatch(part)
        if match is None:
            continue
        tail = "/".join(base[position + 1 :])
        role = next((role for spelling, role in MOMENTS if tail == spelling), None)
        if role is not None:
            number: Path = (match[1],) if match[1] else ()
            return Named(info.name, path, info, role, number, moments=without_conditions(base[:position]))
    return None


def _scalar_role(info: TensorInfo, last: str) -> str:
    if info.dtype.kind == "b":
        return FLAG
    if info.dtype.kind in "iu" or _COUNTERS.intersection(tokens(last)):
        return COUNTER
    rest = without_spelling(tokens(last), SPELLINGS[BIAS])
    return BIAS if rest is not None and all(word.isdigit() for word in rest) else UNKNOWN


def is_vector(shape: tuple[int, ...]) -> bool:
    """Whether a shape is one number per channel: one dimension, or several of which the others are 1 (Sonnet's [1, 1, 1, C])."""
    return len(shape) == 1 or (len(shape) > 1 and all(size == 1 for size in shape[:-1]))


def _weight_role(info: TensorInfo, path: Path) -> tuple[str, Path]:
    """The role of a weight, and the words of its own name that do not say it."""
    words = tokens(path[-1])
    matrix = len(info.shape) > 1
    if info.dtype.kind not in "fV" and info.dtype.name != "bfloat16":
        return UNKNOWN, words
    scopes = _words(path)
    for role in (MEAN, VARIANCE, BETA, GAMMA, KERNEL, BIAS):
        fits = matrix if role == KERNEL else is_vector(info.shape)
        rest = without_spelling(words, SPELLINGS[role]) if fits else None
        if rest is None or (role not in (KERNEL, BIAS) and words[0] in _ENDS_ONLY):
            continue
        if role in (KERNEL, BIAS) and _RECURRENT & scopes:
            return RECURRENT, rest
        return (EMBEDDING if role == KERNEL and _EMBEDDINGS & scopes else role), rest
    if _RECURRENT & scopes:
        return RECURRENT, words
    if _EMBEDDINGS & scopes:
        return EMBEDDING, words
    if _UNNAMED.fullmatch(path[-1]):
        return (KERNEL if matrix else BIAS), words
    says_bias = without_spelling(words, SPELLINGS[BIAS]) is not None  # a bias for each position, say
    return (KERNEL if matrix and not says_bias else UNKNOWN), words


def without_spelling(words: Path, spellings: Collection[str]) -> Path | None:
    """The words without those of the first spelling that they contain; None if they contain none."""
    for spelling in spellings:
        wanted = tuple(spelling.split("_"))
        for start in range(len(words) - len(wanted) + 1):
            if words[start : start + len(wanted)] != wanted:
                continue
            end = start + len(wanted)
            alone = start == 0 or end == len(words) or words[end].isdigit()  # `b_conv1`, `conv_b`, `t_W1_a`, but not `a_b_c`
            if spelling not in _ENDS_ONLY or alone:
                return words[:start] + words[end:]
    return None
