"""What the agent does when the container runtime makes, checks or takes down a pod's network.

ADD comes before the first container starts, so what it does holds from the pod's first packet; whatever keeps it from
deciding makes it fail, and the runtime tries again. The pod's labels come from the source, which may learn of the pod
a moment after the runtime does: that moment is waited for, not longer.
"""

from __future__ import annotations

from collections.abc import Mapping

import structlog
import trio

from cni.agent.enroller import Enroller
from cni.agent.namespace_finder import Namespaces, WrongNamespace
from cni.agent.pod_source import PodSource
from cni.agent.sandboxes import Sandbox, SandboxRegister
from cni.enrolment import Enrolment, EnrolmentRules, decide
from cni.pod import NodeView, PodFacts, PodName
from cni.protocol_codec import CniCode, CniFailure, PluginRequest, PodArguments
from mesh.addresses import format_ip

_log = structlog.get_logger("cni")


class Attachments:
    """The ``PluginHandler`` of the agent."""

    def __init__(
        self,
        source: PodSource,
        rules: EnrolmentRules,
        enroller: Enroller,
        namespaces: Namespaces,
        sandboxes: SandboxRegister,
        pod_wait_seconds: float,
    ) -> None:
        self._source = source
        self._rules = rules
        self._enroller = enroller
        self._namespaces = namespaces
        self._sandboxes = sandboxes
        self._pod_wait_seconds = pod_wait_seconds

    async def add(self, request: PluginRequest) -> None:
        """Remember the pod's sandbox and enrol the pod if it is to be.

        Raises:
            CniFailure, MeshError: it must not start.
        """
        if request.pod is None or request.pod.namespace in self._rules.excluded_namespaces:
            return
        pod, labels = await self._find_pod(request.pod)
        decision = decide(pod, labels, self._rules)
        if decision is Enrolment.HOST_NETWORK:
            return
        try:
            namespace = await self._namespaces.at_path(request.netns)
        except WrongNamespace as error:
            raise CniFailure(CniCode.REFUSED, str(error)) from error
        try:
            async with self._enroller.working_on(pod.uid):
                sandbox = Sandbox(
                    container_id=request.container_id,
                    netns=request.netns,
                    inode=namespace.inode,
                    cookie=namespace.cookie(),
                    namespace=pod.namespace,
                    name=pod.name,
                    addresses=tuple(format_ip(address) for address in request.addresses),
                )
                self._sandboxes.remember(pod.uid, sandbox)
                if decision is Enrolment.SELECTED:
                    await self._enroller.attach(pod, namespace, request.addresses)
                else:
                    _log.info("pod not enrolled", pod=str(pod.key), reason=decision.value)
        except WrongNamespace as error:
            raise CniFailure(CniCode.REFUSED, str(error)) from error
        finally:
            namespace.close()

    async def check(self, request: PluginRequest) -> None:
        """Whether an enrolled pod is still captured and served.

        Raises:
            CniFailure: it is not.
        """
        if request.pod is None or request.pod.namespace in self._rules.excluded_namespaces:
            return
        pod, labels = await self._find_pod(request.pod)
        if decide(pod, labels, self._rules) is not Enrolment.SELECTED:
            return
        namespace = await self._namespaces.at_path(request.netns)
        try:
            cookie = namespace.cookie()
        finally:
            namespace.close()
        self._enroller.refresh()
        state = self._enroller.actual().get(pod.uid)
        if self._enroller.captured_cookie(pod.uid) != cookie:
            raise CniFailure(CniCode.TRY_AGAIN_LATER, f"pod {pod.key} is not captured in the namespace {request.netns}")
        if state is None or not state.acknowledged:
            raise CniFailure(CniCode.TRY_AGAIN_LATER, f"ztunnel does not serve pod {pod.key} yet: see its log")

    async def delete(self, request: PluginRequest) -> None:
        """Forget a sandbox and un-enrol its pod, unless the pod has a newer one by now."""
        for uid, sandbox in self._sandboxes.items():
            if sandbox.container_id == request.container_id:
                await self._take_out(uid, sandbox)
                return
        uid = request.pod.uid if request.pod else ""
        if uid and self._sandboxes.find(uid) is None and self._enroller.captured_cookie(uid) is not None:
            # It was enrolled without our having seen its ADD.
            await self._take_out(uid, None)

    async def _take_out(self, uid: str, sandbox: Sandbox | None) -> None:
        async with self._enroller.working_on(uid):
            if self._sandboxes.find(uid) != sandbox:
                return
            self._sandboxes.forget(uid)
            if uid in self._enroller.actual():
                await self._enroller.unenrol(uid, None, "its network was taken down")

    async def _find_pod(self, wanted: PodArguments) -> tuple[PodFacts, Mapping[str, str]]:
        """The pod and its namespace's labels, waiting a little for a source that is behind."""
        with trio.move_on_after(self._pod_wait_seconds):
            view = self._source.view
            while (found := _find(view, wanted)) is None:
                view = await self._source.changed(view.serial)
            return found
        view = self._source.view
        pod = _find_pod(view, wanted)
        if pod is not None and view.complete:
            return pod, {}  # a folder of manifests may do without Namespace objects: no object, no labels
        raise CniFailure(
            CniCode.TRY_AGAIN_LATER,
            f"pod {wanted.namespace}/{wanted.name} (uid {wanted.uid or 'not given'}) did not appear in the agent's "
            f"source of pods within {self._pod_wait_seconds:g} s, so it is not known whether it belongs in the mesh; "
            "the attempt is repeated",
        )


def _find(view: NodeView, wanted: PodArguments) -> tuple[PodFacts, Mapping[str, str]] | None:
    pod, labels = _find_pod(view, wanted), view.namespaces.get(wanted.namespace)
    return None if pod is None or labels is None else (pod, labels)


def _find_pod(view: NodeView, wanted: PodArguments) -> PodFacts | None:
    pod = view.pods.get(PodName(wanted.namespace, wanted.name))
    if pod is None or pod.ended or (wanted.uid and wanted.uid != pod.uid):
        return None  # not there yet, or what is there is an earlier pod of this name
    return pod
