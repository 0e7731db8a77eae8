"""Where the agent learns of pods: the seam between it and Kubernetes or its stand-in."""

from __future__ import annotations

from typing import Never, Protocol

import trio

from cni.pod import NodeView, PodFacts


class PodSource(Protocol):
    """The pods of this node and the labels of all namespaces, kept current."""

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> Never:
        """Keep ``view`` current for ever; started when the first view is there.

        Raises:
            MeshError: the source is not there or may not be read.
        """

    @property
    def view(self) -> NodeView:
        """The pods as of now."""

    async def changed(self, after_serial: int) -> NodeView:
        """Wait until the view is newer than ``after_serial``; any number of tasks may wait."""

    def tell_failure(self, pod: PodFacts, reason: str) -> None:
        """Let the pod's owner know that it is not as it should be, where there is a way to."""

    def tell_node(self, reason: str, note: str) -> None:
        """Let the node's administrator know what is wrong with it, where there is a way to.

        Args:
            reason: a word in camel case.
            note: for people.
        """

    async def annotate(self, pod: PodFacts, annotation: str, value: str | None) -> None:
        """Set an annotation of a pod, or take it away; a pod that is gone is no error.

        Raises:
            MeshError: it could not be written.
        """
