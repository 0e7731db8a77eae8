"""Policies on requests that say one thing."""

from __future__ import annotations

from typing import Any

from mesh.model.http_route import TextMatch, TextMatchKind
from mesh.model.request_policy import (
    Attribute,
    Condition,
    RequestAction,
    RequestClause,
    RequestPolicy,
    RequestRule,
)


def policy_of(action: RequestAction, *conditions: Condition, key: str = "demo/p", **fields: Any) -> RequestPolicy:
    """A policy for requests that meet all of these; ``fields`` are further ones of the policy."""
    rule = RequestRule(((RequestClause(conditions=conditions),),))
    return RequestPolicy(key=key, action=action, rules=(rule,), **fields)


def condition(
    attribute: Attribute, *values: str, kind: TextMatchKind = TextMatchKind.EXACT, name: str = ""
) -> Condition:
    """That an attribute has one of these values."""
    return Condition(attribute=attribute, values=tuple(TextMatch(kind, value) for value in values), name=name)
