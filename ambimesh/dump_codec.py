"""What the admin port of a ztunnel answers, wherever it was asked."""

from __future__ import annotations

from typing import Any

import msgspec

from mesh.errors import InvalidMessage

ADMIN_PORT = 15000

Dump = dict[str, Any]
"""``/config_dump``: lists of flat objects by section."""


def body_of(who: str, request: str, status: int, body: bytes) -> bytes:
    """The body of an answer.

    Args:
        who: answered.
        request: as the message is to call it: its method and path.
        status: of HTTP.
        body: of the answer.

    Raises:
        InvalidMessage: it is a refusal; the message holds why.
    """
    if status != 200:
        raise InvalidMessage(f"{who} answered {status} to {request}: {body[:200].decode(errors='replace')}")
    return body


def read_dump(content: bytes, whose: str) -> Dump:
    """Read a dump.

    Args:
        content: of an answer, or of a file with one.
        whose: how the message of an error begins.

    Raises:
        InvalidMessage: it is none.
    """
    try:
        dump = msgspec.json.decode(content)
    except msgspec.DecodeError as error:
        raise InvalidMessage(f"{whose} no JSON ({error}): {content[:100]!r}") from error
    if not isinstance(dump, dict):
        raise InvalidMessage(f"{whose} no object: {content[:100]!r}")
    return dump
