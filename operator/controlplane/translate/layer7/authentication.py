"""RequestAuthentication: whose tokens waypoints verify."""

from __future__ import annotations

import re
from dataclasses import replace

from controlplane.translate.finding import Finding
from controlplane.translate.layer7.attached import attachment_notes
from controlplane.translate.layer7.durations import seconds
from controlplane.translate.layer7.notes import Notes
from controlplane.translate.tracking import View
from mesh.model.request_policy import JwtRule, RequestAuthentication, TokenSource
from resources import objects
from resources import security as fields

_DURATION = re.compile(r"([0-9]+(\.[0-9]+)?(h|m|s|ms|us|ns))+")
_DEFAULT_TIMEOUT_SECONDS = 5.0


def request_authentication(source: objects.RequestAuthentication) -> RequestAuthentication:
    """One RequestAuthentication."""
    key = f"{source.metadata.namespace}/{source.metadata.name}"
    return RequestAuthentication(key=key, rules=tuple(_rule(rule) for rule in source.spec.jwt_rules))


def authentication_findings(view: View, source: objects.RequestAuthentication) -> tuple[Finding, ...]:
    """What of a RequestAuthentication has no effect."""
    notes = Notes(source.key)
    effect = "tokens are NOT verified"
    if not source.spec.targets:
        notes.not_applied(f"only waypoints verify tokens: name a Service or a waypoint in targetRefs; {effect}")
    attachment_notes(view, notes, source.spec.targets, effect)
    for index, rule in enumerate(source.spec.jwt_rules):
        if rule.space_delimited_claims:
            notes.unsupported(f"jwtRules[{index}].spaceDelimitedClaims has no effect: only 'scope' is cut at spaces")
        if rule.timeout is not None and not _DURATION.fullmatch(rule.timeout):
            notes.unsupported(f"jwtRules[{index}].timeout {rule.timeout[:32]!r} is no duration: 5s is used")
    return tuple(notes.findings)


def _rule(rule: fields.JwtRule) -> JwtRule:
    sources = [TokenSource(header=header.name.lower(), prefix=header.prefix) for header in rule.from_headers]
    sources += [TokenSource(header=None, query=name) for name in rule.from_params]
    sources += [TokenSource(header=None, cookie=name) for name in rule.from_cookies]
    timeout = _DEFAULT_TIMEOUT_SECONDS
    if rule.timeout is not None and _DURATION.fullmatch(rule.timeout):
        timeout = seconds(rule.timeout) or timeout
    result = JwtRule(
        issuer=rule.issuer,
        audiences=rule.audiences,
        jwks_uri=rule.jwks_uri or None,
        jwks=rule.jwks or None,
        claims_to_headers=tuple((one.claim, one.header.lower()) for one in rule.output_claim_to_headers),
        output_payload_header=rule.output_payload_to_header.lower() or None,
        forward_token=rule.forward_original_token,
        timeout_seconds=timeout,
    )
    return replace(result, sources=tuple(sources)) if sources else result
