"""The scene in a lab: requests from a pod on one node, through both ztunnels and a waypoint, to pods on the other."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from ambimesh.lab import manifests, pods, readiness
from ambimesh.lab.bring_up import Wish, bring_up
from ambimesh.lab.layout import LabLayout
from ambimesh.lab.programs import run_for_status
from ambimesh.lab.record import Lab
from ambimesh.lab.take_down import take_down
from benchmarks import usage
from benchmarks.bed import LoadFailed
from benchmarks.layer7.cases import Case
from benchmarks.loads import Reading, read_round_trips
from resources.folder_store import FolderStore
from resources.objects import Gateway, Service

MANIFEST = Path(__file__).with_name("mesh.yaml")
NAMESPACE = "shop"
_READY_SECONDS = 60.0
_GRACE_SECONDS = 20.0


class MeshBed:
    """A lab that is ready for loads."""

    def __init__(self, lab: Lab, store: FolderStore) -> None:
        self._lab = lab
        self._store = store

    def cpu_seconds(self) -> float:
        """Of everything in the lab."""
        return usage.Meter(self._lab.cgroup, ()).read().lab

    async def load(self, http: Path, case: Case, seconds: float) -> Reading:
        """Make a case's load from the client's pod to the Service.

        Raises:
            LoadFailed: it ended with an error.
        """
        client = pods.find_pod(self._lab, NAMESPACE, "client")
        address = self._store.get(Service, NAMESPACE, "shop").spec.virtual_addresses[0]
        argv = [str(http), "get", address, "80", str(case.connections), f"{seconds:g}", case.path]
        status, output, errors = await run_for_status(
            argv,
            place=pods.place_of(self._lab, client),
            environment=pods.environment_of(client),
            timeout=seconds + _GRACE_SECONDS,
        )
        if status != 0:
            raise LoadFailed(f"http ended with {status}: {errors.decode(errors='replace').strip()[-300:]}")
        return read_round_trips(output)

    async def until_it_serves(self) -> None:
        """Wait for the waypoint, and until requests pass.

        Raises:
            LoadFailed: they do not, in the time that a lab may take.
        """
        deadline = trio.current_time() + _READY_SECONDS
        problem = ""
        while trio.current_time() < deadline:
            gateway = self._store.get(Gateway, NAMESPACE, "waypoint")
            conditions = () if gateway.status is None else gateway.status.conditions
            if any(one.type == "Programmed" and one.status == "True" for one in conditions):
                status, output, problem_text = await self._one_request()
                if status == 0 and output == b"200":
                    return
                problem = problem_text or output.decode(errors="replace")
            await trio.sleep(0.2)
        raise LoadFailed(f"the waypoint does not serve: {problem or 'it is not programmed'}")

    async def _one_request(self) -> tuple[int, bytes, str]:
        client = pods.find_pod(self._lab, NAMESPACE, "client")
        argv = ["curl", "-sS", "--max-time", "5", "-o", "/dev/null", "-w", "%{http_code}", "http://shop/api/items/1"]
        status, output, errors = await run_for_status(
            argv, place=pods.place_of(self._lab, client), environment=pods.environment_of(client)
        )
        return status, output, errors.decode(errors="replace").strip()


@asynccontextmanager
async def open_mesh(layout: LabLayout, http: Path) -> AsyncIterator[MeshBed]:
    """Bring a lab up with the scene, and take it down at the end of the block, however that comes.

    Raises:
        MeshError: it could not be brought up, or does not serve.
    """
    lab = await bring_up(Wish(layout=layout, nodes=2), lambda _: None)
    try:
        file = lab.layout.root / "shop.yaml"
        file.write_text(MANIFEST.read_text().replace("@HTTP@", str(http)))
        store = FolderStore(lab.layout.cluster)
        report = manifests.apply(store, [file])
        if report.problems:
            raise LoadFailed("; ".join(report.problems))
        unready = await readiness.wait_for_pods(lab, _READY_SECONDS)
        if unready:
            raise LoadFailed("; ".join(f"pod {pod} is not ready: {reason}" for pod, reason in unready))
        bed = MeshBed(lab, store)
        await bed.until_it_serves()
        yield bed
    finally:
        with trio.CancelScope(shield=True):
            await take_down(lab, lambda _: None)
