"""A mirror's call by itself: it takes no longer than it may, and its backend learns how it went."""

from __future__ import annotations

import pytest

from waypoint.exchange.decision import Mirror
from waypoint.exchange.mirror import send_mirrors
from waypoint.http.message import RequestHead
from waypoint.testing.exchanges import FixedBackend, Stage

HEAD = RequestHead(method=b"POST", path=b"/m", authority=b"h-shadow")


def test_a_body_with_trailers() -> None:
    stage = Stage()
    send_mirrors(stage.clock.timers, (Mirror(stage.backend, HEAD),), [b"ab", b"c"], [(b"x-t", b"1")])
    wire = stage.upstreams[0]
    assert wire.take().endswith(b"2\r\nab\r\n1\r\nc\r\n0\r\nx-t: 1\r\n\r\n")
    wire.feed(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
    assert stage.backend.outcomes == [("endpoint-0", 200, None)]
    stage.clock.advance(100)
    assert len(stage.backend.outcomes) == 1


@pytest.mark.parametrize("connected", [False, True])
def test_one_that_takes_too_long(connected: bool) -> None:
    stage = Stage()
    stage.connectors[0].at_once = connected
    send_mirrors(stage.clock.timers, (Mirror(stage.backend, HEAD, 5.0),), [], None)
    stage.clock.advance(6)
    assert stage.backend.outcomes == [("endpoint-0", 504, None)]
    assert stage.pools[0].active == 0


def test_failures_are_nobodys() -> None:
    stage = Stage()
    stage.connectors[0].refuse = True
    send_mirrors(stage.clock.timers, (Mirror(stage.backend, HEAD), Mirror(FixedBackend(), HEAD)), [], None)
    (outcome,) = stage.backend.outcomes
    assert outcome[2] is not None
