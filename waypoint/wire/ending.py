"""Ends that do not last for ever: a peer that takes nothing any more must not keep what was written to it."""

from __future__ import annotations

from waypoint.wire.contract import Wire
from waypoint.wire.timers import Timers


def end_within(wire: Wire, timers: Timers, seconds: float) -> None:
    """Close a wire once everything written has been sent, or with a reset after so many seconds."""
    wire.end()
    if not wire.closed:
        timers.after(seconds, wire.reset)


def end_or_reset(wire: Wire) -> None:
    """Close a wire now: properly, if nothing waits to be sent."""
    if wire.congested:
        wire.reset()
    else:
        wire.end()
