"""Resources as the delta client hands them to whoever uses them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Resource:
    """One resource of a response, still encoded."""

    name: str
    version: str
    aliases: tuple[str, ...]
    payload: bytes


@dataclass(frozen=True, slots=True)
class Rejected:
    """A resource that its user could not take; the reason goes into the NACK."""

    name: str
    reason: str
