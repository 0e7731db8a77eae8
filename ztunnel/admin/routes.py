"""What is ztunnel's own of its admin port (``mesh.admin``)."""

from __future__ import annotations

from mesh.telemetry import log
from mesh.telemetry.access_log import AccessLog

HELP = """\
GET  /config_dump          workloads, services, policies, certificates, connections, pods, process
GET  /logging              log levels
POST /logging?level=LEVEL  set the level of the process log; access=LEVEL sets that of the access log
POST /quitquitquit         drain and stop
"""


def set_levels(access_log: AccessLog, level: str | None, access: str | None) -> dict[str, str]:
    """Log from now on as this says; what is None stays as it is. Returns what is in force.

    Raises:
        ConfigurationError: no such level; nothing has changed.
    """
    level, access = (None if wish is None else log.level_named(wish) for wish in (level, access))
    if level is not None:
        log.set_level(level)
    if access is not None:
        access_log.set_level(access)
    return {"level": log.current_level(), "access": access_log.level}
