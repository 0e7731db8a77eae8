"""What an API server answers to a list and to a watch: pages, and one JSON object per line. Pure."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from mesh.errors import InvalidMessage
from resources.kube.list_watch_machine import ErrorRead, EventRead, PageRead

MAX_LINE = 8 << 20
"""Bytes of one line; an object has at most some 1.5 MiB."""


class LineTooLong(InvalidMessage):
    """An object of a watch is larger than anybody takes."""


class _ListMetadata(msgspec.Struct, frozen=True, rename="camel"):
    resource_version: str = ""
    continue_: str | None = msgspec.field(default=None, name="continue")


class _Page(msgspec.Struct, frozen=True):
    metadata: _ListMetadata = _ListMetadata()
    items: list[msgspec.Raw] | None = None


class _Line(msgspec.Struct, frozen=True):
    type: str
    object: msgspec.Raw


class _Metadata(msgspec.Struct, frozen=True, rename="camel"):
    resource_version: str = ""


class _Versioned(msgspec.Struct, frozen=True):
    metadata: _Metadata = _Metadata()


class ApiStatus(msgspec.Struct, frozen=True, rename="camel"):
    """The kind ``Status``: how the API says that something did not go as asked."""

    message: str = ""
    reason: str = ""
    code: int = 0


class _Group(msgspec.Struct, frozen=True):
    class Version(msgspec.Struct, frozen=True):
        """One of ``versions``."""

        version: str

    versions: list[Version] = []


class _Resources(msgspec.Struct, frozen=True):
    class Resource(msgspec.Struct, frozen=True):
        """One of ``resources``."""

        name: str

    resources: list[Resource] = []


_pages = msgspec.json.Decoder(_Page)
_lines = msgspec.json.Decoder(_Line)
_versions = msgspec.json.Decoder(_Versioned)
_statuses = msgspec.json.Decoder(ApiStatus)


def read_page(body: bytes) -> PageRead:
    """One page of a list.

    Raises:
        InvalidMessage: it is none.
    """
    try:
        page = _pages.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidMessage(f"the answer is no list of objects: {error}") from error
    metadata = page.metadata
    # Copied, so that the whole page's bytes can go although one object of it stays.
    items = tuple(bytes(item) for item in page.items or ())
    return PageRead(items=items, resource_version=metadata.resource_version, continue_token=metadata.continue_ or "")


def read_event(line: bytes) -> EventRead | ErrorRead:
    """One line of a watch.

    Raises:
        InvalidMessage: it is none.
    """
    try:
        event = _lines.decode(line)
        if event.type == "ERROR":
            status = _statuses.decode(event.object)
            return ErrorRead(code=status.code, message=status.message)
        version = _versions.decode(event.object).metadata.resource_version
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidMessage(f"the watch holds a line that is no event: {error}") from error
    return EventRead(type=event.type, item=bytes(event.object), resource_version=version)


def read_status(body: bytes) -> ApiStatus:
    """Why something was refused; of a body that is no ``Status``, its beginning as the message."""
    try:
        return _statuses.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return ApiStatus(message=body[:256].decode(errors="replace").strip())


def read_group_versions(body: bytes) -> tuple[str, ...]:
    """The versions in which a group is served; none if the body does not say."""
    try:
        return tuple(one.version for one in msgspec.json.decode(body, type=_Group).versions)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return ()


def read_resource_names(body: bytes) -> frozenset[str]:
    """The plurals that a version of a group has; none if the body does not say."""
    try:
        return frozenset(one.name for one in msgspec.json.decode(body, type=_Resources).resources)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return frozenset()


class LineSplitter:
    """Cuts a stream of bytes at its line ends."""

    def __init__(self) -> None:
        self._rest = bytearray()
        self._searched = 0

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The lines that are complete with this.

        Raises:
            LineTooLong: a line is longer than ``MAX_LINE``.
        """
        self._rest += data
        start = 0
        while (end := self._rest.find(b"\n", max(start, self._searched))) >= 0:
            line = bytes(self._rest[start:end])
            start = end + 1
            if line.strip():
                yield line
        del self._rest[:start]
        # A long line comes in many pieces; what was searched once is not searched again.
        self._searched = len(self._rest)
        if len(self._rest) > MAX_LINE:
            raise LineTooLong(f"a line of the watch is longer than {MAX_LINE} bytes")
