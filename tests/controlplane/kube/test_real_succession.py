"""Given authorities that follow one another, on a real API server: nobody meets a certificate it does not believe."""

from __future__ import annotations

import base64
import ssl
from pathlib import Path
from typing import Any

import pytest
import trio
from cryptography.hazmat.primitives import serialization

from controlplane.ca.authority import make_root
from controlplane.kube import lease_driver, root_secret_driver
from controlplane.kube.permissions import GIVEN_ROOT_SECRET, KEPT_ROOT_SECRET, TRUST_BUNDLE
from controlplane.testing.replica import NAMESPACE, Replica
from mesh.identity import SpiffeId
from mesh.tls.csr import make_key
from tests.controlplane.kube.real_plane import apply, eventually, pod_token, replica_of, run_pod
from tests.e2e.kit.control_plane import ControlPlane

pytestmark = pytest.mark.kubernetes

IDENTITY = SpiffeId("cluster.local", "shop", "web")


def given(certificate: bytes, key: bytes) -> dict[str, Any]:
    data = {"tls.crt": certificate, "tls.key": key, "ca.crt": certificate}
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": GIVEN_ROOT_SECRET, "namespace": NAMESPACE},
        "data": {name: base64.b64encode(value).decode() for name, value in data.items()},
    }


class Peer:
    """Somebody with a certificate, and with the roots that came with it."""

    def __init__(self, folder: Path, name: str, chain: list[str], key: bytes) -> None:
        self._file, self.roots = folder / f"{name}.pem", chain[-1]
        self._file.write_text("".join(chain[:-1]) + key.decode())

    def context(self, protocol: int) -> ssl.SSLContext:
        made = ssl.SSLContext(protocol)
        made.check_hostname = False
        made.verify_mode = ssl.CERT_REQUIRED
        made.load_cert_chain(self._file)
        made.load_verify_locations(cadata=self.roots)
        return made

    def talks_to(self, server: Peer) -> bool:
        """Whether a handshake between the two ends well; both verify."""
        to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
        ours = self.context(ssl.PROTOCOL_TLS_CLIENT).wrap_bio(to_client, to_server)
        theirs = server.context(ssl.PROTOCOL_TLS_SERVER).wrap_bio(to_server, to_client, server_side=True)
        waiting = [ours, theirs]
        for _ in range(10):
            for end in list(waiting):
                try:
                    end.do_handshake()
                    waiting.remove(end)
                except ssl.SSLWantReadError:
                    continue
                except ssl.SSLCertVerificationError:
                    return False
        return not waiting


async def peer(replica: Replica, folder: Path, name: str, token: str) -> Peer:
    key = make_key()
    answer = await replica.certificate(IDENTITY, token, key)
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return Peer(folder, name, list(answer.cert_chain), pem)


async def test_one_step_replaces_a_given_root(
    plane: ControlPlane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease_driver, "RETRY_SECONDS", 0.2)
    monkeypatch.setattr(root_secret_driver, "LOOK_SECONDS", 0.3)
    uid = run_pod(plane, NAMESPACE, "ztunnel-1", "ztunnel", "node1", "10.0.0.9")
    run_pod(plane, "shop", "web", "web", "node1", "10.0.0.1")
    (old, old_key), (new, new_key) = make_root("cluster.local"), make_root("cluster.local")

    def published(where: str) -> str:
        return plane.kubectl("get", "configmap", TRUST_BUNDLE, "-n", where, "-o", r"jsonpath={.data.root-cert\.pem}")

    def both_published(certificate: bytes) -> bool:
        return all(certificate.decode() in published(where) for where in (NAMESPACE, "shop"))

    await trio.to_thread.run_sync(apply, plane, given(old, old_key))
    # With a self-made root before, the given one would not sign at once.
    await trio.to_thread.run_sync(
        lambda: plane.kubectl("delete", "secret", "ambimesh-root", "-n", NAMESPACE, "--ignore-not-found")
    )
    try:
        replica = replica_of(plane, tmp_path, "successor", authority="rotation_seconds: 6")
        async with replica.running():
            await eventually(lambda: both_published(old))
            token = await trio.to_thread.run_sync(pod_token, plane, NAMESPACE, "ztunnel", "ztunnel-1", uid)
            before = await peer(replica, tmp_path, "before", token)
            assert new.decode() not in before.roots

            await trio.to_thread.run_sync(apply, plane, given(new, new_key))
            await eventually(lambda: both_published(new))
            assert await trio.to_thread.run_sync(both_published, old)
            during = await peer(replica, tmp_path, "during", token)
            assert during.talks_to(before)
            assert before.talks_to(during), "who has not renewed yet knows what signs"

            with trio.fail_after(30):
                after = await peer(replica, tmp_path, "after", token)
                while before.talks_to(after):
                    await trio.sleep(0.3)
                    after = await peer(replica, tmp_path, "after", token)
            assert during.talks_to(after)
            assert after.talks_to(during), "what the old one signed is believed until its end"
    finally:
        for name in (GIVEN_ROOT_SECRET, KEPT_ROOT_SECRET):
            plane.kubectl("delete", "secret", name, "-n", NAMESPACE, "--ignore-not-found")
