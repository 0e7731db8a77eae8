from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.translate.policy_values import namespace, principal, service_account
from mesh.addresses import parse_ip
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

DOMAIN = "cluster.local"
LABELS = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,5}[a-z0-9])?", fullmatch=True)
NAMES = st.from_regex(r"[a-z0-9]([a-z0-9.-]{0,5}[a-z0-9])?", fullmatch=True)
IDENTITIES = st.builds(SpiffeId, st.just(DOMAIN), LABELS, NAMES)


def denied(identity: SpiffeId, match: Match) -> bool:
    policy = Policy(
        name="p",
        namespace="shop",
        scope=PolicyScope.NAMESPACE,
        action=PolicyAction.DENY,
        rules=(Rule((Clause((match,)),)),),
    )
    facts = ConnectionFacts(parse_ip("192.0.2.1"), identity, parse_ip("192.0.2.2"), 80)
    return isinstance(decide(facts, PolicySet.of([compile_policy(policy)])), Deny)


@given(IDENTITIES, st.sampled_from(["", "spiffe://"]), st.data())
def test_whatever_matches_an_identity_of_the_mesh_is_not_said_to_match_nobody(
    identity: SpiffeId, scheme: str, data: st.DataObject
) -> None:
    cut = data.draw(st.integers(0, len(identity.principal)))
    beginning, end = f"{identity.principal[:cut]}*", f"*{identity.principal[cut:]}"
    texts = [str(identity), identity.principal, scheme + beginning, end]
    for text in texts:
        match, never = principal(text, DOMAIN)
        assert never == "", text
        assert denied(identity, Match(principals=(match,))), text
    cut = data.draw(st.integers(0, len(identity.namespace)))
    for text in (identity.namespace, f"{identity.namespace[:cut]}*", f"*{identity.namespace[cut:]}"):
        match, never = namespace(text)
        assert never == "", text
        assert denied(identity, Match(namespaces=(match,))), text
    account, never = service_account(f"{identity.namespace}/{identity.service_account}", "shop")
    assert never == ""
    assert denied(identity, Match(service_accounts=(account,)))


PIECES = st.sampled_from(
    ["*", "/", "cluster.local", "cluster", "other", "ns", "sa", "a", "b-c", "spiffe://", ":", ".", "-", "A", " ", "_"]
)


@given(st.lists(PIECES, max_size=11).map("".join), IDENTITIES)
def test_what_is_said_to_match_nobody_matches_nobody(text: str, identity: SpiffeId) -> None:
    match, never = principal(text, DOMAIN)
    assert not (never and denied(identity, Match(principals=(match,))))
    match, never = namespace(text)
    assert not (never and denied(identity, Match(namespaces=(match,))))
    account, never = service_account(text, "shop")
    assert not (never and denied(identity, Match(service_accounts=(account,))))


def test_the_scheme_is_taken_away() -> None:
    assert principal("spiffe://cluster.local/ns/a/sa/b", DOMAIN).match == StringMatch(
        StringMatchKind.EXACT, "cluster.local/ns/a/sa/b"
    )
    assert principal("spiffe://cluster.local/ns/a/*", DOMAIN).match == StringMatch(
        StringMatchKind.PREFIX, "cluster.local/ns/a/"
    )
    assert principal("spiffe://*", DOMAIN).match == StringMatch(StringMatchKind.PRESENCE)


@pytest.mark.parametrize(
    "text",
    [
        "", "web", "shop/web", "ns/shop/sa/web", "cluster.local", "cluster.local/ns/a/sa", "cluster.local/ns/a/sa/b/c",
        "cluster.local/sa/b/ns/a", "cluster.local/ns/*/sa/b", "*b*", "**", "*/b/*", "spiffe:*", "*spiffe://a",
        "Spiffe://cluster.local/ns/a/sa/b", "cluster.local/ns/A/sa/b", "cluster.local/ns/a.b/sa/c", "a/b/c/d/e/f*",
        "*a/b/c/d/e/f", "spiffe://spiffe://cluster.local/ns/a/sa/b",
    ],
)  # fmt: skip
def test_what_no_identity_looks_like(text: str) -> None:
    assert principal(text, DOMAIN).never == (
        "no identity looks like this; write cluster.local/ns/NAMESPACE/sa/ACCOUNT, with * at the beginning or the end "
        "only"
    )


@pytest.mark.parametrize("text", ["other/ns/a/sa/b", "other/ns/*", "*other/ns/a/sa/b", "clusterx*", "spiffe*", "spiffe://o/ns/a*"])
def test_another_meshs_trust_domain(text: str) -> None:
    assert principal(text, DOMAIN).never == (
        "this mesh's trust domain is 'cluster.local'; write cluster.local/ns/NAMESPACE/sa/ACCOUNT"
    )


@pytest.mark.parametrize("text", ["a/b", "A", "a.b", "*a*", "**", "spiffe://cluster.local/ns/a/sa/b", "a "])
def test_what_no_namespace_is_called(text: str) -> None:
    assert namespace(text).never.startswith("no namespace can have this name")


def test_an_empty_namespace_is_a_caller_without_identity() -> None:
    assert namespace("").never == ""


@pytest.mark.parametrize("text", ["*", "a/*", "a/", "/b", "a/b/c", "cluster.local/ns/a/sa/b", "A"])
def test_what_no_service_account_is_called(text: str) -> None:
    assert "write NAMESPACE/ACCOUNT or ACCOUNT" in service_account(text, "shop")[1]


def test_an_account_without_namespace_is_the_policys_own() -> None:
    assert service_account("web", "shop") == (ServiceAccountMatch("shop", "web"), "")
