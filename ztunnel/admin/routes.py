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


def admin_routes(dump: Callable[[], object], access_log: AccessLog, quit_now: Callable[[], None]) -> Routes:
    """Port 15000, loopback only."""

    async def help_page(_request: HttpRequest) -> HttpResponse:
        return text_response(_HELP)

    async def config_dump(_request: HttpRequest) -> HttpResponse:
        return json_response(dump())

    async def logging(request: HttpRequest) -> HttpResponse:
        if request.method == "POST":
            try:
                if "level" in request.query:
                    log.set_level(request.query["level"])
                if "access" in request.query:
                    access_log.set_level(request.query["access"])
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


def metrics_routes(page: Handler, count_all: Callable[[], None]) -> Routes:
    """Port 15020: ``/metrics`` and the same as ``/stats/prometheus``; live connections' bytes are counted first."""

    async def metrics(request: HttpRequest) -> HttpResponse:
        count_all()
        return await page(request)

    return {("GET", "/metrics"): metrics, ("GET", "/stats/prometheus"): metrics}


def readiness_routes(answer: Callable[[HttpRequest], Awaitable[HttpResponse]]) -> Routes:
    """Port 15021."""
    return {("GET", "/healthz/ready"): answer}
