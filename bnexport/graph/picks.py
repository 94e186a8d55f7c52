"""What a loss computes beside picking elements of a network's result by labels: the sum over all paths of a conditional random field."""

from collections.abc import Callable
from functools import cached_property

from bnexport.graph.flow import Flow

RESHAPES = frozenset({"Reshape", "Squeeze", "ExpandDims", "Transpose"})
_MOST = 100_000  # nodes looked at behind an end: a field has some for each step


class Picks:
    """The tensors that labels pick elements of, and what a loss makes of them besides.

    Attributes:
        beside: nodes that were found to be made so.
    """

    def __init__(self, flow: Flow):
        self.flow = flow
        self.live = flow.live
        self.beside: set[str] = set()

    def own(self, name: str, is_term: Callable[[], bool]) -> bool:
        """Whether an end only serves a loss that labels pick elements of a tensor for, and is made of that tensor and weights alone.

        So is the sum over all paths that a conditional random field holds against the path of the labels, and what its steps leave lying.

        Args:
            is_term: whether the end only enters losses; not asked for one that nothing takes.
        """
        taken = bool(self.flow.followers(name))
        if name in self.beside:
            return True
        if not self._picked or (taken and not is_term()):
            return False
        made = self._made_of_picked(name)
        if made is None or not (taken or made & self.beside):
            return False
        self.beside |= made
        return True

    @cached_property
    def _picked(self) -> set[str]:
        """What labels pick elements from, before it was given another shape for that."""
        found = set()
        for name in self.flow.depends.keys() - self.flow.network:
            node = self.live.graph.nodes[name]
            by = self.flow.picked_by(node)
            picked = [r.node for r in self.live.inputs(node)[:2] if by is not None and r != by and r.node in self.flow.network]
            for root in picked:
                while self.live.graph.nodes[root].op in RESHAPES and len(self.flow.followers(root)) == 1:
                    root = self.live.inputs(self.live.graph.nodes[root])[0].node
                found.add(root)
        return found & self.flow.network

    def _made_of_picked(self, name: str) -> set[str] | None:
        """The nodes between a tensor that labels pick from and an end that is made of it and of weights alone; None where it is not."""
        stack, made, roots = [name], set[str](), set()
        while stack:
            current = stack.pop()
            if current in self._picked and current != name:
                roots.add(current)
            elif current not in made:
                made.add(current)
                behind = [r for r in self.live.inputs(self.live.graph.nodes[current]) if r in self.flow.sources or r.node in self.flow.depends]
                if any(r.node in self.flow.weighted and self._takes_sources(r.node) for r in behind) or len(made) > _MOST:
                    return None
                stack += [r.node for r in behind if r.node in self.flow.touched]
        return made if len(roots) == 1 else None

    def _takes_sources(self, name: str) -> bool:
        return not any(r.node in self.flow.touched for r in self.live.inputs(self.live.graph.nodes[name]))
