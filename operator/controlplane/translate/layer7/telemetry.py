"""Telemetry: what waypoints record. The mesh's, the namespace's and the target's objects are laid over one another.

The public API does not say how a record is written; the annotations ``ambimesh.dev/access-log-format`` (``text``,
``json``, ``template``) and ``ambimesh.dev/access-log-template`` of a Telemetry with ``accessLogging`` do.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TypeVar

from controlplane.translate.binding import Waypoint
from controlplane.translate.facets import namespace_facet
from controlplane.translate.finding import Finding
from controlplane.translate.layer7.attached import attached, attachment_notes
from controlplane.translate.layer7.log_filter import codes_of
from controlplane.translate.layer7.notes import Notes
from controlplane.translate.tracking import View
from mesh.model.waypoint import LogFormat, Metric, SpanCollector, SpanTag, TagSource, Telemetry
from resources import objects
from resources import telemetry as fields
from resources.objects import ObjectKey

LOG_FORMAT_ANNOTATION = "ambimesh.dev/access-log-format"
LOG_TEMPLATE_ANNOTATION = "ambimesh.dev/access-log-template"
_FORMATS = {"text": LogFormat.TEXT, "json": LogFormat.JSON, "template": LogFormat.TEMPLATE}
_Matching = TypeVar("_Matching", fields.AccessLogging, fields.Tracing)
_METRICS = tuple(metric.value for metric in Metric)
_FAILURES = re.compile(r"\s*response\.code\s*>=\s*400\s*")


def telemetry_of(view: View, target: ObjectKey, waypoint: Waypoint) -> Telemetry:
    """What is recorded about requests to an object that a waypoint serves."""
    settings = view.settings
    collectors = dict(settings.collectors)
    result = Telemetry(
        collector=collectors.get(settings.default_collector), sampling_percent=settings.sampling_percent
    )
    seen: set[ObjectKey] = set()
    root = view.settings.root_namespace
    whole = [
        value
        for namespace in dict.fromkeys((root, waypoint.namespace))
        # The oldest of a namespace counts; it is laid on last.
        for value in reversed(view.having(objects.Telemetry, namespace_facet(namespace)))
        if value.spec.selector is None and not value.spec.targets
    ]
    for value in (*whole, *attached(view, objects.Telemetry, target, waypoint)):
        if value.key not in seen:
            seen.add(value.key)
            result = _laid_over(result, value, collectors, Notes(value.key))
    return result


def telemetry_findings(view: View, value: objects.Telemetry) -> tuple[Finding, ...]:
    """What of a Telemetry has no effect."""
    notes = Notes(value.key)
    if value.spec.selector is not None and value.spec.selector.match_labels:
        notes.not_applied("a selector chooses sidecars; name waypoints or Services in targetRefs")
    attachment_notes(view, notes, value.spec.targets, "it has no effect")
    settings = view.settings
    _laid_over(Telemetry(), value, dict(settings.collectors), notes)
    if any(one.random_sampling_percentage and not one.providers for one in value.spec.tracing) and not (
        settings.default_collector
    ):
        notes.unsupported(
            "tracing names no provider, and the operator's configuration (tracing.default) has none: where no other "
            "Telemetry names one no spans are made"
        )
    return tuple(notes.findings)


def _laid_over(
    base: Telemetry, value: objects.Telemetry, collectors: Mapping[str, SpanCollector], notes: Notes
) -> Telemetry:
    result = base
    for logging in _for_servers(value.spec.access_logging):
        result = _log(result, logging, value, notes)
    for tracing in _for_servers(value.spec.tracing):
        result = _trace(result, tracing, collectors, notes)
    for metrics in value.spec.metrics:
        for override in metrics.overrides:
            if override.match is None or override.match.mode != "CLIENT":
                result = _count(result, override, notes)
        if metrics.reporting_interval is not None:
            notes.unsupported("metrics.reportingInterval has no effect: metrics are read when they are asked for")
    return result


def _count(base: Telemetry, override: fields.MetricsOverride, notes: Notes) -> Telemetry:
    """One change of metrics: switched off or on, by name or all, and labels that are left out of all."""
    match = override.match
    if match is not None and match.custom_metric is not None:
        notes.unsupported(f"metrics.overrides: there is no metric {match.custom_metric[:64]!r}")
        return base
    named = None if match is None or match.metric in (None, "ALL_METRICS") else match.metric
    if named is not None and named not in _METRICS:
        notes.unsupported(f"metrics.overrides: {named[:64]!r} is none of ALL_METRICS, {', '.join(_METRICS)}")
        return base
    if named is not None and named.startswith("TCP_"):
        notes.unsupported(f"metrics.overrides: {named} goes with ALL_METRICS only")
        return base
    chosen = {Metric(named)} if named is not None else set(Metric)
    off, labels = set(base.metrics_off), set(base.labels_off)
    if override.disabled is not None:
        off = off | chosen if override.disabled else off - chosen
    for label, change in override.tag_overrides.items():
        if change.operation != "REMOVE":
            notes.unsupported(f"metrics.overrides.tagOverrides: {label[:64]!r} can be removed, but given no value")
        elif named is not None:
            notes.unsupported(
                f"metrics.overrides.tagOverrides: {label[:64]!r} can be removed of ALL_METRICS only: it stays"
            )
        else:
            labels.add(label)
    return replace(base, metrics_off=tuple(sorted(off)), labels_off=tuple(sorted(labels)))


def _log(base: Telemetry, logging: fields.AccessLogging, value: objects.Telemetry, notes: Notes) -> Telemetry:
    if logging.disabled:
        return replace(base, log_format=LogFormat.OFF)
    annotations = value.metadata.annotations
    template = annotations.get(LOG_TEMPLATE_ANNOTATION, "")
    spelt = annotations.get(LOG_FORMAT_ANNOTATION, "text")
    wanted = _FORMATS.get(spelt, LogFormat.TEXT)
    if spelt not in _FORMATS:
        notes.unsupported(f"{LOG_FORMAT_ANNOTATION} {spelt[:32]!r} is none of {', '.join(_FORMATS)}: text is used")
    if wanted is LogFormat.TEMPLATE and not template:
        notes.unsupported(f"the format template needs {LOG_TEMPLATE_ANNOTATION}: text is used")
        wanted = LogFormat.TEXT
    expression = logging.filter.expression if logging.filter else ""
    failures = bool(_FAILURES.fullmatch(expression))
    codes = None if failures or not expression else codes_of(expression)
    if expression and not failures and codes is None:
        notes.unsupported(
            "accessLogging.filter: only comparisons of response.code with numbers, joined by &&, ||, ! and "
            "parentheses, are read: everything is logged"
        )
    return replace(
        base,
        log_format=wanted,
        log_template=template if wanted is LogFormat.TEMPLATE else "",
        log_failures_only=failures,
        log_codes=codes,
    )


def _trace(
    base: Telemetry, tracing: fields.Tracing, collectors: Mapping[str, SpanCollector], notes: Notes
) -> Telemetry:
    result = base
    if tracing.providers:
        name = tracing.providers[0].name
        if len(tracing.providers) > 1:
            notes.unsupported("tracing.providers: the first one is used")
        if name not in collectors:
            notes.unsupported(
                f"tracing.providers: the operator's configuration (tracing.collectors) has none called {name[:64]!r}: "
                "no spans are made"
            )
        result = replace(result, collector=collectors.get(name))
    if tracing.random_sampling_percentage is not None:
        result = replace(result, sampling_percent=float(tracing.random_sampling_percentage))
    if tracing.disable_span_reporting is not None:
        result = replace(result, report_spans=not tracing.disable_span_reporting)
    tags = {tag.name: tag for tag in base.tags}
    for name, tag in tracing.custom_tags.items():
        made = _tag(name, tag)
        if made is None:
            notes.unsupported(
                f"tracing.customTags: {name[:64]!r} is no literal, variable or header and is left out"
            )
        else:
            tags[name] = made
    for spelt, given in (
        ("useRequestIdForTraceSampling", tracing.use_request_id_for_trace_sampling),
        ("enableIstioTags", tracing.enable_istio_tags),
        ("disableContextPropagation", tracing.disable_context_propagation),
    ):
        if given is not None:
            notes.unsupported(f"tracing.{spelt} has no effect")
    return replace(result, tags=tuple(tags[name] for name in sorted(tags)))


def _tag(name: str, tag: fields.CustomTag) -> SpanTag | None:
    if tag.literal is not None:
        return SpanTag(name=name, value=tag.literal.value)
    for source, place in ((TagSource.ENVIRONMENT, tag.environment), (TagSource.HEADER, tag.header)):
        if place is not None and place.name:
            header = source is TagSource.HEADER
            value = place.name.lower() if header else place.name
            return SpanTag(name=name, source=source, value=value, default=place.default_value)
    return None


def _for_servers(values: Iterable[_Matching]) -> list[_Matching]:
    """Without those that are for clients' sides only: a waypoint records as a server."""
    return [one for one in values if not (isinstance(one.match, dict) and one.match.get("mode") == "CLIENT")]
