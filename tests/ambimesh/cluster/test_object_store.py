"""Typed objects of a real cluster, through the commands' own store."""

from __future__ import annotations

import pytest

from ambimesh.cluster.client_driver import Cluster
from ambimesh.cluster.object_store import ClusterStore, api_version_of
from mesh.errors import InvalidMessage, ObjectMissing
from resources.base import ObjectMeta
from resources.objects import EndpointSlice, Gateway, Namespace, ReferenceGrant, ServiceAccount


@pytest.mark.kubernetes
def test_objects_come_and_go(cluster: Cluster, kubernetes_namespace: str) -> None:
    store = ClusterStore(cluster)
    account = ServiceAccount(metadata=ObjectMeta(name="a", namespace=kubernetes_namespace))
    applied = store.apply(account)
    assert applied.metadata.uid
    assert store.get(ServiceAccount, kubernetes_namespace, "a").metadata.uid == applied.metadata.uid
    found = [
        one.metadata.name for one in store.of_kind(ServiceAccount) if one.metadata.namespace == kubernetes_namespace
    ]
    assert found == ["a", "default"]
    assert store.delete(ServiceAccount, kubernetes_namespace, "a")
    with pytest.raises(ObjectMissing, match="ServiceAccount"):
        store.get(ServiceAccount, kubernetes_namespace, "a")


@pytest.mark.kubernetes
def test_labels_are_set_and_taken_away(cluster: Cluster, kubernetes_namespace: str) -> None:
    store = ClusterStore(cluster)
    labelled = store.patch_metadata(Namespace, "", kubernetes_namespace, labels={"a": "1", "b": "2"})
    assert labelled.metadata.labels["a"] == "1"
    changed = store.patch_metadata(Namespace, "", kubernetes_namespace, labels={"a": None}, annotations={"x": "y"})
    assert "a" not in changed.metadata.labels
    assert changed.metadata.labels["b"] == "2"
    assert changed.metadata.annotations["x"] == "y"


@pytest.mark.kubernetes
def test_of_a_kind_that_is_not_there_are_none(cluster: Cluster) -> None:
    assert ClusterStore(cluster).of_kind(Gateway) == []


def test_the_version_is_the_first_of_the_type() -> None:
    assert api_version_of(Gateway) == "gateway.networking.k8s.io/v1"
    assert api_version_of(ReferenceGrant) == "gateway.networking.k8s.io/v1beta1"
    assert api_version_of(EndpointSlice) == "discovery.k8s.io/v1"


def test_an_object_of_another_form_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    class Other:
        def get(self, *_: str) -> dict[str, object]:
            return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "x", "later": 1}}

    with pytest.raises(InvalidMessage, match="Namespace x"):
        ClusterStore(Other()).get(Namespace, "", "x")  # type: ignore[arg-type]
