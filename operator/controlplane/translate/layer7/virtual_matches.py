"""What a VirtualService's route matches."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import msgspec

from controlplane.translate.layer7.notes import Notes
from mesh.model.http_route import NamedMatch, PathMatch, PathMatchKind, RequestMatch, TextMatch, TextMatchKind
from resources.virtual_service import HttpMatchRequest, StringMatch

MESH_GATEWAY = "mesh"
"""Stands for the mesh among a VirtualService's gateways."""


def request_match(notes: Notes, match: HttpMatchRequest, place: str) -> RequestMatch | None:
    """One alternative; None for one that is not for the mesh, or that cannot be decided: it then takes nothing."""
    if match.gateways and MESH_GATEWAY not in match.gateways:
        return None
    headers: list[NamedMatch] = []
    pseudo: dict[str, TextMatch] = {}
    for inverted, values in ((False, match.headers), (True, match.without_headers)):
        for name, value in values.items():
            text = _text(value)
            if inverted:
                text = replace(text, inverted=True)
            lower = name.lower()
            if lower == "host":
                lower = ":authority"
            if not lower.startswith(":"):
                headers.append(NamedMatch(lower, text))
            elif lower in (":authority", ":method", ":scheme") and lower not in pseudo:
                pseudo[lower] = text
            else:
                notes.unsupported(f"{place}.headers: {name!r} cannot be matched so: this match takes no request")
                return None
    for spelt, single in ((":method", match.method), (":authority", match.authority), (":scheme", match.scheme)):
        if single is not None:
            pseudo[spelt] = _text(single)
    return RequestMatch(
        path=_path(match),
        method=pseudo.get(":method"),
        authority=pseudo.get(":authority"),
        scheme=pseudo.get(":scheme"),
        headers=tuple(headers),
        query=tuple(NamedMatch(name, _text(value)) for name, value in match.query_params.items()),
        source_namespaces=(match.source_namespace,) if match.source_namespace else (),
        source_labels=tuple(sorted(match.source_labels.items())),
    )


def joined(root: Iterable[HttpMatchRequest], delegate: Iterable[HttpMatchRequest]) -> list[HttpMatchRequest] | None:
    """What both a route that delegates and the delegate's match; None when nothing can: they contradict each other."""
    roots, delegates = list(root), list(delegate)
    if not roots or not delegates:
        return roots or delegates
    both = [one for outer in roots for inner in delegates if (one := _both(outer, inner)) is not None]
    return both or None


def _both(outer: HttpMatchRequest, inner: HttpMatchRequest) -> HttpMatchRequest | None:
    changes: dict[str, object] = {}
    for name in ("uri", "scheme", "method", "authority", "port"):
        one, other = getattr(outer, name), getattr(inner, name)
        if one is None or other is None or one == other:
            changes[name] = one if other is None else other
        elif name == "uri" and _narrows(one, other):
            changes[name] = other
        else:
            return None
    for name in ("headers", "query_params", "without_headers", "source_labels"):
        one, other = getattr(outer, name), getattr(inner, name)
        if any(other[key] != value for key, value in one.items() if key in other):
            return None
        changes[name] = {**one, **other}
    for name in ("source_namespace", "gateways"):
        one, other = getattr(outer, name), getattr(inner, name)
        if one and other and one != other:
            return None
        changes[name] = one or other
    changes["ignore_uri_case"] = outer.ignore_uri_case or inner.ignore_uri_case
    return msgspec.structs.replace(inner, **changes)


def _narrows(outer: StringMatch, inner: StringMatch) -> bool:
    """Whether a path match lies within a prefix."""
    text = inner.exact if inner.exact is not None else inner.prefix
    return outer.prefix is not None and text is not None and text.startswith(outer.prefix)


def _path(match: HttpMatchRequest) -> PathMatch | None:
    uri = match.uri
    if uri is None:
        return None
    if uri.exact is not None:
        return PathMatch(PathMatchKind.EXACT, uri.exact, match.ignore_uri_case)
    if uri.prefix is not None:
        return PathMatch(PathMatchKind.TEXT_PREFIX, uri.prefix, match.ignore_uri_case)
    return PathMatch(PathMatchKind.REGEX, uri.regex or "", match.ignore_uri_case)


def _text(match: StringMatch) -> TextMatch:
    if match.exact is not None:
        return TextMatch(TextMatchKind.EXACT, match.exact)
    if match.prefix is not None:
        return TextMatch(TextMatchKind.PREFIX, match.prefix)
    if match.regex is not None:
        return TextMatch(TextMatchKind.REGEX, match.regex)
    return TextMatch(TextMatchKind.PRESENT)


def string_match(match: StringMatch) -> TextMatch:
    """A comparison of a text; an empty one asks whether it is there."""
    return _text(match)
