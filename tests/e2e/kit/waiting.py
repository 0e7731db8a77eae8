"""Waiting for what a cluster does by and by."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

_POLL_SECONDS = 0.1
Answer = TypeVar("Answer")


def eventually(ask: Callable[[], Answer], *, seconds: float = 30.0, during: type[Exception] = AssertionError) -> Answer:
    """Ask until it answers without the exception ``during``; when time is up, that exception is raised.

    The time is a limit for what never comes, not a claim on how fast it does.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            return ask()
        except during:
            if time.monotonic() > deadline:
                raise
        time.sleep(_POLL_SECONDS)
