"""What the mesh's components must be allowed to do in a cluster: the one list, from which roles are written."""

from __future__ import annotations

from dataclasses import dataclass

from resources.kube.kinds import API_KINDS, CREDENTIALS

ROOT_SECRET = "ambimesh-root"  # noqa: S105 -- an object's name
GIVEN_ROOT_SECRET = "ambimesh-root-given"  # noqa: S105
KEPT_ROOT_SECRET = f"{GIVEN_ROOT_SECRET}-kept"
TRUST_BUNDLE = "ambimesh-root-cert"
LEASE = "ambimesh-operator"
_READ = ("get", "list", "watch")


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule of a role."""

    group: str
    resources: tuple[str, ...]
    verbs: tuple[str, ...]
    names: tuple[str, ...] = ()
    """Only these objects; empty: all."""


def _reading() -> tuple[Rule, ...]:
    groups: dict[str, list[str]] = {}
    for kind in API_KINDS.values():
        if kind.name == CREDENTIALS:
            continue
        groups.setdefault(kind.group, []).append(kind.plural)
    return tuple(Rule(group, tuple(sorted(plurals)), _READ) for group, plurals in sorted(groups.items()))


_EVENTS = Rule("events.k8s.io", ("events",), ("create", "get", "patch"))

OPERATOR_CLUSTER: tuple[Rule, ...] = (
    *_reading(),
    # What became of objects.
    Rule("", ("services/status",), ("patch",)),
    Rule(
        "gateway.networking.k8s.io",
        (
            "gatewayclasses/status", "gateways/status", "httproutes/status", "grpcroutes/status", "tcproutes/status",
            "tlsroutes/status", "backendtlspolicies/status",
        ),
        ("patch",),
    ),
    Rule(
        "security.istio.io",
        ("authorizationpolicies/status", "peerauthentications/status", "requestauthentications/status"),
        ("patch",),
    ),
    Rule(
        "networking.istio.io",
        ("virtualservices/status", "destinationrules/status", "serviceentries/status", "workloadentries/status"),
        ("patch",),
    ),
    Rule("telemetry.istio.io", ("telemetries/status",), ("patch",)),
    # Waypoints.
    Rule("", ("serviceaccounts", "services"), ("create", "patch", "delete")),
    Rule("apps", ("deployments",), ("create", "patch", "delete")),
    Rule("autoscaling", ("horizontalpodautoscalers",), ("create", "patch", "delete")),
    Rule("policy", ("poddisruptionbudgets",), ("create", "patch", "delete")),
    # What happened to them.
    _EVENTS,
    # The taint of nodes whose agent was not ready, taken away. Rights to a node's taints alone there are not.
    Rule("", ("nodes",), ("patch",)),
    # Who calls.
    Rule("authentication.k8s.io", ("tokenreviews",), ("create",)),
    # The root certificates, in every enrolled namespace. Apply creates by patch, which needs both rights.
    Rule("", ("configmaps",), ("create",)),
    Rule("", ("configmaps",), ("get", "patch", "delete"), (TRUST_BUNDLE,)),
)  # fmt: skip
"""Of the operator, everywhere (a ClusterRole)."""

OPERATOR_CREDENTIALS: tuple[Rule, ...] = (Rule("", (API_KINDS[CREDENTIALS].plural,), _READ),)
"""Of an operator that is to read Secrets which DestinationRules name (``read_secrets``), everywhere."""

OPERATOR_NAMESPACE: tuple[Rule, ...] = (
    Rule("", ("secrets",), ("create",)),
    Rule("", ("secrets",), ("get", "update"), (ROOT_SECRET, KEPT_ROOT_SECRET)),
    Rule("", ("secrets",), ("get",), (GIVEN_ROOT_SECRET,)),
    Rule("coordination.k8s.io", ("leases",), ("create",)),
    Rule("coordination.k8s.io", ("leases",), ("get", "update"), (LEASE,)),
)
"""Of the operator, in its own namespace (a Role)."""

AGENT_CLUSTER: tuple[Rule, ...] = (
    Rule("", ("pods", "namespaces"), _READ),
    Rule("", ("pods",), ("patch",)),
    _EVENTS,
)
"""Of the node agents (a ClusterRole)."""
