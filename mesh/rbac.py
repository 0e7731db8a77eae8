"""The authorization decision: may this connection reach this workload?

Asked at the destination, for plaintext (no source identity) and HBONE alike, when a connection opens and again whenever
something it depends on changes. The policies that speak about a workload are compiled once into a ``PolicySet``; a
decision then costs a few set look-ups.

Order of the decision:

1. an enforced DENY policy matches: denied by it;
2. a policy that the workload refers to is not known: denied, since nobody can tell what it would have said;
3. there is no enforced ALLOW policy: allowed;
4. an enforced ALLOW policy matches: allowed by it;
5. else denied: what is not allowed is denied once somebody has begun to allow.

Dry-run policies take no part in this; what they would have said is reported beside the decision.

Matching: a policy matches when any of its rules does (so one without rules never does); a rule when all of its clauses
do (so one without clauses always does); a clause when it has no matches or any of them does; a match when every field
it sets does. A field matches when any of its values does, a ``not_*`` field when none does. A match that sets no field
matches nothing.

A caller without identity has the empty namespace and no principal. Positive principals and service accounts therefore
never match it, negative ones always do: an ALLOW policy with nothing but ``not_principals`` admits plaintext, and the
DENY policy behind STRICT (``not_principals: presence``) refuses it by the same rule.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, TypeVar

from mesh.addresses import Cidr, IpBytes
from mesh.cidr import contained_in
from mesh.identity import SpiffeId
from mesh.model.policy import (
    Clause,
    Match,
    Policy,
    PolicyAction,
    Rule,
    ServiceAccountMatch,
    StringMatch,
    StringMatchKind,
)


class ConnectionFacts:
    """What a decision is made of. Not a dataclass: one is made for every connection, and theirs are not compiled."""

    __slots__ = ("destination_ip", "destination_port", "source_identity", "source_ip")

    def __init__(
        self, source_ip: IpBytes, source_identity: SpiffeId | None, destination_ip: IpBytes, destination_port: int
    ) -> None:
        self.source_ip: Final = source_ip
        """The tunnel's peer, or the plaintext caller; the waypoint's when it comes through one."""
        self.source_identity: Final = source_identity
        """As proved by the TLS handshake; None for plaintext."""
        self.destination_ip: Final = destination_ip
        self.destination_port: Final = destination_port
        """The application's own port, after target ports are resolved."""

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ConnectionFacts):
            return NotImplemented
        return (
            self.source_ip == other.source_ip
            and self.destination_port == other.destination_port
            and self.destination_ip == other.destination_ip
            and self.source_identity == other.source_identity
        )

    def __hash__(self) -> int:
        return hash((self.source_ip, self.source_identity, self.destination_ip, self.destination_port))


@dataclass(frozen=True, slots=True)
class DryRunReport:
    """What a policy that is not enforced would have matched."""

    policy: str
    action: PolicyAction
    matched: bool


@dataclass(frozen=True, slots=True)
class Allow:
    """The connection may go on."""

    policy: str | None
    """The ALLOW policy that matched; None when no ALLOW policy applies to the workload."""
    dry_run: tuple[DryRunReport, ...] = ()


@dataclass(frozen=True, slots=True)
class Deny:
    """The connection is refused."""

    policy: str | None
    """The DENY policy that matched, or the one that is missing; None when no ALLOW policy matched."""
    reason: str
    """For logs, in words."""
    dry_run: tuple[DryRunReport, ...] = ()


Decision = Allow | Deny


class _Subject:
    """The facts in the form that matchers compare."""

    __slots__ = ("account", "facts", "namespace", "principal")

    def __init__(self, facts: ConnectionFacts) -> None:
        self.facts = facts
        self.principal: str | None = None
        self.namespace = ""
        self.account: tuple[str, str] | None = None
        identity = facts.source_identity
        if identity is not None:
            self.principal = identity.principal
            self.namespace = identity.namespace
            self.account = (identity.namespace, identity.service_account)


_Matcher = Callable[[_Subject], bool]
Value = TypeVar("Value")


@dataclass(frozen=True, slots=True, eq=False)
class CompiledPolicy:
    """One policy, ready to be asked."""

    key: str
    action: PolicyAction
    dry_run: bool
    matches: _Matcher


@dataclass(frozen=True, slots=True, eq=False)
class PolicySet:
    """All that speaks about one workload. Immutable: another set is another object."""

    deny: tuple[CompiledPolicy, ...] = ()
    allow: tuple[CompiledPolicy, ...] = ()
    dry_run: tuple[CompiledPolicy, ...] = ()
    missing: tuple[str, ...] = ()
    """Names that the workload refers to and nobody knows."""

    @staticmethod
    def of(policies: Iterable[CompiledPolicy], missing: Iterable[str] = ()) -> PolicySet:
        """Sort compiled policies by what they do; the order of policies with one action does not change decisions."""
        policies = tuple(policies)
        enforced = tuple(policy for policy in policies if not policy.dry_run)
        return PolicySet(
            deny=tuple(policy for policy in enforced if policy.action is PolicyAction.DENY),
            allow=tuple(policy for policy in enforced if policy.action is PolicyAction.ALLOW),
            dry_run=tuple(policy for policy in policies if policy.dry_run),
            missing=tuple(missing),
        )


def decide(facts: ConnectionFacts, policies: PolicySet) -> Decision:
    """Decide about one connection. Never raises, costs a few microseconds."""
    subject = _Subject(facts)
    dry_run = tuple([DryRunReport(p.key, p.action, p.matches(subject)) for p in policies.dry_run])
    for policy in policies.deny:
        if policy.matches(subject):
            return Deny(policy.key, f"DENY policy {policy.key} matches", dry_run)
    if policies.missing:
        name = policies.missing[0]
        return Deny(name, f"policy {name} applies to this workload but has not been received", dry_run)
    if not policies.allow:
        return _allow(None, dry_run)
    for policy in policies.allow:
        if policy.matches(subject):
            return _allow(policy.key, dry_run)
    return Deny(None, f"none of the ALLOW policies matches ({_some_keys(policies.allow)})", dry_run)


def _allow(policy: str | None, dry_run: tuple[DryRunReport, ...]) -> Allow:
    return Allow(policy, dry_run) if dry_run else _mere_allow(policy)


@lru_cache(maxsize=4096)
def _mere_allow(policy: str | None) -> Allow:
    """The same for every connection; making one takes longer than finding it."""
    return Allow(policy)


def compile_policy(policy: Policy) -> CompiledPolicy:
    """Prepare a policy for ``decide``; done once per version of a policy."""
    rules = [_compile_rule(rule) for rule in policy.rules]
    return CompiledPolicy(policy.key, policy.action, policy.dry_run, _any_of(rules))


def _some_keys(policies: tuple[CompiledPolicy, ...]) -> str:
    names = ", ".join(policy.key for policy in policies[:3])
    return f"{names} and {len(policies) - 3} more" if len(policies) > 3 else names


# -- combining ---------------------------------------------------------------------------------------------------------


def _always(subject: _Subject) -> bool:
    return True


def _never(subject: _Subject) -> bool:
    return False


def _any_of(matchers: list[_Matcher]) -> _Matcher:
    if _always in matchers:
        return _always
    matchers = [matcher for matcher in matchers if matcher is not _never]
    if len(matchers) < 2:
        return matchers[0] if matchers else _never
    alternatives = tuple(matchers)

    def any_of(subject: _Subject) -> bool:
        for matcher in alternatives:  # noqa: SIM110 - any() with a generator costs twice as much, per connection
            if matcher(subject):
                return True
        return False

    return any_of


def _all_of(matchers: list[_Matcher]) -> _Matcher:
    if _never in matchers:
        return _never
    matchers = [matcher for matcher in matchers if matcher is not _always]
    if len(matchers) < 2:
        return matchers[0] if matchers else _always
    conditions = tuple(matchers)

    def all_of(subject: _Subject) -> bool:
        for matcher in conditions:  # noqa: SIM110 - as in any_of
            if not matcher(subject):
                return False
        return True

    return all_of


def _compile_rule(rule: Rule) -> _Matcher:
    return _all_of([_compile_clause(clause) for clause in rule.clauses])


def _compile_clause(clause: Clause) -> _Matcher:
    if not clause.matches:
        return _always
    return _any_of([_compile_match(match) for match in clause.matches])


def _compile_match(match: Match) -> _Matcher:
    fields = [
        *_field(match.namespaces, match.not_namespaces, _namespace_in),
        *_field(match.principals, match.not_principals, _principal_in),
        *_field(match.service_accounts, match.not_service_accounts, _account_in),
        *_field(match.source_ips, match.not_source_ips, _source_in),
        *_field(match.destination_ips, match.not_destination_ips, _destination_in),
        *_field(match.destination_ports, match.not_destination_ports, _port_in),
    ]
    return _all_of(fields) if fields else _never


def _field(
    values: tuple[Value, ...], negative: tuple[Value, ...], compile_field: Callable[[tuple[Value, ...]], _Matcher]
) -> list[_Matcher]:
    matchers = []
    if values:
        matchers.append(compile_field(values))
    if negative:
        matchers.append(_negated(compile_field(negative)))
    return matchers


def _negated(matcher: _Matcher) -> _Matcher:
    return lambda subject: not matcher(subject)


# -- fields ------------------------------------------------------------------------------------------------------------


def _split(
    values: tuple[StringMatch, ...],
) -> tuple[frozenset[str], tuple[str, ...], tuple[str, ...], bool]:
    """Exact values, prefixes, suffixes, and whether mere presence is enough."""
    of_kind: dict[StringMatchKind, list[str]] = {kind: [] for kind in StringMatchKind}
    for value in values:
        of_kind[value.kind].append(value.value)
    return (
        frozenset(of_kind[StringMatchKind.EXACT]),
        tuple(of_kind[StringMatchKind.PREFIX]),
        tuple(of_kind[StringMatchKind.SUFFIX]),
        bool(of_kind[StringMatchKind.PRESENCE]),
    )


def _namespace_in(values: tuple[StringMatch, ...]) -> _Matcher:
    exact, prefixes, suffixes, presence = _split(values)
    if not (prefixes or suffixes or presence):
        return lambda subject: subject.namespace in exact

    def namespace_in(subject: _Subject) -> bool:
        name = subject.namespace
        return (
            (presence and name != "")
            or name in exact
            or name.startswith(prefixes)
            or name.endswith(suffixes)
        )

    return namespace_in


def _principal_in(values: tuple[StringMatch, ...]) -> _Matcher:
    exact, prefixes, suffixes, presence = _split(values)
    if presence:
        return lambda subject: subject.principal is not None
    if not (prefixes or suffixes):
        return lambda subject: subject.principal in exact

    def principal_in(subject: _Subject) -> bool:
        name = subject.principal
        return name is not None and (name in exact or name.startswith(prefixes) or name.endswith(suffixes))

    return principal_in


def _account_in(values: tuple[ServiceAccountMatch, ...]) -> _Matcher:
    accounts = frozenset((value.namespace, value.service_account) for value in values)
    return lambda subject: subject.account in accounts


def _source_in(values: tuple[Cidr, ...]) -> _Matcher:
    contains = contained_in(values)
    return lambda subject: contains(int.from_bytes(subject.facts.source_ip, "big"))


def _destination_in(values: tuple[Cidr, ...]) -> _Matcher:
    contains = contained_in(values)
    return lambda subject: contains(int.from_bytes(subject.facts.destination_ip, "big"))


def _port_in(values: tuple[int, ...]) -> _Matcher:
    ports = frozenset(values)
    return lambda subject: subject.facts.destination_port in ports
