"""Capture with real sockets: outbound, inbound, what both applications see."""

from __future__ import annotations

import socket
from typing import Any

import pytest

pytestmark = pytest.mark.root


def test_ipv4_between_two_pods(mesh: Any, kit: Any) -> None:
    kit.start_server(mesh.places["b"], 8080)
    seen = mesh.places["a"].run(kit.call, "10.244.1.3", 8080)
    assert seen.peer == ("10.244.1.3", 8080)
    assert seen.local[0] == "10.244.1.2"
    client = f"::ffff:10.244.1.2 {seen.local[1]}"
    assert seen.answer == f"{client} {client}\n"


def test_ipv6_between_two_pods(mesh: Any, kit: Any) -> None:
    kit.start_server(mesh.places["b"], 8080)
    seen = mesh.places["a"].run(kit.call, "fd00:10:244:1::3", 8080, socket.AF_INET6)
    assert seen.peer == ("fd00:10:244:1::3", 8080)
    assert seen.local[0] == "fd00:10:244:1::2"
    client = f"fd00:10:244:1::2 {seen.local[1]}"
    assert seen.answer == f"{client} {client}\n"


def test_mapped_ipv4_on_an_ipv6_socket(mesh: Any, kit: Any) -> None:
    kit.start_server(mesh.places["b"], 8080, socket.AF_INET, "0.0.0.0")
    seen = mesh.places["a"].run(kit.call, "::ffff:10.244.1.3", 8080, socket.AF_INET6)
    assert seen.peer == ("::ffff:10.244.1.3", 8080)
    assert seen.local[0] == "::ffff:10.244.1.2"
    client = f"10.244.1.2 {seen.local[1]}"
    assert seen.answer == f"{client} {client}\n"
