"""TensorArray, and the tensor lists of control flow v2, once no loop is left around them: what is read is what was written there.

Every state of an array is a value of the graph (its *flow*, or the list itself), made by a write from the state before. Reading an element is
therefore walking back to the write of that element; stacking all of them is a Pack of what is found.
"""

from collections.abc import Iterable

import numpy as np

from bnexport.graph import ops
from bnexport.graph.graphdef import Node, Ref, constant_node, topological
from bnexport.graph.live import Live
from bnexport.graph.sizes import Sizes

_WRITES = frozenset({"TensorArrayWrite", "TensorListSetItem"})
_SCATTERS = frozenset({"TensorArrayScatter", "TensorArrayUnpack", "TensorListFromTensor"})
_STARTS = frozenset({"TensorArray", "TensorListReserve", "EmptyTensorList"})
_SIZES = frozenset({"TensorArraySize", "TensorListLength"})
_READS = frozenset({"TensorArrayRead", "TensorListGetItem"})
_STACKS = frozenset({"TensorArrayGather", "TensorArrayPack", "TensorListStack", "TensorArrayConcat", "TensorListConcat"})
_ACCUMULATORS = frozenset({"TensorListPushBack"})  # of what only gradients need


def write_arrays(live: Live, sizes: Sizes) -> None:
    """Replaces what reads arrays by what reads the tensors that were written to them, wherever that can be told."""
    nodes = list(live.graph.nodes.values())
    for asked in (_SIZES, _READS | _STACKS):
        arrays = _Arrays(live, sizes)
        found = [(node, _kind(node)) for node in nodes if _kind(node) in asked and not ops.is_gradient(node)]
        for node, kind in found:
            replacement = arrays.size(node) if kind in _SIZES else arrays.read(node) if kind in _READS else arrays.stack(node, kind)
            if replacement is not None:
                live.graph.nodes[node.name] = replacement
        if found:
            live.rewritten()
            sizes.rewritten()


def leave_out_arrays(live: Live, loops: Iterable[str]) -> None:
    """Makes of the states of arrays that nobody reads any more something that depends on nothing.

    Args:
        loops: the names of loops that were not written out, which read them.
    """
    nodes = live.graph.nodes
    others = [n for n in nodes.values() if n.op.startswith(("TensorArray", "TensorList")) and _kind(n) not in _WRITES | _SCATTERS | _STARTS]
    readers = [n.name for n in others if _kind(n) not in _ACCUMULATORS and not ops.is_gradient(n)]
    read = set(topological(live.graph, [*loops, *readers], live.inputs))
    states = {n.name for n in nodes.values() if _kind(n) in _WRITES | _SCATTERS | _STARTS} - read
    for node in list(nodes.values()):
        if node.name in states or (node.attrs.get("_ends") and live.resolve(node.inputs[1]).node in states):
            nodes[node.name] = constant_node(node.name, np.zeros((), np.float32))


def _kind(node: Node) -> str:
    """An operator of arrays without its version."""
    return node.op[:-2] if node.op[-2:] in ("V2", "V3") and node.op.startswith("Tensor") else node.op


def _before(write: Node, kind: str) -> Ref:
    """The state that a write makes the next of."""
    return write.inputs[3] if kind == "TensorArrayWrite" else write.inputs[0]


class _Arrays:
    def __init__(self, live: Live, sizes: Sizes):
        self.live = live
        self.sizes = sizes
        self._elements: dict[tuple[Ref, int], Ref | None] = {}

    # ---- what replaces a node

    def size(self, node: Node) -> Node | None:
        size = self._size(node, node.inputs[-1])
        return None if size is None else constant_node(node.name, np.array(size, np.int32))

    def read(self, node: Node) -> Node | None:
        """The element itself; zeros, where nothing was written, are left to nobody: TensorFlow refuses to read them."""
        handle_first = node.op.startswith("TensorArray")
        index = self.sizes.constant(node.inputs[1])
        if index is None:
            return None
        try:
            element = self.element(node.inputs[-1] if handle_first else node.inputs[0], int(index))
        except LookupError:
            return None
        return None if element is None else Node(node.name, "Identity", [element], [], {"T": self._dtype(node)})

    def stack(self, node: Node, kind: str) -> Node | None:
        """All elements, or those of given numbers; what was never written is zeros."""
        flow = node.inputs[0] if kind.startswith("TensorList") else node.inputs[-1]
        chosen = self.sizes.constant(node.inputs[1]) if kind == "TensorArrayGather" else None
        size = self._size(node, flow)
        if size is None or (kind == "TensorArrayGather" and chosen is None):
            return None
        numbers = range(size) if chosen is None else [int(i) for i in chosen.reshape(-1)]
        try:
            elements = [self.element(flow, i) for i in numbers]
        except LookupError:
            return None
        written = next((e for e in elements if e is not None), None)
        if written is None:
            return None
        if None in elements:
            zeros = f"{node.name}/zeros"
            self.live.graph.nodes[zeros] = Node(zeros, "ZerosLike", [written], [], {"T": self._dtype(node)})
            elements = [Ref(zeros) if e is None else e for e in elements]
        refs = [e for e in elements if e is not None]
        if kind not in ("TensorArrayConcat", "TensorListConcat"):
            return Node(node.name, "Pack", refs, [], {"T": self._dtype(node), "N": len(refs), "axis": 0})
        axis = f"{node.name}/axis"
        self.live.graph.nodes[axis] = constant_node(axis, np.array(0, np.int32))
        return Node(node.name, "ConcatV2", [*refs, Ref(axis)], [], {"T": self._dtype(node), "N": len(refs)})

    # ---- what an array holds

    def element(self, flow: Ref, number: int) -> Ref | None:
        """What was written last to one place of an array; None where nothing was.

        Raises:
            LookupError: it cannot be told.
        """
        key = (self.live.resolve(flow), number)
        if key not in self._elements:
            self._elements[key] = self._find(*key)
        return self._elements[key]

    def _find(self, flow: Ref, number: int) -> Ref | None:
        while True:
            flow = self.live.resolve(flow)
            node = self.live.graph.nodes[flow.node]
            kind = _kind(node)
            if kind in _STARTS or node.op == "Const":  # (before TensorFlow 1.0 the first state of an array was a constant)
                return None
            if kind in _WRITES:
                index = self.sizes.constant(node.inputs[1])
                if index is None:
                    raise LookupError(node.name)
                if int(index) == number:
                    return self.live.resolve(node.inputs[2])
                flow = _before(node, kind)
            elif kind == "SelectV2":
                if not node.attrs.get("_ends") or not self._unchanged(node, number):
                    return self._chosen(node, number)
                flow = node.inputs[2]
            elif kind == "TensorArrayScatter" and not self._scatters(node, number):
                flow = node.inputs[3]
            elif kind in _SCATTERS:
                return self._part(node, kind, number)
            else:
                raise LookupError(node.name)

    def _unchanged(self, node: Node, number: int) -> bool:
        """Whether the step that a loop may end before, and that this chooses the result of, writes something else than this place."""
        new, old = self.live.resolve(node.inputs[1]), self.live.resolve(node.inputs[2])
        before = self.live.graph.nodes[old.node]
        begun = self.live.resolve(before.inputs[1]) if before.attrs.get("_ends") else old
        while new != begun:
            write = self.live.graph.nodes[new.node]
            kind = _kind(write)
            if kind not in _WRITES or (index := self.sizes.constant(write.inputs[1])) is None or int(index) == number:
                return False
            new = self.live.resolve(_before(write, kind))
        return True

    def _chosen(self, node: Node, number: int) -> Ref | None:
        new, old = self.element(node.inputs[1], number), self.element(node.inputs[2], number)
        if new == old:
            return new
        name = f"{node.name}/element_{number}"
        sides = []
        for ref, other, side in ((new, old, "new"), (old, new, "old")):
            if ref is None:
                assert other is not None
                zeros = f"{name}/{side}"
                self.live.graph.nodes[zeros] = Node(zeros, "ZerosLike", [other])
                ref = Ref(zeros)
            sides.append(ref)
        self.live.graph.nodes[name] = Node(name, "SelectV2", [node.inputs[0], *sides], [], {"_ends": True})
        return Ref(name)

    def _scatters(self, node: Node, number: int) -> bool:
        indices = self.sizes.constant(node.inputs[1])
        return indices is None or bool((indices == number).any())

    def _part(self, node: Node, kind: str, number: int) -> Ref:
        """One of the tensors that a tensor is taken apart into."""
        value = node.inputs[{"TensorArrayScatter": 2, "TensorArrayUnpack": 1}.get(kind, 0)]
        shape = self._fixed_length(value)
        indices = self.sizes.constant(node.inputs[1]) if kind == "TensorArrayScatter" else np.arange(shape or 0)
        if shape is None or indices is None or indices.size != shape or number not in indices:
            raise LookupError(node.name)
        name = f"{node.name}/parts"
        if name not in self.live.graph.nodes:
            self.live.graph.nodes[name] = Node(name, "Unpack", [value], [], {"T": self._dtype(node), "num": shape, "axis": 0})
            self.live.graph.in_steps.add(name)
        return Ref(name, int(np.flatnonzero(indices == number)[-1]))

    def _size(self, reader: Node, flow: Ref) -> int | None:
        """How many places an array has: what it was made with, or more where it grows with what is written."""
        most, grows, dynamic = 0, False, False
        while True:
            node = self.live.graph.nodes[self.live.resolve(flow).node]
            kind = _kind(node)
            if kind in _WRITES:
                index = self.sizes.constant(node.inputs[1])
                if index is None:
                    return None
                most = max(most, int(index) + 1)
                dynamic |= bool(node.attrs.get("resize_if_index_out_of_bounds"))
                flow = _before(node, kind)
            elif kind == "SelectV2":
                grows = True  # by a step that may not be taken
                flow = node.inputs[2]
            elif kind == "TensorArrayScatter":
                flow = node.inputs[3]
            elif kind == "TensorListFromTensor":
                return self._fixed_length(node.inputs[0])
            else:
                break
        if reader.op.startswith("TensorArray"):
            node = self.live.graph.nodes[self.live.resolve(reader.inputs[0]).node]
        if _kind(node) not in ("TensorArray", "TensorListReserve"):
            return None
        size = self.sizes.constant(node.inputs[0 if _kind(node) == "TensorArray" else 1])
        dynamic |= bool(node.attrs.get("dynamic_size"))
        if size is None or (dynamic and grows):
            return None
        return max(most, int(size)) if dynamic else int(size)

    def _fixed_length(self, ref: Ref) -> int | None:
        pair = self.sizes.of(ref)
        if pair is None or not pair[0].shape or pair[0].shape[0] != pair[1].shape[0]:
            return None
        return pair[0].shape[0]

    def _dtype(self, node: Node) -> str:
        return str(next((node.attrs[key] for key in ("dtype", "T", "element_dtype") if key in node.attrs), "float32"))
