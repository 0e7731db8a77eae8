"""The ports: the eBPF programs' and the architecture's are these."""

from __future__ import annotations

from pathlib import Path

from ebpf import layout
from mesh import ports


def test_the_programs_redirect_to_these() -> None:
    assert (ports.OUTBOUND, ports.HBONE) == (layout.ZTUNNEL_OUTBOUND_PORT, layout.ZTUNNEL_HBONE_PORT)


def test_the_architecture_lists_them() -> None:
    text = (Path(__file__).parents[2] / "ARCHITECTURE.md").read_text()
    assert [port for port in sorted(ports.IN_POD) if str(port) not in text] == []
