from __future__ import annotations

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from controlplane.kube import lease_driver, lease_machine
from controlplane.kube.lease_driver import Election
from controlplane.kube.lease_machine import GIVE_UP_SECONDS, LEASE_SECONDS, LeaseMachine, LeaseSpec, Read, Write
from resources.kube.client_driver import ApiClient
from resources.testing.api_server import ApiServer

LEASES = "coordination.k8s.io/leases"


class Store:
    """One Lease, with the API's precondition."""

    def __init__(self) -> None:
        self.spec: LeaseSpec | None = None
        self.version = 0

    def read(self) -> Read | None:
        return Read(self.spec, str(self.version)) if self.spec is not None else None

    def write(self, write: Write) -> bool:
        wanted = str(self.version) if self.spec is not None else ""
        if write.resource_version != wanted:
            return False
        self.spec, self.version = write.spec, self.version + 1
        return True


_TURNS = st.lists(
    st.tuples(
        st.sampled_from([0, 1, 2]),
        st.floats(0, 8),
        st.sampled_from(["turn", "turn", "turn", "away", "slow", "lost answer", "release"]),
    ),
    max_size=120,
)


@given(_TURNS)
def test_there_are_never_two(turns: list[tuple[int, float, str]]) -> None:
    store, now = Store(), 0.0
    replicas = [LeaseMachine(name) for name in "abc"]
    # Clocks of replicas have nothing to do with one another.
    offsets = (0.0, 1000.0, -50.0)
    pending: dict[int, tuple[float, Write]] = {}
    for number, passed, what in turns:
        now += passed
        assert sum(one.holds(now + offset) for one, offset in zip(replicas, offsets, strict=True)) <= 1
        replica, clock = replicas[number], now + offsets[number]
        if number in pending:
            # A write that was under way arrives only now.
            begun, late = pending.pop(number)
            if store.write(late):
                replica.written(begun)
            else:
                replica.lost()
            continue
        if what == "release":
            found = store.read()
            given_back = replica.release(found, "") if found is not None else None
            if given_back is not None:
                store.write(given_back)
            continue
        write = replica.decide(store.read(), clock, "") if what != "away" else None
        if write is None:
            continue
        if what == "slow":
            pending[number] = (clock, write)
        elif store.write(write) and what != "lost answer":
            replica.written(clock)


def test_a_lease_is_taken_when_it_has_not_changed_for_its_duration() -> None:
    store, first, second = Store(), LeaseMachine("a"), LeaseMachine("b")
    write = first.decide(store.read(), 0, "w")
    assert write is not None
    assert store.write(write)
    first.written(0)
    assert second.decide(store.read(), 5, "w") is None
    assert second.decide(store.read(), 5 + LEASE_SECONDS - 0.1, "w") is None
    taken = second.decide(store.read(), 5 + LEASE_SECONDS, "w")
    assert taken is not None
    assert taken.spec.holder_identity == "b"
    assert taken.spec.lease_transitions == 1
    assert first.holds(GIVE_UP_SECONDS - 0.1)
    assert not first.holds(GIVE_UP_SECONDS)


async def test_one_of_two_leads_and_the_other_takes_over(
    server: ApiServer, client: ApiClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease_driver, "RETRY_SECONDS", 0.05)
    first, second = Election(client, "m", "first"), Election(client, "m", "second")
    assert not first.leads
    async with trio.open_nursery() as nursery:
        with trio.fail_after(10):
            async with trio.open_nursery() as inner:
                inner.start_soon(first.run)
                await first.wait_until_leads()
                nursery.start_soon(second.run)
                with trio.move_on_after(0.3):
                    await second.wait_until_leads()
                assert not second.leads
                inner.cancel_scope.cancel()
            # Given back, so nobody waits it out.
            await second.wait_until_leads()
        lease = server.cluster.get((LEASES, "m", "ambimesh-operator"))
        assert lease["spec"]["holderIdentity"] == "second"
        nursery.cancel_scope.cancel()


async def test_who_cannot_write_leads_no_more(
    server: ApiServer, client: ApiClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease_driver, "RETRY_SECONDS", 0.05)
    monkeypatch.setattr(lease_driver, "LOOK_SECONDS", 0.02)
    monkeypatch.setattr(lease_machine, "GIVE_UP_SECONDS", 0.3)
    election = Election(client, "m", "only")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(election.run)
        with trio.fail_after(10):
            await election.wait_until_leads()
            server.faults.denied.add(LEASES)
            await election.wait_until_follows()
            server.faults.denied.clear()
            await election.wait_until_leads()
            broken = {"metadata": {"name": "ambimesh-operator", "namespace": "m"}, "spec": {"leaseTransitions": "x"}}
            server.cluster.put(LEASES, broken)
            await election.wait_until_follows()
        nursery.cancel_scope.cancel()
