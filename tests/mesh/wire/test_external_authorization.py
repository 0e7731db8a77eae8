"""Field numbers of Envoy's external authorization, as its own sources have them, written out by hand."""

from __future__ import annotations

from mesh.wire import external_authorization_pb2 as wire


def _field(number: int, content: bytes) -> bytes:
    """A length-delimited field."""
    return bytes((number << 3 | 2, len(content))) + content


def test_a_request_has_envoys_field_numbers() -> None:
    request = wire.CheckRequest()
    request.attributes.source.principal = "p"
    request.attributes.source.address.socket_address.address = "a"
    request.attributes.source.address.socket_address.port_value = 7
    request.attributes.request.http.method = "GET"
    request.attributes.request.http.path = "/"
    request.attributes.request.http.host = "h"
    request.attributes.request.http.headers["k"] = "v"
    address = _field(1, _field(1, _field(2, b"a") + b"\x18\x07"))
    http = _field(2, b"GET") + _field(3, _field(1, b"k") + _field(2, b"v")) + _field(4, b"/") + _field(5, b"h")
    attributes = _field(1, address + _field(4, b"p")) + _field(4, _field(2, http))
    assert request.SerializeToString(deterministic=True) == _field(1, attributes)


def test_answers_have_envoys_field_numbers() -> None:
    option = _field(1, _field(1, b"k") + _field(2, b"v")) + _field(2, b"\x08\x01")
    consent = wire.CheckResponse.FromString(_field(1, b"") + _field(3, _field(2, option) + _field(5, b"gone")))
    [header] = consent.ok_response.headers
    assert (header.header.key, header.header.value, header.append.value) == ("k", "v", True)
    assert list(consent.ok_response.headers_to_remove) == ["gone"]
    refusal = wire.CheckResponse.FromString(
        _field(1, b"\x08\x07") + _field(2, _field(1, b"\x08\x91\x03") + _field(3, b"no"))
    )
    assert (refusal.status.code, refusal.denied_response.status.code, refusal.denied_response.body) == (7, 401, "no")
