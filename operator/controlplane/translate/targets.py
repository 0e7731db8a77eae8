"""What clients call: Services of Kubernetes and hosts of ServiceEntries, in one form."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from controlplane.translate.facets import full_host, host_facet
from controlplane.translate.services import app_protocol, service_hostname, tcp_ports
from controlplane.translate.settings import MeshSettings
from controlplane.translate.tracking import View
from mesh.model.workload import AppProtocol
from resources.base import ObjectMeta
from resources.objects import ObjectKey, Service, ServiceEntry

ISTIO_NETWORKING = "networking.istio.io"

ENTRY_PROTOCOLS = {
    "HTTP": AppProtocol.HTTP11,
    "HTTP2": AppProtocol.HTTP2,
    "GRPC": AppProtocol.GRPC,
    "GRPC-WEB": AppProtocol.HTTP11,
    "TCP": AppProtocol.TCP,
    "MONGO": AppProtocol.TCP,
    "TLS": AppProtocol.TLS,
    "HTTPS": AppProtocol.TLS,
}


@dataclass(frozen=True, slots=True)
class TargetPort:
    """A port as clients dial it."""

    number: int
    name: str
    protocol: AppProtocol


@dataclass(frozen=True, slots=True)
class Target:
    """Something that is called by a host."""

    object: ObjectKey
    metadata: ObjectMeta
    hostname: str
    hosts: tuple[str, ...]
    """All names it is called by."""
    ports: tuple[TargetPort, ...]

    @property
    def namespace(self) -> str:
        """Of the object."""
        return self.object.namespace

    @property
    def key(self) -> str:
        """``namespace/hostname``: the key of the mesh's service."""
        return f"{self.namespace}/{self.hostname}"

    def port(self, number: int | None) -> TargetPort | None:
        """The port of a number."""
        return next((port for port in self.ports if port.number == number), None)


def service_target(service: Service, settings: MeshSettings) -> Target | None:
    """A Service; None for those that are names in DNS only."""
    if service.spec.type == "ExternalName":
        return None
    name, namespace = service.metadata.name, service.metadata.namespace
    hostname = service_hostname(name, namespace, settings)
    ports = tuple(TargetPort(port.port, port.name, app_protocol(port)) for port in tcp_ports(service.spec))
    hosts = (hostname, f"{name}.{namespace}.svc", f"{name}.{namespace}")
    return Target(service.key, service.metadata, hostname, hosts, ports)


def entry_targets(view: View, entry: ServiceEntry) -> tuple[Target, ...]:
    """The hosts of a ServiceEntry that connections can be carried to: see ``service_entries``.

    A name below the cluster's domain is a Service's, whether that exists or not; of several entries of a namespace for
    one host the oldest counts.
    """
    if not is_carried(entry):
        return ()
    ports = tuple(
        TargetPort(port.number, port.name, ENTRY_PROTOCOLS.get(port.protocol.upper(), AppProtocol.UNKNOWN))
        for port in entry.spec.ports
        if port.protocol.upper() != "UDP"
    )
    return tuple(
        Target(entry.key, entry.metadata, host, (host,), ports)
        for host in dict.fromkeys(host.lower() for host in entry.spec.hosts)
        if not host.startswith("*") and is_own(view, entry, host)
    )


def is_own(view: View, entry: ServiceEntry, host: str) -> bool:
    """Whether a host (in full, in lower case) is an entry's to speak for."""
    if full_host(host, entry.metadata.namespace, view.settings).endswith(f".svc.{view.settings.cluster_domain}"):
        return False
    rivals = (one for one in view.having(ServiceEntry, host_facet(host)) if is_carried(one))
    return next(one for one in rivals if one.metadata.namespace == entry.metadata.namespace).key == entry.key


def is_carried(entry: ServiceEntry) -> bool:
    """Whether the mesh knows where the endpoints are; names are not looked up in DNS."""
    return entry.spec.resolution == "STATIC"


def find_service(view: View, namespace: str, name: str) -> Target | None:
    """The Service of a name."""
    service = view.find(Service, namespace, name)
    return service_target(service, view.settings) if service else None


def find_entries(view: View, namespace: str, name: str) -> tuple[Target, ...]:
    """The hosts of the ServiceEntry of a name."""
    entry = view.find(ServiceEntry, namespace, name)
    return entry_targets(view, entry) if entry else ()


def find_host(view: View, host: str, namespace: str) -> Target | None:
    """What a full host name is, as seen from a namespace: the own ServiceEntry before another's, the oldest first."""
    suffix = f".svc.{view.settings.cluster_domain}"
    if host.endswith(suffix):
        name, _, place = host.removesuffix(suffix).partition(".")
        if place and "." not in place and (found := find_service(view, place, name)) is not None:
            return found
    entries = [entry for entry in view.having(ServiceEntry, host_facet(host)) if _visible(entry, namespace)]
    entries.sort(key=lambda entry: entry.metadata.namespace != namespace)
    for entry in entries:
        for target in entry_targets(view, entry):
            if target.hostname == host:
                return target
    return None


def targets_of(view: View, value: object) -> Iterator[Target]:
    """What an object lets clients call."""
    if isinstance(value, Service):
        found = service_target(value, view.settings)
        if found is not None:
            yield found
    elif isinstance(value, ServiceEntry):
        yield from entry_targets(view, value)


def _visible(entry: ServiceEntry, namespace: str) -> bool:
    exported = entry.spec.export_to
    return entry.metadata.namespace == namespace or not exported or "*" in exported or namespace in exported
