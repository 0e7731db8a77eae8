"""The annotation of health checks: what is read, and what is refused."""

from __future__ import annotations

import pytest

from resources.base import ObjectMeta
from resources.health_check import (
    HEALTH_CHECK_ANNOTATION,
    HealthCheckFields,
    health_check_of,
    health_check_violations,
)


def metadata(text: str) -> ObjectMeta:
    return ObjectMeta(name="s", annotations={HEALTH_CHECK_ANNOTATION: text})


def test_what_is_read() -> None:
    text = "path: /healthz\nport: 8080\ninterval: 5s\ntimeout: 500ms\nunhealthyThreshold: 2\nhealthyThreshold: 4\n"
    assert health_check_violations(metadata(text)) == []
    assert health_check_of(metadata(text)) == HealthCheckFields(
        path="/healthz", port=8080, interval="5s", timeout="500ms", unhealthy_threshold=2, healthy_threshold=4
    )
    assert health_check_of(metadata("{}")) == HealthCheckFields()
    assert health_check_of(ObjectMeta(name="s")) is None
    assert health_check_violations(ObjectMeta(name="s")) == []


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "Expected `object`"),
        ("[]", "Expected `object`"),
        ("{path: healthz}", "does not begin with"),
        ('{path: "/a\\r\\nb"}', "control character"),
        ("{port: 0}", "port"),
        ("{interval: 0s}", "interval is zero"),
        ("{timeout: soon}", "timeout"),
        ("{unhealthyThreshold: 0}", "unhealthyThreshold"),
        ("{method: GET}", "method"),
        ("{path: [", ""),
    ],
)
def test_what_is_refused(text: str, told: str) -> None:
    found = health_check_violations(metadata(text))
    assert found
    assert told in found[0].message
