"""What this process has open."""

from __future__ import annotations

import gc
import os


def open_descriptors() -> set[str]:
    """By number."""
    folder = "/proc/self/fd"
    # The descriptor with which the folder is read is in the list, and closed by now.
    return {entry for entry in os.listdir(folder) if os.path.exists(f"{folder}/{entry}")}


def settled_descriptors() -> set[str]:
    """For a later look to be compared with: what tests before have left to the collector would go in between."""
    gc.collect()
    return open_descriptors()
