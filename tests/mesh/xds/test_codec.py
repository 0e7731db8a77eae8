import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.addresses import Cidr, IpBytes, parse_cidr, parse_ip
from mesh.errors import InvalidMessage
from mesh.model.policy import (
    Clause,
    Match,
    Policy,
    PolicyAction,
    PolicyScope,
    Rule,
    ServiceAccountMatch,
    StringMatch,
    StringMatchKind,
)
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
from mesh.wire import authorization_pb2, workload_pb2
from mesh.xds.codec import decode_address, decode_authorization, encode_address, encode_authorization
from mesh.xds.wire_values import MAX_ITEMS, MAX_RESOURCE_BYTES

# -- any value of the model --------------------------------------------------------------------------------------------

texts = st.text(max_size=12)
names = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,8}[a-z0-9])?", fullmatch=True)
ports = st.integers(0, 65535)
ips = st.one_of(
    st.binary(min_size=16, max_size=16), st.binary(min_size=4, max_size=4).map(lambda b: bytes(10) + b"\xff\xff" + b)
).map(IpBytes)


@st.composite
def cidrs(draw: st.DrawFn) -> Cidr:
    ip, length = draw(ips), draw(st.integers(0, 128))
    kept = int.from_bytes(ip, "big") >> (128 - length) << (128 - length)
    return Cidr(IpBytes(kept.to_bytes(16, "big")), length)


hostnames = st.builds(NamespacedHostname, names, names)
network_addresses = st.one_of(
    st.builds(NetworkAddress, texts, ips), cidrs().map(lambda c: NetworkAddress("n", c.ip, c.length))
)
gateways = st.builds(GatewayAddress, st.one_of(hostnames, network_addresses), st.integers(1, 65535))
service_ports = st.lists(
    st.builds(ServicePort, ports, ports, st.sampled_from(AppProtocol)), max_size=3
).map(tuple)
workloads = st.builds(
    Workload,
    uid=st.text(min_size=1, max_size=20),
    name=texts,
    namespace=names,
    addresses=st.lists(ips, max_size=3).map(tuple),
    network=texts,
    tunnel_protocol=st.sampled_from(TunnelProtocol),
    trust_domain=names,
    service_account=names,
    waypoint=st.none() | gateways,
    node=texts,
    canonical_name=texts,
    canonical_revision=texts,
    workload_type=st.sampled_from(WorkloadType),
    workload_name=texts,
    native_tunnel=st.booleans(),
    authorization_policies=st.lists(texts, max_size=3).map(tuple),
    status=st.sampled_from(HealthStatus),
    cluster_id=texts,
    network_gateway=st.none() | gateways,
    hostname=texts,
    services=st.dictionaries(texts, service_ports, max_size=3),
    locality=st.builds(Locality, texts, texts, texts),
    network_mode=st.sampled_from(NetworkMode),
    capacity=st.integers(0, 2**32 - 1),
)
services = st.builds(
    Service,
    name=texts,
    namespace=names,
    hostname=names,
    addresses=st.lists(network_addresses, max_size=3).map(tuple),
    ports=service_ports,
    subject_alt_names=st.lists(texts, max_size=2).map(tuple),
    waypoint=st.none() | gateways,
    load_balancing=st.builds(
        LoadBalancing,
        st.lists(st.sampled_from(RoutingScope), max_size=4).map(tuple),
        st.sampled_from(BalancingMode),
        st.sampled_from(HealthPolicy),
    ),
    ip_families=st.sampled_from(IpFamilies),
    canonical=st.booleans(),
    ingress_use_waypoint=st.booleans(),
    weighted_waypoints=st.lists(st.builds(WeightedWaypoint, gateways, st.integers(0, 1000)), max_size=2).map(tuple),
    visibility=st.sampled_from(Visibility),
)
COMPARISONS = [kind for kind in StringMatchKind if kind is not StringMatchKind.PRESENCE]
string_matches = st.lists(
    st.one_of(
        st.builds(StringMatch, st.sampled_from(COMPARISONS), texts),
        st.just(StringMatch(StringMatchKind.PRESENCE)),
    ),
    max_size=2,
).map(tuple)
networks = st.lists(cidrs(), max_size=2).map(tuple)
port_lists = st.lists(ports, max_size=2).map(tuple)
accounts = st.lists(st.builds(ServiceAccountMatch, texts, texts), max_size=2).map(tuple)
matches = st.builds(
    Match,
    namespaces=string_matches,
    not_namespaces=string_matches,
    principals=string_matches,
    not_principals=string_matches,
    source_ips=networks,
    not_source_ips=networks,
    destination_ips=networks,
    not_destination_ips=networks,
    destination_ports=port_lists,
    not_destination_ports=port_lists,
    service_accounts=accounts,
    not_service_accounts=accounts,
)
clauses = st.builds(Clause, st.lists(matches, max_size=2).map(tuple))
policies = st.builds(
    Policy,
    name=st.text(min_size=1, max_size=12),
    namespace=texts,
    scope=st.sampled_from(PolicyScope),
    action=st.sampled_from(PolicyAction),
    rules=st.lists(st.builds(Rule, st.lists(clauses, max_size=2).map(tuple)), max_size=2).map(tuple),
    dry_run=st.booleans(),
)


@settings(deadline=None)
@given(workloads | services)
def test_addresses_survive_the_wire(value: Workload | Service) -> None:
    assert decode_address(encode_address(value)) == value


@settings(deadline=None)
@given(policies)
def test_policies_survive_the_wire(policy: Policy) -> None:
    assert decode_authorization(encode_authorization(policy)) == policy


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_garbage_is_an_invalid_message_and_nothing_else(payload: bytes) -> None:
    for decode in (decode_address, decode_authorization):
        try:
            decode(payload)
        except InvalidMessage:
            pass


# -- single facts ------------------------------------------------------------------------------------------------------


def workload(**fields: object) -> bytes:
    given_fields = {"uid": "Kubernetes//Pod/default/a", "namespace": "default"} | fields
    return workload_pb2.Address(workload=given_fields).SerializeToString()


def test_absent_fields_read_as_the_protocol_says() -> None:
    value = decode_address(workload())
    assert isinstance(value, Workload)
    assert (value.trust_domain, value.service_account, value.capacity) == ("cluster.local", "default", 1)
    assert value.waypoint is None
    assert value.workload_type is WorkloadType.DEPLOYMENT


def test_equal_workloads_give_equal_bytes_whatever_the_order_of_their_services() -> None:
    keys = [f"ns/service-{n}" for n in range(8)]
    one, two = (
        Workload(uid="u", name="n", namespace="ns", services={key: (ServicePort(80, 8080),) for key in order})
        for order in (keys, keys[::-1])
    )
    assert encode_address(one) == encode_address(two)


def test_ipv4_travels_as_four_bytes() -> None:
    message = workload_pb2.Address.FromString(
        encode_address(Workload(uid="u", name="n", namespace="ns", addresses=(parse_ip("10.0.0.1"),)))
    )
    assert list(message.workload.addresses) == [b"\x0a\x00\x00\x01"]


def test_an_ipv4_network_of_a_policy_travels_with_its_ipv4_length() -> None:
    policy = Policy(
        name="p",
        namespace="n",
        scope=PolicyScope.NAMESPACE,
        action=PolicyAction.DENY,
        rules=(Rule((Clause((Match(source_ips=(parse_cidr("10.1.0.0/16"),)),)),)),),
    )
    message = authorization_pb2.Authorization.FromString(encode_authorization(policy))
    sent = message.rules[0].clauses[0].matches[0].source_ips[0]
    assert (sent.address, sent.length) == (b"\x0a\x01\x00\x00", 16)


def test_enum_values_and_fields_of_a_newer_protocol_are_skipped() -> None:
    payload = workload(tunnel_protocol=99, network_mode=77, application_tunnel={"protocol": 1, "port": 15088})
    newer = payload + b"\xf2\x3f\x01x"  # field 1022 of Address, length-delimited
    value = decode_address(newer)
    assert isinstance(value, Workload)
    assert value.tunnel_protocol is TunnelProtocol.NONE
    assert value.network_mode is NetworkMode.STANDARD
    service = workload_pb2.Address(
        service={"namespace": "n", "hostname": "h", "load_balancing": {"routing_preference": [1, 55, 2], "mode": 44}}
    )
    decoded = decode_address(service.SerializeToString())
    assert isinstance(decoded, Service)
    assert decoded.load_balancing == LoadBalancing((RoutingScope.REGION, RoutingScope.ZONE))


@pytest.mark.parametrize(
    ("payload", "named"),
    [
        (b"", "neither a workload nor a service"),
        (workload(uid=""), "workload.uid"),
        (workload(addresses=[b"\x01\x02\x03"]), "addresses"),
        (workload(namespace="a/sa/root/ns/b"), "namespace"),
        (workload(waypoint={"hbone_mtls_port": 15008}), "waypoint"),
        (workload(waypoint={"hostname": {"hostname": "h"}, "hbone_mtls_port": 70000}), "hbone_mtls_port"),
        (workload(services={"n/h": {"ports": [{"service_port": 65536}]}}), "service_port"),
        (workload(authorization_policies=["p"] * (MAX_ITEMS + 1)), "authorization_policies"),
        (b"\x00" * (MAX_RESOURCE_BYTES + 1), "more than"),
        (workload_pb2.Address(service={"hostname": "h"}).SerializeToString(), "service.namespace"),
        (
            workload_pb2.Address(
                service={"namespace": "n", "hostname": "h", "addresses": [{"address": b"\x0a\0\0\1", "length": 33}]}
            ).SerializeToString(),
            "length 33",
        ),
    ],
)
def test_bad_addresses_name_their_field(payload: bytes, named: str) -> None:
    with pytest.raises(InvalidMessage, match=named):
        decode_address(payload)


def one_match(**match: object) -> bytes:
    return authorization_pb2.Authorization(
        name="p", namespace="n", rules=[{"clauses": [{"matches": [match]}]}]
    ).SerializeToString()


@pytest.mark.parametrize(
    ("payload", "named"),
    [
        (authorization_pb2.Authorization(namespace="n").SerializeToString(), "authorization.name"),
        (b"\x0a\x01p\x20\x02", "action"),
        (b"\x0a\x01p\x18\x09", "scope"),
        (one_match(principals=[{}]), "principals"),
        (one_match(source_ips=[{"address": b"\x0a\0\0\0", "length": 40}]), "source_ips"),
        (one_match(not_destination_ips=[{"address": b"\x0a"}]), "not_destination_ips"),
        (one_match(destination_ports=[70000]), "destination_ports"),
    ],
)
def test_bad_policies_name_their_field_and_unknown_meanings_are_refused(payload: bytes, named: str) -> None:
    with pytest.raises(InvalidMessage, match=named):
        decode_authorization(payload)


def test_host_bits_of_a_network_are_dropped() -> None:
    policy = decode_authorization(one_match(source_ips=[{"address": b"\x0a\x01\x02\x03", "length": 8}]))
    assert policy.rules[0].clauses[0].matches[0].source_ips == (parse_cidr("10.0.0.0/8"),)
