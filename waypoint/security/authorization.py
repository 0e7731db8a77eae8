"""The authorization decision about a request.

In order, after JWTs have been verified:

1. CUSTOM policies: whoever they name is asked about a request that matches; without consent it is refused;
2. DENY: any match refuses;
3. ALLOW: if there is any such policy, one must match.

AUDIT policies and those of a dry run take no part; what they would have said is reported beside the decision.

A policy matches when any of its rules does (without rules never); a rule when each of its parts is met; a part when any
of its alternatives holds (a part without alternatives asks for nothing); an alternative when all of its conditions do.

A rule that cannot be compiled, because an expression is none, must not open what somebody meant to close: of an ALLOW
policy it never matches, of a DENY or CUSTOM policy always. The reason stands in ``problems``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from mesh.errors import ConfigurationError
from mesh.model.request_policy import ExternalAuthorizer, RequestAction, RequestClause, RequestPolicy, RequestRule
from waypoint.security.conditions import SubjectTest, compile_addresses, compile_condition, compile_ports
from waypoint.security.subject import Subject


@dataclass(frozen=True, slots=True)
class PolicyReport:
    """What a policy said that decides nothing: AUDIT, or a dry run."""

    policy: str
    action: RequestAction
    dry_run: bool
    matched: bool


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a request."""

    allowed: bool
    policy: str | None
    """Which policy decided; None if none matched."""
    details: str
    """For the access log, in one word."""
    reports: tuple[PolicyReport, ...] = ()


class _Policy:
    __slots__ = ("allow", "authorizer", "deny", "matches", "policy")

    def __init__(self, policy: RequestPolicy, authorizer: ExternalAuthorizer | None, problems: list[str]) -> None:
        self.policy = policy
        self.authorizer = authorizer
        self.matches = _compile(policy, problems)
        # Made once: a decision hands one of them out.
        self.allow = Verdict(True, policy.key, "")
        self.deny = Verdict(False, policy.key, f"rbac_access_denied_matched_policy[{policy.key}]")


_ALLOWED: Final = Verdict(True, None, "")
_NOT_ALLOWED: Final = Verdict(False, None, "rbac_access_denied_matched_policy[none]")


class PolicyTable:
    """A destination's policies, compiled. Immutable."""

    __slots__ = ("_allow", "_custom", "_deny", "_reported", "empty", "problems")

    def __init__(self, policies: Iterable[RequestPolicy], authorizers: Iterable[ExternalAuthorizer] = ()) -> None:
        """Compile; never fails as a whole.

        Args:
            policies: of one destination.
            authorizers: whom CUSTOM policies may name.
        """
        problems: list[str] = []
        by_name = {authorizer.name: authorizer for authorizer in authorizers}
        compiled = [_Policy(policy, by_name.get(policy.authorizer or ""), problems) for policy in policies]
        enforced = [policy for policy in compiled if not policy.policy.dry_run]
        self._custom = _of(enforced, RequestAction.CUSTOM)
        self._deny = _of(enforced, RequestAction.DENY)
        self._allow = _of(enforced, RequestAction.ALLOW)
        self._reported = tuple(
            policy for policy in compiled if policy.policy.dry_run or policy.policy.action is RequestAction.AUDIT
        )
        self.empty = not compiled
        """Nothing is to be decided; callers need not even make a ``Subject``."""
        problems += [
            f"policy {policy.policy.key} names the authorizer {policy.policy.authorizer!r}, which is not configured: "
            "what it matches is refused"
            for policy in self._custom
            if policy.authorizer is None
        ]
        self.problems = tuple(problems)
        """What is wrong with policies, for the log."""

    @property
    def asks(self) -> bool:
        """Whether there are CUSTOM policies at all."""
        return bool(self._custom)

    def to_ask(self, subject: Subject) -> list[ExternalAuthorizer] | Verdict:
        """Who must consent to a request, each once; a refusal, if one of them is not configured."""
        wanted: list[ExternalAuthorizer] = []
        for policy in self._custom:
            if policy.matches(subject):
                if policy.authorizer is None:
                    return policy.deny
                if policy.authorizer not in wanted:
                    wanted.append(policy.authorizer)
        return wanted

    def decide(self, subject: Subject) -> Verdict:
        """DENY, then ALLOW, and reports. Never raises."""
        verdict = self._decide(subject)
        if not self._reported:
            return verdict
        reports = [
            PolicyReport(policy.policy.key, policy.policy.action, policy.policy.dry_run, policy.matches(subject))
            for policy in self._reported
        ]
        return Verdict(verdict.allowed, verdict.policy, verdict.details, tuple(reports))

    def _decide(self, subject: Subject) -> Verdict:
        for policy in self._deny:
            if policy.matches(subject):
                return policy.deny
        if not self._allow:
            return _ALLOWED
        for policy in self._allow:
            if policy.matches(subject):
                return policy.allow
        return _NOT_ALLOWED


def _of(policies: list[_Policy], action: RequestAction) -> tuple[_Policy, ...]:
    return tuple(policy for policy in policies if policy.policy.action is action)


def _always(subject: Subject) -> bool:
    return True


def _never(subject: Subject) -> bool:
    return False


def _compile(policy: RequestPolicy, problems: list[str]) -> SubjectTest:
    refusing = policy.action in (RequestAction.DENY, RequestAction.CUSTOM)
    rules = []
    for rule in policy.rules:
        try:
            rules.append(_rule(rule, refusing))
        except ConfigurationError as error:
            problems.append(
                f"policy {policy.key}: a rule cannot be read and {'always' if refusing else 'never'} matches: {error}"
            )
            rules.append(_always if refusing else _never)
    return _any_of(rules)


def _rule(rule: RequestRule, refusing: bool) -> SubjectTest:
    return _all_of([_any_of([_clause(clause, refusing) for clause in part]) for part in rule.parts if part])


def _clause(clause: RequestClause, refusing: bool) -> SubjectTest:
    # Cheap ones first: most requests fail one of these.
    tests = [compile_ports(condition) for condition in clause.ports]
    tests += [compile_condition(condition, refusing=refusing) for condition in clause.conditions]
    tests += [compile_addresses(condition) for condition in clause.addresses]
    return _all_of(tests)


def _any_of(tests: list[SubjectTest]) -> SubjectTest:
    if len(tests) < 2:
        return tests[0] if tests else _never
    alternatives = tuple(tests)

    def any_of(subject: Subject) -> bool:
        for test in alternatives:  # noqa: SIM110 - a generator costs twice as much, per request
            if test(subject):
                return True
        return False

    return any_of


def _all_of(tests: list[SubjectTest]) -> SubjectTest:
    if len(tests) < 2:
        return tests[0] if tests else _always
    conditions = tuple(tests)

    def all_of(subject: Subject) -> bool:
        for test in conditions:  # noqa: SIM110 - as in any_of
            if not test(subject):
                return False
        return True

    return all_of
