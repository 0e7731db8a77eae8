"""What is refused of Gateway API objects, as far as safety depends on it; in a cluster the API server refuses it.

A filter without its field, a match that matches everything because its only field was misspelt, a header with a line
end in it: each could be read generously, and each reading would do what nobody wrote.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from resources.documents import Path
from resources.gateway import BackendReference, BackendTlsPolicySpec, GatewaySpec, ParentReference, ReferenceGrantSpec
from resources.routes import (
    CorsFilter,
    GrpcRouteMatch,
    GrpcRouteSpec,
    HeaderModifier,
    HttpRouteMatch,
    HttpRouteSpec,
    PathModifier,
    RouteBackend,
    RouteFilter,
    TcpRouteSpec,
    TlsRouteSpec,
    ValueMatch,
)
from resources.violation import (
    Violation,
    check_expression,
    check_field_text,
    check_header,
    check_header_name,
    check_host,
    check_path,
)

_METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH")
_FILTER_FIELDS = {
    "RequestHeaderModifier": "request_header_modifier",
    "ResponseHeaderModifier": "response_header_modifier",
    "RequestMirror": "request_mirror",
    "RequestRedirect": "request_redirect",
    "URLRewrite": "url_rewrite",
    "CORS": "cors",
    "ExtensionRef": "extension_ref",
    "ExternalAuth": "external_auth",
}
_SPELT = {
    "request_header_modifier": "requestHeaderModifier",
    "response_header_modifier": "responseHeaderModifier",
    "request_mirror": "requestMirror",
    "request_redirect": "requestRedirect",
    "url_rewrite": "urlRewrite",
    "cors": "cors",
    "extension_ref": "extensionRef",
    "external_auth": "externalAuth",
}
_MAX_ROOT_REFERENCES = 8
_GRPC_FILTERS = ("RequestHeaderModifier", "ResponseHeaderModifier", "RequestMirror", "ExtensionRef")


def gateway_violations(spec: GatewaySpec) -> Iterator[Violation]:
    """A Gateway."""
    names = [listener.name for listener in spec.listeners]
    if len(set(names)) != len(names):
        yield Violation(("spec", "listeners"), "two listeners have the same name")
    for index, listener in enumerate(spec.listeners):
        namespaces = listener.allowed_routes.namespaces if listener.allowed_routes else None
        if namespaces is not None and namespaces.from_ == "Selector" and namespaces.selector is None:
            path = ("spec", "listeners", index, "allowedRoutes", "namespaces", "selector")
            yield Violation(path, "'from: Selector' needs a selector")


def reference_grant_violations(spec: ReferenceGrantSpec) -> Iterator[Violation]:
    """A ReferenceGrant."""
    if not spec.from_:
        yield Violation(("spec", "from"), "a grant names at least one who may refer")
    if not spec.to:
        yield Violation(("spec", "to"), "a grant names at least one kind that is referred to")


def backend_tls_violations(spec: BackendTlsPolicySpec) -> Iterator[Violation]:
    """A BackendTLSPolicy: who is trusted must be said once."""
    validation = spec.validation
    if bool(validation.ca_certificate_refs) == bool(validation.well_known_ca_certificates):
        message = "needs exactly one of caCertificateRefs and wellKnownCACertificates"
        yield Violation(("spec", "validation"), message)
    if len(validation.ca_certificate_refs) > _MAX_ROOT_REFERENCES:
        path = ("spec", "validation", "caCertificateRefs")
        yield Violation(path, f"holds more than {_MAX_ROOT_REFERENCES} references")
    yield from check_host(("spec", "validation", "hostname"), validation.hostname)
    for index, name in enumerate(validation.subject_alt_names):
        if not (name.hostname if name.type == "Hostname" else name.uri):
            yield Violation(("spec", "validation", "subjectAltNames", index), f"the type {name.type} needs its field")


def route_violations(spec: HttpRouteSpec | GrpcRouteSpec | TcpRouteSpec | TlsRouteSpec) -> Iterator[Violation]:
    """A route of any kind."""
    yield from _parents(spec.parent_refs)
    if not isinstance(spec, TcpRouteSpec):
        for index, hostname in enumerate(spec.hostnames):
            yield from check_host(("spec", "hostnames", index), hostname)
    if not spec.rules:
        yield Violation(("spec", "rules"), "a route has at least one rule", "leave the field out to match everything")
    names = [rule.name for rule in spec.rules if rule.name]
    if len(set(names)) != len(names):
        yield Violation(("spec", "rules"), "two rules have the same name")
    backends: list[Sequence[BackendReference]] = [rule.backend_refs for rule in spec.rules]
    for index, several in enumerate(backends):
        for position, backend in enumerate(several):
            yield from _backend(backend, ("spec", "rules", index, "backendRefs", position))
    if isinstance(spec, HttpRouteSpec):
        yield from _http_rules(spec)
    elif isinstance(spec, GrpcRouteSpec):
        yield from _grpc_rules(spec)


def _http_rules(spec: HttpRouteSpec) -> Iterator[Violation]:
    for index, rule in enumerate(spec.rules):
        path: Path = ("spec", "rules", index)
        for position, match in enumerate(rule.matches):
            yield from _http_match(match, (*path, "matches", position))
        yield from _filters(rule.filters, path)
        redirects = any(one.type == "RequestRedirect" for one in rule.filters)
        if redirects and (rule.backend_refs or any(one.type == "URLRewrite" for one in rule.filters)):
            yield Violation((*path, "filters"), "a redirect leaves nothing for a rewrite or a backend to do")
        prefixes = [match.path is None or match.path.type == "PathPrefix" for match in rule.matches]
        if not all(prefixes) and any(_replaces_prefix(one) for one in rule.filters):
            yield Violation((*path, "filters"), "ReplacePrefixMatch needs matches of the type PathPrefix")
        yield from _backend_filters(rule.backend_refs, path)


def _grpc_rules(spec: GrpcRouteSpec) -> Iterator[Violation]:
    for index, rule in enumerate(spec.rules):
        path: Path = ("spec", "rules", index)
        for position, match in enumerate(rule.matches):
            yield from _grpc_match(match, (*path, "matches", position))
        for position, one in enumerate(rule.filters):
            if one.type not in _GRPC_FILTERS:
                yield Violation((*path, "filters", position, "type"), f"a GRPCRoute has no filter {one.type}")
        yield from _filters(rule.filters, path)
        yield from _backend_filters(rule.backend_refs, path)


def _parents(parents: tuple[ParentReference, ...]) -> Iterator[Violation]:
    if len(set(parents)) != len(parents):
        yield Violation(("spec", "parentRefs"), "a parent is named twice", "remove one")


def _backend(backend: BackendReference, path: Path) -> Iterator[Violation]:
    if backend.group == "" and backend.kind == "Service" and backend.port is None:
        yield Violation((*path, "port"), "a Service as a backend needs a port")


def _http_match(match: HttpRouteMatch, path: Path) -> Iterator[Violation]:
    if match.path is not None:
        where = (*path, "path", "value")
        if match.path.type == "RegularExpression":
            yield from check_expression(where, match.path.value)
        else:
            yield from check_path(where, match.path.value)
            if "//" in match.path.value or "/../" in f"{match.path.value}/" or "/./" in f"{match.path.value}/":
                yield Violation(where, "holds an empty, '.' or '..' segment")
            if "#" in match.path.value or "?" in match.path.value:
                yield Violation(where, "holds '#' or '?', which end a path")
    if match.method is not None and match.method not in _METHODS:
        yield Violation((*path, "method"), f"{match.method[:32]!r} is no method", f"use one of {', '.join(_METHODS)}")
    yield from _values(match.headers, (*path, "headers"), header=True)
    yield from _values(match.query_params, (*path, "queryParams"), header=False)


def _grpc_match(match: GrpcRouteMatch, path: Path) -> Iterator[Violation]:
    method = match.method
    if method is not None:
        if not method.service and not method.method:
            yield Violation((*path, "method"), "needs a service, a method or both", "leave it out to match every call")
        for name, value in (("service", method.service), ("method", method.method)):
            if value and method.type == "RegularExpression":
                yield from check_expression((*path, "method", name), value)
            elif value and not all(character.isalnum() or character in "._" for character in value):
                yield Violation((*path, "method", name), f"{value[:64]!r} is not a name of gRPC")
    yield from _values(match.headers, (*path, "headers"), header=True)


def _values(values: tuple[ValueMatch, ...], path: Path, *, header: bool) -> Iterator[Violation]:
    for index, value in enumerate(values):
        if header:
            yield from check_header_name((*path, index, "name"), value.name)
        if value.type == "RegularExpression":
            yield from check_expression((*path, index, "value"), value.value)


def _backend_filters(backends: tuple[RouteBackend, ...], path: Path) -> Iterator[Violation]:
    for index, backend in enumerate(backends):
        yield from _filters(backend.filters, (*path, "backendRefs", index))


def _filters(filters: tuple[RouteFilter, ...], path: Path) -> Iterator[Violation]:
    types = [one.type for one in filters]
    for index, one in enumerate(filters):
        where: Path = (*path, "filters", index)
        wanted = _FILTER_FIELDS[one.type]
        for field, spelt in _SPELT.items():
            given = getattr(one, field) is not None
            if given != (field == wanted):
                message = "is missing" if field == wanted else f"does not belong to a filter of the type {one.type}"
                yield Violation((*where, spelt), message)
        if one.type not in ("RequestMirror", "ExtensionRef") and types.count(one.type) > 1:
            yield Violation(where, f"a second filter of the type {one.type}", "merge them")
        for modifier, name in (
            (one.request_header_modifier, "requestHeaderModifier"),
            (one.response_header_modifier, "responseHeaderModifier"),
        ):
            if modifier is not None:
                yield from _modifier(modifier, (*where, name))
        if one.request_redirect is not None:
            yield from _path_modifier(one.request_redirect.path, (*where, "requestRedirect", "path"))
            if one.request_redirect.hostname is not None:
                yield from check_host((*where, "requestRedirect", "hostname"), one.request_redirect.hostname)
        if one.url_rewrite is not None:
            yield from _path_modifier(one.url_rewrite.path, (*where, "urlRewrite", "path"))
            if one.url_rewrite.hostname is not None:
                yield from check_host((*where, "urlRewrite", "hostname"), one.url_rewrite.hostname)
        if one.request_mirror is not None:
            mirror = one.request_mirror
            yield from _backend(mirror.backend_ref, (*where, "requestMirror", "backendRef"))
            if mirror.percent is not None and mirror.fraction is not None:
                yield Violation((*where, "requestMirror"), "percent and fraction exclude each other")
            if mirror.fraction is not None and mirror.fraction.numerator > mirror.fraction.denominator:
                yield Violation((*where, "requestMirror", "fraction"), "is more than all")
        if one.cors is not None:
            yield from _cors(one.cors, (*where, "cors"))


def _cors(cors: CorsFilter, path: Path) -> Iterator[Violation]:
    for name, values in (
        ("allowOrigins", cors.allow_origins),
        ("allowMethods", cors.allow_methods),
        ("allowHeaders", cors.allow_headers),
        ("exposeHeaders", cors.expose_headers),
    ):
        for index, value in enumerate(values):
            yield from check_field_text((*path, name, index), value)


def _modifier(modifier: HeaderModifier, path: Path) -> Iterator[Violation]:
    for name, headers in (("set", modifier.set), ("add", modifier.add)):
        for index, header in enumerate(headers):
            yield from check_header((*path, name, index), header.name, header.value)
    for index, removed in enumerate(modifier.remove):
        yield from check_header_name((*path, "remove", index), removed)


def _path_modifier(modifier: PathModifier | None, path: Path) -> Iterator[Violation]:
    if modifier is None:
        return
    full = modifier.type == "ReplaceFullPath"
    if (modifier.replace_full_path is None) == full or (modifier.replace_prefix_match is None) != full:
        yield Violation(path, f"the type {modifier.type} needs its field, and no other")
    for value in (modifier.replace_full_path, modifier.replace_prefix_match):
        if value is not None:
            yield from check_field_text(path, value)


def _replaces_prefix(one: RouteFilter) -> bool:
    for holder in (one.url_rewrite, one.request_redirect):
        if holder is not None and holder.path is not None and holder.path.type == "ReplacePrefixMatch":
            return True
    return False
