from __future__ import annotations

import base64
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import trio
from cryptography.hazmat.primitives import serialization

from controlplane.ca.authority import Authority, make_root
from controlplane.ca.rotation import Pace, Retired, RootRecord
from controlplane.ca.succession import Signer, begun
from controlplane.kube import root_secret_driver
from controlplane.kube.root_secret_driver import RootSecret
from controlplane.kube.root_secret_format import (
    AT_ONCE_ANNOTATION,
    ROTATE_ANNOTATION,
    authority_of,
    kept_secret_of,
    read_given,
    read_kept,
    read_record,
    secret_of,
)
from mesh.errors import ConfigurationError
from resources.kube.client_driver import ApiClient, ApiRefused
from resources.testing.api_server import ApiServer

PACE = Pace(spread=timedelta(hours=24), afterlife=timedelta(days=90))
SECRETS = "/secrets"


def record() -> RootRecord:
    certificate, key = make_root("cluster.local")
    return RootRecord(certificate=certificate, key=key, sessions=b"s" * 32)


def keeper(client: ApiClient, pace: Pace = PACE) -> RootSecret:
    return RootSecret(client, "m", "root", "given", "cluster.local", pace)


def secret(name: str, data: dict[str, bytes]) -> dict[str, Any]:
    encoded = {key: base64.b64encode(value).decode() for key, value in data.items()}
    return {"metadata": {"name": name, "namespace": "m"}, "data": encoded}


def test_a_record_survives_its_secret() -> None:
    later = datetime(2027, 1, 1, tzinfo=UTC)
    certificate, key = make_root("cluster.local")
    kept = replace(
        record(), next_certificate=certificate, next_key=key, next_since=later, retired=(Retired(certificate, later),),
        followed="x",
    )  # fmt: skip
    assert read_record(secret_of(kept, "root", "m")) == kept
    assert authority_of(kept, "here").roots == kept.bundle


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ({}, "Secret m/root lacks tls.crt, tls.key, sessions"),
        ({"state.json": b"{"}, "state.json is broken"),
    ],
)
def test_a_broken_secret_is_named(data: dict[str, bytes], text: str) -> None:
    with pytest.raises(ConfigurationError, match=text):
        read_record(secret("root", data))
    with pytest.raises(ConfigurationError, match="not base64"):
        read_record({"metadata": {"name": "root", "namespace": "m"}, "data": {"tls.crt": "%"}})


def test_a_given_authority_in_both_spellings() -> None:
    certificate, key = make_root("other")
    for names in (("tls.crt", "tls.key", "ca.crt"), ("cert-chain.pem", "ca-key.pem", "root-cert.pem")):
        given = read_given(secret("given", dict(zip(names, (certificate, key, certificate), strict=True))))
        assert given == Signer(certificate, key, certificate)
    with pytest.raises(ConfigurationError, match=r"Secret m/given must have tls\.crt, tls\.key, ca\.crt"):
        read_given(secret("given", {"tls.crt": certificate}))
    other = make_root("other")[1]
    with pytest.raises(ConfigurationError, match=r"Secret m/given \(tls\.crt\): the key is not the certificate's"):
        read_given(secret("given", {"tls.crt": certificate, "tls.key": other, "ca.crt": certificate}))


async def test_replicas_that_start_at_once_have_one_root(server: ApiServer, client: ApiClient) -> None:
    found: list[tuple[Authority, bytes | None]] = []

    async def start() -> None:
        found.append(await keeper(client).load())

    async with trio.open_nursery() as nursery:
        for _ in range(8):
            nursery.start_soon(start)
    assert len({authority.roots for authority, _ in found}) == 1
    assert len({sessions for _, sessions in found}) == 1
    assert len(server.cluster.of(SECRETS)) == 1


def given_of(certificate: bytes, key: bytes) -> dict[str, Any]:
    return secret("given", {"tls.crt": certificate, "tls.key": key, "ca.crt": certificate})


def clock(monkeypatch: pytest.MonkeyPatch) -> list[datetime]:
    """The wall clock: a list whose one entry is now."""
    now = [datetime.now(UTC)]
    monkeypatch.setattr(root_secret_driver, "utc_now", lambda: now[0])
    return now


async def test_what_is_given_from_the_beginning_signs_at_once(server: ApiServer, client: ApiClient) -> None:
    certificate, key = make_root("given")
    server.cluster.put(SECRETS, given_of(certificate, key))
    first, sessions = await keeper(client).load()
    assert first.roots == certificate
    again, same = await keeper(client).load()
    assert again.certificate == first.certificate
    assert same == sessions, "of all replicas"
    assert (SECRETS, "m", "root") not in server.cluster.objects, "nobody is to trust a root that nobody needs"


async def test_a_given_one_follows_the_self_made_one_once_everybody_trusts_it(
    server: ApiServer, client: ApiClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = clock(monkeypatch)
    own, sessions = await keeper(client).load()
    certificate, key = make_root("given")
    server.cluster.put(SECRETS, given_of(certificate, key))
    authority, same = await keeper(client).load()
    assert authority.certificate == own.certificate
    assert certificate in authority.roots
    assert own.roots in authority.roots
    assert same == sessions
    now[0] += PACE.spread
    authority, same = await keeper(client).load()
    assert authority.certificate.public_bytes(serialization.Encoding.PEM) == certificate
    assert own.roots in authority.roots
    assert same == sessions
    # And back: the self-made one was trusted all along.
    server.cluster.delete((SECRETS, "m", "given"))
    authority, _ = await keeper(client).load()
    assert authority.certificate == own.certificate
    assert certificate in authority.roots


async def test_a_given_one_is_replaced_in_one_step(
    server: ApiServer, client: ApiClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = clock(monkeypatch)
    (old, old_key), (new, new_key) = make_root("old"), make_root("new")
    server.cluster.put(SECRETS, given_of(old, old_key))
    await keeper(client).load()
    server.cluster.put(SECRETS, given_of(new, new_key))
    # Another replica, which has never seen the old one, signs by it all the same.
    during, _ = await keeper(client).load()
    assert during.certificate.public_bytes(serialization.Encoding.PEM) == old
    assert (old in during.roots, new in during.roots) == (True, True)
    now[0] += PACE.spread
    after, _ = await keeper(client).load()
    assert after.certificate.public_bytes(serialization.Encoding.PEM) == new
    assert (old in after.roots, new in after.roots) == (True, True)
    now[0] += PACE.afterlife
    late, _ = await keeper(client).load()
    assert (old in late.roots, new in late.roots) == (False, True)


async def test_a_stolen_key_is_replaced_at_once_on_request(server: ApiServer, client: ApiClient) -> None:
    (old, old_key), (new, new_key) = make_root("old"), make_root("new")
    server.cluster.put(SECRETS, given_of(old, old_key))
    await keeper(client).load()
    urgent = given_of(new, new_key)
    urgent["metadata"]["annotations"] = {AT_ONCE_ANNOTATION: "true"}
    server.cluster.put(SECRETS, urgent)
    authority, _ = await keeper(client).load()
    assert authority.certificate.public_bytes(serialization.Encoding.PEM) == new


async def test_a_broken_one_is_not_followed_not_even_by_who_starts_then(server: ApiServer, client: ApiClient) -> None:
    (old, old_key), (new, _) = make_root("old"), make_root("new")
    server.cluster.put(SECRETS, given_of(old, old_key))
    first, _ = await keeper(client).load()
    server.cluster.put(SECRETS, given_of(new, old_key))
    again, _ = await keeper(client).load()
    assert again.certificate == first.certificate
    assert again.roots == first.roots


async def test_replicas_that_replace_at_once_agree(server: ApiServer, client: ApiClient) -> None:
    certificate, key = make_root("given")
    server.cluster.put(SECRETS, given_of(certificate, key))
    found: list[bytes | None] = []

    async def start() -> None:
        found.append((await keeper(client).load())[1])

    async with trio.open_nursery() as nursery:
        for _ in range(8):
            nursery.start_soon(start)
    assert len(set(found)) == 1


@pytest.mark.parametrize("lost", ["tls.key", "state.json"])
def test_a_broken_kept_secret_is_named(lost: str) -> None:
    certificate, key = make_root("given")
    body = kept_secret_of(begun(Signer(certificate, key, certificate), datetime.now(UTC)), b"s" * 32, "given-kept", "m")
    del body["data"][lost]
    with pytest.raises(ConfigurationError, match=f"Secret m/given-kept lacks {lost}"):
        read_kept(body)


async def test_a_change_is_followed_and_a_broken_one_is_not(
    server: ApiServer, client: ApiClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(root_secret_driver, "LOOK_SECONDS", 0.02)
    kept = keeper(client, Pace(spread=timedelta(0), afterlife=timedelta(days=90)))
    first, _ = await kept.load()
    changes: list[Authority] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(kept.follow, changes.append)
        body = server.cluster.get((SECRETS, "m", "root"))
        server.cluster.merge((SECRETS, "m", "root"), {"metadata": {"annotations": {ROTATE_ANNOTATION: "now"}}})
        with trio.fail_after(10):
            while len(changes) < 2:  # noqa: ASYNC110 -- a callback notes them
                await trio.sleep(0.01)
        assert changes[0].certificate == first.certificate, "trusted first"
        assert changes[1].certificate != first.certificate
        assert first.roots in changes[1].roots
        broken = {**body, "data": {}}
        broken["metadata"] = {"name": "root", "namespace": "m"}
        server.cluster.put(SECRETS, broken)
        await trio.sleep(0.1)
        assert len(changes) == 2
        nursery.cancel_scope.cancel()


async def test_no_right_to_the_secret_is_said(server: ApiServer, client: ApiClient) -> None:
    server.faults.denied.add(SECRETS)
    with pytest.raises(ApiRefused, match="403"):
        await keeper(client).load()
