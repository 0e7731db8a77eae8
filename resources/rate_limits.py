"""Rate limits, which no public API has: the annotation ``ambimesh.dev/rate-limits``.

On an HTTPRoute, a GRPCRoute or a VirtualService it limits the requests that its rules serve, on a Service or a
ServiceEntry all requests to it. Its value is a YAML list:

    - name: per-client
      tokens: 100          # the bucket's size, and how many are put in per interval
      interval: 1s
      byIdentity: true     # one bucket for each client identity
    - name: search
      tokens: 5
      interval: 1m
      byHeader: x-user     # one bucket for each value of the header
      shared: true         # counted together by all replicas of the waypoint
      rules: [search]      # of these named rules only; by default of all

A request takes one token of every limit that concerns it, and is answered 429 when one has none.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated

import msgspec
from msgspec import Meta

from resources import documents
from resources.base import Fields, ObjectMeta
from resources.routes import Duration
from resources.violation import Violation, check_header_name

RATE_LIMITS_ANNOTATION = "ambimesh.dev/rate-limits"
MAX_LIMITS = 16


class RateLimitFields(Fields, frozen=True):
    """One limit."""

    name: Annotated[str, Meta(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]
    tokens: Annotated[int, Meta(ge=1, le=1_000_000_000)]
    interval: Duration
    by_header: str | None = None
    by_identity: bool = False
    shared: bool = False
    rules: tuple[str, ...] = ()


def rate_limits_of(metadata: ObjectMeta) -> tuple[RateLimitFields, ...]:
    """The limits of an object that admission has let through."""
    text = metadata.annotations.get(RATE_LIMITS_ANNOTATION)
    return () if text is None else _read(text)


def rate_limit_violations(metadata: ObjectMeta, rules: Collection[str] | None = None) -> list[Violation]:
    """What is wrong with the annotation: a limit that was misread would limit nothing.

    Args:
        metadata: the object's.
        rules: the names of its rules; None for what has none.
    """
    text = metadata.annotations.get(RATE_LIMITS_ANNOTATION)
    if text is None:
        return []
    path: documents.Path = ("metadata", "annotations", RATE_LIMITS_ANNOTATION)
    try:
        limits = _read(text)
    except documents.Unreadable as error:
        return [Violation(path, error.message)]
    except msgspec.ValidationError as error:
        return [Violation(path, str(error), "see docs/waypoints.md")]
    found: list[Violation] = []
    if len(limits) > MAX_LIMITS:
        found.append(Violation(path, f"more than {MAX_LIMITS} limits"))
    names = [limit.name for limit in limits]
    if len(set(names)) != len(names):
        found.append(Violation(path, "two limits have the same name"))
    for limit in limits:
        if limit.by_header is not None:
            found += check_header_name(path, limit.by_header)
        for rule in limit.rules:
            if rules is None or rule not in rules:
                message = f"{limit.name!r} is for a rule {rule[:64]!r}, which there is not"
                found.append(Violation(path, message, "name a rule of this object, or leave rules out"))
        if not any(digit in "123456789" for digit in limit.interval):
            found.append(Violation(path, f"the interval of {limit.name!r} is zero"))
    return found


def _read(text: str) -> tuple[RateLimitFields, ...]:
    value = documents.read(documents.Document(1, 0, text))
    return msgspec.convert(value, tuple[RateLimitFields, ...])
