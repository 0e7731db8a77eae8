"""The agent's side of ZDS.

Theory of operation. ``ZdsServer`` holds the register of the node's enrolled pods; it is the register, not a queue, that
a new ztunnel is told, so a ztunnel that starts late or restarts learns the same as one that was there all along. Every
connection has one task that writes: hello, then the register, then ``SnapshotSent``, then the jobs put into its queue,
each acknowledged before the next is sent. A second task of the connection does nothing but read: it hands
acknowledgements to the writer and notices at once when ztunnel dies, so that nothing waits for a dead process.

Two ztunnels are connected while one is being replaced. Add goes to the newest: the older one is draining. Del goes to
all. A pod that is added or deleted while a snapshot is under way is in that connection's queue and follows it, so the
last word about a pod is always the true one; ztunnel takes a second Add of the same pod as no change.
"""

from __future__ import annotations

import math
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Never

import structlog
import trio

from mesh.errors import ConnectionLost, EnvironmentLacks, InvalidMessage, MeshError
from mesh.netns import NetworkNamespace
from mesh.zds.codec import (
    AddWorkload,
    DeleteWorkload,
    KeepWorkload,
    Request,
    SnapshotSent,
    WorkloadInfo,
    decode_acknowledgement,
    decode_hello,
    encode_request,
)
from mesh.zds.packet_driver import PacketSocket, accept

_log = structlog.get_logger("zds")


class ZtunnelAway(EnvironmentLacks):
    """No ztunnel is connected, or it went away before it acknowledged."""


class ZtunnelRefused(EnvironmentLacks):
    """ztunnel acknowledged a request with an error."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ZdsLimits:
    """Bounds of the agent's side, in seconds and counts."""

    hello: float = 5.0
    """For the first packet of a connection."""
    acknowledgement: float = 10.0
    """For ztunnel to answer one request; then the connection is given up."""
    connections_per_second: float = 5.0
    """A ztunnel that fails at once and comes back must not keep the agent busy."""
    connections: int = 8
    """At a time; more than a replacement needs."""
    queued: int = 4096
    """Requests waiting on one connection."""


class _Member:
    """A pod in the register; owns a duplicate of its namespace's descriptor, if it has one."""

    __slots__ = ("descriptor", "info")

    def __init__(self, info: WorkloadInfo | None, descriptor: int | None) -> None:
        self.info = info
        self.descriptor = descriptor

    def close(self) -> None:
        if self.descriptor is not None:
            os.close(self.descriptor)
            self.descriptor = None


class _Job:
    """A request in a connection's queue, and what became of it."""

    __slots__ = ("done", "failure", "uid", "wanted")

    def __init__(self, uid: str, wanted: type[AddWorkload] | type[DeleteWorkload]) -> None:
        self.uid = uid
        self.wanted = wanted
        self.done = trio.Event()
        self.failure: MeshError | None = None

    def finish(self, failure: MeshError | None) -> None:
        self.failure = failure
        self.done.set()


async def admit_all(pid: int) -> None:
    """Take anybody who may open the socket."""


class ZdsServer:
    """The register of enrolled pods and the ztunnels that follow it.

    ``admit(pid)`` is awaited before a ztunnel is told anything, with the process that connected; a MeshError it raises
    ends the connection. ``on_connected(count)`` is called when a ztunnel has received its snapshot or has gone;
    ``on_refused(uid, reason)`` when one refused a pod of a snapshot, which nobody is waiting for. Both are called from
    the server's tasks and must not block.
    """

    def __init__(
        self,
        limits: ZdsLimits | None = None,
        *,
        admit: Callable[[int], Awaitable[None]] = admit_all,
        on_connected: Callable[[int], None] = lambda count: None,
        on_refused: Callable[[str, str], None] = lambda uid, reason: None,
    ) -> None:
        self._limits = limits or ZdsLimits()
        self._admit = admit
        self._on_connected = on_connected
        self._on_refused = on_refused
        self._members: dict[str, _Member] = {}
        self._connections: list[_Connection] = []

    @property
    def connected(self) -> int:
        """How many ztunnels are connected and have said hello."""
        return len(self._connections)

    def keep(self, uid: str) -> None:
        """Have the next snapshot name a pod by Keep: it is enrolled, but its namespace is not at hand (yet)."""
        self._forget(uid)
        self._members[uid] = _Member(None, None)

    def remember(self, uid: str, info: WorkloadInfo, namespace: NetworkNamespace) -> None:
        """Put a pod into the register without telling ztunnel now: the next snapshot names it.

        The descriptor is duplicated; the caller keeps its own.
        """
        descriptor = os.dup(namespace.fd)
        self._forget(uid)
        self._members[uid] = _Member(info, descriptor)

    async def add(self, uid: str, info: WorkloadInfo, namespace: NetworkNamespace) -> None:
        """Enter a pod and have the newest ztunnel serve it. The pod stays in the register also on failure.

        Raises:
            ZtunnelAway: none is connected, or it ended before it acknowledged.
            ZtunnelRefused: it answered with an error.
        """
        self.remember(uid, info, namespace)
        if not self._connections:
            raise ZtunnelAway(
                f"ztunnel is not connected to the node agent, so pod {info.namespace}/{info.name} cannot be served: "
                "see that ztunnel runs on this node and uses the agent's ZDS socket"
            )
        await self._connections[-1].perform(_Job(uid, AddWorkload))

    async def delete(self, uid: str) -> None:
        """Take a pod out and tell all ztunnels; a refusal is only logged: no snapshot names it again."""
        self._forget(uid)
        for connection in list(self._connections):
            try:
                await connection.perform(_Job(uid, DeleteWorkload))
            except MeshError as error:
                _log.warning("ztunnel did not confirm a deletion", uid=uid, reason=str(error))

    def _forget(self, uid: str) -> None:
        member = self._members.pop(uid, None)
        if member is not None:
            member.close()

    async def serve(
        self, listener: trio.socket.SocketType, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> Never:
        """Accept ztunnels for ever on a listening SOCK_SEQPACKET socket (``packet_driver.listen``)."""
        pause = 1 / self._limits.connections_per_second
        next_accept = -math.inf
        slots = trio.CapacityLimiter(self._limits.connections)
        async with trio.open_nursery() as nursery:
            task_status.started()
            while True:
                await trio.sleep_until(next_accept)
                accepted = await accept(listener)
                next_accept = trio.current_time() + pause
                nursery.start_soon(self._serve_connection, PacketSocket(accepted), slots)

    def close(self) -> None:
        """Close the register's descriptors."""
        for member in self._members.values():
            member.close()
        self._members.clear()

    async def _serve_connection(self, packets: PacketSocket, slots: trio.CapacityLimiter) -> None:
        connection = _Connection(self, packets, self._limits)
        try:
            try:
                slots.acquire_nowait()
            except trio.WouldBlock:
                raise InvalidMessage(f"{slots.total_tokens} ZDS connections exist already: no more are taken") from None
            try:
                await connection.hello()
                await self._admit(packets.peer_process())
                self._connections.append(connection)
                _log.info("ztunnel connected", connected=len(self._connections))
                await connection.run()
            finally:
                slots.release()
        except MeshError as error:
            _log.warning("ztunnel connection ended", reason=str(error))
        finally:
            packets.close()
            if connection in self._connections:
                self._connections.remove(connection)
                self._on_connected(len(self._connections))
            connection.fail_queue()

    # -- what a connection asks of the register ----------------------------------------------------------------------

    def uids(self) -> list[str]:
        """The register's pods now."""
        return list(self._members)

    def packet_for(self, uid: str) -> tuple[Request, int | None] | None:
        """How to name this pod, with a duplicate descriptor the caller closes; None when it is no longer here."""
        member = self._members.get(uid)
        if member is None:
            return None
        if member.info is None or member.descriptor is None:
            return KeepWorkload(uid), None
        return AddWorkload(uid, member.info), os.dup(member.descriptor)

    def snapshot_done(self) -> None:
        """A connection has the whole register."""
        self._on_connected(len(self._connections))

    def snapshot_refused(self, uid: str, reason: str) -> None:
        """A ztunnel refused a pod of its snapshot."""
        _log.warning("ztunnel refused a pod", uid=uid, reason=reason)
        self._on_refused(uid, reason)


class _Connection:
    """One ztunnel: the queue of what it is to be told, and the reader that sees it go."""

    def __init__(self, server: ZdsServer, packets: PacketSocket, limits: ZdsLimits) -> None:
        self._server = server
        self._packets = packets
        self._limits = limits
        self._put, self._take = trio.open_memory_channel[_Job](limits.queued)
        self._answered, self._answer = trio.open_memory_channel[str](1)
        self._outstanding = False
        self._ended = False

    async def perform(self, job: _Job) -> None:
        """Queue a job and wait for its acknowledgement."""
        if self._ended:
            raise ZtunnelAway("ztunnel has just disconnected")
        try:
            self._put.send_nowait(job)
        except trio.WouldBlock:
            raise ZtunnelAway(
                f"ztunnel has {self._limits.queued} requests waiting: it does not keep up; see its log"
            ) from None
        await job.done.wait()
        if job.failure is not None:
            raise job.failure

    def fail_queue(self) -> None:
        """Nobody will do what is still queued."""
        self._ended = True
        while True:
            try:
                job = self._take.receive_nowait()
            except trio.WouldBlock:
                return
            job.finish(ZtunnelAway("ztunnel disconnected before it was asked"))

    async def hello(self) -> None:
        """Receive the first packet."""
        with trio.move_on_after(self._limits.hello) as deadline:
            decode_hello(await self._receive())
        if deadline.cancelled_caught:
            raise InvalidMessage(f"no ZDS hello within {self._limits.hello:g} s: whoever connected is no ztunnel")

    async def run(self) -> None:
        """The snapshot, then the queue, until ztunnel goes."""
        failure: list[MeshError] = []
        async with trio.open_nursery() as nursery:

            async def read() -> None:
                try:
                    await self._read_answers()
                except MeshError as error:
                    failure.append(error)
                    nursery.cancel_scope.cancel()

            nursery.start_soon(read)
            try:
                await self._write()
            except MeshError as error:
                failure.append(error)
                nursery.cancel_scope.cancel()
        if failure:
            raise failure[0]

    async def _read_answers(self) -> None:
        while True:
            answer = decode_acknowledgement(await self._receive())
            if not self._outstanding:
                raise InvalidMessage("ztunnel acknowledged something it was not asked")
            self._outstanding = False
            self._answered.send_nowait(answer)

    async def _receive(self) -> bytes:
        packet = await self._packets.receive()
        if packet is None:
            raise ConnectionLost("ztunnel closed the ZDS connection")
        if packet.descriptors:
            packet.close()
            raise InvalidMessage("a ZDS packet of ztunnel carried a descriptor, which none may")
        return packet.data

    async def _write(self) -> Never:
        for uid in self._server.uids():
            named = self._server.packet_for(uid)
            if named is not None:
                error = await self._ask(*named)
                if error:
                    self._server.snapshot_refused(uid, error)
        error = await self._ask(SnapshotSent(), None)
        if error:
            raise ZtunnelRefused(f"ztunnel could not take the snapshot: {error}")
        self._server.snapshot_done()
        while True:
            await self._do(await self._take.receive())

    async def _do(self, job: _Job) -> None:
        failure: MeshError = ZtunnelAway("ztunnel disconnected before it acknowledged")
        try:
            request: tuple[Request, int | None] | None = (DeleteWorkload(job.uid), None)
            if job.wanted is AddWorkload:
                request = self._server.packet_for(job.uid)
            if request is None:
                failure = ZtunnelAway("the pod was deleted before ztunnel was told of it")
            else:
                error = await self._ask(*request)
                if error:
                    failure = ZtunnelRefused(f"ztunnel refused: {error}")
                else:
                    job.finish(None)
        finally:
            if not job.done.is_set():
                job.finish(failure)

    async def _ask(self, request: Request, descriptor: int | None) -> str:
        """Send one request and wait for its acknowledgement; the error it carries, empty when it was done."""
        try:
            packet = encode_request(request)
        except InvalidMessage as error:
            if descriptor is not None:
                os.close(descriptor)
            return str(error)
        self._outstanding = True
        with trio.move_on_after(self._limits.acknowledgement):
            try:
                await self._packets.send(packet, descriptor)
            finally:
                if descriptor is not None:
                    os.close(descriptor)
            return await self._answer.receive()
        raise ConnectionLost(
            f"ztunnel did not acknowledge {type(request).__name__} within {self._limits.acknowledgement:g} s: "
            "the connection is given up, a live ztunnel reconnects"
        )
