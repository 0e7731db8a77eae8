"""New paths: what a rewrite sends upstream, or a redirect names.

A *prefix* replaces what the route's own match has matched. Of a prefix of segments (Gateway API), slashes at the end
count neither in what is matched nor in the replacement, and the result always begins with a slash:

    ==========  =======  ===========  =========
    path        prefix   replacement  result
    ==========  =======  ===========  =========
    /foo/bar    /foo     /xyz         /xyz/bar
    /foo/bar    /foo/    /xyz/        /xyz/bar
    /foo/       /foo     /xyz         /xyz/
    /foo        /foo     /            /
    ==========  =======  ===========  =========

Of a prefix of characters (Istio) the replacement is joined to what follows as it is, except that ``/`` makes no second
slash. An exact path is replaced whole. A route without a match of that kind replaces what ``/`` would match.

The query stays.
"""

from __future__ import annotations

from collections.abc import Callable

from mesh.errors import ConfigurationError
from mesh.model.http_route import PathMatch, PathMatchKind, PathRewrite
from waypoint.routing.expression import replacer
from waypoint.routing.text import encoded

PathChange = Callable[[bytes], bytes]
"""From a path with its query to another."""


def compile_path(rewrite: PathRewrite, matched: PathMatch | None) -> PathChange:
    """The change of the path.

    Args:
        rewrite: what is to change.
        matched: the path match of the route's alternative that the request has met.

    Raises:
        ConfigurationError: not exactly one kind of rewrite, a text that is no path, or no expression.
    """
    kinds = [kind for kind in (rewrite.full, rewrite.prefix, rewrite.regex) if kind is not None]
    if len(kinds) != 1:
        raise ConfigurationError("a path rewrite must have exactly one of: full, prefix, regex")
    if rewrite.full is not None:
        return _full(_path(rewrite.full))
    if rewrite.regex is not None:
        _path(rewrite.substitution)
        return _by_expression(replacer(rewrite.regex, rewrite.substitution))
    assert rewrite.prefix is not None
    replacement = _path(rewrite.prefix)
    if matched is None or matched.kind is PathMatchKind.REGEX:
        return _segments(0, replacement)
    value = encoded(matched.value)
    if matched.kind is PathMatchKind.EXACT:
        return _full(replacement)
    if matched.kind is PathMatchKind.PREFIX:
        return _segments(len(value.rstrip(b"/")), replacement)
    return _characters(len(value), replacement)


def _path(text: str) -> bytes:
    value = encoded(text)
    if any(byte <= 32 or byte == 127 for byte in value) or b"#" in value:
        raise ConfigurationError(f"{text[:64]!r} cannot be part of a path")
    return value


def _full(replacement: bytes) -> PathChange:
    whole = replacement if replacement.startswith(b"/") else b"/" + replacement
    has_query = b"?" in whole

    def change(target: bytes) -> bytes:
        query = target.find(b"?")
        return whole if query < 0 or has_query else whole + target[query:]

    return change


def _segments(length: int, replacement: bytes) -> PathChange:
    begin = replacement.rstrip(b"/")
    if begin and not begin.startswith(b"/"):
        begin = b"/" + begin

    def change(target: bytes) -> bytes:
        result = begin + target[length:]
        return result if result.startswith(b"/") else b"/" + result

    return change


def _characters(length: int, replacement: bytes) -> PathChange:
    def change(target: bytes) -> bytes:
        rest = target[length:]
        if replacement == b"/" and rest.startswith(b"/"):
            return rest
        result = replacement + rest
        return result if result.startswith(b"/") else b"/" + result

    return change


def _by_expression(replace: Callable[[bytes], bytes]) -> PathChange:
    def change(target: bytes) -> bytes:
        path, mark, query = target.partition(b"?")
        result = replace(path)
        return (result if result.startswith(b"/") else b"/" + result) + mark + query

    return change
