"""A proxy's own HTTP ports: admin on loopback, metrics, readiness; and its end by a signal."""

from __future__ import annotations

import signal
from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol

import structlog
import trio

from mesh.errors import ConfigurationError
from mesh.telemetry.http_endpoint import (
    Handler,
    HttpRequest,
    HttpResponse,
    json_response,
    open_http_listeners,
    serve_http,
    text_response,
)

_log = structlog.get_logger("process")

Routes = dict[tuple[str, str], Handler]


class AdminPorts(Protocol):
    """Where they are: a group of the settings."""

    @property
    def admin_port(self) -> int:
        """On loopback only: it shows everything and can stop the process."""
        ...

    @property
    def metrics_port(self) -> int:
        """On every address."""
        ...

    @property
    def readiness_port(self) -> int:
        """On every address."""
        ...


def admin_routes(
    help_text: str,
    dump: Callable[[], Awaitable[object]],
    set_levels: Callable[[str | None, str | None], Mapping[str, str]],
    quit_now: Callable[[], None],
) -> Routes:
    """The admin port.

    Args:
        help_text: what ``GET /`` shows.
        dump: everything the process works from, as JSON can hold it.
        set_levels: sets the level of the process log and of the access log, None leaves one as it is, and returns what
            is in force, by name; raises ConfigurationError for one that there is not, and changes nothing then.
        quit_now: has the process drain and stop.
    """

    async def help_page(_request: HttpRequest) -> HttpResponse:
        return text_response(help_text)

    async def config_dump(_request: HttpRequest) -> HttpResponse:
        return json_response(await dump())

    async def logging(request: HttpRequest) -> HttpResponse:
        wanted = request.query if request.method == "POST" else {}
        try:
            in_force = set_levels(wanted.get("level"), wanted.get("access"))
        except ConfigurationError as error:
            return text_response(str(error), 400)
        return text_response("\n".join(f"{name}: {level}" for name, level in in_force.items()))

    async def stop(_request: HttpRequest) -> HttpResponse:
        quit_now()
        return text_response("draining")

    return {
        ("GET", "/"): help_page,
        ("GET", "/config_dump"): config_dump,
        ("GET", "/logging"): logging,
        ("POST", "/logging"): logging,
        ("POST", "/quitquitquit"): stop,
    }


def metrics_routes(page: Handler, count_all: Callable[[], Awaitable[None]] | None = None) -> Routes:
    """The metrics port: ``/metrics`` and the same as ``/stats/prometheus``; ``count_all`` brings counts up to date."""

    async def metrics(request: HttpRequest) -> HttpResponse:
        if count_all is not None:
            await count_all()
        return await page(request)

    return {("GET", "/metrics"): metrics, ("GET", "/stats/prometheus"): metrics}


def readiness_routes(missing: Callable[[], Awaitable[list[str]]]) -> Routes:
    """The readiness port; ``missing`` says what stands in the way, in words."""

    async def answer(_request: HttpRequest) -> HttpResponse:
        reasons = await missing()
        return text_response("not ready: " + "; ".join(reasons), 503) if reasons else text_response("ready")

    return {("GET", "/healthz/ready"): answer}


async def serve_admin(
    nursery: trio.Nursery, ports: AdminPorts, admin: Routes, metrics: Routes, readiness: Routes
) -> None:
    """Open the three ports; returns when they answer.

    Raises:
        EnvironmentLacks: a port is taken.
    """
    for host, port, routes in (
        ("127.0.0.1", ports.admin_port, admin),
        ("::", ports.metrics_port, metrics),
        ("::", ports.readiness_port, readiness),
    ):
        listeners = await open_http_listeners(host, port)
        await nursery.start(serve_http, routes, listeners)


async def stop_on_signal(stopping: trio.Event) -> None:
    """Set the event at SIGTERM and SIGINT."""
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for number in signals:
            _log.info("stopping", signal=signal.Signals(number).name)
            stopping.set()
