"""How data flows through a graph: what depends on which source, where weights touch it, and what is a network as against its training.

A *weight* is what a variable of more than one element becomes without being summed up. An input is a source of data that is combined with a weight
somewhere downstream; a label, a reward or a learning rate never is. The network is everything that depends on inputs and weights but on no other
source, so that losses and metrics fall away with the labels they compare to. Reductions over the batch behind the last weight are losses too.
"""

from collections.abc import Iterable
from functools import cache
from itertools import permutations

from bnexport.graph import ops
from bnexport.graph.axes import are_of_batch
from bnexport.graph.graphdef import Node, Ref, topological
from bnexport.graph.live import Live

_SAVING = frozenset({"SaveV2", "Save", "SaveSlices", "QueueEnqueueManyV2", "QueueEnqueueV2", "QueueEnqueue", "QueueEnqueueMany"})
PRODUCTS = frozenset({"MatMul", "BatchMatMul", "BatchMatMulV2", "BatchMatMulV3", "Conv2D"})
"""Operators that have data as their first operand and weights as their second, most of the time."""

PICKS = frozenset({"Gather", "GatherV2", "GatherNd", "DynamicPartition"})
"""Operators that pick elements of their first operand by their second."""


def belongs_to_training(node: Node) -> bool:
    """Whether a node writes variables, saves, reports, or was made by tf.gradients or for it."""
    return _only_trains(node.op) or ops.is_gradient(node)


@cache
def _only_trains(op: str) -> bool:
    return ops.is_assignment(op) or ops.is_summary(op) or op in _SAVING


class Flow:
    """The flow of data through the live part of a graph.

    Attributes:
        sources: a bit for each reference through which data enters.
        inputs: those that are inputs of a network, and no labels.
        depends: for each node reached, the bits of the sources that it depends on.
        weighted: nodes that combine data with a weight.
        touched: those and all that depends on them.
        network: the nodes of the network.
        losses: cross entropies, and reductions over the batch after which no weight comes any more.
        lossy: those and what follows them, which is no part of the network.
        sampled: what is drawn at random from the network's results, as actions are from a policy's mean and deviation; no part of it either.
        users: for each reference, what takes it.
        users_of: for each node, what takes from it.
        taken: for each node, the references of it that are taken.
    """

    def __init__(self, live: Live):
        self.live = live
        self.users = live.consumers()
        self.users_of: dict[str, list[Node]] = {}
        self.taken: dict[str, list[Ref]] = {}
        for ref, users in self.users.items():
            self.users_of.setdefault(ref.node, []).extend(users)
            self.taken.setdefault(ref.node, []).append(ref)
        self._weights: dict[str, bool] = {}
        self._on_gradients: set[str] | None = None
        self.depends: dict[str, int] = {}
        self.touched: set[str] = set()
        self.weighted: set[str] = set()
        self.sources: dict[Ref, int] = {}
        self._walk()
        inputs = 0
        for name in self.weighted:
            inputs |= self.depends[name]
        inputs &= ~(self._labels() | self._picking_labels())
        self.inputs = {ref for ref, bit in self.sources.items() if bit & inputs}
        self.network = {name for name in self.touched if self.depends[name] & ~inputs == 0}
        self.losses = self._losses()
        self.lossy = self.downstream(self.losses)
        self.sampled = self._sampled()
        self.network -= self.lossy | self.sampled

    def _walk(self) -> None:
        """Follows data from all sources forward, noting for each node what it depends on and whether weights have touched it."""
        live = self.live
        start = [
            n
            for n in list(live.graph.nodes.values())
            if n.name in live.sources or ops.is_source(n) or (n.op == "PlaceholderWithDefault" and live.resolve(Ref(n.name)) == Ref(n.name))
        ]
        reached: dict[str, Node] = {}
        stack = []
        for node in start:
            for ref in self.taken.get(node.name, ()):
                self.sources[ref] = 1 << len(self.sources)
            stack.append(node.name)
        while stack:
            name = stack.pop()
            for ref in self.taken.get(name, ()):
                for user in self.users[ref]:
                    if user.name not in reached and not self.is_training(user):
                        reached[user.name] = user
                        stack.append(user.name)
        inside = {n: [r for r in live.inputs(node) if r.node in reached or r in self.sources] for n, node in reached.items()}
        for name in topological(live.graph, list(reached), lambda n: [r for r in inside.get(n.name, ()) if r.node in reached]):
            if name not in reached:
                continue
            node = reached[name]
            mask = 0
            touched = False
            for ref in inside[name]:
                mask |= self.sources.get(ref, 0) | self.depends.get(ref.node, 0)
                touched = touched or ref.node in self.touched
            self.depends[name] = mask
            if node.op in ops.SHAPES_ONLY:
                continue
            if any(r.node not in reached and r not in self.sources and not live.is_dynamic(r) and self.is_weight(r) for r in live.inputs(node)):
                self.weighted.add(name)
                touched = True
            if touched:
                self.touched.add(name)

    def is_training(self, node: Node) -> bool:
        """Whether a node only serves training (as arithmetic on gradients does), or something else was put in its place."""
        return belongs_to_training(node) or Ref(node.name) in self.live.replaced or self._is_on_gradients(node)

    def is_factor_of_gradients(self, name: str) -> bool:
        """Whether arithmetic on gradients is all that takes a node: a differential equation multiplies a solution with its derivatives."""
        users = [u for u in self.users_of.get(name, ()) if not belongs_to_training(u)]
        return bool(users) and all(self._is_on_gradients(u) for u in users)

    def _is_on_gradients(self, node: Node) -> bool:
        if self._on_gradients is None:
            self._on_gradients = self._computed_with_gradients()
        return node.name in self._on_gradients

    def _computed_with_gradients(self) -> set[str]:
        """All that depends on what tf.gradients made: clipping, a gradient's penalty, adversarial examples and what is computed from them."""
        reached = {node.name for users in self.users.values() for node in users if ops.is_gradient(node)}
        stack = list(reached)
        while stack:
            for user in self.users_of.get(stack.pop(), ()):
                if user.name not in reached:
                    reached.add(user.name)
                    stack.append(user.name)
        return reached

    def _labels(self) -> int:
        """The sources that cross entropies take for labels and whose logits do not depend on them, though a weight may touch them elsewhere.

        (In a center loss, the classes' centers are looked up with the labels.) A sampler of classes that are wrong takes labels as well: nce_loss
        looks up the weights of these and of the right ones.
        """
        labels = logits = right = 0
        samplers = set[str]()
        for name in self.depends:
            node = self.live.graph.nodes[name]
            if node.op in ops.CROSS_ENTROPIES:
                given, wanted = (self.sources.get(r, 0) | self.depends.get(r.node, 0) for r in self.live.inputs(node)[:2])
                logits |= given
                labels |= wanted
            elif node.op.endswith("CandidateSampler"):
                classes = self.live.inputs(node)[0]
                right |= self.sources.get(classes, 0) | self.depends.get(classes.node, 0)
                samplers.add(name)
        for name in self.weighted - self.downstream(samplers) if right else ():
            right &= ~self.depends[name]
        return (labels & ~logits) | right

    def picked_by(self, node: Node) -> Ref | None:
        """What a node picks elements of the network's results by: indices, or ones among zeros that it is multiplied with; None where it does not.

        These are data that no weight has touched.
        """
        if node.op in PICKS:
            picked, by = self.live.inputs(node)[:2]
            return by if picked.node in self.touched and self.live.is_dynamic(by) and by.node not in self.touched else None
        if node.op == "Mul":
            for picked, by in permutations(self.live.inputs(node)):
                ones = self.live.graph.nodes[by.node]
                while ones.op in ("Cast", "Reshape"):
                    ones = self.live.graph.nodes[self.live.inputs(ones)[0].node]
                if picked.node in self.touched and ones.op == "OneHot" and by.node in self.depends and by.node not in self.touched:
                    return by
        return None

    def _picking_labels(self) -> int:
        """The sources that losses pick elements of the network's results by, where all that weights have to do with them is to be looked up.

        (A conditional random field adds up the scores that the labels pick of the network's, and those of their transitions, which are weights.)
        """
        picking = 0
        for name in self.depends:
            by = self.picked_by(self.live.graph.nodes[name])
            if by is not None and self._ends_in_losses(name):
                picking |= self.sources.get(by, 0) | self.depends.get(by.node, 0)
        for name in self.weighted if picking else ():
            node = self.live.graph.nodes[name]
            operands = self.live.inputs(node)[:2]
            if node.op not in PICKS or self.live.is_dynamic(operands[0]) or operands[1].node in self.touched:
                picking &= ~self.depends[name]
        return picking

    def _ends_in_losses(self, name: str) -> bool:
        """Whether all that is computed from a node is reduced over the batch, and no weight comes after it."""
        after = self.downstream({name})
        if after & self.weighted or any(self._compares_with_data(n) for n in after):
            return False
        reduced = self.downstream(n for n in after if self.live.graph.nodes[n].op in ops.REDUCTIONS and self.reduces_batch(self.live.graph.nodes[n]))
        return all(self.followers(n) for n in after - reduced)

    def _compares_with_data(self, name: str) -> bool:
        """Whether what was picked is held against other data, which are the labels then."""
        node = self.live.graph.nodes[name]
        if node.op not in ops.CROSS_ENTROPIES and node.op not in ("Sub", "SquaredDifference"):
            return False
        return any(r in self.sources or (r.node in self.depends and r.node not in self.touched) for r in self.live.inputs(node))

    def is_weight(self, ref: Ref) -> bool:
        """Whether a constant is made of a variable of more than one element, without having been reduced."""
        if ref.node not in self._weights:
            live, node = self.live, self.live.graph.nodes[ref.node]
            self._weights[ref.node] = False  # stands while its operands are looked at
            if node.op in ops.VARIABLES:
                shape = node.attrs.get("shape")
                self._weights[ref.node] = live.variables.holds(node) and shape != [1]
                if self._weights[ref.node] and not shape:
                    self._weights[ref.node] = live.variables.array(node).shape not in ((), (1,))
            elif node.op not in ops.REDUCTIONS and node.op != "L2Loss" and not ops.is_assignment(node.op) and not ops.is_source(node):
                self._weights[ref.node] = any(self.is_weight(r) for r in live.inputs(node))
        return self._weights[ref.node]

    def _losses(self) -> set[str]:
        """Cross entropies, and reductions over the batch after which no weight comes any more."""
        found = set()
        for name in self.network:
            node = self.live.graph.nodes[name]
            if node.op in ops.CROSS_ENTROPIES or (
                (node.op in ops.REDUCTIONS or node.op in ("L2Loss", "AddN"))
                and self.reduces_batch(node)
                and not self._only_shifts(node)
                and name not in self.live.normalising
                and not (after := self.downstream({name}) - {name}) & self.weighted
                and not any("_ends" in self.live.graph.nodes[n].attrs for n in after)  # it tells how long a loop goes on
            ):
                found.add(name)
        return found

    def _only_shifts(self, node: Node) -> bool:
        """Whether a maximum is only subtracted from what it is the maximum of, which keeps the exponentials of a softmax from overflowing."""
        users = self.users_of.get(node.name, ())
        shifted = (self.live.inputs(node)[0], Ref(node.name))
        return node.op == "Max" and len(users) > 0 and all(u.op == "Sub" and self.live.inputs(u) == shifted for u in users)

    def _sampled(self) -> set[str]:
        """What depends on random numbers, where no weight comes any more; numbers of a condition that is not decided ask for a decision first."""
        random = {n.name for n in list(self.live.graph.nodes.values()) if ops.is_random(n.op) and not self.live.is_undecided(n.name)}
        drawn = self.downstream(random)
        before = {name for name in drawn & self.network if self.downstream({name}) & self.weighted} if drawn & self.weighted else set()
        return (drawn & self.network) - before

    def reduces_batch(self, node: Node) -> bool:
        """Whether a reduction goes over the batch."""
        if node.op == "L2Loss":
            return True
        if len(node.inputs) < 2 or node.op == "AddN":
            return False
        data, axes = self.live.inputs(node)
        if self.live.is_dynamic(axes):
            return True  # tf.reduce_mean(x) of an unknown rank: all axes, computed from the rank
        return are_of_batch(self.live.graph, data, self.live.value(axes).reshape(-1))

    def downstream(self, names: Iterable[str]) -> set[str]:
        """Some nodes and all that depends on them."""
        reached = set(names)
        stack = list(reached)
        while stack:
            for user in self.users_of.get(stack.pop(), ()):
                if user.name in self.depends and user.name not in reached:
                    reached.add(user.name)
                    stack.append(user.name)
        return reached

    def followers(self, name: str) -> list[Node]:
        """What takes a node's values, gradients and questions of shape aside."""
        return [u for u in self.users_of.get(name, ()) if u.name in self.depends and u.op not in ops.SHAPES_ONLY]
