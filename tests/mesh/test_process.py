from __future__ import annotations

import gc
import resource
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from mesh.errors import EnvironmentLacks
from mesh.process import QUIET_SECONDS, Rest, collect_rarely, raise_descriptor_limit, release


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


def test_libraries_load_without_what_they_never_use() -> None:
    """In a process of its own; whoever needs one of these modules later gets it, and the libraries work without."""
    program = (
        "from mesh.process import prepare_proxy; prepare_proxy(); import sys; "
        "print(*sorted({'asyncio', 'http.server', 'urllib.request', 'wsgiref.simple_server'} & sys.modules.keys())); "
        "from prometheus_client import CollectorRegistry, Counter, generate_latest; "
        "registry = CollectorRegistry(); Counter('met', 'Met.', registry=registry).inc(3); "
        "print('met_total 3.0' in generate_latest(registry).decode()); "
        "import http.server, socketserver; "
        "print(issubclass(http.server.HTTPServer, socketserver.TCPServer))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["", "True", "True"]


def test_the_release_is_the_installed_one() -> None:
    assert release() == version("ambimesh")


def test_without_an_installation_there_is_no_release(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with pytest.raises(EnvironmentLacks, match="not installed"):
        release()
    (tmp_path / "ambimesh-1.2.3.dist-info").mkdir()
    assert release() == "1.2.3"


def test_memory_is_given_back_once_it_is_quiet() -> None:
    rest = Rest(100.0)
    assert not rest.tick(100 + QUIET_SECONDS / 2, busy=False)
    assert rest.tick(100 + QUIET_SECONDS, busy=False)
    assert not rest.tick(100 + 2 * QUIET_SECONDS, busy=False)  # nothing has come since
    assert not rest.tick(200, busy=True)
    assert not rest.tick(200 + QUIET_SECONDS / 2, busy=False)
    assert rest.tick(200 + QUIET_SECONDS, busy=False)
