"""Session tokens come back as they were given, and no others are believed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.errors import ConfigurationError
from mesh.model.http_route import SessionPersistence
from waypoint.http.message import Headers
from waypoint.routing.session import MAX_TOKEN_BYTES, SessionTokens, cookie

KEY = b"k" * 16
NOW = 1_800_000_000.0
UID = "Kubernetes//Pod/demo/echo-1"


def _given(tokens: SessionTokens, now: float = NOW) -> bytes:
    """The cookie's value that a client without one is given."""
    answer: Headers = []
    tokens.remember(answer, UID, now, None)
    [(name, line)] = answer
    assert name == b"set-cookie"
    return line.partition(b";")[0].partition(b"=")[2]


def _back(token: bytes, name: bytes = b"s") -> Headers:
    return [(b"cookie", b"a=b; " + name + b"=" + token + b"; c=d")]


def test_a_cookie_leads_back_to_the_endpoint() -> None:
    tokens = SessionTokens(SessionPersistence(name="s", path="/p", lifetime_seconds=60.0), "r", KEY)
    answer: Headers = []
    tokens.remember(answer, UID, NOW, None)
    assert answer[0][1].endswith(b"; Path=/p; HttpOnly; Max-Age=60")
    token = _given(tokens)
    held = tokens.endpoint(_back(token), NOW + 60)
    assert held == (UID, int(NOW))
    assert tokens.endpoint(_back(token), NOW + 61) is None
    again: Headers = []
    tokens.remember(again, UID, NOW, held)
    assert again == []
    tokens.remember(again, "another", NOW, held)
    assert len(again) == 1


def test_idle_sessions_end_and_used_ones_are_renewed() -> None:
    tokens = SessionTokens(SessionPersistence(name="s", idle_seconds=10.0, lifetime_seconds=25.0), "r", KEY)
    token = _given(tokens)
    assert tokens.endpoint(_back(token), NOW + 11) is None
    held = tokens.endpoint(_back(token), NOW + 10)
    assert held is not None
    renewed: Headers = []
    tokens.remember(renewed, UID, NOW + 10, held)
    token = renewed[0][1].partition(b";")[0].partition(b"=")[2]
    assert tokens.endpoint(_back(token), NOW + 20) == (UID, int(NOW))
    # Renewal moves the idle time, not the lifetime.
    renewed.clear()
    tokens.remember(renewed, UID, NOW + 20, held)
    token = renewed[0][1].partition(b";")[0].partition(b"=")[2]
    assert tokens.endpoint(_back(token), NOW + 26) is None


def test_by_header() -> None:
    tokens = SessionTokens(SessionPersistence(name="X-Session", by_header=True), "r", KEY)
    answer: Headers = []
    tokens.remember(answer, UID, NOW, None)
    assert answer[0][0] == b"x-session"
    assert tokens.endpoint(answer, NOW) == (UID, int(NOW))


def test_tokens_of_other_routes_and_keys_are_not_believed() -> None:
    session = SessionPersistence(name="s")
    token = _given(SessionTokens(session, "r", KEY))
    assert SessionTokens(session, "r", KEY).endpoint(_back(token), NOW) is not None
    assert SessionTokens(session, "other", KEY).endpoint(_back(token), NOW) is None
    assert SessionTokens(session, "r", b"x" * 16).endpoint(_back(token), NOW) is None


@given(st.data())
def test_a_token_changed_anywhere_is_not_believed(data: st.DataObject) -> None:
    tokens = SessionTokens(SessionPersistence(name="s"), "r", KEY)
    token = _given(tokens)
    index = data.draw(st.integers(0, len(token) - 2))  # the last character's low bits mean nothing
    byte = data.draw(st.sampled_from(b"ABCxyz019-_").filter(lambda byte: byte != token[index]))
    assert tokens.endpoint(_back(token[:index] + bytes((byte,)) + token[index + 1 :]), NOW) is None


@given(st.binary(max_size=200).filter(lambda raw: b";" not in raw))
def test_garbage_is_no_token(raw: bytes) -> None:
    tokens = SessionTokens(SessionPersistence(name="s"), "r", KEY)
    assert tokens.endpoint([(b"cookie", b"s=" + raw)], NOW) is None


def test_a_huge_token_is_not_looked_at() -> None:
    tokens = SessionTokens(SessionPersistence(name="s"), "r", KEY)
    assert tokens.endpoint(_back(b"A" * (MAX_TOKEN_BYTES + 1)), NOW) is None


def test_cookies_are_found_by_their_whole_name() -> None:
    headers: Headers = [(b"cookie", b'as=1; s2=2;s="3" ; s=4'), (b"cookie", b"t=5")]
    assert cookie(headers, b"s") == b"3"
    assert cookie(headers, b"t") == b"5"
    assert cookie(headers, b"a") is None


@pytest.mark.parametrize(
    "session", [SessionPersistence(name=""), SessionPersistence(name="a b"), SessionPersistence(name="a", path="/;b")]
)
def test_bad_settings_are_refused(session: SessionPersistence) -> None:
    with pytest.raises(ConfigurationError):
        SessionTokens(session, "r", KEY)
    with pytest.raises(ConfigurationError):
        SessionTokens(SessionPersistence(name="a"), "r", b"short")
