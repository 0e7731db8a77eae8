"""A proxy follows an operator: over TLS, with its token, into its state; what is missing is said and tried again."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from prometheus_client import CollectorRegistry

from mesh.addresses import parse_ip
from mesh.control_plane import ControlPlaneGroup, ca_client, follow_control_plane
from mesh.errors import ConfigurationError
from mesh.grpc.driver import CallContext, GrpcError, StatusCode
from mesh.state.store import MeshState
from mesh.telemetry.metrics import XdsMetrics
from mesh.testing.ca import TestAuthority
from mesh.testing.grpc import serving
from mesh.testing.model import make_workload
from mesh.tls.context import control_plane_server_context
from mesh.xds.client_driver import METHOD
from mesh.xds.client_machine import Subscription
from mesh.xds.codec import ADDRESS_TYPE, AUTHORIZATION_TYPE, encode_address
from mesh.xds.discovery_codec import NodeInfo
from mesh.xds.server_driver import SnapshotStore, XdsServer
from mesh.xds.snapshot import entry

WEB = make_workload("web", "10.0.0.1", node="node1")
authority = TestAuthority()


class Follower:
    """A ztunnel's state that follows an operator on loopback."""

    def __init__(self, folder: Path) -> None:
        self.roots, self.token = folder / "roots.pem", folder / "token"
        self.roots.write_bytes(authority.roots)
        self.token.write_text("secret\n")
        self.store = SnapshotStore()
        self.callers: list[dict[str, str]] = []
        self.state = MeshState("node1")
        self.registry = CollectorRegistry()

    async def authenticate(self, context: CallContext) -> str:
        self.callers.append(dict(context.metadata))
        if context.metadata.get("authorization") != "Bearer secret":
            raise GrpcError(StatusCode.UNAUTHENTICATED, "not known")
        return "ztunnel"

    @asynccontextmanager
    async def following(self) -> AsyncIterator[None]:
        operator = authority.issue_server("operator.test")
        context = control_plane_server_context(operator.certificate_chain, operator.key)
        handlers = {METHOD: XdsServer(self.store, authenticate=self.authenticate).handler()}
        async with serving(handlers, ssl_context=context) as port, trio.open_nursery() as nursery:
            control = ControlPlaneGroup(
                address=f"127.0.0.1:{port}",
                server_name="operator.test",
                root_certificate=self.roots,
                token=self.token,
            )
            nursery.start_soon(
                follow_control_plane,
                control,
                NodeInfo(pod="ztunnel", namespace="system", ip="127.0.0.1", node="node1"),
                [Subscription(ADDRESS_TYPE), Subscription(AUTHORIZATION_TYPE)],
                self.state,
                XdsMetrics(self.registry),
            )
            with trio.fail_after(20):
                yield
            nursery.cancel_scope.cancel()

    def knows(self) -> bool:
        return self.state.workloads.by_address.get(("", parse_ip("10.0.0.1"))) == WEB

    def failures(self) -> float:
        return self.counted("istio_xds_connection_terminations_total", reason="ConnectionError")

    def counted(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(name, labels) or 0.0

    def offer(self) -> None:
        self.store.update(AUTHORIZATION_TYPE, [], [])
        self.store.update(ADDRESS_TYPE, [entry(ADDRESS_TYPE, WEB.uid, encode_address(WEB), ("/10.0.0.1",))], [])


async def test_what_the_operator_says_becomes_the_state(tmp_path: Path) -> None:
    follower = Follower(tmp_path)
    follower.offer()
    async with follower.following():
        await until(follower.knows)
    assert follower.callers[0]["authorization"] == "Bearer secret"
    assert follower.callers[0]["clusterid"] == "Kubernetes"
    assert follower.counted("istio_xds_message_total", url=ADDRESS_TYPE) >= 1
    assert follower.counted("istio_xds_message_bytes_total", url=ADDRESS_TYPE) >= len(encode_address(WEB))


async def until(holds: Callable[[], bool]) -> None:
    while not holds():  # noqa: ASYNC110 -- neither metrics nor state have an event for it
        await trio.sleep(0.01)


def set_aside(path: Path) -> Path:
    return path.rename(path.with_suffix(".late"))


@pytest.mark.parametrize("missing", ["roots", "token"])
async def test_a_file_that_comes_late_is_read_then(tmp_path: Path, missing: str) -> None:
    follower = Follower(tmp_path)
    follower.offer()
    path: Path = getattr(follower, missing)
    late = set_aside(path)
    async with follower.following():
        await until(lambda: follower.failures() > 0)
        assert not follower.knows()
        late.rename(path)
        await until(follower.knows)


async def test_a_rotated_token_is_used_for_the_next_attempt(tmp_path: Path) -> None:
    follower = Follower(tmp_path)
    follower.offer()
    follower.token.write_text("stale")
    async with follower.following():
        await until(lambda: bool(follower.callers))
        follower.token.write_text("secret")
        await until(follower.knows)
    assert follower.callers[0]["authorization"] == "Bearer stale"


def test_the_certificate_service_is_where_the_control_plane_is(tmp_path: Path) -> None:
    def group(address: str) -> ControlPlaneGroup:
        return ControlPlaneGroup(
            address=address, server_name="operator.test", root_certificate=tmp_path / "r", token=tmp_path / "t"
        )

    client = ca_client(group("[fd00::1]:15012"), cluster_id="c", lifetime_seconds=60, impersonates=False)
    settings = client._settings
    assert (settings.host, settings.port, settings.server_name) == ("fd00::1", 15012, "operator.test")
    assert (settings.cluster_id, settings.lifetime_seconds, settings.impersonates) == ("c", 60, False)
    with pytest.raises(ConfigurationError, match="host:port"):
        ca_client(group("nowhere"), cluster_id="c", lifetime_seconds=60, impersonates=True)
