"""``python3 -m ambimesh.apps.span_collector``: takes spans (OTLP over HTTP), shows them at ``GET /`` as JSON.

A stand-in for a real collector in the lab; keeps the last ones only. Needs the extra ``tracing``.
"""

from __future__ import annotations

import argparse
import json
from collections import deque
from collections.abc import Iterator
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from ambimesh.apps import http_echo

PORT = 4318
_KEPT = 1000
_MAX_BODY = 1 << 24

_spans: deque[dict[str, Any]] = deque(maxlen=_KEPT)


class CollectorHandler(http_echo.EchoHandler):
    """Takes and shows spans."""

    def take(self) -> None:
        """Read one export."""
        length = int(self.headers.get("Content-Length") or 0)
        if not 0 <= length <= _MAX_BODY:
            self.send_error(413)
            return
        try:
            _spans.extend(shown(self.rfile.read(length)))
        except ValueError as error:
            self.send_error(400, str(error))
            return
        self._send("application/x-protobuf", ExportTraceServiceResponse().SerializeToString())

    def show(self) -> None:
        """All that is kept, the oldest first."""
        self._send("application/json", json.dumps({"spans": list(_spans)}, indent=1).encode() + b"\n")

    do_POST = take  # noqa: N815 -- the names the base class looks for
    do_GET = show  # noqa: N815

    def _send(self, kind: str, content: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


def shown(body: bytes) -> Iterator[dict[str, Any]]:
    """The spans of one export, as plain values.

    Raises:
        ValueError: it is none.
    """
    try:
        request = ExportTraceServiceRequest.FromString(body)
    except Exception as error:  # protobuf's own class differs between its implementations
        raise ValueError("not an ExportTraceServiceRequest") from error
    for resource in request.resource_spans:
        about = _values(resource.resource.attributes)
        for scope in resource.scope_spans:
            for span in scope.spans:
                yield {
                    "service": f"{about.get('service.namespace', '')}/{about.get('service.name', '')}",
                    "name": span.name,
                    "kind": Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
                    "traceId": span.trace_id.hex(),
                    "spanId": span.span_id.hex(),
                    "parentSpanId": span.parent_span_id.hex(),
                    "milliseconds": (span.end_time_unix_nano - span.start_time_unix_nano) / 1e6,
                    "status": Status.StatusCode.Name(span.status.code).removeprefix("STATUS_CODE_"),
                    "attributes": _values(span.attributes),
                }


def _values(attributes: Any) -> dict[str, Any]:
    def value(one: KeyValue) -> Any:
        kind = one.value.WhichOneof("value")
        return None if kind is None else getattr(one.value, kind)

    return {one.key: value(one) for one in attributes}


def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=PORT)
    arguments = parser.parse_args()
    http_echo.EchoServer(("::", arguments.port), CollectorHandler).serve_forever()


if __name__ == "__main__":
    main()
