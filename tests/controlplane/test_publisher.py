from __future__ import annotations

import trio
from trio.testing import MockClock

from controlplane.publisher import Publisher
from controlplane.translate.delta import Delta
from mesh.addresses import parse_ip
from mesh.model.policy import Policy, PolicyAction, PolicyScope
from mesh.model.workload import Workload
from mesh.xds.codec import ADDRESS_TYPE, AUTHORIZATION_TYPE, decode_address
from mesh.xds.server_driver import SnapshotStore

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
    Publisher(store).publish(Delta(addresses_updated=(WORKLOAD,)))
    offer = store.current().of(ADDRESS_TYPE)
    found = offer.get("u")
    assert found is not None
    assert decode_address(found.payload) == WORKLOAD
    assert offer.find("/10.0.0.1") == ["u"]
    assert list(offer.companions(SERVICE)) == ["u"]


async def test_what_workloads_referred_to_goes_a_moment_later(autojump_clock: MockClock) -> None:
    store = SnapshotStore()
    publisher = Publisher(store, 1.0)
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
    publisher = Publisher(store, 1.0)
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
