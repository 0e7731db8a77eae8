"""The double itself, as far as tests of others would not notice."""

from __future__ import annotations

import pytest

from resources.testing.api_server import ApiServer
from resources.testing.cluster import Cluster, Refusal, selected


def body(name: str, **labels: str) -> dict[str, object]:
    return {"metadata": {"name": name, "namespace": "n", "labels": labels}}


def test_versions_go_up_and_are_preconditions() -> None:
    cluster = Cluster()
    made = cluster.create("/pods", body("a"))
    with pytest.raises(Refusal, match="409 AlreadyExists"):
        cluster.create("/pods", body("a"))
    cluster.replace("/pods", made)
    with pytest.raises(Refusal, match="409 Conflict"):
        cluster.replace("/pods", {**made, "metadata": {**made["metadata"], "resourceVersion": "1"}})
    assert [one.type for one in cluster.events_after(0)] == ["ADDED", "MODIFIED"]
    cluster.compact()
    assert cluster.events_after(0) == []


def test_apply_takes_away_what_its_manager_does_not_apply_any_more() -> None:
    cluster, key = Cluster(), ("/services", "n", "s")
    theirs = {"type": "T", "status": "True"}
    cluster.put("/services", {**body("s"), "status": {"conditions": [theirs]}})
    ours = {"type": "O", "status": "True"}
    patch = {"metadata": {"name": "s"}, "status": {"conditions": [ours]}}
    assert cluster.apply(key, patch, "m", "status")["status"]["conditions"] == [theirs, ours]
    version = cluster.version
    cluster.apply(key, patch, "m", "status")
    assert cluster.version == version, "nothing changed"
    patch["status"]["conditions"] = []  # type: ignore[index]  # a dictionary
    assert cluster.apply(key, patch, "m", "status")["status"]["conditions"] == [theirs]


def test_selectors() -> None:
    pod = {**body("a", app="x"), "spec": {"nodeName": "n1"}}
    assert selected(pod, "app", "spec.nodeName=n1")
    assert selected(pod, "app=x", "")
    assert not selected(pod, "app=y", "")
    assert not selected(pod, "", "spec.nodeName=n2")


async def test_it_serves_on_a_port() -> None:
    async with ApiServer().serve() as server:
        assert server.port
