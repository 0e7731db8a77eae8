"""No way past the waypoint, where a policy of layer 7 stands there.

A policy that is attached to a Service by ``targetRefs`` is evaluated by its waypoint; who calls an endpoint by the
pod's address never meets it. So the endpoints of such a Service get a DENY policy of layer 4, which their ztunnels
enforce: on the ports that the policy governs nobody is admitted but the waypoint's own identity, and those that the
annotation ``ambimesh.dev/waypoint-bypass`` of the Service or its namespace names (``namespace/account``, or a whole
principal, with ``*`` at one end; separated by commas). A caller without identity is never admitted.

A waypoint that is gone, or not there yet, still keeps its endpoints closed: nobody can call them then.

Endpoints of one Service may listen on different ports for one port of the Service, so there is one policy for each set
of ports. Its name holds the ports, and both who publishes it and who refers to it take the name from the same function.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from controlplane.translate.binding import Waypoint, bind
from controlplane.translate.facets import slices_facet
from controlplane.translate.finding import Finding
from controlplane.translate.layer7.attached import attached
from controlplane.translate.layer7.authorization import is_dry_run
from controlplane.translate.layer7.notes import Notes
from controlplane.translate.policy_values import principal, service_account
from controlplane.translate.service_entries import selecting_entries
from controlplane.translate.services import service_key
from controlplane.translate.settings import MeshSettings
from controlplane.translate.targets import Target, entry_targets, targets_of
from controlplane.translate.tracking import View
from controlplane.translate.workloads import Backing, endpoint_services
from mesh.identity import SpiffeId
from mesh.model.policy import Clause, Match, Policy, PolicyAction, PolicyScope, Rule, StringMatch, StringMatchKind
from mesh.model.workload import ServicePort
from resources.network import Endpoint
from resources.objects import AuthorizationPolicy, EndpointSlice, Namespace, ObjectKey, Pod, Service, ServiceEntry

BYPASS_ANNOTATION = "ambimesh.dev/waypoint-bypass"
NAME_PREFIX = "ambimesh_waypoint_only"
"""No object of Kubernetes has a name with underscores."""


def bypass_policies(view: View, value: Service | ServiceEntry) -> tuple[Policy, ...]:
    """The DENY policies for the endpoints of a service; empty if nothing of it is governed at its waypoint."""
    found: dict[str, Policy] = {}
    for target in targets_of(view, value):
        governed = governed_ports(view, target)
        admitted = (
            *_identities(bind(view, target.metadata, "service").guards, view.settings),
            *_annotated(view, target.namespace, target.metadata.annotations),
        )
        for numbers in _all_port_sets(view, value, governed) if governed else ():
            name = policy_name(value.key, numbers)
            only_them = Clause((Match(not_principals=admitted),))
            there = Clause((Match(destination_ports=numbers),))
            found[name] = Policy(
                name=name,
                namespace=target.namespace,
                scope=PolicyScope.WORKLOAD_SELECTOR,
                action=PolicyAction.DENY,
                rules=(Rule((only_them, there)),),
            )
    return tuple(found[name] for name in sorted(found))


def bypass_policy_names(view: View, pod: Pod, backings: Iterable[Backing]) -> Iterator[str]:
    """The policies of ``bypass_policies`` that a pod refers to, as ``namespace/name``.

    Args:
        view: the objects.
        pod: the pod.
        backings: the Services whose endpoint it is, and the slices that say so.
    """
    for service, value, _ in backings:
        for target in targets_of(view, service):
            numbers = _slice_ports(service, value, governed_ports(view, target), view.settings)
            if numbers:
                yield f"{service.metadata.namespace}/{policy_name(service.key, numbers)}"
    for entry in selecting_entries(view, pod.metadata.namespace, pod.metadata.labels):
        for target in entry_targets(view, entry):
            numbers = _entry_ports(entry, governed_ports(view, target))
            if numbers:
                yield f"{entry.metadata.namespace}/{policy_name(entry.key, numbers)}"


def workload_bypass_policy(view: View, pod: Pod) -> Policy | None:
    """The DENY policy of a pod that is bound itself, as a workload: of all its ports, as a Gateway's policy has it."""
    waypoints = bind(view, pod.metadata, "workload").guards
    if not any(_governs(policy) for one in waypoints for policy in attached(view, AuthorizationPolicy, pod.key, one)):
        return None
    admitted = (
        *_identities(waypoints, view.settings),
        *_annotated(view, pod.metadata.namespace, pod.metadata.annotations),
    )
    return Policy(
        name=f"{NAME_PREFIX}_pod_{pod.metadata.name}",
        namespace=pod.metadata.namespace,
        scope=PolicyScope.WORKLOAD_SELECTOR,
        action=PolicyAction.DENY,
        rules=(Rule((Clause((Match(not_principals=admitted),)),)),),
    )


def bypass_findings(view: View, service: Service | ServiceEntry | Pod) -> tuple[Finding, ...]:
    """Entries of the annotation that admit nobody."""
    notes = Notes(service.key)
    for text in _entries(service.metadata.annotations):
        if _principal(text, service.metadata.namespace, view.settings)[1]:
            notes.unsupported(f"{BYPASS_ANNOTATION}: {text[:128]!r} admits nobody; write namespace/account")
    return tuple(notes.findings)


def governed_ports(view: View, target: Target) -> frozenset[int]:
    """The ports of a bound Service, as clients dial it, for which some policy at its waypoint may deny something."""
    ports: set[int] = set()
    for waypoint in bind(view, target.metadata, "service").guards:
        for policy in attached(view, AuthorizationPolicy, target.object, waypoint):
            ports.update(port.number for port in target.ports if _governs(policy, port.number))
    return frozenset(ports)


def policy_name(service: ObjectKey, numbers: Iterable[int]) -> str:
    """The name of the policy for endpoints of a Service or ServiceEntry that listen on these ports."""
    return f"{NAME_PREFIX}_{service.kind.lower()}_{service.name}_{'_'.join(str(number) for number in numbers)}"


def _governs(policy: AuthorizationPolicy, port: int | None = None) -> bool:
    """Whether a policy may deny something on a port; an ALLOW policy denies by allowing nothing else."""
    spec = policy.spec
    if spec.action == "AUDIT" or is_dry_run(policy):
        return False
    if spec.action == "ALLOW" or port is None:
        return spec.action == "ALLOW" or bool(spec.rules)
    return any(
        rule.to is None
        or any(
            one.operation is None
            or (
                (not one.operation.ports or str(port) in one.operation.ports)
                and str(port) not in (one.operation.not_ports or ())
            )
            for one in rule.to
        )
        for rule in spec.rules
    )


def _all_port_sets(
    view: View, value: Service | ServiceEntry, governed: frozenset[int]
) -> Iterator[tuple[int, ...]]:
    """The different sets of ports that pods listen on for the governed ones."""
    if isinstance(value, ServiceEntry):
        sets = [_entry_ports(value, governed)] if value.spec.workload_selector is not None else []
    else:
        namespace, name = value.metadata.namespace, value.metadata.name
        slices = view.having(EndpointSlice, slices_facet(namespace, name))
        sets = [_slice_ports(value, one, governed, view.settings) for one in slices]
    yield from (numbers for numbers in sets if numbers)


def _slice_ports(
    service: Service, value: EndpointSlice, governed: frozenset[int], settings: MeshSettings
) -> tuple[int, ...]:
    """The ports that the endpoints of a slice listen on for the governed ones."""
    key = service_key(service.metadata.name, service.metadata.namespace, settings)
    ports: tuple[ServicePort, ...] = endpoint_services([Backing(service, value, _NOBODY)], settings)[key]
    return tuple(sorted({port.target_port for port in ports if port.service_port in governed}))


def _entry_ports(entry: ServiceEntry, governed: frozenset[int]) -> tuple[int, ...]:
    """The ports that selected pods listen on for the governed ones."""
    return tuple(sorted({port.target_port or port.number for port in entry.spec.ports if port.number in governed}))


def _identities(waypoints: Iterable[Waypoint], settings: MeshSettings) -> Iterator[StringMatch]:
    for waypoint in waypoints:
        yield StringMatch(StringMatchKind.EXACT, waypoint.identity(settings).principal)


def _annotated(view: View, namespace: str, annotations: dict[str, str]) -> Iterator[StringMatch]:
    place = view.find(Namespace, "", namespace)
    for source in (annotations, place.metadata.annotations if place else {}):
        for text in _entries(source):
            yield _principal(text, namespace, view.settings)[0]


def _entries(annotations: dict[str, str]) -> list[str]:
    return [text for part in annotations.get(BYPASS_ANNOTATION, "").split(",") if (text := part.strip())]


def _principal(text: str, own_namespace: str, settings: MeshSettings) -> tuple[StringMatch, str]:
    """An entry of the annotation, and why it admits nobody."""
    if "/ns/" in text or "*" in text:
        found = principal(text, settings.trust_domain)
        return found.match, found.never
    match, never = service_account(text, own_namespace)
    identity = SpiffeId(settings.trust_domain, match.namespace, match.service_account)
    return StringMatch(StringMatchKind.EXACT, identity.principal), never


_NOBODY = Endpoint(addresses=())
