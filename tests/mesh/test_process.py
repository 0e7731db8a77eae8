from __future__ import annotations

import gc
import resource
import subprocess
import sys

from mesh.process import collect_rarely, raise_descriptor_limit


def test_descriptors() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        assert raise_descriptor_limit() == before[1]
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == before[1]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_the_collector_runs_seldom() -> None:
    before = gc.get_threshold()
    try:
        collect_rarely()
        assert gc.get_threshold()[0] > before[0]
    finally:
        gc.set_threshold(*before)


def test_a_proxy_is_prepared_before_its_libraries_load() -> None:
    """In a process of its own: OpenSSL reads its configuration once."""
    program = (
        "from mesh.process import prepare_proxy; prepare_proxy(); import ssl, sys; "
        "names = {c['name'] for c in ssl.create_default_context().get_ciphers() if c['protocol'] == 'TLSv1.3'}; "
        "print(sorted(names), sys.modules['rich'])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "CHACHA20" not in done.stdout
    assert "TLS_AES_256_GCM_SHA384" in done.stdout
    assert done.stdout.strip().endswith("None")
