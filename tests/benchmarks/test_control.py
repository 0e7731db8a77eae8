from __future__ import annotations

import msgspec

from benchmarks.control import Measured, Proxies, table
from benchmarks.control_api import main
from benchmarks.control_objects import PODS_PER_SERVICE, fill, objects, pod, resources_of
from mesh.xds.codec import ADDRESS_TYPE
from mesh.xds.discovery_codec import Resource
from resources.kube.kinds import API_KINDS
from resources.kube.object_codec import decode_object
from resources.problem import Problem
from resources.testing.cluster import Cluster


def test_a_cluster_has_what_it_says_and_all_of_it_can_be_read() -> None:
    kinds = {f"{kind.group}/{kind.plural}": kind for kind in API_KINDS.values()}
    made = [decode_object(kinds[collection], msgspec.json.encode(body)) for collection, body in objects(12)]
    assert not [one for one in made if isinstance(one, Problem)]
    counts = {kind: sum(type(one).__name__ == kind for one in made) for kind in ("Pod", "Service", "EndpointSlice")}
    assert counts == {"Pod": 12, "Service": 3, "EndpointSlice": 3}
    assert PODS_PER_SERVICE == 5
    assert resources_of(12) == 15
    cluster = Cluster()
    fill(cluster, 12)
    assert len(cluster.of("/pods")) == 12
    assert pod(3, ready=False) != pod(3)


def test_a_table_shows_growth_over_the_base() -> None:
    base = Measured(1, 0.5, 0.6, 0.4, (0.01,), 0.001, 50 << 20, 51 << 20)
    large = Measured(1024, 1.5, 2.5, 1.25, (0.02, 0.03, 0.1), 0.0125, 56 << 20, 60 << 20)
    titles, rows = table(base, [large])
    assert rows == [["1,024", "205", "1.5", "2.5", "1.2", "30 (20 to 100)", "12", "56", "6.0", "60"]]
    assert len(titles) == len(rows[0])


def test_proxies_count_what_they_know() -> None:
    proxies = Proxies(2, 2)
    store = proxies.store(1)
    one = Resource("a", "v", (), b"")
    store.apply(ADDRESS_TYPE, [one, Resource("b", "v", (), b"")], [])
    store.apply(ADDRESS_TYPE, [one], ["b"])
    store.apply("another type", [one], [])
    assert proxies.known == [0, 1]
    assert proxies.updated == 3
    assert callable(main)
