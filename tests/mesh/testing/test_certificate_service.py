from __future__ import annotations

from datetime import timedelta

import pytest
import trio
from trio.testing import MockClock

from mesh.errors import IdentityUnavailable
from mesh.testing.ca import TestAuthority
from mesh.testing.certificate_service import InProcessCertificateService
from mesh.testing.clock import AdjustableClock


async def test_certificates_are_dated_by_the_given_clock(autojump_clock: MockClock) -> None:
    clock = AdjustableClock()
    authority = TestAuthority()
    service = InProcessCertificateService(authority, clock, timedelta(seconds=30))
    service.delay = 2.0
    identity = authority.identity("default", "a")
    credentials = await service.fetch(identity)
    assert trio.current_time() == pytest.approx(2.0)
    assert credentials.identity == identity
    # Certificates know whole seconds.
    assert credentials.not_after.timestamp() - clock.wall() == pytest.approx(30, abs=1)
    assert service.requests == [(0.0, identity)]


async def test_a_refusal_is_raised() -> None:
    authority = TestAuthority()
    service = InProcessCertificateService(authority, AdjustableClock())
    service.refusal = lambda identity: IdentityUnavailable("no")
    with pytest.raises(IdentityUnavailable, match="no"):
        await service.fetch(authority.identity("default", "a"))
    assert service.under_way == 0
