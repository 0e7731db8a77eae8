"""Listening sockets in the relay: a whole batch of connections per turn."""

from __future__ import annotations

import errno
import select
import socket
from collections.abc import Callable
from typing import ClassVar, Final

import structlog

from mesh.addresses import PeerAddress, from_sockaddr
from mesh.relay.engine import Engine
from mesh.relay.socket_end import RawSocket

BATCH: Final = 64
"""Connections accepted from one listener before others get their turn."""

QUEUE: Final = 4096
"""Most connections that wait in a listener's queue; what it was told to keep."""

_log = structlog.get_logger("relay")
_OUT_OF_DESCRIPTORS: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
# What accept(2) reports of the connection it was about to hand out, which is gone then; the listener is well.
_OF_THE_CONNECTION: Final = (
    *(errno.ECONNABORTED, errno.EPERM, errno.EPROTO, errno.ENOPROTOOPT, errno.EOPNOTSUPP),
    *(errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENONET),
)


class Acceptor:
    """Accepts from one non-blocking listener and hands the connections on."""

    out_of_descriptors: ClassVar[int] = 0
    """How often, in this process, a connection was refused for want of descriptors; readiness looks at it."""

    def __init__(
        self, engine: Engine, listener: socket.socket, accepted: Callable[[RawSocket, PeerAddress], None]
    ) -> None:
        self._engine = engine
        self._listener = listener
        self._family = int(listener.family)
        self._take: Callable[[], tuple[int, tuple[object, ...]]] = listener._accept  # type: ignore[attr-defined]
        self._accepted = accepted
        # Given up to accept, and so refuse, a connection when descriptors run out; otherwise it would stay readable
        # and the loop would spin.
        self._reserve: socket.socket | None = socket.socket()
        self._batch = 1
        self._last_turn = engine.now
        engine.register(listener.fileno(), select.EPOLLIN, self._on_ready)

    @property
    def listener(self) -> socket.socket:
        """The listening socket."""
        return self._listener

    def _on_ready(self, _events: int) -> None:
        # Asking for one more in vain costs as much as taking one, and the engine asks again before its turn is over:
        # so one by one, and more only when that has found more.
        turn = self._engine.now
        self._batch = min(2 * self._batch, BATCH) if turn == self._last_turn else 1
        self._last_turn = turn
        self._accept(self._batch)

    def _accept(self, most: int) -> None:
        for _ in range(most):
            try:
                # What socket.socket.accept does, without that class, whose making takes longer than the system call.
                descriptor, address = self._take()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in _OUT_OF_DESCRIPTORS:
                    self._refuse_one()
                    return
                if error.errno in _OF_THE_CONNECTION:
                    continue
                raise
            sock = RawSocket(self._family, socket.SOCK_STREAM, 0, descriptor)
            try:
                self._accepted(sock, PeerAddress(from_sockaddr(address)))
            except Exception:  # one connection's bug must not stop the listener; whoever holds the socket closes it
                _log.exception("an accepted connection was lost to a bug", peer=str(address))

    def _refuse_one(self) -> None:
        Acceptor.out_of_descriptors += 1
        _log.error("out of file descriptors: a connection was refused; raise the limit or find what holds them")
        if self._reserve is not None:
            self._reserve.close()
            self._reserve = None
        try:
            self._listener.accept()[0].close()
            self._reserve = socket.socket()
        except OSError:
            pass  # still none to be had: the next turn tries again

    def close(self) -> None:
        """Stop listening. Those who have connected already are still taken: to them nothing was refused."""
        self._accept(QUEUE)
        self._engine.unregister(self._listener.fileno())
        self._listener.close()
        if self._reserve is not None:
            self._reserve.close()
            self._reserve = None
