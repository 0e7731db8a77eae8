"""Who makes a request."""

from __future__ import annotations

from mesh.addresses import PeerAddress, SocketAddress, parse_ip
from mesh.identity import SpiffeId
from mesh.model.workload import Workload
from mesh.testing.model import make_workload
from waypoint.client import Client


def _client(identity: SpiffeId | None, workload: Workload | None) -> Client:
    return Client(
        identity=identity,
        address=PeerAddress(SocketAddress(parse_ip("10.0.0.1"), 40000)),
        destination=SocketAddress(parse_ip("10.96.0.10"), 80),
        workload=workload,
    )


def test_the_proven_namespace_is_worth_more_than_the_address() -> None:
    identity = SpiffeId("cluster.local", "proven", "a")
    workload = make_workload("pod", "10.0.0.1", namespace="by-address")
    assert _client(identity, workload).namespace == "proven"
    assert _client(None, workload).namespace == "by-address"
    assert _client(None, None).namespace == ""


def test_labels_default_to_none() -> None:
    assert dict(_client(None, None).labels) == {}
