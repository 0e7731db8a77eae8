"""What translating one node comes to."""

from __future__ import annotations

from dataclasses import dataclass, replace

from controlplane.translate.delta import Translated
from controlplane.translate.finding import Condition, Finding
from controlplane.translate.status import NO_STATUS, ObjectStatus, StatusCondition
from resources.objects import ObjectKey

_AS_WISHED = "WaypointAccepted"


@dataclass(frozen=True, slots=True)
class Outcome:
    """Resources, findings and a status."""

    results: tuple[Translated, ...] = ()
    findings: tuple[Finding, ...] = ()
    status: ObjectStatus = NO_STATUS

    def told(self, key: ObjectKey, condition: StatusCondition | None) -> Outcome:
        """With a condition about the object's waypoint, and a finding where it is not as wished."""
        if condition is None:
            return self
        status = replace(self.status, conditions=(*self.status.conditions, condition))
        findings = self.findings
        if condition.reason != _AS_WISHED:
            finding = Finding(key, Condition.NOT_APPLIED, f"{condition.type}: {condition.reason}: {condition.message}")
            findings = (*findings, finding)
        return Outcome(self.results, findings, status)


NOTHING = Outcome()
