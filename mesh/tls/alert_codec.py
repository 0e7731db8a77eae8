"""What goes wrong in TLS, by OpenSSL's names for it and by the alerts that peers send, in words for people."""

from __future__ import annotations

from mesh.errors import TlsFailure

# OpenSSL's reason symbols. "ALERT" ones were sent by the peer: it refused us.
_LIKELY = {
    "HTTP_REQUEST": "the peer speaks plain HTTP, this port speaks TLS",
    "HTTPS_PROXY_REQUEST": "the peer sent a plain HTTP CONNECT, this port speaks TLS",
    "WRONG_VERSION_NUMBER": "the peer does not speak TLS on this port",
    "UNSUPPORTED_PROTOCOL": "the peer speaks an older TLS, the mesh TLS 1.3 only",
    "TLSV1_ALERT_PROTOCOL_VERSION": "the peer refused TLS 1.3, the mesh speaks nothing older",
    "NO_SHARED_CIPHER": "the peer offers no AES-GCM suite of TLS 1.3",
    "SSLV3_ALERT_HANDSHAKE_FAILURE": "the peer refused our parameters, most often the suites",
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "the client showed no certificate: it is not a proxy of the mesh",
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": "the server wants a client certificate and was shown none",
    "TLSV1_ALERT_UNKNOWN_CA": "the peer does not trust our certificate's root: the two sides follow different roots, "
    "or a new root has not reached the peer yet",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": "the peer finds our certificate expired: look at renewal and at both clocks",
    "SSLV3_ALERT_BAD_CERTIFICATE": "the peer refused our certificate",
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": "the peer refused our certificate",
    "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE": "the peer finds our certificate unfit for this side: extended key usage",
    "SSLV3_ALERT_CERTIFICATE_REVOKED": "the peer finds our certificate revoked",
    "TLSV1_ALERT_DECRYPT_ERROR": "the peer could not verify our signature: key and certificate do not match",
    "TLSV1_ALERT_NO_APPLICATION_PROTOCOL": "the peer does not speak h2",
    "DECRYPTION_FAILED_OR_BAD_RECORD_MAC": "bytes were altered on the way",
    "SSLV3_ALERT_BAD_RECORD_MAC": "what the peer received from us was altered on the way",
    "UNEXPECTED_EOF_WHILE_READING": "the peer closed without a TLS close: it crashed, or something on the way cut it",
}

# The same symbols by the alert's number on the wire (RFC 8446 section 6), for alerts that OpenSSL does not see.
_ALERTS = {
    20: "SSLV3_ALERT_BAD_RECORD_MAC",
    40: "SSLV3_ALERT_HANDSHAKE_FAILURE",
    42: "SSLV3_ALERT_BAD_CERTIFICATE",
    43: "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE",
    44: "SSLV3_ALERT_CERTIFICATE_REVOKED",
    45: "SSLV3_ALERT_CERTIFICATE_EXPIRED",
    46: "SSLV3_ALERT_CERTIFICATE_UNKNOWN",
    48: "TLSV1_ALERT_UNKNOWN_CA",
    51: "TLSV1_ALERT_DECRYPT_ERROR",
    70: "TLSV1_ALERT_PROTOCOL_VERSION",
    116: "TLSV13_ALERT_CERTIFICATE_REQUIRED",
    120: "TLSV1_ALERT_NO_APPLICATION_PROTOCOL",
}


def translate_alert(description: int, *, server_side: bool) -> TlsFailure:
    """The failure that an alert of the peer's means, in the words that OpenSSL's error for it would get.

    Args:
        description: the alert's second byte; not close_notify.
        server_side: which side we are.
    """
    reason = _ALERTS.get(description, f"ALERT_{description}")
    return failure_of(reason, "client" if server_side else "server")


def failure_of(reason: str, peer: str) -> TlsFailure:
    """The failure that a reason means.

    Args:
        reason: OpenSSL's symbol.
        peer: ``client`` or ``server``.
    """
    likely = _LIKELY.get(reason, f"the {peer} broke TLS or refused us; its log may say more")
    return TlsFailure(f"TLS with the {peer} failed ({reason.lower().replace('_', ' ')}): {likely}")
