"""The parts of a Deployment (``apps/v1``)."""

from __future__ import annotations

from msgspec import field

from resources.base import Condition, Fields, ObjectMeta, Raw
from resources.pod import PodSpec
from resources.security import WorkloadSelector


class PodTemplate(Fields, frozen=True):
    """What the pods of a Deployment are made of."""

    spec: PodSpec
    metadata: ObjectMeta = ObjectMeta()


class DeploymentSpec(Fields, frozen=True):
    """How many pods of which template."""

    selector: WorkloadSelector
    template: PodTemplate
    replicas: int | None = None
    """1 when it is not said; ``number`` has it."""
    strategy: Raw = None
    min_ready_seconds: int | None = None
    revision_history_limit: int | None = None
    progress_deadline_seconds: int | None = None
    paused: bool | None = None

    @property
    def number(self) -> int:
        """How many pods."""
        return 1 if self.replicas is None else self.replicas


class DeploymentStatus(Fields, frozen=True):
    """What of it is there."""

    observed_generation: int | None = None
    replicas: int = 0
    updated_replicas: int = 0
    ready_replicas: int = 0
    available_replicas: int = 0
    unavailable_replicas: int = 0
    terminating_replicas: int | None = None
    collision_count: int | None = None
    conditions: tuple[Condition, ...] = field(default=())
