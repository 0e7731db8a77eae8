"""Rate limits that all replicas of a waypoint share, counted in a store that speaks the Redis protocol.

Theory of operation. A bucket is a hash in the store with its tokens and the time it was last looked at. Taking a token
reads, fills, takes and writes, and must be one step for all replicas, so the store does it: a script (``EVAL`` runs
atomically) that uses the store's own clock, for replicas' clocks differ. A bucket nobody asks for expires when it would
be full again. The script is sent once per connection and then named by its hash (``EVALSHA``).

Requests of one moment share the connection: commands go out as they come, answers come in the same order. A request
waits ``timeout_seconds`` at most; after that nobody waits for ``retry_seconds``: whoever asks learns at once that there
is no answer. A connection that owes an answer for ``connect_seconds`` is given up and made anew, since a store that has
vanished does not say so.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from hashlib import sha1
from pathlib import Path
from ssl import SSLContext
from typing import Final, Never

import structlog
import trio

from mesh.errors import InvalidMessage
from waypoint.security.rate_limit_machine import CompiledLimit
from waypoint.security.resp_codec import Reply, ReplyError, ReplyReader, encode_command

_log = structlog.get_logger()

SCRIPT: Final = b"""
local capacity, rate = tonumber(ARGV[1]), tonumber(ARGV[2])
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1000000
local kept = redis.call('HMGET', KEYS[1], 't', 'u')
local tokens, updated = tonumber(kept[1]), tonumber(kept[2])
if tokens == nil or updated == nil then
  tokens = capacity
else
  tokens = math.min(capacity, tokens + math.max(0, now - updated) * rate)
end
local wait = 0
if tokens >= 1 then
  tokens = tokens - 1
else
  wait = (1 - tokens) / rate
end
redis.call('HSET', KEYS[1], 't', tostring(tokens), 'u', string.format('%.6f', now))
redis.call('PEXPIRE', KEYS[1], math.ceil(1000 * capacity / rate) + 1000)
return math.ceil(wait * 1000)
"""
_SHA: Final = sha1(SCRIPT, usedforsecurity=False).hexdigest().encode()
_READ: Final = 65536
_MAX_WAITING: Final = 4096

Connect = Callable[[], Awaitable[trio.abc.Stream]]


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreSettings:
    """How the store is used."""

    host: str
    port: int = 6379
    user: str = ""
    password_file: Path | None = None
    """Read for each connection, so that a password may be changed."""
    tls: SSLContext | None = None
    """None: plain TCP."""
    prefix: str = "ambimesh:limit:"
    """Of all keys."""
    timeout_seconds: float = 0.05
    """For one answer."""
    connect_seconds: float = 1.0
    retry_seconds: float = 1.0


class _Asked:
    __slots__ = ("answered", "reply", "since")

    def __init__(self) -> None:
        self.answered = trio.Event()
        self.reply: Reply | None = None
        self.since = trio.current_time()


class SharedLimits:
    """One waypoint's way to the store."""

    def __init__(self, settings: StoreSettings, connect: Connect | None = None) -> None:
        """Prepare; ``run`` connects.

        Args:
            settings: see there.
            connect: how to reach the store; None: TCP to the settings' host and port.
        """
        self._settings = settings
        self._connect = connect or self._dial
        self._stream: trio.abc.Stream | None = None
        self._asked: deque[_Asked] = deque()
        self._output = bytearray()
        self._woken = trio.Event()
        self._silent_until = float("-inf")
        self._told = ""
        """What was logged last about the connection."""

    @property
    def answering(self) -> bool:
        """Whether there is any use in asking now."""
        return (
            self._stream is not None
            and len(self._asked) < _MAX_WAITING
            and trio.current_time() >= self._silent_until
        )

    async def take(self, limit: CompiledLimit, key: bytes) -> float | None:
        """Take a token.

        Args:
            limit: which limit.
            key: ``CompiledLimit.key``.

        Returns:
            0 if there was one, else the seconds until there is; None: the store did not answer (``RLSE``).
        """
        name = self._settings.prefix.encode() + limit.name.encode(errors="replace") + b":" + key.hex().encode()
        arguments = (b"1", name, b"%.17g" % limit.capacity, b"%.17g" % limit.per_second)
        with trio.move_on_after(self._settings.timeout_seconds):
            reply = await self._ask(b"EVALSHA", _SHA, *arguments)
            if isinstance(reply, ReplyError) and reply.text.startswith("NOSCRIPT"):
                reply = await self._ask(b"EVAL", SCRIPT, *arguments)
            if isinstance(reply, int):
                return reply / 1000.0
            if reply is not None:
                self._away(f"it refuses: {reply!r:.200}")
            return None
        self._away(f"no answer within {self._settings.timeout_seconds:g} s")
        return None

    def _away(self, why: str) -> None:
        """There is no use in asking for a while."""
        self._silent_until = trio.current_time() + self._settings.retry_seconds
        self._tell(why)

    def _tell(self, why: str) -> None:
        """Log what is new."""
        if why != self._told:
            self._told = why
            store = f"{self._settings.host}:{self._settings.port}"
            if why:
                _log.warning("the store of shared rate limits is away", store=store, error=why)
            else:
                _log.info("the store of shared rate limits answers", store=store)

    async def _ask(self, *parts: bytes) -> Reply | None:
        if not self.answering:
            return None
        asked = _Asked()
        self._asked.append(asked)
        self._output += encode_command(*parts)
        self._woken.set()
        await asked.answered.wait()
        return asked.reply

    async def run(self) -> Never:
        """Keep a connection, until cancelled."""
        while True:
            try:
                with trio.fail_after(self._settings.connect_seconds):
                    stream = await self._connect()
                try:
                    await self._serve(stream)
                finally:
                    await trio.aclose_forcefully(stream)
                self._tell("it has closed the connection")
            except (OSError, trio.BrokenResourceError, InvalidMessage) as error:
                self._tell(str(error.__cause__ or error) or repr(error))
            except trio.TooSlowError:
                self._tell("no connection in time")
            await trio.sleep(self._settings.retry_seconds)

    async def _dial(self) -> trio.abc.Stream:
        settings = self._settings
        stream = await trio.open_tcp_stream(settings.host, settings.port)
        if settings.tls is None:
            return stream
        secured = trio.SSLStream(stream, settings.tls, server_hostname=settings.host)
        try:
            await secured.do_handshake()
        except BaseException:
            await trio.aclose_forcefully(secured)
            raise
        return secured

    async def _serve(self, stream: trio.abc.Stream) -> None:
        failure: Exception | None = None
        self._asked.clear()
        self._output.clear()
        greeting = self._greeting()
        if greeting:
            self._asked.append(_Asked())
            self._output += greeting
        self._woken.set()
        self._stream = stream
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._write, stream)
                nursery.start_soon(self._watch, nursery.cancel_scope)
                try:
                    await self._read(stream)
                except (trio.BrokenResourceError, InvalidMessage) as error:
                    failure = error
                nursery.cancel_scope.cancel()
        finally:
            # Whoever waits must not wait for the whole timeout.
            self._stream = None
            while self._asked:
                self._asked.popleft().answered.set()
        if failure is not None:
            raise failure

    def _greeting(self) -> bytes:
        """What is said first: who we are, if the store wants to know."""
        settings = self._settings
        if settings.password_file is None:
            return b""
        password = settings.password_file.read_bytes().strip()
        return encode_command(b"AUTH", *([settings.user.encode()] if settings.user else []), password)

    async def _watch(self, connection: trio.CancelScope) -> None:
        """End a connection that owes an answer for too long."""
        longest = self._settings.connect_seconds
        while True:
            await trio.sleep(longest)
            if self._asked and trio.current_time() - self._asked[0].since > longest:
                connection.cancel()

    async def _write(self, stream: trio.abc.Stream) -> None:
        while True:
            await self._woken.wait()
            self._woken = trio.Event()
            if self._output:
                output, self._output = bytes(self._output), bytearray()
                try:
                    await stream.send_all(output)
                except trio.BrokenResourceError:
                    return  # The reader notices as well, and says why.

    async def _read(self, stream: trio.abc.Stream) -> None:
        reader = ReplyReader()
        while data := await stream.receive_some(_READ):
            for reply in reader.receive(bytes(data)):
                if not self._asked:
                    raise InvalidMessage("the store answers what nobody has asked")
                asked = self._asked.popleft()
                if isinstance(reply, ReplyError) and not reply.text.startswith("NOSCRIPT"):
                    self._away(f"it refuses: {reply!r:.200}")
                else:
                    self._silent_until = float("-inf")
                    self._tell("")
                asked.reply = reply
                asked.answered.set()
