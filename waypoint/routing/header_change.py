"""Changes of a message's headers, compiled.

What frames the message or belongs to one connection (RFC 9110 section 7.6.1) is nobody's to change: it would make a
request end where the next proxy does not see it end. ``host`` and ``:authority`` set the authority.
"""

from __future__ import annotations

from typing import Final

from mesh.errors import ConfigurationError
from mesh.model.http_route import HeaderChange
from waypoint.http.message import Headers, RequestHead
from waypoint.routing.text import encoded

_FRAMING: Final = frozenset(
    {
        *(b"content-length", b"transfer-encoding", b"connection", b"keep-alive", b"proxy-connection"),
        *(b"te", b"trailer", b"upgrade"),
    }
)
_AUTHORITY: Final = frozenset({b"host", b":authority"})
_TOKEN: Final = frozenset(b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz")


class CompiledChange:
    """A ``HeaderChange``, ready to be made."""

    __slots__ = ("_added", "_dropped", "authority")

    def __init__(self, change: HeaderChange) -> None:
        """Compile.

        Raises:
            ConfigurationError: a name or value that cannot be a header's, or one that must not be changed.
        """
        self.authority = b""
        """The new one; empty: unchanged."""
        dropped = {_name(name) for name in change.remove}
        if dropped & _AUTHORITY:
            raise ConfigurationError("the host of a request cannot be removed")
        added = []
        for name, value in (*change.set, *change.add):
            key, text = _name(name), header_bytes(value)
            if key in _AUTHORITY:
                self.authority = text
            else:
                added.append((key, text))
        dropped |= {_name(name) for name, _ in change.set} - _AUTHORITY
        self._dropped = frozenset(dropped)
        self._added = added

    def apply(self, headers: Headers) -> None:
        """Change a list of headers in place."""
        dropped = self._dropped
        if dropped:
            headers[:] = [field for field in headers if field[0] not in dropped]
        headers += self._added

    def apply_to_request(self, head: RequestHead) -> None:
        """Change a request's headers, and its authority if that is among them."""
        self.apply(head.headers)
        if self.authority:
            head.authority = self.authority


def compile_change(change: HeaderChange | None) -> CompiledChange | None:
    """None where nothing changes.

    Raises:
        ConfigurationError: as ``CompiledChange``.
    """
    if change is None or not (change.set or change.add or change.remove):
        return None
    return CompiledChange(change)


def header_name(name: str) -> bytes:
    """A header's name in lower case.

    Raises:
        ConfigurationError: no token (RFC 9110 section 5.1).
    """
    key = encoded(name.lower())
    if not key or not _TOKEN.issuperset(key):
        raise ConfigurationError(f"{name[:64]!r} is no name of a header")
    return key


def header_bytes(value: str) -> bytes:
    """A header's value.

    Raises:
        ConfigurationError: it holds a line break, NUL or another control character: it would become another header.
    """
    text = encoded(value)
    if any((byte < 32 and byte != 9) or byte == 127 for byte in text):
        raise ConfigurationError(f"the header value {value[:64]!r} holds a control character")
    return text.strip(b" \t")


def _name(name: str) -> bytes:
    if name.lower() == ":authority":
        return b":authority"
    key = header_name(name)
    if key in _FRAMING:
        raise ConfigurationError(f"header {name!r} frames the message and cannot be changed by a route")
    return key
