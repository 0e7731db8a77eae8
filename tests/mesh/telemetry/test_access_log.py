"""Access records: fields and levels of contracts, and that nothing a peer sends can forge a line."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.addresses import parse_socket_address
from mesh.errors import ConfigurationError, ConnectFailed, PolicyDenied
from mesh.model.workload import Workload
from mesh.telemetry.access_log import MAX_ERROR_CHARACTERS, AccessLog, ConnectionRecord, NoMtls
from mesh.telemetry.output import LineOutput

CLIENT = Workload(
    uid="c", name="client-1", namespace="default", service_account="client", cluster_id="Kubernetes"
)
SERVER = Workload(uid="s", name="server-1", namespace="shop", service_account="server", cluster_id="Kubernetes")
WALL = 1795446000.25

Write = Callable[[AccessLog], None]


def written(write: Write, folder: Path, shape: Literal["text", "json"] = "text", level: str = "info") -> list[str]:
    target = folder / "access.log"
    with target.open("wb") as file:
        output = LineOutput(file.fileno())
        write(AccessLog(shape, level, output, wall=lambda: WALL))
        output.close()
    lines = target.read_text().split("\n")
    assert lines.pop() == ""
    return lines


def tunnel() -> ConnectionRecord:
    return ConnectionRecord(
        direction="outbound",
        source=parse_socket_address("10.244.1.2:40112"),
        destination=parse_socket_address("10.244.2.3:15008"),
        hbone_target="10.244.2.3:8080",
        source_workload=CLIENT,
        destination_workload=SERVER,
        destination_service="server.shop.svc.cluster.local",
        source_identity=CLIENT.identity,
        destination_identity=SERVER.identity,
        no_mtls=None,
        bytes_sent=82,
        bytes_received=1239,
    )


def plaintext() -> ConnectionRecord:
    return ConnectionRecord(
        direction="inbound",
        source=parse_socket_address("[fd00::1]:40112"),
        destination=parse_socket_address("10.244.2.3:8080"),
        destination_workload=SERVER,
        no_mtls=NoMtls.CLIENT_SENT_PLAINTEXT,
    )


def test_a_tunnel_as_text(tmp_path: Path) -> None:
    (line,) = written(lambda log: log.record(tunnel(), 0.0031), tmp_path)
    assert line == (
        "2026-11-23T15:00:00.250000Z info access connection complete src.addr=10.244.1.2:40112 "
        'src.workload="client-1" src.namespace="default" '
        'src.identity="spiffe://cluster.local/ns/default/sa/client" src.cluster="Kubernetes" '
        "dst.addr=10.244.2.3:15008 dst.hbone_addr=10.244.2.3:8080 "
        'dst.service="server.shop.svc.cluster.local" dst.workload="server-1" dst.namespace="shop" '
        'dst.identity="spiffe://cluster.local/ns/shop/sa/server" dst.cluster="Kubernetes" '
        'direction="outbound" bytes_sent=82 bytes_recv=1239 duration="3ms"'
    )


def test_plaintext_says_why(tmp_path: Path) -> None:
    (line,) = written(lambda log: log.record(plaintext(), 1.5), tmp_path)
    assert ".identity=" not in line
    assert line.endswith(
        'direction="inbound" no_mtls="client_sent_plaintext" bytes_sent=0 bytes_recv=0 duration="1500ms"'
    )
    assert " src.addr=[fd00::1]:40112 dst.addr=10.244.2.3:8080 " in line


@pytest.mark.parametrize("connection", [tunnel(), plaintext()])
@pytest.mark.parametrize("error", [None, ConnectFailed('refused: "no"')])
def test_json_and_text_tell_the_same(
    connection: ConnectionRecord, error: ConnectFailed | None, tmp_path: Path
) -> None:
    (text,) = written(lambda log: log.record(connection, 0.01, error), tmp_path)
    (encoded,) = written(lambda log: log.record(connection, 0.01, error), tmp_path, "json")
    record = json.loads(encoded)
    assert [record.pop(key) for key in ("time", "level", "scope", "message")] == [
        "2026-11-23T15:00:00.250000Z",
        "error" if error else "info",
        "access",
        "connection complete",
    ]
    pairs = re.findall(r' ([a-z_.]+)=("(?:[^"\\]|\\.)*"|\S+)', text)
    assert [key for key, _ in pairs] == list(record)
    for key, value in pairs:
        assert (json.loads(value) if value.startswith('"') else value) == str(record[key])


def test_a_failure_is_an_error(tmp_path: Path) -> None:
    (line,) = written(lambda log: log.record(tunnel(), 0.01, ConnectFailed("connection refused")), tmp_path)
    assert " error access connection complete " in line
    assert line.endswith('duration="10ms" error="connection refused"')


def test_an_error_without_text_shows_its_name(tmp_path: Path) -> None:
    (line,) = written(lambda log: log.record(tunnel(), 0.01, TimeoutError()), tmp_path)
    assert line.endswith('error="TimeoutError"')


@pytest.mark.parametrize("shape", ["text", "json"])
def test_an_early_denial_has_only_addresses(shape: Literal["text", "json"], tmp_path: Path) -> None:
    connection = plaintext()
    (line,) = written(
        lambda log: log.denied("inbound", connection.source, connection.destination, PolicyDenied("no")),
        tmp_path,
        shape,
    )
    if shape == "text":
        assert line == (
            "2026-11-23T15:00:00.250000Z warn access connection failed src.addr=[fd00::1]:40112 "
            'dst.addr=10.244.2.3:8080 direction="inbound" error="no"'
        )
    else:
        assert json.loads(line) == {
            "time": "2026-11-23T15:00:00.250000Z",
            "level": "warn",
            "scope": "access",
            "message": "connection failed",
            "src.addr": "[fd00::1]:40112",
            "dst.addr": "10.244.2.3:8080",
            "direction": "inbound",
            "error": "no",
        }


@pytest.mark.parametrize(
    ("level", "expected"),
    [("debug", "debug info error warn"), ("info", "info error warn"), ("warning", "error warn"), ("error", "error")],
)
def test_levels(level: str, expected: str, tmp_path: Path) -> None:
    def write(log: AccessLog) -> None:
        connection = tunnel()
        log.opened(connection)
        log.record(connection, 0.1)
        log.record(connection, 0.1, ConnectFailed("x"))
        log.denied("inbound", connection.source, connection.destination, PolicyDenied("x"))

    lines = written(write, tmp_path, level=level)
    assert [line.split()[1] for line in lines] == expected.split()
    assert written(write, tmp_path, level="off") == []


def test_an_opening_has_no_totals(tmp_path: Path) -> None:
    (line,) = written(lambda log: log.opened(tunnel()), tmp_path, level="debug")
    assert " debug access connection opened " in line
    assert "bytes_sent" not in line


def test_an_unknown_level_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="'all' is not a log level"):
        written(lambda log: None, tmp_path, level="all")


@given(target=st.text(max_size=50), error=st.text(max_size=2000), shape=st.sampled_from(["text", "json"]))
def test_nothing_a_peer_sends_makes_a_second_line(
    tmp_path_factory: pytest.TempPathFactory, target: str, error: str, shape: Literal["text", "json"]
) -> None:
    connection = tunnel()
    connection.hbone_target = target
    folder = tmp_path_factory.getbasetemp()
    lines = written(lambda log: log.record(connection, 0.1, ConnectFailed(error)), folder, shape)
    assert len(lines) == 1
    assert len(lines[0]) < 2000 + 6 * (MAX_ERROR_CHARACTERS + 50)
