"""Changes of headers, without those that would break a message's framing or name its host twice.

The waypoint frames messages itself, and keeps the host apart from the headers. So ``host`` becomes a rewrite of the
authority, and headers that concern one connection only (RFC 9110 section 7.6.1), or the length of the body, cannot be
changed.
"""

from __future__ import annotations

from collections.abc import Iterable

from controlplane.translate.layer7.notes import Notes
from mesh.model.http_route import HeaderChange

_FRAMING = frozenset(
    ("connection", "content-length", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade")
)
_HOSTS = ("host", ":authority")


def header_change(
    notes: Notes,
    place: str,
    to_set: Iterable[tuple[str, str]],
    to_add: Iterable[tuple[str, str]],
    to_remove: Iterable[str],
) -> tuple[HeaderChange | None, str | None]:
    """Changes as the model has them, and the authority that is set with them, if any."""
    authority: str | None = None
    kept_set: dict[str, str] = {}
    kept_add: list[tuple[str, str]] = []
    kept_remove: list[str] = []
    for name, value in to_set:
        lower = name.lower()
        if lower in _HOSTS:
            authority = value
        elif _may_change(notes, place, lower):
            kept_set[lower] = value
    for name, value in to_add:
        lower = name.lower()
        if _may_change(notes, place, lower):
            kept_add.append((lower, value))
    for name in to_remove:
        lower = name.lower()
        if _may_change(notes, place, lower):
            kept_remove.append(lower)
    if not (kept_set or kept_add or kept_remove):
        return None, authority
    return HeaderChange(set=tuple(kept_set.items()), add=tuple(kept_add), remove=tuple(kept_remove)), authority


def _may_change(notes: Notes, place: str, name: str) -> bool:
    if name in _FRAMING or name in _HOSTS or name.startswith(":"):
        notes.unsupported(f"{place}: the header {name!r} cannot be changed: the waypoint writes it itself")
        return False
    return True
