"""What is refused of Istio's traffic and token objects, as far as safety depends on it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from resources.destination_rule import DestinationRuleSpec, TrafficPolicy
from resources.documents import Path
from resources.security import JwtRule, RequestAuthenticationSpec
from resources.service_entry import ServiceEntrySpec, WorkloadEntrySpec
from resources.violation import (
    Violation,
    check_address,
    check_expression,
    check_field_text,
    check_header,
    check_header_name,
    check_host,
    check_network,
)
from resources.virtual_service import (
    HeaderOperations,
    Headers,
    HttpMatchRequest,
    StringMatch,
    VirtualHttpRoute,
    VirtualServiceSpec,
)

_ONE = "needs exactly one of exact, prefix and regex"


def virtual_service_violations(spec: VirtualServiceSpec) -> Iterator[Violation]:
    """A VirtualService; without hosts it is a delegate."""
    for index, host in enumerate(spec.hosts):
        yield from check_host(("spec", "hosts", index), host)
    for index, route in enumerate(spec.http):
        yield from _http_route(route, ("spec", "http", index))
    for name, routes in (("tls", spec.tls), ("tcp", spec.tcp)):
        for index, stream in enumerate(routes):
            path: Path = ("spec", name, index)
            if not stream.route:
                yield Violation((*path, "route"), "a route of connections needs a destination")
            if name == "tls" and not all(match.sni_hosts for match in stream.match):
                yield Violation((*path, "match"), "a match of TLS needs sniHosts")
            for position, match in enumerate(stream.match):
                for subnet in match.destination_subnets:
                    yield from check_network((*path, "match", position, "destinationSubnets"), subnet)


def _http_route(route: VirtualHttpRoute, path: Path) -> Iterator[Violation]:
    actions = [bool(route.route), route.redirect is not None, route.direct_response is not None, bool(route.delegate)]
    if sum(actions) != 1:
        yield Violation(path, "needs exactly one of route, redirect, directResponse and delegate")
    for index, match in enumerate(route.match):
        yield from _http_match(match, (*path, "match", index))
    yield from _headers(route.headers, (*path, "headers"))
    for index, destination in enumerate(route.route):
        yield from _headers(destination.headers, (*path, "route", index, "headers"))
    if len(route.route) > 1 and not any(one.weight for one in route.route):
        yield Violation((*path, "route"), "the weights sum up to zero")
    if route.redirect is not None:
        for value in (route.redirect.uri, route.redirect.authority, route.redirect.scheme):
            yield from check_field_text((*path, "redirect"), value)
        if route.redirect.redirect_code not in (301, 302, 303, 307, 308):
            yield Violation((*path, "redirect", "redirectCode"), "is not a redirection")
        if route.redirect.derive_port not in (None, "FROM_PROTOCOL_DEFAULT", "FROM_REQUEST_PORT"):
            yield Violation((*path, "redirect", "derivePort"), "is not known")
    if route.rewrite is not None:
        for value in (route.rewrite.uri, route.rewrite.authority):
            yield from check_field_text((*path, "rewrite"), value)
        if route.rewrite.uri_regex_rewrite is not None:
            yield from check_expression((*path, "rewrite", "uriRegexRewrite"), route.rewrite.uri_regex_rewrite.match)
    if route.cors_policy is not None:
        for index, origin in enumerate(route.cors_policy.allow_origins):
            yield from _string_match(origin, (*path, "corsPolicy", "allowOrigins", index))


def _http_match(match: HttpMatchRequest, path: Path) -> Iterator[Violation]:
    for name, single in (
        ("uri", match.uri),
        ("scheme", match.scheme),
        ("method", match.method),
        ("authority", match.authority),
    ):
        if single is not None:
            yield from _string_match(single, (*path, name))
    for name, several in (
        ("headers", match.headers),
        ("withoutHeaders", match.without_headers),
        ("queryParams", match.query_params),
    ):
        for key, value in several.items():
            if name != "queryParams":
                yield from check_header_name((*path, name, key), key.removeprefix(":"))
            # An empty match of a header asks for its presence.
            if value != StringMatch():
                yield from _string_match(value, (*path, name, key))


def _string_match(match: StringMatch, path: Path) -> Iterator[Violation]:
    given = [value for value in (match.exact, match.prefix, match.regex) if value is not None]
    if len(given) != 1:
        yield Violation(path, _ONE)
    if match.regex is not None:
        yield from check_expression((*path, "regex"), match.regex)


def _headers(headers: Headers | None, path: Path) -> Iterator[Violation]:
    for name, operations in (("request", headers.request), ("response", headers.response)) if headers else ():
        yield from _operations(operations or HeaderOperations(), (*path, name))


def _operations(operations: HeaderOperations, path: Path) -> Iterator[Violation]:
    for name, values in (("set", operations.set), ("add", operations.add)):
        for header, value in values.items():
            # Istio sets the authority by the pseudo-header's name.
            yield from check_header((*path, name, header), header.removeprefix(":"), value)
    for header in operations.remove:
        yield from check_header_name((*path, "remove"), header)


def destination_rule_violations(spec: DestinationRuleSpec) -> Iterator[Violation]:
    """A DestinationRule."""
    yield from check_host(("spec", "host"), spec.host)
    names = [subset.name for subset in spec.subsets]
    if len(set(names)) != len(names):
        yield Violation(("spec", "subsets"), "two subsets have the same name")
    if spec.traffic_policy is not None:
        yield from _traffic_policy(spec.traffic_policy, ("spec", "trafficPolicy"))
    for index, subset in enumerate(spec.subsets):
        if subset.traffic_policy is not None:
            yield from _traffic_policy(subset.traffic_policy, ("spec", "subsets", index, "trafficPolicy"))


def _traffic_policy(policy: TrafficPolicy, path: Path) -> Iterator[Violation]:
    for index, port in enumerate(policy.port_level_settings):
        if port.port is None or port.port.number is None:
            yield Violation((*path, "portLevelSettings", index, "port"), "a port's settings need its number")
    balancer = policy.load_balancer
    if balancer is None:
        return
    if balancer.simple is not None and balancer.consistent_hash is not None:
        yield Violation((*path, "loadBalancer"), "simple and consistentHash exclude each other")
    if (hashed := balancer.consistent_hash) is not None:
        where = (*path, "loadBalancer", "consistentHash")
        keys = (
            hashed.http_header_name, hashed.http_cookie, hashed.use_source_ip, hashed.http_query_parameter_name
        )
        if sum(bool(key) for key in keys) != 1:
            yield Violation(where, "needs exactly one thing to hash")
        if hashed.ring_hash is not None and hashed.maglev is not None:
            yield Violation(where, "ringHash and maglev exclude each other")
    if (locality := balancer.locality_lb_setting) is not None:
        for index, share in enumerate(locality.distribute):
            if sum(share.to.values()) != 100:
                where = (*path, "loadBalancer", "localityLbSetting", "distribute", index)
                yield Violation(where, "the shares do not sum up to 100")


def request_authentication_violations(spec: RequestAuthenticationSpec) -> Iterator[Violation]:
    """A RequestAuthentication: a rule that could not be read would let its tokens through unverified."""
    if spec.selector is not None and spec.targets:
        yield Violation(("spec",), "selector and targetRefs exclude each other", "keep one of them")
    for index, rule in enumerate(spec.jwt_rules):
        yield from _jwt_rule(rule, ("spec", "jwtRules", index))


def _jwt_rule(rule: JwtRule, path: Path) -> Iterator[Violation]:
    if not rule.issuer:
        yield Violation((*path, "issuer"), "is empty")
    if rule.jwks_uri and rule.jwks:
        yield Violation((*path, "jwks"), "jwks and jwksUri exclude each other")
    if rule.jwks_uri and not _is_web_address(rule.jwks_uri):
        yield Violation((*path, "jwksUri"), f"{rule.jwks_uri[:64]!r} is not an http or https address")
    if rule.jwks and not _is_key_set(rule.jwks):
        yield Violation((*path, "jwks"), "is not a key set: JSON with a list 'keys'")
    for index, header in enumerate(rule.from_headers):
        yield from check_header_name((*path, "fromHeaders", index, "name"), header.name)
    for index, claim in enumerate(rule.output_claim_to_headers):
        yield from check_header_name((*path, "outputClaimToHeaders", index, "header"), claim.header)
        if not claim.claim:
            yield Violation((*path, "outputClaimToHeaders", index, "claim"), "is empty")
    if rule.output_payload_to_header:
        yield from check_header_name((*path, "outputPayloadToHeader"), rule.output_payload_to_header)


def _is_web_address(text: str) -> bool:
    try:
        parts = urlsplit(text)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        return False


def _is_key_set(text: str) -> bool:
    try:
        value: Any = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return isinstance(value, dict) and isinstance(value.get("keys"), list)


def service_entry_violations(spec: ServiceEntrySpec) -> Iterator[Violation]:
    """A ServiceEntry."""
    if not spec.hosts:
        yield Violation(("spec", "hosts"), "names at least one host")
    for index, host in enumerate(spec.hosts):
        yield from check_host(("spec", "hosts", index), host)
    for index, address in enumerate(spec.addresses):
        yield from check_network(("spec", "addresses", index), address)
    numbers = [port.number for port in spec.ports]
    names = [port.name for port in spec.ports]
    if len(set(numbers)) != len(numbers) or len(set(names)) != len(names):
        yield Violation(("spec", "ports"), "two ports have the same number or name")
    if spec.endpoints and spec.workload_selector is not None:
        yield Violation(("spec", "endpoints"), "endpoints and workloadSelector exclude each other")
    if spec.resolution == "NONE" and spec.endpoints:
        yield Violation(("spec", "endpoints"), "the resolution NONE takes no endpoints")
    for index, endpoint in enumerate(spec.endpoints):
        yield from workload_entry_violations(endpoint, ("spec", "endpoints", index), names=spec.resolution != "STATIC")


def workload_entry_violations(spec: WorkloadEntrySpec, path: Path, *, names: bool) -> Iterator[Violation]:
    """A WorkloadEntry, or an endpoint of a ServiceEntry; ``names``: its address may be a DNS name."""
    where = (*path, "address")
    if not spec.address:
        yield Violation(where, "is missing", "endpoints of other networks are not supported")
    elif not names:
        yield from check_address(where, spec.address)
    else:
        faults = [*check_address(where, spec.address)]
        if faults:
            yield from check_host(where, spec.address)
