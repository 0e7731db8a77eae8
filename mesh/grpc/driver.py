"""gRPC as other packages use it."""

from __future__ import annotations

from mesh.grpc.client_driver import Channel, ClientCall, channel_over, open_channel
from mesh.grpc.limits import GrpcLimits
from mesh.grpc.server_driver import (
    CallContext,
    Handler,
    ServerStream,
    StreamHandler,
    UnaryHandler,
    serve_grpc,
    streaming,
    unary,
)
from mesh.grpc.status import GrpcError, StatusCode

__all__ = [
    "CallContext",
    "Channel",
    "ClientCall",
    "GrpcError",
    "GrpcLimits",
    "Handler",
    "ServerStream",
    "StatusCode",
    "StreamHandler",
    "UnaryHandler",
    "channel_over",
    "open_channel",
    "serve_grpc",
    "streaming",
    "unary",
]
