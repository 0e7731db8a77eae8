"""The decision about a request, against a naive reading of the policies; and what attackers try."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.addresses import PeerAddress, SocketAddress, parse_cidr, parse_ip
from mesh.identity import SpiffeId
from mesh.model.http_route import TextMatch, TextMatchKind
from mesh.model.request_policy import (
    AddressAttribute,
    AddressCondition,
    Attribute,
    Condition,
    ExternalAuthorizer,
    PortCondition,
    RequestAction,
    RequestClause,
    RequestPolicy,
    RequestRule,
)
from waypoint.client import Client
from waypoint.http.message import RequestHead
from waypoint.routing.path import normalised
from waypoint.security.authorization import PolicyTable, Verdict
from waypoint.security.conditions import compile_addresses, compile_condition, compile_ports
from waypoint.security.subject import Peer, Subject, VerifiedToken, claim_texts

IDENTITY = SpiffeId("td", "ns", "sa")


def _client(identity: SpiffeId | None = IDENTITY, port: int = 80) -> Client:
    return Client(
        identity=identity,
        address=PeerAddress(SocketAddress(parse_ip("10.0.0.1"), 40000)),
        destination=SocketAddress(parse_ip("10.96.0.10"), port),
    )


def _subject(
    path: str = "/",
    method: str = "GET",
    host: str = "echo",
    identity: SpiffeId | None = IDENTITY,
    headers: list[tuple[bytes, bytes]] | None = None,
    claims: dict[str, object] | None = None,
) -> Subject:
    head = RequestHead(method=method.encode(), path=path.encode(), authority=host.encode(), headers=headers or [])
    return Subject(Peer(_client(identity)), head, None if claims is None else VerifiedToken(claims))


def _exact(*values: str) -> tuple[TextMatch, ...]:
    return tuple(TextMatch(TextMatchKind.EXACT, value) for value in values)


def _when(attribute: Attribute, *values: str, name: str = "", inverted: bool = False) -> Condition:
    return Condition(attribute=attribute, values=_exact(*values), name=name, inverted=inverted)


def _policy(action: RequestAction, *conditions: Condition, key: str = "ns/p", dry_run: bool = False) -> RequestPolicy:
    rule = RequestRule(((RequestClause(conditions=conditions),),))
    authorizer = "judge" if action is RequestAction.CUSTOM else None
    return RequestPolicy(key=key, action=action, rules=(rule,), dry_run=dry_run, authorizer=authorizer)


def _matches(subject: Subject, *conditions: Condition, action: RequestAction = RequestAction.ALLOW) -> bool:
    verdict = PolicyTable([_policy(action, *conditions)]).decide(subject)
    return verdict.allowed is (action is RequestAction.ALLOW)


# -- against a naive oracle --------------------------------------------------------------------------------------------

_CONDITION = st.builds(
    lambda attribute, values, inverted: _when(attribute, *values, inverted=inverted),
    st.sampled_from([Attribute.METHOD, Attribute.PATH, Attribute.NAMESPACE, Attribute.PRINCIPAL, Attribute.HOST]),
    st.lists(st.sampled_from(["GET", "/a", "ns", "td/ns/ns/sa/sa", "echo"]), min_size=1, max_size=2),
    st.booleans(),
)
_CLAUSE = st.builds(
    RequestClause,
    conditions=st.lists(_CONDITION, max_size=2).map(tuple),
    ports=st.sampled_from([(), (PortCondition(ports=(80,)),), (PortCondition(ports=(80,), inverted=True),)]),
)
_RULE = st.builds(RequestRule, st.lists(st.lists(_CLAUSE, max_size=2).map(tuple), max_size=2).map(tuple))
_POLICY = st.builds(
    lambda action, rules, dry_run, key: RequestPolicy(key=key, action=action, rules=tuple(rules), dry_run=dry_run),
    st.sampled_from([RequestAction.ALLOW, RequestAction.DENY, RequestAction.AUDIT]),
    st.lists(_RULE, max_size=2),
    st.booleans(),
    st.text("abc", min_size=1, max_size=2),
)


def _holds(condition: Condition, facts: dict[Attribute, str | None]) -> bool:
    have = facts[condition.attribute]
    return any(have == value.value for value in condition.values) is not condition.inverted


def _met(policy: RequestPolicy, facts: dict[Attribute, str | None], port: int) -> bool:
    return any(
        all(
            not part
            or any(
                all(_holds(condition, facts) for condition in clause.conditions)
                and all((port in condition.ports) is not condition.inverted for condition in clause.ports)
                for clause in part
            )
            for part in rule.parts
        )
        for rule in policy.rules
    )


@settings(max_examples=500)
@given(
    st.lists(_POLICY, max_size=5),
    st.sampled_from(["GET", "PUT"]),
    st.sampled_from(["/a", "/b"]),
    st.sampled_from(["echo", "other"]),
    st.sampled_from([None, SpiffeId("td", "ns", "sa"), SpiffeId("td", "other", "sa")]),
    st.sampled_from([80, 81]),
)
def test_decided_as_the_policies_read(
    policies: list[RequestPolicy], method: str, path: str, host: str, identity: SpiffeId | None, port: int
) -> None:
    facts = {
        Attribute.METHOD: method,
        Attribute.PATH: path,
        Attribute.HOST: host,
        Attribute.NAMESPACE: identity.namespace if identity else None,
        Attribute.PRINCIPAL: identity.principal if identity else None,
    }
    enforced = [policy for policy in policies if not policy.dry_run]
    denied = any(policy.action is RequestAction.DENY and _met(policy, facts, port) for policy in enforced)
    allow = [policy for policy in enforced if policy.action is RequestAction.ALLOW]
    wanted = not denied and (not allow or any(_met(policy, facts, port) for policy in allow))
    head = RequestHead(method=method.encode(), path=path.encode(), authority=host.encode())
    verdict = PolicyTable(policies).decide(Subject(Peer(_client(identity, port)), head))
    assert verdict.allowed is wanted
    reported = [policy for policy in policies if policy.dry_run or policy.action is RequestAction.AUDIT]
    assert [(report.policy, report.action, report.matched) for report in verdict.reports] == [
        (policy.key, policy.action, _met(policy, facts, port)) for policy in reported
    ]


# -- single meanings ---------------------------------------------------------------------------------------------------


def test_a_caller_without_identity() -> None:
    """As in mesh.rbac: positive conditions never match it, negative ones always do."""
    nobody = _subject(identity=None)
    for attribute in (Attribute.PRINCIPAL, Attribute.NAMESPACE, Attribute.SERVICE_ACCOUNT, Attribute.TRUST_DOMAIN):
        present = Condition(attribute=attribute, values=(TextMatch(TextMatchKind.PRESENT),))
        assert not _matches(nobody, present)
        assert _matches(nobody, _when(attribute, "x", inverted=True))
        assert _matches(_subject(), present)


@pytest.mark.parametrize("host", ["admin.example", "ADMIN.example", "admin.example:8080", "admin.example.:80"])
def test_a_host_is_the_same_in_any_case_and_on_any_port(host: str) -> None:
    assert _matches(_subject(host=host), _when(Attribute.HOST, "Admin.example"), action=RequestAction.DENY)
    header = _when(Attribute.HEADER, "admin.example", name="Host")
    assert _matches(_subject(host=host), header, action=RequestAction.DENY)
    assert not _matches(_subject(host=host), _when(Attribute.HOST, "admin.example", inverted=True))


def test_a_host_with_a_port_means_that_port() -> None:
    condition = _when(Attribute.HOST, "echo:8080")
    assert _matches(_subject(host="echo:8080"), condition)
    assert not _matches(_subject(host="echo"), condition)


@pytest.mark.parametrize("target", ["/admin", "/x/../admin", "/%61dmin", "/./admin", "/admin?x", "/x/%2e%2e/admin"])
def test_a_path_is_judged_in_its_normal_form(target: str) -> None:
    path = normalised(target.encode())
    assert path is not None
    assert _matches(_subject(path=path.decode()), _when(Attribute.PATH, "/admin"), action=RequestAction.DENY)


def test_a_header_sent_twice_is_read_so_that_less_is_admitted() -> None:
    twice = _subject(headers=[(b"x", b"good"), (b"x", b"bad")])
    assert _matches(twice, _when(Attribute.HEADER, "bad", name="X"), action=RequestAction.DENY)
    assert not _matches(twice, _when(Attribute.HEADER, "good", name="x"))
    assert not _matches(twice, _when(Attribute.HEADER, "bad", name="x", inverted=True))
    assert _matches(twice, _when(Attribute.HEADER, "good", name="x", inverted=True), action=RequestAction.DENY)
    once = _subject(headers=[(b"x", b"good")])
    assert _matches(once, _when(Attribute.HEADER, "good", name="x"))


def test_pseudo_headers() -> None:
    for name, value in [(":method", "GET"), (":path", "/p"), (":authority", "echo"), ("host", "echo")]:
        assert _matches(_subject("/p"), _when(Attribute.HEADER, value, name=name))
        assert not _matches(_subject("/p"), _when(Attribute.HEADER, "else", name=name))


def test_tokens() -> None:
    claims: dict[str, object] = {
        "iss": "https://i",
        "sub": "s",
        "aud": ["a", "b"],
        "azp": "p",
        "groups": ["x", "y", 7, True, None, {"no": 1}],
        "nested": {"role": "admin"},
        "dotted.name": "d",
    }
    subject = _subject(claims=claims)
    for condition in [
        _when(Attribute.REQUEST_PRINCIPAL, "https://i/s"),
        _when(Attribute.AUDIENCE, "b"),
        _when(Attribute.PRESENTER, "p"),
        _when(Attribute.CLAIM, "y", name="groups"),
        _when(Attribute.CLAIM, "7", name="groups"),
        _when(Attribute.CLAIM, "true", name="groups"),
        _when(Attribute.CLAIM, "admin", name="nested.role"),
        _when(Attribute.CLAIM, "d", name="dotted.name"),
    ]:
        assert _matches(subject, condition)
        assert not _matches(_subject(), condition)
    assert not _matches(subject, _when(Attribute.CLAIM, "x", name="nested.role.deeper"))
    assert VerifiedToken({"iss": "i"}).principal is None
    assert claim_texts({"a": 1}) == []


def test_addresses_ports_and_server_names() -> None:
    peer = Peer(_client())
    subject = Subject(peer, RequestHead(method=b"GET", path=b"/", authority=b""), remote=parse_ip("192.0.2.1"))
    tens, twos = (parse_cidr("10.0.0.0/16"),), (parse_cidr("192.0.2.0/24"),)
    assert compile_addresses(AddressCondition(attribute=AddressAttribute.SOURCE, networks=tens))(subject)
    assert compile_addresses(AddressCondition(attribute=AddressAttribute.REMOTE, networks=twos))(subject)
    assert not compile_addresses(AddressCondition(attribute=AddressAttribute.DESTINATION, networks=tens))(subject)
    assert compile_addresses(AddressCondition(attribute=AddressAttribute.SOURCE, networks=twos, inverted=True))(subject)
    assert compile_ports(PortCondition(ports=(80, 81)))(subject)
    assert not compile_ports(PortCondition(ports=(80,), inverted=True))(subject)
    assert compile_condition(_when(Attribute.SNI, "a", inverted=True), refusing=False)(subject)
    named = Subject(peer, subject.head, server_name=b"a")
    assert compile_condition(_when(Attribute.SNI, "a"), refusing=False)(named)


# -- order, CUSTOM, what cannot be read --------------------------------------------------------------------------------


def test_deny_comes_before_allow_and_names_the_policy() -> None:
    table = PolicyTable([_policy(RequestAction.ALLOW, key="ns/a"), _policy(RequestAction.DENY, key="ns/d")])
    verdict = table.decide(_subject())
    assert verdict == Verdict(False, "ns/d", "rbac_access_denied_matched_policy[ns/d]")
    assert PolicyTable([]).empty
    assert PolicyTable([]).decide(_subject()).allowed
    nothing = PolicyTable([RequestPolicy(key="ns/none", action=RequestAction.ALLOW)])
    assert nothing.decide(_subject()).details == "rbac_access_denied_matched_policy[none]"


def test_custom_policies_ask_each_authorizer_once() -> None:
    judge = ExternalAuthorizer(name="judge", service="ns/judge", port=9000, grpc=True)
    get = _when(Attribute.METHOD, "GET")
    table = PolicyTable(
        [_policy(RequestAction.CUSTOM, get, key="a"), _policy(RequestAction.CUSTOM, key="b")], [judge]
    )
    assert table.asks
    assert table.to_ask(_subject()) == [judge]
    assert table.to_ask(_subject(method="PUT")) == [judge]
    assert PolicyTable([_policy(RequestAction.CUSTOM, get)], [judge]).to_ask(_subject(method="PUT")) == []
    dry = PolicyTable([_policy(RequestAction.CUSTOM, dry_run=True)], [judge])
    assert not dry.asks
    assert dry.decide(_subject()).reports[0].matched


def test_an_authorizer_that_is_not_configured_refuses() -> None:
    table = PolicyTable([_policy(RequestAction.CUSTOM)])
    verdict = table.to_ask(_subject())
    assert isinstance(verdict, Verdict)
    assert not verdict.allowed
    assert "not configured" in table.problems[0]


@pytest.mark.parametrize("action", [RequestAction.ALLOW, RequestAction.DENY])
def test_a_rule_that_cannot_be_read_opens_nothing(action: RequestAction) -> None:
    bad = Condition(attribute=Attribute.PATH, values=(TextMatch(TextMatchKind.REGEX, "("),))
    table = PolicyTable([_policy(action, bad)])
    assert not table.decide(_subject()).allowed
    assert len(table.problems) == 1


def test_expressions_of_policies_see_any_byte() -> None:
    condition = Condition(attribute=Attribute.PATH, values=(TextMatch(TextMatchKind.REGEX, "/admin/.*"),))
    head = RequestHead(method=b"GET", path=b"/admin/\xff\xfe", authority=b"echo")
    assert not PolicyTable([_policy(RequestAction.DENY, condition)]).decide(Subject(Peer(_client()), head)).allowed
