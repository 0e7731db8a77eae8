"""What tests of tables and pictures write of."""

from __future__ import annotations

import pytest

from benchmarks.machine import Machine


@pytest.fixture
def machine() -> Machine:
    return Machine(
        cpu="A Processor",
        cores=2,
        memory_gib=8,
        kernel="6.18.0",
        python="3.11.2",
        openssl="OpenSSL 3.0",
        iperf3="iperf 3.12",
        envoy="1.40.0 BoringSSL",
        congestion_control="cubic",
        date="2026-11-23 17:00",
        commit="0123456789ab",
    )
