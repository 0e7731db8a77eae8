"""Spans' last step: a batch as a request of the waypoint's own to a collector's service."""

from __future__ import annotations

from typing import Final

import trio

from mesh.model.waypoint import SpanCollector
from waypoint.http.message import RequestHead
from waypoint.upstream.backend import Chooser, Place
from waypoint.upstream.inquiry import Inquiry, InquiryAnswer, Outcome
from waypoint.upstream.pool_contract import Unavailable
from waypoint.upstream.services import Services
from waypoint.wire.timers import Timers

POST_SECONDS: Final = 5.0
_MOST_ANSWER: Final = 64 * 1024


class CollectorClient:
    """Reaches collectors as requests reach services: balanced, pooled, through tunnels."""

    def __init__(self, services: Services, timers: Timers) -> None:
        self._services = services
        self._timers = timers

    async def post(self, collector: SpanCollector, body: bytes) -> int | str:
        """See ``waypoint.telemetry.otlp_driver.Post``."""
        backend = self._services.backend(Place(collector.service, collector.port), {}, http2=False)
        if isinstance(backend, Unavailable):
            return backend.text
        hostname = collector.service.partition("/")[2]
        head = RequestHead(
            method=b"POST",
            path=collector.path.encode(),
            authority=f"{hostname}:{collector.port}".encode(),
            headers=[
                (b"content-type", b"application/x-protobuf"),
                (b"content-length", b"%d" % len(body)),
                (b"user-agent", b"ambimesh-waypoint"),
            ],
        )
        told: list[Outcome] = []
        done = trio.Event()

        def report(outcome: Outcome) -> None:
            told.append(outcome)
            done.set()

        inquiry = Inquiry(
            self._timers, Chooser(backend), head, body, report, timeout=POST_SECONDS, max_body=_MOST_ANSWER
        )
        inquiry.start()
        try:
            await done.wait()
        finally:
            inquiry.cancel()
        [outcome] = told
        return outcome.status if isinstance(outcome, InquiryAnswer) else outcome
