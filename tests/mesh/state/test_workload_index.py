from __future__ import annotations

from mesh.addresses import IpBytes, parse_ip
from mesh.model.workload import NetworkMode
from mesh.state.workload_index import WorkloadIndex
from mesh.testing.model import make_workload


def address(text: str, network: str = "") -> tuple[str, IpBytes]:
    return network, parse_ip(text)


def test_found_by_uid_by_each_address_and_by_local_name() -> None:
    index = WorkloadIndex("node1")
    here = make_workload("a", "10.0.0.1", "fd00::1", node="node1", service_account="sa")
    there = make_workload("b", "10.0.0.2", node="node2")
    index.put(here)
    index.put(there)
    assert index.get(here.uid) is here
    assert index.by_address[address("10.0.0.1")] is here
    assert index.by_address[address("fd00::1")] is here
    assert index.by_address.get(address("10.0.0.1", "other")) is None
    assert index.local(("default", "a", "sa")) is here
    assert index.local(("default", "a", "default")) is None
    assert index.local(("default", "b", "default")) is None


def test_host_network_pods_are_not_found_by_address() -> None:
    index = WorkloadIndex("node1")
    host = make_workload("a", "172.18.0.11", node="node1", network_mode=NetworkMode.HOST_NETWORK)
    index.put(host)
    assert dict(index.by_address) == {}
    assert index.get(host.uid) is host
    assert index.remove(host.uid) is host


def test_a_moved_address_is_not_lost_when_its_former_owner_goes() -> None:
    index = WorkloadIndex("node1")
    old, new = make_workload("old", "10.0.0.1"), make_workload("new", "10.0.0.1")
    index.put(old)
    index.put(new)
    assert index.by_address[address("10.0.0.1")] is new
    index.remove(old.uid)
    assert index.by_address[address("10.0.0.1")] is new
    index.remove(new.uid)
    assert dict(index.by_address) == {}


def test_an_update_moves_every_index() -> None:
    index = WorkloadIndex("node1")
    index.put(make_workload("a", "10.0.0.1", "10.0.0.3", node="node1"))
    after = make_workload("a", "10.0.0.2", "10.0.0.3", node="node1", service_account="other")
    former = index.put(after)
    assert former is not None
    assert former.service_account == "default"
    assert set(index.by_address) == {address("10.0.0.2"), address("10.0.0.3")}
    assert all(value is after for value in index.by_address.values())
    assert index.local(("default", "a", "default")) is None
    assert index.local(("default", "a", "other")) is after
    assert index.local_by_pod("default", "a") == [after]


def test_a_pod_that_moves_away_is_no_longer_local() -> None:
    index = WorkloadIndex("node1")
    index.put(make_workload("a", node="node1"))
    index.put(make_workload("a", node="node2"))
    assert index.local(("default", "a", "default")) is None


def test_removing_the_unknown_is_nothing() -> None:
    assert WorkloadIndex("node1").remove("x") is None
