"""The server's end of a delta discovery stream, without I/O.

Theory of operation. For each type the machine keeps what the client subscribed to and which version of which resource
it **holds**: taken from ``initial_resource_versions`` of the first request, then from what was sent. Nothing is
computed when something changes; names are only marked **dirty**. When the client is ready for a response (at most one
per type is unacknowledged), each dirty name is looked up in the current snapshot and compared with what is held:

==================  ===================  =======================
in the snapshot     client holds         response says
==================  ===================  =======================
and subscribed      other version, none  updated
and subscribed      this version         nothing, unless asked
no, or no longer    any version          removed
no                  nothing              nothing, unless asked
==================  ===================  =======================

So a slow client is never sent intermediate versions, memory is bounded by names, and one change costs each client one
look-up. "Asked" means a name just subscribed: the protocol wants an answer even if it is "there is none".

The first request of a type is always answered, if only with an empty response: clients wait for it to become ready.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from mesh.errors import InvalidMessage
from mesh.xds.discovery_codec import MAX_NAMES, WILDCARD, Request, decode_request, encode_response
from mesh.xds.snapshot import Entry, Snapshot, TypeSnapshot

MAX_RESPONSE_BYTES = 64 * 1024 * 1024
"""A response stops growing here; the rest follows once it was acknowledged."""


@dataclass(frozen=True, slots=True)
class Identified:
    """The client told its node id."""

    node_id: str


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """The client took the last response of a type."""

    type_url: str


@dataclass(frozen=True, slots=True)
class Refused:
    """The client could not use all of the last response of a type. What it refused is not sent again until it changes,
    or the client reconnects."""

    type_url: str
    reason: str


@dataclass(frozen=True, slots=True)
class UnknownTypeRequested:
    """The client wants a type that is not served; it gets no answer."""

    type_url: str


Event = Identified | Acknowledged | Refused | UnknownTypeRequested


Sees = Callable[[Entry], bool]
"""Whether a client may have a resource: one that it may not is to it as one that does not exist."""


class _Subscription:
    """One type on one stream."""

    def __init__(self, held: dict[str, str], sees: Sees | None) -> None:
        self.sees = sees
        self.wildcard = False
        self.names: set[str] = set()
        self.held = held
        self.dirty: dict[str, None] = {}
        """Names to compare, in order."""
        self.asked: dict[str, bool] = {}
        """Subscribed since the last response; whether to send even what the client holds."""
        self.dropped: set[str] = set()
        """Unsubscribed since the last response."""
        self.owed: set[str] = set()
        """Names whose answer is due whatever the comparison says."""
        self.synced: int | None = None
        """Serial up to which changes were marked; None to compare everything."""
        self.unacknowledged: str | None = None
        """Nonce of the response under way."""
        self.answer_due = True


class DeltaServer:
    """One stream."""

    def __init__(self, served_types: Sequence[str], sees: Mapping[str, Sees] | None = None) -> None:
        """Begin.

        Args:
            served_types: in the order in which their responses go out.
            sees: by type, what the client may have of it; types that are not there: everything.
        """
        self._served = tuple(served_types)
        self._sees = sees or {}
        self._subscriptions: dict[str, _Subscription] = {}
        self._node_id = ""
        self._nonce = 0

    @property
    def node_id(self) -> str:
        """As the client told; empty until then. A claim, not an authenticated identity."""
        return self._node_id

    def waits_for_acknowledgement(self) -> bool:
        """Whether a response is under way."""
        return any(each.unacknowledged is not None for each in self._subscriptions.values())

    def held(self, type_url: str) -> int:
        """How many resources of a type the client holds."""
        subscription = self._subscriptions.get(type_url)
        return len(subscription.held) if subscription is not None else 0

    # -- towards us ------------------------------------------------------------------------------------------------

    def receive(self, payload: bytes) -> list[Event]:
        """Take a request.

        Raises:
            InvalidMessage: unreadable or beyond the bounds; the stream shall end.
        """
        request = decode_request(payload)
        events: list[Event] = []
        if request.node_id and not self._node_id:
            self._node_id = request.node_id
            events.append(Identified(request.node_id))
        if request.type_url not in self._served:
            events.append(UnknownTypeRequested(request.type_url))
            return events
        subscription = self._subscriptions.get(request.type_url)
        first = subscription is None
        if subscription is None:
            subscription = self._subscriptions[request.type_url] = _Subscription(
                dict(request.initial_versions), self._sees.get(request.type_url)
            )
            # Before "*" was written out, no names meant all of them; stock clients still say it so.
            subscription.wildcard = not request.subscribe and not request.unsubscribe
        if request.nonce and request.nonce == subscription.unacknowledged:
            subscription.unacknowledged = None
            if request.error is None:
                events.append(Acknowledged(request.type_url))
            else:
                events.append(Refused(request.type_url, request.error))
        # Changes of subscription count even beside a stale nonce.
        self._subscribe(subscription, request, first)
        return events

    def _subscribe(self, subscription: _Subscription, request: Request, first: bool) -> None:
        for name in request.subscribe:
            if name == WILDCARD:
                subscription.wildcard = True
                subscription.synced = None
            else:
                subscription.names.add(name)
                subscription.asked[name] = not first
        for name in request.unsubscribe:
            if name == WILDCARD:
                subscription.wildcard = False
                subscription.dirty.update(dict.fromkeys(subscription.held))
            else:
                subscription.names.discard(name)
                subscription.asked.pop(name, None)
                subscription.dropped.add(name)
        if len(subscription.names) > MAX_NAMES or len(subscription.dropped) > MAX_NAMES:
            raise InvalidMessage(f"{request.type_url}: more than {MAX_NAMES} names subscribed on one stream")

    # -- towards the client ----------------------------------------------------------------------------------------

    def respond(self, snapshot: Snapshot) -> list[bytes]:
        """The responses that can be sent now; call it again after any request and any change.

        A type waits while an earlier one has changes that an outstanding response holds back: a workload must not
        arrive before the policies that it names.
        """
        responses = []
        for type_url in self._served:
            subscription = self._subscriptions.get(type_url)
            if subscription is None:
                continue
            if subscription.unacknowledged is None:
                response = self._respond(type_url, subscription, snapshot)
                if response is not None:
                    responses.append(response)
            else:
                _mark_changes(subscription, snapshot.of(type_url), snapshot.serial)
            if subscription.dirty:
                break
        return responses

    def _respond(self, type_url: str, subscription: _Subscription, snapshot: Snapshot) -> bytes | None:
        offer = snapshot.of(type_url)
        _mark_asked(subscription, offer)
        _mark_changes(subscription, offer, snapshot.serial)
        updated: list[Entry] = []
        removed: list[str] = []
        size = 0
        while subscription.dirty and size < MAX_RESPONSE_BYTES:
            names = iter(subscription.dirty)
            subscription.dirty = {}
            for name in names:
                size += _compare(subscription, offer, name, updated, removed)
                if size >= MAX_RESPONSE_BYTES:
                    break
            subscription.dirty.update(dict.fromkeys(names))
        if not updated and not removed and not subscription.answer_due:
            return None
        subscription.answer_due = False
        self._nonce += 1
        subscription.unacknowledged = f"{self._nonce:x}"
        wire = (each.wire for each in updated)
        return encode_response(type_url, subscription.unacknowledged, str(snapshot.serial), wire, removed)


def _compare(
    subscription: _Subscription, offer: TypeSnapshot, name: str, updated: list[Entry], removed: list[str]
) -> int:
    """Put one name into the response if it belongs there; how many bytes it adds."""
    owed = name in subscription.owed
    subscription.owed.discard(name)
    each = offer.get(name)
    if each is not None and _wants(subscription, offer, each):
        if not owed and subscription.held.get(name) == each.version:
            return 0
        subscription.held[name] = each.version
        updated.append(each)
        size = len(each.wire)
    elif owed or name in subscription.held:
        subscription.held.pop(name, None)
        removed.append(name)
        size = len(name)
    else:
        return 0
    if not subscription.wildcard:
        # What is found under this name may have become wanted, or be wanted no longer.
        subscription.dirty.update(dict.fromkeys(offer.companions(name)))
    return size


def _mark_asked(subscription: _Subscription, offer: TypeSnapshot) -> None:
    for name, even_if_held in subscription.asked.items():
        found = offer.find(name)
        for each in found:
            subscription.dirty[each] = None
            if even_if_held:
                subscription.owed.add(each)
            subscription.dirty.update(dict.fromkeys(offer.companions(each)))
        if not found:
            subscription.dirty[name] = None
            subscription.owed.add(name)
        subscription.dirty.update(dict.fromkeys(offer.companions(name)))
    for name in subscription.dropped:
        for each in (name, *offer.find(name)):
            subscription.dirty[each] = None
            subscription.dirty.update(dict.fromkeys(offer.companions(each)))
    subscription.asked.clear()
    subscription.dropped.clear()


def _mark_changes(subscription: _Subscription, offer: TypeSnapshot, serial: int) -> None:
    changes = offer.changes_since(subscription.synced) if subscription.synced is not None else None
    subscription.synced = serial
    if changes is None:
        # The first response, a new wildcard, or a client that fell far behind: compare everything.
        if subscription.wildcard:
            subscription.dirty.update(dict.fromkeys(offer.entries))
        else:
            for name in subscription.names:
                for each in (name, *offer.find(name)):
                    subscription.dirty[each] = None
                    subscription.dirty.update(dict.fromkeys(offer.companions(each)))
        subscription.dirty.update(dict.fromkeys(subscription.held))
    elif subscription.wildcard:
        subscription.dirty.update(dict.fromkeys(changes))
    else:
        for name in changes:
            each_entry = offer.get(name)
            if name in subscription.held or (each_entry is not None and _wants(subscription, offer, each_entry)):
                subscription.dirty[name] = None


def _wants(subscription: _Subscription, offer: TypeSnapshot, each: Entry) -> bool:
    if subscription.sees is not None and not subscription.sees(each):
        return False
    if subscription.wildcard or _names(subscription, each):
        return True
    for group in each.found_under:
        if group in subscription.names:
            return True
        leader = offer.get(group)
        if leader is not None and _names(subscription, leader):
            return True
    return False


def _names(subscription: _Subscription, each: Entry) -> bool:
    return each.name in subscription.names or any(alias in subscription.names for alias in each.aliases)
