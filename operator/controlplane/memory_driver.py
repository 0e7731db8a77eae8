"""Gives memory back to the system that was needed once.

A cluster's first state comes in pages of text, is decoded, translated and encoded at a run. What that took on the way
is free afterwards, but the C library keeps it: once it has seen large blocks go, it expects more of them. An operator
then has changes of single objects before it for weeks.
"""

from __future__ import annotations

import ctypes
import gc


def give_back() -> bool:
    """Collect garbage, and have the C library return what it keeps; whether it can. Takes some ten milliseconds."""
    gc.collect()
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError):  # glibc has it, musl has not
        return False
    trim(0)
    return True
