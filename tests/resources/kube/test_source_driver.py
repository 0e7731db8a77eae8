"""A source, over a real socket, from an API server's double."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio

from resources.kube import client_driver
from resources.kube.client_driver import ApiClient
from resources.kube.credentials_driver import ApiSettings
from resources.kube.source_driver import ApiSource
from resources.object_set import ObjectSet
from resources.objects import ConfigMap, HTTPRoute, Namespace, ObjectKey, Pod
from resources.testing.api_server import ApiServer

HTTP_ROUTES = "gateway.networking.k8s.io/httproutes"


def pod(name: str, **labels: str) -> dict[str, Any]:
    return {
        "metadata": {"name": name, "namespace": "demo", "labels": labels},
        "spec": {"containers": [{"name": "c"}], "nodeName": "node1"},
        "status": {"phase": "Running", "podIP": "10.0.0.1"},
    }


def route(name: str) -> dict[str, Any]:
    return {"metadata": {"name": name, "namespace": "demo"}, "spec": {}}


@pytest.fixture
async def source(client: ApiClient, server: ApiServer) -> AsyncIterator[ApiSource]:
    server.cluster.put("/namespaces", {"metadata": {"name": "demo"}})
    async with ApiSource(client).open() as opened:
        yield opened


async def changed(source: ApiSource) -> ObjectSet:
    with trio.fail_after(20):
        return await source.wait_change()


def names(objects: ObjectSet) -> set[str]:
    return {value.metadata.name for value in objects.of_kind(Pod)}


async def test_what_is_there_then_what_happens(server: ApiServer, source: ApiSource) -> None:
    for number in range(1203):  # three pages
        server.cluster.put("/pods", pod(f"p{number}"))
    first = await changed(source)
    assert len(list(first.of_kind(Pod))) == 1203
    assert not source.problems
    server.cluster.put("/pods", pod("new"))
    second = await changed(source)
    assert [value.key.name for value in second.changes_since(first).updated] == ["new"]
    server.cluster.put("/pods", pod("new", app="x"))
    third = await changed(source)
    assert [value.metadata.labels for value in third.changes_since(second).updated] == [{"app": "x"}]
    server.cluster.delete(("/pods", "demo", "new"))
    assert "new" not in names(await changed(source))


async def test_objects_that_are_large_come_in_smaller_pages(
    server: ApiServer, source: ApiSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_driver, "MAX_ANSWER", 100_000)
    for number in range(20):
        metadata = {"name": f"large-{number}", "namespace": "demo"}
        server.cluster.put("/configmaps", {"metadata": metadata, "data": {"ca.crt": "x" * 20_000}})
    assert len(list((await changed(source)).of_kind(ConfigMap))) == 20
    assert not source.problems


async def test_one_object_that_is_too_large_is_named_and_the_rest_goes_on(server: ApiServer, source: ApiSource) -> None:
    server.cluster.put("/pods", pod("p"))
    await changed(source)
    huge = {"metadata": {"name": "huge", "namespace": "demo"}, "data": {"ca.crt": "x" * (10 << 20)}}
    server.cluster.put("/configmaps", huge)
    with trio.fail_after(20):
        while not any("ConfigMap demo/huge: larger than" in str(problem) for problem in source.problems):
            await source.wait_change()
    server.cluster.put("/pods", pod("q"))
    with trio.fail_after(20):
        while names(source.objects) != {"p", "q"}:
            await source.wait_change()


async def test_a_broken_connection_is_resumed_where_it_was(server: ApiServer, source: ApiSource) -> None:
    await changed(source)
    server.requests.clear()
    await server.break_connections()
    server.cluster.put("/pods", pod("meanwhile"))
    assert names(await changed(source)) == {"meanwhile"}
    lists = [one for one in server.requests if one.path == "/api/v1/pods" and "watch" not in one.query]
    assert lists == []


@pytest.mark.parametrize("as_event", [True, False])
async def test_a_forgotten_version_is_listed_again(server: ApiServer, source: ApiSource, as_event: bool) -> None:
    server.cluster.put("/pods", pod("goes"))
    server.cluster.put("/pods", pod("stays"))
    await changed(source)
    server.faults.gone_as_event = as_event
    server.faults.away = True
    await server.break_connections()
    server.cluster.delete(("/pods", "demo", "goes"))
    server.cluster.put("/pods", pod("comes"))
    server.cluster.compact()
    server.faults.away = False
    while names(source.objects) != {"stays", "comes"}:
        await changed(source)


async def test_while_the_api_is_away_the_last_state_stays_and_the_problem_is_told(
    server: ApiServer, source: ApiSource
) -> None:
    server.cluster.put("/pods", pod("a"))
    await changed(source)
    server.faults.away = True
    await server.break_connections()
    while not any("pods cannot be followed" in str(problem) for problem in source.problems):
        await changed(source)
    assert names(source.objects) == {"a"}
    server.faults.away = False
    while source.problems:
        await changed(source)
    assert names(source.objects) == {"a"}


async def test_a_missing_definition_is_no_problem_and_is_picked_up(
    server: ApiServer, client: ApiClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("resources.kube.list_watch_machine.ABSENT_SECONDS", 0.2)
    versions = server.cluster.installed.pop(HTTP_ROUTES)
    async with ApiSource(client).open() as source:
        await changed(source)
        assert not source.problems
        server.cluster.installed[HTTP_ROUTES] = versions
        server.cluster.put(HTTP_ROUTES, route("r"))
        assert [value.key.name for value in (await changed(source)).of_kind(HTTPRoute)] == ["r"]
        # An older version of the definition serves as well.
        server.cluster.installed[HTTP_ROUTES] = ("v1beta1",)
        server.cluster.put(HTTP_ROUTES, route("s"))
        while len(list(source.objects.of_kind(HTTPRoute))) < 2:
            await changed(source)


async def test_a_definition_of_unknown_version_is_named(server: ApiServer, client: ApiClient) -> None:
    server.cluster.installed[HTTP_ROUTES] = ("v9",)
    async with ApiSource(client).open() as source:
        await changed(source)
        [problem] = source.problems
        assert "httproutes cannot be read: the API server has it in the versions v9 only" in str(problem)


async def test_one_kind_denied_is_a_problem_and_the_rest_goes_on(server: ApiServer, client: ApiClient) -> None:
    server.faults.denied.add(HTTP_ROUTES)
    server.cluster.put("/pods", pod("a"))
    async with ApiSource(client).open() as source:
        assert names(await changed(source)) == {"a"}
        [problem] = source.problems
        assert "httproutes may not be read" in str(problem)
        assert "grant this program's service account get, list and watch" in str(problem)
        server.cluster.put("/pods", pod("b"))
        assert names(await changed(source)) == {"a", "b"}


async def test_without_policies_nothing_is_said(
    server: ApiServer, client: ApiClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("resources.kube.list_watch_machine.DENIED_SECONDS", 0.2)
    server.faults.denied.add("security.istio.io/authorizationpolicies")
    async with ApiSource(client).open() as source:
        with trio.move_on_after(0.5) as scope:
            await source.wait_change()
        assert scope.cancelled_caught
        assert "authorizationpolicies may not be read" in (source.not_ready_because or "")
        server.faults.denied.clear()
        assert ObjectKey("Namespace", "", "demo") not in await changed(source)
        assert source.not_ready_because is None


async def test_rights_taken_away_take_no_objects_away(server: ApiServer, source: ApiSource) -> None:
    server.cluster.put("/pods", pod("a"))
    await changed(source)
    server.faults.denied.add("/pods")
    await server.break_connections()
    while not any("pods may not be read" in str(problem) for problem in source.problems):
        await changed(source)
    assert names(source.objects) == {"a"}


async def test_an_object_that_cannot_be_read_any_more_stays_as_it_was(server: ApiServer, source: ApiSource) -> None:
    server.cluster.put("/pods", pod("a", good="yes"))
    server.cluster.put("/pods", {**pod("never"), "spec": {"containers": "none"}})
    await changed(source)
    assert names(source.objects) == {"a"}
    server.cluster.put("/pods", {**pod("a"), "status": {"podIP": 7}})
    await changed(source)
    texts = sorted(str(problem) for problem in source.problems)
    assert [text.partition(": Expected")[0] for text in texts] == [
        "Kubernetes API: Pod demo/a", "Kubernetes API: Pod demo/never",
    ]  # fmt: skip
    assert [one.metadata.labels for one in source.objects.of_kind(Pod)] == [{"good": "yes"}]
    server.cluster.delete(("/pods", "demo", "never"))
    server.cluster.put("/pods", pod("a", good="again"))
    while source.problems:
        await changed(source)
    assert [one.metadata.labels for one in source.objects.of_kind(Pod)] == [{"good": "again"}]


async def test_a_token_is_read_again_when_it_is_refused(server: ApiServer, tmp_path: Path) -> None:
    server.faults.tokens = {"new"}
    kubeconfig = server.kubeconfig(tmp_path / "kubeconfig", token="old")
    client = ApiClient(ApiSettings(kubeconfig=kubeconfig))
    server.cluster.put("/namespaces", {"metadata": {"name": "demo"}})
    async with ApiSource(client).open() as source:
        with trio.move_on_after(0.5) as scope:
            await source.wait_change()
        assert scope.cancelled_caught
        assert "does not take our credentials" in (source.not_ready_because or "")
        server.kubeconfig(kubeconfig, token="new")
        assert [value.key.name for value in (await changed(source)).of_kind(Namespace)] == ["demo"]
    await client.close()


async def test_selectors_are_asked_for(server: ApiServer, source: ApiSource) -> None:
    await changed(source)
    asked = [one for one in server.requests if one.path.endswith("/deployments")]
    assert {one.query["labelSelector"] for one in asked} == {"gateway.networking.k8s.io/gateway-name"}
    assert json.dumps(asked[0].query["limit"]) == '"500"'
