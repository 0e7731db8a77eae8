"""What the operator stands on: files alone, or the Kubernetes API. The rest of it cannot tell which.

Any mixture works: objects of a folder or of the API, tokens of a file or of service accounts, an authority in files or
in a Secret. What needs the API takes the client of the one source that has it.
"""

from __future__ import annotations

import secrets
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import structlog
import trio

from controlplane.ca.authentication import StaticTokens, TokenAuthenticator
from controlplane.ca.authority import Authority, load_given, load_or_create
from controlplane.ca.rotation import Pace
from controlplane.config import KubernetesGroup, OperatorSettings
from controlplane.kube.lease_driver import Election
from controlplane.kube.root_secret_driver import RootSecret
from controlplane.kube.token_review_driver import TokenReviews
from controlplane.kube.writer_driver import ApiWriter
from controlplane.pipeline import Leadership, SoleReplica
from controlplane.reconcile.driver import FolderWriter, Writer
from controlplane.source import Source
from mesh.errors import ConfigurationError, MeshError
from resources.folder_source import FolderSource
from resources.folder_store import FolderStore
from resources.kube.client_driver import ApiClient
from resources.kube.credentials_driver import ApiSettings
from resources.kube.kinds import API_KINDS, CREDENTIALS
from resources.kube.source_driver import ApiSource
from resources.objects import Pod

DEFAULT_NAMESPACE = "ambimesh-system"
RETRY_SECONDS = 3.0
_OWN_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
_log = structlog.get_logger("controlplane")


@dataclass(frozen=True, slots=True, kw_only=True)
class Platform:
    """The parts that differ."""

    source: Source
    tokens: TokenAuthenticator
    authority: Authority
    session_secret: bytes | None
    """Of all replicas; None: to be derived from the authority's key."""
    make_writer: Callable[[], Writer]
    leadership: Leadership
    client: ApiClient | None = None
    """Of the Kubernetes API, where it is the source."""
    namespace: str = ""
    """The operator's own, in Kubernetes."""
    follow_authority: Callable[[Callable[[Authority], None]], Awaitable[None]] | None = None
    """Tells of every change of the authority, until cancelled; None: it does not change."""


@asynccontextmanager
async def open_platform(settings: OperatorSettings) -> AsyncIterator[Platform]:
    """What the settings name.

    Raises:
        ConfigurationError: they are wrong, or what they name is.
        EnvironmentLacks: a folder cannot be written or watched.
    """
    group = settings.source.kubernetes
    if (group is None) == (settings.source.folder is None):
        raise ConfigurationError("$.source: name one of folder and kubernetes")
    if group is None:
        assert settings.source.folder is not None
        yield _of_files(settings, settings.source.folder)
        return
    client = ApiClient(ApiSettings(kubeconfig=group.kubeconfig, context=group.context))
    try:
        await client.check()
        async with trio.open_nursery() as nursery:
            yield await _of_kubernetes(settings, group, client, nursery)
            nursery.cancel_scope.cancel()
    finally:
        with trio.CancelScope(shield=True):
            await client.close()


def _of_files(settings: OperatorSettings, folder: Path) -> Platform:
    authority = _authority_of_files(settings)
    if authority is None:
        raise ConfigurationError("$.authority: give folder (for a self-made authority) or given (for your own)")
    if settings.authentication.tokens is None:
        raise ConfigurationError("$.authentication.tokens: needed where the source is a folder")
    return Platform(
        source=FolderSource(folder),
        tokens=StaticTokens(settings.authentication.tokens),
        authority=authority,
        session_secret=None,
        make_writer=lambda: FolderWriter(FolderStore(folder)),
        leadership=SoleReplica(),
    )


async def _of_kubernetes(
    settings: OperatorSettings, group: KubernetesGroup, client: ApiClient, nursery: trio.Nursery
) -> Platform:
    namespace = group.namespace or await trio.to_thread.run_sync(_own_namespace)
    kinds = [kind for kind in API_KINDS.values() if group.read_secrets or kind.name != CREDENTIALS]
    source = ApiSource(client, kinds)
    tokens: TokenAuthenticator
    if settings.authentication.tokens is not None:
        tokens = StaticTokens(settings.authentication.tokens)
    else:

        def find_pod(pod_namespace: str, name: str) -> Pod | None:
            return source.objects.find(Pod, pod_namespace, name)

        tokens = TokenReviews(client, settings.authentication.audiences, find_pod)
    authority, sessions, follow = _authority_of_files(settings), None, None
    if authority is None:
        kept = RootSecret(
            client,
            namespace,
            settings.authority.secret,
            settings.authority.given_secret,
            settings.mesh.trust_domain,
            Pace(
                spread=timedelta(seconds=settings.authority.rotation_seconds),
                afterlife=timedelta(seconds=settings.authority.maximum_lifetime_seconds),
            ),
        )
        authority, sessions = await _patiently(kept)
        follow = kept.follow
    election = Election(client, namespace, group.identity or f"{socket.gethostname()}-{secrets.token_hex(4)}")
    nursery.start_soon(election.run)
    return Platform(
        source=source,
        tokens=tokens,
        authority=authority,
        session_secret=sessions,
        make_writer=lambda: ApiWriter(client),
        leadership=election,
        client=client,
        namespace=namespace,
        follow_authority=follow,
    )


async def _patiently(kept: RootSecret) -> tuple[Authority, bytes | None]:
    """The authority as soon as the API server gives it: it may be away, or its roles not be there yet."""
    told = ""
    while True:
        try:
            return await kept.load()
        except ConfigurationError:
            raise
        except MeshError as error:
            if str(error) != told:
                told = str(error)
                _log.warning("authority_not_read_yet", error=told, effect="tried again")
        await trio.sleep(RETRY_SECONDS)


def _authority_of_files(settings: OperatorSettings) -> Authority | None:
    group = settings.authority
    if group.given is not None:
        return load_given(group.given.certificate_chain, group.given.key, group.given.roots)
    if group.folder is not None:
        return load_or_create(group.folder, settings.mesh.trust_domain)
    return None


def _own_namespace() -> str:
    try:
        return _OWN_NAMESPACE.read_text().strip() or DEFAULT_NAMESPACE
    except OSError:
        return DEFAULT_NAMESPACE
