"""Where the API has the kinds that are read: groups, versions, names in addresses, and how much of them is wanted."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import get_args, get_type_hints

from resources.objects import CLUSTER_SCOPED, KINDS, KubernetesObject


class Need(enum.Enum):
    """What to do where a kind may not be read."""

    REQUIRED = "required"
    """Nothing can be said without it: either everybody would seem to be gone, or everything to be allowed."""
    OPTIONAL = "optional"
    """The rest goes on without it."""


class Reading(enum.Enum):
    """How fields are treated that the structures of this package do not have."""

    STRICT = "strict"
    """They make the object a problem: the mesh acts on all of it, and what it does not know might be a condition."""
    LENIENT = "lenient"
    """They are left out, with all others that the mesh does not look at: newer API servers have more fields."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKind:
    """One kind in the API."""

    type: type[KubernetesObject]
    group: str
    """Empty for the core group."""
    versions: tuple[str, ...]
    """That can be read, the preferred one first."""
    plural: str
    need: Need = Need.OPTIONAL
    reading: Reading = Reading.STRICT
    label_selector: str = ""
    field_selector: str = ""

    @property
    def name(self) -> str:
        """As in ``kind``."""
        return self.type.__name__

    @property
    def namespaced(self) -> bool:
        """Whether its objects are in namespaces."""
        return self.name not in CLUSTER_SCOPED

    def api_version(self, version: str) -> str:
        """As in ``apiVersion``."""
        return f"{self.group}/{version}" if self.group else version

    def path(self, version: str, namespace: str = "", name: str = "") -> str:
        """The address of all objects, of those of a namespace, or of one."""
        root = f"/apis/{self.group}/{version}" if self.group else f"/api/{version}"
        place = f"/namespaces/{namespace}" if namespace and self.namespaced else ""
        return f"{root}{place}/{self.plural}" + (f"/{name}" if name else "")


_GATEWAY = "gateway.networking.k8s.io"
_SECURITY = "security.istio.io"
_NETWORKING = "networking.istio.io"


def _core(kind: str, plural: str, need: Need = Need.REQUIRED, group: str = "", **selectors: str) -> ApiKind:
    return ApiKind(
        type=KINDS[kind],
        group=group,
        versions=_versions(kind),
        plural=plural,
        need=need,
        reading=Reading.LENIENT,
        **selectors,
    )


def _custom(kind: str, group: str, plural: str, need: Need = Need.OPTIONAL) -> ApiKind:
    return ApiKind(type=KINDS[kind], group=group, versions=_versions(kind), plural=plural, need=need)


def _versions(kind: str) -> tuple[str, ...]:
    """Those that the structure's ``apiVersion`` admits, in its order."""
    admitted = get_args(get_type_hints(KINDS[kind])["api_version"])
    return tuple(version.rpartition("/")[2] for version in admitted)


_OURS = "gateway.networking.k8s.io/gateway-name"

_NO_CREDENTIALS = ",".join(
    f"type!={kind}"
    for kind in (
        "bootstrap.kubernetes.io/token",
        "helm.sh/release.v1",
        "kubernetes.io/dockerconfigjson",
        "kubernetes.io/service-account-token",
    )
)
"""Secrets that are for others are not even sent."""
CREDENTIALS = "Secret"
"""The kind that is read only where an operator is told to: who may read it may read all of them."""

API_KINDS: Mapping[str, ApiKind] = MappingProxyType(
    {
        kind.name: kind
        for kind in (
            _core("Namespace", "namespaces"),
            _core("Node", "nodes", Need.OPTIONAL),
            _core("ServiceAccount", "serviceaccounts", Need.OPTIONAL),
            _core("ConfigMap", "configmaps", Need.OPTIONAL),
            _core("Secret", "secrets", Need.OPTIONAL, field_selector=_NO_CREDENTIALS),
            _core("Pod", "pods"),
            _core("Service", "services"),
            _core("EndpointSlice", "endpointslices", group="discovery.k8s.io"),
            _core("Deployment", "deployments", Need.OPTIONAL, "apps", label_selector=_OURS),
            _core(
                "HorizontalPodAutoscaler",
                "horizontalpodautoscalers",
                Need.OPTIONAL,
                "autoscaling",
                label_selector=_OURS,
            ),
            _core("PodDisruptionBudget", "poddisruptionbudgets", Need.OPTIONAL, "policy", label_selector=_OURS),
            _custom("AuthorizationPolicy", _SECURITY, "authorizationpolicies", Need.REQUIRED),
            _custom("PeerAuthentication", _SECURITY, "peerauthentications", Need.REQUIRED),
            _custom("RequestAuthentication", _SECURITY, "requestauthentications", Need.REQUIRED),
            _custom("GatewayClass", _GATEWAY, "gatewayclasses"),
            _custom("Gateway", _GATEWAY, "gateways"),
            _custom("HTTPRoute", _GATEWAY, "httproutes"),
            _custom("GRPCRoute", _GATEWAY, "grpcroutes"),
            _custom("TCPRoute", _GATEWAY, "tcproutes"),
            _custom("TLSRoute", _GATEWAY, "tlsroutes"),
            _custom("ReferenceGrant", _GATEWAY, "referencegrants"),
            _custom("BackendTLSPolicy", _GATEWAY, "backendtlspolicies"),
            _custom("VirtualService", _NETWORKING, "virtualservices"),
            _custom("DestinationRule", _NETWORKING, "destinationrules"),
            _custom("ServiceEntry", _NETWORKING, "serviceentries"),
            _custom("WorkloadEntry", _NETWORKING, "workloadentries"),
            _custom("Telemetry", "telemetry.istio.io", "telemetries"),
        )
    }
)
"""Every kind that is read, by name. Of Deployments and what goes with them only those of waypoints are asked for."""
