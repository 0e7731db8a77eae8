"""What the kernel captures, kept at hand.

Reading the kernel's tables costs some 35 microseconds a pod, and a plan is made for every pod's every change: with
two hundred pods a start would spend seconds reading the same tables over and over. Nobody but this process writes
them, so they are read at the start, written along with every act, and read again from time to time, in case somebody
did.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from ebpf.pods import EnrolledPod, PodEntry
from mesh.netns import NetworkNamespace


class CaptureTable(Protocol):
    """The kernel's side of enrolment: what is used of ``ebpf.pods.PodTable``. Calls are short and do not wait."""

    def enrolled(self) -> Mapping[str, EnrolledPod]:
        """What the kernel captures now, by pod uid."""

    def enrol(self, cookie: int, entry: PodEntry, namespace: NetworkNamespace, uid: str) -> None:
        """Capture a pod, or change how or where; raises MeshError when the kernel refuses."""

    def unenrol(self, uid: str) -> None:
        """Capture it no longer; one that is not captured is no error."""


class Captures:
    """The enrolled pods of the kernel."""

    def __init__(self, table: CaptureTable) -> None:
        self._table = table
        self._enrolled: dict[str, EnrolledPod] = {}
        self.refresh()

    @property
    def enrolled(self) -> Mapping[str, EnrolledPod]:
        """By pod uid; as of the last ``refresh`` and of all acts since."""
        return self._enrolled

    def refresh(self) -> None:
        """Read the kernel's tables."""
        self._enrolled = dict(self._table.enrolled())

    def enrol(self, uid: str, cookie: int, entry: PodEntry, namespace: NetworkNamespace) -> None:
        """Capture a pod, or change how or where.

        Raises:
            MeshError: the kernel refused.
        """
        try:
            self._table.enrol(cookie, entry, namespace, uid)
        except BaseException:
            self.refresh()
            raise
        self._enrolled[uid] = EnrolledPod(cookie, namespace.inode, entry)

    def unenrol(self, uid: str) -> None:
        """Capture a pod no longer; nothing happens if it is not captured.

        Raises:
            MeshError: the kernel refused.
        """
        try:
            self._table.unenrol(uid)
        except BaseException:
            self.refresh()
            raise
        self._enrolled.pop(uid, None)
