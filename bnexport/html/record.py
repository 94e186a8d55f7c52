"""The record of a conversion in words: what was set and why, dropped, assumed, and left as it was."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bnexport.html.markup import Content, element, name
from bnexport.report import number

Entry = tuple[str, list[Content]]

_TOLD = frozenset(
    {"producer", "tensorflow", "source", "options", "set", "dropped", "statistics", "averages", "assumed", "ignored", "alternatives", "batch",
     "uses_batch", "rows_alone", "unfolded", "warnings", "incomplete"}
)  # fmt: skip
"""What of a record is told in words of its own; anything else is shown as it is."""


def entries(record: Mapping[str, Any]) -> Iterable[Entry]:
    """What a conversion found and chose, subject by subject."""
    if record.get("source"):
        yield "Made from", [name(str(file)) for file in record["source"]]
    if record.get("options"):
        yield "Asked for", [f"{key} = {json.dumps(value, sort_keys=True)}" for key, value in record["options"].items()]
    if record.get("set"):
        yield "Set for inference", [_flag(entry) for entry in record["set"]]
    if record.get("statistics"):
        taken: list[Content] = [[name(str(entry["variable"])), " in place of ", name(str(entry["in_place_of"]))] for entry in record["statistics"]]
        yield "Moving statistics", taken
    averages = record.get("averages") or {}
    if averages.get("of"):
        what = "Averages of these were taken: " if averages.get("taken") else "There are averages of these, and the weights themselves were taken: "
        yield "Averaged weights", [[what if place == 0 else None, name(str(key))] for place, key in enumerate(averages["of"])]
    for key, label in (("assumed", "Assumed"), ("ignored", "Ignored"), ("alternatives", "Could be outputs too")):
        if record.get(key):
            yield label, [str(text) for text in record[key]]
    if record.get("batch"):
        yield "Batch", [f"The graph was built for {record['batch']} rows at a time."]
    if record.get("rows_alone") is False:
        yield "Rows", ["Scores of a row may depend on the other rows of its batch."]
    if record.get("uses_batch"):
        yield "Uses the batch", [name(str(node)) for node in record["uses_batch"]]


def dropped(record: Mapping[str, Any]) -> Iterable[Entry]:
    """What a conversion took out, and what it could not fold."""
    if record.get("dropped"):
        yield "Dropout removed", [_dropout(entry) for entry in record["dropped"]]
    if record.get("unfolded"):
        yield "Not folded", [_reason(str(text)) for text in record["unfolded"]]
    for key, value in record.items():
        if key not in _TOLD and value:
            yield key, [str(item) for item in value] if isinstance(value, list) else [str(value)]


def _flag(entry: Mapping[str, Any]) -> Sequence[Content]:
    value = entry["value"]
    written = str(value).lower() if isinstance(value, bool) else number(value)
    why = entry.get("why")
    return [name(str(entry["node"])), f" = {written}", element("span", f" — {why}", class_="quiet") if why else None]


def _dropout(entry: Mapping[str, Any]) -> Sequence[Content]:
    keep, fed = entry.get("keep"), entry.get("fed_by")
    return [
        name(str(entry["node"])),
        [" fed by ", name(str(fed))] if fed else None,
        f", which kept {number(keep)} of the values" if keep is not None else None,
    ]


def _reason(text: str) -> Sequence[Content]:
    layer, colon, why = text.partition(": ")
    return [name(layer), element("span", f" — {why}", class_="quiet")] if colon else [text]
