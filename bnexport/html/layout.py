"""Where the boxes of a network go: a layered drawing from top to bottom (Sugiyama, Tagawa and Toda 1981).

Each box lies one rank below the lowest of those that it takes from. An edge that passes ranks gets a bend in each of them. The order within a rank
follows the medians of the neighbours' places (Eades and Wormald 1994), and the places themselves are the nearest to the neighbours' means that keep
the boxes apart: a least-squares problem whose solution is an isotonic regression.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

RANK_GAP = 44.0
BOX_GAP = 26.0
_SWEEPS = 12
_BEND_WIDTH = 10.0
_BOX_WEIGHT = 4.0
"""How much harder a box is to move off its line than a bend: ways that pass boxes go around them."""


@dataclass(frozen=True, slots=True)
class Placed:
    """A drawing's places.

    Attributes:
        width, height: of the whole.
        centres: of each box, its middle (x) and its top (y).
        bends: of each edge, the points that it passes between its two boxes: pairs of equal x where it enters and leaves a rank.
    """

    width: float
    height: float
    centres: list[tuple[float, float]]
    bends: list[list[tuple[float, float]]]


class _Grid:
    """Boxes and bends by rank, with their neighbours above and below."""

    def __init__(self, sizes: Sequence[tuple[float, float]], edges: Sequence[tuple[int, int]]):
        self.ranks = _ranks(len(sizes), edges)
        self.widths = [width for width, _ in sizes]
        self.above: list[list[int]] = [[] for _ in sizes]
        self.below: list[list[int]] = [[] for _ in sizes]
        self.boxes = len(sizes)
        self.chains = [self._chain(a, b) for a, b in edges]
        self.rows: list[list[int]] = [[] for _ in range(max(self.ranks, default=-1) + 1)]
        for item in self._by_depth():
            self.rows[self.ranks[item]].append(item)

    def _chain(self, a: int, b: int) -> list[int]:
        chain = []
        last = a
        for rank in range(self.ranks[a] + 1, self.ranks[b]):
            bend = len(self.ranks)
            self.ranks.append(rank)
            self.widths.append(_BEND_WIDTH)
            self.above.append([])
            self.below.append([])
            self._link(last, bend)
            chain.append(bend)
            last = bend
        self._link(last, b)
        return chain

    def weight(self, item: int) -> float:
        """How hard something is to move off its line."""
        return _BOX_WEIGHT if item < self.boxes else 1.0

    def _link(self, a: int, b: int) -> None:
        self.below[a].append(b)
        self.above[b].append(a)

    def _by_depth(self) -> Iterable[int]:
        """Everything in the order of a depth-first walk from the top, which keeps ways together."""
        seen: set[int] = set()
        stack = [item for item in range(len(self.ranks)) if not self.above[item]][::-1]
        while stack:
            item = stack.pop()
            if item not in seen:
                seen.add(item)
                yield item
                stack.extend(reversed(self.below[item]))


def place(sizes: Sequence[tuple[float, float]], edges: Sequence[tuple[int, int]]) -> Placed:
    """Places boxes so that every edge goes down.

    Args:
        sizes: width and height of each box.
        edges: pairs (from, to) of box numbers, without cycles.
    """
    grid = _Grid(sizes, edges)
    _order(grid)
    x = _across(grid)
    left = min((x[item] - grid.widths[item] / 2 for item in range(len(x))), default=0.0)
    right = max((x[item] + grid.widths[item] / 2 for item in range(len(x))), default=0.0)
    heights = [max((sizes[item][1] for item in row if item < grid.boxes), default=0.0) for row in grid.rows]
    tops = [sum(heights[:rank]) + RANK_GAP * rank for rank in range(len(heights))]
    centres = [(x[box] - left, tops[grid.ranks[box]]) for box in range(grid.boxes)]
    bends = [
        [(x[item] - left, tops[grid.ranks[item]] + offset) for item in chain for offset in (0.0, heights[grid.ranks[item]])] for chain in grid.chains
    ]
    return Placed(right - left, sum(heights) + RANK_GAP * max(0, len(heights) - 1), centres, bends)


def _ranks(count: int, edges: Sequence[tuple[int, int]]) -> list[int]:
    """The rank of each box: as high as what it takes from allows, and what takes from nothing just above the first that takes from it."""
    after: list[list[int]] = [[] for _ in range(count)]
    waiting = [0] * count
    for a, b in edges:
        after[a].append(b)
        waiting[b] += 1
    sources = [box for box in range(count) if not waiting[box]]
    ranks = [0] * count
    ready = list(sources)
    for box in ready:  # grows while it is gone through
        for other in after[box]:
            ranks[other] = max(ranks[other], ranks[box] + 1)
            waiting[other] -= 1
            if not waiting[other]:
                ready.append(other)
    for box in sources:
        if after[box]:
            ranks[box] = min(ranks[other] for other in after[box]) - 1
    return ranks


def _order(grid: _Grid) -> None:
    for sweep in range(_SWEEPS):
        down = sweep % 2 == 0
        neighbours = grid.above if down else grid.below
        rows = grid.rows if down else grid.rows[::-1]
        places = {item: place for row in grid.rows for place, item in enumerate(row)}
        for row in rows:
            row.sort(key=lambda item: _median([places[other] for other in neighbours[item]], places[item]))
            places.update({item: place for place, item in enumerate(row)})


def _median(places: list[int], own: int) -> float:
    if not places:
        return float(own)
    ordered = sorted(places)
    middle = len(ordered) // 2
    return float(ordered[middle]) if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def _across(grid: _Grid) -> list[float]:
    """The middle of each box and bend. Going down, everything wants to be below what it takes from; going up, above what takes from it."""
    x = [0.0] * len(grid.ranks)
    for row in grid.rows:
        _spread(grid, row, x, [0.0] * len(row))
    for sweep in range(_SWEEPS + 1):
        down = sweep % 2 == 0
        neighbours = grid.above if down else grid.below
        for row in grid.rows if down else grid.rows[::-1]:
            _spread(grid, row, x, [_mean(grid, x, neighbours[item], x[item]) for item in row])
    return x


def _mean(grid: _Grid, x: Sequence[float], near: Sequence[int], own: float) -> float:
    total = sum(grid.weight(item) for item in near)
    return sum(grid.weight(item) * x[item] for item in near) / total if total else own


def _spread(grid: _Grid, row: Sequence[int], x: list[float], wanted: Sequence[float]) -> None:
    """Puts a row as near to where it is wanted as its order and gaps allow: least squares by pooling adjacent violators (Ayer et al. 1955)."""
    offsets = [0.0]
    for left, right in pairwise(row):
        offsets.append(offsets[-1] + (grid.widths[left] + grid.widths[right]) / 2 + BOX_GAP)
    pools: list[tuple[float, float, int]] = []  # weighted mean, weight, how many
    for item, want, offset in zip(row, wanted, offsets, strict=True):
        mean, weight, count = want - offset, grid.weight(item), 1
        while pools and pools[-1][0] > mean:
            other, heavy, many = pools.pop()
            mean, weight, count = (mean * weight + other * heavy) / (weight + heavy), weight + heavy, count + many
        pools.append((mean, weight, count))
    places = [mean for mean, _, count in pools for _ in range(count)]
    for item, offset, base in zip(row, offsets, places, strict=True):
        x[item] = base + offset
