"""Who may make which requests: AuthorizationPolicy with all its fields, and RequestAuthentication.

Evaluated by the waypoint for each request, in this order: JWTs are verified, CUSTOM policies asked, DENY, then ALLOW,
as ``mesh.rbac`` does for connections. AUDIT policies and those of a dry run are reported and decide nothing.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from mesh.addresses import Cidr
from mesh.model.http_route import TextMatch


class RequestAction(enum.StrEnum):
    """What a match means."""

    ALLOW = "allow"
    DENY = "deny"
    AUDIT = "audit"
    CUSTOM = "custom"
    """Ask an external authorizer."""


class Attribute(enum.StrEnum):
    """What a condition is about."""

    PRINCIPAL = "principal"
    """The client's identity without ``spiffe://``; absent for a client without one."""
    NAMESPACE = "namespace"
    SERVICE_ACCOUNT = "service_account"
    """``namespace/account``."""
    TRUST_DOMAIN = "trust_domain"
    REQUEST_PRINCIPAL = "request_principal"
    """``issuer/subject`` of the verified JWT; absent without one."""
    HOST = "host"
    METHOD = "method"
    PATH = "path"
    HEADER = "header"
    CLAIM = "claim"
    """``Condition.name`` is the path of the claim, joined by ``.``; a list matches when any element does."""
    AUDIENCE = "audience"
    PRESENTER = "presenter"
    SNI = "sni"


class AddressAttribute(enum.StrEnum):
    """Which address or port a condition is about."""

    SOURCE = "source"
    """The client that opened the tunnel."""
    REMOTE = "remote"
    """The original client, from ``x-forwarded-for`` as far as it is trusted."""
    DESTINATION = "destination"


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """An attribute must match any of ``values`` (none of them, if inverted)."""

    attribute: Attribute
    values: tuple[TextMatch, ...]
    name: str = ""
    """Of the header or claim."""
    inverted: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class AddressCondition:
    """An address must be in any of ``networks`` (in none, if inverted)."""

    attribute: AddressAttribute
    networks: tuple[Cidr, ...]
    inverted: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PortCondition:
    """The destination port, as the client dialled it, must be any of these (none, if inverted)."""

    ports: tuple[int, ...]
    inverted: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestClause:
    """One alternative: all conditions must hold; one without conditions always does."""

    conditions: tuple[Condition, ...] = ()
    addresses: tuple[AddressCondition, ...] = ()
    ports: tuple[PortCondition, ...] = ()


@dataclass(frozen=True, slots=True)
class RequestRule:
    """Each part (``from``, ``to``, ``when``) must be met by any of its alternatives."""

    parts: tuple[tuple[RequestClause, ...], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestPolicy:
    """One AuthorizationPolicy of layer 7. Without rules it never matches."""

    key: str
    """``namespace/name``."""
    action: RequestAction
    rules: tuple[RequestRule, ...] = ()
    authorizer: str | None = None
    """CUSTOM: name of the external authorizer."""
    dry_run: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenSource:
    """Where a JWT is looked for."""

    header: str | None = "authorization"
    prefix: str = "Bearer "
    query: str | None = None
    cookie: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class JwtRule:
    """One issuer whose tokens are accepted."""

    issuer: str
    audiences: tuple[str, ...] = ()
    """Any of these; empty: any at all."""
    jwks_uri: str | None = None
    """Where the key set is; None, and no ``jwks``: where the issuer's ``/.well-known/openid-configuration`` says."""
    jwks: str | None = None
    """The key set itself (JSON), in place of an address."""
    sources: tuple[TokenSource, ...] = (TokenSource(), TokenSource(header=None, query="access_token"))
    claims_to_headers: tuple[tuple[str, str], ...] = ()
    """Claim path and header name."""
    output_payload_header: str | None = None
    forward_token: bool = False
    timeout_seconds: float = 5.0
    """For fetching the key set."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestAuthentication:
    """Tokens that are verified. A request without token passes (policies may demand one); a bad one is answered 401."""

    key: str
    rules: tuple[JwtRule, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExternalAuthorizer:
    """Who is asked by CUSTOM policies."""

    name: str
    service: str
    """``namespace/hostname``."""
    port: int
    grpc: bool
    """Envoy's ``envoy.service.auth.v3.Authorization``, or else an HTTP request."""
    timeout_seconds: float = 10.0
    fail_open: bool = False
    status_on_error: int = 403
    path_prefix: str = ""
    """Put before the path of the HTTP form."""
    include_headers: tuple[str, ...] = ()
    """Of the request that are shown, in lower case; ``*`` at one end stands for any text. HTTP: these and
    ``authorization``. gRPC: these only, or all if there are none."""
    additional_headers: tuple[tuple[str, str], ...] = ()
    """Added to the question in the HTTP form."""
    headers_to_upstream: tuple[str, ...] = ()
    """Of the HTTP form's consent that the application is sent; the same patterns."""
    headers_to_downstream: tuple[str, ...] = ()
    """Of its refusal that the client is sent; empty: all."""
    headers_to_downstream_on_allow: tuple[str, ...] = ()
    """Of its consent that the client is sent with the application's answer."""
    max_body_bytes: int = 0
    """How much of the body is sent along; 0: none."""
    allow_partial_body: bool = False
    """Of a longer body that much is shown; otherwise a request with one is answered 413."""
    body_as_bytes: bool = False
    """gRPC: the body as ``raw_body`` rather than as text."""
