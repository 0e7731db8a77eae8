"""The mesh's own ports inside pods (``ARCHITECTURE.md`` has the whole table)."""

from __future__ import annotations

OUTBOUND = 15001
PLAINTEXT = 15006
HBONE = 15008
DNS = 15053
SOCKS = 15080

IN_POD = frozenset({OUTBOUND, PLAINTEXT, HBONE, DNS, SOCKS})
"""Ports of the mesh inside a pod: a connection that names one as its final target would loop."""
