"""Findings and reference faults, gathered while one object is translated."""

from __future__ import annotations

from controlplane.translate.finding import Condition, Finding
from resources.objects import ObjectKey


class Notes:
    """What the author of one object should know."""

    def __init__(self, key: ObjectKey) -> None:
        self.key = key
        self.findings: list[Finding] = []
        self.unresolved: list[tuple[str, str]] = []
        """References that lead nowhere: reason in the Gateway API's words, and message."""
        self.refused = ""
        """Why part of a route is not served as written; the last one counts. Empty: all of it is."""

    def unsupported(self, message: str) -> None:
        """A field or value has no effect."""
        self._tell(Condition.UNSUPPORTED_VALUE, message)

    def not_applied(self, message: str) -> None:
        """The whole object has no effect."""
        self._tell(Condition.NOT_APPLIED, message)

    def refuse(self, message: str) -> None:
        """A rule cannot be served as written, so its requests are answered 500."""
        self.refused = message
        self.unsupported(message)

    def dangling(self, reason: str, message: str) -> None:
        """A reference leads nowhere."""
        self.unresolved.append((reason, message))
        self.unsupported(f"{reason}: {message}")

    def _tell(self, condition: Condition, message: str) -> None:
        finding = Finding(self.key, condition, message)
        if finding not in self.findings:
            self.findings.append(finding)
