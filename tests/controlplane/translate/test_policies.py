from __future__ import annotations

import pytest

from controlplane.translate.finding import Condition
from controlplane.translate.policies import translate_authorization_policy
from controlplane.translate.settings import MeshSettings
from mesh.addresses import parse_cidr, parse_ip
from mesh.identity import SpiffeId
from mesh.model.policy import (
    Clause,
    Match,
    Policy,
    PolicyAction,
    PolicyScope,
    Rule,
    ServiceAccountMatch,
    StringMatch,
    StringMatchKind,
)
from mesh.rbac import ConnectionFacts, Deny, PolicySet, compile_policy, decide
from resources.decode import decode_documents
from resources.objects import AuthorizationPolicy

SETTINGS = MeshSettings()


def exact(text: str) -> StringMatch:
    return StringMatch(StringMatchKind.EXACT, text)


def translated(spec: str, namespace: str = "shop", annotations: str = "{}") -> tuple[Policy | None, list[str]]:
    text = (
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n"
        f"metadata: {{name: p, namespace: {namespace}, annotations: {annotations}}}\nspec: {spec}\n"
    )
    (decoded,), problems = decode_documents(text, "f")
    assert problems == []
    assert isinstance(decoded, AuthorizationPolicy)
    policy, findings = translate_authorization_policy(decoded, SETTINGS)
    return policy, [str(finding) for finding in findings]


def rules(spec: str) -> tuple[Rule, ...]:
    policy, findings = translated(spec)
    assert findings == []
    assert policy is not None
    return policy.rules


def test_fields_become_clauses() -> None:
    spec = """
  rules:
  - from:
    - source: {principals: [cluster.local/ns/a/sa/b], notNamespaces: [x], ipBlocks: [10.0.0.0/8]}
    - source: {serviceAccounts: [b, other/c]}
    to:
    - operation: {ports: ["80", "81"], notPorts: ["82"]}
    when:
    - {key: destination.ip, values: ["fd00::/8"], notValues: [10.1.1.1]}
    - {key: source.principal, notValues: ["*"]}
"""
    assert rules(spec) == (
        Rule(
            (
                Clause(
                    (
                        Match(
                            principals=(exact("cluster.local/ns/a/sa/b"),),
                            not_namespaces=(exact("x"),),
                            source_ips=(parse_cidr("10.0.0.0/8"),),
                        ),
                        Match(
                            service_accounts=(ServiceAccountMatch("shop", "b"), ServiceAccountMatch("other", "c"))
                        ),
                    )
                ),
                Clause((Match(destination_ports=(80, 81), not_destination_ports=(82,)),)),
                Clause(
                    (
                        Match(
                            destination_ips=(parse_cidr("fd00::/8"),), not_destination_ips=(parse_cidr("10.1.1.1"),)
                        ),
                    )
                ),
                Clause((Match(not_principals=(StringMatch(StringMatchKind.PRESENCE),)),)),
            )
        ),
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("*", StringMatch(StringMatchKind.PRESENCE)),
        ("*/sa/web", StringMatch(StringMatchKind.SUFFIX, "/sa/web")),
        ("cluster.local/*", StringMatch(StringMatchKind.PREFIX, "cluster.local/")),
        ("cluster.local/ns/a/sa/b", exact("cluster.local/ns/a/sa/b")),
        ("spiffe://cluster.local/ns/a/sa/b", exact("cluster.local/ns/a/sa/b")),
    ],
)
def test_string_matches(text: str, expected: StringMatch) -> None:
    found = rules(f"{{rules: [{{from: [{{source: {{principals: ['{text}']}}}}]}}]}}")
    assert found == (Rule((Clause((Match(principals=(expected,)),)),)),)


def test_empty_rule_matches_all_and_no_rule_nothing() -> None:
    assert rules("{rules: [{}]}") == (Rule(),)
    assert rules("{}") == ()


@pytest.mark.parametrize(
    ("namespace", "selector", "scope"),
    [
        ("shop", "", PolicyScope.NAMESPACE),
        ("shop", "selector: {}", PolicyScope.NAMESPACE),
        ("istio-system", "", PolicyScope.GLOBAL),
        ("shop", "selector: {matchLabels: {a: b}}", PolicyScope.WORKLOAD_SELECTOR),
        ("istio-system", "selector: {matchLabels: {a: b}}", PolicyScope.WORKLOAD_SELECTOR),
    ],
)
def test_scope(namespace: str, selector: str, scope: PolicyScope) -> None:
    policy, _ = translated(f"{{{selector}}}", namespace)
    assert policy is not None
    assert policy.scope is scope


LAYER_7 = [
    "to: [{operation: {hosts: [a]}}]",
    "to: [{operation: {notMethods: [GET]}}]",
    "to: [{operation: {paths: [/a], ports: ['80']}}]",
    "from: [{source: {requestPrincipals: ['*']}}]",
    "from: [{source: {notRemoteIpBlocks: [10.0.0.0/8], namespaces: [a]}}]",
    "from: [{source: {trustDomains: [a]}}]",
    "when: [{key: 'request.headers[x]', values: [y]}]",
    "when: [{key: source.namespace, values: [y]}, {key: connection.sni, values: [y]}]",
]


@pytest.mark.parametrize("rule", LAYER_7)
def test_layer_7_drops_an_allow_rule_whole(rule: str) -> None:
    policy, findings = translated(f"{{rules: [{{{rule}}}, {{to: [{{operation: {{ports: ['1']}}}}]}}]}}")
    assert policy is not None
    assert policy.action is PolicyAction.ALLOW
    assert policy.rules == (Rule((Clause((Match(destination_ports=(1,)),)),)),)
    assert "UnsupportedValue: rules[0]" in findings[0]
    assert "allows nothing" in findings[0]


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("to: [{operation: {hosts: [a]}}]", Rule()),
        ("when: [{key: 'request.headers[x]', notValues: [y]}]", Rule()),
        ("to: [{operation: {paths: [/a], ports: ['80']}}]", Rule((Clause((Match(destination_ports=(80,)),)),))),
        ("from: [{source: {namespaces: [a], requestPrincipals: ['*']}}, {source: {requestPrincipals: ['*']}}]", Rule()),
        (
            "from: [{source: {namespaces: [a]}}]\n    to: [{operation: {methods: [GET]}}]",
            Rule((Clause((Match(namespaces=(exact("a"),)),)),)),
        ),
        (
            "from: [{source: {namespaces: [a]}}]\n    when: [{key: 'request.headers[x]', values: [y]}]",
            Rule((Clause((Match(namespaces=(exact("a"),)),)),)),
        ),
    ],
)
def test_a_deny_rule_is_enforced_without_layer_7_and_denies_more(rule: str, expected: Rule) -> None:
    policy, findings = translated(f"\n  action: DENY\n  rules:\n  - {rule}\n")
    assert policy is not None
    assert policy.action is PolicyAction.DENY
    assert policy.rules == (expected,)
    assert "needs a waypoint: the rule is enforced without it and denies more than it says" in findings[0]
    assert any("rules[0] denies every connection" in finding for finding in findings) is (expected == Rule())


@pytest.mark.parametrize("rule", LAYER_7)
def test_a_layer_7_part_saves_nobody_whom_the_rest_of_a_deny_rule_selects(rule: str) -> None:
    policy, _ = translated(f"{{action: DENY, rules: [{{{rule}}}]}}")
    assert policy is not None
    callers = [SpiffeId("cluster.local", namespace, "b") for namespace in ("a", "y")]
    facts = [ConnectionFacts(parse_ip("192.0.2.1"), caller, parse_ip("192.0.2.2"), 80) for caller in callers]
    assert any(isinstance(decide(fact, PolicySet.of([compile_policy(policy)])), Deny) for fact in facts)


# -- values that match nobody ------------------------------------------------------------------------------------------

SOURCE = "[{from: [{source: {%s}}]}]"


@pytest.mark.parametrize(
    ("action", "field", "said"),
    [
        ("ALLOW", "principals: [other/ns/a/sa/b]", "principals[0] 'other/ns/a/sa/b' admits nobody: this mesh's trust"),
        ("ALLOW", "notPrincipals: [a/b]", "notPrincipals[0] 'a/b' keeps nobody out: no identity looks like this"),
        ("DENY", "principals: ['*', a]", "principals[1] 'a' denies nobody: no identity"),
        ("DENY", "notNamespaces: [a/b]", "notNamespaces[0] 'a/b' spares nobody: no namespace"),
        ("DENY", "serviceAccounts: ['a/*']", "serviceAccounts[0] 'a/*' denies nobody: no service account"),
        ("ALLOW", "notServiceAccounts: [a/b/c]", "notServiceAccounts[0] 'a/b/c' keeps nobody out"),
    ],
)
def test_a_value_that_matches_nobody_is_told_with_its_place_and_effect(action: str, field: str, said: str) -> None:
    policy, findings = translated(f"{{action: {action}, rules: {SOURCE % field}}}")
    assert policy is not None
    assert len(policy.rules) == 1, "the rule's other parts stay in force"
    (finding,) = findings
    assert f"UnsupportedValue: rules[0].from[0].source.{said}" in finding


def test_conditions_are_looked_at_too() -> None:
    _, findings = translated(
        "{action: DENY, rules: [{when: [{key: source.principal, values: ['']}, "
        "{key: source.namespace, values: ['*a*'], notValues: ['']}]}]}"
    )
    assert [finding.split(": ", 2)[2].partition(":")[0] for finding in findings] == [
        "rules[0].when[0].values[0] '' denies nobody",
        "rules[0].when[1].values[0] '*a*' denies nobody",
    ]


@pytest.mark.parametrize("spec", ["{action: AUDIT}", "{action: CUSTOM, provider: {name: x}}"])
def test_other_actions_are_told(spec: str) -> None:
    policy, findings = translated(spec)
    assert policy is None
    assert Condition.NOT_APPLIED.value in findings[0]


@pytest.mark.parametrize("target", ["targetRef: {kind: Gateway, name: w}", "targetRefs: [{kind: Service, name: s}]"])
def test_policies_for_waypoints_are_left_to_them(target: str) -> None:
    policy, findings = translated(f"{{{target}, rules: [{{}}]}}")
    assert policy is None
    assert findings == []


def test_dry_run() -> None:
    policy, _ = translated("{}", annotations='{istio.io/dry-run: "true"}')
    assert policy is not None
    assert policy.dry_run
