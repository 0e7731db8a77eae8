"""One reason to refuse an object, and the checks that every kind's admission shares."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

import re2

from mesh.addresses import parse_cidr, read_ip
from mesh.errors import InvalidAddress
from resources.documents import Path

# RFC 9110 section 5.6.2, and what may stand in a field's value (section 5.5).
_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,256}")
_FIELD_VALUE = re.compile(r"[\t\x20-\x7e\x80-\U0010ffff]*")
_HOST = re.compile(
    r"(?=.{1,253}\Z)(\*|(\*\.)?[A-Za-z0-9]([A-Za-z0-9_-]*[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9_-]*[A-Za-z0-9])?)*)"
)

MAX_EXPRESSION = 1024
"""Characters of a regular expression, as the Gateway API bounds it."""


class Violation(NamedTuple):
    """One reason to refuse an object."""

    path: Path
    message: str
    remedy: str = ""


def check_address(path: Path, text: str) -> Iterator[Violation]:
    """An IP address."""
    try:
        read_ip(text)
    except InvalidAddress as error:
        yield Violation(path, str(error))


def check_network(path: Path, text: str) -> Iterator[Violation]:
    """An IP address or a network."""
    try:
        parse_cidr(text)
    except InvalidAddress as error:
        yield Violation(path, str(error))


def check_port_text(path: Path, text: str) -> Iterator[Violation]:
    """A port as text."""
    if not (text.isascii() and text.isdigit() and len(text) < 6 and 0 < int(text) < 65536):
        yield Violation(path, f"{text[:32]!r} is not a port of 1 to 65535")


def check_header_name(path: Path, name: str) -> Iterator[Violation]:
    """A header's name; a pseudo-header is none."""
    if not _TOKEN.fullmatch(name):
        yield Violation(path, f"{name[:64]!r} is not a header's name")


def check_header(path: Path, name: str, value: str) -> Iterator[Violation]:
    """A header that is set or added: no line ends, which would make two of it."""
    yield from check_header_name(path, name)
    yield from check_field_text(path, value)


def check_field_text(path: Path, value: str) -> Iterator[Violation]:
    """A text that becomes part of a header or a request line."""
    if not _FIELD_VALUE.fullmatch(value):
        yield Violation(path, "holds a control character", "headers, paths and hosts take none")


def check_path(path: Path, value: str) -> Iterator[Violation]:
    """An absolute path."""
    if not value.startswith("/"):
        yield Violation(path, f"{value[:64]!r} does not begin with '/'")
    yield from check_field_text(path, value)


def check_host(path: Path, value: str) -> Iterator[Violation]:
    """A DNS name, or one that begins with ``*.``."""
    if not _HOST.fullmatch(value):
        yield Violation(path, f"{value[:64]!r} is not a DNS name")


def check_expression(path: Path, value: str) -> Iterator[Violation]:
    """A regular expression of RE2's syntax: one that matches nothing would let requests fall through to other rules."""
    if not value or len(value) > MAX_EXPRESSION:
        yield Violation(path, f"a regular expression has 1 to {MAX_EXPRESSION} characters")
        return
    options = re2.Options()
    options.log_errors = False
    try:
        re2.compile(value, options)
    except (re2.error, UnicodeEncodeError) as error:
        reason = error.args[0] if isinstance(error, re2.error) and error.args else "it is not text"
        text = reason.decode(errors="replace") if isinstance(reason, bytes) else str(reason)
        yield Violation(path, f"{value[:64]!r} is no regular expression: {text}", "the syntax is RE2's")
