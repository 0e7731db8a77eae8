"""A proxy's operator: what it says goes into the proxy's state, for as long as the proxy lives; its certificates."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NoReturn

import trio

from mesh.addresses import parse_port
from mesh.certificates.ca_client import CaSettings, GrpcCaClient
from mesh.clock import SystemClock
from mesh.config import Settings
from mesh.errors import ConfigurationError
from mesh.telemetry.metrics import XdsMetrics
from mesh.tls.context import control_plane_context
from mesh.xds.client_driver import MessageStream, ResourceHandler, aggregated_stream, run_client
from mesh.xds.client_machine import Subscription
from mesh.xds.discovery_codec import NodeInfo, Rejected, Resource


class ControlPlaneGroup(Settings, frozen=True, kw_only=True):
    """The operator: delta xDS and certificates."""

    address: str
    """``host:port``."""
    server_name: str
    """What its certificate is issued for."""
    root_certificate: Path
    """PEM of the roots its certificate may chain to; read again for each connection."""
    token: Path
    """Bearer token of this proxy; read again for each connection, since it rotates."""

    def host_and_port(self) -> tuple[str, int]:
        """``address``, taken apart.

        Raises:
            ConfigurationError: it is not of that form.
        """
        host, _, text = self.address.rpartition(":")
        port = parse_port(text)
        if not host or not port:
            raise ConfigurationError(f"$.control_plane.address {self.address!r}: give host:port, as 10.96.0.15:15012")
        return host.strip("[]"), port


def ca_client(
    control: ControlPlaneGroup, *, cluster_id: str, lifetime_seconds: int, impersonates: bool
) -> GrpcCaClient:
    """The certificate service of the operator.

    Args:
        control: where it is.
        cluster_id: of the proxy.
        lifetime_seconds: what is asked for.
        impersonates: the proxy asks for the certificates of others, on whose behalf it serves.

    Raises:
        ConfigurationError: the address is none.
    """
    host, port = control.host_and_port()
    return GrpcCaClient(
        CaSettings(
            host=host,
            port=port,
            server_name=control.server_name,
            root_certificate=control.root_certificate,
            token=control.token,
            cluster_id=cluster_id,
            impersonates=impersonates,
            lifetime_seconds=lifetime_seconds,
        ),
        SystemClock(),
    )


async def follow_control_plane(
    control: ControlPlaneGroup,
    node: NodeInfo,
    subscriptions: Sequence[Subscription],
    handler: ResourceHandler,
    metrics: XdsMetrics,
) -> NoReturn:
    """Keep ``handler`` as the operator says, for ever; while the operator is away it stays as it was."""
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

    await run_client(counted, node, subscriptions, _Counting(handler, metrics))


class _Counting:
    """The handler, with what arrives counted."""

    def __init__(self, handler: ResourceHandler, metrics: XdsMetrics) -> None:
        self._handler = handler
        self._metrics = metrics

    def apply(self, type_url: str, updated: Sequence[Resource], removed: Sequence[str]) -> Sequence[Rejected]:
        """See ``mesh.xds.client_driver.ResourceHandler``."""
        self._metrics.received(type_url, sum(len(resource.payload) for resource in updated))
        return self._handler.apply(type_url, updated, removed)

    def applied(self, type_url: str) -> None:
        """See ``mesh.xds.client_driver.ResourceHandler``."""
        self._handler.applied(type_url)
