"""What the control plane says of the pods served here, kept current; and who must be judged again when it changes.

A pod's workload and policies are replaced at once when the state changes, so that no new connection is judged by old
rules. The connections that are alive are walked by a task right after, in slices, so that a node with many of them goes
on moving bytes.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Never

import structlog
import trio

from mesh.errors import ClosedByPolicyChange
from mesh.rbac import Deny, decide
from mesh.state.store import Changes, MeshState
from ztunnel.pod import Pod
from ztunnel.proxy.connections import Connection, ConnectionTable

WAIT_SECONDS = 10.0
"""How long a connection waits for the control plane to describe its pod, before it is refused."""
_SLICE = 200

_log = structlog.get_logger("policy")


class Descriptions:
    """Joins the state of the mesh to the pods of this node."""

    def __init__(self, state: MeshState, table: ConnectionTable) -> None:
        self._state = state
        self._table = table
        # By themselves, not by uid: a pod that is enrolled again, or whose sandbox was replaced, has the uid of one
        # whose connections may still live.
        self._pods: set[Pod] = set()
        self._recheck: set[Pod] = set()
        self._wake = trio.Event()
        state.subscribe(self._changed)

    def follow(self, pod: Pod) -> None:
        """Keep this pod's description current."""
        self._pods.add(pod)
        self._describe(pod)

    def forget(self, pod: Pod) -> None:
        """The pod is no longer served. Its connections, if any still end, keep the last description."""
        self._pods.discard(pod)

    async def ready(self, pod: Pod) -> None:
        """Wait until ``pod.workload`` and ``pod.policies`` are there.

        Raises:
            UnknownWorkload: they did not come in time.
        """
        if pod.workload is None or not self._state.synchronized:
            with trio.move_on_after(WAIT_SECONDS):
                await self._state.wait_synchronized()
            info = pod.info
            await self._state.wait_for_local_workload(info.namespace, info.name, info.service_account, WAIT_SECONDS)
            self._describe(pod)

    def is_ready(self, pod: Pod) -> bool:
        """Whether connections of this pod can be judged now."""
        return pod.workload is not None and self._state.synchronized

    def _describe(self, pod: Pod) -> bool:
        """Returns whether the pod's policies are others than before."""
        info = pod.info
        workload = self._state.workloads.local((info.namespace, info.name, info.service_account))
        if workload is None:
            # Gone from the control plane, yet the agent still has it: what is known stays in force.
            workload = pod.workload
            if workload is None:
                return False
        pod.workload = workload
        policies = self._state.policies_for(workload)
        changed = policies is not pod.policies
        pod.policies = policies
        return changed

    def _changed(self, _changes: Changes) -> None:
        for pod in self._pods:
            if self._describe(pod):
                self._recheck.add(pod)
        if self._recheck:
            self._wake.set()

    async def run(self) -> Never:
        """Judge live connections again whenever their pod's policies have changed."""
        while True:
            await self._wake.wait()
            self._wake = trio.Event()
            pods, self._recheck = self._recheck, set()
            await self._judge([c for c in self._table if c.pod in pods and c.facts is not None])

    async def _judge(self, connections: Iterable[Connection]) -> None:
        for number, connection in enumerate(connections, 1):
            policies = connection.pod.policies
            if policies is not None and connection.facts is not None and connection.end is not None:
                decision = decide(connection.facts, policies)
                if isinstance(decision, Deny):
                    record = connection.record
                    _log.info(
                        "connection closed due to policy change",
                        pod=connection.pod.name,
                        source=str(record.source),
                        identity=str(record.source_identity or "none"),
                        policy=decision.policy or "none",
                        reason=decision.reason,
                    )
                    error = ClosedByPolicyChange(f"connection closed due to policy change: {decision.reason}")
                    connection.end.cut(error)
            if number % _SLICE == 0:
                await trio.lowlevel.checkpoint()
