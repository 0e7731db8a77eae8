"""Comparisons of texts, compiled: a ``TextMatch`` becomes a function of bytes.

An absent text (None) matches nothing, and so every inverted comparison.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from mesh.errors import ConfigurationError
from mesh.model.http_route import TextMatch, TextMatchKind
from waypoint.http.message import Headers
from waypoint.routing.expression import full_matcher

TextTest = Callable[[bytes | None], bool]


def encoded(text: str) -> bytes:
    """UTF-8 of a text that a resource holds.

    Raises:
        ConfigurationError: it has no UTF-8 form.
    """
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise ConfigurationError(f"{text[:64]!r} holds a lone surrogate") from error


def compile_text(match: TextMatch) -> TextTest:
    """The comparison as a function.

    Raises:
        ConfigurationError: a regular expression that is none.
    """
    test = _compile(match)
    if not match.inverted:
        return test
    return lambda text: not test(text)


def _compile(match: TextMatch) -> TextTest:
    kind, value = match.kind, encoded(match.value)
    if kind is TextMatchKind.PRESENT:
        return lambda text: text is not None
    if kind is TextMatchKind.REGEX:
        matches = full_matcher(match.value, ignore_case=match.ignore_case)
        return lambda text: text is not None and bool(matches(text))
    if match.ignore_case:
        folded = value.lower()
        if kind is TextMatchKind.EXACT:
            return lambda text: text is not None and text.lower() == folded
        if kind is TextMatchKind.PREFIX:
            return lambda text: text is not None and text.lower().startswith(folded)
        return lambda text: text is not None and text.lower().endswith(folded)
    if kind is TextMatchKind.EXACT:
        return lambda text: text == value
    if kind is TextMatchKind.PREFIX:
        return lambda text: text is not None and text.startswith(value)
    return lambda text: text is not None and text.endswith(value)


def compile_any(matches: Iterable[TextMatch]) -> TextTest:
    """A function that is true when any of the comparisons is; exact ones share one look-up.

    Raises:
        ConfigurationError: a regular expression that is none.
    """
    exact = set()
    others = []
    for match in matches:
        if match.kind is TextMatchKind.EXACT and not match.ignore_case and not match.inverted:
            exact.add(encoded(match.value))
        else:
            others.append(compile_text(match))
    values = frozenset(exact)
    if not others:
        return lambda text: text in values
    if len(others) == 1 and not values:
        return others[0]
    tests = tuple(others)

    def any_of(text: bytes | None) -> bool:
        if text in values:
            return True
        for test in tests:  # noqa: SIM110 - a generator costs twice as much, per request
            if test(text):
                return True
        return False

    return any_of


def header_value(headers: Headers, name: bytes) -> bytes | None:
    """A header's value; of several fields with this name the values joined by commas (RFC 9110 section 5.3).

    Joined, and not the first one: a request with two must not pass a rule by the one and mean the other.
    """
    found = None
    for key, value in headers:
        if key == name:
            if found is not None:
                return b",".join([value for key, value in headers if key == name])
            found = value
    return found
