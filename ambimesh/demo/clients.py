"""A client program that runs in a pod while a line is shown."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import trio


@dataclass(slots=True)
class Client:
    """A ``tcp_client``: what it has said so far."""

    process: trio.Process
    events: list[dict[str, Any]] = field(default_factory=list)

    def count(self, event: str) -> int:
        """How often it said this."""
        return sum(1 for one in self.events if one["event"] == event)

    def first(self, event: str) -> dict[str, Any] | None:
        """What it said with this first."""
        return next((one for one in self.events if one["event"] == event), None)

    def after(self, moment: float, event: str) -> list[dict[str, Any]]:
        """What it said with this since a moment of the monotonic clock, which all processes of a machine share."""
        return [one for one in self.events if one["event"] == event and one["at"] >= moment]

    async def listen(self) -> None:
        """Take in what it says until it ends."""
        assert self.process.stdout is not None
        rest = b""
        async for data in self.process.stdout:
            *lines, rest = (rest + data).split(b"\n")
            self.events += [json.loads(line) for line in lines if line]
