"""Graphs built live with TensorFlow 1's API, saved as a training script saves them, and compared with what bnexport makes of them."""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bnexport.conversion import convert
from bnexport.options import Options
from bnexport.program import Program
from bnexport.runner import load

SPREAD_NAMES = ("var", "squeeze_1", "gamma", "sigma")
"""Parts of the names of variables that are given positive values."""


@dataclass
class Net:
    """What a test builds: the data that is fed to it, what else is fed for inference, and what comes out."""

    inputs: Mapping[Any, Any]
    outputs: Sequence[Any]
    feeds: Mapping[Any, Any] = field(default_factory=dict)
    saver: Any = None


def rows(*shape: int, seed: int = 7) -> Any:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def spread(name: str, value: Any, rng: Any) -> Any:
    """Values for a variable as training might leave them; scalars and integers stay as they were initialised."""
    if value.dtype.kind != "f" or not value.shape:
        return value
    if any(part in name.lower() for part in SPREAD_NAMES):
        return rng.uniform(0.3, 2.0, value.shape).astype(value.dtype)
    return rng.normal(0, 0.6, value.shape).astype(value.dtype)


@dataclass
class Saved:
    """A checkpoint with what TensorFlow makes of it."""

    prefix: Path
    inputs: dict[str, Any]
    expected: dict[str, Any]
    variables: dict[str, Any]

    def convert(self, **options: Any) -> Program:
        return convert(self.prefix, self.prefix.with_name("out.npz"), Options(**options))

    def matches(
        self, tolerance: float = 1e-5, rename: Mapping[str, str] | None = None, expected: Mapping[str, Any] | None = None, **options: Any
    ) -> Program:
        """Converts, runs the bundle, and compares inputs, outputs and every value."""
        program = self.convert(**options)
        model = load(self.prefix.with_name("out.npz"))
        want = {(rename or {}).get(name, name): value for name, value in (expected or self.expected).items()}
        assert {p.name for p in model.inputs} == set(self.inputs)
        assert {p.name for p in model.outputs} == set(want)
        got = model.predict(self.inputs)
        got = got if isinstance(got, dict) else {model.outputs[0].name: got}
        for name, value in want.items():
            assert got[name].shape == value.shape
            assert np.abs(got[name] - value).max() <= tolerance * max(1.0, np.abs(value).max()), name
        return program


def _built(build: Callable[[], Net]) -> Net:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what people wrote then is deprecated now
        return build()


class Builder:
    """Builds graphs, saves them in a folder of the test's own, and runs them in TensorFlow."""

    def __init__(self, tf: Any, folder: Path):
        self.tf = tf
        self.folder = folder
        self.count = 0

    @contextmanager
    def graph(self, *, resource: bool = False, cond_v2: bool = False) -> Iterator[Any]:
        """A session on a fresh default graph."""
        tf = self.tf
        (tf.enable_resource_variables if resource or cond_v2 else tf.disable_resource_variables)()
        (tf.enable_control_flow_v2 if cond_v2 else tf.disable_control_flow_v2)()
        config = tf.ConfigProto(intra_op_parallelism_threads=1, inter_op_parallelism_threads=1)
        try:
            with tf.Graph().as_default() as graph:
                graph.seed = 11
                with tf.Session(config=config) as session:
                    yield session
        finally:
            tf.disable_resource_variables()
            tf.disable_control_flow_v2()

    def __call__(self, build: Callable[[], Net], values: Mapping[str, Any] | None = None, **behaviour: bool) -> Saved:
        """Saves the graph that `build` makes, its variables spread at random (or as `values` says), with its outputs at inference."""
        self.count += 1
        with self.graph(**behaviour) as session:
            net = _built(build)
            variables = self._load(session, values or {})
            prefix = self.folder / f"model-{self.count}.ckpt"
            (net.saver or self.tf.train.Saver()).save(session, str(prefix), write_state=False)
            expected = session.run(list(net.outputs), {**net.inputs, **net.feeds})  # which may move statistics, if the graph trains
            name = lambda tensor: tensor.name.removesuffix(":0")  # noqa: E731
            return Saved(
                prefix, {name(t): v for t, v in net.inputs.items()}, {name(t): v for t, v in zip(net.outputs, expected, strict=True)}, variables
            )

    def outputs(self, build: Callable[[], Net], values: Mapping[str, Any], **behaviour: bool) -> list[Any]:
        """What another graph, with the same variables by name, gives for its own data."""
        with self.graph(**behaviour) as session:
            net = _built(build)
            self._load(session, values)
            return session.run(list(net.outputs), {**net.inputs, **net.feeds})

    def _load(self, session: Any, values: Mapping[str, Any]) -> dict[str, Any]:
        tf = self.tf
        session.run([tf.global_variables_initializer(), tf.local_variables_initializer(), tf.tables_initializer()])
        rng = np.random.default_rng(3)
        found = {}
        for variable in tf.global_variables():
            name = variable.op.name
            found[name] = values[name] if name in values else spread(name, session.run(variable), rng)
            variable.load(found[name], session)
        return found


def dense(tf: Any, x: Any, units: int, name: str) -> Any:
    """x @ kernel + bias, as people write it."""
    width = int(x.shape[-1])
    kernel = tf.get_variable(f"{name}/w", [width, units], x.dtype.base_dtype)
    bias = tf.get_variable(f"{name}/b", [units], x.dtype.base_dtype)
    return tf.matmul(x, kernel) + bias


def node(tensor: Any) -> str:
    return str(tensor.name.split(":")[0])
