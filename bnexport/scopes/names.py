"""How names of variables are taken apart: components, tokens, and the order that their numbers say."""

import re
from functools import lru_cache

Path = tuple[str, ...]

_TOKEN = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
_NUMBER = re.compile(r"(\d+)")
_CONDITION = re.compile(r"cond(?:_\d+)?")


def components(name: str) -> Path:
    """The scopes of a name and its last part."""
    return tuple(name.split("/"))


@lru_cache(maxsize=1 << 14)
def tokens(component: str) -> tuple[str, ...]:
    """The words and numbers of a component in lower case: `weightsOut` and `weights_out` are both `weights`, `out`; `W1_a` is `w`, `1`, `a`."""
    return tuple(token.lower() for token in _TOKEN.findall(component))


def without_conditions(path: Path) -> Path:
    """A path without the scopes that `tf.cond` adds."""
    return tuple(part for part in path if not _CONDITION.fullmatch(part))


@lru_cache(maxsize=1 << 14)
def _pieces(component: str) -> tuple[tuple[str, int], ...]:
    """Texts, each with the number that follows it: `W10_a` is `("W", 10), ("a", -1)`, and `dense`, without a number, comes before `dense_1`."""
    chunks = _NUMBER.split(component)
    texts, numbers = chunks[0::2], [*chunks[1::2], None]
    found = [(text.strip("_-."), -1 if n is None else int(n)) for text, n in zip(texts, numbers, strict=True)]
    return tuple(found[:-1]) if len(found) > 1 and not found[-1][0] else tuple(found)


def natural_key(path: Path) -> tuple[tuple[tuple[str, int], ...], ...]:
    """Sorts paths as people count: `fc2` before `fc10`."""
    return tuple(_pieces(part) for part in path)


def precedes(first: Path, second: Path) -> bool | None:
    """Whether the numbers in two paths say that `first` comes before `second`.

    They say so where the paths first differ in a component of the same text and other numbers (`layer1/W` and `layer2/W`, `dense` and `dense_1`).
    None where they say nothing.
    """
    for mine, theirs in zip(first, second, strict=False):
        if mine == theirs:
            continue
        a, b = _pieces(mine), _pieces(theirs)
        if [text for text, _ in a] != [text for text, _ in b] or a == b:
            return None
        return a < b
    return None


def counted(rest: Path) -> tuple[Path, str | None]:
    """Words without the number at their end, and that number: names that TensorFlow told apart are `w`, `w_1`, `w_2`."""
    return (rest[:-1], rest[-1]) if rest and rest[-1].isdigit() else (rest, None)


def last_number(path: Path) -> int | None:
    """The last number in the last component of a path; None where it has none."""
    numbers = _NUMBER.findall(path[-1]) if path else []
    return int(numbers[-1]) if numbers else None


def common_scope(first: Path, second: Path) -> int:
    """How many leading components two paths share."""
    count = 0
    for mine, theirs in zip(first, second, strict=False):
        if mine != theirs:
            break
        count += 1
    return count


def listed(names: "list[str]", most: int = 12) -> str:
    """Names for a message, the first dozen of many."""
    shown = ", ".join(names[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown
