"""``python -m benchmarks.workers``: what more workers per ztunnel bring, and what they need.

One lab per number of workers, all up at the same time; each load runs on one right after the other, the order
alternating by repetition, and the ratio is taken of each pair. The same-node fast path is switched off, so that pods of
one node meet their ztunnel too: there a single ztunnel does both ends of every tunnel, and is what limits the load.
Between nodes two ztunnels share the machine's cores with the load; on few cores they are busy with one worker each.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import trio

from ambimesh.lab import pods, readiness
from ambimesh.lab.bring_up import Wish, bring_up
from ambimesh.lab.cgroups import processes_in
from ambimesh.lab.layout import LabLayout
from ambimesh.lab.programs import run_for_status
from ambimesh.lab.record import Lab
from ambimesh.lab.take_down import take_down
from ambimesh.output import print_table, remark, say
from benchmarks.build import build_rr
from benchmarks.cases import AMBIMESH, Bulk, Connects, Load, Placement, RoundTrips
from benchmarks.loads import Reading, command, read
from benchmarks.objects import CLIENT, SERVERS, objects_of
from mesh.errors import MeshError
from resources.folder_store import FolderStore
from resources.objects import Namespace, Pod

FAST_PATH = "ambimesh.dev/fast-path"
_REDIRECTION = "ambient.istio.io/redirection"
_POD_SECONDS = 60.0
_GRACE_SECONDS = 20.0

LOADS: tuple[tuple[str, Load], ...] = (
    ("bulk TCP, 1 connection, Gbit/s", Bulk(1)),
    ("bulk TCP, 4 connections, Gbit/s", Bulk(4)),
    ("1 x 100 B, p50 in us", RoundTrips(1, 100)),
    ("32 x 100 B, per second", RoundTrips(32, 100)),
    ("256 x 100 B, per second", RoundTrips(256, 100)),
    ("32 x 16 KiB, per second", RoundTrips(32, 16384)),
    ("connect + request x 8, per second", Connects(8, "reset")),
)


class Bed:
    """A lab whose ztunnels have so many workers."""

    def __init__(self, lab: Lab, rr: Path, workers: int) -> None:
        self.lab = lab
        self.workers = workers
        self._rr = rr

    async def load(self, placement: Placement, load: Load, seconds: float) -> Reading:
        """Make a load from the client to one of its servers.

        Raises:
            MeshError: it could not be made, or broke off.
        """
        client = pods.find_pod(self.lab, AMBIMESH.namespace, CLIENT)
        server = pods.find_pod(self.lab, AMBIMESH.namespace, SERVERS[placement])
        address = next(address for address in server.status.addresses if ":" not in address)
        _, output, _ = await run_for_status(
            command(load, self._rr, address, seconds),
            place=pods.place_of(self.lab, client),
            environment=pods.environment_of(client),
            timeout=seconds + _GRACE_SECONDS,
        )
        return read(load, output)

    def memory(self, node: str = "node1") -> tuple[int, int]:
        """A ztunnel's processes together: resident bytes, and with what they share counted once."""
        resident = proportional = 0
        for pid in processes_in(self.lab.node_cgroup(self.lab.node(node)) / "ztunnel"):
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
                name, _, rest = line.partition(":")
                resident += int(rest.split()[0]) * 1024 if name == "Rss" else 0
                proportional += int(rest.split()[0]) * 1024 if name == "Pss" else 0
        return resident, proportional


@asynccontextmanager
async def bed(workers: int, rr: Path, prefix: str) -> AsyncIterator[Bed]:
    """Bring a lab up, its pods captured and warm; it is gone after the block."""
    wish = Wish(layout=LabLayout.named(f"{prefix}{workers}"), nodes=2, workers=workers)
    lab = await bring_up(wish, lambda _: None)
    try:
        store = FolderStore(lab.layout.cluster)
        for value in objects_of(AMBIMESH, rr):
            store.apply(value)
        store.patch_metadata(Namespace, "", AMBIMESH.namespace, annotations={FAST_PATH: "disabled"})
        unready = await readiness.wait_for_pods(lab, _POD_SECONDS)
        if unready:
            raise MeshError(f"pods are not ready: {unready}")
        made = Bed(lab, rr, workers)
        with trio.fail_after(_POD_SECONDS):
            while not _captured(store):  # noqa: ASYNC110 -- the store tells nobody of changes
                await trio.sleep(0.1)
        yield made
    finally:
        with trio.CancelScope(shield=True):
            await take_down(lab, lambda _: None)


def _captured(store: FolderStore) -> bool:
    return all(
        pod.metadata.annotations.get(_REDIRECTION) == "enabled"
        for pod in store.of_kind(Pod)
        if pod.metadata.namespace == AMBIMESH.namespace
    )


async def warm(beds: list[Bed]) -> None:
    """Until every server of every lab answers."""
    for one in beds:
        for placement in Placement:
            with trio.fail_after(_POD_SECONDS):
                while True:
                    try:
                        reading = await one.load(placement, RoundTrips(8, 100), 0.3)
                    except MeshError:
                        await trio.sleep(0.3)
                        continue
                    if reading.rate:
                        break


async def measure(numbers: list[int], seconds: float, repetitions: int, prefix: str) -> None:
    """Bring the labs up, measure, and print."""
    rr = await build_rr()
    async with AsyncExitStack() as stack:
        beds = [await stack.enter_async_context(bed(number, rr, prefix)) for number in numbers]
        await warm(beds)
        await trio.sleep(3)
        rest = {one.workers: one.memory() for one in beds}
        rates: dict[tuple[Placement, str, int], list[float]] = {}
        for repetition in range(repetitions):
            for placement in (Placement.SAME, Placement.CROSS):
                for title, load in LOADS:
                    for one in beds if repetition % 2 == 0 else beds[::-1]:
                        reading = await one.load(placement, load, seconds)
                        if reading.failed:
                            remark("failed", "red", f"{reading.failed} connections, {title}, {one.workers} workers")
                        found = reading.p50_us if "p50" in title and reading.p50_us else reading.rate
                        rates.setdefault((placement, title, one.workers), []).append(found)
        after = {one.workers: one.memory() for one in beds}
    _print(numbers, rates, rest, after)


def _print(
    numbers: list[int],
    rates: dict[tuple[Placement, str, int], list[float]],
    rest: dict[int, tuple[int, int]],
    after: dict[int, tuple[int, int]],
) -> None:
    first = numbers[0]
    rows = []
    for placement in (Placement.SAME, Placement.CROSS):
        for title, _ in LOADS:
            base = rates[placement, title, first]
            row = [f"{placement}, {title}"]
            for number in numbers:
                found = rates[placement, title, number]
                ratios = sorted(one / other for one, other in zip(found, base, strict=True))
                text = f"{statistics.median(found):.4g}"
                if number != first:
                    text += f" ({statistics.median(ratios):.2f}x, {ratios[0]:.2f} to {ratios[-1]:.2f})"
                row.append(text)
            rows.append(row)
    for words, memory in (("at rest", rest), ("after the loads", after)):
        mebibytes = {number: [value / 2**20 for value in values] for number, values in memory.items()}
        rows.append(
            [f"memory of a ztunnel {words}, MiB: sum of resident, sum of proportional"]
            + [f"{mebibytes[number][0]:.0f}, {mebibytes[number][1]:.0f}" for number in numbers]
        )
    print_table(["case", *[f"{number} workers" if number > 1 else "1 worker" for number in numbers]], rows)


def main() -> int:
    """Measure; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.workers", description=__doc__.partition("\n")[0])
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2], help="numbers to compare with the first")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each load")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--lab", default="ambimesh-workers", help="prefix of the labs' names")
    arguments = parser.parse_args()
    say(f"workers {arguments.workers}, {arguments.repetitions} x {arguments.seconds:g} s, interleaved")
    status = 0
    try:
        trio.run(measure, arguments.workers, arguments.seconds, arguments.repetitions, arguments.lab)
    except* MeshError as group:
        for error in group.exceptions:
            remark("error", "red", str(error))
        status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
