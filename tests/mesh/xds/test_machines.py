"""Both machines joined by queues, under random changes, refusals and disconnections."""

from collections import deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.wire import discovery_pb2
from mesh.xds import server_machine
from mesh.xds.client_machine import DeltaClient, Received, Subscription
from mesh.xds.discovery_codec import (
    NodeInfo,
    Rejected,
    Request,
    Response,
    decode_request,
    decode_response,
    encode_request,
)
from mesh.xds.server_machine import (
    Acknowledged,
    DeltaServer,
    Event,
    Identified,
    Refused,
    UnknownTypeRequested,
)
from mesh.xds.snapshot import Entry, Snapshot, entry

TYPE = "type.googleapis.com/test.One"
OTHER = "type.googleapis.com/test.Two"
NODE = NodeInfo(pod="ztunnel-abc", namespace="istio-system", ip="172.18.0.11", node="node1")
BAD = b"bad"


class World:
    """A server's snapshot, a client's store, and what is under way between them."""

    def __init__(self, *subscriptions: Subscription) -> None:
        self.snapshot = Snapshot.empty()
        self.client = DeltaClient(NODE, subscriptions or (Subscription(TYPE),))
        self.server: DeltaServer | None = None
        self.up: deque[bytes] = deque()
        self.down: deque[bytes] = deque()
        self.store: dict[str, bytes] = {}
        self.absent: list[str] = []
        self.events: list[Event] = []
        self.responses: list[Response] = []

    def connect(self) -> None:
        self.disconnect()
        self.server = DeltaServer([TYPE, OTHER])
        self.up.extend(self.client.connected())

    def disconnect(self) -> None:
        self.server = None
        self.client.disconnected()
        self.up.clear()
        self.down.clear()

    def change(self, *updated: Entry, removed: tuple[str, ...] = ()) -> None:
        self.snapshot = self.snapshot.changed(TYPE, updated, removed)

    def server_turn(self) -> None:
        if self.server is not None:
            if self.up:
                self.events += self.server.receive(self.up.popleft())
            self.down.extend(self.server.respond(self.snapshot))

    def client_turn(self) -> None:
        if not self.down:
            return
        raw = self.down.popleft()
        self.responses.append(decode_response(raw))
        received = self.client.receive(raw)
        assert isinstance(received, Received)
        rejected: list[Rejected] = []
        for name in received.removed:
            if self.store.pop(name, None) is None:
                self.absent.append(name)
        for each in (each for batch in received.batches(2) for each in batch):
            if each.payload == BAD:
                rejected.append(Rejected(each.name, "is bad"))
            else:
                self.store[each.name] = each.payload
        self.up.append(self.client.handled(received, rejected))

    def settle(self) -> None:
        for _ in range(1000):
            before = (len(self.up), len(self.down), len(self.events), len(self.responses))
            self.server_turn()
            self.client_turn()
            if not self.up and not self.down and before[2:] == (len(self.events), len(self.responses)):
                return
        raise AssertionError("the machines keep talking")

    def offered(self) -> dict[str, bytes]:
        offer = self.snapshot.of(TYPE)
        present = [offer.get(name) for name in offer.entries]
        return {each.name: each.payload for each in present if each is not None}


def make(name: str, content: bytes = b"1", aliases: tuple[str, ...] = (), under: tuple[str, ...] = ()) -> Entry:
    return entry(TYPE, name, content, aliases, under)


# -- convergence, whatever happens --------------------------------------------------------------------------------

NAMES = ["svc", "w1", "w2", "w3", "x"]
ASKABLE = [*NAMES, "net/vip", "net/1", "net/2", "nobody"]
entries = st.builds(
    make,
    st.sampled_from(NAMES),
    st.sampled_from([b"1", b"2", BAD]),
    st.lists(st.sampled_from(["net/vip", "net/1", "net/2"]), unique=True, max_size=2).map(tuple),
    st.lists(st.sampled_from(["svc", "x"]), unique=True, max_size=1).map(tuple),
)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("update"), entries),
        st.tuples(st.just("remove"), st.sampled_from(NAMES)),
        st.tuples(st.just("subscribe"), st.sampled_from(ASKABLE)),
        st.tuples(st.just("unsubscribe"), st.sampled_from(ASKABLE)),
        st.tuples(st.sampled_from(["server", "server", "client", "client", "connect", "disconnect"]), st.none()),
    ),
    max_size=60,
)


def play(world: World, script: list[tuple[str, object]], on_demand: bool) -> set[str]:
    names: set[str] = set()
    for action, argument in script:
        match action, argument:
            case "update", Entry():
                world.change(argument)
            case "remove", str():
                world.change(removed=(argument,))
            case "subscribe", str() if on_demand:
                names.add(argument)
                world.up.extend(world.client.subscribe(TYPE, [argument]))
            case "unsubscribe", str() if on_demand:
                names.discard(argument)
                world.up.extend(world.client.unsubscribe(TYPE, [argument]))
            case "server", _:
                world.server_turn()
            case "client", _:
                world.client_turn()
            case "connect", _:
                world.connect()
            case "disconnect", _:
                world.disconnect()
    # In the end nothing is bad, and the stream stays.
    bad = [name for name, payload in world.offered().items() if payload == BAD]
    offer = world.snapshot.of(TYPE)
    for name in bad:
        was = offer.get(name)
        assert was is not None
        world.change(make(name, b"good", was.aliases, was.found_under))
    if world.server is None:
        world.connect()
    world.settle()
    return names


@settings(max_examples=300, deadline=None)
@given(steps)
def test_a_wildcard_client_ends_with_what_the_server_offers(script: list[tuple[str, object]]) -> None:
    world = World()
    play(world, script, on_demand=False)
    assert world.store == world.offered()
    assert world.client.versions(TYPE).keys() == world.store.keys()


@settings(max_examples=500, deadline=None)
@given(steps)
def test_an_on_demand_client_ends_with_what_it_asked_for(script: list[tuple[str, object]]) -> None:
    world = World(Subscription(TYPE, on_demand=True))
    names = play(world, script, on_demand=True)
    offer = world.snapshot.of(TYPE)
    present = {name: each for name in offer.entries if (each := offer.get(name)) is not None}

    def named(name: str) -> bool:
        return name in names or any(alias in names for alias in present[name].aliases if name in present)

    wanted = {
        name
        for name, each in present.items()
        if named(name) or any(g in names or (g in present and named(g)) for g in each.found_under)
    }
    assert world.store == {name: present[name].payload for name in wanted}
    assert world.client.versions(TYPE).keys() == world.store.keys()


# -- single facts -------------------------------------------------------------------------------------------------


def settled(*updated: Entry, on_demand: bool = False) -> World:
    world = World(Subscription(TYPE, on_demand=on_demand))
    world.change(*updated)
    world.connect()
    world.settle()
    world.responses.clear()
    return world


def test_the_first_request_of_a_stock_client_means_everything() -> None:
    world = World()
    world.connect()
    request = decode_request(world.up[0])
    assert (request.subscribe, request.unsubscribe) == ((), ())
    world.change(make("a"))
    world.settle()
    assert world.store == {"a": b"1"}


def test_an_on_demand_client_says_star_both_ways_and_gets_an_empty_answer() -> None:
    world = World(Subscription(TYPE, on_demand=True))
    world.connect()
    request = decode_request(world.up[0])
    assert (request.subscribe, request.unsubscribe) == (("*",), ("*",))
    world.change(make("a"))
    world.settle()
    assert [response.resources for response in world.responses] == [()]
    assert world.client.synced(TYPE)


def test_even_an_empty_server_answers_the_first_request_and_only_that() -> None:
    world = World()
    assert not world.client.synced(TYPE)
    world.connect()
    world.settle()
    assert len(world.responses) == 1
    assert world.client.synced(TYPE)


def test_the_node_is_told_once() -> None:
    world = World(Subscription(TYPE), Subscription(OTHER))
    world.connect()
    first, second = (discovery_pb2.DeltaDiscoveryRequest.FromString(raw) for raw in world.up)
    assert first.node.id == "ztunnel~172.18.0.11~ztunnel-abc.istio-system~istio-system.svc.cluster.local"
    assert first.node.metadata["NODE_NAME"] == "node1"
    assert not second.HasField("node")
    world.settle()
    assert Identified(first.node.id) in world.events


def test_one_change_sends_one_resource() -> None:
    world = settled(*(make(f"n{number}") for number in range(1000)))
    world.change(make("n7", b"2"), removed=("n8",))
    world.settle()
    [response] = world.responses
    assert [(each.name, each.payload) for each in response.resources] == [("n7", b"2")]
    assert response.removed == ("n8",)


def test_one_change_is_one_lookup_not_a_scan(monkeypatch: pytest.MonkeyPatch) -> None:
    world = settled(*(make(f"n{number}") for number in range(1000)))
    looked_up: list[str] = []
    from mesh.xds.snapshot import TypeSnapshot

    original = TypeSnapshot.get

    def counting(self: TypeSnapshot, name: str) -> Entry | None:
        looked_up.append(name)
        return original(self, name)

    world.change(make("n7", b"2"))
    monkeypatch.setattr(TypeSnapshot, "get", counting)
    assert world.server is not None
    assert len(world.server.respond(world.snapshot)) == 1
    assert looked_up == ["n7"]


def test_a_slow_client_is_sent_the_latest_version_only() -> None:
    world = settled(make("a"))
    world.change(make("a", b"2"))
    world.server_turn()
    for content in (b"3", b"4", b"5"):
        world.change(make("a", content))
        world.server_turn()
    assert len(world.down) == 1
    world.settle()
    assert [each.payload for response in world.responses for each in response.resources] == [b"2", b"5"]


def test_a_reconnecting_client_is_sent_the_difference_only() -> None:
    world = settled(make("same"), make("changed"), make("gone"))
    world.disconnect()
    world.change(make("changed", b"2"), make("new"), removed=("gone",))
    world.connect()
    world.settle()
    [response] = world.responses
    assert {each.name for each in response.resources} == {"changed", "new"}
    assert response.removed == ("gone",)


def test_good_resources_of_a_refused_response_are_kept_and_the_bad_one_is_not_sent_again_until_it_changes() -> None:
    world = settled()
    world.change(make("good"), make("worse", BAD))
    world.settle()
    assert world.store == {"good": b"1"}
    assert Refused(TYPE, "worse: is bad") in world.events
    world.responses.clear()
    world.change(make("good", b"2"))
    world.settle()
    assert [each.name for response in world.responses for each in response.resources] == ["good"]
    world.change(make("worse", b"better"))
    world.settle()
    assert world.store == {"good": b"2", "worse": b"better"}
    assert Acknowledged(TYPE) in world.events


def test_a_refused_resource_is_sent_again_after_a_reconnect() -> None:
    world = settled(make("a"))
    world.change(make("a", BAD))
    world.settle()
    world.responses.clear()
    world.connect()
    world.settle()
    assert [each.payload for response in world.responses for each in response.resources] == [BAD]
    assert world.store == {"a": b"1"}


def test_a_resource_is_found_by_its_alias_and_brings_its_companions() -> None:
    world = settled(
        make("ns/svc", aliases=("net/vip",)), make("pod", aliases=("net/1",), under=("ns/svc",)), on_demand=True
    )
    world.up.extend(world.client.subscribe(TYPE, ["net/vip"]))
    world.settle()
    assert set(world.store) == {"ns/svc", "pod"}
    world.change(make("pod2", under=("ns/svc",)))
    world.settle()
    assert set(world.store) == {"ns/svc", "pod", "pod2"}


def test_a_name_that_does_not_exist_is_answered_as_removed_and_sent_once_it_exists() -> None:
    world = settled(on_demand=True)
    world.up.extend(world.client.subscribe(TYPE, ["net/9"]))
    world.settle()
    assert world.absent == ["net/9"]
    world.change(make("late", aliases=("net/9",)))
    world.settle()
    assert world.store == {"late": b"1"}


def test_subscribing_again_on_the_wire_is_answered_again() -> None:
    world = settled(make("a"), on_demand=True)
    for _ in range(2):
        world.up.append(encode_request(Request(type_url=TYPE, subscribe=("a",))))
        world.settle()
    assert [each.name for response in world.responses for each in response.resources] == ["a", "a"]


def test_a_stale_nonce_acknowledges_nothing_but_its_subscriptions_count() -> None:
    world = settled(make("a"), on_demand=True)
    world.events.clear()
    world.up.append(encode_request(Request(type_url=TYPE, nonce="stale", subscribe=("a",))))
    world.settle()
    assert world.store == {"a": b"1"}
    assert world.events == [Acknowledged(TYPE)]  # of the response, not of the stale nonce


def test_types_that_are_not_served_get_no_answer_and_harm_nothing() -> None:
    world = settled(make("a"))
    world.up.append(encode_request(Request(type_url="type.googleapis.com/test.Unknown")))
    world.settle()
    assert UnknownTypeRequested("type.googleapis.com/test.Unknown") in world.events
    assert world.responses == []


def test_a_response_too_large_for_one_message_is_continued(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_machine, "MAX_RESPONSE_BYTES", 500)
    world = World()
    world.change(*(make(f"n{number}", bytes(100)) for number in range(40)))
    world.connect()
    world.server_turn()
    assert len(world.down) == 1  # the rest waits for the acknowledgement
    world.settle()
    assert world.store == world.offered()
    assert len(world.responses) >= 10
