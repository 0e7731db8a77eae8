"""The parts of a HorizontalPodAutoscaler (``autoscaling/v2``) and of a PodDisruptionBudget (``policy/v1``)."""

from __future__ import annotations

from resources.base import Condition, Fields, Raw
from resources.security import WorkloadSelector


class ScaleTarget(Fields, frozen=True):
    """What is scaled."""

    kind: str
    name: str
    api_version: str = ""


class AutoscalerSpec(Fields, frozen=True):
    """Between how many and how many replicas, and by what."""

    scale_target_ref: ScaleTarget
    max_replicas: int
    min_replicas: int | None = None
    metrics: Raw = None
    behavior: Raw = None


class AutoscalerStatus(Fields, frozen=True):
    """What it does."""

    observed_generation: int | None = None
    last_scale_time: str | None = None
    current_replicas: int = 0
    desired_replicas: int = 0
    current_metrics: Raw = None
    conditions: tuple[Condition, ...] = ()


class DisruptionBudgetSpec(Fields, frozen=True):
    """How many pods may be away when somebody may choose."""

    selector: WorkloadSelector = WorkloadSelector()
    min_available: int | str | None = None
    max_unavailable: int | str | None = None
    unhealthy_pod_eviction_policy: str | None = None


class DisruptionBudgetStatus(Fields, frozen=True):
    """How many are."""

    observed_generation: int | None = None
    disrupted_pods: Raw = None
    disruptions_allowed: int = 0
    current_healthy: int = 0
    desired_healthy: int = 0
    expected_pods: int = 0
    conditions: tuple[Condition, ...] = ()
