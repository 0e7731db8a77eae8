from __future__ import annotations

import ssl

import pytest

from mesh.errors import ResponseFlag
from mesh.tls.failures import translate_ssl_error


def ssl_error(reason: str, kind: type[ssl.SSLError] = ssl.SSLError) -> ssl.SSLError:
    error = kind(1, f"[SSL: {reason}] something (_ssl.c:1)")
    error.reason = reason
    return error


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ("HTTP_REQUEST", "plain HTTP"),
        ("WRONG_VERSION_NUMBER", "does not speak TLS"),
        ("PEER_DID_NOT_RETURN_A_CERTIFICATE", "showed no certificate"),
        ("TLSV1_ALERT_UNKNOWN_CA", "does not trust our certificate's root"),
        ("SSLV3_ALERT_CERTIFICATE_EXPIRED", "expired"),
        ("A_REASON_OF_TOMORROW", "a reason of tomorrow"),
    ],
)
def test_known_and_unknown_reasons(reason: str, words: str) -> None:
    failure = translate_ssl_error(ssl_error(reason), server_side=True)
    assert words in str(failure)
    assert "client" in str(failure)
    assert failure.response_flag is ResponseFlag.TLS_FAILURE


@pytest.mark.parametrize(("code", "words"), [(10, "expired"), (20, "another mesh"), (26, "usage"), (9999, "this mesh")])
def test_verification_says_what_is_wrong_with_the_certificate(code: int, words: str) -> None:
    error = ssl.SSLCertVerificationError(1, "certificate verify failed")
    error.verify_code, error.verify_message = code, "as OpenSSL puts it"
    failure = translate_ssl_error(error, server_side=False)
    assert "the server's certificate" in str(failure)
    assert "as OpenSSL puts it" in str(failure)
    assert words in str(failure)


def test_a_cut_connection_is_not_a_close() -> None:
    assert "without a TLS close" in str(translate_ssl_error(ssl.SSLEOFError(8, "EOF"), server_side=True))


def test_an_error_without_reason_still_says_something() -> None:
    bare = ssl.SSLError(1, "words of OpenSSL")
    assert "words of openssl" in str(translate_ssl_error(bare, server_side=False))
