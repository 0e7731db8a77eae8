"""Key sets, fetched and kept: the machine of this name with clock, sockets and whoever waits."""

from __future__ import annotations

import random
import ssl
from collections.abc import Iterable
from typing import Never

import structlog
import trio

from mesh.errors import InvalidValue, MeshError
from waypoint.security.http_client_driver import Connect, HttpCall, exchange
from waypoint.security.key_set_codec import DISCOVERY_PATH, MAX_DOCUMENT_BYTES, KeySet, decode_discovery, decode_key_set
from waypoint.security.key_store_machine import KeyStoreLimits, KeyStoreMachine
from waypoint.security.tokens import KeysWanted

_log = structlog.get_logger()
_AT_ONCE = 8


class KeyStore:
    """All key sets of one waypoint."""

    def __init__(
        self,
        ssl_context: ssl.SSLContext | None = None,
        limits: KeyStoreLimits = KeyStoreLimits(),  # noqa: B008 - frozen
        *,
        fetch_seconds: float = 5.0,
        connect: Connect = trio.open_tcp_stream,
    ) -> None:
        """Prepare an empty store.

        Args:
            ssl_context: for https; None: the system's roots.
            limits: when to fetch.
            fetch_seconds: for one fetch, from connecting to the last byte.
            connect: how to reach a server.
        """
        self._machine = KeyStoreMachine(limits)
        self._ssl_context = ssl_context
        self._fetch_seconds = fetch_seconds
        self._connect = connect
        self._changed = trio.Event()
        self._asked = trio.Event()
        self._at_once = trio.CapacityLimiter(_AT_ONCE)

    def keys(self, uri: str) -> KeySet | None:
        """The keys of an address, if they are there (``waypoint.security.tokens.KeyLookup``)."""
        return self._machine.keys(uri, trio.current_time())

    def want(self, uris: Iterable[str]) -> None:
        """Fetch these ahead of the first token."""
        for uri in uris:
            self._machine.wanted(uri, trio.current_time())
        self._asked.set()

    async def wait(self, wanted: KeysWanted) -> bool:
        """Wait for a fetch that a token needs. Returns whether there is something new to judge it by."""
        now = trio.current_time()
        if self._newer(wanted, now):
            return True  # They have come since the token was judged.
        if wanted.known is not None:
            worth_while = self._machine.key_unknown(wanted.uri, now)
        else:
            worth_while = self._machine.wanted(wanted.uri, now) and self._machine.pending(wanted.uri)
        self._asked.set()
        if worth_while:
            with trio.move_on_after(wanted.timeout_seconds):
                while True:
                    await self._changed.wait()
                    if not self._machine.pending(wanted.uri):
                        break
        return self._newer(wanted, trio.current_time())

    def _newer(self, wanted: KeysWanted, now: float) -> bool:
        """Whether there are other keys than those that the token was judged by."""
        keys = self._machine.keys(wanted.uri, now)
        return keys is not None and keys is not wanted.known

    async def run(self) -> Never:
        """Fetch what is due, until cancelled."""
        async with trio.open_nursery() as nursery:
            while True:
                for uri in self._machine.due(trio.current_time()):
                    nursery.start_soon(self._fetch, uri)
                self._asked = trio.Event()
                next_due = self._machine.next_due()
                with trio.CancelScope(deadline=float("inf") if next_due is None else next_due):
                    await self._asked.wait()

    async def _fetch(self, uri: str) -> None:
        try:
            async with self._at_once:
                document = await self._get(uri)
                if uri.endswith(DISCOVERY_PATH):
                    document = await self._get(decode_discovery(document, uri))
            keys = decode_key_set(document)
        except MeshError as error:
            _log.warning("key set not fetched", uri=uri, error=str(error))
            self._machine.failed(uri, trio.current_time(), random.random())
        else:
            self._machine.fetched(uri, keys, trio.current_time())
        # Whoever waits looks for itself; and the loop must learn when this address is due again.
        self._changed.set()
        self._changed = trio.Event()
        self._asked.set()

    async def _get(self, uri: str) -> bytes:
        answer = await exchange(
            HttpCall(url=uri, timeout_seconds=self._fetch_seconds, max_body_bytes=MAX_DOCUMENT_BYTES),
            self._ssl_context,
            self._connect,
        )
        if answer.status != 200:
            raise InvalidValue(f"status {answer.status}" + (", not followed" if 300 <= answer.status < 400 else ""))
        return answer.body
