"""The ends of a graph, sorted into networks, and what tells two of them apart: their weights, their data, their names."""

from collections.abc import Iterable, Sequence
from itertools import permutations

from bnexport.graph import ops
from bnexport.graph.authors import authors_name, is_automatic
from bnexport.graph.ends import ACTIVATIONS, PARTS, Ends
from bnexport.graph.flow import PRODUCTS, Flow, belongs_to_training
from bnexport.graph.graphdef import Ref, topological
from bnexport.graph.live import Live
from bnexport.graph.losses import SLICES

_COMPARED = 12  # uses of one weight that are compared with one another


class Networks:
    """The ends of a graph, sorted into networks.

    Attributes:
        lying: ends that nothing takes and that were left out.
    """

    def __init__(self, live: Live):
        self.live = live
        self.flow = Flow(live)
        self.ends = Ends(self.flow)
        self.lying: list[Ref] = []

    def find(self) -> list[list[Ref]]:
        """The ends, those that share a weighted node together.

        Left out are networks of variables that the checkpoint does not hold, towers in training mode where others use the same variables, networks
        that compute the same as another from another input, and, where their network has others, ends that only a penalty is computed from or that
        depend on random numbers.
        """
        networks = [self._as_a_whole(refs) for refs in self._grouped(self._taken(self.ends.find()))]
        penalties = {end.node for refs in networks for end in self._penalised(refs)}
        if penalties:  # what stands before one may be an output: policies stand before their entropy
            networks = self._grouped(self._taken(self.ends.find(self._serving(penalties))))
            penalised = [set(self._penalised(refs)) for refs in networks]
            networks = [[end for end in refs if end not in left_out] for refs, left_out in zip(networks, penalised, strict=True)]
        if len(networks) > 1:
            networks = [refs for refs in networks if self._is_saved(refs)] or networks
        if len(networks) > 1:
            networks = self._without_training_towers(networks)
        if len(networks) > 1:
            networks = self._whole(networks)
        if len(networks) > 1:
            memo: dict[Ref, int] = {}
            networks = list({tuple(sorted(self._fingerprint(r, memo) for r in refs)): refs for refs in reversed(networks)}.values())[::-1]
        return networks

    def _grouped(self, ends: list[Ref]) -> list[list[Ref]]:
        """The ends, those together that share a weighted node; of these none that depends on random numbers, if there are others."""
        groups: list[tuple[set[str], list[Ref]]] = []
        for end in ends:
            ancestors = set(topological(self.live.graph, [end.node], self.live.inputs))
            mine, members = ancestors & self.flow.weighted, [end]
            rest = []
            for weighted, refs in groups:
                if weighted & mine:
                    mine, members = mine | weighted, refs + members
                else:
                    rest.append((weighted, refs))
            groups = [*rest, (mine, members)]
        networks = [refs for _, refs in groups]
        return [[ref for ref in refs if self.is_certain(ref)] or refs for refs in networks]

    def _as_a_whole(self, ends: list[Ref]) -> list[Ref]:
        """The tensor that all ends are taken of for a loss, without weights; the ends, where they are its parts, or have names of their own.

        A detector's loss takes its output apart, to boxes and scores and what is computed from those: what the author gave a name with tf.identity is
        that tensor. Without one, it has to be a loss that no labels enter, such as one of perception, which looks at a picture in several ways.
        """
        nodes = self.live.graph.nodes
        if len(ends) < 2 or not all(self._is_compared(end) and is_automatic(nodes[authors_name(self.live, end).node]) for end in ends):
            return ends
        named = [
            n for n in nodes.values() if n.op == "Identity" and not is_automatic(n) and not belongs_to_training(n) and not self.live.is_dead(n.name)
        ]
        whole = next((ref for n in reversed(named) if self._is_all_behind(ref := self.live.resolve(Ref(n.name)), ends)), None)
        if whole is None:
            unlabelled = all(self._only_enters_loss(end) and nodes[end.node].op not in ACTIVATIONS for end in ends)
            whole = self._behind_all(ends) if unlabelled else None
            if whole is None or self._are_parts(ends, whole):
                return ends
        self.ends.stepped_back += ends
        return [whole]

    def _behind_all(self, ends: list[Ref]) -> Ref | None:
        """The last tensor that all ends are made of, without weights and other data; None where there is none."""
        order = topological(self.live.graph, [end.node for end in ends], self.live.inputs)
        for name in reversed([n for n in order if n in self.flow.network and Ref(n) not in ends]):
            if self.flow.taken.get(name) == [Ref(name)] and self._is_all_behind(Ref(name), ends):
                return Ref(name)
            if name in self.flow.weighted:
                return None
        return None

    def _are_parts(self, ends: list[Ref], whole: Ref) -> bool:
        """Whether ends are made of parts of a tensor, each of another."""
        takers = [u for u in self.flow.followers(whole.node) if u.name in self.flow.network]
        parts = sum(len(self.flow.taken[u.name]) for u in takers)
        return parts >= len(ends) and all(u.op in SLICES | PARTS for u in takers)

    def _only_enters_loss(self, end: Ref) -> bool:
        """Whether all that takes an end belongs to a loss, and depends on no data but inputs."""
        inputs = sum(self.flow.sources[ref] for ref in self.flow.inputs)
        users = self.flow.followers(end.node)
        return all((u.name in self.flow.lossy or self.ends.losses.is_term(u.name)) and not self.flow.depends[u.name] & ~inputs for u in users)

    def _is_all_behind(self, whole: Ref, ends: list[Ref]) -> bool:
        """Whether ends are made of one tensor, without weights and other data."""
        stack, seen = list(ends), {whole}
        while stack:
            ref = stack.pop()
            if ref in seen:
                continue
            seen.add(ref)
            if ref.node in self.flow.weighted or ref.node not in self.flow.network or whole.node not in self.flow.network:
                return False
            stack += [r for r in self.live.inputs(self.live.graph.nodes[ref.node]) if r in self.flow.sources or r.node in self.flow.depends]
        return True

    def _penalised(self, ends: list[Ref]) -> list[Ref]:
        """The ends of a network that only penalties are computed from, where there are others."""
        found = [end for end in ends if self._only_feeds(end.node)]
        return found if len(found) < len(ends) else []

    def _serving(self, names: set[str]) -> set[str]:
        """Nodes of the network from which, losses aside, nothing but these is computed, these among them."""
        found = set(names)
        stack = list(names)
        while stack:
            for ref in self.live.inputs(self.live.graph.nodes[stack.pop()]):
                users = self.flow.followers(ref.node)
                if ref.node in self.flow.network and ref.node not in found and all(u.name in found or u.name in self.flow.lossy for u in users):
                    found.add(ref.node)
                    stack.append(ref.node)
        return found

    def is_certain(self, end: Ref) -> bool:
        """Whether an end depends on no random numbers, as one between real and generated examples does that a penalty is put on."""
        names = topological(self.live.graph, [end.node], self.live.inputs)
        return not any(ops.is_random(self.live.graph.nodes[name].op) for name in names)

    def _taken(self, ends: list[Ref]) -> list[Ref]:
        """The ends without those that were left lying, where losses and metrics tell which are not."""
        if not any(self._is_made_of_compared(end) for end in ends):
            return ends
        return [end for refs in self._whole([[end] for end in ends]) for end in refs]

    def _is_compared(self, end: Ref) -> bool:
        """Whether anything that is no part of the network, or was stepped back from, is computed from an end: a loss, a metric or a decision."""
        return bool(self.flow.followers(end.node))

    def _is_made_of_compared(self, end: Ref) -> bool:
        """Whether a loss or a metric is computed from an end, or from what an end is an activation of, as the logits are behind probabilities."""
        while not self._is_compared(end) and self.live.graph.nodes[end.node].op in ("Softmax", "Sigmoid", "LogSoftmax", "Reshape", "Squeeze"):
            end = self.live.inputs(self.live.graph.nodes[end.node])[0]
            if any(u.name not in self.flow.network for u in self.flow.followers(end.node)):
                return True
        return self._is_compared(end)

    def _whole(self, networks: list[list[Ref]]) -> list[list[Ref]]:
        """The networks without what was only computed on the way to another and left lying: a recurrent layer's outputs where its state is used.

        Nothing takes such an end, nobody gave it a name, and another network has all its variables, and more. A generator that samples from
        an input of its own, or in inference mode where the other network trains, is no such end.
        """
        live = self.live
        names = [topological(live.graph, [r.node for r in refs], live.inputs) for refs in networks]
        variables = [self._variables(part) for part in names]
        sources = [set(sources_of(live, refs)) for refs in networks]
        kept = []
        for i, refs in enumerate(networks):
            left = not any(self.flow.followers(r.node) for r in refs) and all(
                is_automatic(live.graph.nodes[authors_name(live, r).node]) for r in refs
            )
            larger = [j for j, others in enumerate(variables) if variables[i] < others and sources[i] <= sources[j]] if left else []
            if larger and (self._only_trains(names[i]) or not all(self._only_trains(names[j]) for j in larger)):
                self.ends.stepped_back += refs
                self.lying += refs
            else:
                kept.append(refs)
        return kept

    def _only_feeds(self, name: str) -> bool:
        """Whether losses and penalties are all that is computed from an end."""
        users = self.flow.followers(name)
        compared = all(u.name in self.flow.lossy or u.name in self.ends.losses.compared_to_constants for u in users)
        return bool(users) and (compared or self.ends.losses.is_term_of_loss(name))

    def _is_saved(self, refs: list[Ref]) -> bool:
        names = topological(self.live.graph, [r.node for r in refs], self.live.inputs)
        return all(self.live.variables.holds(self.live.graph.nodes[n]) for n in names if self.live.graph.nodes[n].op in ops.VARIABLES)

    def _fingerprint(self, end: Ref, memo: dict[Ref, int]) -> int:
        """Equal for two references that compute the same function, of inputs of the same kind, with the same variables."""
        for name in topological(self.live.graph, [end.node], self.live.inputs):
            node = self.live.graph.nodes[name]
            if Ref(name) in memo:
                continue
            if node.op in ops.VARIABLES:
                own: object = name
            elif node.op == "Const":
                own = node.attrs["value"].tobytes()
            else:
                own = tuple((k, str(node.attrs[k])) for k in sorted(node.attrs) if not k.startswith("_"))
            memo[Ref(name)] = hash((node.op, own, *(hash((memo[Ref(r.node)], r.output)) for r in self.live.inputs(node))))
        return hash((memo[Ref(end.node)], end.output))

    def _trains(self, names: Sequence[str]) -> bool:
        """Whether nodes normalise with statistics of the batch, or would, had moving ones not been put in their place; or had a dropout."""
        return self._only_trains(names) or bool(self.live.used_replacements(names))

    def _only_trains(self, names: Sequence[str]) -> bool:
        """`_trains`, but for dropouts whose rate is fed, and 0 at inference."""
        nodes = [self.live.graph.nodes[name] for name in names]
        by_statistics = any(ops.in_training_mode(n) or (n.op == "Mean" and self.flow.reduces_batch(n)) for n in nodes)
        return by_statistics or bool(self.live.used_replacements(names) - self.live.switched)

    def _without_training_towers(self, networks: list[list[Ref]]) -> list[list[Ref]]:
        """The networks without towers in training mode where others use the same variables.

        What a generator makes for its critic is no such tower, though the critic that takes real examples shares variables with it.
        """
        facts = []
        for refs in networks:
            names = topological(self.live.graph, [r.node for r in refs], self.live.inputs)
            drawn = any(ops.is_random(self.live.graph.nodes[n].op) for n in names)
            facts.append((set() if drawn else set(names), self._variables(names), drawn or self._trains(names)))
        made = [(ref.node, self._variables(topological(self.live.graph, [ref.node], self.live.inputs))) for ref in stand_ins(self.flow)]
        kept = []
        for i, (inside, variables, training) in enumerate(facts):
            others = [shared for j, (_, shared, other) in enumerate(facts) if j != i and not other and shared & variables]
            generated = [own for node, own in made if node in inside]
            if not training or all(any(not own <= shared for own in generated) for shared in others):
                kept.append(networks[i])
        return kept or networks

    def _variables(self, names: Iterable[str]) -> set[str]:
        return {name for name in names if self.live.graph.nodes[name].op in ops.VARIABLES}


def stand_ins(flow: Flow) -> dict[Ref, Ref]:
    """What stands where an input does in another use of the same weights, and that input: an actor's action, in front of its critic."""
    live = flow.live
    uses: dict[Ref, list[Ref]] = {}
    for name in sorted(flow.weighted):
        operands = live.inputs(live.graph.nodes[name])
        if live.graph.nodes[name].op in PRODUCTS and not live.is_dynamic(operands[1]):
            uses.setdefault(operands[1], []).append(operands[0])
    found: dict[Ref, Ref] = {}
    pairs = [pair for data in uses.values() for pair in permutations(dict.fromkeys(data[:_COMPARED]), 2)]
    seen: set[tuple[Ref, Ref]] = set()
    while pairs:
        fed, made = pair = pairs.pop()
        if fed == made or pair in seen:
            continue
        seen.add(pair)
        nodes = live.graph.nodes[fed.node], live.graph.nodes[made.node]
        if fed in flow.sources and made.node in flow.touched:
            found[made] = fed
        elif nodes[0].op == nodes[1].op:
            pairs += zip(*map(live.inputs, nodes), strict=False)
    return found


def sources_of(live: Live, outputs: Iterable[Ref]) -> list[Ref]:
    """The references through which data enters the computation of `outputs`, in the order of their names in the graph."""
    order = topological(live.graph, [live.resolve(r).node for r in outputs], live.inputs)
    entered: dict[Ref, None] = {}
    wanted = dict.fromkeys(live.resolve(r) for r in outputs)
    for name in order:
        wanted.update(dict.fromkeys(live.inputs(live.graph.nodes[name])))
    for ref in wanted:
        node = live.graph.nodes[ref.node]
        if ref.node in live.sources or ops.is_source(node) or (node.op == "PlaceholderWithDefault" and ref.node in order):
            entered[ref] = None
    position = {name: i for i, name in enumerate(live.graph.nodes)}
    return sorted(entered, key=lambda r: (position[r.node], r.output))
