"""The operator process: everything is built here, and nowhere else.

One TLS port serves discovery and certificates to callers with a token; it opens only once the first translation is
done, so that no client is ever told of an empty mesh because it came early. One plain port serves metrics, debugging
and readiness, which says until then what is waited for.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from pathlib import Path

import structlog
import trio
from prometheus_client import CollectorRegistry

from controlplane.announcements import Announcements
from controlplane.ca.authentication import TokenAuthenticator, authenticate_call
from controlplane.ca.authority import Authority
from controlplane.ca.issuer import Issuer, Lifetimes
from controlplane.ca.metrics import AuthorityMetrics
from controlplane.ca.placement import Placement
from controlplane.ca.server import MAX_REQUEST, METHOD, CertificateService
from controlplane.config import OperatorSettings
from controlplane.debug_pages import routes
from controlplane.pipeline import Pipeline
from controlplane.platform import Platform, open_platform
from controlplane.publisher import Publisher
from controlplane.reconcile.driver import Reconciler, StatusWriter
from controlplane.serving import ServingCertificate
from controlplane.translate.translator import Translator
from mesh.errors import CallerUnknown, ConfigurationError, ControlPlaneUnavailable, EnvironmentLacks, InvalidIdentity
from mesh.grpc.driver import (
    CallContext,
    GrpcError,
    GrpcLimits,
    ServerStream,
    StatusCode,
    StreamHandler,
    serve_grpc,
    streaming,
    unary,
)
from mesh.identity import SpiffeId
from mesh.telemetry.http_endpoint import open_http_listeners, serve_http
from mesh.xds.client_driver import METHOD as DISCOVERY_METHOD
from mesh.xds.codec import DESTINATION_TYPE
from mesh.xds.server_driver import REQUEST_BYTES, SnapshotStore, XdsServer
from mesh.xds.server_machine import Sees
from resources.folder_store import FolderStore

_log = structlog.get_logger("controlplane")


async def run(
    settings: OperatorSettings, *, task_status: trio.TaskStatus[tuple[int, int]] = trio.TASK_STATUS_IGNORED
) -> None:
    """Run the operator until SIGTERM or SIGINT, or until cancelled.

    Args:
        settings: the configuration file's content.
        task_status: reports the TLS port and the plain port once both answer.

    Raises:
        ConfigurationError: the settings, the source's folder, the token file or the authority are wrong.
        EnvironmentLacks: a port is taken, or a folder cannot be written or watched.
    """
    trust_domain = _trust_domain(settings)
    async with open_platform(settings) as platform:
        await _run(settings, trust_domain, platform, task_status)
    _log.info("operator_stopped")


async def _run(
    settings: OperatorSettings, trust_domain: str, platform: Platform, task_status: trio.TaskStatus[tuple[int, int]]
) -> None:
    issuer = Issuer(platform.authority, trust_domain, _lifetimes(settings))
    registry = CollectorRegistry()
    placement, store = Placement(), SnapshotStore()
    lifetime = timedelta(seconds=settings.authority.serving_lifetime_seconds)
    serving = ServingCertificate(issuer, settings.grpc.server_name, lifetime)
    discovery = XdsServer(store, authenticate=_named_caller(platform.tokens), sees=visible_to)
    sessions = platform.session_secret or issuer.derived_secret("sessions of waypoints")
    translator = Translator(settings.translation())
    publisher = Publisher(store, sessions, labels=lambda: translator.labels)
    source = platform.source
    announcements = Announcements(platform, settings, issuer, translator)
    certificates = CertificateService(
        issuer,
        platform.tokens,
        placement,
        trust_domain,
        frozenset(settings.authentication.trusted_node_accounts),
        AuthorityMetrics(registry),
        announcements.refused,
    )
    pipeline = Pipeline(
        source,
        translator,
        placement,
        publisher,
        _reconciler(settings, platform, translator),
        platform.leadership,
        announcements.observers,
    )
    drain = trio.Event()

    def publish() -> None:
        if settings.authority.published_roots is not None:
            publish_roots(settings.authority.published_roots, issuer.roots)

    def authority_changed(authority: Authority) -> None:
        issuer.replace_authority(authority)
        serving.renew()
        announcements.roots_changed()
        publish()

    def not_ready_because() -> str | None:
        if drain.is_set():
            return "shutting down"
        if not pipeline.ready.is_set():
            return source.not_ready_because or "the first state is being translated"
        return None

    publish()
    async with source.open(), trio.open_nursery() as nursery:
        await nursery.start(_drain_on_signal, drain)
        pages = routes(pipeline, store, discovery, registry, not_ready_because)
        http_listeners = await open_http_listeners(settings.http.host, settings.http.port)
        await nursery.start(serve_http, pages, http_listeners)
        nursery.start_soon(pipeline.run)
        nursery.start_soon(publisher.run_withdrawals)
        nursery.start_soon(serving.run_renewal)
        nursery.start_soon(announcements.run)
        if platform.follow_authority is not None:
            nursery.start_soon(platform.follow_authority, authority_changed)
        await pipeline.ready.wait()
        handlers = {
            METHOD: unary(certificates.create_certificate, request_bytes=MAX_REQUEST),
            DISCOVERY_METHOD: streaming(_until_drained(discovery, drain), request_bytes=REQUEST_BYTES),
        }
        grpc_listeners = await open_http_listeners(settings.grpc.host, settings.grpc.port)

        async def serve_until_drained(*, task_status: trio.TaskStatus[list[trio.SocketListener]]) -> None:
            limits = GrpcLimits(drain_seconds=settings.drain_seconds)
            await serve_grpc(
                grpc_listeners,
                handlers,
                ssl_context=serving.context,
                limits=limits,
                drain=drain,
                task_status=task_status,
            )
            nursery.cancel_scope.cancel()

        await nursery.start(serve_until_drained)
        ports = _port(grpc_listeners), _port(http_listeners)
        _log.info("operator_ready", port=ports[0], http_port=ports[1], trust_domain=trust_domain)
        task_status.started(ports)


def publish_roots(path: Path, roots: bytes) -> None:
    """Write the root bundle where clients read it, whole or not at all.

    Raises:
        EnvironmentLacks: the place cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(roots)
        temporary.chmod(0o644)
        temporary.rename(path)
    except OSError as error:
        raise EnvironmentLacks(f"cannot publish the root certificates at {path}: {error.strerror}") from error


def _trust_domain(settings: OperatorSettings) -> str:
    name = settings.mesh.trust_domain
    try:
        SpiffeId.parse(str(SpiffeId(name, "default", "default")))
    except InvalidIdentity as error:
        message = f"$.mesh.trust_domain: {name[:128]!r} is not a trust domain: use lower-case letters, digits, . - _"
        raise ConfigurationError(message) from error
    return name


def _lifetimes(settings: OperatorSettings) -> Lifetimes:
    group = settings.authority
    return Lifetimes(
        default=timedelta(seconds=group.default_lifetime_seconds),
        minimum=timedelta(seconds=group.minimum_lifetime_seconds),
        maximum=timedelta(seconds=group.maximum_lifetime_seconds),
    )


def _reconciler(settings: OperatorSettings, platform: Platform, translator: Translator) -> Reconciler | None:
    """None: what is made of Gateways is somebody else's."""
    group = settings.waypoints
    if group is None:
        return None
    # In Kubernetes, statuses are written apart from this, by whoever leads.
    folder = settings.source.folder
    statuses = None if folder is None else StatusWriter(FolderStore(folder), lambda: translator.statuses)
    return Reconciler(platform.make_writer(), group.settings(), statuses)


def _named_caller(tokens: TokenAuthenticator) -> Callable[[CallContext], Awaitable[str]]:
    async def authenticate(context: CallContext) -> str:
        try:
            caller = await authenticate_call(tokens, context.metadata)
        except CallerUnknown as error:
            _log.warning("discovery_refused", reason=str(error), peer=str(context.peer))
            raise GrpcError(StatusCode.UNAUTHENTICATED, str(error)) from error
        except ControlPlaneUnavailable as error:
            raise GrpcError(StatusCode.UNAVAILABLE, str(error)) from error
        return f"{caller.account}@{caller.node}" if caller.node else caller.account

    return authenticate


def visible_to(caller: str) -> Mapping[str, Sees]:
    """What a caller may have of the types that are not for everybody.

    A destination holds what its waypoint needs to decide and others must not know, such as the key that session tokens
    are signed with; a waypoint runs as the service account of its Gateway's name.
    """
    account = caller.partition("@")[0]
    return {DESTINATION_TYPE: lambda each: account in each.found_under}


def _port(listeners: list[trio.SocketListener]) -> int:
    port: int = listeners[0].socket.getsockname()[1]
    return port


def _until_drained(discovery: XdsServer, drain: trio.Event) -> StreamHandler:
    """Discovery streams have no end of their own: at a drain they are told to go elsewhere at once."""

    async def serve(context: CallContext, stream: ServerStream) -> None:
        async def end() -> None:
            await drain.wait()
            raise GrpcError(StatusCode.UNAVAILABLE, "the operator is shutting down: connect again")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(end)
            await discovery.handle(context, stream)
            nursery.cancel_scope.cancel()

    return serve


async def _drain_on_signal(
    drain: trio.Event, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        task_status.started()
        async for number in signals:
            _log.info("draining", signal=signal.Signals(number).name)
            drain.set()
