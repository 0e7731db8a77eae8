"""Streams for known callers only."""

from __future__ import annotations

import structlog

from controlplane.ca.authentication import TokenAuthenticator, authenticate_call
from mesh.errors import CallerUnknown
from mesh.grpc.driver import CallContext, GrpcError, ServerStream, StatusCode, StreamHandler

_log = structlog.get_logger("controlplane.guard")


def guarded(authenticator: TokenAuthenticator, handler: StreamHandler) -> StreamHandler:
    """A stream handler that serves only callers with a good token."""

    async def serve(context: CallContext, stream: ServerStream) -> None:
        try:
            caller = await authenticate_call(authenticator, context.metadata)
        except CallerUnknown as error:
            _log.warning("call_refused", method=context.method, reason=str(error), peer=str(context.peer))
            raise GrpcError(StatusCode.UNAUTHENTICATED, str(error)) from error
        _log.info("stream_opened", method=context.method, caller=caller.account, node=caller.node)
        await handler(context, stream)

    return serve
