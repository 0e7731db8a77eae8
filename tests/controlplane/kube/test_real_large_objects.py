"""What is too large, or in the way, on a real API server: told where its user looks, and the rest goes on."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from controlplane.kube import lease_driver, trust_bundle_driver
from controlplane.kube.permissions import TRUST_BUNDLE
from controlplane.testing.replica import NAMESPACE
from tests.controlplane.kube.real_plane import (
    apply,
    eventually,
    namespace,
    pod_token,
    prepare,
    replica_of,
    run_pod,
    told,
)
from tests.e2e.kit.control_plane import ControlPlane, Wish, running_control_plane

pytestmark = pytest.mark.kubernetes

HUGE = 10 << 20
"""Bytes: more than a line of a watch may have. No API server takes that much, but nothing keeps one from giving it."""
LARGE = 5 << 20
"""More than an object may have."""
AMBIENT = {"istio.io_dataplane-mode": "ambient"}


@pytest.fixture
def plane() -> Iterator[ControlPlane]:
    """One whose storage takes large objects."""
    with running_control_plane(Wish(etcd_arguments=[f"--max-request-bytes={2 * HUGE}"])) as running:
        prepare(running)
        yield running


def config_map(where: str, name: str, data: dict[str, str], **fields: Any) -> dict[str, Any]:
    metadata = {"name": name, "namespace": where}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data, **fields}


def store_large(plane: ControlPlane, name: str, size: int) -> None:
    """A ConfigMap of so many bytes, as the API server would keep it."""
    made = config_map("shop", name, {"ca.crt": "x" * size})
    made["metadata"] |= {"uid": str(uuid.uuid4()), "creationTimestamp": "2026-01-01T00:00:00Z"}
    plane.store(f"/registry/configmaps/shop/{name}", made)


async def test_objects_of_ten_megabytes_are_named_and_the_rest_goes_on(
    plane: ControlPlane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease_driver, "RETRY_SECONDS", 0.2)
    uid = run_pod(plane, NAMESPACE, "ztunnel-1", "ztunnel", "node1", "10.0.0.9")
    run_pod(plane, "shop", "web", "web", "node1", "10.0.0.1")
    await trio.to_thread.run_sync(store_large, plane, "there-before", HUGE)
    replica = replica_of(plane, tmp_path, "huge")

    def named(name: str) -> bool:
        notes = told(plane, "shop").get((f"ConfigMap {name}", "Invalid"), [])
        return any("larger than" in note for note in notes)

    async with replica.running():
        token = await trio.to_thread.run_sync(pod_token, plane, NAMESPACE, "ztunnel", "ztunnel-1", uid)
        await eventually(lambda: b"CERTIFICATE" in replica.roots())
        async with replica.reading(token) as known:
            await eventually(lambda: "Kubernetes//Pod/shop/web" in known)
            await eventually(lambda: named("there-before"))
            # In the midst of a watch, whose lines are bounded.
            await trio.to_thread.run_sync(store_large, plane, "there-later", HUGE)
            await eventually(lambda: named("there-later"))
            # The kind is followed as before, and so are the others.
            await trio.to_thread.run_sync(store_large, plane, "there-at-last", LARGE)
            await eventually(lambda: named("there-at-last"))
            await trio.to_thread.run_sync(run_pod, plane, "shop", "after", "after", "node1", "10.0.0.2")
            await eventually(lambda: "Kubernetes//Pod/shop/after" in known)


async def test_a_bundle_that_is_somebody_elses_or_cannot_be_written(
    plane: ControlPlane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease_driver, "RETRY_SECONDS", 0.2)
    monkeypatch.setattr(trust_bundle_driver, "RETRY_SECONDS", 0.2)
    apply(plane, *(namespace(name, **AMBIENT) for name in ("theirs", "fixed", "full")))
    apply(
        plane,
        config_map("theirs", TRUST_BUNDLE, {"root-cert.pem": "their roots", "else": "kept"}),
        config_map("fixed", TRUST_BUNDLE, {"else": "kept"}, immutable=True),
        config_map("full", TRUST_BUNDLE, {"else": "x" * (1 << 20)}),
    )

    def data(where: str) -> dict[str, str]:
        found: dict[str, str] = json.loads(
            plane.kubectl("get", "configmap", TRUST_BUNDLE, "-n", where, "-o", "jsonpath={.data}")
        )
        return found

    def why(where: str) -> str:
        return " ".join(told(plane, where).get((f"ConfigMap {TRUST_BUNDLE}", "RootsNotPublished"), []))

    replica = replica_of(plane, tmp_path, "bundles")
    async with replica.running():
        await eventually(lambda: b"CERTIFICATE" in replica.roots())
        await eventually(lambda: "CERTIFICATE" in data("theirs")["root-cert.pem"])
        await eventually(lambda: "immutable" in why("fixed"))
        await eventually(lambda: "Too long" in why("full"))
        assert data("fixed") == {"else": "kept"}
        assert set(data("full")) == {"else"}
        # What was theirs stays theirs when the namespace leaves.
        await trio.to_thread.run_sync(plane.kubectl, "label", "namespace", "theirs", "istio.io/dataplane-mode-")
        await eventually(lambda: data("theirs") == {"else": "kept"})
