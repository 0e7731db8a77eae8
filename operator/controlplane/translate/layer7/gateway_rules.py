"""Rules of HTTPRoute and GRPCRoute to routes of the model, each with its place among others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from controlplane.translate.layer7.backends import referenced_backend
from controlplane.translate.layer7.durations import seconds, seconds_or_none
from controlplane.translate.layer7.filters import Filtered, translate_filters
from controlplane.translate.layer7.notes import Notes
from controlplane.translate.layer7.precedence import Ranked, SortKey, grpc_rank, http_rank
from controlplane.translate.layer7.rate_limiting import rate_limits
from controlplane.translate.tracking import View, age
from mesh.model.http_route import (
    Backend,
    DirectResponse,
    HttpRoute,
    NamedMatch,
    PathMatch,
    PathMatchKind,
    RequestMatch,
    Retry,
    SessionPersistence,
    TextMatch,
    TextMatchKind,
)
from resources import routes as fields
from resources.objects import GRPCRoute, HTTPRoute
from resources.routes import GrpcRouteMatch, HttpRouteMatch, RouteBackend, RouteRetry, ValueMatch

# What the mesh can repeat without knowing the application: nothing of the answer has been seen.
_RETRIED_ALWAYS = ("connect-failure", "refused-stream", "reset")
_DEFAULT_ATTEMPTS = 1
_DEFAULT_BACKOFF_SECONDS = 0.025
_PATH_KINDS = {
    "Exact": PathMatchKind.EXACT,
    "PathPrefix": PathMatchKind.PREFIX,
    "RegularExpression": PathMatchKind.REGEX,
}
_ANY_NAME = "[^/]+"


def translate_rules(view: View, notes: Notes, route: HTTPRoute | GRPCRoute) -> list[Ranked]:
    """Every match of every rule as a route of its own."""
    place = age(route)
    result: list[Ranked] = []
    rules: Sequence[fields.HttpRouteRule | fields.GrpcRouteRule] = route.spec.rules
    for index, rule in enumerate(rules):
        where = f"rules[{index}]"
        name = f"{route.metadata.namespace}/{route.metadata.name}/{rule.name or index}"
        filtered = translate_filters(view, notes, rule.filters, where)
        action = _action(view, notes, route, rule, filtered, name, where)
        for position, (match, rank) in enumerate(_matches(rule, filtered)):
            result.append(Ranked((*rank, *place, index, position), _with_match(action, match)))
    return result


def _action(
    view: View,
    notes: Notes,
    route: HTTPRoute | GRPCRoute,
    rule: fields.HttpRouteRule | fields.GrpcRouteRule,
    filtered: Filtered,
    name: str,
    where: str,
) -> HttpRoute:
    backends = tuple(_backends(view, notes, rule.backend_refs, where))
    timeouts = rule.timeouts if isinstance(rule, fields.HttpRouteRule) else None
    retry = rule.retry if isinstance(rule, fields.HttpRouteRule) else None
    return HttpRoute(
        name=name,
        request_headers=filtered.request_headers,
        response_headers=filtered.response_headers,
        redirect=None if filtered.refused else filtered.redirect,
        direct_response=DirectResponse(status=500) if filtered.refused else None,
        rewrite=filtered.rewrite,
        cors=filtered.cors,
        rate_limits=rate_limits(route, rule.name),
        mirrors=tuple(filtered.mirrors),
        backends=backends,
        timeout_seconds=seconds_or_none(timeouts.request) if timeouts else None,
        backend_timeout_seconds=seconds_or_none(timeouts.backend_request) if timeouts else None,
        retry=_retry(retry) if retry else None,
        session=_session(rule.session_persistence, name) if rule.session_persistence else None,
    )


def _backends(view: View, notes: Notes, references: tuple[RouteBackend, ...], where: str) -> Iterator[Backend]:
    for index, reference in enumerate(references):
        place = f"{where}.backendRefs[{index}]"
        backend = referenced_backend(view, notes, reference, reference.weight, place)
        own = translate_filters(view, notes, reference.filters, place)
        reason = backend.invalid or own.refused or None
        if own.redirect or own.rewrite or own.cors or own.mirrors:
            reason = reason or f"{place}: of a backend's filters only those of headers are supported"
            notes.refuse(f"{reason}: its share of requests is answered 500")
        if reference.weight:
            yield Backend(
                service=backend.service,
                port=backend.port,
                weight=backend.weight,
                request_headers=own.request_headers,
                response_headers=own.response_headers,
                invalid=reason,
            )


def _matches(
    rule: fields.HttpRouteRule | fields.GrpcRouteRule, filtered: Filtered
) -> Iterator[tuple[RequestMatch, SortKey]]:
    if isinstance(rule, fields.GrpcRouteRule):
        for grpc in rule.matches or (GrpcRouteMatch(),):
            service, method = (grpc.method.service, grpc.method.method) if grpc.method else (None, None)
            yield _grpc_match(grpc), grpc_rank(service, method, len(grpc.headers))
        return
    redirected = filtered.redirect.path if filtered.redirect else None
    keeps_prefix = any(path is not None and path.prefix is not None for path in (filtered.path, redirected))
    for http in rule.matches or (HttpRouteMatch(),):
        match = _http_match(http, keeps_prefix=keeps_prefix)
        yield match, http_rank(match, len(http.headers))


def _http_match(match: HttpRouteMatch, *, keeps_prefix: bool) -> RequestMatch:
    path = match.path or fields.HttpPathMatch()
    everything = path.type == "PathPrefix" and path.value == "/" and not keeps_prefix
    headers, authority = _headers(match.headers)
    return RequestMatch(
        path=None if everything else PathMatch(_PATH_KINDS[path.type], path.value),
        method=TextMatch(TextMatchKind.EXACT, match.method) if match.method else None,
        authority=authority,
        headers=headers,
        query=_named(match.query_params, lower=False),
    )


def _grpc_match(match: GrpcRouteMatch) -> RequestMatch:
    headers, authority = _headers(match.headers)
    return RequestMatch(path=_grpc_path(match), authority=authority, headers=headers)


def _grpc_path(match: GrpcRouteMatch) -> PathMatch | None:
    method = match.method
    if method is None:
        return None
    if method.type == "Exact":
        if method.service and method.method:
            return PathMatch(PathMatchKind.EXACT, f"/{method.service}/{method.method}")
        if method.service:
            return PathMatch(PathMatchKind.PREFIX, f"/{method.service}")
        return PathMatch(PathMatchKind.REGEX, f"/{_ANY_NAME}/{method.method}")
    service = f"(?:{method.service})" if method.service else _ANY_NAME
    name = f"(?:{method.method})" if method.method else _ANY_NAME
    return PathMatch(PathMatchKind.REGEX, f"/{service}/{name}")


def _headers(values: tuple[ValueMatch, ...]) -> tuple[tuple[NamedMatch, ...], TextMatch | None]:
    """Headers, and what is said of the host, which the waypoint keeps apart."""
    named = _named(values, lower=True)
    authority = next((one.match for one in named if one.name == "host"), None)
    return tuple(one for one in named if one.name != "host"), authority


def _named(values: tuple[ValueMatch, ...], *, lower: bool) -> tuple[NamedMatch, ...]:
    """Of several entries for one name the first counts (HTTPHeaderMatch.name, HTTPQueryParamMatch.name)."""
    found: dict[str, NamedMatch] = {}
    for value in values:
        name = value.name.lower() if lower else value.name
        kind = TextMatchKind.EXACT if value.type == "Exact" else TextMatchKind.REGEX
        found.setdefault(name, NamedMatch(name, TextMatch(kind, value.value)))
    return tuple(found.values())


def _retry(retry: RouteRetry) -> Retry | None:
    attempts = _DEFAULT_ATTEMPTS if retry.attempts is None else retry.attempts
    if not attempts:
        return None
    backoff = seconds(retry.backoff) if retry.backoff is not None else _DEFAULT_BACKOFF_SECONDS
    return Retry(attempts=attempts, statuses=retry.codes, conditions=_RETRIED_ALWAYS, backoff_seconds=backoff)


def _session(session: fields.SessionPersistence, rule: str) -> SessionPersistence:
    permanent = session.cookie_config is not None and session.cookie_config.lifetime_type == "Permanent"
    by_header = session.type == "Header"
    name = session.session_name or "ambimesh-session-" + "-".join(rule.split("/"))
    return SessionPersistence(
        name=name.lower() if by_header else name,
        by_header=by_header,
        lifetime_seconds=seconds_or_none(session.absolute_timeout) if permanent else None,
        idle_seconds=seconds_or_none(session.idle_timeout),
    )


def _with_match(action: HttpRoute, match: RequestMatch) -> HttpRoute:
    return replace(action, matches=() if match == RequestMatch() else (match,))
