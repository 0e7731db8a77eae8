from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest
import trio
from trio.testing import MockClock

from mesh.certificates.manager import CertificateState, IdentityManager, IdentitySettings
from mesh.errors import CertificateServiceAway, IdentityUnavailable, InternalError, MeshError
from mesh.identity import SpiffeId
from mesh.testing.ca import TestAuthority
from mesh.testing.certificate_service import InProcessCertificateService
from mesh.testing.clock import AdjustableClock
from mesh.tls.credentials import Credentials

authority = TestAuthority()
A = authority.identity("default", "a")
B = authority.identity("default", "b")
DAY = 24 * 3600.0
DEFAULTS = IdentitySettings()


class World:
    """A manager over an in-process certificate service."""

    def __init__(self, lifetime: timedelta, settings: IdentitySettings) -> None:
        self.clock = AdjustableClock()
        self.service = InProcessCertificateService(authority, self.clock, lifetime)
        self.manager = IdentityManager(self.service, self.clock, lambda: 0.5, settings)

    def refuse(self, *identities: SpiffeId) -> None:
        self.service.refusal = lambda identity: (
            IdentityUnavailable(f"no pod of {identity} here") if identity in identities else None
        )

    def times(self, identity: SpiffeId) -> list[float]:
        return [time for time, who in self.service.requests if who == identity]

    def state(self, identity: SpiffeId) -> CertificateState | None:
        return {report.identity: report.state for report in self.manager.report()}.get(identity)


@asynccontextmanager
async def world(
    lifetime: timedelta = timedelta(hours=24), settings: IdentitySettings = DEFAULTS
) -> AsyncIterator[World]:
    made = World(lifetime, settings)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(made.manager.run)
        yield made
        nursery.cancel_scope.cancel()


async def test_get_fetches_once_for_all_who_wait(autojump_clock: MockClock) -> None:
    async with world() as w:
        w.service.delay = 1.0
        got: list[Credentials] = []

        async def ask() -> None:
            got.append(await w.manager.get(A))

        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(ask)
        assert len({id(credentials) for credentials in got}) == 1
        assert got[0].identity == A
        assert w.manager.cached(A) is got[0]
        assert await w.manager.get(A) is got[0]
        assert len(w.service.requests) == 1


async def test_prefetched_identities_are_ready_and_renewed_at_half_life(autojump_clock: MockClock) -> None:
    async with world() as w:
        w.manager.prefetch(A)
        assert w.state(A) is CertificateState.INITIALIZING
        await trio.sleep(1)
        first = w.manager.cached(A)
        assert first is not None
        rotated: list[Credentials] = []
        w.manager.subscribe(rotated.append)
        await trio.sleep(DAY / 2 - 10)
        assert w.manager.cached(A) is first
        await trio.sleep(20)
        assert rotated
        assert w.manager.cached(A) is rotated[-1] is not first
        assert rotated[-1].serial != first.serial


async def test_short_lives_are_renewed_in_time_again_and_again(autojump_clock: MockClock) -> None:
    async with world(timedelta(seconds=20)) as w:
        w.manager.prefetch(A)
        await trio.sleep(1)
        for _ in range(1000):
            assert w.manager.cached(A) is not None
            await trio.sleep(0.5)
        assert len(w.times(A)) == pytest.approx(500 / 10, abs=2)


async def test_a_certificate_that_expired_during_suspend_is_noticed(autojump_clock: MockClock) -> None:
    async with world() as w:
        w.manager.prefetch(A)
        await trio.sleep(1)
        w.clock.step(3 * DAY)
        assert w.manager.cached(A) is None
        assert w.state(A) is CertificateState.UNAVAILABLE
        await trio.sleep(6)
        assert w.manager.cached(A) is not None


async def test_get_after_suspend_does_not_hand_out_the_expired_one(autojump_clock: MockClock) -> None:
    async with world() as w:
        w.manager.prefetch(A)
        await trio.sleep(1)
        w.clock.step(3 * DAY)
        credentials = await w.manager.get(A)
        assert credentials.not_after.timestamp() > w.clock.wall()


async def test_failed_renewal_keeps_the_valid_certificate_until_it_expires(autojump_clock: MockClock) -> None:
    async with world(timedelta(seconds=1000)) as w:
        w.manager.prefetch(A)
        await trio.sleep(1)
        first = w.manager.cached(A)
        w.refuse(A)
        await trio.sleep(990)
        assert w.manager.cached(A) is first
        (report,) = w.manager.report()
        assert report.state is CertificateState.AVAILABLE
        assert report.error is not None
        assert "no pod of" in report.error
        await trio.sleep(20)
        assert w.manager.cached(A) is None
        assert w.state(A) is CertificateState.UNAVAILABLE
        w.refuse()
        await trio.sleep(151)
        assert w.state(A) is CertificateState.AVAILABLE


async def test_backoff_grows_to_its_bound_and_is_per_identity(autojump_clock: MockClock) -> None:
    async with world() as w:
        w.refuse(A)
        w.manager.prefetch(A)
        w.manager.prefetch(B)
        await trio.sleep(2000)
        gaps = [later - earlier for earlier, later in zip(w.times(A), w.times(A)[1:], strict=False)]
        assert gaps[:3] == pytest.approx([0.375, 0.75, 1.5], abs=0.01)
        assert max(gaps) == pytest.approx(150 * 0.75, abs=0.01)
        assert len(w.times(B)) == 1


async def test_a_service_that_is_away_is_asked_again_soon(autojump_clock: MockClock) -> None:
    async with world() as w:
        w.service.refusal = lambda identity: CertificateServiceAway("nobody there")
        w.manager.prefetch(A)
        await trio.sleep(2000)
        gaps = [later - earlier for earlier, later in zip(w.times(A), w.times(A)[1:], strict=False)]
        assert gaps[:3] == pytest.approx([0.375, 0.75, 1.5], abs=0.01)
        assert max(gaps) == pytest.approx(15 * 0.75, abs=0.01)


async def test_a_service_that_does_not_answer_is_asked_again_soon(autojump_clock: MockClock) -> None:
    async with world() as w:
        w.service.delay = 3600.0
        w.manager.prefetch(A)
        await trio.sleep(2000)
        gaps = [later - earlier for earlier, later in zip(w.times(A), w.times(A)[1:], strict=False)]
        assert max(gaps) == pytest.approx(DEFAULTS.attempt_seconds + 15 * 0.75, abs=0.01)


async def test_a_connection_outlives_the_first_failures(autojump_clock: MockClock) -> None:
    async with world() as w:
        w.refuse(A)
        w.manager.prefetch(A)
        await trio.sleep(0.1)

        async def back() -> None:
            await trio.sleep(2)
            w.refuse()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(back)
            assert (await w.manager.get(A)).identity == A
        # The waits stay what they are without a connection: 0.375, 0.75, 1.5.
        assert trio.current_time() == pytest.approx(2.625, abs=0.01)
        assert len(w.times(A)) == 4


@pytest.mark.parametrize("served", [True, False], ids=["of a workload", "of none"])
async def test_all_are_refused_at_once_when_it_has_failed_for_long(autojump_clock: MockClock, served: bool) -> None:
    async with world() as w:
        w.refuse(A)
        if served:
            w.manager.prefetch(A)
        with pytest.raises(IdentityUnavailable, match=r"no pod of .* \(next attempt in 3.0 s\)"):
            await w.manager.get(A)
        assert trio.current_time() == pytest.approx(2.625, abs=0.01)
        assert len(w.times(A)) == 4
        if served:
            await trio.sleep(60)
            before = trio.current_time()
            with pytest.raises(IdentityUnavailable, match="next attempt in"):
                await w.manager.get(A)
            assert trio.current_time() == before


async def test_after_a_success_there_is_patience_again(autojump_clock: MockClock) -> None:
    async with world(timedelta(seconds=1000)) as w:
        w.manager.prefetch(A)
        w.refuse(A)
        await trio.sleep(300)
        w.refuse()
        await trio.sleep(200)
        assert w.manager.cached(A) is not None
        w.refuse(A)
        w.clock.step(2000)
        async with trio.open_nursery() as nursery:

            async def back() -> None:
                await trio.sleep(1)
                w.refuse()

            nursery.start_soon(back)
            assert (await w.manager.get(A)).identity == A


async def test_get_fails_at_once_with_the_last_reason_during_backoff(autojump_clock: MockClock) -> None:
    async with world(settings=IdentitySettings(patience_seconds=0)) as w:
        w.refuse(A)
        with pytest.raises(IdentityUnavailable, match="no pod of"):
            await w.manager.get(A)
        before = trio.current_time()
        with pytest.raises(IdentityUnavailable, match="next attempt in"):
            await w.manager.get(A)
        assert trio.current_time() == before
        assert len(w.times(A)) == 1
        w.refuse()
        await trio.sleep(0.5)
        assert (await w.manager.get(A)).identity == A


async def test_waiting_connections_go_before_warm_up(autojump_clock: MockClock) -> None:
    async with world(settings=IdentitySettings(concurrency=1)) as w:
        w.service.delay = 1.0
        others = [authority.identity("default", f"other{number}") for number in range(10)]
        for other in others:
            w.manager.prefetch(other)
        w.manager.prefetch(A)
        await trio.sleep(0.5)
        await w.manager.get(A)
        assert trio.current_time() == pytest.approx(2.0)
        assert [who for _, who in w.service.requests][1] == A
        await trio.sleep(60)
        assert all(w.manager.cached(other) for other in others)
        assert len(w.service.requests) == 11


async def test_requests_under_way_are_limited(autojump_clock: MockClock) -> None:
    async with world(settings=IdentitySettings(concurrency=3)) as w:
        w.service.delay = 1.0
        for number in range(10):
            w.manager.prefetch(authority.identity("default", f"other{number}"))
        await trio.sleep(20)
        assert w.service.most_under_way == 3
        assert len(w.service.requests) == 10


async def test_an_attempt_without_answer_ends(autojump_clock: MockClock) -> None:
    async with world(settings=IdentitySettings(patience_seconds=0)) as w:
        w.service.delay = 1e9
        before = trio.current_time()
        with pytest.raises(IdentityUnavailable, match="not answered"):
            await w.manager.get(A)
        assert trio.current_time() - before == pytest.approx(60)
        assert w.service.under_way == 0


async def test_the_last_forget_drops_the_credentials(autojump_clock: MockClock) -> None:
    async with world() as w:
        w.manager.prefetch(A)
        w.manager.prefetch(A)
        await trio.sleep(1)
        w.manager.forget(A)
        assert w.manager.cached(A) is not None
        w.manager.forget(A)
        assert w.manager.cached(A) is None
        assert w.manager.report() == []
        await trio.sleep(DAY)
        assert len(w.service.requests) == 1
        with pytest.raises(InternalError):
            w.manager.forget(A)


async def test_forgotten_while_queued_is_never_asked_for(autojump_clock: MockClock) -> None:
    async with world(settings=IdentitySettings(concurrency=1)) as w:
        w.service.delay = 1.0
        w.manager.prefetch(B)
        w.manager.prefetch(A)
        await trio.sleep(0.5)
        w.manager.forget(A)
        await trio.sleep(100)
        assert w.times(A) == []


async def test_who_waits_is_served_even_when_the_workload_goes_meanwhile(autojump_clock: MockClock) -> None:
    async with world() as w:
        w.service.delay = 1.0
        w.manager.prefetch(A)

        async def leave() -> None:
            await trio.sleep(0.5)
            w.manager.forget(A)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(leave)
            assert (await w.manager.get(A)).identity == A
        assert w.manager.cached(A) is None


async def test_an_unreferenced_identity_is_neither_renewed_nor_kept_for_ever(autojump_clock: MockClock) -> None:
    async with world(timedelta(seconds=100)) as w:
        await w.manager.get(A)
        await trio.sleep(90)
        assert w.manager.cached(A) is not None
        await trio.sleep(20)
        assert w.manager.report() == []
        assert len(w.service.requests) == 1


async def test_a_bug_met_with_one_identity_leaves_the_others_alone(autojump_clock: MockClock) -> None:
    async with world() as w:

        def refusal(identity: SpiffeId) -> MeshError | None:
            if identity == A:
                raise ZeroDivisionError
            return None

        w.service.refusal = refusal
        with pytest.raises(IdentityUnavailable, match="ZeroDivisionError"):
            await w.manager.get(A)
        assert (await w.manager.get(B)).identity == B


async def test_unsubscribed_are_not_told(autojump_clock: MockClock) -> None:
    async with world() as w:
        seen: list[SpiffeId] = []
        stop = w.manager.subscribe(lambda credentials: seen.append(credentials.identity))
        await w.manager.get(A)
        stop()
        stop()
        await w.manager.get(B)
        assert seen == [A]


async def test_the_report_shows_validity(autojump_clock: MockClock) -> None:
    async with world() as w:
        w.refuse(B)
        w.manager.prefetch(B)
        w.manager.prefetch(A)
        await trio.sleep(1)
        a, b = w.manager.report()
        assert (a.identity, b.identity) == (A, B)
        assert a.credentials is w.manager.cached(A)
        assert a.renew_at is not None
        assert a.credentials is not None
        assert a.credentials.not_before < a.renew_at < a.credentials.not_after
        assert b.state is CertificateState.UNAVAILABLE
        assert b.credentials is None
        assert b.error is not None
