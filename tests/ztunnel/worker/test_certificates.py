from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from functools import partial

import pytest
import trio
import trio.testing
from cryptography.hazmat.primitives import serialization

from mesh.clock import SystemClock
from mesh.errors import IdentityUnavailable
from mesh.identity import SpiffeId
from mesh.testing.ca import TestAuthority
from mesh.tls.credentials import Credentials
from ztunnel.fanout.messages_codec import Certified, Certify, encode
from ztunnel.worker.certificates import RelayedCaClient


async def fetch(client: RelayedCaClient, identity: SpiffeId, *answers: Callable[[], Certified]) -> Credentials:
    """Ask, and give these answers once the client waits."""
    async with trio.open_nursery() as nursery:

        async def answer() -> None:
            await trio.testing.wait_all_tasks_blocked()
            for one in answers:
                client.answered(one())

        nursery.start_soon(answer)
        with trio.fail_after(5):
            return await client.fetch(identity)
    raise AssertionError("no answer")


async def test_the_key_stays_and_the_chain_comes() -> None:
    authority = TestAuthority()
    identity = authority.identity("demo", "a")
    sent: list[Certify] = []
    client = RelayedCaClient(sent.append, SystemClock())

    def signed() -> Certified:
        chain = authority.sign_csr(sent[0].request, lifetime=timedelta(hours=1))
        return Certified(number=sent[0].number, chain=[element.decode() for element in chain])

    credentials = await fetch(
        client,
        identity,
        lambda: Certified(number=77, error="somebody else's"),
        signed,
        lambda: Certified(number=sent[0].number, error="once more"),
    )
    assert credentials.identity == identity
    secret = credentials.key.private_numbers().private_value
    key = credentials.key.private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    assert sent[0].identity == str(identity)
    said = encode(sent[0])
    assert key not in said
    assert secret.to_bytes(32, "big") not in said


async def test_a_refusal_is_told_and_a_wrong_answer_is_not_taken() -> None:
    authority = TestAuthority()
    identity = authority.identity("demo", "a")
    for answer, words in (
        (Certified(number=1, error="no pod of this node has the identity"), "no pod"),
        (Certified(number=1, chain=["nonsense", "nonsense"]), "not PEM"),
    ):
        client = RelayedCaClient(lambda _: None, SystemClock())
        with pytest.raises(ExceptionGroup) as caught:
            await fetch(client, identity, partial(lambda given: given, answer))
        matching = caught.value.subgroup(IdentityUnavailable)
        assert matching is not None
        assert words in str(matching.exceptions[0])
