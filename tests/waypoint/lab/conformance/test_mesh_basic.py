"""MeshBasic (core of MESH-HTTP and MESH-GRPC): a Service without routes answers by any of its pods."""

from __future__ import annotations

from typing import Any

import pytest

pytestmark = pytest.mark.lab


def test_mesh_basic_http(mesh: Any) -> None:
    with mesh.services("basic"):
        answer = mesh.status("basic", status=200)
        assert answer.received("x-forwarded-for"), "it did not pass the waypoint"
        assert mesh.shares("basic", 40).keys() == {"echo-v1", "echo-v2"}


def test_mesh_basic_grpc(mesh: Any) -> None:
    with mesh.services("basic-grpc"):
        answer = mesh.status("basic-grpc", "/package.Service/Method", port=7070, status=0)
        assert answer.received("x-forwarded-for"), "it did not pass the waypoint"
        assert answer.seen["path"] == "/package.Service/Method"
        found = mesh.shares("basic-grpc", 40, path="/package.Service/Method", port=7070)
        assert found.keys() == {"echo-v1", "echo-v2"}
