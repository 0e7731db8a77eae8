"""Line 14: one trace from the caller through the waypoint to the server, at a collector inside the mesh."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ambimesh.demo import lines_waypoint
from ambimesh.demo.stage import NAMESPACE, Stage, require
from ambimesh.lab import manifests
from resources.objects import Namespace

MANIFEST = Path(__file__).parent.parent / "manifests" / "waypoint" / "tracing.yaml"
TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
_COLLECTOR = "http://spans.observe:4318/"


async def traced(stage: Stage) -> str:
    """The server's parent is the waypoint's attempt, whose parent is its request, whose parent is the caller."""
    # Makes the waypoint if this line is shown alone, and sends the namespace through it.
    await lines_waypoint.applied(stage)
    report = manifests.apply(stage.store, [MANIFEST])
    require(not report.problems, "; ".join(report.problems))
    try:
        await stage.until(
            lambda: stage.pod("spans", "observe").status.ready, 20, lambda: "the collector does not start"
        )
        context = f"traceparent: 00-{TRACE}-{CALLER}-01"
        sent: set[str] = set()
        by_id: dict[str, dict[str, Any]] = {}

        async def collected() -> bool:
            # The Telemetry takes effect at a request; spans of it come a second later.
            _, text = await stage.curl("client-a", "http://echo/traced", "-H", context)
            sent.add(json.loads(text)["headers"].get("traceparent", "--").split("-")[2])
            _, text = await stage.curl("client-b", _COLLECTOR)
            by_id.update({span["spanId"]: span for span in json.loads(text)["spans"]})
            return not sent.isdisjoint(by_id)

        took = await stage.until(collected, 20, lambda: f"of the contexts {sent} sent to the server none was collected")
        attempt = by_id[min(sent & by_id.keys())]
        request = by_id.get(attempt["parentSpanId"], {})
        require(attempt["traceId"] == TRACE, f"the attempt is of the trace {attempt['traceId']}")
        require(request.get("parentSpanId") == CALLER, f"the attempt's parent is {request}, not the caller's child")
        attributes = request["attributes"]
        return (
            f"{request['service']}: {request['name']} {attributes['http.response.status_code']} for "
            f"{attributes['ambimesh.source.principal'].rpartition('/')[2]}, below it the attempt at "
            f"{attempt['attributes']['network.peer.address']}; {took:.1f} s after the call, over mutual TLS"
        )
    finally:
        manifests.delete(stage.store, [MANIFEST])
        stage.store.patch_metadata(Namespace, "", NAMESPACE, labels={lines_waypoint.USE: None})
