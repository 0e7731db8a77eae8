"""The same-node fast path in a lab: real ztunnel, agent and operator, while policies change and processes die."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from ambimesh.demo.stage import NAMESPACE
from ambimesh.lab import manifests, readiness
from ambimesh.lab.mesh_processes import ztunnel_name
from resources.objects import Namespace, Pod

pytestmark = pytest.mark.lab

PORT = 9000
PODS = """
apiVersion: v1
kind: Service
metadata: {name: near, namespace: demo}
spec:
  selector: {role: near}
  ports: [{name: tcp, port: 7000, targetPort: 9000}]
---
apiVersion: v1
kind: Pod
metadata: {name: near, namespace: demo, labels: {role: near}}
spec:
  nodeName: node1
  serviceAccountName: echo
  terminationGracePeriodSeconds: 1
  containers: [{name: echo, command: [python3, -m, ambimesh.apps.tcp_echo], args: [--port, "9000"]}]
"""
DENY = """
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: deny-a, namespace: demo}
spec:
  action: DENY
  rules:
  - from: [{source: {principals: [cluster.local/ns/demo/sa/client-a]}}]
"""
FLOWS = """
import json, socket, sys, time
host, port, count, seconds = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
socks = [socket.create_connection((host, port), timeout=10) for _ in range(count)]
alive, cut, rounds, end = set(socks), 0, 0, time.monotonic() + seconds
while alive and time.monotonic() < end:
    for sock in list(alive):
        try:
            sock.sendall(b"0123456789\\n")
            got = b""
            while len(got) < 11:
                data = sock.recv(100)
                if not data:
                    raise OSError("end")
                got += data
            assert got == b"0123456789\\n"
        except OSError:
            alive.discard(sock)
            cut += 1
    rounds += 1
    time.sleep(0.02)
print(json.dumps({"cut": cut, "alive": len(alive), "rounds": rounds}))
"""


@pytest.fixture(scope="module", autouse=True)
def _pods(scene: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("near")
    apply(scene, folder, PODS)
    assert trio.run(readiness.wait_for_pods, scene.lab, 20.0) == []
    trio.run(scene.enrol)


def apply(scene: Any, folder: Path, text: str) -> Path:
    file = folder / "objects.yaml"
    file.write_text(text)
    assert not manifests.apply(scene.stage.store, [file]).problems
    return file


def fast_records(scene: Any, since: int) -> list[str]:
    return [line for line in scene.records("node1", since) if "fast_path=true" in line]


async def one(scene: Any, pod: str, host: str, port: int = PORT) -> dict[str, int]:
    found: dict[str, int] = await scene.script(pod, FLOWS, host, str(port), "1", "0.05")
    return found


async def warmed(scene: Any, pod: str = "client-a") -> str:
    """The near pod's address, with a verdict for a pod."""
    address: str = scene.stage.address("near")

    async def is_fast() -> bool:
        since = scene.position("node1")
        await one(scene, pod, address)
        await trio.sleep(0.5)
        return bool(fast_records(scene, since))

    await scene.until(is_fast, 20, lambda: scene.log("node1")[-2000:])
    return address


@asynccontextmanager
async def flowing(scene: Any, pod: str, count: int, seconds: float) -> AsyncIterator[list[dict[str, int]]]:
    """Many fast connections; the list has their fate once the block has ended."""
    address, fate = scene.stage.address("near"), []

    async def flow() -> None:
        fate.append(await scene.script(pod, FLOWS, address, str(PORT), str(count), str(seconds), timeout=60))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(flow)
        await trio.sleep(1.5)
        yield fate


async def test_each_connection_has_one_record_per_side_and_is_counted(scene: Any) -> None:
    address = await warmed(scene)
    since = scene.position("node1")
    for _ in range(5):
        await one(scene, "client-a", address)
    await scene.until(lambda: len(fast_records(scene, since)) >= 10, 5, lambda: fast_records(scene, since))
    await trio.sleep(0.5)
    records = fast_records(scene, since)
    assert len(records) == 10
    for direction in ("outbound", "inbound"):
        mine = [line for line in records if f'direction="{direction}"' in line]
        assert len({re.findall(r"src\.addr=(\S+)", line)[0] for line in mine}) == 5
        assert all('src.identity="spiffe://cluster.local/ns/demo/sa/client-a"' in line for line in mine)
    sent = [line for line in await scene.stage.metrics("node1") if line.startswith("istio_tcp_received_bytes_total{")]
    assert any('reporter="source"' in line and 'destination_workload="near"' in line for line in sent)


async def test_a_service_of_the_node_is_dialled_directly(scene: Any) -> None:
    await warmed(scene)
    since = scene.position("node1")
    vip = scene.stage.service_address("near")
    for _ in range(3):
        await one(scene, "client-a", vip, 7000)
    await scene.until(lambda: len(fast_records(scene, since)) >= 4, 5, lambda: scene.records("node1", since))
    assert any('dst.service="near.demo.svc.cluster.local"' in line for line in fast_records(scene, since))


async def test_a_policy_change_cuts_what_it_denies_while_hundreds_flow(scene: Any, tmp_path: Path) -> None:
    await warmed(scene)
    await warmed(scene, "client-b")
    since = scene.position("node1")
    async with flowing(scene, "client-a", 500, 12) as denied, flowing(scene, "client-b", 100, 12) as admitted:
        file = apply(scene, tmp_path, DENY)
    manifests.delete(scene.stage.store, [file])
    assert denied[0]["cut"] == 500
    assert admitted[0] == {"cut": 0, "alive": 100, "rounds": admitted[0]["rounds"]}
    await trio.sleep(1)
    assert sum("closed due to policy change" in line for line in fast_records(scene, since)) == 1000


async def test_connections_outlive_ztunnel_and_are_adopted(scene: Any, tmp_path: Path) -> None:
    await warmed(scene)
    stage, name = scene.stage, ztunnel_name("node1")
    spec = stage.processes.spec(name)
    async with flowing(scene, "client-a", 50, 20) as fate:
        await stage.processes.stop(name, kill=True)
        refused = await scene.stage.execute(
            "client-a", "python3", "-m", "ambimesh.apps.tcp_client", stage.address("near"), str(PORT),
            "--seconds", "0.05", namespace=NAMESPACE,
        )
        assert '"echoed"' not in refused[1]
        await stage.processes.start(spec)
        await readiness.wait_for_process(stage.processes, spec, 20)
        await trio.sleep(2)
        since = scene.position("node1")
        file = apply(scene, tmp_path, DENY)  # the new one judges what the old one let through
        await scene.until(
            lambda: len(fast_records(scene, since)) >= 100, 10, lambda: scene.log("node1")[-1500:]
        )
        manifests.delete(scene.stage.store, [file])
    assert fate[0]["cut"] == 50
    assert fate[0]["rounds"] > 50


async def test_a_namespace_opts_out_by_annotation(scene: Any) -> None:
    address = await warmed(scene)
    scene.stage.store.patch_metadata(Namespace, "", NAMESPACE, annotations={"ambimesh.dev/fast-path": "disabled"})
    try:

        async def is_slow() -> bool:
            since = scene.position("node1")
            await one(scene, "client-a", address)
            await trio.sleep(0.5)
            return not fast_records(scene, since)

        await scene.until(is_slow, 10, lambda: "still fast")
    finally:
        scene.stage.store.patch_metadata(Namespace, "", NAMESPACE, annotations={"ambimesh.dev/fast-path": None})
    await warmed(scene)
    assert [pod for pod in scene.stage.store.of_kind(Pod) if pod.metadata.name == "near"]
