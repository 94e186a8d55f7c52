"""From the names of a checkpoint that has lost its graph to a program."""

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bnexport._version import __version__
from bnexport.checkpoint import Checkpoint
from bnexport.errors import BadStatistics, ScopeError, UsageError
from bnexport.fold import Network, fold
from bnexport.program import Array, InMemory, Layer, Port, Program, Read, take_name
from bnexport.scopes.activations import Activation, parse_activations
from bnexport.scopes.linears import Linear
from bnexport.scopes.names import listed
from bnexport.scopes.norms import Norm
from bnexport.scopes.reading import Choice, Reading, choose, full_names, read_names
from bnexport.scopes.roles import AVERAGE, BETA, BIAS, GAMMA, MEAN, UNKNOWN, VARIANCE, WEIGHTS, Named, display_name

if TYPE_CHECKING:
    from bnexport.options import Options

DEFAULT_EPSILON = 1e-3
"""What tf.layers, Keras, contrib.layers, Sonnet and the seed have; TFLearn and tensorpack have 1e-5."""

_BARRIER = "not known"
"""Stands for what names do not tell (an activation, pooling, flattening) while folding, so that nothing is folded across it."""


def program_from_names(checkpoint: Checkpoint, options: "Options", *, folded: bool = True) -> Program:
    """The network that the names and shapes of a checkpoint's variables make up; only vectors are read here.

    What names cannot tell comes from `options` (`activation`, `bn_after_activation`, `epsilon`, `order`), or is assumed and noted in the record.
    Where the activation is not known, or the network has convolutions, the weights are there all the same, and the record's `incomplete` says what is
    missing.

    Args:
        folded: False to leave batch norms (`ScaleShift` layers) and activations as layers of their own.

    Raises:
        ScopeError: the names have no reading as a network, or more than one.
        BadStatistics: a moving variance is negative, or a weight of a batch norm is not finite.
        UsageError: an option names what is not there.
    """
    return _Walk(checkpoint, options).program(folded=folded)


@dataclass(frozen=True, slots=True)
class _Reshaped:
    """An array in another shape of as many elements."""

    source: Array
    shape: tuple[int, ...]

    @property
    def dtype(self) -> "np.dtype[Any]":
        return self.source.dtype

    def readers(self, count: int) -> list[Read]:
        return self.source.readers(count)


class _Walk:
    def __init__(self, checkpoint: Checkpoint, options: "Options"):
        self.checkpoint = checkpoint
        self.options = options
        self.warnings: list[str] = []
        self.full_names = full_names(checkpoint)
        self.reading: Reading = read_names([checkpoint.info(name) for name in checkpoint], self.full_names)
        averages = [(v.belongs_to, v.key) for v in self.reading.variables if v.role == AVERAGE and v.belongs_to is not None]
        self.averages = dict(averages)
        self.bare_averages = sorted(display_name(v.key) for v in self.reading.variables if v.averaged)
        if options.averages and not averages and not self.bare_averages:
            raise UsageError(f"--ema: {checkpoint.prefix} holds no averages of weights; leave it out")
        if options.averages and len(averages) > len(self.averages):
            several = [display_name(key) for owner, key in averages if owner == averages[0][0]]
            raise ScopeError(
                f"--ema: {checkpoint.prefix} holds several averages of one weight ({listed(several)}), and names do not say which to take"
            )
        if options.epsilon is not None and not options.epsilon >= 0:
            raise UsageError(f"--epsilon {options.epsilon}: an epsilon is a number that is not negative")
        self.epsilon = DEFAULT_EPSILON if options.epsilon is None else options.epsilon
        self.choice: Choice = choose(checkpoint.prefix, self.reading, options.order, self.full_names)
        dtypes = {layer.kernel.info.dtype.name for layer in self.choice.chain}
        self.dtype = "float64" if dtypes == {"float64"} else "float32"
        self.taken: set[str] = {"input"}
        self.layers: list[Layer] = []
        self.shapes: dict[str, tuple[int | None, ...]] = {}

    # ---- the network

    def program(self, *, folded: bool) -> Program:
        chain = self.choice.chain
        self.convolutional = any(layer.op != "Dense" for layer in chain)
        known = self.options.activation is not None
        activations = parse_activations(self.options.activation, len(chain)) if self.options.activation is not None else [None] * len(chain)
        rank = len(chain[0].kernel.info.shape)
        source: tuple[int | None, ...] = (None, chain[0].ins) if rank == 2 else (None, 1 if rank == 3 else None, None, chain[0].ins)
        self.tensor, self.shapes["input"] = "input", source
        if 0 in self.choice.places:
            self._add_norm(self.choice.places[0])
        for number, layer in enumerate(chain, 1):
            norm, last = self.choice.places.get(number), number == len(chain)
            self._add_linear(layer)
            flattened = norm is not None and norm.width != layer.outs
            if flattened:
                self._add_barrier()
            if norm is not None and not self.options.bn_after_activation:
                self._add_norm(norm)
            if not known and (not last or (norm is not None and self.options.bn_after_activation)):
                self._add_barrier()
            self._add_activation(activations[number - 1])
            if norm is not None and self.options.bn_after_activation:
                self._add_norm(norm)
            if not last and self.convolutional:
                self._add_barrier()
        network = Network(self.layers, self.shapes, [self.tensor])
        unfolded = fold(network, self.dtype) if folded else []
        for barrier in [layer for layer in network.layers if layer.op == _BARRIER]:
            if not known:
                network.makers[str(barrier.inputs[0])].provenance["activation"] = "not known"
            network.bypass(barrier)
        network.prune()
        record = self._record(known, unfolded, folded=folded)
        out_tensor = network.outputs[0]
        inputs = [Port("input", "input", source, self.dtype)]
        return Program(inputs, network.layers, [Port("output", out_tensor, self.shapes[out_tensor], self.dtype)], record)

    def _append(self, layer: Layer, channels: int | None) -> None:
        self.layers.append(layer)
        shape = self.shapes[self.tensor]
        self.shapes[layer.name] = shape if channels is None else (*shape[:-1], channels)
        self.tensor = layer.name

    def _add_linear(self, linear: Linear) -> None:
        arrays: dict[str, Array] = {"kernel": self._array(linear.kernel)}
        provenance: dict[str, Any] = {"kernel": self._key(linear.kernel), "parts": []}
        if linear.bias is not None:
            arrays["bias"] = self._array(linear.bias)
            provenance["parts"].append({"op": "BiasAdd", "shift": self._key(linear.bias)})
        layer = Layer(take_name(self.taken, self._human(linear.kernel, linear.name)), linear.op, [self.tensor], {}, arrays, provenance=provenance)
        if linear.op == "Dense" and len(self.shapes[self.tensor]) > 2:
            self.shapes[self.tensor] = (None, linear.ins)
        self._append(layer, linear.outs)

    def _array(self, variable: Named) -> Array:
        stored = self.checkpoint.stored(self._key(variable))
        if len(stored.shape) == 3:  # a convolution over one dimension is one over two of which the first is 1
            return _Reshaped(stored, (1, *stored.shape))
        return _Reshaped(stored, (variable.width,)) if variable.role == BIAS and len(stored.shape) != 1 else stored

    def _human(self, variable: Named, name: str) -> str:
        """The name of a layer: the one that it had in the program, where its path only counts (`layer_with_weights-0`, `layers/0`)."""
        full = self.full_names.get(variable.key)
        counted = any(part.startswith("layer_with_weights-") or part.isdigit() for part in variable.path)
        return full.rpartition("/")[0] or name if full is not None and counted else name

    def _key(self, variable: Named) -> str:
        """The key that a variable is read from: its average's, where averages are asked for."""
        return self.averages.get(variable.key, variable.key) if self.options.averages else variable.key

    def _add_activation(self, activation: Activation | None) -> None:
        if activation is not None:
            self._append(Layer(take_name(self.taken, f"{self.tensor}/{activation.op}"), activation.op, [self.tensor], dict(activation.attrs)), None)

    def _add_barrier(self) -> None:
        self._append(Layer(take_name(self.taken, f"{self.tensor}/then"), _BARRIER, [self.tensor]), None)

    # ---- batch norm

    def _add_norm(self, norm: Norm) -> None:
        """gamma * (x - mean) / sqrt(variance + epsilon) + beta (Ioffe and Szegedy 2015, algorithm 1, with moving statistics).

        Keras' `Normalization` layer is (x - mean) / max(sqrt(variance), 1e-7) (keras/layers/preprocessing/normalization.py).
        """
        values = {role: self._vector(norm, variable) for role, variable in norm.variables.items()}
        epsilon = 0.0 if norm.bare else self.epsilon
        mean, variance = values[MEAN], np.maximum(values[VARIANCE], 1e-14 if norm.bare else 0.0)
        if (variance + epsilon == 0).any():
            key = self._key(norm.variables[VARIANCE])
            raise BadStatistics(
                f"{self.checkpoint.prefix}: the moving variance {key!r} is 0 in places, which an epsilon of 0 divides by; give another --epsilon"
            )
        if not mean.any() and (variance == 1).all():
            self.warnings.append(f"the moving statistics of {norm.name} are still 0 and 1: its update ops never ran, or were not run before saving")
        scale = values.get(GAMMA, np.ones(norm.width)) / np.sqrt(variance + epsilon)
        shift = values.get(BETA, np.zeros(norm.width)) - mean * scale
        keys = {
            short: self._key(norm.variables[role])
            for short, role in (("beta", BETA), ("gamma", GAMMA), ("mean", MEAN), ("variance", VARIANCE))
            if role in norm.variables
        }
        from_ = "Keras' Normalization" if norm.bare else "default" if self.options.epsilon is None else "--epsilon"
        part = {"node": norm.name, "op": "BatchNorm", **keys, "epsilon": epsilon, "epsilon_from": from_}
        arrays: dict[str, Array] = {"scale": InMemory(scale), "shift": InMemory(shift)}
        name = take_name(self.taken, self._human(norm.variables[MEAN], norm.name))
        self._append(Layer(name, "ScaleShift", [self.tensor], {}, arrays, provenance={"parts": [part]}), norm.width)

    def _vector(self, norm: Norm, variable: Named) -> "np.ndarray[Any, Any]":
        """
        Raises:
            BadStatistics: a value is not finite, or a negative variance.
        """
        key = self._key(variable)
        values = self.checkpoint.read(key).astype(np.float64).reshape(-1)
        where = f"{self.checkpoint.prefix}: the {variable.role} {key!r} of the batch norm {norm.name!r}"
        if not np.isfinite(values).all():
            raise BadStatistics(f"{where} holds values that are NaN or infinite: the checkpoint was saved from a training that had diverged")
        if variable.role == VARIANCE and values.size and values.min() < 0:
            lowest = int(values.argmin())
            raise BadStatistics(f"{where} is negative ({values[lowest]:g} at index {lowest}): which no variance is; the checkpoint is damaged")
        return values

    # ---- the record

    def _record(self, known: bool, unfolded: list[str], *, folded: bool) -> dict[str, Any]:
        record: dict[str, Any] = {
            "producer": f"bnexport {__version__}",
            "source": [self.checkpoint.prefix.name],
            "assumed": self._assumed(known),
            "ignored": self._ignored(),
            "unfolded": unfolded,
            "warnings": self.warnings,
        }
        if self.averages:
            record["averages"] = {"taken": self.options.averages, "of": sorted(display_name(key) for key in self.averages.values())}
        if self.options.epsilon is None and not all(norm.bare for norm in self.choice.places.values()):
            self.warnings.append(f"names carry no epsilon: {self.epsilon:g} was taken for every batch norm; say another with --epsilon")
        for variable in self.reading.variables:
            if variable.role == UNKNOWN and not variable.info.shape and variable.info.dtype.kind != "O":
                self.warnings.append(f"{display_name(variable.key)}, a single number, was left out: its name does not say what it is for")
        odd = [display_name(v.key) for v in self.reading.stray] + [norm.name for norm in self.reading.incomplete]
        if odd:
            self.warnings.append(f"what belongs to no layer was left out, as --order does not name it: {listed(odd)}")
        last_norm = self.options.bn_after_activation and len(self.choice.chain) in self.choice.places
        if self.convolutional:
            record["incomplete"] = (
                "the graph is lost, and names do not tell the strides, padding and pooling of a network with convolutions: "
                "its folded kernels can be used, but to evaluate it convert again with the graph (.meta)"
            )
        elif not known and (len(self.choice.chain) > 1 or last_norm):
            say = "convert again with" if folded else "say"  # a bundle is read by those who may not have made it
            record["incomplete"] = f"the graph is lost, and names do not tell the activation: {say} --activation relu, or whichever it is"
        return record

    def _assumed(self, known: bool) -> list[str]:
        sentences = list(self.choice.assumed)
        chain, places = self.choice.chain, self.choice.places
        if len(chain) > 1:
            sentences.append("no layer takes more than what the one before it gives (--order takes layers, and batch norms where they stand)")
        if any(places):  # any but the one on the input
            side = "between its layer and the activation (--bn-after-activation puts them behind it)"
            sentences.append(f"each batch norm stands {'after the activation (--bn-after-activation)' if self.options.bn_after_activation else side}")
        if known and self.options.activation is not None and len(chain) > 1 and not {",", ":"} & set(self.options.activation):
            sentences.append(f"the activation of every layer but the last is {self.options.activation}; {chain[-1].name} has none")
        if not known and not self.convolutional:
            sentences.append(f"{chain[-1].name}, the last layer, has no activation")
        if self.averages:
            taken = "taken" if self.options.averages else "not taken; --ema takes them"
            sentences.append(f"averages of {len(self.averages)} weights are there and were {taken}")
        if self.bare_averages:
            sentences.append(f"averages stand in the place of {len(self.bare_averages)} weights that are not there: {listed(self.bare_averages, 3)}")
        narrow = sorted({layer.kernel.info.dtype.name for layer in chain} - {self.dtype})
        if narrow:
            sentences.append(f"what is stored as {listed(narrow)} is computed in {self.dtype}")
        return sentences

    def _ignored(self) -> list[str]:
        counts = Counter(v.role for v in self.reading.variables if v.role not in WEIGHTS and (v.role != AVERAGE or not self.options.averages))
        if self.options.averages:
            counts["raw weight"] = len(self.averages)
        lines = [f"{role}: {count}" for role, count in sorted(counts.items())]
        if self.choice.left_out:
            lines.append(f"not in --order: {len(self.choice.left_out)} ({listed(sorted(map(display_name, self.choice.left_out)))})")
        return lines
