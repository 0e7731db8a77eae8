"""Verdicts for the kernel, kept true.

Theory of operation. ``admitted`` is called when the slow path has delivered a connection; if both ends are pods of this
node, the kernel is told, and dials the next ones itself. What a verdict rests on is the *standing* of the destination:
its workload, its policies, its addresses being its own. As soon as the state of the mesh changes, in the very call that
applies it, every pod whose standing is another gets a new *generation*, and all verdicts about it are void; the next
connection comes through ztunnel and is judged. Then the live connections to such pods are judged again, and those now
denied are ended in the kernel. A connection that was being dialled at that moment may enter the table of live ones just
after it was read, so the table is read again a little later.

Verdicts hold as long as this process says that it lives, a few seconds ahead. When it ends, live connections go on; the
next ztunnel finds them in the kernel's table, judges them as soon as it knows their pods, and records their end. What
ended while nobody was there waits in a table of its own. While two run, verdicts hold of whichever has said a pod's
generation last; both repeat it, and one that is told to stop does not, but goes on to judge.
"""

from __future__ import annotations

import secrets
from collections import OrderedDict
from contextlib import suppress
from dataclasses import dataclass
from typing import Never

import structlog
import trio

from ebpf.fastpath.socket_diag import SocketKiller
from ebpf.fastpath.tables import FastPathConnection, FastPathMaps
from ebpf.layout import FAST_SLOTS
from mesh.addresses import IpBytes, OriginalDestination, SocketAddress
from mesh.balance import WeightedPool
from mesh.errors import ClosedByPolicyChange, ConnectFailed, ConnectionLost, MeshError
from mesh.model.service import BalancingMode
from mesh.rbac import ConnectionFacts, Deny, decide
from mesh.state.routes import ToWorkload
from mesh.state.store import Changes, MeshState
from mesh.telemetry.access_log import AccessLog
from mesh.telemetry.metrics import L4Metrics, ServiceLabels
from ztunnel.fastpath.decisions import DirectService, Standing, may_remember, slots_of
from ztunnel.fastpath.records import Ends, FastConnectionRecords
from ztunnel.fastpath.splicer import Splicer
from ztunnel.pod import Pod

HEARTBEAT_SECONDS = 1.0
ALIVE_SECONDS = 3.0
POLL_SECONDS = 0.25
_RECHECK_AGAIN_SECONDS = (0.0, 0.1, 1.0)
_SWEEP_SECONDS = 60.0
_NEVER_DIALLED_NANOSECONDS = 300 * 10**9
"""A dial that has no SYN after this time failed before it was made."""
_GONE_PODS = 1024
_MAX_VERDICTS_PER_POD = 8192
_SLICE = 500

_log = structlog.get_logger("fastpath")


@dataclass(slots=True)
class _Serving:
    """A pod of this node, and what was said about it."""

    pod: Pod
    standing: Standing
    generation: int
    verdicts: set[tuple[int, SocketAddress]]
    """Source namespace and target of the verdicts that admit to it."""


class FastPath:
    """The fast path of one node.

    Args:
        maps: the programs'.
        state: of the mesh; its subscribers before this one have brought the pods up to date.
        metrics: where connections are counted.
        access_log: where they are recorded.
        splice: whether payload may go past TCP.
    """

    def __init__(
        self,
        maps: FastPathMaps,
        state: MeshState,
        metrics: L4Metrics,
        access_log: AccessLog,
        *,
        splice: bool,
    ) -> None:
        self._maps = maps
        self._state = state
        self._splice = splice
        self.records = FastConnectionRecords(metrics, access_log, self._ends_of)
        self._splicer = Splicer(maps, self._served)
        self._pods: dict[int, _Serving] = {}
        self._by_ip: dict[IpBytes, _Serving] = {}
        self._gone: OrderedDict[int, Pod] = OrderedDict()
        self._services: dict[tuple[int, OriginalDestination], DirectService] = {}
        self._generation = secrets.randbits(62)  # no verdict of another ztunnel may seem to be this one's
        self._recheck: set[int] = set()
        self._wake = trio.Event()
        self._cut: dict[int, MeshError] = {}
        self._stopped = False
        maps.stop(splice=splice)
        maps.clear()
        state.subscribe(self._changed)

    # -- pods ----------------------------------------------------------------------------------------------------------

    def pod_started(self, pod: Pod) -> None:
        """A pod is served from now on; what it holds of live connections is judged."""
        serving = _Serving(pod, self._standing(pod), self._next_generation(), set())
        self._pods[pod.cookie] = serving
        self._gone.pop(pod.cookie, None)
        for ip in pod.addresses:
            self._by_ip[ip] = serving
        try:
            self._maps.set_generation(pod.cookie, serving.generation)
        except MeshError as error:  # without a generation no verdict about it holds
            _log.warning("pod has no fast path", pod=pod.name, error=str(error))
        self._ask_recheck({pod.cookie})

    def pod_stopped(self, pod: Pod) -> None:
        """A pod is not served any more: no new fast connections of it or to it. Live ones go on."""
        serving = self._pods.get(pod.cookie)
        if serving is None or serving.pod is not pod:
            return
        del self._pods[pod.cookie]
        for ip in pod.addresses:
            if self._by_ip.get(ip) is serving:
                del self._by_ip[ip]
        if not self._stopped:
            self._maps.forget_generation(pod.cookie)
            self._forget_verdicts(serving)
            self._forget_source(pod.cookie)
        self._gone[pod.cookie] = pod
        if len(self._gone) > _GONE_PODS:
            self._gone.popitem(last=False)

    # -- what the slow path tells --------------------------------------------------------------------------------------

    def admitted(self, destination: Pod, facts: ConnectionFacts) -> None:
        """A connection through a tunnel was admitted and delivered."""
        source, serving = self._by_ip.get(facts.source_ip), self._pods.get(destination.cookie)
        if source is None or serving is None or serving.pod is not destination or self._stopped:
            return
        target = SocketAddress(facts.destination_ip, facts.destination_port)
        verdict = (source.pod.cookie, target)
        if verdict in serving.verdicts or len(serving.verdicts) >= _MAX_VERDICTS_PER_POD:
            return
        if self._standing(destination) != serving.standing:
            self._renew(serving)  # it was described apart from a change
        # It was admitted before it was delivered: the policies may be others by now.
        if destination.policies is None or isinstance(decide(facts, destination.policies), Deny):
            return
        if serving.standing.claimed or not may_remember(source.pod, destination, facts):
            return
        if self._maps.admit(source.pod.cookie, target, destination.cookie, serving.generation):
            serving.verdicts.add(verdict)

    def dialled_service(self, source: Pod, dialled: OriginalDestination, upstream: ToWorkload) -> None:
        """A pod has dialled a service and was sent to one of its endpoints."""
        if upstream.workload.node == self._state.node:
            self.remember_service(source, dialled)

    def remember_service(self, source: Pod, dialled: OriginalDestination) -> None:
        """Let a pod dial a service directly from now on."""
        if (source.cookie, dialled) in self._services or self._stopped:
            return
        pool = self._pool_of(source, dialled)
        if pool is None or source.cookie not in self._pods:
            return
        slots = slots_of(pool, FAST_SLOTS)
        if slots is not None and self._maps.set_service(source.cookie, dialled, slots):
            self._services[source.cookie, dialled] = DirectService(source, dialled, pool)

    # -- changes -------------------------------------------------------------------------------------------------------

    def _changed(self, _changes: Changes) -> None:
        try:
            self._follow_changes()
        except MeshError as error:
            _log.error("the fast path is off: the kernel's maps cannot be kept true", error=str(error))
            self._stopped = True
            self._maps.stop(splice=self._splice)

    def _follow_changes(self) -> None:
        others = set()
        for cookie, serving in self._pods.items():
            if self._standing(serving.pod) != serving.standing:
                self._renew(serving)
                others.add(cookie)
        for key, service in list(self._services.items()):
            if self._pool_of(service.pod, service.dialled) is not service.pool:
                self._maps.remove_service(key[0], key[1])
                del self._services[key]
        if others:
            self._ask_recheck(others)

    def _renew(self, serving: _Serving) -> None:
        """The pod's standing is another: void what was said about it and of it."""
        serving.standing = self._standing(serving.pod)
        if self._stopped:
            return  # what the maps say now is a successor's word
        serving.generation = self._next_generation()
        self._maps.set_generation(serving.pod.cookie, serving.generation)
        self._forget_verdicts(serving)
        self._forget_source(serving.pod.cookie)

    def _standing(self, pod: Pod) -> Standing:
        network = "" if pod.workload is None else pod.workload.network
        claimed = any(self._state.service_at(network, ip) is not None for ip in pod.addresses)
        return Standing(pod.workload, pod.policies, claimed)

    def _pool_of(self, source: Pod, dialled: OriginalDestination) -> WeightedPool[ToWorkload] | None:
        if source.workload is None:
            return None
        view = self._state.service_at(source.workload.network, dialled.ip)
        if view is None or (service := view.service) is None or dialled.port not in view.ports:
            return None
        if service.waypoint is not None or service.weighted_waypoints:
            return None
        if service.load_balancing.mode is BalancingMode.PASSTHROUGH:
            return None
        ipv4 = dialled.ip[:12] == bytes(10) + b"\xff\xff"
        return view.pool(service, dialled.port, ipv4=ipv4, source=source.workload)

    def _next_generation(self) -> int:
        self._generation += 1
        return self._generation

    def _forget_verdicts(self, serving: _Serving) -> None:
        for source, target in serving.verdicts:
            self._maps.revoke(source, target)
        serving.verdicts.clear()

    def _forget_source(self, cookie: int) -> None:
        for serving in self._pods.values():
            for verdict in [verdict for verdict in serving.verdicts if verdict[0] == cookie]:
                self._maps.revoke(*verdict)
                serving.verdicts.discard(verdict)
        for key in [key for key in self._services if key[0] == cookie]:
            self._maps.remove_service(key[0], key[1])
            del self._services[key]

    # -- live connections ----------------------------------------------------------------------------------------------

    def _ask_recheck(self, cookies: set[int]) -> None:
        self._recheck |= cookies
        self._wake.set()

    async def _judge_again(self) -> Never:
        while True:
            await self._wake.wait()
            self._wake = trio.Event()
            destinations, self._recheck = self._recheck, set()
            for pause in _RECHECK_AGAIN_SECONDS:
                await trio.sleep(pause)
                try:
                    await self._judge(destinations)
                except MeshError as error:
                    _log.error("live fast connections cannot be judged", error=str(error))

    async def _judge(self, destinations: set[int]) -> None:
        for number, connection in enumerate(self._maps.live(), 1):
            if connection.destination_netns in destinations or connection.source_netns in destinations:
                try:
                    self._judge_one(connection)
                except MeshError as error:
                    _log.error("cannot end a connection that is denied", connection=str(connection), error=str(error))
            if number % _SLICE == 0:
                await trio.lowlevel.checkpoint()

    def _judge_one(self, connection: FastPathConnection) -> None:
        source, destination = self._pods.get(connection.source_netns), self._pods.get(connection.destination_netns)
        if source is None or destination is None or not connection.source.port:
            return  # not served (yet, or any more): un-enrolment leaves what is established alone
        policies = destination.pod.policies
        if policies is None:
            return
        target = connection.destination
        facts = ConnectionFacts(connection.source.ip, source.pod.identity, target.ip, target.port)
        decision = decide(facts, policies)
        if not isinstance(decision, Deny):
            return
        if connection.cookie not in self._cut:
            _log.info(
                "connection closed due to policy change",
                pod=destination.pod.name,
                source=str(connection.source),
                identity=str(source.pod.identity),
                policy=decision.policy or "none",
                reason=decision.reason,
                fast_path=True,
            )
            self._cut[connection.cookie] = ClosedByPolicyChange(
                f"connection closed due to policy change: {decision.reason}"
            )
        with SocketKiller(source.pod.namespace) as killer:
            killer.end(connection.source, target, connection.cookie)
        if connection.server_cookie:
            with SocketKiller(destination.pod.namespace) as killer:
                killer.end(target, connection.source, connection.server_cookie)

    # -- records -------------------------------------------------------------------------------------------------------

    def _ends_of(self, connection: FastPathConnection) -> Ends:
        source, destination = self._pod(connection.source_netns), self._pod(connection.destination_netns)
        service = ServiceLabels()
        if connection.dialled != connection.destination and source is not None and source.workload is not None:
            view = self._state.service_at(source.workload.network, connection.dialled.ip)
            service = ServiceLabels.of(None if view is None else view.service)
        return Ends(source, destination, service)

    def _pod(self, cookie: int) -> Pod | None:
        serving = self._pods.get(cookie)
        return self._gone.get(cookie) if serving is None else serving.pod

    def _served(self, cookie: int) -> Pod | None:
        serving = self._pods.get(cookie)
        return None if serving is None else serving.pod

    def collect(self) -> None:
        """Record what has ended."""
        self.records.ended_all((connection, self._why(connection)) for connection in self._maps.take_closed())

    def _why(self, connection: FastPathConnection) -> MeshError | None:
        """Why a connection that is over failed, if it did."""
        error = self._cut.pop(connection.cookie, None)
        if error is None and connection.failed:
            return ConnectFailed(f"{connection.destination} did not accept the connection")
        return error

    def count_live(self) -> None:
        """Bring the counters of live connections up to date; called when metrics are read."""
        self.collect()
        for connection in self._maps.live():
            if connection.source.port:
                self.records.seen(connection)
        # What ended in between was seen alive once more and is recorded by the next ``collect``.

    def _sweep(self) -> None:
        """Drop dials that never came to a SYN, and what is known of connections that left no record."""
        live = self._maps.live()
        newest = max((connection.opened_at for connection in live), default=0)
        for connection in live:
            if not connection.source.port and newest - connection.opened_at > _NEVER_DIALLED_NANOSECONDS:
                self._maps.drop(connection.cookie)
        alive = {connection.cookie for connection in live}
        self.records.end_lost(alive)
        for cookie in [cookie for cookie in self._cut if cookie not in alive]:
            del self._cut[cookie]

    # -- running -------------------------------------------------------------------------------------------------------

    async def run(self) -> Never:
        """Say that ztunnel lives, and record what ended, for ever."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._beat)
            nursery.start_soon(self._judge_again)
            if self._splice:
                nursery.start_soon(self._splicer.run)
            await self._poll()
        raise ConnectionLost("the fast path's tasks ended")

    async def _beat(self) -> Never:
        while True:
            if not self._stopped:
                self._maps.stay_alive(ALIVE_SECONDS, splice=self._splice)
                for cookie, serving in self._pods.items():  # a predecessor that still runs may have said another
                    with suppress(MeshError):  # it was logged when the pod was started
                        self._maps.set_generation(cookie, serving.generation)
            await trio.sleep(HEARTBEAT_SECONDS)

    async def _poll(self) -> Never:
        swept = trio.current_time()
        while True:
            await trio.sleep(POLL_SECONDS)
            try:
                self.collect()
            except MeshError as error:
                _log.error("records of fast connections cannot be read", error=str(error))
                await trio.sleep(_SWEEP_SECONDS)
                continue
            if trio.current_time() - swept > _SWEEP_SECONDS:
                swept = trio.current_time()
                self.collect()
                self._sweep()

    def stop(self) -> None:
        """No new fast connections: this ztunnel is going. Live ones stay with the kernel."""
        self._stopped = True
        self._splicer.stop()
        self._maps.stop(splice=self._splice)
