"""Where a network ends: its last tensors, once losses, metrics and decisions have been stepped back from.

What depends on labels is no part of the network (see `flow`). Some of a loss or a metric depends on no label, though, and hangs at the end of the
network all the same: decisions (argmax, comparisons), the logarithm of a likelihood, a comparison with the input itself, updates of averages. Each
rule here knows one of these by its operators; scopes are only looked at where TensorFlow's own functions open them.
"""

from collections.abc import Collection

from bnexport.graph import ops
from bnexport.graph.flow import Flow, belongs_to_training
from bnexport.graph.graphdef import Node, Ref

_COMPARISONS = frozenset({"Equal", "NotEqual", "Greater", "GreaterEqual", "Less", "LessEqual"})
_DECISIONS = _COMPARISONS | frozenset(
    {"ArgMax", "ArgMin", "InTopK", "InTopKV2", "TopK", "TopKV2", "Round", "Rint", "Sign", "OneHot", "Multinomial", "LogicalAnd",
     "LogicalOr", "LogicalNot", "Where", "IsNan", "IsInf", "IsFinite", "All", "Any",
     "CTCGreedyDecoder", "CTCBeamSearchDecoder", "CTCBeamSearchDecoderV2",
     "PyFunc", "EagerPyFunc", "PyFuncStateless"}  # (Python at the end of a graph draws or measures; in the middle it is refused)
)  # fmt: skip
_ARITHMETIC = frozenset(
    {"Sub", "Add", "AddV2", "Mul", "Square", "SquaredDifference", "Pow", "Abs", "Neg", "Log", "Log1p", "RealDiv", "Div", "Maximum", "Minimum", "Sum",
     "Mean", "Sqrt", "Exp", "Select", "SelectV2", "ClipByValue", "Cast"}
)  # fmt: skip
_RESHAPES = frozenset({"Reshape", "Squeeze", "ExpandDims", "Transpose"})
_PLAIN = _ARITHMETIC | _RESHAPES | {"Relu", "Softplus", "Max", "Min", "AddN"}
"""What a term of a loss is made with."""
_COMBINATIONS = frozenset(
    {"Mul", "Add", "AddV2", "Sub", "AddN", "RealDiv", "Div", "Select", "SelectV2", "Maximum", "Minimum", "Sum", "Mean"}
)  # fmt: skip
"""How a term enters its loss."""
_NEARBY = 24  # nodes looked at behind a term
_PARTS = frozenset({"Split", "SplitV", "Unpack"})
_PICKS = frozenset({"Gather", "GatherV2", "GatherNd"})
_SLICES = frozenset({"StridedSlice", "Slice"})
_VIEWS = _RESHAPES | _SLICES
_INDEX_ARITHMETIC = _VIEWS | {"Cast", "FloorDiv", "FloorMod", "Mod", "TruncateDiv", "TruncateMod", "Pack", "SparseToDense"}
"""What is made of a decision that is still one: the row and the column of the greatest value are its index // width and index % width."""
_BEFORE_LOGARITHMS = frozenset({"Add", "AddV2", "Maximum", "Minimum", "Sub", "ClipByValue", "Exp"})
_LOSS_SCOPES = frozenset(
    {"logistic_loss", "log_loss", "hinge_loss", "huber_loss", "mean_squared_error", "mean_pairwise_squared_error", "absolute_difference",
     "cosine_distance_loss", "softmax_cross_entropy_loss", "sigmoid_cross_entropy_loss", "sparse_softmax_cross_entropy_loss",
     "softmax_cross_entropy_with_logits", "L2Loss", "l2_regularizer"}
)  # fmt: skip
"""The scopes that tf.nn's and tf.losses' functions open."""


def _in_loss(name: str) -> bool:
    return any(part.rstrip("0123456789").rstrip("_") in _LOSS_SCOPES for part in name.split("/"))


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
        self._terms: set[str] = set()  # other parts of losses
        self._loss_roots: set[str] = set()  # what a loss makes terms of
        self._margins: set[str] = set()  # differences that a loss asks to be greater than a margin
        self._copies: set[str] = set()  # made for a comparison with many thresholds at once
        self._texts: set[str] = set()  # images as files, and the loops that wrote them
        self._position = {name: i for i, name in enumerate(self.live.graph.nodes)}
        self._untaken = self._not_chosen()

    def find(self, without: Collection[str] = ()) -> list[Ref]:
        """The references of the network, `without` some nodes, that nothing in it takes, after stepping back, in the graph's order."""
        inside = self.flow.network.difference(without)
        drawn = [name for name in self.flow.sampled - self.flow.lossy if not self.flow.followers(name)]
        self.stepped_back = [Ref(name) for name in sorted(drawn, key=self._position.__getitem__)]
        while True:
            ends = [n for n in inside if not any(u.name in inside and u.op not in ops.SHAPES_ONLY for u in self.flow.users_of.get(n, ()))]
            ends.sort(key=self._position.__getitem__)
            dropped = {n for n in ends if self._is_dropped(n)}
            self._dropped |= dropped
            back = [n for n in ends if n in dropped or self._is_no_output(n, inside, ends) or self._serves_training(n)]
            if not back:
                return [ref for n in ends for ref in self._outputs(n)] + self._compared_parts(inside)
            for name in back:
                if self._serves_training(name):
                    self._updates.add(name)
                elif name not in dropped and not ops.makes_text(self.live.graph.nodes[name]):
                    self.stepped_back += self._named(name)
            inside.difference_update(back)

    def _named(self, name: str) -> list[Ref]:
        """What is named in a node's place where outputs are to be chosen from: of the arithmetic of a loss what the loss is given, as the logits."""
        if not _in_loss(name):
            return [Ref(name)]
        given = [self.live.resolve(ref) for ref in self.live.inputs(self.live.graph.nodes[name])]
        return [ref for ref in given if ref.node in self.flow.network and not _in_loss(ref.node) and ref not in self.stepped_back]

    def _outputs(self, name: str) -> list[Ref]:
        """The outputs of an end that anything takes: of a Split, several."""
        taken = [ref for ref in self.flow.taken.get(name, ()) if any(u.op not in ops.SHAPES_ONLY for u in self.flow.users[ref])]
        return sorted(taken) if len(taken) > 1 else [Ref(name)]

    def _compared_parts(self, inside: set[str]) -> list[Ref]:
        """The outputs of nodes of several outputs (a Split) of which only losses and metrics are computed, while the network goes on with others."""
        found = []
        for name in inside:
            refs = self.flow.taken.get(name, ())
            if len(refs) < 2 or self.live.graph.nodes[name].op not in _PARTS:
                continue
            users = {ref: [u for u in self.flow.users[ref] if u.name in self.flow.depends and u.op not in ops.SHAPES_ONLY] for ref in refs}
            if any(u.name in inside for us in users.values() for u in us):
                found += [ref for ref, us in users.items() if us and not any(u.name in self.flow.network or u.name in self.flow.lossy for u in us)]
        return sorted(found, key=lambda ref: (self._position[ref.node], ref.output))

    def _not_chosen(self) -> set[Ref]:
        """What goes into decided conditions and comes out of none."""
        live = self.live
        outside = [n for n in list(live.graph.nodes.values()) if not belongs_to_training(n)]
        selects = [n for n in outside if n.op in ops.SELECTS and Ref(n.name) not in live.replaced and live.resolve(Ref(n.name)) != Ref(n.name)]
        offered = {live.resolve(n.inputs[0]) for n in outside if n.op in ops.SWITCHES and live.is_decided(n)}
        offered |= {live.resolve(ref) for n in selects for ref in n.inputs[1:]}
        return offered - {live.resolve(Ref(n.name)) for n in outside if n.op in ops.MERGES} - {live.resolve(Ref(n.name)) for n in selects}

    def _is_dropped(self, name: str) -> bool:
        """Whether a node is only computed for the side of a condition that is not taken."""
        users = self.flow.followers(name)
        return Ref(name) in self._untaken or (bool(users) and all(u.name in self._dropped for u in users))

    def _is_no_output(self, name: str, inside: set[str], ends: list[str]) -> bool:
        """Whether an end is a decision, or the beginning of a loss or metric."""
        node = self.live.graph.nodes[name]
        behind = [r for r in self.live.inputs(node) if r.node in inside]
        if node.op in ops.SHAPES_ONLY or node.op == "Assert" or ops.makes_text(node):
            return True
        if not behind or name in self.flow.weighted:
            return False
        if _in_loss(name):
            return True
        if self._is_decision(node, inside):
            return True
        if node.op in ("Max", "Min") and self._goes_with_a_decision(behind[0]):
            return True
        if node.op == "Mul" and self.flow.is_factor_of_gradients(name):
            return True
        users = self.flow.followers(name)
        if self._is_text(node, users):
            self._texts.add(name)
            return True
        if self._is_copied(node, users):
            self._copies.add(name)
            return True
        outside = [u for u in users if u.name not in self.flow.network]  # losses and metrics, by the labels that they also depend on
        stepped = [u for u in users if u.name in self.flow.network and u.name not in inside]
        if self._is_seen_whole(node, inside) or self._is_only_reported(name, behind[0], inside, ends):
            return True
        if node.op == "Cast" and (bool(outside) or {node.attrs.get("SrcT"), node.attrs.get("DstT")} & {"bool", "int32", "int64", "uint8"}):
            return True
        if not outside and not stepped:
            return False
        logarithm = node.op in ("Log", "Log1p")
        negated = node.op == "Neg" and self.live.graph.nodes[behind[0].node].op in ("Log", "Log1p")
        if (logarithm or negated) and (outside or any(u.op == "Mul" or u.name in self._likelihood for u in stepped)):
            self._likelihood.add(name)
            return True
        if node.op in ("Add", "AddV2") and outside and self._is_logarithm_of_scale(node):
            self._likelihood.add(name)
            return True
        if self._sums_logarithms(Ref(name)) and all(u.name in self.flow.lossy or u.name in self._likelihood for u in users):
            self._likelihood.add(name)
            return True
        prepares = self._prepares(node, behind)
        if prepares and node.op in _BEFORE_LOGARITHMS and all(u.name in self._likelihood for u in users):
            self._likelihood.add(name)
            return True
        if self._is_term(name, inside) and self._belongs_to_loss(name, inside, ends):
            self._terms.add(name)
            return True
        if logarithm:
            return False
        if node.op == "LogSoftmax":
            return not outside
        if (
            prepares
            and node.op in ("Neg", "Exp", "Minimum", "Maximum", "RealDiv", "Sum")
            and all(u.name in self._likelihood for u in users)
            and (node.op != "RealDiv" or self._normalises(node, behind))
        ):
            self._likelihood.add(name)
            return True
        if node.op in ("Square", "Pow") and not stepped and all(u.op == "Mul" for u in outside):
            return True  # a distance is squared, and weighted by a label: the contrastive loss
        if node.op in ("Sub", "SquaredDifference") and not stepped and all(u.op == "Mul" for u in outside) and self._takes_data(node):
            return True  # what is missing of the data, weighted by a mask: the loss of a matrix that is filled up
        if node.op == "Sub" and stepped and not outside and all(u.op in ("Maximum", "Relu") for u in stepped):
            return True  # a margin that the network's result is held against
        if self._is_margin_loss(node, users):
            self._terms.add(name)
            return True
        if node.op == "Sub" and len(behind) == 1 and stepped and not outside and all(u.op in ("Square", "Pow") for u in stepped):
            return True  # 1 - p, to whose power the focal loss weighs
        if node.op in ("Relu", "Sub") and not outside and all(u.op in (*_COMPARISONS, "Cast") for u in stepped) and self._is_of_loss(name):
            self._terms.add(name)  # what a loss tests before it chooses between two terms
            return True
        if node.op in ops.SELECTS and self._chooses_by_sign(node):
            return True
        if node.op in _RESHAPES - {"Squeeze"} and outside and all("CrossEntropy" in u.op or self._picks_from(u, name) for u in outside):
            return True
        if name in self.live.graph.in_steps and all(u.name in self.live.graph.in_steps for u in users):
            return True  # in each step of a loop a loss is made of it, and TensorFlow can be asked for nothing there
        if all(u.name in self.flow.lossy or u in stepped for u in users) and self._compares(name, inside):
            self._terms.add(name)
            return True
        return False

    def _picks_from(self, user: Node, name: str) -> bool:
        """Whether a node picks elements of an end by their indices, as a loss does those of the labels."""
        return user.op in _PICKS and self.live.inputs(user)[0].node == name

    def _is_margin_loss(self, node: Node, users: list[Node]) -> bool:
        """Whether a node belongs to max(a - b + margin, 0), of which a loss without labels is the mean, as over triplets."""
        if node.op not in ("Maximum", "Relu"):
            return node.name in self._margins and all(u.name in self._margins or u.name in self._terms for u in users)
        difference = self.live.graph.nodes[self.live.inputs(node)[0].node]
        behind = {difference.name}
        while difference.op in ("Add", "AddV2", "Sub") and self._has_constant(difference):
            difference = self.live.graph.nodes[next(r for r in self.live.inputs(difference) if self.live.is_dynamic(r)).node]
            behind.add(difference.name)
        margin = node.op == "Relu" or self._has_constant(node)
        found = margin and difference.op == "Sub" and not self._has_constant(difference) and all(u.name in self.flow.lossy for u in users)
        self._margins.update(behind if found else ())
        return found

    def _has_constant(self, node: Node) -> bool:
        return not all(self.live.is_dynamic(r) for r in self.live.inputs(node)) and self._takes_plain_numbers(node)

    def _prepares(self, node: Node, behind: list[Ref]) -> bool:
        """Whether arithmetic may belong to the logarithm after it: it adds, or clips to, plain numbers; the bias of a layer is none.

        An exponential belongs to it only where the loss takes what it is taken of as well, as in log(1 + exp(z)) - y * z: else it is the network's.
        """
        if not self._takes_plain_numbers(node):
            return False
        argument = behind[0]
        while node.op == "Exp" and (made := self.live.graph.nodes[argument.node]).op in ("Neg", "Abs"):
            argument = self.live.inputs(made)[0]
        return node.op != "Exp" or len(self.flow.followers(argument.node)) > 1

    def _takes_data(self, node: Node) -> bool:
        """Whether an operand is data that no weight has touched."""
        return any(r in self.flow.sources or (r.node in self.flow.depends and r.node not in self.flow.touched) for r in self.live.inputs(node))

    def _takes_plain_numbers(self, node: Node) -> bool:
        """Whether no variable is among the constants that a node takes."""
        return not any(not self.live.is_dynamic(r) and self.live.variables_behind(r) for r in self.live.inputs(node))

    def _sums_logarithms(self, ref: Ref) -> bool:
        """Whether a value is a sum of several logarithms, as a likelihood is: log(D(x)) + log(1 - D(G(z)))."""
        node = self.live.graph.nodes[ref.node]
        operands = [r for r in self.live.inputs(node) if self.live.is_dynamic(r)]
        if node.op not in ("Add", "AddV2", "AddN", "Sub", "Neg", "Mul") or (node.op == "Mul" and len(operands) > 1):
            return False
        return all(self.live.graph.nodes[r.node].op in ("Log", "Log1p") or self._sums_logarithms(r) for r in operands)

    def _is_term(self, name: str, inside: set[str]) -> bool:
        """Whether an end only enters losses, as a term or factor; what is compared with a label is a prediction instead."""
        users = self.flow.followers(name)
        return bool(users) and all(self._enters_loss(u, name, inside) for u in users)

    def _enters_loss(self, user: Node, name: str, inside: set[str]) -> bool:
        if user.op in ("Sub", "SquaredDifference"):
            others = [r for r in self.live.inputs(user) if r.node != name]
            if any(r.node not in self.flow.touched if self.live.is_dynamic(r) else self.live.value(r).size > 1 for r in others):
                return False
        if user.name in self.flow.network:
            return user.name not in inside and (user.name in self._likelihood or user.name in self._terms)
        return user.op in _COMBINATIONS and self.live.graph.nodes[name].op != "Exp"  # (a rate in the likelihood of a count stands there as it is)

    def _behind_term(self, name: str) -> list[set[str]]:
        """What a term is computed from by arithmetic with plain numbers, one step of the way back after another."""
        found: list[set[str]] = []
        entries, ready = {name}, {name}
        while ready and len(found) < _NEARBY:
            last = max(ready, key=self._position.__getitem__)
            node = self.live.graph.nodes[last]
            behind = [r.node for r in self.live.inputs(node) if r.node in self.flow.network]
            ready.discard(last)
            passes = node.op in _PLAIN or (node.op in ("Softmax", "LogSoftmax") and last != name)  # (an entropy is made of both)
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
        steps = self._behind_term(name)
        others = [end for end in ends if end != name and self._is_term(end, inside)]
        for root in (next(iter(entries)) for entries in steps if len(entries) == 1):
            labelled = any(u.name not in self.flow.network and u.name not in self.flow.lossy for u in self.flow.followers(root))
            if labelled or root in self._loss_roots or any({root} in self._behind_term(end) for end in others):
                self._loss_roots.add(root)
                return True
        made = {name}
        for entries in steps:
            made -= entries
            if all(any(u.name in inside and u.name not in made for u in self.flow.followers(entry)) for entry in entries):
                return True
            made |= entries
        return False

    def _is_of_loss(self, name: str) -> bool:
        """Whether an end is made, by arithmetic with plain numbers, of a tensor that a loss makes its terms of."""
        return any(len(entries) == 1 and entries <= self._loss_roots for entries in self._behind_term(name))

    def _is_decision(self, node: Node, inside: set[str]) -> bool:
        """Whether a node decides, or is made of nothing but decisions and numbers, as a place in an image is of an index."""
        if node.op in _DECISIONS:
            return True
        data = [self.live.graph.nodes[r.node] for r in self.live.inputs(node) if r.node in inside]
        return node.op in _INDEX_ARITHMETIC and bool(data) and all(self._is_decision(n, inside) for n in data)

    def _is_seen_whole(self, node: Node, inside: set[str]) -> bool:
        """Whether a node only looks at what losses and metrics take as it is: at a part of it, or at its values in another shape."""
        part = False
        while node.op in _VIEWS:
            part = part or node.op in _SLICES
            data = self.live.inputs(node)[0].node
            beside = [u for u in self.flow.followers(data) if u.name != node.name]
            if data not in inside or any(u.name in inside and u.op not in _VIEWS for u in beside):
                return False
            apart = [u for u in beside if u.name not in inside]
            if any(u.name not in self.flow.network for u in apart) or (apart and not part):
                return True
            node = self.live.graph.nodes[data]
        return False

    def _is_only_reported(self, name: str, data: Ref, inside: set[str], ends: list[str]) -> bool:
        """Whether summaries alone take an end, and what it is made of can be seen without it."""
        beside = [u for u in self.flow.followers(data.node) if u.name != name]
        return self._goes_into_reports(name, inside) and bool(beside) and all(u.name not in inside or u.name in ends for u in beside)

    def _goes_into_reports(self, name: str, inside: set[str]) -> bool:
        users = self.flow.users_of.get(name, ())
        return bool(users) and all(ops.is_summary(u.op) or (u.name not in inside and self._goes_into_reports(u.name, inside)) for u in users)

    def _goes_with_a_decision(self, ref: Ref) -> bool:
        """Whether the greatest of these values is asked for beside its index, or is how probable it is."""
        users = self.flow.followers(ref.node)
        return self.live.graph.nodes[ref.node].op == "Softmax" or any(u.op in ("ArgMax", "ArgMin", "TopK", "TopKV2") for u in users)

    def _is_text(self, node: Node, users: list[Node]) -> bool:
        """Whether a node makes text, such as an image's file, or only serves the loop that does for each image of a batch."""
        if node.op.startswith("Encode") or "object" in (node.attrs.get("dtype"), node.attrs.get("T")):
            return True
        return (node.op in ops.LOOPS or node.op.startswith("TensorArray")) and bool(users) and all(u.name in self._texts for u in users)

    def _is_copied(self, node: Node, users: list[Node]) -> bool:
        """Whether a node only makes copies that are compared with many thresholds at once, as tf.metrics.auc does."""
        compared = [u.op in _DECISIONS for u in users] if node.op == "Tile" else [u.name in self._copies for u in users]
        return node.op in (*_RESHAPES, "Tile") and bool(users) and all(compared)

    def _is_logarithm_of_scale(self, node: Node) -> bool:
        """Whether a node adds a constant to a logarithm: what a density of a deviation given by the network is divided by."""
        operands = self.live.inputs(node)
        logarithm = [self.live.graph.nodes[r.node].op == "Log" for r in operands]
        return any(logarithm) and any(not self.live.is_dynamic(r) and not self.flow.is_weight(r) for r in operands)

    def is_term_of_loss(self, name: str) -> bool:
        """Whether an end is only ever added to what depends on weights and on labels as well: entropies are, and penalties."""
        users = [u for u in self.flow.followers(name) if u.name not in self.flow.sampled]
        return bool(users) and all(u.op in ("Add", "AddV2", "AddN") and self._adds_to_loss(u, name) for u in users)

    def _adds_to_loss(self, user: Node, name: str) -> bool:
        others = [r.node for r in self.live.inputs(user) if r.node != name]
        return user.name not in self.flow.network and any(r in self.flow.touched and r not in self.flow.network for r in others)

    def _normalises(self, node: Node, behind: list[Ref]) -> bool:
        """Whether a node divides probabilities by their sum, as a cross entropy may do first. A softmax by hand divides something else so."""
        numerator, denominator = self.live.inputs(node)
        total = self.live.graph.nodes[denominator.node]
        if total.op != "Sum" or self.live.inputs(total)[0] != numerator or numerator not in behind:
            return False
        return self.live.graph.nodes[numerator.node].op == "Softmax" or len(self.flow.followers(numerator.node)) > 2

    def _serves_training(self, name: str) -> bool:
        """Whether a node only makes updates of moving statistics, or what dropout was, gradients aside."""
        node = self.live.graph.nodes[name]
        users = [u for u in self.flow.users_of.get(name, ()) if not ops.is_gradient(u)]
        if users and all(Ref(u.name) in self.live.replaced for u in users):
            return True
        if name in self.flow.weighted and not ops.in_training_mode(node) and node.op not in ("Sub", "Mul", "Add", "AddV2"):
            return False  # (an average is updated by arithmetic with the average itself, which is a variable too)
        return bool(users) and all(self._updates_statistics(u) for u in users)

    def _updates_statistics(self, user: Node) -> bool:
        """Whether a node writes a moving statistic, or only serves those that do or that something was put in place of."""
        if self._moves_statistics(user) or Ref(user.name) in self.live.replaced or user.name in self._updates:
            return True
        users = [u for u in self.flow.users_of.get(user.name, ()) if not ops.is_gradient(u)]
        return user.name in self.flow.lossy and bool(users) and all(self._updates_statistics(u) for u in users)

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
            if node.op == "Mul" and self._is_entropy(*operands):
                return True
            made = [self.live.graph.nodes[r.node].op for r in operands]
            if node.op in ("Sub", "SquaredDifference") or (node.op == "Mul" and ("Log" in made or "Log1p" in made)):
                if self._takes_data(node):
                    return True
                if any(not self.live.is_dynamic(r) and not self.flow.is_weight(r) and self.live.value(r).size > 1 for r in operands):
                    self.compared_to_constants.update(seen)
                    return True
            stack.extend(r.node for r in operands if r.node in inside or r.node in self.flow.depends)
        return False

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
