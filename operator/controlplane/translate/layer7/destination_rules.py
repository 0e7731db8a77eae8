"""DestinationRule and the annotation of health checks: how a service is treated as a backend; with what
BackendTLSPolicies say of it.

The rule of the service's own namespace counts, else one of the root namespace. Of several for one host the oldest that
says something about traffic counts, and their subsets are taken together. Other namespaces' rules have no effect.
"""

from __future__ import annotations

from dataclasses import replace

import msgspec

from controlplane.translate.binding import bind
from controlplane.translate.facets import WILDCARD, full_host, host_facet
from controlplane.translate.finding import Finding
from controlplane.translate.layer7.backend_tls import backend_tls
from controlplane.translate.layer7.client_tls import Keeper, client_tls
from controlplane.translate.layer7.durations import seconds
from controlplane.translate.layer7.notes import Notes
from controlplane.translate.targets import Target, find_host
from controlplane.translate.tracking import View
from mesh.model.upstream_policy import (
    Algorithm,
    Balancing,
    ConnectionPool,
    HashKey,
    HashKind,
    HealthCheck,
    LocalityShare,
    OutlierDetection,
    Subset,
    TrafficPolicy,
    UpstreamPolicy,
    UpstreamTls,
)
from resources import destination_rule as fields
from resources.health_check import health_check_of
from resources.objects import DestinationRule

_ALGORITHMS = {
    "UNSPECIFIED": Algorithm.LEAST_REQUEST,
    "LEAST_CONN": Algorithm.LEAST_REQUEST,
    "LEAST_REQUEST": Algorithm.LEAST_REQUEST,
    "ROUND_ROBIN": Algorithm.ROUND_ROBIN,
    "RANDOM": Algorithm.RANDOM,
    "PASSTHROUGH": Algorithm.PASSTHROUGH,
}
_NO_POLICY = fields.TrafficPolicy()


def upstream_policy(view: View, target: Target, namespace: str) -> UpstreamPolicy | None:
    """All that is said about a service; None if nothing is. ``namespace`` is the waypoint's, whom it is for."""
    rules = _rules_of(view, target)
    keeper = Keeper(view, rules[0].metadata.namespace if rules else namespace, namespace)
    first = next((rule for rule in rules if rule.spec.traffic_policy is not None), None)
    base = first.spec.traffic_policy if first and first.spec.traffic_policy else _NO_POLICY
    notes = Notes(target.object)
    subsets: dict[str, Subset] = {}
    for rule in rules:
        for subset in rule.spec.subsets:
            subsets.setdefault(subset.name, _subset(notes, keeper, subset, base, target.hostname))
    whole_tls, port_tls = backend_tls(view, target)
    policy = _with_tls(traffic_policy(notes, keeper, base, target.hostname, "trafficPolicy"), whole_tls)
    ports = {
        one.port.number: traffic_policy(notes, keeper, _of_port(one), target.hostname, "portLevelSettings")
        for one in base.port_level_settings
        if one.port is not None and one.port.number is not None
    }
    for number in (*ports, *port_tls):
        ports[number] = _with_tls(ports.get(number, policy), port_tls.get(number, whole_tls))
    check = _health_check(target)
    result = UpstreamPolicy(
        service=target.key,
        policy=replace(policy, health_check=check),
        ports=tuple((number, replace(ports[number], health_check=check)) for number in sorted(ports)),
        subsets=tuple(
            replace(subset, policy=replace(_with_tls(subset.policy, whole_tls), health_check=check))
            if subset.policy
            else subset
            for subset in subsets.values()
        ),
    )
    return None if result == UpstreamPolicy(service=target.key) else result


def destination_rule_findings(view: View, value: DestinationRule) -> tuple[Finding, ...]:
    """What of a DestinationRule has no effect."""
    notes = Notes(value.key)
    spec, namespace = value.spec, value.metadata.namespace
    host = full_host(spec.host, namespace, view.settings)
    keeper = Keeper(view, namespace, namespace)
    if spec.workload_selector is not None:
        notes.not_applied("workloadSelector is sidecars': a waypoint's rule has none")
    if not host.startswith("*"):
        target = find_host(view, host, namespace)
        if target is None:
            notes.not_applied(f"host {spec.host!r} is no service of the mesh")
        elif namespace not in (target.namespace, view.settings.root_namespace):
            notes.not_applied(f"{host} is of the namespace {target.namespace}: only rules there count")
        elif value not in _rules_of(view, target) and spec.workload_selector is None:
            notes.not_applied(f"rules for {host} in its own namespace count instead")
        if target is not None:
            bound = bind(view, target.metadata, "service").waypoints
            keeper = Keeper(view, namespace, bound[0].namespace if bound else namespace)
    if spec.traffic_policy is not None:
        traffic_policy(notes, keeper, spec.traffic_policy, host, "trafficPolicy")
        for index, port in enumerate(spec.traffic_policy.port_level_settings):
            traffic_policy(notes, keeper, _of_port(port), host, f"trafficPolicy.portLevelSettings[{index}]")
    for index, subset in enumerate(spec.subsets):
        if subset.traffic_policy is not None:
            traffic_policy(notes, keeper, subset.traffic_policy, host, f"subsets[{index}].trafficPolicy")
            if subset.traffic_policy.port_level_settings:
                notes.unsupported(f"subsets[{index}].trafficPolicy.portLevelSettings has no effect")
    return tuple(notes.findings)


def traffic_policy(
    notes: Notes, keeper: Keeper, policy: fields.TrafficPolicy, host: str, place: str
) -> TrafficPolicy:
    """One trafficPolicy, or the settings of a port."""
    for name, given in (
        ("tunnel", policy.tunnel),
        ("proxyProtocol", policy.proxy_protocol),
        ("retryBudget", policy.retry_budget),
    ):
        if given is not None:
            notes.unsupported(f"{place}.{name} has no effect")
    return TrafficPolicy(
        balancing=_balancing(notes, policy.load_balancer, f"{place}.loadBalancer"),
        pool=_pool(notes, policy.connection_pool, f"{place}.connectionPool"),
        outlier=_outlier(policy.outlier_detection) if policy.outlier_detection else None,
        tls=client_tls(notes, keeper, policy.tls, host, f"{place}.tls") if policy.tls else None,
    )


def _rules_of(view: View, target: Target) -> list[DestinationRule]:
    exact = view.having(DestinationRule, host_facet(target.hostname))
    wild = [
        one
        for one in view.having(DestinationRule, host_facet(WILDCARD))
        if target.hostname.endswith(one.spec.host.lower()[1:])
    ]
    wild.sort(key=lambda one: -len(one.spec.host))
    for namespace in (target.namespace, view.settings.root_namespace):
        for rules in (exact, wild):
            found = [
                one for one in rules if one.metadata.namespace == namespace and one.spec.workload_selector is None
            ]
            if found:
                return found
    return []


def _subset(
    notes: Notes, keeper: Keeper, subset: fields.DestinationSubset, base: fields.TrafficPolicy, host: str
) -> Subset:
    """A subset's own policy, with what it does not say taken from the rule's."""
    policy = None
    if subset.traffic_policy is not None:
        own = subset.traffic_policy
        names = ("load_balancer", "connection_pool", "outlier_detection", "tls")
        merged = msgspec.structs.replace(own, **{name: getattr(own, name) or getattr(base, name) for name in names})
        policy = traffic_policy(notes, keeper, merged, host, subset.name)
    return Subset(name=subset.name, labels=tuple(sorted(subset.labels.items())), policy=policy)


def _of_port(port: fields.PortTrafficPolicy) -> fields.TrafficPolicy:
    """A port's settings stand alone: what they do not say is at its default, as Istio has it."""
    return fields.TrafficPolicy(
        load_balancer=port.load_balancer,
        connection_pool=port.connection_pool,
        outlier_detection=port.outlier_detection,
        tls=port.tls,
    )


def _balancing(notes: Notes, balancer: fields.LoadBalancer | None, place: str) -> Balancing:
    if balancer is None:
        return Balancing()
    result = Balancing(algorithm=_ALGORITHMS[balancer.simple or "UNSPECIFIED"])
    if (hashed := balancer.consistent_hash) is not None:
        maglev = hashed.maglev
        ring = hashed.ring_hash.minimum_ring_size if hashed.ring_hash else hashed.minimum_ring_size
        result = replace(
            result,
            algorithm=Algorithm.MAGLEV if maglev is not None else Algorithm.RING_HASH,
            hash_keys=(_hash_key(notes, hashed, place),),
            ring_size=ring or Balancing().ring_size,
            table_size=(maglev.table_size if maglev else 0) or Balancing().table_size,
        )
    warmup = balancer.warmup
    if warmup is not None and (warmup.minimum_percent is not None or warmup.aggression is not None):
        notes.unsupported(f"{place}.warmup: minimumPercent and aggression have no effect: the share grows evenly")
    slow_start = (warmup.duration if warmup else None) or balancer.warmup_duration_secs
    if slow_start is not None:
        result = replace(result, slow_start_seconds=seconds(slow_start))
    if (locality := balancer.locality_lb_setting) is not None:
        if locality.failover_priority:
            notes.unsupported(f"{place}.localityLbSetting.failoverPriority has no effect")
        result = replace(
            result,
            locality_enabled=locality.enabled is not False,
            locality_shares=tuple(
                LocalityShare(source=one.from_, shares=tuple(sorted(one.to.items()))) for one in locality.distribute
            ),
            failover=tuple((one.from_, one.to) for one in locality.failover),
        )
    return result


def _hash_key(notes: Notes, hashed: fields.ConsistentHash, place: str) -> HashKey:
    if hashed.http_header_name:
        return HashKey(kind=HashKind.HEADER, name=hashed.http_header_name.lower())
    if hashed.http_query_parameter_name:
        return HashKey(kind=HashKind.QUERY, name=hashed.http_query_parameter_name)
    if (cookie := hashed.http_cookie) is not None:
        if cookie.attributes:
            notes.unsupported(f"{place}.consistentHash.httpCookie.attributes have no effect")
        life = seconds(cookie.ttl) if cookie.ttl is not None else None
        return HashKey(
            kind=HashKind.COOKIE, name=cookie.name, cookie_path=cookie.path or "/", cookie_seconds=life
        )
    return HashKey(kind=HashKind.SOURCE_ADDRESS)


def _pool(notes: Notes, settings: fields.ConnectionPoolSettings | None, place: str) -> ConnectionPool:
    tcp = (settings.tcp if settings else None) or fields.TcpSettings()
    http = (settings.http if settings else None) or fields.HttpSettings()
    for name, given in (
        ("tcp.tcpKeepalive", tcp.tcp_keepalive),
        ("tcp.maxConnectionDuration", tcp.max_connection_duration),
        ("http.useClientProtocol", http.use_client_protocol),
        ("http.maxConcurrentStreams", http.max_concurrent_streams),
    ):
        if given:
            notes.unsupported(f"{place}.{name} has no effect")
    default = ConnectionPool()
    idle = http.idle_timeout or tcp.idle_timeout
    return ConnectionPool(
        max_connections=tcp.max_connections or default.max_connections,
        max_pending_requests=http.http1_max_pending_requests or default.max_pending_requests,
        max_requests=http.http2_max_requests or default.max_requests,
        max_retries=http.max_retries or default.max_retries,
        max_requests_per_connection=http.max_requests_per_connection,
        idle_seconds=seconds(idle) if idle else default.idle_seconds,
        connect_seconds=seconds(tcp.connect_timeout) if tcp.connect_timeout else default.connect_seconds,
        upgrade_to_http2=http.h2_upgrade_policy == "UPGRADE",
    )


def _outlier(detection: fields.OutlierDetection) -> OutlierDetection:
    default = OutlierDetection()
    consecutive = detection.consecutive_5xx_errors
    if consecutive is None:
        consecutive = detection.consecutive_errors or default.consecutive_5xx
    local = detection.consecutive_local_origin_failures
    return OutlierDetection(
        consecutive_5xx=consecutive,
        consecutive_gateway_errors=detection.consecutive_gateway_errors or 0,
        split_local_errors=detection.split_external_local_origin_errors,
        consecutive_local_failures=default.consecutive_local_failures if local is None else local,
        interval_seconds=seconds(detection.interval) if detection.interval else default.interval_seconds,
        base_ejection_seconds=(
            seconds(detection.base_ejection_time) if detection.base_ejection_time else default.base_ejection_seconds
        ),
        max_ejection_percent=detection.max_ejection_percent or default.max_ejection_percent,
        min_health_percent=max(0, detection.min_health_percent),
    )


def _health_check(target: Target) -> HealthCheck | None:
    fields_of = health_check_of(target.metadata)
    if fields_of is None:
        return None
    return HealthCheck(
        path=fields_of.path,
        port=fields_of.port,
        interval_seconds=seconds(fields_of.interval),
        timeout_seconds=seconds(fields_of.timeout),
        unhealthy_threshold=fields_of.unhealthy_threshold,
        healthy_threshold=fields_of.healthy_threshold,
    )


def _with_tls(policy: TrafficPolicy, tls: UpstreamTls | None) -> TrafficPolicy:
    return policy if tls is None else replace(policy, tls=tls)
