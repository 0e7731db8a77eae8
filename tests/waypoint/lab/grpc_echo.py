"""``python3 grpc_echo.py PORT``: a gRPC server that answers each unary call, whatever its method, with what it saw.

Of the service ``Stream`` the calls are streams, in which every message comes back.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc


class Echo(grpc.GenericRpcHandler):  # type: ignore[misc]  # untyped
    """Any service, any method."""

    def service(self, details: Any) -> Any:
        """Answer with the method, the metadata and the pod's name."""

        def answer(_request: bytes, context: Any) -> bytes:
            metadata = [(name, value) for name, value in context.invocation_metadata() if isinstance(value, str)]
            report = {"pod": os.environ["HOSTNAME"], "path": details.method, "headers": metadata}
            return json.dumps(report).encode()

        def repeat(requests: Iterator[bytes], _context: Any) -> Iterator[bytes]:
            yield from requests

        if details.method.startswith("/Stream/"):
            return grpc.stream_stream_rpc_method_handler(repeat)
        return grpc.unary_unary_rpc_method_handler(answer)


if __name__ == "__main__":
    server = grpc.server(ThreadPoolExecutor(16))
    server.add_generic_rpc_handlers((Echo(),))
    server.add_insecure_port(f"[::]:{int(sys.argv[1])}")
    server.start()
    server.wait_for_termination()
