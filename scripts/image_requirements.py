"""The locked requirements of one image: those of ``requirements/runtime.txt`` that some distributions need."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

_PIN = re.compile(r"^([a-z0-9-]+)==\S+", re.MULTILINE)
_VIA = re.compile(r"#\s+(?:via\s+)?([A-Za-z0-9._-]+)\s*(?:\(pyproject\.toml\))?$")


@dataclass(frozen=True, slots=True)
class Locked:
    """An entry of the lock."""

    name: str
    text: str
    """As it stands there, with its hashes."""
    wanted_by: frozenset[str]
    """By name; ``ambimesh`` is the project itself."""


def read_lock(text: str) -> dict[str, Locked]:
    """The entries by name."""
    starts = [match.start() for match in _PIN.finditer(text)]
    entries = {}
    for start, end in zip(starts, [*starts[1:], len(text)], strict=True):
        entry = text[start:end].rstrip() + "\n"
        name = entry.partition("==")[0]
        users = {match[1].lower() for line in entry.splitlines() if (match := _VIA.search(line.strip()))}
        entries[name] = Locked(name, entry, frozenset(users - {"via"}))
    return entries


def needed(lock: str, distributions: Iterable[str]) -> str:
    """The part of a lock that these distributions need, themselves included.

    Raises:
        KeyError: one of them is not locked.
    """
    entries = read_lock(lock)
    found = {entries[name].name for name in distributions}
    while True:
        more = {entry.name for entry in entries.values() if entry.wanted_by & found} - found
        if not more:
            return "".join(entries[name].text for name in sorted(found))
        found |= more
