"""A kernel that has TLS."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from mesh.tls.kernel_driver import KernelTls, find_kernel_tls


@pytest.fixture(scope="module")
def kernel() -> Iterator[KernelTls]:
    found = find_kernel_tls("auto")
    assert isinstance(found, KernelTls), found.reason
    yield found
    found.key_log.close()
