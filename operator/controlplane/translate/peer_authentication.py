"""PeerAuthentication to DENY policies.

The data plane knows no mode, only policies. STRICT is a DENY of callers without a principal. A policy that denies
cannot be taken back by another one, so a workload gets exactly one of these:

- nothing, when callers without identity are welcome on all ports;
- the static STRICT policy, one for the whole mesh;
- the converted policy of its own PeerAuthentication, when ports differ from the rest.

Which mode holds: the mesh's (root namespace, no selector), overridden by the namespace's, overridden by that of the
PeerAuthentication that selects the workload; UNSET leaves what was. Of several on one level the oldest wins. DISABLE is
the same as PERMISSIVE here: ztunnel takes plaintext, but will not refuse a tunnel.
"""

from __future__ import annotations

from collections.abc import Iterable

from controlplane.translate.finding import Condition, Finding
from controlplane.translate.settings import MeshSettings
from mesh.model.policy import Clause, Match, Policy, PolicyAction, PolicyScope, Rule, StringMatch, StringMatchKind
from resources.objects import PeerAuthentication
from resources.security import MutualTls

STATIC_STRICT = "istio_converted_static_strict"
CONVERTED_PREFIX = "converted_peer_authentication_"

_WITHOUT_IDENTITY = Clause((Match(not_principals=(StringMatch(StringMatchKind.PRESENCE),)),))


def static_strict_policy(settings: MeshSettings) -> Policy:
    """The policy that STRICT workloads refer to."""
    return Policy(
        name=STATIC_STRICT,
        namespace=settings.root_namespace,
        scope=PolicyScope.WORKLOAD_SELECTOR,
        action=PolicyAction.DENY,
        rules=(Rule((_WITHOUT_IDENTITY,)),),
    )


def age_order(policy: PeerAuthentication) -> tuple[str, str]:
    """Sorts the oldest first; of the same age, or of unknown age, by name."""
    return (policy.metadata.creation_timestamp or "9999", policy.metadata.name)


def has_selector(policy: PeerAuthentication) -> bool:
    """Whether a policy is for selected workloads."""
    return policy.spec.selector is not None and bool(policy.spec.selector.match_labels)


def base_strict(mesh: Iterable[PeerAuthentication], namespace: Iterable[PeerAuthentication]) -> bool:
    """Whether a namespace's workloads are STRICT before their own policies.

    Args:
        mesh: the root namespace's policies without selector.
        namespace: the namespace's policies without selector; the same ones for the root namespace itself.
    """
    strict = False
    for level in (mesh, namespace):
        oldest = min(level, key=age_order, default=None)
        if oldest is not None:
            strict = _mode(oldest.spec.mtls, strict)
    return strict


def converted_policy(source: PeerAuthentication, base: bool) -> Policy | None:
    """The policy of a PeerAuthentication with ports that differ from the rest; None when none do.

    Args:
        source: one with a selector.
        base: whether its namespace is STRICT without it.
    """
    strict = _mode(source.spec.mtls, base)
    ports = {int(port): _mode(mtls, strict) for port, mtls in source.spec.port_level_mtls.items()}
    exceptions = tuple(sorted(port for port, port_strict in ports.items() if port_strict is not strict))
    if not exceptions:
        return None
    if strict:
        rules: tuple[Rule, ...] = (
            Rule((_WITHOUT_IDENTITY, Clause((Match(not_destination_ports=exceptions),)))),
        )
    else:
        rules = tuple(Rule((_WITHOUT_IDENTITY, Clause((Match(destination_ports=(port,)),)))) for port in exceptions)
    return Policy(
        name=CONVERTED_PREFIX + source.metadata.name,
        namespace=source.metadata.namespace,
        scope=PolicyScope.WORKLOAD_SELECTOR,
        action=PolicyAction.DENY,
        rules=rules,
    )


def policy_names(selecting: Iterable[PeerAuthentication], base: bool, settings: MeshSettings) -> tuple[str, ...]:
    """The policies a workload refers to: one or none.

    Args:
        selecting: the PeerAuthentications of its own namespace whose selectors match it.
        base: whether its namespace is STRICT without them.
        settings: the mesh's names.
    """
    strict = base
    oldest = min(selecting, key=age_order, default=None)
    if oldest is not None:
        own = converted_policy(oldest, base)
        if own is not None:
            return (own.key,)
        strict = _mode(oldest.spec.mtls, base)
    return (f"{settings.root_namespace}/{STATIC_STRICT}",) if strict else ()


def findings_of(source: PeerAuthentication, settings: MeshSettings) -> tuple[Finding, ...]:
    """What a PeerAuthentication asks for and does not get."""
    findings = []
    if has_selector(source) and source.metadata.namespace == settings.root_namespace:
        message = "a selector in the root namespace selects nothing: put the policy in the workloads' namespace"
        findings.append(Finding(source.key, Condition.NOT_APPLIED, message))
    modes = [("mtls", source.spec.mtls)]
    modes += [(f"portLevelMtls[{port}]", mtls) for port, mtls in source.spec.port_level_mtls.items()]
    for place, mtls in modes:
        if mtls is not None and mtls.mode == "DISABLE":
            message = f"{place}.mode DISABLE is treated as PERMISSIVE: tunnels are still accepted"
            findings.append(Finding(source.key, Condition.UNSUPPORTED_VALUE, message))
    return tuple(findings)


def _mode(mtls: MutualTls | None, inherited: bool) -> bool:
    """Whether a mode is STRICT; UNSET is what it was."""
    if mtls is None or mtls.mode == "UNSET":
        return inherited
    return mtls.mode == "STRICT"
