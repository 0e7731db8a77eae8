"""Events, by which ``kubectl describe`` and ``kubectl get events`` tell what happened to an object. Pure."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

from resources.objects import ObjectKey

API_VERSION = "events.k8s.io/v1"
_MAX_NOTE = 1024
"""Bytes that the API takes of a note."""
_OF_NO_NAMESPACE = "default"
"""Where events of cluster-scoped objects are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """Something a user should see at an object."""

    about: ObjectKey
    api_version: str
    """Of the object."""
    uid: str = ""
    """Of the object; empty: to be found out, by which an object that is gone is left out."""
    path: str = ""
    """The object's address, for finding that out."""
    reason: str
    """A word in camel case."""
    action: str
    """What was done or tried, in camel case."""
    note: str
    """For people."""


def event_folder(notice: Notice) -> str:
    """The address of all events of the notice's namespace."""
    return f"/apis/{API_VERSION}/namespaces/{_namespace(notice)}/events"


def event_name(notice: Notice) -> str:
    """The same for the same notice, whoever tells it and whenever."""
    told = "\0".join((*notice.about, notice.uid, notice.reason, notice.note))
    return f"{notice.about.name[:200]}.{hashlib.sha256(told.encode()).hexdigest()[:16]}"


def event_of(notice: Notice, reporter: str, instance: str, now: str) -> dict[str, Any]:
    """The object to be created.

    Args:
        notice: what it tells.
        reporter: the program, as ``ambimesh.dev/operator``.
        instance: which of them.
        now: the wall clock, with microseconds, as the API writes it.
    """
    about = notice.about
    regarding = {"apiVersion": notice.api_version, "kind": about.kind, "name": about.name}
    if about.namespace:
        regarding["namespace"] = about.namespace
    if notice.uid:
        regarding["uid"] = notice.uid
    return {
        "apiVersion": API_VERSION,
        "kind": "Event",
        "metadata": {"name": event_name(notice), "namespace": _namespace(notice)},
        "eventTime": now,
        "type": "Warning",
        "reason": notice.reason,
        "action": notice.action,
        "note": _cut(notice.note),
        "regarding": regarding,
        "reportingController": reporter,
        "reportingInstance": instance[:128],
    }


def repeated(event: dict[str, Any], now: str) -> dict[str, Any]:
    """What is changed of an event, as it was read, that happens again."""
    before = (event.get("series") or {}).get("count", 1)
    return {"series": {"count": before + 1, "lastObservedTime": now}}


def _namespace(notice: Notice) -> str:
    return notice.about.namespace or _OF_NO_NAMESPACE


def _cut(text: str) -> str:
    encoded = text.encode()
    if len(encoded) <= _MAX_NOTE:
        return text
    return encoded[: _MAX_NOTE - 4].decode(errors="ignore") + " ..."
