"""Waypoints are replaced, and routes changed, under load: no request fails."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import Any

import pytest

pytestmark = pytest.mark.lab

KINDS = ("keepalive", "short", "unary", "stream")
ROUTE = """
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: reloaded, namespace: conformance}}
spec:
  parentRefs: [{{group: "", kind: Service, name: reloaded, port: 80}}]
  rules:
    - filters:
        - type: ResponseHeaderModifier
          responseHeaderModifier: {{set: [{{name: x-generation, value: "{generation}"}}]}}
      backendRefs: [{{name: reloaded-v{version}, port: 80}}]
"""
CHANGES = 20


def names(mesh: Any) -> set[str]:
    """Of the waypoint's replicas."""
    return {pod.metadata.name for pod in mesh.replicas_of("conformance")}


def restart(mesh: Any) -> None:
    command = [sys.executable, "-m", "ambimesh", "waypoint", "restart", "-n", "conformance", "--wait"]
    environment = {**os.environ, "AMBIMESH_LAB": mesh.lab.layout.name}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


def last_words(mesh: Any) -> str:
    """The ends of the operator's and the waypoints' logs: which of them has not heard of a change?"""
    logs = mesh.lab.layout.logs
    files = [file for file in (*logs.glob("operator*"), *(logs / "pods").rglob("*waypoint*")) if file.is_file()]
    return "\n".join(f"{file.name}:\n{os.linesep.join(file.read_text().splitlines()[-20:])}" for file in files)


@pytest.mark.parametrize("replicas", [1, 2])
def test_replicas_are_replaced_without_a_failed_request(mesh: Any, replicas: int) -> None:
    name = f"replaced-{replicas}"
    with mesh.services(name), mesh.replicas(replicas):
        mesh.status(name, status=200)
        before = names(mesh)
        loads = {kind: mesh.load(kind, name) for kind in KINDS}
        try:
            time.sleep(1)
            restart(mesh)
            time.sleep(1)
        finally:
            reports = {kind: load.stop() for kind, load in loads.items()}
        after = names(mesh)
        assert len(after) == len(before) == replicas
        assert not after & before
        assert {kind: report["failed"][:5] for kind, report in reports.items()} == {kind: [] for kind in KINDS}
        assert all(report["done"] > 1 for report in reports.values())


def test_a_changed_route_takes_effect_on_the_next_request_and_drops_none(mesh: Any) -> None:
    with mesh.services("reloaded"), mesh.routes(ROUTE.format(generation=0, version=1)):
        mesh.expect("reloaded", wanted=lambda answer: answer.header("x-generation") == "0")
        loads = {kind: mesh.load(kind, "reloaded") for kind in ("keepalive", "short")}
        try:
            for generation in range(1, CHANGES + 1):
                mesh.apply(ROUTE.format(generation=generation, version=1 + generation % 2))

                def changed(answer: Any, wanted: str = str(generation)) -> bool:
                    return bool(answer.header("x-generation") == wanted)

                mesh.expect("reloaded", wanted=changed)
        except AssertionError as error:
            error.add_note(last_words(mesh))
            raise
        finally:
            reports = {kind: load.stop() for kind, load in loads.items()}
        for report in reports.values():
            assert report["failed"] == []
            # Once a connection has met a generation it never meets an older one again.
            assert report["heard"] == sorted(report["heard"], key=int)
            assert report["heard"][-1] == str(CHANGES)
            assert len(report["heard"]) > CHANGES // 2
