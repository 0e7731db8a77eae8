"""Answers the CNI plugin: one connection, one request, one reply.

Everything is bounded: the request's size, the time it may take to arrive and to be answered (less than the plugin's own
patience of 30 s, so that the plugin prints our reason and not its own), and the number of requests at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Never, Protocol

import structlog
import trio

from cni.protocol_codec import (
    MAXIMUM_REQUEST,
    CniCode,
    CniFailure,
    Command,
    PluginRequest,
    decode_request,
    encode_failure,
    encode_reply,
    encode_versions,
)
from mesh.errors import MeshError
from mesh.zds.packet_driver import accept

_log = structlog.get_logger("cni")

_RECEIVE_SECONDS = 5.0
_WORK_SECONDS = 25.0
_SEND_SECONDS = 5.0
_CONCURRENT = 64
_CHUNK = 65536


class PluginHandler(Protocol):
    """What the agent does for the container runtime. A CniFailure or MeshError raised becomes the CNI error."""

    async def add(self, request: PluginRequest) -> None:
        """A pod gets its network; on return it may start."""

    async def check(self, request: PluginRequest) -> None:
        """Whether what ``add`` made is still so."""

    async def delete(self, request: PluginRequest) -> None:
        """A pod's network goes; it may be gone already."""


async def serve_plugin(
    listener: trio.socket.SocketType,
    handler: PluginHandler,
    count: Callable[[str, str], None] = lambda command, code: None,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> Never:
    """Serve for ever.

    Args:
        listener: a listening unix stream socket, open to root alone.
        handler: does the work.
        count: told the command and the CNI code (``0``: success) of every request.
        task_status: started when requests are accepted.
    """
    limiter = trio.CapacityLimiter(_CONCURRENT)
    async with trio.open_nursery() as nursery:
        task_status.started()
        while True:
            await limiter.acquire_on_behalf_of(token := object())
            try:
                connected = await accept(listener)
            except BaseException:
                limiter.release_on_behalf_of(token)
                raise
            nursery.start_soon(_serve_one, connected, handler, count, limiter, token)


async def _serve_one(
    connected: trio.socket.SocketType,
    handler: PluginHandler,
    count: Callable[[str, str], None],
    limiter: trio.CapacityLimiter,
    token: object,
) -> None:
    try:
        with connected:
            data = await _receive(connected)
            if data is None:
                return
            reply = await _answer(data, handler, count)
            with trio.move_on_after(_SEND_SECONDS):
                sent = 0
                while sent < len(reply):
                    sent += await connected.send(reply[sent:])
    except OSError as error:
        # The runtime gave up on the plugin. What was done stands; the runtime's DEL or the next ADD puts it in order.
        _log.warning("the plugin went away", reason=error.strerror)
    finally:
        limiter.release_on_behalf_of(token)


async def _receive(connected: trio.socket.SocketType) -> bytes | None:
    """The request, up to the end of stream; None when it is too long or too slow."""
    data = bytearray()
    with trio.move_on_after(_RECEIVE_SECONDS):
        while chunk := await connected.recv(_CHUNK):
            data += chunk
            if len(data) > MAXIMUM_REQUEST:
                _log.error("a CNI request was too long", limit_bytes=MAXIMUM_REQUEST)
                return None
        return bytes(data)
    _log.error("a CNI request did not arrive in time", received_bytes=len(data), limit_seconds=_RECEIVE_SECONDS)
    return None


async def _answer(data: bytes, handler: PluginHandler, count: Callable[[str, str], None]) -> bytes:
    version, command = "", "unknown"
    try:
        request = decode_request(data)
        version, command = request.version, request.command.value
        output = await _perform(request, handler)
    except CniFailure as failure:
        _log.warning("cni request failed", command=command, code=int(failure.code), reason=failure.message)
        count(command, str(int(failure.code)))
        return encode_reply(1, encode_failure(version, failure))
    count(command, "0")
    return encode_reply(0, output)


async def _perform(request: PluginRequest, handler: PluginHandler) -> bytes:
    """The output of a successful request."""
    with trio.move_on_after(_WORK_SECONDS):
        try:
            match request.command:
                case Command.VERSION:
                    return encode_versions(request.version)
                case Command.ADD:
                    if request.previous_result is None:
                        raise CniFailure(
                            CniCode.INVALID_CONFIGURATION,
                            "ambimesh-cni needs prevResult: it is chained after the plugin that makes the network, "
                            "in a .conflist",
                        )
                    await handler.add(request)
                    return request.previous_result
                case Command.CHECK:
                    await handler.check(request)
                case Command.DEL:
                    await handler.delete(request)
        except MeshError as error:
            raise CniFailure(CniCode.TRY_AGAIN_LATER, str(error), type(error).__name__) from error
        return b""
    raise CniFailure(
        CniCode.TRY_AGAIN_LATER,
        f"the ambimesh node agent could not finish {request.command.value} within {_WORK_SECONDS:g} s: see its log",
    )
