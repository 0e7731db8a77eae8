"""Durations as the Gateway API (GEP-2257) and protobuf write them."""

from __future__ import annotations

import re

_PART = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|us|ns|h|m|s)")
_SECONDS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}


def seconds(text: str) -> float:
    """``1m30s`` to 90.0; decoding has seen to the form."""
    return sum(float(number) * _SECONDS[unit] for number, unit in _PART.findall(text))


def seconds_or_none(text: str | None) -> float | None:
    """As ``seconds``; absent and zero mean that there is no such limit."""
    return seconds(text) or None if text is not None else None
