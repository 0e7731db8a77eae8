"""What lives through what: connections, pods and processes that come, go and fail while traffic runs."""

from __future__ import annotations

import hashlib
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from ambimesh.demo.stage import NAMESPACE, REDIRECTION
from ambimesh.lab import manifests, readiness
from ambimesh.lab.mesh_processes import agent_name, ztunnel_name
from resources.objects import Pod

pytestmark = pytest.mark.lab

PORT = 9000
SERVICES = """
apiVersion: v1
kind: Service
metadata: {name: both, namespace: demo}
spec:
  selector: {role: both}
  ports: [{name: tcp, port: 7000, targetPort: 9000}]
---
apiVersion: v1
kind: Service
metadata: {name: headless, namespace: demo}
spec:
  clusterIP: None
  selector: {role: both}
  ports: [{name: tcp, port: 9000}]
"""


def echo_pod(name: str, node: str, account: str, namespace: str = NAMESPACE, role: str = "none") -> str:
    """The manifest of a pod that echoes."""
    return f"""
---
apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: {namespace}, labels: {{role: {role}}}}}
spec:
  nodeName: {node}
  serviceAccountName: {account}
  terminationGracePeriodSeconds: 1
  containers: [{{name: echo, command: [python3, -m, ambimesh.apps.tcp_echo], args: [--port, "9000"]}}]
"""


MORE = (
    SERVICES
    + echo_pod("here", "node1", "echo", role="both")
    + echo_pod("there", "node2", "echo", role="both")
    + echo_pod("outsider", "node1", "default", namespace="outside")
)
NEWCOMER = echo_pod("newcomer", "node1", "client-a")


def apply(scene: Any, folder: Path, text: str) -> None:
    file = folder / "more.yaml"
    file.write_text(text)
    report = manifests.apply(scene.stage.store, [file])
    assert not report.problems


@pytest.fixture(scope="module", autouse=True)
def _pods(scene: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    apply(scene, tmp_path_factory.mktemp("more"), MORE)
    assert trio.run(readiness.wait_for_pods, scene.lab, 20.0) == []


@asynccontextmanager
async def kept(scene: Any, *pods: str, to: str = "tcp-echo") -> AsyncIterator[list[Any]]:
    """A connection from each pod that goes on echoing."""
    address = scene.stage.address(to)
    async with trio.open_nursery() as nursery:
        clients: list[Any] = []
        closing = trio.Event()

        async def hold(pod: str) -> None:
            async with scene.stage.client(pod, address, PORT, "--every", "0.02") as client:
                clients.append(client)
                await closing.wait()

        for pod in pods:
            nursery.start_soon(hold, pod)
            await scene.until(lambda pod=pod: len(clients) == pods.index(pod) + 1, 5, lambda: "not started")
        await scene.until(lambda: all(c.count("echoed") for c in clients), 5, lambda: [c.events for c in clients])
        yield clients
        closing.set()


def alive(client: Any) -> bool:
    return client.process.returncode is None and not client.count("closed") and not client.count("failed")


async def echoes(scene: Any, pod: str, host: str, port: int = PORT, namespace: str = NAMESPACE) -> bool:
    """Whether a line comes back; a captured connection stands before its destination has been reached."""
    _, output = await scene.stage.execute(
        pod, "python3", "-m", "ambimesh.apps.tcp_client", host, str(port), "--seconds", "0.05", namespace=namespace
    )
    return '"echoed"' in output


async def everything_over(scene: Any) -> None:
    for node in ("node1", "node2"):
        await scene.until(lambda node=node: scene.quiet(node), 5, lambda: "connections stay in the table")


async def test_connections_survive_enrolment_and_its_end(scene: Any) -> None:
    async with kept(scene, "client-a", "client-b") as before:
        await scene.enrol()
        assert await echoes(scene, "client-a", scene.stage.address("tcp-echo"))
        assert all(map(alive, before)), [client.events for client in before]
        async with kept(scene, "client-a") as meanwhile:
            dump = await scene.connections("node1")
            assert [one["protocol"] for one in dump if one["workload"] == f"{NAMESPACE}/client-a"] == ["HBONE"]
            await scene.enrol(on=False)
            await trio.sleep(3)  # longer than a pod's server waits before it ends
            assert all(map(alive, [*before, *meanwhile])), [client.events for client in [*before, *meanwhile]]
            assert await echoes(scene, "client-a", scene.stage.address("tcp-echo"))
            # Enrolled again while the earlier serving still has a connection: both are served, and judged.
            await scene.enrol()
            async with kept(scene, "client-a", "client-b") as after:
                scene.stage.apply("allow-client-a.yaml")
                try:
                    await scene.until(lambda: not alive(after[1]), 10, lambda: "client-b goes on")
                    await trio.sleep(0.5)
                    assert all(map(alive, [*meanwhile, after[0]]))
                finally:
                    scene.stage.delete("allow-client-a.yaml")
    await everything_over(scene)


async def test_a_policy_cuts_what_it_denies_and_nothing_else(scene: Any) -> None:
    await scene.enrol()
    start = scene.position("node2")
    async with kept(scene, "client-a", "client-b") as (allowed, denied):
        scene.stage.apply("allow-client-a.yaml")
        try:
            await scene.until(lambda: not alive(denied), 10, lambda: "client-b goes on")
            assert not await echoes(scene, "client-b", scene.stage.address("tcp-echo"))
            await trio.sleep(0.5)
            assert alive(allowed)
        finally:
            scene.stage.delete("allow-client-a.yaml")
    await scene.recorded("node2", start, "sa/client-b", "due to policy change")
    await scene.until(
        lambda: echoes(scene, "client-b", scene.stage.address("tcp-echo")), 5, lambda: "client-b stays refused"
    )


async def test_strict_and_permissive(scene: Any) -> None:
    await scene.enrol()
    address = scene.stage.address("tcp-echo")
    for file, admitted in (("strict.yaml", False), ("permissive.yaml", True)):
        scene.stage.apply(file)
        try:

            async def as_wanted(admitted: bool = admitted) -> bool:
                return await echoes(scene, "visitor", address, namespace="outside") == admitted

            await scene.until(as_wanted, 10, lambda file=file: file)
            assert await echoes(scene, "client-b", address)
        finally:
            scene.stage.delete(file)


async def test_every_way_to_dial(scene: Any) -> None:
    """Service on both nodes, headless pods, IPv6, mapped IPv4, the other side outside the mesh."""
    await scene.enrol()
    stage = scene.stage
    there = stage.pod("there").status.addresses
    ipv4, ipv6 = sorted(there, key=lambda one: ":" in one)
    starts = {node: scene.position(node) for node in ("node1", "node2")}
    for host in (ipv4, ipv6, f"::ffff:{ipv4}", stage.address("here")):
        assert await echoes(scene, "client-a", host), host
    for _ in range(12):
        assert await echoes(scene, "client-b", stage.service_address("both"), 7000)
    await scene.recorded("node1", starts["node1"], 'dst.workload="here"', "both.demo.svc", 'direction="outbound"')
    await scene.recorded("node1", starts["node1"], 'dst.workload="there"', "both.demo.svc", 'direction="outbound"')
    await scene.recorded("node2", starts["node2"], 'dst.workload="there"', "sa/client-b", 'direction="inbound"')
    await scene.recorded("node2", starts["node2"], "src.addr=[fd00:10:244:1::", 'direction="inbound"')
    for line in scene.records("node2", starts["node2"]):
        assert "src.identity" in line
    # A pod may reach itself: by loopback, by its address, and by a Service it is an endpoint of.
    for host in ("127.0.0.1", "::1", *stage.pod("here").status.addresses):
        assert await echoes(scene, "here", host), host
    for _ in range(8):
        assert await echoes(scene, "here", stage.service_address("both"), 7000)
    # A pod outside the mesh: in plain, and the record says why.
    assert await echoes(scene, "client-a", stage.address("outsider", "outside"))
    await scene.recorded("node1", starts["node1"], 'no_mtls="destination_not_enrolled"', 'dst.workload="outsider"')
    # Nobody's address: refused by it, not by the mesh.
    assert not await echoes(scene, "client-a", "172.18.0.2", 9)
    await scene.recorded("node1", starts["node1"], 'no_mtls="destination_unknown"', "error=", "172.18.0.2:9")


HALF_CLOSE = """
import json, socket, sys
with socket.create_connection((sys.argv[1], 9000), timeout=10) as sock:
    sock.sendall(b"question")
    sock.shutdown(socket.SHUT_WR)
    answer = b""
    while data := sock.recv(4096):
        answer += data
print(json.dumps(answer.decode()))
"""
TRANSFER = """
import hashlib, json, random, socket, sys, threading, time
size, sleep = int(sys.argv[2]), float(sys.argv[3])
payload = random.Random(5).randbytes(1 << 20)
with socket.create_connection((sys.argv[1], 9000), timeout=60) as sock:
    def send():
        for _ in range(size >> 20):
            sock.sendall(payload)
        sock.shutdown(socket.SHUT_WR)
    sender = threading.Thread(target=send)
    sender.start()
    got, total = hashlib.sha256(), 0
    time.sleep(sleep)
    while data := sock.recv(262144):
        got.update(data)
        total += len(data)
        if sleep and total % 7 == 0:
            time.sleep(0.01)
    sender.join()
print(json.dumps([got.hexdigest(), total]))
"""
MANY = """
import json, socket, sys
count = int(sys.argv[2])
socks = [socket.create_connection((sys.argv[1], 9000), timeout=20) for _ in range(count)]
good = 0
for round in range(3):
    for number, sock in enumerate(socks):
        sock.sendall(b"%d;%d" % (number, round))
    for number, sock in enumerate(socks):
        good += sock.recv(100) == b"%d;%d" % (number, round)
for sock in socks:
    sock.close()
print(json.dumps(good))
"""


async def test_half_close(scene: Any) -> None:
    await scene.enrol()
    for pod in ("tcp-echo", "here"):
        assert await scene.script("client-a", HALF_CLOSE, scene.stage.address(pod)) == "question"
    plain = await scene.script("visitor", HALF_CLOSE, scene.stage.address("tcp-echo"), namespace="outside")
    assert plain == "question"


async def test_a_hundred_megabytes_past_a_slow_reader(scene: Any) -> None:
    await scene.enrol()
    size = 100 << 20
    wanted = hashlib.sha256(random.Random(5).randbytes(1 << 20) * 100).hexdigest()
    start = scene.position("node1")
    async with kept(scene, "client-b") as (other,):
        address = scene.stage.address("tcp-echo")
        found = await scene.script("client-a", TRANSFER, address, str(size), "0.5", timeout=60)
        assert found == [wanted, size]
        assert alive(other)
    record = await scene.recorded("node1", start, 'src.workload="client-a"', f"bytes_sent={size}")
    assert f"bytes_recv={size}" in record
    found = await scene.script("visitor", TRANSFER, address, str(size), "0.2", namespace="outside", timeout=60)
    assert found == [wanted, size]


async def test_two_hundred_connections_side_by_side(scene: Any) -> None:
    await scene.enrol()
    address = scene.stage.address("tcp-echo")
    assert await scene.script("client-a", MANY, address, "20") == 60
    await everything_over(scene)
    before = [scene.descriptors(node) for node in ("node1", "node2")]
    assert await scene.script("client-a", MANY, address, "200") == 600
    await everything_over(scene)

    def counted() -> list[int]:
        return [scene.descriptors(node) for node in ("node1", "node2")]

    # Sockets made ahead for a busy pod are closed soon after its calls have ended.
    await scene.until(
        lambda: all(now <= then + 8 for then, now in zip(before, counted(), strict=True)),
        10,
        lambda: (before, counted()),
    )


async def test_sigterm_lets_a_connection_finish(scene: Any) -> None:
    await scene.enrol()
    stage, name = scene.stage, ztunnel_name("node2")
    spec = stage.processes.spec(name)
    address = stage.address("tcp-echo")
    visitor = scene.pod_netns("visitor", "outside")
    async with scene.dial(visitor, address, PORT) as stream, trio.open_nursery() as nursery:
        await stream.send_all(b"before")
        assert await stream.receive_some() == b"before"
        nursery.start_soon(stage.processes.stop, name)
        await scene.until(lambda: "draining" in scene.log("node2"), 3, lambda: "no drain")
        await stream.send_all(b"while draining")
        with trio.fail_after(2):
            assert await stream.receive_some() == b"while draining"
        assert not await echoes(scene, "client-a", address)
        await stream.send_eof()
        with trio.fail_after(2):
            assert await stream.receive_some() == b""
    assert not stage.processes.is_running(name)
    await stage.processes.start(spec)
    await readiness.wait_for_process(stage.processes, spec, 20)
    assert await echoes(scene, "client-a", address)


async def test_kill_minus_nine(scene: Any) -> None:
    await scene.enrol()
    stage, name = scene.stage, ztunnel_name("node1")
    spec = stage.processes.spec(name)
    address = stage.address("tcp-echo")
    async with stage.wire() as recording, kept(scene, "client-a") as (client,):
        await stage.processes.stop(name, kill=True)
        await scene.until(lambda: not alive(client), 5, lambda: "the connection does not end")
        for host in (address, stage.service_address("both"), stage.pod("there").status.addresses[-1]):
            assert not await echoes(scene, "client-b", host)
        assert not await echoes(scene, "visitor", stage.address("here"), namespace="outside")
        await stage.processes.start(spec)
        await readiness.wait_for_process(stage.processes, spec, 20)
        assert await echoes(scene, "client-b", address)
    assert not recording.beside_tunnels()


async def test_an_agent_restart_is_not_noticed(scene: Any) -> None:
    await scene.enrol()
    name = agent_name("node2")
    async with kept(scene, "client-a") as (client,):
        spec = scene.stage.processes.spec(name)
        await scene.stage.processes.stop(name, kill=True)
        assert await echoes(scene, "client-b", scene.stage.address("tcp-echo"))
        await scene.stage.processes.start(spec)
        await readiness.wait_for_process(scene.stage.processes, spec, 20)
        assert await echoes(scene, "client-b", scene.stage.address("tcp-echo"))
        assert alive(client)


async def test_without_the_operator_what_is_known_stays_in_force(scene: Any, tmp_path: Path) -> None:
    await scene.enrol()
    stage = scene.stage
    spec = stage.processes.spec("operator")
    address = stage.address("tcp-echo")
    async with stage.wire() as recording:
        await stage.processes.stop("operator")
        try:
            assert await echoes(scene, "client-a", address)
            apply(scene, tmp_path, NEWCOMER)
            # It gets an address and is captured, but nobody vouches for it: it waits, or is refused.
            await scene.until(
                lambda: stage.pod("newcomer").status.addresses
                and stage.pod("newcomer").metadata.annotations.get(REDIRECTION) == "enabled",
                15,
                lambda: stage.pod("newcomer").status,
            )
            with trio.move_on_after(3):
                assert not await echoes(scene, "newcomer", address)
        finally:
            await stage.processes.start(spec)
        await scene.until(lambda: echoes(scene, "newcomer", address), 20, lambda: "the newcomer stays out")
    assert not recording.beside_tunnels()


async def test_a_pod_that_comes_back_under_its_name(scene: Any, tmp_path: Path) -> None:
    await scene.enrol()
    stage = scene.stage
    for number in range(2):
        if number:
            stage.store.delete(Pod, NAMESPACE, "newcomer")
            await scene.until(
                lambda: "newcomer" not in {pod.metadata.name for pod in stage.store.of_kind(Pod)}, 10, lambda: "stays"
            )
        apply(scene, tmp_path, NEWCOMER)
        await scene.until(lambda: stage.pod("newcomer").status.ready, 20, lambda: stage.pod("newcomer").status)
        await scene.until(lambda: echoes(scene, "newcomer", stage.address("tcp-echo")), 10, lambda: "cannot call")
        await scene.until(lambda: echoes(scene, "client-b", stage.address("newcomer")), 10, lambda: "is not called")
    pods = [one["name"] for one in (await scene.dump("node1"))["pods"] if not one.get("pending")]
    assert pods.count(f"{NAMESPACE}/newcomer") == 1
