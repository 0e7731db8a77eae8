"""How connections to an endpoint are asked for, whatever they are made of."""

from __future__ import annotations

from collections.abc import Callable

from mesh.errors import MeshError
from mesh.identity import SpiffeId
from waypoint.wire.contract import Wire


class Dial:
    """A connection that is being made."""

    __slots__ = ()

    def cancel(self) -> None:
        """Give it up; nothing is reported any more."""
        raise NotImplementedError


class Connector:
    """Makes connections to one endpoint."""

    __slots__ = ("peer_identity",)

    def __init__(self) -> None:
        self.peer_identity: SpiffeId | None = None
        """Whom the far end of the last tunnel that was used has proven to be; None: there was no tunnel, or it has
        proven another name."""

    def connect(self, report: Callable[[Wire | None, MeshError | None], None]) -> Dial:
        """Begin to connect. ``report`` is called once: with a wire that nobody listens to yet, or with an error. It may
        be called within this call."""
        raise NotImplementedError
