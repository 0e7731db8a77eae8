from mesh.addresses import parse_ip
from mesh.model.policy import Policy, PolicyAction, PolicyScope
from mesh.model.service import Service
from mesh.model.workload import NetworkAddress, NetworkMode, ServicePort, Workload
from mesh.xds.codec import decode_address, decode_authorization
from mesh.xds.entries import policy_entry, service_entry, workload_entry


def test_a_workload_is_known_by_uid_and_address_and_found_under_its_services() -> None:
    workload = Workload(
        uid="Kubernetes//Pod/default/a",
        name="a",
        namespace="default",
        network="net",
        addresses=(parse_ip("10.244.1.5"), parse_ip("fd00::5")),
        services={"default/echo.default.svc.cluster.local": (ServicePort(80, 8080),)},
    )
    made = workload_entry(workload)
    assert made.name == "Kubernetes//Pod/default/a"
    assert made.aliases == ("net/10.244.1.5", "net/fd00::5")
    assert made.found_under == ("default/echo.default.svc.cluster.local",)
    assert decode_address(made.payload) == workload


def test_a_pod_on_the_hosts_network_is_not_found_by_the_nodes_address() -> None:
    workload = Workload(
        uid="u", name="a", namespace="n", addresses=(parse_ip("172.18.0.11"),), network_mode=NetworkMode.HOST_NETWORK
    )
    assert workload_entry(workload).aliases == ()


def test_a_service_is_known_by_hostname_and_virtual_address() -> None:
    service = Service(
        name="echo",
        namespace="default",
        hostname="echo.default.svc.cluster.local",
        addresses=(NetworkAddress("", parse_ip("10.96.0.7")), NetworkAddress("", parse_ip("10.97.0.0"), 112)),
    )
    made = service_entry(service)
    assert (made.name, made.aliases) == ("default/echo.default.svc.cluster.local", ("/10.96.0.7",))
    assert decode_address(made.payload) == service


def test_a_policy_is_known_by_namespace_and_name() -> None:
    policy = Policy(name="deny", namespace="default", scope=PolicyScope.NAMESPACE, action=PolicyAction.DENY)
    made = policy_entry(policy)
    assert made.name == "default/deny"
    assert decode_authorization(made.payload) == policy
