"""A small HTTP/1.1 server for the admin, metrics and readiness ports.

h11 speaks the protocol, trio moves the bytes; there is no framework, because a handful of fixed paths need none. The
callers are kubelets, metric scrapers and people with curl, but the ports are reachable by any pod, so every request is
bounded: in header and body size, in the time it may take to arrive, be handled and be taken, in the requests and idle
time of a connection, and in the number of connections. Past the last limit a newcomer gets 503 and is closed, so the
ones already there (a probe, say) are served.
"""

from __future__ import annotations

import socket
import urllib.parse
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Never

import h11
import msgspec
import structlog
import trio

from mesh.errors import EnvironmentLacks, MeshError

_logger = structlog.get_logger()
_READ_SIZE = 16 << 10
_BACKLOG = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpLimits:
    """What one caller may ask for; sizes in bytes, times in seconds."""

    header_bytes: int = 16 << 10
    body_bytes: int = 1 << 20
    request_seconds: float = 10.0
    """From a request's first byte to its last."""
    idle_seconds: float = 60.0
    """Between requests of one connection."""
    handler_seconds: float = 30.0
    response_seconds: float = 30.0
    """For the caller to take the whole answer."""
    connections: int = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpRequest:
    """One request, whole."""

    method: str
    path: str
    """Percent-decoded, without the query."""
    query: Mapping[str, str]
    """The last value given for each name."""
    headers: Mapping[str, str]
    """Names in lower case; repeated ones joined by ``, ``."""
    body: bytes


@dataclass(frozen=True, slots=True)
class HttpResponse:
    """One answer, whole."""

    status: int
    body: bytes = b""
    content_type: str = "text/plain; charset=utf-8"
    headers: Mapping[str, str] = field(default_factory=dict)


Handler = Callable[[HttpRequest], Awaitable[HttpResponse]]


def text_response(text: str, status: int = 200) -> HttpResponse:
    """Plain text; a newline is added, for the person with curl."""
    return HttpResponse(status, (text if text.endswith("\n") else text + "\n").encode())


def json_response(value: object, status: int = 200, *, indent: int = 2) -> HttpResponse:
    """JSON of anything msgspec encodes (dataclasses and structs too); other values are shown by ``str``."""
    encoded = msgspec.json.format(msgspec.json.encode(value, enc_hook=str), indent=indent)
    return HttpResponse(status, encoded + b"\n", "application/json")


async def open_http_listeners(host: str, port: int) -> list[trio.SocketListener]:
    """Listen on ``host`` (an address; ``::`` takes IPv4 too) and ``port`` in the current network namespace.

    Raises:
        EnvironmentLacks: the port is taken or may not be bound.
    """
    try:
        if host == "::":
            return [await _dual_stack_listener(port)]
        return await trio.open_tcp_listeners(port, host=host)
    except OSError as error:
        raise EnvironmentLacks(
            f"cannot listen on {host} port {port}: {error.strerror}; is another instance running here?"
        ) from error


async def _dual_stack_listener(port: int) -> trio.SocketListener:
    """trio's own helper makes AF_INET6 listeners that refuse IPv4."""
    listener = trio.socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        await listener.bind(("::", port))
        listener.listen(_BACKLOG)
    except BaseException:
        listener.close()
        raise
    return trio.SocketListener(listener)


async def serve_http(
    routes: Mapping[tuple[str, str], Handler],
    listeners: Sequence[trio.SocketListener],
    *,
    limits: HttpLimits = HttpLimits(),
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> Never:
    """Serve until cancelled; closes the listeners then.

    Args:
        routes: ``(method, path)`` to handler, path without query; HEAD is answered wherever GET is. A handler that
            raises a ``MeshError`` answers with its ``http_status`` and message, any other exception is logged and
            answers 500.
        listeners: as ``open_http_listeners`` gives.
        limits: what one caller may ask for.
        task_status: started when the ports answer.
    """
    server = _Server(routes, limits)
    async with trio.open_nursery() as nursery:
        await nursery.start(trio.serve_listeners, server.serve_connection, list(listeners))
        task_status.started()
        await trio.sleep_forever()
    raise AssertionError("unreachable: serve_listeners ends only by cancellation")


class _Server:
    """Routes and the count of connections."""

    def __init__(self, routes: Mapping[tuple[str, str], Handler], limits: HttpLimits) -> None:
        self._routes = dict(routes)
        self._limits = limits
        self._connections = 0

    async def serve_connection(self, stream: trio.SocketStream) -> None:
        """One connection from accept to close; never raises for anything the caller did."""
        connection = _Connection(stream, self._limits)
        self._connections += 1
        try:
            if self._connections > self._limits.connections:
                await connection.refuse(503, "too many connections")
                return
            while await self._serve_request(connection):
                pass
        except (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError):
            pass  # the caller went away or dawdled: its own affair
        finally:
            self._connections -= 1
            with trio.move_on_after(1) as scope:
                scope.shield = True
                await trio.aclose_forcefully(stream)

    async def _serve_request(self, connection: _Connection) -> bool:
        """Answer one request; False when the connection is over."""
        try:
            request = await connection.receive()
        except h11.RemoteProtocolError as error:
            await connection.refuse(error.error_status_hint, str(error))
            return False
        if request is None:
            return False
        response = await self._answer(request)
        return await connection.send(response, without_body=request.method == "HEAD")

    async def _answer(self, request: HttpRequest) -> HttpResponse:
        method = "GET" if request.method == "HEAD" else request.method
        handler = self._routes.get((method, request.path))
        if handler is None:
            allowed = sorted(verb for verb, path in self._routes if path == request.path)
            if not allowed:
                return text_response(f"no such page: {request.path[:256]}", 404)
            response = text_response(f"{request.method} is not for this page, {' '.join(allowed)} is", 405)
            return HttpResponse(405, response.body, headers={"allow": ", ".join(allowed)})
        try:
            with trio.fail_after(self._limits.handler_seconds):
                return await handler(request)
        except trio.TooSlowError:
            _logger.warning("http_handler_too_slow", path=request.path, seconds=self._limits.handler_seconds)
            return text_response("no answer in time", 503)
        except MeshError as error:
            return text_response(str(error), error.http_status)
        except Exception:
            _logger.exception("http_handler_failed", path=request.path)
            return text_response("internal error, see the log", 500)


class _Connection:
    """One caller: h11's state and the stream under it."""

    def __init__(self, stream: trio.SocketStream, limits: HttpLimits) -> None:
        self._stream = stream
        self._limits = limits
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=limits.header_bytes)

    async def receive(self) -> HttpRequest | None:
        """The next request; None when the caller has closed or stays idle too long."""
        if not self._http.trailing_data[0]:
            with trio.move_on_after(self._limits.idle_seconds):
                data = await self._stream.receive_some(_READ_SIZE)
                self._http.receive_data(data)
                if not data:
                    return None
            if not self._http.trailing_data[0]:
                return None  # idle
        with trio.fail_after(self._limits.request_seconds):
            head = await self._next_event()
            if not isinstance(head, h11.Request):
                return None
            body = await self._body()
        return _request(head, body)

    async def _body(self) -> bytes:
        body = bytearray()
        while True:
            event = await self._next_event()
            if not isinstance(event, h11.Data):
                return bytes(body)
            body += event.data
            if len(body) > self._limits.body_bytes:
                raise h11.RemoteProtocolError(f"body of more than {self._limits.body_bytes} bytes", 413)

    async def _next_event(self) -> object:
        while (event := self._http.next_event()) is h11.NEED_DATA:
            if self._http.they_are_waiting_for_100_continue:
                await self._stream.send_all(self._http.send(h11.InformationalResponse(status_code=100, headers=[])))
            self._http.receive_data(await self._stream.receive_some(_READ_SIZE))
        return event

    async def send(self, response: HttpResponse, *, without_body: bool) -> bool:
        """Answer; True when the connection can carry another request."""
        headers = [
            ("content-type", response.content_type),
            ("content-length", str(len(response.body))),
            ("cache-control", "no-store"),
            *response.headers.items(),
        ]
        reason = HTTPStatus(response.status).phrase if response.status in HTTPStatus._value2member_map_ else ""
        head = self._http.send(h11.Response(status_code=response.status, headers=headers, reason=reason))
        body = self._http.send(h11.Data(data=b"" if without_body else response.body))
        end = self._http.send(h11.EndOfMessage())
        with trio.fail_after(self._limits.response_seconds):
            await self._stream.send_all(b"".join(part for part in (head, body, end) if part))
        if self._http.our_state is h11.MUST_CLOSE or self._http.their_state is not h11.DONE:
            return False
        self._http.start_next_cycle()
        return True

    async def refuse(self, status: int, why: str) -> None:
        """Answer a caller whose request cannot be read, and say goodbye."""
        if self._http.our_state not in {h11.IDLE, h11.SEND_RESPONSE}:
            return
        text = (why[:256] + "\n").encode()
        headers = [("content-type", "text/plain"), ("content-length", str(len(text))), ("connection", "close")]
        head = self._http.send(h11.Response(status_code=status, headers=headers))
        with trio.move_on_after(1):
            await self._stream.send_all((head or b"") + (self._http.send(h11.Data(data=text)) or b""))
            # Let the answer arrive: closing over unread data would reset it away.
            await self._stream.send_eof()
            remaining = 64
            while remaining and await self._stream.receive_some(_READ_SIZE):
                remaining -= 1


def _request(head: h11.Request, body: bytes) -> HttpRequest:
    target = urllib.parse.urlsplit(head.target.decode("ascii", errors="replace"))
    headers: dict[str, str] = {}
    for name, value in head.headers:
        key = name.decode("ascii")
        text = value.decode("latin-1")
        headers[key] = f"{headers[key]}, {text}" if key in headers else text
    try:
        query = dict(urllib.parse.parse_qsl(target.query, keep_blank_values=True, max_num_fields=64))
    except ValueError:
        query = {}
    return HttpRequest(
        method=head.method.decode("ascii"),
        path=urllib.parse.unquote(target.path),
        query=query,
        headers=headers,
        body=body,
    )
