"""A request that external authorizers must consent to (``waypoint.exchange.decision.Wait``).

They are asked one after the other, each about the request as the one before has changed it; the first refusal answers
the client. What those who consent want said to the client is added to whatever it is answered in the end.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mesh.model.request_policy import ExternalAuthorizer
from waypoint.client import Client
from waypoint.exchange.decision import Answer, Decision, Forward, Resume, Wait, decided_by
from waypoint.exchange.facts import Facts
from waypoint.http.message import RequestHead, ResponseHead
from waypoint.security.external_authorization_codec import Consent, Refusal, ShownBody
from waypoint.security.external_authorizers import ExternalAuthorizers
from waypoint.upstream.inquiry import Inquiry


class ConsentWait:
    """One request's questions."""

    def __init__(
        self,
        authorizers: ExternalAuthorizers,
        wanted: Sequence[ExternalAuthorizer],
        head: RequestHead,
        client: Client,
        facts: Facts,
        go_on: Callable[[], Decision],
    ) -> None:
        """Prepare.

        Args:
            authorizers: the process's.
            wanted: who is asked, in this order; at least one.
            head: changed as they say.
            client: whose it is.
            facts: the request's.
            go_on: decides about a request that all have consented to.
        """
        self.body_bytes = max(each.max_body_bytes for each in wanted)
        self._authorizers = authorizers
        self._wanted = list(wanted)
        self._head = head
        self._client = client
        self._facts = facts
        self._go_on = go_on
        self._body = b""
        self._whole = False
        self._resume: Resume | None = None
        self._inquiry: Inquiry | None = None
        self._consents: list[Consent] = []

    def start(self, resume: Resume, body: bytes, *, whole: bool) -> None:
        """See :class:`Wait`."""
        self._resume = resume
        self._body = body
        self._whole = whole
        self._next()

    def cancel(self) -> None:
        """See :class:`Wait`."""
        self._resume = None
        if self._inquiry is not None:
            self._inquiry.cancel()
            self._inquiry = None

    def _next(self) -> None:
        if not self._wanted:
            self._end(self._admitted())
            return
        authorizer = self._wanted.pop(0)
        most = authorizer.max_body_bytes
        partial = bool(most) and (len(self._body) > most or not self._whole)
        if partial and not authorizer.allow_partial_body:
            self._end(Answer(413, [], b"payload too large", details="ext_authz_body_too_large"))
            return
        shown = ShownBody(data=self._body[:most], partial=partial)
        self._inquiry = None
        inquiry = self._authorizers.ask(
            authorizer, self._head, self._client, self._facts.version, shown, self._answered
        )
        # It may have been answered, and the next one asked, within the call.
        if inquiry is not None and not inquiry.over:
            self._inquiry = inquiry

    def _answered(self, answer: Consent | Refusal, failed: bool) -> None:
        self._inquiry = None
        if self._resume is None:
            return
        if isinstance(answer, Refusal):
            details = "ext_authz_error" if failed else "ext_authz_denied"
            self._end(Answer(answer.status, list(answer.headers), answer.body, flag="UAEX", details=details))
            return
        answer.apply(self._head.headers)
        if answer.changes_answer:
            self._consents.append(answer)
        self._next()

    def _admitted(self) -> Decision:
        decision = decided_by(self._go_on)
        return _told(decision, self._consents) if self._consents else decision

    def _end(self, decision: Decision) -> None:
        resume, self._resume = self._resume, None
        if resume is not None:
            resume(decision)


class _ToldWait:
    """Another wait, whose outcome is to be changed."""

    def __init__(self, wait: Wait, consents: list[Consent]) -> None:
        self.body_bytes = wait.body_bytes
        self._wait = wait
        self._consents = consents

    def start(self, resume: Resume, body: bytes, *, whole: bool) -> None:
        self._wait.start(lambda decision: resume(_told(decision, self._consents)), body, whole=whole)

    def cancel(self) -> None:
        self._wait.cancel()


def _told(decision: Decision, consents: list[Consent]) -> Decision:
    """The same decision, with what authorizers want said to the client."""
    if isinstance(decision, Answer):
        for consent in consents:
            consent.apply_to_answer(decision.headers)
    elif isinstance(decision, Forward):
        before = decision.on_response

        def change(head: ResponseHead) -> None:
            if before is not None:
                before(head)
            for consent in consents:
                consent.apply_to_answer(head.headers)

        decision.on_response = change
    else:
        return _ToldWait(decision, consents)
    return decision
