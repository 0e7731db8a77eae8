"""Policies, compiled, and the set of them that speaks about a workload.

A set is made when it is first asked for and kept until a policy of its namespace, a global one, or one it names by
reference changes. Two workloads with the same namespace and references share one set.
"""

from __future__ import annotations

from collections.abc import Mapping

from mesh.model.policy import Policy, PolicyScope
from mesh.model.workload import Workload
from mesh.rbac import CompiledPolicy, PolicySet, compile_policy

_SetKey = tuple[str, tuple[str, ...]]


class PolicyIndex:
    """All policies received."""

    def __init__(self) -> None:
        self._policies: dict[str, Policy] = {}
        self._compiled: dict[str, CompiledPolicy] = {}
        # Keys in order of arrival; global ones stand under None.
        self._by_namespace: dict[str | None, dict[str, None]] = {}
        self._sets: dict[_SetKey, PolicySet] = {}

    @property
    def by_key(self) -> Mapping[str, Policy]:
        """All of them, to read."""
        return self._policies

    def put(self, policy: Policy) -> Policy | None:
        """Add or replace; the former version, if any."""
        former = self.remove(policy.key)
        self._policies[policy.key] = policy
        self._compiled[policy.key] = compile_policy(policy)
        if policy.scope is not PolicyScope.WORKLOAD_SELECTOR:
            self._by_namespace.setdefault(_group(policy), {})[policy.key] = None
        self._forget_sets(policy)
        return former

    def remove(self, key: str) -> Policy | None:
        """Take one out; what it was."""
        former = self._policies.pop(key, None)
        if former is None:
            return None
        del self._compiled[key]
        if former.scope is not PolicyScope.WORKLOAD_SELECTOR:
            group = self._by_namespace[_group(former)]
            del group[key]
            if not group:
                del self._by_namespace[_group(former)]
        self._forget_sets(former)
        return former

    def set_for(self, workload: Workload) -> PolicySet:
        """What speaks about a workload; the same object until something relevant changes."""
        key = (workload.namespace, workload.authorization_policies)
        policies = self._sets.get(key)
        if policies is None:
            policies = self._sets[key] = self._collect(*key)
        return policies

    def _collect(self, namespace: str, references: tuple[str, ...]) -> PolicySet:
        keys = {**self._by_namespace.get(None, {}), **self._by_namespace.get(namespace, {})}
        keys |= dict.fromkeys(references)
        compiled = [self._compiled[key] for key in keys if key in self._compiled]
        return PolicySet.of(compiled, [key for key in references if key not in self._compiled])

    def _forget_sets(self, policy: Policy) -> None:
        if policy.scope is PolicyScope.GLOBAL:
            self._sets.clear()
            return
        in_namespace = policy.namespace if policy.scope is PolicyScope.NAMESPACE else None
        key = policy.key
        for stale in [made for made in self._sets if made[0] == in_namespace or key in made[1]]:
            del self._sets[stale]


def _group(policy: Policy) -> str | None:
    return None if policy.scope is PolicyScope.GLOBAL else policy.namespace
