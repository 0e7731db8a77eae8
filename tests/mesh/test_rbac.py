from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.addresses import Cidr, IpBytes, ip_from_packed, parse_cidr, parse_ip
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
from mesh.rbac import Allow, ConnectionFacts, Deny, DryRunReport, PolicySet, compile_policy, decide

A = SpiffeId("cluster.local", "default", "a")
B = SpiffeId("cluster.local", "default", "b")
PRESENT = StringMatch(StringMatchKind.PRESENCE)


def exact(value: str) -> StringMatch:
    return StringMatch(StringMatchKind.EXACT, value)


def facts(
    identity: SpiffeId | None = A, source: str = "10.0.0.1", destination: str = "10.0.0.2", port: int = 80
) -> ConnectionFacts:
    return ConnectionFacts(parse_ip(source), identity, parse_ip(destination), port)


def policy(
    name: str, *matches: Match, action: PolicyAction = PolicyAction.ALLOW, dry_run: bool = False
) -> Policy:
    """One rule with one clause of these matches."""
    rules = (Rule((Clause(matches),)),)
    return Policy(
        name=name, namespace="default", scope=PolicyScope.NAMESPACE, action=action, rules=rules, dry_run=dry_run
    )


def policy_set(*policies: Policy, missing: tuple[str, ...] = ()) -> PolicySet:
    return PolicySet.of(map(compile_policy, policies), missing)


allow_a = policy("allow-a", Match(principals=(exact(A.principal),)))
strict = policy("strict", Match(not_principals=(PRESENT,)), action=PolicyAction.DENY)


def test_nothing_said_is_allowed() -> None:
    assert decide(facts(None), PolicySet()) == Allow(None)


def test_allow_admits_whom_it_names_and_nobody_else() -> None:
    policies = policy_set(allow_a)
    assert decide(facts(A), policies) == Allow("default/allow-a")
    refused = decide(facts(B), policies)
    assert isinstance(refused, Deny)
    assert refused.policy is None
    assert "default/allow-a" in refused.reason
    assert isinstance(decide(facts(None), policies), Deny)


def test_deny_wins_over_allow() -> None:
    deny_80 = policy("no-80", Match(destination_ports=(80,)), action=PolicyAction.DENY)
    policies = policy_set(allow_a, deny_80)
    assert decide(facts(A), policies) == Deny("default/no-80", "DENY policy default/no-80 matches")
    assert decide(facts(A, port=81), policies) == Allow("default/allow-a")


def test_strict_refuses_plaintext_only() -> None:
    assert isinstance(decide(facts(None), policy_set(strict)), Deny)
    assert decide(facts(B), policy_set(strict)) == Allow(None)


def test_a_missing_policy_denies_and_is_named() -> None:
    refused = decide(facts(A), policy_set(allow_a, missing=("default/gone",)))
    assert isinstance(refused, Deny)
    assert refused.policy == "default/gone"
    assert "not been received" in refused.reason


def test_an_explicit_deny_is_the_reason_given_before_a_missing_policy() -> None:
    refused = decide(facts(None), policy_set(strict, missing=("default/gone",)))
    assert isinstance(refused, Deny)
    assert refused.policy == "default/strict"


def test_negative_fields_admit_a_caller_without_identity() -> None:
    not_b = policy("not-b", Match(not_principals=(exact(B.principal),)))
    assert decide(facts(None), policy_set(not_b)) == Allow("default/not-b")
    not_ns = policy("not-ns", Match(not_namespaces=(exact("other"),)))
    assert decide(facts(None), policy_set(not_ns)) == Allow("default/not-ns")


@pytest.mark.parametrize("kind", [StringMatchKind.EXACT, StringMatchKind.PREFIX, StringMatchKind.SUFFIX])
def test_an_empty_principal_pattern_does_not_match_no_identity(kind: StringMatchKind) -> None:
    empty = policy("empty", Match(principals=(StringMatch(kind, ""),)))
    assert isinstance(decide(facts(None), policy_set(empty)), Deny)


def test_ipv6_networks_hold_no_ipv4_addresses() -> None:
    everything6 = policy_set(policy("v6", Match(source_ips=(parse_cidr("::/0"),))))
    assert isinstance(decide(facts(source="10.0.0.1"), everything6), Deny)
    assert isinstance(decide(facts(source="fd00::1"), everything6), Allow)
    everything4 = policy_set(policy("v4", Match(source_ips=(parse_cidr("0.0.0.0/0"),))))
    assert isinstance(decide(facts(source="10.0.0.1"), everything4), Allow)
    assert isinstance(decide(facts(source="fd00::1"), everything4), Deny)


def test_shapes_without_content() -> None:
    def of(*rules: Rule) -> PolicySet:
        return policy_set(
            Policy(
                name="p", namespace="default", scope=PolicyScope.NAMESPACE, action=PolicyAction.DENY, rules=rules
            )
        )

    assert isinstance(decide(facts(), of()), Allow)  # no rules: never matches
    assert isinstance(decide(facts(), of(Rule())), Deny)  # no clauses: matches all
    assert isinstance(decide(facts(), of(Rule((Clause(),)))), Deny)  # no matches: true
    assert isinstance(decide(facts(), of(Rule((Clause((Match(),)),)))), Allow)  # no fields: nothing
    port_80 = Match(destination_ports=(80,))
    assert isinstance(decide(facts(), of(Rule((Clause((Match(), port_80)),)))), Deny)  # the empty one is skipped


def test_dry_run_policies_decide_nothing_but_are_reported() -> None:
    deny_all = policy("deny-all", Match(not_destination_ports=(1,)), action=PolicyAction.DENY, dry_run=True)
    allow_b = policy("allow-b", Match(principals=(exact(B.principal),)), dry_run=True)
    assert decide(facts(A), policy_set(deny_all, allow_b)) == Allow(
        None,
        (
            DryRunReport("default/deny-all", PolicyAction.DENY, True),
            DryRunReport("default/allow-b", PolicyAction.ALLOW, False),
        ),
    )


def test_many_allow_policies_are_not_all_listed() -> None:
    policies = policy_set(*(policy(f"p{n}", Match(destination_ports=(n + 1000,))) for n in range(5)))
    refused = decide(facts(), policies)
    assert isinstance(refused, Deny)
    assert "and 2 more" in refused.reason


# -- against a naive evaluator, written from the contract alone --------------------------------------------------------


def naive_string(match: StringMatch, value: str) -> bool:
    match match.kind:
        case StringMatchKind.EXACT:
            return value == match.value
        case StringMatchKind.PREFIX:
            return value.startswith(match.value)
        case StringMatchKind.SUFFIX:
            return value.endswith(match.value)
        case StringMatchKind.PRESENCE:
            return bool(value)


def naive_principal(match: StringMatch, identity: SpiffeId | None) -> bool:
    return identity is not None and naive_string(match, str(identity).removeprefix("spiffe://"))


def naive_cidr(cidr: Cidr, ip: IpBytes) -> bool:
    address: ipaddress.IPv4Address | ipaddress.IPv6Address = ipaddress.IPv6Address(bytes(ip))
    assert isinstance(address, ipaddress.IPv6Address)
    address = address.ipv4_mapped or address
    return address in ipaddress.ip_network(str(cidr), strict=False)


def naive_match(match: Match, f: ConnectionFacts) -> bool:
    identity = f.source_identity
    namespace = identity.namespace if identity else ""
    account = ServiceAccountMatch(identity.namespace, identity.service_account) if identity else None
    fields = [
        (match.namespaces, match.not_namespaces, lambda v: naive_string(v, namespace)),
        (match.principals, match.not_principals, lambda v: naive_principal(v, identity)),
        (match.source_ips, match.not_source_ips, lambda v: naive_cidr(v, f.source_ip)),
        (match.destination_ips, match.not_destination_ips, lambda v: naive_cidr(v, f.destination_ip)),
        (match.destination_ports, match.not_destination_ports, lambda v: v == f.destination_port),
        (match.service_accounts, match.not_service_accounts, lambda v: v == account),
    ]
    if not any(positive or negative for positive, negative, _ in fields):
        return False
    return all(
        (not positive or any(map(holds, positive))) and not any(map(holds, negative))
        for positive, negative, holds in fields
    )


def naive_policy(p: Policy, f: ConnectionFacts) -> bool:
    return any(
        all(not clause.matches or any(naive_match(m, f) for m in clause.matches) for clause in rule.clauses)
        for rule in p.rules
    )


def naive_decision(f: ConnectionFacts, policies: list[Policy], missing: list[str]) -> bool:
    enforced = [p for p in policies if not p.dry_run]
    if any(naive_policy(p, f) for p in enforced if p.action == PolicyAction.DENY):
        return False
    if missing:
        return False
    allows = [p for p in enforced if p.action == PolicyAction.ALLOW]
    return not allows or any(naive_policy(p, f) for p in allows)


# Small alphabets, so that fields meet the facts often.
domains = st.sampled_from(["cluster.local", "c"])
names = st.sampled_from(["default", "a", "b", "prod"])
identities = st.builds(SpiffeId, domains, names, names)
addresses = st.sampled_from(["10.0.0.1", "10.0.1.1", "192.168.0.9", "fd00::1", "fd00:0:0:1::1", "::1"]).map(parse_ip)
cidrs = st.sampled_from(
    ["10.0.0.0/8", "10.0.0.0/24", "10.0.0.1", "0.0.0.0/0", "::/0", "fd00::/64", "fd00::1", "::/64", "192.168.0.0/29"]
).map(parse_cidr) | st.builds(
    Cidr, st.binary(min_size=16, max_size=16).map(ip_from_packed), st.integers(0, 128)
).map(lambda cidr: parse_cidr(str(cidr)))
ports = st.sampled_from([80, 443, 8080])
strings = st.builds(
    StringMatch,
    st.sampled_from(StringMatchKind),
    st.sampled_from(["", "default", "a", "prod", "cluster.local/ns/default/sa/a", "cluster.local/", "c/ns/", "/sa/b"]),
)
accounts = st.builds(ServiceAccountMatch, names, names)


def some(values: st.SearchStrategy[object]) -> st.SearchStrategy[tuple[object, ...]]:
    return st.just(()) | st.lists(values, max_size=3).map(tuple)


matches = st.builds(
    Match,
    namespaces=some(strings), not_namespaces=some(strings), principals=some(strings), not_principals=some(strings),
    source_ips=some(cidrs), not_source_ips=some(cidrs), destination_ips=some(cidrs), not_destination_ips=some(cidrs),
    destination_ports=some(ports), not_destination_ports=some(ports),
    service_accounts=some(accounts), not_service_accounts=some(accounts),
) | st.builds(Match, principals=some(strings), not_destination_ports=some(ports))
clauses = st.builds(Clause, st.lists(matches, max_size=3).map(tuple))
rules = st.builds(Rule, st.lists(clauses, max_size=2).map(tuple))
policies_strategy = st.builds(
    Policy,
    name=names, namespace=names, scope=st.sampled_from(PolicyScope), action=st.sampled_from(PolicyAction),
    rules=st.lists(rules, max_size=2).map(tuple), dry_run=st.booleans(),
)
facts_strategy = st.builds(ConnectionFacts, addresses, st.none() | identities, addresses, ports)


@settings(max_examples=400, deadline=None)
@given(facts_strategy, st.lists(policies_strategy, max_size=4), st.lists(names, max_size=1))
def test_agrees_with_the_naive_evaluator(f: ConnectionFacts, policies: list[Policy], missing: list[str]) -> None:
    decision = decide(f, policy_set(*policies, missing=tuple(missing)))
    assert isinstance(decision, Allow) == naive_decision(f, policies, missing)
    assert [(d.policy, d.matched) for d in decision.dry_run] == [
        (p.key, naive_policy(p, f)) for p in policies if p.dry_run
    ]


@settings(max_examples=300, deadline=None)
@given(facts_strategy, policies_strategy)
def test_each_policy_agrees_with_the_naive_evaluator(f: ConnectionFacts, p: Policy) -> None:
    enforced = Policy(
        name="p", namespace="n", scope=p.scope, action=PolicyAction.DENY, rules=p.rules, dry_run=False
    )
    assert isinstance(decide(f, policy_set(enforced)), Deny) == naive_policy(enforced, f)


@settings(max_examples=200, deadline=None)
@given(facts_strategy, st.lists(policies_strategy, max_size=4), st.randoms())
def test_the_order_of_policies_does_not_matter(f: ConnectionFacts, policies: list[Policy], random: object) -> None:
    shuffled = list(policies)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert type(decide(f, policy_set(*policies))) is type(decide(f, policy_set(*shuffled)))
