"""Which pods are in the mesh. Pure: pod, namespace labels and rules in, a decision with its reason out.

The rule is Istio ambient's: the pod's label ``istio.io/dataplane-mode=ambient``, or the namespace's unless the pod says
``none``. Some pods never are, whatever they are labelled.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass

from cni.pod import PodFacts
from ebpf.pods import Exclusions, FastPathUse
from mesh.addresses import Cidr, parse_cidr
from mesh.errors import InvalidAddress

MODE_LABEL = "istio.io/dataplane-mode"
REDIRECTION_ANNOTATION = "ambient.istio.io/redirection"
"""Says ``enabled`` or ``pending``; the operator reads it. It is written here and never believed here."""
REDIRECTION_ENABLED = "enabled"
REDIRECTION_PENDING = "pending"

_SIDECAR_ANNOTATIONS = ("sidecar.istio.io/status", "linkerd.io/proxy-version")
"""Written by what puts sidecars into pods, before they start."""
_EXCLUDE_OUTBOUND_PORTS = "ambimesh.dev/exclude-outbound-ports"
_EXCLUDE_INBOUND_PORTS = "ambimesh.dev/exclude-inbound-ports"
_EXCLUDE_OUTBOUND_CIDRS = "ambimesh.dev/exclude-outbound-cidrs"
_FAST_PATH = "ambimesh.dev/fast-path"


class Enrolment(enum.Enum):
    """The decision; only the first member enrols."""

    SELECTED = "selected by its label or its namespace's"
    NOT_SELECTED = f"neither the pod nor its namespace has {MODE_LABEL}=ambient"
    OPTED_OUT = f"the pod has {MODE_LABEL}=none"
    HOST_NETWORK = "the pod shares the node's network"
    SIDECAR = "the pod has a sidecar, which does the same work"
    EXCLUDED_NAMESPACE = "its namespace is excluded in the agent's configuration"
    OWN_POD = "the pod is part of the mesh itself"
    ENDED = "the pod has ended"


@dataclass(frozen=True, slots=True)
class PodSelector:
    """Pods of one namespace that have all these labels."""

    namespace: str
    labels: Mapping[str, str]

    def selects(self, pod: PodFacts) -> bool:
        """Whether this pod is meant."""
        return pod.namespace == self.namespace and all(
            pod.labels.get(name) == value for name, value in self.labels.items()
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class EnrolmentRules:
    """What the agent's configuration says about enrolment."""

    excluded_namespaces: frozenset[str] = frozenset({"kube-system"})
    own_pods: tuple[PodSelector, ...] = ()


def decide(pod: PodFacts, namespace_labels: Mapping[str, str], rules: EnrolmentRules) -> Enrolment:
    """Whether this pod is to be enrolled, and why (not)."""
    if pod.ended:
        return Enrolment.ENDED
    if pod.host_network:
        return Enrolment.HOST_NETWORK
    if pod.namespace in rules.excluded_namespaces:
        return Enrolment.EXCLUDED_NAMESPACE
    if any(selector.selects(pod) for selector in rules.own_pods):
        return Enrolment.OWN_POD
    if any(annotation in pod.annotations for annotation in _SIDECAR_ANNOTATIONS):
        return Enrolment.SIDECAR
    mode = pod.labels.get(MODE_LABEL)
    if mode == "ambient":
        return Enrolment.SELECTED
    if namespace_labels.get(MODE_LABEL) != "ambient":
        return Enrolment.NOT_SELECTED
    return Enrolment.OPTED_OUT if mode == "none" else Enrolment.SELECTED


def exclusions_of(annotations: Mapping[str, str]) -> tuple[Exclusions, list[str]]:
    """What a pod's annotations exclude, and the complaints.

    An entry that cannot be read excludes nothing: a slip of the pen must not open a way past the mesh.
    """
    complaints: list[str] = []
    exclusions = Exclusions(
        outbound_ports=_ports(annotations, _EXCLUDE_OUTBOUND_PORTS, complaints),
        inbound_ports=_ports(annotations, _EXCLUDE_INBOUND_PORTS, complaints),
        outbound_cidrs=_cidrs(annotations, _EXCLUDE_OUTBOUND_CIDRS, complaints),
    )
    return exclusions, complaints


def fast_path_of(annotations: Mapping[str, str], namespace_annotations: Mapping[str, str]) -> FastPathUse:
    """What a pod's annotation says, or else its namespace's; what cannot be read disables it."""
    text = annotations.get(_FAST_PATH, namespace_annotations.get(_FAST_PATH, "")).strip()
    if text in ("", "enabled"):
        return FastPathUse.AUTOMATIC
    return next((use for use in FastPathUse if use.value == text), FastPathUse.DISABLED)


def _entries(annotations: Mapping[str, str], name: str) -> list[str]:
    return [entry for part in annotations.get(name, "").split(",") if (entry := part.strip())]


def _ports(annotations: Mapping[str, str], name: str, complaints: list[str]) -> frozenset[int]:
    ports = set()
    for entry in _entries(annotations, name):
        if entry.isascii() and entry.isdigit() and 0 < int(entry[:6]) < 65536:
            ports.add(int(entry[:6]))
        else:
            complaints.append(f"{name}: {entry[:64]!r} is no port of 1 to 65535 and excludes nothing")
    return frozenset(ports)


def _cidrs(annotations: Mapping[str, str], name: str, complaints: list[str]) -> frozenset[Cidr]:
    cidrs = set()
    for entry in _entries(annotations, name):
        try:
            cidrs.add(parse_cidr(entry))
        except InvalidAddress as error:
            complaints.append(f"{name}: {error}; it excludes nothing")
    return frozenset(cidrs)
