"""BackendTLSPolicy: that a Service is spoken to in TLS, and whom its waypoints trust then.

Roots are read from the ConfigMaps of the policy's own namespace that it names, under the key ``ca.crt``; what a
reference comes to is said in the Gateway API's words. Of several references those that are sound count. With none that
is, nobody is trusted and the backend cannot be called: TLS is never taken away, nor are other roots put in their place.

The certificates are written anew from what was parsed. So only certificates reach a waypoint, whatever else somebody
put into the file, and it can read what was accepted here.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from controlplane.translate.facets import target_facet
from controlplane.translate.finding import Finding
from controlplane.translate.layer7.notes import Notes
from controlplane.translate.status import ObjectStatus, ParentStatus, StatusCondition
from controlplane.translate.targets import Target
from controlplane.translate.tracking import View
from mesh.model.upstream_policy import UpstreamTls
from resources.gateway import LocalPolicyTarget, LocalReference, ParentReference
from resources.objects import ROOTS_KEY, BackendTLSPolicy, ConfigMap, Service

NOBODY_IS_TRUSTED = ""
"""Certificates that could not be found: no handshake succeeds."""
MAX_ROOTS = 64 * 1024
"""Characters of all the roots of one policy: some forty certificates. They are sent with every service it is for."""


def backend_tls(view: View, target: Target) -> tuple[UpstreamTls | None, dict[int, UpstreamTls]]:
    """What BackendTLSPolicies say of the whole Service, and of single ports; the oldest counts."""
    whole: UpstreamTls | None = None
    by_port: dict[int, UpstreamTls] = {}
    if target.object.kind != "Service":
        return whole, by_port
    for value in _policies_of(view, target.namespace, target.object.name):
        validation = value.spec.validation
        names = tuple(name.hostname or name.uri or "" for name in validation.subject_alt_names)
        trusted = _trusted(view, Notes(value.key), value)
        tls = UpstreamTls(server_name=validation.hostname, subject_alt_names=names, ca_certificates=trusted)
        for reference in _targeting(value, target.object.name):
            if reference.section_name is None:
                whole = whole or tls
            for port in target.ports:
                if port.name == reference.section_name:
                    by_port.setdefault(port.number, tls)
    return whole, by_port


def backend_tls_status(view: View, value: BackendTLSPolicy) -> tuple[ObjectStatus, tuple[Finding, ...]]:
    """What became of a policy at each Service it targets, and what of it has no effect."""
    notes = Notes(value.key)
    trusted = _trusted(view, notes, value)
    if value.spec.options:
        notes.unsupported("options have no effect")
    if notes.unresolved:
        reason = notes.unresolved[0][0]
        resolved = StatusCondition("ResolvedRefs", False, reason, "; ".join(message for _, message in notes.unresolved))
    else:
        resolved = StatusCondition("ResolvedRefs", True, "ResolvedRefs")
    parents = []
    for target in value.spec.target_refs:
        if (target.group, target.kind) != ("", "Service"):
            notes.not_applied(f"targetRefs: {target.group}/{target.kind} is not supported, Services are")
            continue
        accepted = _accepted(view, value, target, trusted)
        if not accepted.status:
            notes.not_applied(f"Service {target.name}: {accepted.reason}: {accepted.message}")
        ancestor = ParentReference(
            group="", kind="Service", namespace=value.metadata.namespace, name=target.name,
            section_name=target.section_name,
        )  # fmt: skip
        parents.append(ParentStatus(ancestor, (accepted, resolved)))
    return ObjectStatus(parents=tuple(parents)), tuple(notes.findings)


def _accepted(
    view: View, value: BackendTLSPolicy, target: LocalPolicyTarget, trusted: str | None
) -> StatusCondition:
    """Whether a policy has the effect that it is written for, on one target."""
    namespace = value.metadata.namespace
    service = view.find(Service, namespace, target.name)
    if service is None:
        return StatusCondition("Accepted", False, "TargetNotFound", f"there is no Service {target.name}")
    if target.section_name is not None and target.section_name not in (port.name for port in service.spec.ports):
        message = f"the Service {target.name} has no port of the name {target.section_name}"
        return StatusCondition("Accepted", False, "TargetNotFound", message)
    for older in _policies_of(view, namespace, target.name):
        if older.key == value.key:
            break
        if any(one.section_name == target.section_name for one in _targeting(older, target.name)):
            message = f"the BackendTLSPolicy {older.metadata.name} is older and counts instead"
            return StatusCondition("Accepted", False, "Conflicted", message)
    if trusted == NOBODY_IS_TRUSTED:
        reason = "NoValidCACertificate" if value.spec.validation.ca_certificate_refs else "Invalid"
        return StatusCondition("Accepted", False, reason, "nobody is trusted, so the backend cannot be called")
    return StatusCondition("Accepted", True, "Accepted")


def _policies_of(view: View, namespace: str, service: str) -> list[BackendTLSPolicy]:
    """The policies with a Service among their targets, the oldest first."""
    return view.having(BackendTLSPolicy, target_facet("Service", namespace, service))


def _targeting(value: BackendTLSPolicy, service: str) -> Iterator[LocalPolicyTarget]:
    for one in value.spec.target_refs:
        if (one.group, one.kind, one.name) == ("", "Service", service):
            yield one


def _trusted(view: View, notes: Notes, value: BackendTLSPolicy) -> str | None:
    """Whose certificates are accepted, in PEM; None: those of the system's roots."""
    validation = value.spec.validation
    if validation.well_known_ca_certificates == "System":
        return None
    if not validation.ca_certificate_refs:
        notes.unsupported("validation.wellKnownCACertificates: only System is known")
        return NOBODY_IS_TRUSTED
    trusted = ""
    for reference in validation.ca_certificate_refs:
        if (reference.group, reference.kind) != ("", "ConfigMap"):
            named = f"{reference.group}/{reference.kind} {reference.name}"
            notes.dangling("InvalidKind", f"caCertificateRefs: {named} is not supported, ConfigMaps are")
            continue
        found, fault = _roots_in(view, value.metadata.namespace, reference)
        if not fault and len(trusted) + len(found) > MAX_ROOTS:
            fault = f"with it there are more than {MAX_ROOTS} characters of roots"
        if fault:
            notes.dangling("InvalidCACertificateRef", f"caCertificateRefs: ConfigMap {reference.name}: {fault}")
        else:
            trusted += found
    return trusted


def _roots_in(view: View, namespace: str, reference: LocalReference) -> tuple[str, str]:
    """The roots in a ConfigMap, or what is wrong with it."""
    config_map = view.find(ConfigMap, namespace, reference.name)
    if config_map is None:
        return "", "it does not exist"
    text = config_map.data.get(ROOTS_KEY)
    if text is None:
        return "", f"it has no key {ROOTS_KEY}"
    if len(text) > MAX_ROOTS:
        return "", f"its {ROOTS_KEY} is larger than {MAX_ROOTS} characters"
    found = certificates_of(text)
    return found, "" if found else f"its {ROOTS_KEY} holds no certificates in PEM, or a broken one"


@lru_cache(maxsize=256)
def certificates_of(text: str) -> str:
    """The certificates of a PEM text and nothing else of it; empty if there is none or one is broken."""
    try:
        found = x509.load_pem_x509_certificates(text.encode())
    except ValueError:
        return ""
    return "".join(one.public_bytes(Encoding.PEM).decode() for one in found)
