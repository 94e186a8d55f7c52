"""Batch norms by name: beta, gamma, moving mean and moving variance that belong together.

The variables of one batch norm mostly share a scope. The seed's do not: `tf.train.ExponentialMovingAverage` names an average after the op that
it averages, below the variable scope that is open. With `tf.variable_scope("bn")` entered twice, whose name scopes are `bn` and `bn_1`,
`tf.Variable` makes `bn_1/beta`, and the average of `bn_1/moments/Squeeze` is `bn/bn_1/moments/Squeeze/ExponentialMovingAverage`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from bnexport.scopes.names import Path, listed, natural_key
from bnexport.scopes.roles import BETA, GAMMA, MEAN, VARIANCE, Named


@dataclass(slots=True)
class Norm:
    """A batch norm, or what there is of one.

    Attributes:
        scope: the scope that its variables share.
        rest: what their own names share beside the role.
        width: the number of channels.
        variables: the variables by role.
        path: where it stands among other names.
        name: what people may call it.
    """

    scope: Path
    rest: Path
    width: int
    variables: dict[str, Named] = field(default_factory=dict)

    @property
    def path(self) -> Path:
        return (*self.scope, "_".join(("norm", *self.rest))) if self.rest or not self.scope else self.scope

    @property
    def name(self) -> str:
        own = "_".join(("batch_norm", *self.rest) if not self.rest or self.rest[0].isdigit() else self.rest)
        return "/".join((*self.scope, own)) if self.rest or not self.scope else "/".join(self.scope)

    @property
    def whole(self) -> bool:
        """Whether there are moving statistics to normalise with; gamma and beta may be missing (scale=False, center=False)."""
        return MEAN in self.variables and VARIANCE in self.variables


@dataclass(slots=True)
class Norms:
    """What was matched: batch norms in natural order, variables that fit in none, and sentences on what was assumed."""

    found: list[Norm]
    odd: list[Norm]
    assumed: list[str]


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
    for place in (_at_end, _at_start):
        for key, statistics in sorted(averaged.items(), key=lambda item: natural_key(item[1].path)):
            home = _home(statistics, [norm for norm in groups.values() if not {MEAN, VARIANCE} & norm.variables.keys()], place)
            if home is not None:
                home.variables.update(averaged.pop(key).variables)
    norms = list(groups.values())
    for statistics in averaged.values():
        statistics.scope = _own_scope(statistics.scope)
        norms.append(statistics)
    norms.sort(key=lambda norm: natural_key(norm.path))
    assumed = _pair_by_order(norms)
    return Norms([n for n in norms if n.whole], odd + [n for n in norms if not n.whole], assumed)


def _at_end(path: Path, scope: Path) -> bool:
    return len(scope) <= len(path) and path[len(path) - len(scope) :] == scope


def _at_start(path: Path, scope: Path) -> bool:
    return path[: len(scope)] == scope


def _home(statistics: Norm, norms: Sequence[Norm], place: Callable[[Path, Path], bool]) -> Norm | None:
    """The batch norm of the longest scope at that place of the path of averaged moments; None where there is none, or more than one."""
    fitting = [n for n in norms if n.width == statistics.width and place(statistics.scope, n.scope)]
    same = [n for n in fitting if n.rest == statistics.rest]
    longest = max((len(n.scope) for n in same), default=0)
    best = [n for n in same if len(n.scope) == longest]
    return best[0] if len(best) == 1 else None


def _own_scope(path: Path) -> Path:
    """The scope of a batch norm of which only averages are left: a path that is a scope twice over is that scope."""
    half = len(path) // 2
    return path[half:] if len(path) == 2 * half and path[:half] == path[half:] else path


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
