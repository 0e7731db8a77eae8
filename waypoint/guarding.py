"""Who may make a request: tokens, then policies, and whoever has to be asked.

Nearly every request is decided at once. What must wait (keys that have to be fetched, external authorizers) is a
:class:`Wait`, and the exchange holds the client's body back until it ends.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Final

import structlog

from mesh.clock import SystemClock
from mesh.model.request_policy import Attribute, RequestAction, RequestClause, RequestPolicy, RequestRule
from mesh.model.waypoint import Destination
from mesh.relay.owned_tasks import OwnedTasks
from waypoint.consenting import ConsentWait
from waypoint.exchange.decision import Answer, Decision, Resume, decided_by
from waypoint.exchange.facts import Facts
from waypoint.http.message import RequestHead
from waypoint.security.authorization import PolicyTable, Verdict
from waypoint.security.external_authorizers import ExternalAuthorizers
from waypoint.security.key_store_driver import KeyStore
from waypoint.security.subject import Peer, Subject, VerifiedToken
from waypoint.security.tokens import KeysWanted, TokenRefused, TokenVerifier

_log = structlog.get_logger("authorization")

Continue = Callable[[], Decision]
"""What happens to a request once it is admitted."""


class Guard:
    """One destination's tokens and policies."""

    def __init__(
        self, value: Destination, keys: KeyStore, authorizers: ExternalAuthorizers, tasks: OwnedTasks
    ) -> None:
        """Compile.

        Raises:
            ConfigurationError: a header that cannot be one.
        """
        self._key = value.key
        self._policies = PolicyTable(value.policies, value.authorizers)
        self._streams = PolicyTable(map(for_streams, value.policies), value.authorizers)
        self._tokens = TokenVerifier(value.authentication, keys.keys)
        self._keys = keys
        self._authorizers = authorizers
        self._tasks = tasks
        self._wall = SystemClock().wall
        self.problems = (*self._policies.problems, *self._tokens.problems)
        keys.want(self._tokens.uris())

    @property
    def open(self) -> bool:
        """Whether every request is admitted, so that nothing need be looked at."""
        return self._policies.empty and self._tokens.empty

    def refuses_stream(self, peer: Peer) -> str | None:
        """Why a connection that is no HTTP may not be; None if it may.

        What policies say about requests cannot be looked at, so they are read as ztunnels read them
        (``controlplane.translate.policies``): an ALLOW rule that asks for it grants nothing, any other rule is judged
        by the rest of what it says.
        """
        if self._streams.empty:
            return None
        subject = Subject(peer, RequestHead(method=b"", path=b"", authority=b""))
        asked = self._streams.to_ask(subject)
        if asked:
            return "an external authorizer would have to be asked, which only requests can be"
        verdict = self._streams.decide(subject)
        return None if verdict.allowed else verdict.details

    def check(self, head: RequestHead, peer: Peer, facts: Facts, go_on: Continue) -> Decision:
        """Judge one request.

        Args:
            head: its path normalised; changed as token rules say.
            peer: whose it is.
            facts: noted there: who the token is of.
            go_on: makes the decision about an admitted request.
        """
        token: VerifiedToken | None = None
        if not self._tokens.empty:
            judged = self._tokens.verify(head, self._wall())
            if isinstance(judged, KeysWanted):
                return _KeyWait(self, judged, head, peer, facts, go_on)
            if isinstance(judged, TokenRefused):
                return _unauthorized(judged)
            token = judged
            if token is not None and token.principal is not None:
                facts.request_principal = token.principal.decode()
        policies = self._policies
        if policies.empty:
            return go_on()
        if policies.asks:
            wanted = policies.to_ask(Subject(peer, head, token))
            if isinstance(wanted, Verdict):
                return _forbidden(wanted)
            if wanted:
                admit = partial(self._decide, head, peer, token, go_on)
                return ConsentWait(self._authorizers, wanted, head, facts.client, facts, admit)
        return self._decide(head, peer, token, go_on)

    def _decide(self, head: RequestHead, peer: Peer, token: VerifiedToken | None, go_on: Continue) -> Decision:
        verdict = self._policies.decide(Subject(peer, head, token))
        for report in verdict.reports:
            if report.matched:
                _log.info(
                    "policy matched", policy=report.policy, action=report.action.value, dry_run=report.dry_run,
                    destination=self._key,
                )
        return go_on() if verdict.allowed else _forbidden(verdict)

    def start(self, wait: _KeyWait) -> None:
        """Run what waits."""
        self._tasks.start(wait.run, self._keys)


_OF_CONNECTIONS: Final = frozenset(
    {Attribute.PRINCIPAL, Attribute.NAMESPACE, Attribute.SERVICE_ACCOUNT, Attribute.TRUST_DOMAIN, Attribute.SNI}
)


def for_streams(policy: RequestPolicy) -> RequestPolicy:
    """A policy with what can be said of connections that are no requests."""
    allows = policy.action is RequestAction.ALLOW
    rules = []
    for rule in policy.rules:
        if allows and any(_asks_for_request(clause) for part in rule.parts for clause in part):
            continue
        parts = tuple(tuple(_of_connection(clause) for clause in part) for part in rule.parts)
        rules.append(RequestRule(parts))
    return replace(policy, rules=tuple(rules))


def _asks_for_request(clause: RequestClause) -> bool:
    return any(condition.attribute not in _OF_CONNECTIONS for condition in clause.conditions)


def _of_connection(clause: RequestClause) -> RequestClause:
    kept = tuple(condition for condition in clause.conditions if condition.attribute in _OF_CONNECTIONS)
    return replace(clause, conditions=kept)


class _KeyWait:
    """A token whose key must be fetched first (``waypoint.exchange.decision.Wait``)."""

    body_bytes = 0

    def __init__(
        self, guard: Guard, wanted: KeysWanted, head: RequestHead, peer: Peer, facts: Facts, go_on: Continue
    ) -> None:
        self._guard = guard
        self._wanted = wanted
        self._arguments = (head, peer, facts, go_on)
        self._resume: Resume | None = None

    def start(self, resume: Resume, body: bytes, *, whole: bool) -> None:
        self._resume = resume
        self._guard.start(self)

    def cancel(self) -> None:
        self._resume = None

    async def run(self, keys: KeyStore) -> None:
        found = await keys.wait(self._wanted)
        resume, self._resume = self._resume, None
        if resume is None:
            return
        decision = decided_by(partial(self._guard.check, *self._arguments)) if found else None
        if decision is None or isinstance(decision, _KeyWait):
            # No keys, or still not this one: whoever made the token is not known here.
            decision = _unauthorized(TokenRefused("Jwks doesn't have key to match kid or alg from Jwt"))
        resume(decision)


def _unauthorized(refused: TokenRefused) -> Answer:
    text = refused.reason.encode()
    challenge = b'Bearer error="invalid_token"'
    return Answer(401, [(b"www-authenticate", challenge)], text, details="jwt_authn_access_denied")


def _forbidden(verdict: Verdict) -> Answer:
    return Answer(403, [], b"RBAC: access denied", flag="", details=verdict.details)
