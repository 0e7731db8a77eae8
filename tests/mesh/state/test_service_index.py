from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.addresses import IpBytes, parse_cidr, parse_ip
from mesh.model.service import Service
from mesh.model.workload import NetworkAddress, Workload
from mesh.state.service_index import ServiceIndex, pick_address, route_to
from mesh.testing.model import make_service, make_workload

WEB = "default/web.default.svc.cluster.local"
API = "default/api.default.svc.cluster.local"
SOURCE = make_workload("client", "10.0.0.9")
CIDR = parse_cidr("240.0.0.0/24")
ASKED: list[IpBytes] = [parse_ip(text) for text in ("10.96.0.1", "10.96.0.2", "240.0.0.1", "10.9.9.9")]


def test_an_address_of_the_dialled_family_is_picked() -> None:
    both, only6 = make_workload("a", "10.0.0.1", "fd00::1"), make_workload("b", "fd00::2")
    assert pick_address(both, ipv4=True) == parse_ip("10.0.0.1")
    assert pick_address(both, ipv4=False) == parse_ip("fd00::1")
    assert pick_address(only6, ipv4=True) == parse_ip("fd00::2")


def test_a_route_expects_the_workload_and_what_the_service_admits() -> None:
    workload = make_workload("a", "10.0.0.1")
    assert route_to(workload, workload.addresses[0], 80, WEB, ("spiffe://x/y",)).expected_identities == {
        workload.identity, "spiffe://x/y",
    }


def test_pools_are_kept_until_something_changes() -> None:
    index = ServiceIndex()
    service = make_service("web", "10.96.0.1")
    index.put(service)
    index.replace_endpoint(None, make_workload("a", "10.0.0.1", services={WEB: {80: 8080}}))
    view = index.views[WEB]
    pool = view.pool(service, 80, ipv4=True, source=SOURCE)
    index.replace_endpoint(None, make_workload("b", "10.0.0.2", services={API: {80: 8080}}))
    assert view.pool(service, 80, ipv4=True, source=SOURCE) is pool
    index.replace_endpoint(None, make_workload("c", "10.0.0.3", services={WEB: {80: 8080}}))
    assert len(view.pool(service, 80, ipv4=True, source=SOURCE).items) == 2


addresses = st.lists(
    st.sampled_from(
        [NetworkAddress("", ASKED[0]), NetworkAddress("", ASKED[1], 128), NetworkAddress("", CIDR.ip, CIDR.length)]
    ),
    max_size=3,
).map(tuple)
services = st.builds(
    make_service, st.sampled_from(["web", "api"]), addresses=addresses, canonical=st.booleans(),
    ports=st.sampled_from([{80: 8080}, {80: 0}, {}]),
)
endpoints = st.builds(
    make_workload, st.sampled_from("abc"), st.sampled_from(["10.0.0.1", "10.0.0.2"]),
    services=st.dictionaries(st.sampled_from([WEB, API]), st.sampled_from([{80: 9090}, {}]), max_size=2),
)
steps = st.lists(services | endpoints | st.sampled_from([WEB, API, "a", "b"]), max_size=15)


def observe(index: ServiceIndex) -> object:
    """All that a look-up can tell."""
    views = {}
    for key, view in index.views.items():
        routes = []
        if view.service is not None:
            for port in view.ports:
                pool = view.pool(view.service, port, ipv4=True, source=SOURCE)
                routes.append(sorted((str(route.target), route.workload.name) for route in pool.items))
        views[key] = (view.service, sorted(view.endpoints), routes)
    return views


@settings(max_examples=300, deadline=None)
@given(steps)
def test_any_history_ends_where_a_fresh_index_would(history: list[Service | Workload | str]) -> None:
    index = ServiceIndex()
    known: dict[str, Workload] = {}
    present: dict[str, Service] = {}
    for step in history:
        observe(index)  # Builds pools, which the step must drop where it matters.
        if isinstance(step, Service):
            index.put(step)
            present.pop(step.key, None)
            present[step.key] = step
        elif isinstance(step, Workload):
            index.replace_endpoint(known.get(step.name), step)
            known[step.name] = step
        elif step in (WEB, API):
            index.remove(step)
            present.pop(step, None)
        elif step in known:
            index.replace_endpoint(known.pop(step), None)
    fresh = ServiceIndex()
    for service in present.values():
        fresh.put(service)
    for workload in known.values():
        fresh.replace_endpoint(None, workload)
    assert observe(index) == observe(fresh)
    for ip in ASKED:
        mine, theirs = index.at("", ip), fresh.at("", ip)
        assert (mine and mine.key) == (theirs and theirs.key)
