from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ambimesh.cluster.client_driver import Cluster
from ambimesh.cluster.readiness import COMPONENT_LABEL, not_ready_because, problems
from mesh.errors import ConnectFailed, InvalidMessage
from tests.ambimesh.cluster.port_forwards import ApiServer, answer, cluster_of


@pytest.fixture
def server() -> Iterator[ApiServer]:
    with ApiServer() as made:
        yield made


@pytest.fixture
def cluster(server: ApiServer, tmp_path: Path) -> Cluster:
    return cluster_of(server, tmp_path)


def pod(component: str, phase: str = "Running") -> dict[str, Any]:
    metadata = {"namespace": "mesh", "name": "p", "labels": {COMPONENT_LABEL: component}}
    return {"metadata": metadata, "status": {"phase": phase}}


def test_a_pod_that_is_not_ready_is_asked_why(cluster: Cluster, server: ApiServer) -> None:
    server.answer = answer(b"the CNI plugin is not installed: no JSON", b"503 Service Unavailable")
    for component in ("operator", "agent", "ztunnel"):
        assert not_ready_because(cluster, pod(component)) == "the CNI plugin is not installed: no JSON"
    assert server.ports == [15014, 15014, 15021]
    server.answer = answer(b"ready")
    assert not_ready_because(cluster, pod("agent")) == ""


def test_who_cannot_be_asked_says_nothing(cluster: Cluster, server: ApiServer) -> None:
    assert not_ready_because(cluster, pod("agent", "Pending")) == ""
    assert not_ready_because(cluster, pod("else")) == ""
    assert server.ports == []
    server.refuse = "connection refused inside of the pod"
    assert not_ready_because(cluster, pod("agent")) == ""


def test_what_an_operator_cannot_read_is_in_its_words(cluster: Cluster, server: ApiServer) -> None:
    server.answer = answer(b'{"findings": [{"kind": "x"}], "problems": ["httproutes may not be read"]}')
    assert problems(cluster, pod("operator")) == ["httproutes may not be read"]
    server.answer = answer(b"not here", b"404 Not Found")
    with pytest.raises(InvalidMessage, match="mesh/p answered 404"):
        problems(cluster, pod("operator"))
    server.refuse = "gone"
    with pytest.raises(ConnectFailed):
        problems(cluster, pod("operator"))
