"""Two workers per ztunnel: they share every pod's listeners, and one's end is nobody else's."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from ambimesh.lab import cgroups
from ambimesh.lab.http_client import get
from ambimesh.lab.mesh_processes import ZTUNNEL_READY_PORT, ztunnel_name
from mesh.errors import ConnectFailed

pytestmark = pytest.mark.lab

WISH = {"workers": 2, "certificate_lifetime_seconds": 20}
PORT = 9000
BOTH = {0, 1}


def processes(scene: Any, node: str) -> dict[str, int]:
    """All processes of a node's ztunnel, by name."""
    folder = scene.lab.node_cgroup(scene.lab.node(node)) / "ztunnel"
    found = {}
    for pid in cgroups.processes_in(folder):
        try:
            found[Path(f"/proc/{pid}/comm").read_text().strip()] = pid
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


@asynccontextmanager
async def kept(scene: Any, *pods: str) -> AsyncIterator[list[Any]]:
    """Connections from these pods to the echo on node2, that go on echoing."""
    address = scene.stage.address("tcp-echo")
    async with trio.open_nursery() as nursery:
        clients: list[Any] = []
        closing = trio.Event()

        async def hold(pod: str) -> None:
            async with scene.stage.client(pod, address, PORT, "--every", "0.02") as client:
                clients.append(client)
                await closing.wait()

        for pod in pods:
            nursery.start_soon(hold, pod)
        await scene.until(
            lambda: len(clients) == len(pods) and all(c.count("echoed") for c in clients),
            10,
            lambda: [c.events for c in clients],
        )
        yield clients
        closing.set()


def alive(client: Any) -> bool:
    return client.process.returncode is None and not client.count("closed") and not client.count("failed")


async def by_worker(scene: Any, node: str) -> Counter[int]:
    """How many live connections each worker of a node has."""
    return Counter(one["worker"] for one in await scene.connections(node))


async def total(scene: Any, node: str, family: str) -> float:
    """The sum of a metric over its labels."""
    lines = await scene.stage.metrics(node)
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith((family + "{", family + " ")))


async def ready(scene: Any, node: str) -> tuple[int, str]:
    answer = await get(scene.node_netns(node), ZTUNNEL_READY_PORT, "/healthz/ready")
    return answer.status, answer.body.decode()


async def serving(scene: Any, node: str) -> bool:
    """Whether both workers of a node serve."""
    try:
        return (await ready(scene, node))[0] == 200 and await total(scene, node, "ztunnel_workers") == 2
    except ConnectFailed:
        return False  # not started so far


async def test_a_worker_that_is_killed_takes_its_own_connections_along_and_is_replaced(scene: Any) -> None:
    await scene.enrol()
    assert set(processes(scene, "node1")) == {"ztunnel", "ztunnel-spawner", "ztunnel-work-0", "ztunnel-work-1"}
    start = scene.position("node1")
    async with kept(scene, *["client-a"] * 6) as clients:
        assert await by_worker(scene, "node1") == {0: 3, 1: 3}
        opened = await total(scene, "node1", "istio_tcp_connections_opened_total")
        sent = await total(scene, "node1", "istio_tcp_sent_bytes_total")
        assert opened >= 6
        address = scene.stage.address("tcp-echo")
        async with scene.stage.client("client-b", address, PORT, "--reconnect", "--every", "0.01") as traffic:
            await scene.until(lambda: traffic.count("good") >= 10, 10, lambda: traffic.events)
            os.kill(processes(scene, "node1")["ztunnel-work-0"], signal.SIGKILL)
            await scene.until(lambda: sum(map(alive, clients)) == 3, 5, lambda: [c.events[-1] for c in clients])
            died = max(float(one.events[-1]["at"]) for one in clients if not alive(one))
            await scene.until(lambda: serving(scene, "node1"), 10, lambda: scene.log("node1")[start:][-3000:])
            before = traffic.count("good")
            await scene.until(lambda: traffic.count("good") >= before + 50, 10, lambda: traffic.events[-5:])
        # Whoever was in the dead one's queue was reset; from then on nobody met it.
        assert traffic.after(died + 0.5, "failed") == []
        assert sum(map(alive, clients)) == 3
        assert await by_worker(scene, "node1") == {1: 3}
        assert await total(scene, "node1", "istio_tcp_connections_opened_total") >= opened
        assert await total(scene, "node1", "istio_tcp_sent_bytes_total") >= sent
        assert await total(scene, "node1", "ztunnel_worker_deaths_total") == 1
        log = scene.log("node1")[start:]
        assert 'worker died worker=0 reason="killed by SIGKILL"' in log
        assert "connections ended with their worker worker=0" in log
        async with kept(scene, *["client-b"] * 4):
            assert set(await by_worker(scene, "node1")) == BOTH  # the new one has its share
    await scene.until(lambda: scene.quiet("node1"), 5, lambda: "connections stay in the table or in the metrics")
    opened, closed = [
        await total(scene, "node1", f"istio_tcp_connections_{what}_total") for what in ("opened", "closed")
    ]
    assert opened == closed


async def test_a_policy_cuts_what_it_denies_in_both_workers(scene: Any) -> None:
    await scene.enrol()
    async with kept(scene, *["client-a"] * 4, *["client-b"] * 4) as clients:
        inbound = [one for one in await scene.connections("node2") if "sa/client-b" in one["sourceIdentity"]]
        assert {one["worker"] for one in inbound} == BOTH
        scene.stage.apply("allow-client-a.yaml")
        try:
            # The clients start in any order: whose connection is whose is told by the far side.
            await scene.until(lambda: sum(map(alive, clients)) == 4, 10, lambda: [c.events[-1] for c in clients])
            await trio.sleep(0.5)
            assert sum(map(alive, clients)) == 4
            left = await scene.connections("node2")
            assert {one["sourceIdentity"].rpartition("/")[2] for one in left} == {"client-a"}
            for _ in range(4):  # whichever worker it meets
                status, output = await scene.stage.execute(
                    *("client-b", "python3", "-m", "ambimesh.apps.tcp_client"),
                    *(scene.stage.address("tcp-echo"), str(PORT), "--seconds", "0.05"),
                )
                assert status != 0
                assert '"echoed"' not in output
        finally:
            scene.stage.delete("allow-client-a.yaml")


async def test_certificates_of_both_workers_are_renewed_under_traffic(scene: Any) -> None:
    await scene.enrol()
    seen: dict[tuple[str, int], set[str]] = {}

    async def renewed() -> bool:
        for one in (await scene.dump("node1"))["certificates"]:
            if one["serialNumber"]:
                seen.setdefault((one["name"], one["worker"]), set()).add(one["serialNumber"])
        return len(seen) >= 6 and all(len(serials) >= 2 for serials in seen.values())

    address = scene.stage.address("tcp-echo")
    async with (
        kept(scene, "client-a", "client-b"),
        scene.stage.client("client-a", address, PORT, "--reconnect", "--every", "0.05") as traffic,
    ):
        await scene.until(renewed, 30, lambda: seen)
        before = traffic.count("good")
        await scene.until(lambda: traffic.count("good") >= before + 20, 10, lambda: traffic.events[-5:])
        assert traffic.count("failed") == 0
    everyone = [serial for serials in seen.values() for serial in serials]
    assert len(everyone) == len(set(everyone))  # each worker has keys of its own


async def test_log_levels_reach_all_workers(scene: Any) -> None:
    await scene.enrol()

    async def levels(*options: str) -> object:
        """What ``ambimesh ztunnel-config log`` says."""
        command = [sys.executable, "-m", "ambimesh", "ztunnel-config", "log", "--node", "node1", "-o", "json", *options]
        environment = {**os.environ, "AMBIMESH_LAB": scene.lab.layout.name}
        return json.loads((await trio.run_process(command, capture_stdout=True, env=environment)).stdout)

    await scene.until(lambda: scene.quiet("node1"), 5, lambda: "connections stay")
    assert await levels() == {"level": "info", "access": "info"}
    assert await levels("--access-level", "off") == {"level": "info", "access": "off"}
    await trio.sleep(0.5)  # what was logged before waits up to a tenth of a second to be written
    try:
        start = scene.position("node1")
        async with kept(scene, *["client-a"] * 4):
            assert set(await by_worker(scene, "node1")) == BOTH
        await scene.until(lambda: scene.quiet("node1"), 5, lambda: "connections stay")
        assert scene.records("node1", start) == []
    finally:
        await levels("--access-level", "info")
    async with kept(scene, *["client-a"] * 4):
        pass
    await scene.until(lambda: len(scene.records("node1", start)) == 4, 5, lambda: scene.records("node1", start))


async def test_both_workers_drain(scene: Any) -> None:
    await scene.enrol()
    start = scene.position("node1")
    async with kept(scene, *["client-a"] * 4) as clients:
        assert set(await by_worker(scene, "node1")) == BOTH
        await scene.stage.processes.stop(ztunnel_name("node1"))
        await scene.until(lambda: not any(map(alive, clients)), 5, lambda: [c.events[-1] for c in clients])
        lived = min(float(one.events[-1]["at"]) - float(one.events[0]["at"]) for one in clients)
        assert lived > 2  # they were given time
    assert processes(scene, "node1") == {}
    records = scene.records("node1", start)
    assert sum("ztunnel has shut down" in line for line in records) == 4
    await scene.stage.processes.start(scene.stage.processes.spec(ztunnel_name("node1")))
    await scene.until(lambda: serving(scene, "node1"), 10, lambda: scene.log("node1")[-2000:])


@pytest.mark.parametrize("victim", ["ztunnel", "ztunnel-spawner"])
async def test_without_supervisor_or_spawner_there_is_no_worker_and_nothing_in_clear(scene: Any, victim: str) -> None:
    await scene.enrol()
    marker = scene.stage.marker()
    address = scene.stage.address("tcp-echo")
    ztunnel = ztunnel_name("node1")
    async with (
        scene.stage.wire() as recording,
        scene.stage.client(
            "client-a", address, PORT, "--reconnect", "--every", "0.02", "--text", marker
        ) as traffic,
    ):
        await scene.until(lambda: traffic.count("good") >= 5, 10, lambda: "no traffic before")
        os.kill(processes(scene, "node1")[victim], signal.SIGKILL)
        await scene.until(lambda: processes(scene, "node1") == {}, 5, lambda: processes(scene, "node1"))
        failed, good = traffic.count("failed"), traffic.count("good")
        await scene.until(lambda: traffic.count("failed") >= failed + 10, 10, lambda: traffic.events[-5:])
        assert traffic.count("good") == good
        await scene.stage.processes.stop(ztunnel, kill=True)
        await scene.stage.processes.start(scene.stage.processes.spec(ztunnel))
        await scene.until(lambda: traffic.count("good") >= good + 5, 20, lambda: traffic.events[-5:])
        await scene.until(lambda: serving(scene, "node1"), 10, lambda: scene.log("node1")[-2000:])
    assert not recording.shows(marker)
    assert recording.beside_tunnels() == []


async def test_the_fast_path_remembers_what_workers_admit_and_forgets_with_the_policy(scene: Any) -> None:
    await scene.enrol()
    stage = scene.stage
    url = f"http://{stage.address('echo-1')}:8080/"  # on the clients' own node

    def direct(pod: str, since: int) -> bool:
        records = scene.records("node1", since)
        return any(f'src.workload="{pod}"' in line and "fast_path=true" in line for line in records)

    async def called(pod: str, since: int) -> bool:
        assert await stage.reaches(pod, url)
        return direct(pod, since)

    start = scene.position("node1")
    for pod in ("client-a", "client-b"):
        await scene.until(lambda pod=pod: called(pod, start), 10, lambda: scene.records("node1", start)[-4:])
    stage.apply("allow-client-a.yaml")
    try:

        async def refused() -> bool:
            return not await stage.reaches("client-b", url)

        await scene.until(refused, 10, lambda: "client-b is admitted")
        refused_since = scene.position("node1")
        # Records come in order: with this one, those of calls of client-b that the policy was too late for are written.
        await scene.until(
            lambda: called("client-a", refused_since), 10, lambda: scene.records("node1", refused_since)[-4:]
        )
        later = scene.position("node1")
        for _ in range(4):
            assert await refused()
        await scene.until(lambda: called("client-a", later), 10, lambda: scene.records("node1", later)[-4:])
        assert not direct("client-b", later)
    finally:
        stage.delete("allow-client-a.yaml")
