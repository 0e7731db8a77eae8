"""Who calls: bearer tokens to node and service account.

Tokens are checked through one seam, so that a file of known tokens (the lab) and the Kubernetes API's TokenReview are
the same to those who ask. The file holds SHA-256 digests, not tokens: reading it gives nobody a way in. Tokens are
random and long, so a plain digest is enough.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Protocol

import msgspec
import structlog

from mesh import config
from mesh.clock import utc_now
from mesh.config import Settings
from mesh.errors import CallerUnknown, ConfigurationError

MAX_TOKEN = 8192
_BEARER = re.compile(r"[Bb]earer +([!-~]+)")
_log = structlog.get_logger("controlplane.authentication")


@dataclass(frozen=True, slots=True)
class Caller:
    """Who a token belongs to."""

    namespace: str
    service_account: str
    node: str
    """The node the token's holder runs on; empty when that is not known."""
    pod: str = ""
    """The name of the pod that holds the token; empty when that is not known."""

    @property
    def account(self) -> str:
        """``namespace/service account``."""
        return f"{self.namespace}/{self.service_account}"


class TokenAuthenticator(Protocol):
    """Whoever can tell whose token this is."""

    async def authenticate(self, token: str) -> Caller:
        """The token's owner.

        Raises:
            CallerUnknown: nobody's, or expired.
            ControlPlaneUnavailable: that cannot be found out now.
        """
        ...


async def authenticate_call(authenticator: TokenAuthenticator, metadata: Mapping[str, str]) -> Caller:
    """Who makes a call with these header fields.

    Raises:
        CallerUnknown: no bearer token, or one that is not good.
    """
    header = metadata.get("authorization", "")
    match = _BEARER.fullmatch(header) if len(header) <= MAX_TOKEN else None
    if match is None:
        raise CallerUnknown("the call has no bearer token: send the header authorization: Bearer TOKEN")
    return await authenticator.authenticate(match[1])


class TokenEntry(Settings, frozen=True, kw_only=True):
    """One token of the file."""

    sha256: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
    """Of the token's text, in lower-case hexadecimal digits."""
    namespace: str
    service_account: str
    node: str = ""
    expires: str = ""
    """RFC 3339; empty for never."""


class TokenFile(Settings, frozen=True, kw_only=True):
    """The file's content."""

    tokens: list[TokenEntry] = msgspec.field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Known:
    digest: bytes
    caller: Caller
    expires: datetime | None


class StaticTokens:
    """Tokens by a file that is read again when it changes; a broken new version leaves the last good one in force."""

    def __init__(self, path: Path, now: Callable[[], datetime] = utc_now) -> None:
        """Read the file.

        Raises:
            ConfigurationError: it is unreadable or broken.
        """
        self._path = path
        self._now = now
        self._stamp = _stamp(path)
        self._known = _load(path)

    async def authenticate(self, token: str) -> Caller:
        """The token's owner.

        Raises:
            CallerUnknown: it is not in the file, or expired.
        """
        self._reload()
        digest = hashlib.sha256(token.encode()).digest()
        found: _Known | None = None
        # All entries are compared, in constant time each: how long it takes tells nothing about what is known.
        for known in self._known:
            if hmac.compare_digest(known.digest, digest):
                found = known
        if found is None:
            raise CallerUnknown("the token is not known here: it may be of another mesh, or have been replaced")
        if found.expires is not None and found.expires <= self._now():
            raise CallerUnknown(f"the token of {found.caller.account} expired at {found.expires.isoformat()}")
        return found.caller

    def _reload(self) -> None:
        stamp = _stamp(self._path)
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._known = _load(self._path)
        except ConfigurationError as error:
            _log.error("token_file_not_taken", error=str(error), effect="the last good version stays in force")
            return
        _log.info("token_file_reloaded", file=str(self._path), tokens=len(self._known))


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return (status.st_ino, status.st_size, status.st_mtime_ns)


def _load(path: Path) -> tuple[_Known, ...]:
    known = []
    for index, entry in enumerate(config.load(path, TokenFile).tokens):
        caller = Caller(entry.namespace, entry.service_account, entry.node)
        try:
            expires = datetime.fromisoformat(entry.expires) if entry.expires else None
        except ValueError as error:
            message = f"{path}: $.tokens[{index}].expires: {entry.expires!r} is no RFC 3339 time"
            raise ConfigurationError(message) from error
        if expires is not None and expires.tzinfo is None:
            expires = expires.replace(tzinfo=UTC)
        known.append(_Known(bytes.fromhex(entry.sha256), caller, expires))
    return tuple(known)
