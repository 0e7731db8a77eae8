"""Access logs: one record when a connection closes, whatever became of it.

Theory of operation. A record is the mesh's answer to "who talked to whom, as whom, and why not", so it is never
sampled; it is also written for every connection, so it is cheap (4 microseconds as text, 7 as JSON, the write
included): formatted straight into bytes, with the quoted form of names kept, and left to ``mesh.telemetry.output`` to
be written in batches. It does not pass through structlog.

Identities stand in a record only when mutual TLS proved them, or the kernel, which carried the connection from one pod
of the node to another (``fast_path``). A record of a connection without mutual TLS says why: ``no_mtls``.

Text::

    2026-11-23T15:00:00.000000Z info access connection complete src.addr=10.244.1.2:40112 src.workload="client" ...

JSON: the same names as keys, with ``time``, ``level``, ``scope`` and ``message`` first.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Callable
from datetime import UTC, datetime
from functools import lru_cache
from json.encoder import encode_basestring_ascii
from typing import Final, Literal

import msgspec

from mesh.addresses import SocketAddress, address_text
from mesh.clock import wall_seconds
from mesh.identity import SpiffeId
from mesh.model.workload import Workload
from mesh.telemetry.log import LEVELS, level_named
from mesh.telemetry.output import LineOutput, standard_output

MAX_ERROR_CHARACTERS: Final = 512
_KEPT_PAIRS: Final = 4096

Direction = Literal["inbound", "outbound"]


class NoMtls(enum.Enum):
    """Why a connection was not, or not provably, encrypted and authenticated."""

    CLIENT_SENT_PLAINTEXT = "client_sent_plaintext"
    """Inbound: the client is outside the mesh, or bypasses it, and policy admits that."""
    DESTINATION_UNKNOWN = "destination_unknown"
    """Outbound: no workload or service of the mesh has this address; passed through."""
    DESTINATION_NOT_ENROLLED = "destination_not_enrolled"
    """Outbound: the workload is known but takes no HBONE."""
    FAST_PATH = "fast_path"
    """The kernel carried it from one pod of this node to the other; it knows both by their namespaces."""
    NOT_ESTABLISHED = "not_established"
    """The connection failed before an identity was proven; ``error`` says how."""


class ConnectionRecord:
    """What is known of a connection; filled in as it becomes known.

    Not a dataclass: its constructor runs for every connection, and that of a dataclass is never compiled.
    """

    __slots__ = (
        *("bytes_received", "bytes_sent", "destination", "destination_identity", "destination_service"),
        *("destination_workload", "direction", "fast_path", "hbone_target", "no_mtls"),
        *("source", "source_identity", "source_workload"),
    )

    def __init__(
        self,
        *,
        direction: Direction,
        source: SocketAddress,
        destination: SocketAddress,
        hbone_target: str | None = None,
        source_workload: Workload | None = None,
        destination_workload: Workload | None = None,
        destination_service: str | None = None,
        source_identity: SpiffeId | None = None,
        destination_identity: SpiffeId | None = None,
        no_mtls: NoMtls | None = NoMtls.NOT_ESTABLISHED,
        fast_path: bool = False,
        bytes_sent: int = 0,
        bytes_received: int = 0,
    ) -> None:
        self.direction = direction
        self.source = source
        self.destination = destination
        """Where the connection goes on the wire: port 15008 for a tunnel."""
        self.hbone_target = hbone_target
        """The address inside the tunnel, as in ``:authority``."""
        self.source_workload = source_workload
        self.destination_workload = destination_workload
        self.destination_service = destination_service
        """Host name of the service that was dialled."""
        self.source_identity = source_identity
        self.destination_identity = destination_identity
        self.no_mtls = no_mtls
        """None: mutual TLS it was."""
        self.fast_path = fast_path
        """The kernel carried it, by a verdict that an earlier connection left."""
        self.bytes_sent = bytes_sent
        """By the workload this ztunnel stands before: requests of an outbound connection, responses of an inbound
        one."""
        self.bytes_received = bytes_received
        """To that workload."""


class AccessLog:
    """Writes records.

    Args:
        format: ``text`` or ``json``.
        level: ``info`` for all records, ``debug`` for openings too, ``warning`` and ``error`` for failures only,
            ``off`` for none.
        output: where lines go; standard output unless given.
        wall: seconds since 1970.
    """

    def __init__(
        self,
        format: Literal["text", "json"],  # noqa: A002 -- named as the setting it is
        level: str = "info",
        output: LineOutput | None = None,
        wall: Callable[[], float] = wall_seconds,
    ) -> None:
        self._json = format == "json"
        self._output = standard_output() if output is None else output
        self._wall = wall
        self._kept: dict[tuple[object, ...], tuple[str, ConnectionRecord]] = {}
        self._second = -1
        self._second_text = ""
        self.set_level(level)

    def set_level(self, level: str) -> None:
        """Change what is written from now on.

        Raises:
            ConfigurationError: no such level.
        """
        self.level = level_named(level)
        """The one in force."""
        self._threshold = LEVELS[self.level]

    def record(
        self,
        connection: ConnectionRecord,
        duration: float,
        error: BaseException | None = None,
        between: str | None = None,
    ) -> None:
        """The one close record of a connection.

        Args:
            connection: what is known of it.
            duration: seconds since it was accepted.
            error: why it failed, if it did.
            between: what :meth:`between` has returned for a connection that differs in source address and bytes only.
        """
        level = 20 if error is None else 40
        if level >= self._threshold:
            name = "info" if error is None else "error"
            self._write(name, "connection complete", connection, duration, error, between)

    def opened(self, connection: ConnectionRecord) -> None:
        """At level debug: a connection was accepted and its destination is known."""
        if self._threshold <= 10:
            self._write("debug", "connection opened", connection, None, None, None)

    def denied(
        self, direction: Direction, source: SocketAddress, destination: SocketAddress, error: BaseException
    ) -> None:
        """The one record of a connection refused before anything but its addresses was known."""
        if self._threshold > 30:
            return
        if self._json:
            fields: dict[str, object] = {
                "src.addr": str(source),
                "dst.addr": str(destination),
                "direction": direction,
                "error": _message(error),
            }
            self._write_json("warn", "connection failed", fields)
        else:
            self._write_text(
                f"{self._now()} warn access connection failed src.addr={source} dst.addr={destination} "
                f'direction="{direction}" error={_quoted_once(_message(error))}\n'
            )

    def _write(
        self,
        level: str,
        event: str,
        connection: ConnectionRecord,
        duration: float | None,
        error: BaseException | None,
        between: str | None,
    ) -> None:
        if self._json:
            self._write_json(level, event, _fields(connection, duration, error))
            return
        # Joined from strings: formatting numbers by a specification takes several times as long as all else here.
        parts = [self._now(), " ", level, " access ", event, " src.addr=", address_text(connection.source)]
        parts.append(between or self.between(connection))
        if duration is not None:
            parts += (" bytes_sent=", str(connection.bytes_sent), " bytes_recv=", str(connection.bytes_received))
            parts += (' duration="', str(round(duration * 1000)), 'ms"')
        if error is not None:
            parts += (" error=", _quoted_once(_message(error)))
        parts.append("\n")
        self._write_text("".join(parts))

    def between(self, connection: ConnectionRecord) -> str:
        """The part of a line of text that is the same for all connections of two workloads; kept."""
        # By object, not by value: hashing a workload costs more than writing the line. The kept record holds on to the
        # objects, so that their numbers still mean them.
        key = (
            id(connection.source_workload),
            id(connection.destination_workload),
            id(connection.source_identity),
            id(connection.destination_identity),
            connection.destination,
            connection.hbone_target,
            connection.destination_service,
            connection.direction,
            id(connection.no_mtls),
            connection.fast_path,
        )
        kept = self._kept.get(key)
        if kept is None:
            if len(self._kept) >= _KEPT_PAIRS:
                self._kept.clear()
            kept = self._kept[key] = (_between(connection), _kept_alive(connection))
        return kept[0]

    def _write_text(self, line: str) -> None:
        self._output.write(line.encode(errors="backslashreplace"))

    def _write_json(self, level: str, event: str, fields: dict[str, object]) -> None:
        record = {"time": self._now(), "level": level, "scope": "access", "message": event, **fields}
        self._output.write(msgspec.json.encode(record) + b"\n")

    def _now(self) -> str:
        """The wall time; the second's text is kept, as many records share it."""
        wall = self._wall()
        second = int(wall)
        if second != self._second:
            self._second = second
            self._second_text = datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")
        microseconds = str(1_000_000 + int((wall - second) * 1e6))  # with its leading zeros, behind a one
        return self._second_text + "." + microseconds[1:] + "Z"


def _kept_alive(connection: ConnectionRecord) -> ConnectionRecord:
    """A record with the same workloads and identities; the connection's own may still be filled in."""
    return ConnectionRecord(
        direction=connection.direction,
        source=connection.source,
        destination=connection.destination,
        source_workload=connection.source_workload,
        destination_workload=connection.destination_workload,
        source_identity=connection.source_identity,
        destination_identity=connection.destination_identity,
        no_mtls=connection.no_mtls,
    )


def _between(connection: ConnectionRecord) -> str:
    parts = []
    if (workload := connection.source_workload) is not None:
        parts.append(f" src.workload={_quoted(workload.name)} src.namespace={_quoted(workload.namespace)}")
    if connection.source_identity is not None:
        parts.append(f" src.identity={_identity(connection.source_identity)}")
    if workload is not None and workload.cluster_id:
        parts.append(f" src.cluster={_quoted(workload.cluster_id)}")
    parts.append(f" dst.addr={connection.destination}")
    if connection.hbone_target is not None:
        parts.append(f" dst.hbone_addr={_plain(connection.hbone_target)}")
    if connection.destination_service is not None:
        parts.append(f" dst.service={_quoted(connection.destination_service)}")
    if (workload := connection.destination_workload) is not None:
        parts.append(f" dst.workload={_quoted(workload.name)} dst.namespace={_quoted(workload.namespace)}")
    if connection.destination_identity is not None:
        parts.append(f" dst.identity={_identity(connection.destination_identity)}")
    if workload is not None and workload.cluster_id:
        parts.append(f" dst.cluster={_quoted(workload.cluster_id)}")
    parts.append(f' direction="{connection.direction}"')
    if connection.no_mtls is not None:
        parts.append(f' no_mtls="{connection.no_mtls.value}"')
    if connection.fast_path:
        parts.append(" fast_path=true")
    return "".join(parts)


def _fields(connection: ConnectionRecord, duration: float | None, error: BaseException | None) -> dict[str, object]:
    source, destination = connection.source_workload, connection.destination_workload
    fields: dict[str, object] = {
        "src.addr": str(connection.source),
        "src.workload": source and source.name,
        "src.namespace": source and source.namespace,
        "src.identity": connection.source_identity and str(connection.source_identity),
        "src.cluster": source and source.cluster_id,
        "dst.addr": str(connection.destination),
        "dst.hbone_addr": connection.hbone_target,
        "dst.service": connection.destination_service,
        "dst.workload": destination and destination.name,
        "dst.namespace": destination and destination.namespace,
        "dst.identity": connection.destination_identity and str(connection.destination_identity),
        "dst.cluster": destination and destination.cluster_id,
        "direction": connection.direction,
        "no_mtls": connection.no_mtls and connection.no_mtls.value,
        "fast_path": connection.fast_path,
    }
    present = {key: value for key, value in fields.items() if value}
    if duration is not None:
        present["bytes_sent"] = connection.bytes_sent
        present["bytes_recv"] = connection.bytes_received
        present["duration"] = f"{duration * 1000:.0f}ms"
    if error is not None:
        present["error"] = _message(error)
    return present


def _message(error: BaseException) -> str:
    """Errors quote what peers sent: bounded, and never empty."""
    text = (str(error) or type(error).__name__)[:MAX_ERROR_CHARACTERS]
    return text.encode(errors="backslashreplace").decode()


def _quoted_once(text: str) -> str:
    """In double quotes, with what could end the line or the quotes escaped."""
    return encode_basestring_ascii(text)  # json.dumps, without its detours


@lru_cache(maxsize=16384)
def _quoted(text: str) -> str:
    return json.dumps(text)


@lru_cache(maxsize=16384)
def _identity(identity: SpiffeId) -> str:
    return json.dumps(str(identity))


def _plain(text: str) -> str:
    """An authority is written bare, as addresses are, unless it holds what an address cannot."""
    return text if text.isascii() and text.isprintable() and " " not in text and '"' not in text else json.dumps(text)
