from __future__ import annotations

from typing import Any

import pytest
import trio

from mesh.addresses import parse_ip, parse_socket_address
from mesh.errors import ClosedByPolicyChange, MeshError, UnknownWorkload
from mesh.model.policy import Match, PolicyAction
from mesh.rbac import ConnectionFacts
from mesh.testing.model import make_policy
from ztunnel.proxy import descriptions as descriptions_module
from ztunnel.proxy.connections import Connection

DENY_80 = make_policy("deny", Match(destination_ports=(80,)), namespace="demo", action=PolicyAction.DENY)


class End:
    sent = received = 0

    def __init__(self, kit: Any, connection: Connection) -> None:
        self.kit, self.connection = kit, connection

    def cut(self, error: MeshError) -> None:
        self.kit.table.finished(self.connection, error)


def live(kit: Any, pod: Any, port: int = 80) -> Connection:
    connection: Connection = kit.table.begin(
        pod, "inbound", parse_socket_address("127.0.0.3:1"), parse_socket_address(f"127.0.0.2:{port}")
    )
    connection.facts = ConnectionFacts(parse_ip("127.0.0.3"), None, parse_ip("127.0.0.2"), port)
    connection.end = End(kit, connection)
    return connection


async def test_only_what_is_denied_now_is_cut(kit: Any) -> None:
    kit.describe(kit.server)
    denied, allowed = live(kit, kit.server, 80), live(kit, kit.server, 81)
    outbound = live(kit, kit.client)
    outbound.facts = None
    kit.policies(DENY_80)
    await kit.until(lambda: len(kit.table) == 2)
    assert set(kit.table) == {allowed, outbound}
    assert "due to policy change" in kit.log.lines[0]
    assert denied not in kit.table
    kit.table.finished(allowed, None)
    kit.table.finished(outbound, None)


async def test_connections_of_an_earlier_serving_are_judged_too(kit: Any) -> None:
    """The same pod, un-enrolled and enrolled again while a connection lived on."""
    kit.describe(kit.server)
    earlier = live(kit, kit.server)
    again = kit.pod("server", "127.0.0.2")
    kit.descriptions.follow(again)
    later = live(kit, again)
    kit.policies(DENY_80)
    await kit.until(lambda: not len(kit.table))
    assert earlier.end is None
    assert later.end is None


async def test_the_end_of_an_earlier_serving_leaves_the_later_one_described(kit: Any) -> None:
    kit.describe(kit.server)
    again = kit.pod("server", "127.0.0.2")
    kit.descriptions.follow(again)
    kit.descriptions.forget(kit.server)
    kit.policies(DENY_80)
    assert again.policies is kit.state.policies_for(again.workload)
    connection = live(kit, again)
    kit.policies(removed=("demo/deny",))
    kit.policies(DENY_80)
    await kit.until(lambda: connection not in kit.table)


async def test_a_workload_the_control_plane_forgets_stays_as_it_was(kit: Any) -> None:
    kit.describe(kit.server)
    kit.policies(DENY_80)
    policies = kit.server.policies
    kit.tell(removed=("Kubernetes//Pod/demo/server",))
    assert kit.server.workload is not None
    assert kit.server.policies is policies
    assert kit.descriptions.is_ready(kit.server)


async def test_waiting(kit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(descriptions_module, "WAIT_SECONDS", 0.02)
    kit.descriptions.follow(kit.server)
    assert not kit.descriptions.is_ready(kit.server)
    with pytest.raises(UnknownWorkload):
        await kit.descriptions.ready(kit.server)
    monkeypatch.setattr(descriptions_module, "WAIT_SECONDS", 5)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(kit.descriptions.ready, kit.server)
        await trio.testing.wait_all_tasks_blocked()
        kit.describe(kit.server)
    assert kit.descriptions.is_ready(kit.server)
    await kit.descriptions.ready(kit.server)


async def test_many_connections_are_judged_in_slices(kit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(descriptions_module, "_SLICE", 10)
    kit.describe(kit.server)
    for _ in range(95):
        live(kit, kit.server)
    kit.policies(DENY_80)
    await kit.until(lambda: not len(kit.table))
    assert len(kit.log.lines) == 95
    assert issubclass(ClosedByPolicyChange, MeshError)
