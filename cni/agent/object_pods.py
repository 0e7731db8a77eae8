"""Objects to a node's pods: what every ``PodSource`` of Kubernetes objects has in common."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

import structlog
import trio

from cni.enrolment import fast_path_of
from cni.pod import NodeView, PodFacts, PodName, checked_uid
from mesh.addresses import parse_ip
from mesh.errors import InvalidValue
from resources.object_set import ObjectSet
from resources.objects import Namespace, Pod

_log = structlog.get_logger("pods")


class ObjectPods:
    """The view of one node, by the objects there are."""

    def __init__(self, node: str) -> None:
        self._node = node
        self._view = NodeView()
        self._newer = trio.Event()

    @property
    def view(self) -> NodeView:
        """The pods as of now."""
        return self._view

    async def changed(self, after_serial: int) -> NodeView:
        """Wait until the view is newer than ``after_serial``."""
        while self._view.serial <= after_serial:
            await self._newer.wait()
        return self._view

    def _take(self, objects: ObjectSet, complete: bool) -> None:
        annotations = {entry.metadata.name: entry.metadata.annotations for entry in objects.of_kind(Namespace)}
        pods, all_read = _pods_of(objects.of_kind(Pod), self._node, annotations)
        view = NodeView(
            serial=self._view.serial + 1,
            complete=complete and all_read,
            pods=pods,
            namespaces={entry.metadata.name: entry.metadata.labels for entry in objects.of_kind(Namespace)},
        )
        if (view.complete, view.pods, view.namespaces) == (
            self._view.complete,
            self._view.pods,
            self._view.namespaces,
        ) and self._view.serial:
            return  # objects of other kinds or nodes
        self._view = view
        self._newer.set()
        self._newer = trio.Event()


def _pods_of(
    pods: Iterable[Pod], node: str, namespace_annotations: Mapping[str, Mapping[str, str]]
) -> tuple[dict[PodName, PodFacts], bool]:
    """The node's pods, and whether all of them could be understood."""
    found: dict[PodName, PodFacts] = {}
    uids: set[str] = set()
    all_read = True
    for pod in pods:
        if pod.spec.node_name != node:
            continue
        try:
            facts = facts_of(pod)
            if facts.uid in uids:
                raise InvalidValue(f"its uid {facts.uid} is another pod's too: give each its own, or none")
        except InvalidValue as error:
            all_read = False
            _log.error("pod not understood", pod=f"{pod.metadata.namespace}/{pod.metadata.name}", reason=str(error))
            continue
        uids.add(facts.uid)
        use = fast_path_of(facts.annotations, namespace_annotations.get(facts.namespace, {}))
        found[facts.key] = facts if use is facts.fast_path else replace(facts, fast_path=use)
    return found, all_read


def facts_of(pod: Pod) -> PodFacts:
    """What the agent looks at in a Pod.

    Raises:
        InvalidValue: its uid or an address is not of the form it must have.
    """
    return PodFacts(
        uid=checked_uid(pod.metadata.uid),
        namespace=pod.metadata.namespace,
        name=pod.metadata.name,
        service_account=pod.spec.account,
        labels=pod.metadata.labels,
        annotations=pod.metadata.annotations,
        addresses=tuple(parse_ip(address) for address in pod.status.addresses),
        host_network=pod.spec.host_network,
        leaving=pod.metadata.deletion_timestamp is not None,
        ended=pod.status.ended,
    )
