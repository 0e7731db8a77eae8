"""The state of the mesh as this node knows it, kept up to date by delta xDS.

``MeshState`` is the handler of the xDS client: every response is applied resource by resource, so that one bad resource
leaves the others in force and its own last good version too. What is known stays known while the control plane is away.

Authorization fails closed: until the control plane has answered for policies once, nobody can tell what they say, so
every workload is denied; a policy that a workload refers to and that has not arrived denies that workload.

After each response subscribers are told what changed, once, so that live connections can be judged again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import structlog
import trio

from mesh.addresses import IpBytes
from mesh.errors import InvalidMessage, UnknownWorkload
from mesh.model.workload import Workload
from mesh.rbac import PolicySet
from mesh.state.policy_index import PolicyIndex
from mesh.state.service_index import ServiceIndex, ServiceView
from mesh.state.workload_index import WorkloadIndex
from mesh.xds.codec import ADDRESS_TYPE, AUTHORIZATION_TYPE, decode_address, decode_authorization
from mesh.xds.discovery_codec import Rejected, Resource

_log = structlog.get_logger()

NOT_RECEIVED = PolicySet(missing=("(authorization policies)",))
"""What stands in for every workload's policies until the control plane has sent them."""


@dataclass(slots=True)
class Changes:
    """What one response changed, removals included."""

    workloads: set[str] = field(default_factory=set)
    """Uids."""
    services: set[str] = field(default_factory=set)
    """Keys; of services themselves, not for their endpoints."""
    policies: set[str] = field(default_factory=set)
    """Keys."""

    def __bool__(self) -> bool:
        return bool(self.workloads or self.services or self.policies)


Subscriber = Callable[[Changes], None]


class MeshState:
    """Workloads, services and policies, with their look-ups. One per process; not shared between threads."""

    def __init__(self, node: str) -> None:
        """Start empty.

        Args:
            node: this node's name, as workloads state theirs.
        """
        self.node = node
        self.workloads = WorkloadIndex(node)
        self.services = ServiceIndex()
        self.policies = PolicyIndex()
        self._answered: set[str] = set()
        self.synchronized = False
        """Whether the control plane has answered for addresses and for policies at least once."""
        self._subscribers: dict[object, Subscriber] = {}
        self._changed = trio.Event()
        # Bound once, as plain dictionary gets: these are asked for every connection.
        self._workload_at = self.workloads.by_address.get

    @property
    def received_addresses(self) -> bool:
        """Whether the control plane has answered for workloads and services at least once."""
        return ADDRESS_TYPE in self._answered

    # -- look-ups ------------------------------------------------------------------------------------------------------

    def workload_at(self, network: str, ip: IpBytes) -> Workload | None:
        """Who has this address."""
        return self._workload_at((network, ip))

    def service_at(self, network: str, ip: IpBytes) -> ServiceView | None:
        """Whose virtual address this is."""
        return self.services.at(network, ip)

    def service_named(self, key: str) -> ServiceView | None:
        """The service of this key, ``namespace/hostname``; also one of which only endpoints are known."""
        return self.services.views.get(key)

    def policies_for(self, workload: Workload) -> PolicySet:
        """What ``mesh.rbac.decide`` needs for connections to a workload; the same object until a relevant change."""
        if AUTHORIZATION_TYPE not in self._answered:
            return NOT_RECEIVED
        return self.policies.set_for(workload)

    async def wait_change(self) -> None:
        """Return after the next response of the control plane."""
        await self._changed.wait()

    async def wait_synchronized(self) -> None:
        """Return once ``synchronized``."""
        while not self.synchronized:
            await self._changed.wait()

    async def wait_for_local_workload(
        self, namespace: str, name: str, service_account: str, timeout: float
    ) -> Workload:
        """The workload of a pod on this node, waiting for the control plane to describe it.

        Args:
            namespace: the pod's.
            name: the pod's.
            service_account: the pod's; a workload with another one is not this pod.
            timeout: seconds.

        Raises:
            UnknownWorkload: it did not come in time; the text says what is known instead.
        """
        with trio.move_on_after(timeout):
            while (workload := self.workloads.local((namespace, name, service_account))) is None:
                await self._changed.wait()
            return workload
        others = self.workloads.local_by_pod(namespace, name)
        if others:
            raise UnknownWorkload(
                f"pod {namespace}/{name} runs as service account {service_account}, the control plane describes it as "
                f"{others[0].service_account}: a pod of the same name was replaced, and its news is on its way"
            )
        raise UnknownWorkload(
            f"the control plane has not described pod {namespace}/{name} of node {self.node} in {timeout:g} s: "
            + ("it may not see the pod yet" if self.synchronized else "it has not been reached yet")
        )

    # -- changes -------------------------------------------------------------------------------------------------------

    def subscribe(self, subscriber: Subscriber) -> Callable[[], None]:
        """Be told of changes, after they are in force, in the middle of nothing; call the result to stop.

        The subscriber must neither raise nor block: it notes what to do and lets a task do it.
        """
        token = object()
        self._subscribers[token] = subscriber

        def unsubscribe() -> None:
            self._subscribers.pop(token, None)

        return unsubscribe

    def apply(self, type_url: str, updated: Sequence[Resource], removed: Sequence[str]) -> list[Rejected]:
        """Take one xDS response in.

        Args:
            type_url: which kind of resource.
            updated: new or changed resources.
            removed: names; unknown ones are ignored.

        Returns:
            The resources that cannot be used; their former versions stay in force.
        """
        changes = Changes()
        if type_url == ADDRESS_TYPE:
            take, drop = self._take_address, self._drop_address
        elif type_url == AUTHORIZATION_TYPE:
            take, drop = self._take_policy, self._drop_policy
        else:
            _log.error("unknown xds type ignored", type_url=type_url, resources=len(updated))
            return []
        for name in removed:
            drop(name, changes)
        rejected = []
        for resource in updated:
            try:
                take(resource, changes)
            except InvalidMessage as error:
                rejected.append(Rejected(resource.name, str(error)))
        if changes:
            self._announce(changes)
        return rejected

    def applied(self, type_url: str) -> None:
        """A whole response is in. Only now does the first one count as the answer: a large one comes in parts, and
        half of the policies must not be taken for all of them.
        """
        if type_url in self._answered:
            return
        self._answered.add(type_url)
        self.synchronized = self._answered >= {ADDRESS_TYPE, AUTHORIZATION_TYPE}
        changes = Changes()
        if type_url == AUTHORIZATION_TYPE:
            # Until now everybody was denied: whoever was judged so is to be judged again.
            changes.workloads |= self.workloads.by_uid.keys()
        self._announce(changes)

    def _announce(self, changes: Changes) -> None:
        self._changed.set()
        self._changed = trio.Event()
        if not changes:
            return
        for subscriber in tuple(self._subscribers.values()):
            subscriber(changes)

    def _take_address(self, resource: Resource, changes: Changes) -> None:
        value = decode_address(resource.payload)
        if isinstance(value, Workload):
            _require_name(resource, value.uid)
            former = self.workloads.put(value)
            self.services.replace_endpoint(former, value)
            if former != value:
                changes.workloads.add(value.uid)
        else:
            _require_name(resource, value.key)
            if self.services.put(value) != value:
                changes.services.add(value.key)

    def _drop_address(self, name: str, changes: Changes) -> None:
        workload = self.workloads.remove(name)
        if workload is not None:
            self.services.replace_endpoint(workload, None)
            changes.workloads.add(name)
        elif self.services.remove(name) is not None:
            changes.services.add(name)

    def _take_policy(self, resource: Resource, changes: Changes) -> None:
        policy = decode_authorization(resource.payload)
        _require_name(resource, policy.key)
        if self.policies.put(policy) != policy:
            changes.policies.add(policy.key)

    def _drop_policy(self, name: str, changes: Changes) -> None:
        if self.policies.remove(name) is not None:
            changes.policies.add(name)


def _require_name(resource: Resource, name: str) -> None:
    """A resource under another name could never be removed again."""
    if resource.name != name:
        raise InvalidMessage(f"the resource is called {resource.name[:256]!r} but describes {name[:256]!r}")

