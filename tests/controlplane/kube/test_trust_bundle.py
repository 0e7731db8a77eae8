from __future__ import annotations

from collections.abc import Callable

import pytest
import trio

from controlplane.kube import trust_bundle_driver
from controlplane.kube.permissions import TRUST_BUNDLE
from controlplane.kube.trust_bundle import BUNDLE_KEY, bundle_of, enrolled_namespaces, is_ours, is_shared
from controlplane.kube.trust_bundle_driver import TrustBundles
from resources.base import ObjectMeta
from resources.gateway import GatewaySpec
from resources.kube.client_driver import ApiClient
from resources.object_set import ObjectSet
from resources.objects import Gateway, Namespace
from resources.testing.api_server import ApiServer

CONFIG_MAPS = "/configmaps"


def namespace(name: str, **labels: str) -> Namespace:
    return Namespace(metadata=ObjectMeta(name=name, labels={f"istio.io/{key}": text for key, text in labels.items()}))


def test_who_needs_roots() -> None:
    gateway = Gateway(
        metadata=ObjectMeta(name="w", namespace="with-waypoint"),
        spec=GatewaySpec(gateway_class_name="ambimesh-waypoint", listeners=()),
    )
    objects = ObjectSet(
        [
            namespace("plain"),
            namespace("in", **{"dataplane-mode": "ambient"}),
            namespace("out", **{"dataplane-mode": "none", "use-waypoint": "none"}),
            namespace("guarded", **{"use-waypoint": "w"}),
            gateway,
        ]
    )
    found = enrolled_namespaces(objects, "own", frozenset({"ambimesh-waypoint"}))
    assert found == {"own", "in", "guarded", "with-waypoint"}


def test_only_ours_is_ours() -> None:
    assert is_ours(bundle_of("n", b"roots"))
    assert not is_ours({"metadata": {"name": TRUST_BUNDLE}})
    assert not is_shared(bundle_of("n", b"roots"))
    assert is_shared(bundle_of("n", b"roots") | {"data": {BUNDLE_KEY: "roots", "else": "theirs"}})
    assert is_shared(bundle_of("n", b"roots") | {"binaryData": {"else": "AA=="}})


async def until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(10):
        while not condition():  # noqa: ASYNC110 -- of the double's state
            await trio.sleep(0.01)


async def test_published_repaired_and_taken_away(
    server: ApiServer, client: ApiClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trust_bundle_driver, "AGAIN_SECONDS", 0.1)
    bundles = TrustBundles(client)
    bundles.update(b"one", frozenset({"a", "b"}))

    def published() -> dict[str, str]:
        return {key[1]: body["data"]["root-cert.pem"] for key, body in server.cluster.of(CONFIG_MAPS)}

    async with trio.open_nursery() as nursery:
        nursery.start_soon(bundles.run)
        await until(lambda: published() == {"a": "one", "b": "one"})
        bundles.update(b"two", frozenset({"a", "b"}))
        await until(lambda: published() == {"a": "two", "b": "two"})
        server.cluster.delete((CONFIG_MAPS, "a", TRUST_BUNDLE))
        await until(lambda: published() == {"a": "two", "b": "two"})
        bundles.update(b"two", frozenset({"a"}))
        await until(lambda: published() == {"a": "two"})
        nursery.cancel_scope.cancel()


async def test_what_others_keep_there_stays(server: ApiServer, client: ApiClient) -> None:
    theirs = {"metadata": {"name": TRUST_BUNDLE, "namespace": "a", "labels": {"team": "x"}}, "data": {"else": "theirs"}}
    server.cluster.put(CONFIG_MAPS, theirs)
    bundles = TrustBundles(client)
    bundles.update(b"one", frozenset({"a"}))

    def kept() -> tuple[dict[str, str], dict[str, str]]:
        [(_, body)] = server.cluster.of(CONFIG_MAPS)
        return body["data"], body["metadata"]["labels"]

    async with trio.open_nursery() as nursery:
        nursery.start_soon(bundles.run)
        await until(lambda: kept()[0] == {"else": "theirs", BUNDLE_KEY: "one"})
        bundles.update(b"one", frozenset())
        await until(lambda: kept() == ({"else": "theirs"}, {"team": "x"}))
        nursery.cancel_scope.cancel()


async def test_one_namespace_that_cannot_be_written_stops_no_other(
    server: ApiServer, client: ApiClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trust_bundle_driver, "RETRY_SECONDS", 0.05)
    server.faults.errors = [500]
    failures: list[str] = []
    bundles = TrustBundles(client, lambda namespace, reason: failures.append(f"{namespace}: {reason}"))
    bundles.update(b"one", frozenset({"a", "b"}))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bundles.run)
        await until(lambda: len(server.cluster.of(CONFIG_MAPS)) == 2)
        [failure] = failures
        assert failure.startswith("a: ")
        nursery.cancel_scope.cancel()
