"""The life of a waypoint's parts on a real API server, written with the operator's rights and no others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import trio

from controlplane.kube.writer_driver import ApiWriter
from controlplane.reconcile.driver import Reconciler
from resources.object_set import ObjectSet
from resources.objects import KubernetesObject
from tests.controlplane.kube.real_plane import apply, eventually, replica_of
from tests.e2e.kit.control_plane import ControlPlane

pytestmark = pytest.mark.kubernetes

NAME = "scaled"
PARTS = {"ServiceAccount", "Service", "Deployment", "PodDisruptionBudget", "HorizontalPodAutoscaler"}
SCALED = "cluster: {max_replicas: 4, resources: {requests: {cpu: 100m}}}"
FIXED = "cluster: {resources: {requests: {cpu: 100m}}}"


class Written:
    """What operators wrote for the Gateway meanwhile, and how often they looked whether they should."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.applied: list[str] = []
        self.deleted: list[str] = []
        self.looks = 0
        apply_, delete, reconcile = ApiWriter.apply, ApiWriter.delete, Reconciler.reconcile

        def applying(writer: ApiWriter, value: KubernetesObject) -> None:
            apply_(writer, value)
            self.applied += [value.kind] if value.metadata.name == NAME else []

        def deleting(writer: ApiWriter, value: KubernetesObject) -> None:
            delete(writer, value)
            self.deleted += [value.kind] if value.metadata.name == NAME else []

        async def reconciling(reconciler: Reconciler, objects: ObjectSet) -> None:
            await reconcile(reconciler, objects)
            self.looks += 1

        monkeypatch.setattr(ApiWriter, "apply", applying)
        monkeypatch.setattr(ApiWriter, "delete", deleting)
        monkeypatch.setattr(Reconciler, "reconcile", reconciling)

    def clear(self) -> None:
        self.applied.clear()
        self.deleted.clear()


def gateway(class_name: str = "ambimesh-waypoint", **annotations: str) -> dict[str, Any]:
    listener = {"name": "mesh", "port": 15008, "protocol": "HBONE"}
    marks = {f"ambimesh.dev/{key}": text for key, text in annotations.items()}
    return {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "Gateway",
        "metadata": {"name": NAME, "namespace": "shop", "annotations": marks},
        "spec": {"gatewayClassName": class_name, "listeners": [listener]},
    }


def autoscaler_of_others() -> dict[str, Any]:
    """It has the label by which ours are found, and is none of ours."""
    labels = {"gateway.networking.k8s.io/gateway-name": NAME}
    target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "other"}
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": "others", "namespace": "shop", "labels": labels},
        "spec": {"scaleTargetRef": target, "maxReplicas": 2},
    }


def parts(plane: ControlPlane) -> dict[str, dict[str, Any]]:
    kinds = "serviceaccounts,services,deployments,poddisruptionbudgets,horizontalpodautoscalers"
    labelled = f"gateway.networking.k8s.io/gateway-name={NAME}"
    found = json.loads(plane.kubectl("get", kinds, "-n", "shop", "-l", labelled, "-o", "json"))["items"]
    return {one["kind"]: one for one in found if one["metadata"]["name"] == NAME}


async def test_parts_are_written_once_changed_back_and_deleted_when_not_wanted(
    plane: ControlPlane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = Written(monkeypatch)

    async def looked_after(*objects: dict[str, Any]) -> None:
        """Make a change, and wait until an operator has looked at it."""
        before = written.looks
        await trio.to_thread.run_sync(apply, plane, *objects)
        await eventually(lambda: written.looks > before)

    def spec(kind: str) -> Any:
        return parts(plane)[kind]["spec"]

    def scale(count: int) -> None:
        plane.kubectl("scale", "deployment", NAME, "-n", "shop", f"--replicas={count}")

    await trio.to_thread.run_sync(apply, plane, gateway(replicas="2"), autoscaler_of_others())
    async with replica_of(plane, tmp_path, "scaling", SCALED).running():
        await eventually(lambda: set(parts(plane)) == PARTS)
        assert spec("HorizontalPodAutoscaler")["minReplicas"] == 2
        assert spec("Deployment")["replicas"] == 1  # by the API server: the number is the autoscaler's
        assert set(written.applied) == PARTS

        # What the API server has added is no reason to write again, nor is what the autoscaler does.
        await trio.to_thread.run_sync(scale, 3)
        for count in range(2):
            await looked_after(gateway(replicas="2", note=f"until all is seen {count}"))
        written.clear()
        for count in range(3):
            await looked_after(gateway(replicas="2", note=str(count)))
        assert (written.applied, written.deleted) == ([], [])
        assert spec("Deployment")["replicas"] == 3

        # What somebody changes of them is put back.
        change = json.dumps({"spec": {"maxReplicas": 50}})
        patch = ("patch", "horizontalpodautoscaler", NAME, "-n", "shop", "--type=merge", "-p", change)
        await trio.to_thread.run_sync(lambda: plane.kubectl(*patch))
        await eventually(lambda: spec("HorizontalPodAutoscaler")["maxReplicas"] == 4)
        await trio.to_thread.run_sync(
            lambda: plane.kubectl("delete", "poddisruptionbudget", NAME, "-n", "shop", "--wait=false")
        )
        await eventually(lambda: "PodDisruptionBudget" in parts(plane))

    # An installation without autoscalers.
    written.clear()
    async with replica_of(plane, tmp_path, "fixed", FIXED).running():
        await eventually(lambda: set(parts(plane)) == PARTS - {"HorizontalPodAutoscaler"})
        await eventually(lambda: spec("Deployment")["replicas"] == 2)
        await looked_after(gateway(replicas="1"))
        await eventually(lambda: spec("Deployment")["replicas"] == 1)
        assert set(written.applied) == {"Deployment"}
        assert set(written.deleted) == {"HorizontalPodAutoscaler"}

        # The Gateway becomes somebody else's: all goes, and nothing of others.
        written.clear()
        await trio.to_thread.run_sync(apply, plane, gateway("theirs"))
        await eventually(lambda: parts(plane) == {})
        assert set(written.deleted) == PARTS - {"HorizontalPodAutoscaler"}
        assert written.applied == []
    assert plane.kubectl("get", "horizontalpodautoscaler", "others", "-n", "shop", "-o", "name")
    plane.kubectl("delete", "gateway", NAME, "-n", "shop")
    plane.kubectl("delete", "horizontalpodautoscaler", "others", "-n", "shop")
