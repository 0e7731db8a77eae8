"""Port-forward, against a server that speaks its protocol."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ambimesh.cluster import port_forward_driver, ztunnels
from ambimesh.cluster.client_driver import Cluster
from ambimesh.dump_codec import ADMIN_PORT
from mesh.errors import ConnectFailed, InvalidMessage
from tests.ambimesh.cluster.port_forwards import ApiServer, answer, cluster_of


@pytest.fixture
def server() -> Iterator[ApiServer]:
    with ApiServer() as made:
        yield made


@pytest.fixture
def cluster(server: ApiServer, tmp_path: Path) -> Cluster:
    return cluster_of(server, tmp_path)


def test_a_request_passes_the_api_server(cluster: Cluster, server: ApiServer) -> None:
    server.answer = answer(b"x" * 30000)
    assert port_forward_driver.get(cluster, "mesh", "z", ADMIN_PORT, "/a?b") == (200, b"x" * 30000)
    assert server.asked[0].startswith(b"GET /a?b HTTP/1.1\r\nHost: localhost")


def test_a_request_that_is_refused_is_told_as_it_was_said(cluster: Cluster, server: ApiServer) -> None:
    server.answer = answer(b"level: info\n")
    assert ztunnels.ask(cluster, "mesh", "z", "/logging?level=info", "POST") == b"level: info\n"
    assert server.asked[0].startswith(b"POST /logging?level=info HTTP/1.1")
    server.answer = answer(b"no such level", b"400 Bad Request")
    with pytest.raises(InvalidMessage, match="z answered 400 to POST /logging: no such level"):
        ztunnels.ask(cluster, "mesh", "z", "/logging", "POST")


def test_what_the_kubelet_says_is_told(cluster: Cluster, server: ApiServer) -> None:
    server.refuse = "connection refused inside of the pod"
    with pytest.raises(ConnectFailed, match="mesh/z:15000"):
        port_forward_driver.get(cluster, "mesh", "z", ADMIN_PORT, "/")


def test_a_dump_is_decoded_and_nothing_else_is(cluster: Cluster, server: ApiServer) -> None:
    server.answer = answer(b'{"workloads": []}')
    assert ztunnels.fetch(cluster, "mesh", "z") == {"workloads": []}
    for wrong in (answer(b"hello"), answer(b"[]"), answer(b"{}", b"500 Oops")):
        server.answer = wrong
        with pytest.raises(InvalidMessage, match="z answered"):
            ztunnels.fetch(cluster, "mesh", "z")
