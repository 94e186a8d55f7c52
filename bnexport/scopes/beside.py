"""What a variable is for where its own name does not say it, and those beside it do."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

from bnexport.scopes.names import Path, natural_key, tokens
from bnexport.scopes.roles import BETA, BIAS, GAMMA, KERNEL, MEAN, SPELLINGS, UNKNOWN, VARIANCE, Named, is_vector, without_spelling

_ROLE_SCOPES = {"weights": KERNEL, "weight": KERNEL, "kernels": KERNEL, "kernel": KERNEL, "biases": BIAS, "bias": BIAS}
"""Scopes that are called as what is in them, as in TensorFlow's own tutorials: `layer1/weights/Variable` and `layer1/biases/Variable`."""

_ROLE_LISTS = {"w": KERNEL, "ws": KERNEL, "b": BIAS, "bs": BIAS}
"""The same of lists, whose variables have numbers for names: `ws/0` and `bs/0` of an object."""


def among_others(variables: Sequence[Named]) -> list[Named]:
    """Variables as `classify` gives them, with what only those beside them tell of their roles and names, in the same order."""
    return _one_letter_apart(_unnamed_rows(_affine(_without_role_scopes(list(variables)))))


def _without_role_scopes(variables: list[Named]) -> list[Named]:
    """Takes `layer1/weights/Variable` for `layer1/weights`, and `biases/b1` for the bias `b1`: the scope says the role, and is no layer's.

    What TensorFlow counted without a name goes by its number: `weights/Variable_1` and `biases/Variable_1` belong together. Where two kernels or two
    biases would have one name, all have their own.
    """
    read = [_without_role_scope(v) for v in variables]
    counts = Counter((v.role, v.path) for v in read)
    return variables if any(counts[new.role, new.path] > 1 for new, old in zip(read, variables, strict=True) if new is not old) else read


def _without_role_scope(variable: Named) -> Named:
    path = variable.path
    scope = tokens(path[-2]) if len(path) > 1 else ()
    called = _ROLE_SCOPES | _ROLE_LISTS if path[-1].isdigit() else _ROLE_SCOPES
    role = called.get(scope[0]) if scope and all(word.isdigit() for word in scope[1:]) else None
    shape, dtype = variable.info.shape, variable.info.dtype
    fits = dtype.kind in "fV" and (len(shape) > 1 if role == KERNEL else is_vector(shape))
    if role is None or not fits or variable.role not in (KERNEL, BIAS, UNKNOWN):
        return variable
    own = without_spelling(tokens(path[-1]), SPELLINGS[role])
    if variable.unnamed:
        number = path[-1].removeprefix("Variable")
        return replace(variable, role=role, path=(*path[:-2], path[-2] + number), rest=(*scope[1:], *tokens(number)), by_shape=False)
    if own == ():
        return replace(variable, role=role, path=path[:-1], rest=scope[1:], by_shape=False)
    return replace(variable, role=role, path=(*path[:-2], path[-1]), rest=tokens(path[-1]) if own is None else own)


def _affine(variables: list[Named]) -> list[Named]:
    """Takes `bn1/weight` and `bn1/bias` beside `bn1/running_mean` and `bn1/running_var` for gamma and beta, as PyTorch calls them."""

    def place(variable: Named, rest: Path | None) -> tuple[Path, Path | None, int]:
        return variable.path[:-1], rest, variable.width

    statistics: dict[str, set[tuple[Path, Path | None, int]]] = {
        role: {place(v, v.rest) for v in variables if v.role == role and v.moments is None and v.info.shape} for role in (MEAN, VARIANCE)
    }
    both = statistics[MEAN] & statistics[VARIANCE]
    gammas = {
        v.key: where
        for v in variables
        if v.role == UNKNOWN and len(v.info.shape) == 1 and (where := place(v, without_spelling(tokens(v.path[-1]), ("weight",)))) in both
    }
    found = {place(v, v.rest) for v in variables if v.key not in gammas and v.role in (BETA, GAMMA) and v.info.shape}
    read = []
    for v in variables:
        if v.key in gammas and gammas[v.key] not in found:
            v = replace(v, role=GAMMA, rest=gammas[v.key][1] or (), by_shape=False)
        elif v.role == BIAS and not v.unnamed and place(v, v.rest) in set(gammas.values()) - found:
            v = replace(v, role=BETA)
        read.append(v)
    return read


def _unnamed_rows(variables: list[Named]) -> list[Named]:
    """Takes an unnamed [1, C] for a bias where the unnamed variable made before it is the kernel of C units."""
    made = sorted((v for v in variables if v.unnamed and v.role in (KERNEL, BIAS)), key=lambda v: natural_key(v.path))
    rows: dict[str, Named] = {}
    for first, second in pairwise(made):
        beside = first.path[:-1] == second.path[:-1] and first.role == KERNEL and first.key not in rows
        if beside and second.role == KERNEL and is_vector(second.info.shape) and second.width == first.width:
            rows[second.key] = replace(second, role=BIAS)
    return [rows.get(v.key, v) for v in variables]


def _one_letter_apart(variables: list[Named]) -> list[Named]:
    """Takes `bout` for the bias of `Wout`, `fcb1` for that of `fcw1`: in one scope, and but for b in the place of w the same name.

    All kernels of the scope that have such names must have such biases: of `Wx`, `Wh` and `bh` no layers in a chain are made.
    """
    kernels = {(v.path[:-1], v.path[-1].lower()): v for v in variables if v.role == KERNEL and v.by_shape and not v.unnamed}
    biases: dict[str, Named] = {}
    for variable in variables if kernels else []:
        if variable.role == UNKNOWN and is_vector(variable.info.shape):
            last = variable.path[-1].lower()
            others = [(variable.path[:-1], last[:i] + "w" + last[i + 1 :]) for i, letter in enumerate(last) if letter == "b"]
            found = [kernels[other] for other in others if other in kernels]
            if len(found) == 1 and found[0].width == variable.width:
                biases[found[0].key] = replace(variable, role=BIAS, rest=found[0].rest)
    bare = {v.path[:-1] for v in kernels.values() if v.key not in biases}
    paired = {bias.key: bias for bias in biases.values() if bias.path[:-1] not in bare}
    return [paired.get(v.key, v) for v in variables]
