"""What a tunnel knows of the ends on its streams."""

from __future__ import annotations

from typing import Protocol

from mesh.errors import MeshError


class TunnelEnd(Protocol):
    """What a tunnel knows of the ends on its streams."""

    @property
    def received(self) -> int:
        """Bytes that the peer has sent on the stream."""

    def pause_reading(self) -> None:
        """The tunnel takes no data for now."""

    def resume_reading(self) -> None:
        """The tunnel takes data again."""

    def tunnel_lost(self, error: MeshError | None) -> None:
        """The tunnel is gone."""
