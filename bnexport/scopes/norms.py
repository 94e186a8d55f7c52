"""Batch norms by name: beta, gamma, moving mean and moving variance that belong together.

The variables of one batch norm mostly share a scope. The seed's do not: `tf.train.ExponentialMovingAverage` names an average after the op that
it averages, below the variable scope that is open. With `tf.variable_scope("bn")` entered twice, whose name scopes are `bn` and `bn_1`,
`tf.Variable` makes `bn_1/beta`, and the average of `bn_1/moments/Squeeze` is `bn/bn_1/moments/Squeeze/ExponentialMovingAverage`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from bnexport.scopes.names import Path, counted, listed, natural_key
from bnexport.scopes.roles import BETA, GAMMA, MEAN, VARIANCE, Named


@dataclass(slots=True)
class Norm:
    """A batch norm, or what there is of one.

    Attributes:
        scope: the scope that its variables share.
        rest: what their own names share beside the role.
        width: the number of channels.
        variables: the variables by role.
        bare: whether it is a `Normalization` layer of Keras, which has a count of its rows, no gamma, no beta, and no epsilon.
        counted: whether it is one of several in its scope, which TensorFlow told apart by numbers: `beta`, `beta_1`.
        path: where it stands among other names.
        name: what people may call it.
    """

    scope: Path
    rest: Path
    width: int
    variables: dict[str, Named] = field(default_factory=dict)
    bare: bool = False
    counted: bool = False

    @property
    def path(self) -> Path:
        return self.scope if self._is_scope else (*self.scope, "_".join(("norm", *self.rest)))

    @property
    def name(self) -> str:
        own = "_".join(("batch_norm", *self.rest) if not self.rest or self.rest[0].isdigit() else self.rest)
        return "/".join(self.scope if self._is_scope else (*self.scope, own))

    @property
    def _is_scope(self) -> bool:
        return bool(self.scope) and not self.rest and not self.counted

    @property
    def whole(self) -> bool:
        """Whether there are moving statistics to normalise with; gamma and beta may be missing (scale=False, center=False)."""
        return MEAN in self.variables and VARIANCE in self.variables


@dataclass(slots=True)
class Norms:
    """What was matched: batch norms in natural order, variables that fit in none, sentences on what was assumed, and what nobody can match."""

    found: list[Norm]
    odd: list[Norm]
    assumed: list[str]
    uneven: list[str]


def match_norms(variables: Sequence[Named]) -> Norms:
    """Puts the variables of batch norms together."""
    groups: dict[tuple[Path, Path], Norm] = {}
    averaged: dict[tuple[Path, Path], Norm] = {}
    odd: list[Norm] = []
    for variable in variables:
        if variable.role not in (BETA, GAMMA, MEAN, VARIANCE):
            continue
        scope = variable.path[:-1] if variable.moments is None else variable.moments
        pool = groups if variable.moments is None else averaged
        width = max(variable.info.shape)
        norm = pool.setdefault((scope, variable.rest), Norm(scope, variable.rest, width))
        if variable.role in norm.variables or norm.width != width:
            odd.append(Norm(scope, variable.rest, width, {variable.role: variable}))
        else:
            norm.variables[variable.role] = variable
    norms = list(groups.values())
    for statistics, norm in _homes(list(averaged.values()), norms):
        norm.variables.update(statistics.variables)
        del averaged[statistics.scope, statistics.rest]
    for statistics in averaged.values():
        statistics.scope = _own_scope(statistics.scope)
        norms.append(statistics)
    counts = {v.path[:-1] for v in variables if v.path[-1] == "count" and not v.info.shape and v.info.dtype.kind == "i"}
    several = {norm.scope for norm in norms if norm.rest and counted(norm.rest)[0] == ()}
    for norm in norms:
        norm.counted = norm.scope in several
        # Keras' Normalization, which has no epsilon, calls its statistics so; counts stand beside the moving averages of other batch norms, too.
        called = {role: v.path[-1] for role, v in norm.variables.items()} == {MEAN: "mean", VARIANCE: "variance"}
        norm.bare = called and norm.scope in counts and not norm.rest
    norms.sort(key=lambda norm: natural_key(norm.path))
    uneven = _uneven(norms)
    assumed = _pair_by_order(norms)
    return Norms([n for n in norms if n.whole], odd + [n for n in norms if not n.whole], assumed, uneven)


def _homes(averaged: Sequence[Norm], norms: Sequence[Norm]) -> list[tuple[Norm, Norm]]:
    """Pairs of averaged moments and the batch norm whose scope stands in their path: the longest first, at the end rather than at the start.

    The end is the name scope, which tells apart what shares a variable scope.
    """
    pairs = []
    for statistics in averaged:
        path = statistics.scope
        for norm in norms:
            scope = norm.scope
            at_end, at_start = path[len(path) - len(scope) :] == scope, path[: len(scope)] == scope
            free = norm.width == statistics.width and norm.rest == statistics.rest and not {MEAN, VARIANCE} & norm.variables.keys()
            if free and (at_end or at_start):
                pairs.append((-len(scope), not at_end, len(path), natural_key(path), natural_key(scope), statistics, norm))
    pairs.sort(key=lambda pair: pair[:5])
    chosen: list[tuple[Norm, Norm]] = []
    for *_, statistics, norm in pairs:
        if all(statistics is not other and norm is not home for other, home in chosen):
            chosen.append((statistics, norm))
    return chosen


def _own_scope(path: Path) -> Path:
    """The scope of a batch norm of which only averages are left: a path that is a scope twice over is that scope."""
    half = len(path) // 2
    return path[half:] if len(path) == 2 * half and path[:half] == path[half:] else path


def _uneven(norms: Sequence[Norm]) -> list[str]:
    """Batch norms in one scope of which TensorFlow counted each variable by itself, and not all have the same numbers.

    With `beta`, `beta_1`, `beta_2` and `scale`, `scale_1` one of three batch norms has no scale, and it need not be the last.
    """
    counts: dict[tuple[Path, Path], dict[str, set[str | None]]] = {}
    for norm in norms:
        words, number = counted(norm.rest)
        for role in norm.variables:
            counts.setdefault((norm.scope, words), {}).setdefault(role, set()).add(number)
    found = []
    for (scope, words), roles in counts.items():
        numbers = set[str | None]().union(*roles.values())
        if len(numbers) > 1 and None in numbers and any(own != numbers for own in roles.values()):
            lists = {role: ", ".join(number or "no number" for number in sorted(own, key=lambda n: int(n or -1))) for role, own in roles.items()}
            found.append(f"{Norm(scope, words, 0).name} ({'; '.join(f'{role}: {shown}' for role, shown in lists.items())})")
    return found


def _pair_by_order(norms: list[Norm]) -> list[str]:
    """Gives statistics without beta and gamma to betas and gammas without statistics, the first to the first, where the numbers of channels agree."""
    alone = [n for n in norms if n.whole and not {BETA, GAMMA} & n.variables.keys()]
    bare = [n for n in norms if not {MEAN, VARIANCE} & n.variables.keys()]
    if not bare or [n.width for n in alone] != [n.width for n in bare]:
        return []
    assumed = []
    for statistics, norm in zip(alone, bare, strict=True):
        norm.variables.update(statistics.variables)
        norms.remove(statistics)
        assumed.append(f"the moving statistics in {statistics.name} belong to {norm.name}: no name says so, but their order and their sizes agree")
    return assumed


def described(norms: Sequence[Norm]) -> str:
    """Incomplete batch norms for a message."""
    return listed([f"{n.name} (only {' and '.join(n.variables)}, {n.width} channels)" for n in norms])
