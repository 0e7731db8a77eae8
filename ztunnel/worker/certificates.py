"""A worker's certificates: its own key for each identity, certified through the supervisor.

Every worker makes a key of its own and a request for it; the supervisor, which alone talks to the certificate service,
passes the request on and the chain back. So a private key lives and dies in the one process that uses it, no message
could carry one, and what a worker gives away when it is taken over ends with its own certificates. The price is a
certificate per worker and identity: some milliseconds of the authority's time at start and at each renewal. The other
way, one key for all, would have to cross a socket for every renewal, since renewals come long after the fork.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import count

import trio

from mesh.certificates.issued import accept_chain
from mesh.clock import Clock
from mesh.errors import IdentityUnavailable
from mesh.identity import SpiffeId
from mesh.tls.credentials import Credentials
from mesh.tls.csr import make_csr, make_key
from ztunnel.fanout.messages_codec import Certified, Certify


class RelayedCaClient:
    """A ``mesh.certificates.ca_client.CaClient`` that asks the supervisor."""

    def __init__(self, send: Callable[[Certify], None], clock: Clock) -> None:
        self._send = send
        self._clock = clock
        self._numbers = count(1)
        self._waiting: dict[int, tuple[trio.Event, list[Certified]]] = {}

    async def fetch(self, identity: SpiffeId) -> Credentials:
        """See ``CaClient``."""
        key = make_key()
        number = next(self._numbers)
        answered, answers = self._waiting[number] = trio.Event(), []
        try:
            self._send(Certify(number=number, identity=str(identity), request=make_csr(identity, key)))
            await answered.wait()
        finally:
            del self._waiting[number]
        (answer,) = answers
        if answer.error:
            raise IdentityUnavailable(answer.error)
        return accept_chain(identity, key, answer.chain, self._clock.wall())

    def answered(self, answer: Certified) -> None:
        """The supervisor has an answer; one that nobody waits for any more is dropped."""
        waiting = self._waiting.get(answer.number)
        if waiting is not None and not waiting[1]:
            waiting[1].append(answer)
            waiting[0].set()
