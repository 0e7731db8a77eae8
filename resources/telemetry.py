"""The parts of Istio's Telemetry (``telemetry.istio.io``)."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, field

from resources.base import Fields, Raw
from resources.security import TargetReference, WorkloadSelector


class ProviderName(Fields, frozen=True):
    """A provider by name."""

    name: str


class TagValue(Fields, frozen=True):
    """A tag that is a fixed text."""

    value: str = ""


class TagPlace(Fields, frozen=True):
    """A tag that is taken from a variable of the environment, or from a header."""

    name: str = ""
    default_value: str = ""


class CustomTag(Fields, frozen=True):
    """One tag of spans: a text, or taken from somewhere."""

    literal: TagValue | None = None
    environment: TagPlace | None = None
    header: TagPlace | None = None
    formatter: Raw = None


class Tracing(Fields, frozen=True):
    """What is traced."""

    match: Raw = None
    providers: tuple[ProviderName, ...] = ()
    random_sampling_percentage: Annotated[float, Meta(ge=0, le=100)] | None = None
    disable_span_reporting: bool | None = None
    custom_tags: dict[str, CustomTag] = field(default_factory=dict)
    use_request_id_for_trace_sampling: bool | None = None
    enable_istio_tags: bool | None = None
    disable_context_propagation: bool | None = None


class MetricSelector(Fields, frozen=True):
    """Which metrics, of which side."""

    metric: str | None = None
    custom_metric: str | None = None
    mode: str | None = None


class TagOverride(Fields, frozen=True):
    """A change of one label."""

    operation: str = "UPSERT"
    value: str = ""


class MetricsOverride(Fields, frozen=True):
    """A change of some metrics."""

    match: MetricSelector | None = None
    disabled: bool | None = None
    tag_overrides: dict[str, TagOverride] = field(default_factory=dict)


class Metrics(Fields, frozen=True):
    """What is counted."""

    providers: tuple[ProviderName, ...] = ()
    overrides: tuple[MetricsOverride, ...] = ()
    reporting_interval: str | None = None


class LogFilter(Fields, frozen=True):
    """Which requests are logged, as an expression of CEL."""

    expression: str = ""


class AccessLogging(Fields, frozen=True):
    """What is logged."""

    match: Raw = None
    providers: tuple[ProviderName, ...] = ()
    disabled: bool | None = None
    filter: LogFilter | None = None


class TelemetrySpec(Fields, frozen=True):
    """What is recorded about requests."""

    selector: WorkloadSelector | None = None
    target_ref: TargetReference | None = None
    target_refs: tuple[TargetReference, ...] = ()
    tracing: tuple[Tracing, ...] = ()
    metrics: tuple[Metrics, ...] = ()
    access_logging: tuple[AccessLogging, ...] = ()

    @property
    def targets(self) -> tuple[TargetReference, ...]:
        """What the telemetry is attached to."""
        return self.target_refs if self.target_ref is None else (self.target_ref, *self.target_refs)
