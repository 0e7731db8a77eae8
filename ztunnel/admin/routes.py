"""The routes of ztunnel's HTTP ports."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from mesh.errors import ConfigurationError
from mesh.telemetry import log
from mesh.telemetry.access_log import AccessLog
from mesh.telemetry.http_endpoint import Handler, HttpRequest, HttpResponse, json_response, text_response

Routes = dict[tuple[str, str], Handler]

_HELP = """\
GET  /config_dump          workloads, services, policies, certificates, connections, pods, process
GET  /logging              log levels
POST /logging?level=LEVEL  set the level of the process log; access=LEVEL sets that of the access log
POST /quitquitquit         drain and stop
"""


def set_levels(access_log: AccessLog, level: str | None, access: str | None) -> None:
    """Log from now on as this says; what is None stays as it is.

    Raises:
        ConfigurationError: no such level.
    """
    if level is not None:
        log.set_level(level)
    if access is not None:
        access_log.set_level(access)


def admin_routes(
    dump: Callable[[], Awaitable[object]],
    set_levels: Callable[[str | None, str | None], None],
    quit_now: Callable[[], None],
) -> Routes:
    """Port 15000, loopback only."""

    async def help_page(_request: HttpRequest) -> HttpResponse:
        return text_response(_HELP)

    async def config_dump(_request: HttpRequest) -> HttpResponse:
        return json_response(await dump())

    async def logging(request: HttpRequest) -> HttpResponse:
        if request.method == "POST":
            try:
                set_levels(request.query.get("level"), request.query.get("access"))
            except ConfigurationError as error:
                return text_response(str(error), 400)
        return text_response(f"level: {log.current_level()}")

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


def metrics_routes(page: Handler, count_all: Callable[[], Awaitable[None]]) -> Routes:
    """Port 15020: ``/metrics`` and the same as ``/stats/prometheus``; live connections' bytes are counted first."""

    async def metrics(request: HttpRequest) -> HttpResponse:
        await count_all()
        return await page(request)

    return {("GET", "/metrics"): metrics, ("GET", "/stats/prometheus"): metrics}


def readiness_routes(missing: Callable[[], Awaitable[list[str]]]) -> Routes:
    """Port 15021; ``missing`` says what stands in the way, in words."""

    async def answer(_request: HttpRequest) -> HttpResponse:
        reasons = await missing()
        return text_response("not ready: " + "; ".join(reasons), 503) if reasons else text_response("ready")

    return {("GET", "/healthz/ready"): answer}
