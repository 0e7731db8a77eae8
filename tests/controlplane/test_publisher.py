from __future__ import annotations

from dataclasses import replace

import trio
from trio.testing import MockClock

from controlplane.publisher import Publisher
from controlplane.translate.delta import Delta
from mesh.addresses import parse_ip
from mesh.model.policy import Policy, PolicyAction, PolicyScope
from mesh.model.waypoint import Destination, WorkloadLabels
from mesh.model.workload import Workload
from mesh.xds.codec import ADDRESS_TYPE, AUTHORIZATION_TYPE, DESTINATION_TYPE, LABELS_TYPE, decode_address
from mesh.xds.server_driver import SnapshotStore
from mesh.xds.waypoint_codec import decode_destination, decode_labels

SERVICE = "n/s.n.svc.cluster.local"


def policy(name: str, scope: PolicyScope) -> Policy:
    return Policy(name=name, namespace="n", scope=scope, action=PolicyAction.DENY)


OWN = policy("own", PolicyScope.WORKLOAD_SELECTOR)
WIDE = policy("wide", PolicyScope.NAMESPACE)
WORKLOAD = Workload(uid="u", name="p", namespace="n", addresses=(parse_ip("10.0.0.1"),), services={SERVICE: ()})


def names(store: SnapshotStore, type_url: str = AUTHORIZATION_TYPE) -> list[str]:
    return sorted(store.current().of(type_url).entries)


async def test_a_workload_is_found_by_name_address_and_service() -> None:
    store = SnapshotStore()
    Publisher(store, b"secret").publish(Delta(addresses_updated=(WORKLOAD,)))
    offer = store.current().of(ADDRESS_TYPE)
    found = offer.get("u")
    assert found is not None
    assert decode_address(found.payload) == WORKLOAD
    assert offer.find("/10.0.0.1") == ["u"]
    assert list(offer.companions(SERVICE)) == ["u"]


async def test_what_workloads_referred_to_goes_a_moment_later(autojump_clock: MockClock) -> None:
    store = SnapshotStore()
    publisher = Publisher(store, b"secret", 1.0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(publisher.run_withdrawals)
        publisher.publish(Delta(policies_updated=(OWN, WIDE)))
        assert names(store) == ["n/own", "n/wide"]
        publisher.publish(Delta(policies_removed=("n/own", "n/wide")))
        assert names(store) == ["n/own"]
        await trio.sleep(0.9)
        assert names(store) == ["n/own"]
        await trio.sleep(0.2)
        assert names(store) == []
        nursery.cancel_scope.cancel()


async def test_what_comes_back_stays(autojump_clock: MockClock) -> None:
    store = SnapshotStore()
    publisher = Publisher(store, b"secret", 1.0)
    other = policy("other", PolicyScope.WORKLOAD_SELECTOR)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(publisher.run_withdrawals)
        publisher.publish(Delta(policies_updated=(OWN, other)))
        publisher.publish(Delta(policies_removed=("n/own", "n/other")))
        await trio.sleep(0.5)
        publisher.publish(Delta(policies_updated=(OWN,)))
        await trio.sleep(2)
        assert names(store) == ["n/own"]
        publisher.publish(Delta(policies_removed=("n/own",)))
        await trio.sleep(2)
        assert names(store) == []
        nursery.cancel_scope.cancel()


def test_destinations_are_found_under_their_waypoint_and_share_its_secret() -> None:
    store = SnapshotStore()
    web = Destination(key="demo/web", waypoint="demo/waypoint")
    api = Destination(key="demo/api", waypoint="demo/waypoint")
    other = Destination(key="demo/web", waypoint="demo/canary")
    labels = WorkloadLabels(uid="u", labels=(("app", "web"),))
    publisher = Publisher(store, b"secret")
    publisher.publish(Delta(destinations_updated=(web, api, other), labels_updated=(labels,)))
    offered = store.current().of(DESTINATION_TYPE)
    assert sorted(offered.companions("demo/waypoint")) == [api.name, web.name]
    keys = {}
    for value in (web, api, other):
        found = offered.get(value.name)
        assert found is not None
        decoded = decode_destination(found.payload)
        assert decoded == replace(value, session_key=decoded.session_key)
        keys[value.name] = decoded.session_key
    assert keys[web.name] == keys[api.name] != keys[other.name]
    assert len(bytes.fromhex(keys[web.name])) == 16
    kept = store.current().of(LABELS_TYPE).get("u")
    assert kept is not None
    assert decode_labels(kept.payload) == labels
    publisher.publish(Delta(destinations_removed=(web.name,), labels_removed=("u",)))
    assert store.current().of(DESTINATION_TYPE).get(web.name) is None
    assert store.current().of(LABELS_TYPE).get("u") is None


def test_labels_are_published_once_a_waypoint_has_a_destination() -> None:
    store = SnapshotStore()
    early, late = (WorkloadLabels(uid=uid, labels=(("app", uid),)) for uid in ("early", "late"))
    present = [early]
    publisher = Publisher(store, b"secret", labels=lambda: present)

    def published() -> set[str]:
        return set(store.current().of(LABELS_TYPE).entries)

    publisher.publish(Delta(labels_updated=(early,)))
    assert published() == set()
    publisher.publish(Delta(destinations_updated=(Destination(key="demo/web", waypoint="demo/waypoint"),)))
    assert published() == {"early"}
    publisher.publish(Delta(labels_updated=(late,)))
    assert published() == {"early", "late"}
    publisher.publish(Delta(labels_removed=("early",)))
    assert published() == {"late"}
