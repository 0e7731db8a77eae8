"""What the fast path may remember: pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import gcd
from typing import NamedTuple

from mesh import ports
from mesh.addresses import OriginalDestination, SocketAddress, is_ipv4
from mesh.balance import WeightedPool
from mesh.model.workload import Workload
from mesh.rbac import ConnectionFacts, PolicySet
from mesh.state.routes import ToWorkload
from ztunnel.pod import Pod


class Standing(NamedTuple):
    """Everything that a verdict about a pod rests on; another standing voids it."""

    workload: Workload | None
    policies: PolicySet | None
    """Sets are compared as objects: after any change that matters there is another one."""
    claimed: bool
    """Whether a service has one of the pod's addresses, so that dialling it means the service."""


@dataclass(frozen=True, slots=True)
class DirectService:
    """A service that a pod may dial directly."""

    pod: Pod
    dialled: OriginalDestination
    pool: WeightedPool[ToWorkload]


def may_remember(source: Pod, destination: Pod, facts: ConnectionFacts) -> bool:
    """Whether an admitted connection stands for all that this source will make to this target.

    The programs dial from the source pod's first address of the target's family, so only what was admitted for that
    address and for the pod's own identity is worth remembering.

    Args:
        source: the pod of this node that has the connection's source address.
        destination: the pod that admitted it.
        facts: what was admitted.
    """
    workload = destination.workload
    return (
        source is not destination
        and facts.source_identity == source.identity
        and facts.source_ip == source.address(ipv4=is_ipv4(facts.destination_ip))
        and facts.destination_ip in destination.addresses
        and facts.destination_port not in ports.IN_POD
        and workload is not None
        and workload.waypoint is None
        and source.workload is not None
        and source.workload.network == workload.network
    )


def slots_of(pool: WeightedPool[ToWorkload], limit: int) -> list[SocketAddress] | None:
    """A service's endpoints, each as often as its weight asks.

    Returns:
        None if the weights do not fit ``limit`` slots exactly: the service then keeps to the slow path, whose draw is
        exact for any weights.
    """
    weights = pool.weights
    if not weights:
        return None
    common = gcd(*weights)
    counts: Sequence[int] = [weight // common for weight in weights]
    if sum(counts) > limit:
        return None
    return [route.target for route, count in zip(pool.items, counts, strict=True) for _ in range(count)]
