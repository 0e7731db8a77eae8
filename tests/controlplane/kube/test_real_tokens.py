"""Tokens that a real API server does not vouch for, or no longer, and what their bearers are told."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import jwt
import pytest
import trio
from cryptography.hazmat.primitives.asymmetric import ec

from controlplane.kube import token_review_driver
from controlplane.testing.replica import NAMESPACE, Replica
from mesh.clock import utc_now
from mesh.grpc.driver import GrpcError, StatusCode
from mesh.identity import SpiffeId
from tests.controlplane.kube.real_plane import eventually, pod_token, replica_of, run_pod
from tests.e2e.kit.control_plane import ControlPlane

pytestmark = pytest.mark.kubernetes

IDENTITY = SpiffeId("cluster.local", "shop", "bought")
HOUR = 3600


@pytest.fixture
def token(plane: ControlPlane) -> str:
    """A node proxy's, on the node of a pod of ``IDENTITY``."""
    uid = run_pod(plane, NAMESPACE, "ztunnel-t", "ztunnel", "node7", "10.0.7.9")
    run_pod(plane, "shop", "bought", "bought", "node7", "10.0.7.1")
    return pod_token(plane, NAMESPACE, "ztunnel", "ztunnel-t", uid)


@pytest.fixture
async def replica(plane: ControlPlane, token: str, tmp_path: Path) -> AsyncIterator[Replica]:
    made = replica_of(plane, tmp_path, "tokens")
    async with made.running():
        await eventually(lambda: b"CERTIFICATE" in made.roots())
        await made.certificate(IDENTITY, token)
        yield made


EXPIRED = "service account token has expired"
NOT_OURS: dict[str, dict[str, Any]] = {
    EXPIRED: {"iat": -2 * HOUR, "nbf": -2 * HOUR, "exp": -HOUR},
    "service account token is not valid yet": {"nbf": HOUR, "exp": 2 * HOUR},
    "the token is not good: invalid bearer token": {"iss": "https://elsewhere"},
    'token audiences ["vault"] is invalid for the target audiences': {"aud": ["vault"]},
    "does not match service account pod ref claim": {"pod": {"uid": "of-an-earlier-one"}},
    "service account token has been invalidated": {"pod": {"name": "never-there"}},
    "service account UID": {"serviceaccount": {"uid": "of-an-earlier-one"}},
    # This one it vouches for: that the pod is on another node is seen here.
    "is of node node8, pod ambimesh-system/ztunnel-t of node7": {"node": {"name": "node8"}},
}
"""What bearers are told, and the claims that are other than a good token's; times are from now."""


def changed(claims: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    now, own = int(utc_now().timestamp()), claims["kubernetes.io"]
    result = dict(claims)
    for name, value in changes.items():
        if isinstance(value, dict):
            result["kubernetes.io"] = {**own, name: {**own[name], **value}}
        else:
            result[name] = now + value if isinstance(value, int) else value
    return result


async def refusal(replica: Replica, token: str, status: StatusCode = StatusCode.UNAUTHENTICATED) -> str:
    with pytest.raises(GrpcError) as caught:
        await replica.certificate(IDENTITY, token)
    assert caught.value.status is status
    return str(caught.value)


async def until_told(words: str, replica: Replica, token: str) -> None:
    """Ask for a certificate until it is refused in these words."""
    with trio.fail_after(60):
        while True:
            try:
                await replica.certificate(IDENTITY, token)
            except GrpcError as error:
                if words in str(error):
                    return
            await trio.sleep(0.2)


async def test_what_is_not_good_is_refused_in_the_api_servers_words(
    plane: ControlPlane, replica: Replica, token: str
) -> None:
    claims: dict[str, Any] = jwt.decode(token, options={"verify_signature": False})
    # Signed by the test it is as good as the API server's own: the others are refused for what they say.
    await replica.certificate(IDENTITY, plane.signed({**claims, "jti": "another"}))
    for told, changes in NOT_OURS.items():
        assert told in await refusal(replica, plane.signed(changed(claims, changes)))
    forged = jwt.encode(claims, ec.generate_private_key(ec.SECP256R1()), algorithm="ES256")
    assert "the token is not good" in await refusal(replica, forged)
    assert "the token is not good" in await refusal(replica, "no.token.atall")
    assert "the call has no bearer token" in await refusal(replica, "")


async def test_discovery_refuses_an_expired_token_too(plane: ControlPlane, replica: Replica, token: str) -> None:
    claims: dict[str, Any] = jwt.decode(token, options={"verify_signature": False})
    expired = plane.signed(changed(claims, NOT_OURS[EXPIRED]))
    with pytest.raises(GrpcError, match=EXPIRED) as caught:
        async with replica.discovery(expired)() as stream:
            await stream.receive()
    assert caught.value.status is StatusCode.UNAUTHENTICATED


async def test_a_token_of_no_pod_or_of_one_that_has_ended_acts_for_nobody(
    plane: ControlPlane, replica: Replica, token: str
) -> None:
    unbound = plane.token(NAMESPACE, "ztunnel", "--audience=istio-ca")
    told = await refusal(replica, unbound, StatusCode.PERMISSION_DENIED)
    assert "the token of ambimesh-system/ztunnel does not say on which node it runs" in told
    patch = ("patch", "pod", "ztunnel-t", "-n", NAMESPACE, "--subresource=status", "--type=merge", "-p")
    await trio.to_thread.run_sync(plane.kubectl, *patch, '{"status": {"phase": "Failed"}}')

    await until_told("which has ended", replica, token)


async def test_a_token_of_a_deleted_account_is_worth_nothing(
    plane: ControlPlane, replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(token_review_driver, "KEPT_SECONDS", 0.0)
    uid = run_pod(plane, NAMESPACE, "going", "going", "node7", "10.0.7.3")
    token = pod_token(plane, NAMESPACE, "going", "going", uid)
    await until_told("going may not act for", replica, token)
    await trio.to_thread.run_sync(plane.kubectl, "delete", "serviceaccount", "going", "-n", NAMESPACE)
    # The API server keeps its own answers for some seconds.
    await until_told("the token is not good", replica, token)
