"""``accessLogging.filter`` of a Telemetry: which requests are logged, as far as their answer's code says it.

The expressions are CEL's. Read are comparisons of ``response.code`` with numbers, joined by ``&&``, ``||``, ``!`` and
parentheses; of anything else nothing is read. What they come to is found by trying every code there is, so a waypoint
is told ranges of codes and knows no expressions. A request that was not answered has the code 0.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from typing import Final

Predicate = Callable[[int], bool]

LAST_CODE: Final = 599
_MOST_CHARACTERS: Final = 1024
_MOST_DEPTH: Final = 16
_TOKEN: Final = re.compile(r"\s*(?:(response\.code)|(\d{1,4})|(>=|<=|==|!=|>|<)|(&&|\|\||!|\(|\)))")
_COMPARISONS: Final[dict[str, Callable[[int, int], bool]]] = {
    ">=": operator.ge,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
    ">": operator.gt,
    "<": operator.lt,
}


class _NotRead(Exception):
    """The expression is of another kind."""


def codes_of(expression: str) -> tuple[tuple[int, int], ...] | None:
    """The codes for which an expression holds, as ranges of first and last; None if it is not read."""
    try:
        holds = _Reader(_tokens(expression)).whole()
    except _NotRead:
        return None
    ranges: list[tuple[int, int]] = []
    for code in range(LAST_CODE + 1):
        if not holds(code):
            continue
        if ranges and ranges[-1][1] == code - 1:
            ranges[-1] = (ranges[-1][0], code)
        else:
            ranges.append((code, code))
    return tuple(ranges)


def _tokens(expression: str) -> list[str]:
    if len(expression) > _MOST_CHARACTERS:
        raise _NotRead
    found, position, text = [], 0, expression.rstrip()
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise _NotRead
        found.append(match[0].strip())
        position = match.end()
    return found


class _Reader:
    """Reads tokens from the left, ``||`` binding least and ``!`` most."""

    def __init__(self, tokens: list[str]) -> None:
        self._tokens = tokens
        self._depth = 0

    def whole(self) -> Predicate:
        """All of it."""
        found = self._any()
        if self._tokens:
            raise _NotRead
        return found

    def _next(self) -> str:
        if not self._tokens:
            raise _NotRead
        return self._tokens.pop(0)

    def _any(self) -> Predicate:
        parts = [self._all()]
        while self._tokens and self._tokens[0] == "||":
            self._next()
            parts.append(self._all())
        return lambda code: any(part(code) for part in parts)

    def _all(self) -> Predicate:
        parts = [self._one()]
        while self._tokens and self._tokens[0] == "&&":
            self._next()
            parts.append(self._one())
        return lambda code: all(part(code) for part in parts)

    def _one(self) -> Predicate:
        first = self._next()
        if first not in ("!", "("):
            return self._comparison(first)
        self._depth += 1
        if self._depth > _MOST_DEPTH:
            raise _NotRead
        inner = self._one() if first == "!" else self._any()
        if first == "(" and self._next() != ")":
            raise _NotRead
        self._depth -= 1
        return inner if first == "(" else lambda code: not inner(code)

    def _comparison(self, left: str) -> Predicate:
        compare = _COMPARISONS.get(self._next())
        right = self._next()
        if compare is None or (left == "response.code") == (right == "response.code"):
            raise _NotRead
        if left == "response.code" and right.isdigit():
            return lambda code: compare(code, int(right))
        if left.isdigit():
            return lambda code: compare(int(left), code)
        raise _NotRead
