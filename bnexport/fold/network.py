"""A network while it is folded: its layers, who makes each tensor and who takes it."""

from dataclasses import dataclass, field

from bnexport.program import Layer

Shape = tuple[int | None, ...]


@dataclass(slots=True)
class Network:
    """Layers with their shapes and consumers, as folding rewrites them.

    Attributes:
        layers: in topological order. A layer that was folded away stands here until `prune`.
        shapes: of the tensors, None for a size that varies.
        outputs: the tensors of the network's outputs, in their order.
        users: the layers that take a tensor.
        makers: the layer that makes a tensor; none makes an input.
        equals: for each tensor of a layer the one before folding that it equals in exact arithmetic; none where a scale/shift has passed it.
    """

    layers: list[Layer]
    shapes: dict[str, Shape]
    outputs: list[str]
    users: dict[str, list[Layer]] = field(default_factory=dict)
    makers: dict[str, Layer] = field(default_factory=dict)
    equals: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for layer in self.layers:
            self.makers.update(dict.fromkeys(layer.makes, layer))
            self.equals[layer.name] = layer.name
            for tensor in dict.fromkeys(layer.takes):
                self.users.setdefault(tensor, []).append(layer)

    def holds(self, layer: Layer) -> bool:
        """Whether a layer has not been folded away."""
        return self.makers.get(layer.name) is layer

    def sole_user(self, tensor: str) -> Layer | None:
        """The one layer that takes a tensor, if the tensor is not an output as well."""
        users = self.users.get(tensor, [])
        return users[0] if len(users) == 1 and tensor not in self.outputs else None

    def bypass(self, layer: Layer, *, done_before: bool = False) -> None:
        """Removes a layer of one input: whatever takes its result takes that input from now on.

        Args:
            done_before: whether that input has become what the layer gave.
        """
        source = str(layer.inputs[0])
        equal = self.equals.pop(layer.name, None)
        if done_before and equal is not None:
            self.equals[source] = equal
        remaining = [user for user in self.users[source] if user is not layer]
        for user in self.users.pop(layer.name, []):
            user.inputs = [source if t == layer.name else t for t in user.inputs]
            if all(user is not other for other in remaining):
                remaining.append(user)
        self.users[source] = remaining
        self.outputs[:] = [source if t == layer.name else t for t in self.outputs]
        del self.makers[layer.name]

    def prune(self) -> None:
        """Takes the layers that were folded away out of `layers`."""
        self.layers[:] = [layer for layer in self.layers if self.holds(layer)]
