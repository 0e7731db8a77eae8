"""Serving one pod: its listeners, its tunnels, and the end of both."""

from __future__ import annotations

from dataclasses import dataclass

from ebpf.listeners import ListenerTable
from mesh.addresses import PeerAddress
from mesh.errors import ConnectionLost, Draining
from mesh.relay.acceptor import Acceptor
from mesh.relay.engine import Engine
from mesh.relay.socket_end import RawSocket
from ztunnel.fastpath.contract import FastPathMemory
from ztunnel.inpod.listeners import PodListeners
from ztunnel.pod import Pod
from ztunnel.proxy.connections import ConnectionTable
from ztunnel.proxy.delivery import Deliverer
from ztunnel.proxy.inbound import InboundProxy
from ztunnel.proxy.outbound import OutboundProxy
from ztunnel.proxy.plaintext import PlaintextProxy
from ztunnel.proxy.pool import TunnelPool
from ztunnel.proxy.terminator import Terminator
from ztunnel.proxy.tls_contexts import TlsContexts


@dataclass(frozen=True, slots=True)
class Proxies:
    """What all pods share."""

    engine: Engine
    contexts: TlsContexts
    listener_table: ListenerTable
    connections: ConnectionTable
    deliverer: Deliverer
    outbound: OutboundProxy
    inbound: InboundProxy
    plaintext: PlaintextProxy
    fast_path: FastPathMemory | None
    workers: int = 1
    """Processes that serve each pod."""


class PodServer:
    """One pod being served.

    Raises:
        EnvironmentLacks: its listeners cannot be made.
    """

    def __init__(self, pod: Pod, proxies: Proxies) -> None:
        self.pod = pod
        self._proxies = proxies
        engine = proxies.engine
        self.pool = TunnelPool(engine, pod, proxies.contexts)
        self.terminator = Terminator(
            engine, pod, proxies.contexts, proxies.inbound, proxies.connections, proxies.workers
        )
        listeners = PodListeners(pod, proxies.listener_table)
        self._acceptors: list[Acceptor] = []
        try:
            for accepted, sockets in (
                (self._outbound, listeners.outbound),
                (self._plaintext, listeners.plaintext),
                (self.terminator.accepted, listeners.hbone),
            ):
                self._acceptors += [Acceptor(engine, listener, accepted) for listener in sockets]
        except BaseException:
            for acceptor in self._acceptors:
                acceptor.close()
            listeners.close()
            raise

    def _outbound(self, sock: RawSocket, peer: PeerAddress) -> None:
        self._proxies.outbound.accepted(self.pod, self.pool, sock, peer)

    def _plaintext(self, sock: RawSocket, peer: PeerAddress) -> None:
        self._proxies.plaintext.accepted(self.pod, sock, peer)

    @property
    def listening(self) -> bool:
        """Whether new connections are taken."""
        return bool(self._acceptors)

    @property
    def idle(self) -> bool:
        """Whether nothing of the pod is left to be served."""
        return self.terminator.settled(self._proxies.engine.now) and not self._proxies.connections.of_pod(self.pod)

    def tick(self, now: float) -> None:
        """Once per second."""
        self.pool.tick(now)
        self.terminator.tick(now)

    def renewed(self) -> None:
        """The pod's certificate was renewed."""
        self.pool.forget_identity()

    def drain(self) -> None:
        """Take no new connections; those that are established go on."""
        for acceptor in self._acceptors:
            acceptor.close()
        self._acceptors = []
        self.terminator.drain()

    def close(self) -> None:
        """End everything."""
        self.drain()
        self.pod.tasks.stop()
        error = Draining("ztunnel is shutting down") if self._proxies.connections.of_pod(self.pod) else None
        self.terminator.close(error)
        self.pool.close(error)
        for connection in self._proxies.connections.of_pod(self.pod):
            if connection.end is not None:
                connection.end.cut(error or ConnectionLost("the pod is no longer served"))
        self._proxies.deliverer.forget(self.pod)
        self.pod.namespace.close()
