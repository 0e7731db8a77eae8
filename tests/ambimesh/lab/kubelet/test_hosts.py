from __future__ import annotations

from pathlib import Path

from ambimesh.lab.kubelet.hosts import hosts_text, service_names, write_hosts
from resources.base import ObjectMeta
from resources.network import Endpoint, EndpointConditions, ServiceSpec
from resources.objects import SERVICE_NAME_LABEL, EndpointSlice, Service


def service(name: str, namespace: str, ip: str) -> Service:
    return Service(metadata=ObjectMeta(name=name, namespace=namespace), spec=ServiceSpec(cluster_ip=ip))


def test_names_as_a_clusters_dns_would_answer_them() -> None:
    assert service_names("echo", "demo", "other") == ["echo.demo.svc.cluster.local", "echo.demo.svc", "echo.demo"]
    assert service_names("echo", "demo", "demo")[-1] == "echo"


def test_the_file_holds_the_pod_itself_and_every_service() -> None:
    services = [service("echo", "demo", "10.96.0.10"), service("web", "shop", "10.96.0.11")]
    lines = hosts_text("demo", "client", ["10.244.1.2", "fd00::2"], services, []).splitlines()
    assert "127.0.0.1 localhost" in lines
    assert "10.244.1.2 client" in lines
    assert "fd00::2 client" in lines
    assert "10.96.0.10 echo.demo.svc.cluster.local echo.demo.svc echo.demo echo" in lines
    assert "10.96.0.11 web.shop.svc.cluster.local web.shop.svc web.shop" in lines


def test_a_headless_name_stands_for_its_ready_endpoints() -> None:
    slices = [
        EndpointSlice(
            metadata=ObjectMeta(name="s", namespace="demo", labels={SERVICE_NAME_LABEL: "db"}),
            address_type="IPv4",
            endpoints=(
                Endpoint(addresses=("10.0.0.2",)),
                Endpoint(addresses=("10.0.0.3",), conditions=EndpointConditions(ready=False)),
            ),
        )
    ]
    text = hosts_text("demo", "client", [], [service("db", "demo", "None")], slices)
    assert "10.0.0.2 db.demo.svc.cluster.local" in text
    assert "10.0.0.3" not in text


def test_a_mounted_file_is_changed_in_place(tmp_path: Path) -> None:
    file = tmp_path / "hosts"
    write_hosts(file, "a long first version\n")
    inode = file.stat().st_ino
    write_hosts(file, "short\n")
    assert file.read_text() == "short\n"
    assert file.stat().st_ino == inode
