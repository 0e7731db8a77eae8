from __future__ import annotations

import json
from typing import Any

import pytest

from controlplane.ca.authentication import Caller
from controlplane.kube import token_review_driver
from controlplane.kube.token_review_codec import Reviewed, read_review, review_of
from controlplane.kube.token_review_driver import TokenReviews
from mesh.errors import CallerUnknown, ControlPlaneUnavailable, InvalidMessage
from resources.base import ObjectMeta
from resources.kube.client_driver import ApiClient
from resources.objects import Pod
from resources.pod import Container, PodSpec, PodStatus
from resources.testing.api_server import ApiServer

AUDIENCES = ("istio-ca", "ambimesh")


def status(**changes: Any) -> dict[str, Any]:
    extra = {
        "authentication.kubernetes.io/pod-name": ["ztunnel-1"],
        "authentication.kubernetes.io/pod-uid": ["u1"],
        "authentication.kubernetes.io/node-name": ["node1"],
    }
    user = {"username": "system:serviceaccount:ambimesh-system:ztunnel", "extra": extra}
    return {"authenticated": True, "audiences": ["istio-ca"], "user": user, **changes}


def answer(**changes: Any) -> bytes:
    return json.dumps({"kind": "TokenReview", "status": status(**changes)}).encode()


def pod(uid: str = "u1", account: str = "ztunnel", node: str = "node1", phase: str = "Running") -> Pod:
    return Pod(
        metadata=ObjectMeta(name="ztunnel-1", namespace="ambimesh-system", uid=uid),
        spec=PodSpec(containers=(Container(name="c"),), service_account_name=account, node_name=node),
        status=PodStatus(phase=phase),
    )


def test_what_a_good_answer_says() -> None:
    assert read_review(answer(), AUDIENCES) == Reviewed("ambimesh-system", "ztunnel", "ztunnel-1", "u1", "node1")
    assert review_of("t", AUDIENCES)["spec"] == {"token": "t", "audiences": ["istio-ca", "ambimesh"]}


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"authenticated": False, "error": "token has expired"}, "token has expired"),
        ({"authenticated": False}, "does not know it"),
        ({"audiences": []}, "not for the audience istio-ca or ambimesh"),
        ({"audiences": ["https://kubernetes.default.svc"]}, "not for the audience"),
        ({"audiences": None}, "not for the audience"),
        ({"user": {"username": "admin"}}, "'admin', which is no service account"),
        ({"user": {"username": "system:serviceaccount:x"}}, "is no service account"),
    ],
)
def test_what_is_refused_and_why(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(CallerUnknown, match=text):
        read_review(answer(**changes), AUDIENCES)


def test_what_is_no_answer() -> None:
    for body in (b"", b"[]", b'{"status": 3}', b"\xff"):
        with pytest.raises(InvalidMessage):
            read_review(body, AUDIENCES)


async def test_a_pod_of_the_node_is_known_and_asked_about_once(server: ApiServer, client: ApiClient) -> None:
    server.reviews["good"] = status()
    reviews = TokenReviews(client, AUDIENCES, lambda namespace, name: pod())
    for _ in range(3):
        assert await reviews.authenticate("good") == Caller("ambimesh-system", "ztunnel", "node1", "ztunnel-1")
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("found", "text"),
    [
        (None, "which is not .yet. known here"),
        (pod(uid="u2"), "an earlier pod ambimesh-system/ztunnel-1, which is no more"),
        (pod(account="other"), "is of ambimesh-system/ztunnel, but pod .* runs as other"),
        (pod(phase="Failed"), "which has ended"),
        (pod(node="node2"), "is of node node1, pod .* of node2"),
    ],
)
async def test_a_token_is_worth_no_more_than_its_pod(
    server: ApiServer, client: ApiClient, found: Pod | None, text: str
) -> None:
    server.reviews["good"] = status()
    reviews = TokenReviews(client, AUDIENCES, lambda namespace, name: found)
    with pytest.raises(CallerUnknown, match=text):
        await reviews.authenticate("good")


async def test_a_token_of_no_pod_is_on_no_node(server: ApiServer, client: ApiClient) -> None:
    server.reviews["bare"] = status(user={"username": "system:serviceaccount:a:b"})
    reviews = TokenReviews(client, AUDIENCES, lambda namespace, name: None)
    assert await reviews.authenticate("bare") == Caller("a", "b", "")


async def test_an_expired_token_is_refused_with_the_reason_and_not_asked_about_at_once_again(
    server: ApiServer, client: ApiClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.reviews["old"] = {"authenticated": False, "error": "[invalid bearer token, token has expired]"}
    reviews = TokenReviews(client, AUDIENCES, lambda namespace, name: None)
    for _ in range(2):
        with pytest.raises(CallerUnknown, match=r"token has expired.*must be a service account's"):
            await reviews.authenticate("old")
    assert len(server.requests) == 1
    monkeypatch.setattr(token_review_driver, "MAX_KEPT", 2)
    for number in range(4):
        with pytest.raises(CallerUnknown):
            await reviews.authenticate(f"bad{number}")
    assert len(reviews._kept) == 2


async def test_an_api_server_that_is_away_is_nobodys_refusal(server: ApiServer, client: ApiClient) -> None:
    server.faults.away = True
    reviews = TokenReviews(client, AUDIENCES, lambda namespace, name: pod())
    with pytest.raises(ControlPlaneUnavailable, match="cannot be verified now"):
        await reviews.authenticate("good")
