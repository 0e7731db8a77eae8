"""The values of a policy's fields, and which of them no connection can ever match.

A value that matches nobody is dangerous where it stands in a DENY, or behind a ``not...`` of an ALLOW: what its author
meant to close stays open, and nothing looks wrong. So each value is read together with the reason why it can never
match, which is "" unless that is certain: a name of which Kubernetes would allow none, an identity of another mesh.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from mesh.identity import SCHEME
from mesh.model.policy import ServiceAccountMatch, StringMatch, StringMatchKind

_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?")
_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?")
_TRUST_DOMAIN = re.compile(r"[a-z0-9]([a-z0-9._-]*[a-z0-9])?")
_PIECE = re.compile(r"[a-z0-9._-]*")
"""A beginning or an end of any of them."""

_Part = str | re.Pattern[str]
"""What stands between two slashes of a principal: this text, or any that the pattern takes."""


class Value(NamedTuple):
    """One value of a field that is compared as text."""

    match: StringMatch
    never: str
    """Why it matches nobody, and the remedy; "" when somebody may match."""


def principal(text: str, trust_domain: str) -> Value:
    """Read a value of ``principals``.

    ``spiffe://`` is taken away: principals are compared without it, and whoever writes it means the same.

    Args:
        text: ``TRUST DOMAIN/ns/NAMESPACE/sa/ACCOUNT``, or its beginning or end with a ``*``.
        trust_domain: the mesh's; callers of any other are refused before policies are asked.
    """
    match = string_match(text.removeprefix(SCHEME))
    if _may_be(match, trust_domain):
        return Value(match, "")
    form = f"{trust_domain}/ns/NAMESPACE/sa/ACCOUNT"
    if _may_be(match, _TRUST_DOMAIN):
        return Value(match, f"this mesh's trust domain is {trust_domain!r}; write {form}")
    return Value(match, f"no identity looks like this; write {form}, with * at the beginning or the end only")


def namespace(text: str) -> Value:
    """Read a value of ``namespaces``: a name, or its beginning or end with a ``*``; "" is a caller without identity."""
    match = string_match(text)
    if not match.value:
        return Value(match, "")
    possible = _LABEL if match.kind is StringMatchKind.EXACT else _PIECE
    if possible.fullmatch(match.value):
        return Value(match, "")
    return Value(match, "no namespace can have this name; write one name, with * at the beginning or the end only")


def service_account(text: str, own_namespace: str) -> tuple[ServiceAccountMatch, str]:
    """Read a value of ``serviceAccounts``: ``NAMESPACE/ACCOUNT``, or ``ACCOUNT`` of the policy's own namespace.

    Returns:
        The match, and why it matches nobody; "" when somebody may match.
    """
    place, separator, name = text.rpartition("/")
    match = ServiceAccountMatch(place if separator else own_namespace, name)
    if _LABEL.fullmatch(match.namespace) and _NAME.fullmatch(name):
        return match, ""
    return match, "no service account can have this name; write NAMESPACE/ACCOUNT or ACCOUNT, which take no *"


def string_match(text: str) -> StringMatch:
    """``abc`` exactly, ``abc*`` the beginning, ``*abc`` the end, ``*`` whatever is there."""
    if text == "*":
        return StringMatch(StringMatchKind.PRESENCE)
    if text.startswith("*"):
        return StringMatch(StringMatchKind.SUFFIX, text[1:])
    if text.endswith("*"):
        return StringMatch(StringMatchKind.PREFIX, text[:-1])
    return StringMatch(StringMatchKind.EXACT, text)


def _may_be(match: StringMatch, trust_domain: _Part) -> bool:
    """Whether some principal of the trust domain matches."""
    form: list[_Part] = [trust_domain, "ns", _LABEL, "sa", _NAME]
    parts = match.value.split("/")
    match match.kind:
        case StringMatchKind.PRESENCE:
            return True
        case StringMatchKind.EXACT:
            return len(parts) == len(form) and _fit(parts, form)
        case StringMatchKind.PREFIX if len(parts) <= len(form):
            *whole, cut = parts
            part = form[len(whole)]
            return _fit(whole, form) and (part.startswith(cut) if isinstance(part, str) else _fits(cut, _PIECE))
        case StringMatchKind.SUFFIX if len(parts) <= len(form):
            cut, *whole = parts
            part = form[-len(parts)]
            last = form[len(form) - len(whole) :]
            return _fit(whole, last) and (part.endswith(cut) if isinstance(part, str) else _fits(cut, _PIECE))
    return False


def _fit(parts: Sequence[str], form: Sequence[_Part]) -> bool:
    return all(_fits(text, part) for text, part in zip(parts, form, strict=False))


def _fits(text: str, part: _Part) -> bool:
    return text == part if isinstance(part, str) else part.fullmatch(text) is not None
