"""Values that are known before any data is, because they are made of constants and of sizes that the graph fixes: asked for one by one.

`shapes.py` follows a whole network once it is found. Here single values are wanted of graphs that still hold loops, and what cannot be known is None.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bnexport.errors import BnexportError
from bnexport.graph import ops
from bnexport.graph.graphdef import Node, Ref, topological
from bnexport.graph.live import Live
from bnexport.graph.shapes import MAY_SATURATE, OPEN_SIZES, PROBES, attributes, common_value, constant_abstract, declared_shape, differs, input_dtype
from bnexport.kernels import OPS
from bnexport.kernels.table import Abstract, NDArray, infer
from bnexport.text import dtype_of

Pair = tuple[Abstract, Abstract]
"""What is known of a tensor for two sets of sizes in place of the open ones."""


class Sizes:
    """What is known of tensors, each found when it is asked for."""

    def __init__(self, live: Live, given: Mapping[Ref, Sequence[int | None]]):
        """
        Args:
            given: shapes of inputs that the user gave.
        """
        self.live = live
        self.given = given
        self._found: dict[Ref, Pair | None] = {}

    def rewritten(self) -> None:
        """Has to be called when the graph has changed: what was not known may be now."""
        self._found = {ref: pair for ref, pair in self._found.items() if pair is not None}

    def constant(self, ref: Ref) -> NDArray | None:
        """A value that depends on no data and on no open size."""
        pair = self.of(ref)
        return None if pair is None else common_value(pair)

    def of(self, ref: Ref) -> Pair | None:
        """What is known of a tensor; None where that is nothing."""
        wanted = self.live.resolve(ref)
        if wanted not in self._found:
            for name in topological(self.live.graph, [wanted.node], self._before):
                if Ref(name) not in self._found:
                    pairs = self._follow(self.live.graph.nodes[name])
                    self._found.update({Ref(name, i): pair for i, pair in enumerate(pairs or [None])})
        return self._found.get(wanted)

    def _before(self, node: Node) -> tuple[Ref, ...]:
        if Ref(node.name) in self._found or node.op in ops.LOOPS or node.op in ops.MERGES or not self.live.is_dynamic(Ref(node.name)):
            return ()
        return self.live.inputs(node)

    def _follow(self, node: Node) -> Sequence[Pair | None] | None:
        live = self.live
        try:
            if not live.is_dynamic(Ref(node.name)):
                value = live.value(Ref(node.name))
                return [(Abstract(value.shape, value.dtype, value),) * 2]
            if node.name in live.sources or ops.is_source(node) or node.op == "PlaceholderWithDefault":
                return [self._source(Ref(node.name))]
            if node.op not in OPS:
                return None
            refs = live.inputs(node)
            pairs = [self._found.get(r) if live.is_dynamic(r) else (constant_abstract(live, r, node),) * 2 for r in refs]
            operands = [pair for pair in pairs if pair is not None]
            if len(operands) < len(refs):
                return None
            if node.op == "Reshape" and (target := common_value(operands[1])) is not None and np.all(target >= 0):
                shape = tuple(int(n) for n in target)  # the data have so many elements, whatever stands for their number here
                return [(Abstract(shape, operands[0][0].dtype),) * 2]
            results = [infer(OPS[node.op], attributes(node), [pair[i] for pair in operands]) for i in (0, 1)]
        except BnexportError:  # what has no kernel, or does not fit with sizes that stand for open ones: nothing is known of it
            return None
        if node.op in MAY_SATURATE and any(differs(pair) for pair in operands):
            return [(Abstract(a.shape, a.dtype), Abstract(b.shape, b.dtype)) for a, b in zip(*results, strict=True)]
        return list(zip(*results, strict=True))

    def _source(self, ref: Ref) -> Pair:
        shape = tuple(self.given[ref]) if ref in self.given else declared_shape(self.live, ref)
        dtype: np.dtype[Any] = dtype_of(input_dtype(self.live, ref))
        sizes = [tuple(size if size is not None else (probe if i == 0 else open_) for i, size in enumerate(shape)) for probe, open_ in _STAND_INS]
        return Abstract(sizes[0], dtype), Abstract(sizes[1], dtype)

    def sources(self, refs: Sequence[Ref]) -> list[Ref]:
        """Where the data comes in that these values depend on."""
        order = topological(self.live.graph, [self.live.resolve(r).node for r in refs], self._all_before)
        nodes = [self.live.graph.nodes[name] for name in order]
        return [Ref(n.name) for n in nodes if n.name in self.live.sources or ops.is_source(n) or n.op == "PlaceholderWithDefault"]

    def _all_before(self, node: Node) -> tuple[Ref, ...]:
        return () if node.op in ops.LOOPS or node.op in ops.MERGES else self.live.inputs(node)


_STAND_INS = tuple(zip(PROBES, OPEN_SIZES, strict=True))
