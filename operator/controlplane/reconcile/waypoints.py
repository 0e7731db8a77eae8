"""The parts of a waypoint: what a Gateway of our class becomes. Pure.

A service account, which is the waypoint's identity; a Service, by which ztunnels find its replicas; a Deployment of
them. All bear the Gateway's name, as Istio's do, so policies written for those keep their meaning. The pods stay out of
the mesh (``istio.io/dataplane-mode: none``): they speak HBONE themselves, which a label tells the translation.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from mesh import ports
from resources.base import ObjectMeta, OwnerReference
from resources.deployment import DeploymentSpec, PodTemplate
from resources.network import ServicePort, ServiceSpec
from resources.object_set import ObjectSet
from resources.objects import Deployment, Gateway, KubernetesObject, Service, ServiceAccount
from resources.pod import Container, ContainerPort, EnvironmentVariable, HttpGetAction, PodSpec, Probe
from resources.security import WorkloadSelector

GATEWAY_NAME_LABEL = "gateway.networking.k8s.io/gateway-name"
GATEWAY_CLASS_LABEL = "gateway.networking.k8s.io/gateway-class-name"
MODE_LABEL = "istio.io/dataplane-mode"
TUNNEL_LABEL = "networking.istio.io/tunnel"
REPLICAS_ANNOTATION = "ambimesh.dev/replicas"
READINESS_PORT = 15021
METRICS_PORT = 15020
_MOST_REPLICAS = 64


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
    """How long a replica may drain."""


def is_waypoint(gateway: Gateway, settings: WaypointSettings) -> bool:
    """Whether we run this gateway."""
    return gateway.spec.gateway_class_name in settings.classes


def wanted(objects: ObjectSet, settings: WaypointSettings) -> Iterator[KubernetesObject]:
    """Everything that should be there for the waypoints of a cluster."""
    for gateway in objects.of_kind(Gateway):
        if is_waypoint(gateway, settings) and gateway.metadata.deletion_timestamp is None:
            yield from parts_of(gateway, settings)


def parts_of(gateway: Gateway, settings: WaypointSettings) -> tuple[ServiceAccount, Service, Deployment]:
    """What one Gateway becomes."""
    name = gateway.metadata.name
    labels = {GATEWAY_NAME_LABEL: name, GATEWAY_CLASS_LABEL: gateway.spec.gateway_class_name}
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
    template = PodTemplate(
        metadata=ObjectMeta(labels={**labels, MODE_LABEL: "none", TUNNEL_LABEL: "http"}),
        spec=PodSpec(
            service_account_name=name,
            termination_grace_period_seconds=settings.grace_seconds,
            containers=(_container(gateway, settings),),
        ),
    )
    deployment = Deployment(
        metadata=_metadata(gateway, labels),
        spec=DeploymentSpec(
            replicas=replicas_of(gateway), selector=WorkloadSelector(match_labels=selector), template=template
        ),
    )
    return account, service, deployment


def replicas_of(gateway: Gateway) -> int:
    """How many replicas the Gateway asks for; 1 if it does not say, or not in a number."""
    text = gateway.metadata.annotations.get(REPLICAS_ANNOTATION, "")
    return min(int(text), _MOST_REPLICAS) if text.isascii() and text.isdigit() and len(text) < 6 else 1


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
    environment = [
        *(
            EnvironmentVariable(name=name, value_from={"fieldRef": {"fieldPath": path}})
            for name, path in facts.items()
        ),
        EnvironmentVariable(name="GATEWAY_NAME", value=gateway.metadata.name),
        *(EnvironmentVariable(name=name, value=value) for name, value in sorted(settings.environment.items())),
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
