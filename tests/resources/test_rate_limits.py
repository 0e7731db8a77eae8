"""The annotation of rate limits: what is read, and what is refused."""

from __future__ import annotations

import pytest

from resources.base import ObjectMeta
from resources.decode import decode_documents
from resources.rate_limits import (
    MAX_LIMITS,
    RATE_LIMITS_ANNOTATION,
    RateLimitFields,
    rate_limit_violations,
    rate_limits_of,
)


def metadata(text: str) -> ObjectMeta:
    return ObjectMeta(name="r", annotations={RATE_LIMITS_ANNOTATION: text})


def test_what_is_read() -> None:
    text = """
- name: per-client
  tokens: 100
  interval: 1s
  byIdentity: true
- {name: search, tokens: 5, interval: 1m30s, byHeader: X-User, shared: true, rules: [search]}
"""
    assert rate_limit_violations(metadata(text), ["search"]) == []
    assert rate_limits_of(metadata(text)) == (
        RateLimitFields(name="per-client", tokens=100, interval="1s", by_identity=True),
        RateLimitFields(
            name="search", tokens=5, interval="1m30s", by_header="X-User", shared=True, rules=("search",)
        ),
    )
    assert rate_limits_of(ObjectMeta(name="r")) == ()
    assert rate_limit_violations(ObjectMeta(name="r")) == []


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "Expected `array`"),
        ("{}", "Expected `array`"),
        ("[{name: a, tokens: 5}]", "interval"),
        ("[{name: a, tokens: 0, interval: 1s}]", "tokens"),
        ("[{name: a, tokens: 5, interval: soon}]", "interval"),
        ("[{name: a, tokens: 5, interval: 0s}]", "is zero"),
        ("[{name: a, tokens: 5, interval: 1s, perClient: true}]", "perClient"),
        ("[{name: A B, tokens: 5, interval: 1s}]", "name"),
        ("[{name: a, tokens: 5, interval: 1s, byHeader: 'a b'}]", "not a header's name"),
        ("[{name: a, tokens: 5, interval: 1s}, {name: a, tokens: 1, interval: 1s}]", "same name"),
        ("[" + ", ".join(f"{{name: a{n}, tokens: 5, interval: 1s}}" for n in range(MAX_LIMITS + 1)) + "]", "more than"),
        ("[{name: a", "expected"),
        ("[&a [*a]]", ""),
    ],
)
def test_what_is_refused(text: str, told: str) -> None:
    found = rate_limit_violations(metadata(text))
    assert found
    assert told in found[0].message
    assert found[0].path == ("metadata", "annotations", RATE_LIMITS_ANNOTATION)


def test_limits_are_for_rules_that_are_there() -> None:
    limited = metadata("[{name: a, tokens: 5, interval: 1s, rules: [one]}]")
    assert rate_limit_violations(limited, ["one", ""]) == []
    for rules in (["two"], None):
        [found] = rate_limit_violations(limited, rules)
        assert "'one', which there is not" in found.message
    text = """
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: r, annotations: {ambimesh.dev/rate-limits: "[{name: a, tokens: 5, interval: 1s, rules: [one]}]"}}
spec: {rules: [{name: NAME}]}
"""
    assert decode_documents(text.replace("NAME", "one"), "f")[1] == []
    assert len(decode_documents(text.replace("NAME", "two"), "f")[1]) == 1
