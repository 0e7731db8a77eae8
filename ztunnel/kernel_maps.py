"""What the node agent's programs share with ztunnel, opened together."""

from __future__ import annotations

from contextlib import ExitStack, closing
from dataclasses import dataclass

import structlog
import trio

from ebpf.connections import Deliveries, OriginalDestinations
from ebpf.fastpath.abilities import Abilities, read_abilities
from ebpf.fastpath.tables import FastPathMaps
from ebpf.listeners import ListenerTable
from ebpf.paths import PinPaths
from ebpf.pods import PodTable
from mesh.errors import EnvironmentLacks

_RETRY_SECONDS = 1.0

_log = structlog.get_logger("ztunnel")


@dataclass(frozen=True, slots=True)
class KernelMaps:
    """The pinned maps of one node."""

    originals: OriginalDestinations
    deliveries: Deliveries
    listeners: ListenerTable
    pods: PodTable
    fast_path: FastPathMaps
    abilities: Abilities


async def open_maps(paths: PinPaths, stopping: trio.Event, worker: int = 0) -> KernelMaps | None:
    """Open the pinned maps, waiting for the agent to load its programs; None when we are to stop before that.

    Args:
        paths: of the node.
        stopping: set when nobody needs them any more.
        worker: whose listeners are registered through them.
    """
    told = False
    while not stopping.is_set():
        with ExitStack() as opened:
            try:
                maps = KernelMaps(
                    opened.enter_context(closing(OriginalDestinations(paths))),
                    opened.enter_context(closing(Deliveries(paths))),
                    opened.enter_context(ListenerTable(paths, worker)),
                    opened.enter_context(PodTable(paths)),
                    opened.enter_context(FastPathMaps(paths)),
                    read_abilities(paths),
                )
            except EnvironmentLacks as error:
                if not told:
                    _log.warning("waiting for the node agent to load its eBPF programs", error=str(error))
                    told = True
            else:
                opened.pop_all()
                return maps
        with trio.move_on_after(_RETRY_SECONDS):
            await stopping.wait()
    return None
