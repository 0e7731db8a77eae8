"""Has connections entered in the splice, when the programs say that it is worth it.

These are fast connections, from one application to another, and legs: what is between an application and its ztunnel
inside a pod, whichever of the two has dialled. ztunnel's relay notices nothing; its calls just cost less.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Never

import structlog
import trio

from ebpf.fastpath.entry import EntryOutcome
from ebpf.fastpath.tables import FastPathConnection, FastPathMaps
from ebpf.fastpath.talkers import Talker
from mesh.errors import MeshError
from ztunnel.pod import Pod

_TURN = 64
"""Connections entered before other tasks get their turn: some 30 us each."""

_log = structlog.get_logger("fastpath")


class Splicer:
    """Enters connections.

    Args:
        maps: the programs'.
        pod_of: the served pod of a network namespace's cookie.
    """

    def __init__(self, maps: FastPathMaps, pod_of: Callable[[int], Pod | None]) -> None:
        self._maps = maps
        self._pod_of = pod_of
        self._stopped = False

    async def run(self) -> Never:
        """Enter what the programs name, for ever."""
        talkers = self._maps.talkers
        while True:
            await trio.lowlevel.wait_readable(talkers.fd)
            if self._stopped:
                await trio.sleep_forever()
            for number, talker in enumerate(talkers.take(), 1):
                try:
                    self.enter(talker)
                except MeshError as error:
                    _log.error("a connection cannot be spliced and stays on TCP", error=str(error))
                if number % _TURN == 0:
                    await trio.lowlevel.checkpoint()

    def stop(self) -> None:
        """Leave what the programs name from now on to the next ztunnel."""
        self._stopped = True

    def enter(self, talker: Talker) -> bool:
        """Enter both ends of a connection, or none. False if it stays on TCP.

        Raises:
            EnvironmentLacks: not permitted, or the kernel cannot do it.
        """
        return self._enter_connection(talker.client) if talker.client else self._enter_leg(talker)

    def _enter_leg(self, talker: Talker) -> bool:
        pod = self._pod_of(talker.netns)
        if pod is None:
            return False
        with pod.namespace.entered():
            return self._maps.enter_leg(talker) is EntryOutcome.DONE

    def _enter_connection(self, cookie: int) -> bool:
        connection = self._maps.find(cookie)
        if connection is None or not connection.server_cookie:
            return False
        source, destination = self._pod_of(connection.source_netns), self._pod_of(connection.destination_netns)
        if source is None or destination is None:
            return False
        if not _entered(source, self._maps.enter_client, connection):
            return False
        if _entered(destination, self._maps.enter_server, connection):
            return True
        self._maps.leave(cookie)
        return False


def _entered(
    pod: Pod, enter: Callable[[FastPathConnection], EntryOutcome], connection: FastPathConnection
) -> bool:
    with pod.namespace.entered():
        return enter(connection) is EntryOutcome.DONE
