from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from controlplane.ca.authority import make_root
from controlplane.ca.rotation import BEFORE_END, Pace, RootRecord, advance

PACE = Pace(spread=timedelta(hours=24), afterlife=timedelta(days=90))
_ROOTS = [make_root("cluster.local") for _ in range(4)]


def record() -> RootRecord:
    return RootRecord(certificate=_ROOTS[0][0], key=_ROOTS[0][1], sessions=b"s" * 32)


def now() -> datetime:
    return datetime.now(UTC)


class Maker:
    def __init__(self) -> None:
        self.made = 0

    def __call__(self) -> tuple[bytes, bytes]:
        self.made += 1
        return _ROOTS[self.made % 4]


def test_nothing_happens_without_a_reason() -> None:
    kept = record()
    assert advance(kept, "", now(), PACE, Maker()) is kept
    assert advance(replace(kept, followed="x"), "x", now(), PACE, Maker()).next_since is None


def test_trusted_then_signing_then_retired_then_forgotten() -> None:
    kept, make, at = record(), Maker(), now()
    old = kept.certificate
    kept = advance(kept, "please", at, PACE, make)
    assert kept.certificate == old
    assert kept.next_certificate in kept.bundle
    assert advance(kept, "please", at + PACE.spread / 2, PACE, make) is kept
    at += PACE.spread
    kept = advance(kept, "please", at, PACE, make)
    assert kept.certificate != old
    assert old in kept.bundle
    assert kept.sessions == b"s" * 32
    assert advance(kept, "please", at, PACE, make) is kept, "one request, one rotation"
    kept = advance(kept, "please", at + PACE.afterlife, PACE, make)
    assert old not in kept.bundle
    assert make.made == 1


def test_a_root_near_its_end_is_replaced() -> None:
    near = now() + timedelta(days=3650) - BEFORE_END + timedelta(days=1)
    assert advance(record(), "", near, PACE, Maker()).next_since == near


@given(st.lists(st.tuples(st.integers(1, 100), st.sampled_from(["", "a", "b"])), max_size=30))
def test_what_signs_has_been_trusted_for_the_spread_and_stays_so_for_the_afterlife(
    steps: list[tuple[int, str]],
) -> None:
    kept, make, at = record(), Maker(), now()
    trusted_since = {kept.certificate: at - PACE.spread}
    signed_until: dict[bytes, datetime] = {}
    for hours, request in steps:
        at += timedelta(hours=hours)
        signing = kept.certificate
        kept = advance(kept, request, at, PACE, make)
        if kept.next_certificate:
            trusted_since.setdefault(kept.next_certificate, at)
        assert at - trusted_since[kept.certificate] >= PACE.spread
        if kept.certificate != signing:
            signed_until[signing] = at
            trusted_since = {root: since for root, since in trusted_since.items() if root in kept.bundle}
        for root, until in signed_until.items():
            assert root in kept.bundle or at - until >= PACE.afterlife
