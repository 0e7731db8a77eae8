"""The client's end of delta discovery, without I/O; it outlives its streams.

What was received stays across disconnections: a new stream tells the server which versions are held, and the server
answers with the difference. Each resource is judged on its own: when some of a response are rejected, the rest has been
applied all the same and its versions count as held; the refusal only tells the server about the rejected ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from mesh.xds.discovery_codec import (
    WILDCARD,
    NodeInfo,
    Rejected,
    Request,
    Resource,
    ResponseReader,
    encode_request,
)

_REASONS_SHOWN = 10


@dataclass(frozen=True, slots=True)
class Subscription:
    """What a client wants of a type from the start."""

    type_url: str
    on_demand: bool = False
    """False: everything there is. True: nothing but what is asked for, now or later."""
    names: tuple[str, ...] = ()
    """On demand: what to ask for at once."""


class Received:
    """A response to apply, batch by batch; ``DeltaClient.handled`` then answers it."""

    def __init__(self, reader: ResponseReader) -> None:
        self._reader = reader
        self.type_url = reader.type_url
        self.nonce = reader.nonce
        self.removed = reader.removed
        """Held resources that are gone, and names asked for that do not exist. To be applied first."""
        self.versions: dict[str, str] = {}
        """Of the resources given out so far."""
        self.malformed: list[Rejected] = []
        """Resources met so far that are rejected already."""

    def batches(self, size: int) -> Iterator[list[Resource]]:
        """The resources, so many at a time; should a name come twice, the last one counts."""
        for good, malformed in self._reader.batches(size):
            self.malformed += malformed
            self.versions.update((each.name, each.version) for each in good)
            yield good


@dataclass(frozen=True, slots=True)
class UnknownTypeReceived:
    """A response of a type that nobody subscribed to: acknowledged and dropped."""

    type_url: str
    acknowledgement: bytes


@dataclass(slots=True)
class _TypeState:
    on_demand: bool
    names: set[str]
    versions: dict[str, str] = field(default_factory=dict)
    synced: bool = False


class DeltaClient:
    """Subscriptions and the versions held of what they brought."""

    def __init__(self, node: NodeInfo, subscriptions: Sequence[Subscription]) -> None:
        self._node = node
        self._types = {each.type_url: _TypeState(each.on_demand, set(each.names)) for each in subscriptions}
        self._connected = False

    def synced(self, type_url: str) -> bool:
        """Whether a response of this type has ever been handled."""
        return self._types[type_url].synced

    def versions(self, type_url: str) -> dict[str, str]:
        """What is held, name to version; a copy."""
        return dict(self._types[type_url].versions)

    # -- the stream comes and goes -----------------------------------------------------------------------------------

    def connected(self) -> list[bytes]:
        """A stream has opened: its first requests, one for each type."""
        self._connected = True
        requests = []
        node: NodeInfo | None = self._node
        for type_url, state in self._types.items():
            # "*" both ways in one request means: nothing but the names. Left out, empty lists would mean everything.
            star = (WILDCARD,) if state.on_demand else ()
            request = Request(
                type_url=type_url,
                subscribe=(*star, *sorted(state.names)),
                unsubscribe=star,
                initial_versions=state.versions,
            )
            requests.append(encode_request(request, node))
            node = None
        return requests

    def disconnected(self) -> None:
        """The stream has ended. What is held stays."""
        self._connected = False

    # -- subscriptions -----------------------------------------------------------------------------------------------

    def subscribe(self, type_url: str, names: Iterable[str]) -> list[bytes]:
        """Ask for more names of an on-demand type; what to send now, if connected."""
        state = self._types[type_url]
        fresh = tuple(name for name in dict.fromkeys(names) if name not in state.names)
        state.names.update(fresh)
        if not fresh or not self._connected:
            return []
        return [encode_request(Request(type_url=type_url, subscribe=fresh))]

    def unsubscribe(self, type_url: str, names: Iterable[str]) -> list[bytes]:
        """Ask for names no longer; what to send now, if connected."""
        state = self._types[type_url]
        gone = tuple(name for name in dict.fromkeys(names) if name in state.names)
        state.names.difference_update(gone)
        if not gone or not self._connected:
            return []
        return [encode_request(Request(type_url=type_url, unsubscribe=gone))]

    # -- responses ---------------------------------------------------------------------------------------------------

    def receive(self, payload: bytes) -> Received | UnknownTypeReceived:
        """Take a response.

        Raises:
            InvalidMessage: unreadable; the stream shall end.
        """
        reader = ResponseReader(payload)
        if reader.type_url not in self._types:
            acknowledgement = encode_request(Request(type_url=reader.type_url, nonce=reader.nonce))
            return UnknownTypeReceived(reader.type_url, acknowledgement)
        return Received(reader)

    def handled(self, received: Received, rejected: Sequence[Rejected]) -> bytes:
        """All batches were applied but for these resources: the acknowledgement or refusal to send.

        Of a rejected resource the version held before, if any, still counts as held.
        """
        state = self._types[received.type_url]
        state.synced = True
        refused = {each.name for each in rejected}
        for name in received.removed:
            state.versions.pop(name, None)
        for name, version in received.versions.items():
            if name not in refused:
                state.versions[name] = version
        reasons = [*received.malformed, *rejected]
        error = None
        if reasons:
            shown = "; ".join(f"{each.name[:256]}: {each.reason[:512]}" for each in reasons[:_REASONS_SHOWN])
            more = len(reasons) - _REASONS_SHOWN
            error = f"{shown}; and {more} more" if more > 0 else shown
        return encode_request(Request(type_url=received.type_url, nonce=received.nonce, error=error))
