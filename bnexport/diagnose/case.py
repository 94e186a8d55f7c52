"""What a hypothesis is, and what it is given to look at.

A hypothesis is a mistake that people make, under a name. In a given network it comes in variants (which epsilon, which layer's kernel), each at one
or more sites.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from bnexport.diagnose.network import DOUBLE, Arithmetic, Edits, Network, Values
from bnexport.kernels.table import NDArray

Index = tuple[int, ...]
Numbers = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Shown:
    """How to show a mistake on one element of a tensor.

    Attributes:
        tensor: where the mistake is made.
        right, wrong: formulas, in the names of `numbers`.
        numbers: the numbers that stand for these names at an index, for the right formula and for the wrong one, from the values of all tensors as
            they are and as they are with the mistake.
    """

    tensor: str
    right: str
    wrong: str
    numbers: Callable[[Values, Values, Index], tuple[Numbers, Numbers]]


@dataclass(frozen=True, slots=True)
class Site:
    """A place where a mistake can be made.

    Attributes:
        name: of the layer or batch norm, as a person calls it.
        edits: the mistake.
        shown: what to show of it, if there is a formula.
    """

    name: str
    edits: Edits
    shown: Shown | None = None


@dataclass(frozen=True, slots=True)
class Variant:
    """A mistake with all that it leaves open filled in.

    Attributes:
        detail: what is filled in (`1e-05`), or nothing.
        sites: where it can be made: everywhere at once, or in one place alone.
        how: the arithmetic, where it is what is wrong.
        whole: whether it depends on all rows at once, and cannot be tried on a few of them.
    """

    detail: str
    sites: tuple[Site, ...]
    how: Arithmetic = DOUBLE
    whole: bool = False


@dataclass(frozen=True, slots=True)
class Case:
    """What hypotheses are tried on.

    Attributes:
        network: with the mistakes that were found already.
        right: the values of its tensors.
        feeds: the rows that it is given, by input tensor.
        record: what the conversion notes of dropout and averages.
        mine: the user's own values of the first tensor that differs, by tensor, for as many rows as there are.
        averaged: gives the network with the averages in place of the weights, or the reverse; None where the checkpoint holds no averages.
    """

    network: Network
    right: Values
    feeds: Values
    record: Mapping[str, Any]
    mine: Mapping[str, NDArray]
    averaged: Callable[[], Network | None]


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """A mistake that people make.

    Attributes:
        name: what it is called when it is found.
        remedy: what to do instead, in one sentence.
        variants: how it could be made in a network.
    """

    name: str
    remedy: str
    variants: Callable[[Case], Iterable[Variant]]
