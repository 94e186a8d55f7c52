"""HTML and SVG as values: text is escaped by construction, because only `Markup` is written as it is.

A name in a checkpoint may hold anything: tags, quotes, control characters, characters that turn the direction of the text around them. None of
these leaves this module as it came.
"""

import re
import unicodedata
from collections.abc import Iterable
from html import escape
from typing import Any

_VOID = frozenset({"br", "hr", "input", "meta", "wbr"})
_OBJECT_SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"
_SEPARATORS = re.compile(r"(?<=[/:])(?=[^/:])")


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


Content = str | int | float | None | Iterable["Content"]


def visible(text: str) -> str:
    """A text with what cannot be seen written out: control and format characters, surrogates and line separators become `\\x00`, `\\u202e`, …"""
    hidden = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
    return "".join(c.encode("ascii", "backslashreplace").decode() if ord(c) > 126 and unicodedata.category(c) in hidden else _plain(c) for c in text)


def _plain(character: str) -> str:
    return character if character >= " " and character != "\x7f" else f"\\x{ord(character):02x}"


def text(content: Content) -> Markup:
    """Content as HTML: strings escaped, `Markup` as it is, several things one after the other, None as nothing."""
    if isinstance(content, Markup):
        return content
    if content is None:
        return Markup("")
    if isinstance(content, str):
        return Markup(escape(visible(content)))
    if isinstance(content, int | float):
        return Markup(content)
    return Markup("".join(map(text, content)))


def element(tag: str, /, *content: Content, **attributes: Any) -> Markup:
    """An element. Attributes that are None or False are left out; `class_` is `class`, `stroke_width` is `stroke-width`."""
    written = "".join(
        _attribute(key.rstrip("_").replace("_", "-"), value) for key, value in attributes.items() if value is not None and value is not False
    )
    if tag in _VOID:
        return Markup(f"<{tag}{written}>")
    return Markup(f"<{tag}{written}>{text(content)}</{tag}>")


def _attribute(name: str, value: Any) -> str:
    return f" {name}" if value is True else f' {name}="{escape(visible(str(value)))}"'


def name(value: str) -> Markup:
    """A variable's or a layer's name in code type, which may be broken behind each slash.

    The ending that every key of an object-based checkpoint has is left to the tooltip.
    """
    short = value.removesuffix(_OBJECT_SUFFIX)
    parts = _SEPARATORS.split(short)
    content = [[text(part), Markup("<wbr>") if number + 1 < len(parts) else None] for number, part in enumerate(parts)]
    return element("code", content, title=value if short != value else None)


def table(head: Iterable[Content], rows: Iterable[Iterable[Content]], *, label: str, class_: str | None = None) -> Markup:
    """A table in a region of its own that scrolls sideways where it is wider than the page."""
    titles = element("tr", [element("th", cell, scope="col") for cell in head])
    body = [element("tr", [element("td", cell) for cell in row]) for row in rows]
    whole = element("table", element("thead", titles), element("tbody", body), class_=class_)
    return element("div", whole, class_="scroll", tabindex="0", role="region", aria_label=label)
