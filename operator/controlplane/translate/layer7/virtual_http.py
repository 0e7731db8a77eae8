"""One HTTP route of a VirtualService to routes of the model."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator
from dataclasses import replace

from controlplane.translate.layer7.backends import destination_backend
from controlplane.translate.layer7.durations import seconds, seconds_or_none
from controlplane.translate.layer7.headers import header_change
from controlplane.translate.layer7.notes import Notes
from controlplane.translate.layer7.virtual_matches import request_match, string_match
from controlplane.translate.tracking import View
from mesh.model.http_route import (
    Backend,
    Cors,
    DirectResponse,
    Fault,
    Fraction,
    HeaderChange,
    HttpRoute,
    Mirror,
    PathMatch,
    PathMatchKind,
    PathRewrite,
    RateLimit,
    Redirect,
    RequestMatch,
    Retry,
    Rewrite,
    TextMatch,
    TextMatchKind,
)
from resources.virtual_service import (
    CorsPolicy,
    HeaderOperations,
    HttpFaultInjection,
    HttpRedirect,
    HttpRetry,
    HttpRewrite,
    Percent,
    VirtualHttpRoute,
)

_DEFAULT_CONDITIONS = ("connect-failure", "refused-stream", "unavailable", "cancelled")
_CONDITIONS = frozenset(
    (
        "5xx", "gateway-error", "connect-failure", "reset", "reset-before-request", "refused-stream", "retriable-4xx",
        "cancelled", "deadline-exceeded", "internal", "resource-exhausted", "unavailable",
    )
)  # fmt: skip
_GRPC_STATUSES = (
    "OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS",
    "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED",
    "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED",
)  # fmt: skip
_MILLION = 1_000_000


def translate_http(
    view: View,
    notes: Notes,
    route: VirtualHttpRoute,
    name: str,
    called: int | None,
    limits: tuple[RateLimit, ...],
    place: str,
) -> Iterator[HttpRoute]:
    """One route, as clients of one port see it: a route of the model for each of its matches.

    Args:
        view: the objects.
        notes: of the VirtualService.
        route: the route.
        name: for logs and metrics.
        called: the port that clients dial; None where all of them are meant.
        limits: rate limits of this route.
        place: where it stands, for messages.
    """
    matches = []
    for index, match in enumerate(route.match):
        if called is None or match.port in (None, called):
            translated = request_match(notes, match, f"{place}.match[{index}]")
            if translated is not None:
                matches.append(translated)
    if route.match and not matches:
        return
    request, authority = _headers(notes, route.headers.request if route.headers else None, f"{place}.headers.request")
    response, _ = _headers(notes, route.headers.response if route.headers else None, f"{place}.headers.response")
    action = HttpRoute(
        name=name,
        request_headers=request,
        response_headers=response,
        redirect=_redirect(notes, route.redirect, place) if route.redirect else None,
        direct_response=_direct_response(notes, route, place),
        cors=_cors(route.cors_policy) if route.cors_policy else None,
        fault=_fault(notes, route.fault, place) if route.fault else None,
        rate_limits=limits,
        mirrors=tuple(_mirrors(view, notes, route, called, place)),
        backends=tuple(_backends(view, notes, route, called, place)),
        timeout_seconds=seconds_or_none(route.timeout),
        backend_timeout_seconds=None,
        retry=_retry(notes, route.retries, place) if route.retries else None,
    )
    for one in matches or [RequestMatch()]:
        rewrite, kept = _rewrite(route.rewrite, authority, one)
        yield replace(action, rewrite=rewrite, matches=() if kept == RequestMatch() else (kept,))


def _backends(view: View, notes: Notes, route: VirtualHttpRoute, called: int | None, place: str) -> Iterator[Backend]:
    for index, one in enumerate(route.route):
        where = f"{place}.route[{index}]"
        weight = one.weight or (1 if len(route.route) == 1 else 0)
        backend = destination_backend(view, notes, one.destination, weight, called, where)
        request, authority = _headers(notes, one.headers.request if one.headers else None, f"{where}.headers.request")
        response, _ = _headers(notes, one.headers.response if one.headers else None, f"{where}.headers.response")
        if authority is not None:
            notes.unsupported(f"{where}.headers.request: the host can be set for the whole route only")
        if weight:
            yield replace(backend, request_headers=request, response_headers=response)


def _mirrors(view: View, notes: Notes, route: VirtualHttpRoute, called: int | None, place: str) -> Iterator[Mirror]:
    wanted = [(mirror.destination, _share(mirror.percentage, None, 100.0)) for mirror in route.mirrors]
    if route.mirror is not None:
        wanted.append((route.mirror, _share(route.mirror_percentage, route.mirror_percent, 100.0)))
    for destination, share in wanted:
        backend = destination_backend(view, notes, destination, 1, called, f"{place}.mirror")
        if backend.invalid is None and share.numerator:
            yield Mirror(backend=backend, share=share)


def _share(percentage: Percent | None, percent: int | None, default: float) -> Fraction:
    """A percentage, which may be as fine as a ten-thousandth of one."""
    value = percentage.value if percentage is not None else float(percent) if percent is not None else default
    return Fraction(int(value)) if value == int(value) else Fraction(round(value * _MILLION / 100), _MILLION)


def _rewrite(
    rewrite: HttpRewrite | None, authority: str | None, match: RequestMatch
) -> tuple[Rewrite | None, RequestMatch]:
    """A new host and path. What is rewritten depends on the match: of a prefix the prefix, of others all of the path.

    Without a match of the path, its beginning ``/`` is what is replaced.
    """
    path: PathRewrite | None = None
    if rewrite is not None:
        authority = rewrite.authority or authority
        if rewrite.uri_regex_rewrite is not None:
            expression = rewrite.uri_regex_rewrite
            path = PathRewrite(regex=expression.match, substitution=expression.rewrite)
        elif rewrite.uri and (match.path is None or match.path.kind is PathMatchKind.TEXT_PREFIX):
            path = PathRewrite(prefix=rewrite.uri)
            match = match if match.path else replace(match, path=PathMatch(PathMatchKind.TEXT_PREFIX, "/"))
        elif rewrite.uri:
            path = PathRewrite(full=rewrite.uri)
    if authority is None and path is None:
        return None, match
    return Rewrite(authority=authority, path=path), match


def _redirect(notes: Notes, redirect: HttpRedirect, place: str) -> Redirect:
    if redirect.derive_port == "FROM_REQUEST_PORT" and redirect.scheme:
        notes.unsupported(f"{place}.redirect.derivePort: with a scheme the port is that scheme's")
    return Redirect(
        status=redirect.redirect_code,
        scheme=redirect.scheme or None,
        authority=redirect.authority or None,
        port=redirect.port or None,
        path=PathRewrite(full=redirect.uri) if redirect.uri else None,
    )


def _direct_response(notes: Notes, route: VirtualHttpRoute, place: str) -> DirectResponse | None:
    response = route.direct_response
    if response is None:
        return None
    body = response.body.string or "" if response.body else ""
    if response.body is not None and response.body.bytes is not None:
        try:
            body = base64.b64decode(response.body.bytes, validate=True).decode()
        except (binascii.Error, UnicodeDecodeError):
            notes.unsupported(f"{place}.directResponse.body.bytes: only text is sent; the body stays empty")
    return DirectResponse(status=response.status, body=body)


def _headers(
    notes: Notes, operations: HeaderOperations | None, place: str
) -> tuple[HeaderChange | None, str | None]:
    if operations is None:
        return None, None
    return header_change(notes, place, operations.set.items(), operations.add.items(), operations.remove)


def _fault(notes: Notes, fault: HttpFaultInjection, place: str) -> Fault | None:
    """Without a percentage no request is concerned, as Istio has it."""
    delay, abort = fault.delay, fault.abort
    result = Fault()
    if delay is not None:
        share = _share(delay.percentage, delay.percent, 0.0)
        if delay.fixed_delay is None:
            notes.unsupported(f"{place}.fault.delay: only fixedDelay is supported; nothing is delayed")
        elif not share.numerator:
            notes.unsupported(f"{place}.fault.delay: without a percentage nothing is delayed")
        else:
            result = replace(result, delay_seconds=seconds(delay.fixed_delay), delay_share=share)
    if abort is not None:
        share = _share(abort.percentage, abort.percent, 0.0)
        grpc = (abort.grpc_status or "").upper()
        if not share.numerator:
            notes.unsupported(f"{place}.fault.abort: without a percentage nothing is aborted")
        elif abort.http_status is not None:
            result = replace(result, abort_status=abort.http_status, abort_share=share)
        elif grpc in _GRPC_STATUSES:
            result = replace(result, abort_grpc_status=_GRPC_STATUSES.index(grpc), abort_share=share)
        else:
            notes.unsupported(f"{place}.fault.abort: only httpStatus and grpcStatus are supported; nothing is aborted")
    return None if result == Fault() else result


def _retry(notes: Notes, retry: HttpRetry, place: str) -> Retry | None:
    if not retry.attempts:
        return None
    statuses: list[int] = []
    conditions: list[str] = []
    for word in (part.strip() for part in retry.retry_on.split(",")):
        if word.isascii() and word.isdigit():
            statuses.append(int(word))
        elif word in _CONDITIONS:
            conditions.append(word)
        elif word and word != "retriable-status-codes":
            notes.unsupported(f"{place}.retries.retryOn: {word[:64]!r} is not known and retries nothing")
    if not retry.retry_on.strip():
        statuses, conditions = [503], list(_DEFAULT_CONDITIONS)
    return Retry(
        attempts=retry.attempts,
        statuses=tuple(statuses),
        conditions=tuple(conditions),
        per_try_timeout_seconds=seconds_or_none(retry.per_try_timeout),
        backoff_seconds=seconds_or_none(retry.backoff) or 0.025,
        other_endpoints=retry.retry_ignore_previous_hosts is not False,
    )


def _cors(policy: CorsPolicy) -> Cors:
    origins = [string_match(one) for one in policy.allow_origins]
    origins += [
        TextMatch(TextMatchKind.PRESENT) if text == "*" else TextMatch(TextMatchKind.EXACT, text)
        for text in policy.allow_origin
    ]
    return Cors(
        allow_origins=tuple(origins),
        allow_methods=policy.allow_methods,
        allow_headers=policy.allow_headers,
        expose_headers=policy.expose_headers,
        max_age_seconds=int(seconds(policy.max_age)) if policy.max_age is not None else None,
        allow_credentials=bool(policy.allow_credentials),
        forward_unmatched_preflights=policy.unmatched_preflights != "IGNORE",
    )
