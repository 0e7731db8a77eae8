"""Who may make a request, and what is left of a policy where there are no requests."""

from __future__ import annotations

from typing import Any

from mesh.model.request_policy import (
    Attribute,
    ExternalAuthorizer,
    JwtRule,
    RequestAction,
    RequestAuthentication,
    RequestClause,
    RequestRule,
)
from mesh.model.waypoint import Destination
from waypoint.consenting import ConsentWait
from waypoint.exchange.decision import Answer, Decision, Forward
from waypoint.exchange.facts import Facts
from waypoint.guarding import Guard, for_streams
from waypoint.http.message import RequestHead
from waypoint.security.key_store_driver import KeyStore
from waypoint.security.subject import Peer
from waypoint.testing.exchanges import CLIENT, FixedBackend
from waypoint.testing.policies import condition, policy_of

PASSED = Forward(FixedBackend())


class Tasks:
    """Notes what is started."""

    def __init__(self) -> None:
        self.started: list[tuple[Any, ...]] = []

    def start(self, *task: Any) -> None:
        self.started.append(task)


def guard(tasks: Tasks | None = None, keys: KeyStore | None = None, **fields: Any) -> Guard:
    made: Any = tasks or Tasks()
    destination = Destination(key="demo/web", waypoint="demo/waypoint", **fields)
    nobody: Any = None
    return Guard(destination, keys or KeyStore(), nobody, made)


def check(guarding: Guard, method: bytes = b"GET", *headers: tuple[bytes, bytes]) -> Decision:
    head = RequestHead(method=method, path=b"/", authority=b"web", headers=list(headers))
    return guarding.check(head, Peer(CLIENT), Facts(head, CLIENT, "1.1", 0.0), lambda: PASSED)


GET = condition(Attribute.METHOD, "GET")


def status_of(decision: Decision) -> int:
    assert isinstance(decision, Answer)
    return decision.status


async def test_policies_are_asked_per_request() -> None:
    assert guard().open
    only_get = guard(policies=(policy_of(RequestAction.ALLOW, GET),))
    assert not only_get.open
    assert check(only_get) is PASSED
    assert status_of(check(only_get, b"POST")) == 403
    assert status_of(check(guard(policies=(policy_of(RequestAction.DENY, GET),)))) == 403


async def test_who_is_to_be_asked_is_waited_for() -> None:
    authorizer = ExternalAuthorizer(name="a", service="demo/a", port=9000, grpc=True, max_body_bytes=7)
    custom = policy_of(RequestAction.CUSTOM, GET, authorizer="a")
    guarding = guard(policies=(custom,), authorizers=(authorizer,))
    decision = check(guarding)
    assert isinstance(decision, ConsentWait)
    assert decision.body_bytes == 7
    assert check(guarding, b"POST") is PASSED
    assert status_of(check(guard(policies=(custom,)))) == 403, "nobody of that name"


async def test_tokens_are_judged_and_missing_keys_waited_for() -> None:
    tasks = Tasks()
    rule = JwtRule(issuer="https://issuer", jwks_uri="https://issuer/keys")
    guarding = guard(tasks, authentication=(RequestAuthentication(key="demo/jwt", rules=(rule,)),))
    assert check(guarding) is PASSED
    refused = check(guarding, b"GET", (b"authorization", b"Bearer nonsense"))
    assert status_of(refused) == 401
    assert isinstance(refused, Answer)
    assert refused.headers[0][0] == b"www-authenticate"
    # {"alg":"RS256"} . {"iss":"https://issuer"}: well-formed, by an issuer whose keys are not here yet.
    token = b"Bearer eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJodHRwczovL2lzc3VlciJ9.c2ln"
    waits: Any = check(guarding, b"GET", (b"authorization", token))
    assert not isinstance(waits, Answer | Forward)
    answers: list[Decision] = []
    waits.start(answers.append, b"", whole=True)
    assert len(tasks.started) == 1

    class NoKeys:
        async def wait(self, _wanted: object) -> bool:
            return False

    await waits.run(NoKeys())
    assert [status_of(answer) for answer in answers] == [401]
    waits.start(answers.append, b"", whole=True)
    waits.cancel()
    await waits.run(NoKeys())
    assert len(answers) == 1


async def test_connections_without_requests_are_judged_by_what_is_known_of_them() -> None:
    namespace = condition(Attribute.NAMESPACE, "demo")
    allow, deny = policy_of(RequestAction.ALLOW, GET, namespace), policy_of(RequestAction.DENY, GET, namespace)
    assert for_streams(allow).rules == ()
    assert for_streams(deny).rules == (RequestRule(((RequestClause(conditions=(namespace,)),),)),)
    peer = Peer(CLIENT)
    assert guard().refuses_stream(peer) is None
    assert guard(policies=(policy_of(RequestAction.ALLOW, GET),)).refuses_stream(peer) is not None
    assert guard(policies=(policy_of(RequestAction.DENY, GET),)).refuses_stream(peer) is not None
    assert guard(policies=(policy_of(RequestAction.DENY, namespace),)).refuses_stream(peer) is None
