"""ServiceEntry and WorkloadEntry to services and workloads, as far as their addresses are written in them.

Only entries of the resolution STATIC are carried. An entry of another resolution leads to addresses that DNS tells; the
mesh does not ask it, so clients' connections go there as they would without the entry, and the entry is a finding.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from controlplane.translate.binding import UNBOUND, Binding
from controlplane.translate.facets import namespace_facet
from controlplane.translate.finding import Condition, Finding
from controlplane.translate.settings import MeshSettings
from controlplane.translate.targets import Target, entry_targets, is_carried, is_own
from controlplane.translate.tracking import View
from mesh.addresses import parse_cidr, read_ip
from mesh.model.service import Service, Visibility
from mesh.model.workload import Locality, NetworkAddress, ServicePort, Workload
from resources.objects import ServiceEntry, WorkloadEntry
from resources.service_entry import WorkloadEntrySpec

_GROUP = "networking.istio.io"
_SINGLE = 128
"""Bits of an address that is no network."""


def translate_service_entry(
    view: View, entry: ServiceEntry, binding: Binding
) -> tuple[tuple[Service | Workload, ...], tuple[Finding, ...]]:
    """The services of an entry's hosts, and the workloads of the endpoints written in it."""
    settings = view.settings
    found = tuple(_findings(view, entry))
    targets = entry_targets(view, entry)
    services = [_service(entry, target, settings, binding) for target in targets]
    workloads: dict[str, Workload] = {}
    for endpoint in entry.spec.endpoints if targets else ():
        uid = f"{settings.cluster_id}/{_GROUP}/ServiceEntry/{entry.metadata.namespace}/{entry.metadata.name}"
        uid += f"/{endpoint.address}"
        workloads[uid] = _workload(
            uid, entry.metadata.name, entry.metadata.namespace, endpoint, _offered(targets, entry, endpoint), settings
        )
    return (*services, *workloads.values()), found


def translate_workload_entry(view: View, entry: WorkloadEntry, binding: Binding = UNBOUND) -> Workload:
    """An endpoint that is no pod, serving the entries whose selector it meets."""
    metadata, settings = entry.metadata, view.settings
    uid = f"{settings.cluster_id}/{_GROUP}/WorkloadEntry/{metadata.namespace}/{metadata.name}"
    labels = {**metadata.labels, **entry.spec.labels}
    services = entry_services(view, metadata.namespace, labels, entry.spec)
    return _workload(uid, metadata.name, metadata.namespace, entry.spec, services, settings, binding)


def entry_services(
    view: View, namespace: str, labels: Mapping[str, str], endpoint: WorkloadEntrySpec | None = None
) -> dict[str, tuple[ServicePort, ...]]:
    """The services of those ServiceEntries of a namespace whose selector labels meet, with the endpoint's ports."""
    result: dict[str, tuple[ServicePort, ...]] = {}
    for entry in selecting_entries(view, namespace, labels):
        result.update(_offered(entry_targets(view, entry), entry, endpoint or WorkloadEntrySpec()))
    return result


def selecting_entries(view: View, namespace: str, labels: Mapping[str, str]) -> Iterator[ServiceEntry]:
    """The ServiceEntries of a namespace whose selector labels meet; an empty selector selects nothing."""
    for entry in view.having(ServiceEntry, namespace_facet(namespace)):
        selector = entry.spec.workload_selector
        if selector is not None and selector.labels and selector.labels.items() <= labels.items():
            yield entry


def _offered(
    targets: Iterable[Target], entry: ServiceEntry, endpoint: WorkloadEntrySpec
) -> dict[str, tuple[ServicePort, ...]]:
    own = {port.number: port.target_port or port.number for port in entry.spec.ports}
    return {
        target.key: tuple(
            ServicePort(port.number, endpoint.ports.get(port.name) or own[port.number], port.protocol)
            for port in target.ports
        )
        for target in targets
    }


def _service(entry: ServiceEntry, target: Target, settings: MeshSettings, binding: Binding) -> Service:
    networks = [parse_cidr(text) for text in entry.spec.addresses]
    return Service(
        name=entry.metadata.name,
        namespace=entry.metadata.namespace,
        hostname=target.hostname,
        addresses=tuple(
            NetworkAddress(settings.network, one.ip, None if one.length == _SINGLE else one.length) for one in networks
        ),
        ports=tuple(
            ServicePort(port.number, port.target_port or port.number, target_port.protocol)
            for target_port in target.ports
            for port in entry.spec.ports
            if port.number == target_port.number
        ),
        subject_alt_names=entry.spec.subject_alt_names,
        waypoint=binding.address,
        weighted_waypoints=binding.weighted,
        visibility=Visibility.NAMESPACE if entry.spec.export_to == (".",) else Visibility.PUBLIC,
    )


def _workload(
    uid: str,
    name: str,
    namespace: str,
    endpoint: WorkloadEntrySpec,
    services: dict[str, tuple[ServicePort, ...]],
    settings: MeshSettings,
    binding: Binding = UNBOUND,
) -> Workload:
    region, zone, subzone, *_ = [*endpoint.locality.split("/"), "", "", ""]
    return Workload(
        uid=uid,
        name=name,
        namespace=namespace,
        addresses=(read_ip(endpoint.address),),
        network=endpoint.network or settings.network,
        trust_domain=settings.trust_domain,
        service_account=endpoint.service_account or "default",
        waypoint=binding.address,
        canonical_name=name,
        canonical_revision="latest",
        workload_name=name,
        cluster_id=settings.cluster_id,
        services=dict(sorted(services.items())),
        locality=Locality(region, zone, subzone),
        capacity=endpoint.weight or 1,
    )


def _findings(view: View, entry: ServiceEntry) -> Iterator[Finding]:
    spec = entry.spec
    if not is_carried(entry):
        message = (
            f"resolution {spec.resolution}: only STATIC is carried; connections go to what the name resolves to, in "
            "clear and through no waypoint"
        )
        yield Finding(entry.key, Condition.NOT_APPLIED, message)
        return
    for host in spec.hosts:
        if host.startswith("*"):
            message = f"host {host!r}: a wildcard has no endpoints and is left out"
            yield Finding(entry.key, Condition.UNSUPPORTED_VALUE, message)
        elif not is_own(view, entry, host.lower()):
            message = f"host {host!r} is the name of a Service, or an older entry's: it is left out"
            yield Finding(entry.key, Condition.UNSUPPORTED_VALUE, message)
    if not spec.addresses:
        message = "has no addresses, and none are given out: clients reach it only where a route leads to it"
        yield Finding(entry.key, Condition.UNSUPPORTED_VALUE, message)
    if spec.export_to and spec.export_to != (".",) and "*" not in spec.export_to:
        message = "exportTo: namespaces by name have no effect on ztunnels: every namespace sees the entry"
        yield Finding(entry.key, Condition.UNSUPPORTED_VALUE, message)
