"""Callers by their service account tokens, which the API server vouches for.

A token says which pod it was given to. The pod must exist, be the very one (by its uid), run as the token's account and
have not ended; its node is where the caller may act for others. So a token that was carried off is worth no more than
its pod, and nothing once the pod is gone.

Answers are kept for a short while, good ones longer: a node proxy asks for dozens of certificates in a row. What is
kept is looked up by the token's digest; the token itself is not.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import structlog
import trio

from controlplane.ca.authentication import Caller
from controlplane.kube.token_review_codec import Reviewed, read_review, review_of
from mesh.errors import CallerUnknown, ControlPlaneUnavailable, MeshError
from resources.kube.client_driver import ApiClient
from resources.objects import Pod

KEPT_SECONDS = 60.0
"""How long a good token is not asked about again: how long one may be taken that was revoked meanwhile."""
REFUSED_SECONDS = 5.0
MAX_KEPT = 4096
_PATH = "/apis/authentication.k8s.io/v1/tokenreviews"
_log = structlog.get_logger("controlplane.authentication")


@dataclass(frozen=True, slots=True)
class _Kept:
    until: float
    answer: Reviewed | str
    """Whose it is, or why it is refused."""


class TokenReviews:
    """Authenticates by TokenReview."""

    def __init__(
        self, client: ApiClient, audiences: Sequence[str], find_pod: Callable[[str, str], Pod | None]
    ) -> None:
        """Begin with nothing known.

        Args:
            client: the API server.
            audiences: one of which a token must be for.
            find_pod: the pod of a namespace and name, as of now.
        """
        self._client = client
        self._audiences = tuple(audiences)
        self._find_pod = find_pod
        self._kept: OrderedDict[bytes, _Kept] = OrderedDict()

    async def authenticate(self, token: str) -> Caller:
        """The token's owner.

        Raises:
            CallerUnknown: the token is not good, or its pod is not (any more) what it was.
            ControlPlaneUnavailable: the API server cannot be asked.
        """
        return self._checked(await self._reviewed(token))

    async def _reviewed(self, token: str) -> Reviewed:
        digest = hashlib.sha256(token.encode()).digest()
        kept = self._kept.get(digest)
        if kept is None or kept.until <= trio.current_time():
            kept = await self._review(token)
            self._kept[digest] = kept
            self._kept.move_to_end(digest)
            while len(self._kept) > MAX_KEPT:
                self._kept.popitem(last=False)
        if isinstance(kept.answer, str):
            raise CallerUnknown(kept.answer)
        return kept.answer

    async def _review(self, token: str) -> _Kept:
        try:
            answer = await self._client.request("POST", _PATH, body=review_of(token, self._audiences))
            return _Kept(trio.current_time() + KEPT_SECONDS, read_review(answer, self._audiences))
        except CallerUnknown as error:
            return _Kept(trio.current_time() + REFUSED_SECONDS, str(error))
        except MeshError as error:
            _log.error("token_not_reviewed", error=str(error))
            raise ControlPlaneUnavailable(f"the token cannot be verified now: {error}") from error

    def _checked(self, reviewed: Reviewed) -> Caller:
        account = f"{reviewed.namespace}/{reviewed.service_account}"
        if not reviewed.pod:
            # Of an account, for itself; it can act for nobody, since it is on no node.
            return Caller(reviewed.namespace, reviewed.service_account, node="")
        pod = self._find_pod(reviewed.namespace, reviewed.pod)
        place = f"pod {reviewed.namespace}/{reviewed.pod}"
        if pod is None:
            raise CallerUnknown(f"the token of {account} was given to {place}, which is not (yet) known here")
        if pod.metadata.uid != reviewed.pod_uid:
            raise CallerUnknown(f"the token of {account} was given to an earlier {place}, which is no more")
        if pod.spec.account != reviewed.service_account:
            raise CallerUnknown(f"the token is of {account}, but {place} runs as {pod.spec.account}")
        if pod.status.ended:
            raise CallerUnknown(f"the token of {account} was given to {place}, which has ended")
        if reviewed.node and pod.spec.node_name != reviewed.node:
            raise CallerUnknown(f"the token of {account} is of node {reviewed.node}, {place} of {pod.spec.node_name}")
        return Caller(reviewed.namespace, reviewed.service_account, pod.spec.node_name, reviewed.pod)
