"""Owners of wires."""

from __future__ import annotations

from mesh.errors import MeshError
from waypoint.wire.contract import Buffer, WireOwner


class Told(WireOwner):
    """What an owner was told."""

    def __init__(self) -> None:
        self.data = b""
        self.ended = 0
        self.lost: list[MeshError | None] = []
        self.writable = 0

    def wire_data(self, data: Buffer) -> None:
        self.data += bytes(data)

    def wire_ended(self) -> None:
        self.ended += 1

    def wire_lost(self, error: MeshError | None) -> None:
        self.lost.append(error)

    def wire_writable(self) -> None:
        self.writable += 1
