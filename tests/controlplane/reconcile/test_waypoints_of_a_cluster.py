"""What waypoints are made of, before a real API server and its controllers."""

from __future__ import annotations

import json

import msgspec
import pytest

from controlplane.reconcile.cluster_pods import ClusterPods
from controlplane.reconcile.difference import says
from controlplane.reconcile.driver import FolderWriter, Reconciler
from controlplane.reconcile.waypoints import WaypointSettings, wanted
from resources.base import ObjectMeta
from resources.encode import to_document
from resources.folder_store import FolderStore
from resources.gateway import GatewaySpec
from resources.object_set import ObjectSet
from resources.objects import Gateway, HorizontalPodAutoscaler, KubernetesObject, PodDisruptionBudget
from tests.e2e.kit.control_plane import ControlPlane
from tests.e2e.kit.fixtures import kubernetes_controllers
from tests.e2e.kit.waiting import eventually

__all__ = ["kubernetes_controllers"]

RESOURCES = {"requests": {"cpu": "100m", "memory": "96Mi"}, "limits": {"memory": "1Gi"}}
SETTINGS = WaypointSettings(
    command=("waypoint",),
    image="localhost/ambimesh-waypoint:1",
    environment={"A": "b"},
    cluster=ClusterPods(max_replicas=4, resources=RESOURCES, image_pull_secrets=("s",)),
)


def _gateway(uid: str = "u") -> Gateway:
    metadata = ObjectMeta(name="w", namespace="default", uid=uid)
    return Gateway(metadata=metadata, spec=GatewaySpec(gateway_class_name="ambimesh-waypoint"))


def _text(values: list[KubernetesObject]) -> str:
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": [to_document(value) for value in values]})


@pytest.mark.kubernetes
def test_an_api_server_takes_them_and_what_it_adds_is_no_difference(kubernetes_controllers: ControlPlane) -> None:
    kubectl = kubernetes_controllers.kubectl
    # The owner is a ConfigMap here: there are no Gateways without their definition.
    kubectl("create", "configmap", "owner")
    owner = json.loads(kubectl("get", "configmap", "owner", "-o", "json"))["metadata"]["uid"]
    made = [
        msgspec.structs.replace(
            value,
            metadata=msgspec.structs.replace(
                value.metadata,
                owner_references=tuple(
                    msgspec.structs.replace(one, api_version="v1", kind="ConfigMap", name="owner")
                    for one in value.metadata.owner_references
                ),
            ),
        )
        for value in wanted(ObjectSet([_gateway(owner)]), SETTINGS)
    ]
    kubectl("apply", "--server-side", "--validate=strict", "-f", "-", manifest=_text(made))
    for value in made:
        found = json.loads(kubectl("get", value.kind, "w", "-o", "json"))
        wished = to_document(value)
        assert _within(wished.get("spec", {}), found.get("spec", {}))
        if isinstance(value, (HorizontalPodAutoscaler, PodDisruptionBudget)):
            found["metadata"].pop("managedFields", None)
            assert says(msgspec.convert(found, type(value)), value)

    def pods() -> None:
        (pod,) = json.loads(kubectl("get", "pods", "-l", "ambimesh.dev/managed=waypoint", "-o", "json"))["items"]
        assert pod["spec"]["securityContext"]["runAsNonRoot"] is True

    eventually(pods)
    kubectl("delete", "configmap", "owner")

    def gone() -> None:
        kinds = "serviceaccounts,services,deployments,horizontalpodautoscalers,poddisruptionbudgets,pods"
        assert kubectl("get", kinds, "-l", "ambimesh.dev/managed=waypoint", "-o", "name") == ""

    eventually(gone, seconds=60)


def _within(wished: object, found: object) -> bool:
    if isinstance(wished, dict):
        return isinstance(found, dict) and all(_within(value, found.get(key)) for key, value in wished.items())
    if isinstance(wished, (list, tuple)):
        return isinstance(found, list) and len(found) == len(wished) and all(map(_within, wished, found))
    return wished == found


async def test_what_is_not_wanted_any_more_is_deleted(tmp_path: object) -> None:
    store = FolderStore(str(tmp_path))
    gateway = store.replace(_gateway(""))
    assert isinstance(gateway, Gateway)
    await Reconciler(FolderWriter(store), SETTINGS).reconcile(ObjectSet([gateway]))
    assert len(store.of_kind(HorizontalPodAutoscaler)) == 1
    fewer = WaypointSettings(command=(), cluster=ClusterPods())
    there: list[KubernetesObject] = [gateway]
    there += store.of_kind(HorizontalPodAutoscaler)
    there += store.of_kind(PodDisruptionBudget)
    await Reconciler(FolderWriter(store), fewer).reconcile(ObjectSet(there))
    assert store.of_kind(HorizontalPodAutoscaler) == []
    assert len(store.of_kind(PodDisruptionBudget)) == 1
