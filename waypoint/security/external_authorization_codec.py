"""What an external authorizer is asked and answers: Envoy's ``envoy.service.auth.v3.Authorization`` over gRPC, and its
HTTP form.

In the HTTP form the request itself is repeated to the authorizer, without body, with the headers that are to be
included; status 200 is consent, another one below 500 becomes the client's answer.

An authorizer may change a request's headers, but nothing that frames the message.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from google.protobuf.message import DecodeError

from mesh.addresses import SocketAddress, format_ip
from mesh.errors import InvalidMessage
from mesh.identity import SpiffeId
from mesh.model.request_policy import ExternalAuthorizer
from mesh.wire import external_authorization_pb2 as wire
from waypoint.client import Client
from waypoint.http.message import Headers, RequestHead
from waypoint.routing.text import header_value
from waypoint.telemetry.record import HttpVersion

METHOD: Final = "/envoy.service.auth.v3.Authorization/Check"
MAX_ANSWER_BYTES: Final = 64 << 10
_MAX_HEADERS: Final = 100
_NEVER: Final = frozenset(
    {
        *(b"content-length", b"transfer-encoding", b"connection", b"keep-alive", b"proxy-connection"),
        *(b"te", b"trailer", b"upgrade", b"host"),
    }
)
_TOKEN: Final = frozenset(b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz")

Fields: TypeAlias = tuple[tuple[bytes, bytes], ...]
"""Names in lower case, and values."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Consent:
    """The request may go on, with these changes."""

    set: Fields = ()
    add: Fields = ()
    add_if_absent: Fields = ()
    remove: frozenset[bytes] = frozenset()
    response_add: Fields = ()

    def apply(self, headers: Headers) -> None:
        """Change the request's headers in place."""
        gone = self.remove | {name for name, _ in self.set}
        if gone:
            headers[:] = [field for field in headers if field[0] not in gone]
        headers += [*self.set, *self.add]
        if self.add_if_absent:
            present = {name for name, _ in headers}
            headers += [field for field in self.add_if_absent if field[0] not in present]


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """The client is answered this."""

    status: int
    headers: Fields = ()
    body: bytes = b""


def encode_check(
    head: RequestHead,
    client: Client,
    destination: SpiffeId | None,
    version: HttpVersion,
    request_id: bytes,
    authorizer: ExternalAuthorizer,
    body: bytes = b"",
) -> bytes:
    """A ``CheckRequest``.

    Args:
        head: the request.
        client: whose it is.
        destination: the waypoint's own identity.
        version: the client's.
        request_id: ``x-request-id``.
        authorizer: with ``include_headers`` only those are told, without all of them.
        body: as much of it as is to be sent along.
    """
    request = wire.CheckRequest()
    attributes = request.attributes
    _set_peer(attributes.source, client.address, client.identity)
    _set_peer(attributes.destination, client.destination, destination)
    http = attributes.request.http
    http.id = request_id.decode(errors="replace")
    http.method = head.method.decode(errors="replace")
    http.path = head.path.decode(errors="replace")
    http.host = head.authority.decode(errors="replace")
    http.scheme = head.scheme.decode(errors="replace")
    http.protocol = version.value
    length = header_value(head.headers, b"content-length")
    http.size = int(length) if length is not None and length.isdigit() and len(length) < 19 else -1
    http.raw_body = body
    included = frozenset(name.lower().encode() for name in authorizer.include_headers)
    names = {name for name, _ in head.headers if not included or name in included}
    for name in names:
        value = header_value(head.headers, name) or b""
        http.headers[name.decode(errors="replace")] = value.decode(errors="replace")
    return request.SerializeToString()


def _set_peer(peer: wire.AttributeContext.Peer, address: SocketAddress, identity: SpiffeId | None) -> None:
    peer.address.socket_address.address = format_ip(address.ip)
    peer.address.socket_address.port_value = address.port
    if identity is not None:
        peer.principal = str(identity)


def decode_check(payload: bytes) -> Consent | Refusal:
    """The answer to ``encode_check``.

    Raises:
        InvalidMessage: no ``CheckResponse``.
    """
    response = wire.CheckResponse()
    try:
        response.ParseFromString(payload)
    except DecodeError as error:
        raise InvalidMessage("the authorizer's answer is no CheckResponse") from error
    if response.status.code == 0:
        ok = response.ok_response
        changes: dict[str, Headers] = {"set": [], "add": [], "add_if_absent": []}
        for option in ok.headers[:_MAX_HEADERS]:
            field = _field(option)
            if field is not None:
                changes[_how(option)].append(field)
        return Consent(
            set=tuple(changes["set"]),
            add=tuple(changes["add"]),
            add_if_absent=tuple(changes["add_if_absent"]),
            remove=frozenset(name.lower().encode() for name in ok.headers_to_remove) - _NEVER,
            response_add=_fields(ok.response_headers_to_add),
        )
    denied = response.denied_response
    status = denied.status.code if 200 <= denied.status.code <= 599 else 403
    return Refusal(status=status, headers=_fields(denied.headers), body=denied.body.encode()[:MAX_ANSWER_BYTES])


def _how(option: wire.HeaderValueOption) -> str:
    # Envoy's own default, where neither field is set, is to overwrite.
    if option.HasField("append"):
        return "add" if option.append.value else "set"
    match option.append_action:
        case wire.HeaderValueOption.ADD_IF_ABSENT:
            return "add_if_absent"
        case _:
            return "set"


def _fields(options: Sequence[wire.HeaderValueOption]) -> Fields:
    return tuple(field for option in options[:_MAX_HEADERS] if (field := _field(option)) is not None)


def _field(option: wire.HeaderValueOption) -> tuple[bytes, bytes] | None:
    header = option.header
    return _safe(header.key.lower().encode(), header.raw_value or header.value.encode())


def _safe(name: bytes, value: bytes) -> tuple[bytes, bytes] | None:
    if not name or not _TOKEN.issuperset(name) or name in _NEVER:
        return None
    if any((byte < 32 and byte != 9) or byte == 127 for byte in value):
        return None
    return name, value


def http_check_headers(head: RequestHead, authorizer: ExternalAuthorizer) -> Headers:
    """The headers of the HTTP form's request: ``authorization`` and those that are to be included."""
    names = {b"authorization", *(name.lower().encode() for name in authorizer.include_headers)} - _NEVER
    headers = [field for field in head.headers if field[0] in names]
    return [*headers, (b"x-forwarded-host", head.authority)]


def decode_http_check(
    status: int, headers: Sequence[tuple[bytes, bytes]], body: bytes, authorizer: ExternalAuthorizer
) -> Consent | Refusal | None:
    """The answer of the HTTP form; None: the authorizer has failed (5xx)."""
    if status >= 500:
        return None
    if status == 200:
        wanted = {name.lower().encode() for name in authorizer.headers_to_upstream}
        return Consent(set=_named(headers, wanted))
    wanted = {name.lower().encode() for name in authorizer.headers_to_downstream}
    # Without these a browser could not follow, or would not ask for a password.
    wanted |= {b"location", b"www-authenticate", b"content-type"}
    return Refusal(status=status, headers=_named(headers, wanted), body=body)


def _named(headers: Sequence[tuple[bytes, bytes]], wanted: set[bytes]) -> Fields:
    safe = [_safe(name.lower(), value) for name, value in headers[:_MAX_HEADERS] if name.lower() in wanted]
    return tuple(field for field in safe if field is not None)
