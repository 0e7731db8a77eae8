"""Connects to an endpoint by TCP, without waiting: for endpoints without a tunnel, and for tests."""

from __future__ import annotations

import socket
from collections.abc import Callable

from mesh.errors import ConnectFailed, MeshError
from mesh.relay.engine import Engine
from waypoint.wire.contract import Wire
from waypoint.wire.dialling import Connector, Dial
from waypoint.wire.socket_wire import SocketWire


class SocketConnector(Connector):
    """Dials one address."""

    __slots__ = ("_address", "_engine", "_family")

    def __init__(self, engine: Engine, address: tuple[str, int]) -> None:
        """``address``: an IP address and a port."""
        super().__init__()
        self._engine = engine
        self._address = address
        self._family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET

    def connect(self, report: Callable[[Wire | None, MeshError | None], None]) -> Dial:
        """See :class:`Connector`."""
        try:
            sock = socket.socket(self._family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        except OSError as error:
            report(None, ConnectFailed(f"no socket: {error.strerror}"))
            return _SocketDial(None)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        wire = SocketWire(self._engine, sock)

        def dialled(error: MeshError | None) -> None:
            if error is None:
                report(wire, None)
            else:
                wire.reset()
                report(None, error)

        wire.expect_dial()
        dial = _SocketDial(wire)
        wire.dial(self._address, dialled)
        return dial


class _SocketDial(Dial):
    """A socket that connects."""

    __slots__ = ("_wire",)

    def __init__(self, wire: SocketWire | None) -> None:
        self._wire = wire

    def cancel(self) -> None:
        """See :class:`Dial`."""
        if self._wire is not None:
            self._wire.reset()
