"""The kit's small parts: certificates, ports, processes, waiting."""

from __future__ import annotations

import json
import os
import socket
import ssl
import threading
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID

from tests.e2e.kit import pki
from tests.e2e.kit.ports import free_ports
from tests.e2e.kit.processes import NotServing, Process
from tests.e2e.kit.waiting import eventually


def test_certificates_are_good_for_tls_both_ways(tmp_path: Path) -> None:
    authority = pki.Authority(tmp_path)
    server = authority.server("api", ["localhost", "127.0.0.1"])
    client = authority.client("system:node:node1", ["system:nodes"])
    accepting = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(authority.certificate))
    accepting.verify_mode = ssl.CERT_REQUIRED
    accepting.load_cert_chain(server.certificate, server.key)
    dialling = ssl.create_default_context(cafile=str(authority.certificate))
    dialling.load_cert_chain(client.certificate, client.key)
    near, far = socket.socketpair()
    seen: list[object] = []

    def accept() -> None:
        with accepting.wrap_socket(far, server_side=True) as connection:
            seen.append(connection.getpeercert())
            connection.sendall(b"welcome")

    acceptor = threading.Thread(target=accept)
    acceptor.start()
    with dialling.wrap_socket(near, server_hostname="127.0.0.1") as connection:
        assert connection.recv(100) == b"welcome"
    acceptor.join()
    assert isinstance(seen[0], dict)
    assert seen[0]["subject"] == ((("organizationName", "system:nodes"),), (("commonName", "system:node:node1"),))


def test_keys_are_their_owners_alone(tmp_path: Path) -> None:
    authority = pki.Authority(tmp_path / "pki")
    authority.client("somebody")
    authority.signing_key("tokens")
    assert {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "pki").glob("*.key")} == {
        "authority.key": 0o600,
        "somebody.key": 0o600,
        "tokens.key": 0o600,
    }


def test_a_client_is_issued_once(tmp_path: Path) -> None:
    authority = pki.Authority(tmp_path)
    first = authority.client("a", ["b"]).certificate.read_bytes()
    assert authority.client("a", ["b"]).certificate.read_bytes() == first
    other = x509.load_pem_x509_certificate(authority.client("a", ["c"]).certificate.read_bytes())
    (group,) = other.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)
    assert group.value == "c"


def test_a_kubeconfig_carries_all_it_needs(tmp_path: Path) -> None:
    authority = pki.Authority(tmp_path)
    text = pki.kubeconfig("https://127.0.0.1:1", authority.certificate, "a-token")
    assert json.loads(text)["users"] == [{"name": "test", "user": {"token": "a-token"}}]
    text = pki.kubeconfig("https://127.0.0.1:1", authority.certificate, authority.client("a"))
    assert str(tmp_path) not in text


def test_ports_that_are_taken_are_not_given() -> None:
    ports = free_ports("127.0.0.1", 50)
    assert len(set(ports)) == 50
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", ports[0]))
        assert ports[0] not in free_ports("127.0.0.1", 50)


def test_a_process_that_ends_is_told_with_its_log(tmp_path: Path) -> None:
    process = Process("talker", ["sh", "-c", "echo the reason; exit 3"], tmp_path / "log")
    with pytest.raises(NotServing, match=r"(?s)talker ended with status 3:.*the reason"):
        process.wait_until(lambda: False, 30)
    process.stop()


def test_a_process_that_does_not_serve_is_told_with_its_log(tmp_path: Path) -> None:
    process = Process("sleeper", ["sleep", "600"], tmp_path / "log")
    try:
        with pytest.raises(NotServing, match="sleeper does not serve after 0 s"):
            process.wait_until(lambda: False, 0)
    finally:
        process.kill()
    assert not process.running


def test_a_process_goes_with_its_children(tmp_path: Path) -> None:
    script = "trap '' TERM; sleep 600 & echo $! > child; while :; do wait; done"
    process = Process("parent", ["sh", "-c", f"cd {tmp_path}; {script}"], tmp_path / "log")
    process.wait_until(lambda: (tmp_path / "child").exists() and (tmp_path / "child").read_text() != "", 30)
    child = int((tmp_path / "child").read_text())
    process.stop(grace_seconds=0.1)

    def gone() -> None:
        try:
            state = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return
        assert state == "Z"  # ended; whoever inherits it has yet to look

    eventually(gone)
    process.stop()


def test_a_process_sees_the_environment_it_is_given(tmp_path: Path) -> None:
    process = Process("env", ["env"], tmp_path / "log", environment={"KUBECONFIG": "/here"})
    while process.running:
        os.sched_yield()
    assert "KUBECONFIG=/here\n" in process.log.read_text()


def test_waiting_ends_with_the_last_failure() -> None:
    asked: list[int] = []

    def ask() -> int:
        asked.append(len(asked))
        assert len(asked) > 2, f"asked {len(asked)} times"
        return len(asked)

    assert eventually(ask) == 3
    asked.clear()
    with pytest.raises(AssertionError, match="asked 1 times"):
        eventually(ask, seconds=0)
