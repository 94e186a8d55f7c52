"""Where a user's own numbers part from a network's, and which mistake explains it.

    result = diagnose("model.ckpt", "input.csv", "mine.npz")
    result.agrees, result.findings[0].explanations[0].hypothesis.name

`network` computes with mistakes made in it; `hypotheses` are the mistakes; `mine` and `matching` read the user's numbers and find their places;
`compare` says when two numbers are the same; `search` puts these together, and `report` says what was found.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from bnexport.batchnorms import batch_norms
from bnexport.checkpoint import Checkpoint, locate
from bnexport.conversion import to_unfolded
from bnexport.diagnose.case import Case
from bnexport.diagnose.matching import matches
from bnexport.diagnose.mine import read_mine
from bnexport.diagnose.network import HALF, SINGLE, Arithmetic, Network
from bnexport.diagnose.search import Compared, Finding, Search
from bnexport.errors import IncompleteBundle, InputError
from bnexport.kernels.table import NDArray
from bnexport.options import Options
from bnexport.tables import read_inputs

__all__ = ["Diagnosis", "diagnose"]


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What became of a comparison.

    Attributes:
        compared: the user's arrays beside the network's tensors, in the order of the network.
        unmatched: a line for each array that has no place in the network.
        findings: the differences in order, each with what explains it; none where all agrees. The last one may be unexplained.
        rows: how many rows were given.
        record: what was assumed, set and warned of in reading the network: its program's `conversion`.
    """

    compared: tuple[Compared, ...]
    unmatched: tuple[str, ...]
    findings: tuple[Finding, ...]
    rows: int
    record: Mapping[str, Any]

    @property
    def agrees(self) -> bool:
        """Whether all of the user's numbers are the network's, up to rounding."""
        return not self.findings


def diagnose(
    path: str | Path, input: str | Path, mine: str | Path, options: Options | None = None, *, layer: str | None = None, header: bool | None = None
) -> Diagnosis:
    """Compares a user's own numbers with a checkpoint's network, and tries what people get wrong where they differ.

    Args:
        path: the checkpoint.
        input: the rows that the user computed from: .csv, .npy or .npz (see `bnexport.tables.read_inputs`).
        mine: the user's numbers (see `bnexport.diagnose.mine.read_mine`).
        layer: what `mine` holds, where it holds one array: a tensor, layer, batch norm or scope; the network's output by default.
        header: whether the first row of a CSV input names its columns.

    The whole network is kept in memory, in float64.

    Raises:
        BnexportError: the checkpoint cannot be read, the network cannot be computed, or the files fit nothing in it.
    """
    options = options or Options()
    given = read_mine(mine)
    with Checkpoint(locate(path)) as checkpoint:
        network, record = _network(path, options, checkpoint)
        feeds = _feeds(input, network, header, record.get("batch"))
        right = network.run(feeds, network.order)
        shapes = {tensor: values.shape for tensor, values in right.items()}
        found, unmatched = matches(network, shapes, given, layer)
        case = Case(network, right, feeds, record, {}, _averaged(path, options, checkpoint, record))
        search = Search(case, found, _unit(checkpoint))
        rows = max((value.shape[0] for value in feeds.values() if value.ndim), default=1)
        findings = tuple(search.findings())
        return Diagnosis(tuple(search.compared), tuple(unmatched), findings, rows, record)


def _network(path: str | Path, options: Options, checkpoint: Checkpoint) -> tuple[Network, dict[str, Any]]:
    program = to_unfolded(path, options)
    if program.conversion.get("incomplete"):
        raise IncompleteBundle(f"{path}: {program.conversion['incomplete']}")
    return Network(program, batch_norms(program, checkpoint)), program.conversion


def _feeds(input: str | Path, network: Network, header: bool | None, batch: int | None) -> dict[str, NDArray]:
    """The inputs by tensor; for a network that was built for one number of rows filled up with copies of the last one."""
    ports = list(network.inputs.values())
    (block,) = read_inputs(input, ports, header=header, block_rows=None)
    rows = max((len(block[port.name]) for port in ports if port.shape and port.shape[0] is None), default=0)
    if batch is None or not rows:
        return {port.tensor: block[port.name] for port in ports}
    if rows > batch:
        raise InputError(f"{input} has {rows} rows, and the network was built for {batch} at a time: give that many at most")
    filled = {}
    for port in ports:
        values = block[port.name]
        filled[port.tensor] = np.concatenate([values, np.repeat(values[-1:], batch - rows, axis=0)]) if len(values) == rows else values
    return filled


def _averaged(path: str | Path, options: Options, checkpoint: Checkpoint, record: dict[str, Any]) -> Callable[[], Network | None]:
    def averaged() -> Network | None:
        entry = record.get("averages")
        if not entry or "of" not in entry:
            return None
        return _network(path, replace(options, averages=not options.averages), checkpoint)[0]

    return averaged


def _unit(checkpoint: Checkpoint) -> Arithmetic:
    """float32's, or float16's where most of the checkpoint's numbers are of that: such a network computes in it."""
    sizes: dict[str, int] = {}
    for name in checkpoint:
        info = checkpoint.info(name)
        if info.dtype.kind == "f":
            sizes[info.dtype.name] = sizes.get(info.dtype.name, 0) + info.nbytes // info.dtype.itemsize
    return HALF if max(sizes, key=lambda name: sizes[name], default="") == "float16" else SINGLE
