"""What a checkpoint or a bundle holds: a record for machines, and a listing of it for people.

The record is made of JSON values only. Every record has

    kind            "checkpoint" or "bundle"
    path            what was given; of a checkpoint its prefix
    tensorflow      the version of TensorFlow that wrote the graph, or null
    inputs, outputs [{name, shape, dtype}], null in a shape where any size will do; null where they are not known
    parameters      how many numbers the network's variables, or the bundle's arrays, hold
    layers          below
    warnings        [text]

that of a checkpoint also

    version         2 (tensor bundle) or 1
    graph           the name of the file that holds the graph, or null
    unconverted     why the network could not be converted, or null; roles come from names alone then
    variables       [{name, shape, dtype, parameters, role, layer}], sorted by name; layer is null for what belongs to none
    layers          [{name, op, activation, batch_norms}], op and activation null where they are not known
                    batch_norms: [{gamma, beta, mean, variance, epsilon, epsilon_from}], each null where there is none

and that of a bundle

    incomplete      why the bundle cannot be evaluated, or null
    layers          [{name, op, inputs, activation, arrays, batch_norms, provenance}]
                    arrays: {role: {shape, dtype}}, inputs: names of tensors, constants left out, provenance: as the bundle has it
    conversion      as the bundle has it
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bnexport.errors import BnexportError
from bnexport.program import Layer, Port, Program
from bnexport.report import batch_norms, number, shape_text

if TYPE_CHECKING:
    from bnexport.checkpoint import Checkpoint, Location

Record = dict[str, Any]

ROLES = ("kernel", "bias", "beta", "gamma", "moving mean", "moving variance")
"""The roles that make up a layer, in the order of a listing."""

_NORM_ROLES = {"gamma": "gamma", "beta": "beta", "mean": "moving mean", "variance": "moving variance"}


def examine(path: str | Path) -> Record:
    """The record of a bundle or a checkpoint, by any of the checkpoint's files.

    Raises:
        BnexportError: there is neither, or it cannot be read. A checkpoint that can be read but not converted is no error.
    """
    from bnexport.formats import is_bundle, read_bundle

    if is_bundle(path):
        return _bundle(str(path), read_bundle(path))
    from bnexport.checkpoint import Checkpoint, locate

    location = locate(path)
    with Checkpoint(location) as checkpoint:
        return _checkpoint(location, checkpoint)
