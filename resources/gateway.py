"""The parts of the Gateway API that say who is attached to whom: classes, gateways, references, grants, TLS to backends
(``gateway.networking.k8s.io``)."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, field

from resources.base import Condition, Fields, Port, Raw

GATEWAY_GROUP = "gateway.networking.k8s.io"

Weight = Annotated[int, Meta(ge=0, le=1_000_000)]


class GatewayClassSpec(Fields, frozen=True):
    """Who runs the gateways of a class."""

    controller_name: str
    parameters_ref: Raw = None
    description: str | None = None


class GatewayClassStatus(Fields, frozen=True):
    """What became of a class."""

    conditions: tuple[Condition, ...] = ()
    supported_features: Raw = None


class LabelSelectorRequirement(Fields, frozen=True):
    """One requirement on a label."""

    key: str
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist"]
    values: tuple[str, ...] = ()


class LabelSelector(Fields, frozen=True):
    """Requirements on labels, all of which must hold; without any it selects everything."""

    match_labels: dict[str, str] = field(default_factory=dict)
    match_expressions: tuple[LabelSelectorRequirement, ...] = ()

    def selects(self, labels: dict[str, str]) -> bool:
        """Whether something with these labels is selected."""
        return all(labels.get(key) == value for key, value in self.match_labels.items()) and all(
            _meets(labels, requirement) for requirement in self.match_expressions
        )


def _meets(labels: dict[str, str], requirement: LabelSelectorRequirement) -> bool:
    value = labels.get(requirement.key)
    match requirement.operator:
        case "In":
            return value in requirement.values
        case "NotIn":
            return value not in requirement.values
        case "Exists":
            return value is not None
    return value is None


class RouteNamespaces(Fields, frozen=True):
    """From which namespaces something may be attached."""

    from_: Literal["All", "Selector", "Same", "None"] = field(default="Same", name="from")
    selector: LabelSelector | None = None


class RouteGroupKind(Fields, frozen=True):
    """A kind of route."""

    kind: str
    group: str = GATEWAY_GROUP


class AllowedRoutes(Fields, frozen=True):
    """What may be attached to a listener."""

    namespaces: RouteNamespaces = RouteNamespaces()
    kinds: tuple[RouteGroupKind, ...] = ()


class Listener(Fields, frozen=True):
    """A port of a gateway; a waypoint's is named ``mesh``, of protocol ``HBONE``."""

    name: str
    port: Port
    protocol: str
    hostname: str | None = None
    tls: Raw = None
    allowed_routes: AllowedRoutes | None = None


class GatewaySpec(Fields, frozen=True):
    """What a gateway listens on."""

    gateway_class_name: str
    listeners: tuple[Listener, ...] = ()
    addresses: Raw = None
    infrastructure: Raw = None
    backend_tls: Raw = field(default=None, name="backendTLS")
    tls: Raw = None
    allowed_listeners: Raw = None
    default_scope: Raw = None


class GatewayStatusAddress(Fields, frozen=True):
    """Where a gateway is reached."""

    value: str = ""
    type: str = "IPAddress"


class GatewayStatus(Fields, frozen=True):
    """What became of a gateway."""

    addresses: tuple[GatewayStatusAddress, ...] = ()
    conditions: tuple[Condition, ...] = ()
    listeners: Raw = None
    attached_listener_sets: Raw = None


class ParentReference(Fields, frozen=True):
    """To whom a route is attached: a Service, a ServiceEntry, a Gateway."""

    name: str
    group: str = GATEWAY_GROUP
    kind: str = "Gateway"
    namespace: str | None = None
    section_name: str | None = None
    """A listener's or a Service port's name."""
    port: Port | None = None


class BackendReference(Fields, frozen=True):
    """A Service's port that requests go to."""

    name: str
    group: str = ""
    kind: str = "Service"
    namespace: str | None = None
    port: Port | None = None


class ReferenceGrantFrom(Fields, frozen=True):
    """Who may refer."""

    group: str
    kind: str
    namespace: str


class ReferenceGrantTo(Fields, frozen=True):
    """To what; without a name, to all of the kind."""

    group: str
    kind: str
    name: str | None = None


class ReferenceGrantSpec(Fields, frozen=True):
    """That objects of other namespaces may refer to some of this one."""

    from_: tuple[ReferenceGrantFrom, ...] = field(default=(), name="from")
    to: tuple[ReferenceGrantTo, ...] = ()


class LocalPolicyTarget(Fields, frozen=True):
    """An object of the policy's own namespace, or one section of it."""

    group: str
    kind: str
    name: str
    section_name: str | None = None


class LocalReference(Fields, frozen=True):
    """An object of the own namespace."""

    group: str
    kind: str
    name: str


class SubjectAltName(Fields, frozen=True):
    """A name that the backend's certificate may have."""

    type: Literal["Hostname", "URI"]
    hostname: str | None = None
    uri: str | None = None


class BackendTlsValidation(Fields, frozen=True):
    """How a backend's certificate is verified."""

    hostname: str
    ca_certificate_refs: tuple[LocalReference, ...] = field(default=(), name="caCertificateRefs")
    well_known_ca_certificates: str | None = field(default=None, name="wellKnownCACertificates")
    subject_alt_names: tuple[SubjectAltName, ...] = ()


class BackendTlsPolicySpec(Fields, frozen=True):
    """That backends are spoken to in TLS."""

    target_refs: tuple[LocalPolicyTarget, ...]
    validation: BackendTlsValidation
    options: Raw = None


class AncestorStatus(Fields, frozen=True):
    """What one controller made of a policy."""

    ancestors: Raw = None
