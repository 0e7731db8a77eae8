"""Requests to the Kubernetes API, for whoever reads or writes objects."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, ClassVar
from urllib.parse import quote, urlencode

import msgspec
import structlog
import trio

from mesh.errors import ConnectFailed, Fault, MeshError
from resources.kube.credentials_driver import ApiSettings, Credentials
from resources.kube.stream_codec import read_status
from resources.kube.transport_driver import Connection, HttpHead, HttpRequest, Transport

MAX_ANSWER = 64 << 20
"""Bytes of one page of a list, which has at most 500 objects."""
REQUEST_SECONDS = 60.0
APPLY = "application/apply-patch+yaml"
MERGE = "application/merge-patch+json"
_UNAUTHORIZED = 401
_log = structlog.get_logger("kubernetes")


class ApiRefused(MeshError):
    """The API server answered a request with an error."""

    fault: ClassVar[Fault] = Fault.CONFIGURATION

    def __init__(self, status: int, message: str, reason: str = "", retry_after: float = 0.0) -> None:
        super().__init__(f"the API server refuses with {status}: {message}")
        self.status = status
        self.text = message
        self.reason = reason
        """A word of the API's, such as ``AlreadyExists``; empty if it sent none."""
        self.retry_after = retry_after
        """Seconds the server asks to wait; 0 if it does not."""


class ApiClient:
    """One API server, as one caller."""

    def __init__(self, settings: ApiSettings) -> None:
        self._credentials = Credentials(settings)
        self._transport = Transport()

    async def check(self) -> None:
        """See whether there is a way to a server; it need not answer.

        Raises:
            ConfigurationError: there is none.
        """
        await self._credentials.access()

    async def close(self) -> None:
        """Close connections that are kept."""
        await self._transport.close()

    async def request(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: Any = None,
        content_type: str = "application/json",
    ) -> bytes:
        """Make a request and give back the answer's body.

        Args:
            method: such as ``GET``.
            path: below the server's address.
            query: parameters.
            body: anything msgspec encodes; None for none.
            content_type: of the body.

        Raises:
            ApiRefused: the answer is an error.
            ConfigurationError: there is no way to the server.
            ConnectFailed, TlsFailure, ConnectionLost, ProtocolViolation: the server cannot be talked to.
        """
        encoded = b"" if body is None else msgspec.json.encode(body)
        request = HttpRequest(method, _target(path, query), encoded, content_type)
        for attempt in (1, 2):
            generation = self._credentials.generation
            access = await self._credentials.access()
            with trio.move_on_after(REQUEST_SECONDS) as scope:
                head, answer = await self._transport.exchange(access, request, MAX_ANSWER)
            if scope.cancelled_caught:
                raise ConnectFailed(f"the API server did not answer within {REQUEST_SECONDS:g} s: {method} {path}")
            if head.status < 300:
                return answer
            if head.status != _UNAUTHORIZED or attempt == 2:
                raise _refusal(head, answer)
            await self._credentials.renew(generation)
        raise AssertionError("unreachable")

    async def get(self, path: str, query: Mapping[str, str] | None = None) -> Any:
        """The JSON at an address, decoded. Raises as :meth:`request`."""
        return msgspec.json.decode(await self.request("GET", path, query))

    async def create(self, path: str, body: Any) -> Any:
        """Create an object; what the server made of it. Raises as :meth:`request`."""
        return msgspec.json.decode(await self.request("POST", path, body=body))

    async def replace(self, path: str, body: Any) -> Any:
        """Replace an object, of the version that the body names. Raises as :meth:`request`."""
        return msgspec.json.decode(await self.request("PUT", path, body=body))

    async def apply(self, path: str, body: Any, manager: str, *, force: bool = True) -> Any:
        """Server-side apply: set the fields given and own them, leave others' alone. Raises as :meth:`request`.

        Args:
            path: of the object, or of its ``status``.
            body: ``apiVersion``, ``kind``, ``metadata.name`` and the fields that are ours.
            manager: as whom.
            force: take over fields that others own.
        """
        query = {"fieldManager": manager, "force": "true" if force else "false"}
        return msgspec.json.decode(await self.request("PATCH", path, query, body, APPLY))

    @asynccontextmanager
    async def stream(self, path: str, query: Mapping[str, str]) -> AsyncIterator[Connection]:
        """An answer that is read as it comes. Raises as :meth:`request`, also while it is read."""
        generation = self._credentials.generation
        access = await self._credentials.access()
        async with self._transport.stream(access, HttpRequest("GET", _target(path, query))) as (head, connection):
            if head.status >= 300:
                body = bytearray()
                while (data := await connection.read()) is not None and len(body) < 65536:
                    body += data
                if head.status == _UNAUTHORIZED:
                    await self._credentials.renew(generation)
                raise _refusal(head, bytes(body))
            yield connection


def _target(path: str, query: Mapping[str, str] | None) -> str:
    return quote(path) + (f"?{urlencode(query)}" if query else "")


def _refusal(head: HttpHead, body: bytes) -> ApiRefused:
    status = read_status(body)
    after = head.headers.get("retry-after", "")
    seconds = float(after) if after.isascii() and after.isdigit() and len(after) < 6 else 0.0
    return ApiRefused(head.status, status.message or "no reason given", status.reason, seconds)
