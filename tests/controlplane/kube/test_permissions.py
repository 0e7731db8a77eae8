from __future__ import annotations

from controlplane.kube.permissions import (
    AGENT_CLUSTER,
    OPERATOR_CLUSTER,
    OPERATOR_CREDENTIALS,
    OPERATOR_NAMESPACE,
    Rule,
)
from controlplane.kube.status_wishes import SPOKEN_KINDS
from resources.kube.kinds import API_KINDS, CREDENTIALS


def allowed(rules: tuple[Rule, ...], verb: str, group: str, resource: str) -> bool:
    return any(rule.group == group and resource in rule.resources and verb in rule.verbs for rule in rules)


def test_everything_that_is_read_may_be_read_and_what_is_said_may_be_said() -> None:
    for kind in API_KINDS.values():
        for verb in ("get", "list", "watch"):
            rules = OPERATOR_CREDENTIALS if kind.name == CREDENTIALS else OPERATOR_CLUSTER
            assert allowed(rules, verb, kind.group, kind.plural), kind.name
    for name in SPOKEN_KINDS:
        kind = API_KINDS[name]
        assert allowed(OPERATOR_CLUSTER, "patch", kind.group, f"{kind.plural}/status"), name


def test_secrets_are_read_by_name_and_in_one_namespace_only_unless_it_is_asked_for() -> None:
    assert not any("secrets" in rule.resources for rule in (*OPERATOR_CLUSTER, *AGENT_CLUSTER))
    for rule in OPERATOR_NAMESPACE:
        assert rule.names or rule.verbs == ("create",)


def test_nothing_is_allowed_at_large() -> None:
    for rule in (*OPERATOR_CLUSTER, *OPERATOR_NAMESPACE, *AGENT_CLUSTER):
        assert "*" not in (*rule.verbs, *rule.resources, rule.group)
