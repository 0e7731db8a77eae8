"""What is looked at of a node beside its labels: the taints that keep pods from it."""

from __future__ import annotations

from msgspec import field

from resources.base import Fields, Raw

NOT_READY_TAINT = "ambimesh.dev/not-ready"
"""On a node that is to take no pods before its agent is ready: then the operator takes it away."""


class Taint(Fields, frozen=True):
    """What keeps pods that do not tolerate it from a node."""

    key: str
    effect: str = ""
    value: str | None = None
    time_added: str | None = None


class NodeSpec(Fields, frozen=True):
    """What a node is to be; of it, the mesh looks at its taints."""

    taints: tuple[Taint, ...] = ()
    pod_cidr: Raw = field(default=None, name="podCIDR")
    pod_cidrs: Raw = field(default=None, name="podCIDRs")
    provider_id: Raw = field(default=None, name="providerID")
    unschedulable: bool | None = None
    config_source: Raw = None
    external_id: Raw = field(default=None, name="externalID")
