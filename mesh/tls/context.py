"""``ssl.SSLContext`` objects from credentials.

Between workloads both sides prove themselves, TLS 1.3 only, ALPN ``h2``, no server name, no resumption: a session
ticket would outlive a certificate, and a resumed handshake proves nothing fresh. Names in DNS form mean nothing here;
identities are compared after the handshake (``mesh.tls.peer``). OpenSSL itself checks chain, validity and, where the
certificate states one, that the extended key usage fits the side.

Clients of the control plane are different: there the server is known by its DNS name and the client by a bearer token.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from mesh.errors import ConfigurationError, EnvironmentLacks
from mesh.tls.credentials import Credentials

ALPN = "h2"


def client_context(credentials: Credentials) -> ssl.SSLContext:
    """For the dialling side of a tunnel. Reusable for any number of connections.

    Raises:
        ConfigurationError: certificate, key or roots are unreadable or do not belong together.
        EnvironmentLacks: no anonymous memory files, or /proc is not mounted.
    """
    context = _tls13(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    _load_chain(context, credentials.certificate_chain, credentials.key)
    _load_roots(context, credentials.roots)
    return context


def server_context(credentials: Credentials) -> ssl.SSLContext:
    """For the accepting side of a tunnel: the client must show a certificate. Raises as ``client_context``."""
    context = _tls13(ssl.PROTOCOL_TLS_SERVER)
    context.verify_mode = ssl.CERT_REQUIRED
    context.num_tickets = 0
    _load_chain(context, credentials.certificate_chain, credentials.key)
    _load_roots(context, credentials.roots)
    return context


def control_plane_context(root_pem: bytes) -> ssl.SSLContext:
    """For clients of the operator: its certificate is checked against ``root_pem`` and the server name dialled.

    Raises:
        ConfigurationError: ``root_pem`` holds no readable certificate.
    """
    context = _tls13(ssl.PROTOCOL_TLS_CLIENT)
    _load_roots(context, root_pem)
    return context


def control_plane_server_context(
    certificate_chain: Sequence[bytes], key: ec.EllipticCurvePrivateKey
) -> ssl.SSLContext:
    """For the operator's own listener: clients show no certificate, they present a token. Raises as ``client_context``.

    Args:
        certificate_chain: PEM, the leaf first, without the root.
        key: the leaf's private key.
    """
    context = _tls13(ssl.PROTOCOL_TLS_SERVER)
    context.num_tickets = 0
    _load_chain(context, certificate_chain, key)
    return context


def _tls13(protocol: int) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.options |= ssl.OP_NO_TICKET
    context.set_alpn_protocols([ALPN])
    return context


def _load_chain(context: ssl.SSLContext, chain: Sequence[bytes], key: ec.EllipticCurvePrivateKey) -> None:
    key_pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    load_pem_chain(context, b"\n".join(chain), key_pem)


def load_pem_chain(context: ssl.SSLContext, chain: bytes, key: bytes) -> None:
    """Have a context show a certificate. Raises as ``client_context``.

    Args:
        context: to be changed.
        chain: PEM, the leaf first.
        key: the leaf's, PEM.
    """
    with _memory_file(key + b"\n" + chain) as path:
        try:
            context.load_cert_chain(path)
        except ssl.SSLError as error:
            raise ConfigurationError(
                f"OpenSSL does not take the certificate chain and its key ({error.reason or error}): they are "
                "unreadable, or the key is not the certificate's"
            ) from error
        except OSError as error:
            raise EnvironmentLacks(f"cannot read {path} back ({error.strerror}): /proc must be mounted") from error


def _load_roots(context: ssl.SSLContext, roots: bytes) -> None:
    try:
        context.load_verify_locations(cadata=roots.decode("ascii"))
    except (ssl.SSLError, ValueError) as error:
        raise ConfigurationError(f"the root bundle holds no readable PEM certificate ({error})") from error


@contextmanager
def _memory_file(content: bytes) -> Iterator[str]:
    """A path that only this process can open, gone when the block ends."""
    try:
        fd = os.memfd_create("ambimesh-tls", os.MFD_CLOEXEC)
    except OSError as error:
        raise EnvironmentLacks(f"memfd_create failed: {error.strerror}; it needs Linux 3.17") from error
    try:
        view = memoryview(content)
        while view:
            view = view[os.write(fd, view) :]
        yield f"/proc/self/fd/{fd}"
    finally:
        os.close(fd)
