"""What the API server says, in the mesh's errors. Pure."""

from __future__ import annotations

import json

from mesh.errors import ConfigurationError, EnvironmentLacks, MeshError, ObjectMissing

_MOST = 600
_NOT_IN_SCHEMA = "field not declared in schema"
"""Server-side apply answers 500 to an object with a field that does not exist."""
_REMEDIES = {
    401: "the credentials of this context are not valid (any more); remedy: log in again",
    403: "ask for the right, or use another context (--context)",
    409: "another writer owns these fields, or the object was changed meanwhile; try again",
}


def refusal(status: int, body: bytes, request: str) -> MeshError:
    """The error that an answer stands for.

    Args:
        status: of HTTP.
        body: a ``Status`` object, if the API server itself has answered.
        request: what was asked, for the message.
    """
    said = _message(body) or f"status {status}"
    text = f"the API server refuses {request}: {said}"
    if status in _REMEDIES:
        text = f"{text}; {_REMEDIES[status]}"
    if status == 404:
        return ObjectMissing(said)
    if status == 429 or (status >= 500 and _NOT_IN_SCHEMA not in said):
        return EnvironmentLacks(f"the API server cannot serve {request} now: {said}")
    return ConfigurationError(text)


def _message(body: bytes) -> str:
    try:
        value = json.loads(body)
    except ValueError:
        return body[:_MOST].decode(errors="replace").strip()
    text = value.get("message", "") if isinstance(value, dict) else ""
    return str(text)[:_MOST]
