"""The parts of Istio's ServiceEntry and WorkloadEntry (``networking.istio.io``)."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, field

from resources.base import Condition, Fields, Port, Raw


class EntryWorkloadSelector(Fields, frozen=True):
    """Labels of the pods or entries that serve."""

    labels: dict[str, str] = field(default_factory=dict)


class EntryPort(Fields, frozen=True):
    """A port of a service."""

    number: Port
    name: str
    protocol: str = ""
    target_port: Annotated[int, Meta(ge=0, le=65535)] = 0


class WorkloadEntrySpec(Fields, frozen=True):
    """An endpoint that is no pod."""

    address: str = ""
    ports: dict[str, Port] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    network: str = ""
    locality: str = ""
    weight: Annotated[int, Meta(ge=0)] = 0
    service_account: str = ""


class ServiceEntrySpec(Fields, frozen=True):
    """A service that Kubernetes does not know."""

    hosts: tuple[str, ...]
    addresses: tuple[str, ...] = ()
    ports: tuple[EntryPort, ...] = ()
    location: Literal["MESH_EXTERNAL", "MESH_INTERNAL"] = "MESH_EXTERNAL"
    resolution: Literal["NONE", "STATIC", "DNS", "DNS_ROUND_ROBIN", "DYNAMIC_DNS"] = "NONE"
    endpoints: tuple[WorkloadEntrySpec, ...] = ()
    workload_selector: EntryWorkloadSelector | None = None
    export_to: tuple[str, ...] = ()
    subject_alt_names: tuple[str, ...] = ()


class EntryAddress(Fields, frozen=True):
    """An address that was given to a host."""

    value: str
    host: str = ""


class ServiceEntryStatus(Fields, frozen=True):
    """What became of an entry."""

    conditions: tuple[Condition, ...] = ()
    validation_messages: Raw = None
    addresses: tuple[EntryAddress, ...] = ()
    observed_generation: int | str | None = None
