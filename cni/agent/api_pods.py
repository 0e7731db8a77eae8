"""Pods by the Kubernetes API: ``PodSource`` for a node of a cluster.

Only this node's pods are asked for, and all namespaces, whose labels enrol. While the API server is away, or does not
let us read, the view stays what it was and is not complete, so that no pod is taken for gone.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Never

import structlog
import trio

from cni.agent.object_pods import ObjectPods
from cni.pod import PodFacts
from resources.kube.client_driver import MERGE, ApiClient, ApiRefused
from resources.kube.credentials_driver import ApiSettings
from resources.kube.event_codec import Notice
from resources.kube.event_driver import Events
from resources.kube.kinds import API_KINDS, ApiKind
from resources.kube.source_driver import ApiSource
from resources.objects import ObjectKey

_REPORTER = "ambimesh.dev/agent"
_log = structlog.get_logger("pods")


class ApiPods(ObjectPods):
    """Pods that the API server says are on one node."""

    def __init__(self, settings: ApiSettings, node: str) -> None:
        super().__init__(node)
        self._client = ApiClient(settings)
        self._events = Events(self._client, _REPORTER, node)

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> Never:
        """Keep the view current for ever; started when the first one is there.

        Raises:
            ConfigurationError: there is no way to an API server.
        """
        try:
            async with ApiSource(self._client, kinds_of(self._node)).open() as source, trio.open_nursery() as nursery:
                nursery.start_soon(self._events.run)
                while True:
                    objects = await source.wait_change()
                    self._take(objects, complete=not source.problems)
                    task_status.started()
                    task_status = trio.TASK_STATUS_IGNORED
        finally:
            await self._client.close()

    def tell_failure(self, pod: PodFacts, reason: str) -> None:
        """An event of the pod."""
        self._events.tell(
            Notice(
                about=ObjectKey("Pod", pod.namespace, pod.name),
                api_version="v1",
                uid=pod.uid,
                reason="EnrolmentFailed",
                action="Enrol",
                note=reason,
            )
        )

    def tell_node(self, reason: str, note: str) -> None:
        """An event of the node."""
        # By its name in place of its uid, as kubelet's own: so it is found by whoever looks at the node.
        about = ObjectKey("Node", "", self._node)
        self._events.tell(
            Notice(about=about, api_version="v1", uid=self._node, reason=reason, action="InstallPlugin", note=note)
        )

    async def annotate(self, pod: PodFacts, annotation: str, value: str | None) -> None:
        """Write an annotation of a pod, or take it away; a pod that is gone, or another of its name, is no error.

        Raises:
            MeshError: the API server does not answer, or does not let us.
        """
        kind = API_KINDS["Pod"]
        metadata = {"uid": pod.uid, "annotations": {annotation: value}}
        path = kind.path(kind.versions[0], pod.namespace, pod.name)
        try:
            await self._client.request("PATCH", path, body={"metadata": metadata}, content_type=MERGE)
        except ApiRefused as error:
            # Of another uid, the API server says either of these.
            if error.status not in (404, 409, 422):
                raise
            _log.debug("pod gone before it was annotated", pod=str(pod.key), reason=error.text)


def kinds_of(node: str) -> tuple[ApiKind, ...]:
    """What is asked for on a node."""
    return replace(API_KINDS["Pod"], field_selector=f"spec.nodeName={node}"), API_KINDS["Namespace"]
