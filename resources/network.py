"""The parts of a Service and of an EndpointSlice."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, field

from resources.base import Condition, Fields, ObjectReference, Port, Raw


class ServicePort(Fields, frozen=True):
    """A port of a Service; an absent target port is the port itself, a text one a container port's name."""

    port: Port
    name: str = ""
    protocol: str = "TCP"
    app_protocol: str | None = None
    target_port: Annotated[int, Meta(ge=0, le=65535)] | str | None = None
    node_port: int | None = None


class ServiceSpec(Fields, frozen=True):
    """What a Service offers and to whom it leads."""

    ports: tuple[ServicePort, ...] = ()
    selector: dict[str, str] = field(default_factory=dict)
    cluster_ip: str = field(default="", name="clusterIP")
    """``None`` (the text) for a headless Service."""
    cluster_ips: tuple[str, ...] = field(default=(), name="clusterIPs")
    type: str = "ClusterIP"
    external_ips: tuple[str, ...] = field(default=(), name="externalIPs")
    session_affinity: str | None = None
    session_affinity_config: Raw = None
    load_balancer_ip: str | None = field(default=None, name="loadBalancerIP")
    load_balancer_source_ranges: Raw = None
    load_balancer_class: str | None = None
    allocate_load_balancer_node_ports: bool | None = None
    external_name: str = ""
    external_traffic_policy: str | None = None
    internal_traffic_policy: str = "Cluster"
    traffic_distribution: str = ""
    health_check_node_port: int | None = None
    publish_not_ready_addresses: bool = False
    ip_families: tuple[str, ...] = ()
    ip_family_policy: str = ""

    @property
    def headless(self) -> bool:
        """Whether the Service has no virtual address by wish."""
        return self.cluster_ip == "None" or self.cluster_ips == ("None",)

    @property
    def virtual_addresses(self) -> tuple[str, ...]:
        """The cluster addresses, the primary one first; empty for headless ones and those not yet given any."""
        listed = tuple(address for address in self.cluster_ips if address and address != "None")
        if self.cluster_ip and self.cluster_ip != "None" and self.cluster_ip not in listed:
            return (self.cluster_ip, *listed)
        return listed


class ServiceStatus(Fields, frozen=True):
    """What became of a Service."""

    load_balancer: Raw = None
    conditions: tuple[Condition, ...] = ()


class EndpointConditions(Fields, frozen=True):
    """Whether an endpoint may be used; an absent ``ready`` means ready."""

    ready: bool | None = None
    serving: bool | None = None
    terminating: bool | None = None


class Endpoint(Fields, frozen=True):
    """One endpoint: usually one address of one pod."""

    addresses: tuple[str, ...]
    conditions: EndpointConditions = EndpointConditions()
    hostname: str | None = None
    target_ref: ObjectReference | None = None
    deprecated_topology: Raw = None
    node_name: str = ""
    zone: str = ""
    hints: Raw = None


class EndpointPort(Fields, frozen=True):
    """A port of every endpoint in a slice; its name is the Service port's."""

    name: str = ""
    protocol: str = "TCP"
    port: Port | None = None
    app_protocol: str | None = None
