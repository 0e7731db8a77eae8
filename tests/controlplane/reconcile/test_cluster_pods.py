"""How closed a waypoint's pods are."""

from __future__ import annotations

from controlplane.reconcile.cluster_pods import ClusterPods
from controlplane.reconcile.waypoints import WaypointSettings, parts_of
from resources.base import ObjectMeta
from resources.gateway import GatewaySpec
from resources.objects import Gateway
from resources.pod import PodSpec


def _spec(pods: ClusterPods | None) -> PodSpec:
    metadata = ObjectMeta(name="w", namespace="demo", uid="u")
    gateway = Gateway(metadata=metadata, spec=GatewaySpec(gateway_class_name="ambimesh-waypoint"))
    settings = WaypointSettings(command=("waypoint",), image="i:1", cluster=pods)
    return parts_of(gateway, settings)[2].spec.template.spec


def test_it_has_no_right_that_it_does_not_need() -> None:
    spec = _spec(ClusterPods())
    (container,) = spec.containers
    assert spec.automount_service_account_token is False
    assert spec.security_context["runAsNonRoot"] is True
    assert spec.security_context["runAsUser"] != 0
    assert spec.security_context["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container.security_context == {
        "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
    }  # fmt: skip
    assert {volume["name"] for volume in spec.volumes} == {mount["name"] for mount in container.volume_mounts}
    assert all("hostPath" not in volume for volume in spec.volumes)


def test_what_the_installation_says_of_images_and_resources_counts() -> None:
    resources = {"limits": {"memory": "1Gi"}}
    pods = ClusterPods(image_pull_policy="Never", image_pull_secrets=("s",), resources=resources, token_audience="a")
    spec = _spec(pods)
    (container,) = spec.containers
    assert container.image_pull_policy == "Never"
    assert container.resources == resources
    assert spec.image_pull_secrets == [{"name": "s"}]
    (token,) = [volume["projected"] for volume in spec.volumes if "projected" in volume]
    assert token["sources"][0]["serviceAccountToken"]["audience"] == "a"
    assert container.startup_probe is not None


def test_replicas_of_one_revision_are_spread_over_nodes() -> None:
    (spread,) = _spec(ClusterPods()).topology_spread_constraints
    assert spread["labelSelector"] == {"matchLabels": {"gateway.networking.k8s.io/gateway-name": "w"}}
    assert spread["matchLabelKeys"] == ["pod-template-hash"]


def test_in_a_lab_it_is_a_process_that_needs_none_of_it() -> None:
    spec = _spec(None)
    assert spec.security_context is None
    assert spec.volumes is None
    assert spec.containers[0].security_context is None
