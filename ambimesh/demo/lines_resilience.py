"""Lines 9 and 10: ztunnel killed under traffic, certificates rotating under traffic."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio

from ambimesh.demo.clients import Client
from ambimesh.demo.lines_identity import CLIENT_IDENTITY, SERVER_IDENTITY
from ambimesh.demo.stage import Stage, require
from ambimesh.lab.mesh_processes import ztunnel_name
from ambimesh.lab.ztunnel_admin import fetch

CLIENT = "client-a"
_PORT = 9000
_DOWN_SECONDS = 1.5
_LONGEST_WAIT = 40.0


async def killed_under_traffic(stage: Stage) -> str:
    """While ztunnel is dead its pods are refused, and nothing goes out in clear; with it back they are served."""
    marker = stage.marker()
    ztunnel = ztunnel_name("node1")
    pids = stage.process_ids(CLIENT)
    async with (
        stage.wire() as recording,
        stage.client(
            CLIENT, stage.address("tcp-echo"), _PORT, "--reconnect", "--every", "0.02", "--text", marker
        ) as traffic,
    ):
        await stage.until(lambda: traffic.count("good") >= 5, 10, lambda: "no traffic before the kill")
        await stage.processes.stop(ztunnel, kill=True)
        killed = trio.current_time()
        dead_from = _last_moment(traffic)
        await trio.sleep(_DOWN_SECONDS)
        good_while_dead = len(traffic.after(dead_from + 0.1, "good"))
        refused = len(traffic.after(dead_from, "failed"))
        await stage.processes.start(stage.processes.spec(ztunnel))
        before = traffic.count("good")
        await stage.until(lambda: traffic.count("good") >= before + 5, 20, lambda: "no traffic after the restart")
        down = trio.current_time() - killed
    require(refused > 0, "no attempt was refused while ztunnel was dead")
    require(good_while_dead == 0, f"{good_while_dead} exchanges went through while ztunnel was dead")
    require(not recording.shows(marker), "the marker was readable on the link")
    require(not recording.beside_tunnels(), f"{len(recording.beside_tunnels())} segments beside port 15008")
    require(stage.process_ids(CLIENT) == pids, "the pod's processes are not the same")
    return (
        f"{traffic.count('good')} good exchanges, {refused} refused and 0 carried while dead; "
        f"of {len(recording.packets())} segments 0 in clear; "
        f"traffic again {down - _DOWN_SECONDS:.2f} s after the start, same pod processes"
    )


@dataclass(slots=True)
class Rotation:
    """Traffic over a time in which certificates are renewed."""

    short: Client
    kept: Client
    started: float
    lifetime: float
    """Seconds that a certificate is valid."""
    serials: dict[tuple[str, str], list[str]] = field(default_factory=dict)
    """Serial numbers in the order they were seen, by node and identity."""

    async def look(self, stage: Stage) -> None:
        """Note the serial numbers of now."""
        for node in stage.lab.nodes:
            dump = await fetch(stage.lab, node.name)
            for certificate in dump["certificates"]:
                seen = self.serials.setdefault((node.name, certificate["name"]), [])
                if certificate["serialNumber"] and certificate["serialNumber"] not in seen:
                    seen.append(certificate["serialNumber"])

    @property
    def rotated(self) -> bool:
        """Whether both ends' certificates were renewed, and those of the beginning have expired meanwhile."""
        ends = (("node1", CLIENT_IDENTITY), ("node2", SERVER_IDENTITY))
        old = trio.current_time() - self.started > self.lifetime
        return old and all(len(self.serials.get(end, ())) >= 2 for end in ends)


@asynccontextmanager
async def rotating(stage: Stage) -> AsyncIterator[Rotation]:
    """Traffic that goes on during the block, with new connections and with one that is kept."""
    address = stage.address("tcp-echo")
    async with (
        stage.client(CLIENT, address, _PORT, "--reconnect", "--every", "0.1") as short,
        stage.client(CLIENT, address, _PORT, "--every", "0.05") as kept,
    ):
        rotation = Rotation(
            short, kept, trio.current_time(), float(stage.lab.record.certificate_lifetime_seconds)
        )
        await rotation.look(stage)
        yield rotation


async def rotated(stage: Stage, rotation: Rotation) -> str:
    """Wait until both ends' certificates were renewed, and see that no exchange failed meanwhile."""
    async def both() -> bool:
        await rotation.look(stage)
        return rotation.rotated

    await stage.until(
        both, _LONGEST_WAIT, lambda: f"not renewed: certificates seen {rotation.serials}"
    )
    # The renewed certificates must carry traffic too.
    before = rotation.short.count("good")
    await stage.until(lambda: rotation.short.count("good") >= before + 10, 10, lambda: "traffic stopped")
    failed = [one for one in (*rotation.short.events, *rotation.kept.events) if one["event"] in ("failed", "closed")]
    require(not failed, f"{len(failed)} exchanges failed, first: {failed[:1]}")
    require(rotation.kept.process.returncode is None, "the kept connection ended")
    certificates = ", ".join(
        f"{identity.rpartition('/')[2]} on {node} {len(serials)}"
        for (node, identity), serials in rotation.serials.items()
    )
    return (
        f"{trio.current_time() - rotation.started:.1f} s of traffic, {rotation.short.count('good')} connections and "
        f"one kept throughout, 0 failures; those of its start have expired; certificates seen: {certificates}"
    )


def _last_moment(client: Client) -> float:
    return float(client.events[-1]["at"]) if client.events else 0.0
