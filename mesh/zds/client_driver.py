"""ztunnel's side of ZDS: dial the agent, do what it asks, acknowledge, and dial again when it goes away."""

from __future__ import annotations

import fcntl
import random
from pathlib import Path
from typing import Never, Protocol

import structlog
import trio

from mesh.backoff import Backoff
from mesh.errors import ConnectionLost, InvalidMessage, MeshError
from mesh.netns import NetworkNamespace
from mesh.zds.codec import (
    AddWorkload,
    DeleteWorkload,
    KeepWorkload,
    Request,
    SnapshotSent,
    WorkloadInfo,
    decode_request,
    encode_acknowledgement,
    encode_hello,
)
from mesh.zds.packet_driver import Packet, PacketSocket, connect

_log = structlog.get_logger("zds")

_BACKOFF = Backoff(initial=0.05, maximum=1.0)
"""Short, because pods cannot start on a node whose ztunnel has not come back to the agent."""
_NS_GET_NSTYPE = 0xB703
_CLONE_NEWNET = 0x40000000

_BAD_PACKETS_ALLOWED = 16
"""In a row; then the stream makes no sense and a new connection with a new snapshot is better."""


class ZdsHandler(Protocol):
    """What ztunnel does with the agent's words. A MeshError raised becomes an error acknowledgement.

    The calls come one at a time, in the order sent. After a reconnect the agent names all its pods again, so ``add``
    of a pod that is being served is normal and must not disturb it; pods not named since ``disconnected`` are to be
    dropped at ``snapshot_sent``.
    """

    async def add(self, uid: str, info: WorkloadInfo, namespace: NetworkNamespace) -> None:
        """Serve this pod. On return the handler owns ``namespace``; if it raises, the driver closes it."""

    async def keep(self, uid: str) -> None:
        """Go on serving this pod; raise UnknownWorkload when it is not served."""

    async def delete(self, uid: str) -> None:
        """Stop serving this pod."""

    async def snapshot_sent(self) -> None:
        """All pods have been named since the connection was made."""

    def disconnected(self) -> None:
        """The agent is away: serve what you have."""


async def run_zds_client(path: Path | str, handler: ZdsHandler) -> Never:
    """Follow the agent at ``path`` for ever, reconnecting with a backoff of 50 ms to 1 s.

    Args:
        path: the agent's SOCK_SEQPACKET socket.
        handler: its calls are awaited one after another; errors that are not MeshErrors are bugs and end this task.
    """
    where = Path(path)
    failures = 0
    while True:
        session = _Session(handler)
        try:
            connection = await connect(where)
        except ConnectionLost as error:
            _log.info("agent away", socket=str(where), reason=str(error))
        else:
            try:
                await session.run(connection)
            except MeshError as error:
                _log.warning("agent connection ended", socket=str(where), reason=str(error))
            finally:
                connection.close()
                handler.disconnected()
        failures = 1 if session.snapshot_seen else failures + 1
        await trio.sleep(_BACKOFF.delay(failures, random.random()))


class _Session:
    """One connection, from hello to its end."""

    def __init__(self, handler: ZdsHandler) -> None:
        self._handler = handler
        self.snapshot_seen = False

    async def run(self, connection: PacketSocket) -> Never:
        await connection.send(encode_hello())
        bad_packets = 0
        while True:
            try:
                packet = await connection.receive()
                if packet is None:
                    raise ConnectionLost("the node agent closed the ZDS connection")
                try:
                    request = decode_request(packet.data, len(packet.descriptors))
                except InvalidMessage:
                    packet.close()
                    raise
            except InvalidMessage as refusal:
                _log.error("packet refused", reason=str(refusal))
                bad_packets += 1
                if bad_packets > _BAD_PACKETS_ALLOWED:
                    raise
                error = str(refusal)
            else:
                bad_packets = 0
                error = await self._perform(request, packet)
            await connection.send(encode_acknowledgement(error))

    async def _perform(self, request: Request, packet: Packet) -> str:
        """Do it; the text of the failure, empty when there was none."""
        try:
            match request:
                case AddWorkload(uid, info):
                    _require_network_namespace(packet.descriptors[0])
                    await self._add(uid, info, NetworkNamespace.from_fd(packet.take_descriptor()))
                case KeepWorkload(uid):
                    await self._handler.keep(uid)
                case DeleteWorkload(uid):
                    await self._handler.delete(uid)
                case SnapshotSent():
                    await self._handler.snapshot_sent()
                    self.snapshot_seen = True
        except MeshError as failure:
            _log.warning("request failed", request=repr(request), reason=str(failure))
            return str(failure) or type(failure).__name__
        finally:
            packet.close()
        return ""

    async def _add(self, uid: str, info: WorkloadInfo, namespace: NetworkNamespace) -> None:
        try:
            await self._handler.add(uid, info, namespace)
        except BaseException:
            namespace.close()
            raise


def _require_network_namespace(descriptor: int) -> None:
    """Any descriptor can be sent: refuse a file, a socket, a namespace of another kind."""
    try:
        kind = fcntl.ioctl(descriptor, _NS_GET_NSTYPE)
    except OSError:
        kind = 0
    if kind != _CLONE_NEWNET:
        raise InvalidMessage("the descriptor of a ZDS Add is no network namespace")
