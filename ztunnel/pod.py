"""A pod this ztunnel serves."""

from __future__ import annotations

from collections.abc import Iterable

from mesh import ports
from mesh.addresses import IpBytes, is_ipv4
from mesh.identity import SpiffeId
from mesh.model.workload import Workload
from mesh.netns import NetworkNamespace
from mesh.rbac import PolicySet
from mesh.relay.owned_tasks import OwnedTasks
from mesh.zds.codec import WorkloadInfo


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
        tasks: OwnedTasks,
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
