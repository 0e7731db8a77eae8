"""A port's routes, indexed: the first route that matches, found without asking all of them.

Theory of operation. The order of the routes decides, so an index may only leave out what cannot match. Every
alternative of every route is an *entry* with a number, its place in the order. A request's candidates come from up to
three places, each a run of entries in ascending order:

- **paths**: entries with an exact path or a prefix. All prefixes stand in one sorted list. The longest one that a path
  begins with is the greatest element not above the path, or one of that element's own prefixes; so one binary search
  and a few steps find it, and its run, made ahead of time, holds the entries of it and of all its prefixes, as long as
  these are few; else the prefixes' runs are asked one after the other. An exact path has a run of its own. Paths
  compared without regard to case have an index like this of their own, asked with the path in lower case.
- **expressions**: entries with a regular expression, which RE2 compares all at once when there are several.
- **the rest**: entries that do not look at the path.

The first match of each is found, the least number wins. A run of many entries that all begin alike (a thousand versions
told apart by one header) is divided once more, by the value of the header that most of them compare exactly.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final, Generic, TypeVar

from mesh.model.http_route import PathMatch, PathMatchKind, RequestMatch, TextMatchKind
from waypoint.client import Client
from waypoint.http.message import RequestHead
from waypoint.routing.expression import full_match_set, full_matcher
from waypoint.routing.request_conditions import RequestTest, compile_rest
from waypoint.routing.text import encoded, header_value

Item = TypeVar("Item")

_DIVIDE_FROM: Final = 8
_MERGE_UP_TO: Final = 32
_NEVER: Final = 1 << 62


class Entry(Generic[Item]):
    """One alternative of one route."""

    __slots__ = ("item", "match", "number", "segments", "test")

    def __init__(self, number: int, item: Item, match: RequestMatch, segments: int, test: RequestTest | None) -> None:
        self.number = number
        """Its place: lower ones come first."""
        self.item = item
        """What the table was asked to find."""
        self.match = match
        self.segments = segments
        """Length of a prefix that ends with a segment; -1: the index has said all about the path."""
        self.test = test
        """Everything else; None: nothing else."""


class Run(Generic[Item]):
    """Entries in ascending order, of which the first that matches is asked for."""

    __slots__ = ("_by_value", "_entries", "_header")

    def __init__(self, entries: Sequence[Entry[Item]]) -> None:
        """Divide them by a header's value, if that is worth while."""
        self._header = b""
        self._by_value: dict[bytes, tuple[Entry[Item], ...]] = {}
        self._entries = tuple(entries)
        if len(entries) < _DIVIDE_FROM:
            return
        names = Counter(name for entry in entries for name in _exact_headers(entry))
        if not names or names.most_common(1)[0][1] < _DIVIDE_FROM:
            return
        self._header = names.most_common(1)[0][0]
        rest = []
        values: dict[bytes, list[Entry[Item]]] = {}
        for entry in entries:
            value = _exact_headers(entry).get(self._header)
            if value is None:
                rest.append(entry)
            else:
                values.setdefault(value, []).append(entry)
        self._by_value = {value: tuple(same) for value, same in values.items()}
        self._entries = tuple(rest)

    def first(self, head: RequestHead, path: bytes, client: Client, before: int) -> Entry[Item] | None:
        """The first match with a number below ``before``."""
        found = _first(self._entries, head, path, client, before)
        if self._header:
            value = header_value(head.headers, self._header)
            if value is not None and (same := self._by_value.get(value)) is not None:
                return _first(same, head, path, client, before if found is None else found.number) or found
        return found


def _first(
    entries: tuple[Entry[Item], ...], head: RequestHead, path: bytes, client: Client, before: int
) -> Entry[Item] | None:
    for entry in entries:
        if entry.number >= before:
            return None
        length = entry.segments
        if length >= 0 and len(path) > length and path[length] != 47:  # "/"
            continue
        test = entry.test
        if test is None or test(head, client):
            return entry
    return None


def _exact_headers(entry: Entry[Item]) -> dict[bytes, bytes]:
    """Headers whose value must be one text, pseudo-headers excepted."""
    return {
        encoded(header.name.lower()): encoded(header.match.value)
        for header in reversed(entry.match.headers)
        if header.match.kind is TextMatchKind.EXACT
        and not (header.match.ignore_case or header.match.inverted)
        and not header.name.startswith(":")
        and header.name.lower() != "host"
    }


class _Link(Generic[Item]):
    """The entries of a path or prefix, and where those of its shorter prefixes are."""

    __slots__ = ("above", "entries", "run")

    def __init__(self, entries: list[Entry[Item]], above: _Link[Item] | None) -> None:
        self.entries: list[Entry[Item]] = entries
        self.above: _Link[Item] | None = above
        # Few entries are one run together with those above: one question instead of two. Many are not copied to
        # every path below them.
        if above is not None and len(entries) + len(above.entries) <= _MERGE_UP_TO:
            self.entries = sorted([*above.entries, *entries], key=_number)
            self.above = above.above
        self.run = Run(self.entries)


class _PathIndex(Generic[Item]):
    """Entries with an exact path or a prefix."""

    __slots__ = ("_exact", "_links", "_parents", "_prefixes")

    def __init__(self, entries: Sequence[tuple[PathMatchKind, bytes, Entry[Item]]]) -> None:
        by_prefix: dict[bytes, list[Entry[Item]]] = {}
        by_path: dict[bytes, list[Entry[Item]]] = {}
        for kind, value, entry in entries:
            (by_path if kind is PathMatchKind.EXACT else by_prefix).setdefault(value, []).append(entry)
        self._prefixes = sorted(by_prefix)
        self._parents: list[int] = []
        self._links: list[_Link[Item]] = []
        for index, prefix in enumerate(self._prefixes):
            # In sorted order a prefix's own prefixes are on the chain of its predecessor.
            parent = index - 1
            while parent >= 0 and not prefix.startswith(self._prefixes[parent]):
                parent = self._parents[parent]
            self._parents.append(parent)
            self._links.append(_Link(by_prefix[prefix], self._links[parent] if parent >= 0 else None))
        self._exact = {path: _Link(same, self._covering(path)) for path, same in by_path.items()}

    def first(self, head: RequestHead, path: bytes, client: Client, before: int) -> Entry[Item] | None:
        """The first match with a number below ``before``; prefixes of segments are compared at their end here."""
        link = self._exact.get(path) or self._covering(path)
        found = None
        while link is not None:
            better = link.run.first(head, path, client, before)
            if better is not None:
                found, before = better, better.number
            link = link.above
        return found

    def _covering(self, path: bytes) -> _Link[Item] | None:
        prefixes = self._prefixes
        index = bisect_right(prefixes, path) - 1
        while index >= 0 and not path.startswith(prefixes[index]):
            index = self._parents[index]
        return self._links[index] if index >= 0 else None


class RouteTable(Generic[Item]):
    """Immutable: another set of routes is another table."""

    __slots__ = ("_expressions", "_folded", "_paths", "_rest", "_which")

    def __init__(self, routes: Sequence[tuple[RequestMatch, Item]]) -> None:
        """Compile.

        Args:
            routes: alternatives with what each leads to, in order of precedence.

        Raises:
            ConfigurationError: a regular expression that is none.
        """
        paths: list[tuple[PathMatchKind, bytes, Entry[Item]]] = []
        folded: list[tuple[PathMatchKind, bytes, Entry[Item]]] = []
        expressions: list[tuple[PathMatch, Entry[Item]]] = []
        rest: list[Entry[Item]] = []
        for number, (match, item) in enumerate(routes):
            test, path = compile_rest(match), match.path
            if path is None:
                rest.append(Entry(number, item, match, -1, test))
                continue
            if path.kind is PathMatchKind.REGEX:
                expressions.append((path, Entry(number, item, match, -1, test)))
                continue
            value = indexed_path(path)
            segments = len(value) if path.kind is PathMatchKind.PREFIX else -1
            (folded if path.ignore_case else paths).append(
                (path.kind, value, Entry(number, item, match, segments, test))
            )
        self._paths = _PathIndex(paths) if paths else None
        self._folded = _PathIndex(folded) if folded else None
        self._rest = Run(rest) if rest else None
        self._expressions = [entry for _, entry in expressions]
        if len(expressions) == 1:
            only = full_matcher(expressions[0][0].value, ignore_case=expressions[0][0].ignore_case)
            self._which = _one(only)
        else:
            self._which = full_match_set([(path.value, path.ignore_case) for path, _ in expressions])

    def find(self, head: RequestHead, path: bytes, client: Client) -> Item | None:
        """What the first matching alternative leads to.

        Args:
            head: the request, its path normalised.
            path: that path without its query.
            client: whose it is.
        """
        best: Entry[Item] | None = None
        before = _NEVER
        if self._paths is not None and (found := self._paths.first(head, path, client, before)) is not None:
            best, before = found, found.number
        if self._rest is not None and (found := self._rest.first(head, path, client, before)) is not None:
            best, before = found, found.number
        if self._folded is not None and (found := self._folded.first(head, path.lower(), client, before)) is not None:
            best, before = found, found.number
        if self._expressions and self._expressions[0].number < before:
            candidates = tuple([self._expressions[index] for index in sorted(self._which(path))])
            best = _first(candidates, head, path, client, before) or best
        return None if best is None else best.item


def _one(matches: Callable[[bytes], object]) -> Callable[[bytes], list[int]]:
    def which(path: bytes) -> list[int]:
        return [0] if matches(path) else []

    return which


def indexed_path(path: PathMatch) -> bytes:
    """The text that a path begins with, or is: in lower case where case is ignored; a prefix of segments without its
    last slash, so ``/`` becomes empty."""
    value = encoded(path.value)
    if path.kind is PathMatchKind.PREFIX:
        value = value.removesuffix(b"/")
    return value.lower() if path.ignore_case else value


def _number(entry: Entry[Item]) -> int:
    return entry.number
