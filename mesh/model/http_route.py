"""Routes of HTTP and gRPC requests: one model for Gateway API routes and Istio's VirtualService.

A port of a destination has an ordered tuple of routes. The first one that matches serves the request: precedence
(longest path, most headers, oldest object, ...) is settled by whoever made the tuple. What is compared is bytes as
received, with header names in lower case; strings here are ASCII or UTF-8 of those bytes.

gRPC methods are paths: service ``a.B`` and method ``C`` is the exact path ``/a.B/C``.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass


class TextMatchKind(enum.StrEnum):
    """How a text is compared."""

    EXACT = "exact"
    PREFIX = "prefix"
    SUFFIX = "suffix"
    REGEX = "regex"
    """The whole text matches an expression of RE2's syntax, which takes linear time."""
    PRESENT = "present"
    """It is there at all; ``value`` is empty."""


@dataclass(frozen=True, slots=True)
class TextMatch:
    """One comparison of a text."""

    kind: TextMatchKind
    value: str = ""
    ignore_case: bool = False
    inverted: bool = False
    """Matches where the comparison does not; of an absent text it does."""


class PathMatchKind(enum.StrEnum):
    """How a path, without its query, is compared."""

    EXACT = "exact"
    PREFIX = "prefix"
    """Whole segments: ``/a`` matches ``/a`` and ``/a/b``, not ``/ab`` (Gateway API ``PathPrefix``)."""
    TEXT_PREFIX = "text_prefix"
    """Characters: ``/a`` matches ``/ab`` (Istio ``prefix``)."""
    REGEX = "regex"


@dataclass(frozen=True, slots=True)
class PathMatch:
    """One comparison of the path."""

    kind: PathMatchKind
    value: str
    ignore_case: bool = False


@dataclass(frozen=True, slots=True)
class NamedMatch:
    """A header, query parameter or cookie, by name, and what it must be."""

    name: str
    """A header's in lower case."""
    match: TextMatch


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestMatch:
    """All fields that are set must match; one without any matches every request."""

    path: PathMatch | None = None
    method: TextMatch | None = None
    authority: TextMatch | None = None
    scheme: TextMatch | None = None
    headers: tuple[NamedMatch, ...] = ()
    query: tuple[NamedMatch, ...] = ()
    source_namespaces: tuple[str, ...] = ()
    """Any of these; empty: any at all."""
    source_labels: tuple[tuple[str, str], ...] = ()
    """All of these, on the client's workload."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeaderChange:
    """Changes of a request's or response's headers: removed first, then set (replaced), then added. Names in lower
    case. ``%DOWNSTREAM_REMOTE_ADDRESS%`` and the like are not expanded."""

    set: tuple[tuple[str, str], ...] = ()
    add: tuple[tuple[str, str], ...] = ()
    remove: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PathRewrite:
    """A new path: exactly one of the fields is set."""

    full: str | None = None
    prefix: str | None = None
    """Replaces what the route's PREFIX or TEXT_PREFIX match has matched."""
    regex: str | None = None
    """Every match of this expression is replaced by ``substitution``."""
    substitution: str = ""
    """With ``\\1`` and the like for groups; used with ``regex`` only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewrite:
    """What the upstream sees instead."""

    authority: str | None = None
    path: PathRewrite | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Redirect:
    """The answer is a redirection; parts not set stay the request's."""

    status: int = 302
    scheme: str | None = None
    authority: str | None = None
    port: int | None = None
    """None: 80 or 443 with a new scheme, else the request's own."""
    path: PathRewrite | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DirectResponse:
    """The answer is made here."""

    status: int
    body: str = ""
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Cors:
    """Cross-origin requests (Fetch standard, "CORS protocol")."""

    allow_origins: tuple[TextMatch, ...] = ()
    allow_methods: tuple[str, ...] = ()
    allow_headers: tuple[str, ...] = ()
    expose_headers: tuple[str, ...] = ()
    max_age_seconds: int | None = None
    allow_credentials: bool = False
    forward_unmatched_preflights: bool = False
    """Preflight requests of other origins go to the upstream instead of being answered here."""


@dataclass(frozen=True, slots=True)
class Fraction:
    """A share of requests: ``numerator`` of ``denominator``."""

    numerator: int
    denominator: int = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """Failures made on purpose. A delayed request may be aborted as well."""

    delay_seconds: float | None = None
    delay_share: Fraction = Fraction(100)
    abort_status: int | None = None
    abort_grpc_status: int | None = None
    abort_share: Fraction = Fraction(100)


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """When and how often a request is tried again."""

    attempts: int
    """Further attempts after the first."""
    statuses: tuple[int, ...] = ()
    """HTTP status codes of answers that are tried again."""
    conditions: tuple[str, ...] = ()
    """Envoy's names: ``5xx``, ``gateway-error``, ``connect-failure``, ``reset``, ``reset-before-request``,
    ``refused-stream``, ``retriable-4xx``, and gRPC's ``cancelled``, ``deadline-exceeded``, ``internal``,
    ``resource-exhausted``, ``unavailable``."""
    per_try_timeout_seconds: float | None = None
    backoff_seconds: float = 0.025
    """Before the first further attempt; doubled for each, jittered, at most ten times this."""
    other_endpoints: bool = True
    """Prefer endpoints that have not been tried."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionPersistence:
    """Requests of one session go to one endpoint."""

    name: str
    """Of the cookie or header that carries the session."""
    by_header: bool = False
    """False: a cookie."""
    path: str = "/"
    lifetime_seconds: float | None = None
    """None: the cookie lasts as long as the client's session."""
    idle_seconds: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimit:
    """A token bucket: what finds it empty is answered 429."""

    name: str
    """Names the bucket in metrics and, when shared, in the store."""
    tokens: int
    """Bucket size, and how many are put in per ``interval_seconds``."""
    interval_seconds: float
    by_header: str | None = None
    """One bucket for each value of this header."""
    by_identity: bool = False
    """One bucket for each client identity."""
    shared: bool = False
    """Counted together with the other replicas, in the store; else each replica counts for itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend:
    """A service's port that requests may go to."""

    service: str
    """``namespace/hostname``, the key of ``mesh.model.service.Service``."""
    port: int
    weight: int = 1
    subset: str | None = None
    """One of the service's subsets (``mesh.model.upstream_policy``)."""
    request_headers: HeaderChange | None = None
    response_headers: HeaderChange | None = None
    invalid: str | None = None
    """Why it cannot be used (unknown service, no ReferenceGrant): its share of requests is answered 500."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mirror:
    """A copy of requests goes there too; its answers are thrown away."""

    backend: Backend
    share: Fraction = Fraction(100)


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpRoute:
    """One rule: what it matches and what then happens.

    In order: CORS, fault, rate limits, redirect or direct response, request headers, rewrite, mirrors, backends,
    response headers.
    """

    name: str
    """For logs and metrics: ``namespace/object/rule``."""
    matches: tuple[RequestMatch, ...] = ()
    """Any of these; empty: every request."""
    request_headers: HeaderChange | None = None
    response_headers: HeaderChange | None = None
    redirect: Redirect | None = None
    direct_response: DirectResponse | None = None
    rewrite: Rewrite | None = None
    cors: Cors | None = None
    fault: Fault | None = None
    rate_limits: tuple[RateLimit, ...] = ()
    mirrors: tuple[Mirror, ...] = ()
    backends: tuple[Backend, ...] = ()
    """By weight; without one, and without redirect or direct response, the answer is 500 (Gateway API)."""
    timeout_seconds: float | None = None
    """Of the whole request, retries included."""
    backend_timeout_seconds: float | None = None
    """Of one attempt."""
    retry: Retry | None = None
    session: SessionPersistence | None = None
