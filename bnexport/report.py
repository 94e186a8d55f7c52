"""What a conversion did, in a few lines that a person can check."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bnexport.program import Layer, Program, described

_SHOWN = 3
"""How many of a long list are written out."""
_WIDTH = 14


def batch_norms(layer: Layer) -> list[dict[str, Any]]:
    """The batch norms that a layer was made from, in their order, with the variables in each role.

    Each has some of `gamma`, `beta`, `mean`, `variance` (names of variables), `epsilon` (a float) and `epsilon_from`. A batch norm is known by its
    variance: in a graph its scale and its shift are parts of their own. One that stood before the layer, and not behind it, has `before` (True).
    """
    found: dict[str, dict[str, Any]] = {}
    for part in layer.provenance.get("parts", ()):
        if "variance" not in part:
            continue
        norm = found.setdefault(str(part["variance"]), {})
        roles = {"beta" if role == "shift" else role: value for role, value in part.items()}
        for role in ("gamma", "beta", "mean", "variance", "epsilon", "epsilon_from", "before"):
            if role in roles:
                norm.setdefault(role, roles[role])
    return list(found.values())


def summary(program: Program) -> list[str]:
    """One line per subject, `Warning: ` before what must not be overlooked.

    Args:
        program: as `to_program` gives it, its arrays read or not.
    """
    record = program.conversion
    lines = [
        _line("inputs", ", ".join(map(described, program.inputs)) or "not known"),
        _line("outputs", ", ".join(map(described, program.outputs)) or "not known"),
        _line("layers", _layers(program)),
        *(_line("set", f"{name} = {value}{why}") for name, value, why in _flags(record.get("set", ()))),
        *_norm_lines(program),
        *_dropout_lines(record.get("dropped", ())),
        *_statistics_lines(record.get("statistics", ())),
        *_averages_lines(record.get("averages")),
        *_assumed_lines(record),
        *_list_line("ignored", record.get("ignored", ())),
        *_list_line("alternatives", record.get("alternatives", ()), "; choose one with --output"),
    ]
    if record.get("batch"):
        lines.append(_line("batch", f"the graph was built for {record['batch']} rows at a time"))
    lines += _warning_lines(record)
    if record.get("incomplete"):
        lines.append(f"Warning: the bundle cannot be evaluated: {record['incomplete']}")
    return lines


def doubts(record: Mapping[str, Any]) -> list[str]:
    """The lines of `summary` that whoever looks at a network's numbers has to know too: what was assumed of it, and the warnings.

    Args:
        record: a program's `conversion`.
    """
    return [*_assumed_lines(record), *_warning_lines(record)]


def _assumed_lines(record: Mapping[str, Any]) -> list[str]:
    return [_line("" if number else "assumed", text) for number, text in enumerate(record.get("assumed", ()))]


def _warning_lines(record: Mapping[str, Any]) -> list[str]:
    return [f"Warning: {text}" for text in record.get("warnings", ())]


def number(value: Any) -> str:
    """A float32's value as people write it: 0.001, not 0.0010000000474974513."""
    return f"{value:.7g}" if isinstance(value, float) else str(value)


def epsilon_text(norm: dict[str, Any]) -> str:
    """A batch norm's epsilon and where it came from: `0.001 from the graph`."""
    value, source = norm.get("epsilon"), norm.get("epsilon_from")
    if value is None:
        return "not known"
    return f"{number(value)} {'by default' if source == 'default' else f'from {source}'}" if source else number(value)


def parameters(layers: Iterable[Layer]) -> int:
    """How many numbers the layers hold, tables of words aside; what several of them share counts once."""
    arrays = {id(array): array for layer in layers if layer.op != "Lookup" for array in layer.arrays.values()}
    return sum(math.prod(array.shape) for array in arrays.values())


def _line(subject: str, text: str) -> str:
    return f"{subject + ':' if subject else '':<{_WIDTH}} {text}"


def _some(texts: Sequence[str], separator: str = ", ") -> str:
    more = f"{separator}and {len(texts) - _SHOWN} more" if len(texts) > _SHOWN else ""
    return separator.join(texts[:_SHOWN]) + more


def _list_line(subject: str, texts: Sequence[str], hint: str = "") -> list[str]:
    return [_line(subject, _some(texts, "; " if any(" " in text for text in texts) else ", ") + hint)] if texts else []


def _layers(program: Program) -> str:
    kinds = Counter(layer.op for layer in program.layers)
    owners = [op for op, _ in kinds.most_common() if any(layer.op == op and layer.arrays for layer in program.layers)]
    others = [op for op, _ in kinds.most_common() if op not in owners]
    return f"{', '.join(f'{kinds[op]} {op}' for op in owners + others) or 'none'}; {parameters(program.layers):,} parameters"


def _flags(entries: Iterable[dict[str, Any]]) -> list[tuple[str, str, str]]:
    seen: dict[tuple[str, str], str] = {}
    for entry in entries:
        value = entry["value"]
        text = str(value).lower() if isinstance(value, bool) else f'"{value}"' if isinstance(value, str) else number(value)
        seen.setdefault((entry["node"], text), f" ({entry['why']})" if entry.get("why") else "")
    return [(name, text, why) for (name, text), why in seen.items()]


def _norm_lines(program: Program) -> list[str]:
    folded = [norm for layer in program.layers if "not_folded" not in layer.provenance for norm in batch_norms(layer)]
    left = sum(len(batch_norms(layer)) for layer in program.layers if "not_folded" in layer.provenance)
    lines = []
    if folded:
        lines.append(_line("batch norms", f"{len(folded)} folded into the layers beside them, {_epsilons(folded)}"))
    unfolded = program.conversion.get("unfolded", ())
    if unfolded:
        what = f"{left} batch norm{'s' * (left != 1)}" if left == len(unfolded) else f"{len(unfolded)} scale/shift layer{'s' * (len(unfolded) != 1)}"
        lines.append(_line("not folded", f"{what}: {_some(unfolded, '; ')}"))
    return lines


def _epsilons(norms: Iterable[dict[str, Any]]) -> str:
    return f"epsilon {' and '.join(dict.fromkeys(map(epsilon_text, norms)))}"


def _dropout_lines(entries: Sequence[dict[str, Any]]) -> list[str]:
    if not entries:
        return []
    fed = list(dict.fromkeys(entry["fed_by"] for entry in entries if entry.get("fed_by")))
    baked = [f"{entry['node']} had the keep probability {number(entry['keep'])} baked in" for entry in entries if entry.get("keep") is not None]
    notes = "; ".join([*([f"fed by {_some(fed)}"] if fed else []), *([_some(baked, "; ")] if baked else [])])
    return [_line("dropout", f"{len(entries)} removed{f' ({notes})' if notes else ''}")]


def _statistics_lines(entries: Sequence[dict[str, Any]]) -> list[str]:
    if not entries:
        return []
    texts = [f"{entry['variable']} for {entry['in_place_of']}" for entry in entries]
    return [_line("statistics", f"{len(entries)} moving in place of the batch's: {_some(texts)}")]


def _averages_lines(entry: dict[str, Any] | None) -> list[str]:
    """Averages of weights that the checkpoint holds beside the weights: which were taken is the user's to know."""
    if entry is None:
        return []
    what = f"{len(entry['of'])} weight{'s' * (len(entry['of']) != 1)} ({_some(entry['of'])})"
    if entry["taken"]:
        return [_line("averages", f"taken for {what}")]
    return [_line("averages", f"there are some of {what}; the weights themselves were taken, and --ema takes the averages")]
