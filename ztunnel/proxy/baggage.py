"""What this node says of its own pods in ``baggage`` headers."""

from __future__ import annotations

from mesh.hbone.codec import Baggage
from mesh.model.workload import Workload
from ztunnel.pod import Pod


def describe(workload: Workload) -> Baggage:
    """A workload in the words of the header."""
    return Baggage(
        cluster=workload.cluster_id,
        namespace=workload.namespace,
        workload_type=workload.workload_type.name.lower(),
        workload_name=workload.workload_name or workload.name,
        service_name=workload.canonical_name,
        revision=workload.canonical_revision,
        region=workload.locality.region,
        zone=workload.locality.zone,
    )


class BaggageCache:
    """One text per pod, made again when its workload changes."""

    def __init__(self) -> None:
        self._texts: dict[str, tuple[Workload, str]] = {}

    def text(self, pod: Pod) -> str:
        """The header's value; empty as long as the pod is not described."""
        workload = pod.workload
        if workload is None:
            return ""
        kept = self._texts.get(pod.uid)
        if kept is None or kept[0] is not workload:
            kept = self._texts[pod.uid] = (workload, describe(workload).encode())
        return kept[1]

    def forget(self, pod: Pod) -> None:
        """The pod is gone."""
        self._texts.pop(pod.uid, None)
