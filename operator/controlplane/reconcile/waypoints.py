"""The parts of a waypoint: what a Gateway of our class becomes. Pure.

A service account, which is the waypoint's identity; a Service, by which ztunnels find its replicas; a Deployment of
them. All bear the Gateway's name, as Istio's do, so policies written for those keep their meaning. The pods stay out of
the mesh (``istio.io/dataplane-mode: none``): they speak HBONE themselves, which a label tells the translation.

In a cluster there are a disruption budget and, unless the installation says otherwise, an autoscaler too, and pods are
as closed as they can be: no user of the machine's, no capability, no writable file but in memory, no token of the API,
only one that is for the mesh (``cluster_pods``). A lab runs the same programs as processes, which need none of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from controlplane.reconcile.cluster_pods import ROLLOUT, ClusterPods, closed
from mesh import ports
from resources.autoscaling import AutoscalerSpec, DisruptionBudgetSpec, ScaleTarget
from resources.base import ObjectMeta, OwnerReference
from resources.deployment import DeploymentSpec, PodTemplate
from resources.network import ServicePort, ServiceSpec
from resources.object_set import ObjectSet
from resources.objects import (
    Deployment,
    Gateway,
    HorizontalPodAutoscaler,
    KubernetesObject,
    PodDisruptionBudget,
    Service,
    ServiceAccount,
)
from resources.pod import Container, ContainerPort, EnvironmentVariable, HttpGetAction, PodSpec, Probe
from resources.security import WorkloadSelector

GATEWAY_NAME_LABEL = "gateway.networking.k8s.io/gateway-name"
GATEWAY_CLASS_LABEL = "gateway.networking.k8s.io/gateway-class-name"
MODE_LABEL = "istio.io/dataplane-mode"
TUNNEL_LABEL = "networking.istio.io/tunnel"
REPLICAS_ANNOTATION = "ambimesh.dev/replicas"
DRAIN_ANNOTATION = "ambimesh.dev/drain-seconds"
"""Of a Gateway: how long requests may go on when a replica ends; whole seconds, at most a day."""
MANAGED_LABEL = "ambimesh.dev/managed"
MANAGED = "waypoint"
"""On everything that is made here: what an uninstallation takes away."""
RESTARTED_ANNOTATION = "ambimesh.dev/restarted-at"
"""Of a Gateway, with any value: replicas are replaced one after the other whenever it changes."""
READINESS_PORT = 15021
METRICS_PORT = 15020
_MOST_REPLICAS = 64
_MOST_DRAIN = 24 * 3600
_BESIDE_DRAIN = 5
"""Seconds of the grace period in which peers hear of the end, and what is cut off is told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WaypointSettings:
    """How this installation runs waypoints."""

    classes: frozenset[str] = frozenset({"ambimesh-waypoint"})
    """Gateway classes whose gateways are waypoints of ours."""
    command: tuple[str, ...]
    """The waypoint's program, with its arguments."""
    image: str = ""
    environment: dict[str, str] = field(default_factory=dict)
    """Beside what every replica is told of itself."""
    grace_seconds: int = 30
    """How long a replica may take to end, where its Gateway does not say how long it may drain."""
    cluster: ClusterPods | None = None
    """How they run in a Kubernetes cluster; None in a lab."""


def is_waypoint(gateway: Gateway, settings: WaypointSettings) -> bool:
    """Whether we run this gateway."""
    return gateway.spec.gateway_class_name in settings.classes


def wanted(objects: ObjectSet, settings: WaypointSettings) -> Iterator[KubernetesObject]:
    """Everything that should be there for the waypoints of a cluster."""
    for gateway in _ours(objects, settings):
        yield from parts_of(gateway, settings)
        yield from scaling_of(gateway, settings)


def unwanted(objects: ObjectSet, settings: WaypointSettings) -> Iterator[KubernetesObject]:
    """What we have made and what should not be there any more although its Gateway is.

    That is everything of a Gateway that has changed to a class of others, and an autoscaler where there are to be none.
    What a Gateway that is gone owned goes by itself.
    """
    gateways = {gateway.metadata.uid for gateway in objects.of_kind(Gateway)}
    keep = {value.key for value in wanted(objects, settings)}
    for kind in (HorizontalPodAutoscaler, PodDisruptionBudget, Deployment, Service, ServiceAccount):
        for value in objects.of_kind(kind):
            owners = {owner.uid for owner in value.metadata.owner_references}
            if value.metadata.labels.get(MANAGED_LABEL) == MANAGED and value.key not in keep and owners & gateways:
                yield value


def _ours(objects: ObjectSet, settings: WaypointSettings) -> Iterator[Gateway]:
    for gateway in objects.of_kind(Gateway):
        if is_waypoint(gateway, settings) and gateway.metadata.deletion_timestamp is None:
            yield gateway


def scaling_of(
    gateway: Gateway, settings: WaypointSettings
) -> tuple[PodDisruptionBudget | HorizontalPodAutoscaler, ...]:
    """What keeps one Gateway's replicas in number; nothing in a lab."""
    cluster = settings.cluster
    if cluster is None:
        return ()
    name = gateway.metadata.name
    metadata = _metadata(gateway, _labels(gateway))
    selector = WorkloadSelector(match_labels={GATEWAY_NAME_LABEL: name})
    # Of one replica none may be kept: a drain of its node would wait for ever.
    budget = PodDisruptionBudget(metadata=metadata, spec=DisruptionBudgetSpec(selector=selector, max_unavailable=1))
    if cluster.max_replicas is None:
        return (budget,)
    least = max(1, replicas_of(gateway))
    target = {"type": "Utilization", "averageUtilization": cluster.cpu_utilization}
    autoscaler = HorizontalPodAutoscaler(
        metadata=metadata,
        spec=AutoscalerSpec(
            scale_target_ref=ScaleTarget(api_version="apps/v1", kind="Deployment", name=name),
            min_replicas=least,
            max_replicas=max(least, cluster.max_replicas),
            metrics=[{"type": "Resource", "resource": {"name": "cpu", "target": target}}],
        ),
    )
    return budget, autoscaler


def _labels(gateway: Gateway) -> dict[str, str]:
    return {
        GATEWAY_NAME_LABEL: gateway.metadata.name,
        GATEWAY_CLASS_LABEL: gateway.spec.gateway_class_name,
        MANAGED_LABEL: MANAGED,
    }


def parts_of(gateway: Gateway, settings: WaypointSettings) -> tuple[ServiceAccount, Service, Deployment]:
    """What one Gateway becomes, everywhere."""
    name = gateway.metadata.name
    labels = _labels(gateway)
    selector = {GATEWAY_NAME_LABEL: name}
    account = ServiceAccount(metadata=_metadata(gateway, labels))
    service = Service(
        metadata=_metadata(gateway, labels),
        spec=ServiceSpec(
            selector=selector,
            ports=(
                ServicePort(name="status", port=READINESS_PORT, protocol="TCP"),
                ServicePort(name="mesh", port=ports.HBONE, protocol="TCP", app_protocol="tcp"),
            ),
        ),
    )
    drain = drain_seconds_of(gateway)
    spec = PodSpec(
        service_account_name=name,
        termination_grace_period_seconds=settings.grace_seconds if drain is None else drain + _BESIDE_DRAIN,
        containers=(_container(gateway, settings),),
    )
    if settings.cluster is not None:
        spec = closed(spec, settings.cluster, selector)
    template = PodTemplate(
        metadata=ObjectMeta(
            labels={**labels, MODE_LABEL: "none", TUNNEL_LABEL: "http"},
            annotations={
                name: value for name, value in gateway.metadata.annotations.items() if name == RESTARTED_ANNOTATION
            },
        ),
        spec=spec,
    )
    # Left out, the number of replicas is the autoscaler's.
    scaled = settings.cluster is not None and settings.cluster.max_replicas is not None
    deployment = Deployment(
        metadata=_metadata(gateway, labels),
        spec=DeploymentSpec(
            replicas=None if scaled else replicas_of(gateway),
            selector=WorkloadSelector(match_labels=selector),
            template=template,
            strategy=None if settings.cluster is None else ROLLOUT,
        ),
    )
    return account, service, deployment


def replicas_of(gateway: Gateway) -> int:
    """How many replicas the Gateway asks for; 1 if it does not say, or not in a number."""
    text = gateway.metadata.annotations.get(REPLICAS_ANNOTATION, "")
    return min(int(text), _MOST_REPLICAS) if text.isascii() and text.isdigit() and len(text) < 6 else 1


def drain_seconds_of(gateway: Gateway) -> int | None:
    """How long the Gateway's replicas may drain; None if it does not say, or not in a number of seconds."""
    text = gateway.metadata.annotations.get(DRAIN_ANNOTATION, "")
    return min(int(text), _MOST_DRAIN) if text.isascii() and text.isdigit() and len(text) < 9 else None


def _metadata(gateway: Gateway, labels: dict[str, str]) -> ObjectMeta:
    owner = OwnerReference(
        api_version=gateway.api_version,
        kind="Gateway",
        name=gateway.metadata.name,
        uid=gateway.metadata.uid,
        controller=True,
    )
    return ObjectMeta(
        name=gateway.metadata.name, namespace=gateway.metadata.namespace, labels=labels, owner_references=(owner,)
    )


def _container(gateway: Gateway, settings: WaypointSettings) -> Container:
    facts = {
        "POD_NAME": "metadata.name",
        "POD_NAMESPACE": "metadata.namespace",
        "POD_IP": "status.podIP",
        "NODE_NAME": "spec.nodeName",
        "SERVICE_ACCOUNT": "spec.serviceAccountName",
    }
    shared = dict(settings.environment)
    drain = drain_seconds_of(gateway)
    if drain is not None:
        shared["DRAIN_SECONDS"] = str(drain)
    environment = [
        *(
            EnvironmentVariable(name=name, value_from={"fieldRef": {"fieldPath": path}})
            for name, path in facts.items()
        ),
        EnvironmentVariable(name="GATEWAY_NAME", value=gateway.metadata.name),
        *(EnvironmentVariable(name=name, value=value) for name, value in sorted(shared.items())),
    ]
    ready = HttpGetAction(port=READINESS_PORT, path="/healthz/ready")
    return Container(
        name="waypoint",
        image=settings.image,
        command=settings.command,
        env=tuple(environment),
        ports=(
            ContainerPort(name="mesh", container_port=ports.HBONE),
            ContainerPort(name="metrics", container_port=METRICS_PORT),
            ContainerPort(name="status", container_port=READINESS_PORT),
        ),
        readiness_probe=Probe(http_get=ready, period_seconds=1, failure_threshold=3),
    )
