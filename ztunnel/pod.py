"""A pod this ztunnel serves."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Protocol, TypeVarTuple

import structlog
import trio

from mesh import ports
from mesh.addresses import IpBytes, is_ipv4
from mesh.errors import MeshError
from mesh.identity import SpiffeId
from mesh.model.workload import Workload
from mesh.netns import NetworkNamespace
from mesh.rbac import PolicySet
from mesh.zds.codec import WorkloadInfo

Arguments = TypeVarTuple("Arguments")

_log = structlog.get_logger("inpod")


class HandsOver(Protocol):
    """A loop inside trio's, such as the relay's engine."""

    def hand_over(self) -> None:
        """Give trio its turn soon."""


class PodTasks:
    """Tasks on behalf of one pod: they end with it, and a bug in one of them costs nobody else anything."""

    def __init__(self, nursery: trio.Nursery, engine: HandsOver) -> None:
        self._nursery = nursery
        self._engine = engine
        self._scopes: set[trio.CancelScope] = set()
        self._stopped = False

    def start(self, function: Callable[[*Arguments], Awaitable[None]], *arguments: *Arguments) -> None:
        """Run this soon; may be called from the engine's handlers."""
        self._nursery.start_soon(self._run, function, arguments)
        self._engine.hand_over()

    def stop(self) -> None:
        """The pod is no longer served."""
        self._stopped = True
        for scope in self._scopes:
            scope.cancel()

    async def _run(
        self, function: Callable[[*Arguments], Awaitable[None]], arguments: tuple[*Arguments]
    ) -> None:
        name = getattr(function, "__qualname__", "?")
        with trio.CancelScope() as scope:
            self._scopes.add(scope)
            if self._stopped:
                scope.cancel()
            try:
                await function(*arguments)
            except MeshError as error:
                _log.warning("task failed", task=name, error=str(error))
            except Exception:  # one connection's bug must not stop the node's traffic
                _log.exception("task failed", task=name)
            finally:
                self._scopes.discard(scope)


class Pod:
    """What does not change about a served pod, and what the control plane last said of it."""

    __slots__ = (
        *("_ipv4", "_ipv6", "addresses", "cookie", "identity", "info", "mesh_ports", "namespace"),
        *("policies", "tasks", "uid", "workload"),
    )

    def __init__(
        self,
        uid: str,
        info: WorkloadInfo,
        namespace: NetworkNamespace,
        addresses: Iterable[IpBytes],
        trust_domain: str,
        tasks: PodTasks,
    ) -> None:
        self.uid = uid
        self.info = info
        self.namespace = namespace
        self.cookie = namespace.cookie()
        self.addresses = tuple(addresses)
        """As enrolled by the agent, which has checked that they are this namespace's."""
        self.identity = SpiffeId(trust_domain, info.namespace, info.service_account)
        """Known from the agent before the control plane has said anything of this pod."""
        self._ipv4 = next((ip for ip in self.addresses if is_ipv4(ip)), None)
        self._ipv6 = next((ip for ip in self.addresses if not is_ipv4(ip)), None)
        self.tasks = tasks
        self.mesh_ports = ports.IN_POD
        """Where ztunnel listens in it: never what a connection is for, as a delivery there would come back to us."""
        self.workload: Workload | None = None
        """None until the control plane has described it."""
        self.policies: PolicySet | None = None
        """What authorizes connections to it; None as long as ``workload`` is."""

    @property
    def name(self) -> str:
        """``namespace/name``, as people write it."""
        return f"{self.info.namespace}/{self.info.name}"

    def address(self, *, ipv4: bool) -> IpBytes | None:
        """The pod's address of a family, None when it has none."""
        return self._ipv4 if ipv4 else self._ipv6
