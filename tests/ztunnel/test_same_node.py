"""The same-node fast path in a lab: real ztunnel, agent and operator, while policies change and processes die."""

from __future__ import annotations

import itertools
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
from ebpf.fastpath.flows import FlowTable
from ebpf.fastpath.tables import FastPathMaps
from ebpf.paths import PinPaths
from mesh.netns import NetworkNamespace
from resources.objects import Namespace, Pod

pytestmark = pytest.mark.lab

PORT = 9000
_numbers = itertools.count(1)
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
  containers:
  - name: echo
    command: [python3, -c]
    args:
    - |
      import socket, threading
      def echo(sock):
          with sock:
              sock.settimeout(100)
              while data := sock.recv(65536):
                  sock.sendall(data)
      listener = socket.create_server(("::", 9000), family=socket.AF_INET6, dualstack_ipv6=True, backlog=4096)
      while True:
          threading.Thread(target=echo, args=(listener.accept()[0],), daemon=True).start()
"""
"""The server's sockets do not block: those that do are not spliced."""
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
import json, os, random, socket, sys, time
host, port, count, stop, seconds = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4], float(sys.argv[5])
socks = [socket.create_connection((host, port), timeout=10) for _ in range(count)]
alive, cut, rounds, sent, end = set(socks), 0, 0, 0, time.monotonic() + seconds
source, pool = random.Random(count), os.urandom(1 << 16)
while alive and time.monotonic() < end and not os.path.exists(stop):
    for sock in list(alive):
        said = pool[source.randrange(1 << 15):][:source.choice((1, 11, 200, 4000))]
        try:
            sock.sendall(said)
            got = b""
            while len(got) < len(said):
                data = sock.recv(1 << 16)
                if not data:
                    raise OSError("end")
                got += data
            sent += len(said)
        except OSError:
            alive.discard(sock)
            cut += 1
            continue
        assert got == said, "not what was said"
    rounds += 1
    time.sleep(0.005)
print(json.dumps({"cut": cut, "alive": len(alive), "rounds": rounds, "sent": sent}))
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
    found: dict[str, int] = await scene.script(pod, FLOWS, host, str(port), "1", "/nonexistent", "0.05")
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


def spliced(scene: Any, pod: str) -> int:
    """How many live connections of a pod have gone past TCP in both directions."""
    with NetworkNamespace.open(scene.pod_netns(pod)) as namespace:
        netns = namespace.cookie()
    paths = PinPaths(scene.lab.layout.bpffs, "node1")
    with FastPathMaps(paths) as maps, FlowTable(paths) as flows:
        ways = flows.all()
        past_tcp = {cookie for cookie, way in ways.items() if way.spliced > 0}
        return sum(
            {connection.cookie, connection.server_cookie} <= past_tcp
            for connection in maps.live()
            if connection.source_netns == netns
        )


class Flows:
    """Connections of a pod that say random bytes to the near pod and hear them back."""

    def __init__(self, stop: Path) -> None:
        self.stop = stop
        self.fate: dict[str, int] = {}
        """Once it has ended: how many were cut, how many lived to the end, rounds, bytes said and heard back."""


@asynccontextmanager
async def flowing(scene: Any, pod: str, count: int, folder: Path) -> AsyncIterator[Flows]:
    """Many fast connections, all spliced when the block begins, ended after it."""
    address, flows = scene.stage.address("near"), Flows(folder / f"stop-{pod}-{next(_numbers)}")

    async def flow() -> None:
        flows.fate = await scene.script(pod, FLOWS, address, str(PORT), str(count), str(flows.stop), "90", timeout=100)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(flow)
        await scene.until(lambda: spliced(scene, pod) == count, 60, lambda: f"{spliced(scene, pod)} are spliced")
        yield flows
        flows.stop.touch()


def bytes_sent(records: list[str], account: str) -> int:
    """What the outbound records of an account's connections say together."""
    mine = [line for line in records if f'sa/{account}"' in line.split("dst.addr")[0] and '"outbound"' in line]
    return sum(int(re.findall(r"bytes_sent=(\d+)", line)[0]) for line in mine)


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


async def test_a_policy_change_cuts_what_it_denies_while_a_thousand_flow(scene: Any, tmp_path: Path) -> None:
    """The denied are cut, the others unharmed, and every connection and byte of both is in the records."""
    await warmed(scene)
    await warmed(scene, "client-b")
    since = scene.position("node1")
    async with flowing(scene, "client-a", 700, tmp_path) as denied, flowing(scene, "client-b", 300, tmp_path) as kept:
        file = apply(scene, tmp_path, DENY)
        await scene.until(lambda: spliced(scene, "client-a") == 0, 20, lambda: f"{spliced(scene, 'client-a')} go on")
        assert spliced(scene, "client-b") == 300
        await scene.until(lambda: bool(denied.fate), 20, lambda: "the denied do not notice")
    manifests.delete(scene.stage.store, [file])
    assert (denied.fate["cut"], denied.fate["alive"]) == (700, 0)
    assert (kept.fate["cut"], kept.fate["alive"]) == (0, 300)
    await scene.until(lambda: len(fast_records(scene, since)) >= 2000, 10, lambda: len(fast_records(scene, since)))
    records = fast_records(scene, since)
    assert len(records) == 2000
    assert sum("closed due to policy change" in line for line in records) == 1400
    assert bytes_sent(records, "client-b") == kept.fate["sent"]
    # A message may have left a client that was cut before it was answered.
    assert 0 <= bytes_sent(records, "client-a") - denied.fate["sent"] <= 700 * 4000
    await scene.until(lambda: spliced(scene, "client-b") == 0, 5, lambda: "left in the kernel")


async def test_connections_outlive_ztunnel_and_are_adopted(scene: Any, tmp_path: Path) -> None:
    await warmed(scene)
    stage, name = scene.stage, ztunnel_name("node1")
    spec = stage.processes.spec(name)
    async with flowing(scene, "client-a", 50, tmp_path) as flows:
        await stage.processes.stop(name, kill=True)
        refused = await scene.stage.execute(
            "client-a",
            "python3",
            "-m",
            "ambimesh.apps.tcp_client",
            stage.address("near"),
            str(PORT),
            "--seconds",
            "0.05",
            namespace=NAMESPACE,
        )
        assert '"echoed"' not in refused[1]
        assert spliced(scene, "client-a") == 50
        await stage.processes.start(spec)
        await readiness.wait_for_process(stage.processes, spec, 20)
        assert spliced(scene, "client-a") == 50
        since = scene.position("node1")
        file = apply(scene, tmp_path, DENY)  # the new one judges what the old one let through
        await scene.until(lambda: len(fast_records(scene, since)) >= 100, 20, lambda: scene.log("node1")[-1500:])
        manifests.delete(scene.stage.store, [file])
    assert flows.fate["cut"] == 50
    assert flows.fate["rounds"] > 50
    records = fast_records(scene, since)
    assert 0 <= bytes_sent(records, "client-a") - flows.fate["sent"] <= 50 * 4000


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
