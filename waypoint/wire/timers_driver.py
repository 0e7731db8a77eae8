"""Waits for the calendar of deadlines, under trio."""

from __future__ import annotations

import math

import trio

from waypoint.wire.timers import Timers


async def run_timers(timers: Timers) -> None:
    """Fire timers as they fall due, until cancelled. Runs in the engine's thread, as everything that they touch."""
    earlier = trio.Event()

    def wake() -> None:
        earlier.set()

    timers.earlier = wake
    try:
        while True:
            timers.run()
            due_at = timers.next_at
            delay = math.inf if due_at is None else max(0.0, due_at - timers.clock())
            with trio.move_on_after(delay):
                await earlier.wait()
            earlier = trio.Event()
    finally:
        timers.earlier = None
