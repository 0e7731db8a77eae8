"""BackendTLSPolicy: TLS to backends, and whose certificates are accepted."""

from __future__ import annotations

import json

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from controlplane.testing.routes import V1, conditions, destination, findings, objects_of, route, translated
from controlplane.translate.layer7.backend_tls import MAX_ROOTS
from controlplane.translate.translator import Translator
from mesh.model.upstream_policy import TrafficPolicy, UpstreamPolicy, UpstreamTls
from mesh.testing.ca import TestAuthority

ROOTS = TestAuthority().roots.decode()
OTHERS = TestAuthority().roots.decode()
KEY = "shop/v1.shop.svc.cluster.local"
WHOLE = "{group: '', kind: Service, name: v1}"
PORT = "{group: '', kind: Service, name: v1, sectionName: http}"
SYSTEM = "wellKnownCACertificates: System"
RULE = """
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: dr, namespace: shop}
spec: {host: v1, trafficPolicy: {tls: {mode: SIMPLE, sni: other}}}
"""
BASE = route(f"[{{{V1}}}]")


def upstream(translator: Translator) -> UpstreamPolicy:
    [found] = [one for one in destination(translator).upstreams if one.service == KEY]
    return found


def backend_tls(target: str, validation: str, *, name: str = "tls", created: str = "2026-01-01T00:00:00Z") -> str:
    return f"""
---
apiVersion: gateway.networking.k8s.io/v1
kind: BackendTLSPolicy
metadata: {{name: {name}, namespace: shop, creationTimestamp: {created}}}
spec: {{targetRefs: [{target}], validation: {{hostname: a.example, {validation}}}}}
"""


def named(*names: str, kind: str = "ConfigMap") -> str:
    references = ", ".join(f"{{group: '', kind: {kind}, name: {name}}}" for name in names)
    return f"caCertificateRefs: [{references}]"


def config_map(name: str, data: dict[str, str], namespace: str = "shop") -> str:
    metadata = {"name": name, "namespace": namespace}
    return "\n---\n" + json.dumps({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}) + "\n"


def told(translator: Translator) -> list[str]:
    return conditions(translator, "BackendTLSPolicy", name="tls")


def test_a_policy_is_for_a_service_or_a_port_of_it() -> None:
    tls = UpstreamTls(server_name="a.example", subject_alt_names=("spiffe://x/y",))
    names = f"{SYSTEM}, subjectAltNames: [{{type: URI, uri: 'spiffe://x/y'}}]"
    translator = translated(BASE + RULE + backend_tls(WHOLE, names))
    assert upstream(translator).policy.tls == tls
    assert told(translator) == ["Accepted=True/Accepted", "ResolvedRefs=True/ResolvedRefs"]
    assert findings(translator, "BackendTLSPolicy") == []
    found = upstream(translated(BASE + RULE + backend_tls(PORT, names)))
    assert found.policy.tls == UpstreamTls(server_name="other")
    assert found.ports == ((80, TrafficPolicy(tls=tls)),)


def test_the_roots_of_config_maps_are_taken_together() -> None:
    both = config_map("a", {"ca.crt": ROOTS, "else": "x"}) + config_map("b", {"ca.crt": OTHERS})
    translator = translated(BASE + both + backend_tls(WHOLE, named("a", "b")))
    assert upstream(translator).policy.tls == UpstreamTls(server_name="a.example", ca_certificates=ROOTS + OTHERS)
    assert told(translator) == ["Accepted=True/Accepted", "ResolvedRefs=True/ResolvedRefs"]


def test_nothing_but_certificates_reaches_a_waypoint() -> None:
    issued = TestAuthority().issue_server("x.example")
    key = issued.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    written = config_map("a", {"ca.crt": f"# a note \N{EM DASH} and a key\n{key}\n{ROOTS}"})
    found = upstream(translated(BASE + written + backend_tls(WHOLE, named("a")))).policy.tls
    assert found is not None
    assert found.ca_certificates == ROOTS


@pytest.mark.parametrize(
    ("written", "why"),
    [
        ("", "does not exist"),
        (config_map("a", {"ca.crt": ROOTS}, namespace="other"), "does not exist"),
        (config_map("a", {"ca.pem": ROOTS}), "no key ca.crt"),
        (config_map("a", {"ca.crt": "none"}), "no certificates"),
        (config_map("a", {"ca.crt": ROOTS + ROOTS.replace("M", "N", 1)}), "broken one"),
        (config_map("a", {"ca.crt": ROOTS + "#" * MAX_ROOTS}), "larger than"),
    ],
    ids=["absent", "other namespace", "other key", "no PEM", "broken", "large"],
)
def test_what_cannot_be_read_trusts_nobody(written: str, why: str) -> None:
    translator = translated(BASE + written + backend_tls(WHOLE, named("a")))
    assert upstream(translator).policy.tls == UpstreamTls(server_name="a.example", ca_certificates="")
    assert told(translator) == ["Accepted=False/NoValidCACertificate", "ResolvedRefs=False/InvalidCACertificateRef"]
    assert any("ConfigMap a: " in each and why in each for each in findings(translator, "BackendTLSPolicy"))


def test_a_sound_reference_counts_beside_a_broken_one() -> None:
    translator = translated(BASE + config_map("b", {"ca.crt": ROOTS}) + backend_tls(WHOLE, named("a", "b")))
    assert upstream(translator).policy.tls == UpstreamTls(server_name="a.example", ca_certificates=ROOTS)
    assert told(translator) == ["Accepted=True/Accepted", "ResolvedRefs=False/InvalidCACertificateRef"]


def test_all_roots_together_are_bounded() -> None:
    many = ROOTS * (MAX_ROOTS // 2 // len(ROOTS) + 1)
    both = config_map("a", {"ca.crt": many}) + config_map("b", {"ca.crt": many})
    translator = translated(BASE + both + backend_tls(WHOLE, named("a", "b")))
    assert upstream(translator).policy.tls == UpstreamTls(server_name="a.example", ca_certificates=many)
    assert told(translator)[1] == "ResolvedRefs=False/InvalidCACertificateRef"


def test_other_kinds_of_references_and_roots_trust_nobody() -> None:
    translator = translated(BASE + backend_tls(WHOLE, named("a", kind="Secret")))
    assert upstream(translator).policy.tls == UpstreamTls(server_name="a.example", ca_certificates="")
    assert told(translator) == ["Accepted=False/NoValidCACertificate", "ResolvedRefs=False/InvalidKind"]
    translator = translated(BASE + backend_tls(WHOLE, "wellKnownCACertificates: x.example/own"))
    assert upstream(translator).policy.tls == UpstreamTls(server_name="a.example", ca_certificates="")
    assert told(translator) == ["Accepted=False/Invalid", "ResolvedRefs=True/ResolvedRefs"]


@pytest.mark.parametrize(
    "target", [WHOLE.replace("v1", "absent"), PORT.replace("http", "absent")], ids=["Service", "port"]
)
def test_a_target_that_is_not_there(target: str) -> None:
    translator = translated(BASE + backend_tls(target, SYSTEM))
    assert told(translator)[0] == "Accepted=False/TargetNotFound"
    assert any("TargetNotFound" in each for each in findings(translator, "BackendTLSPolicy"))


def test_of_two_policies_for_one_target_the_older_counts() -> None:
    older = backend_tls(WHOLE, named("a"), name="older", created="2025-01-01T00:00:00Z")
    translator = translated(BASE + backend_tls(WHOLE, SYSTEM) + older + config_map("a", {"ca.crt": ROOTS}))
    assert upstream(translator).policy.tls == UpstreamTls(server_name="a.example", ca_certificates=ROOTS)
    assert told(translator)[0] == "Accepted=False/Conflicted"
    assert conditions(translator, "BackendTLSPolicy", name="older")[0] == "Accepted=True/Accepted"


def test_other_targets_and_options_have_no_effect() -> None:
    text = backend_tls("{group: x.example, kind: Other, name: v1}", SYSTEM).replace(
        "validation:", "options: {x.example/a: b}, validation:"
    )
    found = " ".join(findings(translated(BASE + text), "BackendTLSPolicy"))
    assert "x.example/Other is not supported" in found
    assert "options have no effect" in found


def test_roots_that_come_change_and_go_are_followed() -> None:
    translator = translated(BASE + backend_tls(WHOLE, named("a")))
    before = translator.objects
    for data, trusted in (({"ca.crt": ROOTS}, ROOTS), ({"ca.crt": OTHERS}, OTHERS), ({}, "")):
        translator.update(before.with_changes(objects_of(config_map("a", data)).values()))
        assert upstream(translator).policy.tls == UpstreamTls(server_name="a.example", ca_certificates=trusted)
    translator.update(before.with_changes(objects_of(config_map("a", {"ca.crt": ROOTS})).values()))
    translator.update(before)
    assert told(translator)[0] == "Accepted=False/NoValidCACertificate"
