from __future__ import annotations

import os
import ssl
import subprocess
import sys
from dataclasses import dataclass
from typing import cast

import pytest

from mesh.errors import InternalError, TlsFailure
from mesh.tls import suites

_LIST_SUITES = """
from mesh.tls import suites
suites.use_mesh_configuration()
suites.use_mesh_configuration()
import ssl
context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
print(*[c["name"] for c in context.get_ciphers() if c["name"].startswith("TLS_")])
"""


def run(code: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "OPENSSL_CONF"}
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)


def test_a_process_of_the_mesh_offers_aes_gcm_only_the_fast_one_first() -> None:
    result = run(_LIST_SUITES)
    assert result.stdout.split() == ["TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384"], result.stderr


@pytest.mark.parametrize("module", ["ssl", "hashlib"])
def test_too_late_is_an_error_not_a_silent_default(module: str) -> None:
    result = run(f"import {module}\n{_LIST_SUITES}")
    assert "InternalError" in result.stderr


def test_in_this_process_it_is_too_late(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENSSL_CONF", raising=False)
    with pytest.raises(InternalError, match="before ssl"):
        suites.use_mesh_configuration()


@dataclass
class _Finished:
    suite: str | None

    def cipher(self) -> tuple[str, str, int] | None:
        return (self.suite, "TLSv1.3", 128) if self.suite else None


@pytest.mark.parametrize("name", ["TLS_CHACHA20_POLY1305_SHA256", "ECDHE-RSA-AES128-GCM-SHA256", None])
def test_other_suites_are_refused_after_the_handshake(name: str | None) -> None:
    with pytest.raises(TlsFailure, match="only"):
        suites.require_allowed_suite(cast(ssl.SSLObject, _Finished(name)))


@pytest.mark.parametrize("name", sorted(suites.ALLOWED_SUITES))
def test_the_mesh_suites_pass(name: str) -> None:
    suites.require_allowed_suite(cast(ssl.SSLObject, _Finished(name)))
