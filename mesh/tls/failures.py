"""OpenSSL's errors as ``TlsFailure`` with the likely cause.

In TLS 1.3 the client's handshake ends before the server has looked at its certificate, so a server's refusal reaches
the client as an alert on its first read: whoever reads after the handshake translates with the same function.
"""

from __future__ import annotations

import ssl

from mesh.errors import TlsFailure
from mesh.tls.alert_codec import failure_of

# X509_V_ERR_* numbers of OpenSSL.
_VERIFY_LIKELY = {
    9: "its clock or ours is wrong: the certificate is not valid yet",
    10: "its certificate has expired: its renewal does not work, or a clock is wrong",
    18: "it is self-signed: not issued by this mesh's authority",
    19: "its chain ends in a root we do not trust: it belongs to another mesh, or a new root has not reached us yet",
    20: "we do not know its issuer: it belongs to another mesh, or a new root has not reached us yet",
    21: "its issuer is unknown: it belongs to another mesh, or sends an incomplete chain",
    26: "its extended key usage does not allow this side",
}


def translate_ssl_error(error: ssl.SSLError, *, server_side: bool) -> TlsFailure:
    """The failure to raise ``from error``, telling what OpenSSL saw and what it most likely means.

    Args:
        error: from the handshake or a later read or write.
        server_side: which side we are.
    """
    peer = "client" if server_side else "server"
    if isinstance(error, ssl.SSLCertVerificationError):
        likely = _VERIFY_LIKELY.get(error.verify_code, "it was not issued for this mesh")
        return TlsFailure(f"the {peer}'s certificate is not acceptable ({error.verify_message}): {likely}")
    if isinstance(error, ssl.SSLEOFError):
        return TlsFailure(f"the {peer} closed the connection without a TLS close")
    # Python sets the attribute on errors it makes from OpenSSL's queue only.
    return failure_of(getattr(error, "reason", None) or str(error), peer)
