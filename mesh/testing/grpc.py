"""A gRPC server on loopback for the length of a block."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import trio

from mesh.grpc.driver import GrpcLimits, Handler, serve_grpc

_DEFAULT_LIMITS = GrpcLimits()


@asynccontextmanager
async def serving(
    handlers: Mapping[str, Handler],
    limits: GrpcLimits = _DEFAULT_LIMITS,
    *,
    drain: trio.Event | None = None,
    ssl_context: ssl.SSLContext | None = None,
) -> AsyncIterator[int]:
    """Serve the methods; the block gets the port on 127.0.0.1."""
    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with trio.open_nursery() as nursery:

        async def serve(task_status: trio.TaskStatus[list[trio.SocketListener]]) -> None:
            await serve_grpc(
                [listener], handlers, ssl_context=ssl_context, limits=limits, drain=drain, task_status=task_status
            )

        await nursery.start(serve)
        yield listener.socket.getsockname()[1]
        nursery.cancel_scope.cancel()
