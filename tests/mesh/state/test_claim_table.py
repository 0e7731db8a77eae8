from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mesh.state.claim_table import ClaimTable

Value = tuple[str, int]
"""Owner and preference."""


def table() -> ClaimTable[str, Value]:
    return ClaimTable(owner_of=lambda value: value[0], preference=lambda value: value[1])


def test_the_latest_of_equals_wins_and_gives_back() -> None:
    t = table()
    t.claim("ip", ("old", 0))
    t.claim("ip", ("new", 0))
    assert t.current["ip"] == ("new", 0)
    t.release("ip", "old")
    assert t.current["ip"] == ("new", 0)
    t.claim("ip", ("other", 0))
    t.release("ip", "other")
    assert t.current["ip"] == ("new", 0)
    t.release("ip", "new")
    assert "ip" not in t.current


def test_a_preferred_claim_stays() -> None:
    t = table()
    t.claim("ip", ("service", 1))
    t.claim("ip", ("entry", 0))
    assert t.current["ip"] == ("service", 1)
    t.release("ip", "service")
    assert t.current["ip"] == ("entry", 0)


steps = st.lists(st.tuples(st.booleans(), st.sampled_from("abc"), st.integers(0, 1)), max_size=30)


@given(steps)
def test_agrees_with_a_list_of_claims(steps: list[tuple[bool, str, int]]) -> None:
    t = table()
    claims: list[Value] = []
    for is_claim, owner, preference in steps:
        claims = [claim for claim in claims if claim[0] != owner]
        if is_claim:
            claims.append((owner, preference))
            t.claim("ip", (owner, preference))
        else:
            t.release("ip", owner)
        expected = max(reversed(claims), key=lambda claim: claim[1]) if claims else None
        assert t.current.get("ip") == expected
    for owner, _ in claims:
        t.release("ip", owner)
    assert t.current == {}
