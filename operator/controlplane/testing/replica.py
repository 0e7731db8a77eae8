"""An operator that stands on the Kubernetes API, run inside of a test, and what a node proxy asks of it."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import trio
from cryptography.hazmat.primitives.asymmetric import ec

from controlplane.app import run
from controlplane.ca.server import METHOD
from controlplane.config import OperatorSettings
from mesh import config
from mesh.grpc.driver import open_channel
from mesh.identity import SpiffeId
from mesh.tls.context import control_plane_context
from mesh.tls.csr import make_csr, make_key
from mesh.wire.certificate_pb2 import IstioCertificateRequest, IstioCertificateResponse
from mesh.xds.client_driver import MessageStream, aggregated_stream, run_client
from mesh.xds.client_machine import Subscription
from mesh.xds.codec import ADDRESS_TYPE
from mesh.xds.discovery_codec import NodeInfo, Rejected, Resource

NAMESPACE = "ambimesh-system"
SERVER_NAME = f"ambimesh-operator.{NAMESPACE}.svc"


class Replica:
    """One operator."""

    def __init__(
        self,
        folder: Path,
        kubeconfig: Path,
        name: str,
        roots: Callable[[], bytes],
        waypoints: str = "",
        authority: str = "",
    ) -> None:
        """Write its configuration.

        Args:
            folder: of the configuration file.
            kubeconfig: as whom it works.
            name: unlike that of other replicas.
            roots: the trust bundle, as its clients read it.
            waypoints: further settings of theirs, in YAML's flow style.
            authority: its settings, in the same.
        """
        self.file = folder / f"{name}.yaml"
        self.roots = roots
        self.file.write_text(
            f"source: {{kubernetes: {{kubeconfig: {kubeconfig}, namespace: {NAMESPACE}, identity: {name}}}}}\n"
            f"authority: {{{authority}}}\n"
            f"authentication: {{trusted_node_accounts: [{NAMESPACE}/ztunnel]}}\n"
            f"waypoints: {{command: [waypoint], image: none, {waypoints}}}\n"
            "grpc: {port: 0}\n"
            "http: {port: 0}\n"
            "drain_seconds: 0.5\n"
        )
        self.port = self.http_port = 0

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run it until the block ends; its ports are known then."""
        settings = config.load(self.file, OperatorSettings)
        async with trio.open_nursery() as nursery:
            with trio.fail_after(20):
                self.port, self.http_port = await nursery.start(functools.partial(run, settings))
            yield
            nursery.cancel_scope.cancel()

    async def certificate(
        self, identity: SpiffeId, token: str, key: ec.EllipticCurvePrivateKey | None = None
    ) -> IstioCertificateResponse:
        """Ask for a certificate, as a node proxy does; of a key of its own unless one is given.

        Raises:
            GrpcError: it is refused.
        """
        request = IstioCertificateRequest(csr=make_csr(identity, key or make_key()).decode(), validity_duration=60)
        request.metadata.update({"ImpersonatedIdentity": str(identity)})
        metadata = [("authorization", f"Bearer {token}")]
        context = control_plane_context(self.roots())
        async with open_channel("127.0.0.1", self.port, context, SERVER_NAME) as channel:
            answer = await channel.unary(METHOD, request.SerializeToString(), metadata=metadata, timeout=5)
        return IstioCertificateResponse.FromString(answer)

    def discovery(self, token: str) -> Callable[[], AbstractAsyncContextManager[MessageStream]]:
        """Opens a stream of discovery."""

        async def metadata() -> Sequence[tuple[str, str]]:
            return [("authorization", f"Bearer {token}"), ("clusterid", "Kubernetes")]

        return aggregated_stream(
            "127.0.0.1",
            self.port,
            ssl_context=lambda: control_plane_context(self.roots()),
            server_hostname=SERVER_NAME,
            metadata=metadata,
        )

    @asynccontextmanager
    async def reading(self, token: str) -> AsyncIterator[dict[str, bytes]]:
        """Follow all addresses, as a node proxy does: payloads by name."""
        known: dict[str, bytes] = {}

        class Store:
            def apply(self, type_url: str, updated: Sequence[Resource], removed: Sequence[str]) -> Sequence[Rejected]:
                known.update({one.name: one.payload for one in updated})
                for name in removed:
                    known.pop(name, None)
                return []

            def applied(self, type_url: str) -> None:
                pass

        node = NodeInfo(pod="ztunnel-1", namespace=NAMESPACE, ip="127.0.0.1", node="node1")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run_client, self.discovery(token), node, [Subscription(ADDRESS_TYPE)], Store())
            yield known
            nursery.cancel_scope.cancel()
