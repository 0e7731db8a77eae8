"""Active health checks, which no public API has: the annotation ``ambimesh.dev/health-check`` of a Service or
ServiceEntry.

Its value is a YAML mapping; waypoints that send requests to the service then ask its endpoints themselves:

    path: /healthz          # an HTTP request; left out: whether a connection can be made is enough
    port: 8080              # the endpoint's; by default the one that is called
    interval: 10s
    timeout: 2s
    unhealthyThreshold: 3   # failures in a row after which an endpoint is left out
    healthyThreshold: 1     # successes in a row after which it is taken in again
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from resources import documents
from resources.base import Fields, ObjectMeta, Port
from resources.routes import Duration
from resources.violation import Violation, check_path

HEALTH_CHECK_ANNOTATION = "ambimesh.dev/health-check"

Threshold = Annotated[int, Meta(ge=1, le=100)]


class HealthCheckFields(Fields, frozen=True):
    """How endpoints are asked."""

    path: str | None = None
    port: Port | None = None
    interval: Duration = "10s"
    timeout: Duration = "2s"
    unhealthy_threshold: Threshold = 3
    healthy_threshold: Threshold = 1


def health_check_of(metadata: ObjectMeta) -> HealthCheckFields | None:
    """The health check of an object that admission has let through."""
    text = metadata.annotations.get(HEALTH_CHECK_ANNOTATION)
    return None if text is None else _read(text)


def health_check_violations(metadata: ObjectMeta) -> list[Violation]:
    """What is wrong with the annotation: a check that was misread would find nothing, or everything, unhealthy."""
    text = metadata.annotations.get(HEALTH_CHECK_ANNOTATION)
    if text is None:
        return []
    where: documents.Path = ("metadata", "annotations", HEALTH_CHECK_ANNOTATION)
    try:
        check = _read(text)
    except documents.Unreadable as error:
        return [Violation(where, error.message)]
    except msgspec.ValidationError as error:
        return [Violation(where, str(error), "see docs/waypoints.md")]
    found = list(check_path(where, check.path)) if check.path is not None else []
    for name, duration in (("interval", check.interval), ("timeout", check.timeout)):
        if not any(digit in "123456789" for digit in duration):
            found.append(Violation(where, f"{name} is zero"))
    return found


def _read(text: str) -> HealthCheckFields:
    return msgspec.convert(documents.read(documents.Document(1, 0, text)), HealthCheckFields)
