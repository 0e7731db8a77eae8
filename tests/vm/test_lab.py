"""A whole lab on Debian's kernel: two nodes with all processes of the mesh, with TLS of OpenSSL, then of the kernel.

What is shown is what `ambimesh demo` shows of these things, by its own lines; a line that does not hold raises. The
programs of both nodes are compiled once, as that takes a minute of the machine's clock.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator

import pytest
import trio
import yaml

from ambimesh.commands.lab import SHIPPED_MANIFESTS
from ambimesh.demo import lines_capture, lines_identity, lines_resilience, lines_waypoint
from ambimesh.demo.run import CERTIFICATE_SECONDS
from ambimesh.demo.stage import Stage
from ambimesh.dump_codec import ADMIN_PORT
from ambimesh.lab import manifests, readiness
from ambimesh.lab.bring_up import Wish, bring_up
from ambimesh.lab.http_client import get
from ambimesh.lab.layout import STATE_ROOT, LabLayout
from ambimesh.lab.mesh_processes import ztunnel_name
from ambimesh.lab.record import ProcessSettings
from ambimesh.lab.take_down import take_down
from ambimesh.lab.ztunnel_admin import fetch
from controlplane.reconcile.waypoints import GATEWAY_NAME_LABEL
from resources.objects import Pod

pytestmark = [pytest.mark.vm, pytest.mark.root]

BULK_BYTES = 6 << 20
BULK = f"""
import hashlib, json, os, socket, sys, threading
sent, heard, size = hashlib.sha256(), hashlib.sha256(), 0
with socket.create_connection((sys.argv[1], 9000), timeout=60) as sock:
    def give():
        for _ in range({BULK_BYTES} >> 16):
            words = os.urandom(1 << 16)
            sent.update(words)
            sock.sendall(words)
        sock.shutdown(socket.SHUT_WR)
    giver = threading.Thread(target=give)
    giver.start()
    while data := sock.recv(1 << 16):
        heard.update(data)
        size += len(data)
    giver.join()
print(json.dumps([size, sent.hexdigest() == heard.hexdigest()]))
"""
"""Gives an echo random bytes while it hears them back: bulk in both directions at once."""


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    """A lab with the shipped manifests, its pods enrolled."""
    assert os.statvfs(STATE_ROOT.parent).f_flag & os.ST_NOEXEC, "Debian's /run is mounted otherwise than users' are"
    layout = LabLayout.named(f"vm{os.getpid():x}")
    settings = ProcessSettings(waypoint={"kernel_tls": "auto"})
    wish = Wish(layout=layout, certificate_lifetime_seconds=CERTIFICATE_SECONDS, settings=settings)
    stage = Stage(trio.run(bring_up, wish, print))
    try:
        assert not manifests.apply(stage.store, [SHIPPED_MANIFESTS]).problems
        assert trio.run(readiness.wait_for_pods, stage.lab, 60.0) == []
        trio.run(stage.enrol)
        yield stage
        for name in stage.processes.names():
            assert "Traceback" not in stage.processes.log_file(name).read_text(errors="replace"), name
    finally:
        trio.run(take_down, stage.lab, print)
    assert not layout.root.exists()


def carries(said: str) -> bool:
    """Whether a process says that the kernel has the TLS of some of its tunnels, and that it kept none from it."""
    return re.fullmatch(r"on: [1-9]\d* connections, 0 declined", said) is not None


async def both_on_kernel(stage: Stage) -> bool:
    dumps = [await fetch(stage.lab, node.name) for node in stage.lab.nodes]
    return all(carries(process["kernelTls"]) for dump in dumps for process in dump["processes"])


async def carry_bulk(stage: Stage) -> None:
    status, output = await stage.execute(
        lines_capture.CLIENT, "python3", "-c", BULK, stage.address("tcp-echo"), timeout=240
    )
    assert status == 0, output
    assert json.loads(output) == [BULK_BYTES, True]


async def test_between_nodes_there_is_only_tls_of_both_identities(stage: Stage) -> None:
    print(await lines_capture.only_tls(stage))
    print(await lines_identity.identities_named(stage))


async def test_a_connection_within_a_node_is_dialled_directly(stage: Stage) -> None:
    since = len(stage.access_log("node1"))

    async def seen() -> bool:
        report = await stage.call(lines_capture.CLIENT, f"http://{stage.address('echo-1')}:8080/")
        assert report["pod"] == "echo-1"
        lines = [line for line in stage.access_log("node1")[since:].splitlines() if "fast_path=true" in line]
        return all(any(lines_identity.names_both(line, way) for line in lines) for way in ("outbound", "inbound"))

    await stage.until(seen, 60, lambda: stage.access_log("node1")[since:][-3000:])


@pytest.fixture(scope="module")
def kernel(stage: Stage) -> Stage:
    """The same lab, its ztunnels started anew with ``kernel_tls: auto``."""

    async def restart() -> None:
        for node in stage.lab.nodes:
            name = ztunnel_name(node.name)
            file = stage.lab.layout.config / f"{name}.yaml"
            file.write_text(yaml.safe_dump({**yaml.safe_load(file.read_text()), "kernel_tls": "auto"}))
            assert "TLS of tunnels is" not in stage.access_log(node.name)
            await stage.processes.restart(name)
        for node in stage.lab.nodes:
            spec = stage.processes.spec(ztunnel_name(node.name))
            await readiness.wait_for_process(stage.processes, spec, readiness.READY_SECONDS)
            assert "TLS of tunnels is the kernel's" in stage.access_log(node.name)

        async def served() -> bool:
            return await stage.reaches(lines_capture.CLIENT, f"http://{stage.address(lines_capture.FAR_ECHO)}:8080/")

        await stage.until(served, 30, lambda: stage.access_log("node1")[-3000:])

    trio.run(restart)
    return stage


async def test_the_kernels_tls_carries_bulk_both_ways(kernel: Stage) -> None:
    await carry_bulk(kernel)
    assert await both_on_kernel(kernel)
    print(await lines_capture.only_tls(kernel))


async def test_certificates_rotate_under_the_kernels_tls(kernel: Stage) -> None:
    async with lines_resilience.rotating(kernel) as rotation:
        print(await lines_resilience.rotated(kernel, rotation))
    assert await both_on_kernel(kernel)


async def test_a_killed_ztunnel_returns_to_the_kernels_tls(kernel: Stage) -> None:
    print(await lines_resilience.killed_under_traffic(kernel))
    await carry_bulk(kernel)
    assert await both_on_kernel(kernel)


async def test_a_waypoint_answers_and_its_tls_is_the_kernels_too(kernel: Stage) -> None:
    print(await lines_waypoint.applied(kernel))
    (waypoint,) = (pod for pod in kernel.store.of_kind(Pod) if GATEWAY_NAME_LABEL in pod.metadata.labels)
    netns = kernel.lab.layout.pod_netns(waypoint.metadata.namespace, waypoint.metadata.name)
    dump = json.loads((await get(netns, ADMIN_PORT, "/config_dump", timeout=30)).body)
    assert carries(dump["kernel_tls"]), dump["kernel_tls"]
