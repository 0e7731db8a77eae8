from __future__ import annotations

from mesh.addresses import HboneTarget, parse_socket_address
from mesh.state.routes import ToWorkload
from mesh.testing.model import make_workload


def test_the_host_name_is_the_second_half_of_the_key() -> None:
    def route(service_key: str | None) -> ToWorkload:
        target = HboneTarget(parse_socket_address("10.0.0.1:80"))
        return ToWorkload(make_workload("a", "10.0.0.1"), target, None, frozenset(), service_key)

    assert route("default/web.default.svc.cluster.local").service_hostname == "web.default.svc.cluster.local"
    assert route(None).service_hostname is None
