from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.errors import InvalidIdentity, ResponseFlag
from mesh.identity import SpiffeId

alphanumeric = string.ascii_lowercase + string.digits
names = st.from_regex(r"[a-z0-9]([a-z0-9.-]{0,60}[a-z0-9])?", fullmatch=True)


def test_the_example() -> None:
    identity = SpiffeId.parse("spiffe://cluster.local/ns/default/sa/client")
    assert identity == SpiffeId("cluster.local", "default", "client")
    assert identity.principal == "cluster.local/ns/default/sa/client"


@given(names, names, names)
def test_what_is_written_is_read_back(domain: str, namespace: str, account: str) -> None:
    identity = SpiffeId(domain, namespace, account)
    assert SpiffeId.parse(str(identity)) == identity
    assert str(identity) == f"spiffe://{identity.principal}"


@given(st.text(max_size=80) | st.text(max_size=60).map(lambda text: f"spiffe://cluster.local/ns/{text}"))
def test_any_text_is_an_identity_or_an_error(text: str) -> None:
    try:
        identity = SpiffeId.parse(text)
    except InvalidIdentity:
        return
    assert str(identity) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "spiffe://",
        "cluster.local/ns/default/sa/a",
        "SPIFFE://cluster.local/ns/default/sa/a",
        "spiffe://cluster.local/ns/default/sa",
        "spiffe://cluster.local/ns/default/sa/",
        "spiffe://cluster.local/ns//sa/a",
        "spiffe:///ns/default/sa/a",
        "spiffe://cluster.local/ns/default/sa/a/b",
        "spiffe://cluster.local/sa/a/ns/default",
        "spiffe://cluster.local/ns/Default/sa/a",
        "spiffe://cluster.local/ns/default/sa/a\n",
        "spiffe://cluster.local/ns/default/sa/a\0",
        "spiffe://cluster.local/ns/../sa/a",
        "spiffe://cluster.local/ns/-x/sa/a",
        "spiffe://cluster.local:80/ns/default/sa/a",
        "spiffe://user@cluster.local/ns/default/sa/a",
        "spiffe://cluster.local/ns/default/sa/a?x",
        "spiffe://cluster.local/ns/default/sa/" + "a" * 254,
    ],
)
def test_other_forms_are_refused(text: str) -> None:
    with pytest.raises(InvalidIdentity) as caught:
        SpiffeId.parse(text)
    assert caught.value.response_flag is ResponseFlag.IDENTITY_ERROR
    assert len(str(caught.value)) < 300


def test_a_hostile_text_is_not_quoted_whole() -> None:
    with pytest.raises(InvalidIdentity) as caught:
        SpiffeId.parse("x" * 1_000_000)
    assert len(str(caught.value)) < 300
