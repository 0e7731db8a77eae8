"""What a ``RequestMatch`` says besides its path, compiled to one function."""

from __future__ import annotations

from collections.abc import Callable

from mesh.model.http_route import NamedMatch, RequestMatch, TextMatch, TextMatchKind
from waypoint.client import Client
from waypoint.http.message import RequestHead
from waypoint.routing.query import parameter
from waypoint.routing.text import TextTest, compile_text, encoded, header_value

RequestTest = Callable[[RequestHead, Client], bool]


def compile_rest(match: RequestMatch) -> RequestTest | None:
    """A function for all but the path; None if nothing else is asked for.

    Raises:
        ConfigurationError: a regular expression that is none.
    """
    tests: list[RequestTest] = []
    if match.method is not None:
        tests.append(_method(match.method))
    tests += [_header(header) for header in match.headers]
    if match.authority is not None:
        tests.append(_authority(compile_text(match.authority)))
    if match.scheme is not None:
        tests.append(_scheme(compile_text(match.scheme)))
    if match.source_namespaces:
        tests.append(_namespaces(frozenset(match.source_namespaces)))
    if match.source_labels:
        tests.append(_labels(match.source_labels))
    tests += [_query(query) for query in match.query]
    if len(tests) < 2:
        return tests[0] if tests else None
    if len(tests) == 2:
        first, second = tests
        return lambda head, client: first(head, client) and second(head, client)
    conditions = tuple(tests)

    def all_of(head: RequestHead, client: Client) -> bool:
        for test in conditions:  # noqa: SIM110 - a generator costs twice as much, per request
            if not test(head, client):
                return False
        return True

    return all_of


def _method(match: TextMatch) -> RequestTest:
    if match.kind is TextMatchKind.EXACT and not match.ignore_case and not match.inverted:
        value = encoded(match.value)
        return lambda head, client: head.method == value
    test = compile_text(match)
    return lambda head, client: test(head.method)


def _header(header: NamedMatch) -> RequestTest:
    name = encoded(header.name.lower())
    test = compile_text(header.match)
    # Names that are no fields of a head here, but that people match on.
    if name in (b"host", b":authority"):
        return _authority(test)
    if name == b":method":
        return lambda head, client: test(head.method)
    if name == b":scheme":
        return _scheme(test)
    if name == b":path":
        return lambda head, client: test(head.path)
    return lambda head, client: test(header_value(head.headers, name))


def _authority(test: TextTest) -> RequestTest:
    return lambda head, client: test(head.authority.lower())


def _scheme(test: TextTest) -> RequestTest:
    return lambda head, client: test(head.scheme)


def _query(query: NamedMatch) -> RequestTest:
    name, test = encoded(query.name), compile_text(query.match)
    return lambda head, client: test(parameter(head.path, name))


def _namespaces(namespaces: frozenset[str]) -> RequestTest:
    return lambda head, client: client.namespace in namespaces


def _labels(labels: tuple[tuple[str, str], ...]) -> RequestTest:
    def has_labels(head: RequestHead, client: Client) -> bool:
        have = client.labels
        return all(have.get(name) == value for name, value in labels)

    return has_labels
