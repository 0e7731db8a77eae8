"""``istio.workload.Address``: workloads and services as bytes and as values of ``mesh.model``."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING

from mesh import ports
from mesh.addresses import ip_to_packed
from mesh.errors import InvalidIdentity, InvalidMessage
from mesh.identity import SpiffeId
from mesh.model.service import (
    BalancingMode,
    HealthPolicy,
    IpFamilies,
    LoadBalancing,
    RoutingScope,
    Service,
    Visibility,
    WeightedWaypoint,
)
from mesh.model.workload import (
    AppProtocol,
    GatewayAddress,
    HealthStatus,
    Locality,
    NamespacedHostname,
    NetworkAddress,
    NetworkMode,
    ServicePort,
    TunnelProtocol,
    Workload,
    WorkloadType,
)
from mesh.wire import workload_pb2 as wire
from mesh.xds.wire_values import (
    bounded,
    ip,
    known,
    known_only,
    number,
    packed_prefix,
    parse,
    port,
    prefix_length,
    required,
)

if TYPE_CHECKING:
    from google.protobuf.internal.containers import RepeatedCompositeFieldContainer


def encode_address(value: Workload | Service) -> bytes:
    """The resource's bytes; equal values give equal bytes, so that a hash of them is a version."""
    message = wire.Address()
    if isinstance(value, Workload):
        _fill_workload(message.workload, value)
    else:
        _fill_service(message.service, value)
    return message.SerializeToString(deterministic=True)


def decode_address(payload: bytes) -> Workload | Service:
    """Read one resource of type ``istio.workload.Address``.

    Raises:
        InvalidMessage: names the field that is wrong.
    """
    message = parse(wire.Address, payload)
    match message.WhichOneof("type"):
        case "workload":
            return _read_workload(message.workload)
        case "service":
            return _read_service(message.service)
        case _:
            raise InvalidMessage("Address: holds neither a workload nor a service")


# -- workloads -------------------------------------------------------------------------------------------------------


def _fill_workload(message: wire.Workload, value: Workload) -> None:
    message.uid = value.uid
    message.name = value.name
    message.namespace = value.namespace
    message.addresses.extend(ip_to_packed(address) for address in value.addresses)
    message.network = value.network
    message.tunnel_protocol = number(value.tunnel_protocol)
    # The protocol's defaults travel as absence.
    message.trust_domain = "" if value.trust_domain == "cluster.local" else value.trust_domain
    message.service_account = "" if value.service_account == "default" else value.service_account
    if value.waypoint is not None:
        _fill_gateway(message.waypoint, value.waypoint)
    message.node = value.node
    message.canonical_name = value.canonical_name
    message.canonical_revision = value.canonical_revision
    message.workload_type = number(value.workload_type)
    message.workload_name = value.workload_name
    message.native_tunnel = value.native_tunnel
    message.authorization_policies.extend(value.authorization_policies)
    message.status = number(value.status)
    message.cluster_id = value.cluster_id
    if value.network_gateway is not None:
        _fill_gateway(message.network_gateway, value.network_gateway)
    message.hostname = value.hostname
    for key, served in value.services.items():
        # Reading the entry creates it, also when the endpoint serves none of the service's ports.
        _fill_ports(message.services[key].ports, served)
    if value.locality != Locality():
        message.locality.region = value.locality.region
        message.locality.zone = value.locality.zone
        message.locality.subzone = value.locality.subzone
    message.network_mode = number(value.network_mode)
    if value.capacity != 1:
        message.capacity.value = value.capacity


def _read_workload(message: wire.Workload) -> Workload:
    uid = required(message.uid, "workload.uid")
    place = f"workload {uid[:128]}"
    workload = Workload(
        uid=uid,
        name=message.name,
        namespace=message.namespace,
        addresses=tuple(
            ip(packed, f"{place}: addresses") for packed in bounded(message.addresses, f"{place}: addresses")
        ),
        network=message.network,
        tunnel_protocol=known(TunnelProtocol, message.tunnel_protocol),
        trust_domain=message.trust_domain or "cluster.local",
        service_account=message.service_account or "default",
        waypoint=_read_gateway(message.waypoint, f"{place}: waypoint") if message.HasField("waypoint") else None,
        node=message.node,
        canonical_name=message.canonical_name,
        canonical_revision=message.canonical_revision,
        workload_type=known(WorkloadType, message.workload_type),
        workload_name=message.workload_name,
        native_tunnel=message.native_tunnel,
        authorization_policies=tuple(bounded(message.authorization_policies, f"{place}: authorization_policies")),
        status=known(HealthStatus, message.status),
        cluster_id=message.cluster_id,
        network_gateway=(
            _read_gateway(message.network_gateway, f"{place}: network_gateway")
            if message.HasField("network_gateway")
            else None
        ),
        hostname=message.hostname,
        services={
            key: _read_ports(ports.ports, f"{place}: services[{key[:128]}]")
            for key, ports in bounded(message.services, f"{place}: services").items()
        },
        locality=Locality(message.locality.region, message.locality.zone, message.locality.subzone),
        network_mode=known(NetworkMode, message.network_mode),
        capacity=message.capacity.value if message.HasField("capacity") else 1,
    )
    _check_identity(workload, place)
    return workload


def _check_identity(workload: Workload, place: str) -> None:
    # A slash in a namespace would make one identity spell like another. Addresses outside any namespace have none.
    if not workload.namespace:
        return
    try:
        SpiffeId.parse(str(workload.identity))
    except InvalidIdentity as error:
        raise InvalidMessage(f"{place}: trust_domain, namespace, service_account: {error}") from error


# -- services --------------------------------------------------------------------------------------------------------


def _fill_service(message: wire.Service, value: Service) -> None:
    message.name = value.name
    message.namespace = value.namespace
    message.hostname = value.hostname
    for address in value.addresses:
        _fill_network_address(message.addresses.add(), address)
    _fill_ports(message.ports, value.ports)
    message.subject_alt_names.extend(value.subject_alt_names)
    if value.waypoint is not None:
        _fill_gateway(message.waypoint, value.waypoint)
    if value.load_balancing != LoadBalancing():
        # Set even if every member is zero: the field's presence says that a preference was stated.
        message.load_balancing.SetInParent()
        message.load_balancing.routing_preference.extend(map(number, value.load_balancing.routing_preference))
        message.load_balancing.mode = number(value.load_balancing.mode)
        message.load_balancing.health_policy = number(value.load_balancing.health_policy)
    message.ip_families = number(value.ip_families)
    message.canonical = value.canonical
    message.ingress_use_waypoint = value.ingress_use_waypoint
    for weighted in value.weighted_waypoints:
        entry = message.weighted_waypoints.add()
        _fill_gateway(entry.destination, weighted.destination)
        entry.weight = weighted.weight
    message.visibility = number(value.visibility)


def _read_service(message: wire.Service) -> Service:
    namespace = required(message.namespace, "service.namespace")
    hostname = required(message.hostname, "service.hostname")
    place = f"service {namespace[:128]}/{hostname[:256]}"
    balancing = message.load_balancing
    return Service(
        name=message.name,
        namespace=namespace,
        hostname=hostname,
        addresses=tuple(
            _read_network_address(address, f"{place}: addresses")
            for address in bounded(message.addresses, f"{place}: addresses")
        ),
        ports=_read_ports(message.ports, f"{place}: ports"),
        subject_alt_names=tuple(bounded(message.subject_alt_names, f"{place}: subject_alt_names")),
        waypoint=_read_gateway(message.waypoint, f"{place}: waypoint") if message.HasField("waypoint") else None,
        load_balancing=LoadBalancing(
            known_only(RoutingScope, bounded(balancing.routing_preference, f"{place}: routing_preference")),
            known(BalancingMode, balancing.mode),
            known(HealthPolicy, balancing.health_policy),
        ),
        ip_families=known(IpFamilies, message.ip_families),
        canonical=message.canonical,
        ingress_use_waypoint=message.ingress_use_waypoint,
        weighted_waypoints=tuple(
            WeightedWaypoint(_read_gateway(entry.destination, f"{place}: weighted_waypoints"), entry.weight)
            for entry in bounded(message.weighted_waypoints, f"{place}: weighted_waypoints")
        ),
        visibility=known(Visibility, message.visibility),
    )


# -- parts -----------------------------------------------------------------------------------------------------------


def _fill_ports(messages: RepeatedCompositeFieldContainer[wire.Port], ports: Iterable[ServicePort]) -> None:
    for each in ports:
        message = messages.add(service_port=each.service_port, target_port=each.target_port)
        message.app_protocol = number(each.app_protocol)


def _read_ports(messages: Collection[wire.Port], place: str) -> tuple[ServicePort, ...]:
    return tuple(
        ServicePort(
            port(each.service_port, f"{place}: service_port"),
            port(each.target_port, f"{place}: target_port"),
            known(AppProtocol, each.app_protocol),
        )
        for each in bounded(messages, place)
    )


def _fill_gateway(message: wire.GatewayAddress, value: GatewayAddress) -> None:
    if isinstance(value.destination, NamespacedHostname):
        message.hostname.namespace = value.destination.namespace
        message.hostname.hostname = value.destination.hostname
    else:
        _fill_network_address(message.address, value.destination)
    message.hbone_mtls_port = value.hbone_mtls_port


def _read_gateway(message: wire.GatewayAddress, place: str) -> GatewayAddress:
    hbone_port = port(message.hbone_mtls_port, f"{place}: hbone_mtls_port") or ports.HBONE
    match message.WhichOneof("destination"):
        case "hostname":
            return GatewayAddress(NamespacedHostname(message.hostname.namespace, message.hostname.hostname), hbone_port)
        case "address":
            return GatewayAddress(_read_network_address(message.address, place), hbone_port)
        case _:
            # Not ignored: traffic that shall pass a waypoint must not go round it.
            raise InvalidMessage(f"{place}: names neither a hostname nor an address")


def _fill_network_address(message: wire.NetworkAddress, value: NetworkAddress) -> None:
    message.network = value.network
    if value.length is None:
        message.address = ip_to_packed(value.ip)
    else:
        message.address, message.length = packed_prefix(value.ip, value.length)


def _read_network_address(message: wire.NetworkAddress, place: str) -> NetworkAddress:
    address = ip(message.address, f"{place}: address")
    if not message.HasField("length"):
        return NetworkAddress(message.network, address)
    return NetworkAddress(message.network, address, prefix_length(message.address, message.length, f"{place}: address"))
