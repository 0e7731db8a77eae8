"""Following the operator: what it says of workloads, services and policies goes into the mesh's state."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import NoReturn

import trio

from mesh.errors import ConfigurationError
from mesh.telemetry.metrics import XdsMetrics
from mesh.tls.context import control_plane_context
from mesh.xds.client_driver import MessageStream, ResourceHandler, aggregated_stream, run_client
from mesh.xds.client_machine import Subscription
from mesh.xds.codec import ADDRESS_TYPE, AUTHORIZATION_TYPE
from mesh.xds.discovery_codec import NodeInfo, Rejected, Resource
from ztunnel.config import ZtunnelSettings


async def follow_control_plane(settings: ZtunnelSettings, state: ResourceHandler, metrics: XdsMetrics) -> NoReturn:
    """Keep ``state`` as the operator says, for ever; while the operator is away it stays as it was."""
    control, node = settings.control_plane, settings.node
    host, port = control.host_and_port()

    def context() -> ssl.SSLContext:
        try:
            return control_plane_context(control.root_certificate.read_bytes())
        except OSError as error:
            raise ConfigurationError(
                f"the operator's root certificate {control.root_certificate} cannot be read: {error.strerror}; the "
                "operator publishes it when it first starts"
            ) from error

    async def metadata() -> Sequence[tuple[str, str]]:
        try:
            token = (await trio.Path(control.token).read_text()).strip()
        except OSError as error:
            raise ConfigurationError(f"the token {control.token} cannot be read: {error.strerror}") from error
        return [("authorization", f"Bearer {token}"), ("clusterid", node.cluster_id)]

    connect = aggregated_stream(
        host, port, ssl_context=context, server_hostname=control.server_name, metadata=metadata
    )

    @asynccontextmanager
    async def counted() -> AsyncIterator[MessageStream]:
        try:
            async with connect() as stream:
                yield stream
        except BaseException:
            metrics.terminated("ConnectionError")
            raise
        metrics.terminated("Complete")

    await run_client(
        counted,
        NodeInfo(
            pod=node.pod_name,
            namespace=node.pod_namespace,
            ip=node.pod_ip,
            node=node.name,
            cluster_id=node.cluster_id,
        ),
        [Subscription(ADDRESS_TYPE), Subscription(AUTHORIZATION_TYPE)],
        _Counting(state, metrics),
    )


class _Counting:
    """The state, with what arrives counted."""

    def __init__(self, state: ResourceHandler, metrics: XdsMetrics) -> None:
        self._state = state
        self._metrics = metrics

    def apply(self, type_url: str, updated: Sequence[Resource], removed: Sequence[str]) -> Sequence[Rejected]:
        """See ``mesh.xds.client_driver.ResourceHandler``."""
        self._metrics.received(type_url, sum(len(resource.payload) for resource in updated))
        return self._state.apply(type_url, updated, removed)

    def applied(self, type_url: str) -> None:
        """See ``mesh.xds.client_driver.ResourceHandler``."""
        self._state.applied(type_url)
