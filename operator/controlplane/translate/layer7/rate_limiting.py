"""The annotation ``ambimesh.dev/rate-limits`` to token buckets."""

from __future__ import annotations

from controlplane.translate.layer7.durations import seconds
from mesh.model.http_route import RateLimit
from resources.objects import KubernetesObject
from resources.rate_limits import rate_limits_of


def rate_limits(value: KubernetesObject, rule: str | None = None) -> tuple[RateLimit, ...]:
    """The limits that an object puts on the requests of one of its rules, or on all to it.

    A bucket's name holds the object's, so that no two objects share one by accident.
    """
    key = value.key
    return tuple(
        RateLimit(
            name=f"{key.namespace}/{key.kind}/{key.name}/{limit.name}",
            tokens=limit.tokens,
            interval_seconds=seconds(limit.interval),
            by_header=limit.by_header.lower() if limit.by_header else None,
            by_identity=limit.by_identity,
            shared=limit.shared,
        )
        for limit in rate_limits_of(value.metadata)
        if not limit.rules or rule in limit.rules
    )
