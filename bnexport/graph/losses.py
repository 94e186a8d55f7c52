"""What of a loss hangs at the end of a network without depending on a label.

A loss is known by the labels that it depends on (see `flow`). Some of what it is made of depends on none, and nothing in the network takes it: the
logarithm of a likelihood, max(z, 0), a margin, the entropy of a policy. Each rule here knows one of these by its operators.
"""

from typing import NamedTuple

from bnexport.graph import ops
from bnexport.graph.flow import PICKS, Flow
from bnexport.graph.graphdef import Node, Ref
from bnexport.graph.picks import RESHAPES, Picks

COMPARISONS = frozenset({"Equal", "NotEqual", "Greater", "GreaterEqual", "Less", "LessEqual"})
SLICES = frozenset({"StridedSlice", "Slice"})
_ARITHMETIC = frozenset(
    {"Sub", "Add", "AddV2", "Mul", "Square", "SquaredDifference", "Pow", "Abs", "Neg", "Log", "Log1p", "RealDiv", "Div", "Maximum", "Minimum", "Sum",
     "Mean", "Sqrt", "Exp", "Select", "SelectV2", "ClipByValue", "Cast"}
)  # fmt: skip
_PLAIN = _ARITHMETIC | RESHAPES | {"Relu", "Softplus", "Max", "Min", "AddN"}
"""What a term of a loss is made with."""
_COMBINATIONS = frozenset(
    {"Mul", "Add", "AddV2", "Sub", "AddN", "RealDiv", "Div", "Select", "SelectV2", "Maximum", "Minimum", "Sum", "Mean"}
)  # fmt: skip
"""How a term enters its loss."""
_NEARBY = 24  # nodes looked at behind a term
_RECIPROCALS = frozenset({"Reciprocal", "Inv"})
_LOGARITHMS = frozenset({"Log", "Log1p"})
_POWERS = frozenset({"Square", "Pow"})
_BEFORE_LOGARITHMS = frozenset({"Add", "AddV2", "Maximum", "Minimum", "Sub", "ClipByValue", "Exp"})
_BEFORE_LIKELIHOODS = frozenset({"Neg", "Exp", "Minimum", "Maximum", "RealDiv", "Sum"})


class End(NamedTuple):
    """A node of the network that nothing in it takes.

    Attributes:
        behind: what it takes of the network.
        users: what takes it all the same: losses, metrics, and ends that were stepped back from.
        outside: those of the users that depend on labels too.
        stepped: those that were stepped back from.
        inside: the names of what is left of the network.
        ends: the names of all that nothing in it takes.
    """

    node: Node
    behind: list[Ref]
    users: list[Node]
    outside: list[Node]
    stepped: list[Node]
    inside: set[str]
    ends: list[str]


class Losses:
    """What is known of the losses of a network, the more the further its ends were stepped back.

    Attributes:
        compared_to_constants: arithmetic that compares the network's results with constants.
        picks: what losses compute of tensors from which labels pick.
    """

    def __init__(self, flow: Flow):
        self.flow = flow
        self.live = flow.live
        self.compared_to_constants: set[str] = set()
        self.picks = Picks(flow)
        self._likelihood: set[str] = set()  # logarithms of a likelihood, and the arithmetic before them
        self._terms: set[str] = set()  # other parts of losses
        self._roots: set[str] = set()  # what a loss makes terms of
        self._margins: set[str] = set()  # differences that a loss asks to be greater than a margin
        self._position = {name: i for i, name in enumerate(self.live.graph.nodes)}

    def owns(self, end: End) -> bool:
        """Whether an end that something takes is part of a loss. The order of the rules matters: a term that one has found is what others ask for."""
        name, op = end.node.name, end.node.op
        if self._is_likelihood(end):
            self._likelihood.add(name)
            return True
        if self._is_term(name, end.inside) and self._belongs_to_loss(name, end.inside, end.ends):
            self._terms.add(name)
            return True
        if op in _LOGARITHMS:
            return False
        if op == "LogSoftmax":  # (it is the output where a loss takes it with labels, unless probabilities stand beside it)
            return not end.outside or any(u.op == "Softmax" for u in self.flow.followers(end.behind[0].node))
        if self._leads_to_likelihood(end):
            self._likelihood.add(name)
            return True
        if self._is_weighed_by_labels(end) or self._is_held_against_margin(end):
            return True
        if self._is_margin_loss(end):
            self._terms.add(name)
            return True
        if self._is_focus(end):
            return True
        if self._is_tested(end):
            self._terms.add(name)
            return True
        if self._chooses_by_sign(end.node) or (op == "Neg" and all(self._chooses_by_sign(u) for u in end.users)):
            return True
        if self._is_shaped_for_labels(end) or self._is_of_steps(end):
            return True
        if all(u.name in self.flow.lossy or u in end.stepped for u in end.users) and self._compares(name, end.inside):
            self._terms.add(name)
            return True
        return False

    def stands_beside_picks(self, name: str, inside: set[str]) -> bool:
        """Whether an end only serves a loss that labels pick elements of a tensor for."""
        return self.picks.own(name, lambda: self._is_term(name, inside))

    # ---- likelihoods

    def _is_likelihood(self, end: End) -> bool:
        """Whether an end is the logarithm of a likelihood, a sum of such, or what is added to or clipped before one."""
        node = end.node
        negated = node.op == "Neg" and self.live.graph.nodes[end.behind[0].node].op in _LOGARITHMS
        if node.op in _LOGARITHMS or negated:
            logarithm = end.outside or any(u.op == "Mul" or u.name in self._likelihood for u in end.stepped)
        else:
            logarithm = node.op in ("Add", "AddV2") and end.outside and self._is_logarithm_of_scale(node)
        if logarithm or (self._sums_logarithms(Ref(node.name)) and all(u.name in self.flow.lossy or u.name in self._likelihood for u in end.users)):
            return True
        return node.op in _BEFORE_LOGARITHMS and self._goes_into_likelihood(end) and self._prepares(node, end.behind)

    def _leads_to_likelihood(self, end: End) -> bool:
        """Whether an end is arithmetic of which only likelihoods are made."""
        if end.node.op not in _BEFORE_LIKELIHOODS or not self._goes_into_likelihood(end) or not self._prepares(end.node, end.behind):
            return False
        return end.node.op != "RealDiv" or self._normalises(end.node, end.behind)

    def _goes_into_likelihood(self, end: End) -> bool:
        return all(u.name in self._likelihood for u in end.users)

    def _sums_logarithms(self, ref: Ref) -> bool:
        """Whether a value is a sum of several logarithms, as a likelihood is: log(D(x)) + log(1 - D(G(z)))."""
        node = self.live.graph.nodes[ref.node]
        operands = [r for r in self.live.inputs(node) if self.live.is_dynamic(r)]
        if node.op not in ("Add", "AddV2", "AddN", "Sub", "Neg", "Mul") or (node.op == "Mul" and len(operands) > 1):
            return False
        return all(self.live.graph.nodes[r.node].op in ("Log", "Log1p") or self._sums_logarithms(r) for r in operands)

    def _is_logarithm_of_scale(self, node: Node) -> bool:
        """Whether a node adds a constant to a logarithm: what a density of a deviation given by the network is divided by."""
        operands = self.live.inputs(node)
        logarithm = [self.live.graph.nodes[r.node].op == "Log" for r in operands]
        return any(logarithm) and any(not self.live.is_dynamic(r) and not self.flow.is_weight(r) for r in operands)

    def _prepares(self, node: Node, behind: list[Ref]) -> bool:
        """Whether arithmetic may belong to the logarithm after it: it adds, or clips to, plain numbers; the bias of a layer is none.

        An exponential belongs to it only where the loss takes what it is taken of as well, as in log(1 + exp(z)) - y * z: else it is the network's.
        """
        if not self._takes_plain_numbers(node):
            return False
        argument = behind[0]
        while node.op == "Exp":
            made = self.live.graph.nodes[argument.node]
            if made.op in ("Neg", "Abs"):
                argument = self.live.inputs(made)[0]
            elif self._chooses_by_sign(made):
                argument = self.live.inputs(self.live.graph.nodes[self.live.inputs(made)[0].node])[0]
            else:
                break
        return node.op != "Exp" or len(self.flow.followers(argument.node)) > 1

    def _normalises(self, node: Node, behind: list[Ref]) -> bool:
        """Whether a node divides probabilities by their sum, as a cross entropy may do first. A softmax by hand divides something else so."""
        numerator, denominator = self.live.inputs(node)
        total = self.live.graph.nodes[denominator.node]
        if total.op != "Sum" or self.live.inputs(total)[0] != numerator or numerator not in behind:
            return False
        return self.live.graph.nodes[numerator.node].op == "Softmax" or len(self.flow.followers(numerator.node)) > 2

    def _takes_plain_numbers(self, node: Node) -> bool:
        """Whether no variable is among the constants that a node takes."""
        return not any(not self.live.is_dynamic(r) and self.live.variables_behind(r) for r in self.live.inputs(node))

    # ---- terms

    def _is_term(self, name: str, inside: set[str]) -> bool:
        """Whether an end only enters losses, as a term or factor; what is compared with a label is a prediction instead."""
        users = self.flow.followers(name)
        return bool(users) and all(self._enters_loss(u, name, inside) for u in users)

    def _enters_loss(self, user: Node, name: str, inside: set[str]) -> bool:
        if user.op in ("Sub", "SquaredDifference"):
            others = [r for r in self.live.inputs(user) if r.node != name]
            if any(r.node not in self.flow.touched if self.live.is_dynamic(r) else self.live.value(r).size > 1 for r in others):
                return False
        is_rate = self.live.graph.nodes[name].op == "Exp"  # a rate, or a deviation, stands in a likelihood as it is, or inverted
        if user.name in self.flow.network:
            belongs = user.name in self._likelihood or user.name in self._terms
            return user.name not in inside and belongs and not (is_rate and user.op in _RECIPROCALS)
        return user.op in _COMBINATIONS and not is_rate

    def _behind_term(self, name: str, also: frozenset[str] = frozenset()) -> list[set[str]]:
        """What a term is computed from by arithmetic with plain numbers (and other operators), one step of the way back after another."""
        found: list[set[str]] = []
        entries, ready = {name}, {name}
        while ready and len(found) < _NEARBY:
            last = max(ready, key=self._position.__getitem__)
            node = self.live.graph.nodes[last]
            behind = [r.node for r in self.live.inputs(node) if r.node in self.flow.network]
            ready.discard(last)
            passes = node.op in _PLAIN or node.op in also or (node.op in ("Softmax", "LogSoftmax") and last != name)  # (an entropy is made of both)
            passes = passes or (node.op in _RECIPROCALS and last == name)  # (further back, it is a softmax by hand)
            if passes and last not in self.flow.weighted and behind and self._takes_plain_numbers(node):
                entries = (entries - {last}) | set(behind)
                ready.update(behind)
                found.append(entries)
        return found

    def _belongs_to_loss(self, name: str, inside: set[str], ends: list[str]) -> bool:
        """Whether a term is the loss' own.

        It is where the loss combines the single tensor that the term is made of with labels itself, or makes several terms of it, as in
        max(z, 0) - z * y + log(1 + exp(-|z|)); and where all that it is made of goes on in the network, as the code of an autoencoder does.
        """
        others = [end for end in ends if end != name and self._is_term(end, inside)]
        if self.live.graph.nodes[name].op not in RESHAPES | SLICES:  # the variation of a picture is made of its shifted parts
            parted = [self._behind_term(end, SLICES) for end in others]
            for root in (next(iter(entries)) for entries in self._behind_term(name, SLICES) if len(entries) == 1):
                if self._is_labelled(root) or root in self._roots or any({root} in steps for steps in parted):
                    self._roots.add(root)
                    return True
        steps = self._behind_term(name)
        for root in (next(iter(entries)) for entries in steps if len(entries) == 1):
            if self._is_labelled(root) or root in self._roots or any({root} in self._behind_term(end) for end in others):
                self._roots.add(root)
                return True
        made = {name}
        for entries in steps:
            made -= entries
            if all(any(u.name in inside and u.name not in made for u in self.flow.followers(entry)) for entry in entries):
                return True
            made |= entries
        return False

    def _is_labelled(self, name: str) -> bool:
        """Whether something combines a tensor with labels itself."""
        return any(u.name not in self.flow.network and u.name not in self.flow.lossy for u in self.flow.followers(name))

    def _is_of_loss(self, name: str) -> bool:
        """Whether an end is made, by arithmetic with plain numbers, of a tensor that a loss makes its terms of."""
        return any(len(entries) == 1 and entries <= self._roots for entries in self._behind_term(name))

    def is_term(self, name: str) -> bool:
        """Whether a node was found to be a term of a loss, or a part of one."""
        return name in self._terms

    # ---- single forms

    def _is_weighed_by_labels(self, end: End) -> bool:
        """Whether labels weigh a distance that is squared (the contrastive loss), or a mask what is missing of a matrix that is filled up."""
        if end.stepped or any(u.op != "Mul" for u in end.outside):
            return False
        return end.node.op in _POWERS or (end.node.op in ("Sub", "SquaredDifference") and self._takes_data(end.node))

    def _is_held_against_margin(self, end: End) -> bool:
        """Whether an end is the difference to a margin that the network's result is held against."""
        return end.node.op == "Sub" and _only_stepped(end) and all(u.op in ("Maximum", "Relu") for u in end.stepped)

    def _is_focus(self, end: End) -> bool:
        """Whether an end is 1 - p, to whose power the focal loss weighs."""
        return end.node.op == "Sub" and len(end.behind) == 1 and _only_stepped(end) and all(u.op in _POWERS for u in end.stepped)

    def _is_tested(self, end: End) -> bool:
        """Whether an end is what a loss tests before it chooses between two terms."""
        tested = end.node.op in ("Relu", "Sub") and not end.outside and all(u.op in (*COMPARISONS, "Cast") for u in end.stepped)
        return tested and self._is_of_loss(end.node.name)

    def _is_shaped_for_labels(self, end: End) -> bool:
        """Whether an end only has the shape in which losses compare it with labels, or pick from it by them."""
        node = end.node
        takers = [u for u in end.users if u in end.outside or u.op in RESHAPES]
        if node.op not in RESHAPES - {"Squeeze"} or not takers or any(u.name in self.picks.beside for u in end.users):
            return False
        goes_on = any(u.name in end.inside and u.name != node.name for u in self.flow.followers(end.behind[0].node))
        direct = bool(end.outside) and all("CrossEntropy" in u.op or self._picks_from(u, node.name) for u in end.outside)
        return direct or all(self._is_for_labels(u, node.name, goes_on) for u in takers)

    def _is_for_labels(self, user: Node, name: str, goes_on: bool) -> bool:
        """Whether what takes a tensor picks from it by labels, is a cross entropy of what is an output otherwise, or gives it the shape for that.

        (A cross entropy gives the scores of words the shape of a matrix itself: what it takes has the author's.)
        """
        if user.op in RESHAPES:
            users = self.flow.followers(user.name)
            return bool(users) and all(self._is_for_labels(u, user.name, goes_on) for u in users)
        return ("CrossEntropy" in user.op and goes_on) or self._picks_from(user, name)

    def _is_of_steps(self, end: End) -> bool:
        """Whether a loss is made of an end in each step of a loop, where TensorFlow can be asked for nothing."""
        steps = self.live.graph.in_steps
        return end.node.name in steps and all(u.name in steps for u in end.users)

    def _is_margin_loss(self, end: End) -> bool:
        """Whether an end belongs to max(a - b + margin, 0), as over triplets, of which a loss is the mean, or the sum under a mask made of labels."""
        node, users = end.node, end.users
        if node.op in RESHAPES and users and all(u.name in self._margins for u in users):
            self._margins.add(node.name)
            return True
        if node.name in self._margins and all(u.name in self._margins or u.name in self._terms for u in users):
            return True
        if node.op in ("Maximum", "Relu"):
            behind = self._difference_behind(self.live.graph.nodes[self.live.inputs(node)[0].node])
            found = (node.op == "Relu" or self._has_constant(node)) and all(u.name in self.flow.lossy for u in users)
        else:
            behind = self._difference_behind(node)
            found = len(behind) > 1 and users == end.outside and all(u.op == "Mul" and self._is_held_against_zero(u) for u in users)
        self._margins.update(behind if found else ())
        return found and bool(behind)

    def _difference_behind(self, node: Node) -> set[str]:
        """The nodes of a - b + margin, which ends in a node; none where it is something else."""
        behind = {node.name}
        while node.op in ("Add", "AddV2", "Sub") and self._has_constant(node):
            node = self.live.graph.nodes[next(r for r in self.live.inputs(node) if self.live.is_dynamic(r)).node]
            behind.add(node.name)
        return behind if node.op == "Sub" and not self._has_constant(node) else set()

    def _is_held_against_zero(self, node: Node) -> bool:
        return any(u.op == "Relu" or (u.op == "Maximum" and self._has_constant(u)) for u in self.flow.followers(node.name))

    def _has_constant(self, node: Node) -> bool:
        return not all(self.live.is_dynamic(r) for r in self.live.inputs(node)) and self._takes_plain_numbers(node)

    def _picks_from(self, user: Node, name: str) -> bool:
        """Whether a node picks elements of an end by their indices, as a loss does those of the labels."""
        return user.op in PICKS and self.live.inputs(user)[0].node == name

    def _chooses_by_sign(self, node: Node) -> bool:
        """Whether a Select takes x or -x or zero by the sign of x, as the stable form of the sigmoid cross entropy does."""
        if node.op not in ops.SELECTS:
            return False
        condition, *branches = self.live.inputs(node)
        test = self.live.graph.nodes[condition.node]
        if test.op not in ("Greater", "GreaterEqual"):
            return False
        x = self.live.inputs(test)[0]
        plain = [b for b in branches if b == x or self.live.graph.nodes[b.node].op in ("ZerosLike", "Neg", "Const")]
        return len(plain) == len(branches)

    # ---- comparisons

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
            if node.op == "Mul" and self._is_entropy(*operands):
                return True
            made = [self._without_sign(r).op for r in operands]
            if node.op in ("Sub", "SquaredDifference") or (node.op == "Mul" and ("Log" in made or "Log1p" in made)):
                if self._takes_data(node):
                    return True
                if any(not self.live.is_dynamic(r) and not self.flow.is_weight(r) and self.live.value(r).size > 1 for r in operands):
                    self.compared_to_constants.update(seen)
                    return True
            stack.extend(r.node for r in operands if r.node in inside or r.node in self.flow.depends)
        return False

    def _without_sign(self, ref: Ref) -> Node:
        """The node that gives a value, or the one whose result was negated for it."""
        node = self.live.graph.nodes[ref.node]
        return self.live.graph.nodes[self.live.inputs(node)[0].node] if node.op == "Neg" else node

    def _takes_data(self, node: Node) -> bool:
        """Whether an operand is data that no weight has touched."""
        return any(r in self.flow.sources or (r.node in self.flow.depends and r.node not in self.flow.touched) for r in self.live.inputs(node))

    def _is_entropy(self, first: Ref, second: Ref) -> bool:
        """Whether a product is p · log p, of which the entropy is made that policies are rewarded for."""
        for p, logarithm in ((first, second), (second, first)):
            node, weight = self.live.graph.nodes[logarithm.node], self.live.graph.nodes[p.node]
            if node.op in ("Log", "LogSoftmax"):
                of = self.live.inputs(node)[0]
                behind = [of]  # and what a constant was added to or a clip was put on
                while behind[-1] != p and self.live.graph.nodes[behind[-1].node].op in _BEFORE_LOGARITHMS:
                    behind.append(self.live.inputs(self.live.graph.nodes[behind[-1].node])[0])
                if p in behind:
                    return True
                if node.op == "LogSoftmax" and weight.op in ("Softmax", "Exp") and self.live.inputs(weight)[0] in (of, logarithm):
                    return True
        return False

    def is_term_of_loss(self, name: str) -> bool:
        """Whether an end is only ever added to what depends on weights and on labels as well: entropies are, and penalties."""
        users = [u for u in self.flow.followers(name) if u.name not in self.flow.sampled]
        return bool(users) and all(u.op in ("Add", "AddV2", "AddN") and self._adds_to_loss(u, name) for u in users)

    def _adds_to_loss(self, user: Node, name: str) -> bool:
        others = [r.node for r in self.live.inputs(user) if r.node != name]
        return user.name not in self.flow.network and any(r in self.flow.touched and r not in self.flow.network for r in others)


def _only_stepped(end: End) -> bool:
    return bool(end.stepped) and not end.outside
