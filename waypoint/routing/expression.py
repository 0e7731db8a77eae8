"""Users' regular expressions, by RE2: time linear in the text, memory bounded, whatever the expression.

Python's own ``re`` backtracks: a policy such as ``(a+)+b`` and a path of forty letters would stop a waypoint for
everybody. RE2 refuses what it could not run in linear time (look-around, back references) when it compiles.

Expressions and texts are bytes, taken as Latin-1, so that ``.`` matches any byte at all. Read as UTF-8, a byte that is
none would match no ``.``, and ``/admin/.*`` of a DENY policy could be evaded by adding one.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Final, cast

import re2

from mesh.errors import ConfigurationError

MAX_PATTERN_BYTES: Final = 4096
MAX_MEMORY_BYTES: Final = 1 << 20
"""Of one compiled expression, its caches included."""
MAX_PROGRAM: Final = 1500
"""Instructions of one compiled expression. RE2's sets answer "no match" when their automaton does not fit into its
memory; it wants some 500 bytes an instruction."""
_SET_PROGRAM: Final = 20_000
_BYTES_PER_INSTRUCTION: Final = 1000


def full_matcher(pattern: str, *, ignore_case: bool = False) -> Callable[[bytes], object]:
    """A function that is true for texts which match from beginning to end.

    Raises:
        ConfigurationError: not an expression of RE2's syntax, or too large.
    """
    options = _options(ignore_case)
    encoded = _checked(pattern, options)
    # A set of one costs a tenth of a match object; nobody asks for groups here.
    only = re2.Set.FullMatchSet(options)
    only.Add(encoded)
    only.Compile()
    return cast("Callable[[bytes], object]", only.Match)


def full_match_set(patterns: list[tuple[str, bool]]) -> Callable[[bytes], list[int]]:
    """A function that lists which of many expressions match a text whole, in one or a few passes over the text.

    Args:
        patterns: expressions, and whether case is ignored.

    Raises:
        ConfigurationError: one of them is none.
    """
    # Sets of bounded size, each with the numbers of its expressions.
    sets: list[tuple[list[int], Callable[[bytes], list[int] | None]]] = []
    chunk: list[tuple[int, bytes]] = []
    size = 0
    for number, (pattern, ignore_case) in enumerate(patterns):
        encoded = _checked(pattern, _options(ignore_case))
        program = _program_size(encoded, not ignore_case)
        if size + program > _SET_PROGRAM:
            sets.append(_set_of(chunk, size))
            chunk, size = [], 0
        chunk.append((number, b"(?i)" + encoded if ignore_case else encoded))
        size += program
    if chunk:
        sets.append(_set_of(chunk, size))

    def matching(text: bytes) -> list[int]:
        return [numbers[index] for numbers, match in sets for index in match(text) or ()]

    return matching


def _set_of(chunk: list[tuple[int, bytes]], size: int) -> tuple[list[int], Callable[[bytes], list[int] | None]]:
    options = _options(False)
    options.max_mem = max(MAX_MEMORY_BYTES, size * _BYTES_PER_INSTRUCTION)
    made = re2.Set.FullMatchSet(options)
    for _, encoded in chunk:
        made.Add(encoded)
    made.Compile()
    return [number for number, _ in chunk], cast("Callable[[bytes], list[int] | None]", made.Match)


def replacer(pattern: str, substitution: str) -> Callable[[bytes], bytes]:
    r"""A function that replaces every match; ``\1`` and the like stand for groups.

    Raises:
        ConfigurationError: not an expression, or the substitution names a group that is not there.
    """
    options = _options(False)
    compiled = re2.compile(_checked(pattern, options), options)
    wanted = substitution.encode()
    groups = compiled.groups
    for number in _groups_named(substitution):
        if number > groups:
            raise ConfigurationError(
                f"the substitution {substitution[:64]!r} names group {number}, {pattern[:64]!r} has {groups}"
            )
    sub = compiled.sub
    return lambda text: cast("bytes", sub(wanted, text))


def _groups_named(substitution: str) -> list[int]:
    numbers = []
    index = 0
    while (index := substitution.find("\\", index)) >= 0:
        following = substitution[index + 1 : index + 2]
        if following.isascii() and following.isdigit():
            numbers.append(int(following))
        elif following != "\\":
            raise ConfigurationError(f"in {substitution[:64]!r} a backslash stands before neither digit nor backslash")
        index += 2
    return numbers


def _options(ignore_case: bool) -> re2.Options:
    options = re2.Options()
    options.max_mem = MAX_MEMORY_BYTES
    options.log_errors = False
    options.dot_nl = True
    options.encoding = re2.Options.Encoding.LATIN1
    options.case_sensitive = not ignore_case
    return options


def _checked(pattern: str, options: re2.Options) -> bytes:
    try:
        encoded = pattern.encode()
    except UnicodeEncodeError as error:
        raise ConfigurationError("a regular expression holds a lone surrogate") from error
    if len(encoded) > MAX_PATTERN_BYTES:
        raise ConfigurationError(f"a regular expression has {len(encoded)} bytes, more than {MAX_PATTERN_BYTES}")
    program = _program_size(encoded, options.case_sensitive)
    if program > MAX_PROGRAM:
        raise ConfigurationError(
            f"the regular expression {encoded[:64].decode(errors='replace')!r} compiles to {program} instructions, "
            f"more than {MAX_PROGRAM}: it repeats too much"
        )
    return encoded


@lru_cache(maxsize=256)
def _program_size(encoded: bytes, case_sensitive: bool) -> int:
    try:
        return int(re2.compile(encoded, _options(not case_sensitive)).programsize)
    except re2.error as error:
        reason = error.args[0] if error.args else error
        text = reason.decode(errors="replace") if isinstance(reason, bytes) else str(reason)
        raise ConfigurationError(
            f"{encoded[:64].decode(errors='replace')!r} is no regular expression of RE2's syntax: {text[:128]}"
        ) from error
