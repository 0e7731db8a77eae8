from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.errors import InvalidMessage
from mesh.xds.client_machine import DeltaClient, Received, Subscription, UnknownTypeReceived
from mesh.xds.discovery_codec import (
    NodeInfo,
    Rejected,
    Resource,
    decode_request,
    encode_response,
    resource_field,
)

TYPE = "type.googleapis.com/test.One"
OTHER = "type.googleapis.com/test.Two"
NODE = NodeInfo(pod="ztunnel-abc", namespace="istio-system", ip="172.18.0.11", node="node1")


def test_a_response_of_an_unknown_type_is_acknowledged_and_dropped() -> None:
    client = DeltaClient(NODE, [Subscription(TYPE)])
    received = client.receive(encode_response(OTHER, "7", "1", [], []))
    assert isinstance(received, UnknownTypeReceived)
    acknowledgement = decode_request(received.acknowledgement)
    assert (acknowledgement.type_url, acknowledgement.nonce, acknowledgement.error) == (OTHER, "7", None)


def test_resources_without_a_name_or_of_another_type_are_refused_one_by_one() -> None:
    client = DeltaClient(NODE, [Subscription(TYPE)])
    fields = [
        resource_field(TYPE, Resource("", "1", (), b"")),
        resource_field(OTHER, Resource("stranger", "1", (), b"")),
        resource_field(TYPE, Resource("good", "1", (), b"x")),
    ]
    received = client.receive(encode_response(TYPE, "1", "1", fields, []))
    assert isinstance(received, Received)
    assert [[each.name for each in batch] for batch in received.batches(3)] == [["good"]]
    answer = decode_request(client.handled(received, []))
    assert answer.error is not None
    assert "stranger" in answer.error
    assert client.versions(TYPE) == {"good": "1"}


def test_a_name_removed_and_updated_in_one_response_is_there() -> None:
    client = DeltaClient(NODE, [Subscription(TYPE)])
    fields = [resource_field(TYPE, Resource("a", version, (), b"")) for version in ("1", "2")]
    received = client.receive(encode_response(TYPE, "1", "1", fields, ["a", "b", "b"]))
    assert isinstance(received, Received)
    assert received.removed == ("b",)
    assert [[each.version for each in batch] for batch in received.batches(1)] == [["1"], ["2"]]
    client.handled(received, [])
    assert client.versions(TYPE) == {"a": "2"}


def test_a_long_list_of_refusals_is_cut() -> None:
    client = DeltaClient(NODE, [Subscription(TYPE)])
    received = client.receive(encode_response(TYPE, "1", "1", [], []))
    assert isinstance(received, Received)
    answer = decode_request(client.handled(received, [Rejected(f"n{n}", "x" * 10_000) for n in range(1000)]))
    assert answer.error is not None
    assert len(answer.error) < 10_000
    assert answer.error.endswith("and 990 more")


@settings(deadline=None)
@given(st.binary(max_size=100))
def test_garbage_is_an_invalid_message_and_nothing_else(garbage: bytes) -> None:
    try:
        DeltaClient(NODE, [Subscription(TYPE)]).receive(garbage)
    except InvalidMessage:
        pass
