"""Filters of HTTPRoute and GRPCRoute to the parts of a route.

A filter that is not supported must not be passed over (HTTPRouteFilter): the requests that it was to treat are answered
500.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from controlplane.translate.layer7.backends import referenced_backend
from controlplane.translate.layer7.headers import header_change
from controlplane.translate.layer7.notes import Notes
from controlplane.translate.tracking import View
from mesh.model.http_route import (
    Cors,
    Fraction,
    HeaderChange,
    Mirror,
    PathRewrite,
    Redirect,
    Rewrite,
    TextMatch,
    TextMatchKind,
)
from resources.routes import CorsFilter, HeaderModifier, PathModifier, RequestMirror, RouteFilter


@dataclass(slots=True)
class Filtered:
    """What the filters of a rule, or of a backend, come to."""

    request_headers: HeaderChange | None = None
    response_headers: HeaderChange | None = None
    redirect: Redirect | None = None
    authority: str | None = None
    path: PathRewrite | None = None
    cors: Cors | None = None
    mirrors: list[Mirror] = field(default_factory=list)
    refused: str = ""
    """Why requests are answered 500; empty: they are not."""

    @property
    def rewrite(self) -> Rewrite | None:
        """The new host and path, if any."""
        if self.authority is None and self.path is None:
            return None
        return Rewrite(authority=self.authority, path=self.path)


def translate_filters(view: View, notes: Notes, filters: Iterable[RouteFilter], place: str) -> Filtered:
    """The filters of one rule or backend."""
    result = Filtered()
    for index, one in enumerate(filters):
        where = f"{place}.filters[{index}]"
        if one.request_header_modifier is not None:
            result.request_headers, authority = _modifier(notes, one.request_header_modifier, where)
            result.authority = result.authority or authority
        elif one.response_header_modifier is not None:
            result.response_headers, _ = _modifier(notes, one.response_header_modifier, where)
        elif one.request_redirect is not None:
            redirect = one.request_redirect
            result.redirect = Redirect(
                status=redirect.status_code,
                scheme=redirect.scheme,
                authority=redirect.hostname,
                port=redirect.port,
                path=path_rewrite(redirect.path),
            )
        elif one.url_rewrite is not None:
            result.authority = one.url_rewrite.hostname or result.authority
            result.path = path_rewrite(one.url_rewrite.path)
        elif one.request_mirror is not None:
            result.mirrors += _mirror(view, notes, one.request_mirror, where)
        elif one.cors is not None:
            result.cors = _cors(one.cors)
        else:
            result.refused = f"{where}: filters of the type {one.type} are not supported"
            notes.refuse(f"{result.refused}: requests are answered 500")
    return result


def path_rewrite(modifier: PathModifier | None) -> PathRewrite | None:
    """A new path."""
    if modifier is None:
        return None
    if modifier.type == "ReplaceFullPath":
        return PathRewrite(full=modifier.replace_full_path or "/")
    return PathRewrite(prefix=modifier.replace_prefix_match or "")


def _modifier(notes: Notes, modifier: HeaderModifier, place: str) -> tuple[HeaderChange | None, str | None]:
    return header_change(
        notes,
        place,
        [(one.name, one.value) for one in modifier.set],
        [(one.name, one.value) for one in modifier.add],
        modifier.remove,
    )


def _mirror(view: View, notes: Notes, mirror: RequestMirror, place: str) -> Iterable[Mirror]:
    backend = referenced_backend(view, notes, mirror.backend_ref, 1, f"{place}.requestMirror")
    share = Fraction(100 if mirror.percent is None else mirror.percent)
    if mirror.fraction is not None:
        share = Fraction(mirror.fraction.numerator, mirror.fraction.denominator)
    if backend.invalid is None and share.numerator:
        yield Mirror(backend=backend, share=share)


def _cors(cors: CorsFilter) -> Cors:
    return Cors(
        allow_origins=tuple(_origin(text) for text in cors.allow_origins),
        allow_methods=cors.allow_methods,
        allow_headers=cors.allow_headers,
        expose_headers=cors.expose_headers,
        max_age_seconds=cors.max_age,
        allow_credentials=cors.allow_credentials,
    )


def _origin(text: str) -> TextMatch:
    """``*`` is any origin; within a host it stands for one or more characters of it."""
    if text == "*":
        return TextMatch(TextMatchKind.PRESENT)
    if "*" not in text:
        return TextMatch(TextMatchKind.EXACT, text, ignore_case=True)
    pattern = "[^/:]+".join(re.escape(part) for part in text.split("*"))
    return TextMatch(TextMatchKind.REGEX, pattern, ignore_case=True)
