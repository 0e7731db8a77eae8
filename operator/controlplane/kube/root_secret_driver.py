"""The mesh's authority in a Secret: made once, whoever comes first, and followed when it changes.

All replicas do the same. Who finds no Secret creates one, and who is refused because another was first reads that one.
Every change names the version that was read, so a rotation's steps are taken once, whoever takes them. Nobody leads
here: an operator that cannot become the leader must still be able to sign.

A given authority (another Secret) is used instead where there is one. What is given is followed by ``succession``; a
third Secret keeps its state: what signs, with its key, since what is given may be another by now, and whom to trust.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Any, Never

import structlog
import trio

from controlplane.ca.authority import Authority, make_root
from controlplane.ca.rotation import Pace, RootRecord, advance
from controlplane.ca.succession import LONG_AGO, Signer, Succession, begun
from controlplane.ca.succession import advance as advance_succession
from controlplane.kube.root_secret_format import (
    ROTATE_ANNOTATION,
    authority_of,
    authority_of_succession,
    is_urgent,
    kept_secret_of,
    read_given,
    read_kept,
    read_record,
    secret_of,
    signer_of,
)
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
        self._kept_name = f"{given_name}-kept"
        self._trust_domain = trust_domain
        self._pace = pace
        self._state: object = None
        self._trouble = ""
        """What is wrong, as of the last look."""
        self._told = ""

    async def load(self) -> tuple[Authority, bytes | None]:
        """The authority, made if there is none; and a secret all replicas share, None if it is to be derived.

        Raises:
            ConfigurationError: a Secret is broken.
            ApiRefused, ConnectFailed and others: the API server does not let us, or does not answer.
        """
        given = await self._read(self._given_name)
        kept = await self._read(self._kept_name)
        secret = await self._read(self._name)
        if given is None:
            secret = await self._advanced(secret if secret is not None else await self._create())
        record = read_record(secret) if secret is not None else None
        if given is None and kept is None:
            assert record is not None, "made above"
            self._state = _content(secret)
            return authority_of(record, f"Secret {self._namespace}/{self._name}"), record.sessions
        succession, sessions = await self._succeeded(given, kept, record)
        self._state = succession
        return authority_of_succession(succession, f"Secret {self._namespace}/{self._kept_name}"), sessions

    async def _succeeded(
        self, given: dict[str, Any] | None, kept: dict[str, Any] | None, record: RootRecord | None
    ) -> tuple[Succession, bytes]:
        """What is given, or the self-made root, in succession to what signed before; and what replicas share."""
        now = utc_now()
        before, sessions = read_kept(kept) if kept is not None else (None, b"")
        if before is None and record is not None:  # what is made of it has to be believed until its end
            before, sessions = begun(signer_of(record), LONG_AGO), record.sessions
        wished = self._wished(given, before) if given is not None else signer_of(_there(record))
        if before is None:
            after, sessions = begun(wished, now), secrets.token_bytes(32)
        else:
            urgent = given is not None and is_urgent(given)
            after = advance_succession(before, wished, now, self._pace, at_once=urgent)
        if kept is not None and after is before:
            return after, sessions
        version = kept["metadata"]["resourceVersion"] if kept is not None else ""
        body = kept_secret_of(after, sessions, self._kept_name, self._namespace, version)
        try:
            if kept is None:
                await self._client.create(self._folder, body)
            else:
                await self._client.replace(f"{self._folder}/{self._kept_name}", body)
        except ApiRefused as error:
            if error.status != 409:
                raise
            found = await self._read(self._kept_name)  # another replica has done the same
            if found is None:
                place = f"Secret {self._namespace}/{self._kept_name}"
                raise ConfigurationError(f"{place} comes and goes: try again") from error
            return read_kept(found)
        signs = before is None or before.signer != after.signer
        _log.info("authority_taken_over" if signs else "authority_trusted", roots=len(after.trusted))
        return after, sessions

    def _wished(self, given: dict[str, Any], before: Succession | None) -> Signer:
        """What is given; while that cannot be read, what signed before goes on."""
        try:
            signer = read_given(given)
        except ConfigurationError as error:
            if before is None:
                raise
            self._complain(error)
            return before.signer
        return signer

    def _complain(self, error: MeshError) -> None:
        self._trouble = str(error)
        if self._trouble != self._told:
            self._told = self._trouble
            _log.error("authority_not_followed", error=self._told, effect="the last good one stays")

    async def follow(self, changed: Callable[[Authority], None]) -> Never:
        """Tell of every change, until cancelled. What is broken meanwhile is logged; the last good one stays."""
        while True:
            await trio.sleep(LOOK_SECONDS)
            before, self._trouble = self._state, ""
            try:
                authority, _ = await self.load()
            except MeshError as error:
                self._state = before
                self._complain(error)
                continue
            self._told = self._trouble
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


def _there(record: RootRecord | None) -> RootRecord:
    assert record is not None, "a self-made root is made where none is given"
    return record


def _content(secret: dict[str, Any] | None) -> object:
    return secret.get("data") if secret is not None else None
