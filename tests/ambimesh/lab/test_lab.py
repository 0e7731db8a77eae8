"""Whole labs: brought up, used as a person would, removed without a trace."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
import trio

from ambimesh.commands.lab import SHIPPED_MANIFESTS
from ambimesh.lab import cgroups, manifests, pods, readiness
from ambimesh.lab.bring_up import Wish, bring_up, network_configuration
from ambimesh.lab.kubelet.node import SHUTDOWN_GRACE_SECONDS
from ambimesh.lab.kubelet.pods import DEFAULT_GRACE_SECONDS
from ambimesh.lab.layout import NETNS_ROOT, LabLayout
from ambimesh.lab.processes import Processes
from ambimesh.lab.programs import ProgramFailed, run, run_for_status
from ambimesh.lab.record import Lab
from ambimesh.lab.take_down import take_down
from mesh.errors import ConfigurationError, EnvironmentLacks
from resources.folder_store import FolderStore
from resources.objects import Pod

pytestmark = pytest.mark.lab


def silent(text: str) -> None:
    """Progress nobody looks at."""


@asynccontextmanager
async def running(name: str, *, nodes: int = 2, mesh: bool = False, paths: tuple[Path, ...] = ()) -> AsyncIterator[Lab]:
    """A lab for the length of the block, with all its pods ready."""
    lab = await bring_up(Wish(layout=LabLayout.named(name), nodes=nodes, mesh=mesh), silent)
    try:
        assert manifests.apply(FolderStore(lab.layout.cluster), paths).problems == []
        assert await readiness.wait_for_pods(lab, 60) == []
        yield lab
    finally:
        with trio.CancelScope(shield=True):
            await take_down(lab, silent)


async def execute(lab: Lab, pod: str, *command: str) -> tuple[int, str]:
    found = pods.find_pod(lab, *pods.split_name(pod))
    status, output, _ = await run_for_status(
        command, place=pods.place_of(lab, found), environment=pods.environment_of(found)
    )
    return status, output.decode()


async def report(lab: Lab, pod: str, url: str) -> dict[str, Any]:
    status, text = await execute(lab, pod, "curl", "-sSg", "--max-time", "5", url)
    assert status == 0, text
    return dict(msgspec.json.decode(text))


async def until(holds: Callable[[], bool], seconds: float = 15) -> None:
    with trio.fail_after(seconds):
        while not holds():  # noqa: ASYNC110 -- the store has no event to wait for
            await trio.sleep(0.05)


def command(lab: Lab, *arguments: str, given: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    environment = {**os.environ, "AMBIMESH_LAB": lab.layout.name}
    line = [sys.executable, "-m", "ambimesh", *arguments]
    return subprocess.run(line, input=given, capture_output=True, env=environment, check=False, timeout=60)


def traces(name: str) -> list[str]:
    """What of a lab can still be found on this machine."""
    found = [str(path) for path in NETNS_ROOT.glob(f"{name}-*")]
    found += [str(path) for path in (LabLayout.named(name).root, cgroups.find_hierarchy() / name) if path.exists()]
    found += [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if f"/{name}/" in line]
    for process in Path("/proc").glob("[0-9]*"):
        try:
            line = (process / "cmdline").read_bytes()
        except OSError:
            continue
        if f"/{name}/".encode() in line:
            found.append(line.decode(errors="replace"))
    return found


async def test_pods_reach_pods_and_services_and_nothing_is_left(resource_prefix: str) -> None:
    async with running(resource_prefix, paths=(SHIPPED_MANIFESTS,)) as lab:
        store = FolderStore(lab.layout.cluster)
        client, far = store.get(Pod, "demo", "client-a"), store.get(Pod, "demo", "echo-2")
        assert (client.spec.node_name, far.spec.node_name) == ("node1", "node2")
        for mine, address in zip(client.status.addresses, far.status.addresses, strict=True):
            shown = (f"[{mine}]", f"[{address}]") if ":" in mine else (mine, address)
            seen = await report(lab, "demo/client-a", f"http://{shown[1]}:8080/path")
            assert seen["peer"].startswith(f"{shown[0]}:")
            assert (seen["pod"], seen["path"]) == ("echo-2", "/path")
        for name in ("echo.demo.svc.cluster.local", "echo.demo"):
            reached = {(await report(lab, "outside/visitor", f"http://{name}"))["pod"] for _ in range(20)}
            assert reached == {"echo-1", "echo-2"}
        # An endpoint that calls its own Service reaches itself too, and another one on its own node.
        assert {(await report(lab, "demo/echo-1", "http://echo"))["pod"] for _ in range(20)} == {"echo-1", "echo-2"}
        assert (await execute(lab, "demo/client-a", "hostname"))[1] == "client-a\n"
        rules = await execute(lab, "demo/client-a", "nft", "list", "ruleset")
        assert rules == (0, "")
    assert traces(resource_prefix) == []


async def test_a_command_in_a_pod_keeps_status_and_input(resource_prefix: str) -> None:
    async with running(resource_prefix, nodes=1, paths=(SHIPPED_MANIFESTS / "10-namespaces.yaml",)) as lab:
        store = FolderStore(lab.layout.cluster)
        manifests.apply(store, [SHIPPED_MANIFESTS / "40-clients.yaml"])
        assert await readiness.wait_for_pods(lab, 20) == []
        for line, status, output in (
            (("sh", "-c", "exit 42"), 42, b""),
            (("sh", "-c", "kill -9 $$"), 137, b""),
            (("no-such-program",), 127, b""),
            (("cat",), 0, b"given\n"),
            (("sh", "-c", "grep -c demo_client-a /proc/self/cgroup"), 0, b"1\n"),
        ):
            done = await trio.to_thread.run_sync(
                lambda line=line: command(lab, "lab", "exec", "demo/client-a", "--", *line, given=b"given\n")  # type: ignore[misc]
            )
            assert (done.returncode, done.stdout) == (status, output)
        shown = await trio.to_thread.run_sync(lambda: command(lab, "lab", "status", "-o", "json"))
        ready = {pod["name"]: pod["ready"] for pod in msgspec.json.decode(shown.stdout)["pods"]}
        assert ready == {"client-a": "1/1", "client-b": "1/1", "visitor": "1/1"}


PROBED = """\
apiVersion: v1
kind: Pod
metadata: {{name: probed, namespace: demo, labels: {{app: probed}}}}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: c
    command: [python3, -m, ambimesh.apps.http_echo, --port, "8080"]
    startupProbe: {{tcpSocket: {{port: 8080}}, periodSeconds: 1, failureThreshold: 30}}
    readinessProbe: {{exec: {{command: [test, "!", -e, {folder}/unready]}}, periodSeconds: 1, failureThreshold: 1}}
    livenessProbe: {{exec: {{command: [test, "!", -e, {folder}/dead]}}, periodSeconds: 1, failureThreshold: 1}}
---
apiVersion: v1
kind: Service
metadata: {{name: probed, namespace: demo}}
spec: {{selector: {{app: probed}}, clusterIP: 10.96.7.7, ports: [{{port: 80, targetPort: 8080}}]}}
"""


async def test_probes_decide_on_endpoints_and_restarts(resource_prefix: str, tmp_path: Path) -> None:
    file = tmp_path / "probed.yaml"
    file.write_text(PROBED.format(folder=tmp_path))
    async with running(resource_prefix, nodes=1, paths=(SHIPPED_MANIFESTS / "10-namespaces.yaml", file)) as lab:
        store = FolderStore(lab.layout.cluster)

        async def served(expected: bool) -> None:
            with trio.fail_after(15):
                while True:
                    status, _ = await execute(lab, "demo/probed", "curl", "-sf", "http://10.96.7.7")
                    if (status == 0) is expected:
                        return
                    await trio.sleep(0.1)

        def restarts() -> int:
            return int((store.get(Pod, "demo", "probed").status.container_statuses or [{}])[0].get("restartCount", 0))

        await served(True)
        (tmp_path / "unready").touch()
        await served(False)
        (tmp_path / "unready").unlink()
        await served(True)
        assert restarts() == 0
        (tmp_path / "dead").touch()
        await until(lambda: restarts() > 0)
        (tmp_path / "dead").unlink()
        await until(lambda: store.get(Pod, "demo", "probed").status.ready)


async def test_a_deleted_pod_goes_and_a_killed_kubelet_starts_over(resource_prefix: str) -> None:
    async with running(resource_prefix, nodes=1, paths=(SHIPPED_MANIFESTS / "10-namespaces.yaml",)) as lab:
        store = FolderStore(lab.layout.cluster)
        manifests.apply(store, [SHIPPED_MANIFESTS / "40-clients.yaml"])
        assert await readiness.wait_for_pods(lab, 20) == []
        node = lab.nodes[0]
        netns = lab.layout.pod_netns("demo", "client-a")
        assert netns.exists()
        store.delete(Pod, "demo", "client-a")
        await until(lambda: not netns.exists() and not lab.pod_cgroup(node, "demo", "client-a").exists())
        old = cgroups.processes_in(lab.pod_cgroup(node, "demo", "client-b"))
        await Processes(lab.layout).restart("kubelet-node1", kill=True)
        await until(
            lambda: not set(old) & set(new := cgroups.processes_in(lab.pod_cgroup(node, "demo", "client-b")))
            and bool(new)
        )
        assert await readiness.wait_for_pods(lab, 20) == []
    assert SHUTDOWN_GRACE_SECONDS < DEFAULT_GRACE_SECONDS


PASSES_ON = """\
#!/usr/bin/env python3
import json, os, sys
if os.environ["CNI_COMMAND"] == "ADD":
    print(json.dumps(json.load(sys.stdin)["prevResult"]))
"""


async def test_plugins_are_executed_where_nothing_under_run_may_be(resource_prefix: str, tmp_path: Path) -> None:
    """Debian's initial file system mounts /run with noexec, and an agent puts its plugin into the lab's folder."""
    state = tmp_path / "run"
    state.mkdir()
    await run(["mount", "-t", "tmpfs", "-o", "noexec", "none", str(state)])
    try:
        lab = await bring_up(Wish(layout=LabLayout.named(resource_prefix, state), nodes=1, mesh=False), silent)
        try:
            (lab.layout.root / "forbidden").write_text("#!/bin/true\n")
            (lab.layout.root / "forbidden").chmod(0o755)
            with pytest.raises(ProgramFailed, match="Permission denied, as its file system is mounted with noexec"):
                await run([str(lab.layout.root / "forbidden")])
            node = lab.nodes[0]
            (node.cni_programs / "passes-on").write_text(PASSES_ON)
            (node.cni_programs / "passes-on").chmod(0o755)
            network = network_configuration(node)
            network["plugins"] = [*cast(list[object], network["plugins"]), {"type": "passes-on"}]
            (node.cni_config / "05-first.conflist").write_bytes(msgspec.json.encode(network))
            manifests.apply(FolderStore(lab.layout.cluster), [SHIPPED_MANIFESTS / "10-namespaces.yaml"])
            manifests.apply(FolderStore(lab.layout.cluster), [SHIPPED_MANIFESTS / "40-clients.yaml"])
            assert await readiness.wait_for_pods(lab, 20) == []
        finally:
            await take_down(lab, silent)
        assert list(state.iterdir()) == []
    finally:
        await run(["umount", str(state)])


async def test_a_second_lab_of_a_name_is_refused_and_leaves_the_first_alone(resource_prefix: str) -> None:
    async with running(resource_prefix, nodes=1) as lab:
        with pytest.raises(ConfigurationError, match=r"there is a lab .* already"):
            await bring_up(Wish(layout=lab.layout, nodes=1, mesh=False), silent)
        assert all(status.running for status in Processes(lab.layout).statuses())


async def test_a_failed_start_is_explained_and_undone(resource_prefix: str) -> None:
    """A namespace of somebody else's stands where the lab's second node should be."""
    name = f"{resource_prefix}-node2"
    await trio.run_process(["ip", "netns", "add", name])
    try:
        with pytest.raises(EnvironmentLacks, match=f"{name} exists that is not this lab's; remedy: ip netns del"):
            await bring_up(Wish(layout=LabLayout.named(resource_prefix), nodes=2, mesh=False), silent)
        assert traces(resource_prefix) == [str(NETNS_ROOT / name)]
    finally:
        await trio.run_process(["ip", "netns", "del", name])


async def test_a_process_that_fails_is_named_with_its_last_words(
    resource_prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ambimesh.lab.mesh_processes.OPERATOR_PORT", -1)
    with pytest.raises(EnvironmentLacks, match=r"(?s)operator ended; the last lines of .*port"):
        await bring_up(Wish(layout=LabLayout.named(resource_prefix), nodes=1), silent)
    assert traces(resource_prefix) == []


async def test_the_main_job(resource_prefix: str) -> None:
    """The demonstration's lines; with the log of what each measured when one fails."""
    line = [sys.executable, "-m", "ambimesh", "demo", "--lab", resource_prefix]
    done = await trio.run_process(line, capture_stdout=True, capture_stderr=True, check=False)
    shown = done.stdout.decode()
    assert done.returncode == 0, shown + done.stderr.decode()
    assert "19 of 19 lines shown" in shown
    assert traces(resource_prefix) == []
