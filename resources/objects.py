"""The kinds of objects the mesh reads."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal, NamedTuple, TypeAlias

from resources.base import Condition, Fields, ObjectMeta, Raw
from resources.deployment import DeploymentSpec, DeploymentStatus
from resources.network import Endpoint, EndpointPort, ServiceSpec, ServiceStatus
from resources.pod import PodSpec, PodStatus
from resources.security import AuthorizationPolicySpec, PeerAuthenticationSpec, PolicyStatus


class ObjectKey(NamedTuple):
    """What names an object; ``namespace`` is empty for cluster-scoped kinds."""

    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}" if self.namespace else f"{self.kind} {self.name}"


class _Object(Fields, frozen=True):
    metadata: ObjectMeta

    @property
    def key(self) -> ObjectKey:
        """Kind, namespace and name."""
        return ObjectKey(type(self).__name__, self.metadata.namespace, self.metadata.name)


class NamespaceSpec(Fields, frozen=True):
    """Who must agree before a namespace goes."""

    finalizers: tuple[str, ...] = ()


class NamespaceStatus(Fields, frozen=True):
    """Whether a namespace lives."""

    phase: str = ""
    conditions: tuple[Condition, ...] = ()


class Namespace(_Object, frozen=True):
    """A namespace."""

    api_version: Literal["v1"] = "v1"
    kind: Literal["Namespace"] = "Namespace"
    spec: NamespaceSpec | None = None
    status: NamespaceStatus | None = None


class ServiceAccount(_Object, frozen=True):
    """An account that pods run as: the source of their identity."""

    api_version: Literal["v1"] = "v1"
    kind: Literal["ServiceAccount"] = "ServiceAccount"
    secrets: Raw = None
    image_pull_secrets: Raw = None
    automount_service_account_token: bool | None = None


class Pod(_Object, frozen=True):
    """A pod."""

    spec: PodSpec
    api_version: Literal["v1"] = "v1"
    kind: Literal["Pod"] = "Pod"
    status: PodStatus = PodStatus()


class Deployment(_Object, frozen=True):
    """Pods of one template, so many at a time."""

    spec: DeploymentSpec
    api_version: Literal["apps/v1"] = "apps/v1"
    kind: Literal["Deployment"] = "Deployment"
    status: DeploymentStatus | None = None


class Service(_Object, frozen=True):
    """A service."""

    spec: ServiceSpec
    api_version: Literal["v1"] = "v1"
    kind: Literal["Service"] = "Service"
    status: ServiceStatus | None = None


class EndpointSlice(_Object, frozen=True):
    """Some of the endpoints of the Service that the label ``kubernetes.io/service-name`` names."""

    address_type: Literal["IPv4", "IPv6", "FQDN"]
    api_version: Literal["discovery.k8s.io/v1"] = "discovery.k8s.io/v1"
    kind: Literal["EndpointSlice"] = "EndpointSlice"
    endpoints: tuple[Endpoint, ...] = ()
    ports: tuple[EndpointPort, ...] = ()


class AuthorizationPolicy(_Object, frozen=True):
    """Who may call the selected workloads."""

    api_version: Literal["security.istio.io/v1", "security.istio.io/v1beta1"] = "security.istio.io/v1"
    kind: Literal["AuthorizationPolicy"] = "AuthorizationPolicy"
    spec: AuthorizationPolicySpec = AuthorizationPolicySpec()
    status: PolicyStatus | None = None


class PeerAuthentication(_Object, frozen=True):
    """Whether callers of the selected workloads must prove an identity."""

    api_version: Literal["security.istio.io/v1", "security.istio.io/v1beta1"] = "security.istio.io/v1"
    kind: Literal["PeerAuthentication"] = "PeerAuthentication"
    spec: PeerAuthenticationSpec = PeerAuthenticationSpec()
    status: PolicyStatus | None = None


KubernetesObject: TypeAlias = (
    Namespace | ServiceAccount | Pod | Deployment | Service | EndpointSlice | AuthorizationPolicy | PeerAuthentication
)

KINDS: Mapping[str, type[KubernetesObject]] = MappingProxyType(
    {
        "Namespace": Namespace,
        "ServiceAccount": ServiceAccount,
        "Pod": Pod,
        "Deployment": Deployment,
        "Service": Service,
        "EndpointSlice": EndpointSlice,
        "AuthorizationPolicy": AuthorizationPolicy,
        "PeerAuthentication": PeerAuthentication,
    }
)
"""Every kind that is read, by name."""

CLUSTER_SCOPED = frozenset({"Namespace"})
SERVICE_NAME_LABEL = "kubernetes.io/service-name"
