"""AuthorizationPolicy with targets to the policies that waypoints evaluate for each request.

All fields are decided there. What no waypoint can decide (a ``when.key`` that does not exist) changes the rule in the
direction that grants no more than its author wrote: an ALLOW rule is dropped, so it allows nothing; a DENY or CUSTOM
rule is kept without the condition, so it denies or asks more.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from controlplane.translate.finding import Finding
from controlplane.translate.layer7.attached import attachment_notes
from controlplane.translate.layer7.notes import Notes
from controlplane.translate.policies import DRY_RUN_ANNOTATION
from controlplane.translate.policy_values import namespace as namespace_value
from controlplane.translate.policy_values import principal as principal_value
from controlplane.translate.policy_values import service_account as account_value
from controlplane.translate.policy_values import string_match
from controlplane.translate.settings import MeshSettings
from controlplane.translate.tracking import View
from mesh.addresses import Cidr, parse_cidr
from mesh.identity import SCHEME
from mesh.model.http_route import TextMatch, TextMatchKind
from mesh.model.policy import StringMatchKind
from mesh.model.request_policy import (
    AddressAttribute,
    AddressCondition,
    Attribute,
    Condition,
    ExternalAuthorizer,
    PortCondition,
    RequestAction,
    RequestClause,
    RequestPolicy,
    RequestRule,
)
from resources.objects import AuthorizationPolicy
from resources.security import AuthorizationRule, Operation, Source, When

_ACTIONS = {action.name: action for action in RequestAction}
_KINDS = {
    StringMatchKind.EXACT: TextMatchKind.EXACT,
    StringMatchKind.PREFIX: TextMatchKind.PREFIX,
    StringMatchKind.SUFFIX: TextMatchKind.SUFFIX,
    StringMatchKind.PRESENCE: TextMatchKind.PRESENT,
}
_HEADER_KEY = re.compile(r"request\.headers\[([^\[\]]+)\]")
_CLAIM_KEY = re.compile(r"request\.auth\.claims((?:\[[^\[\]]+\])+)")
_PATH_TEMPLATE = re.compile(r"\{\*\*?\}")
_PSEUDO_HEADERS = {
    "host": Attribute.HOST,
    ":authority": Attribute.HOST,
    ":method": Attribute.METHOD,
    ":path": Attribute.PATH,
}
_SIMPLE_KEYS = {
    "source.namespace": Attribute.NAMESPACE,
    "source.principal": Attribute.PRINCIPAL,
    "source.serviceAccount": Attribute.SERVICE_ACCOUNT,
    "source.trustDomain": Attribute.TRUST_DOMAIN,
    "request.auth.principal": Attribute.REQUEST_PRINCIPAL,
    "request.auth.audiences": Attribute.AUDIENCE,
    "request.auth.presenter": Attribute.PRESENTER,
    "connection.sni": Attribute.SNI,
}
_ADDRESS_KEYS = {
    "source.ip": AddressAttribute.SOURCE,
    "remote.ip": AddressAttribute.REMOTE,
    "destination.ip": AddressAttribute.DESTINATION,
}
_Reader = Callable[[str], TextMatch]


def request_policy(
    source: AuthorizationPolicy, settings: MeshSettings
) -> tuple[RequestPolicy, ExternalAuthorizer | None, Notes]:
    """One policy, the authorizer it asks, and what of it has no effect."""
    spec = source.spec
    notes = Notes(source.key)
    action = _ACTIONS[spec.action]
    converter = _Converter(notes, action, settings.trust_domain)
    rules = [converter.rule(rule, f"rules[{index}]") for index, rule in enumerate(spec.rules)]
    authorizer = None
    if action is RequestAction.CUSTOM:
        name = spec.provider.name if spec.provider else ""
        authorizer = next((one for one in settings.authorizers if one.name == name), None)
        if authorizer is None:
            notes.unsupported(
                f"provider {name[:64]!r} is not configured for the operator: what would be asked of it is denied"
            )
            action = RequestAction.DENY
    policy = RequestPolicy(
        key=f"{source.metadata.namespace}/{source.metadata.name}",
        action=action,
        rules=tuple(rule for rule in rules if rule is not None),
        authorizer=authorizer.name if authorizer else None,
        dry_run=is_dry_run(source),
    )
    return policy, authorizer, notes


def is_dry_run(source: AuthorizationPolicy) -> bool:
    """Whether a policy is tried out only."""
    return source.metadata.annotations.get(DRY_RUN_ANNOTATION, "").lower() == "true"


def authorization_findings(view: View, source: AuthorizationPolicy) -> tuple[Finding, ...]:
    """What of a policy with targets has no effect."""
    _, _, notes = request_policy(source, view.settings)
    attachment_notes(view, notes, source.spec.targets, "this policy is NOT enforced")
    return tuple(notes.findings)


class _Converter:
    """Turns the rules of one policy, and notes what could not be."""

    def __init__(self, notes: Notes, action: RequestAction, trust_domain: str) -> None:
        self._notes = notes
        self._action = action
        self._trust_domain = trust_domain
        self._undecidable = False

    def rule(self, rule: AuthorizationRule, place: str) -> RequestRule | None:
        """One rule; None for one that must not grant anything."""
        self._undecidable = False
        parts: list[tuple[RequestClause, ...]] = []
        if rule.from_ is not None:
            parts.append(
                tuple(self._source(one.source, f"{place}.from[{index}].source") for index, one in enumerate(rule.from_))
            )
        if rule.to is not None:
            parts.append(tuple(self._operation(one.operation) for one in rule.to))
        for index, condition in enumerate(rule.when or ()):
            clause = self._when(condition, f"{place}.when[{index}]")
            if clause is not None:
                parts.append((clause,))
        if self._undecidable and self._action in (RequestAction.ALLOW, RequestAction.AUDIT):
            return None
        return RequestRule(tuple(parts))

    def _source(self, source: Source | None, place: str) -> RequestClause:
        if source is None:
            return RequestClause()
        self._note_nobody(source.principals, lambda text: principal_value(text, self._trust_domain).never, place)
        self._note_nobody(source.not_principals, lambda text: principal_value(text, self._trust_domain).never, place)
        self._note_nobody(source.namespaces, lambda text: namespace_value(text).never, place)
        self._note_nobody(source.not_namespaces, lambda text: namespace_value(text).never, place)
        return RequestClause(
            conditions=(
                *_pair(Attribute.PRINCIPAL, source.principals, source.not_principals, _principal),
                *_pair(Attribute.NAMESPACE, source.namespaces, source.not_namespaces),
                *_pair(
                    Attribute.SERVICE_ACCOUNT, source.service_accounts, source.not_service_accounts, self._account
                ),
                *_pair(Attribute.REQUEST_PRINCIPAL, source.request_principals, source.not_request_principals),
                *_pair(Attribute.TRUST_DOMAIN, source.trust_domains, source.not_trust_domains),
            ),
            addresses=(
                *_addresses(AddressAttribute.SOURCE, source.ip_blocks, source.not_ip_blocks),
                *_addresses(AddressAttribute.REMOTE, source.remote_ip_blocks, source.not_remote_ip_blocks),
            ),
        )

    def _operation(self, operation: Operation | None) -> RequestClause:
        if operation is None:
            return RequestClause()
        return RequestClause(
            conditions=(
                *_pair(Attribute.HOST, operation.hosts, operation.not_hosts, _host),
                *_pair(Attribute.METHOD, operation.methods, operation.not_methods),
                *_pair(Attribute.PATH, operation.paths, operation.not_paths, _path),
            ),
            ports=_ports(operation.ports, operation.not_ports),
        )

    def _when(self, condition: When, place: str) -> RequestClause | None:
        key, values, excluded = condition.key, condition.values, condition.not_values
        if (attribute := _SIMPLE_KEYS.get(key)) is not None:
            reader = {Attribute.PRINCIPAL: _principal, Attribute.SERVICE_ACCOUNT: self._account}.get(attribute, _text)
            return RequestClause(conditions=_pair(attribute, values, excluded, reader))
        if (address := _ADDRESS_KEYS.get(key)) is not None:
            return RequestClause(addresses=_addresses(address, values, excluded))
        if key == "destination.port":
            return RequestClause(ports=_ports(values, excluded))
        if (header := _HEADER_KEY.fullmatch(key)) is not None:
            name = header[1].lower()
            if name in _PSEUDO_HEADERS:
                return RequestClause(conditions=_pair(_PSEUDO_HEADERS[name], values, excluded))
            return RequestClause(conditions=_pair(Attribute.HEADER, values, excluded, name=name))
        if (claim := _CLAIM_KEY.fullmatch(key)) is not None:
            name = ".".join(claim[1][1:-1].split("]["))
            return RequestClause(conditions=_pair(Attribute.CLAIM, values, excluded, name=name))
        self._undecidable = True
        effect = {
            RequestAction.ALLOW: "dropped and allows nothing",
            RequestAction.AUDIT: "dropped",
            RequestAction.DENY: "enforced without it and denies more than it says",
            RequestAction.CUSTOM: "applied without it and asks more often than it says",
        }[self._action]
        self._notes.unsupported(f"{place}.key {key[:64]!r} is not known: the rule is {effect}")
        return None

    def _account(self, text: str) -> TextMatch:
        match, _ = account_value(text, self._notes.key.namespace)
        return TextMatch(TextMatchKind.EXACT, f"{match.namespace}/{match.service_account}")

    def _note_nobody(self, values: Iterable[str] | None, never: Callable[[str], str], place: str) -> None:
        for text in values or ():
            if reason := never(text):
                self._notes.unsupported(f"{place}: {text[:128]!r} matches nobody: {reason}")


def _text(text: str) -> TextMatch:
    """Read as ztunnels' policies are."""
    match = string_match(text)
    return TextMatch(_KINDS[match.kind], match.value)


def _principal(text: str) -> TextMatch:
    return _text(text.removeprefix(SCHEME))


def _host(text: str) -> TextMatch:
    """Hosts are compared without regard to case (RFC 9110 section 4.2.3)."""
    match = _text(text)
    return TextMatch(match.kind, match.value, ignore_case=True)


def _path(text: str) -> TextMatch:
    """As any text; ``{*}`` stands for one segment of a path, ``{**}`` for any number of them."""
    if not _PATH_TEMPLATE.search(text):
        return _text(text)
    pattern, end = "", 0
    for found in _PATH_TEMPLATE.finditer(text):
        pattern += re.escape(text[end : found.start()]) + ("[^/]+" if found[0] == "{*}" else ".*")
        end = found.end()
    return TextMatch(TextMatchKind.REGEX, pattern + re.escape(text[end:]))


def _pair(
    attribute: Attribute,
    values: Iterable[str] | None,
    excluded: Iterable[str] | None,
    read: _Reader = _text,
    name: str = "",
) -> tuple[Condition, ...]:
    return tuple(
        Condition(attribute=attribute, values=tuple(read(text) for text in texts), name=name, inverted=inverted)
        for texts, inverted in ((values, False), (excluded, True))
        if texts
    )


def _addresses(
    attribute: AddressAttribute, values: Iterable[str] | None, excluded: Iterable[str] | None
) -> tuple[AddressCondition, ...]:
    return tuple(
        AddressCondition(attribute=attribute, networks=_networks(texts), inverted=inverted)
        for texts, inverted in ((values, False), (excluded, True))
        if texts
    )


def _networks(texts: Iterable[str]) -> tuple[Cidr, ...]:
    return tuple(parse_cidr(text) for text in texts)


def _ports(values: Iterable[str] | None, excluded: Iterable[str] | None) -> tuple[PortCondition, ...]:
    return tuple(
        PortCondition(ports=tuple(int(text) for text in texts), inverted=inverted)
        for texts, inverted in ((values, False), (excluded, True))
        if texts
    )
