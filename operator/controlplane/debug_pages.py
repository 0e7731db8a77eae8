"""What the operator shows over HTTP: metrics, readiness, and what it makes of the cluster."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import trio
from prometheus_client import CollectorRegistry

from controlplane.pipeline import Pipeline
from controlplane.translate.delta import Translated, aliases, resource_name
from controlplane.translate.status import ObjectStatus, StatusCondition
from controlplane.translate.translator import Translator
from mesh.addresses import Cidr, IpBytes, format_ip
from mesh.identity import SpiffeId
from mesh.model.service import Service
from mesh.model.upstream_policy import ClientCertificate
from mesh.model.workload import Workload
from mesh.telemetry.exposition import CONTENT_TYPE, render
from mesh.telemetry.http_endpoint import Handler, HttpRequest, HttpResponse, json_response, text_response
from mesh.xds.server_driver import SnapshotStore, XdsServer
from resources.objects import ObjectKey

_SLICE = 200
"""Resources rendered between two looks at other tasks."""


def routes(
    pipeline: Pipeline,
    store: SnapshotStore,
    server: XdsServer,
    registry: CollectorRegistry,
    not_ready_because: Callable[[], str | None],
) -> Mapping[tuple[str, str], Handler]:
    """The pages.

    Args:
        pipeline: its translation is shown.
        store: the snapshot offered to clients.
        server: its clients are shown.
        registry: the metrics.
        not_ready_because: why the operator cannot serve; None when it can.
    """

    async def metrics(request: HttpRequest) -> HttpResponse:
        return HttpResponse(200, await render(registry), CONTENT_TYPE)

    async def ready(request: HttpRequest) -> HttpResponse:
        reason = not_ready_because()
        return text_response("ready") if reason is None else text_response(reason, 503)

    async def findings(request: HttpRequest) -> HttpResponse:
        found = [
            {
                "kind": finding.object.kind,
                "namespace": finding.object.namespace,
                "name": finding.object.name,
                "condition": finding.condition.value,
                "message": finding.message,
            }
            for finding in pipeline.findings()
        ]
        page: dict[str, Any] = {"findings": found, "problems": [str(problem) for problem in pipeline.source.problems]}
        key = ObjectKey(*(request.query.get(name, "") for name in ("kind", "namespace", "name")))
        if (asked := pipeline.translator.objects.get(key)) is not None:
            # Whoever has just written the object sees by this whether the findings are of what was written.
            page["resourceVersion"] = asked.metadata.resource_version
        return json_response(page)

    async def statuses(request: HttpRequest) -> HttpResponse:
        return json_response({"statuses": shown_statuses(pipeline.translator.statuses)})

    async def snapshot(request: HttpRequest) -> HttpResponse:
        resources: list[dict[str, Any]] = []
        for index, value in enumerate(_resources(pipeline.translator)):
            names = aliases(value) if isinstance(value, Workload | Service) else ()
            kind = type(value).__name__.lower()
            resources.append({"type": kind, "name": resource_name(value), "aliases": names, "value": plain(value)})
            if index % _SLICE == _SLICE - 1:
                await trio.lowlevel.checkpoint()
        return json_response({"serial": store.current().serial, "resources": resources})

    async def clients(request: HttpRequest) -> HttpResponse:
        return json_response([dataclasses.asdict(client) for client in server.connected()])

    return {
        ("GET", "/metrics"): metrics,
        ("GET", "/healthz/ready"): ready,
        ("GET", "/debug/findings"): findings,
        ("GET", "/debug/statuses"): statuses,
        ("GET", "/debug/snapshot"): snapshot,
        ("GET", "/debug/clients"): clients,
    }


def shown_statuses(statuses: Mapping[ObjectKey, ObjectStatus]) -> list[dict[str, Any]]:
    """What became of routes and BackendTLSPolicies, and of what asks for a waypoint."""
    shown = []
    for key, status in statuses.items():
        parents = [
            {"parent": msgspec.to_builtins(one.parent), "conditions": [_condition(each) for each in one.conditions]}
            for one in status.parents
        ]
        conditions = [_condition(each) for each in status.conditions]
        shown.append({**key._asdict(), "conditions": conditions, "parents": parents})
    return shown


def _condition(value: StatusCondition) -> dict[str, Any]:
    return {"type": value.type, "status": value.status, "reason": value.reason, "message": value.message}


def _resources(translator: Translator) -> list[Translated]:
    return [*translator.addresses, *translator.policies, *translator.destinations]


NOT_SHOWN = "(not shown)"
"""In the place of what must not get about."""


def plain(value: object) -> Any:
    """A value of the model as JSON takes it; fields at their default are left out, addresses are text."""
    match value:
        case bytes():
            return format_ip(IpBytes(value))
        case enum.Enum():
            return value.name
        case ClientCertificate():
            return {"chain": value.chain, "private_key": NOT_SHOWN}
        case Cidr() | SpiffeId():
            return str(value)
        case Mapping():
            return {str(key): plain(inner) for key, inner in value.items()}
        case tuple() | list():
            return [plain(inner) for inner in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        shown: dict[str, Any] = {}
        for field in dataclasses.fields(value):
            inner = getattr(value, field.name)
            if field.init and not _is_default(field, inner):
                shown[field.name] = plain(inner)
        return shown
    return value


def _is_default(field: dataclasses.Field[Any], value: object) -> bool:
    if field.default_factory is not dataclasses.MISSING:
        return bool(value == field.default_factory())
    return bool(value == field.default)
