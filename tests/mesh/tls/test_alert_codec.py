from __future__ import annotations

import ssl

import pytest

from mesh.tls.alert_codec import failure_of, translate_alert
from mesh.tls.failures import translate_ssl_error


@pytest.mark.parametrize("server_side", [True, False])
@pytest.mark.parametrize(
    ("description", "reason"),
    [
        (20, "SSLV3_ALERT_BAD_RECORD_MAC"),
        (42, "SSLV3_ALERT_BAD_CERTIFICATE"),
        (48, "TLSV1_ALERT_UNKNOWN_CA"),
        (116, "TLSV13_ALERT_CERTIFICATE_REQUIRED"),
    ],
)
def test_an_alert_is_told_in_the_words_of_openssls_error_for_it(
    description: int, reason: str, server_side: bool
) -> None:
    error = ssl.SSLError(1, reason)
    error.reason = reason
    told = str(translate_alert(description, server_side=server_side))
    assert told == str(translate_ssl_error(error, server_side=server_side))


def test_an_alert_that_has_no_words_is_told_by_its_number() -> None:
    told = str(translate_alert(99, server_side=True))
    assert "alert 99" in told
    assert "its log may say more" in told


def test_who_did_it_is_told() -> None:
    assert "TLS with the client" in str(failure_of("HTTP_REQUEST", "client"))
