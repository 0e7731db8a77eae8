from __future__ import annotations

import platform
from pathlib import Path

from controlplane.memory_driver import give_back


def _resident() -> int:
    text = Path("/proc/self/status").read_text()
    return int(next(line.split()[1] for line in text.splitlines() if line.startswith("VmRSS:"))) * 1024


def test_what_was_needed_once_is_given_back() -> None:
    glibc = platform.libc_ver()[0] == "glibc"
    assert give_back() is glibc
    # Blocks below the size that is mapped on its own; the one between keeps the heap from shrinking by itself.
    blocks = [bytearray(60_000) for _ in range(1000)]
    keeps_the_heap_open = bytearray(60_000)
    del blocks
    before = _resident()
    give_back()
    if glibc:
        assert before - _resident() > 30_000_000
    assert keeps_the_heap_open is not None
