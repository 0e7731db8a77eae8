"""The query of a request target, parameter by parameter (``application/x-www-form-urlencoded`` of the URL standard)."""

from __future__ import annotations

from typing import Final
from urllib.parse import unquote_to_bytes

MAX_PARAMETERS: Final = 256
"""Further ones are not looked at: a head is bounded, but not what a policy of hundreds of conditions makes of it."""


def query_of(target: bytes) -> bytes:
    """What follows the first ``?``; empty without one."""
    start = target.find(b"?")
    return b"" if start < 0 else target[start + 1 :]


def parameter(target: bytes, name: bytes) -> bytes | None:
    """The first value of a parameter, decoded; empty if it is written without one, None if it is not there.

    Args:
        target: path and query.
        name: decoded.
    """
    start = target.find(b"?")
    if start < 0:
        return None
    for pair in target[start + 1 :].split(b"&", MAX_PARAMETERS)[:MAX_PARAMETERS]:
        key, _, value = pair.partition(b"=")
        if key == name or (_is_encoded(key) and _decoded(key) == name):
            return _decoded(value) if _is_encoded(value) else value
    return None


def parameters(target: bytes) -> list[tuple[bytes, bytes]]:
    """All of them, decoded, in their order; parts without a name are left out."""
    start = target.find(b"?")
    if start < 0:
        return []
    pairs = [pair.partition(b"=") for pair in target[start + 1 :].split(b"&", MAX_PARAMETERS)[:MAX_PARAMETERS]]
    return [(_decoded(key), _decoded(value)) for key, _, value in pairs if key]


def _is_encoded(text: bytes) -> bool:
    return b"%" in text or b"+" in text


def _decoded(text: bytes) -> bytes:
    return unquote_to_bytes(text.replace(b"+", b" "))
