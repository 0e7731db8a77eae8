"""Asking external authorizers.

Theory of operation. An authorizer is a service like any other: a question to it takes the way that requests take, over
pools of kept connections to its ready endpoints, through their tunnels if they are in the mesh. So what is true of
requests is true of questions: as many at a time as the pools' limits allow, an endpoint that has gone is not asked, one
that is dialled in vain costs the question and not the waypoint. The gRPC form is one unary call on HTTP/2.

A question that is not answered in time, or not properly, counts as the authorizer's failure: ``fail_open`` decides, and
otherwise ``status_on_error`` is the client's answer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeAlias

import structlog
from prometheus_client import CollectorRegistry, Counter

from mesh.errors import InvalidMessage
from mesh.identity import SpiffeId
from mesh.model.request_policy import ExternalAuthorizer
from mesh.model.upstream_policy import ConnectionPool, TrafficPolicy, UpstreamPolicy
from waypoint.client import Client
from waypoint.http.message import RequestHead, first
from waypoint.security.external_authorization_codec import (
    MAX_ANSWER_BYTES,
    METHOD,
    Consent,
    Refusal,
    ShownBody,
    decode_check,
    decode_http_check,
    encode_check,
    encode_http_check,
)
from waypoint.telemetry.record import HttpVersion
from waypoint.upstream.backend import Backends, Chooser, Place
from waypoint.upstream.inquiry import Inquiry, Outcome
from waypoint.upstream.pool_contract import Unavailable
from waypoint.wire.timers import Timers

_log = structlog.get_logger("authorization")

_LOG_SECONDS: Final = 5.0
"""Between two lines about one authorizer's failures."""
_FRAME: Final = 5
"""Bytes before a gRPC message: whether it is compressed, and its length."""
_GRPC = TrafficPolicy(pool=ConnectionPool(upgrade_to_http2=True))

Answered: TypeAlias = Callable[[Consent | Refusal, bool], None]
"""Told the answer, and whether it stands for one that has not come (the authorizer's failure)."""


class ExternalAuthorizers:
    """All authorizers that a waypoint asks."""

    def __init__(
        self, timers: Timers, backends: Backends, identity: SpiffeId | None, registry: CollectorRegistry
    ) -> None:
        """Prepare.

        Args:
            timers: the process's.
            backends: where authorizers are.
            identity: the waypoint's own; authorizers are told it as the destination's.
            registry: the process's.
        """
        self._timers = timers
        self._backends = backends
        self._identity = identity
        self._counter = Counter(
            "ambimesh_waypoint_authorizer_answers",
            "What external authorizers have said about requests: allowed, denied, failed (no proper answer in time).",
            ("authorizer", "answer"),
            registry=registry,
        )
        self._logged: dict[str, float] = {}
        self._unlogged: dict[str, int] = {}

    def ask(
        self,
        authorizer: ExternalAuthorizer,
        head: RequestHead,
        client: Client,
        version: str,
        body: ShownBody,
        answered: Answered,
    ) -> Inquiry | None:
        """Ask about one request.

        Args:
            authorizer: who is asked; takes ``timeout_seconds`` at most.
            head: the request's.
            client: whose it is.
            version: the client's, ``1.0``, ``1.1`` or ``2``.
            body: what is shown of the request's.
            answered: told once, maybe before this returns.

        Returns:
            What can be cancelled; None if all was over at once.
        """

        def report(outcome: Outcome) -> None:
            answer, error = read_answer(authorizer, outcome)
            if answer is None:
                self._failed(authorizer, error)
                answer = Consent() if authorizer.fail_open else Refusal(status=authorizer.status_on_error)
                answered(answer, True)
                return
            said = "allowed" if isinstance(answer, Consent) else "denied"
            self._counter.labels(authorizer.name, said).inc()
            answered(answer, False)

        policies = {authorizer.service: UpstreamPolicy(service=authorizer.service, policy=_GRPC)}
        place = Place(authorizer.service, authorizer.port)
        backend = self._backends.backend(place, policies if authorizer.grpc else {}, http2=authorizer.grpc)
        if isinstance(backend, Unavailable):
            report(backend.text)
            return None
        if authorizer.grpc:
            request_id = first(head.headers, b"x-request-id") or b""
            spoken = HttpVersion(f"HTTP/{version}")
            message = encode_check(head, client, self._identity, spoken, request_id, authorizer, body)
            data = b"\0" + len(message).to_bytes(4) + message
            question = _grpc_head(authorizer, len(data))
        else:
            data = body.data
            question = encode_http_check(head, authorizer, body)
        inquiry = Inquiry(
            self._timers,
            Chooser(backend),
            question,
            data,
            report,
            timeout=authorizer.timeout_seconds,
            max_body=MAX_ANSWER_BYTES,
        )
        inquiry.start()
        return inquiry

    def _failed(self, authorizer: ExternalAuthorizer, error: str) -> None:
        name, now = authorizer.name, self._timers.clock()
        self._counter.labels(name, "failed").inc()
        if now - self._logged.get(name, float("-inf")) < _LOG_SECONDS:
            self._unlogged[name] = self._unlogged.get(name, 0) + 1
            return
        self._logged[name] = now
        _log.warning(
            "authorizer has failed",
            authorizer=name,
            service=authorizer.service,
            error=error,
            admitted=authorizer.fail_open,
            not_logged=self._unlogged.pop(name, 0),
        )


def _grpc_head(authorizer: ExternalAuthorizer, length: int) -> RequestHead:
    hostname = authorizer.service.partition("/")[2]
    milliseconds = max(1, int(authorizer.timeout_seconds * 1000))
    headers = [
        (b"content-type", b"application/grpc"),
        (b"te", b"trailers"),
        # At most eight digits, by the protocol.
        (b"grpc-timeout", b"%dm" % min(milliseconds, 99_999_999)),
        (b"content-length", b"%d" % length),
    ]
    return RequestHead(method=b"POST", path=METHOD, authority=f"{hostname}:{authorizer.port}".encode(), headers=headers)


def read_answer(authorizer: ExternalAuthorizer, outcome: Outcome) -> tuple[Consent | Refusal | None, str]:
    """The answer, or None and why there is none."""
    if isinstance(outcome, str):
        return None, outcome
    if not authorizer.grpc:
        answer = decode_http_check(outcome.status, outcome.headers, outcome.body, authorizer)
        return answer, "" if answer is not None else f"it answers {outcome.status}"
    if outcome.status != 200:
        return None, f"it answers {outcome.status} to a gRPC call"
    status = first(outcome.trailers, b"grpc-status") or first(outcome.headers, b"grpc-status")
    if status != b"0":
        message = first(outcome.trailers, b"grpc-message") or first(outcome.headers, b"grpc-message") or b""
        return None, f"gRPC status {(status or b'missing')[:16]!r}, {message[:128]!r}"
    body = outcome.body
    if len(body) < _FRAME or body[0] or int.from_bytes(body[1:_FRAME]) != len(body) - _FRAME:
        return None, "its answer is not one plain gRPC message"
    try:
        return decode_check(body[_FRAME:]), ""
    except InvalidMessage as error:
        return None, str(error)
