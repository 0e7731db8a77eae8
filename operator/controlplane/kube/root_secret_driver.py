"""The mesh's authority in a Secret: made once, whoever comes first, and followed when it changes.

All replicas do the same. Who finds no Secret creates one, and who is refused because another was first reads that one.
Every change names the version that was read, so a rotation's steps are taken once, whoever takes them. Nobody leads
here: an operator that cannot become the leader must still be able to sign.

A given authority (another Secret) is used instead where there is one; what the self-made root has signed stays trusted.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Any, Never

import structlog
import trio

from controlplane.ca.authority import Authority, make_root
from controlplane.ca.rotation import Pace, RootRecord, advance
from controlplane.kube.root_secret_format import ROTATE_ANNOTATION, authority_of, read_given, read_record, secret_of
from mesh.clock import utc_now
from mesh.errors import ConfigurationError, MeshError
from resources.kube.client_driver import ApiClient, ApiRefused

LOOK_SECONDS = 15.0
"""How often the Secrets are read again."""
_log = structlog.get_logger("controlplane.ca")


class RootSecret:
    """Keeps the authority of this installation."""

    def __init__(
        self, client: ApiClient, namespace: str, name: str, given_name: str, trust_domain: str, pace: Pace
    ) -> None:
        """Begin without one.

        Args:
            client: the API server.
            namespace: of the Secrets.
            name: of the self-made one.
            given_name: of the given one.
            trust_domain: for the name of a root that is made.
            pace: of rotations.
        """
        self._client = client
        self._namespace = namespace
        self._folder = f"/api/v1/namespaces/{namespace}/secrets"
        self._name = name
        self._given_name = given_name
        self._trust_domain = trust_domain
        self._pace = pace
        self._state: object = None
        self._problem = ""

    async def load(self) -> tuple[Authority, bytes | None]:
        """The authority, made if there is none; and a secret all replicas share, None if it is to be derived.

        Raises:
            ConfigurationError: a Secret is broken.
            ApiRefused, ConnectFailed and others: the API server does not let us, or does not answer.
        """
        given = await self._read(self._given_name)
        secret = await self._read(self._name)
        if given is None:
            secret = await self._advanced(secret if secret is not None else await self._create())
        record = read_record(secret) if secret is not None else None
        self._state = _content(given), _content(secret)
        sessions = record.sessions if record is not None else None
        if given is not None:
            return read_given(given, record.bundle if record is not None else b""), sessions
        assert record is not None, "made above"
        return authority_of(record, f"Secret {self._namespace}/{self._name}"), sessions

    async def follow(self, changed: Callable[[Authority], None]) -> Never:
        """Tell of every change, until cancelled. What is broken meanwhile is logged; the last good one stays."""
        while True:
            await trio.sleep(LOOK_SECONDS)
            before = self._state
            try:
                authority, _ = await self.load()
            except MeshError as error:
                self._state = before
                if str(error) != self._problem:
                    self._problem = str(error)
                    _log.error("authority_not_followed", error=self._problem, effect="the last good one stays")
                continue
            self._problem = ""
            if self._state != before:
                _log.info("authority_changed", signs_until=authority.certificate.not_valid_after_utc.isoformat())
                changed(authority)

    async def _create(self) -> dict[str, Any]:
        certificate, key = make_root(self._trust_domain)
        record = RootRecord(certificate=certificate, key=key, sessions=secrets.token_bytes(32))
        try:
            made: dict[str, Any] = await self._client.create(
                self._folder, secret_of(record, self._name, self._namespace)
            )
        except ApiRefused as error:
            if error.status != 409:
                raise
            found = await self._read(self._name)
            if found is None:
                raise ConfigurationError(f"Secret {self._namespace}/{self._name} comes and goes: try again") from error
            return found
        _log.info("authority_made", secret=f"{self._namespace}/{self._name}")
        return made

    async def _advanced(self, secret: dict[str, Any]) -> dict[str, Any]:
        """The Secret after the step of a rotation that is due, if any."""
        record = read_record(secret)
        request = (secret["metadata"].get("annotations") or {}).get(ROTATE_ANNOTATION, "")
        after = advance(record, request, utc_now(), self._pace, lambda: make_root(self._trust_domain))
        if after is record:
            return secret
        body = secret_of(after, self._name, self._namespace, secret["metadata"]["resourceVersion"])
        for kept in ("annotations", "labels"):
            if secret["metadata"].get(kept):
                body["metadata"][kept] = secret["metadata"][kept]
        try:
            written: dict[str, Any] = await self._client.replace(f"{self._folder}/{self._name}", body)
        except ApiRefused as error:
            if error.status != 409:
                raise
            return secret  # another replica has taken the step: its work is seen next time
        _log.info("authority_rotating", next_signs=after.certificate != record.certificate)
        return written

    async def _read(self, name: str) -> dict[str, Any] | None:
        try:
            found: dict[str, Any] = await self._client.get(f"{self._folder}/{name}")
        except ApiRefused as error:
            if error.status == 404:
                return None
            raise
        return found


def _content(secret: dict[str, Any] | None) -> object:
    return secret.get("data") if secret is not None else None
