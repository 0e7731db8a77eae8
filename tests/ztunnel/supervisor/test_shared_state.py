"""Workers end up with the supervisor's state, whatever came in which order and whenever they joined."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from mesh.model.policy import Match, PolicyScope
from mesh.state.store import NOT_RECEIVED, MeshState
from mesh.testing.model import make_policy, make_workload
from mesh.xds.codec import ADDRESS_TYPE, AUTHORIZATION_TYPE, encode_address, encode_authorization
from mesh.xds.discovery_codec import Resource
from ztunnel.fanout.messages_codec import StateUpdate, decode_to_worker, encode
from ztunnel.supervisor.shared_state import SharedState

steps = st.lists(
    st.one_of(
        st.tuples(st.just("workload"), st.integers(1, 5), st.integers(1, 3)),
        st.tuples(st.just("policy"), st.integers(1, 3), st.integers(1, 3)),
        st.tuples(st.just("bad"), st.integers(1, 5), st.just(0)),
        st.tuples(st.just("remove"), st.integers(1, 5), st.just(0)),
        st.tuples(st.just("whole"), st.integers(0, 1), st.just(0)),
        st.tuples(st.just("join"), st.just(0), st.just(0)),
    ),
    max_size=30,
)


def into(state: MeshState) -> Callable[[StateUpdate], None]:
    """What a worker does with an update."""

    def take(update: StateUpdate) -> None:
        message = decode_to_worker(encode(update))
        assert isinstance(message, StateUpdate)
        resources = [Resource(name, "", (), payload) for name, payload in message.updated]
        assert state.apply(message.type_url, resources, message.removed) == []
        if message.whole:
            state.applied(message.type_url)

    return take


@given(steps)
def test_workers_know_what_the_supervisor_knows(steps: list[tuple[str, int, int]]) -> None:
    mine = MeshState("node1")
    workers: list[MeshState] = []
    versions: list[int] = []

    def broadcast(update: StateUpdate) -> None:
        versions.append(update.version)
        for worker in workers:
            into(worker)(update)

    shared = SharedState(mine, broadcast)
    for act, number, variant in steps:
        if act == "workload":
            workload = make_workload(f"w{number}", f"10.0.{variant}.{number}")
            shared.apply(ADDRESS_TYPE, [Resource(workload.uid, "1", (), encode_address(workload))], [])
        elif act == "policy":
            policy = make_policy(f"p{number}", Match(destination_ports=(variant,)), scope=PolicyScope.NAMESPACE)
            shared.apply(AUTHORIZATION_TYPE, [Resource(policy.key, "1", (), encode_authorization(policy))], [])
        elif act == "bad":
            uid = make_workload(f"w{number}", "10.0.0.1").uid
            assert len(shared.apply(ADDRESS_TYPE, [Resource(uid, "1", (), b"\xff")], [])) == 1
        elif act == "remove":
            shared.apply(ADDRESS_TYPE, [], [make_workload(f"w{number}", "10.0.0.1").uid])
        elif act == "whole":
            shared.applied((ADDRESS_TYPE, AUTHORIZATION_TYPE)[number])
        else:
            workers.append(MeshState("node1"))
            shared.replay(into(workers[-1]))
    assert versions == list(range(1, shared.version + 1))
    for worker in workers:
        assert worker.workloads.by_uid == mine.workloads.by_uid
        assert worker.policies.by_key == mine.policies.by_key
        assert worker.synchronized == mine.synchronized


def test_a_worker_denies_until_all_policies_are_known() -> None:
    mine, worker = MeshState("node1"), MeshState("node1")
    shared = SharedState(mine, lambda _: None)
    workload = make_workload("w", "10.0.0.1")
    shared.apply(ADDRESS_TYPE, [Resource(workload.uid, "1", (), encode_address(workload))], [])
    shared.applied(ADDRESS_TYPE)
    shared.replay(into(worker))
    assert worker.policies_for(worker.workloads.by_uid[workload.uid]) is NOT_RECEIVED
    shared.applied(AUTHORIZATION_TYPE)
    shared.replay(into(worker))
    assert worker.synchronized
    assert worker.policies_for(worker.workloads.by_uid[workload.uid]) is not NOT_RECEIVED


def test_a_kind_nobody_knows_reaches_no_worker() -> None:
    told: list[StateUpdate] = []
    shared = SharedState(MeshState("node1"), told.append)
    shared.apply("type.googleapis.com/else", [Resource("x", "1", (), b"")], [])
    assert told == []
