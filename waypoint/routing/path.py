"""The path of a request, brought into one form before anybody looks at it.

Theory of operation. A policy that denies ``/admin`` is worth nothing if ``/x/../admin``, ``/%61dmin`` or ``/./admin``
passes it and the application then serves ``/admin``. So a path is normalised once, when the head has been read; routes
and policies see the result, and the upstream is sent that very text. What a policy has judged is what is served.

What is done is Envoy's ``normalize_path``, which Istio calls ``BASE`` and has as its default:

- dot segments are removed (RFC 3986 section 5.2.4), also where a dot is written ``%2e``;
- a backslash is a slash;
- percent-encoded letters, digits and ``-_~`` are decoded: their encoding means nothing (RFC 3986 section 6.2.2.2).

A path that climbs above its root, holds ``%00`` or a fragment is refused (400), and so is one in which decoding
completes another escape (``%2%65`` would be ``%2e`` for the next who reads it). Everything else stays as received:
``%2F`` is not a slash, and ``//`` is not ``/``, as RFC 3986 has it. Applications that treat those alike want one of the
stricter levels, which Istio names so: ``MERGE_SLASHES``, ``DECODE_AND_MERGE_SLASHES``.

The query is not part of the path and never touched.
"""

from __future__ import annotations

import enum
import string
from typing import Final

_UNRESERVED: Final = frozenset((string.ascii_letters + string.digits + "-_~.").encode())
_HEX: Final = frozenset(b"0123456789abcdefABCDEF")


class PathLevel(enum.IntEnum):
    """How far a path is normalised."""

    NONE = 0
    """As received; only for applications that tell ``/a/../b`` from ``/b``."""
    BASE = 1
    MERGE_SLASHES = 2
    DECODE_AND_MERGE_SLASHES = 3


def without_query(target: bytes) -> bytes:
    """The path of a request target."""
    end = target.find(b"?")
    return target if end < 0 else target[:end]


def normalised(target: bytes, level: PathLevel = PathLevel.BASE) -> bytes | None:
    """The request target to go on with; None: refuse the request with 400.

    Args:
        target: path and query in origin form, or ``*``.
        level: how far.
    """
    # Nearly every path is in form already; some searches tell, in a tenth of the time that taking it apart would need.
    # (``in`` makes an exception and drops it before it looks for bytes in bytes.)
    if (
        target.find(b"/.") < 0
        and target.find(b"%") < 0
        and target.find(b"\\") < 0
        and target.find(b"#") < 0
        and (level <= PathLevel.BASE or target.find(b"//") < 0)
    ):
        return target if target.startswith(b"/") or target == b"*" else None
    if level is PathLevel.NONE:
        return target if target.startswith(b"/") else None
    path, mark, query = target.partition(b"?")
    if b"#" in target or not path.startswith((b"/", b"\\")):
        return None
    slashes = level is PathLevel.DECODE_AND_MERGE_SLASHES
    decoded = _decoded(path, slashes=slashes)
    if decoded is None or (decoded is not path and _decoded(decoded, slashes=slashes) != decoded):
        return None
    without_dots = _without_dots(decoded.replace(b"\\", b"/"))
    if without_dots is None:
        return None
    if level > PathLevel.BASE:
        without_dots = _merged(without_dots)
    return without_dots + mark + query


def _decoded(path: bytes, *, slashes: bool) -> bytes | None:
    if b"%" not in path:
        return path
    first, *others = path.split(b"%")
    parts = [first]
    for part in others:
        pair = part[:2]
        # An incomplete escape stays as it is: nobody decodes it, so it hides nothing.
        if len(pair) < 2 or not _HEX.issuperset(pair):
            parts.append(b"%" + part)
            continue
        value = int(pair, 16)
        if value == 0:
            return None
        if value in _UNRESERVED or (slashes and value in b"/\\"):
            parts.append(bytes((value,)) + part[2:])
        else:
            parts.append(b"%" + part)
    return b"".join(parts)


def _merged(path: bytes) -> bytes:
    while b"//" in path:
        path = path.replace(b"//", b"/")
    return path


def _without_dots(path: bytes) -> bytes | None:
    if b"/." not in path:
        return path
    kept: list[bytes] = []
    segments = path.split(b"/")[1:]
    for segment in segments:
        if segment == b"..":
            if not kept:
                return None
            kept.pop()
        elif segment != b".":
            kept.append(segment)
    if segments[-1] in (b".", b".."):
        kept.append(b"")
    return b"/" + b"/".join(kept)
