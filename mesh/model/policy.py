"""Authorization policies as the data plane evaluates them (``istio.security.Authorization``).

A rule matches when every clause matches; a clause when any of its matches does; a match when every field it sets does.
The decision itself is ``mesh.rbac``.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from mesh.addresses import Cidr


class PolicyScope(enum.IntEnum):
    """Which workloads a policy speaks about."""

    GLOBAL = 0
    NAMESPACE = 1
    WORKLOAD_SELECTOR = 2


class PolicyAction(enum.IntEnum):
    """What a match means."""

    ALLOW = 0
    DENY = 1


class StringMatchKind(enum.IntEnum):
    """How a string is compared."""

    EXACT = 1
    PREFIX = 2
    SUFFIX = 3
    PRESENCE = 4


@dataclass(frozen=True, slots=True)
class StringMatch:
    """One comparison; ``value`` is empty for PRESENCE."""

    kind: StringMatchKind
    value: str = ""


@dataclass(frozen=True, slots=True)
class ServiceAccountMatch:
    """A service account of a namespace."""

    namespace: str
    service_account: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """Fields AND, values of a field OR, ``not_*`` fields must match none of their values."""

    namespaces: tuple[StringMatch, ...] = ()
    not_namespaces: tuple[StringMatch, ...] = ()
    principals: tuple[StringMatch, ...] = ()
    not_principals: tuple[StringMatch, ...] = ()
    source_ips: tuple[Cidr, ...] = ()
    not_source_ips: tuple[Cidr, ...] = ()
    destination_ips: tuple[Cidr, ...] = ()
    not_destination_ips: tuple[Cidr, ...] = ()
    destination_ports: tuple[int, ...] = ()
    not_destination_ports: tuple[int, ...] = ()
    service_accounts: tuple[ServiceAccountMatch, ...] = ()
    not_service_accounts: tuple[ServiceAccountMatch, ...] = ()


@dataclass(frozen=True, slots=True)
class Clause:
    """Matches are alternatives."""

    matches: tuple[Match, ...] = ()


@dataclass(frozen=True, slots=True)
class Rule:
    """Clauses must all match."""

    clauses: tuple[Clause, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """One policy."""

    name: str
    namespace: str

    scope: PolicyScope
    action: PolicyAction
    rules: tuple[Rule, ...] = ()
    dry_run: bool = False

    @property
    def key(self) -> str:
        """``namespace/name``: the xDS resource name."""
        return f"{self.namespace}/{self.name}"
