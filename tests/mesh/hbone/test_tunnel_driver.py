"""Tunnels are trio streams: trio's own conformance suite says so."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from mesh.hbone.codec import encode_connect
from mesh.hbone.contract import HboneSettings
from mesh.hbone.driver import HboneConnection, open_client, serve
from mesh.hbone.tunnel_driver import IncomingRequest, Tunnel

BLOCK = encode_connect("10.0.0.1:80")
SMALL = HboneSettings(initial_stream_window=65_536, max_stream_window=65_536)

Streams = tuple[trio.abc.HalfCloseableStream, trio.abc.HalfCloseableStream]


class TunnelMaker:
    """Makes pairs of tunnel ends, each on a connection of its own."""

    def __init__(self, nursery: trio.Nursery, *, clogged: bool = False, turned: bool = False) -> None:
        self._nursery = nursery
        self._clogged = clogged
        self._turned = turned

    async def __call__(self) -> Streams:
        left, right = trio.testing.memory_stream_pair()
        accepted = trio.Event()
        ends: list[Tunnel] = []

        async def keep(request: IncomingRequest) -> None:
            ends.append(request.accept())
            accepted.set()
            await trio.sleep_forever()

        await self._nursery.start(serve, right, keep, SMALL)
        client = await self._nursery.start(self._run_client, left)
        tunnel = await client.connect(BLOCK)
        await accepted.wait()
        pair = (ends[0], tunnel) if self._turned else (tunnel, ends[0])
        if self._clogged:
            for end in pair:
                with trio.move_on_after(0.05):
                    await end.send_all(bytes(10_000_000))
        return pair

    @staticmethod
    async def _run_client(
        stream: trio.abc.Stream, task_status: trio.TaskStatus[HboneConnection] = trio.TASK_STATUS_IGNORED
    ) -> None:
        async with open_client(stream, SMALL) as client:
            task_status.started(client)
            await trio.sleep_forever()


@pytest.mark.parametrize("turned", [False, True])
async def test_tunnels_behave_as_trio_wants_its_streams(
    turned: bool, autojump_clock: trio.testing.MockClock
) -> None:
    async with trio.open_nursery() as nursery:
        maker = TunnelMaker(nursery, turned=turned)
        clogged = TunnelMaker(nursery, clogged=True, turned=turned)
        await trio.testing.check_two_way_stream(maker, clogged)
        await trio.testing.check_half_closeable_stream(maker, clogged)
        nursery.cancel_scope.cancel()
