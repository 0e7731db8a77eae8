"""What makes any proxy ready or not."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from mesh.readiness import ProxyReadiness
from mesh.relay.acceptor import Acceptor


class Waiting(ProxyReadiness):
    def __init__(self, *reasons: str) -> None:
        super().__init__()
        self.reasons = reasons

    def waits_for(self) -> Iterator[str]:
        yield from self.reasons


def test_reasons_come_in_their_order_and_refusals_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Acceptor, "out_of_descriptors", 0)
    readiness = Waiting("no moon", "no stars")
    assert readiness.missing() == ["no moon", "no stars"]
    readiness.draining = True
    monkeypatch.setattr(Acceptor, "out_of_descriptors", 3)
    assert readiness.missing() == [
        "draining", "no moon", "no stars", "3 connections were refused for want of file descriptors"
    ]  # fmt: skip
    assert readiness.missing() == ["draining", "no moon", "no stars"]
    assert Waiting().missing()[:1] != ["draining"]
