"""``--set a.b=c``: text to nested values, as Helm reads it. Pure.

A value is a number, ``true``, ``false``, ``null`` or text; ``{a,b}`` is a list of them. Several assignments are
separated by commas; a backslash keeps a comma, a dot, an equals sign or a brace from meaning anything.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from ambimesh.chart.values import merged
from mesh.errors import ConfigurationError

_WORDS: dict[str, Any] = {"true": True, "false": False, "null": None}
_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)")
_ESCAPED = re.compile(r"\\(.)")


def parse(assignments: Iterable[str], *, as_text: bool = False) -> dict[str, Any]:
    """Assignments, later ones over earlier ones.

    Args:
        assignments: each may hold several.
        as_text: whether values are text whatever they look like (``--set-string``).

    Raises:
        ConfigurationError: one cannot be read.
    """
    values: dict[str, Any] = {}
    for text in assignments:
        for one in _split(text, ","):
            path, equals, value = _partition(one)
            keys = [_plain(key) for key in _split(path, ".")]
            if not equals or not all(keys) or any("[" in key for key in keys):
                raise ConfigurationError(f"--set {one[:80]!r}: give key.key=value, as ztunnel.workers=2")
            nested: Any = _plain(value) if as_text else _value(value)
            for key in reversed(keys):
                nested = {key: nested}
            # A null is a value here: it takes a default away later.
            values = _over(values, nested)
    return values


def _over(base: dict[str, Any], nested: dict[str, Any]) -> dict[str, Any]:
    [(key, value)] = nested.items()
    if isinstance(value, dict) and isinstance(base.get(key), dict):
        return {**base, key: _over(base[key], value)}
    return merged(base, {}) | {key: value}


def _split(text: str, separator: str) -> list[str]:
    """At separators that neither a backslash nor braces protect."""
    parts, depth, escaped = [""], 0, False
    for character in text:
        if not escaped and character == separator and depth == 0:
            parts.append("")
            continue
        if not escaped and character in "{}":
            depth += 1 if character == "{" else -1
        parts[-1] += character
        escaped = character == "\\" and not escaped
    return parts


def _partition(text: str) -> tuple[str, str, str]:
    parts = _split(text, "=")
    return parts[0], "=" if len(parts) > 1 else "", "=".join(parts[1:])


def _plain(text: str) -> str:
    return _ESCAPED.sub(r"\1", text)


def _value(text: str) -> Any:
    if text.startswith("{") and text.endswith("}"):
        return [_value(item) for item in _split(text[1:-1], ",")] if text != "{}" else []
    if text in _WORDS:
        return _WORDS[text]
    return int(text) if _NUMBER.fullmatch(text) else _plain(text)
