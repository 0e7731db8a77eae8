from __future__ import annotations

from mesh.addresses import parse_ip
from mesh.model.policy import Match
from mesh.model.workload import ServicePort, TunnelProtocol
from mesh.testing.model import make_policy, make_service, make_workload


def test_defaults_make_a_usable_mesh() -> None:
    workload = make_workload("a", "10.0.0.1", services={"default/web": {80: 8080}})
    assert workload.uid == "Kubernetes//Pod/default/a"
    assert workload.addresses == (parse_ip("10.0.0.1"),)
    assert workload.tunnel_protocol is TunnelProtocol.HBONE
    assert workload.services == {"default/web": (ServicePort(80, 8080),)}
    service = make_service("web", "10.96.0.1")
    assert service.key == "default/web.default.svc.cluster.local"
    assert service.ports == (ServicePort(80, 8080),)
    policy = make_policy("p", Match(destination_ports=(80,)))
    assert policy.key == "default/p"
    assert policy.rules[0].clauses[0].matches == (Match(destination_ports=(80,)),)
