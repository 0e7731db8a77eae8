"""The same-node fast path while the mesh changes around it: hand-over between ztunnels, pods that vanish, Services."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
import yaml

from ambimesh.lab import manifests, readiness
from ambimesh.lab.mesh_processes import ztunnel_name
from ambimesh.lab.processes import ProcessSpec
from ebpf.fastpath.flows import FlowTable
from ebpf.fastpath.tables import FastPathMaps
from ebpf.paths import PinPaths
from mesh.testing.scale import scaled

pytestmark = pytest.mark.lab

PORT = 9000
CROWDED = 9100
POD = """
---
apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: demo, labels: {{role: {role}}}}}
spec:
  nodeName: {node}
  serviceAccountName: echo
  terminationGracePeriodSeconds: 1
  containers: [{{name: main, command: [python3, -c], args: [{program}]}}]
"""
SERVICE = """
---
apiVersion: v1
kind: Service
metadata: {name: many, namespace: demo}
spec:
  selector: {role: many}
  ports: [{name: tcp, port: 7000, targetPort: 9000}]
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
DENY_B = DENY.replace("deny-a", "deny-b").replace("client-a", "client-b")
SERVER = """
import socket, sys, threading
def handle(sock):
    with sock:
        sock.settimeout(60)
        sock.sendall(NAME)
        while data := sock.recv(65536):
            sock.sendall(data)
NAME = b"%s\\n"
listener = socket.create_server(("::", 9000), family=socket.AF_INET6, dualstack_ipv6=True, backlog=4096)
while True:
    threading.Thread(target=handle, args=(listener.accept()[0],), daemon=True).start()
"""
CLIENT = """
import json, os, socket, sys, time
host, port, count, stop, seconds = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4], float(sys.argv[5])
socks, names, sent, cut = [], [], 0, 0
for _ in range(count):
    sock = socket.create_connection((host, port), timeout=10)
    name = b""
    while not name.endswith(b"\\n"):
        name += sock.recv(1) or b"?\\n"
    names.append(name.decode().strip())
    if seconds:
        socks.append(sock)
    else:
        sock.close()
end = time.monotonic() + seconds
while socks and time.monotonic() < end and not os.path.exists(stop):
    for sock in list(socks):
        try:
            sock.sendall(b"0123456789")
            got = b""
            while len(got) < 10:
                data = sock.recv(100)
                if not data:
                    raise OSError("end")
                got += data
            sent += 10
        except OSError:
            socks.remove(sock)
            cut += 1
            continue
        assert got == b"0123456789"
    time.sleep(0.005)
print(json.dumps({"names": names, "cut": cut, "alive": len(socks), "sent": sent}))
"""
CROWD = """
import os, socket, sys, time
listener = socket.create_server(("::", 9100), family=socket.AF_INET6, dualstack_ipv6=True, backlog=1)
listener.settimeout(0.05)
accepted = []
while not os.path.exists(sys.argv[2]):
    try:
        if not os.path.exists(sys.argv[1]):
            accepted.append(listener.accept()[0])
    except TimeoutError:
        pass
    time.sleep(0.005)
print("null")
"""
DIALS = """
import errno, json, select, socket, sys
socks = [socket.socket() for _ in range(12)]
for sock in socks:
    sock.setblocking(False)
    assert sock.connect_ex((sys.argv[1], 9100)) == errno.EINPROGRESS
poller, outcomes = select.poll(), []
names = {sock.fileno(): sock for sock in socks}
for number in names:
    poller.register(number, select.POLLHUP)
while names and (ready := poller.poll(40000)):
    for number, _ in ready:
        poller.unregister(number)
        error = names.pop(number).getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        outcomes.append(errno.errorcode.get(error, "none"))
print(json.dumps(outcomes))
"""

KNOCK = """
import socket, sys
socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=5).close()
"""


def pod(name: str, role: str, node: str) -> str:
    return POD.format(name=name, role=role, node=node, program=json.dumps(SERVER.replace("%s", name)))


@pytest.fixture(scope="module", autouse=True)
def _pods(scene: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    pods = [pod("many-1", "many", "node1"), pod("many-2", "many", "node1"), pod("many-3", "many", "node2")]
    apply(scene, tmp_path_factory.mktemp("pods"), SERVICE + "".join(pods))
    assert trio.run(readiness.wait_for_pods, scene.lab, 20.0) == []
    trio.run(scene.enrol)


def apply(scene: Any, folder: Path, text: str) -> Path:
    file = folder / "objects.yaml"
    file.write_text(text)
    assert not manifests.apply(scene.stage.store, [file]).problems
    return file


def fast_records(scene: Any, since: int) -> list[str]:
    return [line for line in scene.records("node1", since) if "fast_path=true" in line]


def paths_of(scene: Any) -> PinPaths:
    return PinPaths(scene.lab.layout.bpffs, "node1")


def spliced(scene: Any) -> int:
    """How many live connections have gone past TCP in both directions."""
    with FastPathMaps(paths_of(scene)) as maps, FlowTable(paths_of(scene)) as flows:
        past_tcp = {cookie for cookie, way in flows.all().items() if way.spliced > 0}
        return sum({one.cookie, one.server_cookie} <= past_tcp for one in maps.live())


async def call(scene: Any, host: str, port: int, count: int = 1) -> list[str]:
    """Who answered each of so many connections, made one after the other."""
    found = await scene.script("client-a", CLIENT, host, str(port), str(count), "/nonexistent", "0", timeout=100)
    names: list[str] = found["names"]
    return names


async def become_fast(scene: Any, *addresses: str) -> None:
    """Call until all of these are dialled directly."""

    async def is_fast() -> bool:
        since = scene.position("node1")
        for address in addresses:
            await call(scene, address, PORT)
        await trio.sleep(0.6)
        records = fast_records(scene, since)
        return all(any(f"{address}:{PORT}" in line for line in records) for address in addresses)

    await scene.until(is_fast, 20, lambda: scene.log("node1")[-2000:])


@asynccontextmanager
async def flowing(scene: Any, address: str, count: int, folder: Path) -> AsyncIterator[dict[str, Any]]:
    """Many spliced connections of client-a; what became of them is in the dictionary once the block has ended."""
    stop, fate = folder / "stop", {}
    stop.unlink(missing_ok=True)

    async def flow() -> None:
        fate.update(
            await scene.script("client-a", CLIENT, address, str(PORT), str(count), str(stop), "90", timeout=100)
        )

    async with trio.open_nursery() as nursery:
        nursery.start_soon(flow)
        await scene.until(lambda: spliced(scene) == count, 60, lambda: f"{spliced(scene)} are spliced")
        yield fate
        stop.touch()


async def test_connections_to_a_service_are_spread_as_without_the_fast_path(scene: Any) -> None:
    """Two of three endpoints are dialled directly, the third through a tunnel, and each takes its third."""
    near = [scene.stage.address("many-1"), scene.stage.address("many-2")]
    await become_fast(scene, *near)
    vip = scene.stage.service_address("many")
    await call(scene, vip, 7000, 30)  # every endpoint is known
    await trio.sleep(1)  # and recorded
    count = scaled(600)
    since = scene.position("node1")
    drawn = Counter(await call(scene, vip, 7000, count))
    expected, deviation = count / 3, (count * 2 / 9) ** 0.5
    assert set(drawn) == {"many-1", "many-2", "many-3"}
    assert all(abs(number - expected) < 6 * deviation for number in drawn.values()), drawn
    near_drawn = drawn["many-1"] + drawn["many-2"]

    def directly() -> list[str]:
        mine = [line for line in fast_records(scene, since) if 'direction="outbound"' in line]
        return [line for line in mine if 'dst.service="many.demo.svc.cluster.local"' in line]

    await scene.until(lambda: len(directly()) == near_drawn, 10, lambda: f"{len(directly())} of {near_drawn} are fast")
    workloads = Counter(re.findall(r'dst.workload="([^"]+)"', "\n".join(directly())))
    assert workloads == {"many-1": drawn["many-1"], "many-2": drawn["many-2"]}


async def test_a_dial_that_is_pending_is_cut_by_a_policy_change(scene: Any, tmp_path: Path) -> None:
    """The server's queue is full, so SYNs are not answered; nothing comes of them once they are denied."""
    address, full, stop = scene.stage.address("many-1"), tmp_path / "full", tmp_path / "stop"
    outcomes: list[str] = []

    def live() -> list[Any]:
        with FastPathMaps(paths_of(scene)) as maps:
            return [one for one in maps.live() if one.destination.port == CROWDED]

    async def admitted() -> bool:
        await scene.stage.execute("client-a", "python3", "-c", KNOCK, address, str(CROWDED))
        return bool(live())  # the server keeps its end

    async def dial() -> None:
        outcomes.extend(await scene.script("client-a", DIALS, address, timeout=60))

    async def serve() -> None:
        await scene.script("many-1", CROWD, str(full), str(stop), timeout=90)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        await trio.sleep(0.5)
        await scene.until(admitted, 20, lambda: "never dialled directly")
        full.touch()
        await trio.sleep(0.2)
        known = {one.cookie for one in live()}
        nursery.start_soon(dial)

        def pending() -> int:
            return sum(not one.server_cookie for one in live() if one.cookie not in known)

        await scene.until(lambda: pending() >= 5, 10, lambda: f"{pending()} are pending")
        file = apply(scene, tmp_path, DENY)
        await scene.until(lambda: not live(), 20, lambda: f"live: {live()}")
        stop.touch()
    manifests.delete(scene.stage.store, [file])
    assert len(outcomes) == 12
    assert set(outcomes) <= {"ECONNABORTED", "ECONNRESET"}


def beside(spec: ProcessSpec) -> ProcessSpec:
    """Another ztunnel for the same node, with its own configuration file and ports."""
    configuration = Path(spec.argv[-1])
    settings = yaml.safe_load(configuration.read_text())
    settings["admin"] = {"admin_port": 25000, "metrics_port": 25020, "readiness_port": 25021}
    other = configuration.with_name(f"{spec.name}-next.yaml")
    other.write_text(yaml.safe_dump(settings))
    return msgspec.structs.replace(spec, name=f"{spec.name}-next", argv=(*spec.argv[:-1], str(other)), ready_port=25021)


async def test_a_second_ztunnel_takes_over(scene: Any, tmp_path: Path) -> None:
    """Both run for a while; then the first drains and ends. What flows goes on, verdicts are learnt again, and what the
    first let through the second judges and records.
    """
    address = scene.stage.address("many-1")
    await become_fast(scene, address)
    processes = scene.stage.processes
    spec = processes.spec(ztunnel_name("node1"))
    second = beside(spec)
    log = processes.log_file(second.name)

    def recorded() -> list[str]:
        return [line for line in log.read_text(errors="replace").splitlines() if "fast_path=true" in line]

    async with flowing(scene, address, 50, tmp_path) as fate:
        await processes.start(second)
        try:
            await readiness.wait_for_process(processes, second, 20)
            assert await call(scene, address, PORT, 20) == ["many-1"] * 20
            file = apply(scene, tmp_path, DENY_B)  # a change while there are two
            await trio.sleep(1)
            manifests.delete(scene.stage.store, [file])
            await processes.stop(spec.name)
            assert spliced(scene) >= 50

            async def is_fast() -> bool:
                before = len(recorded())
                await call(scene, address, PORT, 3)
                await trio.sleep(0.6)
                return len(recorded()) >= before + 6

            await scene.until(is_fast, 20, lambda: recorded()[-10:])
            before = len(recorded())
            file = apply(scene, tmp_path, DENY)
            await scene.until(lambda: bool(fate), 20, lambda: "what is denied is not cut")
            manifests.delete(scene.stage.store, [file])
            await scene.until(lambda: len(recorded()) >= before + 100, 10, lambda: len(recorded()) - before)
            assert sum("closed due to policy change" in line for line in recorded()[before:]) == 100
        finally:
            await processes.start(spec)
            await readiness.wait_for_process(processes, spec, 20)
            await processes.stop(second.name)
    assert (fate["cut"], fate["alive"]) == (50, 0)
    assert fate["sent"] > 50 * 10
    assert "Traceback" not in log.read_text(errors="replace")
    await become_fast(scene, address)


async def test_a_pod_that_is_deleted_mid_flow(scene: Any, tmp_path: Path) -> None:
    """Its connections end and are recorded; nothing of them stays in the kernel, and its name is free again."""
    address = scene.stage.address("many-2")
    await become_fast(scene, address)
    since = scene.position("node1")
    file = tmp_path / "pod.yaml"
    file.write_text(pod("many-2", "many", "node1"))
    async with flowing(scene, address, 100, tmp_path) as fate:
        manifests.delete(scene.stage.store, [file])
        await scene.until(lambda: bool(fate), 20, lambda: "clients do not notice")
    assert (fate["cut"], fate["alive"]) == (100, 0)
    await scene.until(lambda: len(fast_records(scene, since)) >= 200, 10, lambda: len(fast_records(scene, since)))
    assert len(fast_records(scene, since)) == 200
    assert spliced(scene) == 0
    with FlowTable(paths_of(scene)) as flows:
        assert flows.all() == {}
    since = scene.position("node1")
    status, _ = await scene.stage.execute("client-a", "python3", "-c", KNOCK, address, str(PORT))
    assert status != 0 or not fast_records(scene, since)
    assert not manifests.apply(scene.stage.store, [file]).problems
    assert await readiness.wait_for_pods(scene.lab, 20.0) == []
    await scene.enrol()
    await become_fast(scene, scene.stage.address("many-2"))
