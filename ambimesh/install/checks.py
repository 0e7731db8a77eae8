"""What of a cluster is looked at before and after an installation: the judgements. Pure, on raw objects."""

from __future__ import annotations

import enum
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from ambimesh.cluster.selectors import blocking
from mesh import ports

Json = dict[str, Any]

OLDEST_KUBERNETES = (1, 30)
OLDEST_KERNEL = (5, 18)
ARCHITECTURES = ("amd64", "arm64")
MODE_LABEL = "istio.io/dataplane-mode"
_CLOCKS_APART = timedelta(seconds=5)
_LEASE_LATE = timedelta(seconds=60)
_SHOWN = 5


class Level(enum.StrEnum):
    """How a check ended."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    name: str
    level: Level
    detail: str
    remedy: str = ""


def kubernetes_version(version: Json) -> Finding:
    """Whether the API server is new enough."""
    text = str(version.get("gitVersion", ""))
    numbers = _numbers(text)
    if numbers < OLDEST_KUBERNETES:
        oldest = ".".join(map(str, OLDEST_KUBERNETES))
        return Finding("Kubernetes", Level.FAILED, f"{text or 'unknown'}, older than {oldest}", "upgrade the cluster")
    return Finding("Kubernetes", Level.OK, text)


def nodes(found: Sequence[Json]) -> list[Finding]:
    """Whether all nodes can run the mesh, as far as the API tells."""
    linux = [node for node in found if _info(node).get("operatingSystem", "linux") == "linux"]
    old = [
        f"{_name(node)} has {_info(node).get('kernelVersion')}"
        for node in linux
        if _numbers(str(_info(node).get("kernelVersion", ""))) < OLDEST_KERNEL
    ]
    foreign = [_name(node) for node in linux if _info(node).get("architecture") not in ARCHITECTURES]
    oldest = ".".join(map(str, OLDEST_KERNEL))
    kinds = sorted({str(_info(node).get("architecture")) for node in linux})
    findings = [
        _all_of("kernel", old, f"{len(linux)} nodes with {oldest} or newer", f"kernels of {oldest} or newer"),
        _all_of("architecture", foreign, ", ".join(kinds), " or ".join(ARCHITECTURES)),
    ]
    if not linux:
        return [Finding("nodes", Level.FAILED, "the cluster has no Linux node", "add one")]
    away = [f"{_name(node)}: {_why_not_ready(node)}" for node in linux if not is_ready(node)]
    if away:
        findings.append(Finding("nodes", Level.WARNING, f"not ready: {some(away, '; ')}", "kubectl describe node"))
    if len(linux) < len(found):
        others = [_name(node) for node in found if node not in linux]
        findings.append(Finding("other systems", Level.WARNING, f"{some(others)}: no mesh there"))
    return findings


def clocks(server: datetime, local: datetime, leases: Iterable[Json], ready: Iterable[str]) -> Finding:
    """Whether clocks agree well enough for certificates and tokens.

    Args:
        server: the API server's clock.
        local: this machine's, at the same moment.
        leases: nodes' leases, renewed every ten seconds by their own clocks.
        ready: names of nodes that are ready, whose leases must be fresh.
    """
    apart = []
    if abs(server - local) > _CLOCKS_APART:
        apart.append(f"this machine by {(local - server).total_seconds():+.0f} s")
    living = set(ready)
    for lease in leases:
        renewed = _time(str(lease.get("spec", {}).get("renewTime", "")))
        name = _name(lease)
        if renewed is None or name not in living:
            continue
        if renewed - server > _CLOCKS_APART:
            apart.append(f"node {name} by {(renewed - server).total_seconds():+.0f} s")
        elif server - renewed > _LEASE_LATE:
            apart.append(f"node {name} by up to {(renewed - server).total_seconds():+.0f} s")
    if apart:
        detail = f"apart from the API server's: {some(apart)}"
        return Finding("clocks", Level.FAILED, detail, "synchronise clocks (NTP): certificates are valid from now on")
    return Finding("clocks", Level.OK, "within 5 s of the API server's")


def gateway_api(definition: Json | None) -> Finding:
    """Whether waypoints can be asked for; ``definition`` is the CRD of Gateways."""
    name = "Gateway API"
    if definition is None:
        return Finding(name, Level.WARNING, "not installed: no waypoints", "install its standard CRDs, v1.1 or newer")
    bundle = definition["metadata"].get("annotations", {}).get("gateway.networking.k8s.io/bundle-version", "")
    served = [one["name"] for one in definition.get("spec", {}).get("versions", ()) if one.get("served")]
    if "v1" not in served:
        detail = f"serves {', '.join(served) or 'nothing'} of Gateway, not v1"
        return Finding(name, Level.FAILED, detail, "install its standard CRDs, v1.1 or newer")
    return Finding(name, Level.OK, f"{bundle or 'of unknown version'}, serves {', '.join(served)}")


def rights(wanted: Iterable[tuple[str, str]], allowed: Mapping[tuple[str, str], bool]) -> Finding:
    """Whether the user may do what is to be done; pairs of verb and resource."""
    missing = [f"{verb} {resource}" for verb, resource in wanted if not allowed.get((verb, resource))]
    if missing:
        return Finding("rights", Level.FAILED, f"you may not {some(missing)}", "ask an administrator of the cluster")
    return Finding("rights", Level.OK, "enough to install")


def pod_security(namespace: Json | None, name: str) -> Finding:
    """Whether the mesh's namespace takes pods that mount folders of the node."""
    if namespace is None:
        return Finding("pod security", Level.OK, f"namespace {name} is yet to be made")
    level = (namespace["metadata"].get("labels") or {}).get("pod-security.kubernetes.io/enforce", "")
    if level in ("baseline", "restricted"):
        remedy = f"kubectl label namespace {name} pod-security.kubernetes.io/enforce=privileged --overwrite"
        return Finding("pod security", Level.FAILED, f"namespace {name} enforces {level}", remedy)
    return Finding("pod security", Level.OK, f"namespace {name} enforces {level or 'nothing of its own'}")


def network_policies(policies: Iterable[Json], pods: Iterable[Json], namespaces: Iterable[Json]) -> list[Finding]:
    """Whether the NetworkPolicies that select enrolled pods admit the tunnels' port."""
    ambient = {_name(one): _mode(one) for one in namespaces}
    by_namespace: dict[str, list[Json]] = {}
    for policy in policies:
        by_namespace.setdefault(policy["metadata"].get("namespace", ""), []).append(policy)
    blocked: dict[tuple[str, str, str], list[str]] = {}
    for pod in pods:
        namespace = pod["metadata"].get("namespace", "")
        mode = _mode(pod) or ambient.get(namespace)
        if mode != "ambient" or pod.get("spec", {}).get("hostNetwork") or namespace not in by_namespace:
            continue
        for direction in ("Ingress", "Egress"):
            for policy in blocking(by_namespace[namespace], pod, ports.HBONE, direction):
                blocked.setdefault((namespace, _name(policy), direction.lower()), []).append(_name(pod))
    name = "NetworkPolicies"
    if not blocked:
        return [Finding(name, Level.OK, f"all that select enrolled pods admit TCP {ports.HBONE}")]
    remedy = f"admit TCP {ports.HBONE} there; express port rules as AuthorizationPolicies"
    return [
        Finding(name, Level.FAILED, f"{space}/{policy} keeps {direction} TCP {ports.HBONE} from {some(of)}", remedy)
        for (space, policy, direction), of in sorted(blocked.items())
    ]


def coverage(
    found: Sequence[Json], pods: Iterable[Json], component: str, why: Callable[[Json], str] = lambda pod: ""
) -> Finding:
    """Whether every ready Linux node has a ready pod of a component.

    Args:
        found: the nodes.
        pods: of the mesh.
        component: which of its components.
        why: what a pod that is not ready says of the reason.
    """
    own = [pod for pod in pods if pod["metadata"].get("labels", {}).get("app.kubernetes.io/component") == component]
    there = {pod.get("spec", {}).get("nodeName"): pod for pod in sorted(own, key=is_ready)}
    expected = [_name(node) for node in found if is_ready(node) and _info(node).get("operatingSystem") == "linux"]
    missing = [name for name in expected if name not in there or not is_ready(there[name])]
    name = f"{component} on nodes"
    if missing:
        # Each that is named is asked, and no other: there may be thousands.
        shown = [f"{one}: {said}" if (said := _said(there.get(one), why)) else one for one in missing[:_SHOWN]]
        remedy = f"kubectl describe pods -l app.kubernetes.io/component={component} -A"
        return Finding(name, Level.FAILED, f"not ready on {some([*shown, *missing[_SHOWN:]])}", remedy)
    return Finding(name, Level.OK, f"ready on all {len(expected)}")


def _said(pod: Json | None, why: Callable[[Json], str]) -> str:
    return why(pod) if pod is not None else ""


def operators(pods: Sequence[Json], why: Callable[[Json], str]) -> Finding:
    """Whether a replica of the operator is ready; arguments as of ``coverage``."""
    ready = sum(map(is_ready, pods))
    detail = f"{ready} of {len(pods)} replicas are ready"
    told = [f"{_name(pod)}: {said}" for pod in pods if not is_ready(pod) and (said := why(pod))]
    level = Level.OK if ready == len(pods) > 0 else Level.WARNING if ready else Level.FAILED
    remedy = "" if level is Level.OK else "kubectl describe pods -l app.kubernetes.io/component=operator -A"
    return Finding("operator", level, f"{detail}; {some(told)}" if told else detail, remedy)


def unread(problems: Sequence[str]) -> Finding:
    """Whether the operator can read what it is to read; ``problems`` are its own words."""
    name = "objects and rights"
    if problems:
        return Finding(name, Level.WARNING, some(problems, "; "), "ambimesh bug-report has all of them")
    return Finding(name, Level.OK, "the operator can read everything")


def node_events(events: Iterable[Json], living: Iterable[str]) -> list[Finding]:
    """What agents have told of nodes that are there, each once; events last for an hour, and are told twice an hour."""
    nodes = set(living)
    latest: dict[tuple[str, str], str] = {}
    for event in events:
        node = event.get("involvedObject", {}).get("name", "")
        when = (event.get("series") or {}).get("lastObservedTime") or event.get("eventTime") or ""
        told = node, str(event.get("message", ""))
        if node in nodes:
            latest[told] = max(latest.get(told, ""), str(when))
    found = [f"{node}: {text} (seen {when[:19]}Z)" for (node, text), when in sorted(latest.items())]
    return [Finding("CNI of nodes", Level.WARNING, some(found, "; "), "correct or remove the files")] if found else []


def versions(client: str, installed: str | None, images: Iterable[str]) -> Finding:
    """Whether this program, what it installed, and what runs are of one version."""
    if installed is None:
        return Finding("versions", Level.OK, f"this program is {client}; no installation of it")
    tags = sorted({image.rpartition(":")[2] for image in images})
    if installed != client:
        detail = f"this program is {client}, the installation {installed}"
        return Finding("versions", Level.WARNING, detail, "ambimesh upgrade, or use the program of that version")
    if len(tags) > 1:
        return Finding("versions", Level.WARNING, f"pods run {', '.join(tags)}", "wait for the rollout, or upgrade")
    return Finding("versions", Level.OK, f"{client}, pods run {', '.join(tags) or 'nothing'}")


def is_ready(value: Json) -> bool:
    """Whether a pod's or node's ``Ready`` condition holds."""
    conditions = value.get("status", {}).get("conditions") or ()
    return any(one.get("type") == "Ready" and one.get("status") == "True" for one in conditions)


def _why_not_ready(node: Json) -> str:
    conditions = node.get("status", {}).get("conditions") or ()
    said = [str(one.get("message", "")) for one in conditions if one.get("type") == "Ready"]
    return said[0] if said and said[0] else "it says nothing of itself"


def some(values: Sequence[str], between: str = ", ") -> str:
    """The first few of many, and how many more there are."""
    more = f" and {len(values) - _SHOWN} more" if len(values) > _SHOWN else ""
    return between.join(values[:_SHOWN]) + more


def _all_of(name: str, wrong: Sequence[str], detail: str, needed: str) -> Finding:
    if wrong:
        remedy = f"the mesh needs {needed}; keep it off these nodes by agent.nodeSelector and ztunnel.nodeSelector"
        return Finding(name, Level.FAILED, some(wrong), remedy)
    return Finding(name, Level.OK, detail)


def _name(value: Json) -> str:
    return str(value["metadata"]["name"])


def _info(node: Json) -> Mapping[str, Any]:
    info: Mapping[str, Any] = node.get("status", {}).get("nodeInfo", {})
    return info


def _mode(value: Json) -> str | None:
    mode: str | None = (value["metadata"].get("labels") or {}).get(MODE_LABEL)
    return mode


def _numbers(text: str) -> tuple[int, int]:
    match = re.match(r"v?(\d+)\.(\d+)", text)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def _time(text: str) -> datetime | None:
    try:
        return datetime.fromisoformat(text.replace("Z", "+00:00")).astimezone(UTC)
    except ValueError:
        return None
