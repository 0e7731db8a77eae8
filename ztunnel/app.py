"""The composition root of a ztunnel that is one process: builds everything and starts every task."""

from __future__ import annotations

import gc
from functools import partial

import structlog
import trio

from ebpf.paths import PinPaths
from mesh import compiled
from mesh.admin import admin_routes, metrics_routes, readiness_routes, serve_admin, stop_on_signal
from mesh.certificates.ca_client import GrpcCaClient
from mesh.control_plane import ca_client, follow_control_plane
from mesh.process import collect_rarely, raise_descriptor_limit, release
from mesh.telemetry import log
from mesh.telemetry.metrics import XdsMetrics, metrics_page, new_registry
from mesh.telemetry.output import standard_output
from mesh.xds.client_machine import Subscription
from mesh.xds.codec import ADDRESS_TYPE, AUTHORIZATION_TYPE
from mesh.zds.client_driver import run_zds_client
from ztunnel.admin.dump import dump
from ztunnel.admin.readiness import Readiness
from ztunnel.admin.routes import HELP, set_levels
from ztunnel.config import ZtunnelSettings
from ztunnel.data_plane import DataPlane
from ztunnel.fastpath.making import make_fast_path
from ztunnel.fastpath.manager import FastPath
from ztunnel.inpod.manager import PodManager
from ztunnel.kernel_maps import KernelMaps, open_maps

_log = structlog.get_logger("ztunnel")

NODE_SUBSCRIPTIONS = (Subscription(ADDRESS_TYPE), Subscription(AUTHORIZATION_TYPE))
"""What a node's proxy asks the control plane for."""


async def run(settings: ZtunnelSettings) -> None:
    """Be the ztunnel of one node until SIGTERM or SIGINT.

    Raises:
        ConfigurationError: an address in the settings cannot be used.
        EnvironmentLacks: a port of ours is taken.
    """
    log.configure(settings.log.format, settings.log.level)
    collect_rarely()
    descriptors = raise_descriptor_limit()
    form = compiled.current()
    _log.info(
        "starting",
        node=settings.node.name,
        version=release(),
        descriptors=descriptors,
        form=form.name,
        form_detail=form.detail,
    )
    await _Ztunnel(settings).run()


def certificates(settings: ZtunnelSettings) -> GrpcCaClient:
    """The certificate service that the settings name."""
    return ca_client(
        settings.control_plane,
        cluster_id=settings.node.cluster_id,
        lifetime_seconds=settings.certificate_lifetime_seconds,
        impersonates=True,
    )


class _Ztunnel:
    """All parts, wired."""

    def __init__(self, settings: ZtunnelSettings) -> None:
        self.settings = settings
        self.registry = new_registry("ztunnel", release())
        self.output = standard_output()
        self.plane = DataPlane(settings, self.registry, certificates(settings))
        self.fast_path: FastPath | None = None
        self.stopping = trio.Event()

    async def run(self) -> None:
        """Start everything, serve, drain, stop."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.output.run)
            self.plane.start(nursery)
            nursery.start_soon(stop_on_signal, self.stopping)
            metrics = XdsMetrics(self.registry)
            nursery.start_soon(
                follow_control_plane,
                self.settings.control_plane,
                self.settings.node.info(),
                NODE_SUBSCRIPTIONS,
                self.plane.state,
                metrics,
            )
            maps = await open_maps(PinPaths(self.settings.bpf.bpffs, self.settings.node.name), self.stopping)
            if maps is not None:
                await self._serve(nursery, maps)
            nursery.cancel_scope.cancel()
        self.plane.close()
        self.output.close()
        _log.info("stopped")

    async def _serve(self, nursery: trio.Nursery, maps: KernelMaps) -> None:
        """Serve pods until told to stop, then drain."""
        plane = self.plane
        maps.listeners.share_among(1)
        self.fast_path = make_fast_path(
            self.settings.fast_path, maps, plane.state, plane.metrics, plane.access_log
        )
        pods = plane.serve(nursery, maps, self.fast_path)
        readiness = Readiness(plane.state, pods)
        await self._serve_admin(nursery, pods, readiness)
        nursery.start_soon(run_zds_client, self.settings.zds_socket, pods)
        if self.fast_path is not None:
            nursery.start_soon(self.fast_path.run)
        gc.collect()
        gc.freeze()
        await self.stopping.wait()
        readiness.draining = True
        if self.fast_path is not None:
            self.fast_path.stop()
        await plane.drain(pods)

    async def _count_all(self) -> None:
        self.plane.table.count_all()
        if self.fast_path is not None:
            self.fast_path.count_live()

    async def _serve_admin(self, nursery: trio.Nursery, pods: PodManager, readiness: Readiness) -> None:
        plane = self.plane

        async def everything() -> object:
            return dump(plane.state, plane.identities, plane.table, pods, plane.kernel_tls)

        async def ready() -> list[str]:
            return readiness.missing()

        await serve_admin(
            nursery,
            self.settings.admin,
            admin_routes(HELP, everything, partial(set_levels, plane.access_log), self.stopping.set),
            metrics_routes(metrics_page(self.registry), self._count_all),
            readiness_routes(ready),
        )
