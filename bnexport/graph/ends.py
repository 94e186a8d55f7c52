"""Where a network ends: its last tensors, once losses, metrics and decisions have been stepped back from.

What depends on labels is no part of the network (see `flow`). Some of a loss or a metric depends on no label, though, and hangs at the end of the
network all the same: decisions (argmax, comparisons), the logarithm of a likelihood, a comparison with the input itself, updates of averages. Each
rule here knows one of these by its operators; scopes are only looked at where TensorFlow's own functions open them.
"""

from bnexport.graph import ops
from bnexport.graph.flow import SHAPES_ONLY, Flow, belongs_to_training
from bnexport.graph.graphdef import Node, Ref

_DECISIONS = frozenset(
    {"ArgMax", "ArgMin", "Equal", "NotEqual", "Greater", "GreaterEqual", "Less", "LessEqual", "InTopK", "InTopKV2", "TopK", "TopKV2", "Round", "Rint",
     "OneHot", "Multinomial", "AsString", "LogicalAnd", "LogicalOr", "LogicalNot", "Where", "IsNan", "IsInf", "IsFinite", "All", "Any"}
)  # fmt: skip
_ARITHMETIC = frozenset(
    {"Sub", "Add", "AddV2", "Mul", "Square", "SquaredDifference", "Pow", "Abs", "Neg", "Log", "Log1p", "RealDiv", "Div", "Maximum", "Minimum", "Sum",
     "Mean", "Sqrt", "Exp", "Select", "SelectV2", "ClipByValue", "Cast"}
)  # fmt: skip
_RESHAPES = frozenset({"Reshape", "Squeeze", "ExpandDims", "Transpose"})
_PARTS = frozenset({"Split", "SplitV", "Unpack"})
_BEFORE_LOGARITHMS = frozenset({"Add", "AddV2", "Maximum", "Minimum", "Sub", "ClipByValue", "Exp"})
_LOSS_SCOPES = frozenset(
    {"logistic_loss", "log_loss", "hinge_loss", "huber_loss", "mean_squared_error", "mean_pairwise_squared_error", "absolute_difference",
     "cosine_distance_loss", "softmax_cross_entropy_loss", "sigmoid_cross_entropy_loss", "sparse_softmax_cross_entropy_loss",
     "softmax_cross_entropy_with_logits", "L2Loss", "l2_regularizer"}
)  # fmt: skip
"""The scopes that tf.nn's and tf.losses' functions open."""


class Ends:
    """The search for a network's ends.

    Attributes:
        stepped_back: what was stepped back from, and could be named as an output.
        compared_to_constants: arithmetic that compares the network's results with constants.
    """

    def __init__(self, flow: Flow):
        self.flow = flow
        self.live = flow.live
        self.stepped_back: list[Ref] = []
        self.compared_to_constants: set[str] = set()
        self._updates: set[str] = set()
        self._dropped: set[str] = set()
        self._likelihood: set[str] = set()  # logarithms of a likelihood, and the arithmetic before them
        self._position = {name: i for i, name in enumerate(self.live.graph.nodes)}
        self._untaken = self._not_chosen()
        self._inside: set[str] = set()  # what is left of the network, and its ends, once `find` has stepped back
        self._ends: set[str] = set()

    def find(self) -> list[Ref]:
        """The references of the network that nothing in it takes, after stepping back, in the graph's order."""
        inside = set(self.flow.network)
        drawn = [name for name in self.flow.sampled - self.flow.lossy if not self.flow.followers(name)]
        self.stepped_back = [Ref(name) for name in sorted(drawn, key=self._position.__getitem__)]
        while True:
            ends = [n for n in inside if not any(u.name in inside and u.op not in SHAPES_ONLY for u in self.flow.users_of.get(n, ()))]
            ends.sort(key=self._position.__getitem__)
            dropped = {n for n in ends if self._is_dropped(n)}
            self._dropped |= dropped
            back = [n for n in ends if n in dropped or self._is_no_output(n, inside) or self._serves_training(n)]
            if not back:
                self._inside, self._ends = inside, set(ends)
                return [ref for n in ends for ref in self._outputs(n)] + self._compared_parts(inside)
            for name in back:
                if self._serves_training(name):
                    self._updates.add(name)
                elif name not in dropped:
                    self.stepped_back.append(Ref(name))
            inside.difference_update(back)

    def _outputs(self, name: str) -> list[Ref]:
        """The outputs of an end that anything takes: of a Split, several."""
        taken = [ref for ref in self.flow.taken.get(name, ()) if any(u.op not in SHAPES_ONLY for u in self.flow.users[ref])]
        return sorted(taken) if len(taken) > 1 else [Ref(name)]

    def _compared_parts(self, inside: set[str]) -> list[Ref]:
        """The outputs of nodes of several outputs (a Split) of which only losses and metrics are computed, while the network goes on with others."""
        found = []
        for name in inside:
            refs = self.flow.taken.get(name, ())
            if len(refs) < 2 or self.live.graph.nodes[name].op not in _PARTS:
                continue
            users = {ref: [u for u in self.flow.users[ref] if u.name in self.flow.depends and u.op not in SHAPES_ONLY] for ref in refs}
            if any(u.name in inside for us in users.values() for u in us):
                found += [ref for ref, us in users.items() if us and not any(u.name in self.flow.network or u.name in self.flow.lossy for u in us)]
        return sorted(found, key=lambda ref: (self._position[ref.node], ref.output))

    def behind(self, names: set[str]) -> list[Ref]:
        """The ends that come to light when these ends, which only serve losses, are left out: what is also compared with labels, or weighted."""
        flow, inside = self.flow, set(self._inside)
        found: set[str] = set()
        back = set(names)
        while back:
            inside -= back
            uncovered = [n for n in inside - self._ends - found if not any(u.name in inside for u in flow.followers(n))]
            compared = {n for n in uncovered if any(u.name not in flow.network and u.name not in flow.lossy for u in flow.followers(n))}
            found |= compared | (flow.weighted & set(uncovered))
            back = set(uncovered) - found
        return [Ref(n) for n in sorted(found, key=self._position.__getitem__)]

    def _not_chosen(self) -> set[Ref]:
        """What goes into decided conditions and comes out of none."""
        live = self.live
        outside = [n for n in list(live.graph.nodes.values()) if not belongs_to_training(n)]
        offered = {live.resolve(n.inputs[0]) for n in outside if n.op in ops.SWITCHES and live.is_decided(n)}
        return offered - {live.resolve(Ref(n.name)) for n in outside if n.op in ops.MERGES}

    def _is_dropped(self, name: str) -> bool:
        """Whether a node is only computed for the side of a condition that is not taken."""
        users = self.flow.followers(name)
        return Ref(name) in self._untaken or (bool(users) and all(u.name in self._dropped for u in users))

    def _is_no_output(self, name: str, inside: set[str]) -> bool:
        """Whether an end is a decision, or the beginning of a loss or metric."""
        node = self.live.graph.nodes[name]
        behind = [r for r in self.live.inputs(node) if r.node in inside]
        if node.op in SHAPES_ONLY or node.op in ("Assert", "Size"):
            return True
        if not behind or name in self.flow.weighted:
            return False
        if any(part.rstrip("0123456789").rstrip("_") in _LOSS_SCOPES for part in name.split("/")):
            return True
        if node.op in _DECISIONS or (node.op in _RESHAPES and self.live.graph.nodes[behind[0].node].op in _DECISIONS):
            return True
        users = self.flow.followers(name)
        outside = [u for u in users if u.name not in self.flow.network]  # losses and metrics, by the labels that they also depend on
        stepped = [u for u in users if u.name in self.flow.network and u.name not in inside]
        if node.op == "Cast" and (bool(outside) or {node.attrs.get("SrcT"), node.attrs.get("DstT")} & {"bool", "int32", "int64", "uint8"}):
            return True
        if not outside and not stepped:
            return False
        logarithm = node.op in ("Log", "Log1p")
        if logarithm and (outside or any(u.op == "Mul" or u.name in self._likelihood for u in stepped)):
            self._likelihood.add(name)
            return True
        if node.op in ("Add", "AddV2") and outside and self._is_logarithm_of_scale(node):
            self._likelihood.add(name)
            return True
        if not logarithm and node.op in _BEFORE_LOGARITHMS and any(u.op in ("Log", "Log1p") or u.name in self._likelihood for u in users):
            self._likelihood.add(name)
            return True
        if logarithm:
            return False
        if node.op in ("Neg", "Exp", "Minimum", "Maximum", "RealDiv", "Sum") and stepped and not outside:
            return self._normalises(node, behind) if node.op in ("RealDiv", "Sum") else True
        if node.op in ("Square", "Pow") and not stepped and all(u.op == "Mul" for u in outside):
            return True  # a distance is squared, and weighted by a label: the contrastive loss
        if node.op == "Sub" and stepped and not outside and all(u.op in ("Maximum", "Relu") for u in stepped):
            return True  # a margin that the network's result is held against
        if node.op in ops.SELECTS and self._chooses_by_sign(node):
            return True
        if node.op in _RESHAPES and outside and all("CrossEntropy" in u.op for u in outside):
            return True
        return all(u.name in self.flow.lossy or u in stepped for u in users) and self._compares(name, inside)

    def _is_logarithm_of_scale(self, node: Node) -> bool:
        """Whether a node adds a constant to a logarithm: what a density of a deviation given by the network is divided by."""
        operands = self.live.inputs(node)
        logarithm = [self.live.graph.nodes[r.node].op == "Log" for r in operands]
        return any(logarithm) and any(not self.live.is_dynamic(r) and not self.flow.is_weight(r) for r in operands)

    def is_term_of_loss(self, name: str) -> bool:
        """Whether an end is only ever added to what depends on weights and on labels as well: entropies are, and penalties."""
        users = self.flow.followers(name)
        return bool(users) and all(u.op in ("Add", "AddV2", "AddN") and self._adds_to_loss(u, name) for u in users)

    def _adds_to_loss(self, user: Node, name: str) -> bool:
        others = [r.node for r in self.live.inputs(user) if r.node != name]
        return user.name not in self.flow.network and any(r in self.flow.touched and r not in self.flow.network for r in others)

    def _normalises(self, node: Node, behind: list[Ref]) -> bool:
        """Whether a node divides by, or is, a sum of what it is divided into: what a cross entropy does to probabilities first."""
        if node.op == "Sum":
            return True
        numerator, denominator = self.live.inputs(node)
        total = self.live.graph.nodes[denominator.node]
        return total.op == "Sum" and self.live.inputs(total)[0] == numerator and numerator in behind

    def _serves_training(self, name: str) -> bool:
        """Whether a node only makes updates of moving statistics, or what dropout was, gradients aside."""
        node = self.live.graph.nodes[name]
        users = [u for u in self.flow.users_of.get(name, ()) if not ops.is_gradient(u)]
        if users and all(Ref(u.name) in self.live.replaced for u in users):
            return True
        if name in self.flow.weighted and not ops.in_training_mode(node) and node.op not in ("Sub", "Mul", "Add", "AddV2"):
            return False  # (an average is updated by arithmetic with the average itself, which is a variable too)
        return bool(users) and all(self._moves_statistics(u) or Ref(u.name) in self.live.replaced or u.name in self._updates for u in users)

    def _moves_statistics(self, node: Node) -> bool:
        """Whether a node writes a variable that is no scalar: a scalar follows a loss, and what a loss is computed from may be an output."""
        if not ops.is_assignment(node.op):
            return False
        return self.live.graph.nodes[self.live.resolve(node.inputs[0]).node].attrs.get("shape") != []

    def _chooses_by_sign(self, node: Node) -> bool:
        """Whether a Select takes x or -x or zero by the sign of x, as the stable form of the sigmoid cross entropy does."""
        condition, *branches = self.live.inputs(node)
        test = self.live.graph.nodes[condition.node]
        if test.op not in ("Greater", "GreaterEqual"):
            return False
        x = self.live.inputs(test)[0]
        plain = [b for b in branches if b == x or self.live.graph.nodes[b.node].op in ("ZerosLike", "Neg", "Const")]
        return len(plain) == len(branches)

    def _compares(self, name: str, inside: set[str]) -> bool:
        """Whether arithmetic just behind compares the network's result with data that no weight has touched, or with constants, as a loss does."""
        stack, seen = [name], set()
        while stack:
            current = stack.pop()
            node = self.live.graph.nodes[current]
            if current in seen or current in self.flow.weighted or node.op not in _ARITHMETIC:
                continue
            seen.add(current)
            operands = self.live.inputs(node)
            made = [self.live.graph.nodes[r.node].op for r in operands]
            if node.op in ("Sub", "SquaredDifference") or (node.op == "Mul" and ("Log" in made or "Log1p" in made)):
                if any(r in self.flow.sources or (r.node in self.flow.depends and r.node not in self.flow.touched) for r in operands):
                    return True
                if any(not self.live.is_dynamic(r) and not self.flow.is_weight(r) and self.live.value(r).size > 1 for r in operands):
                    self.compared_to_constants.update(seen)
                    return True
            stack.extend(r.node for r in operands if r.node in inside or r.node in self.flow.depends)
        return False
