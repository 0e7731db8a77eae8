"""Which TLS 1.3 suites the mesh speaks: AES-GCM only.

OpenSSL reads its configuration once, when it is first used, so ``use_mesh_configuration`` must run before anything
imports ``ssl`` or ``hashlib``: it is the first statement of a process's ``__main__``. ``require_allowed_suite`` does
not depend on it: it refuses a finished handshake that ended with another suite.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from mesh.errors import InternalError, TlsFailure

if TYPE_CHECKING:
    import ssl

ALLOWED_SUITES = frozenset({"TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384"})
OPENSSL_CONFIGURATION = Path(__file__).with_name("openssl.cnf")
"""For ``OPENSSL_CONF`` in the environment of a process of the mesh."""


def use_mesh_configuration() -> None:
    """Make OpenSSL read the mesh's configuration in this process and its children.

    Raises:
        InternalError: ``ssl`` or ``hashlib`` is loaded already, so the setting would come too late to have an effect.
    """
    if os.environ.get("OPENSSL_CONF") == str(OPENSSL_CONFIGURATION):
        return
    if not sys.modules.keys().isdisjoint({"_ssl", "_hashlib"}):
        raise InternalError("use_mesh_configuration() must run before ssl or hashlib is imported: OpenSSL has started")
    os.environ["OPENSSL_CONF"] = str(OPENSSL_CONFIGURATION)


def require_allowed_suite(ssl_object: ssl.SSLObject) -> None:
    """Check a finished handshake.

    Raises:
        TlsFailure: the peer made us agree on a suite outside the mesh's list.
    """
    cipher = ssl_object.cipher()
    name = cipher[0] if cipher is not None else "no cipher"
    if name not in ALLOWED_SUITES:
        raise TlsFailure(
            f"the handshake ended with {name}, the mesh speaks {' and '.join(sorted(ALLOWED_SUITES))} only: "
            "let the peer offer one of these"
        )
