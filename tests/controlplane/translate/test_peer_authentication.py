from __future__ import annotations

import itertools

import pytest

from controlplane.translate.peer_authentication import static_strict_policy
from controlplane.translate.settings import MeshSettings
from controlplane.translate.translator import Translator
from mesh.addresses import parse_ip
from mesh.identity import SpiffeId
from mesh.rbac import Allow, ConnectionFacts, PolicySet, compile_policy, decide
from resources.decode import decode_documents
from resources.object_set import ObjectSet

POD = """
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, labels: {app: web}}
spec: {nodeName: node1, containers: [{name: c}]}
status: {podIP: 10.0.0.1}
"""
MODES = ["", "UNSET", "DISABLE", "PERMISSIVE", "STRICT"]
STATIC = "istio-system/istio_converted_static_strict"
CLIENT = SpiffeId("cluster.local", "shop", "client")


def peer_authentication(name: str, namespace: str, mode: str, *, ports: str = "", created: str = "") -> str:
    selector = ", selector: {matchLabels: {app: web}}" if name == "workload" or ports else ""
    port_level = f", portLevelMtls: {{{ports}}}" if ports else ""
    mtls = f"mtls: {{mode: {mode}}}" if mode else "mtls: {}"
    stamp = f", creationTimestamp: '{created}'" if created else ""
    return (
        "---\napiVersion: security.istio.io/v1\nkind: PeerAuthentication\n"
        f"metadata: {{name: {name}, namespace: {namespace}{stamp}}}\nspec: {{{mtls}{selector}{port_level}}}\n"
    )


class Mesh:
    """What a ztunnel would decide about the pod, going by what the translator publishes."""

    def __init__(self, *manifests: str) -> None:
        objects, problems = decode_documents("---\n".join([POD, *manifests]), "f")
        assert problems == []
        translator = Translator(MeshSettings())
        translator.update(ObjectSet(objects))
        policies = {policy.key: policy for policy in translator.policies}
        (workload,) = translator.addresses
        self.names = getattr(workload, "authorization_policies")  # noqa: B009 - a workload, as there is no Service
        self.findings = [str(finding) for finding in translator.findings]
        self.policies = policies
        self._set = PolicySet.of(
            [compile_policy(policies[name]) for name in self.names if name in policies],
            [name for name in self.names if name not in policies],
        )

    def admits(self, port: int, *, identity: SpiffeId | None = None) -> bool:
        facts = ConnectionFacts(parse_ip("10.0.0.2"), identity, parse_ip("10.0.0.1"), port)
        return isinstance(decide(facts, self._set), Allow)


def test_the_static_policy_is_called_what_others_call_it() -> None:
    assert static_strict_policy(MeshSettings()).key == STATIC


def effective(*levels: str) -> bool:
    """Whether STRICT holds: the last level that says something."""
    said = [mode for mode in levels if mode not in ("", "UNSET")]
    return bool(said) and said[-1] == "STRICT"


@pytest.mark.parametrize(("mesh", "namespace", "workload"), list(itertools.product(MODES, repeat=3)))
def test_levels(mesh: str, namespace: str, workload: str) -> None:
    manifests = [
        peer_authentication(name, place, mode)
        for name, place, mode in (
            ("mesh", "istio-system", mesh),
            ("namespace", "shop", namespace),
            ("workload", "shop", workload),
        )
        if mode
    ]
    found = Mesh(*manifests)
    strict = effective(mesh, namespace, workload)
    assert found.admits(80) is not strict
    assert found.admits(80, identity=CLIENT)
    assert found.names == ((STATIC,) if strict else ())
    assert (STATIC in found.policies) is bool(manifests)


@pytest.mark.parametrize(("base", "workload", "port"), list(itertools.product(MODES, MODES, MODES[1:])))
def test_ports(base: str, workload: str, port: str) -> None:
    own = peer_authentication("ports", "shop", workload, ports=f"8080: {{mode: {port}}}")
    found = Mesh(peer_authentication("namespace", "shop", base), own)
    assert found.admits(80) is not effective(base, workload)
    assert found.admits(8080) is not effective(base, workload, port)
    assert found.admits(8080, identity=CLIENT)
    # A DENY cannot be taken back: whoever has port exceptions must not refer to the static policy too.
    assert len(found.names) <= 1


def test_several_ports() -> None:
    ports = "1: {mode: STRICT}, 2: {mode: PERMISSIVE}, 3: {mode: STRICT}"
    lax = Mesh(peer_authentication("ports", "shop", "PERMISSIVE", ports=ports))
    assert lax.names == ("shop/converted_peer_authentication_ports",)
    assert [lax.admits(port) for port in (1, 2, 3, 4)] == [False, True, False, True]
    strict = Mesh(peer_authentication("ports", "shop", "STRICT", ports=ports + ", 5: {mode: DISABLE}"))
    assert strict.names == ("shop/converted_peer_authentication_ports",)
    assert [strict.admits(port) for port in (1, 2, 3, 4, 5)] == [False, True, False, False, True]


def test_the_oldest_of_a_level_wins() -> None:
    younger = peer_authentication("a", "shop", "STRICT", created="2024-02-01T00:00:00Z")
    older = peer_authentication("b", "shop", "PERMISSIVE", created="2024-01-01T00:00:00Z")
    undated = peer_authentication("z", "shop", "STRICT")
    assert Mesh(younger, older, undated).admits(80)
    assert not Mesh(younger, undated).admits(80)


def test_a_selector_in_the_root_namespace_selects_nothing() -> None:
    found = Mesh(peer_authentication("workload", "istio-system", "STRICT"))
    assert found.admits(80)
    assert any("root namespace selects nothing" in finding for finding in found.findings)


def test_disable_is_told() -> None:
    found = Mesh(peer_authentication("namespace", "shop", "DISABLE"))
    assert any("treated as PERMISSIVE" in finding for finding in found.findings)
