"""What the controllers want, as values, and that the loop writes it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import trio
from hypothesis import given
from hypothesis import strategies as st

from ambimesh.lab.controller.driver import run_controllers
from ambimesh.lab.controller.endpoint_slices import endpoint_slices, is_ours
from ambimesh.lab.controller.plan import plan
from ambimesh.lab.controller.scheduling import placements
from ambimesh.lab.controller.service_addresses import allocate, families
from resources.base import Condition, ObjectMeta
from resources.folder_store import FolderStore
from resources.network import ServicePort, ServiceSpec
from resources.object_set import ObjectSet
from resources.objects import EndpointSlice, Namespace, Pod, Service, ServiceAccount
from resources.pod import Container, ContainerPort, PodIp, PodSpec, PodStatus

NODES = ("node1", "node2")


def pod(name: str, node: str = "", *, ips: tuple[str, ...] = (), ready: bool = True, port: int = 8080) -> Pod:
    container = Container(name="c", command=("x",), ports=(ContainerPort(container_port=port, name="web"),))
    return Pod(
        metadata=ObjectMeta(name=name, namespace="shop", labels={"app": "web"}),
        spec=PodSpec(containers=(container,), node_name=node),
        status=PodStatus(
            phase="Running" if ips else "",
            pod_ips=tuple(PodIp(ip=ip) for ip in ips),
            conditions=(Condition(type="Ready", status="True" if ready else "False"),),
        ),
    )


def service(name: str = "web", **spec: object) -> Service:
    fields = {"selector": {"app": "web"}, "ports": (ServicePort(port=80, target_port="web"),), **spec}
    return Service(metadata=ObjectMeta(name=name, namespace="shop"), spec=ServiceSpec(**fields))  # type: ignore[arg-type]


def test_pods_go_where_fewest_are() -> None:
    pods = [pod("a", "node1"), pod("b"), pod("c"), pod("d")]
    assert [node for _, node in sorted(placements(pods, NODES).items())] == ["node2", "node1", "node2"]


def test_a_named_node_is_kept_and_an_unknown_one_counts_for_nobody() -> None:
    assert placements([pod("a", "node2"), pod("b", "elsewhere")], NODES) == {}


@given(st.integers(0, 40), st.integers(1, 5))
def test_nodes_are_filled_evenly(count: int, nodes: int) -> None:
    names = [f"node{index}" for index in range(nodes)]
    placed = list(placements([pod(f"p{index}") for index in range(count)], names).values())
    loads = [placed.count(name) for name in names]
    assert max(loads) - min(loads) <= 1


def test_a_given_address_is_kept_and_others_get_free_ones() -> None:
    given_one = service("a", cluster_ip="10.96.0.10")
    allocated = {entry.metadata.name: entry.spec.virtual_addresses for entry in allocate([service("b"), given_one])}
    assert allocated == {"b": ("10.96.0.11",)}
    assert allocate([given_one]) == []


def test_services_that_have_no_address_by_wish() -> None:
    assert allocate([service(cluster_ip="None"), service("b", type="ExternalName", external_name="x")]) == []


def test_both_families_when_asked() -> None:
    dual = service(ip_family_policy="PreferDualStack")
    assert families(dual) == ("IPv4", "IPv6")
    (allocated,) = allocate([dual])
    assert allocated.spec.virtual_addresses == ("10.96.0.10", "fd00:10:96::a")
    assert families(service(ip_families=("IPv6",))) == ("IPv6",)


@given(st.sets(st.integers(10, 60)), st.integers(0, 30))
def test_no_address_is_given_twice(taken: set[int], count: int) -> None:
    present = [service(f"t{host}", cluster_ip=f"10.96.0.{host}") for host in taken]
    allocated = allocate([*present, *(service(f"n{index}") for index in range(count))])
    addresses = [address for entry in (*present, *allocated) for address in entry.spec.virtual_addresses]
    assert len(addresses) == len(set(addresses)) == len(taken) + count


def test_endpoints_follow_selector_readiness_and_named_ports() -> None:
    pods = [
        pod("a", "node1", ips=("10.0.0.1", "fd00::1")),
        pod("b", "node2", ips=("10.0.0.2",), ready=False),
        pod("late"),
    ]
    (made,) = endpoint_slices([service()], pods)
    assert [(entry.addresses, entry.conditions.ready, entry.node_name) for entry in made.endpoints] == [
        (("10.0.0.1",), True, "node1"),
        (("10.0.0.2",), False, "node2"),
    ]
    assert made.ports[0].port == 8080
    assert is_ours(made)


def test_a_slice_per_family_and_per_meaning_of_a_port_name() -> None:
    pods = [pod("a", ips=("10.0.0.1", "fd00::1")), pod("b", ips=("10.0.0.2", "fd00::2"), port=9090)]
    made = endpoint_slices([service(ip_families=("IPv4", "IPv6"))], pods)
    assert [(entry.metadata.name, entry.address_type, entry.ports[0].port) for entry in made] == [
        ("web-ipv4", "IPv4", 8080),
        ("web-ipv4-1", "IPv4", 9090),
        ("web-ipv6", "IPv6", 8080),
        ("web-ipv6-1", "IPv6", 9090),
    ]


def test_unready_endpoints_may_be_published() -> None:
    (made,) = endpoint_slices([service(publish_not_ready_addresses=True)], [pod("a", ips=("10.0.0.1",), ready=False)])
    assert made.endpoints[0].conditions.ready is True


def test_a_service_without_selector_has_somebody_elses_slices() -> None:
    assert endpoint_slices([service(selector={})], [pod("a", ips=("10.0.0.1",))]) == []


def test_carrying_out_a_plan_leaves_nothing_to_plan() -> None:
    objects = ObjectSet([Namespace(metadata=ObjectMeta(name="shop")), pod("a", ips=("10.0.0.1",)), service()])
    first = plan(objects, NODES)
    assert (len(first.placements), len(first.services), len(first.slices), len(first.accounts)) == (1, 1, 1, 1)
    labelled = Namespace(metadata=ObjectMeta(name="shop", labels={"kubernetes.io/metadata.name": "shop"}))
    placed = pod("a", "node1", ips=("10.0.0.1",))
    slices = endpoint_slices(first.services, [placed])
    assert not plan(ObjectSet([labelled, placed, *first.services, *slices, *first.accounts]), NODES)


def test_slices_of_a_deleted_service_are_obsolete_but_not_foreign_ones() -> None:
    ours = endpoint_slices([service()], [])
    foreign = EndpointSlice(metadata=ObjectMeta(name="foreign", namespace="shop"), address_type="IPv4")
    assert plan(ObjectSet([*ours, foreign]), NODES).obsolete == ours


async def until(holds: Callable[[], bool]) -> None:
    while not holds():  # noqa: ASYNC110 -- the store has no event to wait for
        await trio.sleep(0.02)


async def test_the_loop_brings_the_store_to_where_it_should_be(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    for value in (Namespace(metadata=ObjectMeta(name="shop")), service(), pod("a"), pod("b")):
        store.apply(value)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run_controllers, tmp_path, NODES, tmp_path)
        with trio.fail_after(5):
            await until(lambda: {entry.spec.node_name for entry in store.of_kind(Pod)} == set(NODES))
            await until(lambda: bool(store.of_kind(ServiceAccount)) and bool(store.of_kind(EndpointSlice)))
            await until(lambda: store.get(Service, "shop", "web").spec.cluster_ip == "10.96.0.10")
            store.delete(Service, "shop", "web")
            await until(lambda: not store.of_kind(EndpointSlice))
        nursery.cancel_scope.cancel()
    assert store.get(Namespace, "", "shop").metadata.labels["kubernetes.io/metadata.name"] == "shop"
