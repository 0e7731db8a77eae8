"""The composition root: the only module that builds everything and starts every task."""

from __future__ import annotations

import gc
import random
import ssl
import time
from collections.abc import Sequence

import structlog
import trio

from mesh import compiled
from mesh.admin import admin_routes, metrics_routes, readiness_routes, serve_admin, stop_on_signal
from mesh.certificates.manager import IdentityManager
from mesh.certificates.tls_contexts import TlsContexts
from mesh.clock import SystemClock
from mesh.control_plane import ca_client, follow_control_plane
from mesh.errors import ConfigurationError, Draining
from mesh.process import collect_rarely, raise_descriptor_limit, release
from mesh.relay.acceptor import Acceptor
from mesh.relay.engine import Engine
from mesh.relay.owned_tasks import OwnedTasks
from mesh.relay.pool import TunnelPool
from mesh.relay.terminator import SETTLE_SECONDS, Terminator
from mesh.state.store import MeshState
from mesh.telemetry import log
from mesh.telemetry.metrics import XdsMetrics, metrics_page, new_registry
from mesh.telemetry.output import standard_output
from mesh.tls.kernel_driver import find_kernel_tls
from mesh.xds.client_machine import Subscription
from mesh.xds.codec import ADDRESS_TYPE, DESTINATION_TYPE, LABELS_TYPE
from mesh.xds.discovery_codec import Rejected, Resource
from waypoint.admin import HELP, Readiness, dump, set_levels
from waypoint.config import RateLimitStoreGroup, WaypointSettings
from waypoint.destinations import Destinations
from waypoint.host import OwnNamespace, WaypointHost
from waypoint.inbound import ConnectionServer, Inbound
from waypoint.limiting import SharedCounting, WhenAway
from waypoint.listening import open_listeners
from waypoint.security.shared_limit_driver import SharedLimits, StoreSettings
from waypoint.serving import Serving
from waypoint.wire.timers import Timers
from waypoint.wire.timers_driver import run_timers

_log = structlog.get_logger("waypoint")

_FAREWELL_SECONDS = 0.5
"""For what is cut off to be told to its clients."""
_SPANS_SECONDS = 2.0
"""How long spans of the last requests may take on their way, when all else is over."""


async def run(settings: WaypointSettings) -> None:
    """Be one replica of a waypoint until SIGTERM or SIGINT.

    Raises:
        ConfigurationError: an address in the settings cannot be used.
        EnvironmentLacks: a port of ours is taken.
    """
    log.configure(settings.log.format, settings.log.level)
    collect_rarely()
    descriptors, form = raise_descriptor_limit(), compiled.current()
    _log.info("starting", gateway=settings.gateway.key, version=release(), descriptors=descriptors)
    _log.info("form of the hot modules", form=form.name, detail=form.detail)
    await _Waypoint(settings).run()


class _Waypoint:
    """All parts, wired."""

    def __init__(self, settings: WaypointSettings) -> None:
        self.settings = settings
        gateway, control = settings.gateway, settings.control_plane
        self.engine = Engine()
        self.timers = Timers(time.monotonic)
        self.registry = new_registry("waypoint", release())
        self.output = standard_output()
        self.state = MeshState(gateway.node)
        client = ca_client(
            control,
            cluster_id=gateway.cluster_id,
            lifetime_seconds=settings.certificate_lifetime_seconds,
            impersonates=False,
        )
        self.identities = IdentityManager(client, SystemClock(), random.random)
        self.kernel_tls = find_kernel_tls(settings.kernel_tls)
        self.contexts = TlsContexts.of(self.identities, self.kernel_tls)
        self.stopping = trio.Event()

    async def run(self) -> None:
        """Start everything, serve, drain, stop."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.output.run)
            nursery.start_soon(self.engine.run)
            nursery.start_soon(run_timers, self.timers)
            nursery.start_soon(self.identities.run)
            nursery.start_soon(stop_on_signal, self.stopping)
            await self._serve(nursery)
            nursery.cancel_scope.cancel()
        self.engine.close()
        self.output.close()
        _log.info("stopped")

    async def _serve(self, nursery: trio.Nursery) -> None:
        settings, gateway, engine = self.settings, self.settings.gateway, self.engine
        host = WaypointHost(gateway.key, gateway.identity, OwnedTasks(nursery, engine), OwnNamespace())
        pool = TunnelPool(engine, host, self.contexts)
        destinations: Destinations[ConnectionServer] = Destinations(gateway.key)
        serving = Serving(
            engine,
            self.timers,
            host,
            pool,
            self.state,
            gateway,
            self.registry,
            self.output,
            destinations.labels_of,
            self._shared_limits(nursery, host.tasks),
        )
        destinations.serve_by(serving.prepare, serving.services.labels_changed, serving.dropped)
        inbound = Inbound(self.state, destinations, gateway.network, serving.refused)
        terminator = Terminator(engine, host, self.contexts, inbound)
        readiness = Readiness(self.state, destinations, self.identities, gateway.identity)
        nursery.start_soon(
            follow_control_plane,
            settings.control_plane,
            gateway.info(),
            [
                Subscription(ADDRESS_TYPE),
                Subscription(DESTINATION_TYPE, on_demand=True, names=(gateway.key,)),
                Subscription(LABELS_TYPE),
            ],
            Handlers(self.state, destinations),
            XdsMetrics(self.registry),
        )
        self.identities.prefetch(gateway.identity)
        self.identities.subscribe(lambda _credentials: pool.forget_identity())
        await self._serve_admin(nursery, destinations, serving, readiness)
        acceptors = [
            Acceptor(engine, listener, terminator.accepted)
            for listener in open_listeners(settings.listen.hbone_port)
        ]
        nursery.start_soon(serving.keys.run)
        nursery.start_soon(serving.health.run)
        nursery.start_soon(self._tick, pool, terminator, serving)
        gc.collect()
        gc.freeze()
        await self.stopping.wait()
        readiness.draining = True
        terminator.drain()
        serving.drain()
        # Until ztunnels have heard that others are to serve them, they send clients here.
        await trio.sleep(SETTLE_SECONDS)
        inbound.draining = True
        for acceptor in acceptors:
            acceptor.close()
        await self._drain(serving)
        terminator.close(Draining("this waypoint has shut down"))
        pool.close(None)

    def _shared_limits(self, nursery: trio.Nursery, tasks: OwnedTasks) -> SharedCounting | None:
        group = self.settings.rate_limit_store
        if group is None:
            return None
        store = SharedLimits(store_settings(group, self.settings.gateway.key))
        nursery.start_soon(store.run)
        return SharedCounting(store, WhenAway(group.when_away), tasks, self.registry)

    async def _serve_admin(
        self,
        nursery: trio.Nursery,
        destinations: Destinations[ConnectionServer],
        serving: Serving,
        readiness: Readiness,
    ) -> None:
        async def everything() -> object:
            return dump(self.state, self.identities, destinations, serving, self.kernel_tls)

        async def missing() -> list[str]:
            return readiness.missing()

        await serve_admin(
            nursery,
            self.settings.listen,
            admin_routes(HELP, everything, set_levels, self.stopping.set),
            metrics_routes(metrics_page(self.registry)),
            readiness_routes(missing),
        )

    async def _tick(self, pool: TunnelPool, terminator: Terminator[WaypointHost], serving: Serving) -> None:
        while True:
            await trio.sleep(1)
            now = self.engine.now = time.monotonic()
            try:
                pool.tick(now)
                terminator.tick(now)
                serving.tick(now)
            except Exception:  # a bug in the upkeep of one tunnel must not stop everybody's traffic
                _log.exception("upkeep failed")

    async def _drain(self, serving: Serving) -> None:
        """Let requests end, and end the rest when the time is up."""
        if not serving.idle:
            _log.info("draining", connections=serving.connections, seconds=self.settings.drain_seconds)
        with trio.move_on_after(self.settings.drain_seconds):
            while not serving.idle:  # noqa: ASYNC110 -- counts of the relay's side have no event
                await trio.sleep(0.05)
        if not serving.idle:
            _log.warning("the time to drain is up", connections=serving.connections)
            serving.cut_off(Draining("this waypoint has shut down"))
            await trio.sleep(_FAREWELL_SECONDS)
        with trio.move_on_after(_SPANS_SECONDS):
            await serving.spans.finish()


def store_settings(group: RateLimitStoreGroup, gateway: str) -> StoreSettings:
    """How the store of shared limits is used.

    Raises:
        ConfigurationError: its root certificate cannot be read.
    """
    context = None
    if group.tls:
        try:
            context = ssl.create_default_context(cafile=group.root_certificate)
        except OSError as error:  # which ssl.SSLError is as well
            raise ConfigurationError(f"rate_limit_store.root_certificate {group.root_certificate}: {error}") from error
    return StoreSettings(
        host=group.host,
        port=group.port,
        user=group.user,
        password_file=group.password_file,
        tls=context,
        prefix=f"{group.prefix}{gateway}|",
        timeout_seconds=group.timeout_seconds,
    )


class Handlers:
    """Brings each type of resource to whoever keeps it (``mesh.xds.client_driver.ResourceHandler``)."""

    def __init__(self, state: MeshState, destinations: Destinations[ConnectionServer]) -> None:
        self._state = state
        self._destinations = destinations

    def apply(self, type_url: str, updated: Sequence[Resource], removed: Sequence[str]) -> Sequence[Rejected]:
        """Take changes."""
        if type_url == ADDRESS_TYPE:
            return self._state.apply(type_url, updated, removed)
        return self._destinations.apply(type_url, updated, removed)

    def applied(self, type_url: str) -> None:
        """All of one response is in."""
        if type_url == ADDRESS_TYPE:
            self._state.applied(type_url)
        else:
            self._destinations.applied(type_url)
