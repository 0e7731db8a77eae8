from __future__ import annotations

import sys
from types import FrameType

import pytest
import trio
from trio.testing import MockClock

from mesh.addresses import parse_ip
from mesh.errors import UnknownWorkload
from mesh.model.policy import Match, Policy, PolicyScope
from mesh.model.service import Service
from mesh.model.workload import Workload
from mesh.state.store import NOT_RECEIVED, Changes, MeshState
from mesh.testing.model import make_policy, make_service, make_workload
from mesh.xds.codec import ADDRESS_TYPE, AUTHORIZATION_TYPE, encode_address, encode_authorization
from mesh.xds.discovery_codec import Resource

PORT = Match(destination_ports=(80,))


def resource(value: Workload | Service | Policy) -> Resource:
    if isinstance(value, Policy):
        return Resource(value.key, "1", (), encode_authorization(value))
    name = value.uid if isinstance(value, Workload) else value.key
    return Resource(name, "1", (), encode_address(value))


def addresses(state: MeshState, *values: Workload | Service, removed: tuple[str, ...] = ()) -> None:
    assert state.apply(ADDRESS_TYPE, [resource(value) for value in values], list(removed)) == []
    state.applied(ADDRESS_TYPE)


def policies(state: MeshState, *values: Policy, removed: tuple[str, ...] = ()) -> None:
    assert state.apply(AUTHORIZATION_TYPE, [resource(value) for value in values], list(removed)) == []
    state.applied(AUTHORIZATION_TYPE)


def test_resources_arrive_and_leave() -> None:
    state = MeshState("node1")
    workload = make_workload("a", "10.0.0.1", services={"default/web": {80: 1}})
    service = make_service("web", "10.96.0.1")
    addresses(state, workload, service)
    assert state.workload_at("", parse_ip("10.0.0.1")) == workload
    view = state.service_at("", parse_ip("10.96.0.1"))
    assert view is not None
    assert view.service == service
    addresses(state, removed=(workload.uid, service.key, "unknown"))
    assert state.workload_at("", parse_ip("10.0.0.1")) is None
    assert state.service_at("", parse_ip("10.96.0.1")) is None


def test_one_bad_resource_spoils_neither_the_others_nor_its_own_last_version() -> None:
    state = MeshState("node1")
    good = make_workload("a", "10.0.0.1")
    addresses(state, good)
    other = make_workload("b", "10.0.0.2")
    rejected = state.apply(
        ADDRESS_TYPE,
        [
            Resource(good.uid, "2", (), b"\xff\xff"),
            Resource("wrong/name", "1", (), encode_address(make_workload("c", "10.0.0.3"))),
            Resource("wrong/service", "1", (), encode_address(make_service("s", "10.96.0.9"))),
            resource(other),
        ],
        [],
    )
    assert [r.name for r in rejected] == [good.uid, "wrong/name", "wrong/service"]
    assert "describes" in rejected[1].reason
    assert state.workload_at("", parse_ip("10.0.0.1")) == good
    assert state.workload_at("", parse_ip("10.0.0.2")) == other
    assert state.workload_at("", parse_ip("10.0.0.3")) is None


def test_a_bad_policy_is_rejected_and_its_last_version_stays() -> None:
    state = MeshState("node1")
    policies(state, make_policy("p", PORT))
    first = state.policies_for(make_workload("a"))
    rejected = state.apply(AUTHORIZATION_TYPE, [Resource("default/p", "2", (), b"\xff")], [])
    assert [r.name for r in rejected] == ["default/p"]
    assert state.policies_for(make_workload("a")) is first


def test_an_unknown_type_changes_nothing() -> None:
    state = MeshState("node1")
    assert state.apply("type.googleapis.com/other", [resource(make_workload("a"))], []) == []
    assert not state.synchronized


def test_everything_is_denied_until_policies_have_been_received() -> None:
    state = MeshState("node1")
    workload = make_workload("a", "10.0.0.1")
    addresses(state, workload)
    assert state.policies_for(workload) is NOT_RECEIVED
    assert NOT_RECEIVED.missing
    told: list[Changes] = []
    state.subscribe(told.append)
    assert state.apply(AUTHORIZATION_TYPE, [resource(make_policy("first"))], []) == []
    assert state.policies_for(workload) is NOT_RECEIVED, "half of a response must not count as all of it"
    told.clear()
    state.applied(AUTHORIZATION_TYPE)
    assert state.policies_for(workload).missing == ()
    assert told[0].workloads == {workload.uid}
    assert state.synchronized


def test_subscribers_are_told_once_per_response_of_what_changed() -> None:
    state = MeshState("node1")
    addresses(state)
    policies(state)
    told: list[Changes] = []
    stop = state.subscribe(told.append)
    a, b, web = make_workload("a", "10.0.0.1"), make_workload("b", "10.0.0.2"), make_service("web", "10.96.0.1")
    addresses(state, a, b, web)
    policies(state, make_policy("p", PORT))
    assert told == [Changes({a.uid, b.uid}, {web.key}), Changes(policies={"default/p"})]
    told.clear()
    addresses(state, a, web)  # Resent unchanged.
    policies(state, make_policy("p", PORT))
    assert told == []
    relabelled = make_workload("a", "10.0.0.1", authorization_policies=("default/p",))
    addresses(state, relabelled, removed=(b.uid, web.key))
    policies(state, removed=("default/p", "default/unknown"))
    assert told == [Changes({a.uid, b.uid}, {web.key}), Changes(policies={"default/p"})]
    told.clear()
    stop()
    addresses(state, a)
    assert told == []


def test_subscribers_see_the_new_state() -> None:
    state = MeshState("node1")
    seen: list[Workload | None] = []
    a = make_workload("a", "10.0.0.1")
    state.subscribe(lambda changes: seen.append(state.workloads.get(a.uid)))
    addresses(state, a)
    assert seen == [a]


async def test_a_local_workload_is_waited_for(autojump_clock: MockClock) -> None:
    state = MeshState("node1")
    local = make_workload("a", node="node1", service_account="sa")
    found: list[Workload] = []

    async def wait() -> None:
        found.append(await state.wait_for_local_workload("default", "a", "sa", 10))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.sleep(1)
        addresses(state, make_workload("b", node="node1", service_account="sa"))
        await trio.sleep(1)
        assert found == []
        addresses(state, local)
        await trio.sleep(1)
        assert found == [local]
    assert await state.wait_for_local_workload("default", "a", "sa", 0) == local


async def test_a_workload_that_does_not_come_is_named(autojump_clock: MockClock) -> None:
    state = MeshState("node1")
    with pytest.raises(UnknownWorkload, match="has not been reached yet"):
        await state.wait_for_local_workload("default", "a", "sa", 2)
    assert trio.current_time() == pytest.approx(2)
    policies(state)
    addresses(state, make_workload("a", node="node1", service_account="other"))
    with pytest.raises(UnknownWorkload, match="describes it as other"):
        await state.wait_for_local_workload("default", "a", "sa", 2)
    with pytest.raises(UnknownWorkload, match="may not see the pod yet"):
        await state.wait_for_local_workload("default", "zz", "sa", 2)


async def test_synchronized_after_both_types(autojump_clock: MockClock) -> None:
    state = MeshState("node1")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(state.wait_synchronized)
        await trio.sleep(1)
        addresses(state)
        await trio.sleep(1)
        assert not state.synchronized
        assert len(nursery.child_tasks) == 1
        policies(state)
    assert state.synchronized


def calls_of_one_update(workloads: int) -> int:
    """How many function calls one changed workload costs in a mesh of that many."""
    state = MeshState("node1")
    addresses(state, *(make_workload(f"w{n}", f"10.1.{n // 250}.{n % 250 + 1}") for n in range(workloads)))
    policies(state, make_policy("p", PORT, scope=PolicyScope.GLOBAL))
    changed = [resource(make_workload("w7", "10.1.0.8", service_account="new"))]
    calls = 0

    def count(frame: FrameType, event: str, argument: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        state.apply(ADDRESS_TYPE, changed, [])
    finally:
        sys.setprofile(None)
    return calls


def test_an_update_costs_the_same_in_a_mesh_of_any_size() -> None:
    calls_of_one_update(10)  # Warms caches.
    assert calls_of_one_update(2000) == calls_of_one_update(10) > 10
