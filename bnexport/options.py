"""What a user may say of a conversion."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from bnexport.errors import UsageError

STATISTICS = ("auto", "moving", "batch")


@dataclass(slots=True)
class Options:
    """What the user may say.

    Attributes:
        set_values: values of flags and other tensors by name.
        inputs, outputs: tensors by name, or `name=tensor`.
        shapes: shapes of inputs by name, None for any size.
        averages: whether to take Polyak averages of the weights where the checkpoint holds them.
        signature: the signature of a SavedModel.
        statistics: in a graph that was saved from training, whether batch norm takes the `moving` statistics or the `batch`'s; `auto` for moving
            wherever the batch size is open.
        activation: only without a graph. `relu` for every linear layer but the last, which has none; `relu:softmax` for these and the last;
            `relu,tanh,none` for each linear layer by itself.
        bn_after_activation: only without a graph: whether batch norms stand behind the activation, not before it.
        epsilon: only without a graph, of all batch norms.
        order: only without a graph: the layers of the network by name, in their order, or a scope in which they are. Batch norms may stand between
            them; where none does, each is placed by its name.
        graph: the file of the graph, where it is not beside the checkpoint under the checkpoint's name.
        use_graph: False to read the names even where a graph lies beside the checkpoint.
    """

    set_values: Mapping[str, Any] = field(default_factory=dict)
    inputs: Sequence[str] = ()
    outputs: Sequence[str] = ()
    shapes: Mapping[str, Sequence[int | None]] = field(default_factory=dict)
    averages: bool = False
    signature: str | None = None
    statistics: str = "auto"
    activation: str | None = None
    bn_after_activation: bool = False
    epsilon: float | None = None
    order: Sequence[str] = ()
    graph: str | None = None
    use_graph: bool = True

    def __post_init__(self) -> None:
        """A single name is a list of one: as a sequence it would be its letters."""
        self.inputs, self.outputs, self.order = ([names] if isinstance(names, str) else names for names in (self.inputs, self.outputs, self.order))
        self.graph = None if self.graph is None else str(self.graph)
        if self.statistics not in STATISTICS:
            raise UsageError(f"statistics is {self.statistics!r}; it is one of {', '.join(STATISTICS)}")

    def given(self) -> dict[str, Any]:
        """What was said, as JSON values by name: `Options(**options.given())` says the same."""
        said = ((f.name, getattr(self, f.name), getattr(_DEFAULTS, f.name)) for f in fields(self))
        return {name: list(value) if isinstance(value, tuple) else value for name, value, default in said if value != default and value != []}


_DEFAULTS = Options()
