"""Process logs: structlog, set up once, in one of two shapes.

Text, one line an event::

    2026-11-23T15:00:00.000000Z info ztunnel.inbound connection_refused peer=10.0.0.1:4711 error="no certificate"

JSON, the same with ``time``, ``level``, ``scope`` and ``event`` as keys. The scope is the name given to
``structlog.get_logger``, or else the module that logs. The level can be changed while the process runs (an admin
endpoint does), and holds for loggers that exist already: it is compared first, before anything is formatted.
"""

from __future__ import annotations

import json
import sys
import traceback
from datetime import UTC, datetime
from typing import Any, Final, Literal

import msgspec
import structlog
from structlog.typing import EventDict, Processor

from mesh.clock import wall_seconds
from mesh.errors import ConfigurationError
from mesh.telemetry import output

Format = Literal["text", "json"]

LEVELS: Final = {"debug": 10, "info": 20, "warning": 30, "error": 40, "critical": 50, "off": 60}
_ALIASES: Final = {"warn": "warning"}

_threshold = LEVELS["info"]
_processors: list[Processor] = []


class LevelledLogger(structlog.BoundLoggerBase):
    """structlog's bound logger, with one threshold for all that can change at any time."""

    def debug(self, event: str, **fields: Any) -> None:
        """Log what only a developer asks for."""
        if _threshold <= 10:
            self._proxy_to_logger("debug", event, **fields)

    def info(self, event: str, **fields: Any) -> None:
        """Log a thing that happened as it should."""
        if _threshold <= 20:
            self._proxy_to_logger("info", event, **fields)

    def warning(self, event: str, **fields: Any) -> None:
        """Log what is wrong but was coped with."""
        if _threshold <= 30:
            self._proxy_to_logger("warning", event, **fields)

    warn = warning

    def error(self, event: str, **fields: Any) -> None:
        """Log what failed."""
        if _threshold <= 40:
            self._proxy_to_logger("error", event, **fields)

    def exception(self, event: str, **fields: Any) -> None:
        """Log what failed unexpectedly, with the current exception's traceback."""
        fields.setdefault("exc_info", True)
        self.error(event, **fields)

    def critical(self, event: str, **fields: Any) -> None:
        """Log why the process ends."""
        if _threshold <= 50:
            self._proxy_to_logger("critical", event, **fields)


def configure(format: Format, level: str, **always: object) -> None:  # noqa: A002 -- named as the setting it is
    """Send process logs to standard output.

    Args:
        format: ``text`` for people, ``json`` for collectors.
        level: one of ``LEVELS``.
        always: facts that every line of this process is to tell.

    Raises:
        ConfigurationError: no such level.
    """
    set_level(level)
    # Cached loggers hold this very list, so it is refilled, not replaced.
    _processors[:] = [_add_exception, _render_json if format == "json" else _render_text]
    if always:
        _processors.insert(0, lambda logger, method, event_dict: {**event_dict, **always})
    structlog.configure(
        processors=_processors,
        wrapper_class=LevelledLogger,
        logger_factory=_Line,
        cache_logger_on_first_use=True,
    )


def set_level(level: str) -> None:
    """Change what is logged from now on.

    Raises:
        ConfigurationError: no such level.
    """
    global _threshold
    _threshold = LEVELS[level_named(level)]


def level_named(text: str) -> str:
    """The one of ``LEVELS`` that is meant.

    Raises:
        ConfigurationError: no such level.
    """
    name = text.lower()
    name = _ALIASES.get(name, name)
    if name not in LEVELS:
        raise ConfigurationError(f"{text[:32]!r} is not a log level: choose one of {', '.join(LEVELS)}")
    return name


def current_level() -> str:
    """The name of the level in force."""
    return next(name for name, number in LEVELS.items() if number >= _threshold)


class _Line:
    """What structlog hands rendered lines to."""

    def __init__(self, scope: str | None = None) -> None:
        self.scope = scope

    def write(self, line: str) -> None:
        sink = output.standard_output()
        sink.write(line.encode(errors="backslashreplace"))
        sink.flush()

    debug = info = warning = error = critical = write


def _add_exception(logger: Any, method: str, event_dict: EventDict) -> EventDict:
    given = event_dict.pop("exc_info", None)
    if given:
        error = given if isinstance(given, BaseException) else sys.exc_info()[1]
        if error is not None:
            event_dict["exception"] = "".join(traceback.format_exception(error)).rstrip()
    return event_dict


def _scope(logger: Any) -> str:
    named: str | None = getattr(logger, "scope", None)
    if named is not None:
        return named
    frame = sys._getframe(2)
    while frame.f_back is not None:
        module: str = frame.f_globals.get("__name__", "")
        if module != __name__ and not module.startswith("structlog"):
            return module
        frame = frame.f_back
    return "-"


def _render_text(logger: Any, method: str, event_dict: EventDict) -> str:
    event = event_dict.pop("event", "")
    fields = "".join(f" {key}={quote(value)}" for key, value in event_dict.items())
    return f"{timestamp(wall_seconds())} {method} {_scope(logger)} {_one_line(str(event))}{fields}\n"


def _render_json(logger: Any, method: str, event_dict: EventDict) -> str:
    record = {
        "time": timestamp(wall_seconds()),
        "level": method,
        "scope": _scope(logger),
        **event_dict,
    }
    return msgspec.json.encode(record, enc_hook=str).decode() + "\n"


def timestamp(seconds: float) -> str:
    """Seconds since 1970 as ``2026-11-23T15:00:00.000000Z``."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def quote(value: object) -> str:
    """A value for ``key=value`` text: as it is when it is one plain word, else as a JSON string on one line."""
    text = value if isinstance(value, str) else str(value)
    if text and text.isascii() and text.isprintable() and not any(mark in text for mark in ' "\\='):
        return text
    return json.dumps(text)  # in ASCII: a log line must not drive the terminal it is read on


def _one_line(text: str) -> str:
    return text if text.isprintable() else quote(text)
