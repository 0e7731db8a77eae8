"""ServiceEntry and WorkloadEntry: what is carried, and what is told of the rest."""

from __future__ import annotations

import pytest

from controlplane.testing.routes import destination, findings, goes_to, objects_of, port, route, translated, view_of
from controlplane.translate.binding import waypoint_address
from controlplane.translate.service_entries import entry_services
from controlplane.translate.settings import MeshSettings
from controlplane.translate.targets import entry_targets, find_host, targets_of
from controlplane.translate.translator import Translator
from mesh.addresses import parse_ip
from mesh.model.service import Service, Visibility
from mesh.model.waypoint import WorkloadLabels
from mesh.model.workload import AppProtocol, Locality, NetworkAddress, ServicePort, Workload
from resources.objects import ServiceEntry

KEY = "shop/db.example"


def entry(spec: str, *, name: str = "db", namespace: str = "shop", hosts: str = "[db.example]") -> str:
    return f"""
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: {name}, namespace: {namespace}}}
spec:
  hosts: {hosts}
  ports: [{{number: 80, name: http, protocol: HTTP}}, {{number: 5432, name: tcp, protocol: TCP, targetPort: 15432}}]
  {spec}
"""


STATIC = """resolution: STATIC
  addresses: [192.0.2.80, 198.51.100.0/24]
  endpoints: [{address: 192.0.2.1, ports: {http: 8080}, locality: a/b/c, weight: 7, serviceAccount: sa}]
"""


def services(translator: Translator) -> dict[str, Service]:
    return {one.key: one for one in translator.addresses if isinstance(one, Service)}


def workloads(translator: Translator) -> list[Workload]:
    return [one for one in translator.addresses if isinstance(one, Workload)]


def test_a_static_entry_is_a_service_with_workloads() -> None:
    translator = translated(entry(STATIC))
    found = services(translator)[KEY]
    assert found.addresses == (
        NetworkAddress("", parse_ip("192.0.2.80")),
        NetworkAddress("", parse_ip("198.51.100.0"), 120),
    )
    assert found.ports == (ServicePort(80, 80, AppProtocol.HTTP11), ServicePort(5432, 15432, AppProtocol.TCP))
    assert found.waypoint == waypoint_address("shop", "waypoint", MeshSettings())
    [workload] = workloads(translator)
    assert workload.addresses == (parse_ip("192.0.2.1"),)
    assert workload.services == {
        KEY: (ServicePort(80, 8080, AppProtocol.HTTP11), ServicePort(5432, 15432, AppProtocol.TCP))
    }
    assert (workload.locality, workload.capacity) == (Locality("a", "b", "c"), 7)
    assert workload.service_account == "sa"
    assert destination(translator, KEY).hosts == ("db.example",)
    assert findings(translator, "ServiceEntry") == []


def test_routes_to_and_of_entries() -> None:
    text = entry(STATIC) + route(
        "[{backendRefs: [{name: v1, port: 80}]}]",
        parent="{group: networking.istio.io, kind: ServiceEntry, name: db, port: 80}",
    )
    [found] = port(translated(text), 80, KEY).routes
    assert goes_to(found) == "v1"
    back = route("[{backendRefs: [{name: db, kind: ServiceEntry, group: networking.istio.io, port: 80}]}]")
    [found] = port(translated(entry(STATIC) + back)).routes
    assert found.backends[0].service == KEY
    assert found.backends[0].invalid is None


def test_who_is_selected_serves() -> None:
    text = entry("resolution: STATIC\n  workloadSelector: {labels: {app: db}}") + """
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: vm, namespace: shop}
spec: {address: 192.0.2.7, labels: {app: db}, ports: {tcp: 6543}}
---
apiVersion: v1
kind: Pod
metadata: {name: p, namespace: shop, labels: {app: db}}
spec: {nodeName: n, containers: [{name: c}]}
status: {podIP: 10.0.0.1}
---
apiVersion: v1
kind: Pod
metadata: {name: q, namespace: other, labels: {app: db}}
spec: {nodeName: n, containers: [{name: c}]}
status: {podIP: 10.0.0.2}
"""
    translator = translated(text)
    serving = {one.name: one.services[KEY][1].target_port for one in workloads(translator) if KEY in one.services}
    assert serving == {"vm": 6543, "p": 15432}
    labels = {one.uid.rpartition("/")[2]: one.labels for one in translator.labels}
    assert labels == {"vm": (("app", "db"),), "p": (("app", "db"),), "q": (("app", "db"),)}
    assert WorkloadLabels(uid="Kubernetes//Pod/shop/p", labels=(("app", "db"),)) in list(translator.labels)
    assert entry_services(view_of(translator), "other", {"app": "db"}) == {}


@pytest.mark.parametrize("resolution", ["NONE", "DNS", "DNS_ROUND_ROBIN", "DYNAMIC_DNS"])
def test_what_dns_tells_is_not_carried(resolution: str) -> None:
    translator = translated(entry(f"resolution: {resolution}"))
    assert KEY not in services(translator)
    assert [one.key for one in translator.destinations if "db" in one.key] == []
    assert any(f"resolution {resolution}" in text for text in findings(translator, "ServiceEntry"))


def test_other_findings() -> None:
    translator = translated(entry("resolution: STATIC\n  exportTo: [a]", hosts="['*.example', db.example]"))
    told = " ".join(findings(translator, "ServiceEntry"))
    assert "wildcard" in told
    assert "has no addresses" in told
    assert "exportTo" in told
    hidden = services(translated(entry("resolution: STATIC\n  exportTo: ['.']")))[KEY]
    assert hidden.visibility is Visibility.NAMESPACE


def test_of_several_entries_of_a_host_the_own_namespaces_counts() -> None:
    text = entry("resolution: STATIC", namespace="b") + entry("resolution: STATIC\n  exportTo: ['.']", namespace="c")
    view = view_of(translated(text))
    found = {place: find_host(view, "db.example", place) for place in ("b", "c", "d")}
    assert {place: one.namespace if one else None for place, one in found.items()} == {"b": "b", "c": "c", "d": "b"}


def test_targets() -> None:
    translator = translated(entry("resolution: STATIC", hosts="[A.example, b.example]"))
    [value] = translator.objects.of_kind(ServiceEntry)
    view = view_of(translator)
    assert [one.key for one in entry_targets(view, value)] == ["shop/a.example", "shop/b.example"]
    assert list(targets_of(view, value)) == list(entry_targets(view, value))
    assert list(targets_of(view, "nothing")) == []


def test_nobody_speaks_for_anothers_host() -> None:
    text = (
        entry("resolution: STATIC", hosts="[web.shop.svc.cluster.local]", name="a")
        + entry("resolution: STATIC", name="b")
        + entry("resolution: STATIC", name="c")
        + entry("resolution: NONE", name="aa")
    )
    translator = translated(text)
    assert services(translator)[KEY].name == "b"
    assert services(translator)["shop/web.shop.svc.cluster.local"].name == "web"
    told = [one.split(":")[0] for one in findings(translator, "ServiceEntry") if "left out" in one]
    assert told == ["ServiceEntry shop/a", "ServiceEntry shop/c"]


def test_a_destination_that_moves_to_an_equal_entry_is_not_told_again() -> None:
    translator = translated(entry("resolution: STATIC", name="b"))
    older = objects_of(entry("resolution: STATIC", name="a"))
    delta = translator.update(translator.objects.with_changes(older.values()))
    assert [one.name for one in delta.addresses_updated if isinstance(one, Service)] == ["a"]
    assert delta.addresses_removed == ()
    assert (delta.destinations_updated, delta.destinations_removed) == ((), ())
