"""The kinds of objects the mesh reads."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal, NamedTuple, TypeAlias

from msgspec import field

from resources.autoscaling import AutoscalerSpec, AutoscalerStatus, DisruptionBudgetSpec, DisruptionBudgetStatus
from resources.base import Condition, Fields, ObjectMeta, Raw
from resources.deployment import DeploymentSpec, DeploymentStatus
from resources.destination_rule import DestinationRuleSpec
from resources.gateway import (
    AncestorStatus,
    BackendTlsPolicySpec,
    GatewayClassSpec,
    GatewayClassStatus,
    GatewaySpec,
    GatewayStatus,
    ReferenceGrantSpec,
)
from resources.network import Endpoint, EndpointPort, ServiceSpec, ServiceStatus
from resources.node import NodeSpec
from resources.pod import PodSpec, PodStatus
from resources.routes import GrpcRouteSpec, HttpRouteSpec, RouteStatus, TcpRouteSpec, TlsRouteSpec
from resources.security import AuthorizationPolicySpec, PeerAuthenticationSpec, PolicyStatus, RequestAuthenticationSpec
from resources.service_entry import ServiceEntrySpec, ServiceEntryStatus, WorkloadEntrySpec
from resources.telemetry import TelemetrySpec
from resources.virtual_service import NetworkingStatus, VirtualServiceSpec


class ObjectKey(NamedTuple):
    """What names an object; ``namespace`` is empty for cluster-scoped kinds."""

    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}" if self.namespace else f"{self.kind} {self.name}"


_Networking = Literal["networking.istio.io/v1", "networking.istio.io/v1beta1", "networking.istio.io/v1alpha3"]
_Gateway = Literal["gateway.networking.k8s.io/v1", "gateway.networking.k8s.io/v1beta1"]
_GatewayBeta = Literal["gateway.networking.k8s.io/v1beta1", "gateway.networking.k8s.io/v1"]


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


class Node(_Object, frozen=True):
    """A machine; its labels say where it stands."""

    api_version: Literal["v1"] = "v1"
    kind: Literal["Node"] = "Node"
    spec: NodeSpec = NodeSpec()
    status: Raw = None


class ServiceAccount(_Object, frozen=True):
    """An account that pods run as: the source of their identity."""

    api_version: Literal["v1"] = "v1"
    kind: Literal["ServiceAccount"] = "ServiceAccount"
    secrets: Raw = None
    image_pull_secrets: Raw = None
    automount_service_account_token: bool | None = None


class ConfigMap(_Object, frozen=True):
    """Settings as texts. The mesh reads the root certificates in those that a BackendTLSPolicy names."""

    api_version: Literal["v1"] = "v1"
    kind: Literal["ConfigMap"] = "ConfigMap"
    data: dict[str, str] = field(default_factory=dict)
    binary_data: Raw = None
    immutable: bool | None = None


class Secret(_Object, frozen=True):
    """Confidential texts. The mesh reads certificates and keys in those that a DestinationRule names."""

    api_version: Literal["v1"] = "v1"
    kind: Literal["Secret"] = "Secret"
    type: str = ""
    data: dict[str, str] = field(default_factory=dict)  # in base64
    string_data: dict[str, str] = field(default_factory=dict)
    immutable: bool | None = None

    def __repr__(self) -> str:  # without what it keeps
        return f"Secret({self.metadata.namespace}/{self.metadata.name})"


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


class HorizontalPodAutoscaler(_Object, frozen=True):
    """Changes a Deployment's number of replicas by their load."""

    spec: AutoscalerSpec
    api_version: Literal["autoscaling/v2"] = "autoscaling/v2"
    kind: Literal["HorizontalPodAutoscaler"] = "HorizontalPodAutoscaler"
    status: AutoscalerStatus | None = None


class PodDisruptionBudget(_Object, frozen=True):
    """How many of some pods may be evicted at a time."""

    api_version: Literal["policy/v1"] = "policy/v1"
    kind: Literal["PodDisruptionBudget"] = "PodDisruptionBudget"
    spec: DisruptionBudgetSpec = DisruptionBudgetSpec()
    status: DisruptionBudgetStatus | None = None


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


class RequestAuthentication(_Object, frozen=True):
    """Whose tokens are accepted."""

    api_version: Literal["security.istio.io/v1", "security.istio.io/v1beta1"] = "security.istio.io/v1"
    kind: Literal["RequestAuthentication"] = "RequestAuthentication"
    spec: RequestAuthenticationSpec = RequestAuthenticationSpec()
    status: PolicyStatus | None = None


class GatewayClass(_Object, frozen=True):
    """A kind of gateway, and who runs it."""

    spec: GatewayClassSpec
    api_version: _Gateway = "gateway.networking.k8s.io/v1"
    kind: Literal["GatewayClass"] = "GatewayClass"
    status: GatewayClassStatus | None = None


class Gateway(_Object, frozen=True):
    """A gateway; one of the waypoint class is a waypoint."""

    spec: GatewaySpec
    api_version: _Gateway = "gateway.networking.k8s.io/v1"
    kind: Literal["Gateway"] = "Gateway"
    status: GatewayStatus | None = None


class HTTPRoute(_Object, frozen=True):
    """Routes of HTTP requests."""

    api_version: _Gateway = "gateway.networking.k8s.io/v1"
    kind: Literal["HTTPRoute"] = "HTTPRoute"
    spec: HttpRouteSpec = HttpRouteSpec()
    status: RouteStatus | None = None


class GRPCRoute(_Object, frozen=True):
    """Routes of gRPC calls."""

    api_version: Literal["gateway.networking.k8s.io/v1"] = "gateway.networking.k8s.io/v1"
    kind: Literal["GRPCRoute"] = "GRPCRoute"
    spec: GrpcRouteSpec = GrpcRouteSpec()
    status: RouteStatus | None = None


class TCPRoute(_Object, frozen=True):
    """Routes of TCP connections."""

    spec: TcpRouteSpec
    api_version: Literal["gateway.networking.k8s.io/v1", "gateway.networking.k8s.io/v1alpha2"] = (
        "gateway.networking.k8s.io/v1"
    )
    kind: Literal["TCPRoute"] = "TCPRoute"
    status: RouteStatus | None = None


class TLSRoute(_Object, frozen=True):
    """Routes of TLS connections."""

    spec: TlsRouteSpec
    api_version: Literal[
        "gateway.networking.k8s.io/v1", "gateway.networking.k8s.io/v1alpha3", "gateway.networking.k8s.io/v1alpha2"
    ] = "gateway.networking.k8s.io/v1"
    kind: Literal["TLSRoute"] = "TLSRoute"
    status: RouteStatus | None = None


class ReferenceGrant(_Object, frozen=True):
    """That objects of other namespaces may refer to some of this one."""

    spec: ReferenceGrantSpec
    api_version: _GatewayBeta = "gateway.networking.k8s.io/v1beta1"
    kind: Literal["ReferenceGrant"] = "ReferenceGrant"


class BackendTLSPolicy(_Object, frozen=True):
    """That a Service is spoken to in TLS."""

    spec: BackendTlsPolicySpec
    api_version: Literal[
        "gateway.networking.k8s.io/v1", "gateway.networking.k8s.io/v1alpha3"
    ] = "gateway.networking.k8s.io/v1"
    kind: Literal["BackendTLSPolicy"] = "BackendTLSPolicy"
    status: AncestorStatus | None = None


class VirtualService(_Object, frozen=True):
    """Istio's routes."""

    spec: VirtualServiceSpec
    api_version: _Networking = "networking.istio.io/v1"
    kind: Literal["VirtualService"] = "VirtualService"
    status: NetworkingStatus | None = None


class DestinationRule(_Object, frozen=True):
    """How a service is treated as a destination."""

    spec: DestinationRuleSpec
    api_version: _Networking = "networking.istio.io/v1"
    kind: Literal["DestinationRule"] = "DestinationRule"
    status: NetworkingStatus | None = None


class ServiceEntry(_Object, frozen=True):
    """A service that Kubernetes does not know."""

    spec: ServiceEntrySpec
    api_version: _Networking = "networking.istio.io/v1"
    kind: Literal["ServiceEntry"] = "ServiceEntry"
    status: ServiceEntryStatus | None = None


class WorkloadEntry(_Object, frozen=True):
    """An endpoint that is no pod."""

    spec: WorkloadEntrySpec
    api_version: _Networking = "networking.istio.io/v1"
    kind: Literal["WorkloadEntry"] = "WorkloadEntry"
    status: NetworkingStatus | None = None


class Telemetry(_Object, frozen=True):
    """What is recorded about requests."""

    api_version: Literal["telemetry.istio.io/v1", "telemetry.istio.io/v1alpha1"] = "telemetry.istio.io/v1"
    kind: Literal["Telemetry"] = "Telemetry"
    spec: TelemetrySpec = TelemetrySpec()
    status: NetworkingStatus | None = None


KubernetesObject: TypeAlias = (
    Namespace
    | Node
    | ServiceAccount
    | ConfigMap
    | Secret
    | Pod
    | Deployment
    | HorizontalPodAutoscaler
    | PodDisruptionBudget
    | Service
    | EndpointSlice
    | AuthorizationPolicy
    | PeerAuthentication
    | RequestAuthentication
    | GatewayClass
    | Gateway
    | HTTPRoute
    | GRPCRoute
    | TCPRoute
    | TLSRoute
    | ReferenceGrant
    | BackendTLSPolicy
    | VirtualService
    | DestinationRule
    | ServiceEntry
    | WorkloadEntry
    | Telemetry
)

KINDS: Mapping[str, type[KubernetesObject]] = MappingProxyType(
    {
        "Namespace": Namespace,
        "Node": Node,
        "ServiceAccount": ServiceAccount,
        "ConfigMap": ConfigMap,
        "Secret": Secret,
        "Pod": Pod,
        "Deployment": Deployment,
        "HorizontalPodAutoscaler": HorizontalPodAutoscaler,
        "PodDisruptionBudget": PodDisruptionBudget,
        "Service": Service,
        "EndpointSlice": EndpointSlice,
        "AuthorizationPolicy": AuthorizationPolicy,
        "PeerAuthentication": PeerAuthentication,
        "RequestAuthentication": RequestAuthentication,
        "GatewayClass": GatewayClass,
        "Gateway": Gateway,
        "HTTPRoute": HTTPRoute,
        "GRPCRoute": GRPCRoute,
        "TCPRoute": TCPRoute,
        "TLSRoute": TLSRoute,
        "ReferenceGrant": ReferenceGrant,
        "BackendTLSPolicy": BackendTLSPolicy,
        "VirtualService": VirtualService,
        "DestinationRule": DestinationRule,
        "ServiceEntry": ServiceEntry,
        "WorkloadEntry": WorkloadEntry,
        "Telemetry": Telemetry,
    }
)
"""Every kind that is read, by name."""

ROOTS_KEY = "ca.crt"
"""Where a ConfigMap or a Secret has root certificates."""
CREDENTIAL_KEYS = frozenset({ROOTS_KEY, "tls.crt", "tls.key", "cacert", "cert", "key"})
"""Where a Secret has what a DestinationRule's ``credentialName`` refers to."""
CLUSTER_SCOPED = frozenset({"Namespace", "Node", "GatewayClass"})
SERVICE_NAME_LABEL = "kubernetes.io/service-name"
