"""Where a network ends: its last tensors, once losses, metrics and decisions have been stepped back from.

What depends on labels is no part of the network (see `flow`). Some of a loss or a metric depends on no label, though, and hangs at the end of the
network all the same: decisions (argmax, comparisons), updates of averages, reports, and what a loss is made of (see `losses`). Each rule here knows
one of these by its operators; scopes are only looked at where TensorFlow's own functions open them, and where an author calls one a loss: what
detectors take apart there, to measure boxes against boxes, has no form of its own.
"""

import re
from collections.abc import Collection

from bnexport.graph import ops
from bnexport.graph.authors import authors_name, is_automatic
from bnexport.graph.flow import Flow, belongs_to_training
from bnexport.graph.graphdef import Node, Ref
from bnexport.graph.losses import COMPARISONS, SLICES, End, Losses
from bnexport.graph.picks import RESHAPES

_DECISIONS = COMPARISONS | frozenset(
    {"ArgMax", "ArgMin", "InTopK", "InTopKV2", "TopK", "TopKV2", "Round", "Rint", "Sign", "OneHot", "Multinomial", "LogicalAnd",
     "LogicalOr", "LogicalNot", "Where", "IsNan", "IsInf", "IsFinite", "All", "Any",
     "CTCGreedyDecoder", "CTCBeamSearchDecoder", "CTCBeamSearchDecoderV2",
     "PyFunc", "EagerPyFunc", "PyFuncStateless"}  # (Python at the end of a graph draws or measures; in the middle it is refused)
)  # fmt: skip
PARTS = frozenset({"Split", "SplitV", "Unpack"})
_VIEWS = RESHAPES | SLICES
_DECISION_ARITHMETIC = _VIEWS | {
    "Cast", "FloorDiv", "FloorMod", "Mod", "TruncateDiv", "TruncateMod", "Pack", "SparseToDense", "Mul", "Gather", "GatherV2"
}  # fmt: skip
"""What is made of a decision that is still one: the row and the column of the greatest value are its index // width and index % width.

So are a hit times a mask, and the items of a list that the places of the greatest scores name.
"""
_COUNTED = frozenset({"bool", "int32", "int64", "uint8"})
_LOSS_SCOPES = frozenset(
    {"logistic_loss", "log_loss", "hinge_loss", "huber_loss", "mean_squared_error", "mean_pairwise_squared_error", "absolute_difference",
     "cosine_distance_loss", "softmax_cross_entropy_loss", "sigmoid_cross_entropy_loss", "sparse_softmax_cross_entropy_loss",
     "softmax_cross_entropy_with_logits", "L2Loss", "l2_regularizer"}
)  # fmt: skip
"""The scopes that tf.nn's and tf.losses' functions open."""


_LOSS_WORDS = frozenset({"loss", "losses", "cost", "costs"})
_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+")
ACTIVATIONS = frozenset({"Softmax", "Sigmoid", "Tanh", "Relu", "Softplus"})


def _authors_loss(name: str) -> str | None:
    """The scope around a node that its author calls a loss, as `box_loss` or `LossLayer`; None where there is none."""
    *parts, _ = name.split("/")
    for i, part in enumerate(parts):
        if any(word.lower() in _LOSS_WORDS for word in _WORD.findall(part)):
            return "/".join(parts[: i + 1]) + "/"
    return None


def _in_loss(name: str) -> bool:
    return any(part.rstrip("0123456789").rstrip("_") in _LOSS_SCOPES for part in name.split("/"))


def _in_assertion(name: str) -> bool:
    """Whether a node is of one of TensorFlow's assertions, each of which opens a scope of its name: assert_less_equal."""
    return any(part.startswith("assert_") for part in name.split("/")[:-1])


class Ends:
    """The search for a network's ends.

    Attributes:
        stepped_back: what was stepped back from, and could be named as an output.
        losses: what is known of the losses.
    """

    def __init__(self, flow: Flow):
        self.flow = flow
        self.live = flow.live
        self.stepped_back: list[Ref] = []
        self.losses = Losses(flow)
        self._updates: set[str] = set()
        self._dropped: set[str] = set()
        self._copies: set[str] = set()  # made for a comparison with many thresholds at once
        self._texts: set[str] = set()  # images as files, and the loops that wrote them
        self._position = {name: i for i, name in enumerate(self.live.graph.nodes)}
        self._untaken = self._not_chosen()
        self._weighted_in_losses = [name for name in self.flow.weighted if _authors_loss(name) is not None]

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
                self._forget_copies()
                return [ref for n in ends for ref in self._outputs(n)] + self._compared_parts(inside)
            for name in back:
                if self._serves_training(name):
                    self._updates.add(name)
                elif name not in dropped and not ops.makes_text(self.live.graph.nodes[name]) and not _in_assertion(name):
                    self.stepped_back += self._named(name, inside)
            inside.difference_update(back)

    def _named(self, name: str, inside: Collection[str]) -> list[Ref]:
        """What is named in a node's place where outputs are to be chosen from: of the arithmetic of a loss what the loss is given, as the logits."""
        if name in self.losses.picks.beside:
            return []
        scope = _authors_loss(name)
        scope = None if scope is None or self._holds_network(scope, inside) else scope
        if not _in_loss(name) and scope is None:
            return [Ref(name)]
        given = [self.live.resolve(ref) for ref in self.live.inputs(self.live.graph.nodes[name])]
        given = [ref for ref in given if ref.node in self.flow.network and ref not in self.stepped_back]
        return [ref for ref in given if not _in_loss(ref.node) and (scope is None or not ref.node.startswith(scope))]

    def _outputs(self, name: str) -> list[Ref]:
        """The outputs of an end that anything takes: of a Split, several."""
        taken = [ref for ref in self.flow.taken.get(name, ()) if any(u.op not in ops.SHAPES_ONLY for u in self.flow.users[ref])]
        return sorted(taken) if len(taken) > 1 else [Ref(name)]

    def _compared_parts(self, inside: set[str]) -> list[Ref]:
        """The outputs of nodes of several outputs (a Split) of which only losses and metrics are computed, while the network goes on with others."""
        found = []
        for name in inside:
            refs = self.flow.taken.get(name, ())
            if len(refs) < 2 or self.live.graph.nodes[name].op not in PARTS:
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
        """Whether an end is a decision, a report, or the beginning of a loss or metric."""
        node = self.live.graph.nodes[name]
        behind = [r for r in self.live.inputs(node) if r.node in inside]
        if node.op in ops.SHAPES_ONLY or node.op == "Assert" or ops.makes_text(node):
            return True
        if behind and self.losses.stands_beside_picks(name, inside):
            return True
        if not behind or name in self.flow.weighted:
            return False
        users = self.flow.followers(name)
        outside = [u for u in users if u.name not in self.flow.network]  # losses and metrics, by the labels that they also depend on
        stepped = [u for u in users if u.name in self.flow.network and u.name not in inside]
        end = End(node, behind, users, outside, stepped, inside, ends)
        if _in_loss(name) or self._is_in_authors_loss(end) or self._is_decided(end) or self._is_reported(end):
            return True
        return bool(outside or stepped) and self.losses.owns(end)

    def _is_in_authors_loss(self, end: End) -> bool:
        """Whether losses and metrics take an end that is computed in a scope called a loss, of a network that lies before that scope.

        An activation of that network stays an output: that it was written there says no more than that the loss takes it.
        """
        scope = _authors_loss(end.node.name)
        if scope is None or not end.users or self._holds_network(scope, end.inside):
            return False
        if not is_automatic(self.live.graph.nodes[authors_name(self.live, Ref(end.node.name)).node]):
            return False  # what was given a name of its own is meant to be found
        return end.node.op not in ACTIVATIONS or any(ref.node.startswith(scope) for ref in end.behind)

    def _holds_network(self, scope: str, inside: Collection[str]) -> bool:
        """Whether the network's own weights are in a scope called a loss."""
        return any(name.startswith(scope) and name in inside for name in self._weighted_in_losses)

    # ---- decisions

    def _is_decided(self, end: End) -> bool:
        """Whether an end is a decision, or goes with one."""
        node = end.node
        greatest = node.op in ("Max", "Min") and self._goes_with_a_decision(end.behind[0])
        return self._is_decision(node, end.inside) or greatest or (node.op == "Mul" and self.flow.is_factor_of_gradients(node.name))

    def _is_decision(self, node: Node, inside: set[str]) -> bool:
        """Whether a node decides, or is made of nothing but decisions and numbers, as a place in an image is of an index."""
        if node.op in _DECISIONS:
            return True
        data = [self.live.graph.nodes[r.node] for r in self.live.inputs(node) if r.node in inside]
        return node.op in _DECISION_ARITHMETIC and bool(data) and all(self._is_decision(n, inside) for n in data)

    # ---- reports

    def _is_reported(self, end: End) -> bool:
        """Whether an end is only looked at: as text, at many thresholds, in another shape, as a number that is counted."""
        node = end.node
        if self._is_text(node, end.users):
            self._texts.add(node.name)
            return True
        if self._is_copied(node, end.users):
            self._copies.add(node.name)
            return True
        if self._is_seen_whole(node, end.inside) or self._is_only_reported(node.name, end.behind[0], end.inside, end.ends):
            return True
        return node.op == "Cast" and (bool(end.outside) or not _COUNTED.isdisjoint((node.attrs.get("SrcT"), node.attrs.get("DstT"))))

    def _is_seen_whole(self, node: Node, inside: set[str]) -> bool:
        """Whether a node only looks at what losses and metrics take as it is: at a part of it, or at its values in another shape."""
        part = False
        while node.op in _VIEWS:
            part = part or node.op in SLICES
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
        return node.op in (*RESHAPES, "Tile") and bool(users) and all(compared)

    def _forget_copies(self) -> None:
        """Takes comparisons with many thresholds, and what is made of them, out of what could be an output."""
        copied = set(self._copies)
        for ref in sorted(self.stepped_back, key=lambda ref: self._position[ref.node]):
            if any(r.node in copied for r in self.live.inputs(self.live.graph.nodes[ref.node])):
                copied.add(ref.node)
        self.stepped_back = [ref for ref in self.stepped_back if ref.node not in copied]

    # ---- training

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
