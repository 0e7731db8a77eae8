"""``trafficPolicy.tls`` of a DestinationRule: TLS that a waypoint speaks with an application, and what it shows there.

``credentialName`` names a Secret of the waypoint's own namespace, as Istio's gateways have it: roots under ``ca.crt``
(or ``cacert``, or in the Secret ``NAME-cacert``), and for MUTUAL a certificate with its key under ``tls.crt`` and
``tls.key`` (``cert`` and ``key``). Roots alone may be in a ConfigMap of that name as well, under ``ca.crt``. So a
private key reaches waypoints of its own namespace and nobody else, and a rule of another namespace, the root one
excepted, cannot have it used.

Whatever is missing or broken, TLS is never taken away and no other roots are put in its place: nobody is trusted then,
handshakes fail, and the rule's status says why. Certificates and keys are written anew from what was parsed, so nothing
else that lies in a Secret reaches a waypoint, and it can read what was accepted here. Nothing of a Secret is kept
longer than the Secret.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from controlplane.translate.layer7.backend_tls import MAX_ROOTS, NOBODY_IS_TRUSTED, certificates_of
from controlplane.translate.layer7.notes import Notes
from controlplane.translate.tracking import View
from mesh.model.upstream_policy import ClientCertificate, UpstreamTls
from resources import destination_rule as fields
from resources.objects import ROOTS_KEY, ConfigMap, Secret

_ROOTS = (ROOTS_KEY, "cacert")
_CERTIFICATE = ("tls.crt", "cert")
_KEY = ("tls.key", "key")
MAX_TEXT = 64 * 1024
"""Bytes of one entry of a Secret that are looked at."""


@dataclass(frozen=True, slots=True)
class Keeper:
    """Where a rule's Secrets are looked for."""

    view: View
    rule_namespace: str
    waypoint_namespace: str

    @property
    def admitted(self) -> bool:
        """Whether the rule may use Secrets of the waypoint's namespace."""
        return self.rule_namespace in (self.waypoint_namespace, self.view.settings.root_namespace)

    def secret(self, name: str) -> Secret | None:
        """A Secret that the waypoint may have."""
        return self.view.find(Secret, self.waypoint_namespace, name)

    def config_map(self, name: str) -> ConfigMap | None:
        """A ConfigMap beside it."""
        return self.view.find(ConfigMap, self.waypoint_namespace, name)


def client_tls(notes: Notes, keeper: Keeper, tls: fields.ClientTls, host: str, place: str) -> UpstreamTls | None:
    """TLS to the application; None if there is none besides the tunnel's."""
    if tls.mode in ("DISABLE", "ISTIO_MUTUAL"):
        if tls.mode == "ISTIO_MUTUAL":
            notes.unsupported(f"{place}.mode: the mesh's tunnels are mutual TLS anyhow; ISTIO_MUTUAL changes nothing")
        return None
    if tls.insecure_skip_verify:
        notes.unsupported(f"{place}.insecureSkipVerify has no effect: certificates are always verified")
    trusted: str | None = None
    shown: ClientCertificate | None = None
    if tls.credential_name:
        trusted, shown, fault = _credential(keeper, tls.credential_name, mutual=tls.mode == "MUTUAL")
        if fault:
            trusted, shown = NOBODY_IS_TRUSTED, None
            notes.unsupported(f"{place}.credentialName: {fault}; nobody is trusted, so calls fail")
    elif tls.mode == "MUTUAL" or tls.ca_certificates not in ("", "system"):
        trusted = NOBODY_IS_TRUSTED
        notes.unsupported(
            f"{place}: certificates are not read from files; name a Secret in credentialName. Nobody is trusted, so "
            "calls fail"
        )
    if tls.ca_crl:
        notes.unsupported(f"{place}.caCrl has no effect: revocation lists are not looked at")
    return UpstreamTls(
        server_name=tls.sni or host, subject_alt_names=tls.subject_alt_names, ca_certificates=trusted, shown=shown
    )


def _credential(keeper: Keeper, name: str, *, mutual: bool) -> tuple[str, ClientCertificate | None, str]:
    """Roots, what is shown, and what is wrong; if something is, the others mean nothing."""
    if not keeper.admitted:
        return "", None, (
            f"Secrets of the waypoint's namespace {keeper.waypoint_namespace} are not for rules of the namespace "
            f"{keeper.rule_namespace}"
        )  # fmt: skip
    if "://" in name:
        return "", None, f"{name!r} is not the plain name of a Secret"
    secret, config_map = keeper.secret(name), keeper.config_map(name)
    if secret is None and (mutual or config_map is None):
        return "", None, (
            f"there is no Secret {name} in the namespace {keeper.waypoint_namespace}, or Secrets are not read here "
            "(waypoints.credentials)"
        )  # fmt: skip
    shown: ClientCertificate | None = None
    if mutual:
        assert secret is not None
        made = keeper.view.made_of(secret, _shown)
        if isinstance(made, str):
            return "", None, made
        shown = made
    text = ""
    if secret is not None:
        text = _text(secret, _ROOTS)
        if not text and (beside := keeper.secret(f"{name}-cacert")) is not None:
            text = _text(beside, _ROOTS)
    if not text and config_map is not None:
        text = config_map.data.get(ROOTS_KEY, "")
    if not text:
        return "", None, f"neither Secret nor ConfigMap {name}, nor Secret {name}-cacert, has roots under {ROOTS_KEY}"
    roots = certificates_of(text) if len(text) <= MAX_ROOTS else ""
    return roots, shown, "" if roots else f"the roots of {name} are too large, or no certificates in PEM"


def _text(secret: Secret, names: tuple[str, ...]) -> str:
    """The first of these that the Secret has; empty if it has none, or not as a text of a sane size."""
    for name in names:
        if name in secret.string_data:
            return secret.string_data[name] if len(secret.string_data[name]) <= MAX_TEXT else ""
        if name in secret.data:
            try:
                return base64.b64decode(secret.data[name], validate=True)[: MAX_TEXT + 1].decode("ascii")
            except (binascii.Error, ValueError):
                return ""
    return ""


def _shown(secret: Secret) -> ClientCertificate | str:
    """A chain and its key, written anew; or what is wrong with them."""
    name = secret.metadata.name
    certificate, key = _text(secret, _CERTIFICATE), _text(secret, _KEY)
    if not certificate or not key:
        return f"the Secret {name} lacks tls.crt or tls.key"
    broken = f"in the Secret {name}, tls.crt or tls.key cannot be read, or they do not belong together"
    try:
        chain = x509.load_pem_x509_certificates(certificate.encode())
        private = load_pem_private_key(key.encode(), None)
        own, stated = (
            one.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
            for one in (private.public_key(), chain[0].public_key())
        )
        if own != stated:
            return broken
        written = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    except (ValueError, TypeError, UnsupportedAlgorithm):  # TypeError: the key is encrypted
        return broken
    return ClientCertificate(
        chain="".join(one.public_bytes(Encoding.PEM).decode() for one in chain), private_key=written
    )
