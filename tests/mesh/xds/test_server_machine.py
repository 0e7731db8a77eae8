import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.errors import InvalidMessage
from mesh.xds.discovery_codec import MAX_NAMES, Request, decode_response, encode_request
from mesh.xds.server_machine import DeltaServer
from mesh.xds.snapshot import Snapshot, entry

TYPE = "type.googleapis.com/test.One"
OTHER = "type.googleapis.com/test.Two"


def test_policies_go_out_before_what_refers_to_them() -> None:
    server = DeltaServer([OTHER, TYPE])
    for type_url in (TYPE, OTHER):
        server.receive(encode_request(Request(type_url=type_url)))
    responses = [decode_response(raw).type_url for raw in server.respond(Snapshot.empty())]
    assert responses == [OTHER, TYPE]


def test_a_workload_waits_while_its_policy_is_held_back_by_an_outstanding_response() -> None:
    server = DeltaServer([OTHER, TYPE])
    for type_url in (OTHER, TYPE):
        server.receive(encode_request(Request(type_url=type_url)))
    snapshot = Snapshot.empty().changed(OTHER, [entry(OTHER, "policy-1", b"1")])
    first, addresses = (decode_response(raw) for raw in server.respond(snapshot))
    server.receive(encode_request(Request(type_url=TYPE, nonce=addresses.nonce)))
    # The first policy is not acknowledged yet when a second one comes, with a workload that names it.
    snapshot = snapshot.changed(OTHER, [entry(OTHER, "policy-2", b"2")]).changed(TYPE, [entry(TYPE, "workload", b"w")])
    assert server.respond(snapshot) == []
    server.receive(encode_request(Request(type_url=OTHER, nonce=first.nonce)))
    later = [decode_response(raw) for raw in server.respond(snapshot)]
    assert [(each.type_url, [r.name for r in each.resources]) for each in later] == [
        (OTHER, ["policy-2"]),
        (TYPE, ["workload"]),
    ]


@pytest.mark.parametrize("subscribed", [("mine", "theirs"), ("*",), ("b",), ()])
def test_what_a_client_may_not_have_does_not_exist_for_it(subscribed: tuple[str, ...]) -> None:
    """Whichever way it is asked for: by name, by what it is found under, by wildcard, or by holding it already."""
    entries = [entry(TYPE, name, b"1", (), (group,)) for name, group in (("mine", "a"), ("theirs", "b"))]
    snapshot = Snapshot.empty().changed(TYPE, entries).changed(OTHER, [entry(OTHER, "theirs", b"1")])
    server = DeltaServer([TYPE, OTHER], {TYPE: lambda each: "a" in each.found_under})
    held = {"theirs": entries[1].version}
    server.receive(encode_request(Request(type_url=TYPE, subscribe=subscribed, initial_versions=held)))
    server.receive(encode_request(Request(type_url=OTHER, subscribe=("theirs",))))
    first, other = map(decode_response, server.respond(snapshot))
    assert {each.name for each in first.resources} <= {"mine"}
    assert "theirs" in first.removed
    assert [each.name for each in other.resources] == ["theirs"], "the other type is for everybody"
    server.receive(encode_request(Request(type_url=TYPE, nonce=first.nonce)))
    snapshot = snapshot.changed(TYPE, [entry(TYPE, "theirs", b"2", (), ("b",))])
    assert server.respond(snapshot) == []
    snapshot = snapshot.changed(TYPE, [entry(TYPE, "theirs", b"2", (), ("a",))])
    given = [each.name for raw in server.respond(snapshot) for each in decode_response(raw).resources]
    assert given == (["theirs"] if subscribed not in {("b",)} else [])


@pytest.mark.parametrize(
    "request_of",
    [
        Request(type_url=TYPE, subscribe=("x" * 2000,)),
        Request(type_url=TYPE, subscribe=("",)),
        Request(type_url=TYPE, subscribe=tuple(f"n{n}" for n in range(MAX_NAMES + 1))),
    ],
)
def test_requests_beyond_the_bounds_are_refused(request_of: Request) -> None:
    with pytest.raises(InvalidMessage, match="resource_names_subscribe"):
        DeltaServer([TYPE]).receive(encode_request(request_of))


def test_names_are_bounded_over_a_stream_not_only_in_a_request() -> None:
    server = DeltaServer([TYPE])
    server.receive(encode_request(Request(type_url=TYPE, subscribe=tuple(f"a{n}" for n in range(MAX_NAMES)))))
    with pytest.raises(InvalidMessage, match="on one stream"):
        server.receive(encode_request(Request(type_url=TYPE, subscribe=("one-more",))))


@settings(deadline=None)
@given(st.binary(max_size=100))
def test_garbage_is_an_invalid_message_and_nothing_else(garbage: bytes) -> None:
    try:
        DeltaServer([TYPE]).receive(garbage)
    except InvalidMessage:
        pass
