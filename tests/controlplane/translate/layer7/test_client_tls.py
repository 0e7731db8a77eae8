"""``credentialName``: what a waypoint trusts and shows, whose Secrets count, and that nothing else of them gets out."""

from __future__ import annotations

import base64
import json

import pytest
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from controlplane.debug_pages import NOT_SHOWN, plain
from controlplane.testing.routes import MESH, V1, destination, findings, objects_of, route, translated
from controlplane.translate.layer7 import client_tls
from controlplane.translate.layer7.client_tls import MAX_TEXT
from controlplane.translate.translator import Translator
from mesh.identity import SpiffeId
from mesh.model.upstream_policy import UpstreamTls
from mesh.testing.ca import TestAuthority
from mesh.testing.memory import texts_within
from resources.decode import decode_documents
from resources.objects import ObjectKey

AUTHORITY = TestAuthority()
ROOTS = AUTHORITY.roots.decode()
BASE = route(f"[{{{V1}}}]")
ISSUED = AUTHORITY.issue(SpiffeId("cluster.local", "shop", "waypoint"))
CHAIN = b"\n".join(ISSUED.certificate_chain).decode()
KEY = ISSUED.key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()).decode()
OTHER_KEY = (
    AUTHORITY.issue(SpiffeId("cluster.local", "shop", "other"))
    .key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    .decode()
)
ENCRYPTED = ISSUED.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")).decode()


def rule(tls: str, namespace: str = "shop") -> str:
    return f"""
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: dr, namespace: {namespace}}}
spec: {{host: v1.shop.svc.cluster.local, trafficPolicy: {{tls: {{sni: a, {tls}}}}}}}
"""


def secret(data: dict[str, str], name: str = "c", namespace: str = "shop", kind: str = "Secret") -> str:
    metadata = {"name": name, "namespace": namespace}
    if kind == "Secret":
        data = {key: base64.b64encode(text.encode()).decode() for key, text in data.items()}
    return "\n---\n" + json.dumps({"apiVersion": "v1", "kind": kind, "metadata": metadata, "data": data}) + "\n"


def tls_of(translator: Translator) -> UpstreamTls:
    [found] = [one for one in destination(translator).upstreams if one.service.startswith("shop/v1.")]
    assert found.policy.tls is not None
    return found.policy.tls


MUTUAL = rule("mode: MUTUAL, credentialName: c")
SIMPLE = rule("mode: SIMPLE, credentialName: c")
WHOLE = {"tls.crt": CHAIN, "tls.key": KEY, "ca.crt": ROOTS}


@pytest.mark.parametrize(
    "objects",
    [
        secret({"ca.crt": "# the shop's\n" + ROOTS}),
        secret({"cacert": ROOTS}),
        secret({}) + secret({"ca.crt": ROOTS}, "c-cacert"),
        secret({"ca.crt": ROOTS}, kind="ConfigMap"),
        secret(WHOLE),
    ],
    ids=["Secret", "generic", "beside", "ConfigMap", "with a key"],
)
def test_simple_trusts_the_roots_that_are_named(objects: str) -> None:
    translator = translated(BASE + SIMPLE + objects)
    assert tls_of(translator) == UpstreamTls(server_name="a", ca_certificates=ROOTS)
    assert findings(translator, "DestinationRule") == []


@pytest.mark.parametrize(
    "objects",
    [
        secret(WHOLE),
        secret({"cert": CHAIN, "key": KEY, "cacert": ROOTS}),
        secret({"tls.crt": CHAIN, "tls.key": KEY}) + secret({"ca.crt": ROOTS}, "c-cacert"),
    ],
    ids=["kubernetes.io/tls", "generic", "roots beside"],
)
def test_mutual_shows_a_certificate(objects: str) -> None:
    translator = translated(BASE + MUTUAL + objects)
    tls = tls_of(translator)
    assert tls.ca_certificates == ROOTS
    assert tls.shown is not None
    assert tls.shown.chain.count("BEGIN CERTIFICATE") == len(ISSUED.certificate_chain)
    read = load_pem_private_key(tls.shown.private_key.encode(), None)
    assert read.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()) == ISSUED.key.private_bytes(
        Encoding.DER, PrivateFormat.PKCS8, NoEncryption()
    )
    assert findings(translator, "DestinationRule") == []


@pytest.mark.parametrize(
    ("written", "why"),
    [
        (MUTUAL, "there is no Secret c in the namespace shop"),
        (SIMPLE, "there is no Secret c"),
        (MUTUAL + secret({"ca.crt": ROOTS}, kind="ConfigMap"), "there is no Secret c"),
        (MUTUAL + secret(WHOLE, namespace="else"), "there is no Secret c"),
        (MUTUAL + secret({"ca.crt": ROOTS}), "lacks tls.crt or tls.key"),
        (MUTUAL + secret({**WHOLE, "tls.key": OTHER_KEY}), "do not belong together"),
        (MUTUAL + secret({**WHOLE, "tls.key": ENCRYPTED}), "cannot be read"),
        (MUTUAL + secret({**WHOLE, "tls.crt": CHAIN[:-90]}), "cannot be read"),
        (MUTUAL + secret({"tls.crt": CHAIN, "tls.key": KEY}), "has roots under ca.crt"),
        (MUTUAL + secret({**WHOLE, "ca.crt": "none"}), "no certificates in PEM"),
        (SIMPLE + secret({"ca.crt": "x" * (MAX_TEXT + 1)}), "too large"),
        (rule("mode: SIMPLE, credentialName: 'kubernetes://shop/c'") + secret(WHOLE), "not the plain name"),
        (rule("mode: SIMPLE, caCertificates: /etc/roots.pem"), "not read from files"),
        (rule("mode: MUTUAL, clientCertificate: /c, privateKey: /k"), "not read from files"),
    ],
)
def test_what_is_not_right_has_nobody_trusted_and_says_why(written: str, why: str) -> None:
    translator = translated(BASE + written)
    assert tls_of(translator) == UpstreamTls(server_name="a", ca_certificates="")
    [told] = findings(translator, "DestinationRule")
    assert why in told
    assert "calls fail" in told


def test_rules_of_the_root_namespace_may_use_the_waypoints_secrets() -> None:
    admins = rule("mode: MUTUAL, credentialName: c", "istio-system")
    assert tls_of(translated(BASE + admins + secret(WHOLE))).shown is not None
    theirs = tls_of(translated(BASE + admins + secret(WHOLE, namespace="istio-system")))
    assert theirs.ca_certificates == "", "only waypoints of the Secret's own namespace get it"


def test_a_waypoint_of_another_namespace_is_not_given_a_key_and_its_own_is_not_used() -> None:
    shared = MESH.replace(
        "{istio.io/use-waypoint: waypoint}",
        "{istio.io/use-waypoint: waypoint, istio.io/use-waypoint-namespace: infra}",
    ).replace("metadata: {name: waypoint, namespace: shop}", "metadata: {name: waypoint, namespace: infra}")
    shared = shared.replace("protocol: HBONE}", "protocol: HBONE, allowedRoutes: {namespaces: {from: All}}}")
    both = secret(WHOLE) + secret(WHOLE, namespace="infra")
    translator = translated(shared + BASE + MUTUAL + both, mesh=False)
    assert tls_of(translator) == UpstreamTls(server_name="a", ca_certificates="")
    [told] = findings(translator, "DestinationRule")
    assert "Secrets of the waypoint's namespace infra are not for rules of the namespace shop" in told


def test_a_secret_that_comes_later_counts() -> None:
    translator = translated(BASE + MUTUAL)
    assert tls_of(translator).ca_certificates == ""
    translator.update(objects_of(MESH + BASE + MUTUAL + secret(WHOLE)))
    assert tls_of(translator).shown is not None
    assert findings(translator, "DestinationRule") == []


def test_of_a_secret_that_is_gone_no_key_is_kept() -> None:
    translator = translated(BASE + MUTUAL + secret(WHOLE))
    shown = tls_of(translator).shown
    assert shown is not None
    keys = {shown.private_key, KEY, base64.b64encode(KEY.encode()).decode()}

    def kept() -> set[str]:
        return keys & texts_within(translator, *vars(client_tls).values())

    assert kept() == keys - {KEY}
    translator.update(translator.objects.with_changes([], [ObjectKey("Secret", "shop", "c")]))
    assert tls_of(translator).ca_certificates == ""
    assert kept() == set()


def test_a_key_that_was_replaced_counts_and_the_old_one_is_not_kept() -> None:
    translator = translated(BASE + MUTUAL + secret(WHOLE))
    before = tls_of(translator).shown
    assert before is not None
    other = AUTHORITY.issue(SpiffeId("cluster.local", "shop", "waypoint"))
    key = other.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    chain = b"\n".join(other.certificate_chain).decode()
    [renewed], _ = decode_documents(secret({**WHOLE, "tls.crt": chain, "tls.key": key}), "made")
    translator.update(translator.objects.with_changes([renewed]))
    after = tls_of(translator).shown
    assert after is not None
    assert after.private_key == key
    assert before.private_key not in texts_within(translator, *vars(client_tls).values())


def test_keys_are_in_no_text_about_them() -> None:
    tls = tls_of(translated(BASE + MUTUAL + secret(WHOLE)))
    assert tls.shown is not None
    assert "PRIVATE" not in repr(tls)
    assert plain(tls)["shown"]["private_key"] == NOT_SHOWN
    [kept], problems = decode_documents(secret(WHOLE), "made")
    assert problems == []
    assert repr(kept) == str(kept) == "Secret(shop/c)"
