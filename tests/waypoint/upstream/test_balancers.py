"""Shares, evenness, and how little moves when an endpoint comes or goes."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.addresses import PeerAddress, SocketAddress, parse_ip
from mesh.errors import ConfigurationError
from mesh.model.upstream_policy import HashKey, HashKind
from mesh.state.routes import ToWorkload
from mesh.state.service_index import route_to
from mesh.testing.model import make_workload
from waypoint.client import Client
from waypoint.http.message import RequestHead
from waypoint.upstream.balancers import LeastRequestBalancer, RandomBalancer, RoundRobinBalancer
from waypoint.upstream.endpoint import Endpoint
from waypoint.upstream.hash_key import RequestHash
from waypoint.upstream.hashing import MAX_SIZE, MaglevBalancer, RingBalancer, hash64, prime

Make = Callable[..., list[Endpoint]]


def _endpoint(number: int) -> Endpoint:
    workload = make_workload(f"pod-{number}", f"10.0.{number >> 8}.{number & 255}")
    to: ToWorkload = route_to(workload, workload.addresses[0], 80)
    return Endpoint(to, 0.0)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=8), st.integers(0, 2**32))
def test_round_robin_gives_every_weight_its_share(weights: list[int], seed: int) -> None:
    """Over two rounds nobody is more than two turns away from what is due."""
    endpoints = [_endpoint(number) for number in range(len(weights))]
    balancer = RoundRobinBalancer(endpoints, weights, random.Random(seed).random)
    hits = Counter(balancer.pick(None) for _ in range(2 * sum(weights)))
    for endpoint, weight in zip(endpoints, weights, strict=True):
        assert abs(hits[endpoint] - 2 * weight) <= 2


def test_equal_round_robin_is_exact(endpoints: Make) -> None:
    those = endpoints(3)
    balancer = RoundRobinBalancer(those, [1, 1, 1], lambda: 0.5)
    assert [balancer.pick(None) for _ in range(6)] == [those[1], those[2], those[0]] * 2


def test_random_by_weight(endpoints: Make) -> None:
    those = endpoints(3)
    chances = iter([0.0, 0.24, 0.25, 0.49, 0.5, 0.999, 1 - 2**-53])
    balancer = RandomBalancer(those, [1, 1, 2], lambda: next(chances))
    assert [those.index(balancer.pick(None)) for _ in range(7)] == [0, 0, 1, 1, 2, 2, 2]  # type: ignore[arg-type]


def test_the_less_busy_of_two_is_taken(endpoints: Make) -> None:
    those = endpoints(2)
    those[0].active = 3
    chances = iter([0.0, 0.9, 0.9, 0.0, 0.0, 0.0])
    balancer = LeastRequestBalancer(those, [1, 1], lambda: next(chances))
    assert [balancer.pick(None) for _ in range(3)] == [those[1], those[1], those[0]]


def test_least_request_evens_out_what_is_slow(endpoints: Make) -> None:
    """One endpoint never finishes: it is soon avoided, which random and round robin do not do."""
    those = endpoints(4)
    balancer = LeastRequestBalancer(those, [1.0] * 4, random.Random(1).random)
    for _ in range(1000):
        chosen = balancer.pick(None)
        assert chosen is not None
        chosen.active += 1
        for endpoint in those[1:]:
            endpoint.active = max(0, endpoint.active - 1)
    assert those[0].active < 100


def test_least_request_with_weights(endpoints: Make) -> None:
    those = endpoints(2)
    balancer = LeastRequestBalancer(those, [3.0, 1.0], random.Random(1).random)
    hits: Counter[Endpoint | None] = Counter()
    for _ in range(4000):
        chosen = balancer.pick(None)
        assert chosen is not None
        chosen.active += 1
        hits[chosen] += 1
    assert hits[those[0]] > 1.5 * hits[those[1]]


@pytest.mark.parametrize("kind", [RoundRobinBalancer, RandomBalancer, LeastRequestBalancer])
def test_nobody_and_one(kind: type[RoundRobinBalancer], endpoints: Make) -> None:
    assert kind([], [], lambda: 0.5).pick(None) is None
    [only] = endpoints(1)
    assert kind([only], [1], lambda: 0.99).pick(None) is only


# -- consistent hashing ------------------------------------------------------------------------------------------------


def _ring(endpoints: list[Endpoint], weights: list[float]) -> RingBalancer:
    return RingBalancer(endpoints, weights, lambda: 0.5, 1024)


def _maglev(endpoints: list[Endpoint], weights: list[float]) -> MaglevBalancer:
    return MaglevBalancer(endpoints, weights, lambda: 0.5, 1021)


HASHES = [hash64(b"%d" % number) for number in range(800)]
_Layout = Callable[[list[Endpoint], list[float]], RingBalancer | MaglevBalancer]


@pytest.mark.parametrize("layout", [_ring, _maglev])
@settings(max_examples=25, deadline=None)
@given(numbers=st.sets(st.integers(0, 4000), min_size=2, max_size=12), data=st.data())
def test_few_requests_move_when_an_endpoint_goes(layout: _Layout, numbers: set[int], data: st.DataObject) -> None:
    endpoints = [_endpoint(number) for number in sorted(numbers)]
    gone = data.draw(st.sampled_from(endpoints))
    left = [endpoint for endpoint in endpoints if endpoint is not gone]
    before = layout(endpoints, [1.0] * len(endpoints))
    after = layout(data.draw(st.permutations(left)), [1.0] * len(left))
    moved = [hashed for hashed in HASHES if before.pick(hashed) is not after.pick(hashed)]
    was_there = sum(before.pick(hashed) is gone for hashed in HASHES)
    # The ring moves exactly what was there; Maglev's tables shift a little besides.
    others = len(moved) - was_there
    assert others == 0 if layout is _ring else others <= 0.3 * len(HASHES)
    assert all(after.pick(hashed) is not gone for hashed in HASHES)


@pytest.mark.parametrize(("layout", "tolerance"), [(_ring, 0.5), (_maglev, 0.2)])
def test_shares_are_near_the_weights(layout: _Layout, tolerance: float, endpoints: Make) -> None:
    those = endpoints(6)
    weights = [1.0, 1.0, 1.0, 1.0, 2.0, 4.0]
    many = [hash64(b"%d" % number) for number in range(20_000)]
    balancer = layout(those, weights)
    hits = Counter(balancer.pick(hashed) for hashed in many)
    for endpoint, weight in zip(those, weights, strict=True):
        assert hits[endpoint] == pytest.approx(len(many) * weight / sum(weights), rel=tolerance)


@pytest.mark.parametrize("layout", [_ring, _maglev])
def test_who_is_out_for_a_while_keeps_its_place(layout: _Layout, endpoints: Make) -> None:
    those = endpoints(5)
    balancer = layout(those, [1.0] * 5)
    before = [balancer.pick(hashed) for hashed in HASHES]
    those[2].usable = False
    meanwhile = [balancer.pick(hashed) for hashed in HASHES]
    assert those[2] not in meanwhile
    for was, then in zip(before, meanwhile, strict=True):
        assert was is those[2] or was is then
    those[2].usable = True
    assert [balancer.pick(hashed) for hashed in HASHES] == before
    for endpoint in those:
        endpoint.usable = False
    assert balancer.pick(1) is not None, "in a panic somebody unusable is better than nobody"
    those[4].usable = True
    assert {balancer.pick(hashed) for hashed in HASHES} == {those[4]}


@pytest.mark.parametrize("layout", [_ring, _maglev])
def test_without_a_hash_anybody_will_do(layout: _Layout, endpoints: Make) -> None:
    assert layout([], []).pick(1) is None
    assert layout(endpoints(3), [1.0] * 3).pick(None) is not None


def test_tables_are_of_prime_size() -> None:
    assert [prime(size) for size in (0, 3, 4, 8, 90, 65537, 65536)] == [3, 3, 5, 11, 97, 65537, 65537]
    assert prime(10**9) == MAX_SIZE


# -- what is hashed ----------------------------------------------------------------------------------------------------

CLIENT = Client(
    identity=None,
    address=PeerAddress(SocketAddress(parse_ip("10.0.0.1"), 1)),
    destination=SocketAddress(parse_ip("10.0.0.2"), 80),
)


def _head(path: bytes = b"/", *headers: tuple[bytes, bytes]) -> RequestHead:
    return RequestHead(method=b"GET", path=path, authority=b"echo", headers=list(headers))


def test_hash_keys() -> None:
    keys = RequestHash(
        [HashKey(kind=HashKind.HEADER, name="X-User"), HashKey(kind=HashKind.QUERY, name="u")]
    )
    assert keys.of(_head(), CLIENT) is None
    by_header = keys.of(_head(b"/", (b"x-user", b"a")), CLIENT)
    assert by_header == hash64(b"a")
    assert keys.of(_head(b"/?u=a"), CLIENT) == by_header
    assert keys.of(_head(b"/?u=b", (b"x-user", b"a")), CLIENT) == hash64(b"a\0b")
    source = RequestHash([HashKey(kind=HashKind.SOURCE_ADDRESS)])
    assert source.of(_head(), CLIENT) == hash64(CLIENT.address.ip)
    assert RequestHash([HashKey(kind=HashKind.HEADER, name="host")]).of(_head(), CLIENT) == hash64(b"echo")
    with pytest.raises(ConfigurationError):
        RequestHash([HashKey(kind=HashKind.COOKIE, name="a b")])


def test_a_request_without_the_cookie_is_given_one_and_goes_where_it_leads() -> None:
    keys = RequestHash([HashKey(kind=HashKind.COOKIE, name="s", cookie_path="/p", cookie_seconds=60.0)])
    [(name, line)] = keys.new_cookie(_head(), b"token")
    assert (name, line) == (b"set-cookie", b"s=token; Path=/p; HttpOnly; Max-Age=60")
    now = keys.of(_head(), CLIENT, b"token")
    later = _head(b"/", (b"cookie", b"s=token"))
    assert keys.of(later, CLIENT) == now
    assert keys.new_cookie(later, b"other") == []
    assert RequestHash([HashKey(kind=HashKind.COOKIE, name="s")]).new_cookie(_head(), b"t") == []
