"""TokenReview: what is asked, and what the answer says of the caller. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import msgspec

from mesh.errors import CallerUnknown, InvalidMessage

_PREFIX = "system:serviceaccount:"
_POD_NAME = "authentication.kubernetes.io/pod-name"
_POD_UID = "authentication.kubernetes.io/pod-uid"
_NODE_NAME = "authentication.kubernetes.io/node-name"


@dataclass(frozen=True, slots=True)
class Reviewed:
    """Whose token it is."""

    namespace: str
    service_account: str
    pod: str
    """The pod the token was given to; empty for one that is bound to none."""
    pod_uid: str
    node: str
    """Of the pod, where the API server says it (Kubernetes 1.30 and later)."""


class _User(msgspec.Struct, frozen=True):
    username: str = ""
    extra: dict[str, list[str]] | None = None


class _Status(msgspec.Struct, frozen=True):
    authenticated: bool = False
    user: _User = _User()
    audiences: list[str] | None = None
    error: str = ""


class _Review(msgspec.Struct, frozen=True):
    status: _Status = _Status()


def review_of(token: str, audiences: Iterable[str]) -> dict[str, Any]:
    """The object to be created."""
    return {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenReview",
        "spec": {"token": token, "audiences": list(audiences)},
    }


def read_review(answer: bytes, audiences: Iterable[str]) -> Reviewed:
    """What the API server says of a token.

    Raises:
        CallerUnknown: it is not good, not for us, or of no service account.
        InvalidMessage: the answer is no TokenReview.
    """
    try:
        status = msgspec.json.decode(answer, type=_Review).status
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise InvalidMessage(f"the answer is no TokenReview: {error}") from error
    wanted = tuple(audiences)
    if not status.authenticated:
        reason = status.error.strip() or "the API server does not know it"
        raise CallerUnknown(
            f"the token is not good: {reason[:512]}; it must be a service account's, for the audience "
            f"{' or '.join(wanted)}, and not expired"
        )
    # An API server that does not know of audiences leaves them out, and has then not looked at them.
    if not set(status.audiences or ()) & set(wanted):
        raise CallerUnknown(f"the token is not for the audience {' or '.join(wanted)}")
    namespace, _, account = status.user.username.removeprefix(_PREFIX).partition(":")
    if not status.user.username.startswith(_PREFIX) or not namespace or not account:
        raise CallerUnknown(f"the token is of {status.user.username[:128]!r}, which is no service account")
    extra = status.user.extra or {}

    def first(name: str) -> str:
        values = extra.get(name) or [""]
        return values[0]

    return Reviewed(namespace, account, first(_POD_NAME), first(_POD_UID), first(_NODE_NAME))
