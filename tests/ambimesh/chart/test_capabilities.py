"""The capabilities that the chart's DaemonSets name are enough: a lab whose agent and ztunnel have no others."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
import trio

from ambimesh.chart.loading_driver import load_chart, render
from ambimesh.commands.lab import SHIPPED_MANIFESTS
from ambimesh.lab import manifests, mesh_processes, pods, readiness
from ambimesh.lab.bring_up import Wish, bring_up
from ambimesh.lab.layout import LabLayout
from ambimesh.lab.programs import run_for_status
from ambimesh.lab.record import Lab
from ambimesh.lab.take_down import take_down
from resources.folder_store import FolderStore
from resources.objects import Namespace, Pod

pytestmark = pytest.mark.lab


def _capabilities() -> dict[str, list[str]]:
    """By the module that a DaemonSet's container runs."""
    found = {}
    for value in render(load_chart(), {}, namespace="m"):
        if value["kind"] == "DaemonSet":
            (container,) = value["spec"]["template"]["spec"]["containers"]
            capabilities = container["securityContext"]["capabilities"]
            assert capabilities["drop"] == ["ALL"]
            found[container["command"][2]] = capabilities["add"]
    return found


def _confined(make: Callable[..., Any], capabilities: dict[str, list[str]]) -> Callable[..., Any]:
    """What makes a process's plan, with its program behind one that takes the other capabilities away for good."""

    def confined(*arguments: Any) -> Any:
        spec = make(*arguments)
        module = spec.argv[2]
        if module not in capabilities:
            return spec
        bounds = ",".join(["-all", *(f"+{name.lower()}" for name in capabilities[module])])
        program = shutil.which("setpriv")
        assert program is not None
        argv = (program, f"--bounding-set={bounds}", "--inh-caps=-all", "--no-new-privs", *spec.argv)
        if dataclasses.is_dataclass(spec) and not isinstance(spec, type):
            return dataclasses.replace(spec, argv=argv)
        return msgspec.structs.replace(spec, argv=argv)

    return confined


def _effective(lab: Lab, name: str) -> int:
    """The capabilities of a process of the lab, as the kernel has them."""
    pids = [int(text) for text in (lab.node_cgroup(lab.nodes[0]) / name / "cgroup.procs").read_text().split()]
    assert pids
    sets = set()
    for pid in pids:
        with open(f"/proc/{pid}/status") as file:
            sets |= {int(line.split()[1], 16) for line in file if line.startswith("CapEff")}
    (found,) = sets
    return found


def _all_captured(store: FolderStore) -> bool:
    return all(
        one.metadata.annotations.get("ambient.istio.io/redirection") == "enabled"
        for one in store.of_kind(Pod)
        if one.metadata.namespace == "demo"
    )


async def test_agent_and_ztunnel_need_no_others(resource_prefix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    capabilities = _capabilities()
    assert set(capabilities) == {"cni", "ztunnel"}
    monkeypatch.setattr(mesh_processes, "_process", _confined(mesh_processes._process, capabilities))
    lab = await bring_up(Wish(layout=LabLayout.named(resource_prefix), nodes=2, mesh=True), lambda _text: None)
    try:
        for process, module in (("agent", "cni"), ("ztunnel", "ztunnel")):
            assert _effective(lab, process).bit_count() == len(capabilities[module])
        store = FolderStore(lab.layout.cluster)
        assert manifests.apply(store, (SHIPPED_MANIFESTS,)).problems == []
        assert await readiness.wait_for_pods(lab, 60) == []
        # A running pod is enrolled, which takes its namespace to be found, and calls over mutual TLS.
        store.patch_metadata(Namespace, "", "demo", labels={"istio.io/dataplane-mode": "ambient"})
        with trio.fail_after(30):
            while not _all_captured(store):  # noqa: ASYNC110 -- the store has no event to wait for
                await trio.sleep(0.1)
        client = pods.find_pod(lab, "demo", "client-a")
        for _ in range(3):
            status, output, _ = await run_for_status(
                ["curl", "-sS", "--max-time", "10", "http://echo"],
                place=pods.place_of(lab, client),
                environment=pods.environment_of(client),
            )
            assert status == 0, output
        log = "".join(path.read_text(errors="replace") for path in lab.layout.root.rglob("*.log"))
        assert "spiffe://cluster.local/ns/demo/sa/client-a" in log
        assert "operation not permitted" not in log.lower()
    finally:
        with trio.CancelScope(shield=True):
            await take_down(lab, lambda _text: None)
