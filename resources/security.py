"""The parts of AuthorizationPolicy and PeerAuthentication (``security.istio.io/v1``)."""

from __future__ import annotations

from typing import Literal

from msgspec import field

from resources.base import Condition, Fields, Raw

Mode = Literal["UNSET", "DISABLE", "PERMISSIVE", "STRICT"]


class WorkloadSelector(Fields, frozen=True):
    """The labels a pod must have, all of them."""

    match_labels: dict[str, str] = field(default_factory=dict)


class TargetReference(Fields, frozen=True):
    """The Gateway or Service a policy is attached to."""

    kind: str
    name: str
    group: str = ""
    namespace: str | None = None


class Source(Fields, frozen=True):
    """Who calls: fields AND, values of a field OR. ``None`` is absent, an empty list is refused at decoding."""

    principals: tuple[str, ...] | None = None
    not_principals: tuple[str, ...] | None = None
    request_principals: tuple[str, ...] | None = None
    not_request_principals: tuple[str, ...] | None = None
    namespaces: tuple[str, ...] | None = None
    not_namespaces: tuple[str, ...] | None = None
    service_accounts: tuple[str, ...] | None = None
    not_service_accounts: tuple[str, ...] | None = None
    ip_blocks: tuple[str, ...] | None = None
    not_ip_blocks: tuple[str, ...] | None = None
    remote_ip_blocks: tuple[str, ...] | None = None
    not_remote_ip_blocks: tuple[str, ...] | None = None
    trust_domains: tuple[str, ...] | None = None
    not_trust_domains: tuple[str, ...] | None = None


class Operation(Fields, frozen=True):
    """What is called."""

    hosts: tuple[str, ...] | None = None
    not_hosts: tuple[str, ...] | None = None
    ports: tuple[str, ...] | None = None
    not_ports: tuple[str, ...] | None = None
    methods: tuple[str, ...] | None = None
    not_methods: tuple[str, ...] | None = None
    paths: tuple[str, ...] | None = None
    not_paths: tuple[str, ...] | None = None


class From(Fields, frozen=True):
    """One alternative of a rule's callers."""

    source: Source | None = None


class To(Fields, frozen=True):
    """One alternative of a rule's operations."""

    operation: Operation | None = None


class When(Fields, frozen=True):
    """A further condition: an attribute's values."""

    key: str
    values: tuple[str, ...] | None = None
    not_values: tuple[str, ...] | None = None


class AuthorizationRule(Fields, frozen=True):
    """Matches when one of ``from``, one of ``to`` and all of ``when`` do; an absent one always does."""

    from_: tuple[From, ...] | None = field(default=None, name="from")
    to: tuple[To, ...] | None = None
    when: tuple[When, ...] | None = None


class ExtensionProvider(Fields, frozen=True):
    """The external authorizer of a CUSTOM policy, by name."""

    name: str = ""


class AuthorizationPolicySpec(Fields, frozen=True):
    """Rules, an action and the workloads or targets it is for."""

    selector: WorkloadSelector | None = None
    target_ref: TargetReference | None = None
    target_refs: tuple[TargetReference, ...] = ()
    rules: tuple[AuthorizationRule, ...] = ()
    action: Literal["ALLOW", "DENY", "AUDIT", "CUSTOM"] = "ALLOW"
    provider: ExtensionProvider | None = None

    @property
    def targets(self) -> tuple[TargetReference, ...]:
        """What the policy is attached to."""
        return _targets(self.target_ref, self.target_refs)


class MutualTls(Fields, frozen=True):
    """Whether callers must prove an identity."""

    mode: Mode = "UNSET"


class PeerAuthenticationSpec(Fields, frozen=True):
    """The mode of a mesh, a namespace or selected workloads, and of single ports."""

    selector: WorkloadSelector | None = None
    mtls: MutualTls | None = None
    port_level_mtls: dict[str, MutualTls] = field(default_factory=dict)
    """By the workload's own port number, written as text (a JSON object has text keys)."""


class JwtHeader(Fields, frozen=True):
    """A header that holds a token, after a prefix."""

    name: str
    prefix: str = ""


class ClaimToHeader(Fields, frozen=True):
    """A claim that is handed on as a header."""

    header: str
    claim: str


class JwtRule(Fields, frozen=True):
    """One issuer whose tokens are accepted."""

    issuer: str
    audiences: tuple[str, ...] = ()
    jwks_uri: str = ""
    jwks: str = ""
    from_headers: tuple[JwtHeader, ...] = ()
    from_params: tuple[str, ...] = ()
    from_cookies: tuple[str, ...] = ()
    output_payload_to_header: str = ""
    forward_original_token: bool = False
    output_claim_to_headers: tuple[ClaimToHeader, ...] = ()
    timeout: str | None = None
    space_delimited_claims: tuple[str, ...] = ()


class RequestAuthenticationSpec(Fields, frozen=True):
    """Whose tokens are accepted, and where."""

    selector: WorkloadSelector | None = None
    target_ref: TargetReference | None = None
    target_refs: tuple[TargetReference, ...] = ()
    jwt_rules: tuple[JwtRule, ...] = ()

    @property
    def targets(self) -> tuple[TargetReference, ...]:
        """What the policy is attached to."""
        return _targets(self.target_ref, self.target_refs)


def _targets(one: TargetReference | None, several: tuple[TargetReference, ...]) -> tuple[TargetReference, ...]:
    return several if one is None else (one, *several)


class PolicyStatus(Fields, frozen=True):
    """What became of a policy."""

    conditions: tuple[Condition, ...] = ()
    validation_messages: Raw = None
    observed_generation: int | str | None = None
