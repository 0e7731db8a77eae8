"""The operator's configuration file, group by group."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from controlplane.kube.permissions import GIVEN_ROOT_SECRET, ROOT_SECRET
from controlplane.reconcile.cluster_pods import ClusterPods
from controlplane.reconcile.waypoints import WaypointSettings
from controlplane.translate.settings import MeshSettings
from mesh.config import Port, Seconds, Settings
from mesh.errors import ConfigurationError
from mesh.model.request_policy import ExternalAuthorizer
from mesh.model.waypoint import SpanCollector


class KubernetesGroup(Settings, frozen=True, kw_only=True):
    """The Kubernetes API."""

    kubeconfig: Path | None = None
    """None: what ``KUBECONFIG`` names, else the service account of the pod we run in."""
    context: str | None = None
    """A context of the kubeconfig; None: its current one."""
    namespace: str = ""
    """The operator's own, of its Secrets and its Lease; empty: that of the pod we run in, else ``ambimesh-system``."""
    identity: str = ""
    """Of this replica, unlike all others; empty: the host's name and a random part."""
    read_secrets: bool = False
    """Take certificates and keys from the Secrets that DestinationRules name; needs the right to read all Secrets."""


class SourceGroup(Settings, frozen=True, kw_only=True):
    """Where the cluster's objects come from: one of the two."""

    folder: Path | None = None
    """A folder of manifests, watched."""
    kubernetes: KubernetesGroup | None = None
    """The Kubernetes API."""


class MeshGroup(Settings, frozen=True, kw_only=True):
    """The mesh's names."""

    trust_domain: str = "cluster.local"
    cluster_id: str = "Kubernetes"
    cluster_domain: str = "cluster.local"
    """What Service hostnames end in."""
    network: str = ""
    root_namespace: str = "istio-system"
    """Policies without selector in this namespace are for the whole mesh."""


class GrpcGroup(Settings, frozen=True, kw_only=True):
    """The TLS port of xDS and the certificate service."""

    host: str = "::"
    """``::`` takes IPv4 too."""
    port: Port = 15012
    server_name: str = "ambimesh-operator.ambimesh-system.svc"
    """The DNS name in the serving certificate, which clients verify."""


class HttpGroup(Settings, frozen=True, kw_only=True):
    """The plain port of metrics, readiness and debugging."""

    host: str = "::"
    port: Port = 15014


class GivenAuthority(Settings, frozen=True, kw_only=True):
    """An authority somebody else made."""

    certificate_chain: Path
    """PEM, the signing certificate first."""
    key: Path
    """PEM, mode 0600."""
    roots: Path
    """PEM bundle."""


class AuthorityGroup(Settings, frozen=True, kw_only=True):
    """The certificate authority. With neither folder nor given it is kept in a Secret, by the Kubernetes API."""

    secret: str = ROOT_SECRET
    """The Secret of a self-made one."""
    given_secret: str = GIVEN_ROOT_SECRET
    """A Secret that, where it exists, holds one somebody else made: ``tls.crt``, ``tls.key``, ``ca.crt``."""
    rotation_seconds: Seconds = 86400.0
    """From trusting the next root, self-made or in a Secret, to signing with it: longer than anybody takes to renew."""
    folder: Path | None = None
    """Where a self-made authority is kept."""
    given: GivenAuthority | None = None
    """Used instead of a self-made one."""
    published_roots: Path | None = None
    """Where the roots' PEM bundle is written for clients to read."""
    default_lifetime_seconds: Seconds = 86400.0
    """Of certificates whose request names none."""
    minimum_lifetime_seconds: Seconds = 5.0
    maximum_lifetime_seconds: Seconds = 90 * 86400.0
    serving_lifetime_seconds: Seconds = 86400.0
    """Of the operator's own certificate, which is renewed at half of it."""


class AuthenticationGroup(Settings, frozen=True, kw_only=True):
    """Who may call."""

    tokens: Path | None = None
    """A YAML file: ``tokens``, a list of sha256, namespace, service_account, node and expires. None: tokens are service
    accounts', which the Kubernetes API vouches for."""
    audiences: list[str] = msgspec.field(default_factory=lambda: ["istio-ca", "ambimesh"])
    """One of which such a token must be for."""
    trusted_node_accounts: list[str] = msgspec.field(default_factory=lambda: ["ambimesh-system/ztunnel"])
    """``namespace/service account`` of the node proxies, which ask certificates for the pods of their node."""


class AuthorizerGroup(Settings, frozen=True, kw_only=True):
    """A service that decides about requests: a provider that an AuthorizationPolicy with the action CUSTOM may name."""

    name: Annotated[str, Meta(min_length=1)]
    service: Annotated[str, Meta(pattern=r"^[^/]+/[^/]+$")]
    """``namespace/hostname``."""
    port: Annotated[int, Meta(ge=1, le=65535)]
    protocol: Literal["grpc", "http"]
    """``grpc``: Envoy's ``envoy.service.auth.v3.Authorization``."""
    timeout_seconds: Seconds = 10.0
    fail_open: bool = False
    """Whether requests pass while it does not answer."""
    status_on_error: Annotated[int, Meta(ge=400, le=599)] = 403
    """What requests are answered while it does not."""
    path_prefix: str = ""
    """Put before the request's path, for ``http``."""
    include_headers: list[str] = msgspec.field(default_factory=list)
    """Of the request, that are shown to it; ``*`` at one end stands for any text. ``http``: these and
    ``authorization``. ``grpc``: these only, or all if there are none."""
    additional_headers: dict[str, str] = msgspec.field(default_factory=dict)
    """Added to what it is asked, for ``http``."""
    headers_to_upstream: list[str] = msgspec.field(default_factory=list)
    """Of its consent, that the application is sent, for ``http``; ``*`` as above."""
    headers_to_downstream: list[str] = msgspec.field(default_factory=list)
    """Of its refusal, that the client is sent, for ``http``; all if there are none."""
    headers_to_downstream_on_allow: list[str] = msgspec.field(default_factory=list)
    """Of its consent, that the client is sent with the application's answer, for ``http``."""
    max_body_bytes: Annotated[int, Meta(ge=0, le=1 << 20)] = 0
    """How much of the body it is shown; requests wait until that much is there, or all. 0: none."""
    allow_partial_body: bool = False
    """Whether of a longer body the beginning is shown. Otherwise such requests are answered 413."""
    body_as_bytes: bool = False
    """For ``grpc``: the body as bytes (``raw_body``) rather than as text."""


class CollectorGroup(Settings, frozen=True, kw_only=True):
    """A service that takes spans by OTLP over HTTP: a provider that a Telemetry may name for tracing."""

    name: Annotated[str, Meta(min_length=1)]
    service: Annotated[str, Meta(pattern=r"^[^/]+/[^/]+$")]
    """``namespace/hostname``; waypoints reach it as they reach every service, by mutual TLS if it is in the mesh."""
    port: Annotated[int, Meta(ge=1, le=65535)] = 4318
    path: Annotated[str, Meta(pattern=r"^/[!-~]*$")] = "/v1/traces"


class TracingGroup(Settings, frozen=True, kw_only=True):
    """Spans of waypoints."""

    collectors: list[CollectorGroup] = msgspec.field(default_factory=list)
    default: str = ""
    """The collector of what no Telemetry names one for; empty: no spans are made there."""
    sampling_percent: Annotated[float, Meta(ge=0, le=100)] = 1.0
    """Of requests that bring no trace of their own, where no Telemetry says how many."""


class LogGroup(Settings, frozen=True, kw_only=True):
    """The process log."""

    level: str = "info"
    format: Literal["text", "json"] = "text"


class ClusterPodsGroup(Settings, frozen=True, kw_only=True):
    """How waypoints' pods run in a Kubernetes cluster: hardened, with a disruption budget each."""

    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    image_pull_secrets: list[str] = msgspec.field(default_factory=list)
    """In the waypoints' own namespaces."""
    resources: dict[str, dict[str, str]] = msgspec.field(default_factory=dict)
    """Requests and limits."""
    max_replicas: Annotated[int, Meta(ge=1)] | None = None
    """Of an autoscaler for each; None: without autoscalers."""
    cpu_utilization: Annotated[int, Meta(ge=1, le=100)] = 70
    """Per cent of the request that the autoscalers keep to."""

    def pods(self) -> ClusterPods:
        """As the reconciler takes it."""
        return ClusterPods(
            image_pull_policy=self.image_pull_policy,
            image_pull_secrets=tuple(self.image_pull_secrets),
            resources=self.resources,
            max_replicas=self.max_replicas,
            cpu_utilization=self.cpu_utilization,
        )


class WaypointGroup(Settings, frozen=True, kw_only=True):
    """How Gateways become waypoints. Left out, they are not made: somebody else runs them."""

    command: list[str]
    """The waypoint's program, with its arguments."""
    classes: list[str] = msgspec.field(default_factory=lambda: ["ambimesh-waypoint"])
    """Gateway classes whose gateways are waypoints of ours."""
    image: str = ""
    environment: dict[str, str] = msgspec.field(default_factory=dict)
    """Further variables of its environment."""
    grace_seconds: int = 30
    """How long a replica may take to end, where its Gateway does not say how long it may drain."""
    cluster: ClusterPodsGroup | None = None
    """How they run in a Kubernetes cluster; left out, they are processes of a lab."""

    def settings(self) -> WaypointSettings:
        """As the reconciler takes it."""
        return WaypointSettings(
            classes=frozenset(self.classes),
            command=tuple(self.command),
            image=self.image,
            environment=self.environment,
            grace_seconds=self.grace_seconds,
            cluster=None if self.cluster is None else self.cluster.pods(),
        )


class OperatorSettings(Settings, frozen=True, kw_only=True):
    """The whole file."""

    source: SourceGroup
    authority: AuthorityGroup
    authentication: AuthenticationGroup
    mesh: MeshGroup = MeshGroup()
    waypoints: WaypointGroup | None = None
    authorizers: list[AuthorizerGroup] = msgspec.field(default_factory=list)
    tracing: TracingGroup = TracingGroup()
    grpc: GrpcGroup = GrpcGroup()
    http: HttpGroup = HttpGroup()
    log: LogGroup = LogGroup()
    drain_seconds: Seconds = 5.0
    """How long calls may go on after SIGTERM."""

    def translation(self) -> MeshSettings:
        """What the translation must know.

        Raises:
            ConfigurationError: two authorizers or collectors have the same name, or there is no default collector of
                that name.
        """
        classes = self.waypoints.classes if self.waypoints is not None else []
        names = [one.name for one in self.authorizers]
        if len(set(names)) != len(names):
            raise ConfigurationError("authorizers: two have the same name: policies could not tell them apart")
        tracing = self.tracing
        collectors = {
            one.name: SpanCollector(service=one.service, port=one.port, path=one.path) for one in tracing.collectors
        }
        if len(collectors) != len(tracing.collectors):
            raise ConfigurationError("tracing.collectors: two have the same name: nobody could tell them apart")
        if tracing.default and tracing.default not in collectors:
            raise ConfigurationError(f"tracing.default: there is no collector called {tracing.default[:64]!r}")
        return MeshSettings(
            trust_domain=self.mesh.trust_domain,
            cluster_id=self.mesh.cluster_id,
            cluster_domain=self.mesh.cluster_domain,
            network=self.mesh.network,
            root_namespace=self.mesh.root_namespace,
            waypoint_classes=tuple(dict.fromkeys((*MeshSettings().waypoint_classes, *classes))),
            authorizers=tuple(_authorizer(one) for one in self.authorizers),
            collectors=tuple(collectors.items()),
            default_collector=tracing.default,
            sampling_percent=tracing.sampling_percent,
        )


def _authorizer(group: AuthorizerGroup) -> ExternalAuthorizer:
    return ExternalAuthorizer(
        name=group.name,
        service=group.service,
        port=group.port,
        grpc=group.protocol == "grpc",
        timeout_seconds=group.timeout_seconds,
        fail_open=group.fail_open,
        status_on_error=group.status_on_error,
        path_prefix=group.path_prefix,
        include_headers=tuple(name.lower() for name in group.include_headers),
        headers_to_upstream=tuple(name.lower() for name in group.headers_to_upstream),
        headers_to_downstream=tuple(name.lower() for name in group.headers_to_downstream),
        headers_to_downstream_on_allow=tuple(name.lower() for name in group.headers_to_downstream_on_allow),
        additional_headers=tuple((name.lower(), value) for name, value in group.additional_headers.items()),
        allow_partial_body=group.allow_partial_body,
        body_as_bytes=group.body_as_bytes,
        max_body_bytes=group.max_body_bytes,
    )
