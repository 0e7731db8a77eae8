"""What the lab's own daemons share: an ordinary end on SIGTERM and SIGINT."""

from __future__ import annotations

import signal
from collections.abc import Awaitable, Callable

import trio


async def until_told_to_stop(work: Callable[[], Awaitable[None]]) -> None:
    """Run ``work`` and cancel it at the first SIGTERM or SIGINT."""
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with trio.open_nursery() as nursery:

            async def run() -> None:
                await work()
                nursery.cancel_scope.cancel()

            nursery.start_soon(run)
            async for _ in signals:
                nursery.cancel_scope.cancel()
                return
