"""Applications that demand TLS of their own, and a certificate, of a waypoint: Secrets that a DestinationRule names."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.kit import pki
from tests.e2e.kit.cluster import Cluster
from tests.e2e.kit.mesh import AMBIENT, Mesh
from tests.e2e.kit.waiting import eventually
from tests.e2e.kit.workloads import Client, apply, pod, wait_ready

pytestmark = pytest.mark.e2e

_CHANGE_SECONDS = 60.0
_PORT = 8443
_SECRET = "shown-to-the-application"
_SERVER = f"""
import http.server, json, ssl

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        subject = dict(part[0] for part in self.connection.getpeercert()["subject"])
        body = json.dumps({{"shown": subject["commonName"], "version": self.connection.version()}}).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain("/tls/tls.crt", "/tls/tls.key")
context.load_verify_locations("/tls/ca.crt")
context.verify_mode = ssl.CERT_REQUIRED
server = http.server.ThreadingHTTPServer(("", {_PORT}), Handler)
server.socket = context.wrap_socket(server.socket, server_side=True)
server.serve_forever()
"""
"""Answers whom the client's certificate is of."""


@pytest.fixture(scope="module")
def mesh(cluster_mesh: Mesh) -> Iterator[Mesh]:
    """Of the whole session, with what it takes for waypoints and rules of destinations."""
    cluster_mesh.define_gateways()
    cluster_mesh.define_traffic()
    yield cluster_mesh
    cluster_mesh.forget_traffic()
    cluster_mesh.forget_gateways()


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> pki.Authority:
    """The shop's own."""
    return pki.Authority(Path(tmp_path_factory.mktemp("shop")))


def secret(name: str, authority: pki.Authority, pair: pki.Pair) -> dict[str, Any]:
    """Of type ``kubernetes.io/tls``, with the roots."""
    texts = {"tls.crt": pair.certificate, "tls.key": pair.key, "ca.crt": authority.certificate}
    data = {key: path.read_text() for key, path in texts.items()}
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name},
        "type": "kubernetes.io/tls",
        "stringData": data,
    }


def host_of(namespace: str) -> str:
    return f"secure.{namespace}.svc.cluster.local"


@pytest.fixture(scope="module")
def client(mesh: Mesh, cluster: Cluster, cluster_namespace: str, authority: pki.Authority) -> Client:
    """On node 1, with an application on node 2 that speaks mutual TLS, and a waypoint between them."""
    cluster.kubectl("label", "namespace", cluster_namespace, AMBIENT)
    server = pod("secure", ["python", "-c", _SERVER], cluster.nodes[1])
    server["spec"]["volumes"] = [{"name": "tls", "secret": {"secretName": "of-the-application"}}]
    (container,) = server["spec"]["containers"]
    container["volumeMounts"] = [{"name": "tls", "mountPath": "/tls"}]
    container["readinessProbe"] = {"tcpSocket": {"port": _PORT}, "periodSeconds": 1}
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "secure"},
        "spec": {"selector": {"app": "secure"}, "ports": [{"name": "http", "port": 80, "targetPort": _PORT}]},
    }
    own = secret("of-the-application", authority, authority.server("secure", [host_of(cluster_namespace)]))
    apply(cluster, cluster_namespace, own, server, service)
    wait_ready(cluster, cluster_namespace, "secure")
    mesh.run("waypoint", "apply", "--enroll-namespace", "-n", cluster_namespace, "--wait", "--timeout=120")
    rule = {
        "host": "secure",
        "trafficPolicy": {"tls": {"mode": "MUTUAL", "sni": host_of(cluster_namespace), "credentialName": _SECRET}},
    }
    mesh.apply_policy(cluster_namespace, "DestinationRule", "secure", rule)
    return Client(cluster, cluster_namespace)


def fails(client: Client) -> None:
    answers = client.ask("http://secure/", times=3)
    assert {each.status for each in answers} == {503}, answers


def shows(client: Client, whom: str) -> None:
    answers = client.ask("http://secure/", times=3)
    assert {each.status for each in answers} == {200}, answers
    assert {each.body["shown"] for each in answers} == {whom}, answers


def says(cluster: Cluster, client: Client, text: str) -> None:
    (rule,) = cluster.objects("destinationrule", "secure", f"--namespace={client.namespace}")
    conditions = {each["type"]: each for each in rule.get("status", {}).get("conditions", ())}
    assert text in json.dumps(conditions.get("ambimesh.dev/Accepted")), conditions


def with_credentials(mesh: Mesh, wanted: bool) -> None:
    mesh.run("upgrade", "--set", f"waypoints.credentials={str(wanted).lower()}", "--timeout", "120")


def test_without_the_right_to_read_secrets_nobody_is_trusted(
    mesh: Mesh, cluster: Cluster, client: Client, authority: pki.Authority
) -> None:
    apply(cluster, client.namespace, secret(_SECRET, authority, authority.client("first")))
    eventually(lambda: says(cluster, client, "Secrets are not read here"), seconds=_CHANGE_SECONDS)
    eventually(lambda: fails(client), seconds=_CHANGE_SECONDS)


def test_with_it_the_waypoint_shows_what_the_secret_holds_and_no_longer_than_it_does(
    mesh: Mesh, cluster: Cluster, client: Client, authority: pki.Authority
) -> None:
    with_credentials(mesh, True)
    try:
        eventually(lambda: shows(client, "first"), seconds=_CHANGE_SECONDS)
        eventually(lambda: says(cluster, client, '"status": "True"'), seconds=_CHANGE_SECONDS)
        # Another certificate counts for new connections: those of HTTP/1.1 that are kept end with the rule's change.
        apply(cluster, client.namespace, secret(_SECRET, authority, authority.client("second")))
        eventually(lambda: shows(client, "second"), seconds=_CHANGE_SECONDS)
        # A key that does not belong to the certificate is never shown.
        mixed = secret(_SECRET, authority, pki.Pair(authority.client("second").certificate, authority.client("x").key))
        apply(cluster, client.namespace, mixed)
        eventually(lambda: says(cluster, client, "do not belong together"), seconds=_CHANGE_SECONDS)
        eventually(lambda: fails(client), seconds=_CHANGE_SECONDS)
        apply(cluster, client.namespace, secret(_SECRET, authority, authority.client("third")))
        eventually(lambda: shows(client, "third"), seconds=_CHANGE_SECONDS)
        cluster.kubectl("delete", "secret", _SECRET, f"--namespace={client.namespace}")
        eventually(lambda: says(cluster, client, f"there is no Secret {_SECRET}"), seconds=_CHANGE_SECONDS)
        eventually(lambda: fails(client), seconds=_CHANGE_SECONDS)
        found = cluster.objects("pods", f"--namespace={client.namespace}")
        names = [each["metadata"]["name"] for each in found if each["metadata"]["name"].startswith("waypoint")]
        logs = "".join(cluster.kubectl("logs", f"--namespace={client.namespace}", name) for name in names)
        assert names
        assert "PRIVATE KEY" not in logs + mesh.logs("operator")
    finally:
        with_credentials(mesh, False)
    (role,) = cluster.objects("clusterrole", "ambimesh-operator")
    assert not any("secrets" in rule["resources"] for rule in role["rules"])
