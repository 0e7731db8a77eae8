"""AuthorizationPolicy to the policies that ztunnels evaluate.

Only layer 4 exists there. What a rule says about requests cannot be decided, so the rule is changed in the direction
that grants no more than its author wrote: an ALLOW rule with such a field is dropped whole (it allows nothing). A DENY
rule is enforced without the field, so it denies more; an alternative with no other field always matches, and a rule
with nothing else denies every connection. Both are told as findings, and so are values that nobody can ever match.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from controlplane.translate.finding import Condition, Finding
from controlplane.translate.policy_values import Value, namespace, principal, service_account
from controlplane.translate.settings import MeshSettings
from mesh.addresses import Cidr, parse_cidr
from mesh.model.policy import (
    Clause,
    Match,
    Policy,
    PolicyAction,
    PolicyScope,
    Rule,
    ServiceAccountMatch,
    StringMatch,
)
from resources.objects import AuthorizationPolicy, ObjectKey
from resources.security import AuthorizationRule, Operation, Source, When, WorkloadSelector

DRY_RUN_ANNOTATION = "istio.io/dry-run"

_SOURCE_LAYER_7 = {
    "request_principals": "requestPrincipals",
    "not_request_principals": "notRequestPrincipals",
    "remote_ip_blocks": "remoteIpBlocks",
    "not_remote_ip_blocks": "notRemoteIpBlocks",
    "trust_domains": "trustDomains",
    "not_trust_domains": "notTrustDomains",
}
_OPERATION_LAYER_7 = {
    "hosts": "hosts",
    "not_hosts": "notHosts",
    "methods": "methods",
    "not_methods": "notMethods",
    "paths": "paths",
    "not_paths": "notPaths",
}
_NO_FIELD = Match()
_EFFECT_OF_NOBODY = {
    # By whether the policy allows and whether the field is a ``not...`` one.
    (True, False): "admits nobody",
    (True, True): "keeps nobody out",
    (False, False): "denies nobody",
    (False, True): "spares nobody",
}


def translate_authorization_policy(
    source: AuthorizationPolicy, settings: MeshSettings
) -> tuple[Policy | None, tuple[Finding, ...]]:
    """One AuthorizationPolicy; None for those that are not for ztunnels (see ``layer7.authorization`` for targets)."""
    spec = source.spec
    if spec.targets:
        return None, ()
    if not enforced_by_ztunnels(source):
        message = f"the action {spec.action} needs a waypoint: name what it is for in targetRefs, not by a selector"
        return None, (Finding(source.key, Condition.NOT_APPLIED, message),)
    converter = _Converter(source.key, spec.action == "ALLOW", settings.trust_domain)
    rules = [converter.rule(rule, f"rules[{index}]") for index, rule in enumerate(spec.rules)]
    policy = Policy(
        name=source.metadata.name,
        namespace=source.metadata.namespace,
        scope=scope_of(spec.selector, source.metadata.namespace, settings),
        action=PolicyAction.ALLOW if spec.action == "ALLOW" else PolicyAction.DENY,
        rules=tuple(rule for rule in rules if rule is not None),
        dry_run=source.metadata.annotations.get(DRY_RUN_ANNOTATION, "").lower() == "true",
    )
    return policy, tuple(converter.findings)


def enforced_by_ztunnels(source: AuthorizationPolicy) -> bool:
    """Whether the policy becomes one of the mesh's policies at all."""
    spec = source.spec
    return not spec.targets and spec.action in ("ALLOW", "DENY")


def scope_of(selector: WorkloadSelector | None, namespace: str, settings: MeshSettings) -> PolicyScope:
    """Whom a policy is for; an empty selector is none."""
    if selector is not None and selector.match_labels:
        return PolicyScope.WORKLOAD_SELECTOR
    return PolicyScope.GLOBAL if namespace == settings.root_namespace else PolicyScope.NAMESPACE


def selects(
    selector: WorkloadSelector | None, policy_namespace: str, namespace: str, labels: dict[str, str], root: str
) -> bool:
    """Whether a policy with a selector is for a pod; one in the root namespace is for pods of every namespace."""
    if selector is None or not selector.match_labels:
        return False
    if policy_namespace not in (namespace, root):
        return False
    return all(labels.get(key) == value for key, value in selector.match_labels.items())


class _Converter:
    """Turns the rules of one policy, and notes what could not be."""

    def __init__(self, key: ObjectKey, allow: bool, trust_domain: str) -> None:
        self._key = key
        self._allow = allow
        self._trust_domain = trust_domain
        self._undecidable = False
        """Whether the rule at hand has a field that only a waypoint could decide."""
        self.findings: list[Finding] = []

    def rule(self, rule: AuthorizationRule, place: str) -> Rule | None:
        self._undecidable = False
        clauses: list[Clause] = []
        if rule.from_:
            matches = [self._source(one.source, f"{place}.from[{i}].source") for i, one in enumerate(rule.from_)]
            clauses.append(Clause(tuple(matches)))
        if rule.to:
            matches = [self._operation(one.operation, f"{place}.to[{i}].operation") for i, one in enumerate(rule.to)]
            clauses.append(Clause(tuple(matches)))
        for index, condition in enumerate(rule.when or ()):
            clauses.append(Clause((self._condition(condition, f"{place}.when[{index}]"),)))
        if not self._undecidable:
            return Rule(tuple(clauses))
        if self._allow:
            return None
        # On the wire an alternative without fields never matches; left out, its clause always does.
        kept = tuple(clause for clause in clauses if _NO_FIELD not in clause.matches)
        if not kept:
            self._tell(f"{place} denies every connection: without a waypoint nothing of it narrows what it denies")
        return Rule(kept)

    def _source(self, source: Source | None, place: str) -> Match:
        if source is None:
            return _NO_FIELD
        self._note_layer_7(source, _SOURCE_LAYER_7, place)
        return Match(
            namespaces=self._namespaces(source.namespaces, f"{place}.namespaces"),
            not_namespaces=self._namespaces(source.not_namespaces, f"{place}.notNamespaces", negative=True),
            principals=self._principals(source.principals, f"{place}.principals"),
            not_principals=self._principals(source.not_principals, f"{place}.notPrincipals", negative=True),
            source_ips=_networks(source.ip_blocks),
            not_source_ips=_networks(source.not_ip_blocks),
            service_accounts=self._accounts(source.service_accounts, f"{place}.serviceAccounts"),
            not_service_accounts=self._accounts(
                source.not_service_accounts, f"{place}.notServiceAccounts", negative=True
            ),
        )

    def _operation(self, operation: Operation | None, place: str) -> Match:
        if operation is None:
            return _NO_FIELD
        self._note_layer_7(operation, _OPERATION_LAYER_7, place)
        return Match(
            destination_ports=_ports(operation.ports), not_destination_ports=_ports(operation.not_ports)
        )

    def _condition(self, condition: When, place: str) -> Match:
        values, not_values = condition.values, condition.not_values
        positive, negative = f"{place}.values", f"{place}.notValues"
        match condition.key:
            case "source.ip":
                return Match(source_ips=_networks(values), not_source_ips=_networks(not_values))
            case "source.namespace":
                return Match(
                    namespaces=self._namespaces(values, positive),
                    not_namespaces=self._namespaces(not_values, negative, negative=True),
                )
            case "source.principal":
                return Match(
                    principals=self._principals(values, positive),
                    not_principals=self._principals(not_values, negative, negative=True),
                )
            case "destination.ip":
                return Match(destination_ips=_networks(values), not_destination_ips=_networks(not_values))
            case "destination.port":
                return Match(destination_ports=_ports(values), not_destination_ports=_ports(not_values))
        self._unsupported(f"{place}.key {condition.key[:64]!r}")
        return _NO_FIELD

    def _principals(
        self, values: Iterable[str] | None, place: str, *, negative: bool = False
    ) -> tuple[StringMatch, ...]:
        return self._texts(values, lambda text: principal(text, self._trust_domain), place, negative)

    def _namespaces(
        self, values: Iterable[str] | None, place: str, *, negative: bool = False
    ) -> tuple[StringMatch, ...]:
        return self._texts(values, namespace, place, negative)

    def _texts(
        self, values: Iterable[str] | None, read: Callable[[str], Value], place: str, negative: bool
    ) -> tuple[StringMatch, ...]:
        matches = []
        for index, text in enumerate(values or ()):
            match, never = read(text)
            self._note_nobody(never, f"{place}[{index}]", text, negative)
            matches.append(match)
        return tuple(matches)

    def _accounts(
        self, values: Iterable[str] | None, place: str, *, negative: bool = False
    ) -> tuple[ServiceAccountMatch, ...]:
        matches = []
        for index, text in enumerate(values or ()):
            match, never = service_account(text, self._key.namespace)
            self._note_nobody(never, f"{place}[{index}]", text, negative)
            matches.append(match)
        return tuple(matches)

    def _note_nobody(self, never: str, place: str, text: str, negative: bool) -> None:
        if never:
            self._tell(f"{place} {text[:128]!r} {_EFFECT_OF_NOBODY[self._allow, negative]}: {never}")

    def _note_layer_7(self, part: Source | Operation, names: dict[str, str], place: str) -> None:
        for name, spelt in names.items():
            if getattr(part, name):
                self._unsupported(f"{place}.{spelt}")

    def _unsupported(self, what: str) -> None:
        self._undecidable = True
        effect = "dropped and allows nothing" if self._allow else "enforced without it and denies more than it says"
        self._tell(f"{what} needs a waypoint: the rule is {effect}")

    def _tell(self, message: str) -> None:
        self.findings.append(Finding(self._key, Condition.UNSUPPORTED_VALUE, message))


def _networks(values: Iterable[str] | None) -> tuple[Cidr, ...]:
    return tuple(parse_cidr(value) for value in values or ())


def _ports(values: Iterable[str] | None) -> tuple[int, ...]:
    return tuple(int(value) for value in values or ())


