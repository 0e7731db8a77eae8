"""Where the API server is and who we are there, by the ``kubernetes`` client: the one module that imports it.

Reading configuration means files, and may mean a program (exec plugins): all of it runs in a worker thread. What it
comes to is an ``Access``, plain values. Tokens expire, so ``refresh`` asks the client again, whose hooks read the file
of an in-cluster token once a minute and run the plugin once its token has expired; after a 401 everything is read anew,
as a rotated client certificate or authority needs.
"""

from __future__ import annotations

import os
import ssl
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import trio

from mesh.errors import ConfigurationError

if TYPE_CHECKING:
    from kubernetes.client import Configuration

REFRESH_SECONDS = 30.0
"""How long a token is used before the client is asked whether it still holds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiSettings:
    """Which API server, and as whom."""

    kubeconfig: Path | None = None
    """A kubeconfig file; None: that of ``KUBECONFIG``, else the service account of the pod we are in."""
    context: str | None = None
    """A context of it; None: its current one."""


@dataclass(frozen=True, slots=True, eq=False)
class Access:
    """How to reach one API server."""

    host: str
    port: int
    tls: ssl.SSLContext | None
    """None for plain HTTP."""
    server_name: str
    """What its certificate must be for."""
    prefix: str
    """What all paths begin with; mostly empty."""
    headers: tuple[tuple[str, str], ...]
    """That say who we are."""
    proxy: tuple[str, int] | None = None
    """An HTTP proxy that is asked for a tunnel (CONNECT)."""


class Credentials:
    """Keeps an ``Access`` current."""

    def __init__(self, settings: ApiSettings) -> None:
        self._settings = settings
        self._configuration: Configuration | None = None
        self._access: Access | None = None
        self._fresh_until = 0.0
        self._lock = trio.Lock()
        self.generation = 0
        """Goes up whenever everything was read anew."""

    async def access(self) -> Access:
        """The way to the server, with a token that holds.

        Raises:
            ConfigurationError: there is no configuration, or it cannot be used.
        """
        if self._access is not None and trio.current_time() < self._fresh_until:
            return self._access
        async with self._lock:
            if self._access is None or trio.current_time() >= self._fresh_until:
                self._access = await trio.to_thread.run_sync(self._current)
                self._fresh_until = trio.current_time() + REFRESH_SECONDS
            return self._access

    async def renew(self, generation: int) -> None:
        """Read everything anew, unless that was done since ``generation``: of many that are refused one does it.

        Raises:
            ConfigurationError: it cannot be used any more.
        """
        async with self._lock:
            if generation != self.generation:
                return
            self._configuration = self._access = None
            self.generation += 1
            self._fresh_until = 0.0

    def _current(self) -> Access:
        from kubernetes.config import ConfigException

        try:
            if self._configuration is None or self._access is None:
                self._configuration = _load(self._settings)
                return _access(self._configuration)
            headers = _headers(self._configuration)
        except (ConfigException, OSError, ValueError, TypeError, KeyError) as error:
            remedy = "name a kubeconfig, set KUBECONFIG, or run in a pod with a service account"
            raise ConfigurationError(f"no access to the Kubernetes API: {error}; {remedy}") from error
        # The same object where nothing differs: connections are kept for it.
        return self._access if headers == self._access.headers else replace(self._access, headers=headers)


def _load(settings: ApiSettings) -> Configuration:
    """The client's configuration. Importing the client takes a quarter of a second, hence here, in a thread."""
    from kubernetes import config
    from kubernetes.client import Configuration

    configuration = Configuration()
    # The client's own reading of the variable is of when it was imported.
    name = str(settings.kubeconfig) if settings.kubeconfig is not None else os.environ.get("KUBECONFIG")
    if name:
        config.load_kube_config(  # type: ignore[no-untyped-call]
            config_file=name, context=settings.context, client_configuration=configuration, persist_config=False
        )
    else:
        config.load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
    return configuration


def _access(configuration: Configuration) -> Access:
    parts = urlsplit(configuration.host)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigurationError(f"{configuration.host!r} is no address of an API server")
    tls = _tls(configuration) if parts.scheme == "https" else None
    return Access(
        host=parts.hostname,
        port=parts.port or (443 if tls else 80),
        tls=tls,
        server_name=configuration.tls_server_name or parts.hostname,
        prefix=parts.path.rstrip("/"),
        headers=_headers(configuration),
        proxy=_proxy(configuration.proxy) if configuration.proxy else None,
    )


def _proxy(address: str) -> tuple[str, int]:
    parts = urlsplit(address)
    if parts.scheme != "http" or not parts.hostname or parts.username is not None:
        raise ConfigurationError(f"the proxy {parts.hostname!r} cannot be used: it must be an http one, without login")
    return parts.hostname, parts.port or 80


def _tls(configuration: Configuration) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=configuration.ssl_ca_cert)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if not configuration.verify_ssl:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif configuration.assert_hostname is False:
        context.check_hostname = False
    if configuration.cert_file:
        context.load_cert_chain(configuration.cert_file, configuration.key_file)
    return context


def _headers(configuration: Configuration) -> tuple[tuple[str, str], ...]:
    settings: Any = configuration.auth_settings().values()
    told = [one for one in settings if one.get("in") == "header" and one.get("value")]
    return tuple((one["key"], one["value"].strip()) for one in told)
